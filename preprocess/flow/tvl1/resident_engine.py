"""TV-L1 on a GPU with clusters of CTAs (NVIDIA's from sm_90 on): a cluster holds a pair of frames
for a whole level of the pyramid, and `resident.cu` computes it.

Pyramids, upsampling and batches are those of `cuda_engine.py`, and so is the flow of a level that a
cluster does not take: too large a one, or with a median filter. Which those are depends on size,
settings and GPU alone.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from twinstream.errors import InputError
from twinstream.preprocess.flow.engine import Engine, EngineOptions, Gray, TvL1Params
from twinstream.preprocess.flow.tvl1 import cuda_batch
from twinstream.preprocess.flow.tvl1.cuda_batch import Tiling
from twinstream.preprocess.flow.tvl1.cuda_copies import Copies
from twinstream.preprocess.flow.tvl1.cuda_engine import Convert, CudaEngine, PairBatch, Starts
from twinstream.preprocess.flow.tvl1.nvrtc import Chip, Kernel, nvrtc_library

SOURCE: Final = Path(__file__).with_name("resident.cu")
THREADS_OF_SM: Final = 512
"""With 128 registers each they fill a multiprocessor."""
MAX_ROWS: Final = 8
"""Of a block: flow and duals of 2 columns are 12 registers a row."""
LANES: Final = 16
"""Of a block of 32 columns."""
NUM_STREAMS: Final = 2
PAIRS_OF_BATCH: Final = 128
"""At most: enough to keep the chip busy, few enough for a call's batches to overlap."""
PORTABLE_CLUSTER: Final = 8
"""CTAs that every GPU with clusters takes."""
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

    @property
    def threads(self) -> int:
        """Of a CTA: whole warps of two blocks."""
        return -(-self.across * self.down // 2) * 32

    @property
    def shared_bytes(self) -> int:
        """Of a CTA: a pixel's 16 bytes that a warp makes constant and 8 of flow; borders."""
        constants = 16 * 2 * self.rows * self.threads
        sides = self.threads + self.threads // LANES + 1
        borders = 48 * self.threads + 8 * 2 * self.rows * sides
        return constants + borders + 32 + 8 * self.ctas * self.threads // 32 + 4

    @property
    def cost(self) -> int:
        """Rows that warps compute in an iteration, over all CTAs."""
        return self.ctas * self.threads // 32 * self.rows

    @property
    def kernel(self) -> Kernel:
        """What a launch needs."""
        per_sm = THREADS_OF_SM // self.threads
        sizes = (f"-DROWS={self.rows}", f"-DTHREADS={self.threads}", f"-DPER_SM={per_sm}")
        return Kernel(
            "resident_level", (*OPTIONS, *sizes), self.ctas, self.threads, self.shared_bytes
        )


def level_plan(
    height: int, width: int, largest_cluster: int, shared_bytes: int = 1 << 30
) -> Plan | None:
    """The quickest way for a cluster to hold a level; None where there is none."""
    across = -(-width // (2 * LANES))
    # Of several CTAs on a multiprocessor one computes while others wait; a large level needs whole
    # ones.
    for most_threads in (THREADS_OF_SM // 2, THREADS_OF_SM):
        plans = [
            plan
            for ctas in (1, 2, 4, 8, 16)
            if ctas <= largest_cluster
            # Each block has a row.
            for down in range(1, min(most_threads // LANES // across, height // ctas) + 1)
            if (plan := Plan(ctas, across, down, -(-height // (ctas * down)))).rows <= MAX_ROWS
            and plan.shared_bytes <= shared_bytes
        ]
        if plans:
            # Of equals CTAs of four warps were the quickest.
            return min(plans, key=lambda plan: (plan.cost, -plan.rows, abs(plan.threads - 128)))
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


class Stream:
    """A stream that computes batches, with its copies."""

    def __init__(self, device: torch.device) -> None:
        self.copies = Copies(device)
        self._module: Any = torch.get_device_module(device)
        self._stream = self._module.Stream()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """What is launched meanwhile runs here, after what the caller has launched."""
        self._stream.wait_stream(self._module.current_stream())
        with self._module.stream(self._stream):
            yield


class ResidentEngine(CudaEngine):
    """The engine; results are as those of `CudaEngine`."""

    name = "resident"

    def __init__(self, params: TvL1Params, device: torch.device, max_bytes: int) -> None:
        super().__init__(params, device, max_bytes, Tiling())
        self.places: dict[tuple[int, int], tuple[Plan, int] | None] = {}

    @cached_property
    def chip(self) -> Chip:
        """Made when first used, like the streams."""
        return Chip(SOURCE.read_text())

    @cached_property
    def streams(self) -> list[Stream]:
        """Made when first used."""
        return [Stream(self.device) for _ in range(NUM_STREAMS)]

    @cached_property
    def copies(self) -> Copies:
        """The first stream's."""
        return self.streams[0].copies

    def compute(self, gray: Gray, starts: Starts, out: Tensor, convert: Convert) -> None:
        """Fill `out` with the flow of the pairs (t, t + 1) for t in `starts`.

        Batches take turns on the streams, and the host waits for none of them: while one is copied,
        or ends with few slow pairs, the next one is computed.
        """
        if self.finest_place(gray) is None:
            # Waves want large batches, and the host waits for their answers.
            super().compute(gray, starts, out, convert)
            return
        done, number, busy = 0, 0, 0
        while done < len(starts):
            stream = self.streams[number % NUM_STREAMS]
            here = self.fitting(starts[done:], gray.shape, NUM_STREAMS)[:PAIRS_OF_BATCH]
            rows = out[done : done + len(here)]
            with stream.turn():
                fits, _ = self.advance(stream.copies, gray, here, starts[:0], None, rows, convert)
            if fits:
                done, number, busy = done + len(here), number + 1, busy + 1
                continue
            self.wait()
            # A pair for which there was no room beside another batch may have it alone.
            if busy == 0 or len(here) > 1:
                self.take_fewer(len(here), gray.shape)
            busy = 0
        self.wait()
        self.count()

    def wait(self) -> None:
        """Until all streams have done what was launched."""
        for stream in self.streams:
            with stream.turn():
                stream.copies.finish()

    def batch_flow(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """(N, 2, H, W) pixels, and how many pixels were updated."""
        return cuda_batch.batch_flow(
            batch.frames, batch.first, self.params, self.tiling, self.refined
        )

    def refined(
        self, images: Tensor, first: Tensor, flow: Tensor, params: TvL1Params, tiling: Tiling
    ) -> tuple[Tensor, Tensor]:
        """The flow after all warps of one level, and how many pixels were updated."""
        place = self.place(images.shape[1], images.shape[2])
        if place is None:
            return cuda_batch.refined(images, first, flow, params, tiling)
        return resident_flow(images, first, flow, params, *place, self.chip)

    def finest_place(self, gray: Gray) -> tuple[Plan, int] | None:
        """That of the finest level of these frames."""
        return self.place(gray.shape[1], gray.shape[2])

    def place(self, height: int, width: int) -> tuple[Plan, int] | None:
        """The plan for a level, and how many clusters work at a time; None where none can."""
        if self.params.median:
            return None
        if (height, width) not in self.places:
            self.places[height, width] = None
            # A part of a GPU may refuse clusters that a whole one takes.
            most = self.chip.largest_cluster
            for largest in (most, min(most, PORTABLE_CLUSTER)):
                plan = level_plan(height, width, largest, self.chip.shared_bytes)
                num_clusters = self.chip.num_clusters(plan.kernel) if plan else 0
                if plan and num_clusters:
                    self.places[height, width] = plan, num_clusters
                    break
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
