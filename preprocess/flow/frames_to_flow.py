"""TV-L1 flow of frames that are in memory: `twinstream.tvl1`.

An engine that was opened is kept for the next call with the same parameters: the memory it works in
need not be made again. One call computes at a time, because an engine works in that memory.
"""

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinstream.cores import usable_cores
from twinstream.errors import InputError
from twinstream.preprocess.flow.engine import Engine, Gray, TvL1Params
from twinstream.preprocess.flow.engines import open_engine, resolve_engine
from twinstream.preprocess.flow.tvl1_settings import TvL1Settings
from twinstream.section import build_settings

KEPT_ENGINES = 2
_computing = Lock()


def tvl1(
    frames: NDArray[np.uint8] | Sequence[ArrayLike],
    engine: str = "auto",
    threads: int | None = None,
    **params: Any,
) -> NDArray[np.float32]:
    """TV-L1: (T, H, W) gray or (T, H, W, 3) RGB uint8 -> (T - 1, H, W, 2) float32 pixels (dx, dy).

    Flow t is the motion from frame t to frame t + 1. `frames` is an array or a list of images.
    `engine` is auto (the fastest one on this machine: cuda with a GPU, else numba) or one that
    `twinstream doctor` lists; `threads` are CPU cores, all when None. `params` are TV-L1's under
    OpenCV's names (tau, lambda_, theta, scales, warps, epsilon, iterations, scale_step, median).
    InputError for other shapes or types, sides below 16 pixels, and an engine that is not here.
    """
    given = build_settings(TvL1Settings, dict(params), source="tvl1").params()
    gray = gray_frames(_stacked(frames))
    cores = usable_cores() if threads is None else threads
    # An engine works in memory of its own: two threads in it would mix their frames.
    with _computing:
        return _opened(resolve_engine(engine), given, cores)(gray)


def gray_frames(frames: NDArray[np.uint8]) -> Gray:
    """(T, H, W, 3) RGB -> (T, H, W), as flow is computed from; gray frames as they are."""
    if frames.ndim == 3:
        return frames
    gray = np.empty(frames.shape[:3], np.uint8)
    for frame, target in zip(frames, gray, strict=True):
        cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY, dst=target)
    return gray


def _stacked(frames: NDArray[np.uint8] | Sequence[ArrayLike]) -> NDArray[np.uint8]:
    """One array of shape (T, H, W) or (T, H, W, 3); InputError that names what it is otherwise."""
    try:
        stacked = np.ascontiguousarray(frames)
    except ValueError as error:
        raise InputError("tvl1: frames differ in shape; all must be of one size") from error
    has_colours = stacked.ndim >= 3 and stacked.shape[-1] == 3
    # Three dimensions with colours are a single frame.
    if stacked.dtype != np.uint8 or stacked.ndim != (4 if has_colours else 3):
        raise InputError(
            f"tvl1: frames are {stacked.dtype} {stacked.shape}, expected uint8 (T, H, W) or "
            "(T, H, W, 3)"
        )
    return stacked


@lru_cache(KEPT_ENGINES)
def _opened(engine: str, params: TvL1Params, threads: int) -> Engine:
    return open_engine(engine, params, threads=threads)
