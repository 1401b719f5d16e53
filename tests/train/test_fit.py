"""The trainer: resuming changes nothing, frozen stays frozen, and what goes wrong is told."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.support.datasets import write_dataset
from tests.support.paths import ROOT
from tests.support.training import CLIPS, kill_after, losses, make_settings, settings_tree
from twinstream.errors import InputError
from twinstream.shards.storage.location import file_sha256
from twinstream.train import fit
from twinstream.train.checkpoint import Position, load_checkpoint, load_resumable
from twinstream.train.choices import ModelKind
from twinstream.train.fit import begin_stage, train
from twinstream.train.gradient import add_gradients
from twinstream.train.network.stages import Stage
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.network.weight_files import read_state
from twinstream.train.ranks import Ranks
from twinstream.train.run_folder import RunSettings, read_run_settings
from twinstream.train.run_log import TrainingLog, git_revision
from twinstream.train.score.evaluate import score_run
from twinstream.train.session import open_session, validation_split
from twinstream.train.settings import TrainSettings


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", {"train": 3, "test": 2})


@pytest.fixture(scope="module")
def whole_run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(make_settings(dataset), run, resume=False)
    return run


def train_until_killed(
    settings: RunSettings, out: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train anew, and stop as a kill would behind so many steps."""
    with monkeypatch.context() as patch:
        kill_after(steps, patch)
        with pytest.raises(KeyboardInterrupt):
            train(settings, out, resume=False)


@pytest.mark.parametrize(("steps", "every"), [(1, 500), (3, 500), (3, 1), (4, 500), (6, 1)])
def test_a_resumed_run_has_the_same_losses_and_weights(
    dataset: Path,
    tmp_path: Path,
    whole_run: Path,
    steps: int,
    every: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = make_settings(dataset, f"train.checkpoint_steps={every}")
    train_until_killed(settings, tmp_path / "part", steps, monkeypatch)
    train(make_settings(dataset, "train.workers=1"), tmp_path / "part", resume=True)
    assert losses(tmp_path / "part") == losses(whole_run)
    assert len(losses(whole_run)) == 8
    one, other = (
        load_checkpoint(run / "iter1.safetensors").model for run in (tmp_path / "part", whole_run)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["cma", "nonlocal", "cma_nonlocal"])
def test_attention_blocks_have_a_rate_of_their_own(kind: ModelKind) -> None:
    model = TwoBranch(kind, 18, 2)
    iter1 = Stage("rgb", "rgb", ()) if kind == "nonlocal" else Stage("iter1", "rgb", ("rgb",))
    optimizer, schedule = begin_stage(model, iter1, TrainSettings(attention_rate=30))
    assert len(begin_stage(model, iter1, TrainSettings())[0].param_groups) == 1

    def rates() -> dict[str, float]:
        rate_of = {
            each: group["lr"] for group in optimizer.param_groups for each in group["params"]
        }
        return {name: rate_of[each] for name, each in model.rgb.named_parameters()}

    def expected(rate: float) -> dict[str, float]:
        blocks = ("cma.", "non_local.")
        return {name: 30 * rate if name.startswith(blocks) else rate for name in rates()}

    assert rates() == pytest.approx(expected(0.01))
    for _ in range(2 + TrainSettings().plateau_patience):
        schedule.step(0)
    assert rates() == pytest.approx(expected(0.001))


def test_a_resumed_run_keeps_the_rates_of_attention_blocks(
    dataset: Path, tmp_path: Path, whole_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(dataset, "train.attention_rate=30", "train.checkpoint_steps=1")
    train(settings, tmp_path / "whole", resume=False)
    train_until_killed(settings, tmp_path / "part", 6, monkeypatch)
    train(settings, tmp_path / "part", resume=True)
    found = losses(tmp_path / "part")
    assert found == losses(tmp_path / "whole")
    # A branch by itself has none; the first step of a new block changes nothing but the second.
    assert found[:5] == losses(whole_run)[:5]
    assert found[5:] != losses(whole_run)[5:]


def test_a_stage_leaves_the_other_branch_as_it_was(whole_run: Path) -> None:
    before, after = (read_state(whole_run / f"{stage}.safetensors") for stage in ("flow", "iter1"))
    changed = {
        name.split(".")[0]
        for name in before["model"]
        if not torch.equal(before["model"][name], after["model"][name])
    }
    assert changed == {"rgb"}
    assert (before["attending"], after["attending"]) == ([], ["rgb"])


def test_a_finished_run_resumed_does_nothing(dataset: Path, whole_run: Path) -> None:
    before = (whole_run / "checkpoint.pt").read_bytes()
    train(make_settings(dataset), whole_run, resume=True)
    assert (whole_run / "checkpoint.pt").read_bytes() == before


def test_a_run_is_not_overwritten_and_not_mixed_with_other_settings(
    dataset: Path, whole_run: Path
) -> None:
    with pytest.raises(InputError, match="holds a run already; give --resume"):
        train(make_settings(dataset), whole_run, resume=False)
    with pytest.raises(InputError, match=r"was begun with train\.learning_rate = 0\.01, not 0\.1"):
        train(make_settings(dataset, "train.learning_rate=.1"), whole_run, resume=True)


def test_a_run_does_not_go_on_with_another_dataset(whole_run: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", {"train": 4, "test": 2})
    with pytest.raises(InputError, match="was trained on another dataset"):
        train(make_settings(other), whole_run, resume=True)


def test_settings_of_a_run_are_saved_resolved(dataset: Path, whole_run: Path) -> None:
    # There is no validation split, which null asks for.
    assert read_run_settings(whole_run) == make_settings(dataset, "train.validate_split=false")


def test_the_log_tells_data_time_apart_from_step_time(whole_run: Path) -> None:
    first = json.loads((whole_run / "log.jsonl").read_text().splitlines()[0])
    assert {"loss", "learning_rate", "data_ms", "step_ms"} <= first.keys()


def test_a_loss_that_is_nan_ends_the_run_and_names_the_step(dataset: Path, tmp_path: Path) -> None:
    settings = make_settings(dataset, "train.learning_rate=1e30")
    with pytest.raises(
        InputError,
        match=r"(the loss is NaN|weights are no longer finite) at stage flow, epoch \d, step \d",
    ):
        train(settings, tmp_path / "run", resume=False)


def test_weights_that_are_no_longer_finite_are_not_saved(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(model: TwoBranch, *arguments: Any, **options: Any) -> tuple[float, int]:
        found = add_gradients(model, *arguments, **options)
        # In the branch that is frozen: the loss does not show it.
        torch.nn.init.constant_(model.rgb.fc.bias, float("inf"))
        return found

    monkeypatch.setattr(fit, "add_gradients", overflowing)
    settings = make_settings(dataset)
    with pytest.raises(
        InputError,
        match=r"^weights are no longer finite at stage flow, epoch 2, step 1; .*/checkpoint\.pt is "
        r"from before it; try a lower train\.learning_rate$",
    ):
        train(settings, tmp_path / "run", resume=False)
    # That of the beginning.
    checkpoint, training = load_resumable(tmp_path / "run" / "checkpoint.pt")
    assert training.position == Position()
    assert all(bool(value.isfinite().all()) for value in checkpoint.model.values())


def test_a_loss_that_is_infinite_ends_the_run_and_names_the_last_checkpoint(
    dataset: Path, tmp_path: Path
) -> None:
    settings = make_settings(dataset, "train.learning_rate=1e30", "train.checkpoint_steps=1")
    with pytest.raises(
        InputError,
        match=r"^the loss is (inf|NaN) at stage flow, epoch 1, step 2; "
        r".*run/checkpoint\.pt is from before it",
    ):
        train(settings, tmp_path / "run", resume=False)
    checkpoint, training = load_resumable(tmp_path / "run" / "checkpoint.pt")
    assert training.position.step == 1
    assert all(bool(value.isfinite().all()) for value in checkpoint.model.values())


def test_checkpoints_are_plain_dicts_of_tensors_and_plain_values(
    whole_run: Path, tmp_path: Path
) -> None:
    weights = {"model", "classes", "bound", "dataset_sha256", "attending"}
    weights |= {"trained", "learned", "made_with", "trained_on", "lists", "network"}
    training = {"position", "optimizer", "schedule", "log_bytes"}
    stage, last = (read_state(whole_run / name) for name in ("flow.safetensors", "checkpoint.pt"))
    assert (stage.keys(), last.keys()) == (weights, weights | training)
    position = {"stage": 2, "epoch": 0, "step": 0, "seen": 0, "correct": 0}
    assert last["position"] == position | {"ended": (2, 2)}
    assert last["attending"] == ["rgb"]
    torch.save(
        last | {"position": {"stage": 1, "epoch": 0, "step": 1, "seen": 2, "correct": 1}},
        tmp_path / "checkpoint.pt",
    )
    checkpoint, found = load_resumable(tmp_path / "checkpoint.pt")
    assert found.position == Position(stage=1, step=1, seen=2, correct=1)
    assert (checkpoint.classes, checkpoint.attending) == (["left", "right"], ("rgb",))


def test_a_file_that_training_cannot_go_on_from_is_refused(whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"flow\.safetensors: holds the weights of a stage"):
        load_resumable(whole_run / "flow.safetensors")
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: not a checkpoint of twinstream"):
        load_checkpoint(tmp_path / "other.pt")


def test_every_start_is_recorded_with_versions_and_dataset(dataset: Path, whole_run: Path) -> None:
    first = json.loads((whole_run / "starts.jsonl").read_text().splitlines()[0])
    assert first["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert first["python"] == sys.version.split()[0]
    assert first["dataset"] == {
        "path": str(dataset),
        "sha256": file_sha256(dataset / "dataset.json"),
    }
    assert (first["device"], first["ranks"]) == ("cpu", 1)


def test_the_git_revision_is_that_of_the_code_and_none_outside_of_git(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert git_revision(tmp_path) is None
    git("init")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / ".gitignore").write_text("site-packages\n")
    git("add", "code.py", ".gitignore")
    git("commit", "-m", "a")
    assert git_revision(tmp_path) == git("rev-parse", "HEAD").strip()
    (tmp_path / "code.py").write_text("2")
    assert git_revision(tmp_path) == git("rev-parse", "HEAD").strip() + "-dirty"
    (tmp_path / "site-packages").mkdir()
    assert git_revision(tmp_path / "site-packages") is None


def test_tensorboard_shows_the_log_and_after_a_resume_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "log.jsonl").write_text("")
    log = TrainingLog(tmp_path, first_step=0, num_bytes=0)
    for step, loss in enumerate((3.0, 2.0, 9.0)):
        log.write({"stage": "flow", "step": step, "loss": loss}, step)
    log.close()
    log = TrainingLog(tmp_path, first_step=2, num_bytes=0)
    log.write({"stage": "flow", "step": 2, "loss": 1.0}, 2)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("flow/loss")] == [
        (0, 3.0),
        (1, 2.0),
        (2, 1.0),
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.loader=stream", r"train\.loader: stream .* set train\.shuffle_window"),
        ("shards.path=/nowhere", "no dataset.json"),
        ("train.split=other", "no split 'other'"),
        ("train.validate_split=other", "no split 'other'"),
        ("model.flow_weights=/nowhere.pt", r"/nowhere\.pt"),
    ],
)
def test_bad_input_is_told_before_anything_is_trained(
    dataset: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(make_settings(dataset, override), tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_was_asked_for_and_is_not_there_is_told(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.device: cuda, but torch sees no GPU"):
        train(make_settings(dataset, "train.device=cuda"), tmp_path / "run", resume=False)


def test_the_test_writes_scores_of_both_branches_and_their_sums(
    dataset: Path, whole_run: Path
) -> None:
    import pyarrow.parquet as pq

    metrics = score_run(whole_run, make_settings(dataset).test)
    assert list(metrics["scores"]) == ["rgb", "flow", "fused 1:1", "fused 5:1", "fused 1:5"]
    assert (metrics["split"], metrics["num_videos"]) == ("test", 2)
    assert json.loads((whole_run / "metrics.json").read_text()) == metrics
    rows = pq.read_table(whole_run / "predictions.parquet").to_pylist()
    assert [(row["key"], row["branch"]) for row in rows] == [
        ("left/test0", "rgb"),
        ("right/test1", "rgb"),
        ("left/test0", "flow"),
        ("right/test1", "flow"),
    ]
    assert all(len(row["scores"]) == 2 for row in rows)


def test_shards_of_other_classes_are_refused_at_test(
    dataset: Path, whole_run: Path, tmp_path: Path
) -> None:
    from twinstream.shards.format.manifest import manifest_bytes, read_manifest

    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    manifest = read_manifest(other).model_copy(update={"classes": ("up", "down")})
    (other / "dataset.json").write_bytes(manifest_bytes(manifest))
    with pytest.raises(
        InputError,
        match=r"network's here: 2 classes are only there \(up, down\), 2 only here \(left, right\)",
    ):
        score_run(whole_run, make_settings(dataset).test, str(other))


def start_training(
    tmp_path: Path, dataset: Path, run: Path, *overrides: str
) -> subprocess.Popen[str]:
    """`python -m twinstream.train` with the settings of the other tests; under way on return."""
    config = tmp_path / "pipeline.yaml"
    config.write_text(yaml.safe_dump(settings_tree(dataset)))
    changes = [part for override in overrides for part in ("--set", override)]
    process = subprocess.Popen(
        [sys.executable, "-m", "twinstream.train", "-c", str(config), "--out", str(run), *changes],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    while not (run / "log.jsonl").exists() or not losses(run):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_a_resumed_run_is_the_same(
    dataset: Path, tmp_path: Path, whole_run: Path, number: int, code: int
) -> None:
    run = tmp_path / "stopped"
    process = start_training(tmp_path, dataset, run)
    process.send_signal(number)
    _, printed = process.communicate(timeout=240)
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    train(make_settings(dataset), run, resume=True)
    assert losses(run) == losses(whole_run)


def test_a_run_that_was_killed_in_mid_epoch_goes_on_bit_for_bit_with_other_workers(
    dataset: Path, tmp_path: Path, whole_run: Path
) -> None:
    run = tmp_path / "killed"
    process = start_training(tmp_path, dataset, run, "train.checkpoint_steps=1", "train.workers=1")
    # Held still to look where it stands: an epoch has two steps, and killed it shall be after the
    # first.
    while True:
        process.send_signal(signal.SIGSTOP)
        path = run / "checkpoint.pt"
        if path.exists() and load_resumable(path)[1].position.step == 1:
            break
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    train(make_settings(dataset, "train.workers=2"), run, resume=True)
    assert losses(run) == losses(whole_run)


def test_streaming_trains_the_same_network_as_the_index(dataset: Path, tmp_path: Path) -> None:
    runs = []
    for loader in ("index", "stream"):
        settings = make_settings(
            dataset, f"train.loader={loader}", "train.shuffle_window=1", "train.stages=[flow]"
        )
        train(settings, tmp_path / loader, resume=False)
        runs.append(losses(tmp_path / loader))
    assert runs[0] == runs[1]


def test_clips_give_the_same_network_streamed_and_resumed(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = (*CLIPS, "model.kind=rgb", "train.stages=[rgb]")
    common += ("train.epochs=1", "train.shuffle_window=1")
    index, stream = (
        make_settings(dataset, *common, more) for more in ("train.workers=1", "train.loader=stream")
    )
    train(index, tmp_path / "whole", resume=False)
    train_until_killed(stream, tmp_path / "part", 1, monkeypatch)
    train(stream, tmp_path / "part", resume=True)
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 2
    one, other = (load_checkpoint(tmp_path / run / "rgb.safetensors") for run in ("part", "whole"))
    assert all(torch.equal(one.model[name], other.model[name]) for name in one.model)
    metrics = score_run(tmp_path / "whole", read_run_settings(tmp_path / "whole").test)
    assert metrics["scores"].keys() == {"rgb"}


@pytest.mark.parametrize(
    ("setting", "splits", "split"),
    [
        (None, {"train", "val", "test"}, "val"),
        (None, {"train", "test"}, None),
        (None, set(), None),
        (False, {"val"}, None),
        ("val", {"val"}, "val"),
        ("test", {"val", "test"}, "test"),
        ("absent", {"val"}, "absent"),
    ],
)
def test_the_validation_split_decides_where_there_is_one_and_test_never_by_itself(
    setting: str | bool | None, splits: set[str], split: str | None
) -> None:
    assert validation_split(setting, splits) == split


@pytest.mark.parametrize("value", ["true", "3", "[val]"])
def test_a_validation_split_that_is_no_name_is_one_line(dataset: Path, value: str) -> None:
    with pytest.raises(
        InputError, match=r"train\.validate_split: expected the name of a split, false or null, not"
    ):
        make_settings(dataset, f"train.validate_split={value}")


@pytest.fixture(scope="module")
def with_val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "val", {"train": 3, "val": 2, "test": 1})


STREAMED = ["train.loader=stream", "train.shuffle_window=1"]


def epochs(run: Path) -> list[dict[str, Any]]:
    """The lines of the log at the ends of epochs."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "train_accuracy" in line]


@pytest.mark.parametrize(
    ("overrides", "stored", "validates"),
    [
        ([], "val", True),
        (["train.validate_split=false"], False, False),
        (["train.validate_split=test"], "test", True),
        (["train.split=val"], False, False),
        (STREAMED, False, False),
        ([*STREAMED, "train.validate_split=val"], "val", True),
    ],
)
def test_a_run_stores_what_decides_on_its_plateau_and_goes_on_by_it(
    overrides: list[str], stored: str | bool, validates: bool, with_val: Path, tmp_path: Path
) -> None:
    options = ["train.stages=[flow]", "train.epochs=1", *overrides]
    run = tmp_path / "run"
    train(make_settings(with_val, *options), run, resume=False)
    assert yaml.safe_load((run / "settings.yaml").read_text())["train"]["validate_split"] == stored
    assert ["validation_accuracy" in line for line in epochs(run)] == [validates]
    train(make_settings(with_val, *options), run, resume=True)
    other = make_settings(with_val, *options, "train.validate_split=train")
    with pytest.raises(InputError, match=rf"with train\.validate_split = {stored}, not train"):
        train(other, run, resume=True)


@pytest.mark.parametrize("setting", ["null", "false"])
def test_a_run_of_before_goes_on_by_its_training_accuracy_and_its_scaled_motion(
    setting: str, with_val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """settings.yaml had a null that meant the training accuracy, and no train.scale_motion."""
    options = ("train.stages=[flow]", "train.scale_motion=true")
    whole, part = tmp_path / "whole", tmp_path / "part"
    train(make_settings(with_val, *options, "train.validate_split=false"), whole, resume=False)
    with monkeypatch.context() as patch:
        kill_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train(
                make_settings(with_val, *options, "train.validate_split=false"), part, resume=False
            )
    tree = yaml.safe_load((part / "settings.yaml").read_text())
    tree["train"]["validate_split"] = None
    del tree["train"]["scale_motion"]
    (part / "settings.yaml").write_text(yaml.safe_dump(tree))
    train(make_settings(with_val, *options, f"train.validate_split={setting}"), part, resume=True)
    assert losses(part) == losses(whole)
    assert epochs(part) == epochs(whole)


def test_validation_on_the_training_split_is_told(
    with_val: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "twinstream: train.validate_split: train is what is trained on; its accuracy does not"
    for split, told in (("train", True), ("val", False)):
        settings = make_settings(with_val, f"train.validate_split={split}")
        open_session(settings, tmp_path / "run", Ranks())
        assert (line in capsys.readouterr().err) == told


@pytest.mark.parametrize("rank", [0, 1])
def test_a_validation_video_too_short_is_told_by_every_rank_before_the_run(
    rank: int, tmp_path: Path
) -> None:
    # Of 7 and 8 frames, the second is long enough for a stack of 7.
    dataset = write_dataset(tmp_path / "d", {"val": 2})
    settings = make_settings(
        dataset, "train.split=val", "model.stack_length=7", "train.validate_split=val"
    )
    with pytest.raises(InputError, match=r"left/val0: 7 frames: a snippet of 7 flow fields needs"):
        open_session(settings, tmp_path / "run", Ranks(rank, 2))


def test_a_training_video_too_short_for_a_clip_is_told_with_settings_that_fit(
    dataset: Path, tmp_path: Path
) -> None:
    settings = make_settings(dataset, *CLIPS, "model.clip_length=5")
    line = r"left/train0: 7 frames: .* at least 10; model\.clip_stride: 1 or model\.clip_length: 3 "
    with pytest.raises(InputError, match=line):
        open_session(settings, tmp_path / "run", Ranks())
    open_session(make_settings(dataset, *CLIPS), tmp_path / "run", Ranks())


def test_an_input_too_small_for_its_family_is_told(dataset: Path, tmp_path: Path) -> None:
    message = r"train\.crop_size: expected at least 35 for model\.family p3d, not 34"
    with pytest.raises(InputError, match=message):
        open_session(make_settings(dataset, *CLIPS, "train.crop_size=34"), tmp_path, Ranks())
    # A clip alone in its batch has more than one value for BatchNorm.
    settings = make_settings(dataset, *CLIPS, "train.crop_size=35", "train.batch_size=1")
    network = open_session(settings, tmp_path, Ranks()).model.train()
    rgb = torch.zeros(1, 3, 3, 35, 35)
    assert network(rgb, None, outputs=("rgb",), attending=())["rgb"].shape == (1, 2)


@pytest.mark.parametrize("scale_motion", [False, True])
def test_validation_sees_the_motion_that_training_sees(
    scale_motion: bool, with_val: Path, tmp_path: Path
) -> None:
    settings = make_settings(with_val, f"train.scale_motion={scale_motion}", "train.scales=[0.875]")
    session = open_session(settings, tmp_path / "run", Ranks())
    assert session.validation is not None
    _, trained_on = next(session.feed.batches(0, 0, Ranks()))
    seen = session.validation.batch([0])
    # Both are crops of 21 of 24 pixels, resized to 40.
    torch.testing.assert_close(seen.flow_scale, trained_on.flow_scale[:1])
    assert bool((seen.flow_scale == 1).all()) != scale_motion


def cuts(curve: np.ndarray[Any, Any], num_videos: int) -> int:
    """In how many of 200 runs of 30 epochs the shipped schedule cuts the rate.

    An accuracy is the curve's, as counted on so many videos drawn anew.
    """
    settings = TrainSettings()
    optimizer, schedule = begin_stage(TwoBranch("flow", 18, 2), Stage("flow", "flow", ()), settings)
    fresh, found = copy.deepcopy(schedule.state_dict()), 0
    for seed in range(200):
        schedule.load_state_dict(copy.deepcopy(fresh))
        optimizer.param_groups[0]["lr"] = settings.learning_rate
        for correct in np.random.default_rng(seed).binomial(num_videos, curve):
            schedule.step(correct / num_videos)
        found += optimizer.param_groups[0]["lr"] < settings.learning_rate
    return found


def test_the_plateau_comes_on_validation_and_not_on_training_accuracy() -> None:
    """On curves as of Kinetics-400; docs/training.md gives the figures."""
    t = np.arange(30)
    creeping = 0.3 + 0.2 * (1 - np.exp(-t / 3)) + 0.002 * t
    assert cuts(creeping, 232_679) == 0
    found = {tau: cuts(0.25 + 0.35 * (1 - np.exp(-t / tau)), 19_169) for tau in (2, 3, 5)}
    assert found == {2: 198, 3: 193, 5: 126}
