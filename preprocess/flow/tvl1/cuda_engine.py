"""TV-L1 on a GPU: the frame pairs of a batch advance together, as `cuda_batch.py` computes them.

Batches are as large as `max_bytes` allows, or as the GPU has room for, and are cut anywhere, with
one frame in common: pairs know nothing of one another, so a cut changes no bit. While one batch is
computed the next one's frames arrive and the flow of the last one leaves. T frames, N pairs.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import triton
from torch import Tensor

from twinstream.errors import InputError
from twinstream.preprocess.flow.engine import (
    DEFAULT_GPU_BYTES,
    Engine,
    EngineOptions,
    Flow,
    Gray,
    TvL1Params,
    empty_flow,
)
from twinstream.preprocess.flow.stored import FlowStatistics, StoredFlow
from twinstream.preprocess.flow.tvl1 import triton_kernels
from twinstream.preprocess.flow.tvl1.cuda_batch import (
    BLOCK,
    Tiling,
    batch_flow,
    bytes_of_frame,
    bytes_of_pair,
)
from twinstream.preprocess.flow.tvl1.cuda_copies import Copies
from twinstream.shards.format.flow_codec import LEVELS_PER_SIDE

Starts = npt.NDArray[np.int64]
Convert = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PairBatch:
    """Frames (T, H, W) uint8 and the first frames (N,) int32 of their pairs.

    They are on the device or on their way.
    """

    frames: Tensor
    first: Tensor


class CudaEngine:
    """The engine.

    With a GPU, results lie in page-locked memory: use them up soon, or copy them.
    """

    name = "cuda"

    def __init__(
        self, params: TvL1Params, device: torch.device, max_bytes: int, tiling: Tiling
    ) -> None:
        self.params = params
        self.device = device
        self.max_bytes = max_bytes
        self.tiling = tiling
        self.max_pairs: int | None = None
        self.pixel_iterations = 0
        """Pixels updated so far, over all levels and warps; the computing time is proportional to
        it.
        """
        self.work: list[Tensor] = []
        """Pixels updated that have not been counted yet, by batch."""

    @cached_property
    def copies(self) -> Copies:
        """Made when first used, so that opening an engine to see whether it works uses no GPU."""
        return Copies(self.device)

    def __call__(self, gray: Gray, /) -> Flow:
        """(T, H, W) uint8 -> (T - 1, H, W, 2) float32."""
        return self.flow_of_videos([gray])[0]

    def flow_of_videos(self, videos: Sequence[Gray]) -> list[Flow]:
        """(T, H, W) uint8 videos of one size -> (T - 1, H, W, 2) float32 for each.

        They are computed together.
        """
        shapes = [empty_flow(video).shape for video in videos]
        if len({shape[1:] for shape in shapes}) > 1:
            sizes = ", ".join(f"{width}x{height}" for _, height, width, _ in shapes)
            raise InputError(f"videos of one batch have sizes {sizes}; they need one size")
        starts = pair_starts([len(video) for video in videos])
        out = self.copies.host_memory((len(starts), *shapes[0][1:]), torch.float32)
        self.compute(
            np.concatenate(videos), starts, out, lambda flow: flow.permute(0, 2, 3, 1).contiguous()
        )
        flow: Flow = out.numpy()
        return np.split(flow, np.cumsum([shape[0] for shape in shapes])[:-1])

    def stored(self, gray: Gray, bound: float) -> StoredFlow:
        """(T, H, W) uint8 -> the flow as `stored.stored_flow` gives it, with the same bits.

        It is quantized on the device.
        """
        num, *_ = empty_flow(gray).shape
        return self.stored_pairs(gray, np.arange(num), bound)

    def stored_pairs(self, gray: Gray, starts: Starts, bound: float) -> StoredFlow:
        """The same of the pairs (t, t + 1) for t in `starts`, in rising order."""
        out = self.copies.host_memory((len(starts), 2, *gray.shape[1:]), torch.uint8)
        sums = torch.zeros(3, dtype=torch.int64, device=self.device)

        self.compute(gray, starts, out, lambda flow: quantized(flow, bound, sums))
        micropixels, num_saturated, num_strange = sums.tolist()
        assert num_strange == 0, "flow holds NaN or infinity"
        return StoredFlow(out.numpy(), FlowStatistics(out.numel() // 2, micropixels, num_saturated))

    def compute(self, gray: Gray, starts: Starts, out: Tensor, convert: Convert) -> None:
        """Fill `out` (N, ...) with the flow of the pairs (t, t + 1) for t in `starts`.

        The flow is converted on the device.
        """
        done, batch = 0, None
        while done < len(starts):
            # Anew each time: a batch that did not fit has made all later ones smaller.
            here = self.fitting(starts[done:], gray.shape)
            ahead = self.fitting(starts[done + len(here) :], gray.shape)
            fits, batch = self.advance(
                self.copies, gray, here, ahead, batch, out[done : done + len(here)], convert
            )
            if fits:
                done += len(here)
            else:
                self.take_fewer(len(here), gray.shape)
        self.copies.finish()
        self.count()

    def count(self) -> None:
        """Count the pixels updated; waits for the device."""
        self.pixel_iterations += sum(int(work) for work in self.work)
        self.work.clear()

    def advance(
        self,
        copies: Copies,
        gray: Gray,
        here: Starts,
        ahead: Starts,
        batch: PairBatch | None,
        out: Tensor,
        convert: Convert,
    ) -> tuple[bool, PairBatch | None]:
        """Compute the pairs `here`, while those `ahead` are loaded.

        `batch` holds the pairs `here` if the last call loaded them. False and None where the GPU's
        memory is used up: then all that was taken is free again.
        """
        try:
            batch = batch or self.loaded(copies, gray, here)
            copies.arrive()
            following = self.loaded(copies, gray, ahead) if len(ahead) else None
            flow, work = self.batch_flow(batch)
            copies.download(convert(flow), out)
        except torch.OutOfMemoryError:
            # Copies on their way into memory that is set free here would overwrite what comes next.
            copies.arrive()
            return False, None
        self.work.append(work)
        return True, following

    def batch_flow(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """(N, 2, H, W) pixels, and how many pixels were updated."""
        return batch_flow(batch.frames, batch.first, self.params, self.tiling)

    def loaded(self, copies: Copies, gray: Gray, starts: Starts) -> PairBatch:
        """The frames of these pairs, on their way to the device."""
        frames = copies.upload(gray[starts[0] : starts[-1] + 2], torch.uint8)
        return PairBatch(frames, copies.upload(starts - starts[0], torch.int32))

    def take_fewer(self, num: int, shape: tuple[int, ...]) -> None:
        """After `num` pairs did not fit: half of them from now on; InputError where it was one."""
        if num == 1:
            raise InputError(
                f"the GPU has no memory for one pair of {shape[2]}x{shape[1]}; "
                "choose a smaller `preprocess.size`, fewer `preprocess.workers_per_gpu`, or "
                "`engine: numba`"
            )
        self.max_pairs = num // 2
        # Pieces that torch keeps for the old size would stand in the way of the new one.
        torch.cuda.empty_cache()

    def fitting(self, starts: Starts, shape: tuple[int, ...], share: int = 1) -> Starts:
        """The first of these pairs, as many as are computed at once where `share` such batches are
        in memory.

        At least one, unless there is none.
        """
        _, height, width = shape
        # A batch holds the frames between its pairs too, whether or not they begin one.
        frames, pairs = starts - starts[:1] + 2, np.arange(1, len(starts) + 1)
        num_bytes = frames * bytes_of_frame(height, width, self.params) + pairs * bytes_of_pair(
            height, width
        )
        num = max(int((num_bytes * share <= self.max_bytes).sum()), 1)
        return starts[: num if self.max_pairs is None else min(num, self.max_pairs)]


def pair_starts(lengths: Sequence[int]) -> Starts:
    """First frames of the pairs within videos that lie one after the other.

    Lengths 3, 1, 2 -> 0, 1, 4.
    """
    # The last frame of a video begins no pair.
    ends = np.cumsum(lengths)
    return np.setdiff1d(np.arange(sum(lengths)), ends - 1).astype(np.int64)


def quantized(flow: Tensor, bound: float, sums: Tensor) -> Tensor:
    """(N, 2, H, W) float32 -> `shards.flow_codec.quantize` of it, with the same bits.

    Adds to `sums` (3,) int64 those of `flow_statistics`, and how many values are not finite.
    """
    # Memory is taken before anything is added: a batch for which there is none is done again.
    flow = flow.contiguous()
    planes = torch.empty_like(flow, dtype=torch.uint8)
    num, _, height, width = flow.shape
    triton_kernels.store[(num * triton.cdiv(height * width, BLOCK),)](
        flow,
        planes,
        sums,
        bound,
        LEVELS_PER_SIDE / bound,
        height * width,
        BLOCK,
        # The host rounds after each operation.
        enable_fp_fusion=False,
    )
    return planes


def open_engine(options: EngineOptions) -> Engine:
    """The engine on the current GPU."""
    return open_cuda(options.tvl1, max_bytes=options.gpu_bytes)


def open_cuda(
    params: TvL1Params, *, max_bytes: int = DEFAULT_GPU_BYTES, tiling: Tiling | None = None
) -> CudaEngine:
    """The engine on the current GPU.

    Where TRITON_INTERPRET is 1, in Triton's interpreter on the CPU.
    """
    if max_bytes < 1:
        raise InputError(f"max_bytes is {max_bytes}; a batch needs at least 1")
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    return CudaEngine(params, torch.device(device), max_bytes, tiling or Tiling())
