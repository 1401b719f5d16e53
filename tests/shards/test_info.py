"""What info and the preview tell of a dataset."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.command import run
from tests.support.datasets import write_dataset
from tests.support.rawframes import bring_in, draw_video
from twinstream.errors import InputError
from twinstream.shards.info import describe, listed
from twinstream.shards.preview import full_speed, shot_changes, side_by_side, write_preview_video
from twinstream.shards.rawframes.alignment import Layout
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.split_lists import add_split


def test_info_tells_counts_classes_hours_bytes_flow_and_settings(dataset: Path) -> None:
    lines = describe(dataset).splitlines()
    assert lines[0] == f"{dataset}: format 1, 2 classes, 5 written"
    assert lines[1].startswith("  test: 2 samples of 2 classes in 1 shard, 15 frames, 0.00 h, ")
    assert lines[2].startswith("  train: 3 samples of 2 classes in 2 shards, 24 frames, 0.00 h, ")
    assert lines[2].endswith("mean |flow| 1.00 px, 0.00% beyond the bound, 1 to 2 samples a class")
    assert lines[3:] == [
        "  classes: left, right",
        "  flow: pixels = (byte - 128) * 20 / 127",
        "  preprocess.bound = 20.0",
        "  preprocess.seed = 0",
    ]


def test_info_names_stored_splits(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 3})
    (tmp_path / "fold2.txt").write_text("left/train0\nleft/train2\n")
    add_split(dataset, "test2", str(tmp_path / "fold2.txt"))
    assert "\n  test2: 2 of these, listed by fold2.txt\n" in describe(dataset)


def test_info_names_what_was_left_out_and_what_is_unknown(tmp_path: Path) -> None:
    draw_video(tmp_path / "in" / "a" / "v1", base=1, num_flow=4)
    draw_video(tmp_path / "in" / "a" / "v2", base=1)
    bring_in(
        tmp_path / "in", tmp_path / "out", layout=Layout.DENSE_FLOW, index_base=1, skip_bad=True
    )
    printed = describe(tmp_path / "out")
    assert "1 written · 1 skipped: misaligned 1" in printed
    assert "  skipped, misaligned: 1, such as a/v2" in printed
    assert "0.00 h without 1 of unknown frame rate" in printed
    assert "share beyond the bound unknown" in printed


def test_a_preview_video_shows_each_frame_beside_its_flow(dataset: Path, tmp_path: Path) -> None:
    data = ShardDataset(dataset)
    sample = data.sample("right/train1")
    pictures = list(side_by_side(data, sample, 24, 32))
    assert len(pictures) == 7
    assert np.abs(pictures[6][:, :32].astype(int) - (60, 0, 0)).max() <= 2
    assert (pictures[0][:, 32:] == 255).all()
    assert np.abs(pictures[6][:, 32:].astype(int) - (255, 0, 0)).max() <= 2
    write_preview_video(data, [sample, data.sample("left/test0")], tmp_path / "p.mp4")
    with av.open(str(tmp_path / "p.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.streams.video[0].average_rate == 25
    assert len(frames) == 7 + 6
    assert frames[0].shape == (24, 64, 3)
    assert np.abs(frames[6][4:-4, 4:28].astype(int) - (60, 0, 0)).max() <= 25


@pytest.mark.parametrize(("height", "width"), [(15, 21), (30, 40)])
def test_a_sample_of_another_size_is_cut_or_padded_to_the_videos(
    dataset: Path, height: int, width: int
) -> None:
    data = ShardDataset(dataset)
    picture = next(side_by_side(data, data.sample("left/test0"), height, width))
    assert picture.shape == (height + height % 2, 2 * width, 3)


@pytest.mark.parametrize(
    ("speeds", "changes"),
    [
        ([1, 1, 9, 1, 1], [2]),
        # Slow videos have none, nor do those that only begin to move.
        ([0.1, 0.2, 1.5, 0.2], []),
        ([0, 0, 0, 5, 0, 6], []),
        ([0, 0, 1, 0, 0, 1.2, 8, 1, 0], [6]),
        ([0, 0], []),
    ],
)
def test_a_field_far_faster_than_the_others_is_of_a_shot_change(
    speeds: list[float], changes: list[int]
) -> None:
    assert np.flatnonzero(shot_changes(speeds)).tolist() == changes


def test_one_outlier_does_not_take_the_colours_of_a_sample() -> None:
    assert full_speed([2.0] * 40 + [20.0]) == 2.0


def test_keys_are_listed_by_split_and_class(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": 3, "test": 2})
    (tmp_path / "fold2.txt").write_text("left/train0\nright/train1\n")
    add_split(dataset, "fold2", str(tmp_path / "fold2.txt"))
    found = {
        (split, name): sorted(row.key for row in listed(dataset, split, name))
        for split in (None, "train", "fold2")
        for name in (None, "left")
    }
    assert len(found[None, None]) == 5
    assert found["train", None] == ["left/train0", "left/train2", "right/train1"]
    assert found["train", "left"] == ["left/train0", "left/train2"]
    assert found["fold2", None] == ["left/train0", "right/train1"]
    assert found["fold2", "left"] == ["left/train0"]
    with pytest.raises(InputError, match=r"--split val: .* has test, train, fold2 and no such"):
        listed(dataset, "val")
    with pytest.raises(InputError, match=r"--class up: .* has left, right and no such class"):
        listed(dataset, None, "up")


def test_keys_are_lines_or_json_for_programs(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--keys", "--split", "test", "--class", "left")
    assert run(monkeypatch, "shards", "info", str(dataset), *options) == 0
    assert capsys.readouterr().out == "left/test0\n"
    assert run(monkeypatch, "shards", "info", str(dataset), *options, "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    facts = {"key": "left/test0", "class": "left", "split": "test", "num_frames": 7, "fps": 25.0}
    assert json.loads(line) == facts
    assert run(monkeypatch, "shards", "info", str(dataset), "--json") == 2


@pytest.mark.parametrize(
    ("counts", "out", "expected"),
    [
        ({"train": 0}, "p.png", "has no samples to show"),
        ({"train": 1}, "p.gif", "expected a name that ends in .png or .mp4"),
    ],
)
def test_a_preview_that_cannot_be_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    counts: dict[str, int],
    out: str,
    expected: str,
) -> None:
    (tmp_path / "dataset").mkdir()
    dataset = write_dataset(tmp_path / "dataset", counts)
    assert run(monkeypatch, "shards", "preview", str(dataset), "--out", out) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
