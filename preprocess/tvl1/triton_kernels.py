"""The image kernels of the `cuda` engine, in Triton; what they compute is written down in `reference.py`.

Planes are float32 (H, W) in one array after the other; programs are numbered plane after plane. `control` is int32, one
row of `pairs` numbers for each of SIDE .. RUN, and `state` holds a pair's fields twice, on the sides that the iterations
read and write in turn; SIDE says which is the newer. `pairs` is never compiled in: the same machine code serves every
batch, so a result cannot depend on the batch. With TRITON_INTERPRET=1, set before Triton is imported, all of this runs
in NumPy.
"""

from typing import Any

import triton
import triton.language as tl

# Fields of a pair in `state`: the flow and its two dual vectors. What one warp makes constant is in `constants`.
U, V, PUX, PUY, PVX, PVY = range(6)
NUM_FIELDS = tl.constexpr(6)
CONSTANT, GX, GY, INVERSE = range(4)
NUM_CONSTANTS = tl.constexpr(4)

FLOAT32_EPSILON = tl.constexpr(2.0**-23)


def kernel(function: Any) -> Any:
    """Compile for the GPU on first use, once a machine; or interpret."""
    return triton.jit(function, do_not_specialize=["pairs"])


@kernel
def resize(
    images: Any,
    out: Any,
    rows: Any,
    row_parts: Any,
    columns: Any,
    column_parts: Any,
    gain: Any,
    height: Any,
    width: Any,
    out_height: Any,
    out_width: Any,
    BLOCK: tl.constexpr,
) -> None:
    """Bilinear: row y of `out` lies `row_parts[y]` below row `rows[y]` of the image; likewise columns; times `gain`."""
    blocks = tl.cdiv(out_height * out_width, BLOCK)
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < out_height * out_width
    y, x = pixel // out_width, pixel % out_width
    above, left = tl.load(rows + y, inside, 0), tl.load(columns + x, inside, 0)
    below, right = tl.minimum(above + 1, height - 1), tl.minimum(left + 1, width - 1)
    lower, part = tl.load(row_parts + y, inside, 0.0), tl.load(column_parts + x, inside, 0.0)
    image = images + plane * height * width
    upper, lower = gain * (1.0 - lower), gain * lower
    first = upper * tl.load(image + above * width + left) + lower * tl.load(image + below * width + left)
    second = upper * tl.load(image + above * width + right) + lower * tl.load(image + below * width + right)
    tl.store(out + plane * out_height * out_width + pixel, (1.0 - part) * first + part * second, inside)


@kernel
def differences(images: Any, gradients: Any, height: Any, width: Any, BLOCK: tl.constexpr) -> None:
    """(T, H, W) -> (T, 2, H, W): half the difference of the two neighbours in x and in y, borders repeated."""
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
    images: Any,
    gradients: Any,
    first: Any,
    state: Any,
    control: Any,
    constants: Any,
    height: Any,
    width: Any,
    pairs: Any,
    BLOCK: tl.constexpr,
) -> None:
    """Warp each pair's second frame and its gradient by the flow in `state`; write CONSTANT, GX, GY and INVERSE."""
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
    warped, gx, gy = _bicubic(image, gradient, u, v, pixel // width, pixel % width, height, width, inside)
    squared = gx * gx + gy * gy
    usable = squared > FLOAT32_EPSILON
    out = constants + pair.to(tl.int64) * NUM_CONSTANTS * size + pixel
    now = tl.load(images + frame * size + pixel, inside, 0.0)
    tl.store(out, warped - gx * u - gy * v - now, inside)
    tl.store(out + size, gx, inside)
    tl.store(out + 2 * size, gy, inside)
    tl.store(out + 3 * size, tl.where(usable, 1.0 / tl.where(usable, squared, 1.0), 0.0), inside)


@kernel
def _bicubic(
    image: Any, gradient: Any, u: Any, v: Any, y: Any, x: Any, height: Any, width: Any, inside: Any
) -> tuple[Any, Any, Any]:
    """The image and its gradient at (x + u, y + v): Keys' cubic, a = -0.5; pixels outside repeat the border."""
    # The flow is cut where all taps read the border, and split before the pixel's place is added, which would cost bits.
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
def _keys_weight(t: Any, tap: tl.constexpr) -> Any:
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
def median(fields: Any, out: Any, height: Any, width: Any, SIDE: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """Median of the SIDE x SIDE neighbourhood of (planes, H, W), borders repeated."""
    size = height * width
    blocks = tl.cdiv(size, BLOCK)
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size
    y, x = pixel // width, pixel % width
    field = fields + plane * size
    result = tl.zeros((BLOCK,), tl.float32)
    # The median is the value that at most half of the others undercut, and half undercut or equal. No sorting, no memory.
    for candidate in range(SIDE * SIDE):
        value = _neighbour(field, y, x, candidate, height, width, SIDE)
        smaller = tl.zeros((BLOCK,), tl.int32)
        no_larger = tl.zeros((BLOCK,), tl.int32)
        for other in range(SIDE * SIDE):
            compared = _neighbour(field, y, x, other, height, width, SIDE)
            smaller += (compared < value).to(tl.int32)
            no_larger += (compared <= value).to(tl.int32)
        result = tl.where((smaller <= SIDE * SIDE // 2) & (no_larger > SIDE * SIDE // 2), value, result)
    tl.store(out + plane * size + pixel, result, inside)


@kernel
def _neighbour(field: Any, y: Any, x: Any, index: Any, height: Any, width: Any, SIDE: tl.constexpr) -> Any:
    """The neighbour of this index, row after row; also for pixels past the end, which read the last row."""
    row = tl.minimum(tl.maximum(y + index // SIDE - SIDE // 2, 0), height - 1)
    column = tl.minimum(tl.maximum(x + index % SIDE - SIDE // 2, 0), width - 1)
    return tl.load(field + row * width + column)
