"""The compiled loops of the `numba` engine; what they compute is written down in `reference.py`.

A level's fields are one float32 array, `state[field, row, column]`: image row y is row y + 1,
column x is column NUM_LANES + x, columns to the next multiple of NUM_LANES are computed and thrown
away. Row 0 and the column before the image stay zero in the duals: that makes the divergence right
at the border without a branch. Compiled code is kept on disk; Numba makes it anew when this file
changes, not when `lanes.py` does.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from twinstream.preprocess.flow.tvl1.lanes import (
    NUM_LANES,
    floor,
    lane,
    load,
    maximum,
    minimum,
    rotate,
    splat,
    sqrt,
    store,
)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Fields of a level's state: the flow, its two dual vectors, and what one warp makes constant.
U, V, PUX, PUY, PVX, PVY, CONSTANT, GX, GY, INVERSE = range(10)
NUM_FIELDS = 10

# Rows of the scratch space of `warp`: integer and fractional part of where to read, weights of the
# rows, what was read.
COLUMN, ROW, TX, WY0, WY1, WY2, WY3, WARPED, WARPED_GX, WARPED_GY = range(10)
NUM_SCRATCH = 10

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
    half = np.float32(0.5)
    for row in range(height + 2 * TAP_BORDER):
        y = min(max(row - TAP_BORDER, 0), height - 1)
        above, below = max(y - 1, 0), min(y + 1, height - 1)
        for column in range(width + 2 * TAP_BORDER):
            x = min(max(column - TAP_BORDER, 0), width - 1)
            taps[row, 4 * column] = image[y, x]
            taps[row, 4 * column + 1] = half * (
                image[y, min(x + 1, width - 1)] - image[y, max(x - 1, 0)]
            )
            taps[row, 4 * column + 2] = half * (image[below, x] - image[above, x])
            # A fourth number that nobody reads: four pixels of four numbers fill a vector.
            taps[row, 4 * column + 3] = 0


@_kernel
def warp(first: Floats, taps: Floats, state: Floats, scratch: Floats, width: int) -> None:
    """Warp the second frame's taps by the flow in `state`.

    Writes CONSTANT, GX, GY and INVERSE there.
    """
    height = state.shape[1] - 1
    for y in range(height):
        _aim_row(state, scratch, y, height, width)
        for x in range(NUM_LANES, NUM_LANES + width):
            _read_taps(taps, scratch, x)
        _linearise_row(first, state, scratch, y, width)


@_kernel
def _aim_row(state: Floats, scratch: Floats, y: int, height: int, width: int) -> None:
    """Where each pixel of row y reads, and with which weights."""
    half, one = splat(np.float32(0.5)), splat(np.float32(1))
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        home_x, home_y = load(_IOTA, (0,)) + splat(np.float32(x - NUM_LANES)), splat(np.float32(y))
        # The flow is split before the pixel's position is added, which would cost it bits.
        u = _within(load(state, (U, y + 1, x)), home_x, width)
        v = _within(load(state, (V, y + 1, x)), home_y, height)
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
def _read_taps(taps: Floats, scratch: Floats, x: int) -> None:
    """One pixel, from 16 taps of three images in four loads.

    Four taps of four numbers are one vector.
    """
    top = int(scratch[ROW, x]) + (TAP_BORDER - 1)
    left = 4 * (int(scratch[COLUMN, x]) + (TAP_BORDER - 1))
    rows = splat(scratch[WY0, x]) * load(taps, (top, left)) + splat(scratch[WY1, x]) * load(
        taps, (top + 1, left)
    )
    rows += splat(scratch[WY2, x]) * load(taps, (top + 2, left))
    rows += splat(scratch[WY3, x]) * load(taps, (top + 3, left))
    t = splat(scratch[TX, x])
    weights = (load(_KEYS_CUBED, (0,)) * t + load(_KEYS_SQUARED, (0,))) * t + load(
        _KEYS_LINEAR, (0,)
    )
    # The cubic by Horner's rule: each lane has the coefficients of its own column's tap.
    taps_sum = (weights * t + load(_KEYS_ONE, (0,))) * rows
    # Lanes 0, 4, 8 and 12 are the same image's columns: two rotations add them up.
    taps_sum += rotate(taps_sum, 8)
    taps_sum += rotate(taps_sum, 4)
    scratch[WARPED, x] = lane(taps_sum, 0)
    scratch[WARPED_GX, x] = lane(taps_sum, 1)
    scratch[WARPED_GY, x] = lane(taps_sum, 2)


@_kernel
def _linearise_row(first: Floats, state: Floats, scratch: Floats, y: int, width: int) -> None:
    """Brightness residual at flow zero, its gradient, and 1 / |gradient|^2, finite everywhere.

    Where the definition does not divide, the result is cut at the same limit, or times zero.
    """
    one, smallest = splat(np.float32(1)), splat(np.float32(SMALLEST_SQUARE))
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        gx, gy = load(scratch, (WARPED_GX, x)), load(scratch, (WARPED_GY, x))
        squared = gx * gx + gy * gy
        # In the order of the definition: float32 sums of another order are other numbers.
        constant = load(scratch, (WARPED, x)) - gx * load(state, (U, y + 1, x))
        constant = constant - gy * load(state, (V, y + 1, x)) - load(first, (y, x - NUM_LANES))
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
    theta: float,
    step: float,
    tolerance: float,
    max_iterations: int,
) -> int:
    """Iterate to the stopping rule; returns the number of iterations done.

    `mask` is 1 in the image's columns, 0 beyond.
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
        change = _wave(state, mask, width, limit, theta, step, count)
        done += count
        if look:
            expected = change
            if change <= tolerance:
                break
    return done


@_kernel
def _wave(
    state: Floats, mask: Floats, width: int, limit: float, theta: float, step: float, count: int
) -> float:
    """Do `count` iterations in one pass; returns the last one's squared change.

    Each iteration is a row behind the one before. It computes u in a row, then p in the row above,
    which needs both. u in row y needs the p of the iteration before in rows y and y - 1, which is
    ready as soon as that iteration has u in row y + 1.
    """
    height = state.shape[1] - 1
    limits, thetas, steps = splat(limit), splat(theta), splat(step)
    change = 0.0
    for front in range(1, height + 1 + count):
        for behind in range(count):
            row = front - behind
            # Only the last iteration's change is asked for; to measure it costs time.
            if 1 <= row <= height and behind == count - 1:
                change += _primal_row_measured(state, mask, row, width, limits, thetas)
                if row > 1:
                    _dual_row(state, row - 1, row, width, steps)
            elif row == 1:
                _primal_row(state, row, width, limits, thetas)
            elif 1 < row <= height:
                _sweep_row(state, row, width, limits, thetas, steps)
            # Below the last row is nothing, so its own u stands in: the difference is zero.
            elif row == height + 1:
                _dual_row(state, height, height, width, steps)
    return change


@_kernel
def _primal_row(state: Floats, row: int, width: int, limit: Any, theta: Any) -> None:
    """u of a row."""
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        u, v = _primal(state, row, x, limit, theta)
        store(state, (U, row, x), u)
        store(state, (V, row, x), v)
    _repeat_last(state, row, width)


@_kernel
def _primal_row_measured(
    state: Floats, mask: Floats, row: int, width: int, limit: Any, theta: Any
) -> float:
    """As `_primal_row`; returns the squared change of the row.

    It is summed in 16 columns and then in one fixed order, so that its bits never vary.
    """
    total = splat(np.float32(0))
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        u, v = _primal(state, row, x, limit, theta)
        du, dv = u - load(state, (U, row, x)), v - load(state, (V, row, x))
        # Padded columns are computed as well, and must not count.
        total += (du * du + dv * dv) * load(mask, (x,))
        store(state, (U, row, x), u)
        store(state, (V, row, x), v)
    _repeat_last(state, row, width)
    total += rotate(total, 8)
    total += rotate(total, 4)
    total += rotate(total, 2)
    return np.float64(lane(total + rotate(total, 1), 0))


@_kernel
def _dual_row(state: Floats, row: int, below: int, width: int, step: Any) -> None:
    """p of a row; `below` is the row itself where it is the last."""
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        _dual(state, row, x, load(state, (U, below, x)), load(state, (V, below, x)), step)


@_kernel
def _sweep_row(state: Floats, row: int, width: int, limit: Any, theta: Any, step: Any) -> None:
    """`_primal_row` of a row and `_dual_row` of the one above, with u still in registers."""
    for x in range(NUM_LANES, NUM_LANES + width, NUM_LANES):
        u, v = _primal(state, row, x, limit, theta)
        store(state, (U, row, x), u)
        store(state, (V, row, x), v)
        _dual(state, row - 1, x, u, v, step)
    _repeat_last(state, row, width)


@_kernel
def _primal(state: Floats, row: int, x: int, limit: Any, theta: Any) -> tuple[Any, Any]:
    """The new u and v of 16 pixels."""
    u, v = load(state, (U, row, x)), load(state, (V, row, x))
    gx, gy = load(state, (GX, row, x)), load(state, (GY, row, x))
    rho = load(state, (CONSTANT, row, x)) + (gx * u + gy * v)
    fi = maximum(minimum(rho * load(state, (INVERSE, row, x)), limit), splat(np.float32(0)) - limit)
    div_u = load(state, (PUX, row, x)) - load(state, (PUX, row, x - 1))
    div_u += load(state, (PUY, row, x)) - load(state, (PUY, row - 1, x))
    div_v = load(state, (PVX, row, x)) - load(state, (PVX, row, x - 1))
    div_v += load(state, (PVY, row, x)) - load(state, (PVY, row - 1, x))
    return (u - fi * gx) + theta * div_u, (v - fi * gy) + theta * div_v


@_kernel
def _repeat_last(state: Floats, row: int, width: int) -> None:
    """Beyond the image u repeats its last column, so that forward differences end with zero."""
    store(state, (U, row, NUM_LANES + width), splat(state[U, row, NUM_LANES + width - 1]))
    store(state, (V, row, NUM_LANES + width), splat(state[V, row, NUM_LANES + width - 1]))


@_kernel
def _dual(state: Floats, row: int, x: int, u_below: Any, v_below: Any, step: Any) -> None:
    """p of 16 pixels.

    One division serves both duals, which costs less than two.
    """
    one = splat(np.float32(1))
    u, v = load(state, (U, row, x)), load(state, (V, row, x))
    ux, uy = load(state, (U, row, x + 1)) - u, u_below - u
    vx, vy = load(state, (V, row, x + 1)) - v, v_below - v
    norm_u = one + step * sqrt(ux * ux + uy * uy)
    norm_v = one + step * sqrt(vx * vx + vy * vy)
    inverse = one / (norm_u * norm_v)
    by_u, by_v = inverse * norm_v, inverse * norm_u
    store(state, (PUX, row, x), (load(state, (PUX, row, x)) + step * ux) * by_u)
    store(state, (PUY, row, x), (load(state, (PUY, row, x)) + step * uy) * by_u)
    store(state, (PVX, row, x), (load(state, (PVX, row, x)) + step * vx) * by_v)
    store(state, (PVY, row, x), (load(state, (PVY, row, x)) + step * vy) * by_v)
