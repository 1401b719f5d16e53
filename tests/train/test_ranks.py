"""Several processes are one: the same gradient, the same end, and a run that can go on when one of
them is lost.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from tests.support.datasets import write_dataset
from tests.support.gradients import one_step
from tests.support.paths import ROOT
from tests.support.processes import descendants
from tests.support.runs import write_run
from tests.support.training import accuracies, losses, settings_tree
from twinstream.errors import InputError
from twinstream.section import build_settings
from twinstream.train.checkpoint import Position, load_resumable
from twinstream.train.fit import train
from twinstream.train.ranks import GlooBatchNorm, Ranks, synchronise_batch_norm
from twinstream.train.run_folder import RunSettings, read_run_settings
from twinstream.train.session import refuse_other_ranks

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
PATIENCE = 240.0


def assert_same_step(
    one: tuple[float, dict[str, torch.Tensor]], other: tuple[float, dict[str, torch.Tensor]]
) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    assert any("query.weight" in name and value.any() for name, value in one[1].items())
    for name, value in one[1].items():
        # Zero but for rounding is the gradient of a shift that the next BatchNorm takes out again.
        largest = max(1e-8 * float(value.abs().max()), 1e-16)
        assert float((value - other[1][name]).abs().max()) <= largest, name


def test_two_processes_have_the_gradient_of_one_on_the_same_batch(tmp_path: Path) -> None:
    """BatchNorm that learns included; and where a batch does not divide, with BatchNorm frozen."""
    command = [*TORCHRUN, "-m", "tests.support.gradients", str(tmp_path / "steps.pt")]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    steps = torch.load(tmp_path / "steps.pt", weights_only=True)
    assert_same_step(steps["learning"], one_step(4, Ranks(), learns=True))
    one = one_step(4, Ranks(), learns=True, family="p3d")
    assert_same_step(steps["learning, p3d"], one)
    # Of 3-D layers and of res5, which is 2-D
    assert {"rgb.layer3.0.bn2_t.running_var", "rgb.layer4.0.bn2.running_var"} <= one[1].keys()
    assert_same_step(steps["frozen, 3 videos"], one_step(3, Ranks(), learns=False))
    assert_same_step(steps["frozen, 1 video"], one_step(1, Ranks(), learns=False))


def test_a_kind_of_batch_norm_that_ranks_cannot_share_is_refused() -> None:
    class Own(nn.BatchNorm2d):
        pass

    network = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), Own(2))
    with pytest.raises(TypeError, match="3 is a Own, which gloo ranks cannot share"):
        synchronise_batch_norm(network, Ranks(0, 2))
    synchronise_batch_norm(network[:3], Ranks(0, 2))
    assert {type(module) for module in network[:3]} == {GlooBatchNorm}
    assert type(network[3]) is Own


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 9])
def test_micro_batches_give_the_gradient_of_the_whole_batch_where_batch_norm_is_frozen(
    micro_batch: int,
) -> None:
    whole = one_step(5, Ranks(), learns=False)
    assert_same_step(one_step(5, Ranks(), learns=False, micro_batch=micro_batch), whole)


def test_batch_norm_that_learns_sees_a_micro_batch_at_a_time() -> None:
    """What the documentation warns of: another gradient."""
    whole, parts = (
        one_step(4, Ranks(), learns=True, micro_batch=micro_batch) for micro_batch in (None, 2)
    )
    with pytest.raises(AssertionError):
        assert_same_step(parts, whole)


def rank_process(torchrun: subprocess.Popen[str], rank: int) -> int:
    """The process of this rank below torchrun."""
    for pid, name in descendants(torchrun.pid):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if "-m\0twinstream.train" in name and f"RANK={rank}".encode() in environment:
            return pid
    raise AssertionError(f"no rank {rank} below {torchrun.pid}")


def test_a_rank_that_is_killed_ends_the_run_in_one_line_and_fewer_ranks_can_go_on(
    tmp_path: Path,
) -> None:
    dataset, run, config = tmp_path / "dataset", tmp_path / "run", tmp_path / "pipeline.yaml"
    write_dataset(dataset, {"train": 4, "test": 1})
    tree = {
        "shards": {"path": str(dataset)},
        "model": {
            "depth": 18,
            "rgb_weights": None,
            "flow_weights": None,
            "kind": "flow",
            "dropout": 0,
        },
        "train": {
            "stages": ["flow"],
            "epochs": 3,
            "batch_size": 2,
            "segments": 1,
            "crop_size": 40,
            "workers": 1,
        }
        | {"checkpoint_steps": 1, "validate_split": "test", "device": "cpu", "learning_rate": 1e-3},
    }
    config.write_text(yaml.safe_dump(tree))
    command = [*TORCHRUN, "-m", "twinstream.train", "-c", str(config), "--out", str(run)]
    torchrun = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    path, until = run / "checkpoint.pt", time.monotonic() + PATIENCE
    # The first one is from before the first step.
    while not path.exists() or load_resumable(path)[1].position == Position():
        assert torchrun.poll() is None, torchrun.stderr.read() if torchrun.stderr else ""
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(rank_process(torchrun, 1), signal.SIGKILL)
    _, printed = torchrun.communicate(timeout=PATIENCE)
    assert torchrun.returncode == 1
    lines = [line for line in printed.splitlines() if line.startswith("twinstream:")]
    assert lines == [
        "twinstream: rank 0 of 2: another rank is gone; the same command with --resume goes on "
        "from the last checkpoint"
    ], printed
    train(read_run_settings(run), run, resume=True)
    train(read_run_settings(run), tmp_path / "whole", resume=False)
    log, whole = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (run, tmp_path / "whole")
    )
    assert [(line["epoch"], line.get("step")) for line in log] == [
        (e, s) for e in range(3) for s in (0, 1, None)
    ]
    # One process from beginning to end: the same batches, so the same losses but for how the sum of
    # two ranks rounds.
    losses, expected = (
        [line["loss"] for line in lines if "step" in line] for lines in (log, whole)
    )
    assert losses == pytest.approx(expected, rel=1e-3)
    assert [
        json.loads(line)["ranks"] for line in (run / "starts.jsonl").read_text().splitlines()
    ] == [2, 1]


def test_two_processes_train_on_the_features_that_one_has(tmp_path: Path) -> None:
    """Of 3 videos rank 0 has two and rank 1 one; an epoch has batches of 2 and of 1."""
    dataset = write_dataset(tmp_path / "dataset", {"train": 3, "test": 2})
    write_run(tmp_path / "first", dataset)
    tree = settings_tree(dataset)
    tree["model"] |= {"weights": str(tmp_path / "first"), "dropout": 0}
    tree["train"] |= {"trainable": "fc", "cache_features": 2, "validate_split": "test"}
    config = tmp_path / "pipeline.yaml"
    config.write_text(yaml.safe_dump(tree))
    command = [*TORCHRUN, "-m", "twinstream.train", "-c", str(config), "--out", str(tmp_path / "2")]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    train(build_settings(RunSettings, tree, ()), tmp_path / "1", resume=False)
    one, two = ([loss for *_, loss in losses(tmp_path / name)] for name in "12")
    assert two == pytest.approx(one, rel=1e-4)
    assert accuracies(tmp_path / "2") == accuracies(tmp_path / "1")


@pytest.mark.parametrize("other", ["a", "b"])
def test_ranks_that_begin_from_other_files_are_told(other: str) -> None:
    """The second rank as a list of what it adds to each sum."""
    theirs: list[float] = []

    class First(Ranks):
        def sums(self, *values: float) -> list[float]:
            return [value + theirs.pop(0) for value in values]

    class Second(Ranks):
        def sums(self, *values: float) -> list[float]:
            theirs.extend(values)
            return [2 * value for value in values]

    refuse_other_ranks(Second(1, 2), [other], "model.weights")
    if other == "a":
        refuse_other_ranks(First(0, 2), ["a"], "model.weights")
        return
    with pytest.raises(InputError, match=r"model\.weights: not every rank reads the same files"):
        refuse_other_ranks(First(0, 2), ["a"], "model.weights")
