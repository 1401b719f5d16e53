"""Where there is less than on the machine at hand: other systems, and fewer packages.

They are imitated by taking away what they lack.
"""

import ast
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT
from twinstream.cores import usable_cores
from twinstream.errors import InputError
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.block_cache import open_cache
from twinstream.shards.storage.location import read_range
from twinstream.shards.storage.lock import OWNER_NAME, owned
from twinstream.train.data.loader import SnippetRecipe, TrainSnippets
from twinstream.train.snippet_shape import SnippetShape

# What Linux alone has, and what Windows lacks beside it
LINUX_CALLS = ("sched_getaffinity", "posix_fadvise")
POSIX_CALLS = ("pread", "pwrite", "preadv", "O_DIRECTORY", "fork", "getuid", "geteuid", "sync")
POSIX_MODULES = ("fcntl", "resource", "pwd", "grp", "termios")
# opencv-python and opencv-python-headless have no optflow.
TRAINING_ALONE = f"""
import os, sys
for name in {LINUX_CALLS + POSIX_CALLS}:
    delattr(os, name)
sys.modules |= dict.fromkeys((*{POSIX_MODULES}, "ray", "av", "numba", "llvmlite"))
import cv2
del cv2.optflow
from twinstream.cli import cli
for command in sys.argv[1:]:
    cli(command.split(), standalone_mode=False)
"""
TINY = {
    "model": {"kind": "flow", "depth": 18, "rgb_weights": None, "flow_weights": None},
    "train": {
        "stages": ["flow"],
        "epochs": 1,
        "batch_size": 3,
        "segments": 1,
        "crop_size": 40,
        "workers": 0,
        "device": "cpu",
    },
    "test": {"segments": 1, "crops": 1},
}
PATIENCE = 240.0


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls and modules that Windows lacks are gone."""
    for name in LINUX_CALLS + POSIX_CALLS:
        monkeypatch.delattr(os, name)
    for name in POSIX_MODULES:
        monkeypatch.setitem(sys.modules, name, None)


def test_training_test_and_report_need_neither_posix_nor_what_preprocessing_needs(
    dataset: Path, tmp_path: Path
) -> None:
    tree = {**TINY, "shards": {"path": str(dataset)}}
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(tree))
    commands = (
        "train -v --out run",
        "test run",
        "report run --out report",
        f"shards verify {dataset}",
    )
    done = subprocess.run(
        [sys.executable, "-c", TRAINING_ALONE, *commands],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "report.html").exists()
    assert "cannot be locked (this system has none)" in done.stderr
    epoch = r"flow 1/1 · loss [\d.]+ · train [\d.]+% · rate 0.01 · [\d.]+/s · \d\d:\d\d"
    assert re.search(f"^{epoch}$", done.stderr, re.M)
    # What -v adds
    assert f"{dataset}: 3 videos of train · cpu" in done.stderr
    assert "run/checkpoint.pt: stage 1, epoch 2, step 0" in done.stderr


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()


@pytest.mark.usefixtures("windows")
def test_files_are_written_read_and_held_without_posix(tmp_path: Path) -> None:
    with owned(tmp_path / "out", "twinstream train"):
        assert (tmp_path / "out" / OWNER_NAME).read_bytes().startswith(b'{"process": ')
        write_atomically(tmp_path / "out" / "file", b"0123456789")
        assert read_range(tmp_path / "out" / "file", 8, 4) == b"89"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


@pytest.mark.usefixtures("windows")
def test_a_cache_where_there_are_no_file_locks_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shards.cache_dir .*: needs file locks as of POSIX"):
        open_cache(str(tmp_path), 1000)


def test_what_a_loader_process_gets_goes_there_without_a_fork(dataset: Path) -> None:
    samples = ShardDataset(str(dataset)).samples("train")
    recipe = SnippetRecipe(2, SnippetShape(fields=2), 16, (1.0,), True, False, seed=0)
    source = TrainSnippets(samples, recipe)
    arrived = pickle.loads(pickle.dumps(source))
    assert arrived.batch([(0, 1)]).rgb.equal(source.batch([(0, 1)]).rgb)


def test_nobody_else_asks_for_what_linux_alone_has() -> None:
    allowed = {"cores.py": {"sched_getaffinity"}}
    for folder in ("twinstream", "preprocess", "shards", "train"):
        for path in (ROOT / folder).rglob("*.py"):
            asked = {
                node.attr
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                if node.value.id == "os"
            }
            assert not asked & {*LINUX_CALLS} - allowed.get(path.name, set()), path
