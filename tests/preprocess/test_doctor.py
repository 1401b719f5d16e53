"""Doctor: predictions as arithmetic, and a report that names every engine."""

from pathlib import Path

import numpy as np
import pytest
import torch

from twinstream.preprocess import doctor
from twinstream.preprocess.cluster.resources import Node
from twinstream.preprocess.doctor import (
    Estimate,
    FrameCost,
    drawn_frames,
    gray_frames,
    mps_text,
    predict,
    report,
    stage_rate,
    stored_side,
)
from twinstream.preprocess.flow.engine import TvL1Params
from twinstream.preprocess.flow.engines import open_engine


def test_a_prediction_is_the_arithmetic_of_its_docstring() -> None:
    expected = predict(100, frames_a_second=50, bytes_per_frame=20_000)
    assert expected == Estimate(9_000_000, pytest.approx(50.0), pytest.approx(180e9))


@pytest.mark.parametrize(
    ("flow", "cost_seconds", "node", "rate"),
    [
        (125, 0.002, Node(10), 1000),
        (125, 0.002, Node(1), 100),
        (3000, 0.002, Node(10, 2), 5000),
        (3000, 0.002, Node(16, 2), 6000),
        (3000, 0.002, Node(16, 1), 3000),
        (3000, 0.002, Node(4, 1), 2000),
    ],
)
def test_a_machine_is_as_fast_as_the_slower_of_its_gpus_and_its_cores(
    flow: float, cost_seconds: float, node: Node, rate: float
) -> None:
    assert stage_rate(flow, cost_seconds, node) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("size", "short_side", "side"),
    [((128, 128), None, 128), ((340, 256), None, 295), ((64, 64), 256, 296)],
)
def test_what_is_stored_is_measured_by_a_square_of_as_many_pixels(
    size: tuple[int, int], short_side: int | None, side: int
) -> None:
    assert stored_side(size, short_side) == side


def test_the_built_in_frames_pan_as_they_say() -> None:
    flow = open_engine("numba", TvL1Params())(gray_frames(drawn_frames(96, num_frames=3)))
    assert np.abs(np.median(flow, axis=(0, 1, 2)) - (2, 1)).max() < 0.2


def test_the_report_names_every_engine_and_the_best_one() -> None:
    printed = report(hours_of_video=10, size=48)
    assert printed.count("(auto)") == 1
    assert "frames/s at 48x48 on one core" in printed
    assert "opencv" in printed
    assert "cuda" in printed
    assert "10 hours of video at 25 frames/s are 900,000 frames" in printed


def test_the_report_counts_gpus_and_predicts_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"numba": 50.0, "resident": 12000.0, "cuda": 3000.0, "opencv": 2.0}
    monkeypatch.setattr(doctor, "this_node", lambda: Node(10, 2))
    monkeypatch.setattr(doctor, "resolve_engine", lambda name: "cuda")
    monkeypatch.setattr(doctor, "flow_rate", lambda name, size: rates[name])
    monkeypatch.setattr(doctor, "measured_cost", lambda size: FrameCost(0.002, 20_000.0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "H100")
    assert report(hours_of_video=851, size=256).endswith("cores, 1,530 GB of shards")
    printed = report(hours_of_video=100, size=256)
    assert "10 cores, 2 GPUs (H100), " in printed
    assert "\n  MPS " in printed
    assert "  cuda     3000.0 frames/s at 256x256 on one GPU (auto)\n" in printed
    assert printed.endswith(
        "are 9,000,000 frames: 0.5 hours on 2 GPUs and 10 cores, 180 GB of shards"
    )


def test_the_report_says_how_workers_share_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert "take turns; `nvidia-cuda-mps-control -d` starts it" in mps_text()
    (tmp_path / "control").touch()
    assert mps_text() == "MPS runs: the workers of a GPU compute at the same time"
