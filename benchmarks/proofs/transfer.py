"""Transfer to other colours: `twinstream demo --out demo && python -m benchmarks.proofs.transfer`.

The demo's networks start on a duet of four colours that they have not seen. The best possible
accuracies are counted as for the first duet: 25 % from colour, 25 % from motion, 50 % expected from
their sum, 100 % for what relates the two. With only the last layers learning, they are reached if
the features of the first duet tell the new colours apart, which nobody can count beforehand. Each
transfer is made with and without stored features, and, for one seed, with all that is behind the
first attention block learning, and with everything.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from benchmarks.measuring import machine
from benchmarks.proofs.duet import make_dataset
from twinstream.demo import DEMO_FRAMES, demo_settings, train_and_score
from twinstream.preprocess.duet import CEILINGS, OTHER_HUES, write_duet
from twinstream.progress import log_to_stderr

VIDEOS_PER_PAIR = {"train": 20, "test": 20}
EPOCHS, VIEWS = 20, 10
# Name in the table, score, ceiling
TWO_STREAM = (
    ("R", "rgb", CEILINGS["rgb"]),
    ("F", "flow", CEILINGS["flow"]),
    ("S, 1:1", "fused 1:1", CEILINGS["two-stream"]),
)
CMA = (
    ("R", "rgb", CEILINGS["CMA"]),
    ("F", "flow", CEILINGS["flow"]),
    ("S, 5:1", "fused 5:1", CEILINGS["CMA"]),
)


def transfers(demo: Path, seed: int) -> dict[str, list[str]]:
    """The settings in which each transfer of a seed differs from the demo's two-stream run."""
    common = [f"train.seed={seed}", f"train.epochs={EPOCHS}"]
    plain = [*common, f"model.weights={demo / 'two_stream'}", "train.trainable=fc"]
    cma = [
        *common,
        "model.kind=cma",
        "train.stages=[flow, iter1]",
        f"model.weights={demo / 'cma'}",
    ]
    stored = f"train.cache_features={VIEWS}"
    runs = {
        "two-stream, fc, stored features": [*plain, stored],
        "CMA, fc, stored features": [*cma, "train.trainable=fc", stored],
        "CMA, fc": [*cma, "train.trainable=fc"],
    }
    if seed == 0:
        for layers in ("behind_attention", "all"):
            runs[f"CMA, {layers}"] = [
                *cma,
                "train.stages=[iter1]",
                f"train.trainable={layers}",
                "train.epochs=4",
            ]
    return runs


def table(reached: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """Mean and each seed's top-1 beside the best possible; `reached` is [{run: {score: top-1}}]."""
    lines = ["| | score | best possible | mean | each seed |", "|---|---|---|---|---|"]
    for name in reached[0]:
        found = [seed[name] for seed in reached if name in seed]
        for row, score, ceiling in CMA if name.startswith("CMA") else TWO_STREAM:
            # A stage that trains no flow classifier leaves its branch without a score.
            values = [top1[score] for top1 in found if score in top1]
            if values:
                each = ", ".join(f"{100 * value:.1f}" for value in values)
                mean = statistics.mean(values)
                lines.append(f"| {name} | {row} | {ceiling:.0%} | {mean:.1%} | {each} |")
    return "\n".join(lines)


def draw(folder: Path, size: int) -> None:
    """The videos of the proof."""
    write_duet(
        folder,
        videos_per_pair=VIDEOS_PER_PAIR,
        size=size,
        num_frames=DEMO_FRAMES,
        seed=1,
        hues=OTHER_HUES,
    )


@click.command(
    help=(
        "Transfer of the demo's networks to a duet of other colours, for example: "
        "python -m benchmarks.proofs.transfer --demo demo --out transfer"
    )
)
@click.option("--demo", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("transfer"), show_default=True)
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Training seeds."
)
def main(demo: Path, out: Path, seeds: int) -> None:
    """Train what is not trained yet and print the table."""
    log_to_stderr()
    out.mkdir(parents=True, exist_ok=True)
    tree = demo_settings(out)
    click.echo(make_dataset(out, tree, draw))
    reached: list[dict[str, dict[str, float]]] = []
    for seed in range(seeds):
        reached.append({})
        for name, changes in transfers(demo, seed).items():
            run = out / "runs" / f"seed{seed}" / name.replace(", ", "-").replace(" ", "_")
            begun = time.monotonic()
            reached[-1][name] = train_and_score(tree, changes, run)
            figures = ", ".join(f"{score} {top1:.1%}" for score, top1 in reached[-1][name].items())
            click.echo(f"seed {seed}, {name}: {time.monotonic() - begun:.0f} s, {figures}")
    num_test = 16 * VIDEOS_PER_PAIR["test"]
    click.echo(f"\n{machine()}, top-1 on {num_test} held-out videos\n\n{table(reached)}")


if __name__ == "__main__":
    main()
