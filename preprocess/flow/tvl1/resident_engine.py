"""TV-L1 on a GPU with clusters of CTAs (NVIDIA's from sm_90 on): a cluster holds a pair of frames
for a whole level of the pyramid, and `resident.cu` computes it.

It has not run on a GPU yet, so `engine: cuda` does not take it. Pyramids, upsampling and batches
are those of `cuda_engine.py`, and so is the flow of a level that a cluster does not take: too large
a one, or with a median filter. Which those are depends on size, settings and GPU alone.
"""

import ctypes
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from twinstream.errors import InputError
from twinstream.preprocess.flow.engine import Engine, EngineOptions, TvL1Params
from twinstream.preprocess.flow.tvl1 import cuda_batch
from twinstream.preprocess.flow.tvl1.cuda_batch import Tiling
from twinstream.preprocess.flow.tvl1.cuda_engine import CudaEngine, PairBatch
from twinstream.preprocess.flow.tvl1.nvrtc import Chip, Kernel, nvrtc_library

SOURCE: Final = Path(__file__).with_name("resident.cu")
CAPACITIES: Final = (256, 512)
"""Threads of a CTA at most. 512 with 128 registers each fill a multiprocessor; two CTAs of half as
many are quicker, since one computes while the other waits, and hold half as large a level.
"""
MAX_ROWS: Final = 8
"""Of a block: flow and duals of 2 columns are 12 registers a row."""
LANES: Final = 16
"""Of a block of 32 columns."""
MARGIN: Final = 4
"""Pixels around a packed image."""
OPTIONS: Final = (
    "--std=c++17",
    # Roots and divisions in one instruction, with an error in the last bit but one.
    "--ftz=true",
    "--prec-sqrt=false",
    "--prec-div=false",
)


@dataclass(frozen=True)
class Plan:
    """How a cluster holds a level: each of `ctas` CTAs has `down` rows of `across` blocks.

    A block has 32 columns, and `rows` rows or one fewer.
    """

    ctas: int
    across: int
    down: int
    rows: int
    capacity: int

    @property
    def threads(self) -> int:
        """Of a CTA: whole warps of two blocks."""
        return -(-self.across * self.down // 2) * 32

    @property
    def shared_bytes(self) -> int:
        """Of a CTA: a pixel's 16 bytes that a warp makes constant and 8 of flow; borders."""
        constants = 16 * 2 * self.rows * self.capacity
        sides = self.capacity + self.capacity // LANES + 1
        borders = 48 * self.capacity + 8 * 2 * self.rows * sides
        return constants + borders + 32 + 8 * self.ctas * self.threads // 32 + 4

    @property
    def steps(self) -> int:
        """Rows that the busiest of a multiprocessor's four schedulers computes in an iteration."""
        return -(-self.threads // 128) * self.rows

    @property
    def kernel(self) -> Kernel:
        """What a launch needs."""
        options = (*OPTIONS, f"-DROWS={self.rows}", f"-DTHREADS={self.capacity}")
        return Kernel("resident_level", options, self.ctas, self.threads, self.shared_bytes)


def level_plan(
    height: int, width: int, largest_cluster: int, shared_bytes: int = 1 << 30
) -> Plan | None:
    """The smallest cluster that holds a level, cut to be quick; None where there is none."""
    across = -(-width // (2 * LANES))
    for capacity in CAPACITIES:
        for ctas in (1, 2, 4, 8, 16):
            possible = (
                Plan(ctas, across, down, -(-height // (ctas * down)), capacity)
                for down in range(1, capacity // LANES // across + 1)
                # Each block has a row.
                if ctas <= largest_cluster and ctas * down <= height
            )
            fitting = [
                plan
                for plan in possible
                if plan.rows <= MAX_ROWS and plan.shared_bytes <= shared_bytes
            ]
            if fitting:
                return min(fitting, key=lambda plan: (plan.steps, plan.rows))
    return None


class _Params(ctypes.Structure):
    """`Params` of resident.cu."""

    _fields_ = (
        ("limit", ctypes.c_float),
        ("tau", ctypes.c_float),
        ("step", ctypes.c_float),
        ("tolerance", ctypes.c_float),
        ("iterations", ctypes.c_int),
        ("warps", ctypes.c_int),
    )


class ResidentEngine(CudaEngine):
    """The engine; results are as those of `CudaEngine`."""

    name = "resident"

    def __init__(self, params: TvL1Params, device: torch.device, max_bytes: int) -> None:
        super().__init__(params, device, max_bytes, Tiling())
        self.places: dict[tuple[int, int], tuple[Plan, int] | None] = {}

    @cached_property
    def chip(self) -> Chip:
        """Made when first used, like the copies' streams."""
        return Chip(SOURCE.read_text())

    def batch_flow(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """(N, 2, H, W) pixels, and how many pixels were updated."""
        return cuda_batch.batch_flow(
            batch.frames, batch.first, self.params, self.tiling, self.refined
        )

    def refined(
        self, images: Tensor, first: Tensor, flow: Tensor, params: TvL1Params, tiling: Tiling
    ) -> tuple[Tensor, Tensor]:
        """The flow after all warps of one level, and how many pixels were updated."""
        place = None if params.median else self.place(images.shape[1], images.shape[2])
        if place is None:
            return cuda_batch.refined(images, first, flow, params, tiling)
        return resident_flow(images, first, flow, params, *place, self.chip)

    def place(self, height: int, width: int) -> tuple[Plan, int] | None:
        """The plan for a level, and how many clusters work at a time; None where none can."""
        if (height, width) not in self.places:
            plan = level_plan(height, width, self.chip.largest_cluster, self.chip.shared_bytes)
            num_clusters = self.chip.num_clusters(plan.kernel) if plan else 0
            self.places[height, width] = (plan, num_clusters) if plan and num_clusters else None
        return self.places[height, width]


def resident_flow(
    images: Tensor,
    first: Tensor,
    flow: Tensor,
    params: TvL1Params,
    plan: Plan,
    num_clusters: int,
    chip: Chip,
) -> tuple[Tensor, Tensor]:
    """(T, h, w), (N,) and (N, 2, h, w), which it changes -> the same flow, and pixels updated."""
    num_frames, height, width = images.shape
    num_pairs = len(first)
    packed = images.new_empty((num_frames, height + 2 * MARGIN, width + 2 * MARGIN))
    pack = replace(plan.kernel, name="pack", ctas=1, threads=256, shared_bytes=0)
    chip.launch(pack, -(-packed.numel() // 256), [images, packed, num_frames, height, width])
    queue, updates = first.new_zeros(1), first.new_zeros(1, dtype=torch.int64)
    values = _Params(
        params.lambda_ * params.theta,
        params.tau,
        params.tau / params.theta,
        params.epsilon**2 * height * width,
        params.iterations,
        params.warps,
    )
    tensors = (images, packed, first, flow, queue, updates)
    sizes = (num_frames, num_pairs, height, width, plan.across, plan.down, plan.ctas)
    chip.launch(plan.kernel, min(num_clusters, num_pairs), [*tensors, *sizes, values])
    return flow, updates[0]


def open_engine(options: EngineOptions) -> Engine:
    """The engine on the current GPU; InputError without one, and without NVRTC."""
    if not torch.cuda.is_available():
        raise InputError(
            "engine: resident needs a GPU that torch can use, and there is none; use "
            "`engine: numba`"
        )
    nvrtc_library()
    return ResidentEngine(options.tvl1, torch.device("cuda"), options.gpu_bytes)
