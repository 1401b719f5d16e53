"""Runs that go on from runs: trained attention acts, classifiers fit the shards, and what was never
trained is never scored.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision import models

from tests.support.datasets import write_dataset
from tests.support.disks import small_disk
from tests.support.training import kill_after, losses, make_settings
from twinstream.errors import InputError
from twinstream.shards.format.manifest import manifest_bytes, read_manifest
from twinstream.train import fit
from twinstream.train.checkpoint import load_checkpoint, load_resumable
from twinstream.train.choices import BOTH
from twinstream.train.data.feed import Feed
from twinstream.train.fit import train
from twinstream.train.network.weight_files import read_state
from twinstream.train.ranks import Ranks
from twinstream.train.run_folder import read_run_settings
from twinstream.train.score.evaluate import score_run
from twinstream.train.score.predictions import read_predictions
from twinstream.train.trained import load_network


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", {"train": 3, "test": 2})


def counted_from(first_epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs are counted from this one on: a later stage's order and augmentation."""
    batches, seed = Feed.batches, fit.step_seed

    def shifted(feed: Feed, epoch: int, step: int, ranks: Ranks) -> Any:
        return batches(feed, epoch + first_epoch, step, ranks)

    monkeypatch.setattr(Feed, "batches", shifted)
    monkeypatch.setattr(
        fit, "step_seed", lambda number, epoch, *rest: seed(number, epoch + first_epoch, *rest)
    )


@pytest.fixture(scope="module")
def three_stages(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "three"
    train(make_settings(dataset, "train.stages=[iter1,iter2,iter3]"), run, resume=False)
    return run


@pytest.mark.parametrize(
    ("stage", "before", "epochs"), [("iter2", "iter1", 2), ("iter3", "iter2", 4)]
)
def test_a_run_that_goes_on_from_checkpoints_has_the_losses_of_one_run_through_all_stages(
    dataset: Path,
    three_stages: Path,
    tmp_path: Path,
    stage: str,
    before: str,
    epochs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted_from(epochs, monkeypatch)
    weights = [f"model.{name}_weights={three_stages}/{before}.safetensors" for name in BOTH]
    train(make_settings(dataset, f"train.stages=[{stage}]", *weights), tmp_path, resume=False)
    expected = [line for line in losses(three_stages) if line[0] == stage]
    assert losses(tmp_path) == expected
    one, other = (load_checkpoint(run / f"{stage}.safetensors") for run in (tmp_path, three_stages))
    assert (one.attending, one.trained) == (other.attending, other.trained) == (BOTH, BOTH)
    assert all(torch.equal(one.model[name], other.model[name]) for name in one.model)


def test_attention_acts_in_the_test_and_in_predictions_as_in_training(
    dataset: Path, three_stages: Path, tmp_path: Path
) -> None:
    """A run that began with trained attention in RGB and trains flow only, scored by RGB."""
    weights = [f"model.{name}_weights={three_stages}/iter1.safetensors" for name in BOTH]
    train(make_settings(dataset, "train.stages=[iter2]", *weights), tmp_path / "run", resume=False)
    test = make_settings(dataset).test
    score_run(tmp_path / "run", test)
    found = read_predictions(tmp_path / "run" / "predictions.parquet").scores
    score_run(three_stages, test, stage="iter2")
    assert found.keys() == {"rgb", "flow"}
    assert load_network(tmp_path / "run").attending == BOTH
    # RGB stayed as iter1 left it, and its scores read the flow branch as it is now.
    assert load_network(three_stages, "iter1").attending == ("rgb",)


@pytest.mark.parametrize("kind", ["two_stream", "nonlocal"])
def test_a_checkpoint_with_attention_does_not_begin_a_model_without(
    dataset: Path, three_stages: Path, tmp_path: Path, kind: str
) -> None:
    settings = make_settings(
        dataset,
        f"model.kind={kind}",
        "train.stages=[rgb]",
        f"model.rgb_weights={three_stages}/iter1.safetensors",
    )
    with pytest.raises(
        InputError, match=r"iter1\.safetensors: has trained attention .* no place here"
    ):
        train(settings, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def with_classes(dataset: Path, folder: Path, classes: tuple[str, ...]) -> Path:
    """The same shards, their labels standing for other classes."""
    shutil.copytree(dataset, folder)
    manifest = read_manifest(folder).model_copy(update={"classes": classes})
    (folder / "dataset.json").write_bytes(manifest_bytes(manifest))
    return folder


def test_a_classifier_follows_the_names_of_the_shards_classes(
    dataset: Path, three_stages: Path, tmp_path: Path
) -> None:
    other = with_classes(dataset, tmp_path / "data", ("right", "left"))
    weights = f"model.flow_weights={three_stages}/iter2.safetensors"
    settings = make_settings(other, "train.stages=[iter1]", weights, "train.learning_rate=1e-9")
    train(settings, tmp_path / "run", resume=False)
    there = load_checkpoint(three_stages / "iter2.safetensors").model["flow.fc.weight"]
    here = load_checkpoint(tmp_path / "run" / "iter1.safetensors").model["flow.fc.weight"]
    assert torch.equal(here, there[[1, 0]])
    assert score_run(tmp_path / "run", settings.test)["scores"].keys() >= {"rgb", "flow"}


def test_a_test_matches_the_classes_of_other_shards_by_name(
    dataset: Path, three_stages: Path, tmp_path: Path
) -> None:
    other = with_classes(dataset, tmp_path / "data", ("right", "left"))
    test = make_settings(dataset).test
    score_run(three_stages, test, out=tmp_path / "a")
    score_run(three_stages, test, str(other), out=tmp_path / "b")
    one, two = (read_predictions(tmp_path / name / "predictions.parquet") for name in "ab")
    assert one.labels.tolist() == (1 - two.labels).tolist()
    assert one.about["classes"] == two.about["classes"] == ["left", "right"]


def test_a_branch_without_a_trained_classifier_is_not_scored(
    dataset: Path, three_stages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = with_classes(dataset, tmp_path / "data", ("right", "up"))
    weights = f"model.flow_weights={three_stages}/iter2.safetensors"
    train(make_settings(other, "train.stages=[iter1]", weights), tmp_path / "run", resume=False)
    assert "classifier of 1 of 2 classes" in capsys.readouterr().err
    assert [*score_run(tmp_path / "run", make_settings(other).test)["scores"]] == ["rgb"]
    assert load_network(tmp_path / "run").outputs == ("rgb",)


def test_what_iter1_reads_and_nothing_trained_is_told(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plain file of a network that was trained on RGB is no trained flow branch either."""
    torch.save(models.resnet18(weights=None, num_classes=2).state_dict(), tmp_path / "rgb.pth")
    weights = f"model.flow_weights={tmp_path}/rgb.pth"
    settings = make_settings(dataset, "train.stages=[iter1]", "train.epochs=1", weights)
    train(settings, tmp_path / "run", resume=False)
    told = capsys.readouterr().err
    assert "rgb.pth, first convolution from RGB, classifier new, the file names no classes" in told
    assert "iter1: attends to the flow branch, which nothing has trained; put stage flow" in told
    assert [*score_run(tmp_path / "run", settings.test)["scores"]] == ["rgb"]


def test_a_stream_without_the_table_of_videos_trains(dataset: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(dataset, tmp_path / "bare")
    (bare / "videos.parquet").unlink()
    for index in bare.rglob("*.parquet"):
        index.unlink()
    stream = ("train.loader=stream", "train.shuffle_window=1", "train.stages=[flow]")
    train(make_settings(bare, *stream), tmp_path / "run", resume=False)
    assert load_checkpoint(tmp_path / "run" / "flow.safetensors").trained_on is None
    # Of what is not known to be otherwise nothing is said.
    assert score_run(tmp_path / "run", make_settings(bare).test, str(dataset))["trained_on"] == 0


def test_a_run_that_left_trained_attention_out_does_not_go_on(
    dataset: Path, three_stages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As versions made it that trained [iter2] from both branches of iter1.safetensors."""
    weights = [f"model.{name}_weights={three_stages}/iter1.safetensors" for name in BOTH]
    settings = make_settings(dataset, "train.stages=[iter2]", *weights)
    train(settings, tmp_path / "run", resume=False)
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    torch.save(state | {"attending": ["flow"]}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(InputError, match="was begun with trained attention of the rgb branch"):
        train(settings, tmp_path / "run", resume=True)
    capsys.readouterr()
    score_run(tmp_path / "run", settings.test)
    assert "the rgb branch's attention was left out; it acts here" in capsys.readouterr().err


def stopped_after(steps: int, run: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of two stages of four steps each, killed in the step behind so many."""
    kill_after(steps, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(make_settings(dataset, "train.checkpoint_steps=1"), run, resume=False)
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("steps", "stage", "progress"),
    [
        (1, "flow", "epoch 1 of 2, step 1"),
        (2, "flow", "epoch 2 of 2, step 0"),
        (4, "flow", ""),
        (5, "iter1", "epoch 1 of 2, step 1"),
    ],
)
def test_the_test_says_how_far_a_stage_got(
    dataset: Path,
    tmp_path: Path,
    steps: int,
    stage: str,
    progress: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped_after(steps, tmp_path, dataset, monkeypatch)
    metrics = score_run(tmp_path, make_settings(dataset).test)
    assert (metrics["stage"], metrics["progress"]) == (stage, progress)
    assert metrics["finished"] is (progress == "")
    suffix = "-flow" if stage == "flow" else ""
    about = read_predictions(tmp_path / f"predictions{suffix}.parquet").about
    assert (about["finished"], about["progress"]) == (metrics["finished"], progress)


def test_a_run_that_has_done_nothing_is_not_scored(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after(0, tmp_path, dataset, monkeypatch)
    with pytest.raises(InputError, match="nothing is trained yet"):
        score_run(tmp_path, make_settings(dataset).test)


def test_videos_that_were_trained_on_are_counted(
    dataset: Path, three_stages: Path, tmp_path: Path
) -> None:
    test = make_settings(dataset).test
    assert score_run(three_stages, test)["trained_on"] == 0
    seen = test.model_copy(update={"split": "train"})
    assert score_run(three_stages, seen, out=tmp_path / "seen")["trained_on"] == 3
    # Weights take the knowledge along: trained on the test split, gone on with on the other.
    leaked = make_settings(dataset, "train.split=test", "train.stages=[flow]")
    train(leaked, tmp_path / "leaked", resume=False)
    weights = f"model.flow_weights={tmp_path}/leaked/flow.safetensors"
    train(make_settings(dataset, "train.stages=[iter1]", weights), tmp_path / "run", resume=False)
    assert score_run(tmp_path / "run", test)["trained_on"] == 2


def test_predictions_name_the_dataset_and_replacing_those_of_another_is_told(
    dataset: Path, three_stages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_dataset(tmp_path / "other", {"train": 1, "test": 3})
    test = make_settings(dataset).test
    score_run(three_stages, test)
    capsys.readouterr()
    score_run(three_stages, test, str(other))
    told = f"iter3, split test of {dataset}; another --out keeps both"
    assert told in capsys.readouterr().err
    about = read_predictions(three_stages / "predictions.parquet").about
    assert about["dataset"] == str(other)
    score_run(three_stages, test, out=tmp_path / "out")
    assert read_predictions(tmp_path / "out" / "predictions.parquet").about["dataset"] == str(
        dataset
    )
    assert read_predictions(three_stages / "predictions.parquet").about == about


def test_results_that_cannot_be_written_are_told_before_anything_is_scored(
    dataset: Path, three_stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(*arguments: Any, **options: Any) -> None:
        raise AssertionError("scored in vain")

    monkeypatch.setattr("twinstream.train.score.evaluate.score_videos", scored)
    (tmp_path / "file").write_text("")
    test = make_settings(dataset).test
    with pytest.raises(InputError, match=r"--out .*file/out: cannot be written to \(Not a "):
        score_run(three_stages, test, out=tmp_path / "file" / "out")
    with small_disk(tmp_path / "disk", 2**20) as disk:
        shutil.copy(three_stages / "settings.yaml", disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(
            InputError, match=r"disk: cannot be written to .* another folder: --out"
        ):
            score_run(disk, test)


def stop(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def test_a_run_goes_on_after_its_dataset_and_weights_have_moved(
    dataset: Path, three_stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, weights = tmp_path / "before", tmp_path / "weights.safetensors"
    shutil.copytree(dataset, before)
    shutil.copy(three_stages / "iter2.safetensors", weights)
    overrides = ["train.stages=[iter1]", "train.checkpoint_steps=1"]
    start = make_settings(before, *overrides, f"model.flow_weights={weights}")
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(fit, "add_gradients", stop)
        with pytest.raises(KeyboardInterrupt):
            train(start, run, resume=False)
    weights.unlink()
    before.rename(tmp_path / "after")
    with pytest.raises(InputError, match=r"before: no dataset\.json, .* --set shards\.path=PATH$"):
        train(start, run, resume=True)
    other = make_settings(tmp_path / "after", *overrides, "model.flow_weights=x.pt")
    with pytest.raises(
        InputError, match=r"was begun with model\.flow_weights = .*s\.safetensors, not"
    ):
        train(other, run, resume=True)
    # The weights that were loaded at the start are not asked for again; nor what is not set.
    there = make_settings(tmp_path / "after", *overrides, f"model.flow_weights={weights}")
    train(there, run, resume=True)
    assert read_run_settings(run).shards.path == str(tmp_path / "after")
    score_run(run, start.test)


def test_weights_that_moved_are_known_by_their_content(
    dataset: Path, three_stages: Path, tmp_path: Path
) -> None:
    shutil.copy(three_stages / "iter2.safetensors", tmp_path / "a.safetensors")
    stages = "train.stages=[iter1]"
    begun = make_settings(dataset, stages, f"model.flow_weights={tmp_path}/a.safetensors")
    train(begun, tmp_path / "run", resume=False)
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    same = make_settings(dataset, stages, f"model.flow_weights={tmp_path}/b.safetensors")
    train(same, tmp_path / "run", resume=True)
    assert read_run_settings(tmp_path / "run").model.flow_weights == f"{tmp_path}/b.safetensors"
    shutil.copy(three_stages / "iter1.safetensors", tmp_path / "c.safetensors")
    other = make_settings(dataset, stages, f"model.flow_weights={tmp_path}/c.safetensors")
    with pytest.raises(InputError, match=r"was begun with model\.flow_weights"):
        train(other, tmp_path / "run", resume=True)


def test_the_test_of_a_run_whose_dataset_moved_names_the_option(
    dataset: Path, tmp_path: Path, three_stages: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(three_stages, run)
    tree = yaml.safe_load((run / "settings.yaml").read_text())
    tree["shards"]["path"] = str(tmp_path / "gone")
    (run / "settings.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(InputError, match=r"gone: no dataset\.json, .* --shards PATH$"):
        score_run(run, make_settings(dataset).test)
    assert score_run(run, make_settings(dataset).test, str(dataset))["num_videos"] == 2


@pytest.mark.parametrize("split", ["train.split=tran", "test.split=tset"])
def test_a_split_that_is_not_there_is_told_before_the_first_step(
    dataset: Path, tmp_path: Path, split: str
) -> None:
    with pytest.raises(InputError, match=r"no split 't\w+'; it has test, train"):
        train(make_settings(dataset, split), tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_a_setting_goes_on_as_it_began(
    dataset: Path, three_stages: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(three_stages, run)
    tree = yaml.safe_load((run / "settings.yaml").read_text())
    del tree["train"]["gradient_through_frozen"]
    (run / "settings.yaml").write_text(yaml.safe_dump(tree))
    assert read_run_settings(run).train.gradient_through_frozen is False
    stages = "train.stages=[iter1,iter2,iter3]"
    train(make_settings(dataset, stages), run, resume=True)
    with pytest.raises(InputError, match=r"begun with train\.gradient_through_frozen = False"):
        train(
            make_settings(dataset, stages, "train.gradient_through_frozen=true"), run, resume=True
        )


def test_a_checkpoint_that_does_not_say_what_was_trained_is_read_by_its_weights(
    dataset: Path, three_stages: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(three_stages, run)
    for name in ("checkpoint.pt", "iter1.safetensors", "iter2.safetensors"):
        state = read_state(run / name)
        (run / name).unlink()
        for key in ("trained", "made_with", "trained_on"):
            del state[key]
        torch.save(state, (run / name).with_suffix(".pt"))
    test = make_settings(dataset).test
    assert {*score_run(run, test)["scores"]} >= {"rgb", "flow"}
    assert [*score_run(run, test, stage="iter1")["scores"]] == ["rgb"]
    assert score_run(run, test.model_copy(update={"split": "train"}))["trained_on"] == 3


def test_a_start_records_the_weights_that_it_loaded(three_stages: Path) -> None:
    (line,) = (three_stages / "starts.jsonl").read_text().splitlines()
    assert json.loads(line)["weights"] == {}
    assert load_resumable(three_stages / "checkpoint.pt")[0].trained == BOTH
