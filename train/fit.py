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
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from torch.nn import Parameter
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from twinstream.errors import InputError
from twinstream.progress import LOGGER, Progress
from twinstream.signals import StopSignal, noted_signals
from twinstream.train.checkpoint import (
    Position,
    TrainingState,
    load_learning,
    save_checkpoint,
)
from twinstream.train.data.feed import Feed
from twinstream.train.data.loader import num_workers
from twinstream.train.data.seeds import step_seed
from twinstream.train.device import choose_device
from twinstream.train.features import (
    FeatureFeed,
    Features,
    feature_feed,
    held_out_scores,
    remove_features,
)
from twinstream.train.gradient import add_gradients, one_line_memory_faults
from twinstream.train.memory import keep_freed_memory
from twinstream.train.network.stages import Stage, with_acting
from twinstream.train.network.two_branch import TwoBranch, attending_branches
from twinstream.train.network.weight_files import SAFETENSORS
from twinstream.train.ranks import joined_ranks
from twinstream.train.run_folder import (
    SETTINGS,
    RunSettings,
    settings_to_use,
    takes_more_epochs,
)
from twinstream.train.run_log import TrainingLog, epoch_line
from twinstream.train.score.evaluate import score_videos
from twinstream.train.score.metrics import ranked_classes
from twinstream.train.session import (
    Session,
    begin_training,
    check_disk,
    checkpoint_at,
    load_training,
    open_log,
    open_session,
    owned_run,
)
from twinstream.train.settings import CHECKPOINT, TrainSettings


def train(
    settings: RunSettings,
    out: Path,
    *,
    resume: bool,
    announce: Callable[[Session, TrainingState], None] | None = None,
) -> None:
    """Train into the run directory `out`, from the beginning or from its checkpoint.

    `announce` is called before the first step. Under torchrun this process is one of the ranks.
    InputError for what the user can mend.
    """
    keep_freed_memory()
    with joined_ranks(choose_device(settings.train.device)) as ranks, ExitStack() as held:
        # Before anything of it is read: another run may be writing there.
        held.enter_context(owned_run(out, ranks))
        settings = settings_to_use(out, settings, resume=resume)
        more_epochs = takes_more_epochs(out, settings)
        session = open_session(settings, out, ranks)
        check_disk(session, more_epochs)
        found = (out / SETTINGS).exists() and (out / CHECKPOINT).exists()
        # Sync: before any rank goes on, all of them must start from the same weights.
        if ranks.sums(found)[0] not in (0, ranks.size):
            raise InputError(
                f"--out {out}: not every rank sees the checkpoint; the folder must be one for all "
                "of them"
            )
        session, start = load_training(session, more_epochs) if found else begin_training(session)
        if ranks.is_first:
            train = session.settings.train
            LOGGER.debug(
                f"{session.dataset.path}: {len(session.feed.samples)} videos of {train.split} · "
                f"{ranks.device}, {ranks.size} processes with {num_workers(train.workers)} loaders"
            )
        if start.position.stage < len(session.stages):
            if announce is not None:
                announce(session, start)
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
            load_learning(start, optimizer, schedule, session.out / CHECKPOINT)
        feed: Feed | FeatureFeed = session.feed
        held_out: Features | None = None
        # Where all epochs are done, the features may be removed already.
        if train.cache_features and at.epoch < train.epochs:
            begun_at = at.epochs_before(train.epochs)
            num_views = min(train.cache_features, train.epochs)
            feed = feature_feed(session, stage, begun_at, num_views, stop)
            held_out = feed.held_out
        done, total = at.epoch * epoch_steps + at.step, train.epochs * epoch_steps
        with Progress(stage.name, total, "step", done, shown=ranks.is_first) as progress:
            while at.epoch < train.epochs:
                # Counted over all stages: it fixes order and augmentation.
                epoch = at.epochs_before(train.epochs) + at.epoch
                model.train()
                losses, seen_before = log.losses(stage.name, at.epoch) if at.step else [], at.seen
                waiting = epoch_begun = time.perf_counter()
                for part, batch in feed.batches(epoch, at.step, ranks):
                    begun = time.perf_counter()
                    torch.manual_seed(step_seed(train.seed, epoch, at.step, ranks.rank))
                    optimizer.zero_grad()
                    with one_line_memory_faults(train.micro_batch or len(batch)):
                        loss, correct = add_gradients(
                            *(model, batch, part, stage, ranks.device),
                            *(train.segments, train.micro_batch),
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
                    losses.append(loss)
                    at = at.after_step(part.num_global, int(right))
                    times = f"data {data_ms:.0f}, step {step_ms:.0f} ms"
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
                seconds = time.perf_counter() - epoch_begun
                accuracies = {"train_accuracy": at.correct / at.seen}
                if train.validate_split:
                    accuracies["validation_accuracy"] = validate(session, stage, held_out)
                if ranks.is_first:
                    LOGGER.info(
                        epoch_line(
                            f"{stage.name} {at.epoch + 1}/{train.epochs}",
                            losses=losses,
                            accuracies=[*accuracies.values()],
                            rate=optimizer.param_groups[0]["lr"],
                            samples_a_second=(at.seen - seen_before) / seconds,
                            seconds=time.perf_counter() - epoch_begun,
                        )
                    )
                # The last one decides; it is the same on all ranks, and so the rate stays the same.
                schedule.step([*accuracies.values()][-1])
                line = {"stage": stage.name, "epoch": at.epoch, **accuracies}
                log.write(line, epoch * epoch_steps + at.step)
                at = at.after_epoch()
                save(session, log, at, optimizer, schedule)
        if ranks.is_first:
            save_checkpoint(session.out / f"{stage.name}{SAFETENSORS}", checkpoint_at(session, at))
            remove_features(session.out)
        # Sync: no rank puts features of the next stage into the folder that is being removed.
        ranks.sums(0)
        at = at.after_stage()
        # Behind the last stage they are kept: a finished run may take more epochs.
        over = at.stage == len(session.stages)
        save(session, log, at, optimizer if over else None, schedule if over else None)


def begin_stage(
    model: TwoBranch, stage: Stage, train: TrainSettings
) -> tuple[SGD, ReduceLROnPlateau]:
    """Freeze what does not learn; a new optimizer at the initial rate, and its schedule."""
    model.train_only(
        stage.trains, part=train.trainable, through_frozen=train.gradient_through_frozen
    )
    blocks = {
        parameter
        for name in model.names
        for block in (model.branch(name).cma, model.branch(name).non_local)
        for parameter in block.parameters()
    }
    # Of one rate one group, which is all that checkpoints of older versions have.
    by_rate: dict[float, list[Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate = train.attention_rate if parameter in blocks else 1
            by_rate.setdefault(rate, []).append(parameter)
    optimizer = SGD(
        [{"params": some, "lr": rate * train.learning_rate} for rate, some in by_rate.items()],
        momentum=train.momentum,
        weight_decay=train.weight_decay,
    )
    schedule = ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=train.plateau_patience)
    return optimizer, schedule


def validate(session: Session, stage: Stage, held_out: Features | None) -> float:
    """Top-1 accuracy of the branch that learns: centre crops, as many snippets as in training.

    `held_out` are the features of this rank's videos, where they are stored.
    """
    views, correct, seen = session.validation, 0, 0
    if views is not None:
        scores = (
            score_videos(
                session.model,
                views,
                session.ranks.device,
                outputs=(stage.trains,),
                attending=stage.attending,
                batch_views=session.settings.train.batch_size,
                workers=num_workers(session.settings.train.workers),
                shown=session.ranks.is_first,
            )[stage.trains]
            if held_out is None
            else held_out_scores(session, stage, held_out)
        )
        correct = int((ranked_classes(scores)[:, 0] == views.labels).sum())
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
        LOGGER.debug(
            f"{session.out / CHECKPOINT}: stage {at.stage + 1}, epoch {at.epoch + 1}, "
            f"step {at.step}"
        )


def diverged(session: Session, at: Position, what: str) -> InputError:
    """The error that ends a run whose loss or weights are no longer finite."""
    path = session.out / CHECKPOINT
    good = f"{path} is from before it" if path.exists() else "no checkpoint was written yet"
    return InputError(
        f"{what} at stage {session.stages[at.stage].name}, epoch {at.epoch + 1}, step "
        f"{at.step + 1}; {good}; try a lower train.learning_rate"
    )
