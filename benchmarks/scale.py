"""How the work around the videos grows with their number: CPU seconds and peak memory at four
sizes.

Videos are simulated: file names, indexes as workers write them, and tars that are holes. So what
is measured is the driver and the readers alone: lists, plan, resuming, closing, opening, a sample's
place, what copying reads first, and what each message of a worker costs. Each cell runs in a
process of its own. The last column is the exponent between the last two sizes: 1 is linear.

    python -m benchmarks.scale
    python -m benchmarks.scale --size 240000 --size 960000 --cell closing
"""

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click

from benchmarks.measuring import machine, peak_kibibytes
from twinstream.preprocess.catalog.catalog import Catalog, Video
from twinstream.preprocess.catalog.kinds import read_catalog
from twinstream.preprocess.cluster.pool import JobDone, Message, Pool, Ready
from twinstream.preprocess.cluster.resources import WorkerResources
from twinstream.preprocess.cluster.run_log import RunLog
from twinstream.preprocess.job import VideoAt, VideoDone
from twinstream.preprocess.plan import Job, dataset_build, plan_jobs
from twinstream.progress import Progress
from twinstream.shards.format.index import JobRecord, index_bytes
from twinstream.shards.format.manifest import FORMAT
from twinstream.shards.format.video_table import Status, video_row
from twinstream.shards.rawframes.exporter import export_rawframes
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.storage import walk
from twinstream.shards.write.combine import merge, subset
from twinstream.shards.write.copying import Copier
from twinstream.shards.write.dataset import DatasetBuild

SIZES = (15_000, 60_000, 240_000, 960_000)
VIDEOS_PER_SHARD = 64
NUM_CLASSES = 400
NUM_WORKERS = 4000
NUM_PLACES = 20_000
BOUND = 20.0
SETTINGS = {"preprocess.bound": BOUND, "shards.videos_per_shard": VIDEOS_PER_SHARD}


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a cell, per `unit` where there is one, and the peak of memory in MiB."""

    seconds: float
    mebibytes: float


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


class _FirstByteError(Exception):
    """Raised where the first sample would be read."""


def until_first_byte(copy: Callable[[], object]) -> None:
    """Run a copying command up to where it reads its first sample."""

    def stop(*_: object) -> None:
        raise _FirstByteError

    try:
        with patch.object(Copier, "members", stop):
            copy()
    except _FirstByteError:
        return
    raise AssertionError("nothing was copied")


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
    """The pool, its log and its progress over every job; returns the number of messages."""
    cluster = InstantCluster(workers)
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
    return cluster.num_messages


def _measured(work: Callable[[], object], per: float = 1.0) -> Cost:
    # Linux forgets the peak so far: what was made ready is not part of the cell.
    Path("/proc/self/clear_refs").write_text("5")
    begun = time.process_time()
    work()
    return Cost((time.process_time() - begun) / per, peak_kibibytes() / 1024)


def _catalog(size: int, folder: Path) -> Cost:
    return _measured(lambda: catalog_of(size, folder))


def _planning(size: int, folder: Path) -> Cost:
    catalog = catalog_of(size, folder)
    return _measured(lambda: plan_jobs(catalog.videos, VIDEOS_PER_SHARD, seed=0))


def _resuming(size: int, folder: Path) -> Cost:
    build = build_of(size, folder)
    return _measured(build.done_shards)


def _closing(size: int, folder: Path) -> Cost:
    return _measured(build_of(size, folder).finish)


def _finished(size: int, folder: Path) -> Cost:
    return _measured(build_of(size, folder).finished_rows)


def _whole(size: int, folder: Path) -> Cost:
    def run() -> None:
        build = build_of(size, folder)
        assert len(build.done_shards()) == len(build.plans)
        build.finish()

    return _measured(run)


def _opening(size: int, folder: Path) -> Cost:
    return _measured(lambda: len(ShardDataset(folder / "shards")))


def _place(size: int, folder: Path) -> Cost:
    samples = ShardDataset(folder / "shards").samples("train")
    last = len(samples) - 1

    def find() -> None:
        for _ in range(NUM_PLACES):
            samples[last]

    find()
    return _measured(find, per=NUM_PLACES)


def _merge(size: int, folder: Path) -> Cost:
    out = folder / "merged"
    return _measured(lambda: until_first_byte(lambda: merge([folder / "shards"], out)))


def _subset(size: int, folder: Path) -> Cost:
    out, classes = folder / "subset", [class_name(0), class_name(1)]
    return _measured(
        lambda: until_first_byte(lambda: subset(folder / "shards", out, classes=classes))
    )


def _export(size: int, folder: Path) -> Cost:
    out = folder / "exported"
    return _measured(lambda: until_first_byte(lambda: export_rawframes(folder / "shards", out)))


def _driver(size: int, folder: Path) -> Cost:
    build = build_of(size, folder)
    num_messages = 0

    def work() -> None:
        nonlocal num_messages
        num_messages = drive([*build.plans], NUM_WORKERS)

    cost = _measured(work)
    return Cost(cost.seconds / num_messages, cost.mebibytes)


# In this order: closing leaves the dataset that the cells after it read.
CELLS: dict[str, tuple[Callable[[int, Path], Cost], str]] = {
    "catalog": (_catalog, "catalog of a CSV and a listing"),
    "planning": (_planning, "planning"),
    "resuming": (_resuming, "resuming: what is done"),
    "closing": (_closing, "closing: rows, splits, table, manifest"),
    "whole": (_whole, "planned, resumed and closed by one process"),
    "finished": (_finished, "a run of what is finished"),
    "opening": (_opening, "opening the dataset"),
    "place": (_place, "a sample's place in training, each"),
    "merge": (_merge, "`merge` before its first byte"),
    "subset": (_subset, "`subset` before its first byte"),
    "export": (_export, "`export` before its first byte"),
    "driver": (_driver, f"driver of {NUM_WORKERS:,} workers, each message"),
}


def exponent(costs: Mapping[int, float]) -> float:
    """Of the growth between the two largest sizes: 1 is linear, 0 does not grow."""
    small, large = sorted(costs)[-2:]
    return math.log(costs[large] / costs[small]) / math.log(large / small)


def run_cell(cell: str, size: int, folder: Path) -> Cost:
    """A cell in a process of its own."""
    code = f"from benchmarks.scale import *; show({cell!r}, {size}, {str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    return Cost(**json.loads(done.stdout))


def show(cell: str, size: int, folder: str) -> None:
    """What a process of `run_cell` prints."""
    if cell == "prepare":
        prepare(size, Path(folder))
        cost = Cost(0, peak_kibibytes() / 1024)
    else:
        cost = CELLS[cell][0](size, Path(folder))
    print(json.dumps(vars(cost)))


def measure(sizes: list[int], cells: list[str], folder: Path) -> dict[str, dict[int, Cost]]:
    """Every cell at every size, the datasets below `folder`."""
    costs: dict[str, dict[int, Cost]] = {cell: {} for cell in cells}
    for size in sizes:
        here = folder / str(size)
        if not here.exists():
            here.mkdir()
            run_cell("prepare", size, here)
        for cell in cells:
            costs[cell][size] = run_cell(cell, size, here)
            print(f"{size}: {cell} {spelt(costs[cell][size])}", file=sys.stderr, flush=True)
    return costs


def spelt(cost: Cost) -> str:
    """`1.2 s, 87 MiB`, or microseconds where it is short."""
    time = f"{cost.seconds:.2f} s" if cost.seconds >= 0.01 else f"{1e6 * cost.seconds:.1f} µs"
    return f"{time}, {cost.mebibytes:.0f} MiB"


def table(costs: dict[str, dict[int, Cost]]) -> str:
    """The costs as a Markdown table with the exponents of time and memory."""
    sizes = sorted(next(iter(costs.values())))
    lines = [
        f"| | {' | '.join(f'{size:,}' for size in sizes)} | exponent of time, memory |",
        f"|{'---|' * (len(sizes) + 2)}",
    ]
    for cell, by_size in costs.items():
        grown = "-"
        if len(sizes) > 1:
            seconds = exponent({size: cost.seconds for size, cost in by_size.items()})
            memory = exponent({size: cost.mebibytes for size, cost in by_size.items()})
            grown = f"{seconds:.2f}, {memory:.2f}"
        shown = " | ".join(spelt(by_size[size]) for size in sizes)
        lines.append(f"| {CELLS[cell][1]} | {shown} | {grown} |")
    return "\n".join(lines)


@click.command()
@click.option("--size", "sizes", type=click.IntRange(min=1), multiple=True, default=SIZES)
@click.option("--cell", "cells", type=click.Choice([*CELLS]), multiple=True, default=[*CELLS])
@click.option("--keep", type=click.Path(path_type=Path), help="Folder that keeps the datasets.")
def main(sizes: tuple[int, ...], cells: tuple[str, ...], keep: Path | None) -> None:
    """CPU seconds and peak memory by the number of videos."""
    with tempfile.TemporaryDirectory(prefix="twinstream-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        costs = measure(sorted(sizes), list(cells), folder)
    print(f"{machine()}; {VIDEOS_PER_SHARD} videos a shard\n\n{table(costs)}")


if __name__ == "__main__":
    main()
