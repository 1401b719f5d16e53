"""Training, validation and test by lists: the videos of a list, and a list that stays as it was."""

from pathlib import Path

import pytest

from tests.support.datasets import write_dataset
from tests.support.runs import write_run
from tests.support.training import kill_after, losses, make_settings
from twinstream.errors import InputError
from twinstream.shards.format.video_table import read_videos
from twinstream.shards.split_lists import add_split, remove_split
from twinstream.train.checkpoint import count_shared, load_checkpoint
from twinstream.train.fit import train
from twinstream.train.ranks import Ranks
from twinstream.train.report.evidence import read_evidence
from twinstream.train.run_folder import RunSettings, read_run_settings
from twinstream.train.score.evaluate import score_run
from twinstream.train.score.predictions import read_predictions
from twinstream.train.session import open_session


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", {"train": 6, "test": 4})


def write_folds(dataset: Path, folder: Path) -> list[tuple[str, str]]:
    """Two folds as pairs of lists of keys; every other video is tested in each."""
    keys = [row.key for row in read_videos(dataset / "videos.parquet")]
    folds = []
    for fold in (0, 1):
        train_path, test_path = folder / f"train{fold}.txt", folder / f"test{fold}.txt"
        train_path.write_text("\n".join(keys[1 - fold :: 2]))
        test_path.write_text("\n".join(keys[fold::2]))
        folds.append((str(train_path), str(test_path)))
    return folds


def by_lists(dataset: Path, train_list: str, test_list: str) -> RunSettings:
    lists = [f"train.split={train_list}", f"train.validate_split={test_list}"]
    return make_settings(dataset, *lists, f"test.split={test_list}", "train.stages=[flow]")


def test_folds_of_one_dataset_train_and_are_tested_by_lists_and_are_folds_of_a_report(
    dataset: Path, tmp_path: Path
) -> None:
    folds = write_folds(dataset, tmp_path)
    for number, (train_list, test_list) in enumerate(folds):
        run = tmp_path / f"run{number}"
        train(by_lists(dataset, train_list, test_list), run, resume=False)
        # 5 videos in batches of 2, for 2 epochs
        assert len(losses(run)) == 6
        checkpoint = load_checkpoint(run / "checkpoint.pt")
        assert checkpoint.trained_on is not None
        assert count_shared(Path(train_list).read_text().split(), checkpoint.trained_on) == 5
        assert count_shared(Path(test_list).read_text().split(), checkpoint.trained_on) == 0
        metrics = score_run(run, read_run_settings(run).test)
        assert metrics["trained_on"] == 0
        found = read_predictions(run / "predictions.parquet")
        assert sorted(found.keys) == sorted(Path(test_list).read_text().split())
        assert found.about["split"] == test_list
    evidence = read_evidence([tmp_path / "run0", tmp_path / "run1"])
    assert len(evidence.folds) == 2
    assert evidence.about["split"] == "test0.txt and test1.txt"
    assert "test1.txt (SHA-256 " in str(evidence.folds[1])


def test_a_stored_split_gives_the_losses_of_its_list(dataset: Path, tmp_path: Path) -> None:
    (train_list, _), _ = write_folds(dataset, tmp_path)
    add_split(dataset, "fold0", train_list)
    for name, split in (("list", train_list), ("stored", "fold0")):
        settings = make_settings(dataset, f"train.split={split}", "train.stages=[flow]")
        train(settings, tmp_path / name, resume=False)
    assert losses(tmp_path / "list") == losses(tmp_path / "stored")


def test_a_stopped_run_goes_on_with_its_list_and_not_with_a_changed_one(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (train_list, test_list), _ = write_folds(dataset, tmp_path)
    settings = by_lists(dataset, train_list, test_list)
    train(settings, tmp_path / "whole", resume=False)
    with monkeypatch.context() as patch:
        kill_after(4, patch)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "run", resume=False)
    text = Path(train_list).read_text()
    Path(train_list).write_text(text.rpartition("\n")[0])
    with pytest.raises(InputError, match=r"train\.split: the list has changed since the run began"):
        train(settings, tmp_path / "run", resume=True)
    Path(train_list).write_text(text)
    train(settings, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_stream_is_not_made_of_a_list(dataset: Path, tmp_path: Path) -> None:
    (train_list, _), _ = write_folds(dataset, tmp_path)
    settings = make_settings(
        dataset, f"train.split={train_list}", "train.loader=stream", "train.shuffle_window=2"
    )
    with pytest.raises(InputError, match=r"is a list; set train\.loader: index"):
        train(settings, tmp_path / "run", resume=False)


def test_a_stopped_run_does_not_go_on_with_the_other_part_of_its_list(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "parts.csv"
    rows = ["left/train0,left,one", "right/train1,right,one", "left/train2,left,two"]
    path.write_text("\n".join(["path,label,split", *rows]))
    settings = make_settings(dataset, "train.split=part", "train.stages=[flow]")
    add_split(dataset, "part", f"{path}:one")
    with monkeypatch.context() as patch:
        kill_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "run", resume=False)
    remove_split(dataset, "part")
    add_split(dataset, "part", f"{path}:two")
    with pytest.raises(InputError, match=r"train\.split: the list has changed since the run began"):
        train(settings, tmp_path / "run", resume=True)


def test_validation_on_videos_that_are_trained_on_is_told(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "held_out.txt"
    path.write_text("left/train0\nright/test1")
    open_session(make_settings(dataset, f"train.validate_split={path}"), tmp_path / "run", Ranks())
    assert f"1 of the 2 videos of {path} are trained on too" in capsys.readouterr().err


def test_a_run_that_does_not_say_what_it_was_trained_on_counts_videos_of_a_list(
    dataset: Path, tmp_path: Path
) -> None:
    write_run(tmp_path / "run", dataset, "flow", ["flow"])
    path = tmp_path / "mixed.txt"
    path.write_text("left/train0\nright/train1\nright/test1")
    test = read_run_settings(tmp_path / "run").test.model_copy(update={"split": str(path)})
    assert score_run(tmp_path / "run", test)["trained_on"] == 2


def test_a_list_that_lies_elsewhere_is_the_same_list_and_another_one_is_not(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (train_list, test_list), (other, _) = write_folds(dataset, tmp_path)
    run, moved = tmp_path / "run", tmp_path / "moved.txt"
    with monkeypatch.context() as patch:
        kill_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            train(by_lists(dataset, train_list, test_list), run, resume=False)
    Path(train_list).rename(moved)
    for wrong in (other, "train"):
        with pytest.raises(InputError, match=r"train\.split: the list has changed since"):
            train(by_lists(dataset, wrong, test_list), run, resume=True)
    train(by_lists(dataset, str(moved), test_list), run, resume=True)
    assert read_run_settings(run).train.split == str(moved)
