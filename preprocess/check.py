"""Every video decoded as preprocess would, and a table of what became of each: no flow, no shards.

The rows are those that preprocess would write, with the status `usable` in the place of `written`,
whatever the number of workers. Each video is a job of its own on the same pool, so a video that
crashes or hangs costs no other one. The table is written at the end, whole or not at all.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from twinstream.errors import InputError
from twinstream.preprocess.catalog.catalog import Catalog, csv_catalog
from twinstream.preprocess.cluster.resources import WorkerResources
from twinstream.preprocess.cluster.run_log import RunLog
from twinstream.preprocess.flow.engines import cpu_engine
from twinstream.preprocess.plan import Job, missing_rows
from twinstream.preprocess.run import run_catalog, started_jobs, worker_setup
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings
from twinstream.progress import Progress
from twinstream.shards.format.listings import Listed
from twinstream.shards.format.manifest import FILE_NAME
from twinstream.shards.format.video_table import (
    VIDEOS_NAME,
    VideoRow,
    videos_bytes,
    videos_csv,
)
from twinstream.shards.settings import ShardSettings
from twinstream.shards.storage.atomic import write_atomically

WRITERS: dict[str, Callable[[Sequence[VideoRow]], bytes]] = {
    ".parquet": videos_bytes,
    ".csv": videos_csv,
}


def check(
    dataset: DatasetSettings,
    settings: PreprocessSettings,
    shards: ShardSettings,
    out: Path,
    *,
    files: Sequence[Path] = (),
    address: str | None = None,
    local: bool = False,
) -> list[VideoRow]:
    """Decode every video of the dataset, or these files, and write the table `out`; its rows.

    `out` is FILE.parquet or FILE.csv and replaced whole. InputError where it cannot be written.
    """
    require_table(out)
    if files:
        root, catalog = catalog_of_files(files)
        dataset = dataset.model_copy(update={"root": root, "kind": "csv"})
    else:
        catalog = run_catalog(dataset, shards.path)
    # A video each: there is no shard to keep together, and the last ones keep all workers busy.
    jobs = [Job(video.split, video.key, (video,)) for video in catalog.videos if video.present]
    checked = _run(jobs, dataset, settings, shards, address, local) if jobs else []
    rows = sorted([*checked, *missing_rows(catalog.videos)], key=lambda row: row.key)
    write_atomically(out, WRITERS[out.suffix](rows))
    return rows


def require_table(out: Path) -> None:
    """InputError for a table that could not be written, before hours are spent; makes its folder.

    One that is there is replaced at the end, but not that of a shard dataset.
    """
    if out.suffix not in WRITERS:
        raise InputError(f"--out {out}: expected FILE{' or FILE'.join(WRITERS)}")
    if out.name == VIDEOS_NAME and (out.parent / FILE_NAME).exists():
        raise InputError(f"--out {out}: the table of a shard dataset; choose another file")
    if out.is_dir():
        raise InputError(f"--out {out}: a folder; expected a file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: {out.parent}: {error.strerror}") from error
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: {out.parent} cannot be written to")


def catalog_of_files(files: Sequence[Path]) -> tuple[str, Catalog]:
    """The folder that all files lie below, and these as videos, their folders as classes."""
    paths = [Path(os.path.abspath(file)) for file in files]
    root = Path(os.path.commonpath([path.parent for path in paths]))
    names = [path.relative_to(root).as_posix() for path in paths]
    listed = [
        Listed(name, path.parent.name or "/", "train", str(file))
        for name, path, file in zip(names, paths, files, strict=True)
    ]
    # A file that is absent, or a folder, becomes a row like that of a list's.
    there = [name for name, path in zip(names, paths, strict=True) if path.is_file()]
    return str(root), csv_catalog(listed, there)


def _run(
    jobs: list[Job],
    dataset: DatasetSettings,
    settings: PreprocessSettings,
    shards: ShardSettings,
    address: str | None,
    local: bool,
) -> list[VideoRow]:
    """The rows of the jobs' videos, in the order in which they come."""
    # FFmpeg decodes with one core, whatever the engine would take.
    setup = worker_setup(dataset, settings, shards, cpu_engine(), WorkerResources(), None)
    rows = []
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        Progress("check", len(jobs), "video") as progress,
    ):
        log = RunLog(nowhere)
        done = started_jobs(jobs, setup, address, local, log)
        # Ended here and not when it is collected: it holds the workers.
        with closing(done):
            for video in done:
                rows.append(video.row)
                progress.advance(note=log.note())
    return rows
