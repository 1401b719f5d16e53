"""Every file that a command writes, on a disk that takes no more: one line that names the file or
the folder and what to do, nothing half written, and what was there before stays.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.support.command import run
from tests.support.datasets import bare
from tests.support.digests import digests
from tests.support.disks import small_disk, small_files
from twinstream.errors import InputError
from twinstream.shards.format.flow_codec import LEVELS_PER_SIDE, ZERO_LEVEL
from twinstream.shards.format.manifest import FlowCodec
from twinstream.shards.preview import save_figure, write_video
from twinstream.shards.rawframes.exporter import export_rawframes
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.write.combine import merge, subset
from twinstream.shards.write.index_tars import index_dataset
from twinstream.train.score.predictions import Predictions, write_predictions

CODEC = FlowCodec(bound=20, zero=ZERO_LEVEL, levels=LEVELS_PER_SIDE)
RNG = np.random.default_rng(0)


def write_some_predictions(path: Path) -> None:
    scores = RNG.random((200, 50)).astype(np.float32)
    keys = tuple(map(str, range(200)))
    write_predictions(path, Predictions(keys, np.zeros(200, np.int64), {"rgb": scores}, {}))


def draw(path: Path) -> None:
    figure = Figure()
    figure.subplots().imshow(RNG.random((99, 99)))
    save_figure(figure, path, dpi=100)


def film(path: Path) -> None:
    write_video((RNG.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(20)), 25, path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "metrics.json": lambda path: write_atomically(path, bytes(10_000)),
    "predictions.parquet": write_some_predictions,
    "figure3.png": draw,
    "figure3.pdf": draw,
    "walk.mp4": film,
}


@pytest.mark.parametrize("limit", [0, 3000])
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_named_and_the_one_before_stays(tmp_path: Path, name: str, limit: int) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    before = digests(tmp_path)
    with pytest.raises(OSError, match="File too large") as told, small_files(limit):
        WRITERS[name](path)
    assert told.value.filename == str(path)
    assert digests(tmp_path) == before


BUILDERS: dict[str, Callable[[Path, Path], Any]] = {
    "finished shards are kept": lambda dataset, out: merge([dataset], out),
    "finished folders are kept": export_rawframes,
}


@pytest.mark.parametrize("kept", BUILDERS)
@pytest.mark.parametrize("limit", [0, 600])
def test_a_builder_names_its_folder_and_goes_on_when_there_is_room(
    dataset: Path, tmp_path: Path, kept: str, limit: int
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    with pytest.raises(InputError) as told, small_files(limit):
        BUILDERS[kept](dataset, out)
    assert str(told.value) == f"--out {out}: File too large; {kept}, run the same command again"
    assert not list(out.rglob(".*"))
    BUILDERS[kept](dataset, out)
    BUILDERS[kept](dataset, whole)
    assert digests(out) == digests(whole)


def test_an_index_of_tars_on_a_full_disk_is_one_line_and_goes_on(
    dataset: Path, tmp_path: Path
) -> None:
    folder, whole = bare(dataset), tmp_path / "whole"
    shutil.copytree(folder, whole)
    with pytest.raises(InputError) as told, small_files(2000):
        index_dataset(folder, CODEC)
    assert str(told.value) == (
        f"{folder}: File too large; finished indexes are kept, run the same command again"
    )
    index_dataset(folder, CODEC)
    index_dataset(whole, CODEC)
    assert digests(folder) == digests(whole)


def test_on_a_disk_that_is_full_commands_say_to_make_room(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with small_disk(tmp_path / "disk", 16 * 2**10) as disk:
        picture, out = disk / "preview.png", disk / "part"
        assert run(monkeypatch, "shards", "preview", str(dataset), "--out", str(picture)) == 1
        assert run(monkeypatch, "shards", "subset", str(dataset), "--out", str(out)) == 1
        assert capsys.readouterr().err.splitlines() == [
            f"twinstream: {picture}: No space left on device; make room and run the same command "
            "again",
            f"twinstream: --out {out}: No space left on device; finished shards are kept, make "
            "room and run the same command again",
        ]


def test_a_folder_that_another_run_builds_is_refused(dataset: Path, tmp_path: Path) -> None:
    """By each builder, from within the other: it holds the folder while it works."""
    out = tmp_path / "out"

    def refused(build: Callable[[], object]) -> Callable[[str], None]:
        def check(step: str) -> None:
            with pytest.raises(InputError, match=rf"^{out}: in use by process \d+ on host .*\)"):
                build()

        return check

    merge([dataset], out, refused(lambda: subset(dataset, out, split="train")))
    shutil.rmtree(out)
    export_rawframes(dataset, out, refused(lambda: export_rawframes(dataset, out)))
    shutil.rmtree(out)
    shutil.copytree(dataset, out)
    bare(out)
    index_dataset(out, CODEC, refused(lambda: index_dataset(out, CODEC)))
