"""A run takes more epochs: its last stage goes on, with the losses of a run that had them all."""

from pathlib import Path

import pytest
import torch

from tests.support.command import run as command
from tests.support.datasets import write_dataset
from tests.support.training import kill_after, losses, make_settings
from twinstream.errors import InputError
from twinstream.section import build_settings
from twinstream.train.checkpoint import Position, load_checkpoint, load_resumable
from twinstream.train.fit import train
from twinstream.train.run_folder import (
    RunSettings,
    logged_epochs,
    read_run_settings,
    takes_more_epochs,
)

ONE = ("model.kind=flow", "train.stages=[flow]")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", {"train": 3, "test": 2})


def begin(dataset: Path, run: Path, *overrides: str) -> Path:
    train(make_settings(dataset, *overrides), run, resume=False)
    return run


def go_on(run: Path, *overrides: str) -> None:
    """As `twinstream train --resume`, with nothing but these settings."""
    train(build_settings(RunSettings, {}, overrides), run, resume=True)


def weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / f"{stage}.safetensors").model


def test_a_finished_run_of_one_stage_becomes_the_run_of_more_epochs(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With so little patience the rate is cut on the way: the plateau goes on being counted.
    patience = "train.plateau_patience=0"
    long = begin(dataset, tmp_path / "long", *ONE, patience, "train.epochs=4")
    short = begin(dataset, tmp_path / "short", *ONE, patience, "train.epochs=2")
    assert losses(short) == losses(long)[:4]
    # Neither a settings file nor the dataset's path: the folder says all.
    monkeypatch.chdir(tmp_path)
    Path("pipeline.yaml").write_text("train: {epochs: 99, seed: 99}")
    assert command(monkeypatch, "train", "--resume", "--out", "short") == 0
    assert losses(short) == losses(long)[:4]
    more = ("train", "--resume", "--set", "train.epochs=4", "--out", "short")
    assert command(monkeypatch, *more) == 0
    assert losses(short) == losses(long)
    one, other = weights(short, "flow"), weights(long, "flow")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (short / "log.jsonl").read_bytes().count(b"\n") == 4 * 3
    assert read_run_settings(short).train.epochs == 4
    assert load_resumable(short / "checkpoint.pt")[1].position == Position(stage=1, ended=(4,))


def test_of_several_stages_the_last_goes_on_and_a_stop_changes_nothing(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, other = (begin(dataset, tmp_path / name, "train.epochs=1") for name in ("one", "other"))
    before = (one / "flow.safetensors").read_bytes()
    go_on(one, "train.epochs=2")
    said = "iter1 goes on to 2 epochs; stages that have ended stay as they are: flow at 1"
    assert said in capsys.readouterr().err
    assert [logged_epochs(one, stage) for stage in ("flow", "iter1", "iter2")] == [1, 2, 0]
    assert (one / "flow.safetensors").read_bytes() == before
    assert [line[:3] for line in losses(one)] == [
        *(("flow", 0, 0), ("flow", 0, 1)),
        *(("iter1", 0, 0), ("iter1", 0, 1), ("iter1", 1, 0), ("iter1", 1, 1)),
    ]
    # Stopped before its first step, and in the middle of the epoch: without the number again.
    for steps in (0, 1):
        with monkeypatch.context() as patch:
            kill_after(steps, patch)
            with pytest.raises(KeyboardInterrupt):
                go_on(other, *(["train.epochs=2"] if steps == 0 else []))
    go_on(other)
    assert losses(other) == losses(one)


def test_a_run_that_is_not_finished_takes_more_epochs_in_the_stages_left(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "part"
    with monkeypatch.context() as patch:
        kill_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            begin(dataset, run, "train.epochs=1", "train.checkpoint_steps=1")
    go_on(run, "train.epochs=2")
    whole = begin(dataset, tmp_path / "whole", "train.epochs=1")
    go_on(whole, "train.epochs=2")
    assert losses(run) == losses(whole)


def test_fewer_epochs_and_a_run_that_does_not_tell_its_own_are_refused(
    dataset: Path, tmp_path: Path
) -> None:
    run = begin(dataset, tmp_path / "run", *ONE, "train.epochs=1")
    settings = (run / "settings.yaml").read_bytes()
    path = run / "checkpoint.pt"
    old = torch.load(path, weights_only=True)
    del old["position"]["ended"]
    torch.save(old | {"optimizer": {}, "schedule": {}}, path)
    # As it was finished by a version that had no such thing: it is over, and stays so.
    go_on(run)
    with pytest.raises(InputError, match="takes no more; begin another run with"):
        go_on(run, "train.epochs=2")
    assert (run / "settings.yaml").read_bytes() == settings
    with pytest.raises(InputError, match=r"was begun with train\.epochs = 1, not 0|equal to 1"):
        go_on(run, "train.epochs=0")
    assert not takes_more_epochs(run, read_run_settings(run))
    assert not takes_more_epochs(tmp_path / "absent", read_run_settings(run))


@pytest.mark.parametrize(
    ("ended", "stage", "expected"), [((), 0, 0), ((3, 5), 2, 8), ((), 2, 60), ((30,), 2, 60)]
)
def test_epochs_before_a_stage_are_known_or_all_alike(
    ended: tuple[int, ...], stage: int, expected: int
) -> None:
    assert Position(stage=stage, ended=ended).epochs_before(30) == expected


def test_an_ended_stage_and_back() -> None:
    end = Position(stage=1, epoch=7, ended=(5,))
    assert end.after_stage() == Position(stage=2, ended=(5, 7))
    assert end.after_stage().before_end() == end
