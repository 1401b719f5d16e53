"""The table of videos: one row for each, reasons that travel, and unknown values that are empty."""

import json
import pickle
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.datasets import bare
from tests.support.rawframes import OURS, bring_in, draw_video
from twinstream.shards.format.index import METADATA_KEY
from twinstream.shards.format.video_table import (
    Reason,
    Status,
    VideoError,
    VideoRow,
    read_columns,
    video_row,
    videos_bytes,
)
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_meta
from twinstream.shards.write.combine import merge
from twinstream.shards.write.index_tars import index_dataset

ROW = VideoRow("a/v", "a/v.avi", "a", 1, "train", "written")


def test_a_video_error_keeps_its_fields_across_processes() -> None:
    error = pickle.loads(pickle.dumps(VideoError(Reason.DECODE_ERROR, "frame 3: damaged", 3)))
    assert (error.reason, error.detail, error.num_whole, str(error)) == (
        Reason.DECODE_ERROR,
        "frame 3: damaged",
        3,
        "decode_error: frame 3: damaged",
    )


def test_a_row_has_what_the_catalog_says_of_the_video_and_what_became_of_it() -> None:
    row = video_row(ROW, Status.SKIPPED, Reason.TOO_SHORT, num_frames=3)
    assert row == VideoRow("a/v", "a/v.avi", "a", 1, "train", "skipped", "too_short", num_frames=3)
    assert (type(row.status), type(row.reason)) == (str, str)


@pytest.mark.parametrize("fps", [None, 0, 0.0])
def test_an_unknown_frame_rate_is_empty_in_the_file(tmp_path: Path, fps: float | None) -> None:
    (tmp_path / "videos.parquet").write_bytes(
        videos_bytes([video_row(ROW, Status.WRITTEN, fps=fps)])
    )
    assert read_columns(tmp_path / "videos.parquet", ["fps"]).to_pylist() == [{"fps": None}]


def frame_rates(dataset: Path) -> tuple[list[float | None], list[float | None], float]:
    """As they are written in videos.parquet, in the index of the only shard and in KEY.json."""
    table = read_columns(dataset / "videos.parquet", ["fps"]).column("fps").to_pylist()
    index = pq.read_schema(dataset / "train" / "train-000000.parquet").metadata[METADATA_KEY]
    in_index = [video["fps"] for video in json.loads(index)["videos"]]
    return table, in_index, read_meta(ShardDataset(dataset).sample("a/v")).fps


def test_an_unknown_frame_rate_is_empty_after_import_merge_and_index(tmp_path: Path) -> None:
    draw_video(tmp_path / "in" / "a" / "v")
    bring_in(tmp_path / "in", tmp_path / "imported")
    merge([tmp_path / "imported"], tmp_path / "merged")
    unknown = ([None], [None], 0.0)
    assert frame_rates(tmp_path / "imported") == unknown
    assert frame_rates(tmp_path / "merged") == unknown
    index_dataset(bare(tmp_path / "imported"), OURS)
    assert frame_rates(tmp_path / "imported") == unknown
