"""Snippet starts: the worked examples, the edges, and what must hold for any video."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

# `snippets.test_starts` is called by its module: pytest would collect the bare name as a test.
from twinstream.errors import InputError
from twinstream.train.data import snippets
from twinstream.train.snippet_shape import SnippetShape

STACK = SnippetShape()

SIZES = {
    "valid": st.integers(1, 400),
    "segments": st.integers(1, 30),
    "stack_length": st.integers(1, 12),
}


@pytest.mark.parametrize(
    ("num_frames", "stack_length", "expected"), [(6, 5, 1), (14, 5, 9), (2, 1, 1), (300, 10, 290)]
)
def test_n_frames_have_n_minus_l_starts(num_frames: int, stack_length: int, expected: int) -> None:
    assert snippets.num_starts(num_frames, SnippetShape(fields=stack_length)) == expected


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
    drawn = np.array([snippets.train_starts(num_frames, 3, STACK, rng) for _ in range(200)])
    assert [set(column.tolist()) for column in drawn.T] == parts


def test_in_training_every_start_is_equally_likely() -> None:
    """5 starts in 3 parts: over all draws of the offsets each start is met the same number of
    times.
    """
    rng = np.random.default_rng(0)
    drawn = np.concatenate([snippets.train_starts(10, 3, STACK, rng) for _ in range(5000)])
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
    assert snippets.test_starts(num_frames, segments, STACK).tolist() == expected


@given(**SIZES, seed=st.integers(0, 2**32))
def test_every_snippet_lies_within_the_video(
    valid: int, segments: int, stack_length: int, seed: int
) -> None:
    num_frames = valid + stack_length
    shape, rng = SnippetShape(fields=stack_length), np.random.default_rng(seed)
    for starts in (
        snippets.train_starts(num_frames, segments, shape, rng),
        snippets.test_starts(num_frames, segments, shape),
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
    shape, rng = SnippetShape(fields=stack_length), np.random.default_rng(seed)
    starts = snippets.train_starts(valid + stack_length, segments, shape, rng)
    edges = np.arange(segments + 1) * valid / segments
    assert (starts > edges[:-1] - 1).all()
    assert (starts < edges[1:]).all()


@given(
    valid=st.integers(1, 400),
    segments=st.integers(1, 30),
    length=st.integers(1, 20),
    stride=st.integers(1, 5),
)
def test_every_frame_and_field_of_a_clip_lies_within_the_video(
    valid: int, segments: int, length: int, stride: int
) -> None:
    shape = SnippetShape(length, length, stride, has_time=True)
    num_frames = valid + shape.span
    assert snippets.num_starts(num_frames, shape) == valid
    rng = np.random.default_rng(0)
    for starts in (
        snippets.train_starts(num_frames, segments, shape, rng),
        snippets.test_starts(num_frames, segments, shape),
    ):
        assert starts[0] >= 0
        # The last field lies before the last frame.
        assert starts[-1] + (length - 1) * stride <= num_frames - 2


@given(**SIZES)
def test_starts_at_test_are_equally_spaced_and_centred(
    valid: int, segments: int, stack_length: int
) -> None:
    starts = snippets.test_starts(valid + stack_length, segments, SnippetShape(fields=stack_length))
    assert len(set(np.diff(starts).tolist())) <= 2
    assert np.abs(np.diff(starts) - valid / segments).max(initial=0) < 1
    assert abs((starts[0] + starts[-1]) - (valid - 1)) <= 1


def test_one_generator_state_gives_one_choice() -> None:
    first, second = (
        snippets.train_starts(100, 7, STACK, np.random.default_rng(4)) for _ in range(2)
    )
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize(
    ("num_frames", "length", "stride", "told"),
    [
        (
            16,
            16,
            1,
            "a clip of 16 frames needs at least 17; model.clip_length: 15 would fit",
        ),
        (
            31,
            16,
            2,
            "a clip of 16 frames, each 2 behind the other, needs at least 32; "
            "model.clip_stride: 1 or model.clip_length: 15 would fit",
        ),
        (
            10,
            16,
            2,
            "a clip of 16 frames, each 2 behind the other, needs at least 32; "
            "model.clip_length: 5 would fit",
        ),
        (1, 4, 1, "a clip of 4 frames needs at least 5"),
    ],
)
def test_too_few_frames_for_a_clip_are_told_with_settings_that_fit(
    num_frames: int, length: int, stride: int, told: str
) -> None:
    with pytest.raises(InputError) as caught:
        snippets.num_starts(num_frames, SnippetShape(length, length, stride, has_time=True))
    assert str(caught.value) == f"{num_frames} frames: {told}"


@given(num_frames=st.integers(2, 60), length=st.integers(2, 30), stride=st.integers(1, 6))
def test_the_settings_that_would_fit_are_the_largest_that_do(
    num_frames: int, length: int, stride: int
) -> None:
    shape = SnippetShape(length, length, stride, has_time=True)
    try:
        snippets.num_starts(num_frames, shape)
    except InputError as error:
        fits = {name: int(n) for name, n in re.findall(r"clip_(\w+): (\d+)", str(error))}
        if "stride" not in fits:
            assert num_frames <= length
        for name, value in fits.items():
            larger = {"length": length, "stride": stride} | {name: value + 1}
            fitting = larger | {name: value}
            assert num_frames > (fitting["length"] - 1) * fitting["stride"] + 1
            assert num_frames <= (larger["length"] - 1) * larger["stride"] + 1


@pytest.mark.parametrize("num_frames", [0, 1, 5])
def test_too_few_frames_for_one_stack_are_told(num_frames: int) -> None:
    message = f"{num_frames} frames: a snippet of 5 flow fields needs at least 6"
    with pytest.raises(InputError, match=message):
        snippets.test_starts(num_frames, 3, STACK)
    with pytest.raises(InputError, match=message):
        snippets.train_starts(num_frames, 3, STACK, np.random.default_rng(0))
