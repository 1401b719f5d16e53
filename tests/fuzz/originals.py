"""What is changed: a small dataset, runs of a network of a thousand weights, and predictions."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tests.support.datasets import write_dataset
from tests.support.runs import write_tested
from tests.support.training import make_settings
from twinstream.shards.split_lists import add_split
from twinstream.train import fit
from twinstream.train.checkpoint import load_checkpoint
from twinstream.train.gradient import add_gradients
from twinstream.train.network import families
from twinstream.train.network.branch import Branch
from twinstream.train.run_folder import RunSettings

TINY = ("model.family=tiny", "model.depth=1", "model.stack_length=2", "train.crop_size=33")
STEPS = 5


class TinyBranch(Branch):
    """A branch of four channels: a checkpoint of it is some kilobytes."""

    family = "tiny"

    def add_layers(self, depth: int, in_channels: int, num_classes: int) -> None:
        """As of a ResNet, so that its file is found by the same names."""
        self.conv1, self.bn1 = nn.Conv2d(in_channels, 4, 3, 4), nn.BatchNorm2d(4)
        for layer in ("layer1", "layer2", "layer3", "layer4"):
            self.add_module(layer, nn.Sequential(_block(), _block()))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, num_classes)

    def begin(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4, H/4, W/4)."""
        out: Tensor = self.bn1(self.conv1(x))
        return out


def _block() -> nn.Module:
    return nn.Sequential(OrderedDict(conv1=nn.Conv2d(4, 4, 1), bn1=nn.BatchNorm2d(4)))


def register() -> None:
    """Make the family known in this process and those that it forks."""
    if "tiny" not in families.family_names():
        branch = families.Family("tiny", f"{__name__}.{TinyBranch.__name__}", (1,))
        families.FAMILIES = (*families.FAMILIES, branch)


def run_settings(dataset: Path, *overrides: str) -> RunSettings:
    """Settings of a run of a tiny network on this dataset."""
    return make_settings(dataset, *TINY, "train.checkpoint_steps=1", *overrides)


def write_originals(folder: Path) -> None:
    """`folder`/dataset, `folder`/run, stopped in its second stage, and two tested runs."""
    torch.set_num_threads(1)
    register()
    dataset = write_dataset(folder / "dataset", {"train": 4, "test": 2})
    listed = folder / "few.txt"
    listed.write_text("left/train0\nright/train1\n")
    add_split(dataset, "few", str(listed))
    train_for(STEPS, run_settings(dataset), folder / "run")
    weights = load_checkpoint(folder / "run" / "flow.safetensors").model
    torch.save(weights, folder / "weights.pt")
    labels = [0, 1, 2, 0]
    # Of depth 18: the table of parameters builds the network that predictions name.
    answers = {"rgb": [0, 1, 1, 0], "flow": [0, 2, 2, 0]}
    for name, kind, stage in (("base", "two_stream", "rgb"), ("cma", "cma", "iter1")):
        about = {"run": f"runs/{name}", "dataset": "shards", "dataset_sha256": "0" * 64}
        about |= {
            "depth": 18,
            "weights_sha256": {"rgb": name * 9, "flow": name * 9},
            "trained_on": 1,
        }
        write_tested(folder / name, kind, stage, answers, labels, **about)


def train_for(steps: int, settings: RunSettings, run: Path) -> None:
    """Train until so many steps are done and saved, and stop there as a kill would."""
    left = [steps]

    def stopped(*arguments: Any, **options: Any) -> tuple[float, int]:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return add_gradients(*arguments, **options)

    with mock.patch.object(fit, "add_gradients", stopped), open(os.devnull, "w"):
        try:
            fit.train(settings, run, resume=False)
        except KeyboardInterrupt:
            return
