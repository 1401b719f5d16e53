"""Datasets out of what is encoded already: the plan of shards, resuming, and the files that make it
whole.

Import, merge and subset share it. As in preprocessing an index means that its shard is done, what
is there is compared with what this run would write, and nothing of another dataset is mixed in or
overwritten.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, Protocol, TypeVar

from twinstream.errors import InputError
from twinstream.shards.atomic import remove_temporaries, write_atomically
from twinstream.shards.index import IndexFile, JobRecord, read_index_file
from twinstream.shards.manifest import (
    FILE_NAME,
    FORMAT,
    FileEntry,
    FlowCodec,
    Manifest,
    ShardEntry,
    manifest_bytes,
    read_manifest,
)
from twinstream.shards.storage import Location, file_sizes
from twinstream.shards.videos import VIDEOS_NAME, VideoRow, read_videos, videos_bytes
from twinstream.shards.writer import ShardWriter, index_path, write_shard


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

    @property
    def path(self) -> str:
        """Where it lies below the dataset, without an ending."""
        return f"{self.split}/{self.name}"


@dataclass(frozen=True)
class Contents:
    """What dataset.json says beside its files, and the rows of videos that are in no
    shard's plan.
    """

    classes: tuple[str, ...]
    codec: FlowCodec
    settings: dict[str, Any]
    other_rows: tuple[VideoRow, ...] = ()


def plan_shards(items: Iterable[T], videos_per_shard: int) -> list[ShardPlan[T]]:
    """Fixed by the keys alone: training samples ordered by their key's hash, which mixes classes,
    others by key.
    """
    plans = []
    for split, group in groupby(
        sorted(items, key=lambda item: (item.split, item.key)), key=lambda item: item.split
    ):
        ordered = list(group)
        if split == "train":
            ordered.sort(key=lambda item: hashlib.sha256(item.key.encode()).digest())
        for number, start in enumerate(range(0, len(ordered), videos_per_shard)):
            plans.append(
                ShardPlan(
                    split, f"{split}-{number:06d}", tuple(ordered[start : start + videos_per_shard])
                )
            )
    return plans


def write_dataset(
    out: Location,
    plans: Sequence[ShardPlan[T]],
    write: Callable[[ShardWriter, T], VideoRow],
    contents: Contents,
    progress: Callable[[str], None] = lambda key: None,
) -> list[VideoRow]:
    """Write or finish the dataset; `write` adds a sample and returns its row. Returns every row.

    InputError when `out` holds another dataset, or anything that these plans would not make.
    """
    out.mkdir(parents=True, exist_ok=True)
    planned = {item.key for plan in plans for item in plan.items} | {
        row.key for row in contents.other_rows
    }
    if (out / FILE_NAME).exists():
        return _finished_rows(out, contents.settings, planned)
    remove_temporaries(out)
    there = file_sizes(out)
    _refuse_strangers(out, there, plans)
    files = []
    for plan in plans:
        done = _done(out, there, plan, contents.settings)
        files.append(done or _write_shard(out, plan, write, contents.settings, progress))
    return _finish(out, plans, files, contents)


def _write_shard(
    out: Location,
    plan: ShardPlan[T],
    write: Callable[[ShardWriter, T], VideoRow],
    settings: dict[str, Any],
    progress: Callable[[str], None],
) -> IndexFile:
    rows: list[VideoRow] = []
    with write_shard(out / plan.split, plan.name, settings, rows) as writer:
        for item in plan.items:
            rows.append(write(writer, item))
            progress(item.key)
    return read_index_file(index_path(out / plan.split, plan.name))


def _done(
    out: Location, there: dict[str, int], plan: ShardPlan[T], settings: dict[str, Any]
) -> IndexFile | None:
    if f"{plan.path}.parquet" not in there:
        return None
    file = read_index_file(index_path(out / plan.split, plan.name))
    found = {row.key for row in file.record.videos}
    _refuse_other(out, file.record.settings, settings, found, {item.key for item in plan.items})
    return file if is_whole(there, plan.path, file.record) else None


def is_whole(there: dict[str, int], shard: str, record: JobRecord) -> bool:
    """Whether the tar beside an index is as long as the record says; a job without a sample has
    none.
    """
    return there.get(f"{shard}.tar", 0) == record.num_bytes


def _finished_rows(out: Location, settings: dict[str, Any], keys: set[str]) -> list[VideoRow]:
    rows = read_videos(out / VIDEOS_NAME)
    _refuse_other(out, read_manifest(out).settings, settings, {row.key for row in rows}, keys)
    return rows


def _refuse_strangers(out: Location, there: Iterable[str], plans: Sequence[ShardPlan[T]]) -> None:
    planned = {f"{plan.path}{end}" for plan in plans for end in (".tar", ".parquet")} | {
        VIDEOS_NAME
    }
    for name in there:
        if name not in planned:
            raise InputError(f"{out / name}: in the way of a new dataset; choose another --out")


def _refuse_other(
    out: Location,
    found: dict[str, Any],
    wanted: dict[str, Any],
    found_keys: set[str],
    wanted_keys: set[str],
) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise InputError(
                f"{out}: holds a dataset with {name} = {found.get(name)}, not {wanted.get(name)}; "
                "choose another --out"
            )
    for key in sorted(found_keys ^ wanted_keys):
        whose = "what it holds" if key in found_keys else "what is asked for"
        raise InputError(
            f"{out}: holds a dataset of other videos: {key} is only in {whose}; choose another "
            "--out"
        )


def _finish(
    out: Location, plans: Sequence[ShardPlan[T]], files: list[IndexFile], contents: Contents
) -> list[VideoRow]:
    rows = [row for file in files for row in file.record.videos] + [*contents.other_rows]
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    for plan, file in zip(plans, files, strict=True):
        if file.record.num_bytes == 0:
            index_path(out / plan.split, plan.name).unlink()
        else:
            splits[plan.split] = (*splits.get(plan.split, ()), shard_entry(plan.path, file))
    finish_dataset(out, splits, rows, contents)
    return rows


def finish_dataset(
    out: Location,
    splits: dict[str, tuple[ShardEntry, ...]],
    rows: Iterable[VideoRow],
    contents: Contents,
) -> None:
    """Write videos.parquet and then dataset.json, which makes the dataset complete."""
    table = videos_bytes(rows)
    write_atomically(out / VIDEOS_NAME, table)
    manifest = Manifest(
        format=FORMAT,
        classes=contents.classes,
        flow_codec=contents.codec,
        settings=contents.settings,
        splits=splits,
        videos=FileEntry(
            path=VIDEOS_NAME, num_bytes=len(table), sha256=hashlib.sha256(table).hexdigest()
        ),
    )
    write_atomically(out / FILE_NAME, manifest_bytes(manifest))


def shard_entry(shard: str, file: IndexFile) -> ShardEntry:
    """The manifest's entry of the shard `train/train-000000`, as its index tells it."""
    return ShardEntry(
        tar=FileEntry(
            path=f"{shard}.tar", num_bytes=file.record.num_bytes, sha256=file.record.sha256
        ),
        index=FileEntry(path=f"{shard}.parquet", num_bytes=file.num_bytes, sha256=file.sha256),
        num_samples=file.num_samples,
    )
