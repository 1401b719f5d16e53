"""Gray frames -> flow as a shard stores it, bytes of dx and dy, with the statistics of what the
bytes were made of.

An engine on a device does that there, so that an eighth of the bytes come back; for any other it is
done here. Both give the same bits.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from twinstream.preprocess.flow_statistics import FlowStatistics, flow_statistics
from twinstream.preprocess.tvl1 import Engine, Gray
from twinstream.shards.flow_codec import quantize


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
    planes = np.ascontiguousarray(np.moveaxis(quantize(flow, bound), -1, 1))
    return StoredFlow(planes, flow_statistics(flow, bound))
