"""`twinstream report`: the paper's tables and figures, from the runs that are there.

Each table (1 to 4, or 5 of networks that see clips, 6 of a transfer, and the folds where there are
several) is written as NAME.md and NAME.csv, each figure as NAME.png with its numbers as CSV, and
all of them as one page, report.html, which needs no other file and no network. A number that needs
a missing run is a gap, with what fills it. Of one run alone the page is its own (`run_page`).
"""

import csv
import io
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from twinstream.output import csv_text, markdown_text, one_line
from twinstream.progress import Progress
from twinstream.shards.preview import save_figure
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.lock import owned
from twinstream.train.choices import IMAGENET
from twinstream.train.report.clips import clips_table, has_clips
from twinstream.train.report.evidence import Evidence
from twinstream.train.report.figures import (
    as_svg,
    gains_figure,
    gains_table,
    sweep_figure,
    sweep_table,
)
from twinstream.train.report.folds import folds_table, overlap_notes, repeats_notes
from twinstream.train.report.page import page
from twinstream.train.report.run_page import run_sections
from twinstream.train.report.tables import (
    BASELINE,
    Table,
    categories_table,
    is_transferred,
    iterations_table,
    non_local_table,
    parameters_table,
    shown,
    transfer_table,
)
from twinstream.train.run_folder import SETTINGS, read_run_settings

PAGE = "report.html"
TABLES = ("folds", *(f"table{number}" for number in range(1, 7)))
FIGURES: dict[str, Callable[[Table], Figure]] = {"figure3": sweep_figure, "figure4": gains_figure}


def write_report(evidence: Evidence, out: Path, run: Path | None = None) -> list[Table]:
    """Write the report into `out`; returns its tables in the order of the page.

    Of a single `run` its own sections come first; the paper's tables follow where several of its
    stages were tested. InputError where another run holds the folder or it cannot be written to.
    """
    compares = run is None or len(evidence.variants) > 1
    makers, parts = (table_makers(evidence) if compares else []), []
    with Progress("report", len(makers) + 2, "part") as progress:
        for make in makers:
            parts.append(_in_own_folder(make(evidence), evidence))
            progress.advance(note=parts[-1].name)
        lead = run_sections(evidence, run) if run else []
        progress.advance(note="the run")
        # Another report would clear away what this one has written.
        with owned(out, "twinstream report"):
            _write(evidence, out, parts, lead)
        progress.advance(note=PAGE)
    return parts


def _write(evidence: Evidence, out: Path, parts: list[Table], lead: list[str]) -> None:
    notes = report_notes(evidence)
    # Of an earlier report into the same folder: what this one may lack must not stand beside it.
    tables = [f"{name}.{suffix}" for name in TABLES for suffix in ("md", "csv")]
    figures = [f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "csv")]
    for name in (*tables, *figures):
        (out / name).unlink(missing_ok=True)
    pictures: dict[str, str] = {}
    for table in parts:
        write_atomically(out / f"{table.name}.csv", as_csv(table).encode())
        if table.name not in FIGURES:
            write_atomically(out / f"{table.name}.md", as_markdown(table, notes).encode())
        # Without rows, or with the first column alone, there is nothing to draw.
        elif table.rows and len(table.columns) > 1:
            figure = FIGURES[table.name](table)
            save_figure(figure, out / f"{table.name}.png", dpi=130)
            alt = f"{table.title}: {', '.join(table.columns[1:])}"
            pictures[table.name] = as_svg(figure, table.name, alt)
    write_atomically(out / PAGE, page(evidence, notes, parts, pictures, lead).encode())


def _in_own_folder(table: Table, evidence: Evidence) -> Table:
    """The table with commands on the user's own paths: settings, runs, and a two-stream run."""
    first = evidence.folds[0].run
    runs = shlex.quote(str(first.parent))
    baseline = evidence.folders.get(BASELINE)
    settings = next(
        (path for path in map(own_settings, evidence.folders.values()) if path),
        Path("pipeline.yaml"),
    )
    swaps = {
        "-c pipeline.yaml": f"-c {shlex.quote(str(settings))}",
        **({"=runs/two_stream/": f"={shlex.quote(str(baseline))}/"} if baseline else {}),
        "=runs/": f"={runs}/",
        " runs/": f" {runs}/",
    }
    # In one go: the user's own folder may be named runs/ too.
    stored = re.compile("|".join(map(re.escape, swaps)))
    gaps = [stored.sub(lambda found: swaps[found[0]], command) for command in table.gaps]
    return replace(table, gaps=gaps)


def own_settings(run: Path) -> Path | None:
    """settings.yaml of a run that began with no other run's weights, so that a new run can."""
    if not (run / SETTINGS).exists():
        return None
    begun = {*read_run_settings(run).model.first_weights.values()}
    return run / SETTINGS if begun <= {None, IMAGENET} else None


def report_parts(evidence: Evidence) -> list[Table]:
    """All tables, in the order of the page."""
    return [make(evidence) for make in table_makers(evidence)]


def table_makers(evidence: Evidence) -> list[Callable[[Evidence], Table]]:
    """What makes Tables 1 to 4 and Figures 3 and 4, the folds before, Table 6 behind them.

    Networks that see clips have Table 5 in place of Tables 1 to 4 and the figures.
    """
    folds = [folds_table] if len(evidence.folds) > 1 else []
    if has_clips(evidence):
        return [*folds, clips_table]
    return [
        *folds,
        iterations_table,
        parameters_table,
        sweep_table,
        gains_table,
        categories_table,
        non_local_table,
        *([transfer_table] if is_transferred(evidence) else []),
    ]


def report_notes(evidence: Evidence) -> list[str]:
    """What a reader of any of the tables has to know, a line each."""
    return [*evidence.notes, *overlap_notes(evidence), *repeats_notes(evidence)]


def as_markdown(table: Table, notes: Sequence[str] = ()) -> str:
    """Title, table, note, notes on all tables, and gaps."""
    lines = [
        f"| {' | '.join(map(markdown_text, table.columns))} |",
        "|" + "---|" * len(table.columns),
    ]
    lines += [f"| {' | '.join(markdown_text(shown(cell)) for cell in row)} |" for row in table.rows]
    missing = (
        ["Missing; to fill it:", *(f"    {one_line(command)}" for command in table.gaps)]
        if table.gaps
        else []
    )
    blocks = [
        f"## {markdown_text(table.title)}",
        "\n".join(lines),
        markdown_text(table.note),
        "\n".join(f"- {markdown_text(note)}" for note in notes),
        "\n\n".join([*missing[:1], "\n".join(missing[1:])]),
    ]
    return "\n\n".join(block for block in blocks if block.strip()) + "\n"


def as_csv(table: Table) -> str:
    """A header and the rows; numbers in full, gaps empty, text as `csv_text` has it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_text, table.columns))
    writer.writerows(
        [csv_text(cell) if isinstance(cell, str) else cell for cell in row] for row in table.rows
    )
    return text.getvalue()
