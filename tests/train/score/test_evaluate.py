"""Scoring a run: as it stands, as it was behind a stage, and only branches that have learned to
classify.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from tests.support.command import run
from tests.support.datasets import write_dataset
from tests.support.runs import write_run
from twinstream.errors import InputError
from twinstream.shards.format.manifest import manifest_bytes, read_manifest
from twinstream.shards.storage.location import file_sha256
from twinstream.shards.storage.lock import owned
from twinstream.train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    trained_branches,
)
from twinstream.train.choices import BranchName
from twinstream.train.run_folder import read_run_settings
from twinstream.train.score.evaluate import OWNER, score_run
from twinstream.train.score.predictions import read_predictions, write_predictions


def test_the_last_stage_and_an_earlier_one_have_files_of_their_own(
    dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    write_run(folder, dataset, stages=["flow", "iter1", "iter2"])
    test = read_run_settings(folder).test
    assert score_run(folder, test)["stage"] == "iter2"
    assert score_run(folder, test, stage="iter1")["stage"] == "iter1"
    assert score_run(folder, test, stage="flow")["scores"].keys() == {"flow"}
    last, first = (
        read_predictions(folder / f"predictions{suffix}.parquet") for suffix in ("", "-flow")
    )
    assert (last.about["stage"], first.about["stage"]) == ("iter2", "flow")
    assert (list(last.scores), list(first.scores)) == (["rgb", "flow"], ["flow"])
    assert (folder / "metrics-iter1.json").exists()
    # The same weights here, but behind `flow` no block acts.
    assert not np.array_equal(last.scores["flow"], first.scores["flow"])


def test_videos_of_classes_that_the_network_lacks_are_refused_or_left_out(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    write_run(folder, dataset, classes=("right", "up", "down"), dataset_sha256="another")
    test = read_run_settings(folder).test
    with pytest.raises(InputError, match="--known-classes leaves their videos out"):
        score_run(folder, test)
    metrics = score_run(folder, test, known_classes=True)
    found = read_predictions(folder / "predictions.parquet")
    assert {key.split("/")[0] for key in found.keys} == {"right"}
    assert found.labels.tolist() == [0] * len(found.keys)
    line = "are left out, of classes that the network lacks: left"
    assert line in metrics["left_out"]
    assert line in capsys.readouterr().err


def test_a_dataset_of_a_single_clip_is_tested_with_the_labels_of_the_network(
    dataset: Path, tmp_path: Path
) -> None:
    folder, clip = tmp_path / "run", write_dataset(tmp_path / "clip", {"test": 1})
    write_run(folder, dataset, classes=("up", "left", "right"), dataset_sha256="another")
    score_run(folder, read_run_settings(folder).test, shards_path=str(clip))
    found = read_predictions(folder / "predictions.parquet")
    assert (found.keys, found.labels.tolist()) == (("left/test0",), [1])
    assert found.scores["rgb"].shape == (1, 3)


def test_predictions_say_what_they_are_of(dataset: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", dataset, "nonlocal", ["flow", "rgb"])
    score_run(tmp_path / "run", read_run_settings(tmp_path / "run").test)
    about = dict(read_predictions(tmp_path / "run" / "predictions.parquet").about)
    assert {*about.pop("weights_sha256")} == {"rgb", "flow"}
    assert about == {
        "run": str(tmp_path / "run"),
        "finished": True,
        "progress": "",
        "epochs": 30,
        "trainable": "all",
        "trained_on": 0,
        "dataset": str(dataset),
        "dataset_sha256": file_sha256(dataset / "dataset.json"),
        "split": "test",
        "list_sha256": None,
        "left_out": None,
        "segments": 2,
        "crops": 1,
        "flip": False,
        "scale": 0.875,
        "stage": "rgb",
        "kind": "nonlocal",
        "family": "resnet",
        "depth": 18,
        "clip_length": None,
        "clip_stride": None,
        "attention_at": "every_other",
        "classes": ["left", "right"],
        "dataset_kind": None,
    }


@pytest.mark.parametrize(
    ("biases", "trained", "branches"),
    [
        ({"rgb": 1.0, "flow": 1.0}, ("flow",), ("flow",)),
        ({"rgb": 0.0, "flow": 1.0}, None, ("flow",)),
        ({"rgb": 1.0, "flow": 1.0}, None, ("rgb", "flow")),
        ({"rgb": 1.0}, None, ("rgb",)),
        ({"flow": 0.0}, None, ()),
    ],
)
def test_a_branch_that_nothing_has_taught_to_classify_is_not_scored(
    biases: dict[str, float], trained: tuple[BranchName, ...] | None, branches: tuple[str, ...]
) -> None:
    """Checkpoints of before do not say; then the bias of the last layer does."""
    state = {f"{name}.fc.bias": torch.tensor([0, value]) for name, value in biases.items()}
    checkpoint = Checkpoint(state, ["a", "b"], 20.0, "", (), trained)
    assert trained_branches(checkpoint) == branches


def test_a_run_of_which_no_branch_can_classify_is_told(dataset: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", dataset)
    weights = tmp_path / "run" / "flow.safetensors"
    save_checkpoint(weights, replace(load_checkpoint(weights), trained=()))
    with pytest.raises(InputError, match="no branch has learned to classify at stage flow"):
        score_run(tmp_path / "run", read_run_settings(tmp_path / "run").test, stage="flow")


def test_scores_that_are_no_numbers_are_told_and_not_written(dataset: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", dataset)
    checkpoint = load_checkpoint(tmp_path / "run" / "flow.safetensors")
    checkpoint.model["flow.bn1.running_mean"][0] = float("nan")
    save_checkpoint(tmp_path / "run" / "flow.safetensors", checkpoint)
    with pytest.raises(InputError, match="flow scores of 2 of 2 videos are no numbers"):
        score_run(tmp_path / "run", read_run_settings(tmp_path / "run").test, stage="flow")
    assert not (tmp_path / "run" / "predictions-flow.parquet").exists()


def test_weights_of_another_network_in_a_run_are_told(dataset: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", dataset)
    write_run(tmp_path / "other", dataset, "two_stream", ["flow"])
    (tmp_path / "other" / "flow.safetensors").rename(tmp_path / "run" / "flow.safetensors")
    with pytest.raises(InputError, match="holds the weights of another network than the settings"):
        score_run(tmp_path / "run", read_run_settings(tmp_path / "run").test, stage="flow")


def test_results_do_not_go_into_the_folder_of_another_run(dataset: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", dataset)
    write_run(tmp_path / "other", dataset)
    test = read_run_settings(tmp_path / "run").test
    with pytest.raises(InputError, match=r"--out .*other: is the folder of another run"):
        score_run(tmp_path / "run", test, out=tmp_path / "other")
    score_run(tmp_path / "run", test, out=tmp_path / "run")


def test_a_second_test_of_a_run_waits_and_one_beside_its_training_does_not(
    dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    write_run(folder, dataset)
    test = read_run_settings(folder).test
    with owned(folder, "twinstream train"):
        score_run(folder, test)
    with (
        owned(folder, "twinstream test", name=OWNER),
        pytest.raises(InputError, match=r"run: in use by .*\(twinstream test\); wait for it or "),
    ):
        score_run(folder, test)


@pytest.mark.parametrize("damage", ["text", "nan"])
def test_a_damaged_file_of_predictions_is_replaced_and_told(
    dataset: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", dataset)
    test, path = read_run_settings(tmp_path / "run").test, tmp_path / "run" / "predictions.parquet"
    score_run(tmp_path / "run", test)
    found = read_predictions(path)
    if damage == "text":
        path.write_text("damaged")
    else:
        scores = {name: np.full_like(values, np.nan) for name, values in found.scores.items()}
        write_predictions(path, replace(found, scores=scores))
    capsys.readouterr()
    score_run(tmp_path / "run", test)
    assert ("cannot be read, and is replaced" in capsys.readouterr().err) is (damage == "text")
    assert np.array_equal(read_predictions(path).scores["rgb"], found.scores["rgb"])


def test_a_stage_that_is_not_there_is_told(dataset: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", dataset)
    test = read_run_settings(tmp_path / "run").test
    with pytest.raises(InputError, match="no stage iter3, it trains flow, iter1"):
        score_run(tmp_path / "run", test, stage="iter3")
    (tmp_path / "run" / "iter1.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"stage iter1 is not finished; there is no iter1\.safetensors"
    ):
        score_run(tmp_path / "run", test, stage="iter1")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bound": 10.0}, r"flow bound 10\.0, the network was trained on 20\.0"),
        ({"zero": 127.0}, r"flow codec with zero 127\.0 and 127 levels, training reads zero 128"),
    ],
)
def test_shards_of_another_codec_are_refused_in_a_line(
    changed: dict[str, float], message: str, dataset: Path, tmp_path: Path
) -> None:
    write_run(tmp_path / "run", dataset)
    manifest = read_manifest(dataset)
    codec = manifest.flow_codec.model_copy(update=changed)
    (dataset / "dataset.json").write_bytes(
        manifest_bytes(manifest.model_copy(update={"flow_codec": codec}))
    )
    with pytest.raises(InputError, match=message) as printed:
        score_run(tmp_path / "run", read_run_settings(tmp_path / "run").test)
    assert "\n" not in str(printed.value)


def test_the_command_scores_a_stage(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_run(tmp_path / "run", dataset)
    # As of a run whose last stage took more epochs than this one had.
    ends = [{"stage": "flow", "epoch": n, "train_accuracy": 0.5} for n in range(2)]
    lines = [{"stage": "flow", "epoch": 0, "step": 0, "loss": 1.0}, *ends]
    (tmp_path / "run" / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run(monkeypatch, "test", str(tmp_path / "run"), "--stage", "flow") == 0
    printed = capsys.readouterr()
    assert "2 videos of test, 2 segments x 1 crop\n" in printed.out
    assert "run: scoring 2 videos of test at stage flow on cpu\n" in printed.err
    assert read_predictions(tmp_path / "run" / "predictions-flow.parquet").about["epochs"] == 2
    assert json.loads((tmp_path / "run" / "metrics-flow.json").read_text())["stage"] == "flow"


def change_settings(folder: Path, section: str, **changes: object) -> None:
    """Into a run's settings.yaml; None takes a key out, as a version without it left it."""
    path = folder / "settings.yaml"
    tree = yaml.safe_load(path.read_text())
    tree[section] |= changes
    tree[section] = {key: v for key, v in tree[section].items() if changes.get(key, v) is not None}
    path.write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize(
    ("train_flip", "options", "crops", "printed"),
    [
        (True, (), 10, "10 crops, half of them mirrored"),
        (False, (), 5, "5 crops"),
        (False, ("--flip",), 10, "10 crops, half of them mirrored"),
        (True, ("--no-flip",), 5, "5 crops"),
        (True, ("--crops", "1"), 1, "1 crop"),
    ],
)
def test_views_are_mirrored_as_in_training_unless_told_otherwise(
    train_flip: bool,
    options: tuple[str, ...],
    crops: int,
    printed: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`settings.yaml` of older versions has no test.flip."""
    folder = tmp_path / "run"
    write_run(folder, dataset)
    change_settings(folder, "train", flip=train_flip)
    change_settings(folder, "test", crops=10, flip=None)
    assert "flip" not in yaml.safe_load((folder / "settings.yaml").read_text())["test"]
    assert run(monkeypatch, "test", str(folder), *options) == 0
    assert f"2 videos of test, 2 segments x {printed}\n" in capsys.readouterr().out
    metrics = json.loads((folder / "metrics.json").read_text())
    found = read_predictions(folder / "predictions.parquet")
    assert (metrics["crops"], metrics["flip"]) == (crops, crops == 10)
    assert (found.about["crops"], found.about["flip"]) == (crops, crops == 10)
    flip = "--flip" if crops == 10 else "--no-flip"
    assert run(monkeypatch, "test", str(folder), "--crops", str(crops), flip) == 0
    again = read_predictions(folder / "predictions.parquet")
    for name, values in found.scores.items():
        np.testing.assert_array_equal(values, again.scores[name])


def test_mirrors_that_no_crop_has_are_one_line(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_run(tmp_path / "run", dataset)
    assert run(monkeypatch, "test", str(tmp_path / "run"), "--flip") == 1
    assert capsys.readouterr().err == (
        "twinstream: test.flip: true, but of 1 crops none is a mirror; give --crops 10 or "
        "--no-flip\n"
    )


def test_a_run_is_scored_with_the_motion_that_it_was_trained_on(
    dataset: Path, tmp_path: Path
) -> None:
    """One from before the setting scaled it."""
    scores = {}
    for scale_motion in (False, True, None):
        folder = tmp_path / str(scale_motion)
        write_run(folder, dataset)
        change_settings(folder, "train", scale_motion=scale_motion)
        score_run(folder, read_run_settings(folder).test)
        scores[scale_motion] = read_predictions(folder / "predictions.parquet").scores["flow"]
    np.testing.assert_array_equal(scores[None], scores[True])
    assert not np.array_equal(scores[False], scores[True])


def test_the_digest_of_a_score_is_that_of_the_weights_it_depends_on(
    dataset: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    write_run(folder, dataset, stages=["flow", "iter1", "iter2"])
    test = read_run_settings(folder).test
    flow, iter1, iter2 = (
        score_run(folder, test, stage=name)["weights_sha256"] for name in ("flow", "iter1", "iter2")
    )
    # The same weights of flow, which has not read RGB before iter2.
    assert flow["flow"] == iter1["flow"] != iter2["flow"]
    assert iter1["rgb"] != iter2["rgb"]
    again = score_run(folder, test.model_copy(update={"batch_views": 1}), stage="iter1")
    assert again["weights_sha256"] == iter1


def test_too_little_room_for_predictions_is_told_before_anything_is_scored(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", dataset)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    monkeypatch.setattr("twinstream.train.score.evaluate.score_videos", None)
    with pytest.raises(InputError, match=r"predictions take 0\.0 MB, and 0\.0 MB are free"):
        score_run(tmp_path / "run", read_run_settings(tmp_path / "run").test)
