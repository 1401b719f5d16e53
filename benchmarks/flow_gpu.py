"""The `cuda` engine on a GPU, batch after batch of real pairs: `python -m benchmarks.flow_gpu --data DIR`.

Every round takes other frames, so that no cache flatters; a figure is the median over the rounds after one that warms
up, and the first call of all, which compiles, is told apart. `alone` is timed by events on the device, frames and flow
there; `host` by the clock, from gray frames to quantized flow in the host's memory. The floor is what memory traffic
allows without any reuse on the chip, 64 bytes a pixel-iteration, at the bandwidth of a copy measured in the same run.
Where PyAV is missing, save the frames elsewhere with --save FILE.npy and give them with --frames FILE.npy.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch

from preprocess.tvl1 import Engine, Gray, TvL1Params, open_engine
from preprocess.tvl1.cuda_batch import Tiling, batch_flow
from preprocess.tvl1.cuda_engine import CudaEngine, open_cuda, quantized
from preprocess.tvl1.reference import reference_flow

BYTES_WITHOUT_REUSE = 64
RUN = 17
"""Neighbouring frames of one video; a batch is made of such runs from many videos."""
BOUND = 20.0

Starts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """Rates in pairs a second, work in pixel-iterations a pair, the first call in seconds."""

    alone: float
    host: float
    work: float
    first_call: float


def read_runs(data: Path, num: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(num, RUN, H, W) gray frames, from as many videos as there are, over and over."""
    import cv2

    from benchmarks.flow import videos_below
    from preprocess.decode import open_video

    def runs_of(path: Path) -> Iterator[Gray]:
        with open_video(path, size=size, short_side=None, chunk_frames=RUN) as video:
            for chunk in video:
                if len(chunk) == RUN:
                    yield np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in chunk]).astype(np.uint8)

    sources = [runs_of(path) for path in videos_below(data)]
    turns = chain.from_iterable(iter(lambda: [run for source in sources for run in islice(source, 1)], []))
    runs = list(islice(turns, num))
    if len(runs) < num:
        raise click.ClickException(
            f"{data} has {len(runs)} runs of {RUN} frames; {num} are needed: fewer --pairs or rounds"
        )
    return np.stack(runs)


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
    source = torch.rand(1 << 28, device="cuda")
    target = torch.empty_like(source)
    times = [seconds_on_device(lambda: target.copy_(source)) for _ in range(7)]
    return 2 * source.nbytes / median(times[1:])


def run_starts(num: int) -> Starts:
    """First frames of the pairs within `num` runs."""
    return np.array([run * RUN + t for run in range(num) for t in range(RUN - 1)])


def measure(batches: list[Gray], tiling: Tiling) -> Row:
    """One tiling on every batch, the first to warm up."""
    params, starts = TvL1Params(), run_starts(len(batches[0]) // RUN)
    engine = open_cuda(params, max_bytes=1 << 40, tiling=tiling)
    first = torch.from_numpy(starts.astype(np.int32)).cuda()
    first_call = seconds(lambda: host_to_host(engine, batches[0], starts))
    on_device = [torch.from_numpy(batch).cuda() for batch in batches]
    alone = [seconds_on_device(partial(batch_flow, frames, first, params, tiling)) for frames in on_device]
    before = engine.pixel_iterations
    host = [seconds(partial(host_to_host, engine, batch, starts)) for batch in batches]
    work = (engine.pixel_iterations - before) / len(starts) / len(batches)
    return Row(len(starts) / median(alone[1:]), len(starts) / median(host[1:]), work, first_call)


def host_to_host(engine: CudaEngine, batch: Gray, starts: Starts) -> npt.NDArray[np.uint8]:
    """Gray frames in, bytes out."""
    return engine.computed(batch, starts, torch.uint8, lambda flow: quantized(flow, BOUND))


def difference(engine: Engine, runs: npt.NDArray[np.uint8], num: int) -> tuple[float, float]:
    """Mean endpoint distance to the reference over the first pairs of `num` runs: average and largest."""
    pairs = [run[:2] for run in runs[:num]]
    distances = [
        float(np.linalg.norm(engine(pair)[0] - reference_flow(pair[0], pair[1], TvL1Params()), axis=-1).mean())
        for pair in pairs
    ]
    return sum(distances) / num, max(distances)


def numba_rate(runs: npt.NDArray[np.uint8], num: int) -> float:
    """Pairs a second of one core with `numba`, over the first pairs of `num` runs."""
    engine = open_engine("numba", TvL1Params())
    engine(runs[0, :2])
    return num / sum(seconds(partial(engine, run[:2])) for run in runs[:num])


@click.command(help="Measure the cuda engine, for example: python -m benchmarks.flow_gpu --data ~/videos --pairs 512")
@click.option("--data", type=click.Path(path_type=Path), envvar="TWINSTREAM_DATA", help="Folder of videos.")
@click.option("--frames", type=click.Path(path_type=Path), help="Frames that --save wrote, instead of videos.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the frames there and measure nothing.")
@click.option("--size", nargs=2, type=int, default=(256, 256), show_default=True, help="Width and height.")
@click.option("--pairs", "sizes", multiple=True, type=int, default=(128, 512), show_default=True, help="Pairs a batch.")
@click.option("--rounds", default=7, show_default=True)
@click.option(
    "--tiling", "tilings", multiple=True, nargs=3, type=int, default=((4, 64, 64),), help="Depth, columns and rows."
)
@click.option("--compared", default=8, show_default=True, help="Pairs compared to the reference, and timed with numba.")
def main(
    data: Path | None,
    frames: Path | None,
    save: Path | None,
    size: tuple[int, int],
    sizes: tuple[int, ...],
    rounds: int,
    tilings: tuple[tuple[int, int, int], ...],
    compared: int,
) -> None:
    """Print a table."""
    needed = (rounds + 1) * -(-max(sizes) // (RUN - 1))
    if frames is None and (data is None or not data.is_dir()):
        raise click.ClickException(f"no folder of videos at {data}; give --data DIR or --frames FILE")
    runs = np.load(frames) if frames else read_runs(data, needed, size) if data else None
    assert runs is not None
    if save:
        np.save(save, runs)
        return
    if not torch.cuda.is_available():
        raise click.ClickException("torch sees no GPU; on a CPU run python -m benchmarks.flow")
    print_table(runs, sizes, rounds, [Tiling(*tiling) for tiling in tilings], compared)


def print_table(
    runs: npt.NDArray[np.uint8], sizes: tuple[int, ...], rounds: int, tilings: list[Tiling], compared: int
) -> None:
    """What was measured on, then a line for each tiling and number of pairs."""
    height, width = runs.shape[2:]
    bandwidth, one_core = copy_bandwidth(), numba_rate(runs, compared)
    click.echo(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {width}x{height}, {rounds} rounds")
    click.echo(f"copy {bandwidth / 1e12:.2f} TB/s; one core of numba {one_core:.1f} pairs/s")
    click.echo(
        "\n| depth, columns, rows | pairs a batch | alone pairs/s | host pairs/s | to one core | share of the floor",
        nl=False,
    )
    click.echo(" | Mpixel-iterations a pair | difference px | largest | first call s |\n" + "|---" * 10 + "|")
    for tiling in tilings:
        average, largest = difference(open_cuda(TvL1Params(), tiling=tiling), runs, compared)
        for pairs in sizes:
            num = -(-pairs // (RUN - 1))
            batches = [np.concatenate(runs[n * num : (n + 1) * num]) for n in range(rounds + 1)]
            row = measure(batches, tiling)
            share = row.alone * row.work * BYTES_WITHOUT_REUSE / bandwidth
            click.echo(
                f"| {tiling.depth}, {tiling.columns}, {tiling.rows} | {num * (RUN - 1)} | {row.alone:.0f} "
                f"| {row.host:.0f} | {row.host / one_core:.0f} | {share:.2f} | {row.work / 1e6:.1f} "
                f"| {average:.5f} | {largest:.5f} | {row.first_call:.1f} |"
            )


if __name__ == "__main__":
    main()
