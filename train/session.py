"""A training run, opened: its dataset, batches and network, the folder it owns, and its weights.

All that can be wrong is found here, before the first step. A run begins with first weights or goes
on from its checkpoint; either way its classifiers and attention are known to be trained or new.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from twinstream.errors import InputError
from twinstream.progress import LOGGER
from twinstream.shards.format.manifest import FILE_NAME, pixel_settings
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.storage.location import file_sha256
from twinstream.shards.storage.lock import owned
from twinstream.train.checkpoint import (
    Checkpoint,
    Position,
    TrainingState,
    joined_digests,
    key_digests,
    learned_branches,
    load_resumable,
    load_weights,
    save_checkpoint,
    trained_branches,
)
from twinstream.train.choices import BranchName
from twinstream.train.data.feed import Feed
from twinstream.train.data.loader import TestSnippets, usable
from twinstream.train.data.normalise import refuse_other_codec
from twinstream.train.network.families import find_family
from twinstream.train.network.stages import Stage, plan_stages
from twinstream.train.network.two_branch import TwoBranch, attending_branches, build_model
from twinstream.train.network.weights import Use, initialise, unfit_starts
from twinstream.train.ranks import Ranks, synchronise_batch_norm
from twinstream.train.run_folder import (
    RunSettings,
    begin_run,
    keep_manifest,
    network_facts,
    refuse_small_disk,
    remove_leftovers,
    write_settings,
)
from twinstream.train.run_log import TrainingLog, record_start
from twinstream.train.score.run_weights import open_run_dataset, refuse_other_position
from twinstream.train.settings import CHECKPOINT


@dataclass(frozen=True)
class Known:
    """What the weights had learned when this process began or went on."""

    trained: tuple[BranchName, ...] = ()
    """The branches whose classifier was trained"""
    learned: tuple[BranchName, ...] = ()
    """The branches whose layers were trained"""
    trained_on: Tensor | None = None
    """(n,) int64, digests of the videos, those of this run included; None where none is known"""
    files: dict[BranchName, str] = field(default_factory=dict)
    """SHA-256 of the files that a run which begins has loaded"""


@dataclass(frozen=True)
class Session:
    """All parts of a training run, opened once. Only the weights in `model` change."""

    out: Path
    settings: RunSettings
    ranks: Ranks
    dataset: ShardDataset
    dataset_sha256: str
    stages: list[Stage]
    feed: Feed
    validation: TestSnippets | None
    """This rank's part of the validation split; None where it has none"""
    model: TwoBranch
    lists: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the keys of each split that is a list, by its setting"""
    known: Known = Known()


def open_session(settings: RunSettings, out: Path, ranks: Ranks) -> Session:
    """Dataset, batches and a network with random weights; InputError where they do not fit."""
    dataset = open_run_dataset(settings.shards, "--set shards.path=PATH")
    manifest = dataset.manifest
    refuse_other_codec(settings.shards.path, manifest.flow_codec.zero, manifest.flow_codec.levels)
    stages = plan_stages(settings.train.stages, settings.model.kind)
    refuse_changing_features(settings)
    refuse_small_input(settings)
    # Found now and not when training is over: a mistyped name costs nothing yet.
    if settings.test.split is not None:
        dataset.samples(settings.test.split)
    feed = Feed(dataset, settings.train, settings.model.snippet)
    if ranks.is_first and (repeated := feed.num_repeated(ranks.size)):
        LOGGER.warning(
            f"train.batch_size: {repeated} places of an epoch repeat samples, because its batches "
            f"do not divide by {ranks.size} processes; they do not count"
        )
    settings, validation = open_validation(dataset, settings, ranks)
    lists = opened_lists(dataset, settings, ranks)
    # The same on all ranks, which do not exchange their weights.
    torch.manual_seed(settings.train.seed)
    model = build_model(settings.model, len(manifest.classes)).to(ranks.device)
    synchronise_batch_norm(model, ranks)
    sha256 = file_sha256(dataset.path / FILE_NAME)
    return Session(out, settings, ranks, dataset, sha256, stages, feed, validation, model, lists)


def refuse_changing_features(settings: RunSettings) -> None:
    """InputError where train.cache_features would keep what training changes, or cannot be read."""
    if settings.train.cache_features is None:
        return
    if settings.train.trainable == "all":
        raise InputError(
            "train.cache_features: with train.trainable all features change as the network learns; "
            "set train.trainable: fc or behind_attention, or leave it out"
        )
    if settings.train.loader == "stream":
        raise InputError("train.cache_features: needs train.loader: index")


def refuse_small_input(settings: RunSettings) -> None:
    """InputError where a clip alone in its batch would leave BatchNorm a single value."""
    least, side = find_family(settings.model.family).least_side, settings.train.crop_size
    if side < least:
        raise InputError(
            f"train.crop_size: expected at least {least} for model.family {settings.model.family}, "
            f"not {side}"
        )


def opened_lists(dataset: ShardDataset, settings: RunSettings, ranks: Ranks) -> dict[str, str]:
    """SHA-256 of the keys of each split that is a list, by its setting; tells what lists lost.

    InputError on every rank where one of them reads other lists.
    """
    splits = {"train.split": settings.train.split}
    if settings.train.validate_split:
        splits["train.validate_split"] = settings.train.validate_split
    digests = {}
    for setting, split in splits.items():
        if (listed := dataset.virtual(split)) is not None:
            # Of its videos: LIST:train and LIST:test are one file.
            digests[setting] = hashlib.sha256("\n".join(listed.keys).encode()).hexdigest()
            if ranks.is_first and (note := listed.note()):
                LOGGER.warning(f"{setting}: {note}")
    refuse_other_ranks(ranks, digests.values(), "train.split, train.validate_split")
    return digests


def open_validation(
    dataset: ShardDataset, settings: RunSettings, ranks: Ranks
) -> tuple[RunSettings, TestSnippets | None]:
    """Settings that name the validation split or say false, and this rank's part of the split.

    InputError for a split that is not there, is empty or has a video too short for a snippet.
    """
    train, shape = settings.train, settings.model.snippet
    # A stream may come without the index, by which validation reads.
    by_index = {} if train.loader == "stream" else dataset.splits
    held_out = {name for name, samples in by_index.items() if samples} - {train.split}
    split = validation_split(train.validate_split, held_out)
    if split == train.split and ranks.is_first:
        LOGGER.warning(
            f"twinstream: train.validate_split: {split} is what is trained on; its accuracy does "
            "not tell when to cut the rate"
        )
    chosen = train.model_copy(update={"validate_split": split or False})
    settings = settings.model_copy(update={"train": chosen})
    if split is None:
        return settings, None
    # All of it, on all ranks: a fault that one rank alone sees would leave the others waiting.
    samples = dataset.samples(split)
    usable(samples, shape)
    if ranks.is_first and (shared := num_shared(dataset, train.split, split)):
        LOGGER.warning(
            f"train.validate_split: {shared} of the {len(samples)} videos of {split} are trained on"
            " too; what they add to its accuracy does not tell when to cut the rate"
        )
    own = samples[ranks.rank :: ranks.size]
    # A rank may have no video of a small split.
    if not own:
        return settings, None
    return settings, TestSnippets(
        own,
        segments=train.segments,
        shape=shape,
        crops=1,
        scale=settings.test.scale,
        crop_size=train.crop_size,
        scale_motion=train.scale_motion,
    )


def num_shared(dataset: ShardDataset, one: str, other: str) -> int:
    """How many videos two splits share of which one is a list; 0 of one split."""
    # Splits of the shards share none, and may come without the table that lists their videos.
    splits = [dataset.virtual(split) for split in (one, other)]
    if one == other or not any(splits):
        return 0
    first, second = (
        {*(listed.keys if listed else dataset.written.keys(split))}
        for split, listed in zip((one, other), splits, strict=True)
    )
    return len(first & second)


def validation_split(setting: str | Literal[False] | None, splits: Collection[str]) -> str | None:
    """The split that decides on the plateau, or None for the training accuracy.

    None, {val, test} -> val; None, {test} -> None; False -> None; a name is that split.
    """
    if setting is None:
        # Never test: a rate that was cut by it would have seen the answers.
        return "val" if "val" in splits else None
    return setting or None


@contextmanager
def owned_run(out: Path, ranks: Ranks) -> Iterator[None]:
    """Hold the run folder and clear it of leftovers; the first rank does.

    InputError on every rank where another run has the folder or it cannot be written to.
    """
    with ExitStack() as held:

        def hold() -> None:
            held.enter_context(owned(out, "twinstream train"))
            remove_leftovers(out)

        by_first_rank(ranks, out, hold)
        yield


def check_disk(session: Session, more_epochs: bool) -> None:
    """InputError on every rank where the disk is too small for what the run will write."""
    model = session.model
    weights = sum(value.nbytes for value in model.state_dict().values())
    learning = {
        stage.name: sum(value.nbytes for value in model.branch(stage.trains).parameters())
        for stage in session.stages
    }
    again = session.stages[-1].name if more_epochs else None
    by_first_rank(
        session.ranks, session.out, lambda: refuse_small_disk(session.out, weights, learning, again)
    )


def by_first_rank(ranks: Ranks, out: Path, check: Callable[[], None]) -> None:
    """Call `check` on the first rank; its InputError ends all of them."""
    refused = None
    if ranks.is_first:
        try:
            check()
        except InputError as error:
            refused = error
    # Sync: the other ranks would wait for the first one until torchrun kills them.
    if ranks.sums(refused is not None)[0]:
        raise refused or InputError(f"--out {out}: the first rank tells why it cannot be used")


def begin_training(session: Session) -> tuple[Session, TrainingState]:
    """Load the first weights; the run directory is made only after they are loaded."""
    manifest = session.dataset.manifest
    use = Use(manifest.classes, manifest.flow_codec.bound, made_with(session))
    first = session.settings.model.first_weights
    origins = {
        name: initialise(session.model.branch(name), first[name], name, use)
        for name in session.model.names
    }
    read = [origin.sha256 for origin in origins.values() if origin.sha256]
    refuse_other_ranks(session.ranks, read, "model.weights, rgb_weights, flow_weights")
    branches = {name: session.model.branch(name).state_dict() for name in origins}
    warnings = unfit_starts(session.stages, origins, branches)
    known = Known(
        trained=tuple(name for name, origin in origins.items() if origin.has_classifier),
        learned=tuple(name for name, origin in origins.items() if origin.is_trained),
        trained_on=joined_digests(
            [*(origin.trained_on for origin in origins.values()), training_keys(session)]
        ),
        files={name: origin.sha256 for name, origin in origins.items() if origin.sha256},
    )
    session = replace(session, known=known)
    start = TrainingState(Position(), {}, {}, log_bytes=0)
    if session.ranks.is_first:
        for origin in origins.values():
            if origin.said:
                LOGGER.info(origin.said)
        for line in warnings:
            LOGGER.warning(line)
        begin_run(session.out, session.settings)
        keep_manifest(session.out, manifest)
        # With the first weights in it, they are not asked for again when the run goes on.
        save_checkpoint(session.out / CHECKPOINT, checkpoint_at(session, start.position, start))
    return session, start


def refuse_other_ranks(ranks: Ranks, digests: Iterable[str], settings: str) -> None:
    """InputError on every rank where one of them has read other files for these settings."""
    # Sync: so many bits as a sum in float64 keeps; ranks that differ cannot all be at the mean.
    number = int.from_bytes(hashlib.sha256("".join(digests).encode()).digest()[:5], "little")
    differs = ranks.sums(number)[0] != ranks.size * number
    if ranks.sums(differs)[0]:
        raise InputError(
            f"{settings}: not every rank reads the same files; give a path that is the same for all"
        )


def load_training(session: Session, more_epochs: bool) -> tuple[Session, TrainingState]:
    """Load the weights of the checkpoint; returns its training state too.

    With `more_epochs` the settings have more than the run had until now.
    """
    checkpoint, training = load_resumable(session.out / CHECKPOINT)
    if checkpoint.dataset_sha256 != session.dataset_sha256:
        raise InputError(
            f"{session.out}: was trained on another dataset than the one at {session.dataset.path}"
        )
    refuse_other_position(training.position, session.settings.train, session.out)
    at, steps = training.position, session.feed.epoch_steps
    if at.step > steps or (at.step == steps and not at.seen):
        raise InputError(
            f"{session.out}: {CHECKPOINT} is at step {at.step} of an epoch of {steps}, {at.seen} "
            "videos seen"
        )
    for setting in sorted({*session.lists, *checkpoint.lists}):
        if checkpoint.lists.get(setting) != session.lists.get(setting):
            raise InputError(
                f"{session.out}: {setting}: the list has changed since the run began; it goes on "
                "with the list of then, or choose another --out"
            )
    load_weights(session.model, checkpoint, session.out / CHECKPOINT)
    # As it was begun by versions that left another run's attention out.
    if lost := {*attending_branches(session.model)} - {*checkpoint.attending}:
        raise InputError(
            f"{session.out}: was begun with trained attention of the {' and '.join(sorted(lost))} "
            "branch, which was left out in training; begin it anew with another --out"
        )
    at = training.position
    if more_epochs and len(at.ended) != at.stage:
        raise InputError(
            f"{session.out}: an older version left it without the epochs of each stage, and so it "
            f"takes no more; begin another run with --set model.weights={session.out}"
        )
    # Not only where they are more than before: this may have been stopped before its first step.
    is_over = at.stage == len(session.stages) == len(at.ended)
    if is_over and at.ended[-1] < session.settings.train.epochs:
        training = replace(training, position=at.before_end())
    at = training.position
    epochs, goes_on = session.settings.train.epochs, at.stage < len(session.stages)
    if goes_on and min(at.ended, default=epochs) < epochs and session.ranks.is_first:
        ended = [f"{s.name} at {n}" for s, n in zip(session.stages, at.ended, strict=False)]
        LOGGER.info(
            f"{session.out}: {session.stages[at.stage].name} goes on to {epochs} epochs; stages "
            f"that have ended stay as they are: {', '.join(ended)}"
        )
    known = Known(
        trained_branches(checkpoint),
        learned_branches(checkpoint),
        joined_digests([checkpoint.trained_on, training_keys(session)]),
    )
    if session.ranks.is_first:
        write_settings(session.out, session.settings)
    # Sync: no rank writes a new checkpoint while another still reads this one.
    session.ranks.sums(0)
    return replace(session, known=known), training


def made_with(session: Session) -> dict[str, Any]:
    """The settings that the network's input depends on: those of shards, crops and clips."""
    made = pixel_settings(session.dataset.manifest.settings)
    made["train.scale_motion"] = session.settings.train.scale_motion
    shape = session.settings.model.snippet
    # Weights fit whatever the clip. A stack is seen in the shape of the first convolution.
    if shape.has_time:
        made |= {"model.clip_length": shape.frames, "model.clip_stride": shape.stride}
    return made


def training_keys(session: Session) -> Tensor | None:
    """Digests of the videos that this run trains on; None without the table that lists them."""
    split, dataset = session.settings.train.split, session.dataset
    try:
        if (listed := dataset.virtual(split)) is not None:
            return key_digests(listed.keys)
        return key_digests(dataset.written.keys(split))
    except InputError:
        # To stream tars of somebody else needs dataset.json only.
        if session.settings.train.loader != "stream":
            raise
        return None


def open_log(session: Session, start: TrainingState) -> TrainingLog:
    """The log from `start` on: lines after the checkpoint are dropped."""
    if session.ranks.is_first:
        dataset = {"path": str(session.dataset.path), "sha256": session.dataset_sha256}
        ranks = session.ranks
        record_start(
            session.out, dataset, ranks.device, ranks.size, session.known.files, session.lists
        )
    at, epochs = start.position, session.settings.train.epochs
    first_step = (at.epochs_before(epochs) + at.epoch) * session.feed.epoch_steps + at.step
    run = session.out if session.ranks.is_first else None
    return TrainingLog(run, first_step=first_step, num_bytes=start.log_bytes)


def checkpoint_at(
    session: Session, at: Position, training: TrainingState | None = None
) -> Checkpoint:
    """The network as it is, what it has learned from what, and what it must be used with."""
    manifest, known = session.dataset.manifest, session.known
    begun = session.stages[: at.stage if at.is_stage_start else at.stage + 1]
    trains = {stage.trains for stage in begun}
    return Checkpoint(
        session.model.state_dict(),
        list(manifest.classes),
        manifest.flow_codec.bound,
        session.dataset_sha256,
        attending_branches(session.model),
        tuple(name for name in session.model.names if name in {*known.trained, *trains}),
        tuple(name for name in session.model.names if name in {*known.learned, *trains}),
        made_with(session),
        known.trained_on,
        session.lists,
        training,
        network_facts(session.settings),
    )
