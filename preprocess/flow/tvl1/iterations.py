"""The iterations of the `numba` engine, in compiled loops; what they compute is written down in
`reference.py`.
"""

from typing import Any

import numpy as np

from twinstream.preprocess.flow.tvl1.lanes import (
    NUM_LANES,
    fma,
    lane,
    load,
    load_beside,
    load_item,
    maximum,
    minimum,
    rotate,
    splat,
    sqrt,
    store,
)
from twinstream.preprocess.flow.tvl1.state import (
    BLOCK,
    CONSTANT,
    GX,
    GY,
    INVERSE,
    PUX,
    PUY,
    PVX,
    PVY,
    Floats,
    U,
    V,
    kernel,
)

WAVE = 8
"""Iterations in one pass over the rows at most: the rows in flight stay in the cache."""

TURN = 16
"""Rows that an iteration does before the next one goes on."""


@kernel
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
    beyond to the end of a block.
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


@kernel
def _wave(state: Floats, mask: Floats, width: int, limit: float, tau: float, count: int) -> float:
    """Do `count` iterations in one pass; returns the last one's squared change.

    u in row y needs the p of the iteration before in rows y and y - 1, and p in row y the u of its
    own in rows y and y + 1. So an iteration follows two rows behind the one before, and p two rows
    behind u: then neither waits for the other, and roots and divisions of one row are computed
    beside the rest of another one. Each iteration does some rows in turn, since those still lie in
    the first cache when their p is computed.
    """
    height, stride = state.shape[0] - 1, state.shape[1] * BLOCK
    numbers, limits, taus = state.reshape(-1), splat(limit), splat(tau)
    change = 0.0
    for front in range(1, height + 1 + 2 * count, TURN):
        for number in range(count):
            first = front - 2 * number
            # Only the last iteration's change is asked for; to measure it costs time.
            is_measured = number == count - 1
            for row in range(max(first, 1), min(first + TURN, height + 3)):
                at = row * stride + BLOCK
                above = at - 2 * stride
                if row > height:
                    # Below the last row is nothing, so its own u stands in: the difference is zero.
                    _dual_row(numbers, mask, above, above + stride if row == height + 1 else above)
                else:
                    change += _row(
                        numbers, mask, at, stride, width, limits, taus, row > 2, is_measured
                    )
    return change


@kernel
def _row(
    numbers: Floats,
    mask: Floats,
    at: int,
    stride: int,
    width: int,
    limit: Any,
    tau: Any,
    has_dual: bool,
    is_measured: bool,
) -> float:
    """u of the row whose first block is `at`, and p two rows above if there is such a row; rows are
    `stride` apart. Returns the squared change of the row if it is measured.
    """
    total = splat(np.float32(0))
    for x in range(0, len(mask), NUM_LANES):
        if has_dual:
            _dual(numbers, at - 2 * stride, at - stride)
        u, v = _primal(numbers, at, at - stride, limit, tau)
        if is_measured:
            total = _with_change(total, numbers, at, u, v, load(mask, (x,)))
        store(numbers, (at + U,), u)
        store(numbers, (at + V,), v)
        at += BLOCK
    _repeat_last(numbers, mask, at, width)
    return float(_sum(total)) if is_measured else 0.0


@kernel
def _with_change(total: Any, numbers: Floats, at: int, u: Any, v: Any, inside: Any) -> Any:
    """`total` and the squared change of the block `at` to u and v, where `inside` is 1 and not 0.

    Padded columns are computed as well, and must not count.
    """
    du, dv = u - load(numbers, (at + U,)), v - load(numbers, (at + V,))
    return fma(fma(du, du, dv * dv), inside, total)


@kernel
def _sum(total: Any) -> float:
    """Of the sums of 16 columns, in one fixed order, so that its bits never vary."""
    total += rotate(total, 8)
    total += rotate(total, 4)
    total += rotate(total, 2)
    return np.float64(lane(total + rotate(total, 1), 0))


@kernel
def _dual_row(numbers: Floats, mask: Floats, at: int, below: int) -> None:
    """p of a row alone; `below` is the first block of the next one."""
    for _ in range(0, len(mask), NUM_LANES):
        _dual(numbers, at, below)
        at += BLOCK
        below += BLOCK


@kernel
def _primal(numbers: Floats, at: int, above: int, limit: Any, tau: Any) -> tuple[Any, Any]:
    """The new u and v of the block `at`; `above` is the one in the row above."""
    before = at - BLOCK
    u, v = load(numbers, (at + U,)), load(numbers, (at + V,))
    gx, gy = load(numbers, (at + GX,)), load(numbers, (at + GY,))
    rho = fma(gx, u, fma(gy, v, load(numbers, (at + CONSTANT,))))
    zero = splat(np.float32(0))
    fi = maximum(minimum(rho * load(numbers, (at + INVERSE,)), limit), zero - limit)
    div_u = load(numbers, (at + PUX,)) - load_beside(numbers, (at + PUX,), (before + PUX,), -1)
    div_u += load(numbers, (at + PUY,)) - load(numbers, (above + PUY,))
    div_v = load(numbers, (at + PVX,)) - load_beside(numbers, (at + PVX,), (before + PVX,), -1)
    div_v += load(numbers, (at + PVY,)) - load(numbers, (above + PVY,))
    return fma(tau, div_u, fma(zero - fi, gx, u)), fma(tau, div_v, fma(zero - fi, gy, v))


@kernel
def _repeat_last(numbers: Floats, mask: Floats, end: int, width: int) -> None:
    """Beyond the image u repeats its last column, so that forward differences end with zero.

    `end` is the block behind the row.
    """
    column, inside = (width - 1) % NUM_LANES, load(mask, (len(mask) - NUM_LANES,))
    beyond = splat(np.float32(1)) - inside
    for field in (U, V):
        at = end - BLOCK + field
        last = splat(load_item(numbers, (at + column,)))
        store(numbers, (at,), fma(last, beyond, load(numbers, (at,)) * inside))
        store(numbers, (end + field,), last)


@kernel
def _dual(numbers: Floats, at: int, below: int) -> None:
    """p of the block `at`; `below` is the one in the row below."""
    one, behind = splat(np.float32(1)), at + BLOCK
    u, v = load(numbers, (at + U,)), load(numbers, (at + V,))
    ux = load_beside(numbers, (at + U,), (behind + U,), 1) - u
    vx = load_beside(numbers, (at + V,), (behind + V,), 1) - v
    uy, vy = load(numbers, (below + U,)) - u, load(numbers, (below + V,)) - v
    by_u = one / (one + sqrt(fma(ux, ux, uy * uy)))
    by_v = one / (one + sqrt(fma(vx, vx, vy * vy)))
    store(numbers, (at + PUX,), (load(numbers, (at + PUX,)) + ux) * by_u)
    store(numbers, (at + PUY,), (load(numbers, (at + PUY,)) + uy) * by_u)
    store(numbers, (at + PVX,), (load(numbers, (at + PVX,)) + vx) * by_v)
    store(numbers, (at + PVY,), (load(numbers, (at + PVY,)) + vy) * by_v)
