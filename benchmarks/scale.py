"""How the work around the videos grows with their number: CPU seconds and peak memory at four
sizes.

Videos are those of `simulated`, so that the driver and the readers alone are measured: lists, plan,
resuming, closing, opening, a sample's place, what copying reads first, and what each message of a
worker costs. Each cell runs in a process of its own. The last column is the exponent between the
last two sizes: 1 is linear.

    python -m benchmarks.scale
    python -m benchmarks.scale --size 240000 --size 960000 --cell closing
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import click

from benchmarks import simulated
from benchmarks.measuring import machine, peak_kibibytes
from twinstream.preprocess.plan import plan_jobs
from twinstream.shards.rawframes.exporter import export_rawframes
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.write.combine import merge, subset
from twinstream.shards.write.copying import Copier

SIZES = (15_000, 60_000, 240_000, 960_000)
NUM_WORKERS = 4000
NUM_PLACES = 20_000


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a cell, per `unit` where there is one, and the peak of memory in MiB."""

    seconds: float
    mebibytes: float


class _FirstByteError(Exception):
    """Raised where the first sample would be read."""


def until_first_byte(copy: Callable[[], object]) -> None:
    """Run a copying command up to where it reads its first sample."""

    def stop(*_: object) -> None:
        raise _FirstByteError

    try:
        with patch.object(Copier, "members", stop):
            copy()
    except _FirstByteError:
        return
    raise AssertionError("nothing was copied")


def _measured(work: Callable[[], object], per: float = 1.0) -> Cost:
    # Linux forgets the peak so far: what was made ready is not part of the cell.
    Path("/proc/self/clear_refs").write_text("5")
    begun = time.process_time()
    work()
    return Cost((time.process_time() - begun) / per, peak_kibibytes() / 1024)


def _catalog(size: int, folder: Path) -> Cost:
    return _measured(lambda: simulated.catalog_of(size, folder))


def _planning(size: int, folder: Path) -> Cost:
    catalog = simulated.catalog_of(size, folder)
    return _measured(lambda: plan_jobs(catalog.videos, simulated.VIDEOS_PER_SHARD, seed=0))


def _resuming(size: int, folder: Path) -> Cost:
    build = simulated.build_of(size, folder)
    return _measured(build.done_shards)


def _closing(size: int, folder: Path) -> Cost:
    return _measured(simulated.build_of(size, folder).finish)


def _finished(size: int, folder: Path) -> Cost:
    return _measured(simulated.build_of(size, folder).finished_rows)


def _whole(size: int, folder: Path) -> Cost:
    def run() -> None:
        build = simulated.build_of(size, folder)
        assert len(build.done_shards()) == len(build.plans)
        build.finish()

    return _measured(run)


def _opening(size: int, folder: Path) -> Cost:
    return _measured(lambda: len(ShardDataset(folder / "shards")))


def _place(size: int, folder: Path) -> Cost:
    samples = ShardDataset(folder / "shards").samples("train")
    last = len(samples) - 1

    def find() -> None:
        for _ in range(NUM_PLACES):
            samples[last]

    find()
    return _measured(find, per=NUM_PLACES)


def _merge(size: int, folder: Path) -> Cost:
    out = folder / "merged"
    return _measured(lambda: until_first_byte(lambda: merge([folder / "shards"], out)))


def _subset(size: int, folder: Path) -> Cost:
    out, classes = folder / "subset", [simulated.class_name(0), simulated.class_name(1)]
    return _measured(
        lambda: until_first_byte(lambda: subset(folder / "shards", out, classes=classes))
    )


def _export(size: int, folder: Path) -> Cost:
    out = folder / "exported"
    return _measured(lambda: until_first_byte(lambda: export_rawframes(folder / "shards", out)))


def _driver(size: int, folder: Path) -> Cost:
    build = simulated.build_of(size, folder)
    num_messages = 0

    def work() -> None:
        nonlocal num_messages
        num_messages = simulated.drive([*build.plans], NUM_WORKERS)

    cost = _measured(work)
    return Cost(cost.seconds / num_messages, cost.mebibytes)


# In this order: closing leaves the dataset that the cells after it read.
CELLS: dict[str, tuple[Callable[[int, Path], Cost], str]] = {
    "catalog": (_catalog, "catalog of a CSV and a listing"),
    "planning": (_planning, "planning"),
    "resuming": (_resuming, "resuming: what is done"),
    "closing": (_closing, "closing: rows, splits, table, manifest"),
    "whole": (_whole, "planned, resumed and closed by one process"),
    "finished": (_finished, "a run of what is finished"),
    "opening": (_opening, "opening the dataset"),
    "place": (_place, "a sample's place in training, each"),
    "merge": (_merge, "`merge` before its first byte"),
    "subset": (_subset, "`subset` before its first byte"),
    "export": (_export, "`export` before its first byte"),
    "driver": (_driver, f"driver of {NUM_WORKERS:,} workers, each message"),
}


def exponent(costs: Mapping[int, float]) -> float:
    """Of the growth between the two largest sizes: 1 is linear, 0 does not grow."""
    small, large = sorted(costs)[-2:]
    return math.log(costs[large] / costs[small]) / math.log(large / small)


def run_cell(cell: str, size: int, folder: Path) -> Cost:
    """A cell in a process of its own."""
    code = f"from benchmarks.scale import *; show({cell!r}, {size}, {str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    return Cost(**json.loads(done.stdout))


def show(cell: str, size: int, folder: str) -> None:
    """What a process of `run_cell` prints."""
    if cell == "prepare":
        simulated.prepare(size, Path(folder))
        cost = Cost(0, peak_kibibytes() / 1024)
    else:
        cost = CELLS[cell][0](size, Path(folder))
    print(json.dumps(vars(cost)))


def measure(sizes: list[int], cells: list[str], folder: Path) -> dict[str, dict[int, Cost]]:
    """Every cell at every size, the datasets below `folder`."""
    costs: dict[str, dict[int, Cost]] = {cell: {} for cell in cells}
    for size in sizes:
        here = folder / str(size)
        if not here.exists():
            here.mkdir()
            run_cell("prepare", size, here)
        for cell in cells:
            costs[cell][size] = run_cell(cell, size, here)
            print(f"{size}: {cell} {spelt(costs[cell][size])}", file=sys.stderr, flush=True)
    return costs


def spelt(cost: Cost) -> str:
    """`1.2 s, 87 MiB`, or microseconds where it is short."""
    time = f"{cost.seconds:.2f} s" if cost.seconds >= 0.01 else f"{1e6 * cost.seconds:.1f} µs"
    return f"{time}, {cost.mebibytes:.0f} MiB"


def table(costs: dict[str, dict[int, Cost]]) -> str:
    """The costs as a Markdown table with the exponents of time and memory."""
    sizes = sorted(next(iter(costs.values())))
    lines = [
        f"| | {' | '.join(f'{size:,}' for size in sizes)} | exponent of time, memory |",
        f"|{'---|' * (len(sizes) + 2)}",
    ]
    for cell, by_size in costs.items():
        grown = "-"
        if len(sizes) > 1:
            seconds = exponent({size: cost.seconds for size, cost in by_size.items()})
            memory = exponent({size: cost.mebibytes for size, cost in by_size.items()})
            grown = f"{seconds:.2f}, {memory:.2f}"
        shown = " | ".join(spelt(by_size[size]) for size in sizes)
        lines.append(f"| {CELLS[cell][1]} | {shown} | {grown} |")
    return "\n".join(lines)


@click.command()
@click.option("--size", "sizes", type=click.IntRange(min=1), multiple=True, default=SIZES)
@click.option("--cell", "cells", type=click.Choice([*CELLS]), multiple=True, default=[*CELLS])
@click.option("--keep", type=click.Path(path_type=Path), help="Folder that keeps the datasets.")
def main(sizes: tuple[int, ...], cells: tuple[str, ...], keep: Path | None) -> None:
    """CPU seconds and peak memory by the number of videos."""
    with tempfile.TemporaryDirectory(prefix="twinstream-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        costs = measure(sorted(sizes), list(cells), folder)
    print(f"{machine()}; {simulated.VIDEOS_PER_SHARD} videos a shard\n\n{table(costs)}")


if __name__ == "__main__":
    main()
