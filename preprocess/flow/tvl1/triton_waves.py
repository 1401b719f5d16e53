"""The iterations of the `cuda` engine: several in one launch, without shared memory or barriers.

One program is one warp. It owns a strip of COLUMNS columns and marches down the rows; iteration t
works t rows behind the front, so a row enters once, goes through DEPTH iterations in registers, and
leaves once. Of a strip's columns DEPTH on either side are only there for their neighbours, likewise
DEPTH rows above and below a segment of ROWS rows.

A wave runs ahead of the stopping rule: it records the change after every second of its iterations,
and `decide` then finds where the rule would have ended. Had it ended inside the wave, the wave is
done again from the same state (the other side still holds it) with fewer iterations. A pair that
has ended has RUN 0, and its programs return at once. Sums have a fixed order: lanes over the rows,
lanes in a strip, strips and segments.
"""

import triton.language as tl
from triton.language import constexpr, tensor

from twinstream.preprocess.flow.tvl1.triton_kernels import NUM_CONSTANTS, NUM_FIELDS, kernel

# Rows of `control`: the newer side of the state; iterations done and left in this warp; how many
# more until the rule is looked at; how many the next wave does; iterations done in all warps.
SIDE, DONE, LEFT, LOOK, RUN, TOTAL = (constexpr(row) for row in range(6))
NUM_CONTROLS = 6

NEVER = constexpr(1 << 30)
"""LOOK where the stopping rule is off, or has been met."""


@kernel
def advance(
    state: tensor,
    constants: tensor,
    control: tensor,
    changes: tensor,
    height: tensor,
    width: tensor,
    pairs: tensor,
    limit: tensor,
    theta: tensor,
    step: tensor,
    DEPTH: constexpr,
    COLUMNS: constexpr,
    ROWS: constexpr,
) -> None:
    """RUN iterations, at most DEPTH, of every pair, from one side of `state` to the other.

    `changes` is (pairs, tiles, DEPTH / 2): the squared change of the flow in iterations 1, 3, ...
    summed over a tile.
    """
    strips = tl.maximum(tl.cdiv(width - 2 * DEPTH, COLUMNS - 2 * DEPTH), 1)
    tiles = strips * tl.cdiv(height, ROWS)
    pair, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    run = tl.load(control + RUN * pairs + pair)
    if run == 0:
        return
    strip, top = tile % strips, tile // strips * ROWS
    bottom = tl.minimum(top + ROWS, height)
    size = height * width
    side = tl.load(control + SIDE * pairs + pair)
    source = state + (side * pairs + pair).to(tl.int64) * NUM_FIELDS * size
    target = state + ((1 - side) * pairs + pair).to(tl.int64) * NUM_FIELDS * size
    fixed = constants + pair.to(tl.int64) * NUM_CONSTANTS * size
    change = changes + (pair * tiles + tile) * (DEPTH // 2)
    first = strip * (COLUMNS - 2 * DEPTH)
    x = first + tl.arange(0, COLUMNS)
    begin = tl.where(strip == 0, 0, first + DEPTH)
    end = tl.where(strip == strips - 1, width, first + COLUMNS - DEPTH)
    area = (begin, end, top, bottom)
    # Many waves are short, and a pipeline of half the depth costs them less.
    if run <= DEPTH // 2:
        _march(
            source,
            target,
            fixed,
            change,
            x,
            area,
            height,
            width,
            run,
            limit,
            theta,
            step,
            DEPTH // 2,
        )
    else:
        _march(
            source, target, fixed, change, x, area, height, width, run, limit, theta, step, DEPTH
        )


@kernel
def _march(
    source: tensor,
    target: tensor,
    fixed: tensor,
    change: tensor,
    x: tensor,
    area: tensor,
    height: tensor,
    width: tensor,
    run: tensor,
    limit: tensor,
    theta: tensor,
    step: tensor,
    DEPTH: constexpr,
) -> None:
    """Do `run` iterations in a pipeline of DEPTH.

    Writes columns begin .. end - 1 of rows top .. bottom - 1.
    """
    begin, end, top, bottom = area
    size = height * width
    nothing = tl.zeros_like(x).to(tl.float32)
    held: tl.tuple = ()
    sums: tl.tuple = ()
    for _ in tl.static_range(DEPTH):
        held += ((nothing, nothing, nothing, nothing, nothing, nothing),)
    for _ in tl.static_range(DEPTH // 2):
        sums += (nothing,)
    # Each iteration spoils one more row at the edge of a segment, so it starts DEPTH rows before.
    front = tl.maximum(top - DEPTH, 0)
    while front < bottom + DEPTH:
        # Rows outside the image or the area are rows without columns.
        row = _load_fields(source + front * width + x, size, x < tl.where(front < height, width, 0))
        now_held: tl.tuple = ()
        now_sums: tl.tuple = ()
        for t in tl.static_range(DEPTH):
            y = front - t
            there = x < tl.where((y >= 0) & (y < height), width, 0)
            # The pipeline is always as long; iterations beyond `run` pass rows through.
            live = tl.where(t < run, 1.0, 0.0)
            between = tl.where((y > 0) & (y < height), 1.0, 0.0)
            row, kept, moved = _iteration(
                row,
                held[t],
                _load_constants(fixed + y * width + x, size, there),
                x,
                width,
                between,
                live * limit,
                live * theta,
                live * step,
            )
            now_held += (kept,)
            if t % 2 == 1:
                counted = (x >= begin) & (x < tl.where((y >= top) & (y < bottom), end, 0))
                now_sums += (sums[t // 2] + tl.where(counted, moved, 0.0),)
        held = now_held
        sums = now_sums
        done = front - DEPTH
        _store_fields(
            target + done * width + x, size, row, (x >= begin) & (x < tl.where(done >= top, end, 0))
        )
        front += 1
    for look in tl.static_range(DEPTH // 2):
        tl.store(change + look, tl.sum(sums[look]))


@kernel
def _iteration(
    row: tensor,
    held: tensor,
    values: tensor,
    x: tensor,
    width: tensor,
    between: tensor,
    limit: tensor,
    theta: tensor,
    step: tensor,
) -> tensor:
    """Take in a row, return the finished row above it.

    `held` is that row above, with new flow and old duals. `between` is 0 where one of the two rows
    lies outside the image. With limit, theta and step 0 a row passes through unchanged, to the bit:
    u - 0 * gx + 0 * div, and (p + 0) / 1.
    """
    u, v, pux, puy, pvx, pvy = row
    u_above, v_above, pux_above, puy_above, pvx_above, pvy_above = held
    constant, gx, gy, inverse = values
    lane = tl.arange(0, x.shape[0])
    left, right = tl.maximum(lane - 1, 0), tl.minimum(lane + 1, x.shape[0] - 1)

    fi = tl.minimum(tl.maximum((constant + (gx * u + gy * v)) * inverse, -limit), limit)
    # The neighbour's dual comes from its lane; a strip's first lane has none, and is thrown away.
    div_u = pux - tl.where(x == 0, 0.0, tl.gather(pux, left, 0)) + (puy - puy_above)
    div_v = pvx - tl.where(x == 0, 0.0, tl.gather(pvx, left, 0)) + (pvy - pvy_above)
    new_u, new_v = (u - fi * gx) + theta * div_u, (v - fi * gy) + theta * div_v
    moved = (new_u - u) * (new_u - u) + (new_v - v) * (new_v - v)

    ux = tl.where(x >= width - 1, 0.0, tl.gather(u_above, right, 0) - u_above)
    vx = tl.where(x >= width - 1, 0.0, tl.gather(v_above, right, 0) - v_above)
    uy, vy = between * (new_u - u_above), between * (new_v - v_above)
    norm_u = 1.0 + step * tl.sqrt(ux * ux + uy * uy)
    norm_v = 1.0 + step * tl.sqrt(vx * vx + vy * vy)
    # One division serves both duals.
    shared = 1.0 / (norm_u * norm_v)
    by_u, by_v = shared * norm_v, shared * norm_u
    above = (
        u_above,
        v_above,
        (pux_above + step * ux) * by_u,
        (puy_above + step * uy) * by_u,
        (pvx_above + step * vx) * by_v,
        (pvy_above + step * vy) * by_v,
    )
    return above, (new_u, new_v, pux, puy, pvx, pvy), moved


@kernel
def _load_constants(pixel: tensor, size: tensor, there: tensor) -> tensor:
    """A row of what the warp made constant; 0 outside the image."""
    return (
        tl.load(pixel, there, 0.0),
        tl.load(pixel + size, there, 0.0),
        tl.load(pixel + 2 * size, there, 0.0),
        tl.load(pixel + 3 * size, there, 0.0),
    )


@kernel
def _load_fields(pixel: tensor, size: tensor, there: tensor) -> tensor:
    """A row of the six fields; 0 outside the image."""
    return (
        tl.load(pixel, there, 0.0),
        tl.load(pixel + size, there, 0.0),
        tl.load(pixel + 2 * size, there, 0.0),
        tl.load(pixel + 3 * size, there, 0.0),
        tl.load(pixel + 4 * size, there, 0.0),
        tl.load(pixel + 5 * size, there, 0.0),
    )


@kernel
def _store_fields(pixel: tensor, size: tensor, row: tensor, own: tensor) -> None:
    """Write a row of the six fields."""
    for field in tl.static_range(6):
        tl.store(pixel + field * size, row[field], own)


@kernel
def begin(
    control: tensor, iterations: tensor, look: tensor, pairs: tensor, DEPTH: constexpr
) -> None:
    """Prepare a warp's first wave.

    It does no more iterations than the warp before, which is a good guess.
    """
    own = control + tl.program_id(0)
    guess = tl.load(own + DONE * pairs)
    guess = tl.where(guess == 0, DEPTH, tl.minimum(guess, DEPTH))
    tl.store(own + DONE * pairs, 0)
    tl.store(own + LEFT * pairs, iterations)
    tl.store(own + LOOK * pairs, look)
    tl.store(own + RUN * pairs, tl.minimum(guess, iterations))


@kernel
def decide(
    control: tensor,
    changes: tensor,
    tiles: tensor,
    tolerance: tensor,
    pairs: tensor,
    DEPTH: constexpr,
    TILES: constexpr,
) -> None:
    """After a wave, for each pair: keep it and plan the next one, or plan a shorter one again.

    The rule is looked at when, falling by the tolerance an iteration, the change could have come
    below it: at the first even number of iterations k with k * tolerance > change.
    """
    pair = tl.program_id(0)
    own = control + pair
    run = tl.load(own + RUN * pairs)
    if run == 0:
        return
    left, look = tl.load(own + LEFT * pairs), tl.load(own + LOOK * pairs)
    tile = tl.arange(0, TILES)
    met = 0
    for half in tl.static_range(DEPTH // 2):
        done = 2 * half + 2
        known = tile < tl.where(done <= run, tiles, 0)
        change = tl.sum(tl.load(changes + (pair * tiles + tile) * (DEPTH // 2) + half, known, 0.0))
        looked = (look == done) & (done <= run) & (met == 0)
        # Bounded, because the quotient of a large change would not fit 32 bits.
        wait = 2 * tl.minimum(change / (2.0 * tolerance), 1e6).to(tl.int32) + 2
        met = tl.where(looked & (change <= tolerance), done, met)
        look = tl.where(looked, done + wait, look)
    # Iterations after the one that met the rule are in the state already, and must not be.
    again = (met > 0) & (met < run)
    left = tl.where(again, met, tl.where(met > 0, 0, left - run))
    side = tl.load(own + SIDE * pairs)
    tl.store(own + SIDE * pairs, tl.where(again, side, 1 - side))
    kept = tl.where(again, 0, run)
    tl.store(own + DONE * pairs, tl.load(own + DONE * pairs) + kept)
    tl.store(own + TOTAL * pairs, tl.load(own + TOTAL * pairs) + kept)
    tl.store(own + LEFT * pairs, left)
    tl.store(own + LOOK * pairs, tl.where(met > 0, NEVER, look - run))
    tl.store(own + RUN * pairs, tl.minimum(left, DEPTH))
