"""What training tells before its first step, and what it refuses then."""

from pathlib import Path

import pytest
import torch

from tests.support.command import run as command
from tests.support.datasets import write_dataset
from tests.support.training import losses, make_settings
from twinstream.errors import InputError
from twinstream.presets import PRESETS
from twinstream.train import fit, forecast
from twinstream.train.fit import train
from twinstream.train.forecast import (
    Cost,
    announce,
    device_bytes,
    in_words,
    late_findings,
    refuse_large_step,
    seconds_of_video,
    stage_cost,
)
from twinstream.train.gradient import add_gradients
from twinstream.train.network.stages import Stage
from twinstream.train.ranks import Ranks
from twinstream.train.session import Session, open_session

ALONE = Ranks(torch.device("cpu"))
RGB = Stage("iter1", "rgb", ("rgb",))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", {"train": 3, "test": 2})


def no_step(*arguments: object) -> None:
    pytest.fail("a step was done")


def session(dataset: Path, *overrides: str) -> Session:
    return open_session(make_settings(dataset, *overrides), Path("run"), ALONE)


def test_an_announced_run_has_the_losses_of_another(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_stage = ("model.kind=flow", "train.stages=[flow]")
    settings = make_settings(dataset, *one_stage, "train.epochs=1")
    train(settings, tmp_path / "one", resume=False)
    assert "training takes" not in capsys.readouterr().err
    train(settings, tmp_path / "other", resume=False, announce=announce)
    told = capsys.readouterr().err
    assert "train.crop_size 40: larger than the stored frames, 32x24" in told
    assert "1 epoch of 3 videos, and at least 0." in told
    assert losses(tmp_path / "one") == losses(tmp_path / "other")


def test_what_is_kept_for_the_way_back_is_counted(dataset: Path) -> None:
    """Against a second count: by the shapes of what each layer of ResNet-18 must keep."""
    opened = session(dataset, "model.kind=flow", "train.stages=[flow]", "train.segments=2")
    flow = Stage("flow", "flow", ())
    cost = stage_cost(opened, flow, 1)
    # Input and output of BatchNorm and the input of each convolution, 40 pixels: 20, 10, 5, 3, 2.
    side = {64: 10, 128: 5, 256: 3, 512: 2}
    maps = 10 * 40 * 40 + 2 * 64 * 20 * 20 + sum(c * s * s * 8 for c, s in side.items())
    assert 0.8 < cost.video_bytes / (2 * 4 * maps) < 1.6
    # All the same at twice the videos; and of frozen layers nothing is kept.
    assert stage_cost(opened, flow, 2).video_bytes == pytest.approx(cost.video_bytes, rel=0.1)
    frozen = session(dataset, *("model.kind=flow", "train.stages=[flow]", "train.trainable=fc"))
    assert stage_cost(frozen, flow, 1).video_bytes < cost.video_bytes / 50
    assert stage_cost(frozen, flow, 1).fixed_bytes < cost.fixed_bytes / 2


def test_a_step_of_the_laptop_preset_fits_into_8_gigabytes(dataset: Path) -> None:
    chosen = PRESETS["laptop"][1]
    given = [f"{key}={value}" for key, value in chosen.items() if key[:5] in ("model", "train")]
    opened = session(dataset, "train.segments=3", *given)
    train = opened.settings.train
    assert (train.crop_size, train.batch_size, opened.settings.model.depth) == (112, 16, 18)
    costs = [stage_cost(opened, stage, 1) for stage in opened.stages]
    # Beside it stand the system, torch and two processes that read.
    assert 0.3e9 < max(cost.bytes(train.batch_size) for cost in costs) < 2e9


def test_the_network_is_not_changed_by_the_forecast(dataset: Path) -> None:
    opened = session(dataset)
    before = {name: value.clone() for name, value in opened.model.state_dict().items()}
    stage_cost(opened, RGB, 2)
    after = opened.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(value.grad is None for value in opened.model.parameters())


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (None, None),
        (10 * 10**9, None),
        (8 * 10**9, "16 videos at a time need 9.0 GB, of 8.0 GB; set train.micro_batch: 9"),
        (10**9, "16 videos at a time need 9.0 GB, of 1.0 GB; choose a smaller network or crop"),
    ],
)
def test_a_batch_that_cannot_fit_names_a_micro_batch_that_can(
    limit: int | None, message: str | None
) -> None:
    cost = Cost(fixed_bytes=10**9, video_bytes=5 * 10**8, video_seconds=1.0)
    if message is None:
        refuse_large_step(cost, 16, limit)
        return
    with pytest.raises(InputError) as told:
        refuse_large_step(cost, 16, limit)
    assert str(told.value) == f"train.batch_size: {message}"


def test_nothing_is_trained_where_a_batch_cannot_fit(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "device_bytes", lambda device: 170_000_000)
    monkeypatch.setattr(fit, "add_gradients", no_step)
    with pytest.raises(InputError, match=r"3 videos at a time need .* of 0\.2 GB; choose a"):
        train(
            make_settings(dataset, "train.batch_size=8"),
            tmp_path / "run",
            resume=False,
            announce=announce,
        )


def test_a_gpu_that_is_full_in_a_step_is_one_line(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("simulated")

    monkeypatch.setattr(fit, "add_gradients", full)
    with pytest.raises(InputError) as told:
        train(make_settings(dataset, "train.batch_size=3"), tmp_path / "run", resume=False)
    assert str(told.value) == (
        "train.batch_size: 3 videos at a time need more memory than the GPU has left; set "
        "train.micro_batch: 1"
    )
    monkeypatch.setattr(fit, "add_gradients", add_gradients)
    train(make_settings(dataset, "train.batch_size=3"), tmp_path / "run", resume=True)


def test_a_dataset_without_a_test_is_told(dataset: Path, tmp_path: Path) -> None:
    bare = write_dataset(tmp_path / "bare", {"train": 2})
    crop = "train.crop_size 40"
    told = [line.partition(":")[0] for line in late_findings(session(bare))]
    assert told == [crop, "test.split"]
    assert [line.partition(":")[0] for line in late_findings(session(dataset))] == [crop]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.validate_split=vall", "vall"),
        ("test.split=tset", "tset"),
        ("train.split=trian", "trian"),
        ("model.flow_weights=absent.pt", "absent.pt"),
        ("model.weights=absent.pt", "absent.pt"),
    ],
)
def test_what_is_not_there_is_told_before_the_first_step_and_leaves_nothing(
    dataset: Path,
    tmp_path: Path,
    override: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fit, "add_gradients", no_step)
    monkeypatch.chdir(tmp_path)
    overrides = [f"shards.path={dataset}", "model.depth=18", "train.crop_size=40"]
    overrides += ["model.rgb_weights=null", "model.flow_weights=null", override]
    sets = [word for each in overrides for word in ("--set", each)]
    assert command(monkeypatch, "train", "--out", "run", *sets) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("computing", "reading", "workers", "seconds"),
    [(2.0, 1.0, 0, 3.0), (2.0, 1.0, 4, 2.0), (0.1, 1.0, 4, 0.25)],
)
def test_the_slower_of_reading_and_computing_decides(
    computing: float, reading: float, workers: int, seconds: float
) -> None:
    assert seconds_of_video(computing, reading, workers) == seconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (90, "90 s"), (600, "10 min"), (11520, "3.2 hours"), (1e6, "11.6 days")],
)
def test_a_time_is_said_in_its_unit(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_the_memory_of_this_machine_is_known() -> None:
    found = device_bytes(torch.device("cpu"))
    assert found is not None
    assert 10**8 < found < 10**14
