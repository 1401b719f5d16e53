"""The report as one HTML page: figures inside as SVG, no script, nothing loaded from elsewhere.

It can be sent as one file and opened offline; light or dark follows the reader's system. The price:
text of a figure is set in the reader's own font, which may be a little wider.
"""

from collections.abc import Mapping, Sequence
from string import Template

from twinstream.output import html_text
from twinstream.train.network.families import find_family
from twinstream.train.report.evidence import Evidence
from twinstream.train.report.tables import Cell, Table, beside_paper, shown

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>twinstream report</title>
<style>
:root { color-scheme: light dark; --ink: #1d2433; --soft: #667085; --line: #e3e7ee;
        --card: #ffffff; --page: #f5f6f9; --accent: #4477aa; --gap: #fff8e6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9f0; --soft: #9aa4b8; --line: #323a4a; --card: #1c2230;
          --page: #12161f; --accent: #7fb0e0; --gap: #2c2717; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
       font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.1rem; margin: 0 0 .9rem; }
p { margin: .6rem 0; }
.soft { color: var(--soft); font-size: .92rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
          padding: 1.4rem 1.5rem; margin-top: 1.4rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .7rem; text-align: right; white-space: nowrap;
         border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: .85rem; border-bottom-width: 2px; }
td.text, th.text { text-align: left; }
tr:last-child td { border-bottom: 0; }
tr.paper td { color: var(--soft); font-style: italic; }
svg { display: block; width: 100%; max-width: 40rem; height: auto; margin: 0 auto;
      border-radius: 8px; background: #ffffff; }
figure { margin: 0 0 1.2rem; }
.frames div { display: flex; flex-wrap: wrap; gap: .4rem; }
.frames img { min-width: 0; max-width: calc(33% - .3rem); border-radius: 6px; }
figcaption { font-size: .9rem; margin-top: .3rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) { main { padding: 1rem .5rem; } section { padding: 1rem .7rem; }
  ul { columns: 1; } table { font-size: .78rem; } th, td { padding: .35rem .2rem; }
  th { font-size: .72rem; } th, td.text { white-space: normal; overflow-wrap: break-word; } }
.gaps { background: var(--gap); border-radius: 8px; padding: .7rem 1rem; margin-top: 1rem;
        font-size: .9rem; }
pre { margin: .4rem 0 0; font-size: .8rem; white-space: pre-wrap; word-break: break-word; }
ul { columns: 2; overflow-wrap: anywhere; padding-left: 1.1rem; margin: .4rem 0 0;
     font-size: .9rem; color: var(--soft); }
</style>
</head>
<body><main>
<h1>Two branches and cross-modality attention</h1>
<p class="soft">$summary</p>
$notes
$lead
$parts
<section><h2>Runs</h2><ul>$runs</ul></section>
</main></body></html>
""")


def page(
    evidence: Evidence,
    notes: Sequence[str],
    parts: Sequence[Table],
    pictures: Mapping[str, str],
    lead: Sequence[str] = (),
) -> str:
    """The whole page as text; `pictures` are the SVG of those parts that are figures.

    `lead` are sections that stand before the parts.
    """
    return PAGE.substitute(
        summary=html_text(summary(evidence)),
        notes="\n".join(f'<p class="soft">{html_text(note)}</p>' for note in notes),
        lead="\n".join(lead),
        parts="\n".join(_section(table, pictures.get(table.name)) for table in parts),
        runs="".join(f"<li>{html_text(run)}</li>" for run in evidence.runs),
    )


def summary(evidence: Evidence) -> str:
    """What was tested on what, in a line or two."""
    about = evidence.about
    views = (
        f"{about['segments']} segments × {about['crops']} crop{'s' if about['crops'] > 1 else ''}"
    )
    tested = f"{evidence.num_videos} videos of split {about['split']}"
    if len(evidence.folds) > 1:
        # What each of them is stands below their own table.
        tested += f" in {len(evidence.folds)} folds"
    else:
        fold = evidence.folds[0]
        tested += f" of {' and '.join(fold.datasets)}" if fold.datasets else ""
        tested += f", by {fold.chosen_by}" if fold.chosen_by else ""
    network = find_family(about["family"]).network(about["depth"])
    text = (
        f"{network} on {tested}, {len(about['classes'])} classes, {views} a video. "
        "Accuracies are in percent."
    )
    if beside_paper(evidence):
        text += " Numbers in italics and columns called paper are those of Chi et al."
    return text


def section(title: str, body: str | Table, note: str = "") -> str:
    """A section of a table, or of HTML that is as it should be."""
    text = body if isinstance(body, str) else _table(body)
    said = f'<p class="soft">{html_text(note)}</p>' if note else ""
    return f"<section><h2>{html_text(title)}</h2>{text}{said}</section>"


def _section(table: Table, picture: str | None) -> str:
    # A figure without a picture has no data: its numbers would be an empty table.
    body = picture or ("" if table.name.startswith("figure") else _table(table))
    return section(table.title, body + _gaps(table), table.note)


def _table(table: Table) -> str:
    # A whole column goes left or right, so that numbers stay aligned below one another.
    text = [
        column == 0 or _is_text([row[column] for row in table.rows])
        for column in range(len(table.columns))
    ]
    head = "".join(
        f"<th{_side(left)}>{html_text(name)}</th>"
        for name, left in zip(table.columns, text, strict=True)
    )
    rows = "".join(_row(row, text) for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(row: Sequence[Cell], text: Sequence[bool]) -> str:
    # tables.py marks the paper's rows by the end of their first cell.
    kind = ' class="paper"' if str(row[0]).endswith(", paper") else ""
    cells = "".join(
        f"<td{_side(left)}>{html_text(shown(cell))}</td>"
        for cell, left in zip(row, text, strict=True)
    )
    return f"<tr{kind}>{cells}</tr>"


def _is_text(cells: Sequence[Cell]) -> bool:
    """Whether a column reads from the left: words, and no figure among them."""
    return all(isinstance(cell, str) and not cell[:1].isdigit() for cell in cells)


def _side(left: bool) -> str:
    return ' class="text"' if left else ""


def _gaps(table: Table) -> str:
    if not table.gaps:
        return ""
    commands = "\n".join(map(html_text, table.gaps))
    lead = "Not everything here was trained and tested yet. To fill it:"
    return f'<div class="gaps">{lead}<pre>{commands}</pre></div>'
