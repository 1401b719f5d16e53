"""Snippet starts: the worked examples, the edges, and what must hold for any video."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

# `snippets.test_starts` is called by its module: pytest would collect the bare name as a test.
from twinstream.errors import InputError
from twinstream.train.data import snippets

SIZES = {
    "valid": st.integers(1, 400),
    "segments": st.integers(1, 30),
    "stack_length": st.integers(1, 12),
}


@pytest.mark.parametrize(
    ("num_frames", "stack_length", "expected"), [(6, 5, 1), (14, 5, 9), (2, 1, 1), (300, 10, 290)]
)
def test_n_frames_have_n_minus_l_starts(num_frames: int, stack_length: int, expected: int) -> None:
    assert snippets.num_starts(num_frames, stack_length) == expected


@pytest.mark.parametrize(
    ("num_frames", "parts"),
    [
        (14, [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]),
        (7, [{0}, {0, 1}, {1}]),
        (6, [{0}, {0}, {0}]),
        (10, [{0, 1}, {1, 2, 3}, {3, 4}]),
    ],
)
def test_in_training_each_start_comes_from_its_own_part_and_the_whole_of_it(
    num_frames: int, parts: list[set[int]]
) -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([snippets.train_starts(num_frames, 3, 5, rng) for _ in range(200)])
    assert [set(column.tolist()) for column in drawn.T] == parts


def test_in_training_every_start_is_equally_likely() -> None:
    """5 starts in 3 parts: over all draws of the offsets each start is met the same number of
    times.
    """
    rng = np.random.default_rng(0)
    drawn = np.concatenate([snippets.train_starts(10, 3, 5, rng) for _ in range(5000)])
    counts = np.bincount(drawn, minlength=5)
    assert counts.sum() == 15_000
    assert np.abs(counts - 3000).max() < 250


@pytest.mark.parametrize(
    ("num_frames", "segments", "expected"),
    [
        (14, 3, [1, 4, 7]),
        (14, 1, [4]),
        (15, 1, [5]),
        (6, 3, [0, 0, 0]),
        (7, 3, [0, 1, 1]),
        (30, 25, list(range(25))),
        (255, 5, [25, 75, 125, 175, 225]),
    ],
)
def test_at_test_starts_are_the_middles_of_equal_parts(
    num_frames: int, segments: int, expected: list[int]
) -> None:
    assert snippets.test_starts(num_frames, segments, 5).tolist() == expected


@given(**SIZES, seed=st.integers(0, 2**32))
def test_every_snippet_lies_within_the_video(
    valid: int, segments: int, stack_length: int, seed: int
) -> None:
    num_frames = valid + stack_length
    rng = np.random.default_rng(seed)
    for starts in (
        snippets.train_starts(num_frames, segments, stack_length, rng),
        snippets.test_starts(num_frames, segments, stack_length),
    ):
        assert starts.shape == (segments,)
        assert starts.dtype == np.int64
        assert (np.diff(starts) >= 0).all()
        assert starts[0] >= 0
        last_field = starts[-1] + stack_length - 1
        assert last_field <= num_frames - 2


@given(**SIZES, seed=st.integers(0, 2**32))
def test_each_training_start_lies_in_its_part(
    valid: int, segments: int, stack_length: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    starts = snippets.train_starts(valid + stack_length, segments, stack_length, rng)
    edges = np.arange(segments + 1) * valid / segments
    assert (starts > edges[:-1] - 1).all()
    assert (starts < edges[1:]).all()


@given(**SIZES)
def test_starts_at_test_are_equally_spaced_and_centred(
    valid: int, segments: int, stack_length: int
) -> None:
    starts = snippets.test_starts(valid + stack_length, segments, stack_length)
    assert len(set(np.diff(starts).tolist())) <= 2
    assert np.abs(np.diff(starts) - valid / segments).max(initial=0) < 1
    assert abs((starts[0] + starts[-1]) - (valid - 1)) <= 1


def test_one_generator_state_gives_one_choice() -> None:
    first, second = (snippets.train_starts(100, 7, 5, np.random.default_rng(4)) for _ in range(2))
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize("num_frames", [0, 1, 5])
def test_too_few_frames_for_one_stack_are_told(num_frames: int) -> None:
    message = f"{num_frames} frames: a snippet of 5 flow fields needs at least 6"
    with pytest.raises(InputError, match=message):
        snippets.test_starts(num_frames, 3, 5)
    with pytest.raises(InputError, match=message):
        snippets.train_starts(num_frames, 3, 5, np.random.default_rng(0))
