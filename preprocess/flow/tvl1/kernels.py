"""The compiled loops of the `numba` engine that make pyramids, and warp; `iterations.py` has the
iterations. What they compute is written down in `reference.py`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from twinstream.preprocess.flow.tvl1.lanes import (
    NUM_LANES,
    floor,
    fma,
    load,
    load_column,
    load_item,
    maximum,
    minimum,
    rotate,
    splat,
    store,
    store_columns,
    store_four,
)
from twinstream.preprocess.flow.tvl1.state import (
    BLOCK,
    CONSTANT,
    GX,
    GY,
    INVERSE,
    Floats,
    U,
    V,
    kernel,
)

Ints = npt.NDArray[np.int64]

# Rows of the scratch space of `warp`: integer and fractional part of where to read, weights of the
# rows, and in four rows what was read, four numbers a pixel like the taps.
COLUMN, ROW, TX, WY0, WY1, WY2, WY3, WARPED = range(8)
NUM_SCRATCH = 11

TAP_BORDER = 4
"""Repeated pixels on every side of a taps image: a position further out reads the same values."""

SMALLEST_SQUARE = 1e-30
"""Of a gradient: its inverse, times any residual, is a float32."""

_IOTA = np.arange(NUM_LANES, dtype=np.float32)
_KEYS_CUBED, _KEYS_SQUARED, _KEYS_LINEAR, _KEYS_ONE = (
    np.repeat(np.array(row, np.float32), 4)
    for row in (
        [-0.5, 1.5, -1.5, 0.5],
        [1.0, -2.5, 2.0, -0.5],
        [-0.5, 0.0, 0.5, 0.0],
        [0.0, 1.0, 0.0, 0.0],
    )
)


@kernel
def resize(
    image: Floats,
    out: Floats,
    rows: Ints,
    row_parts: Floats,
    columns: Ints,
    column_parts: Floats,
    gain: float,
    scratch: Floats,
) -> None:
    """Bilinear, times `gain`.

    Row y of `out` lies `row_parts[y]` below row `rows[y]` of the image; columns likewise.
    """
    height, width = image.shape
    one = np.float32(1)
    for y in range(len(rows)):
        below = min(rows[y] + 1, height - 1)
        upper, lower = splat(gain * (one - row_parts[y])), splat(gain * row_parts[y])
        for x in range(0, width, NUM_LANES):
            store(
                scratch, (x,), upper * load(image, (rows[y], x)) + lower * load(image, (below, x))
            )
        # Columns come second, because they are read at uneven distances, one by one.
        for x in range(len(columns)):
            right = min(columns[x] + 1, width - 1)
            out[y, x] = (one - column_parts[x]) * scratch[columns[x]] + column_parts[x] * scratch[
                right
            ]


@kernel
def fill_taps(image: Floats, taps: Floats) -> None:
    """(H, W) -> (H + 8, (W + 8) * 4), four numbers a pixel, borders repeated.

    They are gray, its central differences in x and y, and 0.
    """
    height, width = image.shape
    half, zero = splat(np.float32(0.5)), splat(np.float32(0))
    for row in range(height + 2 * TAP_BORDER):
        y = min(max(row - TAP_BORDER, 0), height - 1)
        above, below = max(y - 1, 0), min(y + 1, height - 1)
        x = 1
        while x + NUM_LANES < width:
            store_columns(
                taps,
                (row, 4 * (x + TAP_BORDER)),
                load(image, (y, x)),
                half * (load(image, (y, x + 1)) - load(image, (y, x - 1))),
                half * (load(image, (below, x)) - load(image, (above, x))),
                # A fourth number that nobody reads: four pixels of four numbers fill a vector.
                zero,
            )
            x += NUM_LANES
        for column in range(TAP_BORDER + 1):
            _fill_tap(image, taps, row, column, y, above, below)
        for column in range(x + TAP_BORDER, width + 2 * TAP_BORDER):
            _fill_tap(image, taps, row, column, y, above, below)


@kernel
def _fill_tap(
    image: Floats, taps: Floats, row: int, column: int, y: int, above: int, below: int
) -> None:
    """One pixel of the taps, where a neighbour may be outside the image."""
    last, half = image.shape[1] - 1, np.float32(0.5)
    x = min(max(column - TAP_BORDER, 0), last)
    taps[row, 4 * column] = image[y, x]
    taps[row, 4 * column + 1] = half * (image[y, min(x + 1, last)] - image[y, max(x - 1, 0)])
    taps[row, 4 * column + 2] = half * (image[below, x] - image[above, x])
    taps[row, 4 * column + 3] = 0


@kernel
def put_flow(flow: Floats, state: Floats) -> None:
    """(2, H, W), rows in whole vectors, -> the flow in `state`."""
    numbers, stride = state.reshape(-1), state.shape[1] * BLOCK
    for y in range(flow.shape[1]):
        at = (y + 1) * stride + BLOCK
        for x in range(0, flow.shape[2], NUM_LANES):
            store(numbers, (at + U,), load(flow, (0, y, x)))
            store(numbers, (at + V,), load(flow, (1, y, x)))
            at += BLOCK


@kernel
def take_flow(state: Floats, flow: Floats) -> None:
    """The other way round."""
    numbers, stride = state.reshape(-1), state.shape[1] * BLOCK
    for y in range(flow.shape[1]):
        at = (y + 1) * stride + BLOCK
        for x in range(0, flow.shape[2], NUM_LANES):
            store(flow, (0, y, x), load(numbers, (at + U,)))
            store(flow, (1, y, x), load(numbers, (at + V,)))
            at += BLOCK


@kernel
def warp(
    first: Floats, taps: Floats, state: Floats, scratch: Floats, width: int, unit: float
) -> None:
    """Warp the second frame's taps by the flow in `state`; `unit` is that of the flow in pixels.

    Writes CONSTANT, GX, GY and INVERSE there.
    """
    height, stride = state.shape[0] - 1, state.shape[1] * BLOCK
    units = splat(unit)
    flat, numbers = taps.reshape(-1), state.reshape(-1)
    for y in range(height):
        at = (y + 1) * stride + BLOCK
        _aim_row(numbers, at, scratch, y, height, width, units)
        for x in range(NUM_LANES, NUM_LANES + width):
            _read_taps(flat, taps.shape[1], scratch, x)
        _linearise_row(first, numbers, at, scratch, y, width, units)


@kernel
def _aim_row(
    numbers: Floats, at: int, scratch: Floats, y: int, height: int, width: int, unit: Any
) -> None:
    """Where each pixel of row y, whose first block is `at`, reads, and with which weights."""
    half, one = splat(np.float32(0.5)), splat(np.float32(1))
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        home_x, home_y = load(_IOTA, (0,)) + splat(np.float32(x - NUM_LANES)), splat(np.float32(y))
        # The flow is split before the pixel's position is added, which would cost it bits.
        u = _within(load(numbers, (at + U,)) * unit, home_x, width)
        v = _within(load(numbers, (at + V,)) * unit, home_y, height)
        at += BLOCK
        whole_u, whole_v = floor(u), floor(v)
        t = v - whole_v
        store(scratch, (COLUMN, x), home_x + whole_u)
        store(scratch, (ROW, x), home_y + whole_v)
        store(scratch, (TX, x), u - whole_u)
        store(scratch, (WY0, x), ((one - half * t) * t - half) * t)
        store(
            scratch, (WY1, x), (splat(np.float32(1.5)) * t - splat(np.float32(2.5))) * t * t + one
        )
        store(
            scratch, (WY2, x), ((splat(np.float32(2)) - splat(np.float32(1.5)) * t) * t + half) * t
        )
        store(scratch, (WY3, x), (half * t - half) * t * t)


@kernel
def _within(motion: Any, home: Any, side: int) -> Any:
    """The motion, cut so that its end is near the image.

    The end lies between two pixels before and one pixel behind the image's side.
    """
    # Beyond that all taps read the border anyway, and the taps image has no further pixels.
    two, behind = splat(np.float32(2)), splat(np.float32(side + 1))
    return minimum(maximum(motion, splat(np.float32(0)) - two - home), behind - home)


@kernel
def _read_taps(taps: Floats, stride: int, scratch: Floats, x: int) -> None:
    """One pixel, from 16 taps of three images in four loads.

    Four taps of four numbers are one vector; `stride` numbers lie between two rows.
    """
    top = int(load_item(scratch, (ROW, x))) + (TAP_BORDER - 1)
    left = int(load_item(scratch, (COLUMN, x))) + (TAP_BORDER - 1)
    at = top * stride + 4 * left
    upper = splat(load_item(scratch, (WY0, x))) * load(taps, (at,))
    upper = fma(splat(load_item(scratch, (WY1, x))), load(taps, (at + stride,)), upper)
    lower = splat(load_item(scratch, (WY2, x))) * load(taps, (at + 2 * stride,))
    lower = fma(splat(load_item(scratch, (WY3, x))), load(taps, (at + 3 * stride,)), lower)
    t = splat(load_item(scratch, (TX, x)))
    # The cubic by Horner's rule: each lane has the coefficients of its own column's tap.
    weights = fma(load(_KEYS_CUBED, (0,)), t, load(_KEYS_SQUARED, (0,)))
    weights = fma(fma(weights, t, load(_KEYS_LINEAR, (0,))), t, load(_KEYS_ONE, (0,)))
    taps_sum = weights * (upper + lower)
    # Lanes 0, 4, 8 and 12 are the same image's columns: two rotations add them up.
    taps_sum += rotate(taps_sum, 8)
    taps_sum += rotate(taps_sum, 4)
    store_four(scratch, (WARPED, 4 * x), taps_sum)


@kernel
def _linearise_row(
    first: Floats, numbers: Floats, at: int, scratch: Floats, y: int, width: int, unit: Any
) -> None:
    """Brightness residual at flow zero, its gradient, and 1 / |gradient|^2, finite everywhere.

    Where the definition does not divide, the result is cut at the same limit, or times zero.
    """
    one, smallest = splat(np.float32(1)), splat(np.float32(SMALLEST_SQUARE))
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        gx = load_column(scratch, (WARPED, 4 * x), 1) * unit
        gy = load_column(scratch, (WARPED, 4 * x), 2) * unit
        squared = fma(gx, gx, gy * gy)
        constant = load_column(scratch, (WARPED, 4 * x), 0) - load(first, (y, x - NUM_LANES))
        constant = constant - fma(gx, load(numbers, (at + U,)), gy * load(numbers, (at + V,)))
        store(numbers, (at + CONSTANT,), constant)
        store(numbers, (at + GX,), gx)
        store(numbers, (at + GY,), gy)
        store(numbers, (at + INVERSE,), one / maximum(squared, smallest))
        at += BLOCK
