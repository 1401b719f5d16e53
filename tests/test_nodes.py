"""What the nodes of a cluster must have alike."""

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from twinstream.errors import InputError
from twinstream.preprocess.nodes import (
    CommonGround,
    NodeReport,
    common_ground,
    look_around,
    node_task,
    num_places,
    source_digest,
    versions_here,
)

HERE = {"numpy": "2.4.6", "opencv": "5.0.0"}


def test_this_node_can_work_with_itself(tmp_path: Path) -> None:
    with common_ground(tmp_path, tmp_path / "out") as ground:
        assert ground is not None
        ground.check(look_around(ground.root, ground.sign))
        assert all(ground.versions.values())
        assert "unknown" not in ground.versions.values()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("there", "told"),
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
def test_other_versions_are_named_with_the_node(there: dict[str, str], told: str) -> None:
    with pytest.raises(InputError) as caught:
        CommonGround(HERE).check(NodeReport("gpu7", there))
    assert str(caught.value).startswith(f"node gpu7: {told}")
    assert str(caught.value).endswith("every node needs the same versions")


def test_a_node_that_does_not_see_the_disks_is_named() -> None:
    ground = CommonGround(HERE, "/data/videos", "/data/out/.nodes.1.tmp")
    fit = NodeReport("gpu7", HERE)
    ground.check(fit)
    with pytest.raises(
        InputError, match=r"node gpu7: does not see dataset\.root /data/videos; expected a disk"
    ):
        ground.check(replace(fit, sees_root=False))
    with pytest.raises(
        InputError, match=r"node gpu7: does not see shards\.path /data/out; expected a disk"
    ):
        ground.check(replace(fit, sees_out=False))


def test_a_node_looks_for_what_it_is_told_and_for_nothing_that_is_no_path(tmp_path: Path) -> None:
    report = look_around(str(tmp_path / "absent"), str(tmp_path))
    assert (report.sees_root, report.sees_out) == (False, True)
    report = look_around(None, None)
    assert (report.sees_root, report.sees_out) == (True, True)
    with common_ground("s3://bucket/videos", "s3://bucket/out") as ground:
        assert ground == CommonGround(versions_here(), None, None)


def test_a_node_without_twinstream_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twinstream.preprocess.nodes", None)
    answer = node_task()(None, None)
    with pytest.raises(
        InputError, match=r"node .*: has no twinstream, or another one \(.*preprocess\.nodes"
    ):
        CommonGround(HERE).check(answer)


def test_the_question_can_be_sent_to_where_twinstream_is_not() -> None:
    from ray import cloudpickle

    sent = cloudpickle.dumps(node_task())
    with pytest.raises(AttributeError):
        pickle.dumps(node_task())
    assert b"look_around" in sent
    assert isinstance(pickle.loads(sent)(None, None), NodeReport)


def test_any_changed_line_of_source_is_another_digest(tmp_path: Path) -> None:
    (tmp_path / "preprocess").mkdir()
    (tmp_path / "preprocess" / "plan.py").write_text("a = 1\n")
    first = source_digest(tmp_path)
    assert source_digest(tmp_path) == first
    (tmp_path / "preprocess" / "plan.py").write_text("a = 2\n")
    assert source_digest(tmp_path) != first


@pytest.mark.parametrize(
    ("resources", "gpu_share", "cores", "places"),
    [
        ({"CPU": 16, "GPU": 1}, 0.25, 1, 4),
        ({"CPU": 16, "GPU": 1}, 0.25, 8, 2),
        ({"CPU": 16, "GPU": 1}, 0.0, 1, 16),
        ({"CPU": 2, "GPU": 8}, 0.5, 1, 2),
        ({"CPU": 4}, 1, 1, 0),
        ({"CPU": 7}, 0.0, 2, 3),
    ],
)
def test_there_are_as_many_workers_as_fit(
    resources: dict[str, float], gpu_share: float, cores: int, places: int
) -> None:
    assert num_places(resources, gpu_share, cores) == places
