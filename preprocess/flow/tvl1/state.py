"""The memory of a pyramid level of the `numba` engine.

A level's fields are one float32 array, `state[row, block, field, column]`: a block is NUM_LANES
columns of a row with all their fields, so that one address and constants lead to each of them.
Image row y is row y + 1, column x is in block 1 + x // NUM_LANES, columns to the end of the last
block are computed and thrown away. Row 0 and the block before the image stay zero in the duals:
that makes the divergence right at the border without a branch. Behind the image the flow repeats
its last column. The flow is counted in units of theta / tau pixels and the gradient in gray levels
a unit, so that tau / theta, the step of the duals, is one.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from twinstream.preprocess.flow.tvl1.lanes import NUM_LANES

Floats = npt.NDArray[np.float32]

# Fields: the flow, its two dual vectors, and what one warp makes constant; as places in a block.
NUM_FIELDS = 10
U, V, PUX, PUY, PVX, PVY, CONSTANT, GX, GY, INVERSE = range(0, NUM_FIELDS * NUM_LANES, NUM_LANES)
BLOCK = NUM_FIELDS * NUM_LANES


def kernel(function: Any) -> Any:
    """Compile on first use, once a machine. Division by zero gives inf, as in NumPy.

    Compiled code is kept on disk; Numba makes it anew when the function's own file changes, not
    when one does that it imports.
    """
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
