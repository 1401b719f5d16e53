"""Folds beside one another, and how many runs a number stands for."""

from pathlib import Path

import pytest

from tests.support.runs import from_shards, write_tested
from twinstream.train.report.evidence import read_evidence
from twinstream.train.report.figures import sweep_table
from twinstream.train.report.folds import folds_table, overlap_notes, repeats_notes
from twinstream.train.report.tables import gains, iterations_table
from twinstream.train.report.write import report_notes, report_parts, write_report


@pytest.fixture
def folds(tmp_path: Path) -> list[Path]:
    """two_stream on a fold of four videos and one of one; CMA on the first alone."""
    big, small = from_shards("1", "shards/fold1"), from_shards("2", "shards/fold2")
    both = {"rgb": [0, 1, 0, 1], "flow": [0, 1, 2, 1]}
    kinds = (("two_stream", "rgb"), ("cma", "iter1"))
    return [
        *(
            write_tested(tmp_path / kind, kind, stage, both, [0, 1, 2, 0], keys="abcd", **big)
            for kind, stage in kinds
        ),
        write_tested(
            tmp_path / "two2",
            "two_stream",
            "rgb",
            {"rgb": [0], "flow": [1]},
            [0],
            keys="e",
            **small,
        ),
    ]


def test_the_mean_over_folds_and_the_pooled_figure_stand_side_by_side(folds: list[Path]) -> None:
    table = folds_table(read_evidence(folds))
    assert table.columns == ("network", "score", "fold 1", "fold 2", "mean over folds", "pooled")
    assert table.rows == [
        ["baseline", "RGB", 50.0, 100.0, 75.0, pytest.approx(60)],
        ["baseline", "flow", 75.0, 0.0, 37.5, pytest.approx(60)],
        ["baseline", "both 1:1", 50.0, 100.0, 75.0, pytest.approx(60)],
        ["cma iter1", "RGB", 50.0, None, None, None],
        ["cma iter1", "flow", 75.0, None, None, None],
        ["cma iter1", "both 5:1", 50.0, None, None, None],
    ]
    assert f"fold 2 is the 1 videos that {folds[2]} was tested on, of shards/fold2" in table.note


def test_a_missing_fold_is_a_gap_in_every_table_and_says_which(folds: list[Path]) -> None:
    evidence = read_evidence(folds)
    table = iterations_table(evidence)
    assert [row[1] for row in table.rows[:2]] == [75.0, None]
    gap = (
        f"cma iter1 on fold 2 of 2, the 1 videos that {folds[2]} was tested on, of "
        "shards/fold2 [22222222]"
    )
    assert table.gaps[0] == gap
    assert [line for line in table.gaps if line.startswith("twinstream test")] == [
        "twinstream test runs/cma --stage iter2",
        "twinstream test runs/cma --stage iter3",
    ]
    assert gains(evidence) == []
    assert sweep_table(evidence).columns == ("weight of RGB", "two-stream")


def test_nothing_of_an_earlier_report_is_left_beside_a_later_one(
    folds: list[Path], tmp_path: Path
) -> None:
    write_report(read_evidence([folds[0], folds[2]]), tmp_path / "out")
    assert (tmp_path / "out" / "folds.md").exists()
    assert (tmp_path / "out" / "figure3.png").exists()
    only = write_tested(tmp_path / "rgb", "rgb", "rgb", {"rgb": [0]}, [0])
    write_report(read_evidence([only]), tmp_path / "out")
    assert not [*(tmp_path / "out").glob("folds.*"), *(tmp_path / "out").glob("*.png")]


def test_one_set_of_videos_has_no_table_of_folds(folds: list[Path]) -> None:
    assert [part.name for part in report_parts(read_evidence(folds))][:2] == ["folds", "table1"]
    assert "folds" not in [part.name for part in report_parts(read_evidence(folds[:2]))]


@pytest.mark.parametrize(
    ("sets", "notes"),
    [
        (("abcd", "abce"), ["fold 1 and fold 2 share 3 of 4 videos"]),
        (("abcdefgh", "abcx"), ["fold 1 and fold 2 share 3 of 4 videos"]),
        (("abcd", "abxy"), []),
        (("abcd", "wxyz"), []),
        (("ab", "cdef", "cdeg"), ["fold 2 and fold 3 share 3 of 4 videos"]),
    ],
)
def test_folds_that_share_most_of_their_videos_are_told(
    tmp_path: Path, sets: tuple[str, ...], notes: list[str]
) -> None:
    runs = [
        write_tested(tmp_path / keys, "rgb", "rgb", {"rgb": [0] * len(keys)}, [0] * len(keys),
                     keys=keys)
        for keys in sets
    ]  # fmt: skip
    evidence = read_evidence(runs)
    assert overlap_notes(evidence) == notes
    assert report_notes(evidence) == notes
    assert "a video that several folds test counts once for each" in folds_table(evidence).note


def test_the_number_of_runs_is_told_where_it_is_not_one(tmp_path: Path) -> None:
    runs = [
        write_tested(
            tmp_path / f"{kind}{keys}{n}",
            kind,
            stage,
            {"rgb": [n], "flow": [0]},
            [0],
            keys=keys,
        )
        for kind, stage, keys, n in (
            ("two_stream", "rgb", "a", 0),
            ("two_stream", "rgb", "b", 0),
            ("cma", "iter1", "a", 0),
            ("cma", "iter1", "a", 1),
            ("cma", "iter1", "a", 2),
            ("cma", "iter1", "b", 0),
            ("cma", "iter1", "b", 1),
        )
    ]
    assert repeats_notes(read_evidence(runs[:3])) == []
    assert repeats_notes(read_evidence(runs)) == [
        "runs behind a number, whose mean it is: baseline 1; cma iter1 RGB 3/2, flow 1, both 5:1 "
        "3/2"
    ]
