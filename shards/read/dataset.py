"""A finished shard dataset: its splits, classes and samples, by key.

The manifest is read when the dataset is opened, everything else when it is first used. So opening
is one small read however large the dataset is; the price is that a damaged file is found late.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twinstream.errors import InputError, beginning
from twinstream.shards.format.flow_codec import dequantize
from twinstream.shards.format.manifest import (
    FlowCodec,
    Manifest,
    ShardEntry,
    read_manifest,
    shard_name,
)
from twinstream.shards.format.video_table import VIDEOS_NAME, read_columns
from twinstream.shards.read.index_cache import IndexCache
from twinstream.shards.read.members import read_flow, read_frames, read_meta
from twinstream.shards.read.samples import Samples, StoredSample, WrittenVideos, read_written_videos
from twinstream.shards.read.virtual_splits import VirtualSplit, find_split
from twinstream.shards.settings import ShardSettings
from twinstream.shards.storage.block_cache import BlockCache, open_cache
from twinstream.shards.storage.location import Location, dataset_file, locate


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
        # Local files need no copy on another local disk.
        self._cache = None if isinstance(self.path, Path) else cache
        self.manifest: Manifest = read_manifest(self.path)
        # One cache for all splits, so that its limit in bytes holds for the dataset.
        self._indexes = IndexCache()
        self._lists: dict[str, VirtualSplit] = {}
        self._of_lists: dict[str, Samples] = {}

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.written.find(key) is not None

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
        """videos.parquet as a pyarrow table, one row for every video that was found.

        Its columns include the status (written, skipped, missing), the reason and the detail.
        """
        return read_columns(dataset_file(self.path, VIDEOS_NAME))

    def keys(self, split: str | None = None) -> tuple[str, ...]:
        """The keys of a split, or of all, in the order of the shards; reads every index once."""
        if split is not None:
            return self.samples(split).keys
        return tuple(key for samples in self.splits.values() for key in samples.keys)

    @cached_property
    def splits(self) -> dict[str, Samples]:
        """Every sample, by split."""
        return {name: self._every(name, entries) for name, entries in self.manifest.splits.items()}

    @cached_property
    def written(self) -> WrittenVideos:
        """Split and shard of each video; read once, as every access by key needs it."""
        return read_written_videos(self.path)

    def samples(self, split: str) -> Samples:
        """Every sample of a split, in the order of its shards; InputError for an unknown split.

        `split` is one of the shards, a stored list or the file of one (see `virtual`).
        """
        listed = self.virtual(split)
        if listed is None:
            return self.splits[split]
        if split not in self._of_lists:
            self._of_lists[split] = self._listed(listed)
        return self._of_lists[split]

    def virtual(self, split: str) -> VirtualSplit | None:
        """The list behind a split; None for a split of the shards.

        InputError for a split that is neither of them, and for a list of other videos.
        """
        if split in self.splits:
            return None
        if split not in self._lists:
            self._lists[split] = find_split(self.path, split, known=self.splits)
        return self._lists[split]

    def sample(self, key: str) -> StoredSample:
        """Where the sample of this key is stored; InputError when no split has it."""
        return self._found(key)[1]

    def flow_pixels(self, levels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Stored bytes -> pixels with this dataset's codec."""
        return in_pixels(levels, self.codec)

    def _listed(self, listed: VirtualSplit) -> Samples:
        # Of the shards that hold any, as each costs a read of its index.
        shards = self.written.shards(listed.keys)
        entries = tuple(
            entry
            for split, entries in self.manifest.splits.items()
            for entry in entries
            if (split, shard_name(entry.tar.path)) in shards
        )
        found = self._every(listed.name, entries).with_keys({*listed.keys})
        # A score over fewer videos than the list names would be another one.
        if len(found) != len(listed.keys):
            raise InputError(
                f"{self.path}: {len(found)} of the {len(listed.keys)} videos of {listed.name} are "
                "in its shards; `twinstream shards verify` tells more"
            )
        return found

    def _every(self, name: str, entries: tuple[ShardEntry, ...]) -> Samples:
        return Samples(
            self.path,
            name,
            entries,
            self._cache,
            num_classes=len(self.classes),
            indexes=self._indexes,
        )

    def _found(self, key: str) -> tuple[str, StoredSample]:
        """Split and sample of a key."""
        # Samples have keys and no numbers: dataset[0] would be another video in another version.
        found = self.written.find(key) if isinstance(key, str) else None
        if found is None:
            raise InputError(
                f"{self.path}: no sample {beginning(repr(key))} among {len(self)}; {VIDEOS_NAME} "
                "lists all"
            )
        split, shard = found
        return split, self.samples(split).of_key(shard, key)


def open_shards(
    path: str | Location,
    *,
    cache_dir: str | None = None,
    cache_bytes: int = ShardSettings().cache_bytes,
) -> ShardDataset:
    """The shard dataset in a folder or at a URI such as s3://bucket/shards; InputError if absent.

    With `cache_dir`, a local folder keeps what is read of an object store, up to `cache_bytes`.
    """
    return ShardDataset(path, open_cache(cache_dir, cache_bytes))


def in_pixels(levels: NDArray[np.uint8], codec: FlowCodec) -> NDArray[np.float32]:
    """Stored bytes of any shape -> float32 pixels of that shape."""
    return dequantize(levels, codec.bound, codec.zero, codec.levels)


def open_dataset(settings: ShardSettings, path: str | None = None) -> ShardDataset:
    """The dataset that section `shards` names, or the one at `path`, with the section's cache."""
    return ShardDataset(path or settings.path, open_cache(settings.cache_dir, settings.cache_bytes))
