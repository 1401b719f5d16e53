"""Plans which video goes into which shard, from keys and splits alone.

Workers, crashes and the order of the input cannot change a plan, so shards have the same bytes on
every run. Training samples are sorted by a hash of their key: this mixes the classes within a shard
and does not depend on the random numbers of a library. Other splits are sorted by key.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twinstream.shards.format.columns import (
    BLOCK_ROWS,
    NAME,
    TEXT,
    Joined,
    Positions,
    Some,
    slices,
)
from twinstream.shards.format.video_table import LabelledVideo

T = TypeVar("T", bound=LabelledVideo)


@dataclass(frozen=True)
class ShardPlan(Generic[T]):
    """One shard to write: `name` is `train-000000`, `split` its folder."""

    split: str
    name: str
    items: Sequence[T]

    @property
    def path(self) -> str:
        """Its path relative to the dataset, without a suffix."""
        return f"{self.split}/{self.name}"


def plan_shards(
    items: Sequence[T], items_per_shard: int, rank: Callable[[str], bytes]
) -> list[ShardPlan[T]]:
    """5 training items, 2 a shard -> train-000000 (2), train-000001 (2), train-000002 (1).

    `rank` gives the sort key of a training sample from its key, always of one length.
    """
    plans = []
    joined = Joined([items], pa.schema([("key", TEXT), ("split", NAME)]))
    by_key = joined.by_key()
    column = joined.table["split"].chunk(0)
    split_of = np.asarray(column.indices)[joined.positions]
    names: list[str] = column.dictionary.to_pylist()
    for split in sorted({names[code] for code in np.unique(split_of)}):
        members = by_key[split_of[by_key] == names.index(split)]
        if split == "train":
            members = members[np.argsort(_ranks(joined, members, rank), kind="stable")]
        for number, part in enumerate(slices(len(members), items_per_shard)):
            in_shard: Some[T] = Some(items, members[part])
            plans.append(ShardPlan(split, f"{split}-{number:06d}", in_shard))
    return plans


def _ranks(
    items: Joined[Any], numbers: Positions, rank: Callable[[str], bytes]
) -> NDArray[np.bytes_]:
    """The rank of the key of each of these items."""
    ranks = np.empty(0, "S")
    for block in slices(len(numbers), BLOCK_ROWS):
        some = [rank(key) for key in items.rows(numbers[block])["key"].to_pylist()]
        found = np.array(some, "S")
        # All are of one length, so that no list of blocks has to become one.
        ranks = ranks if len(ranks) else np.empty(len(numbers), found.dtype)
        ranks[block] = found
    return ranks


def key_hash(key: str) -> bytes:
    """SHA-256 of a key: the sort key of training samples where there is no seed."""
    return hashlib.sha256(key.encode()).digest()
