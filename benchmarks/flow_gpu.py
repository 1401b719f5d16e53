"""Engines on a GPU, all of the registry: `python -m benchmarks.flow_gpu PART FRAMES.npz OUT`.

`gpu_report.sh` runs the parts:

- card: the GPU, versions, the bandwidth of a copy
- agreement: distance of each engine to the reference, and to `numba` where that is installed, whose
  rate on one core it tells as well (flow in float32, where batches are of bytes)
- batches: pairs a second from gray frames to bytes of flow in the host's memory, and where the time
  of one batch goes, by kernel; every round takes other frames, as far as there are others
- engines: their names
- once: one small batch, for a profiler to look into

It imports torch, Triton, NumPy and the engines alone. Without a GPU, in Triton's interpreter, few
and short iterations show that all of it runs.
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton

from twinstream.errors import InputError
from twinstream.preprocess.flow.engine import Engine, Gray, TvL1Params
from twinstream.preprocess.flow.engines import ENGINES, find_engine, open_engine
from twinstream.preprocess.flow.tvl1.reference import reference_flow

BOUND = 20.0
"""The default of `preprocess.bound`."""
NO_LIMIT = 1 << 40
"""Bytes: so that no batch is cut into smaller ones."""
ON_GPU = torch.cuda.is_available()

Runs = npt.NDArray[np.uint8]
Starts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """How much is measured: pairs of a batch, rounds after a warm-up, pairs that are compared."""

    params: TvL1Params
    batches: tuple[int, ...]
    rounds: int
    num_compared: int


FULL = Plan(TvL1Params(), (128, 256, 512), rounds=3, num_compared=4)
TINY = Plan(TvL1Params(scales=1, warps=1, epsilon=0, iterations=2), (2,), rounds=1, num_compared=1)


def engines_here(plan: Plan) -> Iterator[Any]:
    """The engines that use a GPU, opened; tells of those that this machine cannot run."""
    for entry in ENGINES:
        if entry.uses_gpu:
            try:
                yield open_engine(entry.name, plan.params, gpu_bytes=NO_LIMIT)
            except InputError as error:
                print(f"{entry.name}: not here: {error}", file=sys.stderr, flush=True)


def seconds(action: Callable[[], Any]) -> float:
    """Time by the clock."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def wait() -> None:
    """Until the device has done all that was launched."""
    if ON_GPU:
        torch.cuda.synchronize()


def seconds_on_device(action: Callable[[], Any], repeats: int = 1) -> float:
    """Time of what one call launches; by the clock where there is no GPU."""
    if not ON_GPU:
        return seconds(lambda: [action() for _ in range(repeats)]) / repeats
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    wait()
    start.record()
    for _ in range(repeats):
        action()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / repeats


def batches_of(runs: Runs, num: int, count: int) -> list[Gray]:
    """`count` batches of `num` runs, one after the other, starting again after the last run.

    7 runs, 3 a batch: 0 1 2 · 3 4 5 · 6 0 1
    """
    return [
        np.concatenate(runs[np.arange(n * num, (n + 1) * num) % len(runs)]) for n in range(count)
    ]


def runs_in(num_pairs: int, runs: Runs) -> int:
    """Runs that have at least so many pairs: 128 of 17 frames -> 8."""
    return -(-num_pairs // (len(runs[0]) - 1))


def run_starts(num: int, num_frames: int) -> Starts:
    """First frames of the pairs within `num` runs: 2 of 3 frames -> 0, 1, 3, 4."""
    return np.array([run * num_frames + t for run in range(num) for t in range(num_frames - 1)])


def tell_card() -> None:
    """GPU, versions, and the bandwidth of a copy, read and written."""
    print(f"torch {torch.__version__}, triton {triton.__version__}, numpy {np.__version__}")
    if not ON_GPU:
        print("no GPU: Triton's interpreter")
        return
    card = torch.cuda.get_device_properties(0)
    # 1 GiB, many times what the caches hold
    source = torch.rand(1 << 28, device="cuda")
    target = torch.empty_like(source)
    times = [seconds_on_device(lambda: target.copy_(source)) for _ in range(7)]
    print(
        f"{card.name}, compute capability {card.major}.{card.minor}, "
        f"{card.multi_processor_count} multiprocessors, {card.total_memory / 2**30:.0f} GiB, "
        f"copy {2 * source.nbytes / median(times[1:]) / 1e12:.2f} TB/s"
    )


def agreement(plan: Plan, runs: Runs) -> None:
    """A table of distances over the first pair of the first runs."""
    pairs = [run[:2] for run in runs[: plan.num_compared]]
    expected = [reference_flow(pair[0], pair[1], plan.params) for pair in pairs]
    print(f"{len(pairs)} pairs of {runs.shape[3]}x{runs.shape[2]}\n")
    print("| engine | against | mean px | most of a pair | over 0.01 px | Mpixel-iterations |")
    print("|---|---|---|---|---|---|", flush=True)
    flows = {"reference": expected}
    engines: list[Engine] = []
    try:
        engines.append(open_engine("numba", plan.params))
    except ModuleNotFoundError as error:
        print(f"numba: not here: {error}", flush=True)
    for engine in [*engines, *engines_here(plan)]:
        own = [engine(pair)[0].copy() for pair in pairs]
        for name, others in flows.items():
            apart = [
                np.linalg.norm(a - b, axis=-1).astype(np.float64)
                for a, b in zip(own, others, strict=True)
            ]
            means = [float(distance.mean()) for distance in apart]
            share = float(np.mean([(distance > 0.01).mean() for distance in apart]))
            work = getattr(engine, "pixel_iterations", 0) / len(pairs) / 1e6
            print(
                f"| {engine.name} | {name} | {np.mean(means):.5f} | {max(means):.5f} "
                f"| {share:.2%} | {work:.2f} |",
                flush=True,
            )
        flows[engine.name] = own
    for engine in engines:
        took = median(seconds(partial(engine, run)) for run in runs[: plan.num_compared])
        print(f"\n{engine.name}: {(runs.shape[1] - 1) / took:.1f} pairs/s on one core", flush=True)


def batches(plan: Plan, runs: Runs, out: Path) -> None:
    """Rates of each engine and batch size, and the kernels of one batch."""
    for engine in engines_here(plan):
        for num_pairs in plan.batches:
            num = runs_in(num_pairs, runs)
            starts = run_starts(num, runs.shape[1])
            drawn = batches_of(runs, num, plan.rounds + 1)
            times, before = [], 0
            for batch in drawn:
                times.append(seconds(partial(engine.stored_pairs, batch, starts, BOUND)))
                before = before or engine.pixel_iterations
            work = (engine.pixel_iterations - before) / len(starts) / plan.rounds
            rate = len(starts) / median(times[1:])
            print(
                f"\n{engine.name}, {len(starts)} pairs a batch: {rate:.0f} pairs/s host to host, "
                f"{median(times[1:]) * 1e3:.1f} ms, {work / 1e6:.1f} Mpixel-iterations a pair, "
                f"first call {times[0]:.1f} s",
                flush=True,
            )
            trace = out / f"trace_{engine.name}_{len(starts)}.json"
            tell_kernels(partial(engine.stored_pairs, drawn[0], starts, BOUND), trace)


def tell_kernels(action: Callable[[], Any], trace: Path) -> None:
    """Times of the kernels that a call launches: the whole way from frames to bytes of flow."""
    if not ON_GPU:
        print("  kernels: none without a GPU")
        return
    # It takes seconds to import.
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        action()
        wait()
    found.export_chrome_trace(str(trace))
    events = [
        event
        for event in json.loads(trace.read_text())["traceEvents"]
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]
    # A trace of a large batch has tens of megabytes, and says no more than the lines below.
    trace.unlink()
    span = max(e["ts"] + e["dur"] for e in events) - min(e["ts"] for e in events)
    busy = sum(event["dur"] for event in events)
    print(f"  {len(events)} kernels and copies, span {span / 1e3:.1f} ms, busy {busy / 1e3:.1f} ms")
    kinds = defaultdict(list)
    for event in events:
        given = event["args"]
        grid = "x".join(map(str, given.get("grid", [])))
        kinds[event["name"].split("(")[0][:40], grid, given.get("registers per thread")].append(
            event["dur"]
        )
    for (name, grid, registers), lasted in sorted(kinds.items(), key=lambda kind: -sum(kind[1]))[
        :24
    ]:
        lasted.sort()
        print(
            f"  {name:40} grid {grid:12} registers {registers}: {len(lasted):5} x, "
            f"{sum(lasted) / 1e3:8.2f} ms; us least {lasted[0]:.1f}, median "
            f"{lasted[len(lasted) // 2]:.1f}, most {lasted[-1]:.1f}",
            flush=True,
        )


def once(plan: Plan, runs: Runs, name: str) -> None:
    """A batch of the smallest size."""
    num = runs_in(min(plan.batches), runs)
    engine: Any = open_engine(find_engine(name).name, plan.params, gpu_bytes=NO_LIMIT)
    engine.stored_pairs(batches_of(runs, num, 1)[0], run_starts(num, runs.shape[1]), BOUND)


def main() -> None:
    """Print one part."""
    parser = argparse.ArgumentParser(description="Measure the flow engines that use a GPU.")
    parser.add_argument("part", choices=["card", "engines", "agreement", "batches", "once"])
    parser.add_argument("frames", type=Path, help="what benchmarks.flow_frames wrote")
    parser.add_argument("out", type=Path, help="folder for what is written beside the output")
    parser.add_argument("--engine", default="cuda", help="of the part `once`")
    given = parser.parse_args()
    if not ON_GPU and os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("torch sees no GPU, and TRITON_INTERPRET is not 1")
    plan, runs = FULL if ON_GPU else TINY, np.load(given.frames)["runs"]
    if given.part == "card":
        tell_card()
    elif given.part == "engines":
        print(*[engine.name for engine in engines_here(plan)])
    elif given.part == "agreement":
        agreement(plan, runs)
    elif given.part == "batches":
        batches(plan, runs, given.out)
    else:
        once(plan, runs, given.engine)


if __name__ == "__main__":
    main()
