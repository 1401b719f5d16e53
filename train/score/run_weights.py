"""Which weights of a run are looked at, what they have learned, and whether shards fit them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.progress import LOGGER
from twinstream.shards.format.classes import class_difference, first_few
from twinstream.shards.format.manifest import FILE_NAME, pixel_settings
from twinstream.shards.read.dataset import ShardDataset, open_dataset
from twinstream.shards.read.samples import Samples
from twinstream.shards.settings import ShardSettings
from twinstream.shards.storage.location import file_sha256, locate
from twinstream.train.checkpoint import (
    Checkpoint,
    Position,
    count_shared,
    load_checkpoint,
    load_resumable,
    load_weights,
)
from twinstream.train.choices import OTHER, BranchName
from twinstream.train.data.normalise import refuse_other_codec
from twinstream.train.network.two_branch import TwoBranch, attending_branches, build_model
from twinstream.train.network.weights import other_settings
from twinstream.train.run_folder import RunSettings
from twinstream.train.settings import CHECKPOINT, TrainSettings, stage_file


@dataclass(frozen=True)
class Scored:
    """The weights that a test uses."""

    stage: str
    checkpoint: Checkpoint
    progress: str
    """How far the stage got, `epoch 2 of 30, step 6`; empty for a stage that has ended"""


def open_run_dataset(settings: ShardSettings, option: str, path: str | None = None) -> ShardDataset:
    """The dataset of a run, or the one at `path`; InputError that names `option` where it is not.

    `option` is what the user gives when the dataset has moved.
    """
    where = locate(path or settings.path)
    # What made it may be far away: only where it is now can be asked.
    if not (where / FILE_NAME).exists():
        raise InputError(
            f"{where}: no {FILE_NAME}, so no finished shard dataset is there; if it has moved, "
            f"name its folder: {option}"
        )
    dataset = open_dataset(settings, path)
    if len({*dataset.classes}) != len(dataset.classes):
        raise InputError(f"{where}: names a class twice, so that labels are not told apart")
    return dataset


def read_weights(run: Path, settings: RunSettings, stage: str | None) -> Scored:
    """The weights of the run as they are, or as they were at the end of the named stage.

    InputError for a stage that the run does not train or has not finished, and for a run that has
    not done a step yet.
    """
    stages = settings.train.stages
    if stage is not None:
        if stage not in stages:
            raise InputError(f"{run}: no stage {stage}, it trains {', '.join(stages)}")
        path = stage_file(run, stage)
        if not path.exists():
            raise InputError(f"{run}: stage {stage} is not finished; there is no {path.name} yet")
        return Scored(stage, load_checkpoint(path), "")
    checkpoint, training = load_resumable(run / CHECKPOINT)
    at = training.position
    refuse_other_position(at, settings.train, run)
    if not at.is_stage_start:
        epoch = min(at.epoch + 1, settings.train.epochs)
        # After the last epoch the stage has ended, though its file may not be there yet.
        is_over = at.epoch == settings.train.epochs
        progress = f"epoch {epoch} of {settings.train.epochs}, step {at.step}"
        return Scored(stages[at.stage], checkpoint, "" if is_over else progress)
    if at.stage == 0:
        raise InputError(f"{run}: nothing is trained yet; `twinstream train --resume` goes on")
    return Scored(stages[at.stage - 1], checkpoint, "")


def refuse_other_position(at: Position, train: TrainSettings, run: Path) -> None:
    """InputError for a place in training that these settings do not have."""
    num_stages = len(train.stages)
    if at.stage + (not at.is_stage_start) > num_stages or at.epoch > train.epochs:
        raise InputError(
            f"{run}: {CHECKPOINT} is at epoch {at.epoch} of stage {at.stage}, its settings have "
            f"{num_stages} stages of {train.epochs} epochs"
        )


def open_network(
    run: Path, settings: RunSettings, scored: Scored, device: torch.device
) -> tuple[TwoBranch, tuple[BranchName, ...]]:
    """The network with these weights on the device, and the branches that attend in it."""
    model = build_model(settings.model, len(scored.checkpoint.classes)).to(device)
    load_weights(model, scored.checkpoint, run)
    return model, acting_branches(model, scored.checkpoint, run)


def acting_branches(model: TwoBranch, checkpoint: Checkpoint, run: Path) -> tuple[BranchName, ...]:
    """The branches that attend to the other one, as their weights tell."""
    acting = attending_branches(model)
    for name in acting:
        # Runs that began with another run's attention once left it out in training.
        if name not in checkpoint.attending:
            LOGGER.warning(
                f"{run}: was trained while the {name} branch's attention was left out; it acts "
                "here, train again for true figures"
            )
    return acting


def weights_digests(
    model: TwoBranch, outputs: Sequence[BranchName], attending: Sequence[BranchName]
) -> dict[BranchName, str]:
    """Hex SHA-256 of all weights that each branch's scores depend on: which network it is."""
    own: dict[BranchName, bytes] = {}
    for name in model.names:
        digest = hashlib.sha256()
        for key, value in sorted(model.branch(name).state_dict().items()):
            digest.update(key.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        own[name] = digest.digest()
    found = {}
    for name in outputs:
        # What reads the other branch depends on it, and on whether that one reads in its turn.
        used: list[object] = [own[name]]
        if name in attending:
            used += [own[OTHER[name]], OTHER[name] in attending]
        found[name] = hashlib.sha256(repr(used).encode()).hexdigest()
    return found


def network_labels(
    labels: NDArray[np.int64], found: Sequence[str], wanted: Sequence[str]
) -> NDArray[np.int64]:
    """(V,) labels by a dataset's classes `found` -> by the network's, matched by name.

    -1 for a class that the network lacks.
    """
    numbers = {name: number for number, name in enumerate(wanted)}
    return np.array([numbers.get(name, -1) for name in found], np.int64)[labels]


def known_samples(
    dataset: ShardDataset, split: str, classes: Sequence[str]
) -> tuple[Samples, str | None]:
    """The samples of the network's classes, and a line on the others, None where there are none."""
    samples = dataset.samples(split)
    unknown = [name for name in dataset.classes if name not in {*classes}]
    if not unknown:
        return samples, None
    is_known = network_labels(samples.labels, dataset.classes, classes) >= 0
    known = samples.at(np.flatnonzero(is_known))
    if not known:
        raise InputError(f"{dataset.path}: no video of {split} is of a class of the network")
    line = (
        f"{len(samples) - len(known)} of {len(samples)} videos of {split} are left out, of classes "
        f"that the network lacks: {first_few(unknown)}"
    )
    return known, line


def num_trained_on(
    keys: Sequence[str],
    split: str,
    checkpoint: Checkpoint,
    settings: RunSettings,
    dataset: ShardDataset,
) -> int:
    """How many of the tested videos the weights were trained on, as far as is known."""
    if checkpoint.trained_on is not None:
        return count_shared(keys, checkpoint.trained_on)
    if checkpoint.dataset_sha256 != file_sha256(dataset.path / FILE_NAME):
        return 0
    # A run that does not say: a video is in one split of the shards only, but in any list.
    if dataset.virtual(split) is not None:
        return len({*keys} & {*dataset.written.keys(settings.train.split)})
    return len(keys) if split == settings.train.split else 0


def refuse_other_dataset(
    checkpoint: Checkpoint, dataset: ShardDataset, *, known_classes: bool = False
) -> None:
    """InputError for shards with classes that the network lacks, or another flow codec.

    With `known_classes` they may have further classes.

    The digest is not compared: a test may use other videos than training did. Another size or
    engine is told.
    """
    manifest = dataset.manifest
    if not known_classes and not {*manifest.classes} <= {*checkpoint.classes}:
        raise InputError(
            f"{dataset.path}: has classes that the network was not trained on; the network's here: "
            f"{class_difference(manifest.classes, checkpoint.classes)}; --known-classes leaves "
            "their videos out"
        )
    refuse_other_codec(str(dataset.path), manifest.flow_codec.zero, manifest.flow_codec.levels)
    if manifest.flow_codec.bound != checkpoint.bound:
        raise InputError(
            f"{dataset.path}: flow bound {manifest.flow_codec.bound}, the network was trained on "
            f"{checkpoint.bound}; `twinstream shards convert-codec --bound` makes shards of it"
        )
    for line in other_settings(checkpoint.made_with, pixel_settings(manifest.settings), "flow"):
        LOGGER.warning(f"{dataset.path}: {line}")
