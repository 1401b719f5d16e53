"""Datasets of any number of videos that are not there, and workers whose jobs take no time.

File names, indexes as workers write them, and tars that are holes: what is left to measure is the
driver and the readers alone.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twinstream.preprocess.catalog.catalog import Catalog, Video
from twinstream.preprocess.catalog.kinds import read_catalog
from twinstream.preprocess.cluster.pool import Cluster, JobDone, Message, Pool, Ready
from twinstream.preprocess.cluster.resources import WorkerResources
from twinstream.preprocess.cluster.run_log import RunLog
from twinstream.preprocess.job import VideoAt, VideoDone
from twinstream.preprocess.plan import Job, dataset_build, plan_jobs
from twinstream.progress import Progress
from twinstream.shards.format.index import JobRecord, index_bytes
from twinstream.shards.format.manifest import FORMAT
from twinstream.shards.format.video_table import Status, video_row
from twinstream.shards.storage import walk
from twinstream.shards.write.dataset import DatasetBuild

VIDEOS_PER_SHARD = 64
NUM_CLASSES = 400
BOUND = 20.0
SETTINGS = {"preprocess.bound": BOUND, "shards.videos_per_shard": VIDEOS_PER_SHARD}


def class_name(number: int) -> str:
    """The class of a video by its number: `class 017`."""
    return f"class {number % NUM_CLASSES:03d}"


def video_path(number: int) -> str:
    """Of the length that paths of Kinetics have."""
    return f"class_{number % NUM_CLASSES:03d}/v_{number:011d}_000010_000020.mp4"


def split_of(number: int) -> str:
    """Every tenth video is not for training."""
    return "val" if number % 10 == 3 else "train"


class FoundFile:
    """An entry of a folder that is not on the disk."""

    __slots__ = ("name", "path")

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path

    def is_symlink(self) -> bool:
        """None is a link."""
        return False

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Those without a suffix are folders."""
        return "." not in self.name

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """All others are files."""
        return "." in self.name


def simulated_entries(size: int, root: Path, folder: Path) -> Iterator[FoundFile]:
    """What lies in a folder of the simulated videos; every fiftieth listed one is absent."""
    if folder == root:
        for number in range(NUM_CLASSES):
            yield FoundFile(f"class_{number:03d}", f"{root}/class_{number:03d}")
        return
    for number in range(int(folder.name[-3:]), size, NUM_CLASSES):
        if number % 50 != 7:
            name = video_path(number).rpartition("/")[2]
            yield FoundFile(name, f"{folder}/{name}")


def catalog_of(size: int, folder: Path) -> Catalog:
    """The catalog, from a CSV in the folder and a simulated listing."""
    inodes, stat = iter(range(1, size + 1)), os.stat

    def simulated_stat(path: str | Path, **options: Any) -> os.stat_result:
        # Only of videos is it asked by text.
        if isinstance(path, str):
            return os.stat_result((0, next(inodes), 1, *[0] * 7))
        return stat(path, **options)

    with (
        patch.object(walk, "folder_entries", partial(simulated_entries, size, folder / "videos")),
        patch.object(os, "stat", simulated_stat),
    ):
        return read_catalog("csv", str(folder / "videos"), annotations=str(folder / "videos.csv"))


def write_csv(size: int, folder: Path) -> None:
    """The list that `catalog_of` reads."""
    (folder / "videos").mkdir()
    with (folder / "videos.csv").open("w", encoding="utf-8") as file:
        file.write("path,label,split\n")
        for number in range(size):
            file.write(f"{video_path(number)},{class_name(number)},{split_of(number)}\n")


def build_of(size: int, folder: Path) -> DatasetBuild[Video]:
    """The dataset of these videos, planned."""
    catalog = catalog_of(size, folder)
    jobs = plan_jobs(catalog.videos, VIDEOS_PER_SHARD, seed=0)
    return dataset_build(folder / "shards", catalog, jobs, SETTINGS, BOUND)


def write_index(out: Path, job: Job) -> None:
    """What a worker leaves of a job: an index, and a tar that is one hole."""
    rows, videos = [], []
    for place, video in enumerate(job.items):
        named = {"key": video.key, "label": video.label, "num_frames": 2, "width": 340}
        offsets = [5120 * place + 1024 * member for member in range(5)]
        rows.append(named | {"height": 256, "offsets": offsets, "sizes": [100] * 5})
        known = {"num_frames": 250 + video.label, "fps": 25.0, "width": 340, "height": 256}
        motion = {"mean_flow": 1 + 1 / (place + 3), "saturated": 0.0}
        videos.append(video_row(video, Status.WRITTEN, shard=job.name, **known, **motion))
    digest = hashlib.sha256(job.name.encode()).hexdigest()
    num_bytes = 5120 * len(rows) + 10240
    record = JobRecord(FORMAT, digest, num_bytes, SETTINGS, tuple(videos))
    (out / job.split).mkdir(parents=True, exist_ok=True)
    (out / f"{job.path}.parquet").write_bytes(index_bytes(rows, record))
    with (out / f"{job.path}.tar").open("wb") as tar:
        tar.truncate(num_bytes)


def prepare(size: int, folder: Path) -> None:
    """The list, and every shard of a dataset that is not closed yet."""
    write_csv(size, folder)
    build = build_of(size, folder)
    for job in build.plans:
        write_index(folder / "shards", job)


class InstantCluster:
    """Workers whose jobs take no time: what is left is the pool's own cost."""

    def __init__(self, num_workers: int) -> None:
        self._left: dict[int, deque[Message]] = {}
        self._num_workers, self.num_messages = num_workers, 0

    def start(self) -> int:
        """A further worker, which is ready."""
        worker = len(self._left)
        self._left[worker] = deque([Ready(f"host/{worker}", "node")])
        return worker

    def run(self, worker: int, job: Job, given_up: Mapping[str, object]) -> None:
        """All messages of a job at once."""
        messages = self._left[worker]
        for video in job.items:
            messages.append(VideoAt(video.key))
            row = video_row(video, Status.WRITTEN, num_frames=250, shard=job.name)
            messages.append(VideoDone(row, 250, {"decode": 1.0, "flow": 1.0, "encode": 1.0}))
        messages.append(JobDone())

    def wait(self, seconds: float) -> Iterator[tuple[int, Message]]:
        """One message of each worker that has any."""
        for worker, messages in [*self._left.items()]:
            if messages:
                self.num_messages += 1
                yield worker, messages.popleft()

    def kill(self, worker: int) -> None:
        """Nothing is left to say."""
        self._left[worker].clear()

    def nodes(self) -> dict[str, None]:
        """One."""
        return {"node": None}

    def resources(self) -> dict[str, float]:
        """As many cores as workers."""
        return {"CPU": self._num_workers}


def drive(jobs: list[Job], workers: int) -> int:
    """The driver's part of every job with workers that take no time; returns the messages."""
    cluster = InstantCluster(workers)
    for _ in driven(cluster, jobs, workers):
        pass
    return cluster.num_messages


def driven(cluster: Cluster, jobs: list[Job], workers: int) -> Iterator[None]:
    """The pool, its log and its progress over every job; yields at each video that is done."""
    total = sum(len(job.items) for job in jobs)
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        Progress("driver", total, "video") as progress,
    ):
        log = RunLog(nowhere)
        pool = Pool(
            cluster,
            jobs,
            workers=workers,
            each=WorkerResources(),
            max_tries=1,
            timeout_seconds=600.0,
            on_event=log.write,
        )
        for _ in pool.run(lambda: None):
            progress.advance(note=log.note())
            yield
