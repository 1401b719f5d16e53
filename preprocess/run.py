"""From settings to a finished dataset: catalog, plan, what is there already, jobs, manifest.

Running it again does only what is missing; a dataset that is complete is left alone.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from preprocess.catalog import Catalog, read_catalog
from preprocess.job import PARTS, VideoDone
from preprocess.output import done_jobs, finish, finished_rows, prepare_output
from preprocess.plan import Job, plan_jobs
from preprocess.settings import DatasetSettings, PreprocessSettings, byte_settings
from preprocess.tvl1 import open_engine, resolve_engine
from shards.atomic import remove_temporaries
from shards.errors import InputError
from shards.progress import Progress
from shards.settings import ShardSettings
from shards.verify import VIDEOS_NAME
from shards.videos import Status, VideoRow, summary


@dataclass
class Tally:
    """What the progress line tells: mean milliseconds a frame of each part, and the videos skipped."""

    num_frames: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    skipped: int = 0

    def add(self, done: VideoDone) -> None:
        """Count one video."""
        self.num_frames += done.num_frames
        self.seconds.update(done.seconds)
        self.skipped += done.row.status == Status.SKIPPED

    def __str__(self) -> str:
        """`decode 1.2 · flow 31 · encode 2.0 ms/frame · 12 skipped`."""
        parts = [f"{part} {1e3 * self.seconds[part] / max(self.num_frames, 1):.3g}" for part in PARTS]
        return " · ".join(parts) + f" ms/frame · {self.skipped} skipped"


def preprocess(
    dataset: DatasetSettings,
    settings: PreprocessSettings,
    shards: ShardSettings,
    *,
    address: str | None = None,
    dry_run: bool = False,
) -> list[VideoRow]:
    """Make or finish the dataset at `shards.path`; returns every video's row (none on a dry run)."""
    engine = resolve_engine(settings.engine)
    open_engine(engine, settings.tvl1)
    catalog = _catalog(dataset)
    jobs = plan_jobs(catalog.videos, shards.videos_per_shard, settings.seed)
    made_with = byte_settings(dataset, settings, shards, engine)
    out = Path(shards.path)
    if (rows := finished_rows(out, catalog, made_with)) is not None:
        return rows
    done = done_jobs(out, jobs, made_with)
    left = [job for job in jobs if job.name not in done]
    if dry_run:
        _tell_plan(catalog, jobs, left, engine, out)
        return []
    prepare_output(out)
    if left:
        try:
            _run(left, dataset, settings, shards, engine, made_with, address)
        finally:
            remove_temporaries(out)
    return finish(out, catalog, jobs, made_with)


def check_skipped(rows: list[VideoRow], max_skipped: int | None, shards_path: str) -> None:
    """InputError when nothing was written, or more videos were skipped than `preprocess.max_skipped` allows."""
    skipped = sum(row.status == Status.SKIPPED for row in rows)
    table = f"{shards_path}/{VIDEOS_NAME} tells why"
    if rows and all(row.status != Status.WRITTEN for row in rows):
        raise InputError(f"no video could be used ({summary(rows)}); {table}")
    if max_skipped is not None and skipped > max_skipped:
        raise InputError(f"{skipped} videos skipped, preprocess.max_skipped is {max_skipped}; {table}")


def _catalog(dataset: DatasetSettings) -> Catalog:
    catalog = read_catalog(
        dataset.kind,
        dataset.root,
        splits=dataset.splits,
        fold=dataset.fold,
        annotations=dataset.annotations,
    )
    for warning in catalog.warnings:
        print(warning, file=sys.stderr)
    return catalog


def _tell_plan(catalog: Catalog, jobs: list[Job], left: list[Job], engine: str, out: Path) -> None:
    missing = sum(not video.present for video in catalog.videos)
    present = Counter(video.split for video in catalog.videos if video.present)
    told = ", ".join(f"{count} {split}" for split, count in sorted(present.items()))
    print(f"{len(catalog.videos)} videos of {len(catalog.classes)} classes: {told}; {missing} missing")
    print(f"{len(jobs)} shards to {out}, {len(jobs) - len(left)} of them done · engine {engine}")


def _run(
    jobs: list[Job],
    dataset: DatasetSettings,
    settings: PreprocessSettings,
    shards: ShardSettings,
    engine: str,
    made_with: dict[str, object],
    address: str | None,
) -> None:
    from preprocess.stage import WorkerSetup, run_jobs

    setup = WorkerSetup(
        root=Path(dataset.root).absolute(),
        out=Path(shards.path).absolute(),
        size=None if settings.short_side else settings.size,
        short_side=settings.short_side,
        max_pixels=settings.max_pixels,
        chunk_frames=settings.chunk_frames,
        engine=engine,
        tvl1=settings.tvl1,
        bound=settings.bound,
        jpeg_quality=shards.jpeg_quality,
        min_frames=settings.min_frames,
        settings=made_with,
    )
    tally = Tally()
    with Progress("preprocess", sum(len(job.videos) for job in jobs), "video") as progress:
        for video_done in run_jobs(jobs, setup, workers=settings.workers, address=address):
            tally.add(video_done)
            progress.advance(note=str(tally))
