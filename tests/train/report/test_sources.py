"""What a report is made of: what does not compare is refused or told, and nothing counts twice."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support.runs import from_shards, write_tested
from twinstream.errors import InputError
from twinstream.train.choices import BranchName, ModelKind
from twinstream.train.report.evidence import RGB_ALONE, Accuracy, read_evidence
from twinstream.train.report.sources import Variant, variant_of

LABELS = [0, 1, 2, 0]
CMA = Variant("cma", 1)


@pytest.mark.parametrize(
    ("kind", "stage", "branch", "variant"),
    [
        ("two_stream", "rgb", "rgb", ("baseline", 0)),
        ("rgb", "rgb", "rgb", ("baseline", 0)),
        ("cma", "flow", "flow", ("baseline", 0)),
        ("nonlocal", "rgb", "flow", ("nonlocal", 0)),
        ("cma", "iter1", "rgb", ("cma", 1)),
        ("cma", "iter12", "flow", ("cma", 12)),
        ("cma_nonlocal", "iter1", "rgb", ("cma_nonlocal", 1)),
        ("cma_nonlocal", "rgb", "rgb", ("nonlocal", 0)),
        ("cma_nonlocal", "rgb", "flow", ("baseline", 0)),
    ],
)
def test_a_branch_behind_a_stage_is_evidence_of_a_network_and_an_iteration(
    kind: ModelKind, stage: str, branch: BranchName, variant: tuple[str, int]
) -> None:
    assert variant_of(kind, stage, branch)[:2] == variant


def test_the_baselines_of_a_run_with_non_local_blocks_in_rgb_are_of_two_networks(
    tmp_path: Path,
) -> None:
    run = write_tested(
        tmp_path / "run", "cma_nonlocal", "rgb", {"rgb": LABELS, "flow": LABELS}, LABELS
    )
    variants = read_evidence([run]).variants
    assert {variant: list(each[0].scores) for variant, each in variants.items()} == {
        Variant("baseline", 0): ["flow"],
        Variant("nonlocal", 0): ["rgb"],
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"classes": ["left", "up", "right"]},
            r"other classes than .*: label 1 is up there, right here",
        ),
        ({"classes": ["left", "right", "up", "down"]}, r"1 class is only there \(down\)"),
        ({"split": "test"}, "split test, .* has split val"),
        ({"segments": 3}, "segments 3, .* has segments 25"),
        ({"crops": 1}, "crops 1, .* has crops 10"),
        ({"depth": 18}, "depth 18, .* has depth 50"),
        ({"scale": 0.88}, r"scale 0\.88, .* has scale 0\.875"),
    ],
)
def test_runs_that_were_not_tested_in_one_way_are_refused(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    runs = [
        write_tested(tmp_path / "a", "cma", "iter1", {"rgb": [0]}, [0]),
        write_tested(tmp_path / "b", "cma", "iter1", {"rgb": [0]}, [0], **changed),
    ]
    with pytest.raises(InputError, match=rf"b/predictions\.parquet: .*{message}"):
        read_evidence(runs)


def test_a_part_of_the_videos_is_refused_whoever_has_it(tmp_path: Path) -> None:
    whole = write_tested(tmp_path / "whole", "rgb", "rgb", {"rgb": LABELS}, LABELS, keys="abcd")
    part = write_tested(tmp_path / "part", "cma", "iter1", {"rgb": [0, 1]}, [0, 1], keys="ab")
    message = (
        rf"^{part}/predictions\.parquet: 2 of the 4 videos of {whole}/predictions\.parquet; "
        "one table is of one set of videos"
    )
    for runs in ([whole, part], [part, whole]):
        with pytest.raises(InputError, match=message):
            read_evidence(runs)


def test_a_video_with_two_labels_is_refused(tmp_path: Path) -> None:
    runs = [
        write_tested(tmp_path / "a", "rgb", "rgb", {"rgb": [0, 0]}, [0, 0], keys="ab"),
        write_tested(tmp_path / "b", "cma", "iter1", {"rgb": [1, 1]}, [1, 1], keys="bc"),
    ]
    with pytest.raises(InputError, match=r"b/pred.*: b is right, in .*a/pred.* it is left"):
        read_evidence(runs)


def test_a_file_that_lacks_what_it_must_say_is_one_line(tmp_path: Path) -> None:
    run = write_tested(tmp_path / "a", "rgb", "rgb", {"rgb": [0]}, [0])
    text = (run / "predictions.parquet").read_bytes()
    (run / "predictions.parquet").write_bytes(text.replace(b'"stage"', b'"st_ge"'))
    with pytest.raises(InputError, match="does not say stage; run `twinstream test` again"):
        read_evidence([run])


def test_a_run_that_was_not_tested_is_told_how(tmp_path: Path) -> None:
    run = write_tested(tmp_path / "a", "cma", "iter1", {"rgb": [0]}, [0])
    (run / "predictions.parquet").unlink()
    with pytest.raises(InputError, match=f"{run}: not tested yet; `twinstream test {run}`"):
        read_evidence([run])
    with pytest.raises(InputError, match="not the folder of a run"):
        read_evidence([tmp_path])


def test_a_folder_of_predictions_need_not_be_a_run(tmp_path: Path) -> None:
    run = write_tested(tmp_path / "run", "cma", "iter1", {"rgb": [0]}, [0])
    (tmp_path / "scores").mkdir()
    shutil.move(run / "predictions.parquet", tmp_path / "scores")
    assert read_evidence([tmp_path / "scores"]).runs == [f"{tmp_path}/scores: iter1"]


@pytest.mark.parametrize("name", ["_old", "-iter1 (copy)", "-iter0", "-seed1", "-"])
def test_a_file_of_another_name_is_left_out_and_told(tmp_path: Path, name: str) -> None:
    run = write_tested(tmp_path / "run", "cma", "iter1", {"rgb": LABELS}, LABELS)
    write_tested(run, "cma", "iter1", {"rgb": [1, 1, 1, 1]}, LABELS, suffix=name)
    evidence = read_evidence([run])
    assert evidence.accuracy(CMA, RGB_ALONE) == Accuracy(1.0, 1.0, None)
    assert evidence.notes == [
        f"{run}/predictions{name}.parquet: is neither predictions.parquet nor "
        "predictions-STAGE.parquet; left out"
    ]


def test_a_file_of_another_stage_than_its_name_says_is_refused(tmp_path: Path) -> None:
    run = write_tested(tmp_path / "run", "cma", "iter2", {"rgb": LABELS}, LABELS)
    write_tested(run, "cma", "iter3", {"rgb": LABELS}, LABELS, suffix="-iter1")
    with pytest.raises(InputError, match=r"predictions-iter1\.parquet: holds predictions of iter3"):
        read_evidence([run])


# Nothing counts twice


@pytest.mark.parametrize("how", ["copy", "link", "same", "round about"])
def test_a_run_given_twice_counts_once_and_is_told(tmp_path: Path, how: str) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    write_tested(run, "cma", "iter2", {"rgb": [0, 1, 2, 1], "flow": LABELS}, LABELS)
    write_tested(run, "cma", "iter1", {"rgb": [0, 1, 2, 2]}, LABELS, suffix="-iter1")
    if how == "copy":
        shutil.copytree(run, again)
    elif how == "link":
        again.symlink_to(run)
    else:
        again = run if how == "same" else tmp_path / "run" / ".." / "run"
    evidence = read_evidence([run, again])
    assert {str(v): len(each) for v, each in evidence.variants.items()} == {
        "cma iter1": 1,
        "cma iter2": 1,
    }
    (note,) = evidence.notes
    told = f"{again}: iter1, iter2 is the network of {run}; counted once"
    assert note == (told if how == "copy" else f"{again}: is the folder {run} again; counted once")


def test_the_flow_branch_of_two_runs_is_one_network_where_its_scores_are_equal(
    tmp_path: Path,
) -> None:
    """A CMA run trains its flow branch as two_stream does, to the bit."""
    flow = write_tested(tmp_path / "cma", "cma", "flow", {"flow": [0, 1, 2, 1]}, LABELS)
    both = write_tested(
        tmp_path / "two", "two_stream", "rgb", {"rgb": LABELS, "flow": [0, 1, 2, 1]}, LABELS
    )
    for runs in ([flow, both], [both, flow]):
        evidence = read_evidence(runs)
        assert [set(p.scores) for p in evidence.variants[Variant("baseline", 0)]] == [
            {"rgb", "flow"}
        ]
        assert evidence.notes == [f"{flow}: flow is the network of {both}; counted once"]


def test_two_stages_of_one_baseline_are_no_two_seeds(tmp_path: Path) -> None:
    run = write_tested(
        tmp_path / "two", "two_stream", "rgb", {"rgb": LABELS, "flow": [0, 1, 2, 1]}, LABELS
    )
    # Another number of views in a batch rounds otherwise: near, but not equal.
    write_tested(run, "two_stream", "flow", {"flow": [0, 1, 2, 2]}, LABELS, suffix="-flow")
    evidence = read_evidence([run])
    assert len(evidence.variants[Variant("baseline", 0)]) == 1
    assert evidence.notes == [f"{run}: flow is on the way to a later stage; counted once"]


NEAR, FAR = 5e-6, 1e-3


@pytest.mark.parametrize(
    ("off", "digests", "count"),
    [
        (NEAR, (None, None), 1),
        (FAR, (None, None), 2),
        (NEAR, ("1", None), 1),
        (FAR, ("1", None), 2),
        (FAR, ("1", "1"), 1),
        (0, ("1", "2"), 2),
    ],
)
def test_a_network_is_known_by_its_weights_or_else_by_near_scores(
    tmp_path: Path, off: float, digests: tuple[str | None, str | None], count: int
) -> None:
    (one, other), (a, b) = [{"weights_sha256": {"rgb": d}} if d else {} for d in digests], "ab"
    runs = [
        write_tested(tmp_path / a, "cma", "iter1", {"rgb": LABELS}, LABELS, **one),
        write_tested(tmp_path / b, "cma", "iter1", {"rgb": LABELS}, LABELS, off=off, **other),
    ]
    evidence = read_evidence(runs)
    assert len(evidence.variants[CMA]) == count
    accuracy = evidence.accuracy(CMA, RGB_ALONE)
    assert accuracy is not None
    assert accuracy.spread == (None if count == 1 else 0.0)
    assert evidence.notes == (
        [f"{runs[1]}: iter1 is the network of {runs[0]}; counted once"] if count == 1 else []
    )


def test_the_same_weights_on_two_datasets_are_one_network_only_where_scores_are_near(
    tmp_path: Path,
) -> None:
    weights = {"weights_sha256": {"rgb": "1"}}
    one = write_tested(
        tmp_path / "a", "cma", "iter1", {"rgb": LABELS}, LABELS, **from_shards("1"), **weights
    )
    for off, count in ((NEAR, 1), (FAR, 2)):
        other = write_tested(
            tmp_path / "b",
            "cma",
            "iter1",
            {"rgb": LABELS},
            LABELS,
            off=off,
            **from_shards("2"),
            **weights,
        )
        assert len(read_evidence([one, other]).variants[CMA]) == count


@pytest.mark.parametrize(
    ("runs", "digests", "notes"),
    [
        (("a", "b"), ("1", "2"), []),
        (("a", "b"), (None, None), []),
        (("a", "b"), ("1", "1"), ["flow is the network of {folder} rgb"]),
        (("a", "a"), ("1", "2"), ["flow is on the way to a later stage"]),
        (("a", None), (None, None), ["flow is on the way to a later stage"]),
    ],
)
def test_two_runs_tested_into_one_folder_are_two(
    tmp_path: Path,
    runs: tuple[str, str | None],
    digests: tuple[str | None, str | None],
    notes: list[str],
) -> None:
    flow, both = (
        {"run": run} | ({"weights_sha256": {"flow": digest, "rgb": "3"}} if digest else {})
        for run, digest in zip(runs, digests, strict=True)
    )
    folder = write_tested(
        tmp_path / "x", "two_stream", "rgb", {"rgb": LABELS, "flow": [0, 1, 2, 1]}, LABELS, **both
    )
    answers = {"flow": [0, 1, 2, 2]}
    write_tested(folder, "two_stream", "flow", answers, LABELS, suffix="-flow", **flow)
    evidence = read_evidence([folder])
    assert evidence.notes == [f"{folder}: {n.format(folder=folder)}; counted once" for n in notes]
    assert len(evidence.variants[Variant("baseline", 0)]) == (1 if notes else 2)


def test_equal_answers_to_other_videos_are_no_copy(tmp_path: Path) -> None:
    runs = [
        write_tested(tmp_path / keys, "rgb", "rgb", {"rgb": [0]}, [0], keys=keys) for keys in "ab"
    ]
    evidence = read_evidence(runs)
    assert (len(evidence.folds), evidence.notes) == (2, [])


# Unfinished stages


def test_an_unfinished_stage_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    run = write_tested(tmp_path / "run", "cma", "iter1", {"rgb": LABELS}, LABELS)
    progress = "epoch 1 of 30, step 6 of 40"
    write_tested(
        run,
        "cma",
        "iter2",
        {"rgb": LABELS},
        LABELS,
        suffix="-iter2",
        finished=False,
        progress=progress,
    )
    evidence = read_evidence([run])
    assert list(map(str, evidence.variants)) == ["cma iter1"]
    assert evidence.notes == [
        f"{run}: iter2 was tested at {progress}; left out, --unfinished takes it"
    ]
    evidence = read_evidence([run], unfinished=True)
    assert sorted(map(str, evidence.variants)) == ["cma iter1", "cma iter2"]
    assert evidence.notes == [
        f"{run}: iter2 was tested at {progress}; its numbers are in, as --unfinished asks"
    ]


def test_what_is_left_out_does_not_refuse_the_rest(tmp_path: Path) -> None:
    run = write_tested(tmp_path / "run", "cma", "iter1", {"rgb": LABELS}, LABELS)
    early = write_tested(tmp_path / "e", "cma", "iter1", {"rgb": [0]}, [0], finished=False, crops=1)
    assert len(read_evidence([early, run]).runs) == 1


@pytest.mark.parametrize(
    ("age", "why"),
    [
        (None, "there is no rgb.safetensors in its run"),
        (-1, "rgb.pt in its run is newer"),
        (0, None),
        (1, None),
    ],
)
def test_an_older_file_is_finished_where_the_run_has_its_stage_from_before(
    tmp_path: Path, age: int | None, why: str | None
) -> None:
    known = write_tested(tmp_path / "known", "cma", "iter1", {"rgb": LABELS}, LABELS)
    run = write_tested(tmp_path / "run", "rgb", "rgb", {"rgb": LABELS}, LABELS, finished=None)
    file = run / "predictions.parquet"
    if age is not None:
        (run / "rgb.pt").touch()
        written = file.stat().st_mtime_ns - age * 10**9
        os.utime(run / "rgb.pt", ns=(written, written))
    evidence = read_evidence([known, run])
    left_out = (
        f"{file}: does not say whether it was finished, and {why}; left out, --unfinished takes it"
    )
    assert evidence.notes == ([left_out] if why else [])
    assert (Variant("baseline", 0) in evidence.variants) == (why is None)
    assert Variant("baseline", 0) in read_evidence([known, run], unfinished=True).variants


def test_nothing_finished_is_one_line(tmp_path: Path) -> None:
    runs = [
        write_tested(
            tmp_path / name, "cma", "iter1", {"rgb": [0]}, [0], finished=False, progress="epoch 1"
        )
        for name in "ab"
    ]
    message = (
        f"no finished stage for a report: {runs[0]}: iter1 was tested at epoch 1; "
        f"{runs[1]}: iter1 was tested at epoch 1; train on and test again, or give --unfinished"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_evidence(runs)


# What is told


@pytest.mark.parametrize(
    ("one", "other", "note"),
    [
        ({"trained_on": 0}, {}, None),
        ({"trained_on": 2}, {"trained_on": 0}, "2 of 4 tested videos were trained on: {a} iter1"),
        (
            {"trained_on": 4},
            {"trained_on": 4},
            "4 of 4 tested videos were trained on: {a} iter1, {b} iter1",
        ),
        (
            {"epochs": 8},
            {"epochs": 30},
            "cma iter1: runs differ in epochs: 8 ({a}), 30 ({b})",
        ),
        ({"epochs": 8}, {}, None),
        (
            {"attention_at": ["layer2.1"]},
            {},
            "cma iter1: runs differ in attention_at: ['layer2.1'] ({a}), every_other ({b})",
        ),
        (
            from_shards("1"),
            from_shards("2"),
            "the same 4 videos out of different datasets, perhaps of another engine or size: "
            "shards/1 [11111111] ({a}), shards/2 [22222222] ({b})",
        ),
        (from_shards("1", "here"), from_shards("1", "moved"), None),
        (from_shards("1"), {}, None),
        (
            {"dataset_kind": "kinetics"},
            {"dataset_kind": "ucf101"},
            "datasets of different kinds: kinetics ({a}), ucf101 ({b})",
        ),
    ],
)
def test_what_numbers_do_not_share_is_told(
    tmp_path: Path, one: dict[str, object], other: dict[str, object], note: str | None
) -> None:
    a = write_tested(tmp_path / "a", "cma", "iter1", {"rgb": [0, 1, 2, 1]}, LABELS, **one)
    b = write_tested(tmp_path / "b", "cma", "iter1", {"rgb": [0, 1, 2, 2]}, LABELS, **other)
    assert read_evidence([a, b]).notes == ([] if note is None else [note.format(a=a, b=b)])


def test_networks_of_other_variants_may_differ_in_epochs(tmp_path: Path) -> None:
    a = write_tested(tmp_path / "a", "cma", "iter1", {"rgb": [0, 1, 2, 1]}, LABELS, epochs=8)
    b = write_tested(tmp_path / "b", "rgb", "rgb", {"rgb": [0, 1, 2, 2]}, LABELS, epochs=9)
    assert read_evidence([a, b]).notes == []


def test_datasets_of_two_kinds_are_not_that_of_the_paper(tmp_path: Path) -> None:
    runs = [
        write_tested(tmp_path / kind, "rgb", "rgb", {"rgb": [0]}, [0], keys=kind, dataset_kind=kind)
        for kind in ("k", "u")
    ]
    assert read_evidence(runs).about["dataset_kind"] is None


def test_blocks_are_those_of_a_network_that_has_some(tmp_path: Path) -> None:
    runs = [
        write_tested(tmp_path / "a", "rgb", "rgb", {"rgb": [0]}, [0]),
        write_tested(tmp_path / "b", "cma", "iter1", {"rgb": [0]}, [0], attention_at=["layer2.1"]),
    ]
    assert read_evidence(runs).about["attention_at"] == ["layer2.1"]
