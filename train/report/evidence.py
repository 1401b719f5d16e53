"""Predictions of many runs, grouped by network and iteration (`Variant`).

Networks are those of the paper's tables: baseline (two_stream, or its branches trained in separate
runs), nonlocal, cma and cma_nonlocal. Runs on different videos (the folds of a dataset) are pooled;
runs on the same videos (other seeds) are averaged and give a spread. Runs whose numbers are not
comparable in one table are refused.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.train.choices import BOTH, iteration
from twinstream.train.run_folder import read_run_settings
from twinstream.train.score.metrics import Weights, fuse, top_k_accuracy
from twinstream.train.score.predictions import Predictions, predictions_file, read_predictions

RGB_ALONE, FLOW_ALONE = (1.0, 0.0), (0.0, 1.0)
MUST_AGREE = ("classes", "split", "segments", "crops", "depth")


class Variant(NamedTuple):
    """A trained network of the paper's tables."""

    network: str
    """baseline, nonlocal, cma or cma_nonlocal"""
    iteration: int
    """0 before any attention across branches"""


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in [0, 1] over all videos."""

    top1: float
    top5: float
    spread: float | None
    """Standard deviation of top-1 over runs on the same videos; None for one run or for folds"""


@dataclass(frozen=True)
class Evidence:
    """The predictions of all runs by variant; every variant has at least one."""

    variants: dict[Variant, list[Predictions]]
    about: dict[str, Any]
    """classes, split, segments, crops and depth of all; dataset_kind, attention_at of the first"""

    def accuracy(self, variant: Variant, weights: Weights) -> Accuracy | None:
        """Accuracy of that weighted sum; None where a branch that it needs was not scored."""
        found = [
            (p, scores)
            for p in self.variants.get(variant, [])
            if (scores := weighted(p, weights)) is not None
        ]
        if not found:
            return None
        tops = [[top_k_accuracy(scores, p.labels, k) for p, scores in found] for k in (1, 5)]
        sizes = [len(p.keys) for p, _ in found]
        # The same videos in all: other seeds, whose spread means something. Other videos: folds.
        repeated = len(found) > 1 and all(p.keys == found[0][0].keys for p, _ in found)
        # By videos, so that folds of different size count as one pool of videos.
        top1, top5 = (float(np.average(values, weights=sizes)) for values in tops)
        return Accuracy(top1, top5, statistics.stdev(tops[0]) if repeated else None)

    def pooled(
        self, variant: Variant, weights: Weights
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.int64]] | None:
        """(V, C) scores and (V,) labels of all runs in a row; None where nothing was scored."""
        found = [
            (p, scores)
            for p in self.variants.get(variant, [])
            if (scores := weighted(p, weights)) is not None
        ]
        if not found:
            return None
        return np.concatenate([scores for _, scores in found]), np.concatenate(
            [p.labels for p, _ in found]
        )

    @property
    def num_videos(self) -> int:
        """Number of different videos that any run has scored."""
        return len({key for each in self.variants.values() for p in each for key in p.keys})


def weighted(predictions: Predictions, weights: Weights) -> NDArray[np.floating[Any]] | None:
    """(V, C) weights[0] * rgb + weights[1] * flow; None where a branch that counts is absent."""
    # A branch of weight 0 need not be there: many runs train and score one branch only.
    given = [
        (weight, predictions.scores.get(name)) for weight, name in zip(weights, BOTH, strict=True)
    ]
    needed = [(weight, scores) for weight, scores in given if weight]
    if any(scores is None for _, scores in needed):
        return None
    (weight, first), *others = needed
    assert first is not None
    return (
        fuse(first, others[0][1], weights)
        if others and others[0][1] is not None
        else weight * first
    )


def variant_of(kind: str, stage: str) -> Variant:
    """two_stream, rgb -> (baseline, 0); cma, iter2 -> (cma, 2); cma, flow -> (baseline, 0)."""
    # Before its first iteration a CMA network computes what two_stream does: no block is trained.
    if iteration(stage):
        return Variant(kind, iteration(stage))
    return Variant("nonlocal" if kind == "nonlocal" else "baseline", 0)


def read_evidence(runs: Sequence[Path]) -> Evidence:
    """All predictions in these run folders.

    InputError for a folder without any, or for runs that are not comparable.
    """
    found = [(path, read_predictions(path)) for run in runs for path in prediction_files(run)]
    first_path, first = found[0]
    for path, predictions in found:
        for key in MUST_AGREE:
            if predictions.about[key] != first.about[key]:
                raise InputError(
                    f"{path}: {_named(key, predictions)}, {first_path} has {_named(key, first)}; "
                    "one report holds what was tested in one way"
                )
    variants: dict[Variant, list[Predictions]] = {}
    for _, predictions in found:
        variant = variant_of(predictions.about["kind"], predictions.about["stage"])
        variants.setdefault(variant, []).append(predictions)
    return Evidence(
        {variant: list(paired(each)) for variant, each in variants.items()}, dict(first.about)
    )


def prediction_files(run: Path) -> list[Path]:
    """predictions.parquet and predictions-STAGE.parquet of a run; InputError when there is none."""
    # For its InputError: a folder that is no run gets another message than one not tested.
    read_run_settings(run)
    files = sorted(run.glob(predictions_file(run, "*").name))
    if not files:
        raise InputError(f"{run}: not tested yet; `twinstream test {run}` writes its predictions")
    return files


def paired(pieces: Sequence[Predictions]) -> Iterator[Predictions]:
    """An RGB run and a flow run of the same videos as one; everything else as it is."""
    left = list(pieces)
    while left:
        one = left.pop(0)
        # Disjoint branches on the same videos: the two halves of a baseline, not two seeds.
        other = next(
            (p for p in left if p.keys == one.keys and not p.scores.keys() & one.scores.keys()),
            None,
        )
        if other is not None:
            left.remove(other)
            one = replace(one, scores={**one.scores, **other.scores})
        yield one


def _named(key: str, predictions: Predictions) -> str:
    value = predictions.about[key]
    return (
        f"{len(value)} classes ({', '.join(value[:3])} ...)"
        if key == "classes"
        else f"{key} {value}"
    )
