"""What a run records while it trains: log.jsonl, and TensorBoard's event files where tensorboard
is installed.

A line of log.jsonl is a step or the end of an epoch. A resumed run drops what lies beyond its
checkpoint from both, so that they read as if nothing had happened; starts.jsonl keeps a line for
every start, with the versions it ran with.
"""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from twinstream.train.run_folder import LOG, STARTS

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PACKAGES = ("twinstream", "torch", "torchvision", "webdataset", "numpy", "opencv-contrib-python")


class TrainingLog:
    """The log in a run directory, from a step on; what it has beyond `num_bytes` is dropped.

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
        """How long the log is now."""
        return self._path.stat().st_size if self._path else 0

    def write(self, figures: dict[str, Any], step: int) -> None:
        """One line; its numbers also go to TensorBoard, under the name of the stage."""
        if self._path is None:
            return
        with open(self._path, "a") as file:
            file.write(json.dumps(figures) + "\n")
        if self._events is not None:
            for name, value in figures.items():
                if isinstance(value, float):
                    self._events.add_scalar(f"{figures['stage']}/{name}", value, step)

    def close(self) -> None:
        """Write out what TensorBoard's writer still holds."""
        if self._events is not None:
            self._events.close()


def open_events(run: Path, first_step: int) -> "SummaryWriter | None":
    """A writer of event files that replaces what is there from `first_step` on; None without
    tensorboard.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run / "tensorboard"), purge_step=first_step or None)


def record_start(run: Path, dataset: dict[str, str], device: torch.device, num_ranks: int) -> None:
    """Add a line to starts.jsonl: versions, git revision, dataset and device of this start or
    resume.
    """
    line = {
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES},
        "git_revision": git_revision(Path(__file__).parent),
        "dataset": dataset,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "ranks": num_ranks,
    }
    with open(run / STARTS, "a") as file:
        file.write(json.dumps(line) + "\n")


def git_revision(folder: Path) -> str | None:
    """The commit that the code in `folder` belongs to, `-dirty` where it was changed since; None
    outside of git.
    """
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
