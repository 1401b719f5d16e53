"""The same bytes from a plain loop, from a cluster of three nodes, and from a run that is killed
ten times.

The moments of the kills are drawn from a fixed seed, as numbers of finished shards, so that they
strike at the same stage on any machine; `make chaos` strikes by the clock, and for longer.
"""

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import EXPECTED_CODES, KINDS, SIGNALS
from tests.support.digests import dataset_digests
from tests.support.processes import worker_pids
from tests.support.stage import PATIENCE_SECONDS, started, wait_for, without_ray, write_videos
from twinstream.shards.verify import faults

NUM_VIDEOS, NUM_SHARDS, NUM_KILLS = 60, 30, 10


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes with a CPU each, beside a head that has none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        from ray.cluster_utils import Cluster

        made = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        try:
            for _ in range(3):
                made.add_node(num_cpus=1)
            yield made
        finally:
            made.shutdown()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    write_videos(root, NUM_VIDEOS)
    return root


@pytest.fixture(scope="module")
def peace(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of what a plain loop makes of the videos."""
    out = tmp_path_factory.mktemp("peace") / "out"
    without_ray(videos, out)
    return dataset_digests(out)


def moments(seed: int) -> list[tuple[int, str]]:
    """When and how to kill: (shards that are finished by then, kind), the first while
    Ray starts.
    """
    rng = random.Random(seed)
    counts = [0, *sorted(rng.sample(range(1, NUM_SHARDS - 3), NUM_KILLS - 1))]
    return [(count, rng.choice(KINDS)) for count in counts]


def num_starts(out: Path) -> int:
    """Workers that were started for this output so far."""
    log = out / "run.jsonl"
    return log.read_text().count('"worker started"') if log.exists() else 0


def is_time(process: subprocess.Popen[str], out: Path, count: int, num_before: int) -> bool:
    """Whether this process has come as far as told: to a worker of its own and `count` shards, or
    to its log for 0.
    """
    if process.poll() is not None:
        return True
    if count == 0:
        return (out / "run.jsonl").exists()
    return num_starts(out) > num_before and len(list(out.glob("*/*.parquet"))) >= count


def strike(process: subprocess.Popen[str], kind: str) -> None:
    """Kill a worker, or the driver and see it end as it should."""
    if kind == "worker -9":
        # The run may have ended meanwhile.
        wait_for(lambda: process.poll() is not None or bool(worker_pids(os.getpid())))
        for worker in worker_pids(os.getpid())[:1]:
            os.kill(worker, signal.SIGKILL)
        return
    process.send_signal(SIGNALS[kind])
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == EXPECTED_CODES[kind], said
    assert "Traceback" not in said


def test_three_nodes_give_the_bytes_of_a_plain_loop(
    cluster: Any, videos: Path, peace: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with started(
        tmp_path, videos, out, "--address", cluster.address, "--set", "preprocess.workers=null"
    ) as process:
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert dataset_digests(out) == peace
    assert num_starts(out) == 3


@pytest.mark.parametrize("seed", [0])
def test_a_run_killed_at_ten_random_moments_gives_the_same_bytes(
    cluster: Any, videos: Path, peace: dict[str, str], tmp_path: Path, seed: int
) -> None:
    out, left = tmp_path / "out", moments(seed)
    while left:
        before = num_starts(out)
        with started(tmp_path, videos, out, "--address", cluster.address) as process:
            while left and process.poll() is None:
                count, kind = left.pop(0)
                wait_for(partial(is_time, process, out, count, before))
                strike(process, kind)
    with started(tmp_path, videos, out, "--address", cluster.address) as process:
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert dataset_digests(out) == peace
    assert list(faults(out)) == []
