"""The gradient of one batch: mean cross-entropy of the consensus over the videos of all ranks.

A batch may be computed a few videos at a time (micro-batches). Their gradients add up to that of
the whole batch, because each loss is divided by the number of videos in the whole batch. The price:
BatchNorm in training takes its statistics from one micro-batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from twinstream.errors import InputError
from twinstream.train.choices import BranchName
from twinstream.train.data.batch import Batch, FeatureBatch
from twinstream.train.data.order import RankPart
from twinstream.train.device import half_precision, network_input
from twinstream.train.network.stages import Stage
from twinstream.train.network.two_branch import TwoBranch, consensus


def snippet_scores(
    model: TwoBranch, batch: Batch | FeatureBatch, stage: Stage, device: torch.device
) -> Tensor:
    """(B * K, C) scores of the branch that learns, from pixels or from its stored features."""
    if isinstance(batch, FeatureBatch):
        features = {
            name: values.to(device, non_blocking=True).flatten(0, 1)
            for name, values in batch.features.items()
        }
        return model.scores_of_fixed(features, stage.trains, stage.attending)
    rgb, flow = network_input(batch, device)
    scores: dict[BranchName, Tensor] = model(
        rgb, flow, outputs=(stage.trains,), attending=stage.attending
    )
    return scores[stage.trains]


def add_gradients(
    model: TwoBranch,
    batch: Batch | FeatureBatch,
    part: RankPart,
    stage: Stage,
    device: torch.device,
    segments: int,
    micro_batch: int | None,
) -> tuple[float, int]:
    """Add this rank's part of the gradient to the parameters.

    Returns this rank's part of the loss, and its number of videos that are classified correctly.
    """
    loss = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    size = micro_batch or len(batch)
    for start in range(0, len(batch), size):
        videos = batch.rows(slice(start, start + size))
        labels = videos.labels.to(device, non_blocking=True)
        with half_precision(device):
            scores = snippet_scores(model, videos, stage, device)
        # Rows that only make the ranks' batches equally long come last, and do not count.
        counted = max(0, min(part.num_counted - start, len(labels)))
        video_scores, labels = consensus(scores, segments)[:counted], labels[:counted]
        # Over the videos of all ranks: then the sum of the ranks' gradients is the mean's gradient.
        video_loss = F.cross_entropy(video_scores, labels, reduction="sum") / part.num_global
        # Also where nothing counts: synchronised BatchNorm waits for every rank's backward pass.
        torch.autograd.backward(video_loss)
        loss += video_loss.detach()
        correct += (video_scores.argmax(1) == labels).sum()
    # Read once: each reading makes the host wait for the GPU.
    return float(loss), int(correct)


@contextmanager
def one_line_memory_faults(size: int) -> Iterator[None]:
    """In the block so many videos are computed at a time: a GPU that is full is an InputError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise cannot_fit(size, "more memory than the GPU has left", size // 2) from error


def cannot_fit(size: int, needed: str, fits: int) -> InputError:
    """The error for `size` videos at a time; `fits` are as many as are proposed, if any."""
    smaller = (
        f"set train.micro_batch: {fits}" if 0 < fits < size else "choose a smaller network or crop"
    )
    return InputError(f"train.batch_size: {size} videos at a time need {needed}; {smaller}")
