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


def pyramid_step(fine: tuple[int, ...], coarse: tuple[int, ...], params: TvL1Params) -> float:
    """Distance, in pixels of a level, of two pixels of the next coarser one.

    A level that rounds to the size of the one before is its copy, as in OpenCV.
    """
    return 1.0 if fine == coarse else 1 / params.scale_step


# A run has a handful of sizes, and asks for them at every frame.
@lru_cache(maxsize=64)
def positions(num: int, last: int, step: float) -> Positions:
    """Where `num` output pixels read: index of the pixel before, and the distance behind it.

    Pixel i of the output reads at i * step, as in `cv::cuda::resize`: its first pixel is the
    image's, and pixel centres are not aligned. Behind `last` the image repeats it.
    """
    position: npt.NDArray[Any] = np.minimum(np.arange(num) * step, last)
    before = np.floor(position).astype(np.int64)
    return before, (position - before).astype(np.float32)
