"""What the nodes of a cluster must have alike."""

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from twinstream.errors import InputError
from twinstream.preprocess.cluster.nodes import (
    NodeReport,
    NodeRequirements,
    node_requirements,
    node_task,
    report_here,
    source_digest,
    versions_here,
)

HERE = {"numpy": "2.4.6", "opencv": "5.0.0"}


def test_this_node_can_work_with_itself(tmp_path: Path) -> None:
    with node_requirements(tmp_path, tmp_path / "out") as required:
        required.check(report_here(required.root, required.probe))
        assert all(required.versions.values())
        assert "unknown" not in required.versions.values()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ({"numpy": "2.4.6", "opencv": "4.10.0"}, "opencv is 4.10.0 there and 5.0.0 here"),
        (
            {"numpy": "2.0.0", "opencv": "4.10.0"},
            "numpy is 2.0.0 there and 2.4.6 here, opencv is 4.10.0 there and",
        ),
        ({"numpy": "2.4.6"}, "opencv is None there and 5.0.0 here"),
        (HERE | {"extra": "1"}, "extra is 1 there and None here"),
    ],
)
def test_other_versions_are_named_with_the_node(there: dict[str, str], named: str) -> None:
    with pytest.raises(InputError) as caught:
        NodeRequirements(HERE).check(NodeReport("gpu7", there))
    assert str(caught.value).startswith(f"node gpu7: {named}")
    assert str(caught.value).endswith("every node needs the same versions")


def test_a_node_that_does_not_see_the_disks_is_named() -> None:
    required = NodeRequirements(HERE, "/data/videos", "/data/out/.nodes.1.tmp")
    fit = NodeReport("gpu7", HERE)
    required.check(fit)
    with pytest.raises(
        InputError, match=r"node gpu7: does not see dataset\.root /data/videos; expected a disk"
    ):
        required.check(replace(fit, sees_root=False))
    with pytest.raises(
        InputError, match=r"node gpu7: does not see shards\.path /data/out; expected a disk"
    ):
        required.check(replace(fit, sees_out=False))


def test_a_node_looks_for_what_it_is_asked_and_for_nothing_that_is_no_path(tmp_path: Path) -> None:
    report = report_here(str(tmp_path / "absent"), str(tmp_path))
    assert (report.sees_root, report.sees_out) == (False, True)
    report = report_here(None, None)
    assert (report.sees_root, report.sees_out) == (True, True)
    with node_requirements("s3://bucket/videos", "s3://bucket/out") as required:
        assert required == NodeRequirements(versions_here(), None, None)


def test_a_node_without_twinstream_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twinstream.preprocess.cluster.nodes", None)
    answer = node_task()(None, None)
    with pytest.raises(
        InputError, match=r"node .*: has no twinstream, or another one \(.*cluster\.nodes"
    ):
        NodeRequirements(HERE).check(answer)


def test_the_question_can_be_sent_to_where_twinstream_is_not() -> None:
    from ray import cloudpickle

    sent = cloudpickle.dumps(node_task())
    with pytest.raises(AttributeError):
        pickle.dumps(node_task())
    assert b"report_here" in sent
    assert isinstance(pickle.loads(sent)(None, None), NodeReport)


def test_any_changed_line_of_source_is_another_digest(tmp_path: Path) -> None:
    (tmp_path / "preprocess").mkdir()
    (tmp_path / "preprocess" / "plan.py").write_text("a = 1\n")
    first = source_digest(tmp_path)
    assert source_digest(tmp_path) == first
    (tmp_path / "preprocess" / "plan.py").write_text("a = 2\n")
    second = source_digest(tmp_path)
    assert second != first
    (tmp_path / "preprocess" / "flow.cu").write_text("int a;\n")
    assert source_digest(tmp_path) != second
