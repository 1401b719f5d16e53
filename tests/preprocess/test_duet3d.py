"""duet3d: its ceilings counted over everything that a video can be and a snippet can show."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from itertools import product

import numpy as np
import pytest

from twinstream.preprocess.duet import TABLE
from twinstream.preprocess.duet3d import (
    CEILINGS,
    CLIP_LENGTH,
    CLIP_STRIDE,
    SNIPPET_CEILING,
    STEPS,
    draw_video,
)

STACK = 5
NUM_FIELDS = 2 * len(STEPS) - 1
# (colour, motion, start of a 2-D snippet)
STATES = list(product(range(4), range(4), range(NUM_FIELDS - STACK + 1)))


def fields(m: int) -> list[Hashable]:
    """What each flow field shows: a direction, 0 for a rest, or a jump to another place."""
    # Steps against a direction are those along the one opposite to it.
    shown = [0 if step == 0 else f"to {(m if step > 0 else m + 2) % 4}" for step in STEPS]
    return [shown[n // 2] if n % 2 == 0 else "jump" for n in range(NUM_FIELDS)]


def clip(m: int) -> tuple[Hashable, ...]:
    """The fields of a clip."""
    return tuple(fields(m)[::CLIP_STRIDE][:CLIP_LENGTH])


def snippet(m: int, t: int) -> tuple[Hashable, ...]:
    """The stack of a 2-D snippet that starts at t."""
    return tuple(fields(m)[t : t + STACK])


def bag(m: int) -> Hashable:
    """All 2-D snippets of a video, without their places in it."""
    return frozenset(Counter(snippet(m, t) for t in range(NUM_FIELDS - STACK + 1)).items())


def best(knows: Callable[[int, int, int], Hashable]) -> float:
    """Accuracy of the best guess of the class by one who knows that of each state."""
    labels: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for a, m, t in STATES:
        labels[knows(a, m, t)][TABLE[a][m]] += 1
    return sum(max(each.values()) for each in labels.values()) / len(STATES)


@pytest.mark.parametrize(
    ("knows", "ceiling"),
    [
        (lambda a, m, t: a, CEILINGS["rgb"]),
        (lambda a, m, t: clip(m), CEILINGS["flow"]),
        (lambda a, m, t: (a, bag(m)), CEILINGS["2-D"]),
        (lambda a, m, t: (a, snippet(m, t)), SNIPPET_CEILING),
        (lambda a, m, t: (a, clip(m)), CEILINGS["CMA"]),
    ],
    ids=["rgb", "flow", "2-D", "one snippet", "clip"],
)
def test_the_best_guess_of_who_knows_that_much_is_right_that_often(
    knows: Callable[[int, int, int], Hashable], ceiling: float
) -> None:
    assert best(knows) == pytest.approx(ceiling)


def test_the_sum_of_scores_of_colour_and_clip_leaves_two_classes() -> None:
    # As of duet: the best score from one of them is even over the classes that it leaves.
    right = 0.0
    for a, m in product(range(4), range(4)):
        both = set(TABLE[a]) & {
            TABLE[b][n] for b, n in product(range(4), range(4)) if clip(n) == clip(m)
        }
        assert TABLE[a][m] in both
        right += 1 / len(both)
    assert right / 16 == CEILINGS["two-stream"]


def test_no_stack_of_five_fields_shows_both_motions() -> None:
    for _, m, t in STATES:
        assert len({*snippet(m, t)} - {0, "jump"}) <= 1


@pytest.mark.parametrize("t", [0, 1])
def test_frames_of_a_clip_are_the_same_whatever_the_motion(t: int) -> None:
    # Odd frames show the steps, but not where they began.
    clips = [draw_video(np.random.default_rng(3), 1, m, 32)[t::CLIP_STRIDE] for m in range(4)]
    assert len(clips[0]) == CLIP_LENGTH
    same = [bool((each == clips[0]).all()) for each in clips]
    assert same == ([True] * 4 if t == 0 else [True, False, False, False])


def test_a_pair_shows_its_step_and_every_pair_another_place() -> None:
    frames = draw_video(np.random.default_rng(7), 0, 0, 64).astype(int)
    assert len(frames) == NUM_FIELDS + 1
    redness = frames[..., 0] - frames[..., 2] > 60
    # Centroids on the torus, along x and y: angles of the mean phase.
    places = np.array(
        [np.exp(2j * np.pi * np.argwhere(mask)[:, ::-1] / 64).mean(0) for mask in redness]
    )
    shifts = np.angle(places[1:] / places[:-1]) * 64 / (2 * np.pi)
    steps, jumps = shifts[::2], shifts[1::2]
    assert np.sign(np.rint(steps[:, 0])).astype(int).tolist() == list(STEPS)
    assert np.abs(steps[:, 1]).max() < 0.3
    assert np.median(np.abs(jumps)) > 5
