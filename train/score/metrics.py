"""From video scores to numbers: accuracies, confusions and the weighted sum of the two branches.

scores is (V, C) float, one row for each video, already the mean over its views; labels is (V,)
integers in [0, C). Equal scores rank by class number, the lower first, so that no number depends on
the sorting algorithm.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of the RGB and the flow scores in a sum
Weights = tuple[float, float]
EQUAL, RGB_FIRST, FLOW_FIRST = (1.0, 1.0), (5.0, 1.0), (1.0, 5.0)

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

# The paper's weighted sums of both branches: (weight of RGB, weight of flow)
FUSION_WEIGHTS: dict[str, Weights] = {"1:1": EQUAL, "5:1": RGB_FIRST, "1:5": FLOW_FIRST}


def fuse(rgb: Scores, flow: Scores, weights: Weights) -> Scores:
    """(V, C), (V, C) -> (V, C), weights[0] * rgb + weights[1] * flow.

    The paper takes the sum for each frame and then the mean. Both are linear, so the sum of the
    means is the same.
    """
    return weights[0] * rgb + weights[1] * flow


def fusion_weights(iteration: int) -> Weights:
    """The paper's weights after an iteration: 0 -> 1:1, 1 and 3 -> 5:1, 2 -> 1:5.

    The branch that was trained last counts five times.
    """
    if iteration == 0:
        return EQUAL
    return RGB_FIRST if iteration % 2 else FLOW_FIRST


def ranked_classes(scores: Scores) -> NDArray[np.int64]:
    """(V, C) -> (V, C) class numbers, best first, NaN last. [[.2, .5, .5]] -> [[1, 2, 0]]."""
    return np.argsort(-scores, axis=1, kind="stable")


def top_k_accuracy(scores: Scores, labels: Labels, k: int) -> float:
    """Part of the videos, in [0, 1], whose label is among their k best classes; NaN for none.

    With k >= C it is 1.0.
    """
    if len(labels) == 0:
        return float("nan")
    hits = (ranked_classes(scores)[:, :k] == labels[:, None]).any(axis=1)
    return float(hits.mean())


def confusion_matrix(scores: Scores, labels: Labels) -> NDArray[np.int64]:
    """(C, C) int64 counts of videos: row = label, column = best class."""
    num_classes = scores.shape[1]
    cells = labels.astype(np.int64) * num_classes + ranked_classes(scores)[:, 0]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class_accuracy(scores: Scores, labels: Labels) -> NDArray[np.float64]:
    """(C,) float64 top-1 accuracy of each class's own videos; NaN for a class that has none."""
    return accuracy_by_class(confusion_matrix(scores, labels))


def accuracy_by_class(confusion: NDArray[np.number[Any]]) -> NDArray[np.float64]:
    """(C, C) videos by label and best class -> (C,), as `per_class_accuracy`."""
    totals = confusion.sum(axis=1)
    accuracy = np.full(len(totals), np.nan)
    np.divide(confusion.diagonal(), totals, out=accuracy, where=totals > 0)
    return accuracy


def bootstrap_interval(
    values: NDArray[np.floating[Any]], groups: Sequence[str], draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the mean of (V,) values by a bootstrap (percentiles) over groups.

    Values of one group stand or fall together, so all of a group are drawn at once. Of a paired
    comparison the values are one model's hits less the other's, video by video.
    """
    _, members = np.unique(np.asarray(groups), return_inverse=True)
    sums, sizes = np.bincount(members, weights=values), np.bincount(members)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)
