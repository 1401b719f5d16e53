"""Faults of the machine and of the decoder, driven for real: processes killed and hung, a full disk, nodes that go.

A video that is a named pipe holds the worker that opens it for as long as nobody writes: the test knows then which
video which worker is in, and the decoder hangs for real. Every run ends in a sound dataset with one row a video.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import Settings
from preprocess.catalog import read_catalog
from preprocess.decode import open_video
from preprocess.duet import draw_video
from preprocess.job import Recipe, run_job
from preprocess.output import finish
from preprocess.plan import plan_jobs
from preprocess.settings import byte_settings
from preprocess.tvl1 import open_engine
from shards.settings import build_settings
from shards.verify import faults
from shards.videos import read_videos
from tests.processes import readers
from tests.test_preprocess import ROOT, digests, tree
from tests.videos import write_video

PATIENCE_SECONDS = 120


def write_videos(root: Path, count: int) -> None:
    for number in range(count):
        frames = draw_video(np.random.default_rng(number), number % 4, number % 2, 48, 8)
        write_video(root / "train" / f"class{number % 2}" / f"{number}.avi", frames)


def write_pipe(root: Path, name: str) -> Path:
    """A video `train/class0/NAME.avi` that hangs whoever reads it; returns the pipe."""
    pipe = root.parent / f"{name}.pipe"
    os.mkfifo(pipe)
    (root / "train" / "class0" / f"{name}.avi").symlink_to(pipe)
    return pipe


@contextmanager
def started(folder: Path, root: Path, out: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    config = folder / "pipeline.yaml"
    config.write_text(yaml.safe_dump(tree(root, out)))
    command = [sys.executable, "-m", "twinstream", "preprocess", "-c", str(config), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@contextmanager
def held(pipe: Path) -> Iterator[int]:
    """Wait until a worker reads the pipe, and hold it there; the pipe's end to write to."""
    ends: list[int] = []

    def opened() -> bool:
        # ENXIO: nobody has it open to read.
        with suppress(OSError):
            ends.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(ends)

    wait_for(opened)
    try:
        yield ends[0]
    finally:
        os.close(ends[0])


def kill_reader(pipe: Path, driver: int) -> None:
    with held(pipe):
        wait_for(lambda: bool(readers(pipe, driver)))
        for pid in readers(pipe, driver):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not readers(pipe, driver))


def told(out: Path) -> dict[str, tuple[str, str | None, str | None]]:
    return {row.path: (row.status, row.reason, row.detail) for row in read_videos(out / "videos.parquet")}


def test_videos_that_crash_or_hang_the_worker_are_left_out_and_all_else_is_written(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    write_videos(root, 6)
    crash, _ = write_pipe(root, "crash"), write_pipe(root, "hang")
    with started(tmp_path, root, tmp_path / "out", "--set", "preprocess.timeout_seconds=6") as process:
        for _ in range(3):
            kill_reader(crash, process.pid)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert "raylet" not in said
    assert said.count("worker lost: ") == 3
    assert said.count("video given up: ") == 2
    expected: dict[str, tuple[str, str | None, str | None]]
    expected = {f"train/class{n % 2}/{n}.avi": ("written", None, None) for n in range(6)}
    expected["train/class0/crash.avi"] = ("skipped", "crashed", "its worker died each time it was tried")
    expected["train/class0/hang.avi"] = ("skipped", "timed_out", "no progress within preprocess.timeout_seconds")
    assert told(tmp_path / "out") == expected
    assert list(faults(tmp_path / "out")) == []

    again = ["--set", "preprocess.timeout_seconds=7", "--set", "preprocess.workers=1"]
    with started(tmp_path, root, tmp_path / "again", *again) as process:
        kill_reader(crash, process.pid)
        with held(crash):
            process.kill()
            process.communicate(timeout=PATIENCE_SECONDS)
    with started(tmp_path, root, tmp_path / "again", *again, "--set", "preprocess.max_tries=2") as process:
        for _ in range(2):
            kill_reader(crash, process.pid)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert digests(tmp_path / "again") == digests(tmp_path / "out")


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A disk of this size, as far as this machine lets tests mount one."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def without_ray(root: Path, out: Path) -> None:
    """The same dataset by a plain loop over the jobs."""
    settings = build_settings(Settings, tree(root, out))
    stage, shards = settings.preprocess, settings.shards
    catalog = read_catalog("folders", str(root))
    jobs = plan_jobs(catalog.videos, shards.videos_per_shard, stage.seed)
    made_with = byte_settings(settings.dataset, stage, shards, "opencv")
    engine = open_engine("opencv", stage.tvl1)
    opened = partial(open_video, size=stage.size, short_side=None, chunk_frames=32)
    recipe = Recipe(opened, engine, stage.bound, shards.jpeg_quality, stage.min_frames, made_with)
    for job in jobs:
        list(run_job(job, root=root, out=out, recipe=recipe))
    finish(out, catalog, jobs, made_with)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_when_there_is_room(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    write_videos(root, 8)
    without_ray(root, tmp_path / "roomy")
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "roomy").rglob("*.tar"))
    with small_disk(tmp_path / "disk", num_bytes // 2) as disk:
        out = disk / "shards"
        with started(tmp_path, root, out, "--set", "preprocess.workers=1") as process:
            _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 1
        assert said == (
            f"twinstream: shards.path {out}: No space left on device; finished shards are kept, "
            "make room and run the same command again\n"
        )
        left = {path.name for path in out.rglob("*") if path.is_file()}
        assert "dataset.json" not in left
        assert any(name.endswith(".parquet") for name in left)
        assert not any(name.endswith(".tmp") for name in left)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        with started(tmp_path, root, out) as process:
            _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, said
        assert digests(out) == digests(tmp_path / "roomy")


def test_a_node_that_goes_costs_no_video_and_one_that_comes_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from ray.cluster_utils import Cluster

    root, out = tmp_path / "videos", tmp_path / "out"
    write_videos(root, 6)
    pipe = write_pipe(root, "held")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        first = cluster.add_node(num_cpus=1)
        arguments = ["--address", cluster.address, "--set", "preprocess.max_tries=1"]
        with started(tmp_path, root, out, *arguments) as process:
            with held(pipe):
                (reader,) = readers(pipe, os.getpid())
                cluster.remove_node(first, allow_graceful=False)
                wait_for(lambda: not Path(f"/proc/{reader}").exists())
            cluster.add_node(num_cpus=2)
            with held(pipe) as end:
                os.write(end, b"no video")
            _, said = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, said
    expected = {f"train/class{n % 2}/{n}.avi": "written" for n in range(6)} | {"train/class0/held.avi": "skipped"}
    assert {path: status for path, (status, _, _) in told(out).items()} == expected
    assert told(out)["train/class0/held.avi"][1] == "unreadable"
    assert list(faults(out)) == []


@pytest.mark.parametrize(
    ("resources", "gpu_share", "places"),
    [
        ({"CPU": 16, "GPU": 1}, 0.25, 4),
        ({"CPU": 16, "GPU": 1}, 0.0, 16),
        ({"CPU": 2, "GPU": 8}, 0.5, 2),
        ({"CPU": 4}, 1, 0),
    ],
)
def test_workers_that_share_a_gpu_are_as_many_as_fit(
    resources: dict[str, float], gpu_share: float, places: int
) -> None:
    from preprocess.stage import num_places

    assert num_places(resources, gpu_share) == places
