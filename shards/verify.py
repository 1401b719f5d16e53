"""Reads a whole dataset again and yields a line for each fault in it.

First the bytes: each file against its SHA-256 in the manifest, so any changed byte is found. Then
the meaning: the headers of the tar against the index, N frames and N - 1 flow fields, each JPEG of
the right size and channels, one row in videos.parquet for each video, and each written video in the
shard that its row names. `fast_faults` checks the bytes only.
"""

import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from twinstream.errors import InputError
from twinstream.shards.format.image import decode_unchanged
from twinstream.shards.format.index import SampleIndex, read_index
from twinstream.shards.format.manifest import (
    FILE_NAME,
    FileEntry,
    Manifest,
    ShardEntry,
    faults_of,
    file_faults,
    read_manifest,
    shard_name,
)
from twinstream.shards.format.sample import MemberHeader, member_names, meta_from_json
from twinstream.shards.format.video_table import VIDEOS_NAME, Status, read_videos
from twinstream.shards.read.virtual_splits import stored_names, stored_split
from twinstream.shards.storage.location import Location, dataset_file, file_sizes, local_copy


class Place(NamedTuple):
    """Where a sample is, by a row of videos.parquet or by the index that holds it."""

    split: str
    shard: str
    num_frames: int | None

    def __str__(self) -> str:
        return f"of {self.num_frames} frames in {self.shard} of {self.split}"


def faults(dataset: Location, progress: Callable[[str], None] = lambda path: None) -> Iterator[str]:
    """One line a fault, none for a sound dataset; `progress` is called with each tar's path."""
    try:
        manifest = read_manifest(dataset)
    except InputError as error:
        yield str(error)
        return
    there = file_sizes(dataset)
    yield from _strays(there, manifest)
    for name, count in Counter(manifest.classes).items():
        if count > 1:
            yield f"{FILE_NAME}: class {name} is there {count} times"
    if manifest.videos.path != VIDEOS_NAME:
        yield f"{FILE_NAME}: names {manifest.videos.path}; expected {VIDEOS_NAME}"
    yield from file_faults(dataset, manifest.videos)
    placed: dict[str, Place] = {}
    for split, entries in manifest.splits.items():
        for entry in entries:
            yield from _entry_faults(dataset, split, entry, manifest.classes, placed)
            progress(entry.tar.path)
    yield from _row_faults(dataset, manifest.classes, placed)
    yield from _split_faults(dataset, placed)


def fast_faults(
    dataset: Location, progress: Callable[[FileEntry], None] = lambda entry: None
) -> Iterator[str]:
    """Faults of sizes and hashes only, at the disk's speed; no image is decoded."""
    try:
        manifest = read_manifest(dataset)
    except InputError as error:
        yield str(error)
        return
    yield from _strays(file_sizes(dataset), manifest)
    for entry in manifest.files():
        yield from file_faults(dataset, entry)
        progress(entry)
    yield from _split_faults(dataset)


def num_steps(dataset: Location) -> int:
    """How often `faults` will call `progress`."""
    return sum(len(shards) for shards in read_manifest(dataset).splits.values())


def num_bytes(dataset: Location) -> int:
    """Bytes that `fast_faults` will read of a sound dataset."""
    return sum(entry.num_bytes for entry in read_manifest(dataset).files())


def _strays(there: Iterable[str], manifest: Manifest) -> Iterator[str]:
    named = {FILE_NAME, *(entry.path for entry in manifest.files())}
    for name in there:
        # Other files, such as logs and notes of the user, do no harm to a reader.
        if name.endswith((".tar", ".parquet", ".tmp")) and name not in named:
            yield f"{name}: a file that {FILE_NAME} does not name"


def _entry_faults(
    dataset: Location,
    split: str,
    entry: ShardEntry,
    classes: tuple[str, ...],
    placed: dict[str, Place],
) -> Iterator[str]:
    """Faults of a shard and its index."""
    try:
        # Hash, headers and images each read the tar; a copy means one download for the three.
        with local_copy(dataset_file(dataset, entry.tar.path)) as tar:
            damaged = [*faults_of(tar, entry.tar), *file_faults(dataset, entry.index)]
            # Damaged bytes would only repeat themselves as hundreds of faults of images.
            yield from damaged or _shard_faults(tar, dataset, split, entry, classes, placed)
    # A store that does not answer says nothing about the file, so it must not count as damage.
    except ConnectionError:
        raise
    except OSError as error:
        yield f"{entry.tar.path}: {error.strerror or error}"
    except InputError as error:
        yield str(error)


def _shard_faults(
    tar_path: Path,
    dataset: Location,
    split: str,
    entry: ShardEntry,
    classes: tuple[str, ...],
    placed: dict[str, Place],
) -> Iterator[str]:
    """Faults inside a shard whose bytes are as written; adds its samples to `placed`."""
    name = tar_path.name
    try:
        samples = read_index(dataset_file(dataset, entry.index.path), entry, len(classes))
        with tarfile.open(tar_path, "r:", tarinfo=MemberHeader) as tar:
            members = [(member.name, member.offset_data, member.size) for member in tar]
    # ValueError: tarfile takes some headers for numbers that they are not.
    except (InputError, tarfile.TarError, ValueError) as error:
        yield f"{name}: {error}"
        return
    promised = [
        member
        for sample in samples
        for member in zip(
            member_names(sample.key, sample.num_frames), sample.offsets, sample.sizes, strict=True
        )
    ]
    if promised != members:
        yield f"{name}: {len(members)} members that do not fit the {len(promised)} of its index"
        return
    # Not mapped: what is cut off a mapped file ends the process that reads it.
    with open(tar_path, "rb", buffering=0) as file:
        for sample in samples:
            if sample.key in placed:
                yield f"{name}: {sample.key}: also in {placed[sample.key].shard}"
            placed[sample.key] = Place(split, shard_name(entry.tar.path), sample.num_frames)
            found = _sample_faults(sample, file, classes[sample.label])
            yield from (f"{name}: {sample.key}: {fault}" for fault in found)


def _sample_faults(sample: SampleIndex, tar: IO[bytes], class_name: str) -> Iterator[str]:
    """Faults of a sample's members in the open file `tar`."""
    members = []
    for at, size in zip(sample.offsets.tolist(), sample.sizes.tolist(), strict=True):
        tar.seek(at)
        members.append(tar.read(size))
    num_flow = (len(members) - 1 - sample.num_frames) / 2
    if num_flow != sample.num_frames - 1:
        yield (
            f"{num_flow:g} flow fields for {sample.num_frames} frames, expected "
            f"{sample.num_frames - 1}"
        )
        return
    try:
        meta = meta_from_json(members[0])
        if (meta.key, meta.label, meta.num_frames) != (sample.key, sample.label, sample.num_frames):
            yield (
                f"its JSON names {meta.key}, label {meta.label}, {meta.num_frames} frames; the "
                "index differs"
            )
        # What readers of a stream go by: they have no index.
        if (meta.width, meta.height) != (sample.width, sample.height):
            yield (
                f"its JSON says {meta.width}x{meta.height}; the index {sample.width}x"
                f"{sample.height}"
            )
        if meta.class_name != class_name:
            yield f"its JSON names class {meta.class_name}; {FILE_NAME} {class_name}"
    except InputError as error:
        yield str(error)
    size = (sample.height, sample.width)
    for position, (name, data) in enumerate(
        zip(member_names("", sample.num_frames), members, strict=True)
    ):
        # Position 0 is the JSON, which is checked above.
        if position > 0:
            shape = (*size, 3) if position <= sample.num_frames else size
            yield from (f"{name[1:]}: {fault}" for fault in _image_faults(data, shape))


def _image_faults(data: bytes, shape: tuple[int, ...]) -> Iterator[str]:
    try:
        found = decode_unchanged(data, (shape[0], shape[1])).shape
        if found != shape:
            yield f"its JPEG is {found}, expected {shape}"
    except InputError as error:
        yield str(error)


def _split_faults(dataset: Location, placed: Collection[str] | None = None) -> Iterator[str]:
    """Stored splits that were changed, are of another dataset, or name what is in no shard."""
    for name in stored_names(dataset):
        try:
            stored = stored_split(dataset, name)
        except InputError as error:
            yield str(error)
            continue
        if stored and placed is not None:
            yield from (f"{name}: {key}: in no shard" for key in stored.keys if key not in placed)


def _row_faults(
    dataset: Location, classes: tuple[str, ...], placed: dict[str, Place]
) -> Iterator[str]:
    """videos.parquet against the shards and the classes: each video once, where it says."""
    try:
        rows = read_videos(dataset_file(dataset, VIDEOS_NAME))
    except InputError as error:
        yield str(error)
        return
    for key, count in Counter(row.key for row in rows).items():
        if count > 1:
            yield f"{VIDEOS_NAME}: {key}: {count} rows"
    named = dict(enumerate(classes))
    for row in rows:
        if row.class_name != named.get(row.label):
            expected = named.get(row.label)
            yield f"{VIDEOS_NAME}: {row.key}: label {row.label} is {row.class_name}, not {expected}"
    written = {
        row.key: Place(row.split, row.shard or "", row.num_frames)
        for row in rows
        if row.status == Status.WRITTEN
    }
    for key in sorted(written.keys() - placed.keys()):
        yield f"{VIDEOS_NAME}: {key}: said to be in {written[key].shard}, which does not hold it"
    for key in sorted(placed.keys() - written.keys()):
        yield f"{placed[key].shard}.tar: {key}: no row in {VIDEOS_NAME} says it is written"
    for key in sorted(placed.keys() & written.keys()):
        if (said := written[key]) != (found := placed[key]):
            yield f"{VIDEOS_NAME}: {key}: said to be {said}; it is {found}"
