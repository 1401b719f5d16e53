"""What every flow engine is: a callable from gray frames to flow, and the types it is made of.

Engines import this module and nothing of the registry (`engines.py`), so that an engine is one file
that knows of no other. T frames of H x W pixels have T - 1 flow fields; field t holds the motion
from frame t to frame t + 1, in pixels, dx before dy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from twinstream.errors import InputError

Gray = npt.NDArray[np.uint8]
Flow = npt.NDArray[np.float32]

# Settings allow no smaller stored side, so an engine need not work below it. It is also where the
# pyramid of TV-L1 ends.
MIN_SIDE: Final = 16
DEFINITION: Final = 2
"""Version of the flow that `tvl1/reference.py` defines and its engines compute. Version 1 aligned
pixel centres in the pyramid, as `cv2.resize`.
"""
DEFAULT_GPU_BYTES: Final = 4 << 30
"""Memory of the arrays of one batch on a GPU: about 600 pairs of 256x256."""


@dataclass(frozen=True)
class TvL1Params:
    """The parameters of TV-L1 under OpenCV's names; `tvl1_settings.py` says what each is.

    A plain class: engines run where pydantic is not installed.
    """

    tau: float = 0.25
    lambda_: float = 0.15
    theta: float = 0.3
    scales: int = 5
    warps: int = 5
    epsilon: float = 0.01
    iterations: int = 300
    scale_step: float = 0.8
    median: Literal[3, 5] | None = None


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What an engine is opened with; each engine uses the ones that concern it.

    `threads` are the CPU cores for one video, `gpu_bytes` the memory for one batch on a GPU.
    """

    tvl1: TvL1Params
    threads: int
    gpu_bytes: int


class Engine(Protocol):
    """(T, H, W) uint8 gray -> (max(T - 1, 0), H, W, 2) float32 pixels (dx, dy).

    Field t is the motion from frame t to frame t + 1.
    """

    @property
    def name(self) -> str:
        """Its name in the registry."""

    def __call__(self, gray: Gray, /) -> Flow:
        """Compute; InputError where a side is below 16 pixels.

        A result never depends on earlier calls.
        """


@dataclass(frozen=True)
class PairEngine:
    """An engine made of a function of two (H, W) frames."""

    name: str
    flow_of_pair: Callable[[Gray, Gray], npt.NDArray[Any]]

    def __call__(self, gray: Gray, /) -> Flow:
        """Compute pair by pair."""
        flow = empty_flow(gray)
        for t in range(len(flow)):
            flow[t] = self.flow_of_pair(gray[t], gray[t + 1])
        return flow


def empty_flow(gray: Gray) -> Flow:
    """Uninitialised memory for the flow of (T, H, W) uint8 frames.

    InputError for frames whose flow no engine could compute.
    """
    if gray.ndim != 3 or gray.dtype != np.uint8:
        raise InputError(f"frames are {gray.dtype} {gray.shape}; flow needs uint8 (T, H, W)")
    frames, height, width = gray.shape
    if min(height, width) < MIN_SIDE:
        raise InputError(
            f"frames are {width}x{height}; flow needs at least {MIN_SIDE} pixels a side"
        )
    # No frame at all has no field either, and not minus one.
    return np.empty((max(frames - 1, 0), height, width, 2), np.float32)
