"""Runs sorted by what they tell: folds are pooled, seeds give a spread, and what does not compare
is refused.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import write_tested
from twinstream.errors import InputError
from twinstream.train.report.evidence import (
    FLOW_ALONE,
    RGB_ALONE,
    Accuracy,
    read_evidence,
    variant_of,
)
from twinstream.train.score.metrics import EQUAL

LABELS = [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("kind", "stage", "variant"),
    [
        ("two_stream", "rgb", ("baseline", 0)),
        ("rgb", "rgb", ("baseline", 0)),
        ("cma", "flow", ("baseline", 0)),
        ("nonlocal", "rgb", ("nonlocal", 0)),
        ("cma", "iter1", ("cma", 1)),
        ("cma", "iter12", ("cma", 12)),
        ("cma_nonlocal", "iter1", ("cma_nonlocal", 1)),
    ],
)
def test_a_stage_is_evidence_of_a_network_and_an_iteration(
    kind: str, stage: str, variant: tuple[str, int]
) -> None:
    assert variant_of(kind, stage) == variant


def test_runs_on_other_videos_are_pooled(tmp_path: Path) -> None:
    one = write_tested(
        tmp_path / "a",
        "two_stream",
        "rgb",
        {"rgb": [0, 1, 0, 1]},
        LABELS,
        keys=["a", "b", "c", "d"],
    )
    other = write_tested(tmp_path / "b", "two_stream", "rgb", {"rgb": [0]}, [0], keys=["e"])
    evidence = read_evidence([one, other])
    assert evidence.accuracy(("baseline", 0), RGB_ALONE) == Accuracy(3 / 5, 1.0, None)
    assert evidence.num_videos == 5


def test_runs_on_the_same_videos_have_a_mean_and_a_spread(tmp_path: Path) -> None:
    runs = [
        write_tested(tmp_path / f"seed{n}", "cma", "iter1", {"rgb": given}, LABELS)
        for n, given in enumerate(([0, 1, 2, 0], [0, 1, 2, 1], [0, 1, 1, 1]))
    ]
    accuracy = read_evidence(runs).accuracy(("cma", 1), RGB_ALONE)
    assert accuracy is not None
    assert accuracy.top1 == pytest.approx(0.75)
    assert accuracy.spread == pytest.approx(0.25)


def test_an_rgb_run_and_a_flow_run_are_a_two_stream(tmp_path: Path) -> None:
    rgb = write_tested(tmp_path / "rgb", "rgb", "rgb", {"rgb": [0, 1, 0, 1]}, LABELS)
    flow = write_tested(tmp_path / "flow", "flow", "flow", {"flow": [0, 2, 2, 0]}, LABELS)
    evidence = read_evidence([rgb, flow])
    assert len(evidence.variants[("baseline", 0)]) == 1
    # Where the branches differ both classes have 1, and the lower one is taken.
    assert evidence.accuracy(("baseline", 0), EQUAL) == Accuracy(1.0 * 3 / 4, 1.0, None)
    assert evidence.accuracy(("baseline", 0), (1, 5)) == evidence.accuracy(
        ("baseline", 0), FLOW_ALONE
    )


def test_an_rgb_run_and_a_flow_run_on_other_videos_are_not(tmp_path: Path) -> None:
    rgb = write_tested(tmp_path / "rgb", "rgb", "rgb", {"rgb": [0]}, [0], keys=["a"])
    flow = write_tested(tmp_path / "flow", "flow", "flow", {"flow": [0]}, [0], keys=["b"])
    evidence = read_evidence([rgb, flow])
    assert len(evidence.variants[("baseline", 0)]) == 2
    assert evidence.accuracy(("baseline", 0), EQUAL) is None


def test_what_a_branch_was_not_scored_for_is_not_there(tmp_path: Path) -> None:
    evidence = read_evidence(
        [write_tested(tmp_path / "flow", "flow", "flow", {"flow": [0, 2, 2, 0]}, LABELS)]
    )
    assert evidence.accuracy(("baseline", 0), RGB_ALONE) is None
    assert evidence.accuracy(("baseline", 0), EQUAL) is None
    assert evidence.accuracy(("cma", 1), RGB_ALONE) is None
    assert evidence.pooled(("baseline", 0), RGB_ALONE) is None


def test_every_stage_of_a_run_is_read(tmp_path: Path) -> None:
    run = write_tested(tmp_path / "cma", "cma", "iter3", {"rgb": [0, 1, 2, 0]}, LABELS)
    write_tested(run, "cma", "iter1", {"rgb": [0, 1, 2, 1]}, LABELS, suffix="-iter1")
    assert {variant: len(each) for variant, each in read_evidence([run]).variants.items()} == {
        ("cma", 1): 1,
        ("cma", 3): 1,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"classes": ["a", "b", "c"]},
            r"3 classes \(a, b, c \.\.\.\), .* has 3 classes \(left, right, up",
        ),
        ({"split": "test"}, "split test, .* has split val"),
        ({"crops": 1}, "crops 1, .* has crops 10"),
        ({"depth": 18}, "depth 18, .* has depth 50"),
    ],
)
def test_runs_that_do_not_compare_are_refused(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    runs = [
        write_tested(tmp_path / "a", "cma", "iter1", {"rgb": [0]}, [0]),
        write_tested(tmp_path / "b", "cma", "iter1", {"rgb": [0]}, [0], **changed),
    ]
    with pytest.raises(InputError, match=message):
        read_evidence(runs)


def test_a_run_that_was_not_tested_is_told_how(tmp_path: Path) -> None:
    run = write_tested(tmp_path / "a", "cma", "iter1", {"rgb": [0]}, [0])
    (run / "predictions.parquet").unlink()
    with pytest.raises(InputError, match=f"{run}: not tested yet; `twinstream test {run}`"):
        read_evidence([run])
    with pytest.raises(InputError, match="not the folder of a run"):
        read_evidence([tmp_path])


def test_pooled_scores_and_labels_stand_one_after_another(tmp_path: Path) -> None:
    runs = [
        write_tested(tmp_path / "a", "cma", "iter1", {"rgb": [0, 1]}, [0, 0], keys=["a", "b"]),
        write_tested(tmp_path / "b", "cma", "iter1", {"rgb": [2]}, [2], keys=["c"]),
    ]
    pooled = read_evidence(runs).pooled(("cma", 1), RGB_ALONE)
    assert pooled is not None
    assert np.argmax(pooled[0], axis=1).tolist() == [0, 1, 2]
    assert pooled[1].tolist() == [0, 0, 2]
