"""A run folder belongs to one training at a time, on a disk with room for it; a full disk costs
nothing that was saved.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.support.datasets import write_dataset
from tests.support.disks import small_disk, small_files
from tests.support.paths import ROOT
from twinstream.errors import InputError
from twinstream.section import build_settings
from twinstream.shards.format.manifest import FILE_NAME
from twinstream.shards.storage.lock import owned
from twinstream.train import fit
from twinstream.train.checkpoint import Position, load_checkpoint, load_resumable
from twinstream.train.fit import train
from twinstream.train.ranks import Ranks
from twinstream.train.run_folder import (
    LOG,
    SETTINGS,
    STARTS,
    RunSettings,
    begin_run,
    bytes_to_write,
    has_moved,
    read_run_manifest,
    read_run_settings,
)
from twinstream.train.run_log import TrainingLog
from twinstream.train.score.predictions import read_predictions
from twinstream.train.settings import CHECKPOINT

PATIENCE = 240.0
ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
RESUME = "what was saved before is kept, {room}run the same command with --resume"


def settings_tree(dataset: Path) -> dict[str, dict[str, object]]:
    return {
        "shards": {"path": str(dataset)},
        "model": {"kind": "flow", "depth": 18, "flow_weights": None},
        "train": {
            "stages": ["flow"],
            "epochs": 4,
            "batch_size": 2,
            "segments": 1,
            "crop_size": 40,
            "workers": 0,
            "device": "cpu",
            "checkpoint_steps": 1,
        },
    }


def settings(dataset: Path) -> RunSettings:
    return build_settings(RunSettings, settings_tree(dataset))


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", {"train": 3})


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run that nothing stops."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(settings(dataset), run, resume=False)
    return losses(run)


def start(tmp_path: Path, dataset: Path, run: Path, *launcher: str) -> subprocess.Popen[str]:
    """`python -m twinstream.train` into `run`."""
    config = tmp_path / "pipeline.yaml"
    config.write_text(yaml.safe_dump(settings_tree(dataset)))
    command = ["-m", *launcher, "twinstream.train", "-c", str(config), "--out", str(run)]
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def stop_after_a_checkpoint(process: subprocess.Popen[str], run: Path) -> Position:
    """Wait for a checkpoint behind the first step and hold the process still."""
    path, until = run / "checkpoint.pt", time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < until
        # Held while it is looked at: on a busy machine the run would be over by then.
        process.send_signal(signal.SIGSTOP)
        if path.exists() and (position := load_resumable(path)[1].position) != Position():
            return position
        process.send_signal(signal.SIGCONT)
        time.sleep(0.02)


def lines_of(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("twinstream:")]


@pytest.mark.parametrize(
    ("learning", "there", "expected"),
    [
        ({"flow": 40}, {}, 2 * (100 + 40) + 100),
        ({"flow": 40, "iter1": 60}, {}, 2 * (100 + 60) + 200),
        # What is there already needs no more room, and a stage that is done will not be written.
        ({"flow": 40, "iter1": 60}, {"checkpoint.pt": 140}, 2 * (100 + 60) + 200 - 140),
        (
            {"flow": 60, "iter1": 40},
            {"checkpoint.pt": 140, "flow.pt": 100},
            2 * (100 + 40) + 100 - 140,
        ),
        # Larger than the ones to come: only one of these is taken away.
        ({"flow": 40}, {"checkpoint.pt": 500}, (100 + 40) + 100),
        ({"flow": 40}, {"flow.safetensors": 100, "checkpoint.pt": 100}, 0),
    ],
)
def test_the_bytes_that_a_run_still_takes(
    learning: dict[str, int], there: dict[str, int], expected: int
) -> None:
    assert bytes_to_write(100, learning, there) == expected


class Usage(NamedTuple):
    """What is asked of shutil.disk_usage."""

    free: int


def test_too_little_disk_is_told_before_the_first_step(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(10_000_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(InputError) as told:
        train(settings(dataset), tmp_path / "runs" / "run", resume=False)
    assert str(told.value) == (
        f"--out {tmp_path}/runs/run: checkpoint.pt, twice while it is replaced, and each "
        "STAGE.safetensors take 224.1 MB more, and 10.0 MB are free; make room or choose another "
        "--out"
    )
    assert asked == [tmp_path / "runs" / "run"]
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_writes_fits_in_what_it_asks_for(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(settings(dataset), run, resume=False)
    sizes = {path.name: path.stat().st_size for path in run.iterdir()}
    assert {name for name, size in sizes.items() if size > 1e6} == {
        "checkpoint.pt",
        "flow.safetensors",
    }
    stage = sizes["flow.safetensors"]
    assert 5 * stage == pytest.approx(224.1e6, rel=0.01)


def refusal(dataset: Path, out: Path) -> str:
    with pytest.raises(InputError) as told:
        train(settings(dataset), out, resume=False)
    return str(told.value)


def test_a_folder_that_cannot_be_written_to_is_told_before_the_first_step(
    dataset: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert refusal(dataset, file) == f"--out {file}: cannot be written to (File exists)"
    with small_disk(tmp_path / "disk", 2**20) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert refusal(dataset, disk / "run") == (
            f"--out {disk}/run: cannot be written to (Read-only file system)"
        )


def test_a_second_training_is_refused_and_after_kill_9_the_next_goes_on_at_once(
    dataset: Path, tmp_path: Path, whole: list[float]
) -> None:
    run = tmp_path / "run"
    process = start(tmp_path, dataset, run)
    try:
        stop_after_a_checkpoint(process, run)
        for resume in (False, True):
            with pytest.raises(InputError) as refused:
                train(settings(dataset), run, resume=resume)
            assert str(refused.value) == (
                f"{run}: in use by process {process.pid} on host {os.uname().nodename} (twinstream "
                "train); wait for it or choose another --out"
            )
    finally:
        process.kill()
        process.communicate()
    for name in (".checkpoint.pt.01ab.tmp", ".flow.safetensors.01ab.tmp", ".metrics.json.01ab.tmp"):
        (run / name).touch()
    train(settings(dataset), run, resume=True)
    assert losses(run) == whole
    # The last is no file of training: a test of the run may be about to write it.
    assert [path.name for path in run.glob(".*")] == [".metrics.json.01ab.tmp"]


def test_of_two_that_start_at_the_same_moment_one_trains(
    dataset: Path, tmp_path: Path, whole: list[float]
) -> None:
    run = tmp_path / "run"
    started = [start(tmp_path, dataset, run) for _ in range(2)]
    printed = [process.communicate(timeout=PATIENCE)[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 1], printed
    (line,) = lines_of("".join(printed))
    assert "in use by process" in line or "holds a run already" in line
    assert losses(run) == whole


def test_all_ranks_end_where_the_first_is_refused(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with owned(run, "a test"):
        process = start(tmp_path, dataset, run, *TORCHRUN)
        _, printed = process.communicate(timeout=PATIENCE)
    host = os.uname().nodename
    assert process.returncode == 1
    assert sorted(line.partition(";")[0] for line in lines_of(printed)) == [
        f"twinstream: --out {run}: the first rank tells why it cannot be used",
        f"twinstream: {run}: in use by process {os.getpid()} on host {host} (a test)",
    ]


@pytest.mark.parametrize("kind", ["full disk", "limit of a file"])
def test_a_full_disk_at_a_checkpoint_is_one_line_and_the_run_goes_on_from_the_old_one(
    dataset: Path, tmp_path: Path, whole: list[float], kind: str
) -> None:
    if kind == "full disk":
        with small_disk(tmp_path / "disk", 260_000_000) as disk:
            fill_and_go_on(dataset, tmp_path, disk / "run", whole, disk / "other")
    else:
        fill_and_go_on(dataset, tmp_path, tmp_path / "run", whole, None)


def fill_and_go_on(
    dataset: Path, tmp_path: Path, run: Path, whole: list[float], other: Path | None
) -> None:
    """Leave a training no room behind its first checkpoint, by a file or a limit; then resume."""
    import resource

    process = start(tmp_path, dataset, run)
    try:
        position = stop_after_a_checkpoint(process, run)
        if other is None:
            reason, room = "File too large", ""
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (30_000_000, 30_000_000))
        else:
            reason, room = "No space left on device", "make room and "
            with open(other, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(run).free - 30_000_000)
        process.send_signal(signal.SIGCONT)
        _, printed = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "Traceback" not in printed
    assert lines_of(printed) == [
        f"twinstream: {run}/checkpoint.pt: {reason}; {RESUME.format(room=room)}"
    ]
    assert not list(run.glob(".*"))
    assert load_resumable(run / "checkpoint.pt")[1].position == position
    if other is not None:
        other.unlink()
    train(settings(dataset), run, resume=True)
    assert losses(run) == whole


@pytest.mark.parametrize(
    ("limit", "line", "name"),
    [
        (0, {}, "tensorboard"),
        (900, {"stage": "flow", "loss": 1}, "log.jsonl"),
        # A number takes more bytes as an event than in the log.
        (200_000, {"stage": "f" * 60} | {str(n): float(n) for n in range(20)}, "tensorboard"),
    ],
)
def test_a_log_and_events_that_cannot_be_written_are_one_line(
    tmp_path: Path, limit: int, line: dict[str, object], name: str
) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "log.jsonl").write_bytes(bytes(1000))
    hook = threading.excepthook
    with pytest.raises(InputError) as told, small_files(limit):
        write_lines(tmp_path, line)
    assert str(told.value) == f"{tmp_path / name}: File too large; {RESUME.format(room='')}"
    assert threading.excepthook is hook


def write_lines(run: Path, line: dict[str, object]) -> None:
    with closing(TrainingLog(run, first_step=0, num_bytes=1000)) as log:
        for step in range(5000):
            log.write(line, step)


def test_a_run_that_began_meanwhile_is_not_gone_on_with(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the folder is held another run may begin there."""
    held = fit.owned_run

    def hold_late(out: Path, ranks: Ranks) -> AbstractContextManager[None]:
        begin_run(out, settings(dataset))
        return held(out, ranks)

    monkeypatch.setattr(fit, "owned_run", hold_late)
    with pytest.raises(InputError, match="holds a run already; give --resume"):
        train(settings(dataset), tmp_path / "run", resume=False)


READERS: dict[str, Callable[[Path], object]] = {
    SETTINGS: read_run_settings,
    FILE_NAME: lambda run: read_run_manifest(run, RunSettings()),
    STARTS: lambda run: has_moved(run, "train.split", "x"),
    LOG: lambda run: TrainingLog(run, first_step=0, num_bytes=0),
    CHECKPOINT: lambda run: load_resumable(run / CHECKPOINT),
    "flow.safetensors": lambda run: load_checkpoint(run / "flow.safetensors"),
    "predictions.parquet": lambda run: read_predictions(run / "predictions.parquet"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_device_in_a_run_is_neither_waited_for_nor_read(
    tmp_path: Path, name: str, make: Callable[[Path], object]
) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError, match=r"a pipe, socket or device; expected a regular file$"):
        READERS[name](tmp_path)


@pytest.mark.parametrize("name", [SETTINGS, FILE_NAME, STARTS])
def test_a_file_of_a_run_is_as_large_as_it_can_be_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    os.truncate(tmp_path / name, 2**40)
    with pytest.raises(InputError, match=r"1099511627776 bytes; expected \d+ at most$"):
        READERS[name](tmp_path)
