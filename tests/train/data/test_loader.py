"""Order and augmentation follow from (seed, epoch, key); frame and flow belong together."""

import itertools
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from tests.support.datasets import write_dataset
from twinstream.errors import InputError
from twinstream.shards.format.index import SampleIndex
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.samples import StoredSample
from twinstream.train.data import loader
from twinstream.train.data.batch import Batch
from twinstream.train.data.loader import (
    Choice,
    SnippetRecipe,
    TestSnippets,
    TrainSnippets,
    load_test_batches,
    load_train_batches,
    num_workers,
)
from twinstream.train.data.order import EpochSampler
from twinstream.train.data.transforms import View
from twinstream.train.settings import TestSettings
from twinstream.train.snippet_shape import SnippetShape

RECIPE = SnippetRecipe(
    segments=3,
    shape=SnippetShape(),
    crop_size=16,
    scales=(1.0,),
    flip=True,
    scale_motion=False,
    seed=0,
)

# As long as a stack of five, so that the same videos have the same starts.
CLIP = SnippetShape(3, 3, stride=2, has_time=True)
BOTH_SHAPES = pytest.mark.parametrize("shape", [SnippetShape(), CLIP], ids=["stack", "clip"])


def train_snippets(dataset: Path, **changes: Any) -> TrainSnippets:
    return TrainSnippets(ShardDataset(dataset).samples("train"), replace(RECIPE, **changes))


def read_epoch(snippets: TrainSnippets, workers: int, **changes: int) -> list[Batch]:
    """Epoch 1 in batches of 2."""
    sizes = [entry.num_samples for entry in snippets.samples.entries]
    return list(
        load_train_batches(
            snippets, EpochSampler(sizes, batch_size=2, seed=0, epoch=1, **changes), workers
        )
    )


def test_frame_and_flow_of_a_snippet_start_at_the_same_time(dataset: Path) -> None:
    # In the drawn samples frame t is 10 t red, and dx of field t is +-t pixels.
    snippets = train_snippets(dataset)
    for position in range(len(snippets)):
        rgb, flow, _, label = (np.asarray(part) for part in snippets[0, position])
        assert rgb.shape == (3, 3, 16, 16)
        assert flow.shape == (3, 10, 16, 16)
        starts = rgb[:, 0, 8, 8] / 10
        dx = (flow[:, ::2, 8, 8].astype(float) - 128) * 20 / 127
        mirrored = 1 if (dx[:, 4] > 0).all() == (label == 1) else -1
        sign = mirrored * (1 if label else -1)
        assert np.abs(sign * dx - (np.rint(starts)[:, None] + np.arange(5))).max() < 0.2
        assert (flow[:, 1::2] == 128).all()


def test_frames_and_fields_of_a_clip_are_those_of_the_same_times(dataset: Path) -> None:
    # In the drawn samples frame t is 10 t red, and dx of field t is +-t pixels.
    snippets = train_snippets(dataset, shape=CLIP)
    flips = set()
    for epoch, position in itertools.product(range(3), range(len(snippets))):
        rgb, flow, _, label = (np.asarray(part) for part in snippets[epoch, position])
        assert rgb.shape == (3, 3, 3, 16, 16)
        assert flow.shape == (3, 3, 2, 16, 16)
        meta = snippets.samples[position].index
        starts, view = snippets.recipe.draw(epoch, meta.key, meta.num_frames, 24, 32)
        times = starts[:, None] + [0, 2, 4]
        assert np.abs(rgb[:, :, 0, 8, 8] / 10 - times).max() < 0.2
        # One mirror for all of it, which negates dx.
        sign = (1 if label else -1) * (-1 if view.flip else 1)
        dx = (flow[:, :, 0, 8, 8].astype(float) - 128) * 20 / 127
        assert np.abs(sign * dx - times).max() < 0.2
        assert (flow[:, :, 1] == 128).all()
        flips.add(view.flip)
    assert flips == {False, True}


def test_a_clip_has_the_bytes_of_the_stack_and_of_the_frame_that_start_there(
    dataset: Path,
) -> None:
    stacks, clips = (
        train_snippets(dataset, shape=shape)
        for shape in (SnippetShape(), SnippetShape(5, 5, has_time=True))
    )
    for stack, clip in zip(read_epoch(stacks, 0), read_epoch(clips, 0), strict=True):
        assert torch.equal(clip.rgb[:, :, 0], stack.rgb)
        assert torch.equal(clip.flow.flatten(2, 3), stack.flow)
        assert torch.equal(clip.flow_scale, stack.flow_scale)


def equal(some: list[Batch], others: list[Batch]) -> bool:
    return all(
        torch.equal(vars(one)[name], vars(other)[name])
        for one, other in zip(some, others, strict=True)
        for name in vars(one)
    )


@BOTH_SHAPES
def test_a_plain_data_loader_stacks_the_items_to_the_same_batches(
    dataset: Path, shape: SnippetShape
) -> None:
    snippets = train_snippets(dataset, shape=shape)
    sampler = EpochSampler([3], batch_size=2, seed=0, epoch=1)
    plain = list(DataLoader(snippets, batch_sampler=sampler, num_workers=1))
    for items, batch in zip(plain, read_epoch(snippets, 0), strict=True):
        assert torch.equal(items.rgb, batch.rgb)
        assert torch.equal(items.flow, batch.flow)
        assert torch.equal(items.flow_scale, batch.flow_scale)
        assert torch.equal(items.label, batch.labels)


def test_a_batch_says_which_videos_it_shows_and_what_they_are(dataset: Path) -> None:
    snippets = train_snippets(dataset)
    batches = read_epoch(snippets, 0)
    positions = [int(p) for batch in batches for p in batch.positions]
    assert sorted(positions) == [0, 1, 2]
    labels = [int(label) for batch in batches for label in batch.labels]
    assert labels == [snippets.samples.labels[position] for position in positions]


def test_every_part_of_a_batch_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a DataLoader does it where there is a GPU; here without one."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, device=None: tensor + 1)
    batch = Batch(*(torch.full((2,), n) for n in range(5)))
    pinned = pin_memory(batch)
    assert isinstance(pinned, Batch)
    assert [tensor.tolist() for tensor in vars(pinned).values()] == [[n + 1] * 2 for n in range(5)]
    fault = InputError("a fault passes as it is")
    assert pin_memory(fault) is fault


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("workers", [1, 2, 4])
@BOTH_SHAPES
def test_workers_do_not_change_the_batches(
    dataset: Path, workers: int, shape: SnippetShape
) -> None:
    snippets = train_snippets(dataset, shape=shape)
    assert equal(read_epoch(snippets, workers), read_epoch(snippets, 0))


def test_loaders_start_where_opencv_has_threads_already(dataset: Path) -> None:
    """A fork has none of them, and waited for their end for good."""
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 0)
        assert read_epoch(train_snippets(dataset), 1)
    finally:
        cv2.setNumThreads(threads)


@BOTH_SHAPES
def test_an_epoch_begun_in_the_middle_goes_on_with_the_same_batches(
    dataset: Path, shape: SnippetShape
) -> None:
    snippets = train_snippets(dataset, shape=shape)
    whole = read_epoch(snippets, 0)
    assert len(whole) == 2
    assert equal(read_epoch(snippets, 1, first_step=1), whole[1:])


@BOTH_SHAPES
def test_ranks_together_read_the_batch_that_one_would(dataset: Path, shape: SnippetShape) -> None:
    snippets = train_snippets(dataset, shape=shape)
    ranks = [read_epoch(snippets, 0, rank=rank, num_ranks=2) for rank in range(2)]
    for whole, first, second in zip(read_epoch(snippets, 0), *ranks, strict=True):
        for name, part in vars(whole).items():
            # 3 videos in batches of 2 and 1: of the last one the second rank repeats the video.
            parts = [vars(first)[name], vars(second)[name]]
            assert torch.equal(part, torch.cat(parts)[: len(part)])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_member_is_one_line_with_shard_and_key_from_any_process(
    tmp_path: Path, workers: int
) -> None:
    snippets = train_snippets(write_dataset(tmp_path / "d", {"train": 3}))
    sample = snippets.samples[1]
    with open(tmp_path / "d" / "train" / sample.tar.name, "r+b") as tar:
        tar.seek(int(sample.index.offsets[1]))
        tar.write(bytes(int(sample.index.offsets[-1] - sample.index.offsets[1])))
    with pytest.raises(
        InputError, match=rf"^train-00000\d\.tar: {sample.index.key}: .* do not decode as a JPEG$"
    ):
        read_epoch(snippets, workers)


class DyingSnippets(TrainSnippets):
    """Stands in for a worker that the system kills."""

    def choose(self, index: tuple[int, int]) -> Choice:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().choose(index)


def test_a_worker_that_is_killed_ends_the_reading_in_one_line(dataset: Path) -> None:
    snippets = DyingSnippets(ShardDataset(dataset).samples("train"), RECIPE)
    with pytest.raises(
        InputError, match=r"^a process that reads and decodes has died \(DataLoader worker"
    ):
        read_epoch(snippets, 1)


@pytest.mark.parametrize(("scale_motion", "scale"), [(False, 1), (True, 16 / 21)])
@BOTH_SHAPES
def test_the_test_scores_every_segment_and_crop_of_every_video(
    dataset: Path, scale_motion: bool, scale: float, shape: SnippetShape
) -> None:
    views = TestSnippets(
        ShardDataset(dataset).samples("test"),
        segments=4,
        shape=shape,
        crops=10,
        scale=7 / 8,
        crop_size=16,
        scale_motion=scale_motion,
    )
    batches = list(load_test_batches(views, 3, 0))
    assert sum(len(batch) for batch in batches) == 8
    times = (shape.frames,) if shape.has_time else ()
    assert batches[0].rgb.shape == (3, 10, *times, 3, 16, 16)
    torch.testing.assert_close(batches[0].flow_scale, torch.full((3, 2), float(scale)))
    positions, labels = (
        torch.cat([vars(batch)[name] for batch in batches]) for name in ("positions", "labels")
    )
    assert positions.tolist() == [0] * 4 + [1] * 4
    assert labels.tolist() == [0] * 4 + [1] * 4
    assert views.labels.tolist() == [0, 1]


class Listed(list[StoredSample]):
    """Stands in for a split."""

    def shortest(self) -> StoredSample:
        """Of videos that are all as long."""
        return self[0]


def test_the_authors_of_p3d_test_with_clips_through_the_centre_of_stored_pixels() -> None:
    """20 clips of 16 frames, 160 x 160 out of 182 x 242 (H x W)."""
    index = SampleIndex("a", 0, 256, 242, 182, np.empty(0, np.int64), np.empty(0, np.int32))
    videos = Listed([StoredSample(Path("a.tar"), index)])
    shape, crop = SnippetShape(16, 16, has_time=True), {"crop_size": 160, "scale_motion": False}
    views = TestSnippets(videos, segments=20, shape=shape, crops=1, scale=0.88, **crop)
    choices = [views.choose(row) for row in range(len(views))]
    # 240 starts in 20 parts of 12
    assert [choice.starts for choice in choices] == [[6 + 12 * part] for part in range(20)]
    assert {(*choice.views,) for choice in choices} == {(View(11, 41, 160, 160, False),)}


@pytest.mark.parametrize(
    ("height", "width", "scale", "side"),
    [
        (256, 340, None, 224),
        (182, 242, None, 159),
        (182, 242, 0.88, 160),
        (64, 48, 1.0, 48),
        (2, 2, 0.1, 1),
    ],
)
def test_a_test_crop_is_a_part_of_the_shorter_side(
    height: int, width: int, scale: float | None, side: int
) -> None:
    """7/8 of it where the settings do not say otherwise."""
    assert loader.test_crop(height, width, scale or TestSettings().scale) == side


def test_a_video_too_short_for_a_clip_is_named_with_settings_that_fit(dataset: Path) -> None:
    line = (
        r"train-000000\.tar: left/train0: 7 frames: a clip of 5 frames, each 2 behind the other, "
        r"needs at least 10; model\.clip_stride: 1 or model\.clip_length: 3 would fit"
    )
    with pytest.raises(InputError, match=f"^{line}$"):
        train_snippets(dataset, shape=SnippetShape(5, 5, 2, has_time=True))


def test_a_sample_too_short_for_a_stack_is_named(dataset: Path) -> None:
    with pytest.raises(
        InputError,
        match=(
            r"train-000000.tar: left/train0: 7 frames: a snippet of 9 flow fields needs at least "
            r"10"
        ),
    ):
        train_snippets(dataset, shape=SnippetShape(fields=9))


def test_the_number_of_workers_is_the_setting_where_there_is_one() -> None:
    assert num_workers(0) == 0
    assert 1 <= num_workers(None) <= 8


def test_processes_of_one_machine_share_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {*range(12)})
    assert num_workers(None) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert num_workers(None) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert num_workers(None) == 1


def test_a_dataset_of_many_shards_is_read_in_their_order(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", {"train": 5}, videos_per_shard=1)
    snippets = train_snippets(dataset)
    assert [sample.tar.name for sample in snippets.samples] == [
        f"train-{n:06d}.tar" for n in range(5)
    ]
