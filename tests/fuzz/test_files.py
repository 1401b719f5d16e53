"""Some of the forged files of `make fuzz`, and that it finds what it looks for."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.fuzz import files
from tests.fuzz.files import Case, findings, outcome, table, tried, try_all
from tests.fuzz.originals import write_originals
from twinstream.errors import InputError
from twinstream.train.network import families

NUM_CASES = 44


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The files, with their family of networks known until the last test of this module."""
    folder = tmp_path_factory.mktemp("fuzz") / "originals"
    known, threads = families.FAMILIES, torch.get_num_threads()
    write_originals(folder)
    yield folder
    families.FAMILIES = known
    torch.set_num_threads(threads)


def test_forged_files_are_read_or_refused_in_one_line(originals: Path) -> None:
    outcomes = try_all(range(NUM_CASES), 1, originals, workers=1)
    assert [number for number, _ in outcomes] == list(range(NUM_CASES))
    assert findings(outcomes) == {}
    assert table(outcomes).splitlines()[-1].split()[:2] == ["all", str(NUM_CASES)]


def test_a_case_is_the_same_whenever_it_is_drawn(originals: Path, tmp_path: Path) -> None:
    for number in (3, 4, 5):
        cases = [tried(number, 0, originals, tmp_path / f"{number}{n}" / "case") for n in "ab"]
        assert cases[0].refused.keys() == cases[1].refused.keys()


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (InputError("one line"), "refused"),
        (FileNotFoundError(2, "No such file or directory", "x"), "refused"),
        (InputError("two\nlines"), "fault\tinfo: 9 characters of an error"),
        (KeyError("x"), "fault\tinfo: KeyError in ?"),
        (MemoryError(), "fault\tinfo: MemoryError in ?"),
        (ValueError("x"), "fault\tinfo: ValueError in ?"),
    ],
)
def test_all_but_an_input_error_of_one_line_is_a_fault(error: Exception, found: str) -> None:
    def entry() -> None:
        raise error

    case = Case(Path("."), random.Random(0))
    case.enters("info", entry)
    assert outcome(case) == found


def test_a_hang_a_death_and_what_verify_misses_are_faults(
    originals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(dataset: Path, rng: random.Random) -> bool:
        (dataset / "videos.parquet").write_bytes(b"x")
        return False

    def endless(case: Case) -> None:
        while True:
            pass

    # A sleep is seen by the clock, as in test_videos.
    monkeypatch.setattr(files, "CPU_SECONDS", 5)
    kinds = {
        "hang": endless,
        "death": lambda case: os._exit(3),
        "verify": lambda case: files.drive_dataset(case, spoiled),
    }
    monkeypatch.setattr(files, "KINDS", kinds)
    monkeypatch.setattr(files, "faults", lambda dataset: [])
    monkeypatch.setattr(files, "fast_faults", lambda dataset: [])
    found = dict(try_all(range(3), 0, originals, workers=2))
    assert found[0] == "hangs"
    assert found[1].startswith("ended its process with code ")
    assert "verify: passes changed bytes" in found[2]
