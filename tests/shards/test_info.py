"""What info and the preview tell of a dataset."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.datasets import write_dataset
from tests.support.rawframes import bring_in, draw_video
from twinstream.shards.info import describe
from twinstream.shards.preview import side_by_side, write_preview_video
from twinstream.shards.rawframes.alignment import Layout
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.split_lists import add_split


def test_info_tells_counts_classes_hours_bytes_flow_and_settings(dataset: Path) -> None:
    lines = describe(dataset).splitlines()
    assert lines[0] == f"{dataset}: format 1, 2 classes, 5 written"
    assert lines[1].startswith("  test: 2 samples of 2 classes in 1 shards, 15 frames, 0.00 h, ")
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
