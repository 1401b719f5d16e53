"""What the proofs on real actions share: models, runs, figures with intervals, and the command.

A fold is one training of all models: a seed, or a split of the same shards. All models have the
same settings and steps a stage; CMA's flow branch is the baseline's, frozen, and late fusion begins
with both of the baseline's branches. A video's figure is the mean over the folds that test it, so
seeds do not count it as several. Videos of one person doing one action are alike: intervals are
those of a bootstrap that draws all of them together. Each run is an ordinary run folder; the same
command goes on where it was stopped.
"""

import csv
import io
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import machine
from benchmarks.proofs.late_fusion import train_late_fusion
from twinstream.preprocess.run import preprocess
from twinstream.progress import log_to_stderr
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards.format.video_table import summary
from twinstream.shards.preview import save_figure
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.storage.atomic import write_atomically
from twinstream.train.fit import train
from twinstream.train.report.run_page import confusion_figure
from twinstream.train.score.evaluate import score_run
from twinstream.train.score.metrics import (
    Weights,
    bootstrap_interval,
    confusion_matrix,
    fuse,
    ranked_classes,
)
from twinstream.train.score.predictions import (
    Predictions,
    predictions_file,
    read_about,
    read_predictions,
)

LATE_FUSION = "late_fusion"
# --pretrained: every branch that begins anew begins with ImageNet's weights.
PRETRAINED = {
    "family": "efficientnet_lite0",
    "depth": 50,
    "rgb_weights": "imagenet",
    "flow_weights": "imagenet",
}
# Name in the tables -> run, weights of the RGB and flow scores
MODELS: dict[str, tuple[str, Weights]] = {
    "rgb": ("two_stream", (1, 0)),
    "flow": ("two_stream", (0, 1)),
    "two-stream, 1:1": ("two_stream", (1, 1)),
    "non-local rgb": ("nonlocal", (1, 0)),
    "non-local flow": ("nonlocal", (0, 1)),
    "non-local two-stream, 1:1": ("nonlocal", (1, 1)),
    "late fusion, learnt": (LATE_FUSION, (1, 1)),
    "CMA iter1-R": ("cma", (1, 0)),
    "CMA iter1-S, 5:1": ("cma", (5, 1)),
}
COMPARED = [
    (model, rival)
    for model in ("CMA iter1-R", "CMA iter1-S, 5:1")
    for rival in ("two-stream, 1:1", "late fusion, learnt")
]
CONFUSED = ("rgb", "flow", "two-stream, 1:1", "CMA iter1-R")
# Of each run, fold by fold
Tested = Mapping[str, Sequence[Predictions]]


@dataclass(frozen=True)
class Proof:
    """What a proof has of its own."""

    name: str
    """Of the folder of its data, and of --out"""
    lists: str
    """Of the file or folder of lists beside videos/"""
    settings: Callable[[Path, Path], dict[str, Any]]
    """(data, out) -> pipeline.yaml of its two-stream run"""
    folds: Mapping[str, Sequence[str]]
    """The settings in which each fold differs"""
    alike: str
    """Regular expression of what in a key names the videos that are drawn together"""
    held_out: str
    """Regular expression of the keys that --choose takes out of the first fold's training"""
    tried: Mapping[str, tuple[Sequence[str], Sequence[str]]]
    """Name in the table of --choose -> what differs for all models, and for CMA alone, where {base}
    is the folder of its two-stream run
    """


def fold_runs(out: Path, fold: str) -> dict[str, tuple[Path, list[str]]]:
    """The folder of each run of a fold, and the settings in which it differs from the first.

    CMA and late fusion start from the branches of the baseline, so they come last.
    """
    folder = out / "runs" / fold
    base = folder / "two_stream"
    flow = f"model.flow_weights={base / 'flow.safetensors'}"
    fused = ["train.stages=[rgb]", f"model.weights={base / 'rgb.safetensors'}"]
    return {
        "two_stream": (base, []),
        "nonlocal": (folder / "nonlocal", ["model.kind=nonlocal"]),
        "cma": (folder / "cma", ["model.kind=cma", "train.stages=[iter1]", flow]),
        # Elsewhere: among the runs of a report it would count as a two-stream network.
        LATE_FUSION: (out / LATE_FUSION / fold, fused),
    }


def tested_run(
    tree: Mapping[str, Any], changes: Sequence[str], run: Path, *, fused: bool
) -> Predictions:
    """Train and test a run, or what of it is left; its predictions."""
    settings = build_settings(Settings, deepcopy(dict(tree)), changes).run_settings()
    if fused:
        train_late_fusion(settings, run)
    else:
        train(settings, run, resume=True)
    path = predictions_file(run, "")
    about = read_about(path) or {}
    # Somebody may have tested the run in its middle, or otherwise.
    wanted = (True, settings.train.stages[-1], settings.test.split, settings.test.segments)
    if tuple(map(about.get, ("finished", "stage", "split", "segments"))) != wanted:
        score_run(run, settings.test)
    return read_predictions(path)


def run_fold(
    tree: Mapping[str, Any], changes: Sequence[str], out: Path, fold: str
) -> dict[str, Predictions]:
    """Do a fold, or what of it is left, and print a line on each run."""
    found = {}
    for name, (run, own) in fold_runs(out, fold).items():
        begun = time.monotonic()
        found[name] = tested_run(tree, [*changes, *own], run, fused=name == LATE_FUSION)
        figures = ", ".join(
            f"{model} {mean_top1([found[name]], weights):.1%}"
            for model, (of, weights) in MODELS.items()
            if of == name
        )
        click.echo(f"{fold} {name}: {time.monotonic() - begun:.0f} s, {figures}")
    return found


def right(folds: Iterable[Predictions], weights: Weights) -> dict[str, float]:
    """Of each video, by key, the part of the folds that rank its own class first.

    Ranked by the weighted sum of both branches' scores.
    """
    found: dict[str, list[bool]] = {}
    for fold in folds:
        best = ranked_classes(fuse(fold.scores["rgb"], fold.scores["flow"], weights))[:, 0]
        for key, is_right in zip(fold.keys, best == fold.labels, strict=True):
            found.setdefault(key, []).append(bool(is_right))
    return {key: sum(each) / len(each) for key, each in sorted(found.items())}


def mean_top1(folds: Sequence[Predictions], weights: Weights) -> float:
    """Top-1 in [0, 1] over the videos of all folds."""
    return float(np.mean([*right(folds, weights).values()]))


def interval(values: Mapping[str, float], alike: str) -> tuple[float, float]:
    """The 95 % interval of the mean over videos, those that are alike drawn together."""
    groups = ["".join(re.findall(alike, key)[0]) for key in values]
    return bootstrap_interval(np.array([*values.values()]), groups)


def accuracy_table(tested: Tested, alike: str) -> str:
    """Top-1 of each model: the mean over folds, its interval over videos, and each fold's."""
    lines = ["| | top-1 | 95 % interval | each |", "|---|---|---|---|"]
    for name, (run, weights) in MODELS.items():
        folds = tested[run]
        low, high = interval(right(folds, weights), alike)
        each = ", ".join(f"{100 * mean_top1([fold], weights):.1f}" for fold in folds)
        top1 = f"{mean_top1(folds, weights):.1%} | {low:.0%} to {high:.0%}"
        lines.append(f"| {name} | {top1} | {each} |")
    return "\n".join(lines)


def difference_table(tested: Tested, alike: str) -> str:
    """CMA's top-1 less its rivals', on the same videos, in points, with the interval."""
    lines = ["| | difference | 95 % interval | |", "|---|---|---|---|"]
    for model, rival in COMPARED:
        ours, theirs = (
            right(tested[run], weights) for run, weights in (MODELS[model], MODELS[rival])
        )
        values = {key: ours[key] - theirs[key] for key in ours}
        low, high = interval(values, alike)
        verdict = "above" if low > 0 else "below" if high < 0 else "no difference can be shown"
        mean = np.mean([*values.values()])
        lines.append(
            f"| {model} less {rival} | {100 * mean:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} | "
            f"{verdict} |"
        )
    return "\n".join(lines)


def confusions(tested: Tested) -> dict[str, NDArray[np.int64]]:
    """(C, C) counts of each model that is looked at, over all folds: row = class, column = best."""
    return {
        name: np.sum(
            [
                confusion_matrix(fuse(p.scores["rgb"], p.scores["flow"], weights), p.labels)
                for p in tested[run]
            ],
            axis=0,
        )
        for name, (run, weights) in MODELS.items()
        if name in CONFUSED
    }


def confusion_table(found: Mapping[str, NDArray[np.int64]], classes: Sequence[str]) -> str:
    """A row for each class; a cell has the counts of what its videos are taken for, in order."""
    lines = [f"| taken for {', '.join(classes)} | {' | '.join(found)} |"]
    lines.append("|---" * (1 + len(found)) + "|")
    for number, name in enumerate(classes):
        cells = (" ".join(map(str, matrix[number])) for matrix in found.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_held_out(dataset: ShardDataset, split: str, held_out: str, path: Path) -> None:
    """A list of the split's videos with two splits: val for what `held_out` finds, else train."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("path", "label", "split"))
    samples = dataset.samples(split)
    for key, label in zip(samples.keys, samples.labels, strict=True):
        is_held_out = re.search(held_out, key) is not None
        writer.writerow((key, dataset.classes[label], "val" if is_held_out else "train"))
    write_atomically(path, text.getvalue().encode())


def choose(proof: Proof, tree: Mapping[str, Any], out: Path) -> str:
    """Train with all that is tried, without the test videos; a table of top-1 on those held out."""
    changes = next(iter(proof.folds.values()))
    settings = build_settings(Settings, deepcopy(dict(tree)), changes)
    held_out = out / "choose" / "held_out.csv"
    held_out.parent.mkdir(parents=True, exist_ok=True)
    dataset = ShardDataset(settings.shards.path)
    write_held_out(dataset, settings.train.split, proof.held_out, held_out)
    splits = [f"train.split={held_out}:train", f"test.split={held_out}:val"]
    models = {name: of for name, of in MODELS.items() if of[0] in ("two_stream", "cma")}
    lines = [f"| | {' | '.join(models)} |", "|---" * (1 + len(models)) + "|"]
    for name, (common, of_cma) in proof.tried.items():
        # By their settings: what differs in CMA alone begins with the same baseline.
        runs = fold_runs(out / "choose", folder_name(common))
        base, cma = runs["two_stream"][0], runs["cma"][0] / folder_name(of_cma)
        own = [*runs["cma"][1], *(change.format(base=base) for change in of_cma)]
        shared = [*changes, *splits, *common]
        found = {
            "two_stream": tested_run(tree, shared, base, fused=False),
            "cma": tested_run(tree, [*shared, *own], cma, fused=False),
        }
        top1 = (mean_top1([found[run]], weights) for run, weights in models.values())
        lines.append(f"| {name} | {' | '.join(f'{value:.1%}' for value in top1)} |")
        click.echo(lines[-1])
    return "\n".join(lines)


def folder_name(changes: Sequence[str]) -> str:
    """`[train.epochs=40]` -> train.epochs_40; as_chosen for none."""
    return re.sub(r"[^\w.]+", "_", "-".join(changes)) or "as_chosen"


def proof_command(proof: Proof, about: str) -> click.Command:
    """The command of a proof; `about` is its help."""

    @click.command(help=about)
    @click.option(
        "--data",
        type=click.Path(path_type=Path),
        envvar="TWINSTREAM_DATA",
        help=f"Has {proof.name}/ or what is in it.",
    )
    @click.option(
        "--out", type=click.Path(path_type=Path), default=Path(proof.name), show_default=True
    )
    @click.option("--fold", "only", type=click.Choice([*proof.folds]), help="One of them alone.")
    @click.option(
        "--choose", "is_choice", is_flag=True, help="Compare settings on held-out training videos."
    )
    @click.option(
        "--pretrained",
        is_flag=True,
        help=f"{PRETRAINED['family']} from ImageNet weights, in OUT/pretrained.",
    )
    def main(
        data: Path | None, out: Path, only: str | None, is_choice: bool, pretrained: bool
    ) -> None:
        """Do every fold that is not done yet and print the tables."""
        log_to_stderr()
        tree = proof.settings(data_folder(proof, data), out)
        if pretrained:
            # The shards are the same.
            tree["model"] |= PRETRAINED
            out /= "pretrained"
        settings = build_settings(Settings, deepcopy(tree))
        click.echo(summary(preprocess(settings.dataset, settings.preprocess, settings.shards)))
        if is_choice:
            click.echo(f"\n{machine()}\n\n{choose(proof, tree, out)}")
            return
        folds = {only: proof.folds[only]} if only else proof.folds
        done = [run_fold(tree, changes, out, name) for name, changes in folds.items()]
        tested = {run: [fold[run] for fold in done] for run in done[0]}
        classes = tested["cma"][0].about["classes"]
        found = confusions(tested)
        for name, matrix in found.items():
            picture = out / f"confusion-{re.sub(r'[^a-zA-Z0-9]+', '-', name)}.png"
            save_figure(confusion_figure(matrix, classes), picture, dpi=120)
        num_videos = len(right(tested["cma"], (1, 0)))
        click.echo(f"\n{machine()}, {num_videos} test videos, {', '.join(folds)}\n")
        tables = (accuracy_table, difference_table)
        click.echo("\n\n".join(table(tested, proof.alike) for table in tables))
        click.echo(f"\n{confusion_table(found, classes)}")

    return main


def data_folder(proof: Proof, data: Path | None) -> Path:
    """Where the videos of the proof are; ClickException where they are not."""
    for folder in (data / proof.name, data) if data else ():
        if (folder / proof.lists).exists():
            return folder
    raise click.ClickException(
        f"no videos/ and {proof.lists} of {proof.name} at {data}; give --data DIR or "
        "TWINSTREAM_DATA"
    )
