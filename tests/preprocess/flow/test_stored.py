"""Flow as a shard stores it: planes of bytes, and statistics that add up however a video is cut."""

import numpy as np
import pytest

from twinstream.preprocess.flow.engine import Gray, TvL1Params
from twinstream.preprocess.flow.engines import open_engine
from twinstream.preprocess.flow.stored import (
    FlowStatistics,
    StoredFlow,
    flow_statistics,
    stored_flow,
)
from twinstream.shards.format.flow_codec import quantize


def some_flow(fields: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(0, 9, (fields, 17, 23, 2)).astype(np.float32)


def test_planes_are_dx_and_dy_of_the_codec() -> None:
    flow = some_flow(3)
    engine = PretendedEngine(flow)
    stored = stored_flow(engine, np.zeros((4, 17, 23), np.uint8), 20.0)
    assert stored.planes.shape == (3, 2, 17, 23)
    assert stored.planes.flags.c_contiguous
    for axis in range(2):
        assert np.array_equal(stored.planes[:, axis], quantize(flow, 20.0)[..., axis])
    assert stored.statistics == flow_statistics(flow, 20.0)


class PretendedEngine:
    """Gives the same flow for all frames."""

    name = "pretended"

    def __init__(self, flow: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
        self.flow = flow

    def __call__(self, gray: Gray, /) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return self.flow


class StoringPretendedEngine(PretendedEngine):
    """Quantizes by itself."""

    def stored(self, gray: Gray, bound: float) -> StoredFlow:
        return StoredFlow(np.full((1, 2, 16, 16), round(bound), np.uint8), FlowStatistics(1, 2, 3))


def test_an_engine_that_quantizes_by_itself_is_let_to() -> None:
    stored = stored_flow(StoringPretendedEngine(some_flow(1)), np.zeros((2, 16, 16), np.uint8), 7.0)
    assert (stored.planes == 7).all()
    assert stored.statistics == FlowStatistics(1, 2, 3)


def test_statistics_of_a_field_are_its_mean_speed_and_saturated_fraction() -> None:
    flow = np.zeros((1, 2, 2, 2), np.float32)
    flow[0] = [[[3, 4], [0, 0]], [[-20.5, 0], [0.0, 20.0]]]
    statistics = flow_statistics(flow, 20.0)
    assert statistics.mean_speed == pytest.approx((5 + 0 + 20.5 + 20) / 4)
    assert statistics.saturated == 0.25


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_statistics_add_up_to_the_last_bit(cut: int) -> None:
    flow = some_flow(10)
    parts = flow_statistics(flow[:cut], 20.0) + flow_statistics(flow[cut:], 20.0)
    assert parts == flow_statistics(flow, 20.0)
    assert (parts.mean_speed, parts.saturated) == (
        flow_statistics(flow, 20.0).mean_speed,
        flow_statistics(flow, 20.0).saturated,
    )


def test_no_pairs_are_no_planes_and_no_sums() -> None:
    stored = stored_flow(
        open_engine("reference", TvL1Params()), np.zeros((1, 16, 18), np.uint8), 20.0
    )
    assert stored.planes.shape == (0, 2, 16, 18)
    assert stored.statistics == FlowStatistics()
