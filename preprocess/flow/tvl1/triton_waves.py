"""The iterations of the `cuda` engine: several in one launch, without shared memory or barriers.

One program is one warp. It owns a strip of COLUMNS columns and marches down the rows; iteration t
works t rows behind the front, so a row enters once, goes through DEPTH iterations in registers, and
leaves once. Of a strip's columns DEPTH on either side are only there for their neighbours, likewise
DEPTH rows above and below a segment of `rows` rows. Long segments compute less twice, short ones
end sooner: the host takes what suits the number of pairs at work. No bit depends on it, because
changes are summed over pieces of PIECE rows whatever the segment.

A wave runs ahead of the stopping rule: it records the change after every second of its iterations,
and each program of the next wave begins by finding where the rule would have ended. Had it ended
inside the wave, the wave is done again from the same state (the other side still holds it) with
fewer iterations. So there is one launch a wave: what it learns of the last one it reads from one
slot of `control` and `changes`, and what it does goes to the other. A pair that has ended has
LEFT 0, and its programs return at once. Sums have a fixed order: lanes over the rows of a piece,
lanes in a strip, strips and pieces.
"""

import triton.language as tl
from triton.language import constexpr, tensor

from twinstream.preprocess.flow.tvl1.triton_kernels import NUM_CONSTANTS, NUM_FIELDS, kernel
from twinstream.preprocess.flow.tvl1.triton_rule import NUM_CONTROLS, PIECE, judged, keep


@kernel
def advance(
    state: tensor,
    constants: tensor,
    control: tensor,
    changes: tensor,
    working: tensor,
    wave: tensor,
    iterations: tensor,
    look: tensor,
    tolerance: tensor,
    rows: tensor,
    height: tensor,
    width: tensor,
    pairs: tensor,
    limit: tensor,
    theta: tensor,
    step: tensor,
    DEPTH: constexpr,
    COLUMNS: constexpr,
) -> None:
    """Judge the last wave of each pair, and do the next: at most DEPTH iterations, from one side of
    `state` to the other.

    `wave` counts from 0 in each warp; wave n reads slot n % 2 and writes the other. `control` is
    (2, rows, pairs), `changes` (2, pairs, pieces, DEPTH / 2): the squared change of the flow in
    iterations 1, 3, ... summed over a piece of a strip. `working` lists the pairs at work, and ends
    with their number.
    """
    strips = tl.maximum(tl.cdiv(width - 2 * DEPTH, COLUMNS - 2 * DEPTH), 1)
    tiles = strips * tl.cdiv(height, rows)
    entry, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    if entry >= tl.load(working + pairs):
        return
    pair = tl.load(working + entry)
    pieces = strips * tl.cdiv(height, PIECE)
    half = pairs * pieces * (DEPTH // 2)
    now, then = wave % 2, 1 - wave % 2
    own = pair * pieces * (DEPTH // 2)
    side, done, left, look, run, total = judged(
        control + now * NUM_CONTROLS * pairs + pair,
        changes + now * half + own,
        pieces,
        tolerance,
        pairs,
        wave,
        iterations,
        look,
        DEPTH,
    )
    if tile == 0:
        keep(
            control + then * NUM_CONTROLS * pairs + pair, pairs, side, done, left, look, run, total
        )
    # The compiler must see that all lanes take the same way, or it makes two of each: what is
    # reduced over integers it knows to be the same in all of them.
    plan = tl.max(tl.where(tl.arange(0, 32) == 0, 2 * run + side, 0))
    run, side = plan // 2, plan % 2
    if run == 0:
        return
    strip, top = tile % strips, tile // strips * rows
    bottom = tl.minimum(top + rows, height)
    size = height * width
    source = state + (side * pairs + pair).to(tl.int64) * NUM_FIELDS * size
    target = state + ((1 - side) * pairs + pair).to(tl.int64) * NUM_FIELDS * size
    fixed = constants + pair.to(tl.int64) * NUM_CONSTANTS * size
    # Pieces lie strip after strip in each row of pieces.
    change = changes + then * half + own + strip * (DEPTH // 2)
    stride = strips * (DEPTH // 2)
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
            stride,
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
            source,
            target,
            fixed,
            change,
            stride,
            x,
            area,
            height,
            width,
            run,
            limit,
            theta,
            step,
            DEPTH,
        )


@kernel
def _march(
    source: tensor,
    target: tensor,
    fixed: tensor,
    change: tensor,
    stride: tensor,
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

    Writes columns begin .. end - 1 of rows top .. bottom - 1, and the sums of each piece of them,
    `stride` apart.
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
                total = sums[t // 2] + tl.where(counted, moved, 0.0)
                ends = (y >= top) & ((y % PIECE == PIECE - 1) | (y == bottom - 1)) & (y < bottom)
                if ends:
                    tl.store(change + y // PIECE * stride + t // 2, tl.sum(total))
                now_sums += (tl.where(ends, 0.0, total),)
        held = now_held
        sums = now_sums
        done = front - DEPTH
        _store_fields(
            target + done * width + x, size, row, (x >= begin) & (x < tl.where(done >= top, end, 0))
        )
        front += 1


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
