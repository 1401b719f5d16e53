"""The drivers of the proofs: their tables, counted by hand, and what each run begins from."""

import re
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from itertools import product
from pathlib import Path

import click
import numpy as np
import pytest

from benchmarks.proofs import (
    actions,
    duet,
    duet3d,
    tables,
    transfer,
    ucf101_5cls,
    utd_mhad,
    weizmann,
)
from benchmarks.proofs.without_blocks import without_blocks
from tests.support.datasets import write_dataset
from tests.support.runs import write_run
from tests.support.training import settings_tree
from twinstream.demo import demo_settings
from twinstream.preprocess.duet3d import STEPS
from twinstream.preprocess.run import run_catalog
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards.read.dataset import ShardDataset
from twinstream.train.data.snippets import num_starts
from twinstream.train.look.maps import BlockMap
from twinstream.train.network.stages import plan_stages
from twinstream.train.run_folder import RunSettings, read_run_settings
from twinstream.train.score.evaluate import score_run
from twinstream.train.score.predictions import Predictions, read_predictions, write_predictions


def test_the_duet_table_has_mean_spread_and_each_seed() -> None:
    def seed(cma: float) -> dict[str, dict[str, float]]:
        plain = {"rgb": 0.25, "flow": 0.25, "fused 1:1": 0.5, "fused 5:1": 0.25}
        return {"two_stream": plain, "nonlocal": plain, "cma": {"rgb": cma, "fused 5:1": 1.0}}

    lines = duet.table([seed(0.95), seed(1.0), seed(0.9)]).splitlines()
    assert lines[2] == "| rgb | 25% | 25.0% | 0.0 | 25.0, 25.0, 25.0 |"
    assert "| CMA iter1-R | 100% | 95.0% | 5.0 | 95.0, 100.0, 90.0 |" in lines
    assert duet.table([seed(1.0)]).splitlines()[2] == "| rgb | 25% | 25.0% | - | 25.0 |"


def test_keys_move_where_a_feature_under_them_does() -> None:
    speed = np.zeros((10, 10))
    speed[0:2, 8:10], speed[6:8, 2:4], speed[8:10, 8:10] = 4, 2, 1
    block = BlockMap("CMA", "flow", np.empty((1, 1, 3, 3), np.float32), (5, 5))
    assert duet.moving_keys(speed, block).astype(int).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_every_run_of_the_proofs_has_settings_and_stages_that_fit(tmp_path: Path) -> None:
    runs = duet.seed_runs(tmp_path, seed=2)
    assert list(runs) == ["two_stream", "nonlocal", "cma"]
    for changes in runs.values():
        settings = build_settings(Settings, deepcopy(demo_settings(tmp_path)), changes)
        plan_stages(settings.train.stages, settings.model.kind)
    assert settings.model.flow_weights == str(tmp_path / "two_stream" / "flow.safetensors")


def test_every_transfer_starts_from_a_whole_run_and_stores_what_does_not_change(
    tmp_path: Path,
) -> None:
    for seed in (0, 1):
        runs = transfer.transfers(tmp_path, seed)
        assert len(runs) == (5 if seed == 0 else 3)
        for name, changes in runs.items():
            settings = build_settings(Settings, deepcopy(demo_settings(tmp_path)), changes)
            plan_stages(settings.train.stages, settings.model.kind)
            start = "cma" if name.startswith("CMA") else "two_stream"
            assert settings.model.weights == str(tmp_path / start)
            assert name.split(", ")[1] == settings.train.trainable
            assert (settings.train.cache_features is not None) == ("stored" in name)


def test_the_transfer_table_has_the_scores_that_there_are() -> None:
    stored, whole = "CMA, fc, stored features", "CMA, all"
    first = {stored: {"rgb": 1.0, "flow": 0.25, "fused 5:1": 0.9}, whole: {"rgb": 0.5}}
    lines = transfer.table([first, {stored: {"rgb": 0.9, "flow": 0.35, "fused 5:1": 1.0}}])
    assert lines.splitlines()[2:] == [
        "| CMA, fc, stored features | R | 100% | 95.0% | 100.0, 90.0 |",
        "| CMA, fc, stored features | F | 25% | 30.0% | 25.0, 35.0 |",
        "| CMA, fc, stored features | S, 5:1 | 100% | 95.0% | 90.0, 100.0 |",
        "| CMA, all | R | 100% | 50.0% | 50.0 |",
    ]


def test_every_run_of_duet3d_begins_from_those_before_it(tmp_path: Path) -> None:
    begun = {}
    for name, changes in duet3d.seed_runs(tmp_path, seed=2).items():
        settings = build_settings(Settings, duet3d.proof_settings(tmp_path), changes)
        plan_stages(settings.train.stages, settings.model.kind)
        begun[name] = settings.model.rgb_weights, settings.model.flow_weights
        # Of a clip that takes the whole video; the 2-D network looks at all that can start.
        assert num_starts(2 * len(STEPS), settings.model.snippet) == settings.test.segments
    flow, rgb = (
        str(tmp_path / "flow" / "flow.safetensors"),
        str(tmp_path / "two_stream" / "rgb.safetensors"),
    )
    assert begun == {
        "flow": (None, None),
        "two_stream": (None, flow),
        "cma": (rgb, flow),
        "flat": (None, None),
    }
    assert {run for _, run, _, _ in duet3d.ROWS} == {"two_stream", "cma", "flat"}


PROOFS = [utd_mhad.PROOF, ucf101_5cls.PROOF, weizmann.PROOF]


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
def test_every_model_of_a_proof_on_actions_has_the_same_settings(
    proof: actions.Proof, tmp_path: Path
) -> None:
    tree = proof.settings(tmp_path, tmp_path)
    base = tmp_path / "runs" / "one" / "two_stream"
    starts = {False: tree, True: actions.from_scratch(proof, tree)}
    tried = (common for common, _ in proof.tried.values())
    for changes, scratch in product((*proof.folds.values(), *tried), starts):
        built = {}
        for name, (_, own) in actions.fold_runs(tmp_path, "one", scratch=scratch).items():
            settings = build_settings(Settings, deepcopy(starts[scratch]), [*changes, *own])
            plan_stages(settings.train.stages, settings.model.kind)
            built[name] = settings
        assert built["two_stream"].model.rgb_weights == (None if scratch else "imagenet")
        assert built["cma"].model.flow_weights == str(base / "flow.safetensors")
        assert built["late_fusion"].model.weights == str(base / "rgb.safetensors")
        if not scratch:
            rates = {name: built[name].train.attention_rate for name in ("cma_res4", "control")}
            assert rates == {"cma_res4": 30, "control": 1e-9}
        assert all(
            settings.train.trainable == ("behind_attention" if "res4" in name else "all")
            for name, settings in built.items()
            if name != "control"
        )
        own = {"stages": (), "trainable": "all", "attention_rate": 1.0}
        trained = {each.train.model_copy(update=own) for each in built.values()}
        assert len(trained) == len({each.test for each in built.values()}) == 1
        without = {name + tables.BLOCKS_OUT for name in tables.CMA_RUNS}
        assert {run for run, _ in tables.MODELS.values()} - without == {
            *built,
            *(("cma_res4", "control") if scratch else ()),
        }
    for _, of_cma in proof.tried.values():
        changes = [*actions.fold_runs(tmp_path, "one")["cma"][1], *of_cma]
        changes = [change.format(base=base) for change in changes]
        assert build_settings(Settings, deepcopy(tree), changes).model.kind == "cma"


def test_no_model_of_a_proof_on_actions_is_chosen_by_what_it_is_tested_on(tmp_path: Path) -> None:
    dataset = ShardDataset(write_dataset(tmp_path / "shards", {"train": 6, "test": 2}))
    actions.write_held_out(dataset, "train", "train[45]", tmp_path / "list.csv")
    found = {
        split: {*dataset.samples(f"{tmp_path / 'list.csv'}:{split}").keys}
        for split in ("train", "val")
    }
    assert found["val"] == {"left/train4", "right/train5"}
    assert found["train"] | found["val"] == {*dataset.samples("train").keys}


def predictions(keys: str, ranked: list[int], labels: list[int]) -> Predictions:
    """Of three classes; flow is always for class 0, half as sure as RGB."""
    rgb = np.eye(3, dtype=np.float32)[ranked]
    flow = np.tile(np.array([0.5, 0, 0], np.float32), (len(keys), 1))
    return Predictions(tuple(keys), np.array(labels), {"rgb": rgb, "flow": flow}, {})


def test_a_video_counts_once_however_many_seeds_test_it() -> None:
    seeds = [predictions("ab", [0, 1], [0, 0]), predictions("ab", [0, 0], [0, 0])]
    assert tables.right(seeds, (1, 0)) == {"a": 1.0, "b": 0.5}
    assert tables.right(seeds, (0, 1)) == {"a": 1.0, "b": 1.0}
    splits = [predictions("ab", [0, 1], [0, 0]), predictions("c", [2], [2])]
    assert tables.right(splits, (1, 0)) == {"a": 1.0, "b": 0.0, "c": 1.0}
    assert tables.mean_top1(splits, (1, 1)) == pytest.approx(2 / 3)


def test_the_tables_of_real_actions_are_as_counted_by_hand() -> None:
    keys, labels = "abcd", [0, 0, 1, 2]
    plain = predictions(keys, [1, 1, 1, 2], labels)
    better = predictions(keys, [0, 0, 1, 2], labels)
    tested = {name: [plain, plain] for name in ("two_stream", "nonlocal", "late_fusion", "control")}
    tested |= {name: [better, better] for name in tables.CMA_RUNS}
    tested |= {name + tables.BLOCKS_OUT: [plain, plain] for name in tables.CMA_RUNS}
    # Each by itself: more than a fortieth of all draws have none of the two that differ.
    table = tables.accuracy_table(tested, "(.)").splitlines()
    assert table[2] == "| rgb | 50.0% | 0% to 100% | 50.0, 50.0 |"
    assert table[-8] == "| CMA iter1-R | 100.0% | 100% to 100% | 100.0, 100.0 |"
    lines = tables.difference_table(tested, "(.)").splitlines()
    assert lines[2] == (
        "| CMA iter1-R less two-stream, 1:1 | +50.0 | +0.0 to +100.0 | no difference can be shown |"
    )
    # Alike, a and b are in every draw together with c and d: one group.
    lines = tables.difference_table(tested, "()").splitlines()
    assert lines[2] == "| CMA iter1-R less two-stream, 1:1 | +50.0 | +50.0 to +50.0 | above |"
    matrices = tables.confusions(tested)
    assert tables.confusion_table(matrices, ["x", "y", "z"]).splitlines()[2:] == [
        "| x | 0 4 0 | 4 0 0 | 0 4 0 | 4 0 0 | 4 0 0 |",
        "| y | 0 2 0 | 2 0 0 | 0 2 0 | 0 2 0 | 0 2 0 |",
        "| z | 0 0 2 | 2 0 0 | 0 0 2 | 0 0 2 | 0 0 2 |",
    ]


def test_the_command_names_the_data_that_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"no videos/ and split\.csv of utd_mhad5 at"):
        actions.data_folder(utd_mhad.PROOF, tmp_path)
    (tmp_path / "split.csv").touch()
    assert actions.data_folder(utd_mhad.PROOF, tmp_path) == tmp_path


def test_a_fold_has_all_models_and_tests_again_only_what_was_tested_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "shards", {"train": 4, "test": 2})

    def written(settings: RunSettings, out: Path, resume: bool = True) -> None:
        if not out.exists():
            # Of both branches, as with the weights of the two-stream run.
            last = settings.train.stages[-1]
            write_run(out, dataset, settings.model.kind, ("flow", last))

    monkeypatch.setattr(actions, "train", written)
    monkeypatch.setattr(actions, "train_late_fusion", written)
    tree = settings_tree(dataset)
    tree["model"]["kind"] = "two_stream"
    tree["train"]["stages"] = ["flow", "rgb"]
    tree["test"]["split"] = "test"
    first = actions.run_fold(tree, [], tmp_path, "one")
    names = ("two_stream", "nonlocal", "cma", "late_fusion", "cma_res4", "control")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"one {name}" for name in names]
    path, kept = (
        tmp_path / "runs" / "one" / name / "predictions.parquet" for name in ("nonlocal", "cma")
    )
    # As by `twinstream test` with another number of segments.
    other = read_predictions(path)
    write_predictions(path, replace(other, about={**other.about, "segments": 1}))
    before = kept.stat().st_mtime_ns
    again = actions.run_fold(tree, [], tmp_path, "one")
    assert read_predictions(path).about["segments"] == 2
    assert kept.stat().st_mtime_ns == before
    for name, each in first.items():
        np.testing.assert_array_equal(each.scores["rgb"], again[name].scores["rgb"])


def test_without_its_blocks_a_network_scores_as_it_did_before_they_learnt(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "shards", {"train": 4, "test": 2})
    found = {}
    for name in ("trained", "new"):
        run = tmp_path / name
        write_run(run, dataset, trained=name == "trained")
        test = read_run_settings(run).test
        score_run(run, test.model_copy(update={"split": "test", "crops": 10, "flip": False}))
        found[name] = read_predictions(run / "predictions.parquet")
    assert found["trained"].about["crops"] == 5
    without = without_blocks(tmp_path / "trained", found["trained"])
    assert without.keys == found["trained"].keys
    np.testing.assert_allclose(without.scores["rgb"], found["new"].scores["rgb"], atol=1e-6)
    assert abs(without.scores["rgb"] - found["trained"].scores["rgb"]).max() > 1e-3


@pytest.mark.real
@pytest.mark.parametrize(
    ("proof", "trained", "held_out", "alike"),
    [(utd_mhad.PROOF, 80, 20, 4), (ucf101_5cls.PROOF, 180, 40, 2), (weizmann.PROOF, 50, 10, 1)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_is_alike_or_held_out_is_found_in_real_keys(
    real_data: Path, proof: actions.Proof, trained: int, held_out: int, alike: int
) -> None:
    settings = build_settings(
        Settings, proof.settings(actions.data_folder(proof, real_data), Path("out"))
    )
    videos = run_catalog(settings.dataset, "out").videos
    groups = Counter("".join(re.findall(proof.alike, video.key)[0]) for video in videos)
    assert {*groups.values()} == {alike}
    keys = [video.key for video in videos if video.split == "train"]
    assert len(keys) == trained
    assert sum(re.search(proof.held_out, key) is not None for key in keys) == held_out
