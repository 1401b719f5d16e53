"""Someone else's tars of this layout: an index for each, and the manifest that makes the folder a dataset.

Nothing of the tars is changed. Members must stand in the order of the format, since the index is what readers go by;
images are not decoded here, `verify` does that.
"""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shards.assemble import Contents, finish_dataset, shard_entry
from shards.atomic import write_atomically
from shards.errors import InputError
from shards.index import JobRecord, file_sha256, index_bytes, read_job_record, sample_row
from shards.manifest import FILE_NAME, FORMAT, FlowCodec, ShardEntry
from shards.sample import SampleMeta, member_names, meta_from_json, num_members
from shards.videos import Status, VideoRow

Member = tuple[str, int, int]
END_BYTES = 2 * tarfile.BLOCKSIZE


def index_dataset(folder: Path, codec: FlowCodec, progress: Callable[[str], None] = lambda tar: None) -> list[VideoRow]:
    """An index beside every tar below `folder`, videos.parquet and dataset.json; returns every row.

    InputError when a dataset is there already, a tar is not of this layout, or a label has two names or none.
    """
    if (folder / FILE_NAME).exists():
        raise InputError(f"{folder}: has a {FILE_NAME}, so it is indexed already; `twinstream shards verify` checks it")
    tars = sorted(folder.rglob("*.tar"))
    if not tars:
        raise InputError(f"{folder}: no tar in it")
    settings: dict[str, Any] = {f"index.{name}": value for name, value in codec.model_dump().items()}
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    rows: list[VideoRow] = []
    for tar in tars:
        split = split_of_shard(folder, tar)
        record = index_shard(tar, split, settings)
        splits[split] = (*splits.get(split, ()), shard_entry(folder, tar.with_suffix(".parquet"), record))
        rows += record.videos
        progress(tar.name)
    for key, count in Counter(row.key for row in rows).items():
        if count > 1:
            raise InputError(f"{folder}: {key}: in {count} places; a key stands for one sample")
    finish_dataset(folder, splits, rows, Contents(class_names(rows), codec, settings))
    return rows


def index_shard(tar: Path, split: str, settings: dict[str, Any]) -> JobRecord:
    """Write the index beside one tar; one that is there and fits the tar's bytes is kept."""
    index = tar.with_suffix(".parquet")
    digest = file_sha256(tar)
    if index.exists():
        record = read_job_record(index)
        if record.sha256 == digest and record.settings == settings and record.videos:
            return record
        raise InputError(f"{index}: an index of another tar or with another codec; remove it to build a new one")
    rows, videos = [], []
    for meta, members in tar_samples(tar):
        rows.append(sample_row(meta, [offset for _, offset, _ in members], [size for _, _, size in members]))
        videos.append(_video_row(meta, split, tar.stem))
    record = JobRecord(FORMAT, digest, tar.stat().st_size, settings, tuple(videos))
    write_atomically(index, index_bytes(rows, record))
    return record


def tar_samples(path: Path) -> Iterator[tuple[SampleMeta, list[Member]]]:
    """Each sample's JSON and its members (name, offset, size); InputError at the first that is out of place."""
    _refuse_cut(path)
    try:
        with tarfile.open(path, "r:") as tar, open(path, "rb") as file:
            members = [(member.name, member.offset_data, member.size) for member in tar]
            place = 0
            while place < len(members):
                file.seek(members[place][1])
                meta = _meta(path, members[place][0], file.read(members[place][2]))
                found = members[place : place + num_members(meta.num_frames)]
                _refuse_disorder(path, meta, [name for name, _, _ in found])
                yield meta, found
                place += len(found)
    except tarfile.TarError as error:
        raise InputError(f"{path}: not a plain tar ({error})") from error
    if not members:
        raise InputError(f"{path}: holds no sample")


def split_of_shard(folder: Path, tar: Path) -> str:
    """The folder a shard lies in below the dataset's, or its name up to the last dash: train-000000.tar -> train."""
    parts = tar.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else tar.stem.rpartition("-")[0] or tar.stem


def class_names(rows: list[VideoRow]) -> tuple[str, ...]:
    """The name of each label from 0 on; InputError when a label has two names, or none in any sample."""
    names: dict[int, str] = {}
    for row in rows:
        if names.setdefault(row.label, row.class_name) != row.class_name:
            raise InputError(
                f"{row.key}: label {row.label} is {row.class_name!r} here and {names[row.label]!r} elsewhere"
            )
    absent = next((label for label in range(max(names) + 1) if label not in names), None)
    if absent is not None:
        raise InputError(
            f"label {absent} of 0 to {max(names)} is in no sample, so its name is unknown; get more shards"
        )
    return tuple(names[label] for label in range(len(names)))


def _refuse_cut(path: Path) -> None:
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - END_BYTES, 0))
        if file.read() != bytes(END_BYTES):
            raise InputError(f"{path}: ends without the mark of a tar's end, so it was cut short")


def _meta(path: Path, name: str, data: bytes) -> SampleMeta:
    if not name.endswith(".json"):
        raise InputError(f"{path.name}: {name}: expected a sample's KEY.json here")
    try:
        meta = meta_from_json(data)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path.name}: {name}: damaged JSON member ({error})") from error
    if meta.num_frames < 2 or meta.label < 0:
        raise InputError(
            f"{path.name}: {name}: {meta.num_frames} frames, label {meta.label}; expected 2 and 0 at least"
        )
    return meta


def _refuse_disorder(path: Path, meta: SampleMeta, found: list[str]) -> None:
    expected = member_names(meta.key, meta.num_frames)
    for place, name in enumerate(expected):
        there = found[place] if place < len(found) else "the end of the shard"
        if there != name:
            raise InputError(f"{path.name}: {meta.key}: {there} where {name} belongs")


def _video_row(meta: SampleMeta, split: str, shard: str) -> VideoRow:
    known = (meta.key, meta.key, meta.class_name, meta.label, split, Status.WRITTEN.value)
    return VideoRow(
        *known,
        num_frames=meta.num_frames,
        fps=meta.fps,
        width=meta.source_width,
        height=meta.source_height,
        shard=shard,
    )
