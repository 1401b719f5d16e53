"""Some hundred of the broken videos of `make fuzz`, and that it finds what it looks for."""

import os
from functools import partial
from pathlib import Path

import pytest

from tests.fuzz import watching
from tests.fuzz.videos import NAMED, drawn_input, work, write_sources
from tests.fuzz.watching import watched


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_sources(tmp_path_factory.mktemp("sources"), seed=0)


def test_broken_inputs_end_by_their_named_errors(sources: list[Path]) -> None:
    outcomes = list(watched(range(300), partial(work, seed=1, sources=sources)))
    assert [number for number, _ in outcomes] == list(range(300))
    assert [one for one in outcomes if one[1] not in NAMED] == []


def test_an_input_is_the_same_whenever_it_is_drawn(sources: list[Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(40):
            drawn_input(number, 0, sources, tmp_path / name)
    a, b = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.*")
        }
        for name in ("a", "b")
    )
    assert a == b


def test_an_exception_and_a_hang_are_findings_and_the_rest_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "HANG_SECONDS", 10)
    pipe = tmp_path / "hang.avi"
    os.mkfifo(pipe)
    absent = tmp_path / "absent.avi"
    assert {
        outcome for _, outcome in watched(range(2), partial(work, seed=0, sources=[absent]))
    } == {"ended its process with code 1"}
    hanging = watched(range(1), partial(work, seed=0, sources=[pipe]))
    assert [outcome for _, outcome in hanging] == ["hangs"]
