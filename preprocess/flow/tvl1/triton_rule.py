"""The stopping rule of the `cuda` engine: what of each pair is kept, and what its next wave does.

A pair's `control` has two slots; a wave reads the one that the wave before wrote, and writes the
other, so that all programs of a pair judge by the same numbers. `triton_waves.py` says what a wave
is. Sums over tiles have a fixed order.
"""

import triton.language as tl
from triton.language import constexpr, tensor

from twinstream.preprocess.flow.tvl1.triton_kernels import kernel

# Rows of a slot of `control`: the newer side of the state; iterations done and left in this warp;
# how many more until the rule is looked at; how many the last wave did; iterations in all warps.
SIDE, DONE, LEFT, LOOK, RUN, TOTAL = (constexpr(row) for row in range(6))
NUM_CONTROLS = constexpr(6)

PIECE = constexpr(16)
"""Rows whose changes are summed together; every segment is a multiple of it."""

SUMMED = constexpr(128)
"""Sums that a program adds up at a time."""

NEVER = constexpr(1 << 30)
"""LOOK where the stopping rule is off, or has been met."""


@kernel
def judged(
    own: tensor,
    changes: tensor,
    pieces: tensor,
    tolerance: tensor,
    pairs: tensor,
    wave: tensor,
    iterations: tensor,
    look: tensor,
    DEPTH: constexpr,
) -> tl.tuple:
    """What is so of a pair after its last wave: that is kept, or planned again with fewer
    iterations.

    Gives side, done, left, look, run of the next wave, total. A warp's first wave does no more
    iterations than the warp before, which is a good guess.

    The rule is looked at when, falling by the tolerance an iteration, the change could have come
    below it: at the first even number of iterations k with k * tolerance > change.
    """
    side, total = tl.load(own + SIDE * pairs), tl.load(own + TOTAL * pairs)
    before = tl.load(own + DONE * pairs)
    begins = wave == 0
    left = tl.where(begins, iterations, tl.load(own + LEFT * pairs))
    look = tl.where(begins, look, tl.load(own + LOOK * pairs))
    run = tl.where(begins, 0, tl.load(own + RUN * pairs))
    met = 0
    for half in tl.static_range(DEPTH // 2):
        done = 2 * half + 2
        known = tl.where(done <= run, pieces, 0)
        change = _sum_of(changes + half, known, DEPTH // 2)
        looked = (look == done) & (done <= run) & (met == 0)
        # Bounded, because the quotient of a large change would not fit 32 bits.
        wait = 2 * tl.minimum(change / (2.0 * tolerance), 1e6).to(tl.int32) + 2
        met = tl.where(looked & (change <= tolerance), done, met)
        look = tl.where(looked, done + wait, look)
    # Iterations after the one that met the rule are in the state already, and must not be.
    again = (met > 0) & (met < run)
    left = tl.where(again, met, tl.where(met > 0, 0, left - run))
    side = tl.where(again | (run == 0), side, 1 - side)
    kept = tl.where(again, 0, run)
    look = tl.where(met > 0, NEVER, look - run)
    most = tl.where(begins & (before > 0), tl.minimum(before, DEPTH), DEPTH)
    done = tl.where(begins, 0, before + kept)
    return side, done, left, look, tl.minimum(left, most), total + kept


@kernel
def _sum_of(values: tensor, num: tensor, STRIDE: constexpr) -> tensor:
    """Of so many values, STRIDE apart, always in the same order."""
    index = tl.arange(0, SUMMED)
    sums = tl.zeros((SUMMED,), tl.float32)
    begin = 0
    while begin < num:
        sums += tl.load(values + (begin + index) * STRIDE, begin + index < num, 0.0)
        begin += SUMMED
    return tl.sum(sums)


@kernel
def keep(
    own: tensor,
    pairs: tensor,
    side: tensor,
    done: tensor,
    left: tensor,
    look: tensor,
    run: tensor,
    total: tensor,
) -> None:
    """Write a pair's slot."""
    tl.store(own + SIDE * pairs, side)
    tl.store(own + DONE * pairs, done)
    tl.store(own + LEFT * pairs, left)
    tl.store(own + LOOK * pairs, look)
    tl.store(own + RUN * pairs, run)
    tl.store(own + TOTAL * pairs, total)


@kernel
def gather(control: tensor, working: tensor, pairs: tensor, BLOCK: constexpr) -> None:
    """List the pairs at work, in order, and then their number: one program.

    A pair leaves the list when both of its slots say that it has ended, and so say the same.
    """
    num = 0
    first = 0
    while first < pairs:
        pair = first + tl.arange(0, BLOCK)
        left = control + LEFT * pairs + pair
        inside = pair < pairs
        here = tl.load(left, inside, 0) + tl.load(left + NUM_CONTROLS * pairs, inside, 0) > 0
        place = num + tl.cumsum(here.to(tl.int32)) - 1
        tl.store(working + place, pair, here)
        num += tl.sum(here.to(tl.int32))
        first += BLOCK
    tl.store(working + pairs, num)
