"""Snippets from shards: a plain torch Dataset that reads by index, and what carries its items to
the trainer.

What a sample shows in an epoch is a function of (seed, epoch, key) alone, so workers, ranks and
resuming change nothing; the order is train/order.py's. Only the members a snippet needs are read
and decoded, and what is cut from them goes straight to its place in the batch. A fault of the data
travels from a worker as a value, because an exception raised there would arrive wrapped in a
traceback.
"""

import hashlib
import math
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from twinstream.errors import InputError
from twinstream.shards.reader import read_snippets
from twinstream.shards.samples import Samples, StoredSample
from twinstream.signals import SIGNALS
from twinstream.train import snippets, transforms
from twinstream.train.memory import keep_freed_memory
from twinstream.train.order import EpochSampler

NumCrops = Literal[1, 5, 10]
# rgb (K, 3, S, S) uint8, flow (K, 2L, S, S) uint8, flow_scale (2,) float32, number: a label or a
# video's position
Item = tuple[Tensor, Tensor, Tensor, int]
# The same with a leading batch dimension, numbers (B,) int64
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
        return starts, transforms.random_view(
            rng, height, width, scales=self.scales, flip=self.flip
        )


def new_batch(size: int, snippets: int, stack_length: int, crop_size: int) -> Batch:
    """A batch to be filled. A worker's lies in shared memory, where the trainer finds it without a
    copy.
    """

    def empty(dtype: torch.dtype, *shape: int) -> Tensor:
        if get_worker_info() is None:
            return torch.empty(shape, dtype=dtype)
        # What torch's own collate function asks for; share_memory_() would copy memory that is yet
        # to be written.
        storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # type: ignore[no-untyped-call]
        return torch.empty(0, dtype=dtype).set_(storage).reshape(shape)

    rgb, flow = (
        empty(torch.uint8, size, snippets, c, crop_size, crop_size) for c in (3, 2 * stack_length)
    )
    return rgb, flow, empty(torch.float32, size, 2), empty(torch.int64, size)


@dataclass(frozen=True)
class Choice:
    """What a batch shows in one row: each of V views of each of K snippets, and the number that
    goes with it.
    """

    sample: StoredSample
    starts: list[int]
    views: Sequence[transforms.View]
    number: int


class Videos(Protocol):
    """Videos to take snippets of: a split of a dataset, or one video that is in none."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int, /) -> StoredSample: ...
    def shortest(self) -> StoredSample:
        """One of those with the fewest frames."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """The key of every video."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """(V,) the label of every video."""
        ...


class Snippets(Dataset[Item], Generic[Place], ABC):
    """Snippets of videos by place, one by one or straight into a batch."""

    def __init__(
        self, samples: Videos, views: int, snippets: int, stack_length: int, crop_size: int
    ) -> None:
        self.samples = usable(samples, stack_length)
        self.stack_length, self.crop_size = stack_length, crop_size
        self._views, self._snippets = views, snippets

    def __getitem__(self, place: Place) -> Item:
        rgb, flow, scales, numbers = self.batch([place])
        return rgb[0], flow[0], scales[0], int(numbers[0])

    def batch(self, places: Sequence[Place]) -> Batch:
        """What a DataLoader would stack of these places' items, without the copy."""
        batch = new_batch(
            len(places), self._views * self._snippets, self.stack_length, self.crop_size
        )
        rgb, flow, scales, numbers = (part.numpy() for part in batch)
        grid = len(places), self._views, self._snippets
        rgb, flow = (part.reshape(*grid, *part.shape[2:]) for part in (rgb, flow))
        for row, choice in enumerate([self.choose(place) for place in places]):
            frames, stacks = read_snippets(choice.sample, choice.starts, self.stack_length)
            scales[row] = transforms.apply_views(frames, stacks, choice.views, rgb[row], flow[row])
            numbers[row] = choice.number
        return batch

    @abstractmethod
    def choose(self, place: Place) -> Choice:
        """What is at a place."""


class TrainSnippets(Snippets[tuple[int, int]]):
    """Random snippets of each video through one random view; indexed by (epoch, position)."""

    def __init__(self, samples: Samples, recipe: SnippetRecipe) -> None:
        super().__init__(samples, 1, recipe.segments, recipe.stack_length, recipe.crop_size)
        self.recipe = recipe

    def __len__(self) -> int:
        return len(self.samples)

    def choose(self, place: tuple[int, int]) -> Choice:
        """The number is the label."""
        epoch, position = place
        sample = self.samples[position]
        index = sample.index
        starts, view = self.recipe.draw(
            epoch, index.key, index.num_frames, index.height, index.width
        )
        return Choice(sample, starts.tolist(), [view], index.label)


class TestSnippets(Snippets[int]):
    """Every (video, segment) of a test, its crops in place of segments; the number is the video's
    position.
    """

    __test__ = False

    def __init__(
        self,
        samples: Videos,
        *,
        segments: int,
        stack_length: int,
        crops: NumCrops,
        crop_size: int,
    ) -> None:
        super().__init__(samples, crops, 1, stack_length, crop_size)
        self.segments, self.num_crops = segments, crops

    @property
    def labels(self) -> NDArray[np.int64]:
        """(V,) the label of each video."""
        return self.samples.labels

    def __len__(self) -> int:
        return len(self.samples) * self.segments

    def choose(self, place: int) -> Choice:
        """The number is the video's position."""
        position, segment = divmod(place, self.segments)
        sample = self.samples[position]
        starts = snippets.test_starts(sample.index.num_frames, self.segments, self.stack_length)
        side = test_crop(sample.index.height, sample.index.width)
        views = transforms.test_views(sample.index.height, sample.index.width, side, self.num_crops)
        return Choice(sample, [int(starts[segment])], views, position)


def test_crop(height: int, width: int) -> int:
    """Side of a test crop in stored pixels, 7/8 of the shorter side as in the paper: 256 -> 224."""
    return round(min(height, width) * 7 / 8)


def usable(samples: Videos, stack_length: int) -> Videos:
    """The samples; InputError when one is too short for a stack, or there is none."""
    if not len(samples):
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


def load_train_batches(
    dataset: TrainSnippets, sampler: EpochSampler, workers: int
) -> Iterator[Batch]:
    """What is left of an epoch, as tensors with a leading batch dimension."""
    yield from loaded(dataset, workers, batch_sampler=sampler)


def load_test_batches(dataset: TestSnippets, batch_size: int, workers: int) -> Iterator[Batch]:
    """Every (video, segment) once, in order, `batch_size` of them at a time."""
    yield from loaded(dataset, workers, batch_size=batch_size)


def num_workers(setting: int | None) -> int:
    """The setting, or one process a CPU, at most 8; processes of one run on one machine share the
    CPUs.
    """
    if setting is not None:
        return setting
    shared_by = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(len(os.sched_getaffinity(0)) // shared_by, MAX_WORKERS))


class Batching(Protocol):
    """What has batches of what a sampler asks for."""

    def __len__(self) -> int: ...
    def batch(self, wanted: Any, /) -> Batch:
        """A batch, in memory from `new_batch`; InputError where the data are at fault."""
        ...


def loaded(source: Batching, workers: int, **sampling: Any) -> Iterator[Batch]:
    """The source's batches by way of a DataLoader; InputError for what the source or the workers
    met.
    """
    loader = DataLoader(
        _Batches(source),
        num_workers=workers,
        worker_init_fn=_set_up_worker,
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
        if not str(error).startswith("DataLoader worker"):
            raise
        raise InputError(
            f"a process that reads and decodes has died ({str(error).splitlines()[0]})"
        ) from error


class _Batches(Dataset[Batch | InputError]):
    """What a DataLoader takes as they are: batches, and InputErrors in their place."""

    def __init__(self, source: Batching) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, wanted: Any) -> Batch | InputError:
        try:
            return self._source.batch(wanted)
        except InputError as error:
            return error

    # With it a DataLoader asks for a batch's places at once.
    __getitems__ = __getitem__


def _as_it_is(batch: Any) -> Any:
    return batch


def _set_up_worker(worker: int) -> None:
    # OpenCV would otherwise start a thread for every CPU in each process.
    cv2.setNumThreads(1)
    keep_freed_memory()
    # A signal to the whole process group is the trainer's to answer; its workers end with it.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
