"""Builds a dataset: finds the shards that are done, refuses foreign ones, writes the manifest.

It is the one builder of preprocess, import, merge, subset, convert-codec and index. An index means
that its shard is done. All that is found is compared with what would be written now: shards of
other settings or videos are refused with the difference, never mixed and never overwritten. The
price is that a run reads every finished index first. Shards may be written in any order, by the
loop here or by workers on many machines.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

from twinstream.errors import InputError
from twinstream.shards.format.classes import class_difference
from twinstream.shards.format.index import IndexFile, read_index_file
from twinstream.shards.format.manifest import (
    FILE_NAME,
    FORMAT,
    FileEntry,
    FlowCodec,
    Manifest,
    ShardEntry,
    manifest_bytes,
    read_manifest,
)
from twinstream.shards.format.video_table import (
    VIDEOS_NAME,
    LabelledVideo,
    Status,
    VideoRow,
    read_videos,
    videos_bytes,
)
from twinstream.shards.storage.atomic import (
    one_line_disk_faults,
    remove_temporaries,
    write_atomically,
)
from twinstream.shards.storage.location import Location, dataset_file, file_sizes
from twinstream.shards.storage.lock import owned
from twinstream.shards.write.plan import ShardPlan, T
from twinstream.shards.write.writer import ShardWriter, index_path, write_shard

# Indexes read at the same time: in an object store each is some round trips of waiting.
NUM_READERS = 16
# What a full disk costs
SHARDS_KEPT, SAME_COMMAND = "finished shards are kept", "run the same command again"


@dataclass(frozen=True)
class Contents:
    """What dataset.json says beside its files, and the rows of videos without a planned shard."""

    classes: tuple[str, ...]
    codec: FlowCodec
    settings: dict[str, Any]
    other_rows: tuple[VideoRow, ...] = ()


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is done; `path` is relative to the dataset, without a suffix."""

    split: str
    path: str
    index: IndexFile


class Identity(NamedTuple):
    """What two runs must agree on for every video."""

    key: str
    path: str
    class_name: str
    label: int
    split: str
    missing: bool


@dataclass(frozen=True)
class DatasetBuild(Generic[T]):
    """A dataset to make at `out` of these shards.

    `option` is what the user changes to have the dataset elsewhere, for messages. Files that are
    neither tar nor Parquet are refused too, unless `beside_others`.
    """

    out: Location
    plans: Sequence[ShardPlan[T]]
    contents: Contents
    option: str = "--out"
    beside_others: bool = False

    def finished_rows(self) -> list[VideoRow] | None:
        """The rows of the dataset if it is complete, else None; InputError for another dataset."""
        if not (self.out / FILE_NAME).exists():
            return None
        manifest = read_manifest(self.out)
        self._refuse_other_settings(manifest.settings)
        rows = read_videos(dataset_file(self.out, VIDEOS_NAME))
        # Equal settings are not enough: the user may have added or moved videos since.
        planned = [_planned(item) for plan in self.plans for item in plan.items]
        others = [_identity(row) for row in self.contents.other_rows]
        self._refuse_other_videos(
            sorted(_identity(row) for row in rows), sorted([*planned, *others])
        )
        # A class without a video is in no row, so that the rows do not tell all.
        if manifest.classes != self.contents.classes:
            raise InputError(
                f"{self.option} {self.out}: holds a dataset of other classes: "
                f"{class_difference(manifest.classes, self.contents.classes)}; choose another "
                f"{self.option}"
            )
        return rows

    def done_shards(self) -> dict[str, FinishedShard]:
        """Every planned shard that is done, by its path; InputError for foreign files."""
        # One listing: in an object store a question for each of thousands of shards is slow.
        there = file_sizes(self.out)
        self._refuse_unknown_files(there)
        found = [plan for plan in self.plans if f"{plan.path}.parquet" in there]
        with ThreadPoolExecutor(NUM_READERS) as pool:
            paths = [index_path(self.out / plan.split, plan.name) for plan in found]
            files = list(pool.map(read_index_file, paths))
        done = {}
        for plan, file in zip(found, files, strict=True):
            self._refuse_other_settings(file.record.settings)
            self._refuse_other_videos(
                [_identity(row) for row in file.record.videos],
                [_planned(item) for item in plan.items],
            )
            # A tar that is cut or gone is made again; a shard without a sample has none.
            if there.get(f"{plan.path}.tar", 0) == file.record.num_bytes:
                done[plan.path] = FinishedShard(plan.split, plan.path, file)
        return done

    def finish(self) -> list[VideoRow]:
        """Make the dataset complete when every shard is there; returns every video's row."""
        done = self.done_shards()
        for path in (plan.path for plan in self.plans if plan.path not in done):
            raise InputError(
                f"{self.out / path}.tar: gone or cut short since it was written; {SAME_COMMAND}, "
                "which makes it anew"
            )
        return finish_dataset(self.out, [done[plan.path] for plan in self.plans], self.contents)

    def _refuse_unknown_files(self, there: Iterable[str]) -> None:
        planned = {f"{plan.path}{end}" for plan in self.plans for end in (".tar", ".parquet")}
        for name in there:
            is_ours = name in planned or name == VIDEOS_NAME
            if not is_ours and (name.endswith((".tar", ".parquet")) or not self.beside_others):
                raise InputError(
                    f"{self.out / name}: these videos and settings would not make this file; "
                    f"choose another {self.option}"
                )

    def _refuse_other_settings(self, found: dict[str, Any]) -> None:
        wanted = self.contents.settings
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise InputError(
                    f"{self.option} {self.out}: holds shards made with {name} = {found.get(name)}, "
                    f"not {wanted.get(name)}; choose another {self.option} or the same settings"
                )

    def _refuse_other_videos(self, found: list[Identity], wanted: list[Identity]) -> None:
        if found == wanted:
            return
        # Name one difference: from two lists of thousands of videos nobody finds it.
        there, here = ({one.key: one for one in videos} for videos in (found, wanted))
        differing = sorted(
            key for key in there.keys() | here.keys() if there.get(key) != here.get(key)
        )
        what = "the same in another order"
        if differing:
            such = differing[0]
            difference = _difference(there.get(such), here.get(such))
            what = f"{len(differing)} differ, {such} {difference}"
        raise InputError(
            f"{self.option} {self.out}: holds shards of other videos: {what}; choose another "
            f"{self.option}"
        )


def write_dataset(
    build: DatasetBuild[T],
    write: Callable[[ShardWriter, T], VideoRow],
    progress: Callable[[str], None] = lambda key: None,
) -> list[VideoRow]:
    """Write or finish the dataset; `write` adds a sample and returns its row. Returns every row.

    InputError if another dataset is there, or anything that these plans would not make, or while
    another run writes there.
    """
    out = build.out
    # A finished dataset may be on a disk that cannot be written to.
    if (rows := build.finished_rows()) is not None:
        return rows
    with (
        owned(out, "twinstream shards", build.option) as check,
        one_line_disk_faults(out, SHARDS_KEPT, SAME_COMMAND, option=build.option),
    ):
        # Again: another run may have ended since.
        if (rows := build.finished_rows()) is not None:
            return rows
        # Only now: above it may have turned out that the folder holds another dataset.
        remove_temporaries(out)
        done = build.done_shards()
        for plan in build.plans:
            if plan.path in done:
                continue
            rows = []
            with write_shard(out / plan.split, plan.name, build.contents.settings, rows) as writer:
                for item in plan.items:
                    rows.append(write(writer, item))
                    progress(item.key)
            check()
        return build.finish()


def finish_dataset(
    out: Location, shards: Iterable[FinishedShard], contents: Contents
) -> list[VideoRow]:
    """Write videos.parquet and then dataset.json, which makes the dataset complete.

    Returns every row. The index of a shard without a sample is removed.
    """
    rows: list[VideoRow] = []
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    for shard in shards:
        rows += shard.index.record.videos
        # Its rows are in the table now, and a manifest entry needs a tar that readers can open.
        if shard.index.record.num_bytes == 0:
            (out / f"{shard.path}.parquet").unlink()
        else:
            splits[shard.split] = (*splits.get(shard.split, ()), _shard_entry(shard))
    rows += contents.other_rows
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
    return rows


def _shard_entry(shard: FinishedShard) -> ShardEntry:
    index, record = shard.index, shard.index.record
    return ShardEntry(
        tar=FileEntry(path=f"{shard.path}.tar", num_bytes=record.num_bytes, sha256=record.sha256),
        index=FileEntry(
            path=f"{shard.path}.parquet", num_bytes=index.num_bytes, sha256=index.sha256
        ),
        num_samples=index.num_samples,
    )


def _planned(video: LabelledVideo) -> Identity:
    return Identity(
        video.key, video.path, video.class_name, video.label, video.split, missing=False
    )


def _identity(row: VideoRow) -> Identity:
    return Identity(
        row.key, row.path, row.class_name, row.label, row.split, row.status == Status.MISSING
    )


def _difference(found: Identity | None, wanted: Identity | None) -> str:
    """`is only in what is asked for`, or `has label 0 there, not 1`."""
    if found is None or wanted is None:
        return f"is only in what {'it holds' if wanted is None else 'is asked for'}"
    name, there, here = next(
        (name, there, here)
        for name, there, here in zip(Identity._fields, found, wanted, strict=True)
        if there != here
    )
    return f"has {name} {there} there, not {here}"
