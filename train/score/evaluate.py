"""Scores of videos: the mean over K segments and their crops, by branch and for weighted sums.

The paper tests with 25 segments x 10 crops. The network is scored as training left it, or as it was
at the end of one of its stages (Table 1 needs all of them). A branch that has not learned to
classify yet is left out. The price: 250 forward passes for each video.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.progress import Progress
from twinstream.shards.read.dataset import ShardDataset, open_dataset
from twinstream.shards.storage.atomic import write_atomically
from twinstream.train.checkpoint import Checkpoint, load_checkpoint, load_resumable
from twinstream.train.choices import BOTH, BRANCHES, IMAGENET, BranchName
from twinstream.train.data.loader import TestSnippets, load_test_batches, num_workers
from twinstream.train.data.normalise import refuse_other_codec
from twinstream.train.data.transforms import crops_to_score
from twinstream.train.device import choose_device, half_precision, network_input
from twinstream.train.memory import keep_freed_memory
from twinstream.train.network.stages import plan_stages
from twinstream.train.network.two_branch import TwoBranch, build_model
from twinstream.train.run_folder import CHECKPOINT, read_run_settings
from twinstream.train.score.metrics import FUSION_WEIGHTS, fuse, per_class_accuracy, top_k_accuracy
from twinstream.train.score.predictions import (
    BranchScores,
    Predictions,
    predictions_file,
    write_predictions,
)
from twinstream.train.settings import ModelSettings, TestSettings

METRICS = "metrics"


def score_videos(
    model: TwoBranch,
    views: TestSnippets,
    device: torch.device,
    *,
    outputs: tuple[BranchName, ...],
    attending: tuple[BranchName, ...],
    batch_views: int,
    workers: int,
    shown: bool = True,
) -> BranchScores:
    """(V, C) float32 mean snippet scores of each branch in `outputs`, in the order of `views`."""
    model.eval()
    per_batch = max(1, batch_views // views.num_crops)
    sums: dict[BranchName, torch.Tensor] = {}
    with (
        torch.inference_mode(),
        Progress("test", len(views), "segment", shown=shown) as progress,
    ):
        for batch in load_test_batches(views, per_batch, workers):
            rgb, flow = network_input(batch, device)
            videos = batch.positions.to(device, non_blocking=True)
            with half_precision(device):
                scores = model(rgb, flow, outputs=outputs, attending=attending)
            for name, crop_scores in scores.items():
                # In float64, so that the order in which segments are added does not change the
                # result in float32.
                wide = crop_scores.double().reshape(len(batch), -1, crop_scores.shape[1])
                empty = torch.zeros(
                    len(views.samples), wide.shape[2], dtype=wide.dtype, device=device
                )
                # A video's segments may lie in two batches, or several of them in one.
                sums.setdefault(name, empty).index_add_(0, videos, wide.mean(1))
            progress.advance(len(batch))
    return {name: (total / views.segments).float().cpu().numpy() for name, total in sums.items()}


def score_run(
    run: Path, test: TestSettings, shards_path: str | None = None, stage: str | None = None
) -> dict[str, Any]:
    """Score the network of a run, write its predictions and metrics, and return the metrics.

    With `stage`, the network as it was at the end of that stage.
    The last stage's files are predictions.parquet and metrics.json, another's
    predictions-STAGE.parquet and so on.
    """
    keep_freed_memory()
    settings = read_run_settings(run)
    dataset = open_dataset(settings.shards, shards_path)
    stage, checkpoint = read_weights(run, settings.train.stages, stage)
    refuse_other_dataset(checkpoint, dataset)
    device = choose_device(settings.train.device)
    model = build_model(settings.model, len(checkpoint.classes)).to(device)
    model.load_state_dict(checkpoint.model)
    split = test.split or default_split(dataset)
    crops = crops_to_score(test.crops, test.flip, settings.train.flip)
    views = TestSnippets(
        dataset.samples(split),
        segments=test.segments,
        stack_length=settings.model.stack_length,
        crops=crops,
        crop_size=settings.train.crop_size,
        scale_motion=settings.train.scale_motion,
    )
    scores = score_videos(
        model,
        views,
        device,
        outputs=trained_branches(settings.model, settings.train.stages, stage),
        attending=checkpoint.attending,
        batch_views=test.batch_views,
        workers=num_workers(settings.train.workers),
    )
    about = {"split": split, "segments": test.segments, "crops": crops, "flip": crops == 10}
    about |= {"stage": stage}
    more = {
        "kind": settings.model.kind,
        "depth": settings.model.depth,
        "attention_at": settings.model.attention_at,
        "classes": checkpoint.classes,
        "dataset_kind": dataset.manifest.settings.get("dataset.kind"),
    }
    keys = views.samples.keys
    # The last stage has the plain name, under which `twinstream report` and people look first.
    suffix = "" if stage == settings.train.stages[-1] else f"-{stage}"
    predictions = Predictions(keys, views.labels, scores, about | more)
    write_predictions(predictions_file(run, suffix), predictions)
    metrics = {
        **about,
        "num_videos": len(keys),
        "scores": score_figures(scores, views.labels, checkpoint.classes),
    }
    write_atomically(
        run / f"{METRICS}{suffix}.json", (json.dumps(metrics, indent=2) + "\n").encode()
    )
    return metrics


def read_weights(run: Path, stages: Sequence[str], stage: str | None) -> tuple[str, Checkpoint]:
    """The current stage of the run, or the named one, and its checkpoint.

    InputError for a stage that the run does not train or has not finished.
    """
    if stage is None:
        checkpoint, training = load_resumable(run / CHECKPOINT)
        # After the last stage the position is one beyond it.
        return stages[min(training.position.stage, len(stages) - 1)], checkpoint
    if stage not in stages:
        raise InputError(f"{run}: no stage {stage}, it trains {', '.join(stages)}")
    return stage, load_checkpoint(run / f"{stage}.pt")


def trained_branches(
    model: ModelSettings, stages: Sequence[str], stage: str
) -> tuple[BranchName, ...]:
    """The branches that can classify after `stage`: trained by then, or started from a file."""
    # ImageNet weights do not count: their classifier is not loaded.
    done = plan_stages(stages[: stages.index(stage) + 1], model.kind)
    return tuple(
        name
        for name in BRANCHES[model.kind]
        if any(each.trains == name for each in done)
        or model.first_weights[name] not in (None, IMAGENET)
    )


def default_split(dataset: ShardDataset) -> str:
    """The split that is scored when none is named: Kinetics calls it val, most others test."""
    return next((split for split in ("test", "val") if split in dataset.manifest.splits), "test")


def score_figures(
    scores: BranchScores, labels: NDArray[np.int64], classes: list[str]
) -> dict[str, Any]:
    """Top-1, top-5 and per-class accuracy of each branch, and of weighted sums of both."""
    named: BranchScores = dict(scores)
    if scores.keys() >= {*BOTH}:
        named |= {
            f"fused {name}": fuse(scores["rgb"], scores["flow"], weights).astype(np.float32)
            for name, weights in FUSION_WEIGHTS.items()
        }
    return {name: _figures(values, labels, classes) for name, values in named.items()}


def refuse_other_dataset(checkpoint: Checkpoint, dataset: ShardDataset) -> None:
    """InputError for shards with other classes or another flow codec than in training.

    The digest is not compared: a test may use other videos than training did.
    """
    manifest = dataset.manifest
    if list(manifest.classes) != checkpoint.classes:
        raise InputError(
            f"{dataset.path}: {_named(manifest.classes)}, the network was trained on "
            f"{_named(checkpoint.classes)}"
        )
    refuse_other_codec(str(dataset.path), manifest.flow_codec.zero, manifest.flow_codec.levels)
    if manifest.flow_codec.bound != checkpoint.bound:
        raise InputError(
            f"{dataset.path}: flow bound {manifest.flow_codec.bound}, the network was trained on "
            f"{checkpoint.bound}"
        )


def _named(classes: Sequence[str]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])} ...)"


def _figures(
    scores: NDArray[np.float32], labels: NDArray[np.int64], classes: list[str]
) -> dict[str, Any]:
    by_class = per_class_accuracy(scores, labels)
    return {
        "top1": top_k_accuracy(scores, labels, 1),
        "top5": top_k_accuracy(scores, labels, 5),
        "per_class": {
            name: float(value)
            for name, value in zip(classes, by_class, strict=True)
            # JSON has no NaN: a class without videos is left out.
            if not np.isnan(value)
        },
    }


def metrics_table(metrics: dict[str, Any]) -> str:
    """The metrics for a person: a line for each score, below one on the videos and views."""
    mirrored = ", half of them mirrored" if metrics["flip"] else ""
    views = f"{metrics['segments']} segments x {metrics['crops']} crops{mirrored}"
    head = f"{metrics['num_videos']} videos of {metrics['split']}, {views}"
    lines = [
        f"{name:>10}  top-1 {100 * f['top1']:5.1f} %  top-5 {100 * f['top5']:5.1f} %"
        for name, f in metrics["scores"].items()
    ]
    return "\n".join([head, *lines])
