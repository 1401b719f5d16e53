"""Peak memory of a worker against the length of its video: `python -m benchmarks.memory`.

1080p videos are drawn, one process makes a shard of each alone, and its peak resident memory is
read when it ends. TV-L1 gets few iterations, because its memory does not depend on them. One part
may grow by design: the spool keeps up to 32 MiB of encoded frames and as much of encoded flow in
memory before it goes to disk.
"""

import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import av
import click
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from benchmarks.measuring import machine, peak_kibibytes
from twinstream.preprocess.catalog.catalog import Video
from twinstream.preprocess.cluster.resources import CPU_CHUNK_FRAMES
from twinstream.preprocess.cluster.worker import WorkerSetup, make_recipe
from twinstream.preprocess.flow.tvl1_settings import TvL1Settings
from twinstream.preprocess.job import run_job
from twinstream.preprocess.plan import Job
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings
from twinstream.shards.settings import ShardSettings

WIDTH, HEIGHT, FPS = 1920, 1080, 25
NUM_DRAWN = 24
BIT_RATE = 2_000_000


def drawn(rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    """A textured picture that shifts by a few pixels a frame, (H, W, 3) uint8 each."""
    coarse = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    texture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return [np.roll(texture, 3 * step, axis=1).astype(np.uint8) for step in range(NUM_DRAWN)]


def write_long_video(path: Path, num_frames: int) -> None:
    """The drawn frames again and again, as MPEG-4."""
    pictures = [
        av.VideoFrame.from_ndarray(frame, format="rgb24")
        for frame in drawn(np.random.default_rng(0))
    ]
    # Converted once: each picture is encoded many times.
    pictures = [picture.reformat(format="yuv420p") for picture in pictures]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = (
            WIDTH,
            HEIGHT,
            "yuv420p",
            BIT_RATE,
        )
        for number in range(num_frames):
            picture = pictures[number % NUM_DRAWN]
            # The encoder left its last time there; None has it count on.
            picture.pts = None
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def peak_mebibytes(folder: Path, name: str, engine: str, size: int) -> tuple[int, int, float]:
    """Make a shard of one video; returns frames, peak memory in MiB and the tar's size in MB."""
    out = folder / f"out-{name}"
    setup = WorkerSetup(
        root=folder,
        out=out,
        dataset=DatasetSettings(kind="folders"),
        preprocess=PreprocessSettings(
            size=(size, size),
            chunk_frames=CPU_CHUNK_FRAMES,
            tvl1=TvL1Settings(warps=1, iterations=2),
        ),
        shards=ShardSettings(),
        engine=engine,
    )
    job = Job("train", "train-000000", (Video(name, name, "a", 0, "train", True),))
    (done,) = run_job(job, root=folder, out=out, recipe=make_recipe(setup))
    tar = out / "train" / "train-000000.tar"
    return done.num_frames, peak_kibibytes() // 1024, tar.stat().st_size / 1e6


@click.command(
    help=(
        "Peak memory against length, for example: python -m benchmarks.memory --seconds 10 "
        "--seconds 200"
    )
)
@click.option(
    "--seconds",
    multiple=True,
    type=int,
    default=(10, 60, 200),
    show_default=True,
    help="Lengths to try.",
)
@click.option("--engine", default="numba", show_default=True)
@click.option(
    "--size",
    default=PreprocessSettings().size[0],
    show_default=True,
    help="Side of the stored square.",
)
def main(seconds: tuple[int, ...], engine: str, size: int) -> None:
    """Print a table, a process for each line."""
    click.echo(f"{machine()}, {WIDTH}x{HEIGHT} at {FPS} frames/s to {size}x{size}, {engine}\n")
    click.echo("| video s | frames | peak MiB | tar MB | s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for length in seconds:
            video = f"{length}.avi"
            write_long_video(folder / video, length * FPS)
            begun = time.perf_counter()
            # A forked process would begin with the memory of this one.
            with get_context("spawn").Pool(1) as pool:
                num_frames, peak, megabytes = pool.apply(
                    peak_mebibytes, (folder, video, engine, size)
                )
            spent = time.perf_counter() - begun
            click.echo(f"| {length} | {num_frames} | {peak} | {megabytes:.0f} | {spent:.0f} |")


if __name__ == "__main__":
    main()
