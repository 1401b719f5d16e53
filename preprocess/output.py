"""What an output folder holds already, and what makes it a finished dataset.

An index means its shard is done. Everything found is compared with what this run would write:
shards of other settings or of another catalog are refused with the difference named, never mixed
and never overwritten.
"""

import errno
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twinstream.errors import InputError
from twinstream.preprocess.catalog import Catalog
from twinstream.preprocess.plan import Job
from twinstream.shards.assemble import Contents, finish_dataset, is_whole, shard_entry
from twinstream.shards.atomic import remove_temporaries, write_atomically
from twinstream.shards.flow_codec import LEVELS_PER_SIDE, ZERO_LEVEL
from twinstream.shards.index import IndexFile, read_index_file
from twinstream.shards.manifest import (
    FILE_NAME,
    FlowCodec,
    ShardEntry,
    read_manifest,
)
from twinstream.shards.storage import Location, file_sizes
from twinstream.shards.videos import (
    VIDEOS_NAME,
    Reason,
    Status,
    VideoRow,
    read_videos,
    video_row,
)
from twinstream.shards.writer import index_path

DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# Indexes read at the same time: in an object store each is some round trips of waiting.
NUM_READERS = 16


@contextmanager
def disk_faults_told(out: Location) -> Iterator[None]:
    """A disk that fills up in the block is an InputError: what is whole stays, and the same command
    resumes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise InputError(
            f"shards.path {out}: {error.strerror}; finished shards are kept, make room and run the "
            "same command again"
        ) from error


def prepare_output(out: Location) -> None:
    """Make the folder, clear what a killed run left, and see that it can be written to; a store has
    nothing to make.
    """
    if not isinstance(out, Path):
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove_temporaries(out)
        probe = out / f".{FILE_NAME}.probe.tmp"
        write_atomically(probe, b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"shards.path {out}: cannot be written to ({error.strerror})") from error


def finished_rows(
    out: Location, catalog: Catalog, settings: dict[str, Any]
) -> list[VideoRow] | None:
    """The rows of a dataset that is complete, None when there is none; InputError when it is
    another one.
    """
    if not (out / FILE_NAME).exists():
        return None
    manifest = read_manifest(out)
    _refuse_other_settings(out, manifest.settings, settings)
    rows = read_videos(out / VIDEOS_NAME)
    _refuse_other_videos(
        out, [_identity(row) for row in rows], [_identity(row) for row in _plain_rows(catalog)]
    )
    return rows


def done_jobs(out: Location, jobs: Iterable[Job], settings: dict[str, Any]) -> dict[str, IndexFile]:
    """The index of every job whose shard is there, by the job's name; InputError when it is of
    another dataset.
    """
    planned = {f"{job.split}/{job.name}": job for job in jobs}
    there = file_sizes(out)
    for name in there:
        if (
            name.endswith(".parquet")
            and "/" in name
            and name.removesuffix(".parquet") not in planned
        ):
            raise InputError(
                f"{out / name}: a shard that this catalog and these settings would not make; "
                "choose another shards.path"
            )
    found = {shard: job for shard, job in planned.items() if f"{shard}.parquet" in there}
    with ThreadPoolExecutor(NUM_READERS) as pool:
        files = [
            *pool.map(
                read_index_file, [index_path(out / job.split, job.name) for job in found.values()]
            )
        ]
    done = {}
    for (shard, job), file in zip(found.items(), files, strict=True):
        _refuse_other_settings(out, file.record.settings, settings)
        _refuse_other_videos(
            out, [row.path for row in file.record.videos], [video.path for video in job.videos]
        )
        if is_whole(there, shard, file.record):
            done[job.name] = file
    return done


def finish(
    out: Location, catalog: Catalog, jobs: list[Job], settings: dict[str, Any]
) -> list[VideoRow]:
    """Write videos.parquet and then dataset.json, when every job is done; returns every video's
    row.
    """
    files = done_jobs(out, jobs, settings)
    rows = [row for job in jobs for row in files[job.name].record.videos]
    rows += [row for row in _plain_rows(catalog) if row.status == Status.MISSING]
    splits: dict[str, tuple[ShardEntry, ...]] = {}
    for job in jobs:
        if files[job.name].record.num_bytes == 0:
            index_path(out / job.split, job.name).unlink()
        else:
            entry = shard_entry(f"{job.split}/{job.name}", files[job.name])
            splits[job.split] = (*splits.get(job.split, ()), entry)
    codec = FlowCodec(bound=settings["preprocess.bound"], zero=ZERO_LEVEL, levels=LEVELS_PER_SIDE)
    finish_dataset(out, splits, rows, Contents(catalog.classes, codec, settings))
    return rows


def _plain_rows(catalog: Catalog) -> list[VideoRow]:
    """A row for each video that says no more than the catalog does."""
    return [
        video_row(video, Status.WRITTEN)
        if video.present
        else video_row(video, Status.MISSING, Reason.MISSING, detail="no such file")
        for video in sorted(catalog.videos, key=lambda video: video.key)
    ]


def _identity(row: VideoRow) -> tuple[object, ...]:
    return row.path, row.label, row.split, row.status == Status.MISSING


def _refuse_other_settings(out: Location, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise InputError(
                f"shards.path {out}: holds shards made with {name} = {found.get(name)}, not "
                f"{wanted.get(name)}; "
                "choose another shards.path or the same settings"
            )


def _refuse_other_videos(out: Location, found: list[Any], wanted: list[Any]) -> None:
    if found != wanted:
        differing = sorted({*found} ^ {*wanted}, key=str) or [wanted[0]]
        raise InputError(
            f"shards.path {out}: holds shards of another catalog: {len(differing)} videos differ, "
            f"such as {differing[0]}; choose another shards.path"
        )
