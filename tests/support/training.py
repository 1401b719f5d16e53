"""Settings of small training runs, the losses in their logs, and a kill in mid-stage."""

import json
from pathlib import Path
from typing import Any

import pytest

from twinstream.section import build_settings
from twinstream.train import fit
from twinstream.train.gradient import add_gradients
from twinstream.train.run_folder import RunSettings


def settings_tree(dataset: Path) -> dict[str, dict[str, object]]:
    return {
        "shards": {"path": str(dataset)},
        "model": {"depth": 18, "rgb_weights": None, "flow_weights": None},
        "train": {
            "stages": ["flow", "iter1"],
            "epochs": 2,
            "batch_size": 2,
            "segments": 1,
            "crop_size": 40,
            "workers": 0,
            "device": "cpu",
        },
        "test": {"segments": 2, "crops": 1},
    }


def make_settings(dataset: Path, *overrides: str) -> RunSettings:
    return build_settings(RunSettings, settings_tree(dataset), overrides)


# A small network of clips, which fit into videos of 7 frames
CLIPS = ("model.family=p3d", "model.depth=14", "model.clip_length=3", "model.clip_stride=2")


def losses(run: Path) -> list[tuple[str, int, int, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        (line["stage"], line["epoch"], line["step"], line["loss"])
        for line in lines
        if "loss" in line
    ]


def accuracies(run: Path) -> list[tuple[float, float]]:
    """Of training and validation, by epoch."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        (line["train_accuracy"], line["validation_accuracy"])
        for line in lines
        if "train_accuracy" in line
    ]


def kill_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step behind so many ends training in its middle, with nothing more saved."""
    left = [steps]

    def killed(*arguments: Any, **options: Any) -> tuple[float, int]:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return add_gradients(*arguments, **options)

    monkeypatch.setattr(fit, "add_gradients", killed)
