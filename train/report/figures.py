"""The paper's Figures 3 and 4 from predictions, as tables of numbers and as pictures.

Figure 3 is accuracy against the weights of the two branches in the sum, Figure 4 the categories
that gain most. Both are tables first: the same numbers become CSV, and the picture needs no more.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from twinstream.output import figure_text, html_text
from twinstream.shards.preview import save_figure
from twinstream.train.report.evidence import RGB_ALONE, Evidence
from twinstream.train.report.sources import Variant
from twinstream.train.report.tables import (
    BASELINE,
    CATEGORIES,
    CMA,
    CMA_2,
    CMA_3,
    NON_LOCAL,
    Cell,
    Table,
    gains,
    gaps,
)
from twinstream.train.score.metrics import EQUAL, Weights, accuracy_by_class

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee")
# Weights of RGB; flow has 1 - w. The ratios of the paper, 1:5, 1:1 and 5:1, are among them.
RGB_WEIGHTS = sorted({*np.linspace(0, 1, 25).tolist(), 1 / 6, 1 / 2, 5 / 6})
# A bar too low for its number to stand inside
LOW_BAR = 0.08
TICKS = {
    0.0: "0:1",
    1 / 6: "1:5",
    1 / 3: "1:2",
    1 / 2: "1:1",
    2 / 3: "2:1",
    5 / 6: "5:1",
    1.0: "1:0",
}
SWEPT: dict[Variant, str] = {
    BASELINE: "two-stream",
    NON_LOCAL: "non-local two-stream",
    CMA: "CMA iter1",
    CMA_2: "CMA iter2",
    CMA_3: "CMA iter3",
}
COMPARED: tuple[tuple[str, Variant, Weights], ...] = (
    ("RGB", BASELINE, RGB_ALONE),
    ("RGB with non-local", NON_LOCAL, RGB_ALONE),
    ("two-stream", BASELINE, EQUAL),
    ("CMA iter1-R", CMA, RGB_ALONE),
)


def sweep_table(evidence: Evidence) -> Table:
    """Figure 3 as numbers: top-1 in percent, a row for each weight of RGB, a column a network."""
    # Without a run of it a network has no column; `gaps` names the command instead.
    named = {
        variant: name
        for variant, name in SWEPT.items()
        if evidence.accuracy(variant, EQUAL) is not None
    }
    rows: list[list[Cell]] = []
    for weight in RGB_WEIGHTS:
        found = [evidence.accuracy(variant, (weight, 1 - weight)) for variant in named]
        rows.append(
            [f"{weight:.3f}", *(100 * accuracy.top1 if accuracy else None for accuracy in found)]
        )
    title = "Figure 3. Top-1 against the weight of RGB"
    wanted = (BASELINE, CMA, CMA_2)
    return Table(
        "figure3", title, ("weight of RGB", *named.values()), rows, "", gaps(evidence, wanted)
    )


def new_figure(height: float) -> Figure:
    """A figure whose text can be read where a page shows it 400 pixels wide; `height` in inches."""
    return Figure(figsize=(5.4, height), layout="constrained")


def as_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an SVG element of a page, with `alt` for those who do not see it.

    `name` tells the ids of its parts from those of the page's other figures.
    """
    text = io.StringIO()
    # Text as text: it is read aloud and found. The salt and no date: the same bytes every time.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        # Tight: a square matrix would leave bands of its figure empty.
        figure.savefig(
            text,
            format="svg",
            metadata={"Date": None, "Creator": None},
            bbox_inches="tight",
            pad_inches=0.06,
        )
    # Without its metadata, which names addresses.
    plain = re.sub(r"\s*<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    _, _, svg = plain.partition("<svg ")
    return f'<svg role="img" aria-label="{html_text(alt)}" {svg}'


def sweep_figure(table: Table) -> Figure:
    """One line for each network; the ratios RGB:flow are on the axis."""
    figure = new_figure(3.6)
    axis = figure.subplots()
    for column, name in enumerate(table.columns[1:], start=1):
        heights = _numbers(table, column)
        colour = COLOURS[(column - 1) % len(COLOURS)]
        axis.plot(RGB_WEIGHTS, heights, label=name, color=colour, linewidth=1.8)
    axis.set(xlabel="weights of the scores, RGB : flow", ylabel="top-1 accuracy, %", xlim=(0, 1))
    axis.set_xticks(list(TICKS), list(TICKS.values()))
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def gains_table(evidence: Evidence) -> Table:
    """Figure 4 as numbers: accuracy in percent, a row for each category with the largest gain.

    A column for each network that was tested.
    """
    best = gains(evidence)[:CATEGORIES]
    found = {name: evidence.confusion(variant, weights) for name, variant, weights in COMPARED}
    columns = {name: accuracy_by_class(each) for name, each in found.items() if each is not None}
    rows: list[list[Cell]] = [
        [gain.category, *(100 * float(each[gain.number]) for each in columns.values())]
        for gain in best
    ]
    title = "Figure 4. Categories with the largest gain"
    return Table(
        "figure4",
        title,
        ("category", *columns),
        rows,
        "",
        gaps(evidence, (BASELINE, NON_LOCAL, CMA)),
    )


def gains_figure(table: Table) -> Figure:
    """A group of bars for each category, the largest gain on top."""
    names: Sequence[str] = table.columns[1:]
    centres = np.arange(len(table.rows))
    width = 0.8 / len(names)
    figure = new_figure(1.2 + 0.4 * len(centres))
    axis = figure.subplots()
    for number, name in enumerate(names):
        heights = _numbers(table, number + 1)
        axis.barh(
            # The group as a whole is centred over its category.
            centres + (number - (len(names) - 1) / 2) * width,
            heights,
            width,
            label=name,
            color=COLOURS[number],
        )
    axis.set_yticks(centres, [figure_text(str(row[0])) for row in table.rows])
    axis.invert_yaxis()
    axis.set(xlabel="accuracy of the category, %", xlim=(0, 100))
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, ncols=2, loc="outside upper center")
    return figure


def write_bars(reached: Mapping[str, float], ceilings: Mapping[str, float], path: Path) -> None:
    """One bar for each model: accuracy in [0, 1], and a line at the best that its input allows."""
    figure = Figure(figsize=(1.6 + 1.3 * len(reached), 3.6), layout="constrained")
    axis = figure.subplots()
    bars = axis.bar(list(reached), list(reached.values()), width=0.6, color="#4477aa")
    for bar, value in zip(bars, reached.values(), strict=True):
        # Inside the bar: above it the line of the best possible would run through the figure.
        low = value < LOW_BAR
        place = (bar.get_x() + bar.get_width() / 2, value + 0.03 if low else value / 2)
        axis.text(
            *place, f"{value:.0%}", ha="center", va="center", color="black" if low else "white"
        )
    for number, name in enumerate(reached):
        axis.hlines(ceilings[name], number - 0.4, number + 0.4, color="#cc3311", linewidth=2)
    # Empty, for its entry in the legend: one for each of the lines above would be too many.
    axis.plot([], [], color="#cc3311", linewidth=2, label="best possible")
    axis.set(ylim=(0, 1.1), ylabel="top-1 accuracy on held-out videos")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper left")
    save_figure(figure, path, dpi=120)


def _numbers(table: Table, column: int) -> list[float]:
    """A column of numbers; a gap is NaN, which matplotlib does not draw."""
    return [
        cell if isinstance(cell, float) else float("nan")
        for cell in (row[column] for row in table.rows)
    ]
