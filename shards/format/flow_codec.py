"""Flow in pixels <-> flow in bytes, both directions in one place.

Clip to [-bound, bound], then q = 128 + round(v * 127 / bound). So zero motion is exactly 128 and
reads back as exactly 0, which 256 equal levels cannot give. The price is that byte 0 is never
written; JPEG noise can still produce it, and then it reads as -bound.

    bound 20:  -25 -> 1 · -20 -> 1 · -10 -> 64 (v = -10.08) · 0 -> 128 · 10 -> 192 (v = 10.08)
               20 -> 255 · 25 -> 255
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

ZERO_LEVEL = 128
LEVELS_PER_SIDE = 127


def quantize(flow: NDArray[np.floating[Any]], bound: float) -> NDArray[np.uint8]:
    """Float pixels of any shape -> uint8 of that shape; halves round to even."""
    # An assertion and no InputError: NaN can only come from a bug of a flow engine.
    assert np.isfinite(flow).all(), "flow holds NaN or infinity"
    scaled = np.clip(flow, -bound, bound) * np.float32(LEVELS_PER_SIDE / bound)
    levels: NDArray[np.uint8] = (np.rint(scaled) + ZERO_LEVEL).astype(np.uint8)
    return levels


def dequantize(
    levels: NDArray[np.uint8],
    bound: float,
    zero: float = ZERO_LEVEL,
    levels_per_side: float = LEVELS_PER_SIDE,
) -> NDArray[np.float32]:
    """uint8 of any shape -> float32 pixels in [-bound, bound] of that shape.

    `zero` and `levels_per_side` describe the codec of imported flow; the defaults are ours.
    """
    # float32 first: uint8 minus 128 would wrap around.
    signed = levels.astype(np.float32) - np.float32(zero)
    clipped: NDArray[np.float32] = np.clip(signed, -levels_per_side, levels_per_side)
    return clipped * np.float32(bound / levels_per_side)


def is_saturated(flow: NDArray[np.floating[Any]], bound: float) -> NDArray[np.bool_]:
    """(..., 2) pixels -> (...) bool: where a component lies beyond the bound and is clipped."""
    beyond = np.abs(flow) > bound
    saturated: NDArray[np.bool_] = beyond[..., 0] | beyond[..., 1]
    return saturated


def cut_at(settings: Mapping[str, Any], bound: float) -> float | None:
    """Pixels beyond which flow of this bound is cut, as it had a smaller one before a conversion.

    None where it is not, or by less than the codec can tell: 19.92 of 20 px.
    """
    before = settings.get("convert.codec", {}).get("bound", bound)
    cut: float = min(before, settings.get("convert.cut", bound))
    return cut if round(cut * LEVELS_PER_SIDE / bound) < LEVELS_PER_SIDE else None
