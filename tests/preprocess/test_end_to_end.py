"""The whole road on drawn videos: what was drawn is what the shards hold, and the demo reaches its
end.
"""

from pathlib import Path

import numpy as np
import pytest

from twinstream.demo import run_demo
from twinstream.preprocess.catalog.catalog import Video
from twinstream.preprocess.cluster.worker import WorkerSetup, make_recipe
from twinstream.preprocess.duet import DIRECTIONS, draw_video, write_mp4
from twinstream.preprocess.job import Recipe, run_job
from twinstream.preprocess.plan import Job
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings
from twinstream.shards.format.index import read_index
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_flow, read_frames
from twinstream.shards.read.samples import StoredSample
from twinstream.shards.settings import ShardSettings
from twinstream.shards.verify import faults


def recipe() -> Recipe:
    return make_recipe(
        WorkerSetup(
            root=Path(),
            out=Path(),
            dataset=DatasetSettings(kind="folders"),
            preprocess=PreprocessSettings(size=(64, 64), chunk_frames=4),
            shards=ShardSettings(),
            engine="numba",
        )
    )


@pytest.mark.parametrize("motion", range(4))
def test_flow_in_the_shard_follows_the_blob_of_its_frame(tmp_path: Path, motion: int) -> None:
    frames = draw_video(
        np.random.default_rng(40 + motion), colour=0, motion=motion, size=64, num_frames=10
    )
    write_mp4(tmp_path / "blob.mp4", frames)
    job = Job("train", "train-000000", (Video("blob", "blob.mp4", "a", 0, "train", True),))
    list(run_job(job, root=tmp_path, out=tmp_path / "out", recipe=recipe()))
    (index,) = read_index(tmp_path / "out" / "train" / "train-000000.parquet")
    sample = StoredSample(tmp_path / "out" / "train" / "train-000000.tar", index)
    stored, flow = (
        read_frames(sample, range(10)),
        (read_flow(sample, 0, 9).astype(float) - 128) * 20 / 127,
    )
    redness = stored[..., 0].astype(int) - stored[..., 2] > 60
    inside = [flow[t][redness[t]] for t in range(9)]
    outside = [flow[t][~(redness[t] | redness[t + 1])] for t in range(9)]
    # Medians over time: the blob may cross the border, where it jumps to the other side and no flow
    # can follow.
    assert 1.3 < np.median([np.median(field @ DIRECTIONS[motion]) for field in inside]) < 3.7
    assert (
        np.median([np.median(np.abs(field @ DIRECTIONS[motion][::-1])) for field in inside]) < 0.4
    )
    assert np.median([np.median(np.abs(field)) for field in outside]) < 0.2


def test_the_demo_goes_the_whole_road(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reached = run_demo(
        tmp_path / "demo", {"train": 1, "test": 1}, ["train.epochs=1", "train.workers=0"]
    )
    assert set(reached) == {"rgb", "flow", "two-stream", "CMA"}
    printed = capsys.readouterr().out
    assert "32 written -> " in printed
    assert "top-1 on 16 held-out videos, and the best possible:" in printed
    assert list(faults(tmp_path / "demo" / "shards")) == []
    for name in (
        "accuracy.png",
        "flow.png",
        "pipeline.yaml",
        "two_stream/metrics.json",
        "cma/predictions.parquet",
    ):
        assert (tmp_path / "demo" / name).stat().st_size > 0


@pytest.mark.real
def test_real_videos_become_a_sound_dataset(real_data: Path, tmp_path: Path) -> None:
    from twinstream.preprocess.run import preprocess
    from twinstream.section import build_settings
    from twinstream.settings import Settings

    tree = {
        "dataset": {"kind": "ucf101", "root": str(real_data / "weizmann" / "videos"), "fold": 1},
        "preprocess": {"size": 32, "tvl1": {"warps": 1, "iterations": 5}},
        "shards": {"path": str(tmp_path / "shards")},
    }
    tree["dataset"]["splits"] = str(real_data / "weizmann" / "splits")
    settings = build_settings(Settings, tree)
    rows = preprocess(settings.dataset, settings.preprocess, settings.shards)
    assert [row.status for row in rows] == ["written"] * 60
    assert list(faults(tmp_path / "shards")) == []
    assert {
        split: len(ShardDataset(tmp_path / "shards").samples(split)) for split in ("train", "test")
    } == {
        "train": 50,
        "test": 10,
    }
