"""Real actions, one actor left out at a time: `python -m benchmarks.proofs.weizmann`.

Weizmann has 10 actions by a few actors. A model is tested on the videos of an actor that it has not
seen, and over the folds every video is tested once. The shards are made once: every list is a split
of them. All models start from random weights and have
the same settings and steps; CMA's flow branch is the baseline's, frozen. Pictures are small, so the
codec's bound is the paper's 20 pixels at 256, scaled with them: at 20 a step of the codec would be
a third of what an arm moves.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.measuring import machine
from twinstream.demo import train_and_score
from twinstream.preprocess.run import preprocess
from twinstream.progress import log_to_stderr
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.train.score.metrics import fuse, ranked_classes, wilson_interval
from twinstream.train.score.predictions import Predictions, read_predictions

SIZE, CROP = 64, 56
BOUND = 20 * SIZE / 256
# Name in the table, run, weights of the RGB and flow scores
ROWS: tuple[tuple[str, str, tuple[float, float]], ...] = (
    ("rgb", "two_stream", (1, 0)),
    ("flow", "two_stream", (0, 1)),
    ("two-stream, 1:1", "two_stream", (1, 1)),
    ("non-local rgb", "nonlocal", (1, 0)),
    ("non-local flow", "nonlocal", (0, 1)),
    ("non-local two-stream, 1:1", "nonlocal", (1, 1)),
    ("CMA iter1-R", "cma", (1, 0)),
    ("CMA iter1-S, 5:1", "cma", (5, 1)),
)


def fold_settings(data: Path, out: Path, fold: int) -> dict[str, Any]:
    """pipeline.yaml of one fold's two-stream run."""
    return {
        "dataset": {
            "kind": "ucf101",
            "root": str(data / "videos"),
            "splits": str(data / "splits"),
        },
        "preprocess": {"size": SIZE, "bound": BOUND},
        "shards": {"path": str(out / "shards")},
        "model": {
            "kind": "two_stream",
            "depth": 18,
            "dropout": 0.2,
            "rgb_weights": None,
            "flow_weights": None,
        },
        "train": {
            "split": f"train{fold}",
            "stages": ["flow", "rgb"],
            "epochs": 120,
            "batch_size": 10,
            "segments": 1,
            "crop_size": CROP,
            "plateau_patience": 40,
            # As when the figures in docs/results.md were taken; crops are resized to 56.
            "scale_motion": True,
            "workers": 0,
        },
        "test": {"split": f"test{fold}", "segments": 10, "crops": 10},
    }


def fold_runs(folder: Path) -> dict[str, list[str]]:
    """The settings in which each run of a fold differs from the first.

    CMA starts from the flow branch of the baseline, so it comes last.
    """
    weights = f"model.flow_weights={folder / 'two_stream' / 'flow.safetensors'}"
    return {
        "two_stream": [],
        "nonlocal": ["model.kind=nonlocal"],
        "cma": ["model.kind=cma", "train.stages=[iter1]", weights],
    }


def hits(folds: Sequence[Predictions], weights: tuple[float, float]) -> list[int]:
    """How many videos of each fold have their own class ranked first.

    Ranked by the weighted sum of both branches' scores.
    """
    found = []
    for fold in folds:
        best = ranked_classes(fuse(fold.scores["rgb"], fold.scores["flow"], weights))[:, 0]
        found.append(int(np.sum(best == fold.labels)))
    return found


def table(folds: Mapping[str, Sequence[Predictions]]) -> str:
    """Top-1 over the videos of all folds, its 95 % binomial (Wilson) interval, and hits by fold."""
    lines = ["| | top-1 | 95 % interval | videos right, fold by fold |", "|---|---|---|---|"]
    for name, run, weights in ROWS:
        each = hits(folds[run], weights)
        total = sum(len(fold.keys) for fold in folds[run])
        low, high = wilson_interval(sum(each), total)
        right = " ".join(str(number) for number in each)
        lines.append(
            f"| {name} | {sum(each) / total:.1%} | {low:.0%} to {high:.0%} | {right} of {total} |"
        )
    return "\n".join(lines)


def run_fold(data: Path, out: Path, fold: int) -> dict[str, Predictions]:
    """Train and test one fold, or what of it is left; each run's predictions."""
    folder = out / "runs" / f"fold{fold}"
    tree = fold_settings(data, out, fold)
    for name, changes in fold_runs(folder).items():
        top1 = train_and_score(tree, changes, folder / name)
        click.echo(
            f"fold {fold} {name}: "
            + ", ".join(f"{score} {value:.0%}" for score, value in top1.items())
        )
    return {
        name: read_predictions(folder / name / "predictions.parquet") for name in fold_runs(folder)
    }


@click.command(
    help=(
        "Weizmann, an actor left out at a time, for example: "
        "python -m benchmarks.proofs.weizmann --data weizmann"
    )
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="TWINSTREAM_DATA",
    help="Has weizmann/ or its folders.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("weizmann"), show_default=True)
@click.option("--fold", "only", type=click.IntRange(min=1), help="One fold alone.")
def main(data: Path | None, out: Path, only: int | None) -> None:
    """Do every fold that is not done yet and print the pooled table."""
    log_to_stderr()
    folder = (
        next((path for path in (data / "weizmann", data) if (path / "splits").is_dir()), None)
        if data
        else None
    )
    if folder is None:
        raise click.ClickException(
            f"no videos/ and splits/ of Weizmann at {data}; give --data DIR or TWINSTREAM_DATA"
        )
    num_folds = len(list((folder / "splits").glob("testlist*.txt")))
    settings = build_settings(Settings, fold_settings(folder, out, 1))
    preprocess(settings.dataset, settings.preprocess, settings.shards)
    done = [run_fold(folder, out, fold) for fold in ([only] if only else range(1, num_folds + 1))]
    pooled = {name: [fold[name] for fold in done] for name in done[0]}
    # Folds test different actors, so their videos add up without counting one twice.
    num_videos = sum(len(fold.keys) for fold in pooled["cma"])
    click.echo(f"\n{machine()}, {num_videos} videos in {len(done)} folds\n\n{table(pooled)}")


if __name__ == "__main__":
    main()
