"""Classes straight from a video: the scores of the test, and a line for what cannot be used."""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import twinstream as ts
from tests.support.command import run
from tests.support.runs import write_run
from tests.support.videos import write_sound
from twinstream.errors import InputError
from twinstream.predictor import Predictor, ranking
from twinstream.preprocess.settings import (
    DatasetSettings,
    PreprocessSettings,
    byte_settings,
    made_settings,
)
from twinstream.section import build_settings
from twinstream.shards.format.manifest import FILE_NAME, FLOW_DEFINITION, Manifest, manifest_bytes
from twinstream.shards.settings import ShardSettings
from twinstream.shards.storage.location import file_sha256
from twinstream.train.choices import iteration
from twinstream.train.ranks import Ranks
from twinstream.train.run_folder import (
    RunSettings,
    keep_manifest,
    read_run_manifest,
    read_run_settings,
)
from twinstream.train.score.evaluate import score_run
from twinstream.train.score.metrics import fusion_weights
from twinstream.train.score.predictions import read_predictions
from twinstream.train.session import begin_training, open_session


@pytest.fixture
def run_folder(preprocessed: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(preprocessed / "runs" / "cma", tmp_path / "run"))


@pytest.mark.parametrize(
    ("segments", "crops", "train_flip", "flip", "views"),
    [
        (2, 1, True, None, 1),
        (3, 10, True, None, 10),
        (3, 10, False, None, 5),
        (2, 10, True, False, 5),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_scores_are_those_of_the_test_to_the_bit(
    split: str,
    segments: int,
    crops: int,
    train_flip: bool,
    flip: bool | None,
    views: int,
    preprocessed: Path,
    run_folder: Path,
) -> None:
    path = run_folder / "settings.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["train"]["flip"] = train_flip
    path.write_text(yaml.safe_dump(tree))
    given = {"split": split, "segments": segments, "crops": crops, "flip": flip}
    # A batch a video, as prediction has it: sums within a batch depend on its size.
    test = read_run_settings(run_folder).test.model_copy(
        update=given | {"batch_views": segments * views}
    )
    score_run(run_folder, test)
    expected = read_predictions(run_folder / "predictions.parquet")
    predictor = Predictor(run_folder, segments=segments, crops=crops, flip=flip)
    assert len(expected.keys) == {"train": 4, "test": 1}[split]
    for number, key in enumerate(expected.keys):
        scores, _ = predictor.scores(preprocessed / "videos" / f"{key}.avi")
        assert scores.keys() == expected.scores.keys() == {"rgb", "flow"}
        for name, values in scores.items():
            np.testing.assert_array_equal(values[0], expected.scores[name][number])


def test_scores_of_clips_are_those_of_the_test_to_the_bit(
    preprocessed: Path, tmp_path: Path
) -> None:
    dataset = ts.open_shards(preprocessed / "out" / "shards")
    write_run(
        tmp_path,
        Path(str(dataset.path)),
        classes=dataset.classes,
        bound=dataset.codec.bound,
        **{"family": "p3d", "depth": 14, "clip_length": 4, "clip_stride": 2},
    )
    keep_manifest(tmp_path, dataset.manifest)
    test = read_run_settings(tmp_path).test.model_copy(update={"batch_views": 2, "scale": 0.7})
    score_run(tmp_path, test)
    expected = read_predictions(tmp_path / "predictions.parquet")
    assert (expected.about["clip_length"], expected.about["clip_stride"]) == (4, 2)
    video = preprocessed / "videos" / f"{expected.keys[0]}.avi"
    with pytest.raises(InputError, match="too_short: 3 of at least 8 frames"):
        ts.predict(preprocessed / "short.mp4", tmp_path)
    plain, _ = Predictor(tmp_path).scores(video)
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"test": test.model_dump()}))
    scores, _ = Predictor(tmp_path).scores(video)
    assert scores.keys() == {"rgb", "flow"}
    for name, values in scores.items():
        np.testing.assert_array_equal(values, expected.scores[name])
        # At 7/8 the network sees more.
        assert not np.array_equal(values, plain[name])


@pytest.mark.parametrize("scale_motion", [False, True])
def test_motion_is_that_of_the_run_in_predictions_too(
    scale_motion: bool, preprocessed: Path, run_folder: Path
) -> None:
    path = run_folder / "settings.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["train"]["scale_motion"] = scale_motion
    path.write_text(yaml.safe_dump(tree))
    score_run(run_folder, read_run_settings(run_folder).test)
    expected = read_predictions(run_folder / "predictions.parquet")
    scores, _ = Predictor(run_folder).scores(preprocessed / "videos" / f"{expected.keys[0]}.avi")
    np.testing.assert_array_equal(scores["flow"], expected.scores["flow"])
    other = Predictor(preprocessed / "runs" / "cma").network.settings.train.scale_motion
    plain, _ = Predictor(preprocessed / "runs" / "cma").scores(
        preprocessed / "videos" / f"{expected.keys[0]}.avi"
    )
    assert np.array_equal(plain["flow"], scores["flow"]) == (other == scale_motion)


def test_a_prediction_ranks_each_branch_and_their_weighted_mean(preprocessed: Path) -> None:
    folder = preprocessed / "runs" / "cma"
    video = preprocessed / "video.mp4"
    found = ts.predict(video, folder)
    scores, num_frames = Predictor(folder).scores(video)
    assert (found.video, found.num_frames, found.fused_weights) == (str(video), 17, (5, 1))
    assert num_frames == 17
    weighed = {
        "rgb": scores["rgb"][0],
        "flow": scores["flow"][0],
        "fused": (5 * scores["rgb"][0] + scores["flow"][0]) / 6,
    }
    for name, values in weighed.items():
        best: list[tuple[str, float]] = getattr(found, name)
        softmax = np.exp(values.astype(float)) / np.exp(values.astype(float)).sum()
        assert [shown for _, shown in best] == pytest.approx(sorted(softmax, reverse=True))
        assert best[0][0] == ("Run", "Walk")[int(values.argmax())]
    assert ts.predict([video, video], folder) == [found, found]


def test_a_branch_that_is_not_trained_is_none(preprocessed: Path) -> None:
    found = ts.predict(preprocessed / "video.mp4", preprocessed / "runs" / "cma", stage="flow")
    assert found.rgb is None
    assert found.fused is None
    assert found.flow is not None
    assert len(found.flow) == 2


def test_a_ranking_adds_up_to_one_and_large_scores_do_not_overflow() -> None:
    best = ranking(np.array([1e4, 1e4, 0], np.float32), ["a", "b", "c"], 3)
    assert best == [("a", 0.5), ("b", 0.5), ("c", 0.0)]
    assert ranking(np.array([0.0, math.log(3)], np.float32), ["a", "b"], 1) == [
        ("b", pytest.approx(0.75))
    ]


@pytest.mark.parametrize(
    ("stage", "weights"),
    [("flow", (1, 1)), ("rgb", (1, 1)), ("iter1", (5, 1)), ("iter2", (1, 5)), ("iter3", (5, 1))],
)
def test_fusion_weights_follow_the_stage(stage: str, weights: tuple[float, float]) -> None:
    assert fusion_weights(iteration(stage)) == weights


def test_a_run_predicts_when_its_dataset_is_gone(preprocessed: Path, tmp_path: Path) -> None:
    manifest = ts.open_shards(preprocessed / "out" / "shards").manifest
    folder = tmp_path / "run"
    sha256 = file_sha256(preprocessed / "out" / "shards" / FILE_NAME)
    gone = tmp_path / "gone"
    write_run(folder, gone, classes=["Run", "Walk"], bound=10.0, dataset_sha256=sha256)
    with pytest.raises(InputError, match=r"keeps no dataset\.json, .* no longer at .*gone; copy"):
        Predictor(folder)
    (folder / "dataset.json").write_bytes(manifest_bytes(manifest))
    assert Predictor(folder)(preprocessed / "video.mp4").num_frames == 17


def test_an_older_run_asks_its_dataset_and_only_that_one(
    preprocessed: Path, run_folder: Path
) -> None:
    kept = read_run_manifest(run_folder, read_run_settings(run_folder))
    (run_folder / "dataset.json").unlink()
    assert read_run_manifest(run_folder, read_run_settings(run_folder)) == kept
    Predictor(run_folder)
    write_run(
        run_folder,
        preprocessed / "out" / "shards",
        classes=["Run", "Walk"],
        bound=10.0,
        dataset_sha256="0" * 64,
    )
    with pytest.raises(InputError, match="was trained on another dataset than the one that is now"):
        Predictor(run_folder)


def test_training_keeps_the_manifest_of_its_dataset(dataset: Path, tmp_path: Path) -> None:
    tree = {
        "shards": {"path": str(dataset)},
        "model": {"kind": "flow", "depth": 18, "flow_weights": None},
        "train": {"stages": ["flow"], "crop_size": 40, "device": "cpu"},
    }
    session = open_session(build_settings(RunSettings, tree), tmp_path / "run", Ranks())
    begin_training(session)
    assert (tmp_path / "run" / "dataset.json").read_bytes() == (
        dataset / "dataset.json"
    ).read_bytes()


def test_a_dataset_that_does_not_say_how_it_was_made_is_told(dataset: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "run", dataset)
    with pytest.raises(
        InputError, match=r"run: dataset\.json: has no preprocess\.engine, so it is"
    ):
        Predictor(tmp_path / "run")


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"size": (64, 48), "bound": 5.0, "tvl1": {"lambda": 0.3, "median": 5}},
        {"short_side": 40, "max_pixels": None, "max_frames": 50, "too_long": "cut"},
        {"max_frames": 9, "min_frames": 3, "engine": "opencv"},
        {"on_damage": "keep"},
    ],
)
def test_how_a_dataset_was_made_is_read_back_from_its_manifest(section: dict[str, Any]) -> None:
    settings = PreprocessSettings.model_validate({"engine": "numba"} | section)
    made_with = byte_settings(DatasetSettings(), settings, ShardSettings(), settings.engine)
    stored = json.loads(json.dumps(made_with))
    assert made_settings(stored, "dataset.json") == settings
    # What is this machine's, and in no manifest of ours
    more = {"preprocess.chunk_frames": 10**9, "preprocess.threads": 10**6}
    assert made_settings(stored | more, "dataset.json") == settings


def write_run_of(
    dataset: Path, run_folder: Path, manifest: Manifest, settings: Mapping[str, Any]
) -> None:
    """A run of the dataset as if it had been made with these settings."""
    data = manifest_bytes(manifest.model_copy(update={"settings": settings}))
    digest = hashlib.sha256(data).hexdigest()
    write_run(run_folder, dataset, classes=["Run", "Walk"], bound=10.0, dataset_sha256=digest)
    (run_folder / "dataset.json").write_bytes(data)


def test_flow_of_an_older_definition_than_the_videos_is_told(
    preprocessed: Path, run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Predictor(run_folder)
    assert not caplog.records
    manifest = read_run_manifest(run_folder, read_run_settings(run_folder))
    settings = {k: v for k, v in manifest.settings.items() if k != FLOW_DEFINITION}
    made_settings(settings, "dataset.json")
    write_run_of(preprocessed / "out" / "shards", run_folder, manifest, settings)
    Predictor(run_folder)
    assert "trained on flow of definition 1, that of new videos is of 2" in caplog.text


def test_another_engine_is_taken_only_when_it_is_named(
    preprocessed: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    manifest = read_run_manifest(run_folder, read_run_settings(run_folder))
    changed = manifest.settings | {"preprocess.engine": "cuda"}
    write_run_of(preprocessed / "out" / "shards", run_folder, manifest, changed)
    with pytest.raises(
        InputError, match=r"flow of engine cuda, which is not here .*--engine numba"
    ):
        Predictor(run_folder)
    named = Predictor(run_folder, engine="numba")(preprocessed / "video.mp4")
    assert named == ts.predict(preprocessed / "video.mp4", preprocessed / "runs" / "cma")
    with pytest.raises(InputError, match="no engine is called 'fast'"):
        Predictor(run_folder, engine="fast")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segments": 0}, "predict: segments: .* not 0"),
        ({"crops": 3}, "predict: crops: .* not 3"),
        ({"flip": True}, "of 1 crops none is a mirror"),
        ({"stage": "iter9"}, "no stage iter9"),
        ({"top": 0}, "top is 0, expected at least 1"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(
    options: dict[str, Any], message: str, preprocessed: Path
) -> None:
    with pytest.raises(InputError, match=message) as shown_text:
        ts.predict(preprocessed / "video.mp4", preprocessed / "runs" / "cma", **options)
    assert "\n" not in str(shown_text.value)


def test_the_command_goes_on_behind_videos_that_it_cannot_use(
    preprocessed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_sound(tmp_path / "sound.mp3")
    monkeypatch.chdir(preprocessed)
    bad = ["absent.mp4", "videos", "short.mp4", "videos/broken.avi", str(tmp_path / "sound.mp3")]
    good = ["video.mp4", "videos/Run/v_Run_g01_c01.avi"]
    assert run(monkeypatch, "predict", "runs/cma", good[0], *bad, good[1]) == 1
    shown_text = capsys.readouterr()
    assert shown_text.err.splitlines() == [
        "twinstream: absent.mp4: missing: no such file",
        "twinstream: videos: unreadable: Is a directory",
        "twinstream: short.mp4: too_short: 3 of at least 6 frames",
        "twinstream: videos/broken.avi: unreadable: Invalid data found when processing input",
        f"twinstream: {bad[4]}: no_video_stream: only audio",
    ]
    lines = shown_text.out.splitlines()
    assert [lines[0], lines[4]] == good
    assert [line.split()[0] for line in lines] == [
        *(good[0], "rgb", "flow", "fused"),
        *(good[1], "rgb", "flow", "fused"),
    ]
    assert lines[3].startswith(" fused 5:1  ")
    assert lines[3].count("%") == 2


def test_the_command_prints_a_line_of_json_for_each_video(
    preprocessed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(preprocessed)
    videos = ["video.mp4", "videos/Run/v_Run_g01_c01.avi"]
    options = ["--json", "--top", "1", "--segments", "3", "--crops", "10", "--no-flip"]
    assert run(monkeypatch, "predict", "runs/cma", *videos, *options) == 0
    shown_text = capsys.readouterr()
    assert shown_text.err == ""
    printed = [json.loads(line) for line in shown_text.out.splitlines()]
    found = ts.predict(videos, "runs/cma", top=1, segments=3, crops=10, flip=False)
    assert found == ts.predict(videos, "runs/cma", top=1, segments=3, crops=5)
    for line, prediction in zip(printed, found, strict=True):
        assert line["video"] == prediction.video
        assert prediction.fused is not None
        assert line["fused"] == [list(prediction.fused[0])]
        assert line["fused_weights"] == [5, 1]


def test_a_run_that_is_not_finished_is_one_line(
    preprocessed: Path,
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (run_folder / "checkpoint.pt").unlink()
    video = str(preprocessed / "video.mp4")
    for folder, line in (
        (run_folder, f"{run_folder / 'checkpoint.pt'}: cannot be read: No such file or directory"),
        (preprocessed, f"{preprocessed}: no settings.yaml, so this is not the folder of a run"),
    ):
        assert run(monkeypatch, "predict", str(folder), video) == 1
        shown_text = capsys.readouterr()
        assert (shown_text.out, shown_text.err) == ("", f"twinstream: {line}\n")


def test_a_store_that_does_not_answer_costs_its_video_alone(
    preprocessed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    nowhere = "s3://bucket/x.mp4?endpoint_override=localhost:1&scheme=http&region=x"
    video = str(preprocessed / "video.mp4")
    assert run(monkeypatch, "predict", str(preprocessed / "runs" / "cma"), nowhere, video) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("twinstream: s3://")
    assert video in printed.out
