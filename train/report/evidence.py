"""Predictions of many runs, grouped by network and iteration (`Variant`), and their accuracies.

Networks are those of the paper's tables: baseline (two_stream, or its branches trained in separate
runs), nonlocal, cma and cma_nonlocal. A number is the mean over folds of the mean over the repeats
of each, as is usual on UCF-101; a variant without a run on some fold has none at all.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinstream.train.choices import BOTH, WITH_CMA
from twinstream.train.report.sources import (
    DATASET,
    WEIGHTS,
    Source,
    Variant,
    datasets,
    how_tested,
    read_sources,
    same_network,
    weights_digest,
)
from twinstream.train.score.metrics import Scores, Weights, confusion_matrix, fuse, top_k_accuracy
from twinstream.train.score.predictions import Predictions

RGB_ALONE, FLOW_ALONE = (1.0, 0.0), (0.0, 1.0)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy in [0, 1], the mean over folds."""

    top1: float
    top5: float
    spread: float | None
    """Standard deviation of top-1 over repeats; None for one run or for folds"""


class Fold(NamedTuple):
    """A set of videos that runs were tested on."""

    keys: tuple[str, ...]
    """In order"""
    run: Path
    """The first that was tested on them"""
    datasets: tuple[str, ...]
    """Whose they are; empty where no file says it"""
    chosen_by: str | None = None
    """The list that named them, with its SHA-256; None where a split of the shards did"""

    def __str__(self) -> str:
        datasets = f", of {' and '.join(self.datasets)}" if self.datasets else ""
        chosen = f", by {self.chosen_by}" if self.chosen_by else ""
        return f"the {len(self.keys)} videos that {self.run} was tested on{datasets}{chosen}"


@dataclass(frozen=True)
class Evidence:
    """The predictions of all runs by variant; every variant has at least one."""

    variants: dict[Variant, list[Predictions]]
    folds: tuple[Fold, ...]
    """More than one only where runs were tested on different videos"""
    about: dict[str, Any]
    """classes, split, segments, crops, depth of all; dataset_kind, None where it differs;
    attention_at of the first network with attention; trainable, other than all where any is"""
    runs: list[str]
    """Each folder and its stages that count"""
    notes: list[str]
    """What a reader of the numbers has to know, a line each"""
    folders: dict[Variant, Path] = field(default_factory=dict)
    """The first run of each variant"""

    def repeats(
        self, variant: Variant, weights: Weights
    ) -> list[list[tuple[Scores, NDArray[np.int64]]]]:
        """(V, C) weighted sums and (V,) labels of all repeats, fold by fold; [] where none was run.

        The same network counts once: repeats may share a frozen branch.
        """
        needed = [name for weight, name in zip(weights, BOTH, strict=True) if weight]
        folds = []
        for fold in self.folds:
            found: list[tuple[Predictions, Scores]] = []
            for p in self.variants.get(variant, []):
                scores = weighted(p, weights) if p.keys == fold.keys else None
                if scores is None or any(
                    all(same_network(p, each, name) for name in needed) for each, _ in found
                ):
                    continue
                found.append((p, scores))
            folds.append([(scores, p.labels) for p, scores in found])
        return folds

    def fold_accuracies(self, variant: Variant, weights: Weights) -> list[float | None]:
        """Top-1 of each fold, the mean over its repeats; None where it has none."""
        return [
            statistics.fmean(top_k_accuracy(*each, 1) for each in found) if found else None
            for found in self.repeats(variant, weights)
        ]

    def accuracy(self, variant: Variant, weights: Weights) -> Accuracy | None:
        """Accuracy of that weighted sum; None where a fold or a branch that it needs is missing."""
        folds = self.repeats(variant, weights)
        if not all(folds):
            return None
        tops = [[[top_k_accuracy(*each, k) for each in found] for found in folds] for k in (1, 5)]
        top1, top5 = (statistics.fmean(map(statistics.fmean, values)) for values in tops)
        # Of one fold alone: between folds the videos differ, and that is no spread of the training.
        repeated = len(folds) == 1 and len(folds[0]) > 1
        return Accuracy(top1, top5, statistics.stdev(tops[0][0]) if repeated else None)

    def confusion(self, variant: Variant, weights: Weights) -> NDArray[np.float64] | None:
        """(C, C) videos of all folds as one pool, the mean over repeats; None as for `accuracy`."""
        folds = self.repeats(variant, weights)
        if not all(folds):
            return None
        means = [np.mean([confusion_matrix(*each) for each in found], axis=0) for found in folds]
        return np.asarray(np.sum(means, axis=0), dtype=np.float64)

    def missing_folds(self, variant: Variant) -> list[int]:
        """The folds, counted from 0, that no run of this variant was tested on."""
        tested = {p.keys for p in self.variants.get(variant, [])}
        return [number for number, fold in enumerate(self.folds) if fold.keys not in tested]

    @property
    def num_videos(self) -> int:
        """Number of different videos that every number stands for."""
        return len({key for fold in self.folds for key in fold.keys})


def weighted(predictions: Predictions, weights: Weights) -> Scores | None:
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


def read_evidence(runs: Sequence[Path], *, unfinished: bool = False) -> Evidence:
    """All predictions in these folders, those of unfinished stages only where asked for.

    InputError for a folder without any, or for runs that are not comparable.
    """
    sources, notes = read_sources(runs, unfinished=unfinished)
    folds: dict[tuple[str, ...], list[Source]] = {}
    variants: dict[Variant, list[Predictions]] = {}
    stages: dict[Path, dict[str, None]] = {}
    for source in sources:
        folds.setdefault(source.predictions.keys, []).append(source)
        variants.setdefault(source.variant, []).append(source.predictions)
        stages.setdefault(source.run, {})[source.predictions.about["stage"]] = None
    return Evidence(
        {variant: list(paired(each)) for variant, each in variants.items()},
        tuple(
            Fold(keys, each[0].run, datasets(each), chosen_by(each)) for keys, each in folds.items()
        ),
        _about(sources),
        [f"{run}: {', '.join(names)}" for run, names in stages.items()],
        [*notes, *how_tested(sources)],
        {source.variant: source.run for source in reversed(sources)},
    )


def paired(pieces: Sequence[Predictions]) -> Iterator[Predictions]:
    """An RGB run and a flow run of the same videos as one; everything else as it is."""
    left = list(pieces)
    while left:
        one = left.pop(0)
        # Disjoint branches on the same videos: the two halves of a baseline, not two seeds.
        place = next((n for n, p in enumerate(left) if _are_halves(one, p)), None)
        if place is not None:
            half = left.pop(place)
            digests = {name: weights_digest(p, name) for p in (one, half) for name in p.scores}
            one = replace(
                one,
                scores={**one.scores, **half.scores},
                about={**one.about, WEIGHTS: digests},
            )
        yield one


def _are_halves(one: Predictions, other: Predictions) -> bool:
    # Of older files it is not known which shards they were scored from.
    digests = {p.about.get(DATASET) for p in (one, other)} - {None}
    return (
        one.keys == other.keys and not one.scores.keys() & other.scores.keys() and len(digests) < 2
    )


def chosen_by(sources: Sequence[Source]) -> str | None:
    """`testlist02.txt (SHA-256 0123456789ab)`, of the first that says so; None where none does."""
    for about in (source.predictions.about for source in sources):
        if sha256 := about.get("list_sha256"):
            return f"{Path(about['split']).name} (SHA-256 {sha256[:12]})"
    return None


def _about(sources: Sequence[Source]) -> dict[str, Any]:
    about = dict(sources[0].predictions.about)
    attending = (each for each in sources if each.predictions.about["kind"] in WITH_CMA)
    about["attention_at"] = next(attending, sources[0]).predictions.about["attention_at"]
    if any(each.predictions.about["dataset_kind"] != about["dataset_kind"] for each in sources):
        about["dataset_kind"] = None
    parts = {source.predictions.about.get("trainable", "all") for source in sources} - {"all"}
    about["trainable"] = min(parts, default="all")
    names = dict.fromkeys(Path(source.predictions.about["split"]).name for source in sources)
    about["split"] = " and ".join(names)
    return about
