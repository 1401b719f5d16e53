"""The presets of `twinstream init`: where each departs from the defaults.

The shipped pipeline.yaml is the text of all of them, so that its comments are written once. A
preset's names stand in the command line too, which imports this module when it is asked for.
"""

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from twinstream.errors import InputError
from twinstream.shards.storage.atomic import write_atomically

FILE = "pipeline.yaml"
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "laptop": (
        "videos in class folders, 128 pixels, ResNet-18 and small batches: fits 8 GB without a GPU",
        {
            "dataset.kind": "folders",
            "dataset.hold_out": 0.2,
            "preprocess.size": "128x128",
            "model.depth": 18,
            "train.stages": ["flow", "iter1"],
            "train.epochs": 15,
            "train.batch_size": 16,
            "train.learning_rate": 0.002,
            "train.crop_size": 112,
            "train.workers": 2,
            "test.segments": 5,
            "test.crops": 1,
        },
    ),
    "ucf101": (
        "UCF-101 with its three lists; train.split and test.split choose among them",
        {
            "dataset.kind": "ucf101",
            "dataset.root": "UCF-101",
            "dataset.splits": "ucfTrainTestlist",
            "train.split": "train1",
            "test.split": "test1",
        },
    ),
    "kinetics": (
        "the paper's run on Kinetics-400",
        {"dataset.annotations": ["train.csv", "validate.csv"], "test.split": "val"},
    ),
}
HEAD = (
    "# A key that is left out has its default. Each can be changed on the command line too: --set "
    "train.batch_size=32",
    "# `twinstream settings` prints these and more, each with what it means.",
)
NUM_HEAD = 2
LINE = re.compile(r"  (?P<key>\w+): (?P<value>.*?)(?P<comment> +#.*)?")


def preset_text(name: str) -> str:
    """pipeline.yaml with the preset's values; what they replace is named behind the comment."""
    said, changes = PRESETS[name]
    left = dict(changes)
    lines, section = [f"# twinstream init --preset {name}: {said}.", *HEAD], ""
    for line in files("twinstream").joinpath(FILE).read_text().splitlines()[NUM_HEAD:]:
        found = LINE.fullmatch(line)
        if not found:
            section = line.removesuffix(":")
        elif (path := f"{section}.{found['key']}") in left:
            value = yaml.safe_dump(left.pop(path), default_flow_style=True).splitlines()[0]
            comment = (found["comment"] or " #").strip()
            line = f"  {found['key']}: {value}".ljust(27)
            line += f" {comment}; default: {found['value']}".replace("#;", "#")
        lines.append(line)
    assert not left, f"{FILE} has no {', '.join(left)}"
    return "\n".join(lines) + "\n"


def write_preset(name: str, path: Path) -> None:
    """Write the preset to a file that is not there yet; InputError where one is."""
    if os.path.lexists(path):
        raise InputError(f"{path}: is there already; remove it, or work in another folder")
    write_atomically(path, preset_text(name).encode())
