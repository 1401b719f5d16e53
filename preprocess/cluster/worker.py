"""What a worker is made of.

The settings travel to the worker's machine as they are, frozen, with what the driver alone can
decide: the engine that `auto` means for this run, absolute paths, and the part of a machine that a
worker has. The decoder and the engine are opened from them there: neither of the two could be sent.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from twinstream.preprocess.catalog.kinds import KINDS
from twinstream.preprocess.cluster.resources import default_chunk_frames
from twinstream.preprocess.decode.image_folder import open_frames
from twinstream.preprocess.decode.video import open_video
from twinstream.preprocess.decode.video_stream import VideoStream
from twinstream.preprocess.flow.engines import open_engine
from twinstream.preprocess.job import DecodeRecipe, Recipe
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings, byte_settings
from twinstream.shards.settings import ShardSettings
from twinstream.shards.storage.location import Location

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
            setup.engine, settings.tvl1, threads=setup.cores, gpu_bytes=settings.gpu_memory_bytes
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
