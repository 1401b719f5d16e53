"""The work around the videos grows with their number and no faster: calls of functions, counted."""

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import scale, simulated

SIZES = (60, 240)
# Four times the videos; what does not grow makes it less.
MOST = 4.4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Datasets of so many videos, two a shard, of three classes."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated, "VIDEOS_PER_SHARD", 2)
        patch.setattr(simulated, "NUM_CLASSES", 3)
        for size in SIZES:
            found[size] = tmp_path_factory.mktemp(str(size))
            simulated.prepare(size, found[size])
            simulated.build_of(size, found[size]).finish()
        yield found


def calls(work: Callable[[], object]) -> int:
    """Calls of Python and C functions."""
    # What is made once, such as compiled patterns, is there already.
    work()
    with cProfile.Profile() as profile:
        work()
    return int(pstats.Stats(profile).total_calls)


@pytest.mark.parametrize("cell", [cell for cell in scale.CELLS if cell != "place"])
def test_a_video_costs_the_same_however_many_there_are(cell: str, folders: dict[int, Path]) -> None:
    few, many = (
        calls(lambda size=size: scale.CELLS[cell][0](size, folders[size])) for size in SIZES
    )
    assert few < many < MOST * few


def test_a_samples_place_costs_the_same_in_a_large_dataset(folders: dict[int, Path]) -> None:
    few, many = (
        calls(lambda samples=samples: samples[len(samples) - 1])
        for samples in (scale.ShardDataset(folders[n] / "shards").samples("train") for n in SIZES)
    )
    assert few == many


def test_the_exponent_is_that_of_the_largest_sizes() -> None:
    assert scale.exponent({10: 9.0, 100: 1.0, 200: 4.0}) == pytest.approx(2)
    assert scale.exponent({100: 3.0, 200: 3.0}) == 0
