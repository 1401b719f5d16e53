"""Reads chosen frames and flow fields of chosen samples, by seeking; never a whole shard.

The index says where each member lies. Members that are neighbours are one read; from an object
store the reads of a sample are under way at the same time. Files are opened per read, so a reader
can be shared by forked workers and pickled. Anything that does not fit what the index promises is
an InputError that names shard and key: nothing is passed over in silence.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.cache import BlockCache, open_cache
from twinstream.shards.flow_codec import dequantize
from twinstream.shards.jpeg import decode_gray, decode_rgb
from twinstream.shards.manifest import FlowCodec, Manifest, read_manifest
from twinstream.shards.sample import SampleMeta, flow_member, frame_member, meta_from_json
from twinstream.shards.samples import Samples, StoredSample, WrittenVideos, read_written_videos
from twinstream.shards.settings import ShardSettings
from twinstream.shards.shard_index import IndexCache
from twinstream.shards.storage import Location, locate
from twinstream.shards.videos import VIDEOS_NAME, read_columns

__all__ = [
    "Sample",
    "ShardDataset",
    "StoredSample",
    "open_dataset",
    "open_shards",
    "read_flow",
    "read_frames",
    "read_meta",
    "read_snippets",
]

NUM_REQUESTS = 16
Members = list[memoryview]
Image = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Sample:
    """One video of a dataset; frames and flow are read when they are asked for."""

    key: str
    label: int
    """A position in the dataset's classes"""
    class_name: str
    split: str
    num_frames: int
    """N frames have N - 1 flow fields"""
    fps: float | None
    """Frames a second of the source video; None where it is not known"""
    height: int
    """Pixels, as stored"""
    width: int
    stored: StoredSample = dataclasses.field(repr=False)
    codec: FlowCodec = dataclasses.field(repr=False)

    def frames(self, indices: Iterable[int]) -> NDArray[np.uint8]:
        """Frames by number, from 0 -> (n, H, W, 3) RGB uint8; InputError for one it has not."""
        return read_frames(self.stored, [*indices])

    def flow(self, start: int, length: int) -> NDArray[np.float32]:
        """Flow fields [start, start + length) -> (length, H, W, 2) float32 pixels, (dx, dy).

        Field t is the motion from frame t to frame t + 1. InputError for one it has not.
        """
        return in_pixels(read_flow(self.stored, start, length), self.codec)


class ShardDataset:
    """A finished shard dataset in a folder or an object store, read by sample and frame number.

    `dataset[key]` is a Sample, `len(dataset)` their number; iterating gives every key. Reads of an
    object store go through `cache`, where there is one.
    """

    def __init__(self, where: str | Location, cache: BlockCache | None = None) -> None:
        self.path = locate(where)
        self._cache = None if isinstance(self.path, Path) else cache
        self.manifest: Manifest = read_manifest(self.path)

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.written.place(key) is not None

    def __getitem__(self, key: str) -> Sample:
        """The video of this key; InputError when no split has it."""
        split, stored = self._found(key)
        index = stored.index
        return Sample(
            key=key,
            label=index.label,
            class_name=self.classes[index.label],
            split=split,
            num_frames=index.num_frames,
            # The format writes 0 where the source does not say.
            fps=read_meta(stored).fps or None,
            height=index.height,
            width=index.width,
            stored=stored,
            codec=self.codec,
        )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(samples)} {name}" for name, samples in self.splits.items())
        return f"<ShardDataset {self.path}: {sizes or 'no samples'}; {len(self.classes)} classes>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each label."""
        return self.manifest.classes

    @property
    def codec(self) -> FlowCodec:
        """How the stored bytes stand for pixels of motion; `codec.bound` is the largest one."""
        return self.manifest.flow_codec

    @cached_property
    def videos(self) -> pa.Table:
        """videos.parquet as a pyarrow table: a row for every video that was found, with its status
        (written, skipped, missing), reason and detail.
        """
        return read_columns(self.path / VIDEOS_NAME)

    def keys(self, split: str | None = None) -> tuple[str, ...]:
        """The keys of a split, or of all, in the order of the shards; reads every index once."""
        if split is not None:
            return self.samples(split).keys
        return tuple(key for samples in self.splits.values() for key in samples.keys)

    @cached_property
    def splits(self) -> dict[str, Samples]:
        """Every sample, by split."""
        indexes, splits = IndexCache(), self.manifest.splits
        return {
            name: Samples(self.path, name, splits[name], self._cache, indexes=indexes)
            for name in splits
        }

    @cached_property
    def written(self) -> WrittenVideos:
        """Where each video is."""
        return read_written_videos(self.path)

    def samples(self, split: str) -> Samples:
        """Every sample of a split, in the order of its shards; InputError when there is no such
        split.
        """
        if split not in self.splits:
            known = ", ".join(sorted(self.splits)) or "none"
            raise InputError(f"{self.path}: no split {split!r}; it has {known}")
        return self.splits[split]

    def sample(self, key: str) -> StoredSample:
        """Where the sample of this key is stored; InputError when no split has it."""
        return self._found(key)[1]

    def flow_pixels(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Stored bytes -> pixels with this dataset's codec."""
        return in_pixels(levels, self.codec)

    def _found(self, key: str) -> tuple[str, StoredSample]:
        """Split and sample of a key."""
        found = self.written.place(key)
        if found is None:
            raise InputError(
                f"{self.path}: no sample {key!r} among {len(self)}; {VIDEOS_NAME} lists all"
            )
        split, shard = found
        return split, self.samples(split).of_key(shard, key)


def open_shards(
    path: str | Location,
    *,
    cache_dir: str | None = None,
    cache_bytes: int = ShardSettings().cache_bytes,
) -> ShardDataset:
    """The shard dataset in a folder, or at a URI such as s3://bucket/shards; InputError when there
    is none.

    What is read of an object store is kept in the local folder `cache_dir`, where one is given, up
    to `cache_bytes`.
    """
    return ShardDataset(path, open_cache(cache_dir, cache_bytes))


def in_pixels(levels: NDArray[np.uint8], codec: FlowCodec) -> NDArray[np.float32]:
    """Stored bytes of any shape -> float32 pixels of that shape."""
    return dequantize(levels, codec.bound, codec.zero, codec.levels)


def open_dataset(settings: ShardSettings, path: str | None = None) -> ShardDataset:
    """The dataset that section `shards` names, or the one at `path`, with the section's cache."""
    return ShardDataset(path or settings.path, open_cache(settings.cache_dir, settings.cache_bytes))


def read_meta(sample: StoredSample) -> SampleMeta:
    """The sample's JSON member."""
    ((data,),) = _read_spans(sample, [(0, 1)])
    try:
        return meta_from_json(bytes(data))
    except (TypeError, ValueError) as error:
        raise InputError(f"{sample.tar.name}: {sample.index.key}: damaged JSON member") from error


def read_frames(sample: StoredSample, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Frames by number -> (len(indices), H, W, 3) RGB uint8."""
    spans = [_frame_span(sample, t) for t in indices]
    return _frames(sample, indices, _read_spans(sample, spans))


def read_flow(sample: StoredSample, start: int, length: int) -> NDArray[np.uint8]:
    """Flow fields [start, start + length) -> (length, H, W, 2) uint8 levels of the
    codec, (dx, dy).
    """
    (members,) = _read_spans(sample, [_flow_span(sample, start, length)])
    return _flow(sample, start, members)


def read_snippets(
    sample: StoredSample, starts: Sequence[int], stack_length: int
) -> tuple[Iterator[Image], Iterator[Iterator[Image]]]:
    """K starts -> K frames (H, W, 3) and the K stacks that start at them, each its 2L fields (H, W)
    dx0 dy0 dx1 ...

    All uint8, read at once, decoded one by one as they are asked for: what is then done with an
    image finds it in the processor's cache, and to stack them would cost a third of what decoding
    does.
    """
    spans = [_frame_span(sample, t) for t in starts] + [
        _flow_span(sample, t, stack_length) for t in starts
    ]
    members = _read_spans(sample, spans)
    frames = (
        _frame(sample, t, data) for t, (data,) in zip(starts, members[: len(starts)], strict=True)
    )
    stacks = (
        _fields(sample, t, stack) for t, stack in zip(starts, members[len(starts) :], strict=True)
    )
    return frames, stacks


def _frames(
    sample: StoredSample, indices: Sequence[int], members: list[Members]
) -> NDArray[np.uint8]:
    frames = np.empty((len(indices), sample.index.height, sample.index.width, 3), np.uint8)
    for place, (t, (data,)) in enumerate(zip(indices, members, strict=True)):
        frames[place] = _frame(sample, t, data)
    return frames


def _frame(sample: StoredSample, t: int, data: memoryview) -> Image:
    return _decoded(
        sample, f"frame {t}", decode_rgb, data, (sample.index.height, sample.index.width, 3)
    )


def _flow(sample: StoredSample, start: int, members: Members) -> NDArray[np.uint8]:
    flow = np.empty((len(members) // 2, sample.index.height, sample.index.width, 2), np.uint8)
    for place, field in enumerate(_fields(sample, start, members)):
        flow[place // 2, :, :, place % 2] = field
    return flow


def _fields(sample: StoredSample, start: int, members: Members) -> Iterator[Image]:
    shape = (sample.index.height, sample.index.width)
    for place, data in enumerate(members):
        yield _decoded(
            sample, f"flow_{'xy'[place % 2]} {start + place // 2}", decode_gray, data, shape
        )


def _frame_span(sample: StoredSample, t: int) -> tuple[int, int]:
    """First member and number of members of frame t."""
    _check_range(sample, t, 1, sample.index.num_frames, "frame")
    return frame_member(t), 1


def _flow_span(sample: StoredSample, start: int, length: int) -> tuple[int, int]:
    _check_range(sample, start, length, sample.index.num_frames - 1, "flow field")
    return flow_member(sample.index.num_frames, start), 2 * length


def _check_range(sample: StoredSample, start: int, length: int, end: int, what: str) -> None:
    if not 0 <= start <= start + length <= end:
        raise InputError(
            f"{sample.tar.name}: {sample.index.key}: {what} {start} to {start + length - 1} asked "
            "for, "
            f"it has 0 to {end - 1}"
        )


def _read_spans(sample: StoredSample, spans: Sequence[tuple[int, int]]) -> list[Members]:
    """The members of each span (first, count); each span is one read."""
    if isinstance(sample.tar, Path) or len(spans) == 1:
        return [_read_members(sample, span) for span in spans]
    return [*_pool(os.getpid()).map(partial(_read_members, sample), spans)]


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_REQUESTS)


def _read_members(sample: StoredSample, span: tuple[int, int]) -> Members:
    """Neighbouring members in one read."""
    if not span[1]:
        return []
    members = slice(span[0], sum(span))
    offsets, sizes = sample.index.offsets[members], sample.index.sizes[members]
    begin, end = int(offsets[0]), int(offsets[-1]) + int(sizes[-1])
    try:
        data = sample.read(begin, end - begin)
    except FileNotFoundError as error:
        raise InputError(
            f"{sample.tar}: this shard is gone; `twinstream shards verify` lists what is"
        ) from error
    except OSError as error:
        raise InputError(f"{sample.tar}: {sample.index.key}: {error.strerror}") from error
    if len(data) != end - begin:
        raise InputError(
            f"{sample.tar.name}: {sample.index.key}: the shard ends at byte {begin + len(data)} of "
            f"{end}"
        )
    view = memoryview(data)
    return [
        view[offset - begin : offset - begin + size]
        for offset, size in zip(offsets, sizes, strict=True)
    ]


def _decoded(
    sample: StoredSample,
    what: str,
    decode: Callable[[memoryview], NDArray[np.uint8]],
    data: memoryview,
    shape: tuple[int, ...],
) -> NDArray[np.uint8]:
    try:
        image = decode(data)
    except InputError as error:
        raise InputError(f"{sample.tar.name}: {sample.index.key}: {what}: {error}") from error
    if image.shape != shape:
        raise InputError(
            f"{sample.tar.name}: {sample.index.key}: {what} is {image.shape}, the index says "
            f"{shape}"
        )
    return image
