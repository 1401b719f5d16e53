"""Where a video's snippets start: TSN's sampling as index arithmetic (paper, section 4.2).

A snippet that starts at t has its flow fields within [t, t + span); of a stack of L fields, span is
L. N frames have N - 1 fields, so the valid starts are [0, N - span). Both samplers cut that range
into K equal parts, on the integers 0 .. K*(N - span) - 1 divided by K: exact where K does not
divide N - span, every start equally likely, none left over at the end. A video with fewer starts
than segments gets neighbouring parts with the same start; only a video with too few frames is
refused.
"""

import numpy as np
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.train.snippet_shape import SnippetShape


def num_starts(num_frames: int, shape: SnippetShape) -> int:
    """How many snippets fit: 6 frames and stacks of 5 -> 1. InputError when none does."""
    if num_frames <= shape.span:
        what = _clip(shape) if shape.has_time else f"a snippet of {shape.fields} flow fields"
        raise InputError(
            f"{num_frames} frames: {what} needs at least {shape.span + 1}"
            f"{_what_fits(num_frames, shape)}"
        )
    return num_frames - shape.span


def _clip(shape: SnippetShape) -> str:
    every = f", each {shape.stride} behind the other," if shape.stride > 1 else ""
    return f"a clip of {shape.frames} frames{every}"


def _what_fits(num_frames: int, shape: SnippetShape) -> str:
    """The largest settings of a clip with which the video is long enough."""
    # Of a single frame there is no motion, and no setting helps.
    if not shape.has_time or num_frames < 2:
        return ""
    fits = [f"model.clip_length: {(num_frames - 2) // shape.stride + 1}"]
    if shape.fields <= num_frames - 1:
        fits.insert(0, f"model.clip_stride: {(num_frames - 2) // (shape.fields - 1)}")
    return f"; {' or '.join(fits)} would fit"


def train_starts(
    num_frames: int, segments: int, shape: SnippetShape, rng: np.random.Generator
) -> NDArray[np.int64]:
    """(K,) int64 ascending, one start drawn from each of K equal parts of the valid range.

    14 frames, stacks of 5, 3 segments: starts 0..8 in parts {0 1 2} {3 4 5} {6 7 8}.
    7 frames: starts 0..1, parts {0} {0 1} {1}.
    """
    valid = num_starts(num_frames, shape)
    offsets = rng.integers(valid, size=segments, dtype=np.int64)
    return (np.arange(segments, dtype=np.int64) * valid + offsets) // segments


def test_starts(num_frames: int, segments: int, shape: SnippetShape) -> NDArray[np.int64]:
    """(K,) int64 ascending, the middle of each of K equal parts of the valid range.

    14 frames, stacks of 5: 3 segments -> 1 4 7, 1 segment -> 4. 6 frames, 3 segments -> 0 0 0.
    """
    valid = num_starts(num_frames, shape)
    return (2 * np.arange(segments, dtype=np.int64) + 1) * valid // (2 * segments)
