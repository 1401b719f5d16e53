"""TV-L1 on a GPU: the frame pairs of a batch advance together, as `cuda_batch.py` computes them.

Batches are as large as `max_bytes` allows, or as the GPU has room for, and are cut anywhere, with one frame in common:
pairs know nothing of one another, so a cut changes no bit. T frames, N pairs.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from preprocess.tvl1 import Flow, Gray, TvL1Params, empty_flow
from preprocess.tvl1.cuda_batch import Tiling, batch_flow, bytes_of_frame, bytes_of_pair
from shards.errors import InputError
from shards.flow_codec import LEVELS_PER_SIDE, ZERO_LEVEL

DEFAULT_MAX_BYTES = 4 << 30
"""Memory of one batch's arrays: about 650 pairs of 256x256."""

Starts = npt.NDArray[np.int64]


class CudaEngine:
    """The engine. Results lie in page-locked memory where there is a GPU: use them up soon, or copy them."""

    name = "cuda"

    def __init__(self, params: TvL1Params, device: torch.device, max_bytes: int, tiling: Tiling) -> None:
        self.params = params
        self.device = device
        self.max_bytes = max_bytes
        self.tiling = tiling
        self.max_pairs: int | None = None
        self.work: Tensor | None = None

    @property
    def pixel_iterations(self) -> int:
        """Pixels updated so far, over all levels and warps: what the time is spent on. Waits for the device."""
        return 0 if self.work is None else int(self.work.item())

    def __call__(self, gray: Gray, /) -> Flow:
        """(T, H, W) uint8 -> (T - 1, H, W, 2) float32."""
        return self.flow_of_videos([gray])[0]

    def flow_of_videos(self, videos: Sequence[Gray]) -> list[Flow]:
        """(T, H, W) uint8 videos of one size, computed together -> (T - 1, H, W, 2) float32 for each."""
        shapes = [empty_flow(video).shape for video in videos]
        if len({shape[1:] for shape in shapes}) > 1:
            sizes = ", ".join(f"{width}x{height}" for _, height, width, _ in shapes)
            raise InputError(f"videos of one batch have sizes {sizes}; they need one size")
        starts = pair_starts([len(video) for video in videos])
        flow = self.computed(np.concatenate(videos), starts, torch.float32, lambda flow: flow)
        return np.split(flow, np.cumsum([shape[0] for shape in shapes])[:-1])

    def flow_levels(self, gray: Gray, bound: float) -> npt.NDArray[np.uint8]:
        """(T, H, W) uint8 -> (T - 1, H, W, 2) uint8, what `shards.flow_codec.quantize` gives, made on the device."""
        frames, *_ = empty_flow(gray).shape
        return self.computed(gray, np.arange(frames), torch.uint8, lambda flow: quantized(flow, bound))

    def computed(
        self, gray: Gray, starts: Starts, dtype: torch.dtype, convert: Callable[[Tensor], Tensor]
    ) -> npt.NDArray[Any]:
        """The flow of the pairs (t, t + 1) for t in `starts`, each batch converted on the device -> (N, H, W, 2)."""
        out = torch.empty((len(starts), *gray.shape[1:], 2), dtype=dtype, pin_memory=self.device.type == "cuda")
        done = 0
        while done < len(starts):
            num = self.num_fitting(starts[done:], gray.shape[1], gray.shape[2])
            chosen = starts[done : done + num]
            if self.fill(out[done : done + num], gray[chosen[0] : chosen[-1] + 2], chosen - chosen[0], convert):
                done += num
            elif num > 1:
                self.max_pairs = num // 2
                torch.cuda.empty_cache()
            else:
                raise InputError(
                    f"the GPU has no memory for one pair of {gray.shape[2]}x{gray.shape[1]}; "
                    "choose a smaller `preprocess.size` or use `engine: numba`"
                )
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        array: npt.NDArray[Any] = out.numpy()
        return array

    def fill(self, out: Tensor, gray: Gray, starts: Starts, convert: Callable[[Tensor], Tensor]) -> bool:
        """Compute one batch into `out`; False where the GPU's memory is used up. All of it is free on return."""
        try:
            frames = uploaded(gray, self.device)
            first = uploaded(starts.astype(np.int32), self.device)
            flow, work = batch_flow(frames, first, self.params, self.tiling)
            out.copy_(convert(flow).permute(0, 2, 3, 1).contiguous(), non_blocking=True)
        except torch.OutOfMemoryError:
            return False
        self.work = work if self.work is None else self.work + work
        return True

    def num_fitting(self, starts: Starts, height: int, width: int) -> int:
        """How many of the pairs to compute at once, at least one."""
        frames, pairs = starts - starts[0] + 2, np.arange(1, len(starts) + 1)
        size = height, width
        num_bytes = frames * bytes_of_frame(*size, self.params) + pairs * bytes_of_pair(*size)
        num = max(int((num_bytes <= self.max_bytes).sum()), 1)
        return num if self.max_pairs is None else min(num, self.max_pairs)


def uploaded(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device, by way of page-locked memory, so that the copy need not be waited for."""
    dtype = torch.uint8 if array.dtype == np.uint8 else torch.int32
    staging = torch.empty(array.shape, dtype=dtype, pin_memory=device.type == "cuda")
    staging.numpy()[:] = array
    return staging.to(device, non_blocking=True)


def pair_starts(lengths: Sequence[int]) -> Starts:
    """First frames of the pairs within videos that lie one after the other: lengths 3, 1, 2 -> 0, 1, 4."""
    ends = np.cumsum(lengths)
    return np.setdiff1d(np.arange(sum(lengths)), ends - 1).astype(np.int64)


def quantized(flow: Tensor, bound: float) -> Tensor:
    """`shards.flow_codec.quantize` of float32 flow, the same to the bit: `round` rounds halves to even."""
    return (flow.clamp(-bound, bound) * (LEVELS_PER_SIDE / bound)).round().add(ZERO_LEVEL).to(torch.uint8)


def open_cuda(params: TvL1Params, *, max_bytes: int = DEFAULT_MAX_BYTES, tiling: Tiling | None = None) -> CudaEngine:
    """The engine on the current GPU, or in Triton's interpreter on the CPU where TRITON_INTERPRET is 1."""
    if max_bytes < 1:
        raise InputError(f"max_bytes is {max_bytes}; a batch needs at least 1")
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    return CudaEngine(params, torch.device(device), max_bytes, tiling or Tiling())
