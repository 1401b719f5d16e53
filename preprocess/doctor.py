"""What this machine can do: engines, devices, measured speed, and what a dataset of N hours would take.

The frames are drawn, a textured picture that pans with a blob that moves across it, so that every machine measures the
same. Real videos differ: still ones need less, fast and noisy ones more. The prediction takes a frame's whole road,
decoding and encoding included, on every core.
"""

import importlib.metadata
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocess.decode import open_video
from preprocess.duet import draw_video, write_mp4
from preprocess.tvl1 import ENGINE_NAMES, TvL1Params, open_engine, resolve_engine
from shards.errors import InputError
from shards.flow_codec import quantize
from shards.jpeg import encode_jpeg
from shards.settings import ShardSettings

LIBRARIES = ("av", "numba", "numpy", "opencv-contrib-python", "pyarrow", "ray", "torch")
SLOW_ENGINES = ("reference",)
NUM_FRAMES = 9
FRAMES_PER_SECOND = 25
BOUND = 20.0
# A tar member's header and, on average, half a block of padding.
TAR_OVERHEAD = 512 + 256


@dataclass(frozen=True)
class Prediction:
    """What a dataset would take: frames, hours on this machine, and bytes of its shards."""

    num_frames: int
    hours: float
    num_bytes: float


def drawn_frames(size: int, num_frames: int = NUM_FRAMES) -> NDArray[np.uint8]:
    """(T, size, size, 3): a texture that pans 2 pixels a frame to the right and 1 down, and a blob across it."""
    frames = draw_video(np.random.default_rng(0), colour=0, motion=2, size=size, num_frames=num_frames)
    return np.stack([np.roll(frame, (t, 2 * t), (0, 1)) for t, frame in enumerate(frames)])


def frames_per_second(name: str, gray: NDArray[np.uint8]) -> float:
    """Pairs an engine computes a second on one core, after one that is not counted."""
    engine = open_engine(name, TvL1Params())
    engine(gray[:2])
    begun = time.perf_counter()
    engine(gray)
    return (len(gray) - 1) / (time.perf_counter() - begun)


def predict(hours_of_video: float, seconds_per_frame: float, bytes_per_frame: float, cores: int) -> Prediction:
    """100 h at 25 frames/s, 0.04 s and 20 kB a frame, 2 cores -> 9,000,000 frames, 50 h, 180 GB."""
    num_frames = round(hours_of_video * 3600 * FRAMES_PER_SECOND)
    return Prediction(num_frames, num_frames * seconds_per_frame / cores / 3600, num_frames * bytes_per_frame)


def measured_frame(size: int) -> tuple[float, float]:
    """Seconds and bytes a frame takes on one core, from the video file to members of a shard."""
    engine = open_engine("auto", TvL1Params())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "drawn.mp4")
        write_mp4(path, drawn_frames(size))
        begun = time.perf_counter()
        with open_video(path, size=(size, size), short_side=None, chunk_frames=NUM_FRAMES) as video:
            (frames,) = video
        levels = quantize(engine(gray_frames(frames)), BOUND)
        images = [*frames, *(np.ascontiguousarray(field[..., axis]) for field in levels for axis in (0, 1))]
        num_bytes = sum(len(encode_jpeg(image, ShardSettings().jpeg_quality)) + TAR_OVERHEAD for image in images)
    return (time.perf_counter() - begun) / NUM_FRAMES, num_bytes / NUM_FRAMES


def gray_frames(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(T, H, W, 3) RGB -> (T, H, W)."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.uint8)


def report(hours_of_video: float, size: int) -> str:
    """Everything as lines for a person."""
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"{platform.machine()}, {cores} cores, Python {platform.python_version()}",
        " · ".join(f"{name} {_version(name)}" for name in LIBRARIES),
        *_engine_lines(size),
    ]
    seconds, num_bytes = measured_frame(size)
    expected = predict(hours_of_video, seconds, num_bytes, cores)
    lines.append(
        f"{hours_of_video:g} hours of video at {FRAMES_PER_SECOND} frames/s are {expected.num_frames:,} frames: "
        f"{expected.hours:.3g} hours on {cores} cores, {expected.num_bytes / 1e9:.3g} GB of shards"
    )
    return "\n".join(lines)


def _engine_lines(size: int) -> list[str]:
    gray = gray_frames(drawn_frames(size))
    best = resolve_engine("auto")
    lines = []
    for name in ENGINE_NAMES:
        if name in SLOW_ENGINES:
            continue
        try:
            where = "a GPU, few frames at a time" if name == "cuda" else "one core"
            told = f"{frames_per_second(name, gray):.1f} frames/s at {size}x{size} on {where}"
        except InputError as error:
            told = f"not here: {error}"
        lines.append(f"  {name:<8} {told}{' (auto)' if name == best else ''}")
    return lines


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
