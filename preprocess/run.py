"""From settings to a finished dataset: catalog, plan, what is there already, jobs, manifest.

Running it again does only what is missing; a dataset that is complete is left alone.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import closing
from typing import TYPE_CHECKING

from twinstream.errors import InputError
from twinstream.output import say
from twinstream.preprocess.catalog.catalog import Catalog, Video
from twinstream.preprocess.catalog.kinds import read_catalog
from twinstream.preprocess.catalog.suffixes import has_video_suffix
from twinstream.preprocess.cluster.resources import (
    WorkerResources,
    cluster_engine,
    this_node,
    worker_resources,
)
from twinstream.preprocess.cluster.run_log import LOG_NAME, RunLog, write_report
from twinstream.preprocess.flow.engines import open_engine, resolve_engine
from twinstream.preprocess.plan import Job, dataset_build, plan_jobs
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings, byte_settings
from twinstream.progress import LOGGER, Progress
from twinstream.shards.format.classes import first_few
from twinstream.shards.format.manifest import FILE_NAME
from twinstream.shards.format.video_table import (
    VIDEOS_NAME,
    Status,
    VideoRow,
    counts_of,
    summary,
)
from twinstream.shards.rawframes.names import parse_image_name
from twinstream.shards.settings import ShardSettings
from twinstream.shards.split_lists import store_splits
from twinstream.shards.storage.atomic import one_line_disk_faults, remove_temporaries
from twinstream.shards.storage.location import (
    Location,
    appended_text,
    file_sizes,
    is_inside,
    locate,
)
from twinstream.shards.storage.lock import owned
from twinstream.shards.write.dataset import SAME_COMMAND, SHARDS_KEPT, DatasetBuild

if TYPE_CHECKING:
    from twinstream.preprocess.cluster.worker import WorkerSetup
    from twinstream.preprocess.job import VideoDone


def preprocess(
    dataset: DatasetSettings,
    settings: PreprocessSettings,
    shards: ShardSettings,
    *,
    address: str | None = None,
    local: bool = False,
    dry_run: bool = False,
) -> Collection[VideoRow]:
    """Make or finish the dataset at `shards.path`; returns every video's row.

    Without an address `local`, or `preprocess.workers` of 1, does without Ray.

    A dry run writes nothing, and returns rows only of a dataset that is finished. InputError while
    another run writes there.
    """
    engine, resources = _engine_and_resources(settings, address)
    catalog = run_catalog(dataset, shards.path)
    dataset = with_fold(dataset, catalog.fold)
    jobs = plan_jobs(catalog.videos, shards.videos_per_shard, settings.seed)
    made_with = byte_settings(dataset, settings, shards, engine)
    out = locate(shards.path)
    build = dataset_build(out, catalog, jobs, made_with, settings.bound)
    if (rows := build.finished_rows()) is not None:
        # Of a dataset that an older version made they are not there.
        if not dry_run:
            try:
                store_splits(out, catalog.lists)
            # It may be where nothing can be written any more, and is whole without them.
            except OSError as error:
                reason = error.strerror or error
                LOGGER.warning(f"{out}: its lists cannot be stored as splits ({reason})")
        LOGGER.info(f"{out}: finished already")
        return rows
    if dry_run:
        _print_plan(catalog, jobs, _left(build), engine, out)
        return []
    begun = time.monotonic()
    # Nothing is written before this line: a dry run and a finished dataset leave the disk alone.
    with (
        owned(out, "twinstream preprocess", "shards.path") as check,
        one_line_disk_faults(out, SHARDS_KEPT, SAME_COMMAND, option="shards.path"),
    ):
        # Again: another run may have ended since.
        if (rows := build.finished_rows()) is not None:
            return rows
        left = _left(build)
        remove_temporaries(out)
        with appended_text(out / LOG_NAME) as file:
            log = RunLog(file)
            if left:
                try:
                    setup = worker_setup(dataset, settings, shards, engine, resources, out)
                    _run(left, started_jobs(left, setup, address, local, log), log, check)
                finally:
                    # Workers that were killed could not clear up after themselves.
                    remove_temporaries(out)
            rows = build.finish()
            store_splits(out, catalog.lists)
        write_report(out, log.totals, rows, time.monotonic() - begun)
    return rows


def with_fold(dataset: DatasetSettings, fold: int | None) -> DatasetSettings:
    """The settings with the fold whose splits the shards have, as datasets record it."""
    if fold is None:
        return dataset
    if dataset.fold != fold:
        LOGGER.warning(
            f"dataset.fold {dataset.fold}: changes nothing, the splits of the shards are those of "
            f"lists {fold}; train with train.split=train{dataset.fold}, "
            f"test.split=test{dataset.fold}; shards of lists {dataset.fold} that an older version "
            "made can be read, not finished"
        )
    return dataset.model_copy(update={"fold": fold})


def _left(build: DatasetBuild[Video]) -> list[Job]:
    """The jobs whose shards are not done; InputError for foreign files."""
    done = build.done_shards()
    return [job for job in build.plans if job.path not in done]


def check_skipped(rows: Collection[VideoRow], max_skipped: int | None, shards_path: str) -> None:
    """InputError if no video was written or more than `preprocess.max_skipped` were skipped."""
    statuses: Counter[str] = Counter()
    for (status, _), count in counts_of(rows).items():
        statuses[status] += count
    skipped = statuses[Status.SKIPPED]
    table = f"{shards_path}/{VIDEOS_NAME} tells why"
    if statuses and not statuses[Status.WRITTEN]:
        raise InputError(f"no video could be used ({summary(rows)}); {table}")
    if max_skipped is not None and skipped > max_skipped:
        raise InputError(
            f"{skipped} videos skipped, preprocess.max_skipped is {max_skipped}; {table}"
        )


def _engine_and_resources(
    settings: PreprocessSettings, address: str | None
) -> tuple[str, WorkerResources]:
    """The engine for the whole run and what one worker takes of the machines.

    Both depend on the machines that do the work.
    """
    if address is None:
        engine = resolve_engine(settings.engine)
        # What stands against it is said here, in one line, and not by every worker.
        open_engine(engine, settings.tvl1.params())
        nodes = [this_node()]
    else:
        # Ray is imported by those alone who need it.
        from twinstream.preprocess.cluster.session import cluster_nodes

        nodes = cluster_nodes(address)
        engine = cluster_engine(settings.engine, nodes)
    resources = worker_resources(
        engine,
        nodes,
        threads=settings.threads,
        workers_per_gpu=settings.workers_per_gpu,
        cores_per_gpu=settings.cores_per_gpu,
    )
    return engine, resources


def run_catalog(dataset: DatasetSettings, shards_path: str) -> Catalog:
    """The videos of the dataset, warnings printed; InputError where there is none.

    What lies at `shards_path` is none of them.
    """
    out = locate(shards_path)
    _refuse_mixed(locate(dataset.root), out)
    catalog = read_catalog(
        dataset.kind,
        dataset.root,
        splits=dataset.splits,
        annotations=dataset.annotations,
        exclude=dataset.exclude,
        held_out=dataset.hold_out,
        group=dataset.group,
        out=out,
    )
    for warning in catalog.warnings:
        LOGGER.warning(warning)
    if not catalog.videos:
        raise InputError(
            f"dataset.root {dataset.root}: no videos there for dataset.kind {dataset.kind}"
        )
    return catalog


def _refuse_mixed(root: Location, out: Location) -> None:
    """InputError where what is made would lie among the videos, or videos where shards are made.

    A run that has begun so goes on.
    """
    if any((out / name).exists() for name in (LOG_NAME, FILE_NAME)):
        return
    if is_inside(root, out):
        raise InputError(
            f"shards.path {out}: dataset.root {root} is or lies in it, so that shards would lie "
            "among the videos; choose another shards.path"
        )
    if is_inside(out, root) and out.exists():
        names = {path: path.rpartition("/")[2] for path in file_sizes(out)}
        found = [
            path for path, name in names.items() if has_video_suffix(name) or parse_image_name(name)
        ]
        if found:
            raise InputError(
                f"shards.path {out}: holds videos or images ({first_few(found)}), which would be "
                "left out of dataset.root; choose a folder without"
            )


def _print_plan(
    catalog: Catalog, jobs: list[Job], left: list[Job], engine: str, out: Location
) -> None:
    present: Counter[str] = Counter()
    for job in jobs:
        present[job.split] += len(job.items)
    missing = len(catalog.videos) - present.total()
    splits = ", ".join(f"{count} {split}" for split, count in sorted(present.items()))
    say(
        f"{len(catalog.videos)} videos of {len(catalog.classes)} classes: {splits}; "
        f"{missing} missing"
    )
    say(f"{len(jobs)} shards to {out}, {len(jobs) - len(left)} of them done · engine {engine}")


def _run(
    jobs: list[Job],
    done: "Generator[VideoDone, None, None]",
    log: RunLog,
    check: Callable[[], None],
) -> None:
    with (
        Progress("preprocess", sum(len(job.items) for job in jobs), "video") as progress,
        # Ended here and not when it is collected: it holds the workers.
        closing(done),
    ):
        for _ in done:
            check()
            progress.advance(note=log.note())


def started_jobs(
    jobs: list[Job], setup: "WorkerSetup", address: str | None, local: bool, log: RunLog
) -> "Generator[VideoDone, None, None]":
    """The jobs on the pool, as the settings say; each video's record as it comes."""
    from twinstream.preprocess.cluster.jobs import run_jobs

    settings = setup.preprocess
    return run_jobs(
        jobs,
        setup,
        workers=settings.workers,
        address=address,
        # One worker needs nobody who places it.
        local=local or (address is None and settings.workers == 1),
        max_tries=settings.max_tries,
        timeout_seconds=settings.timeout_seconds,
        on_event=log.write,
    )


def worker_setup(
    dataset: DatasetSettings,
    settings: PreprocessSettings,
    shards: ShardSettings,
    engine: str,
    resources: WorkerResources,
    out: Location | None,
) -> "WorkerSetup":
    """What a worker needs; paths absolute, because it may have another working folder."""
    # It imports FFmpeg, which a dry run does without.
    from twinstream.preprocess.cluster.worker import WorkerSetup

    return WorkerSetup(
        root=locate(dataset.root).absolute(),
        out=out.absolute() if out else None,
        dataset=dataset,
        preprocess=settings,
        shards=shards,
        engine=engine,
        gpu_fraction=resources.gpu,
        cores=resources.cores,
    )
