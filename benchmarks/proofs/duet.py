"""The claim on data with known best accuracies: `python -m benchmarks.proofs.duet --out DIR`.

It takes some 15 minutes on 2 cores. duet's best possible accuracies are 25 % from colour, 25 % from
motion, 50 % expected from the sum of branches that were each trained alone, and 100 % for a model
that relates the two (preprocess/duet.py). Every seed trains the two-stream baseline, non-local
blocks in both branches, and CMA's iter1 on the baseline's frozen flow branch, its RGB branch from
random weights. Settings are the demo's, but CMA has more epochs, because it learns to relate the
two late. Each run is an ordinary run folder; the same command continues where it was stopped.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import machine
from twinstream.demo import DEMO_FRAMES, demo_settings, train_and_score
from twinstream.preprocess.duet import CEILINGS, write_duet
from twinstream.preprocess.run import preprocess
from twinstream.progress import log_to_stderr
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards.format.video_table import summary
from twinstream.train.look.maps import BlockMap, Observer, query_map

VIDEOS_PER_PAIR = {"train": 40, "test": 40}
CMA_EPOCHS = 20
MOVING = 0.3
# Name in the table, run, score, ceiling
Row = tuple[str, str, str, float]
ROWS: tuple[Row, ...] = (
    ("rgb", "two_stream", "rgb", CEILINGS["rgb"]),
    ("flow", "two_stream", "flow", CEILINGS["flow"]),
    ("two-stream, 1:1", "two_stream", "fused 1:1", CEILINGS["two-stream"]),
    ("non-local two-stream, 1:1", "nonlocal", "fused 1:1", CEILINGS["two-stream"]),
    ("CMA iter1-R", "cma", "rgb", CEILINGS["CMA"]),
    ("CMA iter1-S, 5:1", "cma", "fused 5:1", CEILINGS["CMA"]),
)


def seed_runs(folder: Path, seed: int) -> dict[str, list[str]]:
    """The settings in which each run of a seed differs from the demo's.

    CMA starts from the flow branch of the baseline, so it comes last.
    """
    longer = [f"train.epochs={CMA_EPOCHS}"]
    weights = f"model.flow_weights={folder / 'two_stream' / 'flow.safetensors'}"
    return {
        "two_stream": [f"train.seed={seed}"],
        "nonlocal": ["model.kind=nonlocal", f"train.seed={seed}"],
        "cma": ["model.kind=cma", "train.stages=[iter1]", weights, *longer, f"train.seed={seed}"],
    }


def make_dataset(out: Path, tree: Mapping[str, Any], draw: Callable[[Path, int], None]) -> str:
    """Draw and preprocess what is not there yet; a line on it.

    `draw(folder, size)` writes the videos.
    """
    settings = build_settings(Settings, deepcopy(dict(tree)))
    if not (Path(settings.shards.path) / "dataset.json").exists():
        draw(out / "videos", settings.preprocess.size[0])
    return summary(preprocess(settings.dataset, settings.preprocess, settings.shards))


def draw(folder: Path, size: int) -> None:
    """The videos of the proof."""
    write_duet(folder, videos_per_pair=VIDEOS_PER_PAIR, size=size, num_frames=DEMO_FRAMES, seed=0)


def train_seeds(
    out: Path,
    seeds: int,
    tree: Mapping[str, Any],
    runs_of: Callable[[Path, int], Mapping[str, Sequence[str]]],
    rows: Sequence[Row],
) -> list[Mapping[str, Mapping[str, float]]]:
    """Train what is not trained yet of each seed, and print a line on it; as `table` takes it.

    `runs_of(folder, seed)` are the settings in which each run differs from `tree`.
    """
    reached: list[Mapping[str, Mapping[str, float]]] = []
    for seed in range(seeds):
        folder = out / "runs" / f"seed{seed}"
        runs = runs_of(folder, seed)
        reached.append(
            {name: train_and_score(tree, changes, folder / name) for name, changes in runs.items()}
        )
        each = [f"{name} {reached[-1][run][score]:.1%}" for name, run, score, _ in rows]
        click.echo(f"seed {seed}: {', '.join(each)}")
    return reached


def table(reached: Sequence[Mapping[str, Mapping[str, float]]], rows: Sequence[Row] = ROWS) -> str:
    """Mean, spread (standard deviation) and each seed's top-1 beside the best possible accuracy.

    `reached` is [{run: {score: top-1}}], one entry a seed.
    """
    lines = ["| | best possible | mean | spread | each seed |", "|---|---|---|---|---|"]
    for name, run, score, ceiling in rows:
        values = [seed[run][score] for seed in reached]
        # One seed has no spread, and stdev() of one value raises an error.
        spread = f"{100 * statistics.stdev(values):.1f}" if len(values) > 1 else "-"
        each = ", ".join(f"{100 * value:.1f}" for value in values)
        lines.append(
            f"| {name} | {ceiling:.0%} | {statistics.mean(values):.1%} | {spread} | {each} |"
        )
    return "\n".join(lines)


def blob_line(run: Path, at: str) -> str:
    """Whether a query on the blob attends to the blob: its weight on the keys over what moves."""
    observer = Observer(run, at=at)
    samples = observer.dataset.samples("test")
    found = []
    for sample in samples:
        look = observer.look(sample.index.key, observer.times(sample.index.key)[-1] // 2)
        keys = query_map(look.blocks[0], look.queries[0], look.frame.shape)
        moving = moving_keys(np.linalg.norm(look.flow, axis=-1), look.blocks[0])
        found.append((keys[moving].sum(), moving.mean(), moving.flat[keys.argmax()]))
    weight, area, strongest = np.mean(found, axis=0)
    return (
        f"{look.blocks[0].name}: a query on the blob has {weight:.0%} of its weight on the keys "
        f"that move, {area:.0%} "
        f"of all; its strongest key moves in {strongest:.0%} of {len(samples)} videos"
    )


def moving_keys(speed: NDArray[np.floating[Any]], block: BlockMap) -> NDArray[np.bool_]:
    """(H, W) speeds -> (kh, kw): which keys lie over a moving feature.

    Moving means faster than MOVING times the speed of the fastest feature.
    """
    cells = cv2.resize(
        speed.astype(np.float32), block.read_size[::-1], interpolation=cv2.INTER_AREA
    )
    # The block's max-pool takes 2x2 features to a key; a last odd row or column is one by itself.
    odd = [(0, size % 2) for size in block.read_size]
    rows, columns = block.weights.shape[2:]
    fastest = np.pad(cells, odd).reshape(rows, 2, columns, 2).max(axis=(1, 3))
    moving: NDArray[np.bool_] = fastest > MOVING * fastest.max()
    return moving


@click.command(
    help=(
        "What each model reaches on duet, for example: python -m benchmarks.proofs.duet --out duet"
    )
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("duet"), show_default=True)
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Training seeds."
)
def main(out: Path, seeds: int) -> None:
    """Train what is not trained yet and print the table."""
    log_to_stderr()
    out.mkdir(parents=True, exist_ok=True)
    tree = demo_settings(out)
    click.echo(make_dataset(out, tree, draw))
    reached = train_seeds(out, seeds, tree, seed_runs, ROWS)
    num_test = 16 * VIDEOS_PER_PAIR["test"]
    click.echo(
        f"\n{machine()}, top-1 on {num_test} held-out videos, {seeds} seeds\n\n{table(reached)}\n"
    )
    for seed in range(seeds):
        for block in ("layer2.1", "layer3.1"):
            click.echo(f"seed {seed}, {blob_line(out / 'runs' / f'seed{seed}' / 'cma', block)}")


if __name__ == "__main__":
    main()
