"""Mean speed and saturation of a video's flow, for its row.

Sums of integers, speeds in whole micropixels: neither chunks, nor workers, nor the order in which a
GPU adds can change the last bit of what is stored.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinstream.shards.flow_codec import is_saturated

MICROPIXELS = 1e6
"""In a pixel."""


@dataclass(frozen=True)
class FlowStatistics:
    """Sums over the pixels of any number of fields, which add up to those of all."""

    num_pixels: int = 0
    micropixels: int = 0
    num_saturated: int = 0

    def __add__(self, other: "FlowStatistics") -> "FlowStatistics":
        return FlowStatistics(
            self.num_pixels + other.num_pixels,
            self.micropixels + other.micropixels,
            self.num_saturated + other.num_saturated,
        )

    @property
    def mean_speed(self) -> float:
        """Mean |(dx, dy)| in pixels."""
        return self.micropixels / self.num_pixels / MICROPIXELS

    @property
    def saturated(self) -> float:
        """Fraction of pixels beyond the bound."""
        return self.num_saturated / self.num_pixels


def flow_statistics(flow: NDArray[np.float32], bound: float) -> FlowStatistics:
    """(N, H, W, 2) pixels -> their statistics; `cuda_engine.flow_sums` does the same on
    a device.
    """
    return sum((_statistics_of_field(field, bound) for field in flow), FlowStatistics())


def _statistics_of_field(flow: NDArray[np.float32], bound: float) -> FlowStatistics:
    # In float64, since some libraries' float32 roots are not rounded correctly, and hence differ.
    dx, dy = np.moveaxis(flow.astype(np.float64), -1, 0)
    speeds = np.rint(np.sqrt(dx * dx + dy * dy) * MICROPIXELS).astype(np.int64)
    return FlowStatistics(speeds.size, int(speeds.sum()), int(is_saturated(flow, bound).sum()))
