"""Names out of datasets are shown, and never obeyed, by a terminal, a page, a table, a picture."""

import csv
import io
import re
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.support import datasets
from tests.support.command import run
from tests.support.datasets import write_dataset
from tests.support.runs import write_tested
from twinstream.errors import MAX_SHOWN
from twinstream.output import (
    csv_text,
    figure_text,
    html_text,
    markdown_text,
    one_line,
    plain,
)
from twinstream.progress import Progress
from twinstream.shards.format.video_table import VideoRow, videos_csv

# A tag, a cell's end, a link, a formula of a spreadsheet and one of matplotlib, and a turn of the
# direction; a newline and ESC are refused where a dataset is read.
NASTY = "=<b>`|[a](b)\u202e$^{$"
ESC = "\x1b[31m\x9b2J"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Run/v_Run é 跑 🏃", "Run/v_Run é 跑 🏃"),
        ("two\nlines", "two\nlines"),
        (ESC, r"\x1b[31m\x9b2J"),
        ("a\rb\tc\x07\x00", r"a\rb\tc\x07\x00"),
        ("\u202eabc\u2066\u200b\u2028", r"\u202eabc\u2066\u200b\u2028"),
        ("\udc80", r"\udc80"),
    ],
)
def test_control_characters_are_spelt_and_letters_stay(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert one_line(text) == shown.replace("\n", r"\n")


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *((f"{sign}1+1", f"'{sign}1+1") for sign in "=+-@"),
        ("\t=1", r"'\t=1"),
        ("a=1", "a=1"),
        ("", ""),
        (ESC, r"\x1b[31m\x9b2J"),
    ],
)
def test_a_cell_is_never_a_formula(text: str, cell: str) -> None:
    assert csv_text(text) == cell


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("v_Run_g01 58.3 %", "v_Run_g01 58.3 %"),
        ("a|b\nc", r"a\|b\\nc"),
        ("<script>", r"\<script\>"),
        ("[x](y) `z` *b* _i_", r"\[x\](y) \`z\` \*b\* \_i\_"),
        ("https://x.y", "http&#115;://x.y"),
        ("www.x.y", "ww&#119;.x.y"),
        ("&lt;", r"\&lt;"),
    ],
)
def test_a_cell_of_markdown_is_text_alone(text: str, written: str) -> None:
    assert markdown_text(text) == written


def test_a_page_has_neither_tags_nor_attributes_of_a_name() -> None:
    assert html_text('"><script>\x1b') == "&quot;&gt;&lt;script&gt;\\x1b"


@pytest.mark.parametrize("text", ["$x", "$\\frac{$", "a $ b", "\\$x$", NASTY])
def test_a_picture_takes_dollars_as_they_are(text: str) -> None:
    figure = Figure()
    title = figure.suptitle(figure_text(text))
    assert title._preprocess_math(title.get_text())[1] is False


def test_a_picture_has_the_beginning_of_a_long_text() -> None:
    assert figure_text("a" * 100_000) == "a" * MAX_SHOWN + "..."
    assert figure_text("a" * MAX_SHOWN) == "a" * MAX_SHOWN


def harmless(text: str) -> bool:
    """Whether a terminal would only print it."""
    return text == plain(text)


@pytest.fixture
def nasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset with such a class, which is part of its keys."""
    monkeypatch.setattr(datasets, "CLASSES", (NASTY, "right"))
    return write_dataset(tmp_path / "d", {"train": 2, "test": 1})


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("info D", 0),
        ("splits D", 0),
        ("verify D", 1),
        ("preview D --out OUT.png", 0),
        ("preview D --key \x1b --out OUT.png", 1),
        ("subset D --out OUT --max-per-class 1", 0),
        ("subset D --out OUT --classes \x1b", 1),
        ("merge D --out OUT", 0),
        ("export D --out OUT", 0),
    ],
)
def test_no_command_prints_what_a_terminal_obeys(
    nasty: Path,
    command: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (nasty / f"stray{ESC}.tar").write_bytes(b"")
    out = str(nasty.parent / "out")
    words = [word.replace("OUT", out) for word in command.split(" ")]
    found = run(monkeypatch, "shards", *(str(nasty) if word == "D" else word for word in words))
    printed = capsys.readouterr()
    assert harmless(printed.out + printed.err)
    if words[0] == "info":
        assert plain(NASTY) in printed.out
    if words[0] == "verify":
        assert r"stray\x1b[31m\x9b2J.tar: a file that dataset.json does not name" in printed.err
    assert found == code


def test_an_error_is_one_line_whatever_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "shards", "info", str(tmp_path / f"a\n{ESC}")) == 1
    error = capsys.readouterr().err
    assert harmless(error)
    assert error.count("\n") == 1


def test_a_bar_and_its_lines_are_harmless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FIRST_LINE_SECONDS", "PLAIN_LINE_SECONDS"):
        monkeypatch.setattr(f"twinstream.progress.{name}", 0.0)
    with Progress("verify", 2, "shard") as progress:
        progress.advance(note=f"{ESC}\n")
        progress.write(ESC, sys.stderr)
    error = capsys.readouterr().err
    assert r"\x1b[31m\x9b2J\n" in error
    assert harmless(error)


def test_a_report_shows_a_name_as_it_is_and_does_nothing_else_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = (NASTY, f"<script>{ESC}", "@up")
    for name, kind, stage, answers in (
        ("a", "two_stream", "rgb", {"rgb": [1, 0, 1], "flow": [1, 0, 1]}),
        ("b", "cma", "iter1", {"rgb": [0, 1, 2], "flow": [0, 1, 2]}),
    ):
        about = {"depth": 18, "run": ESC, "dataset": ESC, "dataset_sha256": "0" * 64}
        run_folder = tmp_path / f"{name}<i>"
        write_tested(run_folder, kind, stage, answers, [0, 1, 2], classes=classes, **about)
    runs = [str(path) for path in tmp_path.iterdir()]
    assert run(monkeypatch, "report", *runs, "--out", str(tmp_path / "out")) == 0
    printed = capsys.readouterr()
    assert harmless(printed.out + printed.err)
    page = (tmp_path / "out" / "report.html").read_text()
    assert harmless(page)
    assert not re.search(r"<(b|i|script)>", page)
    assert "=&lt;b&gt;`|[a](b)\\u202e$^{$" in page
    table = (tmp_path / "out" / "table3.md").read_text()
    assert harmless(table)
    assert not re.search(r"(?<!\\)<", table)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
    cells = list(csv.reader(io.StringIO((tmp_path / "out" / "table3.csv").read_text())))
    assert {row[0] for row in cells[1:]} == {"'" + plain(NASTY), plain(classes[1]), "'@up"}
    assert (tmp_path / "out" / "figure4.png").stat().st_size


def test_the_table_of_a_check_is_harmless_in_a_spreadsheet() -> None:
    row = VideoRow("-a", "-a.avi", NASTY, 0, "train", "skipped", "unreadable", ESC)
    (cells,) = csv.DictReader(io.StringIO(videos_csv([row]).decode()))
    assert (cells["key"], cells["class_name"]) == ("'-a", "'" + plain(NASTY))
    assert cells["detail"] == r"\x1b[31m\x9b2J"
    assert cells["label"] == "0"


def test_a_settings_file_that_has_no_end_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))
    for text in (f"a0: &a0 x\n{bomb}\ntrain: *a39", "train: &a [*a]", "train: " + "9" * 5_000):
        (tmp_path / "p.yaml").write_text(text)
        out = ("--out", str(tmp_path / "out"))
        assert run(monkeypatch, "train", "-c", str(tmp_path / "p.yaml"), *out) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"twinstream: {tmp_path / 'p.yaml'}: ")
        assert error.count("\n") == 1
        assert len(error) < 700
