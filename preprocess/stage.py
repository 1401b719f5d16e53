"""Jobs over a pool of Ray actors: the only module that imports ray.

An actor takes one job at a time and streams back a small record for each video; frames never enter Ray's object store.
A plain actor pool starts in a second where a Ray Data pipeline takes seven, and its unit of retry is our shard. When a
worker dies, its job starts anew on a fresh actor, at most `MAX_TRIES` times; exceptions of the job itself end the run.
"""

import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.decode import open_video
from preprocess.job import Recipe, VideoDone, run_job
from preprocess.plan import Job
from preprocess.tvl1 import TvL1Params, open_engine
from shards.errors import InputError

MAX_TRIES = 3


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to run jobs, all of it plain values that travel to another machine."""

    root: Path
    out: Path
    size: tuple[int, int] | None
    short_side: int | None
    max_pixels: int | None
    chunk_frames: int
    engine: str
    tvl1: TvL1Params
    bound: float
    jpeg_quality: int
    min_frames: int
    settings: dict[str, Any]


class Worker:
    """Runs jobs one after another; its engine is opened once."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._recipe = make_recipe(setup)

    def run(self, job: Job) -> Iterator[VideoDone]:
        """Make one shard, telling of each video."""
        yield from run_job(job, root=self._setup.root, out=self._setup.out, recipe=self._recipe)


def make_recipe(setup: WorkerSetup) -> Recipe:
    """The decoder and the engine that `setup` names, opened."""

    def opened(path: Path) -> Any:
        return open_video(
            path,
            size=setup.size,
            short_side=setup.short_side,
            chunk_frames=setup.chunk_frames,
            max_pixels=setup.max_pixels,
        )

    return Recipe(
        opened,
        open_engine(setup.engine, setup.tvl1),
        setup.bound,
        setup.jpeg_quality,
        setup.min_frames,
        setup.settings,
    )


def run_jobs(jobs: list[Job], setup: WorkerSetup, *, workers: int | None, address: str | None) -> Iterator[VideoDone]:
    """Run every job on `workers` actors (one a CPU when None); yields each video's record as it comes."""
    _set_environment(address)
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _start_ray(workers, address)
        # ray.init puts a handler of its own in place, which would end us with another exit code.
        signal.signal(signal.SIGTERM, on_sigterm)
        cpus = int(ray.cluster_resources().get("CPU", 1))
        yield from _drive(jobs, setup, min(workers or cpus, len(jobs)))
    finally:
        ray.shutdown()


def _set_environment(address: str | None) -> None:
    """What ray reads when it is imported, which is why no import of it stands at the head of this module."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        # Without this ray replaces 127.0.0.1 by the machine's address and then listens on every interface.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def _start_ray(workers: int | None, address: str | None) -> None:
    import ray

    if address is None:
        ray.init(
            num_cpus=workers or len(os.sched_getaffinity(0)),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--address {address}: no Ray cluster answers there ({_first_line(error)})") from error


def _drive(jobs: list[Job], setup: WorkerSetup, num_workers: int) -> Iterator[VideoDone]:
    """Keep every actor busy with one job until none is left."""
    import ray
    from ray.exceptions import RayActorError

    actor_class = ray.remote(num_cpus=1, max_restarts=0)(Worker)
    waiting = list(reversed(jobs))
    tries = dict.fromkeys((job.name for job in jobs), 0)
    running: dict[Any, tuple[Any, Job]] = {}

    def begin(actor: Any) -> None:
        job = waiting.pop()
        tries[job.name] += 1
        running[actor.run.options(num_returns="streaming").remote(job)] = (actor, job)

    for _ in range(num_workers):
        begin(actor_class.remote(setup))
    while running:
        stream: Any
        (stream,), _ = ray.wait(list(running), num_returns=1, fetch_local=False)
        actor, job = running[stream]
        try:
            done: VideoDone = ray.get(next(stream))
            yield done
        except StopIteration:
            del running[stream]
            if waiting:
                begin(actor)
        except RayActorError as error:
            del running[stream]
            if tries[job.name] >= MAX_TRIES:
                raise RuntimeError(f"{job.name}: its worker died {MAX_TRIES} times") from error
            waiting.append(job)
            begin(actor_class.remote(setup))


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
