"""Snippets from shards: a plain Dataset, a batch sampler and a DataLoader over the index.

Order and augmentation are functions of (seed, epoch, key) alone, so workers and resuming change nothing. The sampler
hands out (epoch, position) pairs: a worker then knows the epoch without being told. An epoch shows every video
once, in ceil(n / batch_size) batches whose sizes differ by at most one: no video is dropped and no tiny batch is left
over for BatchNorm to stumble on. Only the members a snippet needs are read.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shards.errors import InputError
from shards.reader import StoredSample, read_flow, read_frames
from train import snippets, transforms

# rgb (K, 3, S, S) uint8, flow (K, 2L, S, S) uint8, flow_scale (2,) float32, number: a label or a video's position
Item = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32], int]
NumCrops = Literal[1, 5, 10]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class TrainSnippets(Dataset[Item]):
    """Random snippets of each video through one random view; indexed by (epoch, position)."""

    def __init__(
        self,
        samples: Sequence[StoredSample],
        *,
        segments: int,
        stack_length: int,
        crop_size: int,
        scales: Sequence[float],
        flip: bool,
        seed: int,
    ) -> None:
        self.samples = usable(samples, stack_length)
        self._segments, self._stack_length = segments, stack_length
        self._crop_size, self._scales, self._flip, self._seed = crop_size, scales, flip, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: tuple[int, int]) -> Item:
        epoch, position = place
        sample = self.samples[position]
        rng = sample_rng(self._seed, epoch, sample.index.key)
        starts = snippets.train_starts(sample.index.num_frames, self._segments, self._stack_length, rng)
        view = transforms.random_view(
            rng, sample.index.height, sample.index.width, scales=self._scales, flip=self._flip
        )
        frames, flow = read_snippets(sample, starts, self._stack_length)
        return (*transforms.apply_view(frames, flow, view, self._crop_size), sample.index.label)


class TestSnippets(Dataset[Item]):
    """Every (video, segment) of a test, its crops in place of segments; the number is the video's position."""

    __test__ = False

    def __init__(
        self,
        samples: Sequence[StoredSample],
        *,
        segments: int,
        stack_length: int,
        crops: NumCrops,
        crop_size: int,
    ) -> None:
        self.samples = usable(samples, stack_length)
        self.segments, self.num_crops = segments, crops
        self._stack_length, self._crop_size = stack_length, crop_size

    @property
    def labels(self) -> NDArray[np.int64]:
        """(V,) the label of each video."""
        return np.array([sample.index.label for sample in self.samples])

    def __len__(self) -> int:
        return len(self.samples) * self.segments

    def __getitem__(self, place: int) -> Item:
        position, segment = divmod(place, self.segments)
        sample = self.samples[position]
        starts = snippets.test_starts(sample.index.num_frames, self.segments, self._stack_length)
        frames, flow = read_snippets(sample, starts[segment : segment + 1], self._stack_length)
        side = test_crop(sample.index.height, sample.index.width)
        views = transforms.test_views(sample.index.height, sample.index.width, side, self.num_crops)
        cut = [transforms.apply_view(frames, flow, view, self._crop_size) for view in views]
        rgb, stacks, scales = zip(*cut, strict=True)
        return np.concatenate(rgb), np.concatenate(stacks), scales[0], position


def test_crop(height: int, width: int) -> int:
    """Side of a test crop in stored pixels, 7/8 of the shorter side as in the paper: 256 -> 224."""
    return round(min(height, width) * 7 / 8)


def usable(samples: Sequence[StoredSample], stack_length: int) -> list[StoredSample]:
    """The samples as a list; InputError when one is too short for a stack, or there is none."""
    for sample in samples:
        try:
            snippets.num_starts(sample.index.num_frames, stack_length)
        except InputError as error:
            raise InputError(f"{sample.tar.name}: {sample.index.key}: {error}") from error
    if not samples:
        raise InputError("this split holds no samples")
    return list(samples)


def read_snippets(
    sample: StoredSample, starts: NDArray[np.int64], stack_length: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(K,) starts -> frames (K, H, W, 3) and flow levels (K, L, H, W, 2), both uint8."""
    frames = read_frames(sample, [int(t) for t in starts])
    flow = np.stack([read_flow(sample, int(t), stack_length) for t in starts])
    return frames, flow


def sample_rng(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The random choices of one video in one epoch."""
    digest = hashlib.sha256(key.encode()).digest()[:8]
    return np.random.default_rng([seed, epoch, int.from_bytes(digest, "little")])


def epoch_batches(num_samples: int, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Positions of every sample once, shuffled, in batches of nearly equal size: 10 samples by 4 -> 4, 3, 3."""
    order = np.random.default_rng([seed, epoch]).permutation(num_samples)
    return np.array_split(order, -(-num_samples // batch_size))


def load_train_batches(
    dataset: TrainSnippets, batches: Sequence[NDArray[np.int64]], epoch: int, workers: int
) -> Iterator[Batch]:
    """These batches of positions, read for this epoch, as tensors with a leading batch dimension."""
    places = [[(epoch, int(position)) for position in batch] for batch in batches]
    yield from _loader(dataset, workers, batch_sampler=places)


def load_test_batches(dataset: TestSnippets, batch_size: int, workers: int) -> Iterator[Batch]:
    """Every (video, segment) once, in order, `batch_size` of them at a time."""
    yield from _loader(dataset, workers, batch_size=batch_size)


def num_workers(setting: int | None) -> int:
    """The setting, or one process a CPU, at most 8."""
    return min(len(os.sched_getaffinity(0)), 8) if setting is None else setting


def _loader(dataset: Dataset[Item], workers: int, **batching: Any) -> DataLoader[Item]:
    # One thread a process: OpenCV would otherwise start one for every CPU in each of them.
    return DataLoader(dataset, num_workers=workers, worker_init_fn=_one_thread, **batching)


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
