"""A batch: snippets of B videos as bytes, with the videos' labels and positions.

Bytes, because they are a quarter of the size of floats; train/device.py makes floats of them on the
device. A batch of a worker is allocated in shared memory, so that it reaches the trainer's process
without a copy.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import get_worker_info


@dataclass(frozen=True)
class Batch:
    """One row a video in training, one row a (video, segment) at test."""

    rgb: Tensor
    """(B, K, 3, S, S) uint8, K snippets; at test K crops of one snippet"""
    flow: Tensor
    """(B, K, 2L, S, S) uint8 codec levels, dx0 dy0 dx1 ..."""
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

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from where a GPU copies by itself; for DataLoader."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(*(change(getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True)
class FeatureBatch:
    """Stored features of B videos in place of their pixels."""

    features: Tensor
    """(B, K, D) float32, of K snippets"""
    labels: Tensor
    """(B,) int64"""

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, part: slice) -> Self:
        """Some of the rows, without a copy."""
        return type(self)(self.features[part], self.labels[part])


def new_batch(size: int, snippets: int, stack_length: int, crop_size: int) -> Batch:
    """A batch to be filled, its memory not written yet."""

    def empty(dtype: torch.dtype, *shape: int) -> Tensor:
        if get_worker_info() is None:
            return torch.empty(shape, dtype=dtype)
        # As torch's own collate function does it: share_memory_() would copy memory that nobody has
        # written yet.
        storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # type: ignore[no-untyped-call]
        return torch.empty(0, dtype=dtype).set_(storage).reshape(shape)

    return Batch(
        rgb=empty(torch.uint8, size, snippets, 3, crop_size, crop_size),
        flow=empty(torch.uint8, size, snippets, 2 * stack_length, crop_size, crop_size),
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
