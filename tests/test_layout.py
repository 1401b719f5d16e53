"""The arrows: which room may import which, nowhere a circle, and nothing heavy before it is needed.

docs/architecture.md draws them. A room is a package; a module that lies in no room of its program,
such as preprocess/run.py, is a room by itself.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from twinstream.preprocess.flow.engines import ENGINES
from twinstream.train.network.families import FAMILIES

SOURCES = ("twinstream", "preprocess", "shards", "train")
PROGRAMS = ("preprocess", "shards", "train")
# What all three programs share and none of them owns; it imports none of them.
SHARED = ("cores", "credentials", "errors", "output", "progress", "section", "signals")
# Libraries that a program must do without, wherever in it they would be imported
FORBIDDEN = {
    "shards": {"ray", "torch", "torchvision", "webdataset"},
    "train": {"ray", "av"},
    "preprocess": {"torchvision", "webdataset"},
}
# Engines may be made of torchvision's networks.
ENGINE_MODULES = {entry.module for entry in ENGINES}
# The only rooms that may import these libraries
OWNERS = {
    "numba": {"preprocess.flow"},
    "triton": {"preprocess.flow"},
    "webdataset": {"train.data"},
}
# What data and networks share
SHAPES = {"train.choices", "train.snippet_shape"}
# What of train tells of a run: its settings, folder, weights and device
RUN = {
    *(*SHAPES, "train.settings", "train.run_folder"),
    *("train.checkpoint", "train.device", "train.memory"),
}
# Within a program: room -> rooms of it that it may import. Rooms that are not named may import all.
ARROWS: dict[str, set[str]] = {
    "shards.storage": set(),
    "shards.format": {"shards.storage"},
    "shards.read": {"shards.format", "shards.storage", "shards.settings"},
    "shards.write": {"shards.format", "shards.storage"},
    "shards.rawframes": {"shards.write", "shards.format", "shards.storage"},
    "preprocess.catalog": set(),
    "preprocess.decode": set(),
    "preprocess.flow": set(),
    "train.data": {*SHAPES, "train.settings", "train.memory", "train.ranks"},
    "train.network": {*SHAPES, "train.settings"},
    "train.score": {"train.data", "train.network", *RUN},
    "train.look": {"train.data", "train.network", "train.score", *RUN},
    "train.report": {"train.network", "train.score", *RUN},
}


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            yield node.module
            # `from package import module` imports the module too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def libraries_of(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by its full name."""
    found = {}
    for folder in SOURCES:
        prefix = "" if folder == "twinstream" else "twinstream."
        # The links in it lead to the other three.
        pattern = "*.py" if folder == "twinstream" else "**/*.py"
        paths = (ROOT / folder).glob(pattern)
        for path in paths:
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = prefix + ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


def room(module: str) -> str:
    """twinstream.shards.format.index -> shards.format; twinstream.errors -> errors."""
    return ".".join(module.split(".")[1:3])


@cache
def edges() -> dict[str, set[str]]:
    """The modules of the project that each module imports."""
    known = modules()
    # A function that is sent to another machine imports its own module there.
    return {name: ({*imports(path)} & known.keys()) - {name} for name, path in known.items()}


def in_program(program: str) -> list[str]:
    return [name for name in modules() if name.split(".")[1:2] == [program]]


def test_every_module_is_found() -> None:
    rooms = {room(name) for name in modules()}
    assert {*ARROWS} <= rooms
    assert {*SHARED} <= rooms


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_imports_itself_shards_and_what_all_share(program: str) -> None:
    allowed = {program, "shards", *SHARED}
    for name in in_program(program):
        others = {other.split(".")[1] for other in edges()[name] if other != "twinstream"}
        extra = {"cli"} if name.endswith(".__main__") else set()
        assert others <= allowed | extra, name


def test_what_all_share_imports_no_program() -> None:
    for name in SHARED:
        others = {room(other) for other in edges()[f"twinstream.{name}"] if other != "twinstream"}
        assert others <= {*SHARED}, name


@pytest.mark.parametrize("start", sorted(ARROWS))
def test_a_room_imports_only_the_rooms_below_it(start: str) -> None:
    program = start.split(".")[0]
    for name in in_program(program):
        if room(name) == start:
            others = {room(other) for other in edges()[name] if other.split(".")[1:2] == [program]}
            assert others - {start, program} <= ARROWS[start], name


def test_no_module_imports_itself_by_way_of_others() -> None:
    left = {name: set(others) for name, others in edges().items()}
    while True:
        free = {name for name, others in left.items() if not others}
        if not free:
            break
        left = {name: others - free for name, others in left.items() if name not in free}
    assert left == {}, "these modules import one another in a circle"


@pytest.mark.parametrize("program", sorted(FORBIDDEN))
def test_a_program_does_without_some_libraries(program: str) -> None:
    for name in in_program(program):
        libraries = libraries_of(modules()[name])
        allowed = {"torchvision"} if name in ENGINE_MODULES else set()
        assert not libraries & (FORBIDDEN[program] - allowed), name


def test_every_engine_of_the_registry_is_a_module_here() -> None:
    assert modules().keys() >= ENGINE_MODULES


def test_every_family_of_the_registry_is_a_module_here() -> None:
    assert modules().keys() >= {family.branch.rpartition(".")[0] for family in FAMILIES}


def test_only_the_session_imports_ray() -> None:
    users = {name for name, path in modules().items() if "ray" in libraries_of(path)}
    assert users == {"twinstream.preprocess.cluster.session"}


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_a_library_is_imported_in_its_room_alone(library: str) -> None:
    users = {room(name) for name, path in modules().items() if library in libraries_of(path)}
    assert users == OWNERS[library]


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
