"""A batch: snippets of B videos as bytes, with the videos' labels and positions.

Bytes, because they are a quarter of the size of floats; train/device.py makes floats of them on the
device. A batch of a worker is allocated in shared memory, so that it reaches the trainer's process
without a copy.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from twinstream.errors import InputError
from twinstream.train.choices import BranchName
from twinstream.train.memory import machine_bytes
from twinstream.train.snippet_shape import SnippetShape


@dataclass(frozen=True)
class Batch:
    """One row a video in training, one row a (video, segment) at test."""

    rgb: Tensor
    """(B, K, 3, S, S) uint8, K snippets, of clips (B, K, T, 3, S, S); at test K crops of one"""
    flow: Tensor
    """(B, K, 2L, S, S) uint8 codec levels, dx0 dy0 dx1 ..., of clips (B, K, T, 2, S, S)"""
    flow_scale: Tensor
    """(B, 2) float32: what dx and dy are to be multiplied by"""
    labels: Tensor
    """(B,) int64"""
    positions: Tensor
    """(B,) int64, each video's position in its split"""

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, part: slice) -> Self:
        """Some of the rows, without a copy."""
        return self._each(lambda tensor: tensor[part])

    def images(self, views: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Its own memory, to write images into: rgb and flow of V views of K / V snippets.

        (B, V, K / V * T, 3, S, S) and (B, V, K / V, 2L, S, S), whether time is an axis or not.
        """
        grid, sides = (len(self), views), self.rgb.shape[-2:]
        rgb = self.rgb.numpy().reshape(*grid, -1, 3, *sides)
        return rgb, self.flow.numpy().reshape(*grid, self.flow.shape[1] // views, -1, *sides)

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from where a GPU copies by itself; for DataLoader."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(*(change(getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True)
class FeatureBatch:
    """Stored features of B videos in place of their pixels."""

    features: dict[BranchName, Tensor]
    """(B, K, ...) float32 of each branch that is needed, of K snippets"""
    labels: Tensor
    """(B,) int64"""

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, part: slice) -> Self:
        """Some of the rows, without a copy."""
        features = {name: values[part] for name, values in self.features.items()}
        return type(self)(features, self.labels[part])


def new_batch(size: int, snippets: int, shape: SnippetShape, crop_size: int) -> Batch:
    """A batch to be filled, its memory not written yet.

    InputError for one that is larger than the memory of this machine.
    """

    def empty(dtype: torch.dtype, *sizes: int) -> Tensor:
        if get_worker_info() is None:
            return torch.empty(sizes, dtype=dtype)
        # As torch's own collate function does it, without types: share_memory_() would copy memory
        # that nobody has written yet.
        storage = torch.UntypedStorage._new_shared(math.prod(sizes) * dtype.itemsize)  # type: ignore[no-untyped-call]
        return torch.empty(0, dtype=dtype).set_(storage).reshape(sizes)

    rgb, flow = (
        ((shape.frames, 3), (shape.fields, 2)) if shape.has_time else ((3,), (2 * shape.fields,))
    )
    num_bytes = size * snippets * (math.prod(rgb) + math.prod(flow)) * crop_size**2
    # Before it is taken: memory that is not written yet is granted beyond what there is.
    if (limit := machine_bytes()) is not None and num_bytes > limit:
        raise InputError(
            f"{size} videos of {snippets} snippets of {shape.frames} frames and {shape.fields} "
            f"flow fields at {crop_size} x {crop_size} take {num_bytes / 1e9:,.0f} GB, and this "
            f"machine has {limit / 1e9:,.0f}; fewer videos or snippets at a time, or a smaller "
            "train.crop_size, fit"
        )
    return Batch(
        rgb=empty(torch.uint8, size, snippets, *rgb, crop_size, crop_size),
        flow=empty(torch.uint8, size, snippets, *flow, crop_size, crop_size),
        flow_scale=empty(torch.float32, size, 2),
        labels=empty(torch.int64, size),
        positions=empty(torch.int64, size),
    )


def batch_of_rows(rows: Sequence[tuple[Batch, int]]) -> Batch:
    """Rows out of several batches, given as (batch, row), as one batch."""
    # All fields in one loop: a field added to Batch cannot be forgotten here.
    return Batch(
        *(
            torch.stack([getattr(batch, field.name)[row] for batch, row in rows])
            for field in fields(Batch)
        )
    )
