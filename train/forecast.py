"""What a training will take, told before its first step: memory of a step, and time for all.

Black videos go through a copy of the network, forward and back, for each kind of stage: what is
kept for the way back is counted, and a second pass is timed, as is the reading of one video. The
price: some seconds, and an estimate. Kernels need memory beside what is kept, so that what does not
fit by this count certainly does not.
"""

import copy
import os
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twinstream.progress import LOGGER
from twinstream.train.checkpoint import TrainingState
from twinstream.train.choices import BranchName
from twinstream.train.data.batch import new_batch
from twinstream.train.data.loader import num_workers
from twinstream.train.data.order import RankPart
from twinstream.train.gradient import add_gradients, cannot_fit, one_line_memory_faults
from twinstream.train.memory import machine_bytes
from twinstream.train.network.stages import Stage, with_acting
from twinstream.train.network.two_branch import TwoBranch, attending_branches
from twinstream.train.session import Session, by_first_rank

# Of the memory, for a micro-batch that is proposed: kernels take some besides.
USABLE = 0.7
# Validation goes forward alone.
FORWARD = 1 / 3


@dataclass(frozen=True)
class Cost:
    """Of a stage: bytes that do not depend on the batch, and bytes and seconds of each video."""

    fixed_bytes: int
    video_bytes: int
    video_seconds: float

    def bytes(self, size: int) -> int:
        """Of a step of so many videos at a time, at least."""
        return self.fixed_bytes + size * self.video_bytes


def announce(session: Session, start: TrainingState) -> None:
    """Tell what training from `start` on takes, and what its settings would bring to light late.

    InputError on every rank where a step cannot fit into memory.
    """
    if session.ranks.is_first:
        for line in late_findings(session):
            LOGGER.warning(line)
    at, train, ranks = start.position, session.settings.train, session.ranks
    # Stored features are no steps of the network.
    if train.cache_features is not None or at.stage == len(session.stages):
        return
    videos = len(session.feed.samples)
    part = -(-min(train.batch_size, videos) // ranks.size)
    size = min(train.micro_batch or part, part)
    acting = attending_branches(session.model)
    stages = [with_acting(stage, acting) for stage in session.stages[at.stage :]]
    # The same for all stages of one kind, whatever their names.
    kinds = {kind(stage): stage for stage in stages}
    costs = {name: stage_cost(session, stage, 1) for name, stage in kinds.items()}
    limit, most = device_bytes(ranks.device), max(costs.values(), key=lambda cost: cost.bytes(size))
    by_first_rank(ranks, session.out, lambda: refuse_large_step(most, size, limit))
    # A GPU is slow with one video at a time.
    if ranks.device.type == "cuda":
        costs = {name: stage_cost(session, stage, size) for name, stage in kinds.items()}
    reading = read_seconds(session)
    epochs = [train.epochs - at.epoch, *[train.epochs] * (len(stages) - 1)]
    seconds = 0.0
    for stage, number in zip(stages, epochs, strict=True):
        computing = costs[kind(stage)].video_seconds
        one = seconds_of_video(computing, reading, num_workers(train.workers))
        validation = len(session.validation.samples) if session.validation else 0
        seconds += number * one * (videos / ranks.size + FORWARD * validation)
    if ranks.is_first:
        of = f" of {limit / 1e9:.1f} GB" if limit is not None else ""
        plural = "" if sum(epochs) == 1 else "s"
        LOGGER.info(
            f"training takes about {in_words(seconds)}, {sum(epochs)} epoch{plural} of {videos:,} "
            f"videos, and at least {most.bytes(size) / 1e9:.1f} GB{of} of memory"
        )


def late_findings(session: Session) -> list[str]:
    """Lines about settings that training takes and that are seldom meant."""
    lines, train = [], session.settings.train
    if train.loader == "index":
        index = session.feed.samples[0].index
        if train.crop_size > min(index.height, index.width):
            lines.append(
                f"train.crop_size {train.crop_size}: larger than the stored frames, "
                f"{index.width}x{index.height}; enlarging them costs time and adds nothing"
            )
    no_test = {"test", "val"}.isdisjoint(session.dataset.manifest.splits)
    if session.settings.test.split is None and no_test:
        lines.append(
            "test.split: the dataset has no split test or val, so `twinstream test` will have "
            "nothing to score; dataset.hold_out makes one"
        )
    return lines


def kind(stage: Stage) -> tuple[BranchName, ...]:
    """What a step of a stage computes: equal ones take the same."""
    return (stage.trains, *stage.attending)


def stage_cost(session: Session, stage: Stage, num_videos: int) -> Cost:
    """The cost of a stage, by passes of so many videos through a copy of the network."""
    train, device = session.settings.train, session.ranks.device
    # Statistics of BatchNorm change in a pass, and the network's own must not.
    model = copy.deepcopy(session.model)
    model.train_only(
        stage.trains, part=train.trainable, through_frozen=train.gradient_through_frozen
    )
    model.train()
    batch = new_batch(num_videos, train.segments, session.settings.model.snippet, train.crop_size)
    for values in (batch.rgb, batch.flow, batch.flow_scale, batch.labels, batch.positions):
        values.zero_()
    part = RankPart(np.arange(num_videos), num_videos, num_videos)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step() -> None:
        with one_line_memory_faults(num_videos):
            add_gradients(model, batch, part, stage, device, train.segments, None)

    # The first pass compiles and warms up; it is the second that is timed.
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    begun = time.perf_counter()
    step()
    seconds = time.perf_counter() - begun
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return Cost(fixed_bytes(model), sum(kept.values()) // num_videos, seconds / num_videos)


def fixed_bytes(model: TwoBranch) -> int:
    """Weights; and gradients and momentum of what learns."""
    learning: int = sum(value.nbytes for value in model.parameters() if value.requires_grad)
    weights: int = sum(value.nbytes for value in model.state_dict().values())
    return weights + 2 * learning


def refuse_large_step(cost: Cost, size: int, limit: int | None) -> None:
    """InputError where `size` videos at a time cannot be in `limit` bytes."""
    needed = cost.bytes(size)
    if limit is not None and needed > limit:
        fits = int((USABLE * limit - cost.fixed_bytes) // cost.video_bytes)
        raise cannot_fit(size, f"{needed / 1e9:.1f} GB, of {limit / 1e9:.1f} GB", fits)


def device_bytes(device: torch.device) -> int | None:
    """Memory of the GPU, or of this machine for each process on it; None where nothing says."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limit = machine_bytes()
    return None if limit is None else limit // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def read_seconds(session: Session) -> float:
    """For the snippets of one video, in one process; 0 of a stream, which is not read ahead."""
    if session.settings.train.loader == "stream":
        return 0.0
    session.feed.read_one()
    begun = time.perf_counter()
    session.feed.read_one()
    return time.perf_counter() - begun


def seconds_of_video(computing: float, reading: float, workers: int) -> float:
    """Processes read while the network computes, so the slower of the two decides."""
    return max(computing, reading / workers) if workers else computing + reading


def in_words(seconds: float) -> str:
    """`40 s`, `12 min`, `3.2 hours`, `2.1 days`."""
    for unit, size, decimals in (("days", 86400, 1), ("hours", 3600, 1), ("min", 60, 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{decimals}f} {unit}"
    return f"{seconds:.0f} s"
