"""What one driver's messages cost on a real Ray, and how many workers it can therefore feed.

Workers are actors of a Ray on this machine whose jobs take no time, so that what is measured is the
driver alone: CPU seconds of its process, with Ray's threads in it, but not of Ray's other
processes. Thousands of workers cannot be had here, and Ray looks at all that it waits for each time
that it is asked; so a wait for as many streams, which one actor is never to begin, is measured
apart. With --simulate there is no Ray, and all workers are in this process: the driver's own loop.

    python -m benchmarks.messages
    python -m benchmarks.messages --videos 10000000 --simulate 4000
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click

from benchmarks.measuring import machine, peak_kibibytes
from benchmarks.simulated import VIDEOS_PER_SHARD, class_name, drive, driven, split_of, video_path
from twinstream.preprocess.catalog.catalog import VIDEO, Video
from twinstream.preprocess.cluster import session
from twinstream.preprocess.cluster.resources import WorkerResources
from twinstream.preprocess.cluster.session import RayCluster, RayWorker, ray_cluster
from twinstream.preprocess.cluster.worker import WorkerSetup
from twinstream.preprocess.job import VideoAt, VideoDone
from twinstream.preprocess.plan import Job, plan_jobs
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings
from twinstream.shards.format.columns import Records, TableBuilder
from twinstream.shards.format.video_table import Status, VideoError, video_row
from twinstream.shards.settings import ShardSettings

NUM_REPEATS = 20
# Of a worker that needs 4 s for a video: its begin and its end.
MESSAGES_PER_SECOND = 0.5


class InstantWorker(RayWorker):
    """An actor whose videos take no time."""

    def run(self, job: Job, given_up: Mapping[str, VideoError]) -> Iterator[VideoAt | VideoDone]:
        """The messages of a job."""
        for video in job.items:
            yield VideoAt(video.key)
            row = video_row(video, Status.WRITTEN, num_frames=250, shard=job.name)
            yield VideoDone(row, 250, {"decode": 1.0, "flow": 1.0, "encode": 1.0})


class CountedCluster(RayCluster):
    """Counts what is heard."""

    num_messages = 0

    def _message(self, ref: Any) -> Any:
        self.num_messages += 1
        return super()._message(ref)


def no_recipe(setup: WorkerSetup) -> Any:
    """None: nothing is decoded."""


def jobs_of(size: int, videos_per_shard: int = VIDEOS_PER_SHARD) -> list[Job]:
    """Jobs of so many simulated videos."""
    builder = TableBuilder(VIDEO)
    for number in range(size):
        path = video_path(number)
        builder.add(path[:-4], path, class_name(number), number, split_of(number), True)
    return plan_jobs(Records(builder.table(), Video), videos_per_shard, seed=0)


def message_seconds(cluster: CountedCluster, jobs: list[Job], workers: int) -> float:
    """CPU seconds of this process for each message: Ray, the pool, its log and its progress."""
    done = driven(cluster, jobs, workers)
    # Workers have started when the first video is done.
    next(done)
    begun, before = time.process_time(), cluster.num_messages
    for _ in done:
        pass
    return (time.process_time() - begun) / (cluster.num_messages - before)


def wait_seconds(num_workers: int) -> float:
    """CPU seconds of one look at so many streams of which none has anything."""
    import ray

    # It waits for what is not there, and all other calls wait for it.
    remote: Any = ray.remote
    actor = remote(num_cpus=0)(SilentWorker).remote()
    streams = [
        actor.run.options(num_returns="streaming").remote(number) for number in range(num_workers)
    ]
    ray.wait(streams, timeout=1.0, fetch_local=False)
    begun = time.process_time()
    for _ in range(NUM_REPEATS):
        ray.wait(streams, num_returns=num_workers, timeout=0, fetch_local=False)
    seconds = (time.process_time() - begun) / NUM_REPEATS
    ray.kill(actor)
    return seconds


def simulated(jobs: list[Job], workers: int) -> str:
    """A line: what a message costs a driver of so many workers that are no processes."""
    begun = time.process_time()
    num_messages = drive(jobs, workers)
    seconds = time.process_time() - begun
    return (
        f"{len(jobs):,} jobs, {workers:,} workers by simulation: {num_messages:,} messages, "
        f"{1e6 * seconds / num_messages:.1f} µs each; peak {peak_kibibytes() / 1024:,.0f} MiB"
    )


class SilentWorker:
    """Never says anything."""

    def run(self, number: int) -> Iterator[int]:
        """Sleeps."""
        time.sleep(3600)
        yield number


def fed(num_workers: int, message: float, wait: float) -> float:
    """Messages a second that a driver of so many workers hears at most, by its CPU alone.

    It looks twice at all workers, and then hears those that have something, at most all of them.
    """
    return num_workers / (2 * wait + num_workers * message)


@click.command()
@click.option("--videos", type=click.IntRange(min=128), default=2560)
@click.option("--workers", type=click.IntRange(min=1), default=2)
@click.option("--fed", "num_fed", type=click.IntRange(min=1), multiple=True, default=(1000, 4000))
@click.option("--simulate", type=click.IntRange(min=1), help="So many workers without Ray.")
@click.option("--per-shard", type=click.IntRange(min=1), default=VIDEOS_PER_SHARD)
def main(
    videos: int, workers: int, num_fed: tuple[int, ...], simulate: int | None, per_shard: int
) -> None:
    """CPU seconds of the driver for each message on Ray."""
    jobs = jobs_of(videos, per_shard)
    if simulate is not None:
        print(f"{machine()}; {simulated(jobs, simulate)}")
        return
    setup = WorkerSetup(
        root=Path("videos").absolute(),
        out=None,
        dataset=DatasetSettings(),
        preprocess=PreprocessSettings(),
        shards=ShardSettings(),
        engine="numba",
    )
    with (
        patch.object(session, "RayWorker", InstantWorker),
        patch.object(session, "RayCluster", CountedCluster),
        ray_cluster(setup, no_recipe, WorkerResources(), workers=workers, address=None) as cluster,
    ):
        assert isinstance(cluster, CountedCluster)
        message = message_seconds(cluster, jobs, workers)
        waits = {number: wait_seconds(number) for number in num_fed}
    print(f"{machine()}; {videos} videos, {workers} workers\n")
    print(f"- each message: {1e6 * message:.0f} µs, heard from {workers} workers")
    for number, wait in waits.items():
        rate = fed(number, message, wait)
        print(
            f"- a look at {number:,} silent workers: {1e3 * wait:.1f} ms, so {rate:,.0f} messages "
            f"a second at most: as many as {rate / MESSAGES_PER_SECOND:,.0f} workers send that "
            f"send {MESSAGES_PER_SECOND} a second each"
        )


if __name__ == "__main__":
    main()
