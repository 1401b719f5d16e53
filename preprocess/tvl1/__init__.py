"""TV-L1 optical flow: one definition and the engines that compute it.

`open_engine(name, params)` gives a callable from gray frames to flow. `reference` (float64 NumPy)
is the definition; `numba` is the fast engine for any CPU, `cuda` the one for GPUs; `opencv` is
OpenCV's own, for comparison and trust. Heavy imports happen when an engine is opened, so that this
module is cheap to import. An engine that was asked for and cannot be had is an `InputError`, never
another engine in silence: engines agree closely but not to the bit, and no dataset mixes them.
"""

import os
from collections.abc import Callable
from ctypes import CDLL
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from twinstream.errors import InputError

Gray = npt.NDArray[np.uint8]
Flow = npt.NDArray[np.float32]

ENGINE_NAMES: Final = ("numba", "cuda", "opencv", "reference")
MIN_SIDE: Final = 16
DEFAULT_GPU_BYTES: Final = 4 << 30
"""Memory of the arrays of one batch on a GPU: about 600 pairs of 256x256."""


class TvL1Params(BaseModel):
    """The parameters of TV-L1 under OpenCV's names; its coupling `gamma` is 0 and not offered."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True
    )

    tau: float = Field(0.25, gt=0)
    """Time step of the dual update; the scheme converges for at most 0.25."""
    lambda_: float = Field(0.15, gt=0, validation_alias="lambda", serialization_alias="lambda")
    """Weight of the brightness term, for gray levels 0 to 255: smaller gives smoother flow."""
    theta: float = Field(0.3, gt=0)
    """Tightness of the coupling between the brightness and the smoothness step."""
    scales: int = Field(5, ge=1)
    """Pyramid levels at most; a level below 16 pixels a side is not used."""
    warps: int = Field(5, ge=1)
    """How often a level warps the second frame anew."""
    epsilon: float = Field(0.01, ge=0)
    """A warp ends when the root mean square change of the flow, in pixels, is at most this; 0 never
    ends early.
    """
    iterations: int = Field(300, ge=1)
    """Iterations of one warp at most."""
    scale_step: float = Field(0.8, gt=0, lt=1)
    """Size of a level relative to the next finer one."""
    median: Literal[3, 5] | None = None
    """Side of a median filter on the flow before every warp; off by default."""

    def as_dict(self) -> dict[str, Any]:
        """Every parameter under its name in the settings, `gamma` included, for the manifest."""
        return {**self.model_dump(by_alias=True), "gamma": 0.0}


class Engine(Protocol):
    """(T, H, W) uint8 gray -> (max(T - 1, 0), H, W, 2) float32 pixels (dx, dy) from frame t to t +
    1.
    """

    @property
    def name(self) -> str:
        """One of ENGINE_NAMES."""

    def __call__(self, gray: Gray, /) -> Flow:
        """Compute; InputError where a side is below 16 pixels. A result never depends on earlier
        calls.
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
    """Room for the flow of (T, H, W) uint8 frames; InputError where no engine could compute it."""
    if gray.ndim != 3 or gray.dtype != np.uint8:
        raise InputError(f"frames are {gray.dtype} {gray.shape}; TV-L1 needs uint8 (T, H, W)")
    frames, height, width = gray.shape
    if min(height, width) < MIN_SIDE:
        raise InputError(
            f"frames are {width}x{height}; TV-L1 needs at least {MIN_SIDE} pixels a side"
        )
    return np.empty((max(frames - 1, 0), height, width, 2), np.float32)


def resolve_engine(name: str) -> str:
    """Name of the engine that `name` means on this machine: `auto` is the fastest one here, others
    are themselves.
    """
    if name == "auto":
        return "cuda" if sees_gpu() else "numba"
    if name not in ENGINE_NAMES:
        raise InputError(f"no engine is called {name!r}; use auto, {', '.join(ENGINE_NAMES)}")
    return name


def sees_gpu() -> bool:
    """Whether torch can use a GPU here."""
    # To import torch takes seconds: only where a driver shows, as NVIDIA's library or AMD's device
    # file.
    if not (has_library("libcuda.so.1") or Path("/dev/kfd").exists()):
        return False
    if not all(find_spec(module) for module in ("torch", "triton")):
        return False
    import torch

    return torch.cuda.is_available()


def num_gpus() -> int:
    """How many GPUs torch can use here."""
    if not sees_gpu():
        return 0
    import torch

    return torch.cuda.device_count()


def has_library(name: str) -> bool:
    """Whether the system has this shared library."""
    try:
        CDLL(name)
    except OSError:
        return False
    return True


def open_engine(
    name: str, params: TvL1Params, *, threads: int = 1, gpu_bytes: int = DEFAULT_GPU_BYTES
) -> Engine:
    """Make an engine ready, `auto` included. On a CPU one video uses `threads` cores, on a GPU a
    batch `gpu_bytes`.
    """
    if threads < 1:
        raise InputError(f"threads is {threads}; an engine needs at least 1")
    match resolve_engine(name):
        case "numba":
            from twinstream.preprocess.tvl1.numba_engine import open_numba

            return open_numba(params, threads=threads)
        case "cuda":
            # Triton's interpreter runs the same kernels on a CPU, for tests.
            if os.environ.get("TRITON_INTERPRET") != "1" and not sees_gpu():
                raise InputError(
                    "engine: cuda needs a GPU that torch can use, and there is none; use `engine: "
                    "numba`"
                )
            from twinstream.preprocess.tvl1.cuda_engine import open_cuda

            return open_cuda(params, max_bytes=gpu_bytes)
        case "opencv":
            from twinstream.preprocess.tvl1.opencv import open_opencv

            return open_opencv(params, threads=threads)
        case _:
            from twinstream.preprocess.tvl1.reference import reference_flow

            return PairEngine(
                "reference", lambda first, second: reference_flow(first, second, params)
            )
