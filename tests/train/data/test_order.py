"""Every sample once an epoch, over any workers and ranks; what repeats does not count."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstream.train.data.order import (
    EpochSampler,
    epoch_order,
    global_batches,
    num_repeated,
    rank_part,
)

SHARDS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "sizes"),
    [(10, 4, [4, 3, 3]), (3, 8, [3]), (9, 8, [5, 4]), (8, 4, [4, 4])],
)
def test_batches_are_nearly_equal_and_hold_every_sample_once(
    num_samples: int, batch_size: int, sizes: list[int]
) -> None:
    batches = global_batches(epoch_order([num_samples], seed=3, epoch=2), batch_size)
    assert [len(batch) for batch in batches] == sizes
    assert Counter(np.concatenate(batches).tolist()) == Counter(range(num_samples))


def test_every_epoch_and_every_seed_has_its_own_order() -> None:
    orders = {
        tuple(epoch_order([20, 30], seed, epoch, window))
        for seed in (0, 1)
        for epoch in (0, 1)
        for window in (None, 1)
    }
    assert len(orders) == 8


@given(SHARDS, st.integers(1, 5), st.integers(0, 2**32), st.integers(0, 50))
def test_a_window_mixes_so_many_shards_and_leaves_none_out(
    sizes: list[int], window: int, seed: int, epoch: int
) -> None:
    order = epoch_order(sizes, seed, epoch, window)
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    shard_of = np.repeat(np.arange(len(sizes)), sizes)[order]
    # Once a shard of a later group has begun, no shard of an earlier one comes again.
    first, last = (
        {shard: index for index, shard in list(enumerate(shard_of))[::step]} for step in (-1, 1)
    )
    under_way = [sum(first[s] <= index <= last[s] for s in first) for index in range(len(order))]
    assert max(under_way) <= window


def test_a_window_of_one_still_draws_the_order_of_the_shards() -> None:
    firsts = {int(epoch_order([4, 4, 4], 0, epoch, 1)[0]) // 4 for epoch in range(20)}
    assert firsts == {0, 1, 2}


@given(SHARDS, st.integers(1, 7), st.integers(1, 5), st.integers(0, 9))
def test_over_the_ranks_every_sample_counts_once_and_every_rank_has_as_many_samples(
    sizes: list[int], batch_size: int, num_ranks: int, epoch: int
) -> None:
    samplers = [
        EpochSampler(
            sizes, batch_size=batch_size, seed=1, epoch=epoch, rank=rank, num_ranks=num_ranks
        )
        for rank in range(num_ranks)
    ]
    alone = EpochSampler(sizes, batch_size=batch_size, seed=1, epoch=epoch).parts
    counted: Counter[int] = Counter()
    for whole, *parts in zip(alone, *(sampler.parts for sampler in samplers), strict=True):
        assert len({len(part.positions) for part in parts}) == 1
        assert {part.num_global for part in parts} == {len(whole.positions)}
        seen = [
            position for part in parts for position in part.positions[: part.num_counted].tolist()
        ]
        assert sorted(seen) == sorted(whole.positions.tolist())
        assert {p for part in parts for p in part.positions.tolist()} == {*whole.positions.tolist()}
        counted.update(seen)
    assert counted == Counter(range(sum(sizes)))


def test_what_does_not_divide_repeats_samples_of_the_same_batch_at_the_end() -> None:
    parts = [rank_part(np.array([7, 3, 9, 4, 6]), rank, 2) for rank in range(2)]
    assert [(part.positions.tolist(), part.num_counted, part.num_global) for part in parts] == [
        ([7, 9, 6], 3, 5),
        ([3, 4, 7], 2, 5),
    ]
    assert rank_part(np.array([7]), 2, 3).num_counted == 0


def test_an_epoch_begun_in_the_middle_is_the_rest_of_the_whole_on_any_number_of_ranks() -> None:
    options = {"batch_size": 4, "seed": 5, "epoch": 3, "window": 2}
    whole = EpochSampler([5, 6, 7], **options).parts
    for num_ranks in (1, 2, 3):
        rest = [
            EpochSampler([5, 6, 7], **options, rank=rank, num_ranks=num_ranks, first_step=2).parts
            for rank in range(num_ranks)
        ]
        for before, *now in zip(whole[2:], *rest, strict=True):
            seen = [
                position for part in now for position in part.positions[: part.num_counted].tolist()
            ]
            assert sorted(seen) == sorted(before.positions.tolist())


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "sizes", "repeated"),
    [
        (9537, 128, {128: 12, 127: 63}, 63),
        (9537, 104, {104: 61, 103: 31}, 31),
        (9537, 130, {129: 65, 128: 9}, 455),
        (200, 128, {100: 2}, 8),
        (200, 40, {40: 5}, 0),
    ],
)
def test_the_page_on_training_says_how_many_samples_8_ranks_repeat(
    num_samples: int, batch_size: int, sizes: dict[int, int], repeated: int
) -> None:
    batches = global_batches(epoch_order([num_samples], seed=0, epoch=0), batch_size)
    assert Counter(map(len, batches)) == sizes
    places = sum(8 * len(rank_part(batch, 0, 8).positions) for batch in batches)
    assert places - num_samples == num_repeated(num_samples, batch_size, 8) == repeated
