"""The training loop: stages, epochs, steps, in that order from top to bottom (`fit`).

One branch learns at a time, with SGD on the cross-entropy of its consensus; the other is frozen,
BatchNorm included. Attention that is trained acts, whether a stage of this run has trained it or
the run began with it. Each stage begins with a new optimizer at the initial rate, which is cut by
10 when accuracy is on a plateau. All random numbers of a step follow from (seed, stage, epoch,
step, rank), so a run that was stopped and resumed writes the same losses as one that was not. The
price: the generator is seeded again before every step.
"""

import math
import signal
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from twinstream.errors import InputError
from twinstream.progress import Progress
from twinstream.shards.format.index import file_sha256
from twinstream.shards.format.manifest import FILE_NAME, pixel_settings
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.storage.lock import owned
from twinstream.signals import StopSignal, noted_signals
from twinstream.train.checkpoint import (
    Checkpoint,
    Position,
    TrainingState,
    joined_digests,
    key_digests,
    load_resumable,
    save_checkpoint,
    trained_branches,
)
from twinstream.train.choices import BranchName
from twinstream.train.data.feed import Feed
from twinstream.train.data.loader import TestSnippets, num_workers, usable
from twinstream.train.data.normalise import refuse_other_codec
from twinstream.train.data.seeds import step_seed
from twinstream.train.device import choose_device
from twinstream.train.gradient import add_gradients
from twinstream.train.memory import keep_freed_memory
from twinstream.train.network.stages import Stage, plan_stages, with_acting
from twinstream.train.network.two_branch import TwoBranch, attending_branches, build_model
from twinstream.train.network.weights import Use, initialise, unfit_starts
from twinstream.train.ranks import Ranks, joined_ranks, synchronise_batch_norm
from twinstream.train.run_folder import (
    CHECKPOINT,
    SETTINGS,
    RunSettings,
    begin_run,
    keep_manifest,
    open_run_dataset,
    refuse_small_disk,
    remove_leftovers,
    settings_to_use,
    write_settings,
)
from twinstream.train.run_log import TrainingLog, record_start
from twinstream.train.score.evaluate import score_videos
from twinstream.train.score.metrics import ranked_classes
from twinstream.train.settings import TrainSettings


@dataclass(frozen=True)
class Known:
    """What the weights had learned when this process began or went on."""

    trained: tuple[BranchName, ...] = ()
    """The branches whose classifier was trained"""
    trained_on: Tensor = field(default_factory=lambda: key_digests(()))
    """(n,) int64, digests of the videos, those of this run included"""
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
    known: Known = Known()


def train(settings: RunSettings, out: Path, *, resume: bool) -> None:
    """Train into the run directory `out`, from the beginning or from its checkpoint.

    Under torchrun this process is one of the ranks. InputError for what the user can mend.
    """
    keep_freed_memory()
    with joined_ranks(choose_device(settings.train.device)) as ranks, ExitStack() as held:
        session = open_session(settings_to_use(out, settings, resume=resume), out, ranks)
        held.enter_context(owned_run(session))
        found = (out / SETTINGS).exists() and (out / CHECKPOINT).exists()
        # Sync: before any rank goes on, all of them must start from the same weights.
        if ranks.sums(found)[0] not in (0, ranks.size):
            raise InputError(
                f"--out {out}: not every rank sees the checkpoint; the folder must be one for all "
                "of them"
            )
        session, start = load_training(session) if found else begin_training(session)
        if start.position.stage < len(session.stages):
            with closing(open_log(session, start)) as log, noted_signals() as stop:
                fit(session, start, log, stop)


def fit(session: Session, start: TrainingState, log: TrainingLog, stop: StopSignal) -> None:
    """Train from `start` to the end of the last stage. The position advances here, nowhere else."""
    model, ranks, train = session.model, session.ranks, session.settings.train
    at, epoch_steps = start.position, session.feed.epoch_steps
    for planned in session.stages[at.stage :]:
        stage = with_acting(planned, attending_branches(model))
        optimizer, schedule = begin_stage(model, stage, train)
        if not at.is_stage_start:
            optimizer.load_state_dict(start.optimizer)
            schedule.load_state_dict(start.schedule)
        done, total = at.epoch * epoch_steps + at.step, train.epochs * epoch_steps
        with Progress(stage.name, total, "step", done, shown=ranks.is_first) as progress:
            while at.epoch < train.epochs:
                # Counted over all stages: it fixes order and augmentation.
                epoch = at.stage * train.epochs + at.epoch
                model.train()
                waiting = time.perf_counter()
                for part, batch in session.feed.batches(epoch, at.step, ranks):
                    begun = time.perf_counter()
                    torch.manual_seed(step_seed(train.seed, epoch, at.step, ranks.rank))
                    optimizer.zero_grad()
                    loss, correct = add_gradients(
                        model, batch, part, stage, ranks.device, train.segments, train.micro_batch
                    )
                    # Sync: one gradient on all ranks, so that their networks stay equal.
                    ranks.sum_gradients(model.parameters())
                    optimizer.step()
                    # Sync: the loss of the whole batch; and a signal that any rank has noted, so
                    # that all of them stop behind the same step.
                    loss, right, stops = ranks.sums(loss, correct, stop.number is not None)
                    if not math.isfinite(loss):
                        raise diverged(
                            session, at, f"the loss is {'NaN' if math.isnan(loss) else loss}"
                        )
                    data_ms, step_ms = 1e3 * (begun - waiting), 1e3 * (time.perf_counter() - begun)
                    line = {"stage": stage.name, "epoch": at.epoch, "step": at.step, "loss": loss}
                    line |= {"learning_rate": optimizer.param_groups[0]["lr"]}
                    line |= {"data_ms": data_ms, "step_ms": step_ms}
                    log.write(line, epoch * epoch_steps + at.step)
                    at = at.after_step(part.num_global, int(right))
                    times = f"data {data_ms:.0f} · step {step_ms:.0f} ms"
                    progress.advance(
                        note=f"epoch {at.epoch + 1}/{train.epochs} · loss {loss:.3f} · {times}"
                    )
                    # Between two steps all parts of the state fit together: only here may a run
                    # be interrupted.
                    if stops or at.step % train.checkpoint_steps == 0:
                        save(session, log, at, optimizer, schedule)
                    if stops:
                        # A rank that no signal has reached ends as SIGTERM would end it.
                        stop.number = stop.number or signal.SIGTERM
                        stop.check()
                    waiting = time.perf_counter()
                accuracies = {"train_accuracy": at.correct / at.seen}
                if train.validate_split:
                    accuracies["validation_accuracy"] = validate(session, stage)
                # The last one decides; it is the same on all ranks, and so the rate stays the same.
                schedule.step([*accuracies.values()][-1])
                line = {"stage": stage.name, "epoch": at.epoch, **accuracies}
                log.write(line, epoch * epoch_steps + at.step)
                at = at.after_epoch()
                save(session, log, at, optimizer, schedule)
        if ranks.is_first:
            save_checkpoint(session.out / f"{stage.name}.pt", checkpoint_at(session, at))
        at = at.after_stage()
        save(session, log, at)


def open_session(settings: RunSettings, out: Path, ranks: Ranks) -> Session:
    """Dataset, batches and a network with random weights; InputError where they do not fit."""
    dataset = open_run_dataset(settings.shards, "--set shards.path=PATH")
    manifest = dataset.manifest
    refuse_other_codec(settings.shards.path, manifest.flow_codec.zero, manifest.flow_codec.levels)
    stages = plan_stages(settings.train.stages, settings.model.kind)
    # Found now and not when training is over: a mistyped name costs nothing yet.
    if settings.test.split is not None:
        dataset.samples(settings.test.split)
    feed = Feed(dataset, settings.train, settings.model.stack_length)
    settings, validation = open_validation(dataset, settings, ranks)
    # The same on all ranks, which do not exchange their weights.
    torch.manual_seed(settings.train.seed)
    model = build_model(settings.model, len(manifest.classes)).to(ranks.device)
    synchronise_batch_norm(model, ranks)
    sha256 = file_sha256(dataset.path / FILE_NAME)
    return Session(out, settings, ranks, dataset, sha256, stages, feed, validation, model)


def open_validation(
    dataset: ShardDataset, settings: RunSettings, ranks: Ranks
) -> tuple[RunSettings, TestSnippets | None]:
    """Settings that name the validation split or say false, and this rank's part of the split.

    InputError for a split that is not there, is empty or has a video too short for a stack.
    """
    train, stack_length = settings.train, settings.model.stack_length
    # A stream may come without the index, by which validation reads.
    by_index = {} if train.loader == "stream" else dataset.splits
    held_out = {name for name, samples in by_index.items() if samples} - {train.split}
    split = validation_split(train.validate_split, held_out)
    if split == train.split and ranks.is_first:
        print(
            f"twinstream: train.validate_split: {split} is what is trained on; its accuracy does "
            "not tell when to cut the rate",
            file=sys.stderr,
        )
    chosen = train.model_copy(update={"validate_split": split or False})
    settings = settings.model_copy(update={"train": chosen})
    if split is None:
        return settings, None
    # All of it, on all ranks: a fault that one rank alone sees would leave the others waiting.
    samples = dataset.samples(split)
    usable(samples, stack_length)
    own = samples[ranks.rank :: ranks.size]
    # A rank may have no video of a small split.
    if not own:
        return settings, None
    return settings, TestSnippets(
        own,
        segments=train.segments,
        stack_length=stack_length,
        crops=1,
        crop_size=train.crop_size,
        scale_motion=train.scale_motion,
    )


def validation_split(setting: str | Literal[False] | None, splits: Collection[str]) -> str | None:
    """The split that decides on the plateau, or None for the training accuracy.

    None, {val, test} -> val; None, {test} -> None; False -> None; a name is that split.
    """
    if setting is None:
        # Never test: a rate that was cut by it would have seen the answers.
        return "val" if "val" in splits else None
    return setting or None


@contextmanager
def owned_run(session: Session) -> Iterator[None]:
    """Hold the run folder and clear it of leftovers; the first rank does, and all know of it.

    InputError on every rank where another run has the folder, it cannot be written to, or the disk
    is too small for what will be written.
    """
    out, model, refused = session.out, session.model, None
    weights = sum(value.nbytes for value in model.state_dict().values())
    learning = {
        stage.name: sum(value.nbytes for value in model.branch(stage.trains).parameters())
        for stage in session.stages
    }
    with ExitStack() as held:
        if session.ranks.is_first:
            try:
                held.enter_context(owned(out, "twinstream train"))
                remove_leftovers(out)
                refuse_small_disk(out, weights, learning)
            except InputError as error:
                refused = error
        # Sync: the other ranks would wait for the first one until torchrun kills them.
        if session.ranks.sums(refused is not None)[0]:
            raise refused or InputError(f"--out {out}: the first rank tells why it cannot be used")
        yield


def begin_training(session: Session) -> tuple[Session, TrainingState]:
    """Load the first weights; the run directory is made only after they are loaded."""
    manifest = session.dataset.manifest
    use = Use(manifest.classes, manifest.flow_codec.bound, pixel_settings(manifest.settings))
    first = session.settings.model.first_weights
    origins = {
        name: initialise(session.model.branch(name), first[name], name, use)
        for name in session.model.names
    }
    warnings = unfit_starts(session.stages, origins)
    known = Known(
        trained=tuple(name for name, origin in origins.items() if origin.has_classifier),
        trained_on=joined_digests(
            [*(origin.trained_on for origin in origins.values()), training_keys(session)]
        ),
        files={name: origin.sha256 for name, origin in origins.items() if origin.sha256},
    )
    session = replace(session, known=known)
    start = TrainingState(Position(), {}, {}, log_bytes=0)
    if session.ranks.is_first:
        for line in [*(origin.said for origin in origins.values() if origin.said), *warnings]:
            print(line, file=sys.stderr)
        begin_run(session.out, session.settings)
        keep_manifest(session.out, manifest)
        # With the first weights in it, they are not asked for again when the run goes on.
        save_checkpoint(session.out / CHECKPOINT, checkpoint_at(session, start.position, start))
    return session, start


def load_training(session: Session) -> tuple[Session, TrainingState]:
    """Load the weights of the checkpoint; returns its training state too."""
    checkpoint, training = load_resumable(session.out / CHECKPOINT)
    if checkpoint.dataset_sha256 != session.dataset_sha256:
        raise InputError(
            f"{session.out}: was trained on another dataset than the one at {session.dataset.path}"
        )
    session.model.load_state_dict(checkpoint.model)
    known = Known(
        trained_branches(checkpoint),
        joined_digests([checkpoint.trained_on, training_keys(session)]),
    )
    if session.ranks.is_first:
        write_settings(session.out, session.settings)
    # Sync: no rank writes a new checkpoint while another still reads this one.
    session.ranks.sums(0)
    return replace(session, known=known), training


def training_keys(session: Session) -> Tensor | None:
    """Digests of the videos that this run trains on; None without the table that lists them."""
    try:
        return key_digests(session.dataset.written.keys(session.settings.train.split))
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
        record_start(session.out, dataset, ranks.device, ranks.size, session.known.files)
    at, epochs = start.position, session.settings.train.epochs
    first_step = (at.stage * epochs + at.epoch) * session.feed.epoch_steps + at.step
    run = session.out if session.ranks.is_first else None
    return TrainingLog(run, first_step=first_step, num_bytes=start.log_bytes)


def begin_stage(
    model: TwoBranch, stage: Stage, train: TrainSettings
) -> tuple[SGD, ReduceLROnPlateau]:
    """Freeze the other branch; a new optimizer at the initial rate, and its schedule."""
    model.train_only(stage.trains, through_frozen=train.gradient_through_frozen)
    optimizer = SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=train.learning_rate,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
    )
    schedule = ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=train.plateau_patience)
    return optimizer, schedule


def validate(session: Session, stage: Stage) -> float:
    """Top-1 accuracy of the branch that learns: centre crops, as many snippets as in training."""
    train, views, correct, seen = session.settings.train, session.validation, 0, 0
    if views is not None:
        scores = score_videos(
            session.model,
            views,
            session.ranks.device,
            outputs=(stage.trains,),
            attending=stage.attending,
            batch_views=train.batch_size,
            workers=num_workers(train.workers),
        )
        correct = int((ranked_classes(scores[stage.trains])[:, 0] == views.labels).sum())
        seen = len(views.labels)
    # Sync: every rank has scored a part of the split, and needs the accuracy of all of it.
    all_correct, all_seen = session.ranks.sums(correct, seen)
    return all_correct / all_seen


def save(
    session: Session,
    log: TrainingLog,
    at: Position,
    optimizer: SGD | None = None,
    schedule: ReduceLROnPlateau | None = None,
) -> None:
    """Replace checkpoint.pt, or raise if the weights are not finite.

    Between two stages there is no optimizer to keep.
    """
    # So training can always go on from what checkpoint.pt holds.
    if not all(bool(value.isfinite().all()) for value in session.model.state_dict().values()):
        raise diverged(session, at, "weights are no longer finite")
    if session.ranks.is_first:
        training = TrainingState(
            at,
            optimizer.state_dict() if optimizer else {},
            schedule.state_dict() if schedule else {},
            log.num_bytes,
        )
        save_checkpoint(session.out / CHECKPOINT, checkpoint_at(session, at, training))


def checkpoint_at(
    session: Session, at: Position, training: TrainingState | None = None
) -> Checkpoint:
    """The network as it is, what it has learned from what, and what it must be used with."""
    manifest, known = session.dataset.manifest, session.known
    begun = session.stages[: at.stage if at.is_stage_start else at.stage + 1]
    learned = {*known.trained, *(stage.trains for stage in begun)}
    return Checkpoint(
        session.model.state_dict(),
        list(manifest.classes),
        manifest.flow_codec.bound,
        session.dataset_sha256,
        attending_branches(session.model),
        tuple(name for name in session.model.names if name in learned),
        pixel_settings(manifest.settings),
        known.trained_on,
        training,
    )


def diverged(session: Session, at: Position, what: str) -> InputError:
    """The error that ends a run whose loss or weights are no longer finite."""
    path = session.out / CHECKPOINT
    good = f"{path} is from before it" if path.exists() else "no checkpoint was written yet"
    return InputError(
        f"{what} at stage {session.stages[at.stage].name}, epoch {at.epoch + 1}, step "
        f"{at.step + 1}; {good}; try a lower train.learning_rate"
    )
