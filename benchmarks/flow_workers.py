"""What several workers get of one GPU: `python -m benchmarks.flow_workers FRAMES.npz`.

Each worker is a process, as in the stage, and computes chunks of as many frames as it hands over
there. The rate of all is that of the pairs between the moment when the first begins and the moment
when the last is done. Without NVIDIA's MPS they take turns.
"""

import argparse
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.flow_gpu import (
    BOUND,
    FULL,
    ON_GPU,
    TINY,
    batches_of,
    engines_here,
    run_starts,
    runs_in,
)
from twinstream.preprocess.flow.engine import DEFAULT_GPU_BYTES
from twinstream.preprocess.flow.engines import open_engine

WORKERS = 4 if ON_GPU else 2
"""The default of `preprocess.workers_per_gpu`."""
CHUNKS = 6 if ON_GPU else 1
MOST_SECONDS = 60 if ON_GPU else 300


def work(name: str, frames: Path, number: int, alone: Barrier, together: Barrier, out: Any) -> None:
    """Worker 0 computes its chunks alone, then all do; tells pairs, and when it began and ended."""
    plan, runs = FULL if ON_GPU else TINY, np.load(frames)["runs"]
    num = runs_in(256 if ON_GPU else 2, runs)
    starts = run_starts(num, runs.shape[1])
    chunks = batches_of(np.roll(runs, number, axis=0), num, CHUNKS)
    engine: Any = open_engine(name, plan.params, gpu_bytes=DEFAULT_GPU_BYTES)
    engine.stored_pairs(chunks[0], starts, BOUND)
    for barrier, takes_part in ((alone, number == 0), (together, True)):
        barrier.wait()
        begun = time.time()
        for chunk in chunks if takes_part else []:
            engine.stored_pairs(chunk, starts, BOUND)
        out.put((takes_part * len(chunks) * len(starts), begun, time.time()))
        barrier.wait()


def rates(name: str, frames: Path) -> tuple[float, float]:
    """Pairs/s of one worker, and of all."""
    context = multiprocessing.get_context("spawn")
    barriers = [context.Barrier(WORKERS, timeout=MOST_SECONDS) for _ in range(2)]
    out = context.Queue()
    workers = [
        context.Process(target=work, args=(name, frames, number, *barriers, out))
        for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    found = []
    for _ in barriers:
        # Where a worker has failed, which says why itself, this ends too.
        told = [out.get(timeout=MOST_SECONDS) for _ in workers]
        pairs, begun, ended = zip(*(each for each in told if each[0]), strict=True)
        found.append(sum(pairs) / (max(ended) - min(begun)))
    for worker in workers:
        worker.join()
    return found[0], found[1]


def main() -> None:
    """Print a line an engine."""
    parser = argparse.ArgumentParser(description="Measure workers that share a GPU.")
    parser.add_argument("frames", type=Path, help="what benchmarks.flow_frames wrote")
    given = parser.parse_args()
    for engine in engines_here(FULL if ON_GPU else TINY):
        one, all_of_them = rates(engine.name, given.frames)
        print(
            f"{engine.name}: {one:.0f} pairs/s with one worker, {all_of_them:.0f} with {WORKERS}",
            flush=True,
        )


if __name__ == "__main__":
    main()
