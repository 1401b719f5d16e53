"""The training loop: stages, epochs, steps, in that order from top to bottom.

One branch learns at a time with SGD on the cross-entropy of its consensus; the other is frozen,
BatchNorm included. Each stage begins with a fresh optimizer at the initial rate, cut by 10 when
accuracy is on a plateau. Whatever a step draws at random follows from (seed, stage, epoch, step,
rank), so a run that was stopped and resumed writes the same losses as one that was not. The price:
the generator is seeded anew before every step.
"""

import math
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from twinstream.errors import InputError
from twinstream.progress import Progress
from twinstream.shards.index import file_sha256
from twinstream.shards.manifest import FILE_NAME
from twinstream.shards.reader import open_dataset
from twinstream.signals import StopSignal, noted_signals
from twinstream.train.checkpoint import load_checkpoint, save_checkpoint
from twinstream.train.device import choose_device
from twinstream.train.evaluate import build_model, score_videos
from twinstream.train.feed import Feed
from twinstream.train.journal import Journal, record_start
from twinstream.train.loader import Batch, TestSnippets, num_workers
from twinstream.train.memory import keep_freed_memory
from twinstream.train.metrics import ranked_classes
from twinstream.train.normalise import refuse_other_codec
from twinstream.train.order import Share
from twinstream.train.ranks import Ranks, joined_ranks, share_batch_norm
from twinstream.train.run import CHECKPOINT, RunSettings, begin_run, can_resume, keep_manifest
from twinstream.train.stages import Stage, plan_stages
from twinstream.train.update import add_gradients
from twinstream.train.weights import initialise


@dataclass
class Position:
    """Where training stands: all of epoch `epoch` before step `step` is done; seen and correct
    count its videos.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    seen: int = 0
    correct: int = 0


class Trainer:
    """A network, its data and where its training stands; `run` goes on from there to the end."""

    def __init__(self, settings: RunSettings, out: Path, ranks: Ranks | None = None) -> None:
        keep_freed_memory()
        self.settings, self.out = settings, out
        self.ranks = ranks or Ranks(device=choose_device(settings.train.device))
        self.device = self.ranks.device
        self.dataset = open_dataset(settings.shards)
        codec = self.dataset.manifest.flow_codec
        refuse_other_codec(settings.shards.path, codec.zero, codec.levels)
        self.dataset_sha256 = file_sha256(self.dataset.path / FILE_NAME)
        self.stages = plan_stages(settings.train.stages, settings.model.kind)
        self.feed = Feed(self.dataset, settings.train, settings.model.stack_length)
        torch.manual_seed(settings.train.seed)
        self.model = build_model(settings.model, len(self.dataset.manifest.classes)).to(self.device)
        share_batch_norm(self.model, self.ranks)
        self.at = Position()
        self.has_checkpoint = self.stopping = False
        self.journal: Journal | None = None

    def start(self) -> None:
        """Begin with first weights; the folder appears only when they could be had."""
        for name in self.model.names:
            initialise(
                self.model.branch(name), getattr(self.settings.model, f"{name}_weights"), name
            )
        if self.ranks.is_first:
            begin_run(self.out, self.settings)
            keep_manifest(self.out, self.dataset.manifest)
        self._begin_stage()
        self._open_journal(None)

    def resume(self) -> None:
        """Go on from the checkpoint; what the log says beyond it is dropped."""
        state = load_checkpoint(self.out / CHECKPOINT)
        if state["dataset_sha256"] != self.dataset_sha256:
            raise InputError(
                f"{self.out}: was trained on another dataset than the one at {self.dataset.path}"
            )
        self.at, self.has_checkpoint = Position(**state["position"]), True
        if self.at.stage == len(self.stages):
            return
        self._begin_stage()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.ranks.sums(0)  # No rank writes a new checkpoint while another still reads this one.
        self._open_journal(state["log_bytes"])

    def run(self) -> None:
        """Train every stage that is left."""
        with noted_signals() as stop:
            while self.at.stage < len(self.stages):
                stage = self.stages[self.at.stage]
                self._run_stage(stage, stop)
                if self.ranks.is_first:
                    save_checkpoint(self.out / f"{stage.name}.pt", self._weights())
                self.at = Position(stage=self.at.stage + 1)
                if self.at.stage < len(self.stages):
                    self._begin_stage()
                self._save()
        if self.journal is not None:
            self.journal.close()

    def _run_stage(self, stage: Stage, stop: StopSignal) -> None:
        train, steps = self.settings.train, self.feed.epoch_steps
        done = self.at.epoch * steps + self.at.step
        with Progress(
            stage.name, train.epochs * steps, "step", done, shown=self.ranks.is_first
        ) as progress:
            while self.at.epoch < train.epochs:
                self._run_epoch(stage, progress, stop)

    def _run_epoch(self, stage: Stage, progress: Progress, stop: StopSignal) -> None:
        at = self.at
        self.model.train()
        before = time.perf_counter()
        for share, batch in self.feed.batches(self._epochs_begun, at.step, self.ranks):
            arrived = time.perf_counter()
            loss = self._step(stage, batch, share, stop)
            ended = time.perf_counter()
            times = {"data_ms": 1e3 * (arrived - before), "step_ms": 1e3 * (ended - arrived)}
            self._log({"step": at.step, "loss": loss, "learning_rate": self._rate(), **times})
            at.step += 1
            told = f"data {times['data_ms']:.0f} · step {times['step_ms']:.0f} ms"
            progress.advance(
                note=f"epoch {at.epoch + 1}/{self.settings.train.epochs} · loss {loss:.3f} · {told}"
            )
            self._save_or_stop(stop)
            before = time.perf_counter()
        self._end_epoch(stage)

    def _step(self, stage: Stage, batch: Batch, share: Share, stop: StopSignal) -> float:
        """One update of the branch that learns; returns the loss of the batch over all ranks."""
        train = self.settings.train
        torch.manual_seed(hash((train.seed, self._epochs_begun, self.at.step, self.ranks.rank)))
        self.optimizer.zero_grad(set_to_none=True)
        loss, correct = add_gradients(
            self.model,
            batch,
            share,
            stage,
            self.device,
            segments=train.segments,
            micro_batch=train.micro_batch,
        )
        self.ranks.sum_gradients(self.model.parameters())
        self.optimizer.step()
        loss, num_correct, stops = self.ranks.sums(loss, correct, stop.number is not None)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {'NaN' if math.isnan(loss) else loss}")
        self.at.seen += share.num_global
        self.at.correct += int(num_correct)
        # A signal that any rank has noted stops all of them behind the same step.
        self.stopping = bool(stops)
        return loss

    def _end_epoch(self, stage: Stage) -> None:
        figures = {"train_accuracy": self.at.correct / self.at.seen}
        if self.settings.train.validate_split:
            figures["validation_accuracy"] = self._validate(
                stage, self.settings.train.validate_split
            )
        self.schedule.step(figures.get("validation_accuracy", figures["train_accuracy"]))
        self._log(figures)
        self.at = Position(stage=self.at.stage, epoch=self.at.epoch + 1)
        self._save()

    def _validate(self, stage: Stage, split: str) -> float:
        """Top-1 accuracy of the branch that learns, on the centre crops of as many snippets as in
        training.
        """
        samples = self.dataset.samples(split)
        correct = self._num_correct(stage, samples[self.ranks.rank :: self.ranks.size])
        return self.ranks.sums(correct)[0] / len(samples)

    def _num_correct(self, stage: Stage, samples: Any) -> int:
        """Of one rank's share of a split, which may be empty."""
        train, model = self.settings.train, self.settings.model
        if not samples:
            return 0
        views = TestSnippets(
            samples,
            segments=train.segments,
            stack_length=model.stack_length,
            crops=1,
            crop_size=train.crop_size,
        )
        scores = score_videos(
            self.model,
            views,
            self.device,
            outputs=(stage.trains,),
            attending=stage.attending,
            batch_views=train.batch_size,
            workers=num_workers(train.workers),
        )
        return int((ranked_classes(scores[stage.trains])[:, 0] == views.labels).sum())

    def _begin_stage(self) -> None:
        """The other branch frozen, a fresh optimizer at the initial rate."""
        train = self.settings.train
        self.model.train_only(self.stages[self.at.stage].trains)
        self.optimizer = SGD(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=train.learning_rate,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
        )
        self.schedule = ReduceLROnPlateau(
            self.optimizer, mode="max", factor=0.1, patience=train.plateau_patience
        )

    def _save(self) -> None:
        if not all(bool(value.isfinite().all()) for value in self.model.state_dict().values()):
            raise self._diverged("weights are no longer finite")
        self.has_checkpoint = True
        if self.journal is None:
            return
        progress = {
            "position": asdict(self.at),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "log_bytes": self.journal.num_bytes,
        }
        save_checkpoint(self.out / CHECKPOINT, self._weights() | progress)

    def _weights(self) -> dict[str, Any]:
        """The network and what it must be used with."""
        stage = self.stages[min(self.at.stage, len(self.stages) - 1)]
        return {
            "model": self.model.state_dict(),
            "classes": list(self.dataset.manifest.classes),
            "bound": self.dataset.manifest.flow_codec.bound,
            "dataset_sha256": self.dataset_sha256,
            "attending": list(stage.attending),
        }

    def _save_or_stop(self, stop: StopSignal) -> None:
        """Between two steps everything fits together: the only place where a signal
        ends the run.
        """
        if self.stopping or self.at.step % self.settings.train.checkpoint_steps == 0:
            self._save()
        if self.stopping:
            stop.number = stop.number or signal.SIGTERM
            stop.check()

    def _diverged(self, what: str) -> InputError:
        where = (
            f"stage {self.stages[self.at.stage].name}, epoch {self.at.epoch + 1}, step "
            f"{self.at.step + 1}"
        )
        good = (
            f"{self.out / CHECKPOINT} is from before it"
            if self.has_checkpoint
            else "no checkpoint was written yet"
        )
        return InputError(f"{what} at {where}; {good}; try a lower train.learning_rate")

    @property
    def _epochs_begun(self) -> int:
        """Epochs before this one, over all stages: with the seed it fixes order and
        augmentation.
        """
        return self.at.stage * self.settings.train.epochs + self.at.epoch

    @property
    def _steps_done(self) -> int:
        """Steps over all stages, TensorBoard's axis."""
        return self._epochs_begun * self.feed.epoch_steps + self.at.step

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _open_journal(self, num_bytes: int | None) -> None:
        """On the first rank: the others keep no log."""
        if self.ranks.is_first:
            told = {"path": str(self.dataset.path), "sha256": self.dataset_sha256}
            record_start(self.out, told, self.device, self.ranks.size)
            self.journal = Journal(self.out, first_step=self._steps_done, num_bytes=num_bytes)

    def _log(self, figures: dict[str, Any]) -> None:
        if self.journal is not None:
            stage = {"stage": self.stages[self.at.stage].name, "epoch": self.at.epoch}
            self.journal.write(stage | figures, self._steps_done)


def train(settings: RunSettings, out: Path, *, resume: bool) -> None:
    """Train into the folder `out`, from the beginning or from its checkpoint; under torchrun, as
    one of its ranks.
    """
    device = choose_device(settings.train.device)
    with joined_ranks(device) as ranks:
        trainer = Trainer(settings, out, ranks)
        found = can_resume(out, settings, resume=resume)
        if ranks.sums(found)[0] not in (0, ranks.size):
            raise InputError(
                f"--out {out}: not every rank sees the checkpoint; the folder must be one for all "
                "of them"
            )
        if found:
            trainer.resume()
        else:
            trainer.start()
        trainer.run()
