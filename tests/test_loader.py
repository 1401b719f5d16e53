"""Order and augmentation follow from (seed, epoch, key); frame and flow belong together."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.errors import InputError
from shards.reader import ShardDataset
from tests.datasets import write_dataset
from train.loader import (
    Batch,
    TestSnippets,
    TrainSnippets,
    epoch_batches,
    load_test_batches,
    load_train_batches,
    num_workers,
    sample_rng,
)

ALIGNED = {"segments": 3, "stack_length": 5, "crop_size": 16}


def train_snippets(dataset: Path, **changes: object) -> TrainSnippets:
    options = {**ALIGNED, "scales": (1.0,), "flip": True, "seed": 0, **changes}
    return TrainSnippets(ShardDataset(dataset).samples("train"), **options)


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "sizes"), [(10, 4, [4, 3, 3]), (3, 8, [3]), (9, 8, [5, 4]), (8, 4, [4, 4])]
)
def test_batches_are_nearly_equal_and_hold_every_sample_once(
    num_samples: int, batch_size: int, sizes: list[int]
) -> None:
    batches = epoch_batches(num_samples, batch_size, seed=3, epoch=2)
    assert [len(batch) for batch in batches] == sizes
    assert Counter(np.concatenate(batches).tolist()) == Counter(range(num_samples))


def test_every_epoch_and_every_seed_has_its_own_order() -> None:
    orders = {tuple(np.concatenate(epoch_batches(50, 8, seed, epoch))) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_the_random_choices_of_a_sample_depend_on_seed_epoch_and_key() -> None:
    draws = {sample_rng(*args).integers(2**60) for args in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]}
    assert len(draws) == 4
    assert sample_rng(0, 0, "a").integers(2**60) == sample_rng(0, 0, "a").integers(2**60)


def test_frame_and_flow_of_a_snippet_start_at_the_same_time(dataset: Path) -> None:
    # In the drawn samples frame t is 10 t red, and dx of field t is +-t pixels.
    snippets = train_snippets(dataset)
    for position in range(len(snippets)):
        rgb, flow, _, label = snippets[0, position]
        assert rgb.shape == (3, 3, 16, 16)
        assert flow.shape == (3, 10, 16, 16)
        starts = rgb[:, 0, 8, 8] / 10
        dx = (flow[:, ::2, 8, 8].astype(float) - 128) * 20 / 127
        mirrored = 1 if (dx[:, 4] > 0).all() == (label == 1) else -1
        sign = mirrored * (1 if label else -1)
        assert np.abs(sign * dx - (np.rint(starts)[:, None] + np.arange(5))).max() < 0.2
        assert (flow[:, 1::2] == 128).all()


def collected(batches: list[Batch]) -> list[list[torch.Tensor]]:
    return [list(batch) for batch in batches]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_batches(dataset: Path, workers: int) -> None:
    snippets = train_snippets(dataset)
    batches = epoch_batches(len(snippets), 2, seed=0, epoch=1)
    alone = collected(list(load_train_batches(snippets, batches, 1, 0)))
    shared = collected(list(load_train_batches(snippets, batches, 1, workers)))
    assert all(
        torch.equal(a, b) for one, other in zip(alone, shared, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_an_epoch_begun_in_the_middle_goes_on_with_the_same_batches(dataset: Path) -> None:
    snippets = train_snippets(dataset)
    batches = epoch_batches(len(snippets), 1, seed=0, epoch=4)
    whole = collected(list(load_train_batches(snippets, batches, 4, 0)))
    rest = collected(list(load_train_batches(snippets, batches[1:], 4, 0)))
    assert all(
        torch.equal(a, b) for one, other in zip(whole[1:], rest, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_the_test_scores_every_segment_and_crop_of_every_video(dataset: Path) -> None:
    views = TestSnippets(ShardDataset(dataset).samples("test"), segments=4, stack_length=5, crops=10, crop_size=16)
    batches = list(load_test_batches(views, 3, 0))
    assert sum(len(numbers) for *_, numbers in batches) == 8
    assert batches[0][0].shape == (3, 10, 3, 16, 16)
    assert torch.cat([numbers for *_, numbers in batches]).tolist() == [0] * 4 + [1] * 4
    assert views.labels.tolist() == [0, 1]


def test_a_sample_too_short_for_a_stack_is_named(dataset: Path) -> None:
    with pytest.raises(
        InputError, match=r"train-000000.tar: right/train1: 8 frames: a snippet of 9 flow fields needs at least 10"
    ):
        train_snippets(dataset, stack_length=9)


def test_a_split_without_samples_is_refused() -> None:
    with pytest.raises(InputError, match="no samples"):
        TrainSnippets([], **ALIGNED, scales=(1.0,), flip=False, seed=0)


def test_the_number_of_workers_is_the_setting_where_there_is_one() -> None:
    assert num_workers(0) == 0
    assert 1 <= num_workers(None) <= 8


def test_a_dataset_of_many_shards_is_read_in_their_order(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", {"train": 5}, videos_per_shard=1)
    snippets = train_snippets(dataset)
    assert [sample.tar.name for sample in snippets.samples] == [f"train-{n:06d}.tar" for n in range(5)]
