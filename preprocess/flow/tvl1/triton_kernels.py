"""The image kernels of the `cuda` engine, in Triton; `reference.py` states what they compute.

Planes are float32 (H, W), one after the other, and so are the programs. `state` holds a pair's
fields twice, on the two sides that iterations read and write in turn; the first row of `control`
says which side is the newer. One machine code serves all sizes and batches, so a result cannot
depend on the batch. With TRITON_INTERPRET=1, set before Triton is imported, all of this runs in
NumPy.
"""

import inspect
from typing import Any

import triton
import triton.language as tl
from triton.language import constexpr, tensor

from twinstream.preprocess.flow import stored
from twinstream.shards.format import flow_codec

NUM_FIELDS = constexpr(6)
"""Of a pair in `state`: the flow u and v, and its duals pux, puy, pvx, pvy."""
NUM_CONSTANTS = constexpr(4)
"""What a warp makes constant: rho at flow zero, the gradient gx and gy, 1 / |gradient|^2."""

SMALLEST_SQUARE = constexpr(1e-30)
"""Of a gradient: its inverse, times any residual, is a float32."""

MICROPIXELS = constexpr(stored.MICROPIXELS)
ZERO_LEVEL = constexpr(flow_codec.ZERO_LEVEL)
HALF_EVEN_32, HALF_EVEN_64 = constexpr(1.5 * 2**23), constexpr(1.5 * 2**52)
"""Numbers beside which a float32 or float64 has no digit behind the point."""


def kernel(function: Any) -> Any:
    """Compile for the GPU on first use, once a machine; or interpret.

    No argument's value is compiled in.
    """
    # Triton would make other machine code for arguments that are 1 or divisible by 16.
    parameters = inspect.signature(function).parameters.values()
    arguments = [
        parameter.name for parameter in parameters if parameter.annotation is not constexpr
    ]
    return triton.jit(function, do_not_specialize=arguments)


@kernel
def resize(
    images: tensor,
    out: tensor,
    rows: tensor,
    row_parts: tensor,
    columns: tensor,
    column_parts: tensor,
    gain: tensor,
    height: tensor,
    width: tensor,
    out_height: tensor,
    out_width: tensor,
    BLOCK: constexpr,
) -> None:
    """Bilinear, times `gain`.

    Row y of `out` lies `row_parts[y]` below row `rows[y]` of the image; columns likewise.
    """
    blocks = tl.cdiv(out_height * out_width, BLOCK)
    # 64 bits: a batch of planes can have more pixels than 32 bits count.
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < out_height * out_width
    y, x = pixel // out_width, pixel % out_width
    above, left = tl.load(rows + y, inside, 0), tl.load(columns + x, inside, 0)
    below, right = tl.minimum(above + 1, height - 1), tl.minimum(left + 1, width - 1)
    lower, part = tl.load(row_parts + y, inside, 0.0), tl.load(column_parts + x, inside, 0.0)
    image = images + plane * height * width
    upper, lower = gain * (1.0 - lower), gain * lower
    first = upper * tl.load(image + above * width + left) + lower * tl.load(
        image + below * width + left
    )
    second = upper * tl.load(image + above * width + right) + lower * tl.load(
        image + below * width + right
    )
    tl.store(
        out + plane * out_height * out_width + pixel, (1.0 - part) * first + part * second, inside
    )


@kernel
def differences(
    images: tensor, gradients: tensor, height: tensor, width: tensor, BLOCK: constexpr
) -> None:
    """(T, H, W) -> (T, 2, H, W): half the difference of the two neighbours in x and in y.

    Borders are repeated.
    """
    size = height * width
    blocks = tl.cdiv(size, BLOCK)
    frame = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size
    y, x = pixel // width, pixel % width
    image, out = images + frame * size, gradients + frame * 2 * size
    left = tl.load(image + y * width + tl.maximum(x - 1, 0), inside, 0.0)
    right = tl.load(image + y * width + tl.minimum(x + 1, width - 1), inside, 0.0)
    above = tl.load(image + tl.maximum(y - 1, 0) * width + x, inside, 0.0)
    below = tl.load(image + tl.minimum(y + 1, height - 1) * width + x, inside, 0.0)
    tl.store(out + pixel, (right - left) * 0.5, inside)
    tl.store(out + size + pixel, (below - above) * 0.5, inside)


@kernel
def warp(
    images: tensor,
    gradients: tensor,
    first: tensor,
    state: tensor,
    control: tensor,
    constants: tensor,
    height: tensor,
    width: tensor,
    pairs: tensor,
    BLOCK: constexpr,
) -> None:
    """Warp each pair's second frame and its gradient by the flow in `state`; write `constants`."""
    size = height * width
    blocks = tl.cdiv(size, BLOCK)
    pair = tl.program_id(0) // blocks
    pixel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size
    frame = tl.load(first + pair).to(tl.int64)
    side = tl.load(control + pair)  # SIDE is row 0
    flow = state + (side * pairs + pair).to(tl.int64) * NUM_FIELDS * size
    u, v = tl.load(flow + pixel, inside, 0.0), tl.load(flow + size + pixel, inside, 0.0)
    image, gradient = images + (frame + 1) * size, gradients + (frame + 1) * 2 * size
    warped, gx, gy = _bicubic(
        image, gradient, u, v, pixel // width, pixel % width, height, width, inside
    )
    squared = gx * gx + gy * gy
    out = constants + pair.to(tl.int64) * NUM_CONSTANTS * size + pixel
    now = tl.load(images + frame * size + pixel, inside, 0.0)
    tl.store(out, warped - gx * u - gy * v - now, inside)
    tl.store(out + size, gx, inside)
    tl.store(out + 2 * size, gy, inside)
    # Where the definition does not divide, the result is cut at the same limit, or times zero.
    tl.store(out + 3 * size, 1.0 / tl.maximum(squared, SMALLEST_SQUARE), inside)


@kernel
def _bicubic(
    image: tensor,
    gradient: tensor,
    u: tensor,
    v: tensor,
    y: tensor,
    x: tensor,
    height: tensor,
    width: tensor,
    inside: tensor,
) -> tl.tuple:
    """The image and its gradient at (x + u, y + v): Keys' cubic, a = -0.5.

    Pixels outside repeat the border.
    """
    # The flow is cut where all taps read the border, and split before the pixel's position is
    # added: that would cost bits.
    u = tl.minimum(tl.maximum(u, -2.0 - x), width + 1.0 - x)
    v = tl.minimum(tl.maximum(v, -2.0 - y), height + 1.0 - y)
    whole_u, whole_v = tl.floor(u), tl.floor(v)
    left, top = x + whole_u.to(tl.int32), y + whole_v.to(tl.int32)
    size = height * width
    warped, gx, gy = u * 0.0, u * 0.0, u * 0.0
    for row in tl.static_range(4):
        tap_y = tl.minimum(tl.maximum(top + (row - 1), 0), height - 1) * width
        weight_y = _keys_weight(v - whole_v, row)
        for column in tl.static_range(4):
            tap = tap_y + tl.minimum(tl.maximum(left + (column - 1), 0), width - 1)
            weight = weight_y * _keys_weight(u - whole_u, column)
            warped += weight * tl.load(image + tap, inside, 0.0)
            gx += weight * tl.load(gradient + tap, inside, 0.0)
            gy += weight * tl.load(gradient + size + tap, inside, 0.0)
    return warped, gx, gy


@kernel
def _keys_weight(t: tensor, tap: constexpr) -> tensor:
    """Weight of the tap at -1, 0, 1 or 2 for a position t in [0, 1)."""
    if tap == 0:
        weight = ((-0.5 * t + 1.0) * t - 0.5) * t
    elif tap == 1:
        weight = (1.5 * t - 2.5) * t * t + 1.0
    elif tap == 2:
        weight = ((-1.5 * t + 2.0) * t + 0.5) * t
    else:
        weight = (0.5 * t - 0.5) * t * t
    return weight


@kernel
def median(
    fields: tensor, out: tensor, height: tensor, width: tensor, SIDE: constexpr, BLOCK: constexpr
) -> None:
    """Median of the SIDE x SIDE neighbourhood of (planes, H, W); SIDE is 3 or 5.

    Borders are repeated.
    """
    size = height * width
    blocks = tl.cdiv(size, BLOCK)
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    field = fields + plane * size
    y, x = pixel // width, pixel % width
    # Triton's ranges are powers of 2; 32 holds the 25 of the larger side.
    index = tl.arange(0, 32)[:, None]
    window = tl.where(
        index < SIDE * SIDE, _neighbour(field, y, x, index, height, width, SIDE), float("inf")
    )
    result = tl.zeros((BLOCK,), tl.float32)
    # The median is the value that at most half of the others undercut, and more than half with its
    # equals.
    for candidate in range(SIDE * SIDE):
        value = _neighbour(field, y, x, candidate, height, width, SIDE)
        smaller = tl.sum((window < value[None, :]).to(tl.int32), 0)
        no_larger = tl.sum((window <= value[None, :]).to(tl.int32), 0)
        result = tl.where(
            (smaller <= SIDE * SIDE // 2) & (no_larger > SIDE * SIDE // 2), value, result
        )
    tl.store(out + plane * size + pixel, result, pixel < size)


@kernel
def _neighbour(
    field: tensor,
    y: tensor,
    x: tensor,
    index: tensor,
    height: tensor,
    width: tensor,
    SIDE: constexpr,
) -> tensor:
    """The neighbour of this index, row after row.

    Indices and pixels past the end read some pixel of the field.
    """
    row = tl.minimum(tl.maximum(y + index // SIDE - SIDE // 2, 0), height - 1)
    column = tl.minimum(tl.maximum(x + index % SIDE - SIDE // 2, 0), width - 1)
    return tl.load(field + row * width + column)


@kernel
def store(
    flow: tensor,
    planes: tensor,
    sums: tensor,
    bound: tensor,
    levels: tensor,
    size: tensor,
    BLOCK: constexpr,
) -> None:
    """Flow (N, 2, H, W) of `size` pixels a plane -> bytes, as `flow_codec.quantize` gives them.

    Adds to `sums` what `flow_statistics` counts, with the same bits: micropixels, saturated pixels;
    and how many values are not finite. `levels` is levels a pixel.
    """
    blocks = tl.cdiv(size, BLOCK)
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size
    place = pair * 2 * size + pixel
    dx, no_dx = _finite(tl.load(flow + place, inside, 0.0))
    dy, no_dy = _finite(tl.load(flow + place + size, inside, 0.0))
    tl.store(planes + place, _level(dx, bound, levels), inside)
    tl.store(planes + place + size, _level(dy, bound, levels), inside)
    # In float64 like the host's, for the same bits.
    x, y = dx.to(tl.float64), dy.to(tl.float64)
    micropixels = _rounded(tl.sqrt(x * x + y * y) * MICROPIXELS, HALF_EVEN_64)
    saturated = (tl.abs(dx) > bound) | (tl.abs(dy) > bound)
    # Whole numbers: the order in which programs add them does not matter.
    tl.atomic_add(sums, tl.sum(micropixels.to(tl.int64)))
    tl.atomic_add(sums + 1, tl.sum(saturated.to(tl.int64)))
    tl.atomic_add(sums + 2, tl.sum(no_dx + no_dy))


@kernel
def _finite(value: tensor) -> tl.tuple:
    """The value, or 0 where it is infinite or NaN; and 1 there."""
    is_finite = tl.abs(value) < float("inf")
    return tl.where(is_finite, value, 0.0), tl.where(is_finite, 0, 1).to(tl.int64)


@kernel
def _level(value: tensor, bound: tensor, levels: tensor) -> tensor:
    """The byte of a value in pixels."""
    clipped = tl.minimum(tl.maximum(value, -bound), bound)
    return (_rounded(clipped * levels, HALF_EVEN_32) + ZERO_LEVEL).to(tl.int32).to(tl.uint8)


@kernel
def _rounded(value: tensor, half_even: constexpr) -> tensor:
    """To the next whole number, halves to the even one: no digit behind the point is kept."""
    return (value + half_even) - half_even
