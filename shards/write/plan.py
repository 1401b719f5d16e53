"""Plans which video goes into which shard, from keys and splits alone.

Workers, crashes and the order of the input cannot change a plan, so shards have the same bytes on
every run. Training samples are sorted by a hash of their key: this mixes the classes within a shard
and does not depend on the random numbers of a library. Other splits are sorted by key.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Generic, TypeVar

from twinstream.shards.format.video_table import LabelledVideo

T = TypeVar("T", bound=LabelledVideo)


@dataclass(frozen=True)
class ShardPlan(Generic[T]):
    """One shard to write: `name` is `train-000000`, `split` its folder."""

    split: str
    name: str
    items: tuple[T, ...]

    @property
    def path(self) -> str:
        """Its path relative to the dataset, without a suffix."""
        return f"{self.split}/{self.name}"


def plan_shards(
    items: Iterable[T], items_per_shard: int, rank: Callable[[str], bytes]
) -> list[ShardPlan[T]]:
    """5 training items, 2 a shard -> train-000000 (2), train-000001 (2), train-000002 (1).

    `rank` gives the sort key of a training sample from its key.
    """
    plans = []
    ordered = sorted(items, key=lambda item: (item.split, item.key))
    # Sorted first, as groupby starts a new group whenever the split changes.
    for split, group in groupby(ordered, key=lambda item: item.split):
        members = list(group)
        if split == "train":
            members.sort(key=lambda item: rank(item.key))
        for number, start in enumerate(range(0, len(members), items_per_shard)):
            in_shard = tuple(members[start : start + items_per_shard])
            plans.append(ShardPlan(split, f"{split}-{number:06d}", in_shard))
    return plans


def key_hash(key: str) -> bytes:
    """SHA-256 of a key: the sort key of training samples where there is no seed."""
    return hashlib.sha256(key.encode()).digest()
