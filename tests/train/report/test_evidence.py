"""Runs sorted by what they tell: seeds give a spread, folds a mean, halves a whole."""

from pathlib import Path

import pytest

from tests.support.runs import from_shards, write_tested
from twinstream.train.report.evidence import (
    FLOW_ALONE,
    RGB_ALONE,
    Accuracy,
    read_evidence,
)
from twinstream.train.report.sources import Variant
from twinstream.train.score.metrics import EQUAL

LABELS = [0, 1, 2, 0]
CMA = Variant("cma", 1)
BASELINE = Variant("baseline", 0)


def test_a_number_of_folds_is_the_mean_of_theirs_whatever_their_sizes(tmp_path: Path) -> None:
    one = write_tested(tmp_path / "a", "rgb", "rgb", {"rgb": [0, 1, 0, 1]}, LABELS, keys="abcd")
    other = write_tested(tmp_path / "b", "rgb", "rgb", {"rgb": [0]}, [0], keys="e")
    evidence = read_evidence([one, other])
    assert evidence.accuracy(BASELINE, RGB_ALONE) == Accuracy((2 / 4 + 1) / 2, 1.0, None)
    assert evidence.fold_accuracies(BASELINE, RGB_ALONE) == [2 / 4, 1.0]
    assert evidence.num_videos == 5


def test_folds_may_overlap(tmp_path: Path) -> None:
    runs = [
        write_tested(tmp_path / f"list{n}", "rgb", "rgb", {"rgb": given}, [0, 0], keys=keys)
        for n, (given, keys) in enumerate((([0, 0], "ab"), ([0, 1], "bc"), ([1, 1], "ca")))
    ]
    evidence = read_evidence(runs)
    assert evidence.fold_accuracies(BASELINE, RGB_ALONE) == [1.0, 0.5, 0.0]
    assert evidence.num_videos == 3


def test_seeds_of_a_fold_count_as_one_run_of_it(tmp_path: Path) -> None:
    """Three seeds of one fold and one of the other: 0.5 and 1, not three times the first."""
    runs = [
        write_tested(tmp_path / f"seed{n}", "rgb", "rgb", {"rgb": given}, [0, 0], keys="ab")
        for n, given in enumerate(([0, 0], [0, 1], [1, 1]))
    ]
    runs.append(write_tested(tmp_path / "other", "rgb", "rgb", {"rgb": [0, 0]}, [0, 0], keys="cd"))
    evidence = read_evidence(runs)
    assert evidence.accuracy(BASELINE, RGB_ALONE) == Accuracy(0.75, 1.0, None)
    confusion = evidence.confusion(BASELINE, RGB_ALONE)
    assert confusion is not None
    assert confusion.tolist() == [[3, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_a_variant_that_lacks_a_fold_has_no_number(tmp_path: Path) -> None:
    runs = [
        write_tested(tmp_path / "a", "rgb", "rgb", {"rgb": [0]}, [0], keys="a"),
        write_tested(tmp_path / "b", "rgb", "rgb", {"rgb": [0]}, [0], keys="b"),
        write_tested(tmp_path / "c", "cma", "iter1", {"rgb": [0]}, [0], keys="a"),
    ]
    evidence = read_evidence(runs)
    assert evidence.accuracy(BASELINE, RGB_ALONE) == Accuracy(1.0, 1.0, None)
    assert evidence.accuracy(CMA, RGB_ALONE) is None
    assert evidence.confusion(CMA, RGB_ALONE) is None
    assert evidence.fold_accuracies(CMA, RGB_ALONE) == [1.0, None]
    assert evidence.missing_folds(CMA) == [1]


def test_the_same_videos_in_another_order_are_the_same_videos(tmp_path: Path) -> None:
    rgb = write_tested(tmp_path / "a", "rgb", "rgb", {"rgb": [0, 1, 2]}, [0, 1, 2], keys="abc")
    flow = write_tested(tmp_path / "b", "flow", "flow", {"flow": [2, 1, 0]}, [2, 1, 0], keys="cba")
    evidence = read_evidence([rgb, flow])
    assert len(evidence.folds) == 1
    assert evidence.accuracy(BASELINE, EQUAL) == Accuracy(1.0, 1.0, None)


def test_runs_on_the_same_videos_have_a_mean_and_a_spread(tmp_path: Path) -> None:
    runs = [
        write_tested(tmp_path / f"seed{n}", "cma", "iter1", {"rgb": given}, LABELS)
        for n, given in enumerate(([0, 1, 2, 0], [0, 1, 2, 1], [0, 1, 1, 1]))
    ]
    accuracy = read_evidence(runs).accuracy(CMA, RGB_ALONE)
    assert accuracy is not None
    assert accuracy.top1 == pytest.approx(0.75)
    assert accuracy.spread == pytest.approx(0.25)


def test_seeds_that_are_equally_good_keep_their_spread_of_zero(tmp_path: Path) -> None:
    runs = [
        write_tested(tmp_path / f"seed{n}", "cma", "iter1", {"rgb": given}, LABELS)
        for n, given in enumerate(([0, 1, 2, 1], [0, 1, 1, 0]))
    ]
    assert read_evidence(runs).accuracy(CMA, RGB_ALONE) == Accuracy(0.75, 1.0, 0.0)


def test_seeds_on_one_frozen_branch_give_it_no_spread(tmp_path: Path) -> None:
    runs = [
        write_tested(
            tmp_path / f"seed{n}", "cma", "iter1", {"rgb": given, "flow": [0, 1, 2, 1]}, LABELS
        )
        for n, given in enumerate(([0, 1, 2, 1], [0, 1, 1, 1]))
    ]
    evidence = read_evidence(runs)
    assert evidence.accuracy(CMA, FLOW_ALONE) == Accuracy(0.75, 1.0, None)
    rgb = evidence.accuracy(CMA, RGB_ALONE)
    assert rgb is not None
    assert rgb.spread == pytest.approx(0.25 / 2**0.5)


def test_one_frozen_branch_that_rounds_otherwise_has_no_spread(tmp_path: Path) -> None:
    """Two seeds of RGB on one flow branch, tested with other batches: its weights are the same."""
    runs = [
        write_tested(
            tmp_path / f"seed{n}",
            "cma",
            "iter1",
            {"rgb": LABELS, "flow": [0, 1, 2, 1]},
            LABELS,
            off=n / 100,
            weights_sha256={"rgb": str(n), "flow": "same"},
        )
        for n in range(2)
    ]
    evidence = read_evidence(runs)
    assert evidence.accuracy(CMA, FLOW_ALONE) == Accuracy(0.75, 1.0, None)
    assert evidence.accuracy(CMA, RGB_ALONE) == Accuracy(1.0, 1.0, 0.0)
    assert evidence.accuracy(CMA, EQUAL) == Accuracy(1.0, 1.0, 0.0)


def test_halves_keep_what_is_known_of_their_weights(tmp_path: Path) -> None:
    """Equal answers of two flow networks on either RGB: the flow of each half is its own."""
    rgb, flow = (
        [
            write_tested(
                tmp_path / f"{name}{n}", name, name, {name: LABELS}, LABELS,
                weights_sha256={"rgb": f"rgb{n}", "flow": f"flow{n if name == 'flow' else ''}"},
            )
            for n in range(2)
        ]
        for name in ("rgb", "flow")
    )  # fmt: skip
    evidence = read_evidence([*rgb, *flow])
    assert evidence.accuracy(BASELINE, FLOW_ALONE) == Accuracy(1.0, 1.0, 0.0)
    assert evidence.accuracy(BASELINE, EQUAL) == Accuracy(1.0, 1.0, 0.0)


def test_an_rgb_run_and_a_flow_run_are_a_two_stream(tmp_path: Path) -> None:
    rgb = write_tested(tmp_path / "rgb", "rgb", "rgb", {"rgb": [0, 1, 0, 1]}, LABELS)
    flow = write_tested(tmp_path / "flow", "flow", "flow", {"flow": [0, 2, 2, 0]}, LABELS)
    evidence = read_evidence([rgb, flow])
    assert len(evidence.variants[BASELINE]) == 1
    # Where the branches differ both classes have 1, and the lower one is taken.
    assert evidence.accuracy(BASELINE, EQUAL) == Accuracy(1.0 * 3 / 4, 1.0, None)
    assert evidence.accuracy(BASELINE, (1, 5)) == evidence.accuracy(BASELINE, FLOW_ALONE)


def test_seeds_of_rgb_and_of_flow_are_as_many_two_streams(tmp_path: Path) -> None:
    rgb = [
        write_tested(tmp_path / f"rgb{n}", "rgb", "rgb", {"rgb": given}, LABELS)
        for n, given in enumerate(([0, 1, 0, 1], [0, 1, 1, 1]))
    ]
    flow = [
        write_tested(tmp_path / f"flow{n}", "flow", "flow", {"flow": given}, LABELS)
        for n, given in enumerate(([0, 2, 2, 0], [0, 2, 2, 1]))
    ]
    evidence = read_evidence([*rgb, *flow])
    assert [set(each.scores) for each in evidence.variants[BASELINE]] == [{"rgb", "flow"}] * 2


def test_an_rgb_run_and_a_flow_run_from_other_shards_are_not(tmp_path: Path) -> None:
    rgb = write_tested(tmp_path / "rgb", "rgb", "rgb", {"rgb": [0]}, [0], **from_shards("x"))
    flow = write_tested(tmp_path / "flow", "flow", "flow", {"flow": [0]}, [0], **from_shards("y"))
    assert read_evidence([rgb, flow]).accuracy(BASELINE, EQUAL) is None
    # A file that does not say what it was scored from is taken as one of the same.
    old = write_tested(tmp_path / "old", "flow", "flow", {"flow": [0]}, [0])
    assert read_evidence([rgb, old]).accuracy(BASELINE, EQUAL) is not None


def test_an_rgb_run_and_a_flow_run_on_other_videos_are_not(tmp_path: Path) -> None:
    rgb = write_tested(tmp_path / "rgb", "rgb", "rgb", {"rgb": [0]}, [0], keys=["a"])
    flow = write_tested(tmp_path / "flow", "flow", "flow", {"flow": [0]}, [0], keys=["b"])
    evidence = read_evidence([rgb, flow])
    assert len(evidence.variants[BASELINE]) == 2
    assert evidence.accuracy(BASELINE, EQUAL) is None


def test_what_a_branch_was_not_scored_for_is_not_there(tmp_path: Path) -> None:
    evidence = read_evidence(
        [write_tested(tmp_path / "flow", "flow", "flow", {"flow": [0, 2, 2, 0]}, LABELS)]
    )
    assert evidence.accuracy(BASELINE, RGB_ALONE) is None
    assert evidence.accuracy(BASELINE, EQUAL) is None
    assert evidence.accuracy(CMA, RGB_ALONE) is None
    assert evidence.confusion(BASELINE, RGB_ALONE) is None


def test_every_stage_of_a_run_is_read(tmp_path: Path) -> None:
    run = write_tested(tmp_path / "cma", "cma", "iter3", {"rgb": [0, 1, 2, 0]}, LABELS)
    write_tested(run, "cma", "iter1", {"rgb": [0, 1, 2, 1]}, LABELS, suffix="-iter1")
    assert {variant: len(each) for variant, each in read_evidence([run]).variants.items()} == {
        CMA: 1,
        Variant("cma", 3): 1,
    }
