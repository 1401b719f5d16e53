"""The command line: help with an example everywhere, and one line for every fault of the user's."""

import logging
from pathlib import Path

import click
import pytest

from tests.support.command import run
from tests.support.datasets import rewritten
from twinstream import cli, demo
from twinstream.progress import LOGGER


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path] if path else []
    for name, command in group.commands.items():
        found += (
            commands(command, (*path, name))
            if isinstance(command, click.Group)
            else [(*path, name)]
        )
    return found


@pytest.mark.parametrize("path", commands(cli.cli), ids=" ".join)
def test_every_command_has_help_with_an_example(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *path, "--help") == 0
    assert f"Example: twinstream {path[0]}" in capsys.readouterr().out


def test_a_wrong_option_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "preprocess", "--no-such-option") == 2
    assert run(monkeypatch, "no-such-command") == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("preprocess", "-c", "absent.yaml"),
        ("train", "-c", "absent.yaml", "--out", "run"),
        ("shards", "info", "absent"),
        ("shards", "verify", "absent"),
        ("shards", "preview", "absent"),
        ("test", "absent"),
        ("predict", "absent", "video.mp4"),
    ],
    ids=" ".join,
)
def test_an_absent_input_is_one_line_and_code_1(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("twinstream: absent")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_info_verify_and_preview_tell_of_a_sound_dataset(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "shards", "verify", str(dataset)) == 0
    assert run(monkeypatch, "shards", "info", str(dataset)) == 0
    printed = capsys.readouterr().out
    assert f"{dataset}: sound" in printed
    assert "train: 3 samples of 2 classes in 2 shards, 24 frames" in printed
    picture = tmp_path / "preview.png"
    assert (
        run(
            monkeypatch,
            "shards",
            "preview",
            str(dataset),
            "--key",
            "left/train0",
            "--out",
            str(picture),
        )
        == 0
    )
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_verify_names_each_fault_and_ends_with_code_1(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "test" / "test-000000.tar").unlink()
    rewritten(dataset, "videos.parquet", b"no table")
    assert run(monkeypatch, "shards", "verify", str(dataset)) == 1
    printed = capsys.readouterr().err.splitlines()
    assert "test/test-000000.tar: No such file or directory" in printed
    assert printed[-1] == f"twinstream: {dataset}: 2 faults"


def test_an_unknown_key_of_a_preview_is_told(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "shards", "preview", str(dataset), "--key", "nobody") == 1
    assert "no sample 'nobody' among 5" in capsys.readouterr().err


def test_a_demo_does_not_delete_what_it_did_not_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("precious")
    assert run(monkeypatch, "demo", "--out", str(tmp_path)) == 1
    assert "no demo made it" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_demo_does_not_delete_what_another_demo_is_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"

    def second(*arguments: object) -> dict[str, float]:
        (out / "videos").mkdir()
        monkeypatch.setattr(demo, "_run", pytest.fail)
        assert run(monkeypatch, "demo", "--out", str(out)) == 1
        assert "in use by process" in capsys.readouterr().err
        return {}

    monkeypatch.setattr(demo, "_run", second)
    demo.run_demo(out)
    assert sorted(path.name for path in out.iterdir()) == [".twinstream-demo", "videos"]
    monkeypatch.setattr(demo, "_run", lambda *arguments: {})
    demo.run_demo(out)
    assert [path.name for path in out.iterdir()] == [".twinstream-demo"]


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (("shards", "info", "x"), logging.INFO),
        (("-q", "shards", "info", "x"), logging.WARNING),
        (("shards", "-q", "info", "x"), logging.WARNING),
        (("shards", "info", "x", "--quiet"), logging.WARNING),
        (("shards", "info", "-v", "x"), logging.DEBUG),
        (("-q", "shards", "info", "-v", "x"), logging.DEBUG),
    ],
)
def test_how_much_is_told_may_be_said_before_or_behind_a_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], level: int
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 1
    assert LOGGER.level == level


@pytest.mark.parametrize("option", ["-v", "-q"])
def test_verbose_tells_where_an_error_arose_above_its_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
) -> None:
    assert run(monkeypatch, option, "shards", "info", str(tmp_path / "none")) == 1
    *above, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"twinstream: {tmp_path / 'none'}: no dataset.json")
    assert ("Traceback (most recent call last):" in above) == (option == "-v")


@pytest.mark.parametrize("command", [("attention", "--key", "k"), ("export", "--format", "onnx")])
def test_a_file_in_no_folder_is_found_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
) -> None:
    out = tmp_path / "none" / "file"
    assert run(monkeypatch, *command, "run", "--out", str(out)) == 1
    assert capsys.readouterr().err == (
        f"twinstream: --out {out}: the folder {out.parent} is not there; name another file\n"
    )


def test_a_package_that_was_left_out_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks(*arguments: object) -> None:
        raise ModuleNotFoundError("No module named 'ray'", name="ray")

    monkeypatch.setattr("twinstream.cli.load_settings", lacks)
    assert run(monkeypatch, "preprocess") == 1
    assert capsys.readouterr().err == (
        "twinstream: this needs ray, which is not installed; run `pip install ray`\n"
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "MemoryError"),
        (RuntimeError("x.cpp:1\nCUDA out of memory. Tried to allocate"), "CUDA out of memory. Tr"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "DefaultCPUAllocator: "),
    ],
)
def test_memory_that_is_refused_is_one_line(
    error: Exception,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(out: Path) -> None:
        raise error

    monkeypatch.setattr(demo, "run_demo", fail)
    assert run(monkeypatch, "demo") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"twinstream: no memory left: {told}")
    assert said.count("\n") == 1


def test_another_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(out: Path) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(demo, "run_demo", fail)
    with pytest.raises(RuntimeError, match="ours"):
        run(monkeypatch, "demo")
