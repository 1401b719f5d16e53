"""The whole stage against a plain loop: `python -m benchmarks.preprocess --data DIR`.

The loop is what people write today: cv2.VideoCapture, cv2.resize, cv2.optflow (defaults, one
thread) and cv2.imwrite of img/flow_x/flow_y, one process a core over the videos. Both get the same
files and cores, one after the other. Throughput of twinstream counts from the first worker's start;
Ray's own start has a column of its own, because it does not grow with the videos. Beside it stands
what is possible: the rate of one worker's parts on all cores, or with GPUs the lower rate of GPUs
and cores. `--engine cuda --no-loop` needs nothing of OpenCV's contrib modules.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from benchmarks.measuring import (
    choose_videos,
    data_option,
    folder_of_videos,
    machine,
    spread,
    videos_below,
)
from twinstream.preprocess.catalog.catalog import Catalog, folders_catalog
from twinstream.preprocess.cluster.jobs import run_jobs
from twinstream.preprocess.cluster.resources import Node, this_node, worker_resources
from twinstream.preprocess.cluster.worker import WorkerSetup, make_recipe
from twinstream.preprocess.doctor import stage_rate
from twinstream.preprocess.flow.engines import ENGINES, cpu_engine, find_engine
from twinstream.preprocess.job import PARTS, VideoDone, run_job
from twinstream.preprocess.plan import Job, dataset_build, plan_jobs
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings, byte_settings
from twinstream.shards.format.flow_codec import quantize
from twinstream.shards.settings import ShardSettings


@dataclass(frozen=True)
class Result:
    """One contender: frames written, seconds at work, seconds to start, bytes and files written.

    `part_seconds` is the time that all workers together spent on decoding, flow and encoding, where
    it is known.
    """

    name: str
    num_frames: int
    seconds: float
    start_seconds: float
    num_bytes: int
    num_files: int
    part_seconds: float = 0.0


def todays_loop(videos: list[Path], out: Path, size: tuple[int, int], workers: int) -> Result:
    """Frames and flow as one JPEG each, `workers` processes over the videos."""
    begun = time.perf_counter()
    jobs = [(path, out / path.stem, size) for path in videos]
    with get_context("spawn").Pool(workers) as pool:
        # Comes back when the processes have started: that is no work on videos.
        pool.map(_ready, range(workers), chunksize=1)
        started = time.perf_counter()
        num_frames = sum(pool.starmap(_extract, jobs, chunksize=1))
    return _result("cv2 loop", num_frames, started - begun, time.perf_counter() - started, out)


def _ready(number: int) -> int:
    return number


def _extract(path: Path, folder: Path, size: tuple[int, int]) -> int:
    """What the scripts do: read, resize, flow to the frame before, three files a frame."""
    folder.mkdir(parents=True)
    # A process a core already
    cv2.setNumThreads(1)
    optflow: Any = cv2.optflow
    tvl1 = optflow.DualTVL1OpticalFlow_create()
    capture, before, number = cv2.VideoCapture(str(path)), None, 0
    while True:
        found, frame = capture.read()
        if not found:
            return number
        frame = cv2.resize(frame, size)
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        cv2.imwrite(str(folder / f"img_{number:05d}.jpg"), frame)
        if before is not None:
            levels = quantize(tvl1.calc(before, gray, None), 20)
            for axis, name in enumerate(("flow_x", "flow_y")):
                cv2.imwrite(
                    str(folder / f"{name}_{number - 1:05d}.jpg"),
                    np.ascontiguousarray(levels[..., axis]),
                )
        before, number = gray, number + 1


def twinstream_run(
    root: Path, catalog: Catalog, out: Path, size: tuple[int, int], workers: int | None, engine: str
) -> Result:
    """The stage with this many workers, or as many as there is room for, a video a shard."""
    setup, jobs, settings = prepared(root, catalog, out, size, engine)
    begun = time.perf_counter()
    done: list[VideoDone] = []
    started = 0.0
    for video in run_jobs(jobs, setup, workers=workers, address=None):
        # A video is reported at its end; the work on the first began so much earlier.
        if not done:
            started = time.perf_counter() - sum(video.seconds.values())
        done.append(video)
        # Set at each video: after the last one run_jobs still stops Ray, which is no work on
        # videos.
        ended = time.perf_counter()
    dataset_build(out, catalog, jobs, settings, setup.preprocess.bound).finish()
    num_frames = sum(video.num_frames for video in done)
    name = f"twinstream, {engine}, {workers or 'all'} workers"
    part_seconds = sum(sum(video.seconds.values()) for video in done)
    return replace(
        _result(name, num_frames, started - begun, ended - started, out), part_seconds=part_seconds
    )


def fraction_outside(
    root: Path, catalog: Catalog, out: Path, size: tuple[int, int], engine: str
) -> tuple[float, list[VideoDone]]:
    """The fraction of a worker's time outside decoding, flow and encoding, and the videos.

    Without Ray and on one core.
    """
    setup, jobs, _ = prepared(root, catalog, out, size, engine)
    setup = replace(setup, cores=1)
    recipe = make_recipe(setup)
    begun = time.perf_counter()
    done = [video for job in jobs for video in run_job(job, root=root, out=out, recipe=recipe)]
    wall = time.perf_counter() - begun
    return 1 - sum(sum(video.seconds.values()) for video in done) / wall, done


def prepared(
    root: Path, catalog: Catalog, out: Path, size: tuple[int, int], engine: str
) -> tuple[WorkerSetup, list[Job], dict[str, Any]]:
    """What a run needs, with the defaults of pipeline.yaml."""
    dataset = DatasetSettings(kind="folders")
    # The plain loop has no limit of pixels, so neither has this.
    preprocess = PreprocessSettings(size=size, max_pixels=None)
    # A video a shard is the finest division: few videos keep all workers busy.
    shards = ShardSettings(videos_per_shard=1)
    settings = byte_settings(dataset, preprocess, shards, engine)
    needs = worker_resources(
        engine,
        [this_node()],
        threads=preprocess.threads,
        workers_per_gpu=preprocess.workers_per_gpu,
        cores_per_gpu=preprocess.cores_per_gpu,
    )
    setup = WorkerSetup(
        root=root,
        out=out,
        dataset=dataset,
        preprocess=preprocess,
        shards=shards,
        engine=engine,
        gpu_fraction=needs.gpu,
        cores=needs.cores,
    )
    return setup, plan_jobs(catalog.videos, 1, seed=0), settings


def _result(name: str, num_frames: int, start_seconds: float, seconds: float, out: Path) -> Result:
    files = [path for path in out.rglob("*") if path.is_file()]
    num_bytes = sum(path.stat().st_size for path in files)
    return Result(name, num_frames, seconds, start_seconds, num_bytes, len(files))


def catalog_of(videos: list[Path], data: Path) -> Catalog:
    """These videos, their folders as classes."""
    return folders_catalog([path.relative_to(data).as_posix() for path in videos], data.name)


def line(result: Result, baseline: Result) -> str:
    """One table line."""
    rate = result.num_frames / result.seconds
    ratio = rate / (baseline.num_frames / baseline.seconds)
    return (
        f"| {result.name} | {result.num_frames} | {rate:.2f} | {ratio:.1f} | "
        f"{result.start_seconds:.1f} "
        f"| {result.num_bytes / 1e6:.1f} | {result.num_files} |"
    )


@click.command(
    help=(
        "Compare the stage with a plain loop, for example: python -m benchmarks.preprocess "
        "--data ~/videos"
    )
)
@data_option
@click.option("--videos", "num_videos", default=6, show_default=True, help="Videos for both.")
@click.option(
    "--size",
    default=PreprocessSettings().size[0],
    show_default=True,
    help="Side of the stored square.",
)
@click.option(
    "--engine",
    default=cpu_engine(),
    show_default=True,
    type=click.Choice([entry.name for entry in ENGINES]),
)
@click.option(
    "--workers", type=int, help="Processes for both; 2, or on GPUs as many as there is room for."
)
@click.option("--loop/--no-loop", default=True, show_default=True, help="Run the loop as well.")
@click.option(
    "--scaling",
    default=24,
    show_default=True,
    help="Videos over which many workers are set against one.",
)
def main(
    data: Path | None,
    num_videos: int,
    size: int,
    engine: str,
    workers: int | None,
    loop: bool,
    scaling: int,
) -> None:
    """Print the table, then how the stage scales and where its time goes."""
    data = folder_of_videos(data)
    videos = spread(choose_videos(data), num_videos)
    catalog = catalog_of(videos, data)
    # Short videos of one kind, so that no worker is left with a long one at the end.
    alike = catalog_of(
        spread(
            videos_below(next(path for path in (data / "weizmann", data) if path.is_dir())), scaling
        ),
        data,
    )
    node = this_node()
    if not find_engine(engine).uses_gpu:
        workers = workers or 2
        node = Node(workers)
    click.echo(
        f"{machine()}, {len(videos)} videos, {size}x{size}, {engine}, {workers or 'all'} processes"
    )
    with tempfile.TemporaryDirectory() as folder:
        out, shape = Path(folder), (size, size)
        outside, done = fraction_outside(data, catalog, out / "plain", shape, engine)
        outside_alike, _ = fraction_outside(data, alike, out / "plain alike", shape, engine)
        many = twinstream_run(data, catalog, out / "many", shape, workers, engine)
        one = twinstream_run(data, alike, out / "one", shape, 1, engine)
        many_alike = twinstream_run(data, alike, out / "many alike", shape, workers, engine)
        results = (
            [todays_loop(videos, out / "loop", shape, workers or node.cores), many]
            if loop
            else [many]
        )
    click.echo(
        "| | frames | frames/s | ratio | start s | MB | files |\n|---|---|---|---|---|---|---|"
    )
    click.echo("\n".join(line(result, results[0]) for result in results))
    gain = one.seconds / many_alike.seconds
    click.echo(
        f"\n{workers or 'all'} workers against 1, over {len(alike.videos)} short videos: "
        f"{gain:.2f} times"
    )
    click.echo(
        f"1 worker, {len(alike.videos)} jobs of one short video: {one.start_seconds:.1f} s to "
        "start, "
        f"{1 - one.part_seconds / one.seconds:.1%} of its time outside of decoding, flow and "
        "encoding; "
        f"a loop without Ray {outside_alike:.1%}"
    )
    num_frames = sum(video.num_frames for video in done)
    parts = {part: sum(video.seconds[part] for video in done) / num_frames for part in PARTS}
    click.echo(
        " · ".join(f"{part} {1e3 * seconds:.2f}" for part, seconds in parts.items())
        + f" ms/frame · {outside:.1%} of a worker's time is outside of them"
    )
    allowed = stage_rate(1 / parts["flow"], parts["decode"] + parts["encode"], node)
    rate = many_alike.num_frames / many_alike.seconds
    click.echo(
        f"{rate:.0f} frames/s over the short videos, of {allowed:.0f} that the parts allow: "
        f"{rate / allowed:.0%}"
    )


if __name__ == "__main__":
    main()
