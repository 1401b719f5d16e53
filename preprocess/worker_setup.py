"""What a worker is made of.

Plain values travel to the worker's machine, and the decoder and the engine are opened from them
there: neither of the two could be sent.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from twinstream.preprocess.decode import open_video
from twinstream.preprocess.engine import DEFAULT_GPU_BYTES, TvL1Params
from twinstream.preprocess.engines import open_engine
from twinstream.preprocess.frames import open_frames
from twinstream.preprocess.job import Recipe
from twinstream.shards.storage import Location


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to run jobs, all of it plain values that travel to another machine."""

    root: Location
    out: Location
    size: tuple[int, int] | None
    short_side: int | None
    max_pixels: int | None
    chunk_frames: int
    engine: str
    tvl1: TvL1Params
    bound: float
    jpeg_quality: int
    min_frames: int
    settings: dict[str, Any]
    max_frames: int | None = None
    cut_long: bool = False
    gpu_share: float = 0.0
    cores: int = 1
    gpu_bytes: int = DEFAULT_GPU_BYTES
    from_frames: bool = False


def make_recipe(setup: WorkerSetup) -> Recipe:
    """The decoder and the engine that `setup` names, opened."""
    open_any: Any = open_frames if setup.from_frames else open_video

    def opened(path: Location) -> Any:
        return open_any(
            path,
            size=setup.size,
            short_side=setup.short_side,
            chunk_frames=setup.chunk_frames,
            max_pixels=setup.max_pixels,
        )

    return Recipe(
        opened,
        open_engine(setup.engine, setup.tvl1, threads=setup.cores, gpu_bytes=setup.gpu_bytes),
        setup.bound,
        setup.jpeg_quality,
        setup.min_frames,
        setup.settings,
        setup.max_frames,
        setup.cut_long,
        ThreadPoolExecutor(setup.cores) if setup.cores > 1 else None,
    )
