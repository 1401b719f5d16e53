"""Checkpoints: weights and all else that training needs to go on, written whole or not at all.

checkpoint.pt is a flat dict of tensors and plain values, read with `weights_only=True`; the weights
of a finished stage are safetensors, the plain values JSON in its metadata. Opening either of
somebody else runs no code. There is no random state, because order, augmentation and dropout follow
from (seed, stage, epoch, step).
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from twinstream.errors import InputError, shortened
from twinstream.shards.storage.atomic import atomic_file, one_line_disk_faults
from twinstream.train.choices import BOTH, BranchName
from twinstream.train.network.weight_files import (
    SAFETENSORS,
    has_bias,
    is_plain,
    read_state,
    safetensors_bytes,
)


@dataclass(frozen=True)
class Position:
    """How far training is: all before this stage, epoch and step, counted from 0, is done."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    seen: int = 0
    """Videos of the epoch that were trained on, over all ranks"""
    correct: int = 0
    """How many of them were classified correctly"""
    ended: tuple[int, ...] = ()
    """Epochs of each stage before this one; older files do not say"""

    def epochs_before(self, epochs: int) -> int:
        """Epochs of all stages before this one, each of `epochs` where the file does not say."""
        return sum(self.ended) if len(self.ended) == self.stage else self.stage * epochs

    @property
    def is_stage_start(self) -> bool:
        """Whether nothing of the stage is done yet."""
        return not (self.epoch or self.step)

    def after_step(self, num_videos: int, num_correct: int) -> Self:
        """One step further in the same epoch."""
        seen, correct = self.seen + num_videos, self.correct + num_correct
        return replace(self, step=self.step + 1, seen=seen, correct=correct)

    def after_epoch(self) -> Self:
        """The beginning of the next epoch."""
        return replace(self, epoch=self.epoch + 1, step=0, seen=0, correct=0)

    def after_stage(self) -> Self:
        """The beginning of the next stage."""
        ended = (*self.ended, self.epoch)
        return replace(self, stage=self.stage + 1, epoch=0, step=0, seen=0, correct=0, ended=ended)

    def before_end(self) -> Self:
        """The end of the last epoch of the stage before, for a stage that takes more."""
        *ended, epoch = self.ended
        return replace(self, stage=self.stage - 1, epoch=epoch, ended=tuple(ended))


@dataclass(frozen=True)
class TrainingState:
    """All that training needs to go on, besides the weights."""

    position: Position
    optimizer: dict[str, Any]
    """A state_dict; empty at the start of a stage, which begins with a new optimizer. Behind the
    last stage that of its end, with which it can take more epochs
    """
    schedule: dict[str, Any]
    """The learning rate's, in the same way"""
    log_bytes: int
    """Length of log.jsonl at that time"""


@dataclass(frozen=True)
class Checkpoint:
    """A network, what it must be used with and, in checkpoint.pt, where its training stands."""

    model: dict[str, Tensor]
    """A TwoBranch's state_dict"""
    classes: list[str]
    bound: float
    """Of the dataset's flow, in pixels"""
    dataset_sha256: str
    """Of its dataset.json"""
    attending: tuple[BranchName, ...]
    """The branches whose CMA blocks act"""
    trained: tuple[BranchName, ...] | None = None
    """The branches whose classifier was trained, for every class; None in files that do not say"""
    learned: tuple[BranchName, ...] | None = None
    """The branches whose layers were trained, in this run or before it; None as above"""
    made_with: dict[str, Any] | None = None
    """The settings that frames and flow depend on; None in files that do not say"""
    trained_on: Tensor | None = None
    """(n,) int64 ascending, digests of the keys of all videos that the weights were trained on,
    those of the first weights included; None where it is not known
    """
    lists: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the keys of each split of the run's settings that is a list, by setting"""
    training: TrainingState | None = None
    """None in a stage's file, from which nothing goes on"""
    network: dict[str, Any] | None = None
    """Kind, family, depth and input of the network; None in files that do not say"""


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace `path`, safetensors by its suffix, by this checkpoint.

    InputError where the disk does not take it.
    """
    # Not asdict: it would copy every tensor.
    state: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(checkpoint).items()
    }
    training = state.pop("training")
    if training is not None:
        state |= vars(training) | {"position": asdict(training.position)}
    # Before the disk is touched: the bytes of all weights at once are the price of one true error.
    data = safetensors_bytes(state) if path.suffix == SAFETENSORS else None
    # A run can be killed while it writes: the checkpoint before it must survive.
    with resumable_faults(path), atomic_file(path) as file:
        if data is not None:
            file.write(data)
            return
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch puts an error of its own in the place of the disk's.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def resumable_faults(path: Path) -> AbstractContextManager[None]:
    """In the block only `path` of a run is written: an OSError is an InputError that names it."""
    kept, again = "what was saved before is kept", "run the same command with --resume"
    return one_line_disk_faults(path, kept, again, faults=None)


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in `path`, on the CPU; InputError when it is absent, damaged or not ours."""
    state = read_state(path)
    # A file of torch.save can be any dict: keys that are missing mean that it is not ours.
    try:
        training = None
        if "position" in state:
            training = TrainingState(
                Position(**state["position"]),
                state["optimizer"],
                state["schedule"],
                state["log_bytes"],
            )
        checkpoint = Checkpoint(
            state["model"],
            state["classes"],
            state["bound"],
            state["dataset_sha256"],
            tuple(state["attending"]),
            _names(state.get("trained")),
            _names(state.get("learned")),
            state.get("made_with"),
            state.get("trained_on"),
            state.get("lists", {}),
            training,
            state.get("network"),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a checkpoint of twinstream") from error
    if fault := next(_faults(checkpoint), None):
        raise InputError(f"{path}: not a checkpoint of twinstream: {fault}")
    return checkpoint


def load_learning(
    training: TrainingState, optimizer: Optimizer, schedule: ReduceLROnPlateau, where: Path
) -> None:
    """Put momentum and learning rate of a checkpoint into a new optimizer and its schedule.

    InputError where they are not those of the same network and settings.
    """
    rates = schedule.state_dict()
    try:
        # What another version of torch has left out stays as it is new, what it has more is left.
        found = {key: training.schedule.get(key, own) for key, own in rates.items()}
        fresh = optimizer.state_dict()["param_groups"]
        groups = [
            {key: group.get(key, own[key]) for key in own}
            for group, own in zip(training.optimizer["param_groups"], fresh, strict=True)
        ]
        if not _is_alike(groups, fresh) or not _is_alike(found, rates):
            raise ValueError("other settings")
        optimizer.load_state_dict({"state": training.optimizer["state"], "param_groups": groups})
        for own, state in optimizer.state.items():
            buffer = state.get("momentum_buffer")
            if buffer is not None and not (is_plain(buffer) and buffer.shape == own.shape):
                raise ValueError("other shapes")
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{where}: its optimizer is that of another network") from error
    schedule.load_state_dict(found)


def _is_alike(found: object, own: object) -> bool:
    """Whether a value of an optimizer is of the kind of a new one's, which training may change."""
    if isinstance(own, dict):
        return isinstance(found, dict) and all(
            name in found and _is_alike(found[name], value) for name, value in own.items()
        )
    if isinstance(own, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(found) == len(own)
            and all(map(_is_alike, found, own))
        )
    if isinstance(own, int | float) and not isinstance(own, bool):
        return type(found) in (int, float) and found == found
    return type(found) is type(own) and found == own


def _faults(checkpoint: Checkpoint) -> Iterator[str]:
    """What in a file of another program is not what it must be here; none for one of ours."""
    model, classes, training = checkpoint.model, checkpoint.classes, checkpoint.training
    if not isinstance(model, dict) or not all(
        isinstance(name, str) and is_plain(value) for name, value in model.items()
    ):
        yield "its model is no state_dict of plain tensors"
        return
    if not _are_words(classes) or len({*classes}) != len(classes) or not classes:
        yield f"classes {shortened(classes)}, expected names, each once"
        return
    for branch in BOTH:
        bias = model.get(f"{branch}.fc.bias")
        # Before a network of so many classes is built
        if bias is not None and bias.shape != (len(classes),):
            yield f"{len(classes)} classes, {tuple(bias.shape)} biases of branch {branch}"
    bound = checkpoint.bound
    if type(bound) not in (int, float) or not 0 < bound < math.inf:
        yield f"bound {shortened(bound)}, expected pixels of motion"
    if not isinstance(checkpoint.dataset_sha256, str):
        yield f"dataset_sha256 {shortened(checkpoint.dataset_sha256)}, expected a digest"
    for name in ("attending", "trained", "learned"):
        branches = getattr(checkpoint, name)
        if branches is not None and not all(each in BOTH for each in branches):
            yield f"{name} {shortened(branches)}, expected branches: {', '.join(BOTH)}"
    made_with, seen = checkpoint.made_with, checkpoint.trained_on
    if made_with is not None and not (isinstance(made_with, dict) and _are_words([*made_with])):
        yield f"made_with {shortened(made_with)}, expected settings"
    if seen is not None and not (is_plain(seen) and seen.dtype == torch.int64 and seen.ndim == 1):
        yield "trained_on is no list of digests"
    lists = checkpoint.lists
    if not isinstance(lists, dict) or not _are_words([*lists, *lists.values()]):
        yield f"lists {shortened(lists)}, expected digests by setting"
    if training is not None:
        at = training.position
        counts = vars(at) | {"log_bytes": training.log_bytes}
        ended = counts.pop("ended")
        for name, value in counts.items():
            if not _is_count(value):
                yield f"{name} {shortened(value)}, expected a whole number from 0 on"
                return
        if not (isinstance(ended, tuple) and all(map(_is_count, ended)) and len(ended) <= at.stage):
            yield f"ended {shortened(ended)}, expected epochs of the {at.stage} stages before"
        if at.correct > at.seen:
            yield f"{at.correct} of {at.seen} videos correct"
        if not isinstance(training.optimizer, dict) or not isinstance(training.schedule, dict):
            yield "its optimizer is no state_dict"


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _are_words(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def load_weights(model: nn.Module, checkpoint: Checkpoint, where: Path) -> None:
    """The checkpoint's weights into the network of its run; InputError where they are another's."""
    # Strict, unlike first weights: a checkpoint of this very network has every key.
    try:
        model.load_state_dict(checkpoint.model)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise InputError(
            f"{where}: holds the weights of another network than the settings of its run describe"
        ) from error


def key_digests(keys: Iterable[str]) -> Tensor:
    """(n,) int64 ascending: the first 8 bytes of each key's SHA-256, each once."""
    digests = (hashlib.sha256(key.encode()).digest()[:8] for key in keys)
    numbers = {int.from_bytes(digest, "little", signed=True) for digest in digests}
    return torch.tensor(sorted(numbers), dtype=torch.int64)


def joined_digests(parts: Iterable[Tensor | None]) -> Tensor | None:
    """(n,) int64 ascending: those of all parts that are known, each once; None for no such part."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    joined: Tensor = torch.unique(torch.cat(known))
    return joined


def count_shared(keys: Iterable[str], digests: Tensor) -> int:
    """How many of the keys are among the digests."""
    return int(torch.isin(key_digests(keys), digests).sum())


def trained_branches(checkpoint: Checkpoint) -> tuple[BranchName, ...]:
    """The branches that have learned to classify: no others are scored."""
    if checkpoint.trained is not None:
        return checkpoint.trained
    return tuple(name for name in BOTH if has_bias(checkpoint.model, f"{name}."))


def learned_branches(checkpoint: Checkpoint) -> tuple[BranchName, ...]:
    """The branches whose layers were trained, though perhaps for other classes."""
    return trained_branches(checkpoint) if checkpoint.learned is None else checkpoint.learned


def load_resumable(path: Path) -> tuple[Checkpoint, TrainingState]:
    """The checkpoint in `path` and its training state; InputError for one that has none."""
    checkpoint = load_checkpoint(path)
    if checkpoint.training is None:
        raise InputError(f"{path}: holds the weights of a stage, and not where training stands")
    return checkpoint, checkpoint.training


def _names(branches: list[BranchName] | None) -> tuple[BranchName, ...] | None:
    return None if branches is None else tuple(branches)
