"""The claim in time: `python -m benchmarks.proofs.duet3d --out DIR`.

duet3d (preprocess/duet3d.py) needs the colour and the order of two motions: 25 % at best from
colour, 25 % from the motion of a clip, 50 % expected from the sum of two branches trained apart,
50 % from single frames with stacks of 5 fields, and 100 % for clips of which one branch reads the
other. Every seed trains the two-stream baseline of P3D (1 block a stage, 12 frames), the 3-D CMA
block and all layers behind it on that frozen baseline, and the paper's 2-D CMA, ResNet-18, on the
same videos. Each run is an ordinary run folder; the same command continues where it was stopped.
"""

from pathlib import Path
from typing import Any

import click

from benchmarks.measuring import machine
from benchmarks.proofs.duet import Row, make_dataset, table, train_seeds
from twinstream.demo import demo_settings
from twinstream.preprocess.duet3d import CEILINGS, CLIP_LENGTH, CLIP_STRIDE, write_duet3d
from twinstream.progress import log_to_stderr

VIDEOS_PER_PAIR = {"train": 120, "test": 20}
ROWS: tuple[Row, ...] = (
    ("P3D rgb", "two_stream", "rgb", CEILINGS["rgb"]),
    ("P3D flow", "two_stream", "flow", CEILINGS["flow"]),
    ("P3D two-stream, 1:1", "two_stream", "fused 1:1", CEILINGS["two-stream"]),
    ("2-D CMA iter1-R", "flat", "rgb", CEILINGS["2-D"]),
    ("3-D CMA iter1-R", "cma", "rgb", CEILINGS["CMA"]),
    ("3-D CMA iter1-S, 5:1", "cma", "fused 5:1", CEILINGS["CMA"]),
)


def proof_settings(out: Path) -> dict[str, Any]:
    """The demo's settings with the smallest P3D and clips of every second frame."""
    tree = demo_settings(out)
    tree["model"] |= {
        "family": "p3d",
        "depth": 14,
        "clip_length": CLIP_LENGTH,
        "clip_stride": CLIP_STRIDE,
    }
    # 2048 features where ResNet-18 has 512: at its rate the last layer would overshoot.
    tree["train"]["learning_rate"] = 0.0025
    # A video has one clip, and mirrors are other classes: the views are the 5 crops.
    tree["test"] = {"segments": 1, "crops": 5}
    return tree


def seed_runs(folder: Path, seed: int) -> dict[str, list[str]]:
    """The settings in which each run of a seed differs from `proof_settings`.

    Each starts from what those before it have trained.
    """
    flow = f"model.flow_weights={folder / 'flow' / 'flow.safetensors'}"
    rgb = f"model.rgb_weights={folder / 'two_stream' / 'rgb.safetensors'}"
    behind = ("train.trainable=behind_attention", "train.cache_features=2")
    runs = {
        "flow": ["model.kind=flow", "train.stages=[flow]", "train.epochs=3"],
        "two_stream": ["train.stages=[rgb]", flow, "train.epochs=1"],
        "cma": ["model.kind=cma", "train.stages=[iter1]", *behind, rgb, flow, "train.epochs=10"],
        "flat": [
            *("model.family=resnet", "model.depth=18", "model.kind=cma"),
            "train.learning_rate=0.01",
            *("train.stages=[flow,iter1]", "train.epochs=4"),
            # A video has one clip, but 19 such snippets.
            "test.segments=19",
        ],
    }
    return {name: [*changes, f"train.seed={seed}"] for name, changes in runs.items()}


def draw(folder: Path, size: int) -> None:
    """The videos of the proof."""
    write_duet3d(folder, videos_per_pair=VIDEOS_PER_PAIR, size=size, seed=0)


@click.command(
    help=(
        "What each model reaches on duet3d, for example: "
        "python -m benchmarks.proofs.duet3d --out duet3d"
    )
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("duet3d"), show_default=True)
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Training seeds."
)
def main(out: Path, seeds: int) -> None:
    """Train what is not trained yet and print the table."""
    log_to_stderr()
    out.mkdir(parents=True, exist_ok=True)
    tree = proof_settings(out)
    click.echo(make_dataset(out, tree, draw))
    reached = train_seeds(out, seeds, tree, seed_runs, ROWS)
    click.echo(
        f"\n{machine()}, top-1 on {16 * VIDEOS_PER_PAIR['test']} held-out videos, {seeds} seeds\n\n"
        f"{table(reached, ROWS)}"
    )


if __name__ == "__main__":
    main()
