"""Jobs by workers that stop when a signal asks: on a Ray cluster, or as plain processes here.

Both are a `Cluster` to the pool, which alone decides what a fault means. So either gives the same
bytes, rows, retries and lines of the log.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

from twinstream.preprocess.cluster.pool import Pool
from twinstream.preprocess.cluster.processes import ProcessCluster, process_cluster
from twinstream.preprocess.cluster.resources import WorkerResources
from twinstream.preprocess.cluster.run_log import Event
from twinstream.preprocess.cluster.session import NODE_SECONDS, RayCluster, ray_cluster
from twinstream.preprocess.cluster.worker import OpenRecipe, WorkerSetup, recipe_opener
from twinstream.preprocess.job import VideoDone
from twinstream.preprocess.plan import Job
from twinstream.signals import noted_signals


def run_jobs(
    jobs: list[Job],
    setup: WorkerSetup,
    *,
    workers: int | None,
    address: str | None,
    local: bool = False,
    max_tries: int = 1,
    timeout_seconds: float | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    open_recipe: OpenRecipe | None = None,
) -> Generator[VideoDone, None, None]:
    """Make every job with `workers` workers; yields each video's record once, as it comes.

    `local` are processes of this machine without Ray; else on the cluster at `address`, or on a Ray
    that is started here. As many workers as fit when None. A video in which workers died
    `max_tries` times in a row, or that made no progress for `timeout_seconds`, is left out.
    InputError when no cluster is at `address`, or one of its nodes has other versions or does not
    see the disks.
    """
    each = WorkerResources(setup.cores, setup.gpu_fraction)
    opener = open_recipe or recipe_opener(setup)
    opened: AbstractContextManager[ProcessCluster | RayCluster]
    if local:
        opened = process_cluster(setup, opener, each)
    else:
        opened = ray_cluster(setup, opener, each, workers=workers, address=address)
    with noted_signals() as stop, opened as cluster:
        # Ray puts in a handler of its own, which would end us with another exit code.
        stop.listen()
        required = cluster.required
        pool = Pool(
            cluster,
            jobs,
            workers=workers,
            each=each,
            max_tries=max_tries,
            timeout_seconds=timeout_seconds,
            node_seconds=NODE_SECONDS if required else 0.0,
            check_node=required.check if required else None,
            on_event=on_event,
        )
        try:
            yield from pool.run(stop.check)
        finally:
            pool.close()
