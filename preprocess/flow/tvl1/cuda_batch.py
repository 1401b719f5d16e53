"""TV-L1 of one batch of frame pairs on a GPU: launches `triton_kernels.py` and `triton_waves.py`.

Pyramids and gradients are made once a frame. How much is launched does not depend on the number of
pairs, and the host does not wait for what it launched: it learns late how many pairs are still at
work, and until then launches programs that return at once. Tensors are contiguous, on one device; T
frames, N pairs, pair n leads from frame first[n] to the next.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor

from twinstream.preprocess.flow.engine import TvL1Params
from twinstream.preprocess.flow.tvl1 import triton_kernels, triton_rule, triton_waves
from twinstream.preprocess.flow.tvl1.levels import level_sizes, positions, pyramid_step

BLOCK = 256
"""Pixels of a program of the image kernels."""

OPTIONS = {"enable_fp_fusion": True}
"""Of every launch: a * b + c in one instruction, whatever this Triton's default is."""

ASK_EVERY = 4
"""Waves from one question to the device, how many pairs are still at work, to the next."""

ROWS = (64, 32, 16)
"""Rows of a segment to choose from, without the 2 * depth that are computed twice."""

PROGRAMS = 12
"""Of a multiprocessor at once: as many as its registers have room for."""

PLANES_OF_A_PAIR = 22
"""Float32 planes at the finest level: 12 of state, 4 of constants, and 2 each of flow that comes
in, of flow that goes out and of the last batch's flow, which is on its way to the host.
"""


Refine = Callable[..., tuple[Tensor, Tensor]]
"""Takes the arguments of `refined`, and returns what it does."""


@dataclass(frozen=True)
class Tiling:
    """How a wave is cut into programs.

    Another tiling sums changes in another order, and could end a warp elsewhere.
    """

    depth: int = 4
    """Iterations a wave, even.

    Real pairs end most warps after 2 to 20; what a wave does beyond that is thrown away.
    """
    columns: int = 64
    """Columns of a strip, a power of 2; 2 * depth of them are shared with the neighbours."""


def bytes_of_frame(height: int, width: int, params: TvL1Params) -> int:
    """The frame, one of the next batch, its pyramid, and its gradient at the finest level."""
    pixels = sum(rows * columns for rows, columns in level_sizes(height, width, params))
    return height * width * (2 + 2 * 4) + pixels * 4


def bytes_of_pair(height: int, width: int) -> int:
    """What a pair needs at the finest level."""
    return height * width * 4 * PLANES_OF_A_PAIR


def batch_flow(
    frames: Tensor,
    first: Tensor,
    params: TvL1Params,
    tiling: Tiling,
    refine: Refine | None = None,
) -> tuple[Tensor, Tensor]:
    """(T, H, W) uint8 and (N,) int32 -> (N, 2, H, W) float32 pixels, dx and dy.

    Also returns how many pixels were updated. `refine` does the work of `refined`, if it is given.
    """
    levels = pyramids(frames, params)
    flow = levels[-1].new_zeros((len(first), 2, *levels[-1].shape[1:]))
    work = torch.zeros((), dtype=torch.int64, device=frames.device)
    for number, images in enumerate(reversed(levels)):
        if number > 0:
            flow = upsampled(flow, images.shape[1], images.shape[2], 1 / params.scale_step)
        # In a function of its own, so that a level's memory is free before the next one's is taken.
        flow, updated = (refine or refined)(images, first, flow, params, tiling)
        work += updated
    return flow, work


def refined(
    images: Tensor, first: Tensor, flow: Tensor, params: TvL1Params, tiling: Tiling
) -> tuple[Tensor, Tensor]:
    """The flow after all warps of one level, and how many pixels were updated.

    Frees the level's memory.
    """
    level = Level(images, first, flow, params, tiling)
    for _ in range(params.warps):
        level.warp()
        level.iterate()
    return level.flow(), level.work()


def pyramids(frames: Tensor, params: TvL1Params) -> list[Tensor]:
    """(T, H, W) uint8 -> (T, h, w) float32 for each level, finest first."""
    levels = [frames.to(torch.float32)]
    for height, width in level_sizes(frames.shape[1], frames.shape[2], params)[1:]:
        step = pyramid_step(levels[-1].shape[1:], (height, width), params)
        levels.append(resized(levels[-1], height, width, (step, step), 1.0))
    return levels


def upsampled(flow: Tensor, height: int, width: int, gain: float) -> Tensor:
    """(N, 2, h, w) -> (N, 2, height, width), values times `gain`."""
    planes = flow.flatten(0, 1)
    steps = flow.shape[2] / height, flow.shape[3] / width
    return resized(planes, height, width, steps, gain).view(*flow.shape[:2], height, width)


def resized(
    images: Tensor, height: int, width: int, steps: tuple[float, float], gain: float
) -> Tensor:
    """(P, h, w) -> (P, height, width), bilinear.

    A step is the distance of two output pixels in the image.
    """
    planes, rows, columns = images.shape
    out = images.new_empty((planes, height, width))
    from_rows = positions_on(images.device, height, rows - 1, steps[0])
    from_columns = positions_on(images.device, width, columns - 1, steps[1])
    triton_kernels.resize[programs(out)](
        images, out, *from_rows, *from_columns, gain, rows, columns, height, width, BLOCK, **OPTIONS
    )
    return out


# Else each resize would begin with two small copies to the device.
@lru_cache(maxsize=64)
def positions_on(device: torch.device, num: int, last: int, step: float) -> tuple[Tensor, Tensor]:
    """`levels.positions` on the device."""
    before, part = positions(num, last, step)
    return torch.from_numpy(before).to(device, torch.int32), torch.from_numpy(part).to(device)


def programs(planes: Tensor) -> tuple[int]:
    """The grid of an image kernel over (P, H, W)."""
    num, height, width = planes.shape
    return (num * triton.cdiv(height * width, BLOCK),)


class Level:
    """The pairs at one level of the pyramid: their state, and what is launched to advance it."""

    def __init__(
        self, images: Tensor, first: Tensor, flow: Tensor, params: TvL1Params, tiling: Tiling
    ) -> None:
        num, _, height, width = flow.shape
        self.images, self.first, self.params, self.tiling = images, first, params, tiling
        self.sizes = (height, width, num)
        self.gradients = images.new_empty((len(images), 2, height, width))
        triton_kernels.differences[programs(images)](
            images, self.gradients, height, width, BLOCK, **OPTIONS
        )
        # Twice: a wave reads one side and writes the other, and may have to be done again.
        self.state = images.new_empty((2, num, 6, height, width))
        self.state[0, :, :2] = flow
        self.state[0, :, 2:] = 0
        self.constants = images.new_empty((num, 4, height, width))
        # Two slots: a wave reads what the one before left, and writes the other.
        self.control = first.new_zeros((2, int(triton_rule.NUM_CONTROLS), num))
        self.side, _, _, _, _, self.total = self.control[0].unbind()
        self.strips = num_strips(width, tiling)
        pieces = self.strips * triton.cdiv(height, int(triton_rule.PIECE))
        self.changes = images.new_zeros((2, num, pieces, tiling.depth // 2))
        # All pairs, and then their number; the second is shortened as pairs end.
        self.everyone = torch.arange(num + 1, dtype=torch.int32, device=first.device)
        self.working = self.everyone.clone()
        self.places = num_places(first.device)

    def flow(self) -> Tensor:
        """(N, 2, H, W), copied from whichever side of the state is the newer."""
        return self.state[self.side.long(), self.pairs(), :2]

    def pairs(self) -> Tensor:
        """0 .. N - 1."""
        return torch.arange(len(self.first), device=self.first.device)

    def work(self) -> Tensor:
        """Pixels updated so far."""
        height, width, _ = self.sizes
        return self.total.sum() * (height * width)

    def warp(self) -> None:
        """Warp the second frames by the present flow, median-filtered if that is asked for."""
        if self.params.median:
            self.state[self.side.long(), self.pairs(), :2] = self.filtered(self.params.median)
        triton_kernels.warp[programs(self.constants[:, 0])](
            self.images,
            self.gradients,
            self.first,
            self.state,
            self.control,
            self.constants,
            *self.sizes,
            BLOCK,
            **OPTIONS,
        )

    def filtered(self, side: int) -> Tensor:
        """The flow, median-filtered."""
        flow = self.flow()
        out = torch.empty_like(flow)
        planes = flow.flatten(0, 1)
        triton_kernels.median[programs(planes)](
            planes, out, *planes.shape[1:], side, BLOCK, **OPTIONS
        )
        return out

    def iterate(self) -> None:
        """All iterations of a warp: as many waves as the slowest pair needs, and a few more."""
        _, _, count = self.sizes
        # Beyond the plain division: a first wave that was cut short by a guess, one done again, one
        # that judges the last one, and one that leaves both slots the same.
        most = triton.cdiv(self.params.iterations, self.tiling.depth) + 4
        asked: deque[Question] = deque()
        for wave in range(most):
            self.advance(wave, count)
            if wave % ASK_EVERY == ASK_EVERY - 1:
                # Answered one question late, so that the device always has waves to go on with.
                asked.append(self.question())
                if len(asked) > 1:
                    count = asked.popleft().answer()
                    if count == 0:
                        return

    def advance(self, wave: int, count: int, rows: int | None = None) -> None:
        """Wave `wave` of this warp: a few iterations of all pairs at work, at most `count`.

        Segments of `rows` rows, or of as many as suit the count.
        """
        params, tiling = self.params, self.tiling
        height, width, _ = self.sizes
        rows = rows or suitable_rows(height, count * self.strips, tiling.depth, self.places)
        # With epsilon 0 the rule is never looked at; any tolerance but 0 will do.
        has_rule = params.epsilon > 0
        triton_waves.advance[(count * self.strips * triton.cdiv(height, rows),)](
            self.state,
            self.constants,
            self.control,
            self.changes,
            # The list is of the last warp until it is made anew.
            self.everyone if wave < ASK_EVERY else self.working,
            wave,
            params.iterations,
            2 if has_rule else int(triton_rule.NEVER),
            params.epsilon**2 * height * width if has_rule else 1.0,
            rows,
            *self.sizes,
            params.lambda_ * params.theta,
            params.theta,
            params.tau / params.theta,
            tiling.depth,
            tiling.columns,
            num_warps=1,
            **OPTIONS,
        )

    def question(self) -> "Question":
        """Ask how many pairs are at work, and list them for the waves from now on."""
        _, _, num = self.sizes
        triton_rule.gather[(1,)](self.control, self.working, num, BLOCK, num_warps=1, **OPTIONS)
        return Question(self.working[num])


def num_strips(width: int, tiling: Tiling) -> int:
    """Strips of a picture."""
    shared = 2 * tiling.depth
    return int(max(triton.cdiv(width - shared, tiling.columns - shared), 1))


@lru_cache
def num_places(device: torch.device) -> int:
    """Programs that the device works on at once."""
    if device.type == "cpu":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count) * PROGRAMS


@lru_cache
def suitable_rows(height: int, strips: int, depth: int, places: int) -> int:
    """Rows a segment for so many strips: with which a wave ends soonest, as far as one can count.

    Of 256 rows on 1584 places: 16 for 5 strips, 64 for 500. It changes no bit.
    """

    def length(rows: int) -> int:
        programs = strips * triton.cdiv(height, rows)
        return int(max(programs, places) * (min(rows, height) + 2 * depth))

    return min(ROWS, key=length)


class Question:
    """What a number of the device is: asked now, answered when the device gets there."""

    def __init__(self, number: Tensor) -> None:
        self._answer = torch.empty((), dtype=number.dtype, pin_memory=number.is_cuda)
        self._answer.copy_(number, non_blocking=True)
        self._asked = torch.Event(number.device) if number.is_cuda else None
        if self._asked:
            self._asked.record()

    def answer(self) -> int:
        """Wait for it."""
        if self._asked:
            self._asked.synchronize()
        return int(self._answer)
