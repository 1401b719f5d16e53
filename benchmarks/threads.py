"""What threads gain on one video with `numba`: `python -m benchmarks.threads --data DIR`.

Each run of frames goes through every number of threads in turn, over and over, so that a busy
machine slows all alike; a figure is the median of the rounds. Wall time and processor time are
given side by side: processor time over wall time is the number of cores in use. On cores that other
processes use, threads gain nothing.
"""

import os
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import click
import cv2
import numpy as np

from benchmarks.measuring import choose_videos, data_option, folder_of_videos, machine
from twinstream.preprocess.decode.video import open_video
from twinstream.preprocess.flow.engine import Engine, Gray, TvL1Params
from twinstream.preprocess.flow.engines import open_engine


def gray_run(path: Path, num_frames: int, size: int) -> Gray:
    """(T, size, size), the first frames of a video."""
    with open_video(path, size=(size, size), short_side=None, chunk_frames=num_frames) as video:
        (frames,) = islice(video, 1)
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.uint8)


@dataclass(frozen=True)
class Times:
    """Seconds a pair, by the clock and of the processor."""

    wall: float
    cpu: float


def timed(engine: Engine, gray: Gray) -> Times:
    """One call."""
    # process_time adds up all threads, so it shows what the gain in wall time costs.
    wall, cpu = time.perf_counter(), time.process_time()
    engine(gray)
    pairs = len(gray) - 1
    return Times((time.perf_counter() - wall) / pairs, (time.process_time() - cpu) / pairs)


def measure(engines: dict[int, Engine], gray: Gray, rounds: int) -> dict[int, Times]:
    """Medians for each number of threads."""
    # The first call compiles.
    for engine in engines.values():
        engine(gray)
    turns = [
        {threads: timed(engine, gray) for threads, engine in engines.items()} for _ in range(rounds)
    ]
    return {
        threads: Times(
            median(turn[threads].wall for turn in turns),
            median(turn[threads].cpu for turn in turns),
        )
        for threads in engines
    }


@click.command(
    help=(
        "Compare numbers of threads, for example: python -m benchmarks.threads --data ~/videos "
        "--threads 4"
    )
)
@data_option
@click.option(
    "--threads",
    "counts",
    multiple=True,
    type=int,
    default=(2,),
    show_default=True,
    help="Against one.",
)
@click.option("--frames", default=65, show_default=True, help="Frames of each video.")
@click.option(
    "--size", default=256, show_default=True, help="Side of the square they are resized to."
)
@click.option("--rounds", default=5, show_default=True)
def main(data: Path | None, counts: tuple[int, ...], frames: int, size: int, rounds: int) -> None:
    """Print one line a video and number of threads."""
    data = folder_of_videos(data)
    engines = {
        threads: open_engine("numba", TvL1Params(), threads=threads) for threads in (1, *counts)
    }
    click.echo(f"{machine()}, load {os.getloadavg()[0]:.1f}, {size}x{size}, {rounds} rounds")
    click.echo(
        "\n| video | threads | ms a pair | processor ms a pair | times one thread "
        "|\n|---|---|---|---|---|"
    )
    gains: dict[int, list[float]] = {}
    for path in choose_videos(data):
        found = measure(engines, gray_run(path, frames, size), rounds)
        for threads, times in found.items():
            gain = found[1].wall / times.wall
            gains.setdefault(threads, []).append(gain)
            figures = f"{times.wall * 1e3:.1f} | {times.cpu * 1e3:.1f} | {gain:.2f}"
            click.echo(f"| {path.stem} | {threads} | {figures} |")
    for threads in counts:
        gain_text = (
            f"median {median(gains[threads]):.2f} times one ({min(gains[threads]):.2f} to "
            f"{max(gains[threads]):.2f})"
        )
        click.echo(f"\n{threads} threads: {gain_text}, load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
