"""What this machine can do: engines, devices, speed, and the time for a dataset of N hours.

The frames are drawn (a texture that pans and a blob that moves across it), so that every machine
measures the same. Real videos differ: still ones need less time, fast and noisy ones more. The
prediction includes decoding and encoding: on all cores, or with GPUs at the pace of the slower of
GPUs and cores.
"""

import importlib.metadata
import math
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.preprocess.cluster.resources import Node, default_chunk_frames, this_node
from twinstream.preprocess.decode.video import open_video
from twinstream.preprocess.duet import draw_video, write_mp4
from twinstream.preprocess.flow.engine import TvL1Params
from twinstream.preprocess.flow.engines import (
    AUTO,
    cpu_engine,
    find_engine,
    measured_engines,
    open_engine,
    resolve_engine,
)
from twinstream.preprocess.flow.stored import stored_flow
from twinstream.preprocess.settings import PreprocessSettings
from twinstream.progress import Progress
from twinstream.shards.format.image import encode_jpeg
from twinstream.shards.settings import ShardSettings

LIBRARIES = ("av", "numba", "numpy", "opencv-contrib-python", "pyarrow", "ray", "torch", "triton")
NUM_FRAMES = 9
GPU_ROUNDS = 5
FRAMES_PER_SECOND = 25
# A tar member's header and, on average, half a block of padding.
TAR_OVERHEAD = 512 + 256


@dataclass(frozen=True)
class Estimate:
    """What a dataset would take: frames, hours on this machine, and bytes of its shards."""

    num_frames: int
    hours: float
    num_bytes: float


@dataclass(frozen=True)
class FrameCost:
    """What a frame costs without its flow: core seconds to decode and encode, and bytes."""

    seconds: float
    num_bytes: float


def stored_side(size: tuple[int, int], short_side: int | None) -> int:
    """Side of the square with as many pixels as a stored frame; of a short side those of 4:3.

    (340, 256) -> 295; 256 as the shorter side -> 296.
    """
    width, height = size if short_side is None else (short_side * 4 / 3, short_side)
    return round(math.sqrt(width * height))


def drawn_frames(size: int, num_frames: int = NUM_FRAMES) -> NDArray[np.uint8]:
    """(T, size, size, 3): a texture that pans 2 pixels right and 1 down a frame, and a blob."""
    frames = draw_video(
        np.random.default_rng(0), colour=0, motion=2, size=size, num_frames=num_frames
    )
    # Rolled as well, so that the whole picture moves and not the blob alone.
    return np.stack([np.roll(frame, (t, 2 * t), (0, 1)) for t, frame in enumerate(frames)])


def flow_rate(name: str, size: int) -> float:
    """Pairs/s of an engine on one core or one GPU, from gray frames to bytes, after a warm-up."""
    if not find_engine(name).uses_gpu:
        return _median_rate(name, gray_frames(drawn_frames(size)), num_warm=2, rounds=1)
    # As many frames as a worker hands it, the first of which wait for the compiler.
    gray = gray_frames(drawn_frames(size, default_chunk_frames(name, size, size)))
    return _median_rate(name, gray, num_warm=len(gray), rounds=GPU_ROUNDS)


def _median_rate(name: str, gray: NDArray[np.uint8], *, num_warm: int, rounds: int) -> float:
    engine, bound = open_engine(name, TvL1Params()), PreprocessSettings().bound
    stored_flow(engine, gray[:num_warm], bound)
    # The median, because a machine has other things to do now and then.
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        stored_flow(engine, gray, bound)
        seconds.append(time.perf_counter() - begun)
    return (len(gray) - 1) / median(seconds)


def stage_rate(flow: float, cost_seconds: float, node: Node) -> float:
    """Frames/s of a whole machine; `flow` is the rate of one GPU, or of one core without GPUs.

    2 GPUs of 3,000 frames/s each and 10 cores that need 2 ms for all else: the cores' 5,000, not
    the GPUs' 6,000. 10 cores, 125 frames/s each, 2 ms for all else -> 10 / (8 ms + 2 ms) = 1,000.
    """
    if node.gpus:
        # They work at the same time, so the slower of the two decides.
        return min(node.gpus * flow, node.cores / cost_seconds)
    return node.cores / (1 / flow + cost_seconds)


def predict(hours_of_video: float, frames_a_second: float, bytes_per_frame: float) -> Estimate:
    """100 h at 25 frames/s, 50 frames/s and 20 kB a frame -> 9,000,000 frames, 50 h, 180 GB."""
    num_frames = round(hours_of_video * 3600 * FRAMES_PER_SECOND)
    return Estimate(num_frames, num_frames / frames_a_second / 3600, num_frames * bytes_per_frame)


def measured_cost(size: int) -> FrameCost:
    """On one core, from the video file to members of a shard."""
    engine, gray = open_engine(cpu_engine(), TvL1Params()), gray_frames(drawn_frames(size))
    planes = stored_flow(engine, gray, PreprocessSettings().bound).planes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "drawn.mp4")
        write_mp4(path, drawn_frames(size))
        begun = time.perf_counter()
        with open_video(path, size=(size, size), short_side=None, chunk_frames=NUM_FRAMES) as video:
            (frames,) = video
        images = [*frames, *planes.reshape(-1, size, size)]
        num_bytes = sum(
            len(encode_jpeg(image, ShardSettings().jpeg_quality)) + TAR_OVERHEAD for image in images
        )
    return FrameCost((time.perf_counter() - begun) / NUM_FRAMES, num_bytes / NUM_FRAMES)


def gray_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(T, H, W, 3) RGB -> (T, H, W)."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.uint8)


def report(hours_of_video: float, size: int) -> str:
    """Everything as lines for a person."""
    node, best = this_node(), resolve_engine(AUTO)
    names = measured_engines()
    rates: dict[str, float | str] = {}
    with Progress("doctor", len(names) + 1, "measurement") as progress:
        for name in names:
            rates[name] = _rate_or_reason(name, size)
            progress.advance(note=f"flow by {name}")
        cost = measured_cost(size)
        progress.advance(note="decode and encode")
    lines = [
        f"{platform.machine()}, {node.cores} cores, {_gpus_text(node)}, Python "
        f"{platform.python_version()}",
        " · ".join(f"{name} {_version(name)}" for name in LIBRARIES),
        *(
            f"  {name:<8} {_rate_text(name, rate, size)}{' (auto)' if name == best else ''}"
            for name, rate in rates.items()
        ),
    ]
    flow = rates[best]
    # `auto` takes only what can run here.
    assert isinstance(flow, float), f"auto took {best}: {flow}"
    if node.gpus:
        lines.append(f"  {mps_text()}")
    lines.append(f"  decode and encode: {1 / cost.seconds:.1f} frames/s on one core")
    # GPUs that the best engine does not use would not shorten the run.
    workers = node if find_engine(best).uses_gpu else Node(node.cores)
    expected = predict(hours_of_video, stage_rate(flow, cost.seconds, workers), cost.num_bytes)
    lines.append(
        f"{hours_of_video:g} hours of video at {FRAMES_PER_SECOND} frames/s are "
        f"{expected.num_frames:,} frames: "
        f"{_digits(expected.hours)} hours on {_workers_text(workers)}, "
        f"{_digits(expected.num_bytes / 1e9)} GB of shards"
    )
    return "\n".join(lines)


def _rate_or_reason(name: str, size: int) -> float | str:
    try:
        return flow_rate(name, size)
    except InputError as error:
        return str(error)


def _rate_text(name: str, rate: float | str, size: int) -> str:
    if isinstance(rate, str):
        return f"not here: {rate}"
    device = "one GPU" if find_engine(name).uses_gpu else "one core"
    return f"{rate:.1f} frames/s at {size}x{size} on {device}"


def _gpus_text(node: Node) -> str:
    """`no GPU`, or `2 GPUs (NVIDIA H100 80GB HBM3)`."""
    if not node.gpus:
        return "no GPU that torch can use"
    # Only where there is a GPU: to import it takes seconds.
    import torch

    names = dict.fromkeys(torch.cuda.get_device_name(number) for number in range(node.gpus))
    return f"{_count(node.gpus, 'GPU')} ({', '.join(names)})"


def mps_text() -> str:
    """Whether NVIDIA's service runs here through which processes use one GPU at the same time."""
    pipe = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control"
    if pipe.exists():
        return "MPS runs: the workers of a GPU compute at the same time"
    return (
        "MPS does not run: the workers of a GPU take turns; `nvidia-cuda-mps-control -d` starts it "
        "before preprocess"
    )


def _workers_text(node: Node) -> str:
    """`16 cores`, or `2 GPUs and 16 cores`."""
    cores = _count(node.cores, "core")
    return f"{_count(node.gpus, 'GPU')} and {cores}" if node.gpus else cores


def _digits(value: float) -> str:
    """Three of them: `1,260`, `0.5`."""
    return f"{float(f'{value:.3g}'):,g}"


def _count(num: int, noun: str) -> str:
    return f"{num} {noun}{'' if num == 1 else 's'}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
