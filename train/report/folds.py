"""Folds and repeats: the table of each fold's accuracy, and how many runs a number stands for.

Over folds the field's figure for UCF-101 and HMDB-51 is the mean of their accuracies, whatever
their sizes; all videos as one pool give another where sizes differ. Both are shown, by name.
"""

from itertools import combinations

import numpy as np

from twinstream.train.report.evidence import Evidence
from twinstream.train.report.sources import Variant
from twinstream.train.report.tables import SCORES, Cell, Table, gaps, weights_of


def folds_table(evidence: Evidence) -> Table:
    """Top-1 of each fold, their mean and the pooled figure, a row for each network and score."""
    numbers = range(1, len(evidence.folds) + 1)
    sizes = [len(fold.keys) for fold in evidence.folds]
    rows: list[list[Cell]] = []
    for variant in evidence.variants:
        for score in SCORES:
            weights = weights_of(variant, score)
            folds = evidence.fold_accuracies(variant, weights)
            found = [top1 for top1 in folds if top1 is not None]
            mean = evidence.accuracy(variant, weights)
            pooled = float(np.average(found, weights=sizes)) if mean else None
            figures = (*folds, mean.top1 if mean else None, pooled)
            if found:
                cells = (None if figure is None else 100 * figure for figure in figures)
                rows.append([str(variant), score_name(variant, score), *cells])
    named = (f"fold {n} is {fold}" for n, fold in zip(numbers, evidence.folds, strict=True))
    note = (
        f"Top-1; {', '.join(named)}. The mean over folds is the figure of the other tables; pooled "
        "is that of all videos in one pool, as are accuracies of single categories: a video that "
        "several folds test counts once for each."
    )
    columns = ("network", "score", *(f"fold {n}" for n in numbers), "mean over folds", "pooled")
    return Table("folds", "Folds", columns, rows, note, gaps(evidence, tuple(evidence.variants)))


def overlap_notes(evidence: Evidence) -> list[str]:
    """A line on every two folds that share more than half of the smaller one's videos.

    Such are less likely a cross-validation than one split with a video missing here and there.
    """
    sets = [(number, {*fold.keys}) for number, fold in enumerate(evidence.folds, start=1)]
    notes = []
    for (n, one), (m, other) in combinations(sets, 2):
        shared, size = len(one & other), min(len(one), len(other))
        if 2 * shared > size:
            notes.append(f"fold {n} and fold {m} share {shared} of {size} videos")
    return notes


def repeats_notes(evidence: Evidence) -> list[str]:
    """How many runs a number is the mean of; none where every number is that of one run.

    `runs behind a number: baseline 3; cma iter1 RGB 2, flow 1, both 2`, folds as 3/3/2.
    """
    counts: dict[Variant, dict[str, str]] = {}
    several = False
    for variant in evidence.variants:
        for score in SCORES:
            numbers = [
                len(found) for found in evidence.repeats(variant, weights_of(variant, score))
            ]
            several = several or max(numbers) > 1
            if any(numbers):
                text = "/".join(map(str, numbers if len({*numbers}) > 1 else numbers[:1]))
                counts.setdefault(variant, {})[score_name(variant, score)] = text
    if not several:
        return []
    parts = []
    for variant, each in counts.items():
        same = len({*each.values()}) == 1
        scores = (f"{name} {text}" for name, text in each.items())
        parts.append(f"{variant} {next(iter(each.values())) if same else ', '.join(scores)}")
    return [f"runs behind a number, whose mean it is: {'; '.join(parts)}"]


def score_name(variant: Variant, score: str) -> str:
    """RGB, flow, or both with the weights of their sum: `both 5:1`."""
    rgb, flow = weights_of(variant, score)
    return {"R": "RGB", "F": "flow"}.get(score, f"both {rgb:.0f}:{flow:.0f}")
