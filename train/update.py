"""The gradient of one batch: the cross-entropy of each video's consensus, mean over the videos of
all ranks.

A batch may be computed a few videos at a time (micro-batches): the gradients add up to those of the
whole batch, since each part's loss is divided by the number of videos in all of it. Only BatchNorm
that learns sees the difference: its statistics are a micro-batch's.
"""

import torch
import torch.nn.functional as F

from twinstream.train.device import half_precision, to_device
from twinstream.train.loader import Batch
from twinstream.train.model import TwoBranch, consensus
from twinstream.train.order import Share
from twinstream.train.stages import Stage


def add_gradients(
    model: TwoBranch,
    batch: Batch,
    share: Share,
    stage: Stage,
    device: torch.device,
    *,
    segments: int,
    micro_batch: int | None,
) -> tuple[float, int]:
    """Add this rank's part of the gradient to what the parameters have; its part of the loss, and
    videos correct.
    """
    num_videos = len(share.positions)
    loss, correct = (
        torch.zeros((), device=device),
        torch.zeros((), dtype=torch.int64, device=device),
    )
    for start in range(0, num_videos, micro_batch or num_videos):
        part = slice(start, start + (micro_batch or num_videos))
        rgb, flow, labels = to_device(
            (batch[0][part], batch[1][part], batch[2][part], batch[3][part]), device
        )
        with half_precision(device):
            scores = model(rgb, flow, outputs=(stage.trains,), attending=stage.attending)
        # Places that only make the ranks' batches equal come last, and do not count.
        counted = max(0, min(share.num_counted - start, len(labels)))
        video_scores, labels = consensus(scores[stage.trains], segments)[:counted], labels[:counted]
        part_loss = F.cross_entropy(video_scores, labels, reduction="sum") / share.num_global
        torch.autograd.backward(part_loss)
        loss += part_loss.detach()
        correct += (video_scores.argmax(1) == labels).sum()
    return float(loss), int(correct)
