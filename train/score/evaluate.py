"""Scores of videos: the mean over K segments and their crops, by branch and for weighted sums.

The paper tests with 25 segments x 10 crops. The network is scored as training left it, or as it was
at the end of one of its stages (Table 1 needs all of them); how far a stage got is told. A branch
that has not learned to classify is left out. The price: 250 forward passes for each video.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.progress import LOGGER, Progress
from twinstream.shards.format.manifest import FILE_NAME
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.location import file_sha256
from twinstream.shards.storage.lock import owned
from twinstream.train.checkpoint import trained_branches
from twinstream.train.choices import BOTH, BranchName
from twinstream.train.data.loader import TestSnippets, load_test_batches, num_workers
from twinstream.train.data.transforms import crops_to_score
from twinstream.train.device import choose_device, half_precision, network_input
from twinstream.train.memory import keep_freed_memory
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.run_folder import (
    SETTINGS,
    RunSettings,
    logged_epochs,
    read_run_settings,
)
from twinstream.train.score.metrics import FUSION_WEIGHTS, fuse, per_class_accuracy, top_k_accuracy
from twinstream.train.score.predictions import (
    BranchScores,
    Predictions,
    predictions_file,
    read_about,
    refuse_no_numbers,
    write_predictions,
)
from twinstream.train.score.run_weights import (
    Scored,
    known_samples,
    network_labels,
    num_trained_on,
    open_network,
    open_run_dataset,
    read_weights,
    refuse_other_dataset,
    weights_digests,
)
from twinstream.train.settings import TestSettings

METRICS = "metrics"
OWNER = ".test.json"
# What predictions say and metrics.json leaves out
NETWORK = (
    *("kind", "family", "depth", "clip_length", "clip_stride", "attention_at"),
    *("classes", "dataset_kind"),
)


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
    run: Path,
    test: TestSettings,
    shards_path: str | None = None,
    stage: str | None = None,
    out: Path | None = None,
    known_classes: bool = False,
) -> dict[str, Any]:
    """Score the network of a run, write its predictions and metrics, and return the metrics.

    With `known_classes`, videos of classes that the network lacks are left out and counted. With
    `stage`, the network as it was at the end of that stage. The files lie in the run, or in
    `out`. The last stage's are predictions.parquet and metrics.json, another's
    predictions-STAGE.parquet and so on.
    """
    settings = read_run_settings(run)
    if out is not None and (out / SETTINGS).exists() and out.resolve() != run.resolve():
        raise InputError(f"--out {out}: is the folder of another run; choose another --out")
    if out is None:
        # Who may not write to the run learns of --out.
        require_room(run, num_bytes=0)
    # Not the name that training holds: a run is tested while its next stage is trained.
    with owned(out or run, "twinstream test", name=OWNER):
        return _score(run, settings, test, shards_path, stage, out or run, known_classes)


def _score(
    run: Path,
    settings: RunSettings,
    test: TestSettings,
    shards_path: str | None,
    stage: str | None,
    folder: Path,
    known_classes: bool,
) -> dict[str, Any]:
    """The same for settings that have been read, into a folder that is held."""
    keep_freed_memory()
    dataset = open_run_dataset(settings.shards, "--shards PATH", shards_path)
    scored = read_weights(run, settings, stage)
    checkpoint, stage = scored.checkpoint, scored.stage
    refuse_other_dataset(checkpoint, dataset, known_classes=known_classes)
    device = choose_device(settings.train.device)
    model, attending = open_network(run, settings, scored, device)
    outputs = trained_branches(checkpoint)
    if not outputs:
        raise InputError(f"{run}: no branch has learned to classify at stage {stage}")
    split = test.split or default_split(dataset)
    listed = dataset.virtual(split)
    if listed is not None and (note := listed.note()):
        LOGGER.warning(note)
    crops = crops_to_score(test.crops, test.flip, settings.train.flip)
    samples, left_out = known_samples(dataset, split, checkpoint.classes)
    if left_out:
        LOGGER.warning(f"{dataset.path}: {left_out}")
    views = TestSnippets(
        samples,
        segments=test.segments,
        shape=settings.model.snippet,
        crops=crops,
        scale=test.scale,
        crop_size=settings.train.crop_size,
        scale_motion=settings.train.scale_motion,
    )
    keys = views.samples.keys
    labels = network_labels(views.labels, dataset.classes, checkpoint.classes)
    about = about_test(run, settings, scored, dataset) | {
        "split": split,
        "list_sha256": listed.sha256 if listed else None,
        "left_out": left_out,
        "segments": test.segments,
        "crops": crops,
        "flip": crops == 10,
        "scale": test.scale,
        "trained_on": num_trained_on(keys, split, checkpoint, settings, dataset),
        "weights_sha256": weights_digests(model, outputs, attending),
    }
    # The last stage has the plain name, under which `twinstream report` and people look first.
    suffix = "" if stage == settings.train.stages[-1] else f"-{stage}"
    path = predictions_file(folder, suffix)
    # Before hours of scoring: they would be lost where nothing can be written.
    require_room(folder, num_bytes=len(keys) * len(checkpoint.classes) * 4 * len(outputs))
    tell_replaced(path, about)
    LOGGER.info(f"{run}: scoring {len(keys):,} videos of {split} at stage {stage} on {device}")
    scores = score_videos(
        model,
        views,
        device,
        outputs=outputs,
        attending=attending,
        batch_views=test.batch_views,
        workers=num_workers(settings.train.workers),
    )
    refuse_no_numbers(scores, keys, run)
    write_predictions(path, Predictions(keys, labels, scores, about))
    figures = {"num_videos": len(keys), "scores": score_figures(scores, labels, checkpoint.classes)}
    metrics = {name: value for name, value in about.items() if name not in NETWORK} | figures
    write_atomically(
        folder / f"{METRICS}{suffix}.json", (json.dumps(metrics, indent=2) + "\n").encode()
    )
    return metrics


def about_test(
    run: Path, settings: RunSettings, scored: Scored, dataset: ShardDataset
) -> dict[str, Any]:
    """What predictions say of the network and of the dataset that it was tested on."""
    model = settings.model
    # A run that took more epochs has those of its earlier stages in its log alone.
    ended = 0 if scored.progress else logged_epochs(run, scored.stage)
    clip = model.snippet if model.snippet.has_time else None
    return {
        "run": str(run),
        "stage": scored.stage,
        "finished": not scored.progress,
        "progress": scored.progress,
        "epochs": ended or settings.train.epochs,
        "trainable": settings.train.trainable,
        "dataset": str(dataset.path),
        "dataset_sha256": file_sha256(dataset.path / FILE_NAME),
        "kind": model.kind,
        "family": model.family,
        "depth": model.depth,
        "clip_length": clip and clip.frames,
        "clip_stride": clip and clip.stride,
        "attention_at": model.attention_at,
        "classes": scored.checkpoint.classes,
        "dataset_kind": dataset.manifest.settings.get("dataset.kind"),
    }


def require_room(folder: Path, num_bytes: int) -> None:
    """Make the folder; InputError where a file of that size cannot be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}); name another folder: --out FOLDER"
        ) from error
    if free < num_bytes:
        raise InputError(
            f"{folder}: predictions take {num_bytes / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are "
            "free; make room, or name another folder: --out FOLDER"
        )


def tell_replaced(path: Path, about: Mapping[str, Any]) -> None:
    """A line where predictions of another network or other videos are about to be replaced."""
    if not path.exists():
        return
    before = read_about(path)
    if before is None:
        LOGGER.warning(f"{path}: cannot be read, and is replaced")
        return
    # What a file does not say is not compared.
    named = ("run", "kind", "depth", "stage", "dataset_sha256", "split")
    if any(before.get(key, about[key]) != about[key] for key in named):
        where = f"split {before.get('split')} of {before.get('dataset')}"
        LOGGER.warning(
            f"{path}: replaces those of {before.get('run')}, {before.get('stage')}, {where}; "
            "another --out keeps both"
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
    plural = "" if metrics["crops"] == 1 else "s"
    views = f"{metrics['segments']} segments x {metrics['crops']} crop{plural}{mirrored}"
    head = f"{metrics['num_videos']} videos of {metrics['split']}, {views}"
    notes = []
    if metrics["progress"]:
        notes.append(f"unfinished: {metrics['stage']} is at {metrics['progress']}")
    if metrics["trained_on"]:
        notes.append(f"{metrics['trained_on']} of these videos were trained on")
    lines = [
        f"{name:>10}  top-1 {100 * f['top1']:5.1f} %  top-5 {100 * f['top5']:5.1f} %"
        for name, f in metrics["scores"].items()
    ]
    return "\n".join([head, *notes, *lines])
