"""The training loop: stages, epochs, steps, in that order from top to bottom.

One branch learns at a time with SGD on the cross-entropy of its consensus; the other is frozen, BatchNorm included.
Each stage begins with a fresh optimizer at the initial rate, cut by 10 when accuracy is on a plateau. Whatever a step
draws at random follows from (seed, stage, epoch, step), so a run that was stopped and resumed writes the same losses as
one that was not. The price: the generator is seeded anew before every step.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from shards.errors import InputError
from shards.index import file_sha256
from shards.manifest import FILE_NAME
from shards.progress import Progress
from shards.reader import ShardDataset
from shards.signals import StopSignal, noted_signals
from train.checkpoint import load_checkpoint, save_checkpoint
from train.device import choose_device, half_precision, to_device
from train.evaluate import build_model, score_videos
from train.loader import Batch, TestSnippets, TrainSnippets, epoch_batches, load_train_batches, num_workers
from train.metrics import top_k_accuracy
from train.model import consensus
from train.normalise import refuse_other_codec
from train.run import CHECKPOINT, LOG, RunSettings, begin_run, can_resume
from train.stages import Stage, plan_stages
from train.weights import initialise


@dataclass
class Position:
    """Where training stands: all of epoch `epoch` before step `step` is done; seen and correct count its videos."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    seen: int = 0
    correct: int = 0


class Trainer:
    """A network, its data and where its training stands; `run` goes on from there to the end."""

    def __init__(self, settings: RunSettings, out: Path) -> None:
        self.settings, self.out = settings, out
        self.device = choose_device(settings.train.device)
        self.dataset = ShardDataset(Path(settings.shards.path))
        codec = self.dataset.manifest.flow_codec
        refuse_other_codec(settings.shards.path, codec.zero, codec.levels)
        self.dataset_sha256 = file_sha256(self.dataset.path / FILE_NAME)
        self.stages = plan_stages(settings.train.stages, settings.model.kind)
        self.samples = self._train_samples()
        torch.manual_seed(settings.train.seed)
        self.model = build_model(settings.model, len(self.dataset.manifest.classes)).to(self.device)
        if self.device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
        self.at = Position()

    def start(self) -> None:
        """Begin with first weights; the folder appears only when they could be had."""
        for name in self.model.names:
            initialise(self.model.branch(name), getattr(self.settings.model, f"{name}_weights"), name)
        begin_run(self.out, self.settings)
        self._begin_stage()

    def resume(self) -> None:
        """Go on from the checkpoint; what the log says beyond it is dropped."""
        state = load_checkpoint(self.out / CHECKPOINT)
        if state["dataset_sha256"] != self.dataset_sha256:
            raise InputError(f"{self.out}: was trained on another dataset than the one at {self.dataset.path}")
        self.at = Position(**state["position"])
        if self.at.stage == len(self.stages):
            return
        self._begin_stage()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        with open(self.out / LOG, "r+b") as log:
            log.truncate(state["log_bytes"])

    def run(self) -> None:
        """Train every stage that is left."""
        with noted_signals() as stop:
            while self.at.stage < len(self.stages):
                stage = self.stages[self.at.stage]
                self._run_stage(stage, stop)
                save_checkpoint(self.out / f"{stage.name}.pt", self._weights())
                self.at = Position(stage=self.at.stage + 1)
                if self.at.stage < len(self.stages):
                    self._begin_stage()
                self._save()

    def _run_stage(self, stage: Stage, stop: StopSignal) -> None:
        train = self.settings.train
        steps = -(-len(self.samples) // train.batch_size)
        done = self.at.epoch * steps + self.at.step
        with Progress(stage.name, train.epochs * steps, "step", done) as progress:
            while self.at.epoch < train.epochs:
                self._run_epoch(stage, progress, stop)

    def _run_epoch(self, stage: Stage, progress: Progress, stop: StopSignal) -> None:
        train, at = self.settings.train, self.at
        batches = epoch_batches(len(self.samples), train.batch_size, train.seed, self._epochs_begun)
        loader = load_train_batches(self.samples, batches[at.step :], self._epochs_begun, num_workers(train.workers))
        self.model.train()
        before = time.perf_counter()
        for batch in loader:
            arrived = time.perf_counter()
            loss = self._step(stage, batch)
            ended = time.perf_counter()
            times = {"data_ms": 1e3 * (arrived - before), "step_ms": 1e3 * (ended - arrived)}
            self._log({"step": at.step, "loss": loss, "learning_rate": self._rate(), **times})
            at.step += 1
            told = f"data {times['data_ms']:.0f} · step {times['step_ms']:.0f} ms"
            progress.advance(note=f"epoch {at.epoch + 1}/{train.epochs} · loss {loss:.3f} · {told}")
            self._save_or_stop(stop)
            before = time.perf_counter()
        self._end_epoch(stage)

    def _step(self, stage: Stage, batch: Batch) -> float:
        """One update of the branch that learns; returns the loss."""
        train = self.settings.train
        torch.manual_seed(hash((train.seed, self._epochs_begun, self.at.step)))
        rgb, flow, labels = to_device(batch, self.device)
        with half_precision(self.device):
            scores = self.model(rgb, flow, outputs=(stage.trains,), attending=stage.attending)
        video_scores = consensus(scores[stage.trains], train.segments)
        loss = F.cross_entropy(video_scores, labels)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        value = float(loss.detach())
        if value != value:
            where = f"stage {stage.name}, epoch {self.at.epoch + 1}, step {self.at.step + 1}"
            raise InputError(
                f"the loss is NaN at {where}; {self.out / CHECKPOINT} is from before it; "
                "try a lower train.learning_rate"
            )
        self.at.seen += len(labels)
        self.at.correct += int((video_scores.argmax(1) == labels).sum())
        return value

    def _end_epoch(self, stage: Stage) -> None:
        figures = {"train_accuracy": self.at.correct / self.at.seen}
        if self.settings.train.validate_split:
            figures["validation_accuracy"] = self._validate(stage, self.settings.train.validate_split)
        self.schedule.step(figures.get("validation_accuracy", figures["train_accuracy"]))
        self._log(figures)
        self.at = Position(stage=self.at.stage, epoch=self.at.epoch + 1)
        self._save()

    def _validate(self, stage: Stage, split: str) -> float:
        """Top-1 accuracy of the branch that learns, on the centre crops of as many snippets as in training."""
        train, model = self.settings.train, self.settings.model
        views = TestSnippets(
            self.dataset.samples(split),
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
        return top_k_accuracy(scores[stage.trains], views.labels, 1)

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
        self.schedule = ReduceLROnPlateau(self.optimizer, mode="max", factor=0.1, patience=train.plateau_patience)

    def _train_samples(self) -> TrainSnippets:
        train = self.settings.train
        return TrainSnippets(
            self.dataset.samples(train.split),
            segments=train.segments,
            stack_length=self.settings.model.stack_length,
            crop_size=train.crop_size,
            scales=train.scales,
            flip=train.flip,
            seed=train.seed,
        )

    def _save(self) -> None:
        progress = {
            "position": asdict(self.at),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "log_bytes": (self.out / LOG).stat().st_size,
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
        """Between two steps everything fits together: the only place where a signal ends the run."""
        if stop.number is not None or self.at.step % self.settings.train.checkpoint_steps == 0:
            self._save()
        stop.check()

    @property
    def _epochs_begun(self) -> int:
        """Epochs before this one, over all stages: with the seed it fixes order and augmentation."""
        return self.at.stage * self.settings.train.epochs + self.at.epoch

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _log(self, figures: dict[str, Any]) -> None:
        line = {"stage": self.stages[self.at.stage].name, "epoch": self.at.epoch, **figures}
        with open(self.out / LOG, "a") as log:
            log.write(json.dumps(line) + "\n")


def train(settings: RunSettings, out: Path, *, resume: bool) -> None:
    """Train into the folder `out`, from the beginning or from its checkpoint."""
    trainer = Trainer(settings, out)
    if can_resume(out, settings, resume=resume):
        trainer.resume()
    else:
        trainer.start()
    trainer.run()
