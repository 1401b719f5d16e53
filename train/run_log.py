"""The log of a training run: log.jsonl, TensorBoard's files if it is installed, starts.jsonl.

A line of log.jsonl is a step or the end of an epoch. A resumed run drops all that was logged after
its checkpoint from both, so that they read like the log of a run without a stop. starts.jsonl has a
line for every start, with the versions it ran with.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from twinstream.errors import InputError
from twinstream.shards.storage.location import is_regular
from twinstream.train.checkpoint import resumable_faults
from twinstream.train.choices import BranchName
from twinstream.train.run_folder import LOG, STARTS, logged

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS = "tensorboard"
PACKAGES = ("twinstream", "torch", "torchvision", "webdataset", "numpy", "opencv-contrib-python")


class TrainingLog:
    """The log in a run directory from a step on, cut to its first `num_bytes` bytes.

    Without a directory nothing is written: only the first rank has one.
    """

    def __init__(self, run: Path | None, *, first_step: int, num_bytes: int) -> None:
        self._path = run / LOG if run else None
        self._events, self._hook = None, threading.excepthook
        if run is None:
            return
        is_regular(run / LOG)
        with resumable_faults(run / LOG), open(run / LOG, "r+b") as file:
            # Never longer: zeros would stand where lines are missing.
            file.truncate(min(num_bytes, file.seek(0, os.SEEK_END)))
        threading.excepthook = self._thread_ended
        try:
            with resumable_faults(run / EVENTS):
                self._events = open_events(run / EVENTS, first_step)
        except InputError:
            threading.excepthook = self._hook
            raise

    @property
    def num_bytes(self) -> int:
        """Length of the log now."""
        return self._path.stat().st_size if self._path else 0

    def losses(self, stage: str, epoch: int) -> list[float]:
        """Of the steps of an epoch that are logged, in their order; none without a directory."""
        if self._path is None:
            return []
        found = []
        for given in logged(self._path):
            # Of an epoch's end there is no loss.
            with suppress(ValueError, LookupError, TypeError):
                if (given["stage"], given["epoch"]) == (stage, epoch):
                    found.append(float(given["loss"]))
        return found

    def write(self, figures: dict[str, Any], step: int) -> None:
        """One line; its numbers also go to TensorBoard, under the name of the stage."""
        if self._path is None:
            return
        # Opened for each line: all of it is on disk before a checkpoint stores its length.
        with resumable_faults(self._path), open(self._path, "a") as file:
            file.write(json.dumps(figures) + "\n")
        if self._events is not None:
            with resumable_faults(self._path.with_name(EVENTS)):
                for name, value in figures.items():
                    if isinstance(value, float):
                        self._events.add_scalar(f"{figures['stage']}/{name}", value, step)

    def close(self) -> None:
        """Write all events that TensorBoard's writer still holds."""
        if self._path is None or self._events is None:
            return
        try:
            with resumable_faults(self._path.with_name(EVENTS)):
                self._events.close()
        finally:
            threading.excepthook = self._hook

    def _thread_ended(self, ended: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread hands an error on to its writer, where it is told in one line.
        is_told = type(ended.thread).__name__ == "_AsyncWriterThread"
        if not (is_told and isinstance(ended.exc_value, OSError)):
            self._hook(ended)


def epoch_line(
    name: str,
    *,
    losses: Sequence[float],
    accuracies: Sequence[float],
    rate: float,
    samples_a_second: float,
    seconds: float,
) -> str:
    """What stays on the screen of an epoch, within 80 columns: the mean loss of its steps, accuracy
    in training and of validation if there is any, learning rate, samples a second, time.

    `flow 3/40 · loss 1.234 · train 56.1% · val 43.2% · rate 0.001 · 812/s · 01:23`
    """
    parts = [
        f"{what} {value:.1%}" for what, value in zip(("train", "val"), accuracies, strict=False)
    ]
    return " · ".join(
        (
            name,
            f"loss {fmean(losses):.3f}",
            *parts,
            f"rate {rate:.3g}",
            f"{samples_a_second:.3g}/s",
            tqdm.format_interval(seconds),
        )
    )


def open_events(folder: Path, first_step: int) -> "SummaryWriter | None":
    """A writer there that replaces the events from `first_step` on; None without tensorboard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_step or None)


def record_start(
    run: Path,
    dataset: dict[str, str],
    device: torch.device,
    num_ranks: int,
    weights: Mapping[BranchName, str],
    lists: Mapping[str, str],
) -> None:
    """Add a line to starts.jsonl: versions, git revision, dataset and device of this start.

    `weights` are the SHA-256 of the files that it has loaded, by branch; `lists` those of the keys
    of its splits that are lists, by setting.
    """
    line = {
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "git_revision": git_revision(Path(__file__).parent),
        "dataset": dataset,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "ranks": num_ranks,
        "weights": dict(weights),
        "lists": dict(lists),
    }
    is_regular(run / STARTS)
    with resumable_faults(run / STARTS), open(run / STARTS, "a") as file:
        file.write(json.dumps(line) + "\n")


def git_revision(folder: Path) -> str | None:
    """The commit of the code in `folder`, with `-dirty` where it was changed; None outside git."""
    try:
        # In a folder that git ignores, such as site-packages in someone's project, the commit would
        # not be ours.
        ignored = subprocess.run(
            ["git", "-C", folder, "check-ignore", "-q", "."], capture_output=True
        ).returncode
        described = subprocess.run(
            ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return described.stdout.strip() if described.returncode == 0 and ignored == 1 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
