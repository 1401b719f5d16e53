"""Datasets out of what is encoded already: the plan of shards, resuming, and the files that make it whole.

Import, merge and subset share it. As in preprocessing an index means that its shard is done, what is there is
compared with what this run would write, and nothing of another dataset is mixed in or overwritten.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from shards.atomic import remove_temporaries, write_atomically
from shards.errors import InputError
from shards.index import JobRecord, file_sha256, read_columns, read_job_record
from shards.manifest import (
    FILE_NAME,
    FORMAT,
    FileEntry,
    FlowCodec,
    Manifest,
    ShardEntry,
    manifest_bytes,
    read_manifest,
)
from shards.verify import VIDEOS_NAME
from shards.videos import VideoRow, read_videos, videos_bytes
from shards.writer import ShardWriter, index_path, write_shard


class Placed(Protocol):
    """Anything that can be put into a shard."""

    @property
    def key(self) -> str:
        """The sample's key."""

    @property
    def split(self) -> str:
        """The folder of its shard."""


T = TypeVar("T", bound=Placed)


@dataclass(frozen=True)
class ShardPlan(Generic[T]):
    """One shard to write: `name` is `train-000000`, `split` its folder."""

    split: str
    name: str
    items: tuple[T, ...]


@dataclass(frozen=True)
class Contents:
    """What dataset.json says beside its files, and the rows of videos that are in no shard's plan."""

    classes: tuple[str, ...]
    codec: FlowCodec
    settings: dict[str, Any]
    other_rows: tuple[VideoRow, ...] = ()


def plan_shards(items: Iterable[T], videos_per_shard: int) -> list[ShardPlan[T]]:
    """Fixed by the keys alone: training samples ordered by their key's hash, which mixes classes, others by key."""
    plans = []
    for split, group in groupby(sorted(items, key=lambda item: (item.split, item.key)), key=lambda item: item.split):
        ordered = list(group)
        if split == "train":
            ordered.sort(key=lambda item: hashlib.sha256(item.key.encode()).digest())
        for number, start in enumerate(range(0, len(ordered), videos_per_shard)):
            plans.append(ShardPlan(split, f"{split}-{number:06d}", tuple(ordered[start : start + videos_per_shard])))
    return plans


def write_dataset(
    out: Path,
    plans: Sequence[ShardPlan[T]],
    write: Callable[[ShardWriter, T], VideoRow],
    contents: Contents,
    progress: Callable[[str], None] = lambda key: None,
) -> list[VideoRow]:
    """Write or finish the dataset; `write` adds a sample and returns its row. Returns every row.

    InputError when `out` holds another dataset, or anything that these plans would not make.
    """
    out.mkdir(parents=True, exist_ok=True)
    planned = {item.key for plan in plans for item in plan.items} | {row.key for row in contents.other_rows}
    if (out / FILE_NAME).exists():
        return _finished_rows(out, contents.settings, planned)
    remove_temporaries(out)
    _refuse_strangers(out, plans)
    records = []
    for plan in plans:
        record = _done(out, plan, contents.settings) or _write_shard(out, plan, write, contents.settings, progress)
        records.append(record)
    return _finish(out, plans, records, contents)


def _write_shard(
    out: Path,
    plan: ShardPlan[T],
    write: Callable[[ShardWriter, T], VideoRow],
    settings: dict[str, Any],
    progress: Callable[[str], None],
) -> JobRecord:
    rows: list[VideoRow] = []
    with write_shard(out / plan.split, plan.name, settings, rows) as writer:
        for item in plan.items:
            rows.append(write(writer, item))
            progress(item.key)
    return read_job_record(index_path(out / plan.split, plan.name))


def _done(out: Path, plan: ShardPlan[T], settings: dict[str, Any]) -> JobRecord | None:
    path = index_path(out / plan.split, plan.name)
    if not path.exists():
        return None
    record = read_job_record(path)
    _refuse_other(out, record.settings, settings, {row.key for row in record.videos}, {item.key for item in plan.items})
    tar = path.with_suffix(".tar")
    return record if record.num_bytes == (tar.stat().st_size if tar.exists() else 0) else None


def _finished_rows(out: Path, settings: dict[str, Any], keys: set[str]) -> list[VideoRow]:
    rows = read_videos(out / VIDEOS_NAME)
    _refuse_other(out, read_manifest(out).settings, settings, {row.key for row in rows}, keys)
    return rows


def _refuse_strangers(out: Path, plans: Sequence[ShardPlan[T]]) -> None:
    planned = {
        index_path(out / plan.split, plan.name).with_suffix(end) for plan in plans for end in (".tar", ".parquet")
    }
    for path in sorted(out.rglob("*")):
        if path.is_file() and path not in planned and path != out / VIDEOS_NAME:
            raise InputError(f"{path}: in the way of a new dataset; choose another --out")


def _refuse_other(
    out: Path, found: dict[str, Any], wanted: dict[str, Any], found_keys: set[str], wanted_keys: set[str]
) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise InputError(
                f"{out}: holds a dataset with {name} = {found.get(name)}, not {wanted.get(name)}; choose another --out"
            )
    for key in sorted(found_keys ^ wanted_keys):
        whose = "what it holds" if key in found_keys else "what is asked for"
        raise InputError(f"{out}: holds a dataset of other videos: {key} is only in {whose}; choose another --out")


def _finish(out: Path, plans: Sequence[ShardPlan[T]], records: list[JobRecord], contents: Contents) -> list[VideoRow]:
    rows = [row for record in records for row in record.videos] + [*contents.other_rows]
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    for plan, record in zip(plans, records, strict=True):
        index = index_path(out / plan.split, plan.name)
        if record.num_bytes == 0:
            index.unlink()
        else:
            splits[plan.split] = (*splits.get(plan.split, ()), shard_entry(out, index, record))
    finish_dataset(out, splits, rows, contents)
    return rows


def finish_dataset(
    out: Path, splits: dict[str, tuple[ShardEntry, ...]], rows: Iterable[VideoRow], contents: Contents
) -> None:
    """Write videos.parquet and then dataset.json, which makes the dataset complete."""
    write_atomically(out / VIDEOS_NAME, videos_bytes(rows))
    manifest = Manifest(
        format=FORMAT,
        classes=contents.classes,
        flow_codec=contents.codec,
        settings=contents.settings,
        splits=splits,
        videos=_file_entry(out, out / VIDEOS_NAME),
    )
    write_atomically(out / FILE_NAME, manifest_bytes(manifest))


def shard_entry(out: Path, index: Path, record: JobRecord) -> ShardEntry:
    """The manifest's entry of the shard beside this index."""
    tar = index.with_suffix(".tar").relative_to(out).as_posix()
    return ShardEntry(
        tar=FileEntry(path=tar, num_bytes=record.num_bytes, sha256=record.sha256),
        index=_file_entry(out, index),
        num_samples=read_columns(index, ["key"]).num_rows,
    )


def _file_entry(out: Path, path: Path) -> FileEntry:
    return FileEntry(path=path.relative_to(out).as_posix(), num_bytes=path.stat().st_size, sha256=file_sha256(path))
