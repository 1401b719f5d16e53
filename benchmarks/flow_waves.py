"""The parts of a batch of the `cuda` engine: `python -m benchmarks.flow_waves FRAMES.npz`.

How long a wave of iterations takes with so many pairs at work, what is launched beside it, and how
long the host is busy launching a batch: it must be done before the device is.
"""

import argparse
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.flow_gpu import (
    FULL,
    ON_GPU,
    TINY,
    Plan,
    Runs,
    batches_of,
    run_starts,
    runs_in,
    seconds_on_device,
    wait,
)
from twinstream.preprocess.flow.engine import TvL1Params
from twinstream.preprocess.flow.tvl1 import triton_rule
from twinstream.preprocess.flow.tvl1.cuda_batch import ASK_EVERY, ROWS, Level, Tiling, batch_flow

DEVICE = torch.device("cuda" if ON_GPU else "cpu")


@dataclass(frozen=True)
class Curve:
    """Waves of a level of `side` x `side` pixels with each of these numbers of pairs at work."""

    side: int
    counts: tuple[int, ...]
    columns: int = 64


CURVES = (
    Curve(256, (1, 4, 16, 64, 256, 512)),
    Curve(105, (1, 16, 64, 256, 512)),
    Curve(256, (1, 64, 512), columns=32),
)
TINY_CURVES = (Curve(16, (1,)),)


def random_level(curve: Curve, params: TvL1Params) -> Level:
    """Pairs of random images, with flow zero."""
    num, side = max(curve.counts), curve.side
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (num + 1, side, side)).astype(np.float32)
    first = torch.arange(num, dtype=torch.int32, device=DEVICE)
    flow = torch.zeros((num, 2, side, side), device=DEVICE)
    return Level(
        torch.from_numpy(images).to(DEVICE), first, flow, params, Tiling(columns=curve.columns)
    )


def wave_times(curve: Curve, params: TvL1Params, repeats: int) -> None:
    """A line for each number of pairs at work and each length of segments, then one for what is
    launched beside waves.
    """
    # Without a rule, and with more iterations than are measured, pairs stay at work.
    level = random_level(curve, replace(params, epsilon=0))
    num, depth = max(curve.counts), level.tiling.depth
    level.warp()
    name = f"{curve.side}x{curve.side}, strips of {curve.columns}"
    for count in (*curve.counts, 0):
        level.control.zero_()
        level.control[:, int(triton_rule.LEFT), :count] = 1 << 20
        level.question().answer()
        # The longest segments of all pairs, where none is at work.
        for rows in ROWS if count else ROWS[:1]:
            act = partial(level.advance, ASK_EVERY, count or num, rows)
            if ON_GPU:
                act()  # Compiles
            took = median(seconds_on_device(act, repeats) for _ in range(repeats))
            rate = count * curve.side**2 * depth / took
            print(
                f"wave {name}, {rows} rows: {count} of {num} pairs {took * 1e6:.1f} us, "
                f"{rate / 1e9:.1f} Gpixel-iterations/s",
                flush=True,
            )
    for what, launch in (("question", level.question), ("warp", level.warp)):
        took = seconds_on_device(launch, repeats)
        print(f"{what} {name}, {num} pairs: {took * 1e6:.1f} us", flush=True)


def launching(plan: Plan, runs: Runs) -> None:
    """How long the host needs for each batch, and the device."""
    for num_pairs in plan.batches:
        num = runs_in(num_pairs, runs)
        frames = torch.from_numpy(batches_of(runs, num, 1)[0]).to(DEVICE)
        first = torch.from_numpy(run_starts(num, runs.shape[1]).astype(np.int32)).to(DEVICE)
        for _ in range(2):  # The first one compiles
            wait()
            start = time.perf_counter()
            batch_flow(frames, first, plan.params, Tiling())
            host = time.perf_counter() - start
            wait()
            both = time.perf_counter() - start
        print(
            f"batch of {len(first)}, frames on the device: {len(first) / both:.0f} pairs/s, "
            f"{both * 1e3:.1f} ms, host busy {host * 1e3:.1f} ms of them",
            flush=True,
        )


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description="Measure the waves of the engine `cuda`.")
    parser.add_argument("frames", type=Path, help="what benchmarks.flow_frames wrote")
    given = parser.parse_args()
    plan = FULL if ON_GPU else TINY
    for curve in CURVES if ON_GPU else TINY_CURVES:
        wave_times(curve, plan.params, 5 if ON_GPU else 1)
    launching(plan, np.load(given.frames)["runs"])


if __name__ == "__main__":
    main()
