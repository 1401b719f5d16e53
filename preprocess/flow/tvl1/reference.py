"""TV-L1 optical flow in float64 NumPy: the definition every engine is tested against.

The method is Zach, Pock, Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow"
(2007), as described by Sanchez Perez, Meinhardt-Llopis, Facciolo, "TV-L1 Optical Flow Estimation"
(IPOL 2013), with the choices of OpenCV's GPU implementation (`cv::cuda::OpticalFlowDual_TVL1`,
gamma 0, no initial flow): where it differs from the papers, OpenCV is followed, from OpenCV 3 to 5
(opencv_contrib, modules/cudaoptflow and cudawarping). Readable and slow; arrays are (H, W).

What is followed, in OpenCV's order (tvl1flow.cpp, then the kernels of tvl1flow.cu):

- `calcImpl`: gray levels 0 to 255. A level's size is the finer one's times the scale step, rounded
  half to even; the first level with a side below 16 and all after it are left out. Bilinear from
  level to level, with nothing smoothed before.
- `cuda::resize`, linear: pixel i reads at i / scale, without the half pixel that `cv2.resize` adds;
  the pixel behind the last one is the last one. From level to level 1 / scale is 1 / scale step,
  whatever the rounded sizes; back up it is their ratio. A level of the same size is a copy.
- The flow begins with zero at the coarsest level. To the next finer one it is resized, then
  multiplied by 1 / scale step, whatever the rounded sizes and also where the sizes are equal.
- `procOneScale`: duals are zero at the beginning of each level and live on from warp to warp. The
  gradient of the second frame is made once a level, and warped like the frame. A warp ends when the
  sum of squared changes of the flow is at most epsilon^2 * pixels; the sum is only made in every
  second iteration, when it could have fallen so far; the duals are updated once more after it.
- `centeredGradient`, `warpBackward`: half the difference of the neighbours; Keys' cubic with
  a = -0.5; both repeat the border. OpenCV divides by the sum of the weights, which is one.
- `estimateU`: the threshold compares rho with lambda theta |grad|^2, and only between the two
  divides by |grad|^2, if that is above float32's epsilon. Backward differences, with zero before
  the first pixel.
- `estimateDualVariables`: forward differences, zero behind the last pixel; one norm for each field.

What is not: OpenCV computes in float32, this in float64. An OpenCV object that once saw a small
image keeps its fewer levels; a side below 16 pixels is refused here, and the median filter is ours.

u is the flow (two fields), p the dual variable (two vector fields), rho the residual of brightness
constancy, linear around the flow u0 that the second frame was warped with: rho(u) = I1(x + u0) + (u
- u0) . grad I1(x + u0) - I0(x).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from twinstream.preprocess.flow.engine import (
    MIN_SIDE,
    Engine,
    EngineOptions,
    PairEngine,
    TvL1Params,
)

Field = npt.NDArray[np.float64]
Pair = tuple[Field, Field]


def open_engine(options: EngineOptions) -> Engine:
    """The definition as an engine, to compare others with: seconds a pair."""
    return PairEngine(
        "reference", lambda first, second: reference_flow(first, second, options.tvl1)
    )


def reference_flow(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], params: TvL1Params
) -> Field:
    """Two (H, W) frames -> (H, W, 2) pixels (dx, dy) from the first to the second.

    Each side has at least 16 pixels.
    """
    levels = list(zip(pyramid(first, params), pyramid(second, params), strict=True))
    u = (np.zeros(levels[-1][0].shape), np.zeros(levels[-1][0].shape))
    for number, (i0, i1) in enumerate(reversed(levels)):
        if number > 0:
            # Pixels of a finer level are smaller, so a motion is more of them.
            u = (
                upsampled(u[0], i0.shape) / params.scale_step,
                upsampled(u[1], i0.shape) / params.scale_step,
            )
        u = flow_at_level(i0, i1, u, params)
    return np.stack(u, axis=-1)


def pyramid(image: npt.NDArray[np.uint8], params: TvL1Params) -> Iterator[Field]:
    """The image at each level, finest first.

    Sizes are rounded from level to level: 256 -> 205 -> 164 at scale step 0.8.
    """
    level = image.astype(np.float64)
    for _ in range(params.scales):
        yield level
        height, width = (round(side * params.scale_step) for side in level.shape)
        if min(height, width) < MIN_SIDE:
            return
        if (height, width) != level.shape:
            level = sampled(level, (height, width), (1 / params.scale_step, 1 / params.scale_step))


def upsampled(field: Field, shape: tuple[int, ...]) -> Field:
    """The field at another size, values unchanged."""
    return sampled(field, shape, (field.shape[0] / shape[0], field.shape[1] / shape[1]))


def sampled(image: Field, shape: tuple[int, ...], step: tuple[float, float]) -> Field:
    """Bilinear samples; pixel i of the result reads at i * step.

    The last pixel is repeated behind the image.
    """
    return sampled_rows(sampled_rows(image, shape[0], step[0]).T, shape[1], step[1]).T


def sampled_rows(image: Field, num_rows: int, step: float) -> Field:
    """The vertical half of `sampled`."""
    last = image.shape[0] - 1
    y = np.minimum(np.arange(num_rows) * step, last)
    above = np.floor(y).astype(int)
    part = (y - above)[:, None]
    rows: Field = (1 - part) * image[above] + part * image[np.minimum(above + 1, last)]
    return rows


def flow_at_level(i0: Field, i1: Field, u: Pair, params: TvL1Params) -> Pair:
    """Refine u: warp, then iterate to the stopping rule.

    The dual variable is kept from warp to warp.
    """
    gradient = central_differences(i1)
    # As in OpenCV every level begins with duals of zero; only the flow is carried over.
    p = [(np.zeros_like(i0), np.zeros_like(i0)) for _ in u]
    for _ in range(params.warps):
        if params.median:
            u = (median(u[0], params.median), median(u[1], params.median))
        warped, gx, gy = (bicubic_warp(image, u) for image in (i1, *gradient))
        # rho at flow zero: what of it does not change while u does.
        constant = warped - gx * u[0] - gy * u[1] - i0
        tolerance = params.epsilon**2 * i0.size
        expected = 0.0
        for n in range(params.iterations):
            old = u
            u = primal_step(u, p, constant, (gx, gy), params)
            p = [
                dual_step(field, dual, params.tau / params.theta)
                for field, dual in zip(u, p, strict=True)
            ]
            # The change is only looked at when, falling by the tolerance an iteration, it could
            # have come below it.
            if params.epsilon > 0 and n % 2 == 1 and expected < tolerance:
                expected = float(((u[0] - old[0]) ** 2 + (u[1] - old[1]) ** 2).sum())
                if expected <= tolerance:
                    break
            else:
                expected -= tolerance
    return u


def central_differences(image: Field) -> Pair:
    """Half the difference of the two neighbours in x and in y, borders repeated."""
    padded = np.pad(image, 1, mode="edge")
    return (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2


def bicubic_warp(image: Field, u: Pair) -> Field:
    """The image at (x + dx, y + dy): Keys' cubic convolution, a = -0.5.

    Pixels outside repeat the border.
    """
    height, width = image.shape
    y, x = np.mgrid[:height, :width]
    x, y = x + u[0], y + u[1]
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    warped = np.zeros_like(image)
    for row, weight_y in enumerate(keys_weights(y - top), start=-1):
        for column, weight_x in enumerate(keys_weights(x - left), start=-1):
            tap = image[np.clip(top + row, 0, height - 1), np.clip(left + column, 0, width - 1)]
            warped += weight_y * weight_x * tap
    return warped


def keys_weights(t: Field) -> tuple[Field, Field, Field, Field]:
    """Weights of the taps at -1, 0, 1 and 2 for a position t in [0, 1); they sum to one."""
    return (
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )


def primal_step(
    u: Pair, p: list[Pair], constant: Field, gradient: Pair, params: TvL1Params
) -> Pair:
    """u + clamp(-rho / |g|^2, -lambda theta, lambda theta) g + theta div p."""
    gx, gy = gradient
    squared = gx**2 + gy**2
    rho = constant + gx * u[0] + gy * u[1]
    limit = params.lambda_ * params.theta
    # Only the division would blow up without a gradient: whether it is needed is known before it.
    usable = squared > np.finfo(np.float32).eps
    between = np.where(usable, -rho / np.where(usable, squared, 1), 0)
    is_beyond = np.abs(rho) > limit * squared
    fi = np.where(is_beyond, -np.sign(rho) * limit, between)
    return (
        u[0] + fi * gx + params.theta * divergence(p[0]),
        u[1] + fi * gy + params.theta * divergence(p[1]),
    )


def divergence(p: Pair) -> Field:
    """Backward differences, zero before the first pixel.

    This is the negative adjoint of the forward differences.
    """
    return np.diff(p[0], axis=1, prepend=0) + np.diff(p[1], axis=0, prepend=0)


def dual_step(field: Field, p: Pair, step: float) -> Pair:
    """One semi-implicit ascent of p along the forward differences of the field.

    The differences are zero behind the last pixel.
    """
    dx = np.diff(field, axis=1, append=field[:, -1:])
    dy = np.diff(field, axis=0, append=field[-1:])
    norm = 1 + step * np.hypot(dx, dy)
    return (p[0] + step * dx) / norm, (p[1] + step * dy) / norm


def median(field: Field, side: int) -> Field:
    """Median of the side x side neighbourhood, borders repeated, as `cv2.medianBlur`."""
    padded = np.pad(field, side // 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    return np.median(windows, axis=(2, 3)).astype(np.float64)
