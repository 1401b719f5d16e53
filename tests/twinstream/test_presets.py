"""What `twinstream init` writes, and the settings file that a command takes."""

from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.paths import ROOT
from twinstream.cli import PRESET_NAMES, load_settings
from twinstream.errors import InputError
from twinstream.presets import PRESETS, preset_text
from twinstream.section import build_settings, read_settings
from twinstream.settings import Settings


def test_the_command_line_knows_the_presets() -> None:
    assert tuple(PRESETS) == PRESET_NAMES


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_is_the_shipped_file_with_its_own_values(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "init", "--preset", name) == 0
    changes = [f"{path}={value}" for path, value in PRESETS[name][1].items()]
    written = tmp_path / "pipeline.yaml"
    assert read_settings(Settings, written) == build_settings(Settings, {}, changes)
    # Every key of the shipped file, in its place and with its comment.
    for mine, shipped in zip(
        written.read_text().splitlines()[3:],
        (ROOT / "pipeline.yaml").read_text().splitlines()[2:],
        strict=True,
    ):
        key, _, comment = shipped.partition("#")
        assert mine.startswith(key.partition(":")[0])
        assert comment.strip() in mine
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.yaml"]


def test_a_changed_line_names_the_default() -> None:
    lines = preset_text("laptop").splitlines()
    assert "  size: 128x128             # stored width x height; default: 256x256" in lines
    assert "  crop_size: 112            # default: 224" in lines
    assert "  momentum: 0.9" in lines


def test_init_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline.yaml").write_text("mine")
    assert run(monkeypatch, "init") == 1
    assert "pipeline.yaml: is there already" in capsys.readouterr().err
    assert (tmp_path / "pipeline.yaml").read_text() == "mine"


def test_a_command_takes_the_folders_settings_or_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(None, ("train.epochs=3",)).train.epochs == 3
    assert load_settings(None, ()) == Settings()
    (tmp_path / "pipeline.yaml").write_text("train: {epochs: 5}")
    assert load_settings(None, ()).train.epochs == 5
    assert load_settings(None, (), "videos").dataset.root == "videos"
    (tmp_path / "other.yaml").write_text("train: {epochs: 7}")
    assert load_settings(Path("other.yaml"), ()).train.epochs == 7
    # A file that was asked for by name is never replaced by the defaults.
    with pytest.raises(InputError, match=r"absent\.yaml: no such settings file"):
        load_settings(Path("absent.yaml"), ())
