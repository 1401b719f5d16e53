"""Run folders for tests, with weights or predictions that nobody had to train for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from twinstream.section import build_settings
from twinstream.shards.format.manifest import FILE_NAME
from twinstream.shards.storage.location import file_sha256
from twinstream.train.checkpoint import Checkpoint, Position, TrainingState, save_checkpoint
from twinstream.train.network.cma import CMABlock
from twinstream.train.network.stages import plan_stages
from twinstream.train.network.two_branch import TwoBranch, build_model
from twinstream.train.run_folder import RunSettings, begin_run
from twinstream.train.score.predictions import Predictions, write_predictions
from twinstream.train.settings import CHECKPOINT

BOUND = 20.0


def write_run(
    run: Path,
    dataset: Path,
    kind: str = "cma",
    stages: Sequence[str] = ("flow", "iter1"),
    *,
    trained: bool = True,
    classes: Sequence[str] = ("left", "right"),
    bound: float = BOUND,
    dataset_sha256: str | None = None,
    **model_settings: Any,
) -> TwoBranch:
    """A run of depth 18 after its last stage, with each stage's file, on `dataset` or that SHA-256.

    `model_settings` are of the section model. With `trained` the attention blocks change their
    input; a new block is the identity.
    """
    torch.manual_seed(5)
    manifest = dataset / FILE_NAME
    sha256 = dataset_sha256 or (file_sha256(manifest) if manifest.exists() else "no dataset")
    tree: dict[str, Any] = {
        "shards": {"path": str(dataset)},
        "model": {"kind": kind, "depth": 18, "rgb_weights": None, "flow_weights": None}
        | model_settings,
        "train": {
            "stages": list(stages),
            "segments": 1,
            "crop_size": 40,
            "workers": 0,
            "device": "cpu",
        },
        "test": {"segments": 2, "crops": 1},
    }
    settings = build_settings(RunSettings, tree)
    begin_run(run, settings)
    model = build_model(settings.model, len(classes))
    plan = plan_stages(stages, settings.model.kind)
    for number, stage in enumerate(plan, start=1):
        for name in model.names if trained else ():
            # Of a branch that no stage has let attend yet the CMA blocks are untrained.
            train_blocks(model.branch(name).non_local)
            if name in stage.attending:
                train_blocks(model.branch(name).cma)
        weights = Checkpoint(
            model.state_dict(),
            list(classes),
            bound,
            sha256,
            stage.attending,
            tuple(name for name in model.names if name in {each.trains for each in plan[:number]}),
        )
        save_checkpoint(run / f"{stage.name}.safetensors", weights)
        training = TrainingState(Position(stage=number), {}, {}, log_bytes=0)
        save_checkpoint(run / CHECKPOINT, replace(weights, training=training))
    return model


def from_shards(digest: str, path: str | None = None) -> dict[str, str]:
    """What predictions say of the dataset that they were scored from."""
    return {"dataset": path or f"shards/{digest}", "dataset_sha256": digest * 64}


def train_blocks(blocks: nn.ModuleDict) -> None:
    """Make attention blocks change their input, those that do not yet."""
    for block in blocks.values():
        assert isinstance(block, CMABlock)
        if block.is_identity:
            nn.init.uniform_(block.bn.weight, 0.2, 1)


def write_tested(
    run: Path,
    /,
    kind: str,
    stage: str,
    answers: dict[str, Sequence[int]],
    labels: Sequence[int],
    *,
    classes: Sequence[str] = ("left", "right", "up"),
    keys: Sequence[str] | None = None,
    suffix: str = "",
    off: float = 0.0,
    **about: Any,
) -> Path:
    """A run that holds predictions only, by default those of a finished stage.

    A branch's score is 1 for its answer and 0 elsewhere, `off` added to both.
    """
    if not run.exists():
        begin_run(run, build_settings(RunSettings, {"model": {"kind": kind}}))
    common = {
        "depth": 50,
        "attention_at": "every_other",
        "split": "val",
        "segments": 25,
        "crops": 10,
        "finished": True,
    }
    more = {"kind": kind, "stage": stage, "classes": list(classes), "dataset_kind": "folders"}
    scores = {
        branch: np.eye(len(classes), dtype=np.float32)[list(given)] + np.float32(off)
        for branch, given in answers.items()
    }
    names = tuple(keys or [f"video{n}" for n in range(len(labels))])
    predictions = Predictions(names, np.array(labels), scores, common | more | about)
    write_predictions(run / f"predictions{suffix}.parquet", predictions)
    return run
