"""Where a video's snippets start: TSN's sampling as index arithmetic (paper, section 4.2).

A snippet that starts at t is frame t and the stack of flow fields [t, t + L). N frames have N - 1
fields, so the valid starts are [0, N - L). Both samplers cut that range into K equal parts, on the
integers 0 .. K*(N - L) - 1 divided by K: exact where K does not divide N - L, every start equally
likely, none left over at the end. A video with fewer starts than segments gets neighbouring parts
with the same start; only a video with too few frames is refused.
"""

import numpy as np
from numpy.typing import NDArray

from twinstream.errors import InputError


def num_starts(num_frames: int, stack_length: int) -> int:
    """How many snippets fit: 6 frames and stacks of 5 -> 1. InputError when none does."""
    if num_frames <= stack_length:
        raise InputError(
            f"{num_frames} frames: a snippet of {stack_length} flow fields needs at least "
            f"{stack_length + 1}"
        )
    return num_frames - stack_length


def train_starts(
    num_frames: int, segments: int, stack_length: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """(K,) int64 ascending, one start drawn from each of K equal parts of the valid range.

    14 frames, stacks of 5, 3 segments: starts 0..8 in parts {0 1 2} {3 4 5} {6 7 8}.
    7 frames: starts 0..1, parts {0} {0 1} {1}.
    """
    valid = num_starts(num_frames, stack_length)
    offsets = rng.integers(valid, size=segments, dtype=np.int64)
    return (np.arange(segments, dtype=np.int64) * valid + offsets) // segments


def test_starts(num_frames: int, segments: int, stack_length: int) -> NDArray[np.int64]:
    """(K,) int64 ascending, the middle of each of K equal parts of the valid range.

    14 frames, stacks of 5: 3 segments -> 1 4 7, 1 segment -> 4. 6 frames, 3 segments -> 0 0 0.
    """
    valid = num_starts(num_frames, stack_length)
    return (2 * np.arange(segments, dtype=np.int64) + 1) * valid // (2 * segments)
