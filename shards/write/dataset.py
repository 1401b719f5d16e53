"""Builds a dataset: finds the shards that are done, refuses foreign ones, writes the manifest.

It is the one builder of preprocess, import, merge, subset, convert-codec and index. An index means
that its shard is done. All that is found is compared with what would be written now: shards of
other settings or videos are refused with the difference, never mixed and never overwritten. The
price is that a run reads every finished index first. Shards may be written in any order, by the
loop here or by workers on many machines.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.format.classes import class_difference
from twinstream.shards.format.columns import Joined, slices
from twinstream.shards.format.index import IndexFile, read_index_file, read_index_files, rows_of
from twinstream.shards.format.manifest import (
    FILE_NAME,
    FLOW_DEFINITION,
    pixel_settings,
    read_manifest,
)
from twinstream.shards.format.video_table import (
    KNOWN,
    VIDEOS_NAME,
    LabelledVideo,
    Status,
    StoredRows,
    VideoRow,
    refuse_values,
)
from twinstream.shards.format.video_table import SCHEMA as VIDEO_SCHEMA
from twinstream.shards.storage.atomic import one_line_disk_faults, remove_temporaries
from twinstream.shards.storage.location import Location, dataset_file, file_sizes
from twinstream.shards.storage.lock import owned
from twinstream.shards.write.finished import Contents, Finished, finish_dataset
from twinstream.shards.write.plan import ShardPlan, T
from twinstream.shards.write.writer import ShardWriter, index_path, write_shard

# Indexes read at the same time: in an object store each is some round trips of waiting.
NUM_READERS = 16
# Shards whose indexes are in memory together.
READ_AHEAD = 128
# What a full disk costs
SHARDS_KEPT, SAME_COMMAND = "finished shards are kept", "run the same command again"


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
    _finished: Finished = field(default_factory=Finished, init=False, repr=False, compare=False)

    def finished_rows(self) -> StoredRows | None:
        """The rows of the dataset if it is complete, else None; InputError for another dataset."""
        if not (self.out / FILE_NAME).exists():
            return None
        manifest = read_manifest(self.out)
        self._refuse_other_settings(manifest.settings)
        rows = StoredRows(dataset_file(self.out, VIDEOS_NAME))
        # Equal settings are not enough: the user may have added or moved videos since.
        self._refuse_other_rows(rows)
        # A class without a video is in no row, so that the rows do not tell all.
        if manifest.classes != self.contents.classes:
            raise InputError(
                f"{self.option} {self.out}: holds a dataset of other classes: "
                f"{class_difference(manifest.classes, self.contents.classes)}; choose another "
                f"{self.option}"
            )
        return rows

    def done_shards(self) -> set[str]:
        """The path of every planned shard that is done; InputError for foreign files.

        What their indexes say is kept until the dataset is finished.
        """
        self._finished.clear()
        self._read(self._there(), self.plans)
        return {*self._finished.shards}

    def finish(self) -> StoredRows:
        """Make the dataset complete when every shard is there; returns every video's row."""
        finished = self._finished
        self._read_left(self._there())
        paths = [plan.path for plan in self.plans]
        if gone := next((path for path in paths if path not in finished.shards), None):
            raise InputError(
                f"{self.out / gone}.tar: gone or cut short since it was written; {SAME_COMMAND}, "
                "which makes it anew"
            )
        rows = finish_dataset(self.out, finished, paths, self.contents, self._joined())
        finished.clear()
        return rows

    def _joined(self) -> Joined[LabelledVideo]:
        """Every video, those of the plans in their order and then the others."""
        return Joined([*(plan.items for plan in self.plans), self.contents.other_rows], KNOWN)

    def _read_left(self, there: dict[str, int]) -> None:
        """Keep what the indexes say of the shards that were made or changed since."""
        self._finished.keep_only(there)
        kept = self._finished.shards
        self._read(there, [plan for plan in self.plans if plan.path not in kept])

    def _there(self) -> dict[str, int]:
        """Size of every file by its path; InputError for one that is not planned."""
        # One listing: in an object store a question for each of thousands of shards is slow.
        there = file_sizes(self.out)
        self._refuse_unknown_files(there)
        return there

    def _read(self, there: dict[str, int], plans: Sequence[ShardPlan[T]]) -> None:
        """Keep what the indexes of these shards say, where there is one; InputError for those of
        other settings or videos.
        """
        found = [plan for plan in plans if f"{plan.path}.parquet" in there]
        with ThreadPoolExecutor(NUM_READERS) as pool:
            for block in slices(len(found), READ_AHEAD) if found else ():
                some = found[block]
                paths = [index_path(self.out / plan.split, plan.name) for plan in some]
                files, rows = _read_indexes(paths, map if isinstance(self.out, Path) else pool.map)
                self._refuse_other_shards(files, rows, some)
                shards = zip(some, files, strict=True)
                self._finished.add([(plan.split, plan.path, file) for plan, file in shards], rows)
        # A tar that is cut or gone is made again; a shard without a sample has none.
        self._finished.keep_only(there)

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
        # With the settings that are not spelt out.
        found = found | pixel_settings(found)
        wanted = self.contents.settings | pixel_settings(self.contents.settings)
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                same = "version of twinstream" if name == FLOW_DEFINITION else "settings"
                raise InputError(
                    f"{self.option} {self.out}: holds shards made with {name} = {found.get(name)}, "
                    f"not {wanted.get(name)}; choose another {self.option} or the same {same}"
                )

    def _refuse_other_shards(
        self, files: Sequence[IndexFile], rows: pa.Table, plans: Sequence[ShardPlan[T]]
    ) -> None:
        """InputError where the indexes are of other settings or videos than the plans."""
        for file in files:
            if file.record.settings != self.contents.settings:
                self._refuse_other_settings(file.record.settings)
        found = [file.record.videos for file in files]
        wanted = [plan.items for plan in plans]
        is_alike = [*map(len, found)] == [*map(len, wanted)] and _is_alike(
            rows, Joined(wanted, KNOWN).rows(slice(None)), is_missing=False
        )
        # One by one only to find the difference.
        for there, here in () if is_alike else zip(found, wanted, strict=True):
            self._refuse_other_videos([*map(_identity, there)], [*map(_planned, here)])

    def _refuse_other_rows(self, rows: StoredRows) -> None:
        """InputError where a finished dataset has other videos than are planned now."""
        joined = self._joined()
        order, begin, is_alike = joined.by_key(), 0, True
        num_planned = sum(len(plan.items) for plan in self.plans)
        is_missing = np.zeros(len(order), bool)
        is_missing[num_planned:] = [
            row.status == Status.MISSING for row in self.contents.other_rows
        ]
        for table in rows.tables([*KNOWN.names, "status"]):
            numbers = order[begin : begin + table.num_rows]
            begin += table.num_rows
            is_alike &= len(numbers) == table.num_rows and _is_alike(
                table, joined.rows(numbers), is_missing=is_missing[numbers]
            )
        if not is_alike or begin != len(order):
            planned = [_planned(item) for plan in self.plans for item in plan.items]
            others = [_identity(row) for row in self.contents.other_rows]
            self._refuse_other_videos(
                sorted(_identity(row) for row in rows), sorted([*planned, *others])
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
) -> StoredRows:
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
            made: list[VideoRow] = []
            with write_shard(out / plan.split, plan.name, build.contents.settings, made) as writer:
                for item in plan.items:
                    made.append(write(writer, item))
                    progress(item.key)
            check()
        return build.finish()


def _read_indexes(
    paths: Sequence[Location], each: Callable[..., Iterable[bytes]]
) -> tuple[list[IndexFile], pa.Table]:
    """The indexes at `paths` and the rows of all their videos; InputError for one that is none, and
    for the first with a value that no video has.
    """
    try:
        files, rows = read_index_files(paths, each)
        refuse_values("", rows)
    except InputError:
        # One by one only to find it.
        files = [read_index_file(path, check_values=False) for path in paths]
        for file, path in zip(files, paths, strict=True):
            refuse_values(f"{path}: videos", rows_of([file]))
        raise
    return files, rows


def _is_alike(found: pa.Table, wanted: pa.Table, is_missing: NDArray[np.bool_] | bool) -> bool:
    """Whether rows of videos.parquet are of the videos wanted."""
    names = [name for name in KNOWN.names if not found[name].equals(_as_stored(wanted, name))]
    there = np.asarray(pc.equal(found["status"], Status.MISSING.value))
    return not names and bool(np.all(there == is_missing))


def _as_stored(videos: pa.Table, name: str) -> pa.ChunkedArray:
    return videos[name].cast(VIDEO_SCHEMA.field(name).type)


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
