"""Figures of results, drawn with matplotlib and written as PNG."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure


def write_bars(reached: Mapping[str, float], ceilings: Mapping[str, float], path: Path) -> None:
    """One bar a model: accuracy in [0, 1], and a line at the best that its input allows."""
    figure = Figure(figsize=(1.6 + 1.3 * len(reached), 3.6), layout="constrained")
    axis = figure.subplots()
    bars = axis.bar(list(reached), list(reached.values()), width=0.6, color="#4477aa")
    axis.bar_label(bars, [f"{value:.0%}" for value in reached.values()], padding=2)
    for place, name in enumerate(reached):
        axis.hlines(ceilings[name], place - 0.4, place + 0.4, color="#cc3311", linewidth=2)
    axis.plot([], [], color="#cc3311", linewidth=2, label="best possible")
    axis.set(ylim=(0, 1.1), ylabel="top-1 accuracy on held-out videos")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=120)
