"""Makes a dataset of tars of this layout that another program wrote.

Each tar gets an index, and the folder a manifest; the tars are not changed. Members must be in the
order of the format, because readers take positions from the index and not names from the tar.
Images are not decoded here: `verify` does that.
"""

import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from twinstream.errors import InputError
from twinstream.shards.format.columns import Joined, Records, TableBuilder, values
from twinstream.shards.format.index import (
    IndexFile,
    JobRecord,
    index_bytes,
    read_index_file,
    rows_of,
    sample_row,
)
from twinstream.shards.format.manifest import FILE_NAME, FORMAT, FlowCodec, shard_name
from twinstream.shards.format.sample import (
    MAX_JSON_BYTES,
    MemberHeader,
    SampleMeta,
    member_names,
    meta_from_json,
    num_members,
)
from twinstream.shards.format.video_table import KNOWN, Status, StoredRows, video_row
from twinstream.shards.storage.atomic import one_line_disk_faults, write_atomically
from twinstream.shards.storage.location import (
    Location,
    dataset_file,
    file_sha256,
    file_sizes,
    named_faults,
)
from twinstream.shards.storage.lock import owned
from twinstream.shards.write.dataset import SAME_COMMAND
from twinstream.shards.write.finished import Contents, Finished, finish_dataset

Member = tuple[str, int, int]
END_BYTES = 2 * tarfile.BLOCKSIZE


class StoredVideo(NamedTuple):
    """A video of which only the sample exists; its path is unknown, so the key stands for it."""

    key: str
    path: str
    class_name: str
    label: int
    split: str


def index_dataset(
    folder: Location, codec: FlowCodec, progress: Callable[[str], None] = lambda tar: None
) -> StoredRows:
    """Write an index beside every tar below `folder`, videos.parquet and dataset.json.

    Returns every row. InputError when there is a manifest already, a tar is not of this layout, a
    label has two names or none, or while another run writes there.
    """
    with (
        owned(folder, "twinstream shards index", option=None) as check,
        one_line_disk_faults(folder, "finished indexes are kept", SAME_COMMAND),
    ):
        return _index(folder, codec, progress, check)


def _index(
    folder: Location,
    codec: FlowCodec,
    progress: Callable[[str], None],
    check: Callable[[], None],
) -> StoredRows:
    there = file_sizes(folder)
    if FILE_NAME in there:
        raise InputError(
            f"{folder}: has a {FILE_NAME}, so it is indexed already; `twinstream shards verify` "
            "checks it"
        )
    tars = [name for name in there if name.endswith(".tar")]
    if not tars:
        raise InputError(f"{folder}: no tar in it")
    # The codec is all that is known; as settings it keeps datasets of two codecs from being mixed.
    settings: dict[str, Any] = {
        f"index.{name}": value for name, value in codec.model_dump().items()
    }
    known, shards = TableBuilder(KNOWN), []
    for name in tars:
        split = split_of_shard(name)
        known.add_table(rows_of([index_shard(folder, name, split, settings)]))
        shards.append((split, name.removesuffix(".tar")))
        progress(name)
        check()
    videos = Joined([Records(known.table(), StoredVideo)], KNOWN)
    _refuse_twice(folder, videos)
    finished = Finished()
    for split, path in shards:
        file = read_index_file(folder / f"{path}.parquet")
        finished.add([(split, path, file)], rows_of([file]))
    contents = Contents(class_names(videos.table), codec, settings)
    return finish_dataset(folder, finished, [path for _, path in shards], contents, videos)


def _refuse_twice(folder: Location, videos: Joined[Any]) -> None:
    keys = videos.table["key"].take(pa.array(videos.by_key()))
    twice = keys[1:].filter(pc.equal(keys[1:], keys[:-1]))
    if len(twice):
        key = twice[0].as_py()
        count = pc.count(keys.filter(pc.equal(keys, key))).as_py()
        raise InputError(f"{folder}: {key}: in {count} places; a key stands for one sample")


def index_shard(folder: Location, name: str, split: str, settings: dict[str, Any]) -> IndexFile:
    """Write the index beside one tar; one that is there and fits the tar's bytes is kept."""
    tar = dataset_file(folder, name)
    index = tar.with_suffix(".parquet")
    digest = file_sha256(tar)
    if index.exists():
        # From a run that was stopped: while the hash fits, no JSON of the tar is read again.
        record = read_index_file(index).record
        if record.sha256 != digest or record.settings != settings or not record.videos:
            raise InputError(
                f"{index}: an index of another tar or with another codec; remove it to build a new "
                "one"
            )
        return read_index_file(index)
    rows, videos = [], []
    for meta, members in tar_samples(tar):
        rows.append(
            sample_row(meta, [offset for _, offset, _ in members], [size for _, _, size in members])
        )
        videos.append(
            video_row(
                StoredVideo(meta.key, meta.key, meta.class_name, meta.label, split),
                Status.WRITTEN,
                num_frames=meta.num_frames,
                fps=meta.fps,
                width=meta.source_width,
                height=meta.source_height,
                shard=shard_name(name),
            )
        )
    record = JobRecord(FORMAT, digest, _num_bytes(tar), settings, tuple(videos))
    write_atomically(index, index_bytes(rows, record))
    return read_index_file(index)


def tar_samples(path: Location) -> Iterator[tuple[SampleMeta, list[Member]]]:
    """Each sample's JSON and members (name, offset, size); InputError at the first wrong member."""
    _refuse_cut(path)
    try:
        with (
            named_faults(path),
            path.open("rb") as file,
            tarfile.open(fileobj=file, mode="r:", tarinfo=MemberHeader) as tar,
        ):
            members = [(member.name, member.offset_data, member.size) for member in tar]
            position = 0
            while position < len(members):
                name, begin, size = members[position]
                file.seek(begin)
                meta = _meta(path, name, file.read(min(size, MAX_JSON_BYTES + 1)))
                found = members[position : position + num_members(meta.num_frames)]
                _refuse_disorder(path, meta, [name for name, _, _ in found])
                yield meta, found
                position += len(found)
    except tarfile.TarError as error:
        raise InputError(f"{path}: not a plain tar ({error})") from error
    if not members:
        raise InputError(f"{path}: holds no sample")


def split_of_shard(name: str) -> str:
    """The top folder of a shard, or its name up to the last dash: train-000000.tar -> train."""
    path = PurePosixPath(name)
    return path.parts[0] if len(path.parts) > 1 else path.stem.rpartition("-")[0] or path.stem


def class_names(videos: pa.Table) -> tuple[str, ...]:
    """The name of each label from 0 on; InputError unless each has one of its own."""
    names: dict[int, str] = {}
    plain = videos.select(["key", "label", "class_name"]).cast(
        pa.schema([("key", pa.large_string()), ("label", pa.int32()), ("class_name", pa.string())])
    )
    # In this thread, so that the first video of each is the first of the shards.
    each = plain.group_by(["label", "class_name"], use_threads=False).aggregate([("key", "first")])
    for label, name, key in zip(*map(values, each.columns), strict=True):
        if names.setdefault(label, name) != name:
            raise InputError(
                f"{key}: label {label} is {name!r} here and {names[label]!r} elsewhere"
            )
    for name, count in Counter(names.values()).items():
        if count > 1:
            raise InputError(f"class {name!r} has {count} labels; expected one")
    absent = next((label for label in range(max(names) + 1) if label not in names), None)
    if absent is not None:
        raise InputError(
            f"label {absent} of 0 to {max(names)} is in no sample, so its name is unknown; get "
            "more shards"
        )
    return tuple(names[label] for label in range(len(names)))


def _num_bytes(path: Location) -> int:
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END)


def _refuse_cut(path: Location) -> None:
    # tarfile takes a file that is cut between two members for a complete tar.
    start = max(_num_bytes(path) - END_BYTES, 0)
    with path.open("rb") as file:
        file.seek(start)
        if file.read() != bytes(END_BYTES):
            raise InputError(f"{path}: ends without the mark of a tar's end, so it was cut short")


def _meta(path: Location, name: str, data: bytes) -> SampleMeta:
    if not name.endswith(".json"):
        raise InputError(f"{path.name}: {name}: expected a sample's KEY.json here")
    try:
        return meta_from_json(data)
    except InputError as error:
        raise InputError(f"{path.name}: {name}: {error}") from error


def _refuse_disorder(path: Location, meta: SampleMeta, found: list[str]) -> None:
    # A number that is claimed alone, and names would fill memory
    if meta.num_frames > len(found):
        raise InputError(
            f"{path.name}: {meta.key}: {len(found)} members to the end of the shard, expected "
            f"{num_members(meta.num_frames)} of {meta.num_frames} frames"
        )
    expected = member_names(meta.key, meta.num_frames)
    for position, name in enumerate(expected):
        there = found[position] if position < len(found) else "the end of the shard"
        if there != name:
            raise InputError(f"{path.name}: {meta.key}: {there} where {name} belongs")
