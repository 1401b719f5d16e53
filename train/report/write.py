"""`twinstream report`: the paper's tables and figures, from the runs that are there.

Each table is written as NAME.md and NAME.csv, each figure as NAME.png with its numbers as CSV, and
all of them as one page, report.html, which needs no other file and no network. A number that needs
a missing run is a gap, with the commands that fill it.
"""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from twinstream.errors import InputError
from twinstream.shards.storage.atomic import write_atomically
from twinstream.train.report.evidence import Evidence, read_evidence
from twinstream.train.report.figures import gains_table, sweep_table, write_gains, write_sweep
from twinstream.train.report.page import page
from twinstream.train.report.tables import (
    Table,
    categories_table,
    iterations_table,
    non_local_table,
    parameters_table,
    shown,
)

PAGE = "report.html"
FIGURES: dict[str, Callable[[Table, Path], None]] = {"figure3": write_sweep, "figure4": write_gains}


def write_report(runs: Sequence[Path], out: Path) -> list[Table]:
    """Write the report into `out`; returns its tables in the order of the page.

    InputError for runs that cannot be used.
    """
    # Before `out` is made: runs that cannot be used leave no empty folder.
    evidence = read_evidence(runs)
    parts = report_parts(evidence)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written to ({error.strerror})") from error
    pictures: dict[str, Path] = {}
    for table in parts:
        write_atomically(out / f"{table.name}.csv", as_csv(table).encode())
        if table.name not in FIGURES:
            write_atomically(out / f"{table.name}.md", as_markdown(table).encode())
        # Without rows, or with the first column alone, there is nothing to draw.
        elif table.rows and len(table.columns) > 1:
            pictures[table.name] = out / f"{table.name}.png"
            FIGURES[table.name](table, pictures[table.name])
    write_atomically(
        out / PAGE, page(evidence, [str(run) for run in runs], parts, pictures).encode()
    )
    return parts


def report_parts(evidence: Evidence) -> list[Table]:
    """Tables 1 to 4 and Figures 3 and 4, in the order of the page."""
    return [
        iterations_table(evidence),
        parameters_table(evidence),
        sweep_table(evidence),
        gains_table(evidence),
        categories_table(evidence),
        non_local_table(evidence),
    ]


def as_markdown(table: Table) -> str:
    """Title, table, note and gaps."""
    lines = [f"| {' | '.join(table.columns)} |", "|" + "---|" * len(table.columns)]
    lines += [f"| {' | '.join(shown(cell) for cell in row)} |" for row in table.rows]
    missing = (
        ["Missing; these commands fill it:", *(f"    {command}" for command in table.gaps)]
        if table.gaps
        else []
    )
    blocks = [
        f"## {table.title}",
        "\n".join(lines),
        table.note,
        "\n\n".join([*missing[:1], "\n".join(missing[1:])]),
    ]
    return "\n\n".join(block for block in blocks if block.strip()) + "\n"


def as_csv(table: Table) -> str:
    """A header and the rows; numbers in full, gaps empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue()
