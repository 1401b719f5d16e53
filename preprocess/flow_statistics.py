"""Mean speed and saturation of a video's flow, for its row.

Summed field by field in float64, so that neither chunks nor workers change the last bit of what is stored.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.flow_codec import is_saturated


@dataclass
class FlowStatistics:
    """Mean |flow| in pixels and the saturated fraction, summed field by field so that chunks cannot change them."""

    num_fields: int = 0
    _speed: float = 0.0
    _saturated: float = 0.0

    def add(self, flow: NDArray[np.float32], bound: float) -> None:
        """Count one (H, W, 2) field."""
        self.num_fields += 1
        self._speed += float(np.sqrt(np.square(flow).sum(axis=-1)).mean(dtype=np.float64))
        self._saturated += float(is_saturated(flow, bound).mean())

    @property
    def mean_speed(self) -> float:
        """Mean |(dx, dy)| in pixels."""
        return self._speed / self.num_fields

    @property
    def saturated(self) -> float:
        """Fraction of pixels beyond the bound."""
        return self._saturated / self.num_fields
