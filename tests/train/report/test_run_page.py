"""The page of one run: curves, confusions, classes and examples, and how it looks in a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.command import run as command
from tests.support.datasets import write_dataset
from tests.support.runs import write_tested
from twinstream.shards.read.dataset import ShardDataset
from twinstream.train.report.evidence import read_evidence
from twinstream.train.report.run_page import (
    Epoch,
    classes_table,
    confusions,
    last_tested,
    read_epochs,
    run_sections,
)
from twinstream.train.report.write import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
LABELS = [0, 0, 1, 1, 2, 2]
ANSWERS = [0, 1, 1, 0, 2, 1]


@pytest.fixture
def tested(tmp_path: Path) -> Path:
    """A run of two stages whose dataset is there, with names that HTML would take for its own."""
    dataset = write_dataset(tmp_path / "shards", {"test": 6})
    found = write_tested(
        tmp_path / "my run",
        "cma",
        "iter1",
        {"rgb": ANSWERS, "flow": LABELS},
        LABELS,
        classes=["<run> & jump", "walk", "wave"],
        keys=ShardDataset(dataset).samples("test").keys,
        dataset=str(dataset),
    )
    lines = [
        {"stage": stage, "epoch": epoch, **line}
        for stage in ("flow", "iter1")
        for epoch in range(4)
        for line in (
            {"step": 0, "loss": 2.0 / (epoch + 1)},
            {"step": 1, "loss": 1.0 / (epoch + 1)},
            {"train_accuracy": 0.2 * epoch, "validation_accuracy": 0.15 * epoch},
        )
    ]
    log = "\n".join(map(json.dumps, lines))
    (found / "log.jsonl").write_text(log + '\n{"stage": "iter1", "lo')
    return found


def test_the_log_gives_the_mean_loss_and_the_accuracies_of_each_epoch(tested: Path) -> None:
    epochs = read_epochs(tested)
    assert [each.stage for each in epochs] == ["flow"] * 4 + ["iter1"] * 4
    assert epochs[1] == Epoch("flow", 0.75, {"training": 0.2, "validation": pytest.approx(0.15)})
    assert read_epochs(tested.parent) == []


def test_confusions_are_the_most_frequent_first_and_within_one_the_surest() -> None:
    scores = np.eye(3, dtype=np.float32)[[0, 1, 1, 0, 1, 2]]
    scores[2] *= 5
    found = confusions(scores, np.array([0, 0, 0, 1, 1, 2]))
    assert [(each.label, each.taken_for, each.positions.tolist()) for each in found] == [
        (0, 1, [2, 1]),
        (1, 0, [3]),
    ]


def test_best_and_worst_classes_say_what_they_are_taken_for() -> None:
    confusion = np.array([[1, 3, 0], [0, 2, 0], [0, 0, 0]])
    assert classes_table(confusion, ["a", "b", "c"]).rows == [
        ["b", "2", 100.0, "never wrong"],
        ["a", "4", 25.0, "b (3)"],
    ]


def test_the_page_shows_the_score_of_both_branches_where_they_are(tested: Path) -> None:
    _, scores, weights = last_tested(read_evidence([tested]))
    assert weights == (5.0, 1.0)
    assert scores.argmax(1).tolist() == ANSWERS


def test_one_run_has_a_page_of_its_own_with_frames_of_what_it_confuses(
    tested: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tested.parent / "report"
    assert command(monkeypatch, "report", str(tested), "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert "lacks" not in printed.err
    text = (out / "report.html").read_text()
    for title in ("Accuracy", "Training", "Confusion matrix", "Best and worst classes"):
        assert f"<h2>{title}</h2>" in text
    assert text.count("data:image/jpeg;base64,") == 3 * 3
    assert text.count("<img alt=") == 3 * 3
    # Curves, and the confusion matrix of both branches and of each.
    assert text.count('<svg role="img" aria-label=') == 1 + 3
    assert all(f"Stage iter1, {name}. A row" in text for name in ("RGB + flow 5:1", "RGB", "flow"))
    assert "&lt;run&gt; &amp; jump" in text
    assert "<run>" not in text
    assert "Not everything here was trained" not in text


def test_a_page_without_its_dataset_says_so(tested: Path) -> None:
    shutil.rmtree(tested.parent / "shards")
    (*_, last) = run_sections(read_evidence([tested]), tested)
    assert "No frames are shown: " in last
    assert "no finished shard dataset is there" in last


def test_what_is_missing_is_told_with_the_users_own_paths(tested: Path) -> None:
    baseline = write_tested(
        tested.parent / "base", "two_stream", "rgb", {"rgb": LABELS, "flow": LABELS}, LABELS
    )
    tables = write_report(read_evidence([baseline]), tested.parent / "report")
    (command,) = {gap for table in tables for gap in table.gaps if "model.kind=cma " in gap}
    runs = tested.parent
    assert command == (
        f"twinstream train -c {baseline}/settings.yaml --set model.kind=cma --set "
        "train.stages=[iter1,iter2,iter3] --set "
        f"model.flow_weights={baseline}/flow.safetensors --out {runs}/cma"
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [400, 1100])
def test_a_browser_shows_the_page_without_a_part_outside_of_it(tested: Path, width: int) -> None:
    out = tested.parent / "report"
    write_report(read_evidence([tested]), out, tested)
    picture = screenshot(out / "report.html", tested.parent / "page.png", width, 2600)
    assert picture.shape[1] == width
    # Ink: text and figures are there, and nothing is cut by the right edge.
    dark = (picture.min(axis=2) < 110).astype(int)
    assert dark.sum() > 5000
    assert dark[:, -3:].sum() == 0


def screenshot(page: Path, path: Path, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3) of a local page in headless Chromium."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    size, where = f"--window-size={width},{height}", f"--screenshot={path}"
    profile = f"--user-data-dir={path.parent / 'profile'}"
    subprocess.run(
        [CHROMIUM, *options, size, where, profile, page.as_uri()],
        check=True,
        capture_output=True,
        timeout=300,
    )
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture.astype(np.uint8)
