"""One job: the videos of one shard, decoded, turned into flow, encoded and written.

The unit of work, of retry and of resume. A job streams: chunks of frames pass through, encoded members wait in a
spool on disk, so memory does not grow with a video's length. A video that cannot be used becomes a row with a reason;
any other exception ends the job and leaves nothing behind. How to decode and how to compute flow are passed in.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocess.catalog import Video
from preprocess.decode import Reason, VideoError, VideoInfo
from preprocess.plan import Job
from preprocess.tvl1 import Engine
from shards.flow_codec import is_saturated, quantize
from shards.jpeg import encode_jpeg
from shards.sample import SampleMeta
from shards.videos import Status, VideoRow
from shards.writer import SampleSpool, ShardWriter, sample_spool, write_shard

PARTS = ("decode", "flow", "encode")


class VideoStream(Protocol):
    """An open video: what its header says, and an iterator of (t, H, W, 3) uint8 RGB chunks of the stored size."""

    @property
    def info(self) -> VideoInfo:
        """Source width, height and fps."""

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Every frame once; VideoError where the video turns out to be damaged."""


OpenVideo = Callable[[Path], AbstractContextManager[VideoStream]]


@dataclass
class Stopwatch:
    """Seconds spent in each part of the work."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block's time as `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


@dataclass(frozen=True)
class VideoDone:
    """What a job tells of each video as it goes: its row, its frames and the seconds of each part."""

    row: VideoRow
    num_frames: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """How frames and flow are made and stored: bound in pixels, JPEG quality, the fewest frames a video may have.

    settings are all that change bytes, for the record that goes beside the shard.
    """

    open_video: OpenVideo
    engine: Engine
    bound: float
    jpeg_quality: int
    min_frames: int
    settings: dict[str, Any]


@dataclass
class FlowStatistics:
    """Mean |flow| in pixels and the saturated fraction, summed field by field so that chunks cannot change them."""

    num_fields: int = 0
    _speed: float = 0.0
    _saturated: float = 0.0

    def add(self, flow: NDArray[np.float32], bound: float) -> None:
        """Count one (H, W, 2) field."""
        self.num_fields += 1
        self._speed += float(np.sqrt(np.square(flow).sum(axis=-1)).mean(dtype=np.float64))
        self._saturated += float(is_saturated(flow, bound).mean())

    @property
    def mean_speed(self) -> float:
        """Mean |(dx, dy)| in pixels."""
        return self._speed / self.num_fields

    @property
    def saturated(self) -> float:
        """Fraction of pixels beyond the bound."""
        return self._saturated / self.num_fields


def run_job(job: Job, *, root: Path, out: Path, recipe: Recipe) -> Iterator[VideoDone]:
    """Make the shard of `job` below `out`; yields after each video; the shard is there when the iterator ends."""
    rows: list[VideoRow] = []
    folder = out / job.split
    with write_shard(folder, job.name, recipe.settings, rows) as writer:
        for video in job.videos:
            watch = Stopwatch()
            with sample_spool(folder) as spool:
                row = _add_video(writer, video, root / video.path, recipe, spool, watch)
                rows.append(row)
                yield VideoDone(row, spool.num_frames, watch.seconds)


def video_row(video: Video, status: Status, **known: Any) -> VideoRow:
    """The row of a catalog's video, with whatever else is known of it."""
    return VideoRow(video.key, video.path, video.class_name, video.label, video.split, status.value, **known)


def _add_video(
    writer: ShardWriter, video: Video, path: Path, recipe: Recipe, spool: SampleSpool, watch: Stopwatch
) -> VideoRow:
    """Add the video to the shard, or tell why not."""
    try:
        with recipe.open_video(path) as stream:
            info = stream.info
            height, width, flow = _fill(spool, stream, recipe, watch)
    except VideoError as error:
        return video_row(video, Status.SKIPPED, reason=error.reason.value, detail=error.detail)
    num_frames = spool.num_frames
    source = {"num_frames": num_frames, "fps": info.fps, "width": info.width, "height": info.height}
    if num_frames < recipe.min_frames:
        detail = f"{num_frames} of at least {recipe.min_frames} frames"
        return video_row(video, Status.SKIPPED, reason=Reason.TOO_SHORT.value, detail=detail, **source)
    meta = SampleMeta(
        video.key, video.class_name, video.label, num_frames, width, height, info.fps, info.width, info.height
    )
    with watch.part("encode"):
        writer.add(meta, spool)
    told = {"mean_flow": flow.mean_speed, "saturated": flow.saturated}
    return video_row(video, Status.WRITTEN, shard=writer.name, **source, **told)


def _fill(
    spool: SampleSpool, stream: Iterable[NDArray[np.uint8]], recipe: Recipe, watch: Stopwatch
) -> tuple[int, int, FlowStatistics]:
    """Encode every frame and flow field into the spool; returns stored height and width, and the statistics."""
    statistics = FlowStatistics()
    height = width = 0
    previous: NDArray[np.uint8] | None = None
    for frames in _timed(stream, watch):
        height, width = frames.shape[1:3]
        gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
        if previous is not None:
            gray = np.concatenate([previous, gray])
        previous = gray[-1:]
        with watch.part("flow"):
            flow = recipe.engine(gray)
        with watch.part("encode"):
            _encode(spool, frames, flow, recipe, statistics)
    return height, width, statistics


def _encode(
    spool: SampleSpool,
    frames: NDArray[np.uint8],
    flow: NDArray[np.float32],
    recipe: Recipe,
    statistics: FlowStatistics,
) -> None:
    for frame in frames:
        spool.add_frame(encode_jpeg(frame, recipe.jpeg_quality))
    for flow_field in flow:
        statistics.add(flow_field, recipe.bound)
        levels = quantize(flow_field, recipe.bound)
        dx, dy = (encode_jpeg(np.ascontiguousarray(levels[..., axis]), recipe.jpeg_quality) for axis in (0, 1))
        spool.add_flow(dx, dy)


def _timed(stream: Iterable[NDArray[np.uint8]], watch: Stopwatch) -> Iterator[NDArray[np.uint8]]:
    """The stream's chunks, with the time to get each counted as decoding."""
    chunks = iter(stream)
    while True:
        with watch.part("decode"):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk
