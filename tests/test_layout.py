"""The import rule: preprocess -> shards <- train, and nothing heavy before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from twinstream.preprocess.flow.engines import ENGINES

FORBIDDEN = {
    "shards": {"ray", "torch", "torchvision", "webdataset", "preprocess", "train"},
    "train": {"ray", "preprocess", "av"},
    "preprocess": {"train", "torchvision", "webdataset"},
}
# The engines may be made of torchvision's networks: no other file imports them.
ENGINE_FILES = {
    ROOT / f"{entry.module.removeprefix('twinstream.').replace('.', '/')}.py" for entry in ENGINES
}


def imports(path: Path) -> set[str]:
    """Top-level names a module imports anywhere in it; our packages without `twinstream.`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("twinstream.").split(".")[0] for name in found}


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        allowed = {"torchvision"} if path in ENGINE_FILES else set()
        assert not imports(path) & (FORBIDDEN[package] - allowed), path.name


def test_every_engine_of_the_registry_has_its_file_here() -> None:
    assert {path for path in ENGINE_FILES if not path.is_file()} == set()


def test_the_settings_import_nothing_heavy() -> None:
    code = (
        "import sys, twinstream.preprocess.settings\n"
        "heavy = {'torch', 'torchvision', 'ray', 'cv2', 'av', 'numba', 'pyarrow'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


def test_only_the_session_imports_ray() -> None:
    users = {path.name for path in (ROOT / "preprocess").rglob("*.py") if "ray" in imports(path)}
    assert users == {"session.py"}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom twinstream import cli\n"
        "try: cli.cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'cv2', 'av', 'numba', 'pyarrow', 'numpy', 'pydantic', "
        "'matplotlib'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_job_and_the_pool_import_no_ffmpeg() -> None:
    code = (
        "import sys\n"
        "import twinstream.preprocess.job, twinstream.preprocess.cluster.pool\n"
        "sys.exit('av was imported' if 'av' in sys.modules else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_reader_and_the_trainer_work_without_ray_and_av() -> None:
    code = (
        "import sys\n"
        "sys.modules['ray'] = sys.modules['av'] = None\n"
        "import twinstream.shards.read.dataset, twinstream.shards.verify\n"
        "import twinstream.shards.preview\n"
        "import twinstream.train.fit, twinstream.train.score.evaluate"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
