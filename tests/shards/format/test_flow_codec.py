"""The flow codec: boundaries, zero, and that both directions fit together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstream.shards.format.flow_codec import dequantize, is_saturated, quantize
from twinstream.shards.format.image import decode_gray, encode_jpeg


@pytest.mark.parametrize(
    ("pixels", "level"),
    [(-25, 1), (-20, 1), (-10, 64), (0, 128), (10, 192), (20, 255), (25, 255), (0.07, 128)],
)
def test_pixels_become_the_level_of_the_table(pixels: float, level: int) -> None:
    assert quantize(np.array([pixels], np.float32), 20).tolist() == [level]


@pytest.mark.parametrize("bound", [20.0, 15.0, 32.0, 0.3])
def test_zero_motion_is_128_and_reads_back_as_exactly_zero(bound: float) -> None:
    levels = quantize(np.zeros((4, 5), np.float32), bound)
    assert (levels == 128).all()
    assert (dequantize(levels, bound) == 0.0).all()


def test_zero_motion_survives_jpeg_exactly() -> None:
    still = np.full((37, 53), 128, np.uint8)
    for quality in (10, 50, 95):
        assert (decode_gray(encode_jpeg(still, quality)) == 128).all()


def test_the_ends_of_the_range_read_back_as_the_bound() -> None:
    assert dequantize(np.array([1, 255, 0], np.uint8), 20).tolist() == [-20.0, 20.0, -20.0]


@given(st.floats(-20, 20), st.sampled_from([20.0, 15.0, 40.0]))
def test_reading_back_errs_by_at_most_half_a_level(pixels: float, bound: float) -> None:
    back = dequantize(quantize(np.array([pixels]), bound), bound)[0]
    assert abs(back - np.clip(pixels, -bound, bound)) <= bound / 127 / 2 + 1e-5


@given(st.floats(-30, 30))
def test_opposite_motion_has_the_mirrored_level(pixels: float) -> None:
    plus, minus = (int(quantize(np.array([sign * pixels]), 20)[0]) for sign in (1, -1))
    assert plus - 128 == 128 - minus


def test_flow_that_is_not_finite_is_refused() -> None:
    with pytest.raises(AssertionError, match="NaN"):
        quantize(np.array([np.nan]), 20)


def test_saturation_counts_either_component() -> None:
    flow = np.array([[20, 0], [20.1, 0], [0, -20.1], [0, 0]], np.float32)
    assert is_saturated(flow, 20).tolist() == [False, True, True, False]
