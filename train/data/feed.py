"""The trainer's batches, epoch by epoch, for each rank its part: read by index or streamed.

Both loaders give the same batches when both mix the same number of shards at a time. The loop in
fit.py does not know which one is used.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from twinstream.errors import InputError
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.samples import Samples, require_tar
from twinstream.shards.storage.location import Location, dataset_file
from twinstream.train.data.batch import Batch
from twinstream.train.data.loader import (
    SnippetRecipe,
    TrainSnippets,
    load_train_batches,
    num_workers,
)
from twinstream.train.data.order import EpochSampler, Positions, RankPart, num_repeated
from twinstream.train.data.stream import STORES, StreamedShards, load_streamed_batches
from twinstream.train.ranks import Ranks
from twinstream.train.settings import TrainSettings
from twinstream.train.snippet_shape import SnippetShape

# What means nothing to a shell, within quotes or without; a space parts words at most.
COMMAND_WORD = re.compile(r"[\w ./:,+@%=-]+")


class Feed:
    """The training split as batches; InputError when settings and dataset do not fit."""

    def __init__(self, dataset: ShardDataset, train: TrainSettings, shape: SnippetShape) -> None:
        self._train = train
        recipe = SnippetRecipe(
            segments=train.segments,
            shape=shape,
            crop_size=train.crop_size,
            scales=train.scales,
            flip=train.flip,
            scale_motion=train.scale_motion,
            seed=train.seed,
        )
        self.samples = samples = dataset.samples(train.split)
        self._shard_sizes = samples.shard_sizes
        self._source: TrainSnippets | StreamedShards
        if train.loader == "stream":
            # Without a window all shards are mixed: the cut snippets of the whole dataset would
            # have to be in memory.
            if train.shuffle_window is None:
                raise InputError(
                    "train.loader: stream mixes a number of shards at a time; set "
                    "train.shuffle_window"
                )
            # Whole shards come through a stream, so that of a list all the rest would be read too.
            if dataset.virtual(train.split) is not None:
                raise InputError(
                    f"train.loader: stream reads whole shards, and train.split {train.split} is a "
                    "list; set train.loader: index"
                )
            self._source = StreamedShards(
                shard_urls(samples, train.stream_url),
                self._shard_sizes,
                dataset.manifest.classes,
                recipe,
            )
        else:
            self._source = TrainSnippets(samples, recipe)

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch, whatever the number of ranks."""
        return -(-sum(self._shard_sizes) // self._train.batch_size)

    def num_repeated(self, num_ranks: int) -> int:
        """How many places of an epoch repeat a sample, where batches do not divide by the ranks."""
        return num_repeated(sum(self._shard_sizes), self._train.batch_size, num_ranks)

    def sampler(self, epoch: int, first_step: int, ranks: Ranks) -> EpochSampler:
        """The order of an epoch's samples from `first_step` on, and this rank's part of it."""
        return EpochSampler(
            self._shard_sizes,
            batch_size=self._train.batch_size,
            seed=self._train.seed,
            epoch=epoch,
            window=self._train.shuffle_window,
            rank=ranks.rank,
            num_ranks=ranks.size,
            first_step=first_step,
        )

    def read_one(self) -> None:
        """Read what the first sample shows; by the index loader only."""
        assert isinstance(self._source, TrainSnippets)
        self._source.batch([(0, 0)])

    def in_order(self, epoch: int, positions: Positions) -> Iterator[Batch]:
        """These samples one after another, as that epoch sees them; by the index loader only."""
        assert isinstance(self._source, TrainSnippets)
        size = self._train.batch_size
        rows = [
            [(epoch, int(position)) for position in positions[start : start + size]]
            for start in range(0, len(positions), size)
        ]
        yield from load_train_batches(self._source, rows, num_workers(self._train.workers))

    def batches(
        self, epoch: int, first_step: int, ranks: Ranks
    ) -> Iterator[tuple[RankPart, Batch]]:
        """The rest of an epoch from `first_step` on: this rank's samples and their snippets."""
        sampler = self.sampler(epoch, first_step, ranks)
        workers = num_workers(self._train.workers)
        if isinstance(self._source, StreamedShards):
            batches = load_streamed_batches(self._source, sampler, workers)
        else:
            batches = load_train_batches(self._source, sampler, workers)
        # Strict: with a batch missing, all later ones would get the counts of another batch.
        yield from zip(sampler.parts, batches, strict=True)


def shard_urls(samples: Samples, template: str | None) -> list[str | Location]:
    """Where each shard of a split is; `{shard}` in the template is its path in the dataset.

    That path comes with the dataset: it is quoted as the template needs it, and only the template
    makes a URL or a command.
    """
    # Without it every shard would be read from the same URL.
    if template is not None and "{shard}" not in template:
        raise InputError(
            f"train.stream_url: {template!r} names no {{shard}}, which stands for a shard's path"
        )
    entries = [entry.tar for entry in samples.entries]
    if template is not None:
        return [shard_url(template, entry.path) for entry in entries]
    tars = [dataset_file(samples.dataset, entry.path) for entry in entries]
    for tar, entry in zip(tars, entries, strict=True):
        require_tar(tar, entry.num_bytes)
    return [*tars]


def shard_url(template: str, path: str) -> str | Location:
    """The template with a shard's path in it; a path on a disk where it has no scheme.

    InputError for a path that this template cannot name without a second meaning.
    """
    scheme, colon, before = template.partition("{shard}")[0].partition(":")
    if not colon:
        return Path(template.replace("{shard}", path)).absolute()
    if scheme == "pipe":
        # A command may hand its words to a second shell, as ssh does, and no quoting is for two.
        if path.startswith("-") or not COMMAND_WORD.fullmatch(path):
            raise InputError(
                f"train.stream_url: {path!r} is no path to put into a command; expected letters, "
                "digits, spaces and any of _./:,+@%=-"
            )
        is_quoted = before.count("'") % 2 or before.count('"') % 2
        return template.replace("{shard}", path if is_quoted else shlex.quote(path))
    if template.startswith(STORES):
        # There options of the connection begin.
        if "?" in path:
            raise InputError(f"train.stream_url: {path!r} has a '?', which no URL of a store can")
        return template.replace("{shard}", path)
    return template.replace("{shard}", quote(path))
