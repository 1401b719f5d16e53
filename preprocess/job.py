"""One job: the videos of one shard, decoded, turned into flow, encoded and written.

The unit of work, of retry and of resume. A job streams: chunks of frames pass through, encoded
members wait in a spool on disk, so memory does not grow with a video's length. A video that cannot
be used becomes a row with a reason; any other exception ends the job and leaves nothing behind. A
job tells where it is at every step, because a process that dies or hangs can tell nothing
afterwards. How to decode and how to compute flow are passed in. `check_steps` decodes alone, and
judges alike.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinstream.preprocess.catalog.catalog import Video
from twinstream.preprocess.decode.video_stream import OpenVideo, VideoInfo
from twinstream.preprocess.flow.engine import Engine
from twinstream.preprocess.flow.frames_to_flow import gray_frames
from twinstream.preprocess.flow.stored import FlowStatistics, stored_flow
from twinstream.preprocess.plan import Job
from twinstream.shards.format.image import encode_jpeg
from twinstream.shards.format.sample import SampleMeta
from twinstream.shards.format.video_table import (
    LabelledVideo,
    Reason,
    Status,
    VideoError,
    VideoRow,
    video_row,
)
from twinstream.shards.storage.location import Location
from twinstream.shards.write.writer import SampleSpool, sample_spool, write_shard

NOTHING_KNOWN = VideoInfo(0, 0, None, None)
PARTS = ("decode", "flow", "encode")


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
class VideoAt:
    """A sign of life: the job is in this video, or a step further in it."""

    key: str


@dataclass(frozen=True)
class VideoDone:
    """What a job reports of a finished video: its row, its frames and the seconds of each part."""

    row: VideoRow
    num_frames: int
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class DecodeRecipe:
    """How a video is decoded, and which can be used.

    `min_frames` and `max_frames` limit a video. Videos with more than `max_frames` are cut there
    with `cut_long`, else skipped; damaged ones are stored up to the damage with `keep_damaged`,
    else skipped.
    """

    open_video: OpenVideo
    min_frames: int
    max_frames: int | None = None
    cut_long: bool = False
    keep_damaged: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe(DecodeRecipe):
    """How frames and flow are made and stored.

    `bound` is in pixels. `settings` are all that change bytes, for the record beside the shard;
    nothing is looked up in them. Images are encoded in the threads of `pool`, where there is one.
    """

    engine: Engine
    bound: float
    jpeg_quality: int
    settings: dict[str, Any]
    pool: ThreadPoolExecutor | None = None


@dataclass
class Filled:
    """What is known of a video once it is decoded.

    Its header, how many frames are to be stored and their size in pixels, whether it was cut, what
    its decoder noted of it, and the statistics of its flow.
    """

    info: VideoInfo = NOTHING_KNOWN
    num_frames: int = 0
    height: int = 0
    width: int = 0
    is_cut: bool = False
    notes: Sequence[str] = ()
    statistics: FlowStatistics = field(default_factory=FlowStatistics)


def run_job(job: Job, *, root: Location, out: Location, recipe: Recipe) -> Iterator[VideoDone]:
    """Make the shard of `job` below `out`; yields after each video.

    The shard is there when the iterator ends.
    """
    for step in job_steps(job, root=root, out=out, recipe=recipe, given_up={}):
        if isinstance(step, VideoDone):
            yield step


def job_steps(
    job: Job, *, root: Location, out: Location, recipe: Recipe, given_up: Mapping[str, VideoError]
) -> Iterator[VideoAt | VideoDone]:
    """Like `run_job`, with a sign of life before each video and at each step in it.

    Videos in `given_up`, by key, are not opened.
    """
    rows: list[VideoRow] = []
    folder = out / job.split
    with write_shard(folder, job.name, recipe.settings, rows) as writer:
        for video in job.items:
            yield VideoAt(video.key)
            watch, filled, fault = Stopwatch(), Filled(), given_up.get(video.key)
            # A spool of its own: of a video that breaks midway nothing is in the shard.
            with sample_spool(folder) as spool:
                if fault is None:
                    try:
                        for _ in fill_spool(filled, spool, root / video.path, recipe, watch):
                            yield VideoAt(video.key)
                    # Nothing else is caught: another error is a fault of ours, and ends the run.
                    except VideoError as error:
                        fault = error
                row = judged(video, filled, fault, recipe)
                if row.status == Status.WRITTEN:
                    with watch.part("encode"):
                        writer.add(_meta(video, filled), spool)
                    row = replace(
                        row,
                        shard=writer.name,
                        mean_flow=filled.statistics.mean_speed,
                        saturated=filled.statistics.saturated,
                    )
                rows.append(row)
                yield VideoDone(row, spool.num_frames, watch.seconds)


def check_steps(
    job: Job, *, root: Location, recipe: DecodeRecipe, given_up: Mapping[str, VideoError]
) -> Iterator[VideoAt | VideoDone]:
    """Like `job_steps`, but nothing is stored: a video that would be written is `usable`."""
    for video in job.items:
        yield VideoAt(video.key)
        watch, filled, fault = Stopwatch(), Filled(), given_up.get(video.key)
        if fault is None:
            try:
                for _ in frames_to_store(filled, root / video.path, recipe, watch):
                    yield VideoAt(video.key)
            except VideoError as error:
                fault = error
        row = judged(video, filled, fault, recipe)
        if row.status == Status.WRITTEN:
            row = replace(row, status=Status.USABLE.value)
        yield VideoDone(row, filled.num_frames, watch.seconds)


def _meta(video: Video, filled: Filled) -> SampleMeta:
    info = filled.info
    return SampleMeta(
        *(video.key, video.class_name, video.label),
        *(filled.num_frames, filled.width, filled.height),
        *(info.fps or 0.0, info.width, info.height),
    )


def judged(
    video: LabelledVideo, filled: Filled, fault: VideoError | None, recipe: DecodeRecipe
) -> VideoRow:
    """The row of a video that was decoded, up to its end or to `fault`: is it stored, and if not,
    why. What only a stored video has is left to add.
    """
    info, num_frames = filled.info, filled.num_frames
    if fault is not None and not (recipe.keep_damaged and _can_be_kept(fault, filled, recipe)):
        detail = fault.detail
        if recipe.keep_damaged and fault.reason == Reason.DECODE_ERROR:
            detail += f"; {_why_not_kept(fault, filled, recipe)}"
        return video_row(video, Status.SKIPPED, fault.reason, detail=detail)
    source = {"num_frames": num_frames, "fps": info.fps, "width": info.width, "height": info.height}
    notes = list(filled.notes)
    if num_frames < recipe.min_frames:
        notes.insert(0, f"{num_frames} of at least {recipe.min_frames} frames")
        return video_row(video, Status.SKIPPED, Reason.TOO_SHORT, detail="; ".join(notes), **source)
    if fault is not None:
        notes.insert(0, _kept_text(fault, num_frames, info.frames_in_header))
    elif filled.is_cut:
        notes.insert(0, _cut_text(num_frames, info.frames_in_header))
    return video_row(video, Status.WRITTEN, detail="; ".join(notes) or None, **source)


def _can_be_kept(fault: VideoError, filled: Filled, recipe: DecodeRecipe) -> bool:
    """Whether enough frames before the fault are known to be whole."""
    is_damage = fault.reason == Reason.DECODE_ERROR and fault.num_whole is not None
    return is_damage and filled.num_frames >= recipe.min_frames


def _why_not_kept(fault: VideoError, filled: Filled, recipe: DecodeRecipe) -> str:
    if fault.num_whole is None:
        return "where the damage begins is not known"
    return f"{filled.num_frames} of at least {recipe.min_frames} frames are before the damage"


def _kept_text(fault: VideoError, num_frames: int, frames_in_header: int | None) -> str:
    """`decode_error: frame 143: damaged; 143 frames kept, about 57 lost`, where that is known."""
    num_lost = (frames_in_header or 0) - num_frames
    lost = f", about {num_lost} lost" if num_lost > 0 else ""
    return f"{fault}; {num_frames} frames kept{lost}"


def _cut_text(num_frames: int, frames_in_header: int | None) -> str:
    """`cut at 300 of 5400 frames`, or `cut at 300 frames` where the header does not say."""
    total = f" of {frames_in_header}" if frames_in_header else ""
    return f"cut at {num_frames}{total} frames"


def fill_spool(
    filled: Filled, spool: SampleSpool, path: Location, recipe: Recipe, watch: Stopwatch
) -> Iterator[None]:
    """Decode a video, and encode every frame and flow field into the spool.

    Yields when a chunk is decoded and when it is encoded. VideoError where the video is damaged or
    cannot be used: the spool then holds the frames before it. That a video is too short is left to
    the caller to say.
    """
    previous: NDArray[np.uint8] | None = None
    for frames in frames_to_store(filled, path, recipe, watch):
        yield
        if len(frames):
            gray = gray_frames(frames)
            if previous is not None:
                gray = np.concatenate([previous, gray])
            previous = gray[-1:]
            with watch.part("flow"):
                flow = stored_flow(recipe.engine, gray, recipe.bound)
            filled.statistics += flow.statistics
            with watch.part("encode"):
                _encode(spool, frames, flow.planes, recipe)
            yield


def frames_to_store(
    filled: Filled, path: Location, recipe: DecodeRecipe, watch: Stopwatch
) -> Iterator[NDArray[np.uint8]]:
    """(t, H, W, 3) chunks of a video within the recipe's limits; VideoError as for `fill_spool`."""
    with recipe.open_video(path) as stream:
        filled.info, filled.notes = stream.info, stream.notes
        # A header that says so saves decoding a video that is then left out.
        if not recipe.cut_long:
            _check_length(filled.info.frames_in_header or 0, recipe.max_frames)
        for chunk in _timed(stream, watch):
            frames, filled.is_cut = shortened(chunk, filled.num_frames, recipe.max_frames)
            if filled.is_cut and not recipe.cut_long:
                raise VideoError(Reason.TOO_LONG, f"more than {recipe.max_frames} frames")
            filled.height, filled.width = frames.shape[1:3]
            filled.num_frames += len(frames)
            yield frames
            # The rest is not read: that is what the limit is for.
            if filled.is_cut:
                return


def _check_length(num_frames: int, max_frames: int | None) -> None:
    if max_frames is not None and num_frames > max_frames:
        raise VideoError(Reason.TOO_LONG, f"more than {max_frames} frames")


def shortened(
    chunk: NDArray[np.uint8], num_before: int, max_frames: int | None
) -> tuple[NDArray[np.uint8], bool]:
    """The frames of a chunk within `max_frames`, and whether any are beyond it.

    4 frames after 6 of 8 -> 2, True.
    """
    if max_frames is None:
        return chunk, False
    room = max_frames - num_before
    return chunk[:room], len(chunk) > room


def _encode(
    spool: SampleSpool, frames: NDArray[np.uint8], planes: NDArray[np.uint8], recipe: Recipe
) -> None:
    """Add (T, H, W, 3) frames and (N, 2, H, W) planes of dx and dy."""
    images = [*frames, *planes.reshape(-1, *planes.shape[2:])]
    encode = partial(encode_jpeg, quality=recipe.jpeg_quality)
    jpegs = recipe.pool.map(encode, images) if recipe.pool else map(encode, images)
    # In the order of the images, whichever thread is first: the order is part of the bytes.
    for jpeg in islice(jpegs, len(frames)):
        spool.add_frame(jpeg)
    # One iterator twice: dx and dy of a field follow each other.
    for x_jpeg, y_jpeg in zip(jpegs, jpegs, strict=True):
        spool.add_flow(x_jpeg, y_jpeg)


def _timed(stream: Iterable[NDArray[np.uint8]], watch: Stopwatch) -> Iterator[NDArray[np.uint8]]:
    """The stream's chunks, with the time to get each counted as decoding."""
    # A for loop would decode outside of the watch.
    chunks = iter(stream)
    while True:
        with watch.part("decode"):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk
