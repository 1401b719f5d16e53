"""OpenCV's own TV-L1, for comparison and trust.

`cv2.cuda` is used where this OpenCV was built with it and sees a device; no wheel is. The wheel's
CPU implementation is set to come nearest to the GPU algorithm: no median filter unless asked for,
one inner iteration. It still differs in its warp: cubic with a = -0.75, positions in 1/32 pixel,
zero outside the image.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from twinstream.errors import InputError
from twinstream.preprocess.flow.engine import Engine, EngineOptions, Gray, PairEngine, TvL1Params
from twinstream.shards.format.video_table import Reason, VideoError

# cv2.remap counts pixels in 16 bits.
MAX_SIDE = 32767


def open_engine(options: EngineOptions) -> Engine:
    """`cv2.cuda` with a device and no median filter, else `cv2.optflow`.

    InputError where this OpenCV has neither.
    """
    params = options.tvl1
    # The CUDA class has no median filter, and leaving it out in silence would be other flow.
    if params.median is None and cv2.cuda.getCudaEnabledDeviceCount() > 0:
        # The class moved between releases.
        cuda: Any = getattr(
            cv2.cuda, "OpticalFlowDual_TVL1", getattr(cv2, "cuda_OpticalFlowDual_TVL1", None)
        )
        if cuda is not None:
            return PairEngine(
                "opencv", lambda first, second: cuda_flow(cuda, first, second, params)
            )
    if not hasattr(cv2, "optflow"):
        raise InputError(
            f"OpenCV {cv2.__version__} has no optflow module; install opencv-contrib-python or use "
            "`engine: numba`"
        )
    # OpenCV has one pool of threads for the whole process, as large as the machine.
    cv2.setNumThreads(options.threads)
    return PairEngine("opencv", lambda first, second: cpu_flow(first, second, params))


def cpu_flow(first: Gray, second: Gray, params: TvL1Params) -> npt.NDArray[np.float32]:
    """Two (H, W) frames -> (H, W, 2).

    Makes a new object each time: after a small image an old one has fewer scales. VideoError for a
    side that OpenCV's warp cannot count.
    """
    if max(first.shape) >= MAX_SIDE:
        height, width = first.shape
        detail = f"{width}x{height}: the engine opencv takes sides below {MAX_SIDE}"
        raise VideoError(Reason.TOO_LARGE, detail)
    optflow: Any = cv2.optflow
    engine = optflow.DualTVL1OpticalFlow_create(
        tau=params.tau,
        lambda_=params.lambda_,
        theta=params.theta,
        nscales=params.scales,
        warps=params.warps,
        epsilon=params.epsilon,
        # OpenCV's own spelling. One inner iteration, as its GPU version has.
        innnerIterations=1,
        outerIterations=params.iterations,
        scaleStep=params.scale_step,
        gamma=0.0,
        # A median over one pixel filters nothing.
        medianFiltering=params.median or 1,
    )
    flow: npt.NDArray[np.float32] = np.asarray(engine.calc(first, second, None), np.float32)
    return flow


def cuda_flow(cuda: Any, first: Gray, second: Gray, params: TvL1Params) -> npt.NDArray[np.float32]:
    """Two (H, W) frames -> (H, W, 2) on the first device."""
    engine = cuda.create(
        params.tau,
        params.lambda_,
        params.theta,
        params.scales,
        params.warps,
        params.epsilon,
        params.iterations,
        params.scale_step,
        0.0,
    )
    frames = [cv2.cuda.GpuMat(), cv2.cuda.GpuMat()]
    frames[0].upload(first)
    frames[1].upload(second)
    flow: npt.NDArray[np.float32] = engine.calc(frames[0], frames[1], None).download()
    return flow
