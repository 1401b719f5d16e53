"""Settings of small training runs, and the losses in their logs."""

import json
from pathlib import Path

from twinstream.section import build_settings
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


def losses(run: Path) -> list[tuple[str, int, int, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        (line["stage"], line["epoch"], line["step"], line["loss"])
        for line in lines
        if "loss" in line
    ]
