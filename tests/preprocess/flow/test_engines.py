"""The registry of flow engines: what `auto` takes, what is not here, and an engine added to it."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.videos import write_video
from twinstream.errors import InputError
from twinstream.preprocess import doctor
from twinstream.preprocess.catalog.kinds import read_catalog
from twinstream.preprocess.cluster.resources import (
    Node,
    WorkerResources,
    default_chunk_frames,
    worker_resources,
)
from twinstream.preprocess.cluster.worker import WorkerSetup, make_recipe
from twinstream.preprocess.flow import engines
from twinstream.preprocess.flow.engine import TvL1Params
from twinstream.preprocess.flow.engines import (
    ENGINES,
    EngineEntry,
    cpu_engine,
    open_engine,
    resolve_engine,
)
from twinstream.preprocess.job import run_job
from twinstream.preprocess.plan import dataset_build, plan_jobs
from twinstream.preprocess.settings import byte_settings
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards.format.video_table import VideoError
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_flow

BRIGHTNESS = EngineEntry("brightness", "tests.support.brightness_engine", uses_tvl1=False)
ON_GPU = EngineEntry("sparks", "tests.sparks_engine", uses_gpu=True, is_automatic=True)


@pytest.mark.parametrize(
    ("has_gpu", "has_clusters", "name"),
    [(False, False, "numba"), (True, False, "cuda"), (True, True, "resident")],
)
def test_auto_is_the_fastest_engine_for_what_is_here(
    has_gpu: bool, has_clusters: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "sees_gpu", lambda: has_gpu)
    monkeypatch.setattr(engines, "sees_clusters", lambda: has_clusters)
    assert resolve_engine("auto") == name


def test_auto_goes_by_the_order_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "sees_gpu", lambda: True)
    monkeypatch.setattr(engines, "sees_clusters", lambda: False)
    monkeypatch.setattr(engines, "ENGINES", (ON_GPU, *ENGINES))
    assert resolve_engine("auto") == "sparks"
    monkeypatch.setattr(engines, "ENGINES", (BRIGHTNESS, *ENGINES, ON_GPU))
    assert resolve_engine("auto") == "cuda"
    assert cpu_engine() == "numba"


def test_an_engine_that_is_not_there_is_an_error_that_names_one_that_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "sees_gpu", lambda: False)
    with pytest.raises(InputError, match=r"^engine: cuda needs a GPU [^\n]*; use `engine: numba`$"):
        open_engine("cuda", TvL1Params())
    with pytest.raises(InputError, match=r"'farneback'; use auto, resident, cuda, .*, reference$"):
        open_engine("farneback", TvL1Params())
    with pytest.raises(InputError, match="threads is 0"):
        open_engine("numba", TvL1Params(), threads=0)


def test_an_engine_whose_library_is_absent_is_not_taken_and_says_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = EngineEntry("lost", "tests.lost", requires=("numpy", "nobody_has"), is_automatic=True)
    monkeypatch.setattr(engines, "sees_gpu", lambda: False)
    monkeypatch.setattr(engines, "ENGINES", (entry, *ENGINES))
    assert resolve_engine("auto") == "numba"
    with pytest.raises(
        InputError,
        match=r"^engine: lost needs nobody_has, which is not installed; use `engine: numba`$",
    ):
        open_engine("lost", TvL1Params())


def test_an_engine_is_one_file_and_one_line_in_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its name in the settings to its flow in a shard: 4 gray levels a frame are 4 pixels."""
    tree = {
        "dataset": {"kind": "folders", "root": str(tmp_path / "videos")},
        "preprocess": {"size": "64x48", "engine": "brightness"},
        "shards": {"path": str(tmp_path / "out")},
    }
    with pytest.raises(InputError, match=r"opencv or reference, not 'brightness'$"):
        build_settings(Settings, tree)
    monkeypatch.setattr(engines, "ENGINES", (*ENGINES, BRIGHTNESS))
    settings = build_settings(Settings, tree)
    frames = np.stack([np.full((48, 64, 3), 10 + 4 * t, np.uint8) for t in range(8)])
    write_video(tmp_path / "videos" / "a" / "x.mkv", frames, codec="ffv1", pix_fmt="bgr0")

    root, out = tmp_path / "videos", tmp_path / "out"
    catalog = read_catalog(settings.dataset.kind, str(root))
    setup = WorkerSetup(
        root=root,
        out=out,
        dataset=settings.dataset,
        preprocess=settings.preprocess,
        shards=settings.shards,
        engine=resolve_engine(settings.preprocess.engine),
    )
    made_with = byte_settings(setup.dataset, setup.preprocess, setup.shards, setup.engine)
    jobs = plan_jobs(catalog.videos, 1, seed=0)
    for job in jobs:
        list(run_job(job, root=root, out=out, recipe=make_recipe(setup)))
    dataset_build(out, catalog, jobs, made_with, setup.preprocess.bound).finish()

    dataset = ShardDataset(out)
    flow = dataset.flow_pixels(read_flow(dataset.sample("a/x"), 0, 7))
    assert flow.shape == (7, 48, 64, 2)
    assert np.abs(flow - (4, 0)).max() <= 10 / 127
    found = dataset.manifest.settings
    assert found["preprocess.engine"] == "brightness"
    # The parameters of another method did not make these bytes.
    assert not [name for name in found if name.startswith("preprocess.tvl1")]


def test_an_engine_on_gpus_has_workers_and_chunks_of_that_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "ENGINES", (*ENGINES, ON_GPU))
    needs = worker_resources(
        "sparks", [Node(16, 1)], threads=1, workers_per_gpu=4, cores_per_gpu=None
    )
    assert needs == WorkerResources(4, 0.25)
    assert default_chunk_frames("sparks", 256, 256) == 256


def test_the_doctor_measures_an_engine_that_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "ENGINES", (*ENGINES, BRIGHTNESS))
    monkeypatch.setattr(doctor, "flow_rate", lambda name, size: 100.0)
    lines = doctor.report(hours_of_video=10, size=48).splitlines()
    assert "  brightness 100.0 frames/s at 48x48 on one core" in lines
    assert not [line for line in lines if "reference" in line]


def test_opencv_refuses_a_side_that_its_warp_cannot_count() -> None:
    engine = open_engine("opencv", TvL1Params())
    with pytest.raises(VideoError, match="too_large: 32767x16: the engine opencv takes"):
        engine(np.zeros((2, 16, 32767), np.uint8))
