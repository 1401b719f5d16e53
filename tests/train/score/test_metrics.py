"""Accuracies on tables small enough to count by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstream.train.score.metrics import (
    bootstrap_interval,
    confusion_matrix,
    fuse,
    per_class_accuracy,
    ranked_classes,
    top_k_accuracy,
)

SCORES = np.array(
    [[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.1, 0.6, 0.3], [0.4, 0.5, 0.1]], dtype=np.float32
)
LABELS = np.array([0, 1, 1, 0])


@pytest.mark.parametrize(("k", "expected"), [(1, 0.5), (2, 1.0), (3, 1.0), (5, 1.0)])
def test_top_k_counts_labels_among_the_k_best(k: int, expected: float) -> None:
    assert top_k_accuracy(SCORES, LABELS, k) == expected


def test_the_accuracy_of_no_videos_is_not_a_number() -> None:
    assert np.isnan(top_k_accuracy(np.zeros((0, 3)), np.zeros(0, dtype=int), 1))


def test_equal_scores_rank_by_class_number() -> None:
    assert ranked_classes(np.array([[0.2, 0.5, 0.5], [1.0, 1.0, 1.0]])).tolist() == [
        [1, 2, 0],
        [0, 1, 2],
    ]
    assert top_k_accuracy(np.zeros((4, 40)), np.array([0, 4, 5, 39]), 5) == 0.5


def test_ties_among_many_classes_rank_by_class_number_too() -> None:
    """Long enough a row that an unstable sort would leave its insertion sort for the shuffling
    part.
    """
    scores = np.random.default_rng(0).integers(0, 3, (20, 400)).astype(np.float32)
    for row, ranked in zip(scores, ranked_classes(scores), strict=True):
        assert ranked.tolist() == sorted(range(400), key=lambda number: (-row[number], number))


def test_a_score_that_is_not_a_number_ranks_last() -> None:
    assert ranked_classes(np.array([[np.nan, -5.0, 1.0]])).tolist() == [[2, 1, 0]]


def test_confusions_have_a_row_for_each_label_and_a_column_for_each_answer() -> None:
    assert confusion_matrix(SCORES, LABELS).tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_a_class_without_videos_has_no_accuracy() -> None:
    np.testing.assert_array_equal(per_class_accuracy(SCORES, LABELS), [0.5, 0.5, np.nan])


def test_fused_scores_are_the_weighted_sum() -> None:
    rgb, flow = np.array([[1.0, 2.0]]), np.array([[10.0, 0.0]])
    assert fuse(rgb, flow, (1, 5)).tolist() == [[51.0, 2.0]]
    assert fuse(rgb, flow, (5, 1)).tolist() == [[15.0, 10.0]]


def test_fusing_each_view_and_then_the_mean_is_fusing_the_means() -> None:
    rng = np.random.default_rng(0)
    rgb, flow = rng.normal(size=(2, 6, 250, 8))
    by_view = fuse(rgb.reshape(-1, 8), flow.reshape(-1, 8), (1, 5)).reshape(rgb.shape).mean(axis=1)
    np.testing.assert_allclose(fuse(rgb.mean(axis=1), flow.mean(axis=1), (1, 5)), by_view)


@given(st.integers(1, 30), st.integers(2, 9), st.integers(0, 2**32))
def test_all_accuracies_agree_with_the_confusions(videos: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = (
        rng.integers(0, 4, (videos, classes)).astype(float),
        rng.integers(0, classes, videos),
    )
    confusion = confusion_matrix(scores, labels)
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=classes).tolist()
    assert top_k_accuracy(scores, labels, 1) == pytest.approx(np.trace(confusion) / videos)
    weights = np.bincount(labels, minlength=classes) / videos
    assert np.nansum(per_class_accuracy(scores, labels) * weights) == pytest.approx(
        np.trace(confusion) / videos
    )
    assert top_k_accuracy(scores, labels, classes) == 1


def test_the_bootstrap_draws_videos_as_counted_by_hand() -> None:
    # Tens of the mean are binomial (10, 0.1): 35 % are 0, 93.0 % at most 2 and 98.7 % at most 3.
    values = np.eye(10)[0]
    assert bootstrap_interval(values, list("abcdefghij")) == (0.0, pytest.approx(0.3))
    # Of a pair one model is right where the other is wrong, and once the reverse.
    low, high = bootstrap_interval(np.array([1.0, -1.0]), ["a", "b"])
    assert (low, high) == (-1.0, 1.0)


def test_the_bootstrap_counts_what_stands_together_once() -> None:
    values, groups = np.eye(10)[0], [*"abcdefghij"]
    alone = bootstrap_interval(values, groups)
    assert bootstrap_interval(np.repeat(values, 4), np.repeat(groups, 4).tolist()) == alone
    # By themselves 40 videos, 4 of them right, are binomial (40, 0.1): 97.5 % are at most 8.
    apart = bootstrap_interval(np.repeat(values, 4), [str(video) for video in range(40)])
    assert apart == (pytest.approx(0.025), pytest.approx(0.2))


def test_the_bootstrap_weighs_groups_by_their_videos() -> None:
    # Two draws of a (1 of 1) and b (0 of 3): both a 1, both b 0, one of each 1 of 4.
    assert bootstrap_interval(np.array([1.0, 0, 0, 0]), ["a", "b", "b", "b"]) == (0.0, 1.0)
