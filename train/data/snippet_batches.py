"""Snippets of a dataset's split for any training loop: `twinstream.snippets`.

The same Dataset and sampler that `twinstream train` uses, with its defaults, as plain torch
objects. The price: one call for each epoch, because the sampler holds the order of one.
"""

from typing import NamedTuple

from twinstream.errors import InputError
from twinstream.shards.read.dataset import ShardDataset
from twinstream.train.data.loader import SnippetRecipe, TrainSnippets
from twinstream.train.data.normalise import refuse_other_codec
from twinstream.train.data.order import EpochSampler
from twinstream.train.settings import ModelSettings, TrainSettings
from twinstream.train.snippet_shape import SnippetShape

TRAIN, MODEL = TrainSettings(), ModelSettings()


class SnippetBatches(NamedTuple):
    """One epoch: `DataLoader(batches.dataset, batch_sampler=batches.sampler)`."""

    dataset: TrainSnippets
    sampler: EpochSampler


def snippets(
    dataset: ShardDataset,
    split: str = TRAIN.split,
    *,
    segments: int = TRAIN.segments,
    stack_length: int = MODEL.stack_length,
    clip_length: int | None = None,
    clip_stride: int = 1,
    crop_size: int = TRAIN.crop_size,
    scales: tuple[float, ...] = TRAIN.scales,
    flip: bool = TRAIN.flip,
    scale_motion: bool = TRAIN.scale_motion,
    batch_size: int = TRAIN.batch_size,
    seed: int = TRAIN.seed,
    epoch: int = 0,
    shuffle_window: int | None = TRAIN.shuffle_window,
    rank: int = 0,
    world_size: int = 1,
) -> SnippetBatches:
    """A torch Dataset and the batch sampler of one epoch, as `twinstream train` has them.

    A batch of B videos is rgb (B, K, 3, S, S) uint8, flow (B, K, 2L, S, S) uint8 (dx0 dy0 dx1 ...,
    128 is no motion), flow_scale (B, 2) float32 and labels (B,) int64, for K = `segments`,
    L = `stack_length` and S = `crop_size`; `network_inputs` makes floats of it. With `clip_length`
    T a snippet is a clip of T frames, `clip_stride` apart, and the T fields that start at them: rgb
    (B, K, T, 3, S, S) and flow (B, K, T, 2, S, S). Frames and flow of a video go through one random
    crop of the `scales` and, with `flip`, mirroring. flow_scale is 1, or with `scale_motion` what
    dx and dy are stretched by when the crop is resized.

    Order and crops follow from (seed, epoch), not from the number of workers: call again for the
    next epoch. Every video comes once, in batches whose sizes differ by at most one. Each of
    `world_size` processes gets its `rank`'s part of every batch; where a batch does not divide,
    videos of it are repeated so that all get equally many. With `shuffle_window` so many shards are
    mixed at a time. InputError for a split that is not there or a video too short for a snippet.
    """
    # A notebook passes them directly: no Section has checked them as it does pipeline.yaml.
    for name, value in {
        "segments": segments,
        "stack_length": stack_length,
        "clip_length": 1 if clip_length is None else clip_length,
        "clip_stride": clip_stride,
        "crop_size": crop_size,
        "batch_size": batch_size,
        "world_size": world_size,
    }.items():
        if value < 1:
            raise InputError(f"snippets: {name} is {value}, expected at least 1")
    if clip_length is None and clip_stride != 1:
        raise InputError(f"snippets: clip_stride {clip_stride} is for clips; give clip_length too")
    if min(seed, epoch) < 0:
        raise InputError(f"snippets: seed {seed}, epoch {epoch}; expected 0 or more")
    if not 0 <= rank < world_size:
        raise InputError(f"snippets: rank is {rank}, expected 0 to {world_size - 1}")
    # Before anything is read: bytes of another codec would train and mean something else.
    refuse_other_codec(str(dataset.path), dataset.codec.zero, dataset.codec.levels)
    samples = dataset.samples(split)
    recipe = SnippetRecipe(
        segments=segments,
        shape=(
            SnippetShape(fields=stack_length)
            if clip_length is None
            else SnippetShape(clip_length, clip_length, clip_stride, has_time=True)
        ),
        crop_size=crop_size,
        scales=scales,
        flip=flip,
        scale_motion=scale_motion,
        seed=seed,
    )
    sampler = EpochSampler(
        samples.shard_sizes,
        batch_size=batch_size,
        seed=seed,
        epoch=epoch,
        window=shuffle_window,
        rank=rank,
        num_ranks=world_size,
    )
    return SnippetBatches(TrainSnippets(samples, recipe), sampler)
