"""The geometry of the pyramid: the sizes of its levels, and where a resized image reads.

The engines share it, so that they compute the same flow.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from twinstream.preprocess.flow.engine import MIN_SIDE, TvL1Params

Positions = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


def level_sizes(height: int, width: int, params: TvL1Params) -> list[tuple[int, int]]:
    """(H, W) of the pyramid's levels, finest first.

    Rounded from one to the next: 256 -> 205 -> 164 at 0.8.
    """
    sizes = [(height, width)]
    while len(sizes) < params.scales:
        height, width = round(height * params.scale_step), round(width * params.scale_step)
        if min(height, width) < MIN_SIDE:
            break
        sizes.append((height, width))
    return sizes


# A run has a handful of sizes, and asks for them at every frame.
@lru_cache(maxsize=64)
def positions(num: int, last: int, step: float) -> Positions:
    """Where `num` output pixels read: index of the pixel before, and the distance behind it.

    Pixel i of the output has its centre at (i + 0.5) * step - 0.5, clamped to 0 .. last.
    """
    position: npt.NDArray[Any] = np.clip((np.arange(num) + 0.5) * step - 0.5, 0, last)
    before = np.floor(position).astype(np.int64)
    return before, (position - before).astype(np.float32)
