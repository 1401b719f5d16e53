"""The log of a training run: log.jsonl, TensorBoard's files if it is installed, starts.jsonl.

A line of log.jsonl is a step or the end of an epoch. A resumed run drops all that was logged after
its checkpoint from both, so that they read like the log of a run without a stop. starts.jsonl has a
line for every start, with the versions it ran with.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from twinstream.train.choices import BranchName
from twinstream.train.run_folder import LOG, STARTS

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PACKAGES = ("twinstream", "torch", "torchvision", "webdataset", "numpy", "opencv-contrib-python")


class TrainingLog:
    """The log in a run directory from a step on, cut to its first `num_bytes` bytes.

    Without a directory nothing is written: only the first rank has one.
    """

    def __init__(self, run: Path | None, *, first_step: int, num_bytes: int) -> None:
        self._path = run / LOG if run else None
        self._events = open_events(run, first_step) if run else None
        if self._path is not None:
            with open(self._path, "r+b") as file:
                file.truncate(num_bytes)

    @property
    def num_bytes(self) -> int:
        """Length of the log now."""
        return self._path.stat().st_size if self._path else 0

    def write(self, figures: dict[str, Any], step: int) -> None:
        """One line; its numbers also go to TensorBoard, under the name of the stage."""
        if self._path is None:
            return
        # Opened for each line: all of it is on disk before a checkpoint stores its length.
        with open(self._path, "a") as file:
            file.write(json.dumps(figures) + "\n")
        if self._events is not None:
            for name, value in figures.items():
                if isinstance(value, float):
                    self._events.add_scalar(f"{figures['stage']}/{name}", value, step)

    def close(self) -> None:
        """Write all events that TensorBoard's writer still holds."""
        if self._events is not None:
            self._events.close()


def open_events(run: Path, first_step: int) -> "SummaryWriter | None":
    """A writer that replaces the events from `first_step` on; None without tensorboard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run / "tensorboard"), purge_step=first_step or None)


def record_start(
    run: Path,
    dataset: dict[str, str],
    device: torch.device,
    num_ranks: int,
    weights: Mapping[BranchName, str],
) -> None:
    """Add a line to starts.jsonl: versions, git revision, dataset and device of this start.

    `weights` are the SHA-256 of the files that it has loaded, by branch.
    """
    line = {
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "git_revision": git_revision(Path(__file__).parent),
        "dataset": dataset,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "ranks": num_ranks,
        "weights": dict(weights),
    }
    with open(run / STARTS, "a") as file:
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
