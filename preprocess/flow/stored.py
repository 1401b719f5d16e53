"""Gray frames -> flow as a shard stores it: bytes of dx and dy, and statistics of the flow.

An engine on a device may do this there, so that an eighth of the bytes come back; for any other it
is done here, with the same bits. The statistics are sums of integers, with speeds in whole
micropixels: neither chunks, nor workers, nor the order in which a GPU adds can change the last bit
of what is stored.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from twinstream.preprocess.flow.engine import Engine, Flow, Gray
from twinstream.shards.format.flow_codec import is_saturated, quantize

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


@dataclass(frozen=True)
class StoredFlow:
    """(T - 1, 2, H, W) uint8, dx and dy as `quantize` gives them."""

    planes: NDArray[np.uint8]
    statistics: FlowStatistics


@runtime_checkable
class StoringEngine(Protocol):
    """An engine that quantizes where it computes."""

    def stored(self, gray: Gray, bound: float) -> StoredFlow:
        """(T, H, W) uint8 -> what is stored of its flow."""


def stored_flow(engine: Engine, gray: Gray, bound: float) -> StoredFlow:
    """(T, H, W) uint8 -> what is stored of its flow, clipped to [-bound, bound] pixels."""
    if isinstance(engine, StoringEngine):
        return engine.stored(gray, bound)
    flow = engine(gray)
    # Contiguous, because each plane is encoded by itself.
    planes = np.ascontiguousarray(np.moveaxis(quantize(flow, bound), -1, 1))
    return StoredFlow(planes, flow_statistics(flow, bound))


def flow_statistics(flow: Flow, bound: float) -> FlowStatistics:
    """(N, H, W, 2) pixels -> their statistics; `triton_kernels.store` does it on a device."""
    # Field by field: float64 copies of a whole chunk would take several times its memory.
    return sum((_statistics_of_field(field, bound) for field in flow), FlowStatistics())


def _statistics_of_field(flow: Flow, bound: float) -> FlowStatistics:
    # In float64, since some libraries' float32 roots are not rounded correctly, and hence differ.
    dx, dy = np.moveaxis(flow.astype(np.float64), -1, 0)
    # Not np.hypot: it rounds in another way than the square root on a device.
    speeds = np.rint(np.sqrt(dx * dx + dy * dy) * MICROPIXELS).astype(np.int64)
    return FlowStatistics(speeds.size, int(speeds.sum()), int(is_saturated(flow, bound).sum()))
