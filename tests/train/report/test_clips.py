"""Table 5: clips of several lengths in one report, the paper's numbers on its dataset, and gaps."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.command import run
from tests.support.runs import write_tested
from twinstream.errors import InputError
from twinstream.train.report.clips import clips_table
from twinstream.train.report.evidence import read_evidence
from twinstream.train.report.write import report_parts, write_report

LABELS = [0, 0, 1, 1, 2, 2]
RIGHT = LABELS
HALF = [0, 1, 1, 2, 2, 0]
NEVER = [1, 1, 2, 2, 0, 0]


def p3d(frames: int, **more: Any) -> dict[str, Any]:
    """What predictions say of a network that sees clips."""
    return {"family": "p3d", "clip_length": frames, "clip_stride": 1, "depth": 152} | more


def test_table_5_has_a_row_for_each_network_and_length_of_clips(tmp_path: Path) -> None:
    runs = [
        write_tested(
            tmp_path / "p12", "two_stream", "rgb", {"rgb": HALF, "flow": NEVER}, LABELS, **p3d(12)
        ),
        write_tested(
            tmp_path / "p16", "two_stream", "rgb", {"rgb": RIGHT, "flow": HALF}, LABELS, **p3d(16)
        ),
        write_tested(
            tmp_path / "c16", "cma", "iter1", {"rgb": NEVER, "flow": HALF}, LABELS, **p3d(16)
        ),
        write_tested(tmp_path / "n16", "nonlocal", "rgb", {"rgb": HALF}, LABELS, **p3d(16)),
    ]
    evidence = read_evidence(runs)
    (table,) = report_parts(evidence)
    assert table.columns == ("network", "RGB", "flow", "two-stream")
    assert [row[0] for row in table.rows] == [
        *("P3D 12", "P3D 16", "CMA iter1 12", "CMA iter1 16", "nonlocal 16")
    ]
    assert [row[1:3] for row in table.rows] == [
        [50.0, 0.0],
        [100.0, 50.0],
        [None, None],
        [0.0, 50.0],
        [50.0, None],
    ]
    # 1:1, where the first of two equal scores counts, and 5:1.
    assert (table.rows[1][3], table.rows[3][3]) == (pytest.approx(100 * 5 / 6), 0.0)
    assert table.gaps == [
        "twinstream train -c pipeline.yaml --set model.family=p3d --set model.depth=152 --set "
        "model.clip_length=12 --set model.kind=cma --set train.stages=[iter1] --set "
        "train.trainable=behind_attention --set model.rgb_weights=runs/p3d_12/rgb.safetensors "
        "--set model.flow_weights=runs/p3d_12/flow.safetensors --out runs/p3d_12_cma",
        "twinstream test runs/p3d_12_cma",
    ]


def test_the_papers_clips_stand_below_ours_only_on_its_dataset_and_depth(tmp_path: Path) -> None:
    def first(name: str, **more: Any) -> list[list[Any]]:
        only = write_tested(tmp_path / name, "rgb", "rgb", {"rgb": [0]}, [0], **more)
        return clips_table(read_evidence([only])).rows

    kinetics = {"classes": [f"c{n}" for n in range(400)], "dataset_kind": "kinetics"}
    assert first("paper", **p3d(16, **kinetics)) == [
        ["P3D 12", None, None, None],
        ["P3D 12, paper", 70.98, 63.80, 73.91],
        ["P3D 16", 100.0, None, None],
        ["P3D 16, paper", 71.50, 66.20, 74.62],
        ["CMA iter1 12", None, None, None],
        ["CMA iter1 12, paper", 74.41, 63.80, 75.22],
        ["CMA iter1 16", None, None, None],
        ["CMA iter1 16, paper", 74.86, 66.20, 75.98],
    ]
    for name, more in (("shallow", kinetics | {"depth": 50}), ("other", {})):
        assert [row[0] for row in first(name, **p3d(16, **more))] == ["P3D 16", "CMA iter1 16"]


def test_other_families_have_another_report(tmp_path: Path) -> None:
    clip = write_tested(tmp_path / "p3d", "rgb", "rgb", {"rgb": [0]}, [0], **p3d(12, depth=50))
    frame = write_tested(tmp_path / "2d", "rgb", "rgb", {"rgb": [0]}, [0])
    with pytest.raises(InputError, match=r"family resnet, .* has family p3d; one report holds"):
        read_evidence([clip, frame])
    assert "table5" not in [part.name for part in report_parts(read_evidence([frame]))]


def test_clips_of_other_strides_are_told(tmp_path: Path) -> None:
    runs = [
        write_tested(
            tmp_path / f"{n}", "rgb", "rgb", {"rgb": [n]}, [0], **p3d(12, clip_stride=n + 1)
        )
        for n in range(2)
    ]
    notes = read_evidence(runs).notes
    assert notes == [
        f"baseline of 12 frames: runs differ in clip_stride: 1 ({runs[0]}), 2 ({runs[1]})"
    ]


def test_a_report_of_clips_replaces_all_of_another_report_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = write_tested(tmp_path / "2d", "rgb", "rgb", {"rgb": RIGHT}, LABELS)
    clips = [
        write_tested(tmp_path / f"p3d{n}", "rgb", "rgb", {"rgb": RIGHT}, LABELS, **p3d(n))
        for n in (12, 16)
    ]
    out = tmp_path / "out"
    write_report(read_evidence([frame]), out)
    assert run(monkeypatch, "report", *map(str, clips), "--out", str(out)) == 0
    assert "table5 lacks: twinstream train" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {"report.html", "table5.md", "table5.csv"}
    page = (out / "report.html").read_text()
    assert "P3D-ResNet-152 on 6 videos" in page
    assert "Table 5" in page
