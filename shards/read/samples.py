"""The samples of a split as a sequence that holds nothing for each sample in memory.

A position is turned into a shard and a row of it by the counts in dataset.json. The index of that
shard is read when the sample is first used, so the first use of each shard costs one small read.
Questions about all samples (the shard of a key, the shortest sample of a split) are answered from
videos.parquet, which is one file.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.format.index import MAX_BYTES, SampleIndex
from twinstream.shards.format.manifest import FileEntry, ShardEntry, shard_name
from twinstream.shards.format.video_table import VIDEOS_NAME, Status, read_columns
from twinstream.shards.read.index_cache import IndexCache, ShardIndex, parse_shard_index
from twinstream.shards.storage.block_cache import BlockCache
from twinstream.shards.storage.location import Location, dataset_file, read_range, read_whole

COLUMNS = ["key", "split", "status", "num_frames", "shard"]
# Indexes read at the same time: in an object store each is some round trips of waiting.
NUM_READERS = 16


@dataclass(frozen=True)
class StoredSample:
    """One sample and the tar that holds it; reads go through `cache` where there is one."""

    tar: Location
    index: SampleIndex
    entry: ShardEntry | None = None
    cache: BlockCache | None = None

    def read(self, begin: int, num_bytes: int) -> bytes:
        """`num_bytes` of the tar from `begin` on; fewer where it ends."""
        if self.cache is None or self.entry is None:
            return read_range(self.tar, begin, num_bytes)
        return self.cache.read(self.tar, self.entry.tar, begin, num_bytes)


@dataclass(frozen=True, eq=False)
class Samples(Sequence[StoredSample]):
    """Samples in the order of shards and rows, or those at `positions` in that order."""

    dataset: Location
    split: str
    entries: tuple[ShardEntry, ...]
    cache: BlockCache | None = None
    positions: NDArray[np.int64] | None = None
    num_classes: int | None = None
    indexes: IndexCache = field(default_factory=IndexCache)

    def __len__(self) -> int:
        if self.positions is not None:
            return len(self.positions)
        return int(self._ends[-1]) if self.entries else 0

    @overload
    def __getitem__(self, position: int) -> StoredSample: ...
    @overload
    def __getitem__(self, position: slice) -> "Samples": ...
    def __getitem__(self, position: int | slice) -> "StoredSample | Samples":
        chosen = range(len(self))[position]
        if isinstance(chosen, range):
            return self.at(np.array(chosen, np.int64))
        shard, row = self._find(chosen)
        return self._stored(shard, self._index(shard).sample(row))

    @property
    def shard_sizes(self) -> list[int]:
        """How many of the samples each shard holds, in turn, of the shards that hold any."""
        if self.positions is None:
            return [entry.num_samples for entry in self.entries]
        shards = np.searchsorted(self._ends, self.positions, side="right")
        sizes: list[int] = np.unique(shards, return_counts=True)[1].tolist()
        return sizes

    def with_keys(self, keys: Collection[str]) -> "Samples":
        """Those samples that have one of these keys, in the same order; reads every index once."""
        chosen = [position for position, key in enumerate(self.keys) if key in keys]
        return self.at(np.array(chosen, np.int64))

    def of_key(self, shard: str, key: str) -> StoredSample:
        """The sample of this key, which is in the shard of this name; InputError when it is not."""
        # Indexed tars x.tar and train/x.tar can have one name, so the index must hold the key too.
        for number, entry in enumerate(self.entries):
            if shard_name(entry.tar.path) == shard and key in (keys := self._index(number).keys):
                return self._stored(number, self._index(number).sample(keys.index(key)))
        raise InputError(
            f"{self.dataset}: {key}: not in {shard}, as {VIDEOS_NAME} says; `twinstream shards "
            "verify` tells more"
        )

    def shortest(self) -> StoredSample:
        """One of those with the fewest frames; of a whole split by videos.parquet alone."""
        if self.positions is not None:
            return min(self, key=lambda sample: sample.index.num_frames)
        written = read_written_videos(self.dataset)
        if (found := written.count(self.split)) != len(self):
            raise InputError(
                f"{self.dataset}: {found} videos of {self.split} in {VIDEOS_NAME}, {len(self)} in "
                "dataset.json; `twinstream shards verify` tells more"
            )
        return self.of_key(*written.shortest(self.split))

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The key of every sample; reads every index once."""
        return tuple(key for key, _ in self._named)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(V,) the label of every sample; reads every index once."""
        return np.array([label for _, label in self._named], np.int64)

    @cached_property
    def _named(self) -> list[tuple[str, int]]:
        absolute = np.arange(len(self)) if self.positions is None else self.positions
        found = self._ends.searchsorted(absolute, side="right")
        shards = np.unique(found).tolist()
        with ThreadPoolExecutor(NUM_READERS) as pool:
            named = dict(
                zip(shards, pool.map(lambda shard: self._read(shard).named(), shards), strict=True)
            )
        rows = absolute - self._begins[found]
        return [named[shard][row] for shard, row in zip(found.tolist(), rows.tolist(), strict=True)]

    # Once: a sum over thousands of shards at every access would be a third of a sample's cost.
    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([entry.num_samples for entry in self.entries], dtype=np.int64)

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        return np.append(np.int64(0), self._ends)

    def at(self, places: NDArray[np.int64]) -> "Samples":
        """Those at these places; positions alone are kept, and no index is read."""
        return replace(self, positions=places if self.positions is None else self.positions[places])

    def _find(self, position: int) -> tuple[int, int]:
        """Shard and row of a position."""
        absolute = position if self.positions is None else int(self.positions[position])
        # "right": position 4 of shards with 4 and 4 samples is row 0 of the second shard.
        shard = int(self._ends.searchsorted(absolute, side="right"))
        return shard, absolute - int(self._begins[shard])

    def _index(self, shard: int) -> ShardIndex:
        return self.indexes.get(self.entries[shard].index.path, lambda: self._read(shard))

    def _read(self, shard: int) -> ShardIndex:
        entry = self.entries[shard]
        # With its index, so that no sample of it needs a look at the tar again.
        require_tar(dataset_file(self.dataset, entry.tar.path), entry.tar.num_bytes)
        path = dataset_file(self.dataset, entry.index.path)
        data = read_through(self.cache, path, entry.index)
        return parse_shard_index(path, data, entry, self.num_classes)

    def _stored(self, shard: int, index: SampleIndex) -> StoredSample:
        entry = self.entries[shard]
        return StoredSample(self.dataset / entry.tar.path, index, entry, self.cache)


def read_through(cache: BlockCache | None, path: Location, entry: FileEntry) -> bytes:
    """The whole of a small file, through the cache if there is one; InputError if unreadable."""
    if entry.num_bytes > MAX_BYTES:
        raise InputError(f"{path}: {entry.num_bytes} bytes; expected {MAX_BYTES} at most")
    try:
        if cache is None:
            return read_whole(path, MAX_BYTES)
        return cache.read(path, entry, 0, entry.num_bytes)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; `twinstream shards verify` tells more"
        ) from error


def require_tar(tar: Location, num_bytes: int) -> None:
    """InputError for a tar on a disk that is shorter than dataset.json says.

    One that is absent is told by who reads of it; in a store the question would cost a round trip.
    """
    if isinstance(tar, Path) and tar.exists() and (found := tar.stat().st_size) < num_bytes:
        raise InputError(f"{tar}: the shard ends at byte {found} of {num_bytes}")


@dataclass(frozen=True)
class WrittenVideos:
    """Key, split, shard and number of frames of every video that is in a shard, as columns."""

    table: pa.Table

    def find(self, key: str) -> tuple[str, str] | None:
        """Split and shard of a video; None when no shard holds it."""
        row = pc.index(self.table["key"], key).as_py()
        return (
            None
            if row < 0
            else (self.table["split"][row].as_py(), self.table["shard"][row].as_py())
        )

    def count(self, split: str) -> int:
        """How many videos of a split there are."""
        return pc.sum(pc.equal(self.table["split"], split)).as_py() or 0

    def keys(self, split: str) -> list[str]:
        """The keys of a split, in the order of the table."""
        keys: list[str] = self.table.filter(pc.equal(self.table["split"], split))["key"].to_pylist()
        return keys

    def shards(self, keys: Sequence[str]) -> set[tuple[str, str]]:
        """Split and name of every shard that holds one of the videos."""
        rows = self.table.filter(pc.is_in(self.table["key"], pa.array(keys, pa.string())))
        return {*zip(rows["split"].to_pylist(), rows["shard"].to_pylist(), strict=True)}

    def shortest(self, split: str) -> tuple[str, str]:
        """Shard and key of the video with the fewest frames of a split that holds one."""
        rows = self.table.filter(pc.equal(self.table["split"], split))
        row = int(np.argmin(rows["num_frames"].to_numpy()))
        return rows["shard"][row].as_py(), rows["key"][row].as_py()


def read_written_videos(dataset: Location) -> WrittenVideos:
    """The part of videos.parquet that finds samples; InputError when the file is not one."""
    table = read_columns(dataset_file(dataset, VIDEOS_NAME), COLUMNS)
    return WrittenVideos(table.filter(pc.equal(table["status"], Status.WRITTEN.value)))
