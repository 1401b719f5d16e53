"""Pooled features, computed once and trained on, where the last layer alone learns.

`train.cache_features` random views of each video are stored in the run's folder, and the epochs of
a stage train on them in turn, in the same order and with the same dropout as without them: with as
many views as epochs the losses are the same but for rounding. The price: views come again after so
many epochs, and views x videos x segments x features x 4 bytes on the disk while the stage lasts
(2.3 GB for 10 views of UCF-101's 9,537 training videos with ResNet-50).
"""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twinstream.errors import InputError
from twinstream.progress import Progress
from twinstream.shards.storage.atomic import atomic_file
from twinstream.signals import StopSignal
from twinstream.train.checkpoint import resumable_faults
from twinstream.train.choices import BranchName
from twinstream.train.data.batch import FeatureBatch
from twinstream.train.data.feed import Feed
from twinstream.train.data.loader import num_workers
from twinstream.train.data.order import RankPart
from twinstream.train.device import half_precision, network_input
from twinstream.train.network.stages import Stage
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.ranks import Ranks
from twinstream.train.score.evaluate import score_videos
from twinstream.train.session import Session

FOLDER = "features"
# Settings of section train that a stored feature depends on
PIXELS = ("segments", "crop_size", "scales", "flip", "scale_motion", "seed")


@dataclass(frozen=True)
class FeatureFeed:
    """The training split as batches of stored features, in the order of the feed they are from."""

    feed: Feed
    views: list[list[NDArray[np.float32]]]
    """Of each view the part of each rank, (videos, K, D): rank r of n has videos r, r + n ..."""
    labels: Tensor
    first_epoch: int
    """Of the stage; epochs are counted over all stages"""

    def batches(
        self, epoch: int, first_step: int, ranks: Ranks
    ) -> Iterator[tuple[RankPart, FeatureBatch]]:
        """The rest of an epoch from `first_step` on: this rank's samples and their features."""
        parts = self.views[(epoch - self.first_epoch) % len(self.views)]
        for part in self.feed.sampler(epoch, first_step, ranks).parts:
            rows = [parts[p % len(parts)][p // len(parts)] for p in part.positions]
            features = torch.from_numpy(np.stack(rows))
            yield part, FeatureBatch(features, self.labels[torch.from_numpy(part.positions)])


def feature_feed(
    session: Session, stage: Stage, first_epoch: int, num_views: int, stop: StopSignal
) -> FeatureFeed:
    """The stage's features, computed where the run's folder does not have them yet.

    `first_epoch` is that of the stage. A signal ends the run between two batches; whole views are
    kept. InputError where the disk has no room for them.
    """
    feed, ranks, samples = session.feed, session.ranks, session.feed.samples
    name = f"{stage.name}-{_digest(session, stage, first_epoch)[:16]}"

    def path(view: int, rank: int) -> Path:
        return session.out / FOLDER / f"{name}-{view:04d}-{rank}of{ranks.size}.npy"

    own = np.arange(len(samples))[ranks.rank :: ranks.size]
    absent = [view for view in range(num_views) if not path(view, ranks.rank).exists()]
    width = session.model.branch(stage.trains).fc.in_features
    if absent:
        (session.out / FOLDER).mkdir(exist_ok=True)
        shape = len(own), session.settings.train.segments, width
        _require_room(session.out, len(absent) * 4 * int(np.prod(shape)))
        total = len(absent) * len(own)
        with Progress(f"features {stage.name}", total, "video", shown=ranks.is_first) as progress:
            for view in absent:
                file_path = path(view, ranks.rank)
                with resumable_faults(file_path), atomic_file(file_path) as file:
                    head = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_2_0(file, head)
                    for rows in _computed(session, stage, first_epoch + view, own):
                        file.write(rows.tobytes())
                        progress.advance(len(rows))
                        stop.check()
    # Sync: a rank reads what the others have computed.
    ranks.sums(0)
    views = [
        [np.load(path(view, rank), mmap_mode="r") for rank in range(ranks.size)]
        for view in range(num_views)
    ]
    return FeatureFeed(feed, views, torch.from_numpy(samples.labels), first_epoch)


def held_out_features(session: Session, stage: Stage) -> NDArray[np.float32] | None:
    """(V, D) mean features of this rank's validation videos; None where it has none.

    The last layer is linear: their scores are the means of the snippets' scores.
    """
    if session.validation is None:
        return None
    return validation_outputs(session, stage, _Pooled(session.model))


def validation_outputs(session: Session, stage: Stage, network: nn.Module) -> NDArray[np.float32]:
    """(V, C) scores of this rank's validation videos, or their (V, D) features, by the network."""
    train, views = session.settings.train, session.validation
    assert views is not None
    outputs = score_videos(
        network,
        views,
        session.ranks.device,
        outputs=(stage.trains,),
        attending=stage.attending,
        batch_views=train.batch_size,
        workers=num_workers(train.workers),
    )
    return outputs[stage.trains]


def classified(
    session: Session, stage: Stage, features: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(V, D) mean features -> (V, C) scores of the branch that learns."""
    branch, device = session.model.branch(stage.trains).eval(), session.ranks.device
    with torch.inference_mode(), half_precision(device):
        scores = branch.classify(torch.from_numpy(features).to(device))
    found: NDArray[np.float32] = scores.float().cpu().numpy()
    return found


def remove_features(run: Path) -> None:
    """Remove the features of a stage that has ended."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


class _Pooled(nn.Module):
    """A network that gives features in place of scores."""

    def __init__(self, model: TwoBranch) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor, flow: Tensor, **chosen: Any) -> dict[BranchName, Tensor]:
        """As of a TwoBranch."""
        return self.model.pooled(rgb, flow, **chosen)


def _computed(
    session: Session, stage: Stage, epoch: int, positions: NDArray[np.int64]
) -> Iterator[NDArray[np.float32]]:
    """(b, K, D) features of these videos as that epoch sees them, batch after batch."""
    model, device = session.model.eval(), session.ranks.device
    for batch in session.feed.in_order(epoch, positions):
        rgb, flow = network_input(batch, device)
        with torch.inference_mode(), half_precision(device):
            pooled = model.pooled(rgb, flow, outputs=(stage.trains,), attending=stage.attending)
        features: NDArray[np.float32] = pooled[stage.trains].float().cpu().numpy()
        yield features.reshape(len(batch), -1, features.shape[1])


def _digest(session: Session, stage: Stage, first_epoch: int) -> str:
    """Of all that the features depend on: videos, views and every layer but the last ones."""
    train = session.settings.train.model_dump(mode="json")
    named = [session.dataset_sha256, train["split"], session.lists.get("train.split"), first_epoch]
    named += [*astuple(session.settings.model.snippet), stage.trains, stage.attending]
    named += [train[key] for key in PIXELS]
    digest = hashlib.sha256(repr(named).encode())
    for key, value in sorted(session.model.state_dict().items()):
        if ".fc." not in key:
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _require_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f"train.cache_features: takes {num_bytes / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are "
            f"free at {folder}; choose fewer views, or make room"
        )
