"""The figures of the proofs on real actions, with intervals, and their tables.

A video's figure is the mean over the folds that test it, so seeds do not count it as several.
Videos of one person doing one action are alike: intervals are those of a bootstrap that draws all
of them together.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from twinstream.train.score.metrics import (
    Weights,
    bootstrap_interval,
    confusion_matrix,
    fuse,
    ranked_classes,
)
from twinstream.train.score.predictions import Predictions

LATE_FUSION = "late_fusion"
CMA_RUNS = ("cma", "cma_res4")
# Behind the name of a run: the same without its CMA blocks
BLOCKS_OUT = ", blocks out"
# Name in the tables -> run, weights of the RGB and flow scores
MODELS: dict[str, tuple[str, Weights]] = {
    "rgb": ("two_stream", (1, 0)),
    "flow": ("two_stream", (0, 1)),
    "two-stream, 1:1": ("two_stream", (1, 1)),
    "non-local rgb": ("nonlocal", (1, 0)),
    "non-local flow": ("nonlocal", (0, 1)),
    "non-local two-stream, 1:1": ("nonlocal", (1, 1)),
    "late fusion, learnt": (LATE_FUSION, (1, 1)),
    "CMA iter1-R": ("cma", (1, 0)),
    "CMA iter1-R, blocks out": ("cma" + BLOCKS_OUT, (1, 0)),
    "CMA iter1-S, 5:1": ("cma", (5, 1)),
    "CMA behind res4, R": ("cma_res4", (1, 0)),
    "CMA behind res4, R, blocks out": ("cma_res4" + BLOCKS_OUT, (1, 0)),
    "CMA behind res4, S, 5:1": ("cma_res4", (5, 1)),
    "its control, R": ("control", (1, 0)),
    "its control, 1:1": ("control", (1, 1)),
}
COMPARED = [
    *(
        (model, rival)
        for model, (run, _) in MODELS.items()
        if run in CMA_RUNS
        for rival in ("two-stream, 1:1", "late fusion, learnt")
    ),
    ("CMA behind res4, R", "its control, R"),
    ("CMA behind res4, S, 5:1", "its control, 1:1"),
]
CONFUSED = ("rgb", "flow", "two-stream, 1:1", "CMA iter1-R", "CMA behind res4, R")
# Of each run, fold by fold
Tested = Mapping[str, Sequence[Predictions]]


def right(folds: Iterable[Predictions], weights: Weights) -> dict[str, float]:
    """Of each video, by key, the part of the folds that rank its own class first.

    Ranked by the weighted sum of both branches' scores.
    """
    found: dict[str, list[bool]] = {}
    for fold in folds:
        best = ranked_classes(fuse(fold.scores["rgb"], fold.scores["flow"], weights))[:, 0]
        for key, is_right in zip(fold.keys, best == fold.labels, strict=True):
            found.setdefault(key, []).append(bool(is_right))
    return {key: sum(each) / len(each) for key, each in sorted(found.items())}


def mean_top1(folds: Sequence[Predictions], weights: Weights) -> float:
    """Top-1 in [0, 1] over the videos of all folds."""
    return float(np.mean([*right(folds, weights).values()]))


def interval(values: Mapping[str, float], alike: str) -> tuple[float, float]:
    """The 95 % interval of the mean over videos, those that are alike drawn together."""
    groups = ["".join(re.findall(alike, key)[0]) for key in values]
    return bootstrap_interval(np.array([*values.values()]), groups)


def accuracy_table(tested: Tested, alike: str) -> str:
    """Top-1 of each model: the mean over folds, its interval over videos, and each fold's."""
    lines = ["| | top-1 | 95 % interval | each |", "|---|---|---|---|"]
    for name, (run, weights) in MODELS.items():
        if run not in tested:
            continue
        folds = tested[run]
        low, high = interval(right(folds, weights), alike)
        each = ", ".join(f"{100 * mean_top1([fold], weights):.1f}" for fold in folds)
        top1 = f"{mean_top1(folds, weights):.1%} | {low:.0%} to {high:.0%}"
        lines.append(f"| {name} | {top1} | {each} |")
    return "\n".join(lines)


def difference_table(tested: Tested, alike: str) -> str:
    """CMA's top-1 less its rivals', on the same videos, in points, with the interval."""
    lines = ["| | difference | 95 % interval | |", "|---|---|---|---|"]
    for model, rival in COMPARED:
        if MODELS[model][0] not in tested:
            continue
        ours, theirs = (
            right(tested[run], weights) for run, weights in (MODELS[model], MODELS[rival])
        )
        values = {key: ours[key] - theirs[key] for key in ours}
        low, high = interval(values, alike)
        verdict = "above" if low > 0 else "below" if high < 0 else "no difference can be shown"
        mean = np.mean([*values.values()])
        lines.append(
            f"| {model} less {rival} | {100 * mean:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} | "
            f"{verdict} |"
        )
    return "\n".join(lines)


def confusions(tested: Tested) -> dict[str, NDArray[np.int64]]:
    """(C, C) counts of each model that is looked at, over all folds: row = class, column = best."""
    return {
        name: np.sum(
            [
                confusion_matrix(fuse(p.scores["rgb"], p.scores["flow"], weights), p.labels)
                for p in tested[run]
            ],
            axis=0,
        )
        for name, (run, weights) in MODELS.items()
        if name in CONFUSED and run in tested
    }


def confusion_table(found: Mapping[str, NDArray[np.int64]], classes: Sequence[str]) -> str:
    """A row for each class; a cell has the counts of what its videos are taken for, in order."""
    lines = [f"| taken for {', '.join(classes)} | {' | '.join(found)} |"]
    lines.append("|---" * (1 + len(found)) + "|")
    for number, name in enumerate(classes):
        cells = (" ".join(map(str, matrix[number])) for matrix in found.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
