"""Fixtures shared by the tests."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.stores import Store, serve

# One thread a process, set before torch is imported: thread pools that share busy cores wait for
# one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test asserts a time; a busy machine takes longer than Hypothesis allows an example.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m gpu` only files that have such tests are read: a machine with a GPU may lack what
    the others import.
    """
    is_test = collection_path.suffix == ".py" and config.getoption("markexpr") == "gpu"
    return True if is_test and "pytest.mark.gpu" not in collection_path.read_text() else None


@pytest.fixture(autouse=True)
def told(request: pytest.FixtureRequest) -> Iterator[None]:
    """Notes are told on stderr, as by the command line; what a test made quiet ends with it.

    Progress is told where a test asks for it: after seconds it would depend on the machine.
    """
    # Not the fixture `monkeypatch`: asked for here, it would end later than all others of a test,
    # and what a test has made of `os` would meet the removal of its folder.
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("gpu") is None:
            # Not at the head, nor for the tests of a GPU: they need less than this imports.
            from twinstream import progress

            progress.log_to_stderr()
            patch.setattr(progress, "FIRST_LINE_SECONDS", math.inf)
        yield


@pytest.fixture(autouse=True)
def usual_priority() -> Iterator[None]:
    """SVT-AV1 makes the thread of root that encodes with it a real-time one, which its later child
    processes would be as well, before all else on the machine.
    """
    yield
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A real S3 server on loopback."""
    with serve(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def store(s3_server: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The same, with credentials for it in the environment; tests share its bucket, each with a
    folder of its own.
    """
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real videos: $TWINSTREAM_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("TWINSTREAM_DATA", DEFAULT_DATA))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; name its folder in TWINSTREAM_DATA")
    return folder


@pytest.fixture(scope="session")
def preprocessed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a preprocessed dataset, a run and a video, for all tests: none changes it."""
    # Not at the head: the tests of a GPU need less than this imports.
    from tests.support.preprocessed import write_folder

    return write_folder(tmp_path_factory.mktemp("preprocessed"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small finished dataset: 3 training and 2 test samples of 2 classes, 32x24."""
    # Not at the head: the tests of a GPU need less than this imports.
    from tests.support.datasets import write_dataset

    return write_dataset(tmp_path / "dataset", {"train": 3, "test": 2})
