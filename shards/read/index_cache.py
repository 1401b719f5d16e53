"""Indexes of shards in memory: loaded at the first use of a shard, the last used ones kept.

All offsets of 240,000 ten-second videos are 2.6 GB, so each process keeps at most CACHE_BYTES. The
price is one small read (about 150 kB, half a millisecond) for an index that is not in memory.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinstream.shards.format.index import SampleIndex, parse_table
from twinstream.shards.format.manifest import ShardEntry
from twinstream.shards.storage.location import Location

CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ShardIndex:
    """One index as columns; row n has the members [`begins`[n], `begins`[n + 1])."""

    keys: list[str]
    columns: dict[str, NDArray[np.int32]]
    begins: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int32]

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays."""
        return self.offsets.nbytes + self.sizes.nbytes

    def sample(self, row: int) -> SampleIndex:
        """One row."""
        members = slice(self.begins[row], self.begins[row + 1])
        plain = {name: int(column[row]) for name, column in self.columns.items()}
        return SampleIndex(
            key=self.keys[row], offsets=self.offsets[members], sizes=self.sizes[members], **plain
        )

    def named(self) -> list[tuple[str, int]]:
        """Key and label of every row."""
        return list(zip(self.keys, self.columns["label"].tolist(), strict=True))


def parse_shard_index(
    path: Location, data: bytes, entry: ShardEntry | None = None, num_classes: int | None = None
) -> ShardIndex:
    """The index at `path` that has these bytes; InputError as for `parse_table`."""
    table = parse_table(path, data, entry, num_classes).combine_chunks()
    offsets, sizes = (table.column(name).combine_chunks() for name in ("offsets", "sizes"))
    columns = {
        name: table.column(name).to_numpy() for name in ("label", "num_frames", "width", "height")
    }
    members = (offsets.offsets.to_numpy(), offsets.values.to_numpy(), sizes.values.to_numpy())
    return ShardIndex(table.column("key").to_pylist(), columns, *members)


class IndexCache:
    """The indexes used last, up to `max_bytes`; the latest one is kept however large it is."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._kept: OrderedDict[str, ShardIndex] = OrderedDict()

    def get(self, name: str, read: Callable[[], ShardIndex]) -> ShardIndex:
        """The index of this name, read unless it is kept."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        index = self._kept[name] = read()
        self._num_bytes += index.num_bytes
        # More than one: the index that is in use stays, even if it alone is above the limit.
        while self._num_bytes > self._max_bytes and len(self._kept) > 1:
            self._num_bytes -= self._kept.popitem(last=False)[1].num_bytes
        return index
