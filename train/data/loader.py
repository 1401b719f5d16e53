"""Snippets from shards by index: a plain torch Dataset, and the DataLoader around it.

The snippets and the view of a sample follow from (seed, epoch, key) alone, so workers, ranks and
resuming change nothing; the order is that of order.py. Only the members that a snippet needs are
read and decoded, and crops are written straight into their row of the batch. A worker returns an
InputError as a value: raised there, it would arrive wrapped in a traceback.
"""

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from twinstream.cores import usable_cores
from twinstream.errors import InputError
from twinstream.shards.read.members import read_snippets
from twinstream.shards.read.samples import Samples, StoredSample
from twinstream.signals import SIGNALS
from twinstream.train.choices import NumCrops
from twinstream.train.data import snippets, transforms
from twinstream.train.data.batch import Batch, new_batch
from twinstream.train.data.seeds import sample_rng
from twinstream.train.memory import keep_freed_memory
from twinstream.train.snippet_shape import SnippetShape

Index = TypeVar("Index")
MAX_WORKERS = 8


class Item(NamedTuple):
    """One row of a batch, for a DataLoader that stacks items itself."""

    rgb: Tensor
    """(K, 3, S, S) uint8, of clips (K, T, 3, S, S)"""
    flow: Tensor
    """(K, 2L, S, S) uint8, of clips (K, T, 2, S, S)"""
    flow_scale: Tensor
    """(2,) float32"""
    label: int


@dataclass(frozen=True)
class SnippetRecipe:
    """Settings of a training sample: K segments of one shape, one random view for all of them."""

    segments: int
    shape: SnippetShape
    crop_size: int
    scales: tuple[float, ...]
    flip: bool
    scale_motion: bool
    seed: int

    def draw(
        self, epoch: int, key: str, num_frames: int, height: int, width: int
    ) -> tuple[NDArray[np.int64], transforms.View]:
        """(K,) starts and the view of one video in one epoch."""
        rng = sample_rng(self.seed, epoch, key)
        starts = snippets.train_starts(num_frames, self.segments, self.shape, rng)
        return starts, transforms.random_view(
            rng, height, width, scales=self.scales, flip=self.flip
        )


@dataclass(frozen=True)
class Choice:
    """The content of one row of a batch: V views of each of K snippets of a video."""

    sample: StoredSample
    position: int
    """Of the video, in its split"""
    starts: list[int]
    views: Sequence[transforms.View]


class Videos(Protocol):
    """Videos to take snippets of: a split of a dataset, or one video outside of any dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int, /) -> StoredSample: ...
    def shortest(self) -> StoredSample:
        """A video with the fewest frames."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """The key of every video."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """(V,) the label of every video."""
        ...


class Snippets(Dataset[Item], Generic[Index], ABC):
    """Snippets of videos by index, one by one or straight into a batch."""

    def __init__(
        self,
        samples: Videos,
        views: int,
        snippets: int,
        shape: SnippetShape,
        crop_size: int,
        scale_motion: bool,
    ) -> None:
        self.samples = usable(samples, shape)
        self.shape, self.crop_size = shape, crop_size
        self.scale_motion = scale_motion
        self._views, self._snippets = views, snippets

    def __getitem__(self, index: Index) -> Item:
        batch = self.batch([index])
        return Item(batch.rgb[0], batch.flow[0], batch.flow_scale[0], int(batch.labels[0]))

    def batch(self, indexes: Sequence[Index]) -> Batch:
        """The items of these indexes as a DataLoader would stack them, without the copy."""
        shape = self.shape
        batch = new_batch(len(indexes), self._views * self._snippets, shape, self.crop_size)
        # The arrays are views of the batch's memory: a crop is written where it stays.
        rgb, flow = batch.images(self._views)
        for row, choice in enumerate([self.choose(index) for index in indexes]):
            frames, stacks = read_snippets(
                choice.sample, choice.starts, shape.fields, shape.frames, shape.stride
            )
            batch.flow_scale.numpy()[row] = transforms.apply_views(
                frames,
                stacks,
                choice.views,
                rgb[row],
                flow[row],
                scale_motion=self.scale_motion,
            )
            batch.labels[row] = choice.sample.index.label
            batch.positions[row] = choice.position
        return batch

    @abstractmethod
    def choose(self, index: Index) -> Choice:
        """The content of the row of that index."""


class TrainSnippets(Snippets[tuple[int, int]]):
    """Random snippets of each video through one random view; indexed by (epoch, position)."""

    def __init__(self, samples: Samples, recipe: SnippetRecipe) -> None:
        super().__init__(
            samples,
            1,
            recipe.segments,
            recipe.shape,
            recipe.crop_size,
            recipe.scale_motion,
        )
        self.recipe = recipe

    def __len__(self) -> int:
        return len(self.samples)

    def choose(self, index: tuple[int, int]) -> Choice:
        """Drawn for that video and epoch."""
        epoch, position = index
        sample = self.samples[position]
        meta = sample.index
        starts, view = self.recipe.draw(epoch, meta.key, meta.num_frames, meta.height, meta.width)
        return Choice(sample, position, starts.tolist(), [view])


class TestSnippets(Snippets[int]):
    """The crops of one snippet for every (video, segment), video after video; by row number."""

    # Or pytest would collect it as a test, for its name.
    __test__ = False

    def __init__(
        self,
        samples: Videos,
        *,
        segments: int,
        shape: SnippetShape,
        crops: NumCrops,
        scale: float,
        crop_size: int,
        scale_motion: bool,
    ) -> None:
        super().__init__(samples, crops, 1, shape, crop_size, scale_motion)
        self.segments, self.num_crops, self.scale = segments, crops, scale

    @property
    def labels(self) -> NDArray[np.int64]:
        """(V,) the label of each video."""
        return self.samples.labels

    def __len__(self) -> int:
        return len(self.samples) * self.segments

    def choose(self, index: int) -> Choice:
        """The middle of the segment and the crops of a test; nothing is random."""
        position, segment = divmod(index, self.segments)
        sample = self.samples[position]
        meta = sample.index
        starts = snippets.test_starts(meta.num_frames, self.segments, self.shape)
        side = test_crop(meta.height, meta.width, self.scale)
        views = transforms.test_views(meta.height, meta.width, side, self.num_crops)
        return Choice(sample, position, [int(starts[segment])], views)


def test_crop(height: int, width: int, scale: float) -> int:
    """Side of a test crop in stored pixels, of the shorter side so much: 256, 7/8 -> 224."""
    return max(1, round(min(height, width) * scale))


def usable(samples: Videos, shape: SnippetShape) -> Videos:
    """The samples; InputError when one is too short for a snippet, or there is none."""
    if not len(samples):
        raise InputError("this split holds no samples")
    # Checked before the first step: an epoch may meet the short video hours later.
    shortest = samples.shortest()
    try:
        snippets.num_starts(shortest.index.num_frames, shape)
    except InputError as error:
        raise InputError(f"{shortest.tar.name}: {shortest.index.key}: {error}") from error
    return samples


def load_train_batches(
    dataset: TrainSnippets, sampler: Iterable[list[tuple[int, int]]], workers: int
) -> Iterator[Batch]:
    """The batches of a sampler, lists of (epoch, position), in its order."""
    yield from loaded(dataset, workers, batch_sampler=sampler)


def load_test_batches(dataset: TestSnippets, batch_size: int, workers: int) -> Iterator[Batch]:
    """Every (video, segment) once, in order, `batch_size` of them at a time."""
    yield from loaded(dataset, workers, batch_size=batch_size)


def num_workers(setting: int | None) -> int:
    """The setting, or one process for each CPU, at most 8; torchrun's processes divide the CPUs."""
    if setting is not None:
        return setting
    shared_by = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(usable_cores() // shared_by, MAX_WORKERS))


class Batching(Protocol):
    """A source that reads a batch at a time, for the indexes that a sampler asks for."""

    def __len__(self) -> int: ...
    def batch(self, indexes: Any, /) -> Batch:
        """A batch from `new_batch`, filled; InputError where the data are at fault."""
        ...


def loaded(source: Batching, workers: int, **sampling: Any) -> Iterator[Batch]:
    """The source's batches through a DataLoader; InputError for bad data or a dead worker."""
    if workers:
        # Before the fork: a fork lacks OpenCV's threads, and would wait for their end for good.
        cv2.setNumThreads(1)
    loader = DataLoader(
        _Batches(source),
        num_workers=workers,
        worker_init_fn=_set_up_worker,
        # A source gives whole batches: torch's own collate function would copy them.
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        **sampling,
    )
    try:
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    except RuntimeError as error:
        # torch has no class of its own for the death of a worker.
        if not str(error).startswith("DataLoader worker"):
            raise
        raise InputError(
            f"a process that reads and decodes has died ({str(error).splitlines()[0]})"
        ) from error


class _Batches(Dataset[Batch | InputError]):
    """Batches as a DataLoader passes them on; an InputError is passed on like a batch."""

    def __init__(self, source: Batching) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, indexes: Any) -> Batch | InputError:
        try:
            return self._source.batch(indexes)
        except InputError as error:
            return error

    # With it a DataLoader asks for all indexes of a batch at once.
    __getitems__ = __getitem__


def _as_it_is(batch: Any) -> Any:
    return batch


def _set_up_worker(worker: int) -> None:
    # OpenCV would otherwise start a thread for every CPU in each process.
    cv2.setNumThreads(1)
    keep_freed_memory()
    # Ctrl-C reaches the whole process group: the trainer answers it, and its workers end with it.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
