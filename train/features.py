"""Features of what does not learn, computed once and trained on, where only later layers learn.

`train.cache_features` random views of each video are stored in the run's folder, and the epochs of
a stage train on them in turn, in the same order and with the same dropout as without them: with as
many views as epochs the losses are the same but for rounding. Stored are the inputs of the last
layer, or with `train.trainable: behind_attention` the maps before the first attention block. The
price: views come again after so many epochs, and views x videos x segments x features x 4 bytes on
the disk while the stage lasts (2.3 GB for 10 views of UCF-101's 9,537 training videos and the last
layer of ResNet-50; the maps of both branches of P3D-199 have 200 times as many values).
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twinstream.errors import InputError
from twinstream.progress import Progress
from twinstream.shards.storage.atomic import atomic_file
from twinstream.signals import StopSignal
from twinstream.train.checkpoint import resumable_faults
from twinstream.train.choices import BranchName
from twinstream.train.data.batch import Batch, FeatureBatch
from twinstream.train.data.feed import Feed
from twinstream.train.data.loader import load_test_batches, num_workers
from twinstream.train.data.order import RankPart
from twinstream.train.device import half_precision, network_input
from twinstream.train.network.stages import Stage
from twinstream.train.network.two_branch import consensus
from twinstream.train.ranks import Ranks
from twinstream.train.session import Session

FOLDER = "features"
# Settings of section train that a stored feature depends on
PIXELS = ("segments", "crop_size", "scales", "flip", "scale_motion", "seed")
# (rows, K, ...) of each branch
Features = dict[BranchName, NDArray[np.float32]]


@dataclass(frozen=True)
class FeatureFeed:
    """The training split as batches of stored features, in the order of the feed they are from."""

    feed: Feed
    views: list[list[Features]]
    """Of each view the part of each rank: rank r of n has the videos r, r + n ..."""
    labels: Tensor
    first_epoch: int
    """Of the stage; epochs are counted over all stages"""
    held_out: Features | None
    """Of this rank's validation videos, a row for each of their snippets; None where it has none"""

    def batches(
        self, epoch: int, first_step: int, ranks: Ranks
    ) -> Iterator[tuple[RankPart, FeatureBatch]]:
        """The rest of an epoch from `first_step` on: this rank's samples and their features."""
        parts = self.views[(epoch - self.first_epoch) % len(self.views)]
        for part in self.feed.sampler(epoch, first_step, ranks).parts:
            places = [(p % len(parts), p // len(parts)) for p in part.positions]
            features = {
                name: torch.from_numpy(np.stack([parts[rank][name][row] for rank, row in places]))
                for name in parts[0]
            }
            yield part, FeatureBatch(features, self.labels[torch.from_numpy(part.positions)])


def feature_feed(
    session: Session, stage: Stage, first_epoch: int, num_views: int, stop: StopSignal
) -> FeatureFeed:
    """The stage's features, computed where the run's folder does not have them yet.

    `first_epoch` is that of the stage. A signal ends the run between two batches; whole views are
    kept. InputError where the disk has no room for them.
    """
    train, ranks, samples = session.settings.train, session.ranks, session.feed.samples
    folder = session.out / FOLDER / f"{stage.name}-{_digest(session, stage, first_epoch)[:16]}"
    names = session.model.fixed_names(stage.trains, stage.attending)

    def paths(view: str, rank: int) -> dict[BranchName, Path]:
        return {name: folder / f"{view}-{name}-{rank}of{ranks.size}.npy" for name in names}

    own = np.arange(len(samples))[ranks.rank :: ranks.size]
    views = [f"{view:04d}" for view in range(num_views)]
    absent = [
        number
        for number, view in enumerate(views)
        if not all(path.exists() for path in paths(view, ranks.rank).values())
    ]
    folder.mkdir(parents=True, exist_ok=True)
    # All ranks may write to one disk.
    num_left = len(absent) * len(samples)
    total = len(absent) * len(own)
    with Progress(f"features {stage.name}", total, "video", shown=ranks.is_first) as progress:
        for number in absent:
            batches = session.feed.in_order(first_epoch + number, own)
            there = paths(views[number], ranks.rank)
            for done in _store(session, stage, batches, there, len(own), num_left):
                progress.advance(done)
                stop.check()
    held_out = None
    if session.validation is not None:
        there = paths("validation", ranks.rank)
        if not all(path.exists() for path in there.values()):
            num_rows = len(session.validation)
            tests = load_test_batches(
                session.validation, train.batch_size, num_workers(train.workers)
            )
            with Progress("features val", num_rows, "video", shown=ranks.is_first) as progress:
                for done in _store(session, stage, tests, there, num_rows, num_rows * ranks.size):
                    progress.advance(done)
                    stop.check()
        held_out = _read(there)
    # Sync: a rank reads what the others have computed.
    ranks.sums(0)
    stored = [[_read(paths(view, rank)) for rank in range(ranks.size)] for view in views]
    labels = torch.from_numpy(samples.labels)
    return FeatureFeed(session.feed, stored, labels, first_epoch, held_out)


def held_out_scores(session: Session, stage: Stage, features: Features) -> NDArray[np.float32]:
    """(V, C) mean scores of this rank's validation videos by the branch that learns."""
    train, device, model = session.settings.train, session.ranks.device, session.model.eval()
    num_rows = len(next(iter(features.values())))
    scores = []
    for start in range(0, num_rows, train.batch_size):
        rows = {
            name: torch.from_numpy(values[start : start + train.batch_size].copy())
            for name, values in features.items()
        }
        maps = {name: values.to(device).flatten(0, 1) for name, values in rows.items()}
        with torch.inference_mode(), half_precision(device):
            scores.append(model.scores_of_fixed(maps, stage.trains, stage.attending))
    found: NDArray[np.float32] = consensus(torch.cat(scores), train.segments).cpu().numpy()
    return found


def remove_features(run: Path) -> None:
    """Remove the features of a stage that has ended."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def _store(
    session: Session,
    stage: Stage,
    batches: Iterable[Batch],
    paths: dict[BranchName, Path],
    num_rows: int,
    num_left: int,
) -> Iterator[int]:
    """Write the `num_rows` features of these batches, and say how many are done; all or none.

    `num_left` are the rows that all ranks have still to write, for which there must be room.
    """
    with ExitStack() as held:
        files: dict[BranchName, BinaryIO] = {}
        for name, path in paths.items():
            held.enter_context(resumable_faults(path))
            files[name] = held.enter_context(atomic_file(path))
        is_begun = False
        for features in _computed(session, stage, batches):
            if not is_begun:
                row = sum(values[0].nbytes for values in features.values())
                _require_room(session.out, num_left * row)
                for name, values in features.items():
                    _write_header(files[name], (num_rows, *values.shape[1:]))
                is_begun = True
            for name, values in features.items():
                files[name].write(values.tobytes())
            yield len(next(iter(features.values())))
        # A rank may have no video of a small split.
        for file in files.values() if not is_begun else ():
            _write_header(file, (0,))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    head = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)


def _read(paths: dict[BranchName, Path]) -> Features:
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def _computed(session: Session, stage: Stage, batches: Iterable[Batch]) -> Iterator[Features]:
    """(b, K, ...) features of each batch."""
    model, device = session.model.eval(), session.ranks.device
    for batch in batches:
        rgb, flow = network_input(batch, device)
        with torch.inference_mode(), half_precision(device):
            fixed = model.fixed_features(rgb, flow, stage.trains, stage.attending)
        yield {
            name: values.float().cpu().reshape(len(batch), -1, *values.shape[1:]).numpy()
            for name, values in fixed.items()
        }


def _digest(session: Session, stage: Stage, first_epoch: int) -> str:
    """Of all that the features depend on: videos, views and every layer that does not learn."""
    train = session.settings.train.model_dump(mode="json")
    named = [session.dataset_sha256, train["split"], train["validate_split"], first_epoch]
    named += [*sorted(session.lists.items()), session.settings.test.scale, train["trainable"]]
    named += [*astuple(session.settings.model.snippet), stage.trains, stage.attending]
    named += [train[key] for key in PIXELS]
    digest = hashlib.sha256(repr(named).encode())
    for key, value in sorted(session.model.fixed_state(stage.trains).items()):
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _require_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f"train.cache_features: takes {num_bytes / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are "
            f"free at {folder}; choose fewer views, or make room"
        )
