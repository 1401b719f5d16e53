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
from pydantic import BaseModel, ConfigDict, Field

from twinstream.errors import InputError

Gray = npt.NDArray[np.uint8]
Flow = npt.NDArray[np.float32]

# Settings allow no smaller stored side, so an engine need not work below it. It is also where the
# pyramid of TV-L1 ends.
MIN_SIDE: Final = 16
DEFAULT_GPU_BYTES: Final = 4 << 30
"""Memory of the arrays of one batch on a GPU: about 600 pairs of 256x256."""


class TvL1Params(BaseModel):
    """The parameters of TV-L1 under OpenCV's names; its coupling `gamma` is 0 and not offered."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    tau: float = Field(0.25, gt=0)
    """Time step of the dual update; the scheme converges for at most 0.25."""
    # `lambda` is a keyword of Python: only settings and manifests call it that.
    lambda_: float = Field(0.15, gt=0, validation_alias="lambda", serialization_alias="lambda")
    """Weight of the brightness term, for gray levels 0 to 255: smaller gives smoother flow."""
    theta: float = Field(0.3, gt=0)
    """Tightness of the coupling between the brightness and the smoothness step."""
    scales: int = Field(5, ge=1)
    """Pyramid levels at most; a level below 16 pixels a side is not used."""
    warps: int = Field(5, ge=1)
    """How often a level warps the second frame anew."""
    epsilon: float = Field(0.01, ge=0)
    """A warp ends when the flow's root mean square change in pixels is at most this; 0: never."""
    iterations: int = Field(300, ge=1)
    """Iterations of one warp at most."""
    scale_step: float = Field(0.8, gt=0, lt=1)
    """Size of a level relative to the next finer one."""
    median: Literal[3, 5] | None = None
    """Side of a median filter on the flow before every warp; off by default."""

    def as_dict(self) -> dict[str, Any]:
        """Every parameter under its name in the settings, `gamma` included, for the manifest."""
        return {**self.model_dump(by_alias=True), "gamma": 0.0}


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
