"""The paper's Tables 1 to 4 and 6 from predictions, its numbers beside them on its datasets.

A table is data: a cell is text, a number in percent, or None where a run is missing; `gaps` names
the commands that would fill it. The same table becomes markdown, CSV and HTML. The gain of a
category is the accuracy of CMA iter1-R minus that of two-stream, as in the paper's Figure 4; it is
confused with the class that two-stream most often predicts instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from twinstream.train.choices import (
    BRANCHES,
    WITH_CMA,
    AttentionAt,
    BranchName,
    ModelKind,
)
from twinstream.train.network.families import DEFAULT_FAMILY, find_family
from twinstream.train.network.parameter_count import branch_parameters, parameters_used
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.report import paper
from twinstream.train.report.evidence import FLOW_ALONE, RGB_ALONE, Accuracy, Evidence
from twinstream.train.report.sources import Variant
from twinstream.train.score.metrics import (
    EQUAL,
    Weights,
    accuracy_by_class,
    fusion_weights,
)

Cell = str | float | None

BASELINE = Variant("baseline", 0)
NON_LOCAL = Variant("nonlocal", 0)
CMA, CMA_2, CMA_3 = (Variant("cma", iteration) for iteration in (1, 2, 3))
CMA_NON_LOCAL = Variant("cma_nonlocal", 1)
ITERATIONS = (BASELINE, CMA, CMA_2, CMA_3)
CATEGORIES, CONFUSED = 20, 10
SCORES = ("R", "F", "S")

TRAIN = (
    "twinstream train -c pipeline.yaml --set model.kind={kind} --set "
    "train.stages=[{stages}]{more} --out runs/{kind}"
)
FROM_WHOLE = (
    "twinstream train -c pipeline.yaml --set model.kind={kind} --set model.weights=runs/{kind} "
    "--set train.stages=[{stages}] --set train.trainable=fc --out runs/transfer/{kind}"
)
ON_FLOW = " --set model.flow_weights=runs/two_stream/flow.safetensors"


@dataclass(frozen=True)
class Table:
    """A title, columns, rows of as many cells, and what is missing for it."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]
    note: str = ""
    gaps: list[str] = field(default_factory=list)


def shown(cell: Cell) -> str:
    """How a person reads a cell: percent with two digits, a dash for a gap."""
    if cell is None:
        return "–"
    return cell if isinstance(cell, str) else f"{cell:.2f}"


@dataclass(frozen=True)
class Gain:
    """A category and its accuracy in [0, 1] by two-stream and by CMA iter1-R."""

    category: str
    two_stream: float
    cma: float
    confused_with: str | None
    """The class that two-stream most often predicts instead; None when it is never wrong"""
    number: int
    """Of the class"""


def weights_of(variant: Variant, score: str) -> Weights:
    """R and F are one branch alone; S is the paper's weighted sum after that iteration."""
    if score != "S":
        return RGB_ALONE if score == "R" else FLOW_ALONE
    return fusion_weights(variant.iteration)


def iterations_table(evidence: Evidence) -> Table:
    """Table 1: top-1 and top-5 of RGB, flow and both after each iteration."""
    columns = [
        "iteration",
        *(f"{name} {top}" for name in ("RGB", "flow", "both") for top in ("top-1", "top-5")),
    ]
    rows: list[list[Cell]] = []
    for variant in ITERATIONS:
        cells = [
            cell
            for score in SCORES
            for cell in tops(evidence.accuracy(variant, weights_of(variant, score)))
        ]
        rows.append([str(variant.iteration), *cells])
        if beside_paper(evidence):
            theirs = [cell for score in SCORES for cell in paper.ACCURACIES[variant[:2]][score]]
            rows.append([f"{variant.iteration}, paper", *theirs])
    note = "Both: scores 1:1 before any iteration, 5:1 behind odd ones, 1:5 behind even ones."
    title = "Table 1. Accuracy at each iteration"
    return Table("table1", title, tuple(columns), rows, note, gaps(evidence, ITERATIONS))


def parameters_table(evidence: Evidence) -> Table:
    """Table 2: number of parameters of a score, relative to one ResNet, and its accuracy."""
    named = [
        ("-R", BASELINE, "R"),
        ("two-stream", BASELINE, "S"),
        ("CMA iter1-R", CMA, "R"),
        ("CMA iter1-S", CMA, "S"),
    ]
    columns = ("model", "parameters for this score", "of the whole network", "top-1", "top-5")
    rows: list[list[Cell]] = []
    for name, variant, score in named:
        label = _network(evidence) + name if name.startswith("-") else name
        used, whole = relative_parameters(evidence, variant, score)
        found = tops(evidence.accuracy(variant, weights_of(variant, score)))
        rows.append([label, f"{used:.2f}×", f"{whole:.2f}×", *found])
        if beside_paper(evidence) and (variant.network, score) in paper.PARAMETERS:
            theirs = f"{paper.PARAMETERS[variant.network, score]:.1f}×"
            rows.append([f"{label}, paper", theirs, "", *paper.ACCURACIES[variant[:2]][score]])
    note = (
        f"Parameters relative to one {_network(evidence)} of {len(evidence.about['classes'])} "
        "classes. For the RGB "
        "score alone CMA needs its RGB branch, and the flow branch up to the last block that is "
        "read; the whole "
        "network has attention blocks in both branches."
    )
    return Table(
        "table2",
        "Table 2. Parameters and accuracy",
        columns,
        rows,
        note,
        gaps(evidence, (BASELINE, CMA)),
    )


def non_local_table(evidence: Evidence) -> Table:
    """Table 4: the baselines, both with non-local blocks, CMA, and CMA behind non-local blocks."""
    named: list[tuple[str, str, str, Variant, str]] = [
        *((_network(evidence), "", _MODALITY[s], BASELINE, s) for s in SCORES),
        *((_network(evidence), "yes", _MODALITY[s], NON_LOCAL, s) for s in SCORES),
        *((f"CMA iter1-{s}", "", "RGB + flow", CMA, s) for s in "RS"),
        *((f"CMA iter1-{s}", "yes", "RGB + flow", CMA_NON_LOCAL, s) for s in "RS"),
    ]
    columns = ["model", "non-local", "modality", "top-1", "top-5"]
    rows: list[list[Cell]] = []
    for *labels, variant, score in named:
        rows.append([*labels, *tops(evidence.accuracy(variant, weights_of(variant, score)))])
        if beside_paper(evidence):
            rows[-1] += paper.ACCURACIES[variant[:2]][score]
    columns += ["paper top-1", "paper top-5"] if beside_paper(evidence) else []
    wanted = (BASELINE, NON_LOCAL, CMA, CMA_NON_LOCAL)
    title = "Table 4. Comparison with non-local blocks"
    return Table("table4", title, tuple(columns), rows, "", gaps(evidence, wanted))


def categories_table(evidence: Evidence) -> Table:
    """Table 3: categories with the largest gain of CMA iter1-R, and their confusions."""
    columns = ["category", "two-stream takes it for", "two-stream", "CMA iter1-R", "gain"]
    paired = beside_paper(evidence)
    rows: list[list[Cell]] = []
    for gain in gains(evidence)[:CONFUSED]:
        figures = [100 * gain.two_stream, 100 * gain.cma, 100 * (gain.cma - gain.two_stream)]
        rows.append([gain.category, gain.confused_with or "never wrong", *figures])
        if paired:
            rows[-1].append(paper.CONFUSIONS.get(gain.category, "not among its ten"))
    columns += ["the paper's confusion"] if paired else []
    title = "Table 3. Categories with the largest gain"
    return Table(
        "table3", title, tuple(columns), rows, "Top-1 in percent.", gaps(evidence, (BASELINE, CMA))
    )


def transfer_table(evidence: Evidence) -> Table:
    """Table 6: top-1 of networks of another dataset of which the last layers alone were trained."""
    named = [
        *((f"{_network(evidence)}-{score}", BASELINE, score) for score in SCORES),
        *((f"CMA iter1-{score}", CMA, score) for score in "RS"),
    ]
    num_folds = len(evidence.folds)
    is_papers = is_transfer_of_paper(evidence)
    columns = ["model", *([f"mean of {num_folds} splits"] if num_folds > 1 else ["top-1"])]
    rows: list[list[Cell]] = []
    for name, variant, score in named:
        rows.append([name, *tops(evidence.accuracy(variant, weights_of(variant, score)))[:1]])
        if is_papers:
            rows[-1].append(paper.TRANSFER[variant[:2]][score])
    columns += ["paper"] if is_papers else []
    note = "Only the last layers were trained on this dataset, on the features of other networks."
    title = "Table 6. Transfer"
    lacks = gaps(evidence, (BASELINE, CMA), _transfer_commands)
    return Table("table6", title, tuple(columns), rows, note, lacks)


def is_transferred(evidence: Evidence) -> bool:
    """Whether only last layers were trained in any of the runs."""
    return bool(evidence.about.get("trainable") == "fc")


def is_transfer_of_paper(evidence: Evidence) -> bool:
    """Whether these are the dataset and the network of the paper's Table 6."""
    about = evidence.about
    is_ucf101 = about["dataset_kind"] == "ucf101" and len(about["classes"]) == paper.UCF101_CLASSES
    return is_ucf101 and (about["family"], about["depth"]) == paper.NETWORKS[0]


def gains(evidence: Evidence) -> list[Gain]:
    """Every tested category, the largest gain first; none without two-stream or CMA iter1-R."""
    before, after = evidence.confusion(BASELINE, EQUAL), evidence.confusion(CMA, RGB_ALONE)
    if before is None or after is None:
        return []
    classes = evidence.about["classes"]
    old, new = accuracy_by_class(before), accuracy_by_class(after)
    # A class without videos in this split has no accuracy to gain on.
    found = [
        Gain(name, float(old[n]), float(new[n]), _taken_for(before[n], n, classes), n)
        for n, name in enumerate(classes)
        if not (np.isnan(old[n]) or np.isnan(new[n]))
    ]
    # Equal gains keep the order of the classes, so that the report is the same every time.
    return sorted(found, key=lambda gain: (gain.two_stream - gain.cma, gain.number))


def relative_parameters(evidence: Evidence, variant: Variant, score: str) -> tuple[float, float]:
    """Parameters that a score uses, and those of the whole network, over one of its branches'.

    That branch has no attention.
    """
    about = evidence.about
    num_classes = len(about["classes"])
    kind: ModelKind = "cma" if variant == CMA else "two_stream" if score == "S" else "rgb"
    # From JSON: a name, or a list of residual blocks where the settings have a tuple.
    at: AttentionAt = about["attention_at"]
    if not isinstance(at, str):
        at = tuple(at)
    # Only counted: on meta no memory is taken and nothing is initialised.
    with torch.device("meta"):
        model = TwoBranch(
            kind, about["depth"], num_classes, attention_at=at, family=about["family"]
        )
    outputs: tuple[BranchName, ...] = BRANCHES[kind] if score == "S" else ("rgb",)
    attending: tuple[BranchName, ...] = ("rgb",) if kind in WITH_CMA else ()
    one = branch_parameters(about["depth"], num_classes, about["family"])
    whole = sum(parameter.numel() for parameter in model.parameters())
    return parameters_used(model, outputs, attending) / one, whole / one


def gaps(
    evidence: Evidence,
    wanted: Sequence[Variant],
    commands_of: Callable[[Variant], list[str]] | None = None,
) -> list[str]:
    """Commands that train and test the variants that are missing, or the folds that one lacks.

    `commands_of` has those of a variant, where it is none of the ResNets.
    """
    # A dict keeps the order: each command once, at its first use.
    commands: dict[str, None] = {}
    for variant in wanted:
        missing = evidence.missing_folds(variant)
        if variant in evidence.variants and missing:
            commands |= dict.fromkeys(
                f"{variant} on fold {n + 1} of {len(evidence.folds)}, {evidence.folds[n]}"
                for n in missing
            )
        elif any(evidence.accuracy(variant, weights_of(variant, s)) is None for s in SCORES):
            commands |= dict.fromkeys((commands_of or _commands)(variant))
    return list(commands)


def beside_paper(evidence: Evidence) -> bool:
    """Whether these are the paper's dataset, family and depth."""
    about = evidence.about
    is_kinetics = (
        about["dataset_kind"] == "kinetics" and len(about["classes"]) == paper.KINETICS_CLASSES
    )
    return is_kinetics and (about["family"], about["depth"]) in paper.NETWORKS


def _commands(variant: Variant) -> list[str]:
    kind = "two_stream" if variant == BASELINE else variant.network
    if not variant.iteration:
        return [TRAIN.format(kind=kind, stages="flow,rgb", more=""), f"twinstream test runs/{kind}"]
    stages = "iter1,iter2,iter3" if kind == "cma" else "iter1"
    return [
        TRAIN.format(kind=kind, stages=stages, more=ON_FLOW),
        f"twinstream test runs/{kind} --stage iter{variant.iteration}",
    ]


def _transfer_commands(variant: Variant) -> list[str]:
    kind, stages = ("cma", "flow,iter1") if variant == CMA else ("two_stream", "flow,rgb")
    train = FROM_WHOLE.format(kind=kind, stages=stages)
    return [train, f"twinstream test runs/transfer/{kind}"]


def _taken_for(row: NDArray[np.float64], own: int, classes: list[str]) -> str | None:
    # A copy without the class itself: correct predictions are no confusion.
    others = row.copy()
    others[own] = 0
    return classes[int(others.argmax())] if others.any() else None


def tops(accuracy: Accuracy | None) -> list[Cell]:
    """Top-1 and top-5 in percent; the spread of repeats stands with the first."""
    if accuracy is None:
        return [None, None]
    top1: Cell = 100 * accuracy.top1
    if accuracy.spread is not None:
        top1 = f"{100 * accuracy.top1:.2f} ± {100 * accuracy.spread:.2f}"
    return [top1, 100 * accuracy.top5]


def _network(evidence: Evidence) -> str:
    about = evidence.about
    # As the paper writes it
    if about["family"] == DEFAULT_FAMILY:
        return f"ResNet{about['depth']}"
    return find_family(about["family"]).network(about["depth"])


_MODALITY = {"R": "RGB", "F": "flow", "S": "RGB + flow"}
