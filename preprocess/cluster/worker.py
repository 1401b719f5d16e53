"""What a worker is made of.

The settings travel to the worker's machine as they are, frozen, with what the driver alone can
decide: the engine that `auto` means for this run, absolute paths, and the part of a machine that a
worker has. The decoder and the engine are opened from them there: neither of the two could be sent.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from twinstream.errors import InputError
from twinstream.preprocess.catalog.kinds import KINDS
from twinstream.preprocess.cluster.resources import default_chunk_frames
from twinstream.preprocess.decode.image_folder import open_frames
from twinstream.preprocess.decode.video import open_video
from twinstream.preprocess.decode.video_stream import VideoStream
from twinstream.preprocess.flow.engines import open_engine
from twinstream.preprocess.job import (
    DecodeRecipe,
    Recipe,
    VideoAt,
    VideoDone,
    check_steps,
    job_steps,
)
from twinstream.preprocess.plan import Job
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings, byte_settings
from twinstream.shards.format.video_table import VideoError
from twinstream.shards.settings import ShardSettings
from twinstream.shards.storage.location import Location

# Signs of life within a video come at most so often, for one driver hears all workers of a cluster,
# and as many come at least before a video would be left out as one that hangs.
SIGN_SECONDS, SIGNS_IN_TIMEOUT = 10.0, 60

Opener = Callable[..., AbstractContextManager[VideoStream]]


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """What a worker needs to run jobs, all of it plain values that travel to another machine.

    `root` and `out` are absolute, and without `out` videos are checked and nothing is stored;
    `engine` is resolved; `gpu_fraction` is the part of one GPU that the worker has, `cores` its CPU
    cores.
    """

    root: Location
    out: Location | None
    dataset: DatasetSettings
    preprocess: PreprocessSettings
    shards: ShardSettings
    engine: str
    gpu_fraction: float = 0.0
    cores: int = 1


OpenRecipe = Callable[[WorkerSetup], DecodeRecipe]


class Worker:
    """Runs jobs one after another; its decoder and its engine are opened once."""

    def __init__(self, setup: WorkerSetup, open_recipe: OpenRecipe) -> None:
        self._setup, self._open_recipe = setup, open_recipe

    def open(self) -> str:
        """Open decoder and engine; the worker's name, host/process.

        InputError, with the host, where that cannot be done.
        """
        host = socket.gethostname()
        try:
            self._recipe = self._open_recipe(self._setup)
        except InputError as error:
            raise InputError(f"{host}: {error}") from error
        return f"{host}/{os.getpid()}"

    def run(self, job: Job, given_up: Mapping[str, VideoError]) -> Iterator[VideoAt | VideoDone]:
        """Make one shard; yields each video as it begins and ends, and now and then within it."""
        key, signed_at = "", 0.0
        seconds = sign_seconds(self._setup.preprocess.timeout_seconds)
        for step in self._steps(job, given_up):
            now = time.monotonic()
            is_new = isinstance(step, VideoDone) or step.key != key
            if is_new or now - signed_at > seconds:
                key, signed_at = "" if isinstance(step, VideoDone) else step.key, now
                yield step

    def _steps(self, job: Job, given_up: Mapping[str, VideoError]) -> Iterator[VideoAt | VideoDone]:
        root, out, recipe = self._setup.root, self._setup.out, self._recipe
        if out is None:
            return check_steps(job, root=root, recipe=recipe, given_up=given_up)
        assert isinstance(recipe, Recipe)
        return job_steps(job, root=root, out=out, recipe=recipe, given_up=given_up)


def sign_seconds(timeout_seconds: float | None) -> float:
    """Between two signs of life, by the time after which a silent video is left out."""
    if timeout_seconds is None:
        return SIGN_SECONDS
    return min(SIGN_SECONDS, timeout_seconds / SIGNS_IN_TIMEOUT)


def recipe_opener(setup: WorkerSetup) -> OpenRecipe:
    """What opens a worker's recipe: of decoding alone where nothing is stored."""
    return decode_recipe if setup.out is None else make_recipe


def decode_recipe(setup: WorkerSetup) -> DecodeRecipe:
    """The decoder that `setup` names, and which videos can be used."""
    settings = setup.preprocess
    # The two take the same arguments, but a folder of frames is always on a disk.
    opener: Opener = open_frames if KINDS[setup.dataset.kind].is_folder else open_video
    chunk_frames = settings.chunk_frames or default_chunk_frames(
        setup.engine, *_largest_size(settings)
    )

    def opened(path: Location) -> AbstractContextManager[VideoStream]:
        return opener(
            path,
            size=None if settings.short_side else settings.size,
            short_side=settings.short_side,
            chunk_frames=chunk_frames,
            max_pixels=settings.max_pixels,
            up_to_damage=settings.on_damage == "keep",
        )

    return DecodeRecipe(
        open_video=opened,
        min_frames=settings.min_frames,
        max_frames=settings.max_frames,
        cut_long=settings.too_long == "cut",
        keep_damaged=settings.on_damage == "keep",
    )


def make_recipe(setup: WorkerSetup) -> Recipe:
    """The decoder and the engine that `setup` names, opened, and all else that makes a sample."""
    settings = setup.preprocess
    return Recipe(
        **vars(decode_recipe(setup)),
        engine=open_engine(
            setup.engine,
            settings.tvl1.params(),
            threads=setup.cores,
            gpu_bytes=settings.gpu_memory_bytes,
        ),
        bound=settings.bound,
        jpeg_quality=setup.shards.jpeg_quality,
        settings=byte_settings(setup.dataset, settings, setup.shards, setup.engine),
        # With one core a pool would only cost time.
        pool=ThreadPoolExecutor(setup.cores) if setup.cores > 1 else None,
    )


def _largest_size(settings: PreprocessSettings) -> tuple[int, int]:
    """Stored width and height; of most videos where only the shorter side is set."""
    if settings.short_side is None:
        return settings.size
    # Hardly any video is wider than twice its height.
    return 2 * settings.short_side, settings.short_side
