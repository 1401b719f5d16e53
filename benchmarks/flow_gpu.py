"""`python -m benchmarks.flow --engine cuda`: batches of pairs on a GPU against one core of `numba`.

Every round takes other frames, so that no cache helps; a figure is the median over the rounds after
a warm-up; the very first call, which compiles, is given by itself. `alone` is timed by events on
the device, with frames and flow there; `host to host` by the clock, from gray frames to bytes of
flow in the host's memory. The floor is what memory traffic allows without any reuse on the chip,
64 bytes a pixel-iteration, at the bandwidth of a copy in the same run.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
import triton

from twinstream.preprocess.flow.engine import Engine, Gray, TvL1Params
from twinstream.preprocess.flow.engines import open_engine
from twinstream.preprocess.flow.tvl1.cuda_batch import Tiling, batch_flow
from twinstream.preprocess.flow.tvl1.cuda_engine import open_cuda
from twinstream.preprocess.flow.tvl1.reference import reference_flow
from twinstream.preprocess.settings import PreprocessSettings

BYTES_WITHOUT_REUSE = 64
RUN = 17
"""Neighbouring frames of one video; a batch is made of such runs from many videos."""
BOUND = PreprocessSettings().bound

Runs = npt.NDArray[np.uint8]
Starts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GpuPlan:
    """What to measure: frames of `videos`, or of the file `frames`.

    `sizes` are (width, height), `batches` pairs a batch, `rounds` those after the first one,
    `tilings` (depth, columns, rows). `num_compared` pairs are compared to the reference and
    computed by numba.
    """

    videos: list[Path]
    frames: Path | None
    sizes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    rounds: int
    tilings: tuple[tuple[int, int, int], ...]
    num_compared: int

    @property
    def num_runs(self) -> int:
        """So many that no round of the largest batch sees frames again."""
        return (self.rounds + 1) * runs_in(max(self.batches))

    def runs(self) -> Iterator[Runs]:
        """(n, RUN, H, W) for each size, n being `num_runs` or what there is."""
        if self.frames is not None:
            yield np.load(self.frames)["runs"]
            return
        for size in self.sizes:
            yield read_runs(self.videos, self.num_runs, size)


@dataclass(frozen=True)
class Rates:
    """Rates in pairs a second, work in pixel-iterations a pair, the first call in seconds."""

    alone: float
    host: float
    work: float
    first_call: float


def runs_in(num_pairs: int) -> int:
    """Runs that have at least so many pairs: 128 -> 8."""
    return -(-num_pairs // (RUN - 1))


def read_runs(videos: list[Path], num: int, size: tuple[int, int]) -> Runs:
    """(n, RUN, H, W) gray frames, from the videos in turn; n is `num` or as many as there are."""
    # Needed only where there is no file of frames.
    import cv2

    from twinstream.preprocess.decode.video import open_video
    from twinstream.shards.format.video_table import VideoError

    def runs_of(path: Path) -> Iterator[Gray]:
        with (
            suppress(VideoError),
            open_video(path, size=size, short_side=None, chunk_frames=RUN) as video,
        ):
            for chunk in video:
                if len(chunk) == RUN:
                    yield np.stack(
                        [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in chunk]
                    ).astype(np.uint8)

    sources = [runs_of(path) for path in videos]
    # One run of each video in turn, until all videos are at their end
    turns = chain.from_iterable(
        iter(lambda: [run for source in sources for run in islice(source, 1)], [])
    )
    runs = list(islice(turns, num))
    if not runs:
        raise click.ClickException(f"none of {len(videos)} videos has {RUN} frames")
    return np.stack(runs)


def batches_of(runs: Runs, num: int, count: int) -> list[Gray]:
    """`count` batches of `num` runs, one after the other, starting again after the last run.

    7 runs, 3 a batch: 0 1 2 · 3 4 5 · 6 0 1
    """
    return [
        np.concatenate(runs[np.arange(n * num, (n + 1) * num) % len(runs)]) for n in range(count)
    ]


def run_starts(num: int) -> Starts:
    """First frames of the pairs within `num` runs."""
    return np.array([run * RUN + t for run in range(num) for t in range(RUN - 1)])


def seconds_on_device(action: Callable[[], Any]) -> float:
    """Time of the work that the action launches."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    action()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def seconds(action: Callable[[], Any]) -> float:
    """Time by the clock."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def copy_bandwidth() -> float:
    """Bytes a second of a large copy on the device, read and written."""
    # 1 GiB, many times what the caches hold
    source = torch.rand(1 << 28, device="cuda")
    target = torch.empty_like(source)
    times = [seconds_on_device(lambda: target.copy_(source)) for _ in range(7)]
    return 2 * source.nbytes / median(times[1:])


def measure(batches: list[Gray], tiling: Tiling) -> Rates:
    """One tiling on every batch, the first to warm up."""
    params, starts = TvL1Params(), run_starts(len(batches[0]) // RUN)
    # No limit of memory, so that a batch is not cut into smaller ones.
    engine = open_cuda(params, max_bytes=1 << 40, tiling=tiling)
    first_call = seconds(lambda: engine.stored_pairs(batches[0], starts, BOUND))
    first = torch.from_numpy(starts.astype(np.int32)).to(engine.device)
    # All of them are there before the first is timed.
    there = [torch.from_numpy(batch).to(engine.device) for batch in batches]
    alone = [
        seconds_on_device(partial(batch_flow, frames, first, params, tiling)) for frames in there
    ]
    before = engine.pixel_iterations
    host = [seconds(partial(engine.stored_pairs, batch, starts, BOUND)) for batch in batches]
    work = (engine.pixel_iterations - before) / len(starts) / len(batches)
    return Rates(len(starts) / median(alone[1:]), len(starts) / median(host[1:]), work, first_call)


def differences(engine: Engine, pairs: list[Gray], expected: list[npt.NDArray[Any]]) -> list[float]:
    """Mean endpoint distance of each pair to the reference, in pixels."""
    return [
        float(np.linalg.norm(engine(pair)[0] - flow, axis=-1).mean())
        for pair, flow in zip(pairs, expected, strict=True)
    ]


def save_runs(path: Path, plan: GpuPlan) -> None:
    """Write the frames of the first size, for a machine that cannot read videos."""
    runs = next(plan.runs())
    np.savez_compressed(path, runs=runs)
    click.echo(f"{path}: {len(runs)} runs of {RUN} frames, {runs.shape[3]}x{runs.shape[2]}")


def measure_on_gpu(plan: GpuPlan) -> None:
    """Print a table for each size; ClickException where torch sees no GPU."""
    if not torch.cuda.is_available():
        raise click.ClickException("torch sees no GPU; on a CPU give --engine numba")
    bandwidth = copy_bandwidth()
    click.echo(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"copy {bandwidth / 1e12:.2f} TB/s, {plan.rounds} rounds"
    )
    for runs in plan.runs():
        print_table(plan, runs, bandwidth)


def print_table(plan: GpuPlan, runs: Runs, bandwidth: float) -> None:
    """A line for one core of `numba`, then two for each tiling and batch size, then the notes."""
    height, width = runs.shape[2:]
    pairs = [run[:2] for run in runs[: plan.num_compared]]
    expected = [reference_flow(pair[0], pair[1], TvL1Params()) for pair in pairs]
    numba = open_engine("numba", TvL1Params())
    off = differences(numba, pairs, expected)
    one_core = 1 / median(seconds(partial(numba, pair)) for pair in pairs)
    click.echo(f"\n### {width}x{height}, {len(runs)} runs of {RUN} frames\n")
    if len(runs) < plan.num_runs:
        click.echo(
            f"{plan.num_runs} runs are needed for fresh frames in every round: some come again\n"
        )
    click.echo(
        "| engine | pairs/s | to one core of numba | difference px (largest) | share of the floor |"
    )
    click.echo("|---|---|---|---|---|")
    click.echo(table_line("numba, one core", one_core, one_core, off, None))
    notes = []
    for tiling in (Tiling(*tiling) for tiling in plan.tilings):
        off = differences(open_cuda(TvL1Params(), tiling=tiling), pairs, expected)
        for num_pairs in plan.batches:
            num = runs_in(num_pairs)
            rates = measure(batches_of(runs, num, plan.rounds + 1), tiling)
            floor = bandwidth / (rates.work * BYTES_WITHOUT_REUSE)
            name = (
                f"cuda, {num * (RUN - 1)} pairs a batch, tiling {tiling.depth} {tiling.columns} "
                f"{tiling.rows}"
            )
            click.echo(table_line(f"{name}, alone", rates.alone, one_core, off, floor))
            click.echo(table_line(f"{name}, host to host", rates.host, one_core, off, floor))
            notes.append(
                f"{name}: {rates.work / 1e6:.1f} Mpixel-iterations a pair, first call "
                f"{rates.first_call:.1f} s"
            )
    click.echo("\n" + "\n".join(notes))


def table_line(
    name: str, rate: float, one_core: float, off: list[float], floor: float | None
) -> str:
    """One line; `rate`, `one_core` and `floor` in pairs a second."""
    of_floor = f"{rate / floor:.2f}" if floor else "-"
    return (
        f"| {name} | {rate:.0f} | {rate / one_core:.1f} | {mean(off):.5f} ({max(off):.5f}) | "
        f"{of_floor} |"
    )
