"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest

from tests.datasets import write_dataset

# One thread a process, set before torch is imported: thread pools that share busy cores wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real videos: $TWINSTREAM_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("TWINSTREAM_DATA", DEFAULT_DATA))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; name its folder in TWINSTREAM_DATA")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small finished dataset: 3 training and 2 test samples of 2 classes, 32x24."""
    return write_dataset(tmp_path / "dataset", {"train": 3, "test": 2})
