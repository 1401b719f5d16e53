"""The toy set: its table allows exactly the ceilings it claims, and neither trap is open."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from twinstream.preprocess.duet import (
    CEILINGS,
    HUES,
    LUMA,
    NUM_CLASSES,
    OTHER_HUES,
    TABLE,
    colour_of,
    draw_video,
)


def best_alone(rows: tuple[tuple[int, ...], ...]) -> float:
    """Accuracy of the best guess when only the row is known."""
    return sum(max(row.count(label) for label in row) for row in rows) / 16


def test_colour_or_motion_alone_allow_a_quarter() -> None:
    assert best_alone(TABLE) == CEILINGS["rgb"]
    assert best_alone(tuple(zip(*TABLE, strict=True))) == CEILINGS["flow"]


def test_every_class_is_as_frequent_as_every_other() -> None:
    assert np.bincount(np.ravel(TABLE)).tolist() == [2] * NUM_CLASSES


def test_the_sum_of_the_scores_of_the_best_single_guesses_allows_half() -> None:
    # The best score from colour alone is uniform over the row's labels; so is that from motion over
    # the column's. Their sum is highest at the labels in both; a pair's own label is one of exactly
    # two.
    right = 0.0
    for a, m in product(range(4), range(4)):
        both = set(TABLE[a]) & {TABLE[b][m] for b in range(4)}
        assert TABLE[a][m] in both
        right += 1 / len(both)
    assert right / 16 == CEILINGS["two-stream"]


def test_scores_made_for_their_sum_can_tell_all_pairs_but_one() -> None:
    # Found by integer programming, which also says that no scores tell 16.
    of_colour = [
        [0, 2, 3, 2, 0, 0, 0, 0],
        [0, 0, 6, 3, 4, 0, 0, 0],
        [0, 0, 0, 0, 6, 9, 4, 8],
        [0, 1, 0, 0, 0, 0, 3, 1],
    ]
    of_motion = [
        [7, 0, 3, 0, 4, 0, 5, 0],
        [0, 5, 0, 4, 0, 6, 0, 6],
        [4, 0, 0, 3, 3, 0, 0, 2],
        [0, 9, 9, 0, 0, 0, 6, 0],
    ]
    right = 0
    for a, m in product(range(4), range(4)):
        scores = np.add(of_colour[a], of_motion[m])
        right += scores[TABLE[a][m]] > np.delete(scores, TABLE[a][m]).max()
    assert right == 15


@pytest.mark.parametrize("hues", [HUES, OTHER_HUES])
@pytest.mark.parametrize("colour", range(4))
def test_colours_have_the_same_luma(colour: int, hues: NDArray[np.float64]) -> None:
    assert colour_of(colour, hues) @ LUMA == pytest.approx(100)
    assert colour_of(colour, hues).max() * 1.25 < 255


def test_the_blob_moves_where_its_direction_says() -> None:
    for motion, step in enumerate([(1, 0), (0, 1), (-1, 0), (0, -1)]):
        frames = draw_video(np.random.default_rng(7), 0, motion, 64, 3).astype(int)
        redness = frames[..., 0] - frames[..., 2] > 60
        # Centroids on the torus: angles of the mean phase.
        places = [np.exp(2j * np.pi * np.argwhere(mask)[:, ::-1] / 64).mean(0) for mask in redness]
        shift = np.angle(places[1] / places[0]) * 64 / (2 * np.pi)
        assert np.dot(shift, step) > 1.4
        assert abs(np.dot(shift, step[::-1])) < 0.3


def test_where_the_blob_is_says_nothing_about_where_it_goes() -> None:
    first = draw_video(np.random.default_rng(3), 1, 0, 64, 1)
    assert all((draw_video(np.random.default_rng(3), 1, m, 64, 1) == first).all() for m in range(4))
