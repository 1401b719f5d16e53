"""What `pip install` leaves behind: one name at the top, every module under it, and commands that
work beside a user's files of any name.
"""

import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

import twinstream
from tests.support.paths import ROOT
from tests.support.videos import moving_square, write_video

# Folder of the checkout, and where the wheel has it
PACKAGES = {
    "twinstream": "twinstream",
    "preprocess": "twinstream/preprocess",
    "shards": "twinstream/shards",
    "train": "twinstream/train",
}
PYTHON = sys.executable
TWINSTREAM = [PYTHON, "-m", "twinstream"]
TORCHRUN = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PIP_WHEEL = [PYTHON, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
# What the top of site-packages had before everything was twinstream.*
USERS_FILES = ("train.py", "shards.py", "pipeline.py", "preprocess/__init__.py")
MARK_IMPORT = "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\n"
PATIENCE = 240.0


def run(command: list[str], folder: Path, path: Path | None = None) -> str:
    """Its output; what `path` holds is as good as installed."""
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_checkout(folder: Path) -> Path:
    """What `git archive` has of the package, its links as links: building leaves files behind."""
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "pipeline.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


def build_wheel(source: Path, out: Path) -> Path:
    """From a folder or an sdist."""
    run([*PIP_WHEEL, "--wheel-dir", str(out), str(source)], out.parent)
    (wheel,) = out.glob("twinstream-*.whl")
    return wheel


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build from."""
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout."""
    return build_wheel(checkout, tmp_path_factory.mktemp("dist") / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `pip install --target` fills it, to be put on PYTHONPATH."""
    folder = tmp_path_factory.mktemp("installed")
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A user's folder whose modules have names like our folders, and leave a mark when imported."""
    for name in USERS_FILES:
        path = tmp_path / "user" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MARK_IMPORT)
    return tmp_path / "user"


def imported_files(folder: Path) -> list[str]:
    """The user's files that someone imported."""
    return sorted(path.name for path in folder.rglob("*.imported"))


def assert_holds_the_package_alone(wheel: Path) -> None:
    """Every module of the four folders and pipeline.yaml, as plain files of the same bytes."""
    expected = {
        f"{inside}/{path.relative_to(ROOT / folder).as_posix()}": path.read_bytes()
        for folder, inside in PACKAGES.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".typed", ".yaml", ".cu")
    }
    with ZipFile(wheel) as archive:
        top = {info.filename.partition("/")[0] for info in archive.infolist()}
        files = {
            info.filename: archive.read(info)
            for info in archive.infolist()
            if info.filename.startswith("twinstream/") and stat.S_ISREG(info.external_attr >> 16)
        }
    (dist_info,) = top - {"twinstream"}
    assert dist_info.startswith("twinstream-")
    assert dist_info.endswith(".dist-info")
    assert files.keys() == expected.keys()
    assert files == expected
    assert "twinstream/py.typed" in files


def test_the_wheel_of_a_checkout_holds_every_module_and_nothing_else_at_the_top(
    wheel: Path,
) -> None:
    assert_holds_the_package_alone(wheel)


def test_so_does_the_wheel_of_its_source_distribution(checkout: Path, tmp_path: Path) -> None:
    code = f"import setuptools.build_meta; setuptools.build_meta.build_sdist({str(tmp_path)!r})"
    run([PYTHON, "-c", code], checkout)
    (sdist,) = tmp_path.glob("*.tar.gz")
    assert_holds_the_package_alone(build_wheel(sdist, tmp_path / "wheel"))


def test_no_link_of_the_long_description_is_relative(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        about = archive.read(name).decode()
    assert "Description-Content-Type: text/markdown\n" in about
    text = about.partition("\n\n")[2]
    assert "(docs/results.md)" in text
    assert not re.search(r"\]\((?![a-z]+:|#)", text)


def test_links_lead_to_the_source_where_its_address_is_known() -> None:
    portable = runpy.run_path(str(ROOT / "setup.py"))["portable"]
    text = "[page](docs/a.md#b), [paper](https://arxiv.org/x) and [below](#below)"
    assert portable(text, None) == "page, [paper](https://arxiv.org/x) and [below](#below)"
    assert portable(text, "https://host/code/") == text.replace("docs/", "https://host/code/docs/")


def test_one_line_of_the_documentation_installs_what_training_needs_and_no_more() -> None:
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text())
    all_names = {re.split(r"[^\w-]", line)[0] for line in tree["project"]["dependencies"]}
    text = (ROOT / "docs" / "install.md").read_text()
    (line,) = re.findall(r"^    pip install --no-deps \. && pip install (.*)", text, re.M)
    left_out = {"av", "numba", "opencv-contrib-python", "ray"}
    assert {*line.split()} == all_names - left_out | {"opencv-python-headless"}


def test_the_version_is_the_same_in_every_file_that_names_it() -> None:
    version = twinstream.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_importing_twinstream_loads_neither_torch_nor_ray_nor_av(
    installed: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, twinstream\n"
        "heavy = {'torch', 'ray', 'av', 'cv2', 'numba', 'pyarrow', 'matplotlib'}\n"
        "print(twinstream.__file__, *heavy & set(sys.modules))"
    )
    output = run([PYTHON, "-c", code], tmp_path, installed)
    assert output.split() == [str(installed / "twinstream" / "__init__.py")]


def test_commands_work_in_a_folder_with_a_users_train_and_shards_and_preprocess(
    users_folder: Path, dataset: Path, installed: Path
) -> None:
    code = "import twinstream; print(twinstream.__file__)"
    assert str(installed) in run([PYTHON, "-c", code], users_folder, installed)
    assert "preprocess" in run([*TWINSTREAM, "--help"], users_folder, installed)
    info = run([*TWINSTREAM, "shards", "info", str(dataset)], users_folder, installed)
    assert "train" in info
    # Its text is that of pipeline.yaml, which lies beside the packages in a checkout.
    assert run([*TWINSTREAM, "init"], users_folder, installed) == "pipeline.yaml\n"
    assert "hold_out: 0.2" in (users_folder / "pipeline.yaml").read_text()
    assert imported_files(users_folder) == []


def test_rays_workers_import_nothing_of_the_users_folder(
    users_folder: Path, installed: Path
) -> None:
    for number in range(2):
        path = users_folder / "videos" / "train" / "left" / f"{number}.avi"
        write_video(path, moving_square(7, width=32, height=32))
    tree = {
        "dataset": {"kind": "folders", "root": "videos"},
        "preprocess": {"size": 32, "workers": 1, "engine": "opencv"},
        "shards": {"path": "out"},
    }
    (users_folder / "pipeline.yaml").write_text(yaml.safe_dump(tree))
    assert "2 written" in run([*TWINSTREAM, "preprocess"], users_folder, installed)
    assert (users_folder / "out" / "dataset.json").exists()
    assert imported_files(users_folder) == []


def test_training_by_torchrun_imports_nothing_of_the_users_folder(
    users_folder: Path, dataset: Path, installed: Path
) -> None:
    tree = {
        "shards": {"path": str(dataset)},
        "model": {"kind": "flow", "depth": 18, "rgb_weights": None, "flow_weights": None},
        "train": {
            "stages": ["flow"],
            "epochs": 1,
            "batch_size": 2,
            "segments": 1,
            "crop_size": 40,
            "workers": 1,
            "device": "cpu",
        },
    }
    (users_folder / "pipeline.yaml").write_text(yaml.safe_dump(tree))
    run([*TORCHRUN, "-m", "twinstream.train", "--out", "run"], users_folder, installed)
    assert (users_folder / "run" / "checkpoint.pt").exists()
    assert imported_files(users_folder) == []
