"""The registry of flow engines: what `auto` takes, what is not here, and an engine added to it."""

import pytest

from twinstream.errors import InputError
from twinstream.preprocess import doctor, engines
from twinstream.preprocess.engine import TvL1Params
from twinstream.preprocess.engines import (
    ENGINES,
    EngineEntry,
    cpu_engine,
    open_engine,
    resolve_engine,
)
from twinstream.preprocess.shares import Node, Share, default_chunk_frames, worker_share

BRIGHTNESS = EngineEntry("brightness", "tests.brightness_engine", uses_tvl1=False)
ON_GPU = EngineEntry("sparks", "tests.sparks_engine", uses_gpu=True, is_automatic=True)


@pytest.mark.parametrize(("has_gpu", "name"), [(False, "numba"), (True, "cuda")])
def test_auto_is_the_fastest_engine_for_what_is_here(
    has_gpu: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "sees_gpu", lambda: has_gpu)
    assert resolve_engine("auto") == name


def test_auto_goes_by_the_order_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "sees_gpu", lambda: True)
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
    with pytest.raises(InputError, match=r"'farneback'; use auto, cuda, numba, opencv, reference$"):
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


def test_an_engine_on_gpus_has_workers_and_chunks_of_that_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "ENGINES", (*ENGINES, ON_GPU))
    share = worker_share("sparks", [Node(16, 1)], threads=1, workers_per_gpu=4, cores_per_gpu=None)
    assert share == Share(4, 0.25)
    assert default_chunk_frames("sparks", 256, 256) == 256


def test_the_doctor_measures_an_engine_that_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "ENGINES", (*ENGINES, BRIGHTNESS))
    monkeypatch.setattr(doctor, "flow_rate", lambda name, size: 100.0)
    lines = doctor.report(hours_of_video=10, size=48).splitlines()
    assert "  brightness 100.0 frames/s at 48x48 on one core" in lines
    assert not [line for line in lines if "reference" in line]
