"""Weight files of other tools: wrappers, prefixes and formats; what else they hold is told."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from twinstream.errors import InputError
from twinstream.train.network.branch import Branch
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.network.weight_files import branch_state, read_state

PLAIN = models.resnet18(weights=None, num_classes=5).state_dict()


def prefixed(prefix: str, state: dict[str, Tensor] = PLAIN) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "loaded",
    [
        PLAIN,
        prefixed("module."),
        prefixed("backbone.") | {"cls_head.fc_cls.weight": torch.zeros(5, 512)},
        prefixed("module.base_model."),
        {"state_dict": prefixed("module."), "epoch": 3, "optimizer": {"state": {}}},
        {"model": PLAIN, "args": {"lr": 0.1}},
        {"model_state_dict": PLAIN},
        {"net": {"state_dict": PLAIN}},
        {"state_dict": PLAIN, "state_dict_ema": PLAIN},
    ],
)
def test_a_resnet_is_found_in_wrappers_and_behind_prefixes(loaded: dict[str, Any]) -> None:
    assert branch_state(loaded, "rgb", "x.pt", Branch.marks).keys() == PLAIN.keys()


def test_both_branches_are_found_behind_the_prefix_of_data_parallel() -> None:
    model = TwoBranch("cma", 18, 5)
    for loaded in (model.state_dict(), prefixed("module.", model.state_dict())):
        for name in ("rgb", "flow"):
            own = model.branch(name).state_dict()
            assert branch_state({"model": loaded}, name, "x.pt", Branch.marks).keys() == own.keys()


def test_which_of_two_networks_is_meant_is_not_guessed() -> None:
    loaded = prefixed("encoder_q.") | prefixed("encoder_k.")
    with pytest.raises(InputError, match=r"^x\.pt: holds several networks, encoder_q\., encoder_k"):
        branch_state(loaded, "rgb", "x.pt", Branch.marks)


def test_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "resnet.safetensors"
    save_file({key: value.contiguous() for key, value in PLAIN.items()}, path)
    state = branch_state(read_state(path), "rgb", str(path), Branch.marks)
    assert all(torch.equal(state[key], value) for key, value in PLAIN.items())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"resnet\.safetensors: damaged, or not written by "):
        read_state(path)


def a_module() -> Any:
    return models.resnet18(weights=None)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (a_module, "torchvision.models.resnet.ResNet"),
        (lambda: {"state_dict": PLAIN, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        (lambda: {"state_dict": PLAIN, "best": np.float64(3)}, r"numpy\._?core.multiarray.scalar"),
    ],
)
def test_what_a_file_holds_beside_tensors_is_named(
    tmp_path: Path, make: Callable[[], Any], what: str
) -> None:
    torch.save(make(), tmp_path / "x.pt")
    with pytest.raises(
        InputError, match=rf"x\.pt: holds a {what} beside tensors, .* save"
    ) as found:
        read_state(tmp_path / "x.pt")
    assert "torch.save(model.state_dict(), FILE)" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_torchscript_archive_is_told(tmp_path: Path) -> None:
    traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    traced.save(str(tmp_path / "x.pt"))
    with pytest.raises(InputError, match="a TorchScript archive, which is a program; save the"):
        read_state(tmp_path / "x.pt")
