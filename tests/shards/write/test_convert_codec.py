"""Conversion of the flow codec: the same motion in our codec, all else byte for byte."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import run
from tests.support.datasets import bare, write_dataset
from tests.support.digests import digests
from tests.support.rawframes import stored
from twinstream.errors import InputError
from twinstream.preprocess.settings import made_settings
from twinstream.shards.format.flow_codec import cut_at
from twinstream.shards.format.image import decode_gray, encode_jpeg
from twinstream.shards.format.manifest import our_codec, read_manifest
from twinstream.shards.format.video_table import VideoRow, read_videos
from twinstream.shards.rawframes.importer import foreign_codec, import_rawframes
from twinstream.shards.rawframes.videos import found_videos
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_flow, read_meta
from twinstream.shards.storage.location import file_sha256
from twinstream.shards.verify import faults
from twinstream.shards.write.combine import merge
from twinstream.shards.write.convert_codec import FlowChange, convert_codec
from twinstream.shards.write.index_tars import index_dataset
from twinstream.train.data.normalise import refuse_other_codec

SIZE = (16, 24)
# Half a level of ours at 20 px, and two levels of each JPEG's noise.
TOLERANCE = 20 / 127 / 2 + 2 * 20 / 127


def draw_denseflow(folder: Path, *, seed: int | None, num_frames: int = 4) -> None:
    """A video as denseflow writes it, byte = round(127.5 + v * 127.5 / 20): smooth motion, or none
    without a seed.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for t in range(num_frames):
        frame = np.full((*SIZE, 3), 20 * t, np.uint8)
        (folder / f"img_{t:05d}.jpg").write_bytes(encode_jpeg(frame, 95))
    for t in range(num_frames - 1):
        for axis in "xy":
            slope = np.linspace(*rng.uniform(-25, 25, 2), SIZE[1]).clip(-20, 20)
            motion = np.zeros(SIZE) if seed is None else np.tile(slope, (SIZE[0], 1))
            levels = np.rint(127.5 + motion * 127.5 / 20).astype(np.uint8)
            (folder / f"flow_{axis}_{t:05d}.jpg").write_bytes(encode_jpeg(levels, 95))


def bring_in(root: Path, out: Path, zero: float = 127.5) -> Path:
    found = found_videos(root, None)
    codec = foreign_codec(20, zero, 127.5)
    import_rawframes(root, out, found.videos, found.classes, codec, videos_per_shard=2)
    return out


@pytest.fixture
def denseflow(tmp_path: Path) -> Path:
    """An imported dataset of denseflow's codec: a still video, one that moves, a test video, and a
    folder that a list could name.
    """
    root = tmp_path / "frames"
    draw_denseflow(root / "train" / "walk" / "still", seed=None)
    draw_denseflow(root / "train" / "run" / "moving", seed=1)
    draw_denseflow(root / "test" / "walk" / "moving", seed=2, num_frames=6)
    return bring_in(root, tmp_path / "denseflow")


def convert(path: Path, out: Path, **options: object) -> tuple[list[VideoRow], FlowChange]:
    rows, change = convert_codec(path, out, **{"default_quality": 95} | options)
    return list(rows), change


def motion(dataset: Path) -> dict[str, np.ndarray]:
    """(T, H, W, 2) pixels of each sample, by key."""
    opened = ShardDataset(dataset)
    return {
        sample.index.key: opened.flow_pixels(read_flow(sample, 0, sample.index.num_frames - 1))
        for samples in opened.splits.values()
        for sample in samples
    }


def test_the_same_motion_is_stored_in_our_codec_and_all_else_as_it_was(
    denseflow: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rows, change = convert(denseflow, out)
    assert list(faults(out)) == []
    assert read_manifest(out).flow_codec == our_codec(20)
    before, after = motion(denseflow), motion(out)
    assert before.keys() == after.keys()
    differences = {key: np.abs(after[key] - before[key]) for key in before}
    assert max(difference.max() for difference in differences.values()) < TOLERANCE
    assert change.largest == max(difference.max() for difference in differences.values())
    everything = np.concatenate([difference.ravel() for difference in differences.values()])
    assert change.mean == pytest.approx(everything.mean(dtype=np.float64), rel=1e-5)
    ours, theirs = stored(out), stored(denseflow)
    for key, images in theirs.items():
        num_frames = (len(images) + 2) // 3
        assert ours[key][:num_frames] == images[:num_frames]
        assert len(ours[key]) == len(images)
    kept = ("key", "path", "class_name", "label", "split", "status", "num_frames", "width", "fps")
    assert sorted(rows, key=lambda row: row.key) == read_videos(out / "videos.parquet")
    for row, old in zip(
        read_videos(out / "videos.parquet"), read_videos(denseflow / "videos.parquet"), strict=True
    ):
        assert [getattr(row, name) for name in kept] == [getattr(old, name) for name in kept]
        assert row.mean_flow == pytest.approx(np.linalg.norm(after[row.key], axis=-1).mean(), 1e-5)
        assert row.saturated is None
    new, old = ShardDataset(out), ShardDataset(denseflow)
    assert read_manifest(out).classes == read_manifest(denseflow).classes
    for key in before:
        assert read_meta(new.sample(key)) == read_meta(old.sample(key))


@pytest.mark.parametrize("bound", [None, 20.0, 7.3, 100.0])
def test_no_motion_is_exactly_128_after_it(denseflow: Path, tmp_path: Path, bound: float) -> None:
    convert(denseflow, tmp_path / "out", bound=bound)
    flow = stored(tmp_path / "out")["train/walk/still"][4:]
    assert {int(level) for jpeg in flow for level in np.unique(decode_gray(jpeg))} == {128}
    assert not motion(tmp_path / "out")["train/walk/still"].any()


def test_what_was_converted_is_known_and_merges_with_ours_and_trains(
    denseflow: Path, dataset: Path, tmp_path: Path
) -> None:
    command = rf"`twinstream shards convert-codec {denseflow} --bound 20\.0 --out OUT`"
    for sources in ([dataset, denseflow], [denseflow, dataset]):
        with pytest.raises(InputError, match=f"of two codecs cannot be mixed; {command} enc"):
            merge(sources, tmp_path / "both")
    convert(denseflow, tmp_path / "out")
    settings = read_manifest(tmp_path / "out").settings
    assert settings == {
        "convert.source": file_sha256(denseflow / "dataset.json"),
        "convert.codec": {"bound": 20.0, "zero": 127.5, "levels": 127.5},
        "convert.bound": 20.0,
        "convert.jpeg_quality": 95,
        "import.layout": "auto",
        "import.index_base": 0,
        "shards.videos_per_shard": 2,
    }
    merge([dataset, tmp_path / "out"], tmp_path / "both")
    assert list(faults(tmp_path / "both")) == []
    assert len(read_videos(tmp_path / "both" / "videos.parquet")) == 8
    codec = read_manifest(tmp_path / "both").flow_codec
    refuse_other_codec("both", codec.zero, codec.levels)
    with pytest.raises(InputError, match=r"`twinstream shards convert-codec d --out OUT` makes"):
        refuse_other_codec("d", 127.5, 127.5)


def test_two_imports_with_other_zeros_merge_after_it(denseflow: Path, tmp_path: Path) -> None:
    draw_denseflow(tmp_path / "more" / "swim" / "v", seed=3)
    convert(bring_in(tmp_path / "more", tmp_path / "x", zero=127), tmp_path / "a")
    convert(denseflow, tmp_path / "b")
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    assert list(faults(tmp_path / "both")) == []
    # 20 px over 127.5 levels from 128 on is our line with another bound.
    third = bring_in(tmp_path / "more", tmp_path / "y", zero=128)
    with pytest.raises(InputError, match=r"convert-codec .*/y --bound 20\.0 --out OUT`"):
        merge([tmp_path / "b", third], tmp_path / "all")
    convert(third, tmp_path / "c", bound=20.0)
    merge([tmp_path / "b", tmp_path / "c"], tmp_path / "all")


@pytest.mark.parametrize("bound", [None, 20.0])
def test_a_dataset_that_has_the_codec_is_not_converted(
    dataset: Path, tmp_path: Path, bound: float | None
) -> None:
    with pytest.raises(InputError, match=r"has zero 128, 127 levels and bound 20\.0 already"):
        convert(dataset, tmp_path / "out", bound=bound)
    assert not (tmp_path / "out").exists()


def test_a_smaller_bound_clips_and_tells_how_much_lies_beyond_it(
    dataset: Path, tmp_path: Path
) -> None:
    # Field t of the dataset moves t pixels: of left/train0 fields 0 to 5, of which 4 and 5 clip.
    rows, change = convert(dataset, tmp_path / "out", bound=3.5)
    assert list(faults(tmp_path / "out")) == []
    (row,) = (row for row in rows if row.key == "left/train0")
    assert row.saturated == pytest.approx(2 / 6)
    assert row.mean_flow == pytest.approx((0 + 1 + 2 + 3 + 3.5 + 3.5) / 6, abs=0.1)
    assert change.largest == pytest.approx(7 - 3.5, abs=0.1)
    # New videos are made like the dataset's by this setting.
    assert read_manifest(tmp_path / "out").settings["preprocess.bound"] == 3.5
    rows, _ = convert(dataset, tmp_path / "wide", bound=40)
    assert {row.saturated for row in rows} == {None}


def test_flow_has_the_quality_of_the_dataset_or_the_default(
    denseflow: Path, dataset: Path, tmp_path: Path
) -> None:
    convert(denseflow, tmp_path / "good")
    convert(denseflow, tmp_path / "poor", default_quality=20)
    key = "train/run/moving"
    good, poor = (stored(tmp_path / name)[key][4] for name in ("good", "poor"))
    assert len(poor) < len(good)
    assert read_manifest(tmp_path / "poor").settings["convert.jpeg_quality"] == 20


def test_a_conversion_that_was_stopped_goes_on_to_the_same_bytes(
    denseflow: Path, tmp_path: Path
) -> None:
    convert(denseflow, tmp_path / "whole")

    def stop(key: str) -> None:
        if key.startswith("train"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(denseflow, tmp_path / "out", progress=stop)
    assert len(list((tmp_path / "out").rglob("*.tar"))) == 1
    _, rest = convert(denseflow, tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert 0 < rest.num_values < convert(denseflow, tmp_path / "again")[1].num_values
    assert convert(denseflow, tmp_path / "out")[1].num_values == 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"bound": 10.0}, r"convert\.bound = 20\.0, not 10\.0; choose another --out"),
        ({"default_quality": 50}, r"convert\.jpeg_quality = 95, not 50; choose another --out"),
    ],
)
def test_another_dataset_in_the_output_is_refused(
    denseflow: Path, tmp_path: Path, other: dict[str, object], message: str
) -> None:
    out = tmp_path / "out"
    convert(denseflow, out)
    before = digests(out)
    with pytest.raises(InputError, match=message):
        convert(denseflow, out, **other)
    with pytest.raises(InputError, match="choose another --out"):
        convert(denseflow, denseflow)
    assert digests(out) == before


def test_images_that_are_not_of_their_sample_are_named(tmp_path: Path) -> None:
    """Tars that were indexed have images that nobody has looked at."""
    dataset = bare(write_dataset(tmp_path / "d", {"test": 1}))
    tar = dataset / "test" / "test-000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole.replace(b'"height":24', b'"height":25'))
    index_dataset(dataset, foreign_codec(20, 127.5, 127.5))
    with pytest.raises(InputError, match="d: left/test0: its JPEG is 24 by 32, expected 25 by 32"):
        convert(dataset, tmp_path / "out")


def test_what_a_larger_bound_cannot_bring_back_is_told_by_all_who_use_it(
    dataset: Path,
    denseflow: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def to(source: Path, name: str, bound: float) -> str:
        command = ("shards", "convert-codec", str(source), "--out", str(tmp_path / name))
        assert run(monkeypatch, *command, "--bound", str(bound)) == 0
        return capsys.readouterr().out

    assert "stays" not in to(dataset, "small", 1)
    assert to(tmp_path / "small", "wide", 20).endswith("; motion beyond 1 px stays cut\n")
    # What is cut at 1 px is so at 10 px too, although it had 20 px in between.
    assert to(tmp_path / "wide", "between", 10).endswith("; motion beyond 1 px stays cut\n")
    assert "stays" not in to(tmp_path / "between", "again", 0.5)
    # 127.5 levels to 20 px are 127 to 19.92 px: no byte tells them apart.
    draw_denseflow(tmp_path / "more" / "swim" / "v", seed=3)
    third = bring_in(tmp_path / "more", tmp_path / "third", zero=128)
    assert "stays" not in to(third, "same", 20)
    made = {"preprocess.size": [32, 24], "preprocess.engine": "numba", "shards.jpeg_quality": 95}
    for name, cut in [("small", None), ("wide", 1), ("between", 1), ("again", None)]:
        settings = read_manifest(tmp_path / name).settings | made
        if cut is None:
            assert made_settings(settings, "d").bound == settings["preprocess.bound"]
            continue
        with pytest.raises(InputError, match=rf"^d: its flow was converted from bound {cut} to "):
            made_settings(settings, "d")
    command = ("shards", "merge", str(tmp_path / "wide"), str(tmp_path / "same"))
    assert run(monkeypatch, *command, "--out", str(tmp_path / "both")) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "stays" in line]
    assert told == [
        f"{tmp_path / 'wide'}: its bound was 1 px before it was converted to 20; motion beyond 1 "
        "px stays cut"
    ]
    # Of motion beyond 1 px the network has seen some.
    assert cut_at(read_manifest(tmp_path / "both").settings, 20) is None
    convert(denseflow, tmp_path / "two", bound=2)
    convert(tmp_path / "two", tmp_path / "wider", bound=20)
    merge([tmp_path / "wide", tmp_path / "wider"], tmp_path / "cut")
    assert cut_at(read_manifest(tmp_path / "cut").settings, 20) == 2


def test_the_command_tells_how_much_is_lost(
    denseflow: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ("shards", "convert-codec", str(denseflow), "--out", str(tmp_path / "out"))
    assert run(monkeypatch, *command) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"3 written -> {tmp_path / 'out'}"
    assert re.fullmatch(r"flow is changed by 0\.0\d+ px in the mean, 0\.\d+ px at most", second)
    again = ("shards", "convert-codec", str(tmp_path / "out"), "--out", str(tmp_path / "more"))
    assert run(monkeypatch, *again) == 1
    assert "already, so there is nothing to convert" in capsys.readouterr().err
