"""The drivers of `make duet`, `make duet3d`, `make weizmann` and of the transfer: their tables,
counted by hand, and what each run begins from.
"""

from copy import deepcopy
from pathlib import Path

import numpy as np

from benchmarks.proofs import duet, duet3d, transfer, weizmann
from twinstream.demo import demo_settings
from twinstream.preprocess.duet3d import STEPS
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.train.data.snippets import num_starts
from twinstream.train.look.maps import BlockMap
from twinstream.train.network.stages import plan_stages
from twinstream.train.score.predictions import Predictions


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
    for tree, runs in (
        (demo_settings(tmp_path), duet.seed_runs(tmp_path, seed=2)),
        (weizmann.fold_settings(tmp_path, tmp_path, fold=3), weizmann.fold_runs(tmp_path)),
    ):
        assert list(runs) == ["two_stream", "nonlocal", "cma"]
        for changes in runs.values():
            settings = build_settings(
                Settings, {name: dict(section) for name, section in tree.items()}, changes
            )
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


def test_hits_count_each_fold_by_the_weighted_sum() -> None:
    rgb, flow = np.eye(3, dtype=np.float32)[[0, 1, 2]], np.eye(3, dtype=np.float32)[[1, 1, 0]]
    fold = Predictions(("a", "b", "c"), np.array([0, 1, 0]), {"rgb": rgb, "flow": flow}, {})
    assert weizmann.hits([fold, fold], (1, 0)) == [2, 2]
    assert weizmann.hits([fold], (0, 1)) == [2]
    # Equal scores count for the lower class: 0 in the first and the third video.
    assert weizmann.hits([fold], (1, 1)) == [3]
    table = weizmann.table(
        {"two_stream": [fold, fold], "nonlocal": [fold, fold], "cma": [fold, fold]}
    )
    assert table.splitlines()[2] == "| rgb | 66.7% | 30% to 90% | 2 2 of 6 |"
