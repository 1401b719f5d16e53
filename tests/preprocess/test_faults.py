"""Faults of the machine and of the decoder, driven for real: processes killed and hung, a full
disk, nodes that go.

A video that is a named pipe holds the worker that opens it for as long as nobody writes: the test
knows then which video which worker is in, and the decoder hangs for real. Every run ends in a sound
dataset with one row a video.
"""

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.digests import dataset_digests
from tests.support.disks import small_disk
from tests.support.processes import readers
from tests.support.stage import (
    PATIENCE_SECONDS,
    prepared,
    started,
    wait_for,
    without_ray,
    write_videos,
)
from twinstream.preprocess.cluster.jobs import run_jobs
from twinstream.preprocess.cluster.run_log import Event, EventKind
from twinstream.preprocess.cluster.worker import WorkerSetup, make_recipe
from twinstream.preprocess.job import Recipe
from twinstream.shards.format.video_table import read_videos
from twinstream.shards.verify import faults


def write_pipe(root: Path, name: str) -> Path:
    """A video `train/class0/NAME.avi` that hangs whoever reads it; returns the pipe."""
    pipe = root.parent / f"{name}.pipe"
    os.mkfifo(pipe)
    (root / "train" / "class0" / f"{name}.avi").symlink_to(pipe)
    return pipe


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


def is_read(pipe: Path) -> bool:
    """Whether any process has the pipe open to read, or waits to."""
    with suppress(OSError):
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return True
    return False


def reader(pipe: Path, driver: int) -> int:
    """The process below `driver` that reads the pipe, which is held."""
    # Its end is listed among the files of the process a moment after ours can be opened.
    wait_for(lambda: bool(readers(pipe, driver)))
    (pid,) = readers(pipe, driver)
    return pid


def kill_reader(pipe: Path, driver: int) -> None:
    with held(pipe):
        pid = reader(pipe, driver)
        os.kill(pid, signal.SIGKILL)
        # Not until nobody reads: the next worker may have opened it by then.
        wait_for(lambda: pid not in readers(pipe, driver))


def printed(out: Path) -> dict[str, tuple[str, str | None, str | None]]:
    return {
        row.path: (row.status, row.reason, row.detail)
        for row in read_videos(out / "videos.parquet")
    }


@pytest.mark.parametrize("machines", [[], ["--local"]], ids=str)
def test_videos_that_crash_or_hang_the_worker_are_left_out_and_all_else_is_written(
    tmp_path: Path, machines: list[str]
) -> None:
    root = tmp_path / "videos"
    write_videos(root, 6)
    crash, _ = write_pipe(root, "crash"), write_pipe(root, "hang")
    arguments = ["--set", "preprocess.timeout_seconds=6", *machines]
    with started(tmp_path, root, tmp_path / "out", *arguments) as process:
        for _ in range(3):
            kill_reader(crash, process.pid)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert "raylet" not in said
    assert said.count("worker lost: ") == 3
    assert said.count("video given up: ") == 2
    expected: dict[str, tuple[str, str | None, str | None]]
    expected = {f"train/class{n % 2}/{n}.avi": ("written", None, None) for n in range(6)}
    expected["train/class0/crash.avi"] = (
        "skipped",
        "crashed",
        "its worker died each time it was tried",
    )
    expected["train/class0/hang.avi"] = (
        "skipped",
        "timed_out",
        "no progress within preprocess.timeout_seconds",
    )
    assert printed(tmp_path / "out") == expected
    assert list(faults(tmp_path / "out")) == []


HELD = ("decode", "flow", "memory", "write")


class HeldSettings(dict[str, Any]):
    """Settings that hold whoever reads them out: that is done for the index, when the tar has its
    name already.
    """

    def items(self) -> Any:
        hold(Path(self["pipes"]), "write")
        return super().items()


def hold(pipes: Path, part: str) -> bool:
    """Wait for as long as the pipe of this part is there and nobody has written to it; whether it
    was there.
    """
    pipe = pipes / part
    if not pipe.exists():
        return False
    pipe.read_bytes()
    return True


def held_recipe(setup: WorkerSetup, pipes: Path) -> Recipe:
    """A worker's recipe that can be held in each part; in `flow` and `memory` only when a tar has
    been begun.
    """
    recipe = make_recipe(setup)

    def opened(path: Any) -> Any:
        hold(pipes, "decode")
        return recipe.open_video(path)

    def engine(gray: Any) -> Any:
        if any(tar.stat().st_size for tar in Path(str(setup.out)).glob("*/.*.tar.*.tmp")):
            hold(pipes, "flow")
            if hold(pipes, "memory"):
                np.ones(2**28)
        return recipe.engine(gray)

    settings = HeldSettings(recipe.settings | {"pipes": str(pipes)})
    return replace(recipe, open_video=opened, engine=engine, settings=settings)


def strike_all(pipes: Path, out: Path, driver: int) -> None:
    """In each part in turn: kill the worker that is held there, or in `memory` leave it no room for
    more.
    """
    for part, following in zip(HELD, [*HELD[1:], "end"], strict=True):
        pipe = pipes / part
        with held(pipe):
            pid = reader(pipe, driver)
            assert [path.name for path in out.glob("train/*.tar")] == (
                ["train-000000.tar"] if part == "write" else []
            )
            assert not list(out.glob("train/*.parquet"))
            os.mkfifo(pipes / following)
            pipe.unlink()
            if part == "memory":
                used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf(
                    "SC_PAGESIZE"
                )
                resource.prlimit(pid, resource.RLIMIT_AS, (used, used))
            else:
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("local", [False, True])
def test_a_worker_lost_in_any_part_of_its_work_costs_its_job_and_nothing_else(
    tmp_path: Path, local: bool
) -> None:
    root, out = tmp_path / "videos", tmp_path / "out"
    write_videos(root, 2)
    _, jobs, setup, _ = prepared(root, out)
    open_recipe = partial(held_recipe, pipes=tmp_path)
    os.mkfifo(tmp_path / HELD[0])
    events: list[Event] = []
    options: dict[str, Any] = {"workers": 1, "address": None, "local": local}
    options |= {"max_tries": 2, "timeout_seconds": PATIENCE_SECONDS}
    with ThreadPoolExecutor() as pool:
        strikes = pool.submit(strike_all, tmp_path, out, os.getpid())
        done = list(
            run_jobs(jobs, setup, on_event=events.append, open_recipe=open_recipe, **options)
        )
        strikes.result()
    assert len(done) == 2
    assert [event.kind for event in events].count(EventKind.LOST) == len(HELD)
    without_ray(root, tmp_path / "peace")
    assert (
        dataset_digests(out)["train/train-000000.tar"]
        == dataset_digests(tmp_path / "peace")["train/train-000000.tar"]
    )


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    root = tmp_path / "videos"
    write_videos(root, 8)
    without_ray(root, tmp_path / "roomy")
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "roomy").rglob("*.tar"))
    with small_disk(tmp_path / "disk", num_bytes // 2) as disk:
        out = disk / "shards"
        with started(tmp_path, root, out, "--set", "preprocess.workers=1") as process:
            _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 1
        assert "Traceback" not in said
        assert said.splitlines()[-1] == (
            f"twinstream: shards.path {out}: No space left on device; finished shards are kept, "
            "make room and run the same command again"
        )
        left = {path.name for path in out.rglob("*") if path.is_file()}
        assert "dataset.json" not in left
        assert any(name.endswith(".parquet") for name in left)
        assert not any(name.endswith(".tmp") for name in left)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        with started(tmp_path, root, out) as process:
            _, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, said
        assert dataset_digests(out) == dataset_digests(tmp_path / "roomy")


def refused(folder: Path, root: Path, out: Path, pid: int) -> None:
    """A run beside the one of this process ends in one line; a dry run does not mind."""
    with started(folder, root, out) as process:
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, said) == (
        1,
        f"twinstream: {out}: in use by process {pid} on host {os.uname().nodename} (twinstream "
        "preprocess); wait for it or choose another shards.path\n",
    )
    with started(folder, root, out, "--dry-run") as process:
        process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0


def test_a_second_run_is_refused_until_the_first_has_ended_or_is_killed(tmp_path: Path) -> None:
    root, out = tmp_path / "videos", tmp_path / "out"
    write_videos(root, 4)
    pipe = write_pipe(root, "held")
    with started(tmp_path, root, out, "--set", "preprocess.workers=1") as first, held(pipe):
        refused(tmp_path, root, out, first.pid)
        first.kill()
        first.communicate()
    # A worker outlives its driver for a moment, and would be taken for one of the second run.
    wait_for(lambda: not is_read(pipe))
    with started(tmp_path, root, out) as second:
        with held(pipe) as end:
            refused(tmp_path, root, out, second.pid)
            os.write(end, b"no video")
        _, said = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0, said
    assert sorted(status for status, _, _ in printed(out).values()) == ["skipped", *["written"] * 4]
    assert not list(out.glob(".*"))
    assert list(faults(out)) == []


def test_of_two_that_start_at_the_same_moment_one_goes_on(tmp_path: Path) -> None:
    root, out = tmp_path / "videos", tmp_path / "out"
    write_videos(root, 2)
    pipe = write_pipe(root, "held")
    with started(tmp_path, root, out) as one, started(tmp_path, root, out) as other:
        wait_for(lambda: one.poll() is not None or other.poll() is not None)
        with held(pipe) as end:
            os.write(end, b"no video")
        printed = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in (one, other)]
    assert sorted(process.returncode for process in (one, other)) == [0, 1], printed
    assert sum("in use by" in text for text in printed) == 1, printed
    assert list(faults(out)) == []


def test_a_node_that_goes_costs_no_video_and_one_that_comes_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from ray.cluster_utils import Cluster

    root, out = tmp_path / "videos", tmp_path / "out"
    write_videos(root, 6)
    pipe = write_pipe(root, "held")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        first = cluster.add_node(num_cpus=1)
        arguments = ["--address", cluster.address, "--set", "preprocess.max_tries=1"]
        with started(tmp_path, root, out, *arguments) as process:
            with held(pipe):
                pid = reader(pipe, os.getpid())
                cluster.remove_node(first, allow_graceful=False)
                wait_for(lambda: not Path(f"/proc/{pid}").exists())
            cluster.add_node(num_cpus=2)
            with held(pipe) as end:
                os.write(end, b"no video")
            _, said = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, said
    expected = {f"train/class{n % 2}/{n}.avi": "written" for n in range(6)} | {
        "train/class0/held.avi": "skipped"
    }
    assert {path: status for path, (status, _, _) in printed(out).items()} == expected
    assert printed(out)["train/class0/held.avi"][1] == "unreadable"
    assert list(faults(out)) == []
