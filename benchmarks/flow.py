"""Engines against OpenCV's TV-L1 on the same frames: `python -m benchmarks.flow --data DIR`.

One thread each. DIR holds videos, in `ucf101/` and `weizmann/` if it is the developers' data
folder, anywhere below it otherwise. Every pair goes through all engines in turn, so that a busy
machine slows all alike; a video's time is the median over its pairs. `cv2.optflow` is OpenCV's CPU
default: a median filter of 5 and 30 inner iterations. The difference is the mean endpoint distance
to the float64 reference, over the first pair of every video.

Engines on a GPU are measured by `gpu_report.sh`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.measuring import (
    choose_videos,
    data_option,
    folder_of_videos,
    machine,
)
from twinstream.preprocess.flow.engine import Gray, TvL1Params
from twinstream.preprocess.flow.engines import ENGINES, open_engine
from twinstream.preprocess.flow.tvl1.reference import reference_flow

BASELINE = "cv2.optflow"
FRAMES_APART = 10

Compute = Callable[[Gray], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    """One engine on one video: seconds a pair, endpoint distance to the reference in pixels.

    `pixel_iterations` is the number a pair, None if the engine does not count.
    """

    video: str
    engine: str
    seconds: float
    difference: float
    pixel_iterations: float | None


def gray_pairs(path: Path, num_pairs: int, size: tuple[int, int]) -> list[Gray]:
    """`num_pairs` pairs (2, H, W) of neighbouring frames, a pair every FRAMES_APART frames."""
    # Needed for videos alone: a machine with a GPU may have nothing but frames.
    import cv2

    from twinstream.preprocess.decode.video import open_video

    with open_video(path, size=size, short_side=None, chunk_frames=2) as video:
        # Neighbouring pairs look alike; pairs that lie apart show more of the video for the same
        # time.
        chunks = islice(video, 0, num_pairs * FRAMES_APART // 2, FRAMES_APART // 2)
        pairs = [
            np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in chunk])
            for chunk in chunks
        ]
    return [pair.astype(np.uint8) for pair in pairs if len(pair) == 2]


def open_all(names: tuple[str, ...]) -> dict[str, Compute]:
    """The engines, after the baseline where this OpenCV has it."""
    import cv2

    # As many as our engines have: one.
    cv2.setNumThreads(1)
    engines: dict[str, Compute] = {}
    # Only opencv-contrib has this module.
    if hasattr(cv2, "optflow"):
        optflow: Any = cv2.optflow
        engines[BASELINE] = lambda pair: optflow.DualTVL1OpticalFlow_create().calc(
            pair[0], pair[1], None
        )[None]
    else:
        click.echo(f"OpenCV {cv2.__version__} has no optflow: no {BASELINE} and no ratios")
    return engines | {name: open_engine(name, TvL1Params()) for name in names}


def measure(path: Path, pairs: list[Gray], engines: dict[str, Compute]) -> list[Row]:
    """A row for each engine, after the first pair was computed once for caches and compilers."""
    expected = reference_flow(pairs[0][0], pairs[0][1], TvL1Params())
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    difference: dict[str, float] = {}
    for name, engine in engines.items():
        # Only the first pair: the float64 reference is far slower than any engine.
        difference[name] = float(np.linalg.norm(engine(pairs[0])[0] - expected, axis=-1).mean())
    # The engines count from their start on: what the first pair took is taken off.
    before = {name: work_done(engine) for name, engine in engines.items()}
    for pair in pairs:
        for name, engine in engines.items():
            start = time.perf_counter()
            engine(pair)
            seconds[name].append(time.perf_counter() - start)
    return [
        Row(
            path.stem,
            name,
            median(seconds[name]),
            difference[name],
            work_since(engine, before[name], len(pairs)),
        )
        for name, engine in engines.items()
    ]


def work_done(engine: Compute) -> int:
    """Pixel-iterations that the engine counted so far; 0 where it does not count."""
    return int(getattr(engine, "pixel_iterations", 0))


def work_since(engine: Compute, before: int, num_pairs: int) -> float | None:
    """Pixel-iterations a pair."""
    return (work_done(engine) - before) / num_pairs or None


def ratios(rows: list[Row], engine: str) -> list[float]:
    """How many times faster than the baseline, for each video; empty where there is no baseline."""
    baseline = {row.video: row.seconds for row in rows if row.engine == BASELINE}
    return [
        baseline[row.video] / row.seconds
        for row in rows
        if row.engine == engine and row.video in baseline
    ]


def video_line(row: Row, rows: list[Row]) -> str:
    """One table line for one engine and video."""
    ratio = ratios([other for other in rows if other.video == row.video], row.engine)
    return (
        f"| {row.video} | {row.engine} | {1 / row.seconds:.2f} | "
        f"{f'{ratio[0]:.1f}' if ratio else '-'} "
        f"| {row.difference:.5f} | "
        f"{f'{row.pixel_iterations / 1e6:.1f}' if row.pixel_iterations else '-'} |"
    )


def summary_line(rows: list[Row], engine: str) -> str:
    """One table line for one engine: medians over the videos."""
    own = [row for row in rows if row.engine == engine]
    ratio = ratios(rows, engine)
    work = [row.pixel_iterations for row in own if row.pixel_iterations]
    return (
        f"| {engine} | {median(1 / row.seconds for row in own):.2f} "
        f"| {f'{median(ratio):.1f} ({min(ratio):.1f} to {max(ratio):.1f})' if ratio else '-'} "
        f"| {median(row.difference for row in own):.5f} (at most "
        f"{max(row.difference for row in own):.5f}) "
        f"| {f'{median(work) / 1e6:.1f}' if work else '-'} |"
    )


def parse_size(text: str) -> tuple[int, int]:
    """`340x256` -> (340, 256), width first."""
    width, separator, height = text.partition("x")
    if not (separator and width.isdigit() and height.isdigit()):
        raise click.BadParameter(f"{text!r} is no size; write WIDTHxHEIGHT, such as 340x256")
    return int(width), int(height)


def print_tables(rows: list[Row]) -> None:
    """A line a video, then a line an engine."""
    click.echo(
        "| video | engine | frames/s | ratio | difference px | Mpixel-iterations "
        "|\n|---|---|---|---|---|---|"
    )
    click.echo("\n".join(video_line(row, rows) for row in rows))
    click.echo(
        "\n| engine | frames/s | ratio (min to max) | difference px | Mpixel-iterations "
        "|\n|---|---|---|---|---|"
    )
    click.echo(
        "\n".join(
            summary_line(rows, engine) for engine in dict.fromkeys(row.engine for row in rows)
        )
    )


@click.command(
    help="Compare TV-L1 engines, for example: python -m benchmarks.flow --data ~/videos --pairs 2"
)
@data_option
@click.option(
    "--engine",
    "engines",
    multiple=True,
    default=("numba",),
    type=click.Choice([entry.name for entry in ENGINES if not entry.uses_gpu]),
)
@click.option("--pairs", default=3, show_default=True, help="Frame pairs a video.")
@click.option("--size", "sizes", multiple=True, default=("256x256", "340x256"), show_default=True)
def main(data: Path | None, engines: tuple[str, ...], pairs: int, sizes: tuple[str, ...]) -> None:
    """Print two tables a size: one core for each engine in turn."""
    shapes = [parse_size(size) for size in sizes]
    computes = open_all(engines)
    videos = choose_videos(folder_of_videos(data))
    click.echo(f"{machine()}, one thread, {len(videos)} videos, {pairs} pairs each")
    for width, height in shapes:
        click.echo(f"\n### {width}x{height}\n")
        rows: list[Row] = []
        for path in videos:
            rows += measure(path, gray_pairs(path, pairs, (width, height)), computes)
        print_tables(rows)


if __name__ == "__main__":
    main()
