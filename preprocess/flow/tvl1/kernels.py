"""The compiled loops of the `numba` engine; what they compute is written down in `reference.py`.

A level's fields are one float32 array, `state[field, row, column]`: image row y is row y + 1,
column x is column NUM_LANES + x, columns to the next multiple of NUM_LANES are computed and thrown
away. Row 0 and the column before the image stay zero in the duals: that makes the divergence right
at the border without a branch. The flow is counted in units of theta / tau pixels and the gradient
in gray levels a unit, so that tau / theta, the step of the duals, is one. Compiled code is kept on
disk; Numba makes it anew when this file changes, not when `lanes.py` does.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from twinstream.preprocess.flow.tvl1.lanes import (
    NUM_LANES,
    floor,
    fma,
    lane,
    load,
    load_column,
    load_item,
    maximum,
    minimum,
    rotate,
    splat,
    sqrt,
    store,
    store_columns,
    store_four,
)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Fields of a level's state: the flow, its two dual vectors, and what one warp makes constant.
U, V, PUX, PUY, PVX, PVY, CONSTANT, GX, GY, INVERSE = range(10)
NUM_FIELDS = 10

# Rows of the scratch space of `warp`: integer and fractional part of where to read, weights of the
# rows, and in four rows what was read, four numbers a pixel like the taps.
COLUMN, ROW, TX, WY0, WY1, WY2, WY3, WARPED = range(8)
NUM_SCRATCH = 11

TAP_BORDER = 4
"""Repeated pixels on every side of a taps image: a position further out reads the same values."""

WAVE = 8
"""Iterations in one pass over the rows at most: the rows in flight stay in the cache."""

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


def _kernel(function: Any) -> Any:
    """Compile on first use, once a machine. Division by zero gives inf, as in NumPy."""
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


@_kernel
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


@_kernel
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


@_kernel
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


@_kernel
def warp(
    first: Floats, taps: Floats, state: Floats, scratch: Floats, width: int, unit: float
) -> None:
    """Warp the second frame's taps by the flow in `state`; `unit` is that of the flow in pixels.

    Writes CONSTANT, GX, GY and INVERSE there.
    """
    height = state.shape[1] - 1
    units = splat(unit)
    flat = taps.reshape(-1)
    for y in range(height):
        _aim_row(state, scratch, y, height, width, units)
        for x in range(NUM_LANES, NUM_LANES + width):
            _read_taps(flat, taps.shape[1], scratch, x)
        _linearise_row(first, state, scratch, y, width, units)


@_kernel
def _aim_row(state: Floats, scratch: Floats, y: int, height: int, width: int, unit: Any) -> None:
    """Where each pixel of row y reads, and with which weights."""
    half, one = splat(np.float32(0.5)), splat(np.float32(1))
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        home_x, home_y = load(_IOTA, (0,)) + splat(np.float32(x - NUM_LANES)), splat(np.float32(y))
        # The flow is split before the pixel's position is added, which would cost it bits.
        u = _within(load(state, (U, y + 1, x)) * unit, home_x, width)
        v = _within(load(state, (V, y + 1, x)) * unit, home_y, height)
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


@_kernel
def _within(motion: Any, home: Any, side: int) -> Any:
    """The motion, cut so that its end is near the image.

    The end lies between two pixels before and one pixel behind the image's side.
    """
    # Beyond that all taps read the border anyway, and the taps image has no further pixels.
    two, behind = splat(np.float32(2)), splat(np.float32(side + 1))
    return minimum(maximum(motion, splat(np.float32(0)) - two - home), behind - home)


@_kernel
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


@_kernel
def _linearise_row(
    first: Floats, state: Floats, scratch: Floats, y: int, width: int, unit: Any
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
        constant = constant - fma(gx, load(state, (U, y + 1, x)), gy * load(state, (V, y + 1, x)))
        store(state, (CONSTANT, y + 1, x), constant)
        store(state, (GX, y + 1, x), gx)
        store(state, (GY, y + 1, x), gy)
        store(state, (INVERSE, y + 1, x), one / maximum(squared, smallest))


@_kernel
def iterate(
    state: Floats,
    mask: Floats,
    width: int,
    limit: float,
    tau: float,
    tolerance: float,
    max_iterations: int,
) -> int:
    """Iterate to the stopping rule; returns the number of iterations done.

    `limit` and `tolerance` are in square units of the flow. `mask` is 1 in the image's columns, 0
    beyond.
    """
    done = 0
    expected = 0.0
    while done < max_iterations:
        # A wave ends with the iteration whose change the rule looks at: nothing is done in vain.
        count = 0
        look = False
        while not look and count < WAVE and done + count < max_iterations:
            look = tolerance > 0 and (done + count) % 2 == 1 and expected < tolerance
            # As OpenCV guesses it: the change falls by the tolerance with each iteration.
            expected -= tolerance
            count += 1
        change = _wave(state, mask, width, limit, tau, count)
        done += count
        if look:
            expected = change
            if change <= tolerance:
                break
    return done


@_kernel
def _wave(state: Floats, mask: Floats, width: int, limit: float, tau: float, count: int) -> float:
    """Do `count` iterations in one pass; returns the last one's squared change.

    Each iteration is a row behind the one before. It computes u in a row, then p in the row above,
    which needs both. u in row y needs the p of the iteration before in rows y and y - 1, which is
    ready as soon as that iteration has u in row y + 1.
    """
    height = state.shape[1] - 1
    limits, taus = splat(limit), splat(tau)
    change = 0.0
    for front in range(1, height + 1 + count):
        for behind in range(count):
            row = front - behind
            if 1 <= row <= height:
                # Only the last iteration's change is asked for; to measure it costs time.
                if behind == count - 1:
                    change += _primal_row_measured(state, mask, row, width, limits, taus)
                else:
                    _primal_row(state, row, width, limits, taus)
            # In a loop of its own: roots and divisions then wait for nothing but loads. Below the
            # last row is nothing, so its own u stands in: the difference is zero.
            if 2 <= row <= height + 1:
                _dual_row(state, row - 1, min(row, height), width)
    return change


@_kernel
def _primal_row(state: Floats, row: int, width: int, limit: Any, tau: Any) -> None:
    """u of a row."""
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        u, v = _primal(state, row, x, limit, tau)
        store(state, (U, row, x), u)
        store(state, (V, row, x), v)
    _repeat_last(state, row, width)


@_kernel
def _primal_row_measured(
    state: Floats, mask: Floats, row: int, width: int, limit: Any, tau: Any
) -> float:
    """As `_primal_row`; returns the squared change of the row.

    It is summed in 16 columns and then in one fixed order, so that its bits never vary.
    """
    total = splat(np.float32(0))
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        u, v = _primal(state, row, x, limit, tau)
        du, dv = u - load(state, (U, row, x)), v - load(state, (V, row, x))
        # Padded columns are computed as well, and must not count.
        total = fma(fma(du, du, dv * dv), load(mask, (x,)), total)
        store(state, (U, row, x), u)
        store(state, (V, row, x), v)
    _repeat_last(state, row, width)
    total += rotate(total, 8)
    total += rotate(total, 4)
    total += rotate(total, 2)
    return np.float64(lane(total + rotate(total, 1), 0))


@_kernel
def _dual_row(state: Floats, row: int, below: int, width: int) -> None:
    """p of a row; `below` is the row itself where it is the last."""
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        _dual(state, row, x, load(state, (U, below, x)), load(state, (V, below, x)))


@_kernel
def _primal(state: Floats, row: int, x: int, limit: Any, tau: Any) -> tuple[Any, Any]:
    """The new u and v of 16 pixels."""
    u, v = load(state, (U, row, x)), load(state, (V, row, x))
    gx, gy = load(state, (GX, row, x)), load(state, (GY, row, x))
    rho = fma(gx, u, fma(gy, v, load(state, (CONSTANT, row, x))))
    zero = splat(np.float32(0))
    fi = maximum(minimum(rho * load(state, (INVERSE, row, x)), limit), zero - limit)
    div_u = load(state, (PUX, row, x)) - load(state, (PUX, row, x - 1))
    div_u += load(state, (PUY, row, x)) - load(state, (PUY, row - 1, x))
    div_v = load(state, (PVX, row, x)) - load(state, (PVX, row, x - 1))
    div_v += load(state, (PVY, row, x)) - load(state, (PVY, row - 1, x))
    return fma(tau, div_u, fma(zero - fi, gx, u)), fma(tau, div_v, fma(zero - fi, gy, v))


@_kernel
def _repeat_last(state: Floats, row: int, width: int) -> None:
    """Beyond the image u repeats its last column, so that forward differences end with zero."""
    store(state, (U, row, NUM_LANES + width), splat(state[U, row, NUM_LANES + width - 1]))
    store(state, (V, row, NUM_LANES + width), splat(state[V, row, NUM_LANES + width - 1]))


@_kernel
def _dual(state: Floats, row: int, x: int, u_below: Any, v_below: Any) -> None:
    """p of 16 pixels."""
    one = splat(np.float32(1))
    u, v = load(state, (U, row, x)), load(state, (V, row, x))
    ux, uy = load(state, (U, row, x + 1)) - u, u_below - u
    vx, vy = load(state, (V, row, x + 1)) - v, v_below - v
    by_u = one / (one + sqrt(fma(ux, ux, uy * uy)))
    by_v = one / (one + sqrt(fma(vx, vx, vy * vy)))
    store(state, (PUX, row, x), (load(state, (PUX, row, x)) + ux) * by_u)
    store(state, (PUY, row, x), (load(state, (PUY, row, x)) + uy) * by_u)
    store(state, (PVX, row, x), (load(state, (PVX, row, x)) + vx) * by_v)
    store(state, (PVY, row, x), (load(state, (PVY, row, x)) + vy) * by_v)
