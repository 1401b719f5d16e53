"""The README's own commands, as they stand there, from a folder of videos to a video's class."""

import re
import shlex
from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.paths import ROOT
from tests.support.videos import moving_square, write_video
from twinstream.preprocess import doctor
from twinstream.preprocess.flow.engines import resolve_engine

# In the place of what init has written: the same road, short, and with no weights to download.
SMALL = {
    "size": "48x48",
    "rgb_weights": "null",
    "flow_weights": "null",
    "epochs": "1",
    "batch_size": "4",
    "segments": "1",
    "crop_size": "40",
    "workers": "1",
}


def commands(section: str) -> list[list[str]]:
    """The words of each line of the first code block below a heading of the README."""
    text = (ROOT / "README.md").read_text().partition(f"\n## {section}\n")[2]
    block = re.search(r"(?:\n {4}.*)+", text)
    assert block is not None
    return [shlex.split(line, comments=True) for line in block[0].split("\n")[1:]]


def draw(folder: Path) -> None:
    for name, step in (("left", 3), ("right", 1)):
        for number in range(4):
            frames = moving_square(8, step=step)[:, :, :: -1 if name == "left" else 1]
            write_video(folder / "videos" / name / f"{number}.avi", frames)
    write_video(folder / "video.mp4", moving_square(8))


def make_small(path: Path) -> None:
    text = path.read_text()
    for key, value in SMALL.items():
        text, count = re.subn(rf"(?m)^  {key}: \S+", f"  {key}: {value}", text)
        assert count, key
    path.write_text(text)


def test_the_commands_of_the_readme_lead_to_a_class_for_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path)
    monkeypatch.chdir(tmp_path)
    # Rates have tests of their own; the slowest engine would take longer than all the rest.
    monkeypatch.setattr(doctor, "measured_engines", lambda: [resolve_engine("auto")])
    install, *lines = commands("Your videos")
    assert install == ["pip", "install", "."]
    printed = {}
    for program, *arguments in lines:
        assert program == "twinstream"
        assert run(monkeypatch, *arguments) == 0, arguments
        printed[arguments[0]] = capsys.readouterr().out
        if arguments[0] == "init":
            make_small(tmp_path / "pipeline.yaml")
    assert "8 usable" in printed["check"]
    assert printed["preprocess"].startswith("8 written")
    counts = dict(
        reversed(part.split()) for part in printed["preprocess"].splitlines()[1].split(", ")
    )
    assert {*counts} == {"train", "test"}
    assert int(counts["test"]) >= 2
    assert "left" in printed["predict"]
    assert "right" in printed["predict"]
    for made in ("preview.png", "runs/cma/metrics.json", "report/report.html"):
        assert (tmp_path / made).stat().st_size > 0, made
