"""The page of one run: what its training did, what its test confuses, and how that looks.

Loss and accuracy are those of log.jsonl, a stage behind the other. Everything else is of the last
stage that was tested, by the score that `twinstream predict` gives: both branches fused with that
stage's weights, or the one branch that is there. Frames are read from the dataset where it still
is; without it the page says so.
"""

import base64
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.output import figure_text, html_text
from twinstream.shards.format.image import encode_jpeg
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_frames
from twinstream.train.report.evidence import FLOW_ALONE, RGB_ALONE, Evidence, weighted
from twinstream.train.report.figures import COLOURS, as_svg, new_figure
from twinstream.train.report.page import section
from twinstream.train.report.tables import SCORES, Cell, Table, tops, weights_of
from twinstream.train.run_folder import LOG, SETTINGS, logged, read_run_settings
from twinstream.train.score.metrics import (
    Scores,
    Weights,
    accuracy_by_class,
    confusion_matrix,
    ranked_classes,
)
from twinstream.train.score.predictions import Predictions
from twinstream.train.score.run_weights import open_run_dataset

# With more classes the names of a confusion matrix could not be read, and numbers at all not.
MOST_NAMED, MOST_COUNTED = 20, 12
NUM_BEST, NUM_WORST, NUM_EXAMPLES = 5, 10, 4
EXAMPLE_FRAMES, EXAMPLE_HEIGHT = 3, 160
JPEG_QUALITY = 85
TOPS = ("top-1", "top-5")


class Epoch(NamedTuple):
    """What the log has of an epoch."""

    stage: str
    loss: float
    """Mean over its steps"""
    accuracies: dict[str, float]
    """Of training, and of validation where there was one; in [0, 1]"""


class Confusion(NamedTuple):
    """Videos of a class that are taken for another one."""

    label: int
    taken_for: int
    positions: NDArray[np.int64]
    """Of these videos among the predictions, the surest first"""


def run_sections(evidence: Evidence, run: Path) -> list[str]:
    """The sections of the page, as HTML, of a run folder that `evidence` was read from."""
    predictions, scores, weights = last_tested(evidence)
    classes = predictions.about["classes"]
    epochs = read_epochs(run)
    sections = [section("Accuracy", stages_table(evidence))]
    if epochs:
        alt = f"Loss and accuracy of {len(epochs)} epochs; loss ends at {epochs[-1].loss:.3g}"
        sections.append(section("Training", as_svg(curves_figure(epochs), "curves", alt)))
    # Of both together, then of each: what one confuses the other may know.
    for each in dict.fromkeys((weights, RGB_ALONE, FLOW_ALONE)):
        branch_scores = weighted(predictions, each)
        if branch_scores is not None:
            sections.append(confusion_section(predictions, branch_scores, each))
    of = score_name(predictions, weights)
    confusion = confusion_matrix(scores, predictions.labels)
    sections.append(section("Best and worst classes", classes_table(confusion, classes), of))
    found = confusions(scores, predictions.labels)[:NUM_EXAMPLES]
    if found:
        sections.append(section("Confusions", examples(run, predictions, found), of))
    return sections


def score_name(predictions: Predictions, weights: Weights) -> str:
    """`Stage iter1, RGB + flow 5:1.`"""
    score = {RGB_ALONE: "RGB", FLOW_ALONE: "flow"}.get(weights, "RGB + flow {:g}:{:g}")
    return f"Stage {predictions.about['stage']}, {score.format(*weights)}."


def confusion_section(predictions: Predictions, scores: Scores, weights: Weights) -> str:
    """The confusion matrix of (V, C) scores, which are those of `weights`, as HTML."""
    confusion = confusion_matrix(scores, predictions.labels)
    return section(
        "Confusion matrix",
        as_svg(
            confusion_figure(confusion, predictions.about["classes"]),
            "confusion-{:g}-{:g}".format(*weights),
            f"{int(confusion.trace())} of {confusion.sum()} videos are on the diagonal",
        ),
        f"{score_name(predictions, weights)} A row is a class of videos, a column what they are "
        "taken for; darker is a larger part of the row.",
    )


def last_tested(evidence: Evidence) -> tuple[Predictions, Scores, Weights]:
    """Predictions of the last stage that was tested, their (V, C) scores, and their weights."""
    variant = max(evidence.variants, key=lambda each: each.iteration)
    predictions = evidence.variants[variant][-1]
    for weights in (weights_of(variant, "S"), RGB_ALONE, FLOW_ALONE):
        scores = weighted(predictions, weights)
        if scores is not None:
            return predictions, scores, weights
    raise InputError("predictions without scores of any branch")


def read_epochs(run: Path) -> list[Epoch]:
    """What log.jsonl has of each epoch that has ended; [] without a log."""
    losses: list[float] = []
    found = []
    for given in logged(run / LOG):
        # Of another program.
        with suppress(ValueError, LookupError, TypeError):
            if "loss" in given:
                losses.append(float(given["loss"]))
                continue
            named = (("training", "train_accuracy"), ("validation", "validation_accuracy"))
            accuracies = {name: float(given[key]) for name, key in named if key in given}
            mean = float(np.mean(losses)) if losses else float("nan")
            found.append(Epoch(str(given["stage"]), mean, accuracies))
            losses = []
    return found


def curves_figure(epochs: Sequence[Epoch]) -> Figure:
    """Loss above, accuracy below, over the epochs of all stages."""
    figure = new_figure(4.2)
    above, below = figure.subplots(2, sharex=True)
    numbers = np.arange(1, len(epochs) + 1)
    above.plot(numbers, [each.loss for each in epochs], "o-", color=COLOURS[0], markersize=3)
    for name, colour in (("training", COLOURS[0]), ("validation", COLOURS[1])):
        heights = [100 * each.accuracies.get(name, float("nan")) for each in epochs]
        if not np.isnan(heights).all():
            below.plot(numbers, heights, "o-", color=colour, markersize=3, label=name)
    begin = 0.5
    for stage, group in groupby(epochs, key=lambda each: each.stage):
        middle = begin + len([*group]) / 2
        # Above the frame, where no line is.
        place = above.get_xaxis_transform()
        above.text(middle, 1.02, stage, transform=place, ha="center", color="#555555")
        if begin > 0.5:
            for axis in (above, below):
                axis.axvline(begin, color="#aaaaaa", linewidth=0.8, linestyle=":")
        begin = 2 * middle - begin
    # Of a loss that hardly changes the highest point would be cut.
    above.set(ylabel="loss", ylim=(0, 1.08 * above.dataLim.y1 if above.dataLim.y1 > 0 else None))
    below.set(xlabel="epoch", ylabel="accuracy, %", ylim=(0, 103), xlim=(0.5, len(epochs) + 0.5))
    below.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(frameon=False, ncols=2, loc="outside lower center")
    for axis in (above, below):
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Parts of each row, with names and counts where they can be read."""
    totals = confusion.sum(axis=1, keepdims=True)
    parts = confusion / np.maximum(totals, 1)
    names = [figure_text(name) for name in classes]
    named = len(names) <= MOST_NAMED
    figure = new_figure(5.4 if named else 4.6)
    axis = figure.subplots()
    shown = axis.imshow(parts, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if named:
        size = 9 if len(names) <= MOST_COUNTED else 7
        axis.set_xticks(range(len(names)), names, rotation=60, fontsize=size)
        axis.set_yticks(range(len(names)), names, fontsize=size)
        for text in axis.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    if len(classes) <= MOST_COUNTED:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            ink = "white" if parts[row, column] > 0.6 else "#222222"
            axis.text(column, row, str(confusion[row, column]), ha="center", va="center", color=ink)
    axis.set(xlabel="taken for", ylabel="class")
    figure.colorbar(shown, label="part of the class", fraction=0.046, pad=0.03)
    return figure


def stages_table(evidence: Evidence) -> Table:
    """Top-1 and top-5 of every stage that was tested, by RGB, flow and both."""
    columns = ("network", *(f"{s} {top}" for s in ("RGB", "flow", "both") for top in TOPS))
    rows: list[list[Cell]] = [
        [
            str(variant),
            *(c for s in SCORES for c in tops(evidence.accuracy(variant, weights_of(variant, s)))),
        ]
        for variant in evidence.variants
    ]
    return Table("accuracy", "Accuracy", columns, rows)


def classes_table(confusion: NDArray[np.int64], classes: Sequence[str]) -> Table:
    """The best classes and the worst, with what they are most often taken for."""
    accuracies, totals = accuracy_by_class(confusion), confusion.sum(axis=1)
    order = [int(n) for n in np.argsort(-accuracies, kind="stable") if totals[n]]
    if len(order) > NUM_BEST + NUM_WORST:
        order = order[:NUM_BEST] + order[-NUM_WORST:]
    rows: list[list[Cell]] = []
    for number in order:
        others = confusion[number].copy()
        others[number] = 0
        wrong = int(others.argmax())
        taken = f"{classes[wrong]} ({others[wrong]})" if others.any() else "never wrong"
        count = str(totals[number])
        rows.append([classes[number], count, 100 * float(accuracies[number]), taken])
    columns = ("class", "videos", "accuracy", "most often taken for")
    return Table("classes", "Best and worst classes", columns, rows)


def confusions(scores: Scores, labels: NDArray[np.int64]) -> list[Confusion]:
    """Every confusion of two classes, the most frequent first."""
    best = ranked_classes(scores)[:, 0]
    found = []
    for label, taken_for in {*zip(labels.tolist(), best.tolist(), strict=True)}:
        if label != taken_for:
            positions = np.flatnonzero((labels == label) & (best == taken_for))
            margin = scores[positions, taken_for] - scores[positions, label]
            found.append(Confusion(label, taken_for, positions[np.argsort(-margin, kind="stable")]))
    return sorted(found, key=lambda each: (-len(each.positions), each.label, each.taken_for))


def examples(run: Path, predictions: Predictions, found: Sequence[Confusion]) -> str:
    """For each confusion a video, as frames where its dataset is there, in HTML."""
    classes = predictions.about["classes"]
    dataset: ShardDataset | None = None
    why = f"{run}: no {SETTINGS}"
    if (run / SETTINGS).exists():
        where = predictions.about.get("dataset")
        try:
            dataset = open_run_dataset(read_run_settings(run).shards, "shards.path", where)
        except InputError as error:
            why = str(error)
    shown = []
    for each in found:
        key = predictions.keys[each.positions[0]]
        name, wrong = classes[each.label], classes[each.taken_for]
        text = f"{name} taken for {wrong}, {_videos(len(each.positions))}; such as {key}"
        images = ""
        if dataset is not None:
            try:
                images = _frames(dataset, key, f"{key}, a {name} taken for a {wrong}")
            # Of one video: the others are shown all the same.
            except InputError as error:
                text += f" (no frames: {error})"
        caption = f"<figcaption>{html_text(text)}</figcaption>"
        shown.append(f'<figure class="frames"><div>{images}</div>{caption}</figure>')
    if dataset is None:
        shown.append(f'<p class="soft">{html_text(f"No frames are shown: {why}")}</p>')
    return "".join(shown)


def _frames(dataset: ShardDataset, key: str, alt: str) -> str:
    sample = dataset.sample(key)
    # Inside the video: its ends are often black.
    last = sample.index.num_frames - 1
    times = sorted({round(last * (n + 1) / (EXAMPLE_FRAMES + 1)) for n in range(EXAMPLE_FRAMES)})
    images = []
    for t, frame in zip(times, read_frames(sample, times), strict=True):
        height, width = frame.shape[:2]
        size = max(1, round(width * EXAMPLE_HEIGHT / height)), EXAMPLE_HEIGHT
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        data = base64.b64encode(encode_jpeg(small, JPEG_QUALITY)).decode()
        said = html_text(f"frame {t} of {alt}")
        images.append(f'<img alt="{said}" src="data:image/jpeg;base64,{data}">')
    return "".join(images)


def _videos(count: int) -> str:
    return f"{count} video{'s' if count > 1 else ''}"
