"""Transfer: a network goes on from a whole run, and only the layers that are asked for learn."""

import signal
from pathlib import Path

import pytest
import torch

from tests.support.caffemodels import caffemodel
from tests.support.datasets import write_dataset
from tests.support.p3d_files import random_layers
from tests.support.runs import write_run
from tests.support.training import accuracies, kill_after, losses, make_settings
from twinstream.errors import InputError
from twinstream.signals import StopSignal
from twinstream.train import fit
from twinstream.train.checkpoint import load_checkpoint
from twinstream.train.choices import Trainable
from twinstream.train.features import remove_features
from twinstream.train.fit import train
from twinstream.train.network.resnet import ResNetBranch
from twinstream.train.run_folder import read_run_settings
from twinstream.train.score.evaluate import score_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", {"train": 3, "test": 2})


@pytest.fixture(scope="module")
def source(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of other classes whose RGB branch attends to flow."""
    run = tmp_path_factory.mktemp("runs") / "kinetics"
    write_run(run, dataset, classes=("abseiling", "zumba", "yoga"), dataset_sha256="another")
    return run


@pytest.mark.parametrize(
    ("part", "learns", "frozen"),
    [
        ("all", ("conv1.", "bn1.", "layer1.", "layer2.", "layer4.", "fc.", "cma."), ()),
        (
            "behind_attention",
            ("layer3.", "layer4.", "fc.", "cma."),
            ("conv1.", "bn1.", "layer1.", "layer2.0.", "layer2.1."),
        ),
        ("fc", ("fc.",), ("conv1.", "bn1.", "layer1.", "layer3.", "layer4.", "cma.")),
    ],
)
def test_that_part_of_a_branch_learns_and_all_else_is_as_at_test(
    part: Trainable, learns: tuple[str, ...], frozen: tuple[str, ...]
) -> None:
    branch = ResNetBranch(18, 3, 5, 0.7, has_cma=True)
    branch.set_learning(part)
    branch.train()
    for name, parameter in branch.named_parameters():
        if name.startswith((*learns, *frozen)):
            assert parameter.requires_grad == name.startswith(learns), name
    for name, module in branch.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d) and name.startswith((*learns, *frozen)):
            assert module.training == f"{name}.".startswith(learns), name
    assert branch.dropout.training


def test_layers_behind_attention_need_attention() -> None:
    with pytest.raises(InputError, match="behind_attention, but this"):
        ResNetBranch(18, 3, 5, 0.7).set_learning("behind_attention")


def transfer(dataset: Path, source: Path, *overrides: str) -> list[str]:
    return [f"model.weights={source}", "train.trainable=fc", *overrides]


def test_only_the_last_layers_differ_from_those_of_the_run_it_began_from(
    dataset: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "ucf"
    train(make_settings(dataset, *transfer(dataset, source)), run, resume=False)
    said = capsys.readouterr().err
    assert f"rgb weights: {source}, classifier new, it has none of these classes" in said
    assert "trained attention at 2 places" in said
    before, after = (load_checkpoint(path / "checkpoint.pt").model for path in (source, run))
    changed = {key for key in after if "fc." in key or not torch.equal(before[key], after[key])}
    assert changed == {
        f"{name}.fc.{part}" for name in ("rgb", "flow") for part in ("weight", "bias")
    }
    # Fresh classifiers were near zero; both have learned.
    assert all(after[f"{name}.fc.bias"].any() for name in ("rgb", "flow"))
    metrics = score_run(run, read_run_settings(run).test)
    assert {"rgb", "flow"} <= metrics["scores"].keys()
    assert metrics["trained_on"] == 0


def test_a_transfer_that_was_stopped_goes_on_without_the_run_it_began_from(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    write_run(first, dataset)
    settings = make_settings(dataset, *transfer(dataset, first))
    train(settings, tmp_path / "whole", resume=False)
    with monkeypatch.context() as patch:
        kill_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "run", resume=False)
    first.rename(tmp_path / "moved")
    moved = make_settings(dataset, *transfer(dataset, tmp_path / "moved"))
    train(moved, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_folder_without_a_checkpoint_is_one_line(dataset: Path, tmp_path: Path) -> None:
    settings = make_settings(dataset, *transfer(dataset, tmp_path))
    with pytest.raises(InputError, match=r"checkpoint\.pt: cannot be read: No such file"):
        train(settings, tmp_path / "run", resume=False)


P3D = ("model.family=p3d", "model.depth=14", "model.clip_length=4")
LITE = ("model.family=efficientnet_lite0", "model.depth=50")


@pytest.mark.parametrize(
    "network",
    [
        ("train.trainable=fc",),
        ("train.trainable=behind_attention", "train.stages=[iter1,iter2]"),
        ("train.trainable=behind_attention", "train.stages=[iter1]", "model.kind=cma_nonlocal"),
        ("train.trainable=behind_attention", "train.stages=[iter1]", *P3D),
        ("train.trainable=behind_attention", "train.stages=[iter1]", *LITE),
    ],
)
def test_stored_features_give_the_losses_of_training_without_them(
    dataset: Path, tmp_path: Path, network: tuple[str, ...]
) -> None:
    # At a low rate: rounding grows with every step that layers behind attention take.
    validated = ("train.validate_split=test", "train.learning_rate=0.001")
    for name, stored in (("plain", "null"), ("stored", "2")):
        settings = make_settings(dataset, *network, *validated, f"train.cache_features={stored}")
        train(settings, tmp_path / name, resume=False)
    plain, stored_losses = losses(tmp_path / "plain"), losses(tmp_path / "stored")
    assert [loss for *_, loss in stored_losses] == pytest.approx(
        [loss for *_, loss in plain], rel=1e-4
    )
    assert accuracies(tmp_path / "stored") == accuracies(tmp_path / "plain")
    assert not (tmp_path / "stored" / "features").exists()


def test_one_view_is_seen_in_every_epoch(dataset: Path, source: Path, tmp_path: Path) -> None:
    """Without dropout and at a rate of almost nothing, equal views have equal losses."""
    still = ("model.dropout=0", "train.learning_rate=1e-12", "train.batch_size=3")
    for views, differ in ((1, False), (2, True)):
        settings = make_settings(
            dataset, *transfer(dataset, source, *still, f"train.cache_features={views}")
        )
        train(settings, tmp_path / str(views), resume=False)
        (_, _, _, first), (_, _, _, second), *_ = losses(tmp_path / str(views))
        assert (first != pytest.approx(second, rel=1e-6)) == differ


def test_stored_features_survive_a_stop_and_are_not_computed_again(
    dataset: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(dataset, *transfer(dataset, source, "train.cache_features=2"))
    train(settings, tmp_path / "whole", resume=False)
    with monkeypatch.context() as patch:
        kill_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "run", resume=False)
    files = [*(tmp_path / "run/features").rglob("*.npy")]
    kept = {path: path.stat().st_mtime_ns for path in files}
    assert len(kept) == 2
    with monkeypatch.context() as patch:
        kill_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "run", resume=True)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    train(settings, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_signal_ends_the_computing_of_features_and_whole_views_are_kept(
    dataset: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(dataset, *transfer(dataset, source, "train.cache_features=2"))
    asked: list[StopSignal] = []

    def check(stop: StopSignal) -> None:
        asked.append(stop)
        if len(asked) == 3:
            stop.number = signal.SIGINT
        if stop.number:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "check", check)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "run", resume=False)
    # Two batches of three videos: the signal came in the second view.
    assert len([*(tmp_path / "run/features").rglob("*.npy")]) == 1
    train(settings, tmp_path / "run", resume=True)


def test_no_more_views_than_epochs_are_computed_and_none_once_these_are_over(
    dataset: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ("train.cache_features=9", "train.stages=[flow]")
    settings = make_settings(dataset, *transfer(dataset, source, *chosen))
    views: list[Path] = []

    def kill_behind(run: Path) -> None:
        views.extend(run.rglob("*.npy"))
        remove_features(run)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "remove_features", kill_behind)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "run", resume=False)
    assert len(views) == settings.train.epochs == 2
    monkeypatch.delattr(fit, "feature_feed")
    train(settings, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.trainable=all", r"with train\.trainable all features change"),
        ("train.loader=stream", r"needs train\.loader: index"),
    ],
)
def test_features_that_change_or_cannot_be_read_are_not_stored(
    dataset: Path, tmp_path: Path, override: str, message: str
) -> None:
    chosen = ("train.trainable=fc", "train.cache_features=2", "train.shuffle_window=2", override)
    with pytest.raises(InputError, match=message):
        train(make_settings(dataset, *chosen), tmp_path / "run", resume=False)


def test_a_run_of_clips_begins_from_a_caffemodel_and_goes_into_another(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "flow.caffemodel"
    path.write_bytes(caffemodel(random_layers(2)))
    clips = ("model.family=p3d", "model.depth=14", "model.clip_length=3", "model.kind=flow")
    once = (*clips, "train.stages=[flow]", "train.epochs=1")
    train(
        make_settings(dataset, *once, f"model.flow_weights={path}"),
        tmp_path / "first",
        resume=False,
    )
    assert f"flow weights: {path}, names and input of Caffe's P3D" in capsys.readouterr().err
    made = load_checkpoint(tmp_path / "first" / "flow.safetensors").made_with or {}
    assert (made["model.clip_length"], made["model.clip_stride"]) == (3, 1)
    other = (
        *once,
        "model.clip_length=2",
        f"model.flow_weights={tmp_path / 'first' / 'flow.safetensors'}",
    )
    train(make_settings(dataset, *other), tmp_path / "second", resume=False)
    assert "trained on model.clip_length 3, not 2" in capsys.readouterr().err
