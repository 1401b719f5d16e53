"""Workers that are plain processes: what they are started with, what they say, and how they end."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.command import cli
from tests.support.digests import dataset_digests
from tests.support.stage import PATIENCE_SECONDS, config, prepared, without_ray, write_videos
from twinstream.errors import InputError
from twinstream.preprocess.cluster import processes
from twinstream.preprocess.cluster.pool import Died, Failed, JobDone, Message, Ready
from twinstream.preprocess.cluster.processes import (
    ProcessCluster,
    failure,
    process_cluster,
    visible_gpus,
)
from twinstream.preprocess.cluster.resources import Node, WorkerResources
from twinstream.preprocess.cluster.worker import WorkerSetup, decode_recipe
from twinstream.preprocess.job import DecodeRecipe, VideoAt, VideoDone


def test_a_run_of_plain_processes_needs_no_ray_and_gives_the_same_bytes(tmp_path: Path) -> None:
    root, out, blocked = tmp_path / "videos", tmp_path / "out", tmp_path / "blocked"
    write_videos(root, 4)
    (blocked / "ray").mkdir(parents=True)
    (blocked / "ray" / "__init__.py").write_text("raise ImportError('there is no ray')")
    path = os.pathsep.join([str(blocked), os.environ.get("PYTHONPATH", "")])
    arguments = ["preprocess", "-c", config(tmp_path, root, out)]
    environment = os.environ | {"PYTHONPATH": path}
    # The import is blocked: with two workers it is Ray's turn.
    done = cli(*arguments, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("twinstream: Ray cannot be imported (there is no ray); ")
    done = cli(*arguments, "--local", env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"4 written -> {out}/videos.parquet\n"
    without_ray(root, tmp_path / "peace")
    assert dataset_digests(out) == dataset_digests(tmp_path / "peace")
    log = (out / "run.jsonl").read_text()
    assert log.count("video done") == 4
    # One may do all before the other has started.
    assert log.count("worker started") in (1, 2)
    assert log.count("worker ended") == log.count("worker started")


def test_a_cluster_and_none_are_a_usage_error() -> None:
    for command in ("preprocess", "check"):
        done = cli(command, "--local", "--address", "auto")
        assert done.returncode == 2
        assert done.stderr.endswith("--local is without a cluster: leave out --address\n")


def setup_of(tmp_path: Path) -> WorkerSetup:
    write_videos(tmp_path / "videos", 2)
    _, _, setup, _ = prepared(tmp_path / "videos", tmp_path / "out")
    return replace(setup, out=None)


def messages(cluster: ProcessCluster, worker: int) -> Iterator[Message]:
    """What a worker says, with PATIENCE_SECONDS for each word."""
    while True:
        found = list(cluster.wait(PATIENCE_SECONDS))
        assert [number for number, _ in found] == [worker]
        yield found[0][1]


def test_a_worker_stops_at_each_step_until_it_is_taken_and_tells_how_it_ended(
    tmp_path: Path,
) -> None:
    setup = setup_of(tmp_path)
    _, (job,), _, _ = prepared(tmp_path / "videos", tmp_path / "out")
    with process_cluster(setup, decode_recipe, WorkerResources()) as cluster:
        worker = cluster.start()
        said = messages(cluster, worker)
        ready = next(said)
        assert isinstance(ready, Ready)
        assert ready.node in cluster.nodes()
        pid = int(ready.name.partition("/")[2])
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
        cluster.run(worker, job, {})
        steps = [next(said) for _ in range(4)]
        assert [type(step) for step in steps] == [VideoAt, VideoDone] * 2
        assert next(said) == JobDone()
        os.kill(pid, signal.SIGKILL)
        died = next(said)
        assert isinstance(died, Died)
        assert str(died.error) == "ended by SIGKILL"
        # It is gone, and what comes for it too late does no harm.
        assert not Path(f"/proc/{pid}").exists()
        assert list(cluster.wait(0)) == []


def no_recipe(setup: WorkerSetup) -> DecodeRecipe:
    raise InputError("engine: cuda: no GPU")


def dead_recipe(setup: WorkerSetup) -> DecodeRecipe:
    os.write(2, b"some lines\nno room for a library\n\n")
    os._exit(3)


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    with process_cluster(setup, no_recipe, WorkerResources()) as cluster:
        failed = next(messages(cluster, cluster.start()))
    assert isinstance(failed, Failed)
    assert isinstance(failed.cause, InputError)
    assert str(failed.cause) == f"{os.uname().nodename}: engine: cuda: no GPU"
    assert "in no_recipe" in str(failed.error)
    with process_cluster(setup, dead_recipe, WorkerResources()) as cluster:
        died = next(messages(cluster, cluster.start()))
    assert isinstance(died, Died)
    assert str(died.error) == "ended with code 3: no room for a library"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InputError("no such engine"), InputError),
        (MemoryError("no room"), MemoryError),
        (OSError(28, "No space left on device", "a.tar"), OSError),
        (OSError("When reading from a store"), OSError),
        (FileNotFoundError(2, "No such file or directory", "a.avi"), FileNotFoundError),
        (ValueError("a bug"), RuntimeError),
    ],
)
def test_an_exception_keeps_its_kind_where_the_pool_asks_for_it(
    error: Exception, kind: type[Exception]
) -> None:
    told = failure(error)
    assert type(told.cause) is kind
    assert str(error) in str(told.cause)
    assert getattr(told.cause, "filename", None) == getattr(error, "filename", None)
    assert str(told.error).endswith(f"{type(error).__name__}: {error}\n")


@pytest.mark.parametrize(
    ("variable", "num_gpus", "names"),
    [(None, 2, ["0", "1"]), ("2,3", 2, ["2", "3"]), ("", 0, []), ("0,1,9", 2, ["0", "1"])],
)
def test_the_gpus_are_those_that_torch_sees(
    variable: str | None, num_gpus: int, names: list[str]
) -> None:
    assert visible_gpus(variable, num_gpus) == names


def test_workers_are_spread_over_the_gpus_and_one_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = setup_of(tmp_path)
    monkeypatch.setattr(processes, "this_node", lambda: Node(4, 2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    given: list[str] = []

    class Started:
        def __init__(self, *arguments: object, env: dict[str, str], **options: object) -> None:
            given.append(env["CUDA_VISIBLE_DEVICES"])

        def kill(self) -> None: ...

        def wait(self) -> int:
            return -9

    monkeypatch.setattr(processes.subprocess, "Popen", Started)
    with process_cluster(setup, decode_recipe, WorkerResources(1, 0.5)) as cluster:
        workers = [cluster.start() for _ in range(4)]
        cluster.kill(workers[1])
        cluster.start()
    assert given == ["5", "7", "5", "7", "7"]


def test_a_machine_that_takes_no_more_processes_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object, **options: object) -> object:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(processes.subprocess, "Popen", refused)
    with (
        process_cluster(setup_of(tmp_path), decode_recipe, WorkerResources()) as cluster,
        pytest.raises(InputError, match=r"^no worker can be started here \(Resource temporarily"),
    ):
        cluster.start()
