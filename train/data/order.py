"""The order of samples in an epoch, its batches, and each rank's part of them.

All of it follows from (seed, epoch): workers, ranks and a resume change nothing. An epoch holds
every sample once, in ceil(n / batch_size) batches whose sizes differ by at most one: no sample is
dropped, and no tiny last batch gives BatchNorm bad statistics. Every rank gets equally many samples
of each batch. The price: where a batch does not divide, the last ranks repeat samples of the same
batch, and the loss does not count them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from twinstream.train.data.seeds import order_rng

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class RankPart:
    """One rank's part of a batch."""

    positions: Positions
    num_counted: int
    """So many of the first positions count; the others are repeated"""
    num_global: int
    """How many count over all ranks"""


def epoch_order(
    shard_sizes: Sequence[int], seed: int, epoch: int, window: int | None = None
) -> Positions:
    """(n,) every position once; with a window, so many shards are mixed at a time.

    The order of the shards is drawn for the epoch. Shards of 3, 2 and 2 samples, window 2: perhaps
    5 1 6 2 0 | 4 3, the samples of two shards and then those of the third.
    """
    rng = order_rng(seed, epoch)
    if window is None:
        return rng.permutation(sum(shard_sizes))
    # np.split wants the inner borders only: the last sum is the end.
    shards = np.split(np.arange(sum(shard_sizes)), np.cumsum(shard_sizes)[:-1])
    drawn = rng.permutation(len(shards))
    groups = [drawn[start : start + window] for start in range(0, len(drawn), window)]
    return np.concatenate(
        [rng.permutation(np.concatenate([shards[number] for number in group])) for group in groups]
    )


def global_batches(order: Positions, batch_size: int) -> list[Positions]:
    """The order in batches of nearly equal size: 10 samples by 4 -> 4, 3, 3."""
    return np.array_split(order, -(-len(order) // batch_size))


def num_repeated(num_samples: int, batch_size: int, num_ranks: int) -> int:
    """Places of an epoch's batches that repeat a sample: 10 by 4 -> 4, 3, 3, so 2 over 2 ranks."""
    steps = -(-num_samples // batch_size)
    size, larger = divmod(num_samples, steps)
    return larger * (-(size + 1) % num_ranks) + (steps - larger) * (-size % num_ranks)


def rank_part(batch: Positions, rank: int, num_ranks: int) -> RankPart:
    """Every num_ranks-th sample. 5 over 2 ranks: 0 2 4, and 1 3 with a 0 that does not count."""
    divisible = -(-len(batch) // num_ranks) * num_ranks
    # np.resize repeats the beginning of the batch until the size is reached.
    positions = np.resize(batch, divisible)[rank::num_ranks]
    return RankPart(positions, len(batch[rank::num_ranks]), len(batch))


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """A batch sampler for one epoch and rank: lists of (epoch, position), from `first_step` on.

    The epoch goes with each position because a DataLoader's workers learn of it in no other way.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        window: int | None = None,
        rank: int = 0,
        num_ranks: int = 1,
        first_step: int = 0,
    ) -> None:
        self.epoch = epoch
        batches = global_batches(epoch_order(shard_sizes, seed, epoch, window), batch_size)
        self.parts = [rank_part(batch, rank, num_ranks) for batch in batches[first_step:]]

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for part in self.parts:
            yield [(self.epoch, int(position)) for position in part.positions]
