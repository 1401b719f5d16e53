"""TV-L1 on the CPU, fast: the orchestration around the compiled loops of `kernels.py` and
`iterations.py`.

Pyramids and gradients are made once a frame, memory once a size. Frame pairs are independent (no
flow is carried over), so threads divide a video by taking short runs of pairs, and the result does
not depend on how it was cut.
"""

import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import cv2
import numpy as np
from llvmlite.binding import get_host_cpu_features

from twinstream.preprocess.flow.engine import (
    Engine,
    EngineOptions,
    Flow,
    Gray,
    TvL1Params,
    empty_flow,
)
from twinstream.preprocess.flow.tvl1 import kernels
from twinstream.preprocess.flow.tvl1.iterations import iterate
from twinstream.preprocess.flow.tvl1.lanes import NUM_LANES
from twinstream.preprocess.flow.tvl1.levels import level_sizes, positions, pyramid_step
from twinstream.preprocess.flow.tvl1.state import NUM_FIELDS, PUX, PVY, Floats
from twinstream.progress import LOGGER

DUALS = slice(PUX // NUM_LANES, PVY // NUM_LANES + 1)
"""Fields of a block."""
PAIRS_A_TURN = 8
"""Pairs a thread takes at once: the first frame's pyramid is made anew for each turn."""


class CpuLevel:
    """The memory of one pyramid level, for two frames and the flow between them."""

    def __init__(self, height: int, width: int) -> None:
        # Rows in whole vectors.
        blocks = -(-width // NUM_LANES)
        padded = blocks * NUM_LANES
        border = 2 * kernels.TAP_BORDER
        self.height, self.width = height, width
        # One block on either side for neighbours at the border.
        self.state = aligned_zeros((height + 1, blocks + 2, NUM_FIELDS, NUM_LANES))
        self.scratch = aligned_zeros((kernels.NUM_SCRATCH, padded + 2 * NUM_LANES))
        self.images = [aligned_zeros((height, padded))[:, :width] for _ in range(2)]
        self.taps = [aligned_zeros((height + border, (width + border) * 4)) for _ in range(2)]
        self.mask = np.zeros(padded, np.float32)
        self.mask[:width] = 1
        self.padded_flow = aligned_zeros((2, height, padded))
        self.flow = self.padded_flow[..., :width]


class Workspace:
    """The memory for frames of one size, and flow computed in it."""

    def __init__(self, height: int, width: int, params: TvL1Params) -> None:
        self.shape = (height, width)
        self.params = params
        # Of the flow in the levels, in pixels.
        self.unit = np.float32(params.theta / params.tau)
        self.levels = [CpuLevel(*size) for size in level_sizes(height, width, params)]
        self.pixel_iterations = 0

    def flow_of_run(self, gray: Gray, flow: Flow) -> None:
        """(T, H, W) frames -> fills (T - 1, H, W, 2)."""
        self.load(gray[0], 0)
        for t in range(len(flow)):
            # The second frame of a pair is the first of the next, so each is loaded once.
            self.load(gray[t + 1], (t + 1) % 2)
            self.solve(t % 2)
            np.multiply(np.moveaxis(self.levels[0].flow, 0, -1), self.unit, out=flow[t])

    def load(self, frame: Gray, slot: int) -> None:
        """Make a frame's pyramid and gradients."""
        self.levels[0].images[slot][:] = frame
        for above, below in zip(self.levels, self.levels[1:], strict=False):
            fine, coarse = above.images[slot], below.images[slot]
            step = pyramid_step(fine.shape, coarse.shape, self.params)
            resize(fine, coarse, step, step, 1.0)
        for level in self.levels:
            kernels.fill_taps(level.images[slot], level.taps[slot])

    def solve(self, slot: int) -> None:
        """Flow from the frame in `slot` to the one in the other slot, left in the finest level."""
        self.levels[-1].flow[:] = 0
        # Coarse to fine: what moves far moves little in a small picture.
        for index in reversed(range(len(self.levels))):
            self.refine(self.levels[index], slot)
            if index > 0:
                upsample(
                    self.levels[index].flow, self.levels[index - 1].flow, 1 / self.params.scale_step
                )

    def refine(self, level: CpuLevel, slot: int) -> None:
        """Improve the flow of one level."""
        params = self.params
        step = params.tau / params.theta
        # The duals live on from warp to warp, but not from level to level.
        level.state[:, :, DUALS] = 0
        kernels.put_flow(level.padded_flow, level.state)
        for _ in range(params.warps):
            if params.median:
                kernels.take_flow(level.state, level.padded_flow)
                for field in level.flow:
                    field[:] = cv2.medianBlur(np.ascontiguousarray(field), params.median)
                kernels.put_flow(level.padded_flow, level.state)
            kernels.warp(
                level.images[slot],
                level.taps[1 - slot],
                level.state,
                level.scratch,
                level.width,
                self.unit,
            )
            done = iterate(
                level.state,
                level.mask,
                level.width,
                np.float32(params.lambda_ * params.theta * step**2),
                np.float32(params.tau),
                (params.epsilon * step) ** 2 * level.height * level.width,
                params.iterations,
            )
            self.pixel_iterations += done * level.height * level.width
        kernels.take_flow(level.state, level.padded_flow)


class NumbaEngine:
    """The engine; its workspaces are made at the first frames of a size and kept for that size."""

    name = "numba"

    def __init__(self, params: TvL1Params, threads: int) -> None:
        self.params = params
        self.threads = threads
        self.workspaces: list[Workspace] = []

    @property
    def pixel_iterations(self) -> int:
        """Pixels updated since the last change of size, over all levels and warps.

        The computing time is proportional to it.
        """
        return sum(workspace.pixel_iterations for workspace in self.workspaces)

    def __call__(self, gray: Gray, /) -> Flow:
        """(T, H, W) uint8 -> (T - 1, H, W, 2) float32."""
        flow = empty_flow(gray)
        _, height, width = gray.shape
        # Videos of one dataset mostly have one size, so memory is kept for the last one only.
        if not self.workspaces or self.workspaces[0].shape != (height, width):
            self.workspaces = [Workspace(height, width, self.params) for _ in range(self.threads)]
        # Without a pool, whose threads would start anew at every call.
        if self.threads == 1:
            if len(flow):
                self.workspaces[0].flow_of_run(gray, flow)
            return flow
        self.compute_threaded(gray, flow)
        return flow

    def compute_threaded(self, gray: Gray, flow: Flow) -> None:
        """Fill `flow`, each thread with its own workspace."""
        idle: SimpleQueue[Workspace] = SimpleQueue()
        for workspace in self.workspaces:
            idle.put(workspace)

        def take_turn(start: int) -> None:
            workspace = idle.get()
            turn = slice(start, start + PAIRS_A_TURN)
            workspace.flow_of_run(gray[start : start + PAIRS_A_TURN + 1], flow[turn])
            idle.put(workspace)

        with ThreadPoolExecutor(self.threads) as pool:
            # list, so that what a thread raises is raised here.
            list(pool.map(take_turn, range(0, len(flow), PAIRS_A_TURN)))


def open_engine(options: EngineOptions) -> Engine:
    """The compiled engine.

    The first frames on a machine wait for the compiler, later starts read its cache.
    """
    if lacks_fma(platform.machine(), get_host_cpu_features()):
        LOGGER.warning(
            "engine numba: this CPU has no fused multiply-add (it is below x86-64-v3): the same "
            "flow takes several times as long"
        )
    return NumbaEngine(options.tvl1, options.threads)


def lacks_fma(machine: str, features: Mapping[str, bool]) -> bool:
    """Whether a CPU has no instruction for `lanes.fma`; ARM64 always has one."""
    return machine in ("x86_64", "AMD64") and not features.get("fma", False)


def upsample(coarse: Floats, fine: Floats, gain: float) -> None:
    """(2, h, w) -> (2, H, W), values times `gain`."""
    step_y, step_x = coarse.shape[1] / fine.shape[1], coarse.shape[2] / fine.shape[2]
    for source, target in zip(coarse, fine, strict=True):
        resize(source, target, step_y, step_x, gain)


def resize(image: Floats, out: Floats, step_y: float, step_x: float, gain: float) -> None:
    """Bilinear; a step is the distance of two output pixels in the image."""
    scratch = np.empty(image.shape[1] + NUM_LANES, np.float32)
    rows, columns = (
        positions(num, last, step)
        for num, last, step in zip(
            out.shape, (image.shape[0] - 1, image.shape[1] - 1), (step_y, step_x), strict=True
        )
    )
    kernels.resize(image, out, *rows, *columns, np.float32(gain), scratch)


def aligned_zeros(shape: tuple[int, ...]) -> Floats:
    """Zeros that begin on a cache line, so that a vector of 16 float32 lies in one."""
    size = int(np.prod(shape))
    memory = np.zeros(size + NUM_LANES, np.float32)
    start = -(memory.ctypes.data // memory.itemsize) % NUM_LANES
    return memory[start : start + size].reshape(shape)
