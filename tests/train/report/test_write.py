"""The report: figures counted by hand, gaps that say what fills them, and a page that needs nothing
else.
"""

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.support.command import run
from tests.support.datasets import write_dataset
from tests.support.runs import from_shards, write_run, write_tested
from twinstream.errors import InputError
from twinstream.shards.storage.lock import owned
from twinstream.train.report import paper
from twinstream.train.report.evidence import Evidence, read_evidence
from twinstream.train.report.figures import (
    as_svg,
    gains_figure,
    gains_table,
    sweep_figure,
    sweep_table,
)
from twinstream.train.report.page import summary
from twinstream.train.report.sources import Variant
from twinstream.train.report.tables import (
    ITERATIONS,
    Table,
    categories_table,
    gains,
    iterations_table,
    non_local_table,
    parameters_table,
    transfer_table,
    weights_of,
)
from twinstream.train.report.write import as_csv, as_markdown, report_parts, write_report
from twinstream.train.run_folder import read_run_settings
from twinstream.train.score.evaluate import score_run

LABELS = [0, 0, 1, 1, 2, 2]
RIGHT = LABELS
HALF = [0, 1, 1, 2, 2, 0]
NEVER = [1, 1, 2, 2, 0, 0]
KINETICS = [f"class <{n}> & co" for n in range(400)]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Baseline, non-local and two of CMA's iterations; iter3 and CMA behind non-local blocks are
    missing.
    """
    cma = write_tested(tmp_path / "cma", "cma", "iter2", {"rgb": HALF, "flow": RIGHT}, LABELS)
    write_tested(cma, "cma", "iter1", {"rgb": RIGHT, "flow": NEVER}, LABELS, suffix="-iter1")
    return [
        write_tested(
            tmp_path / "two_stream", "two_stream", "rgb", {"rgb": HALF, "flow": NEVER}, LABELS
        ),
        write_tested(
            tmp_path / "nonlocal", "nonlocal", "rgb", {"rgb": RIGHT, "flow": HALF}, LABELS
        ),
        cma,
    ]


def test_the_branch_trained_last_weighs_five_times() -> None:
    assert [weights_of(variant, "S") for variant in ITERATIONS] == [(1, 1), (5, 1), (1, 5), (5, 1)]
    assert weights_of(Variant("cma", 1), "R") == (1, 0)
    assert weights_of(Variant("cma", 2), "F") == (0, 1)


def test_accuracies_at_each_iteration(runs: list[Path]) -> None:
    table = iterations_table(read_evidence(runs))
    assert [row[0] for row in table.rows] == ["0", "1", "2", "3"]
    # RGB top-1, flow top-1, both top-1; where equal weights tie, the lower class counts.
    assert [(row[1], row[3], row[5]) for row in table.rows] == [
        (50.0, 0.0, pytest.approx(100 * 2 / 6)),
        (100.0, 0.0, 100.0),
        (50.0, 100.0, 100.0),
        (None, None, None),
    ]
    assert [command for command in table.gaps if "test" in command] == [
        "twinstream test runs/cma --stage iter3"
    ]


def test_parameters_are_those_counted(runs: list[Path]) -> None:
    rows = parameters_table(read_evidence(runs)).rows
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("ResNet50-R", "1.00×", "1.00×"),
        ("two-stream", "2.00×", "2.00×"),
        ("CMA iter1-R", "1.68×", "2.63×"),
        ("CMA iter1-S", "2.31×", "2.63×"),
    ]


def test_another_family_is_named_counted_and_not_set_beside_the_paper(tmp_path: Path) -> None:
    about = {
        "family": "efficientnet_lite0",
        "attention_at": ["layer2.1", "layer3.2", "layer3.5"],
        **{"classes": [f"class{n}" for n in range(101)], "dataset_kind": "ucf101"},
    }
    runs = [
        write_tested(tmp_path / kind, kind, stage, {"rgb": RIGHT, "flow": HALF}, LABELS, **about)
        for kind, stage in (("two_stream", "rgb"), ("cma", "iter1"))
    ]
    evidence = read_evidence(runs)
    assert [(row[0], row[1], row[2]) for row in parameters_table(evidence).rows] == [
        ("EfficientNet-Lite0-R", "1.00×", "1.00×"),
        ("two-stream", "2.00×", "2.00×"),
        ("CMA iter1-R", "1.21×", "2.02×"),
        ("CMA iter1-S", "2.01×", "2.02×"),
    ]
    assert "paper" not in transfer_table(evidence).columns
    assert summary(evidence).startswith("EfficientNet-Lite0 on 6 videos")


def test_the_comparison_with_non_local_blocks_leaves_a_gap_that_says_what_fills_it(
    runs: list[Path],
) -> None:
    table = non_local_table(read_evidence(runs))
    assert [(row[0], row[1], row[2], row[3]) for row in table.rows[3:6]] == [
        ("ResNet50", "yes", "RGB", 100.0),
        ("ResNet50", "yes", "flow", 50.0),
        ("ResNet50", "yes", "RGB + flow", pytest.approx(100 * 5 / 6)),
    ]
    assert table.rows[-1] == ["CMA iter1-S", "yes", "RGB + flow", None, None]
    assert table.gaps == [
        "twinstream train -c pipeline.yaml --set model.kind=cma_nonlocal --set "
        "train.stages=[iter1] "
        "--set model.flow_weights=runs/two_stream/flow.safetensors --out runs/cma_nonlocal",
        "twinstream test runs/cma_nonlocal --stage iter1",
    ]


def test_the_largest_gain_comes_first_with_what_it_was_taken_for(tmp_path: Path) -> None:
    labels = [0, 0, 0, 1, 1, 2]
    before = write_tested(
        tmp_path / "a",
        "two_stream",
        "rgb",
        {"rgb": [2, 2, 1, 1, 0, 2], "flow": [2, 2, 1, 1, 0, 2]},
        labels,
    )
    after = write_tested(
        tmp_path / "b", "cma", "iter1", {"rgb": [0, 0, 2, 1, 1, 0], "flow": labels}, labels
    )
    evidence = read_evidence([before, after])
    assert [(gain.category, gain.confused_with) for gain in gains(evidence)] == [
        ("left", "up"),
        ("right", "left"),
        ("up", None),
    ]
    first = categories_table(evidence).rows[0]
    assert first == ["left", "up", 0.0, pytest.approx(200 / 3), pytest.approx(200 / 3)]


def test_a_gain_is_over_both_branches_and_a_category_has_its_own_bars(tmp_path: Path) -> None:
    """Of equal scores the lower class counts, so that both together are not what RGB is. Nothing
    tests category up.
    """
    labels = [0, 0, 1, 1]
    before = write_tested(
        tmp_path / "a", "two_stream", "rgb", {"rgb": [1, 1, 1, 0], "flow": [0, 0, 0, 0]}, labels
    )
    after = write_tested(
        tmp_path / "b", "cma", "iter1", {"rgb": [0, 1, 1, 1], "flow": [1, 1, 0, 0]}, labels
    )
    evidence = read_evidence([before, after])
    assert [(gain.category, gain.two_stream, gain.cma) for gain in gains(evidence)] == [
        ("right", 0.0, 1.0),
        ("left", 1.0, 0.5),
    ]
    table = gains_table(evidence)
    assert table.columns == ("category", "RGB", "two-stream", "CMA iter1-R")
    assert table.rows == [["right", 50.0, 0.0, 100.0], ["left", 0.0, 100.0, 50.0]]


def test_ten_categories_are_told_and_twenty_drawn(tmp_path: Path) -> None:
    labels, classes = list(range(30)), [f"class {n}" for n in range(30)]
    runs = [
        write_tested(
            tmp_path / kind, kind, stage, {"rgb": labels, "flow": labels}, labels, classes=classes
        )
        for kind, stage in (("two_stream", "rgb"), ("cma", "iter1"))
    ]
    evidence = read_evidence(runs)
    assert (len(categories_table(evidence).rows), len(gains_table(evidence).rows)) == (10, 20)


def test_the_sweep_has_the_networks_that_are_there(runs: list[Path]) -> None:
    assert sweep_table(read_evidence(runs[2:])).columns == (
        "weight of RGB",
        "CMA iter1",
        "CMA iter2",
    )


@pytest.mark.parametrize(
    ("make", "draw"), [(sweep_table, sweep_figure), (gains_table, gains_figure)]
)
def test_every_column_of_a_figure_is_drawn(
    make: Callable[[Evidence], Table],
    draw: Callable[[Table], Figure],
    runs: list[Path],
) -> None:
    table, pictures = make(read_evidence(runs)), set()
    for column in range(len(table.columns)):
        # 0 is the axis; each other one in turn is changed.
        rows = [
            [7.0 if place == column > 0 else cell for place, cell in enumerate(row)]
            for row in table.rows
        ]
        pictures.add(as_svg(draw(replace(table, rows=rows)), "figure", ""))
    assert len(pictures) == len(table.columns) > 3


def test_one_branch_alone_leaves_a_gap_and_a_missing_network_all_its_commands(
    tmp_path: Path,
) -> None:
    only = write_tested(tmp_path / "rgb", "rgb", "rgb", {"rgb": RIGHT}, LABELS)
    assert iterations_table(read_evidence([only])).gaps == [
        "twinstream train -c pipeline.yaml --set model.kind=two_stream --set "
        "train.stages=[flow,rgb] "
        "--out runs/two_stream",
        "twinstream test runs/two_stream",
        "twinstream train -c pipeline.yaml --set model.kind=cma --set "
        "train.stages=[iter1,iter2,iter3] "
        "--set model.flow_weights=runs/two_stream/flow.safetensors --out runs/cma",
        *(f"twinstream test runs/cma --stage iter{n}" for n in (1, 2, 3)),
    ]


def test_the_papers_numbers_stand_beside_ours_only_on_its_dataset(
    tmp_path: Path, runs: list[Path]
) -> None:
    assert "paper" not in "".join(as_markdown(table) for table in report_parts(read_evidence(runs)))
    ours = write_tested(
        tmp_path / "k",
        "two_stream",
        "rgb",
        {"rgb": [0], "flow": [0]},
        [0],
        classes=KINETICS,
        dataset_kind="kinetics",
    )
    evidence = read_evidence([ours])
    assert iterations_table(evidence).rows[1] == [
        "0, paper",
        67.73,
        87.94,
        55.73,
        79.04,
        71.21,
        89.92,
    ]
    assert non_local_table(evidence).rows[-1][-2:] == [72.60, 91.01]
    assert ["CMA iter1-R, paper", "1.8×", "", 72.17, 90.70] in parameters_table(evidence).rows
    shallow = write_tested(
        tmp_path / "s",
        "rgb",
        "rgb",
        {"rgb": [0]},
        [0],
        classes=KINETICS,
        dataset_kind="kinetics",
        depth=18,
    )
    assert len(iterations_table(read_evidence([shallow])).rows) == 4
    few = write_tested(tmp_path / "f", "rgb", "rgb", {"rgb": [0]}, [0], dataset_kind="kinetics")
    assert len(iterations_table(read_evidence([few])).rows) == 4


def test_the_papers_tables_agree_with_one_another() -> None:
    for variant in ITERATIONS:
        assert list(paper.ACCURACIES[variant[:2]]) == ["R", "F", "S"]
    assert paper.ACCURACIES["cma", 1]["F"] == paper.ACCURACIES["baseline", 0]["F"]
    assert len(paper.CONFUSIONS) == 10
    # iter1 leaves the flow branch as it is.
    assert all(
        paper.CLIPS["cma", 1, n]["F"] == paper.CLIPS["baseline", 0, n]["F"] for n in (12, 16)
    )


def test_markdown_and_csv_hold_the_same_cells() -> None:
    table = Table(
        "table9", "Table 9", ("a", "b"), [["x, y", 12.3456], ["z", None]], "A note.", ["do this"]
    )
    assert as_markdown(table) == (
        "## Table 9\n\n| a | b |\n|---|---|\n| x, y | 12.35 |\n| z | – |\n\nA note.\n\n"
        "Missing; to fill it:\n\n    do this\n"
    )
    assert list(csv.reader(as_csv(table).splitlines())) == [
        ["a", "b"],
        ["x, y", "12.3456"],
        ["z", ""],
    ]


class Page(HTMLParser):
    """Tags still open, and everything a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_no_other_file_and_closes_what_it_opens(tmp_path: Path) -> None:
    labels = list(range(30))
    both = {"rgb": labels, "flow": labels}
    runs = [
        write_tested(
            tmp_path / kind, kind, stage, both, labels, classes=KINETICS, dataset_kind="kinetics"
        )
        for kind, stage in (("two_stream", "rgb"), ("cma", "iter1"))
    ]
    write_report(read_evidence(runs), tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.sources == []
    assert text.count('<svg role="img" aria-label="Figure ') == 2
    # Names of namespaces are no addresses that a browser asks.
    assert not re.search(r"https?://(?!www.w3.org/)|<script|@import", text)
    assert "class &lt;0&gt; &amp; co" in text
    assert "class <0>" not in text


def test_a_report_has_a_file_for_each_table_and_figure(
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "report"
    assert run(monkeypatch, "report", *map(str, runs), "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}/report.html\n"
    assert f"table1 lacks: twinstream test {runs[0].parent}/cma --stage iter3" in printed.err
    tables = {f"table{n}.{suffix}" for n in range(1, 5) for suffix in ("md", "csv")}
    figures = {f"figure{n}.{suffix}" for n in (3, 4) for suffix in ("png", "csv")}
    assert {path.name for path in out.iterdir()} == {*tables, *figures, "report.html"}
    sweep = list(csv.DictReader((out / "figure3.csv").read_text().splitlines()))
    assert (sweep[0]["weight of RGB"], sweep[-1]["weight of RGB"]) == ("0.000", "1.000")
    assert float(sweep[0]["CMA iter2"]) == 100.0
    assert float(sweep[-1]["CMA iter2"]) == 50.0


def test_one_run_alone_makes_a_report_with_gaps(tmp_path: Path) -> None:
    only = write_tested(tmp_path / "flow", "flow", "flow", {"flow": RIGHT}, LABELS)
    tables = write_report(read_evidence([only]), tmp_path / "out")
    assert all(table.gaps for table in tables)
    assert not list((tmp_path / "out").glob("*.png"))
    assert "To fill it:" in (tmp_path / "out" / "report.html").read_text()


def test_commands_that_fill_gaps_name_a_run_in_a_folder_that_is_called_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = write_dataset(tmp_path / "shards", {"train": 2, "test": 2})
    baseline = Path("runs/one/two_stream")
    write_run(baseline, dataset, "two_stream", ("flow", "rgb"))
    score_run(baseline, read_run_settings(baseline).test)
    tables = write_report(read_evidence([baseline]), tmp_path / "out")
    gaps = [command for table in tables for command in table.gaps]
    assert any("-c runs/one/two_stream/settings.yaml" in command for command in gaps)
    assert any("=runs/one/two_stream/flow.safetensors" in command for command in gaps)
    assert not any("one/one" in command for command in gaps)


def test_two_reports_into_one_folder_do_not_clear_away_what_the_other_writes(
    runs: list[Path], tmp_path: Path
) -> None:
    with (
        owned(tmp_path / "report", "twinstream report"),
        pytest.raises(InputError, match=r"report: in use by process .*; wait for it or choose"),
    ):
        write_report(read_evidence(runs), tmp_path / "report")
    write_report(read_evidence(runs), tmp_path / "report")
    assert not [*(tmp_path / "report").glob(".*")]


def test_a_run_that_is_none_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run(monkeypatch, "report", str(tmp_path / "empty"), "--out", str(tmp_path / "out")) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_a_reader_must_know_is_on_the_page_with_every_table_and_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {**from_shards("1"), "trained_on": 2}
    known = write_tested(tmp_path / "run", "rgb", "rgb", {"rgb": RIGHT}, LABELS, **about)
    early = write_tested(
        tmp_path / "early",
        "cma",
        "iter1",
        {"rgb": RIGHT},
        LABELS,
        finished=False,
        progress="step 6",
    )
    notes = [
        f"{early}: iter1 was tested at step 6; left out, --unfinished takes it",
        f"2 of 6 tested videos were trained on: {known} rgb",
    ]
    out = tmp_path / "out"
    assert run(monkeypatch, "report", str(known), str(early), "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}/report.html\n"
    assert printed.err.splitlines()[:2] == notes
    page = (out / "report.html").read_text()
    assert "on 6 videos of split val of shards/1 [11111111], 3 classes" in page
    for text in (page, *(path.read_text() for path in out.glob("*.md"))):
        assert all(note in text for note in notes)
    assert (
        run(monkeypatch, "report", str(known), str(early), "--out", str(out), "--unfinished") == 0
    )
    assert "its numbers are in, as --unfinished asks" in (out / "table1.md").read_text()


def test_only_unfinished_stages_are_one_line_and_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    early = write_tested(tmp_path / "a", "rgb", "rgb", {"rgb": RIGHT}, LABELS, finished=False)
    assert run(monkeypatch, "report", str(early), "--out", str(tmp_path / "out")) == 1
    assert capsys.readouterr().err.endswith(
        f"twinstream: no finished stage for a report: {early}: rgb was tested before its end; "
        "train on and test again, or give --unfinished\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_paper_has_table_6_beside_the_mean_of_three_splits(tmp_path: Path) -> None:
    classes = [f"class{n}" for n in range(101)]
    about = {"classes": classes, "trainable": "fc", "dataset_kind": "ucf101"}
    right = [([0, 0], [0, 0]), ([0, 1], [0, 0]), ([0, 1], [1, 0])]
    runs = []
    for fold, (rgb, flow) in enumerate(right):
        of_fold = about | {"keys": [f"{fold}a", f"{fold}b"], "split": f"testlist0{fold + 1}.txt"}
        of_fold |= {"list_sha256": f"{fold}" * 64}
        for kind, stage in (("two_stream", "rgb"), ("cma", "iter1")):
            path = tmp_path / f"{kind}{fold}"
            answers = {"rgb": rgb, "flow": flow}
            runs.append(write_tested(path, kind, stage, answers, [0, 0], **of_fold))
    evidence = read_evidence(runs)
    table = transfer_table(evidence)
    assert table.columns == ("model", "mean of 3 splits", "paper")
    assert [(row[0], pytest.approx(row[1]), row[2]) for row in table.rows][:2] == [
        ("ResNet50-R", 100 * (1 + 0.5 + 0.5) / 3, 90.9),
        ("ResNet50-F", 100 * (1 + 1 + 0.5) / 3, 92.4),
    ]
    assert [row[0] for row in table.rows[2:]] == ["ResNet50-S", "CMA iter1-R", "CMA iter1-S"]
    assert "table6" in [part.name for part in report_parts(evidence)]
    assert not table.gaps
    train, test = transfer_table(read_evidence(runs[::2])).gaps
    assert (
        "model.weights=runs/cma --set train.stages=[flow,iter1] --set train.trainable=fc" in train
    )
    assert "--set train.trainable=fc " in train
    assert test == "twinstream test runs/transfer/cma"


def test_runs_of_which_all_layers_were_trained_have_no_table_6(runs: list[Path]) -> None:
    assert "table6" not in [part.name for part in report_parts(read_evidence(runs))]
