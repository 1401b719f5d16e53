"""Doctor: predictions as arithmetic, and a report that names every engine."""

import numpy as np
import pytest

from preprocess.doctor import Prediction, drawn_frames, gray_frames, predict, report
from preprocess.tvl1 import TvL1Params, open_engine


def test_a_prediction_is_the_arithmetic_of_its_docstring() -> None:
    expected = predict(100, seconds_per_frame=0.04, bytes_per_frame=20_000, cores=2)
    assert expected == Prediction(9_000_000, pytest.approx(50.0), pytest.approx(180e9))


def test_the_built_in_frames_pan_as_they_say() -> None:
    flow = open_engine("numba", TvL1Params())(gray_frames(drawn_frames(96, num_frames=3)))
    assert np.abs(np.median(flow, axis=(0, 1, 2)) - (2, 1)).max() < 0.2


def test_the_report_names_every_engine_and_the_best_one() -> None:
    told = report(hours_of_video=10, size=48)
    assert told.count("(auto)") == 1
    assert "frames/s at 48x48 on one core" in told
    assert "opencv" in told
    assert "cuda" in told
    assert "10 hours of video at 25 frames/s are 900,000 frames" in told
