"""Checkpoints on disks that fail, and forged ones: one line, and what was there before stays."""

import errno
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from twinstream.errors import InputError
from twinstream.shards.storage import atomic
from twinstream.train.checkpoint import (
    Checkpoint,
    Position,
    TrainingState,
    key_digests,
    load_checkpoint,
    load_learning,
    save_checkpoint,
)
from twinstream.train.network.weight_files import read_state

SMALL = Checkpoint({"a": torch.ones(1000), "b": torch.ones(3)}, ["x"], 20.0, "", ())


class FailingFile(io.FileIO):
    """A file that takes so many bytes."""

    def __init__(self, path: Path, mode: str, *, limit: int, number: int) -> None:
        super().__init__(path, mode)
        self._limit, self._number = limit, number

    def write(self, data: Any) -> int:
        if self.tell() + len(memoryview(data)) > self._limit:
            raise OSError(self._number, os.strerror(self._number))
        return super().write(data)


@pytest.mark.parametrize("limit", [0, 700, 20_000, 45_000])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("name", ["checkpoint.pt", "flow.safetensors"])
def test_a_disk_that_fails_is_one_line_and_the_old_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, number: int
) -> None:
    path = tmp_path / name
    save_checkpoint(path, SMALL)

    def failing(path: Path, mode: str) -> io.BufferedWriter:
        return io.BufferedWriter(FailingFile(path, mode, limit=limit, number=number))

    monkeypatch.setattr(atomic, "open", failing, raising=False)
    with pytest.raises(InputError) as told:
        save_checkpoint(path, replace(SMALL, model={"a": torch.zeros(12_000)}))
    room = "make room and " if number in (errno.ENOSPC, errno.EDQUOT) else ""
    assert str(told.value) == (
        f"{path}: {os.strerror(number)}; what was saved before is kept, {room}run the same command "
        "with --resume"
    )
    assert os.listdir(tmp_path) == [name]
    assert torch.equal(load_checkpoint(path).model["a"], SMALL.model["a"])


def changed(name: str, value: object) -> dict[str, Any]:
    """A whole checkpoint as it lies in the file, one part of it another."""
    state: dict[str, Any] = {
        "model": {"rgb.fc.bias": torch.zeros(2)},
        "classes": ["a", "b"],
        "bound": 20.0,
        "dataset_sha256": "0" * 64,
        "attending": ["rgb"],
        "trained": ["rgb"],
        "learned": None,
        "made_with": {"preprocess.bound": 20.0},
        "trained_on": torch.tensor([1, 2]),
        "lists": {},
        "position": {"stage": 0, "epoch": 1, "step": 0, "seen": 0, "correct": 0},
        "optimizer": {},
        "schedule": {},
        "log_bytes": 0,
    }
    *sections, last = name.split("/")
    part = state
    for section in sections:
        part = part[section]
    part[last] = value
    return state


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", ["a"], "its model is no state_dict"),
        ("model/rgb.fc.bias", "a", "its model is no state_dict of plain tensors"),
        ("model/rgb.fc.bias", torch.zeros(2).to_sparse(), "its model is no state_dict of plain"),
        ("model/rgb.fc.bias", torch.empty(2, device="meta"), "its model is no state_dict of plain"),
        ("model/rgb.fc.bias", torch.zeros(2, dtype=torch.complex64), "its model is no state_dict"),
        ("model/rgb.fc.bias", torch.zeros(3), r"2 classes, \(3,\) biases of branch rgb"),
        ("classes", ["a", "a"], r"classes \['a', 'a'\], expected names, each once"),
        ("classes", [1, 2], r"classes \[1, 2\], expected names"),
        ("classes", None, "classes None"),
        ("bound", float("nan"), "bound nan, expected pixels of motion"),
        ("bound", "20", "bound '20'"),
        ("dataset_sha256", 7, "dataset_sha256 7"),
        ("attending", [["rgb"]], "attending"),
        ("trained", "rgb", "trained"),
        ("trained", ["both"], r"trained \('both',\), expected branches: rgb, flow"),
        ("made_with", [1], r"made_with \[1\], expected settings"),
        ("trained_on", torch.zeros(2), "trained_on is no list of digests"),
        ("trained_on", [1], "trained_on is no list of digests"),
        ("lists", {"a": 1}, "lists {'a': 1}, expected digests"),
        ("position/epoch", float("nan"), "epoch nan, expected a whole number from 0 on"),
        ("position/stage", -1, "stage -1"),
        ("position/ended", (2,), r"ended \(2,\), expected epochs of the 0 stages before"),
        ("position/ended", [None], r"ended \[None\], expected epochs"),
        ("position/correct", 5, "5 of 0 videos correct"),
        ("log_bytes", True, "log_bytes True"),
        ("optimizer", None, "its optimizer is no state_dict"),
    ],
)
def test_a_forged_checkpoint_is_one_line(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(changed("bound", 10.0), path)
    assert load_checkpoint(path).bound == 10
    torch.save(changed(name, value), path)
    told = rf"^{path}: not a checkpoint of twinstream: {message}"
    with pytest.raises(InputError, match=told) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_number_that_stands_for_terabytes_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"net": {"fc.weight": torch.zeros(1).expand(10**12)}}, path)
    with pytest.raises(InputError, match=r"fc\.weight has more numbers than the file holds$"):
        read_state(path)


def learning() -> tuple[torch.optim.SGD, ReduceLROnPlateau, TrainingState]:
    """A new optimizer and schedule, and what others of the same weights have learned."""

    def new() -> tuple[torch.nn.Parameter, torch.optim.SGD, ReduceLROnPlateau]:
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        return weight, optimizer, ReduceLROnPlateau(optimizer, mode="max")

    weight, optimizer, schedule = new()
    weight.grad = torch.ones(3)
    optimizer.step()
    schedule.step(0.5)
    state = TrainingState(Position(), optimizer.state_dict(), schedule.state_dict(), 0)
    return (*new()[1:], state)


def test_momentum_and_rate_are_taken_up_whatever_another_torch_adds_or_lacks() -> None:
    optimizer, schedule, state = learning()
    state.optimizer["param_groups"][0] |= {"lr": 0.01, "of_another_torch": 7}
    del state.optimizer["param_groups"][0]["fused"]
    state.schedule["step"] = "a method's name"
    load_learning(state, optimizer, schedule, Path("c.pt"))
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert torch.equal(next(iter(optimizer.state.values()))["momentum_buffer"], torch.ones(3))
    assert (schedule.best, callable(schedule.step)) == (0.5, True)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("optimizer", "param_groups", []),
        ("optimizer", "param_groups", [7]),
        ("optimizer", "state", {0: {"momentum_buffer": torch.zeros(4)}}),
        ("optimizer", "state", {0: {"momentum_buffer": "x"}}),
        ("optimizer", "state", {0: 7}),
        ("optimizer", "state", None),
        ("schedule", "best", "x"),
        ("schedule", "best", float("nan")),
        ("schedule", "mode", "min"),
        ("schedule", "min_lrs", [0, 0]),
    ],
)
def test_another_networks_optimizer_is_one_line(part: str, name: str, value: object) -> None:
    optimizer, schedule, state = learning()
    getattr(state, part)[name] = value
    with pytest.raises(InputError, match=r"^c\.pt: its optimizer is that of another network$"):
        load_learning(state, optimizer, schedule, Path("c.pt"))


def test_a_stage_comes_back_from_safetensors_as_it_was_saved(tmp_path: Path) -> None:
    network = {"kind": "cma", "family": "resnet", "attention_at": ["layer2.1"]}
    saved = Checkpoint(
        # As the weights of a network lie in memory.
        {"conv": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)},
        ["Lüge", "run"],
        20.0,
        "0" * 64,
        ("rgb",),
        ("rgb", "flow"),
        None,
        {"preprocess.size": [32, 32], "preprocess.bound": 20.0},
        key_digests(["a", "b"]),
        {"train.split": "1" * 64},
        network=network,
    )
    path = tmp_path / "iter1.safetensors"
    save_checkpoint(path, saved)
    found = load_checkpoint(path)
    tensors = [{**vars(each), "model": 0, "trained_on": 0} for each in (saved, found)]
    assert tensors[0] == tensors[1]
    assert torch.equal(found.model["conv"], saved.model["conv"])
    assert found.trained_on is not None
    assert saved.trained_on is not None
    assert torch.equal(found.trained_on, saved.trained_on)
    # What any reader of safetensors sees.
    assert safetensors.torch.load_file(path).keys() == {"conv", "trained_on"}


@pytest.mark.parametrize("own", ["5", "[1, 2]", "{", "[" * 9999, '{"classes": 3}', '"model"'])
def test_metadata_that_is_not_ours_is_one_line(tmp_path: Path, own: str) -> None:
    path = tmp_path / "flow.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, path, {"twinstream": own})
    with pytest.raises(InputError, match=r"flow\.safetensors: "):
        load_checkpoint(path)


def test_a_file_that_has_another_name_now_is_told(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "flow.safetensors", SMALL)
    with pytest.raises(InputError, match=r"flow\.pt: .*; flow\.safetensors is there"):
        load_checkpoint(tmp_path / "flow.pt")
