"""Snippets from shards: a plain torch Dataset that reads by index, and what carries its items to the trainer.

What a sample shows in an epoch is a function of (seed, epoch, key) alone, so workers, ranks and resuming change
nothing; the order is train/order.py's. Only the members a snippet needs are read and decoded. A fault of the data
travels from a worker as a value, because an exception raised there would arrive wrapped in a traceback.
"""

import hashlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from shards.errors import InputError
from shards.reader import read_snippets
from shards.samples import Samples
from shards.signals import SIGNALS
from train import snippets, transforms
from train.order import EpochSampler

# rgb (K, 3, S, S) uint8, flow (K, 2L, S, S) uint8, flow_scale (2,) float32, number: a label or a video's position
Item = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32], int]
NumCrops = Literal[1, 5, 10]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
Place = TypeVar("Place")
MAX_WORKERS = 8


@dataclass(frozen=True)
class SnippetRecipe:
    """What a training sample shows: K segments, stacks of L, and one random view for all of it."""

    segments: int
    stack_length: int
    crop_size: int
    scales: tuple[float, ...]
    flip: bool
    seed: int

    def draw(
        self, epoch: int, key: str, num_frames: int, height: int, width: int
    ) -> tuple[NDArray[np.int64], transforms.View]:
        """(K,) starts and the view of one video in one epoch."""
        rng = sample_rng(self.seed, epoch, key)
        starts = snippets.train_starts(num_frames, self.segments, self.stack_length, rng)
        return starts, transforms.random_view(rng, height, width, scales=self.scales, flip=self.flip)


class TrainSnippets(Dataset[Item]):
    """Random snippets of each video through one random view; indexed by (epoch, position)."""

    def __init__(self, samples: Samples, recipe: SnippetRecipe) -> None:
        self.samples = usable(samples, recipe.stack_length)
        self.recipe = recipe

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: tuple[int, int]) -> Item:
        epoch, position = place
        sample = self.samples[position]
        index = sample.index
        starts, view = self.recipe.draw(epoch, index.key, index.num_frames, index.height, index.width)
        frames, stacks = read_snippets(sample, starts.tolist(), self.recipe.stack_length)
        return (*transforms.apply_view(frames, stacks, view, self.recipe.crop_size), index.label)


class TestSnippets(Dataset[Item]):
    """Every (video, segment) of a test, its crops in place of segments; the number is the video's position."""

    __test__ = False

    def __init__(
        self,
        samples: Samples,
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
        return self.samples.labels

    def __len__(self) -> int:
        return len(self.samples) * self.segments

    def __getitem__(self, place: int) -> Item:
        position, segment = divmod(place, self.segments)
        sample = self.samples[position]
        starts = snippets.test_starts(sample.index.num_frames, self.segments, self._stack_length)
        frames, stacks = read_snippets(sample, starts[segment : segment + 1].tolist(), self._stack_length)
        side = test_crop(sample.index.height, sample.index.width)
        views = transforms.test_views(sample.index.height, sample.index.width, side, self.num_crops)
        cut = [transforms.apply_view(frames, stacks, view, self._crop_size) for view in views]
        rgb, flow, scales = zip(*cut, strict=True)
        return np.concatenate(rgb), np.concatenate(flow), scales[0], position


def test_crop(height: int, width: int) -> int:
    """Side of a test crop in stored pixels, 7/8 of the shorter side as in the paper: 256 -> 224."""
    return round(min(height, width) * 7 / 8)


def usable(samples: Samples, stack_length: int) -> Samples:
    """The samples; InputError when one is too short for a stack, or there is none."""
    if not samples:
        raise InputError("this split holds no samples")
    shortest = samples.shortest()
    try:
        snippets.num_starts(shortest.index.num_frames, stack_length)
    except InputError as error:
        raise InputError(f"{shortest.tar.name}: {shortest.index.key}: {error}") from error
    return samples


def sample_rng(seed: int, epoch: int, key: str) -> np.random.Generator:
    """The random choices of one video in one epoch."""
    digest = hashlib.sha256(key.encode()).digest()[:8]
    return np.random.default_rng([seed, epoch, int.from_bytes(digest, "little")])


def load_train_batches(dataset: TrainSnippets, sampler: EpochSampler, workers: int) -> Iterator[Batch]:
    """What is left of an epoch, as tensors with a leading batch dimension."""
    yield from loaded(dataset, workers, batch_sampler=sampler)


def load_test_batches(dataset: TestSnippets, batch_size: int, workers: int) -> Iterator[Batch]:
    """Every (video, segment) once, in order, `batch_size` of them at a time."""
    yield from loaded(dataset, workers, batch_size=batch_size)


def num_workers(setting: int | None) -> int:
    """The setting, or one process a CPU, at most 8; processes of one run on one machine share the CPUs."""
    if setting is not None:
        return setting
    shared_by = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(len(os.sched_getaffinity(0)) // shared_by, MAX_WORKERS))


def loaded(dataset: Dataset[Any], workers: int, **batching: Any) -> Iterator[Any]:
    """What a DataLoader makes of a dataset of items; InputError for what the items or the workers met."""
    loader = DataLoader(
        _Told(dataset),
        num_workers=workers,
        worker_init_fn=_set_up_worker,
        collate_fn=_batch_or_fault,
        pin_memory=torch.cuda.is_available(),
        **batching,
    )
    try:
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise InputError(f"a process that reads and decodes has died ({str(error).splitlines()[0]})") from error


class _Told(Dataset[Any], Generic[Place]):
    """A dataset whose InputErrors are items."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, place: Place) -> Any:
        try:
            return self._dataset[place]
        except InputError as error:
            return error


def _batch_or_fault(items: Any) -> Any:
    faults = [item for item in items if isinstance(item, InputError)] if isinstance(items, list) else [items]
    return faults[0] if faults else default_collate(items)


def _set_up_worker(worker: int) -> None:
    # OpenCV would otherwise start a thread for every CPU in each process.
    cv2.setNumThreads(1)
    # A signal to the whole process group is the trainer's to answer; its workers end with it.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
