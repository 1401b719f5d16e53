"""The public face: cheap to import, typed, and as docs/python.md says."""

import ast
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import twinstream as ts
from tests.support.paths import ROOT
from tests.support.runs import write_run
from tests.support.videos import moving_square
from twinstream.preprocess.flow import frames_to_flow
from twinstream.preprocess.flow.engine import TvL1Params
from twinstream.preprocess.flow.engines import open_engine
from twinstream.shards.format.manifest import manifest_bytes
from twinstream.shards.read import dataset as reader
from twinstream.train.data.normalise import normalise

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import twinstream", "torch ray av numpy pyarrow numba cv2 pydantic"),
        ("import twinstream; twinstream.open_shards({!r})", "torch ray av numba"),
        ("import twinstream; twinstream.load_network", "ray av numba"),
        ("import twinstream; twinstream.tvl1", "torch ray av"),
    ],
)
def test_a_name_imports_what_it_needs_and_no_more(code: str, forbidden: str, dataset: Path) -> None:
    code = (
        f"{code.format(str(dataset))}\nimport sys\n"
        f"print(*set({forbidden.split()}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_is_there_and_known_to_type_checkers() -> None:
    tree = ast.parse((ROOT / "twinstream" / "__init__.py").read_text())
    typed = {
        alias.name: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == ts._MODULES
    assert ts.__all__ == sorted({"InputError", *typed}, key=lambda name: (name.islower(), name))
    assert {*ts.__all__, "__version__"} <= {*dir(ts)}
    for name in ts.__all__:
        assert getattr(ts, name).__doc__
    assert not hasattr(ts, "no_such_name")


def test_a_name_stays_what_it_is_when_its_module_is_imported_first() -> None:
    code = (
        "import twinstream.predictor, twinstream as ts\n"
        "print(callable(ts.predict), callable(ts.tvl1), callable(ts.snippets))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


def test_the_examples_of_the_documentation_run(
    preprocessed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "python.md").read_text())
    monkeypatch.chdir(preprocessed)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "<ShardDataset out/shards: 1 test, 4 train; 2 classes>\n('Run', 'Walk')\n10" in printed
    assert "0 Run train 12 25.0\n" in printed
    assert "torch.Size([6, 3, 40, 40]) torch.Size([6, 10, 40, 40]) tensor([" in printed
    assert "absent.mp4: missing: no such file\n" in printed
    assert names["by_video"].shape == (2, 2)
    assert names["found"].num_frames == 17


def test_a_sample_has_frames_and_flow_in_pixels(dataset: Path) -> None:
    sample = ts.open_shards(dataset)["right/train1"]
    assert (sample.key, sample.label, sample.class_name) == ("right/train1", 1, "right")
    assert (sample.split, sample.num_frames, sample.fps) == ("train", 8, 25.0)
    assert (sample.height, sample.width) == (24, 32)
    frames, flow = sample.frames([5, 0]), sample.flow(2, 3)
    assert (frames.shape, frames.dtype) == ((2, 24, 32, 3), np.uint8)
    assert (flow.shape, flow.dtype) == ((3, 24, 32, 2), np.float32)
    np.testing.assert_allclose(frames[:, 0, 0, 0], [50, 0], atol=2)
    np.testing.assert_allclose(flow[:, 0, 0], [(2, 0), (3, 0), (4, 0)], atol=0.1)
    assert sample.frames([]).shape == (0, 24, 32, 3)
    assert sample.flow(7, 0).shape == (0, 24, 32, 2)
    with pytest.raises(ts.InputError, match="flow field 6 to 7 asked for, it has 0 to 6"):
        sample.flow(6, 2)


def test_an_unknown_frame_rate_is_none(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = reader.read_meta
    changed = type(read(ts.open_shards(dataset).sample("left/train0")))
    monkeypatch.setattr(
        reader, "read_meta", lambda stored: changed(**{**vars(read(stored)), "fps": 0.0})
    )
    assert ts.open_shards(dataset)["left/train0"].fps is None


def test_a_dataset_tells_what_it_holds(dataset: Path) -> None:
    shards = ts.open_shards(str(dataset))
    assert (shards.classes, shards.codec.bound) == (("left", "right"), 20.0)
    assert {name: len(samples) for name, samples in shards.splits.items()} == {
        "test": 2,
        "train": 3,
    }
    assert len(shards) == 5
    assert sorted(shards.keys("test")) == ["left/test0", "right/test1"]
    assert [*shards] == [*shards.keys()]
    assert sorted(shards) == sorted([*shards.keys("test"), *shards.keys("train")])
    assert "left/test0" in shards
    assert "left/test9" not in shards
    assert shards.videos.num_rows == 5
    assert set(shards.videos["status"].to_pylist()) == {"written"}
    with pytest.raises(ts.InputError, match="no sample 'left/test9' among 5"):
        shards["left/test9"]
    with pytest.raises(ts.InputError, match="no split 'val'; it has test, train"):
        shards.keys("val")


def test_a_folder_without_shards_is_told(tmp_path: Path) -> None:
    with pytest.raises(ts.InputError, match=r"no dataset\.json"):
        ts.open_shards(tmp_path)


def test_tvl1_is_the_flow_of_the_engine_for_arrays_and_lists() -> None:
    rgb = moving_square(4)
    gray = frames_to_flow.gray_frames(rgb)
    expected = open_engine("reference", TvL1Params(warps=1, iterations=5))(gray)
    options = {"engine": "reference", "warps": 1, "iterations": 5}
    for frames in (rgb, gray, [*rgb], [*gray], rgb[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(ts.tvl1(frames, **options), expected)
    assert expected.shape == (3, 48, 64, 2)
    assert ts.tvl1(gray[:1], **options).shape == (0, 48, 64, 2)
    assert not np.array_equal(ts.tvl1(rgb, engine="reference", warps=1, iterations=9), expected)


def test_tvl1_opens_an_engine_once_and_takes_calls_of_several_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[tuple[str, int]] = []

    def opening(name: str, params: TvL1Params, *, threads: int) -> Any:
        opened.append((name, threads))
        return open_engine(name, params, threads=threads)

    frames_to_flow._opened.cache_clear()
    monkeypatch.setattr(frames_to_flow, "open_engine", opening)
    videos = [moving_square(5, step=step) for step in (1, 2, 3, 4)]
    alone = [ts.tvl1(video, warps=1, iterations=5) for video in videos]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda video: ts.tvl1(video, warps=1, iterations=5), videos))
    np.testing.assert_array_equal(alone, together)
    assert len(opened) == 1
    assert opened[0][1] == len(os.sched_getaffinity(0))
    frames_to_flow._opened.cache_clear()


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        (
            np.zeros((3, 32, 32), np.float32),
            {},
            r"frames are float32 \(3, 32, 32\), expected uint8",
        ),
        (np.zeros((32, 32, 3), np.uint8), {}, r"uint8 \(32, 32, 3\), expected uint8 \(T, H, W\)"),
        (np.zeros((32, 32), np.uint8), {}, r"uint8 \(32, 32\), expected"),
        (np.zeros((3, 32, 32, 4), np.uint8), {}, r"uint8 \(3, 32, 32, 4\), expected"),
        ([np.zeros((32, 32), np.uint8), np.zeros((32, 31), np.uint8)], {}, "all must be of one"),
        ([], {}, "expected uint8"),
        (np.zeros((2, 15, 32), np.uint8), {}, "at least 16 pixels a side"),
        (np.zeros((2, 32, 32), np.uint8), {"engine": "fast"}, "no engine is called 'fast'"),
        (np.zeros((2, 32, 32), np.uint8), {"threads": 0}, "threads is 0"),
        (np.zeros((2, 32, 32), np.uint8), {"tua": 1}, "did you mean tau"),
        (np.zeros((2, 32, 32), np.uint8), {"warps": 0}, "warps: .* not 0"),
    ],
)
def test_what_tvl1_cannot_use_is_one_line(
    frames: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ts.InputError, match=message) as printed:
        ts.tvl1(frames, **options)
    assert "\n" not in str(printed.value)


def test_snippets_are_those_of_training_in_any_data_loader(dataset: Path) -> None:
    shards = ts.open_shards(dataset)
    options = {"segments": 2, "crop_size": 20, "batch_size": 2, "seed": 3}
    first, again, next_epoch = (
        list(DataLoader(batches.dataset, batch_sampler=batches.sampler, num_workers=workers))
        for workers, epoch in ((0, 0), (2, 0), (0, 1))
        for batches in [ts.snippets(shards, "train", epoch=epoch, **options)]
    )
    assert [len(labels) for *_, labels in first] == [2, 1]
    rgb, flow, scale, labels = first[0]
    assert (rgb.shape, rgb.dtype) == ((2, 2, 3, 20, 20), torch.uint8)
    assert (flow.shape, flow.dtype) == ((2, 2, 10, 20, 20), torch.uint8)
    assert (scale.shape, labels.dtype) == ((2, 2), torch.int64)
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(first[0], next_epoch[0], strict=True))
    frames, stacks = ts.network_inputs(rgb, flow, scale)
    assert (frames.shape, stacks.shape) == ((4, 3, 20, 20), (4, 10, 20, 20))
    expected = normalise(rgb[1], flow[1], scale[[1, 1]])
    assert torch.equal(frames[2:], expected[0])
    assert torch.equal(stacks[2:], expected[1])


def test_snippets_can_be_clips(dataset: Path) -> None:
    shards = ts.open_shards(dataset)
    options = {"segments": 2, "crop_size": 20, "batch_size": 2, "clip_length": 3, "clip_stride": 2}
    batches = ts.snippets(shards, "train", **options)
    rgb, flow, scale, _ = next(
        iter(DataLoader(batches.dataset, batch_sampler=batches.sampler, num_workers=1))
    )
    assert (rgb.shape, rgb.dtype) == ((2, 2, 3, 3, 20, 20), torch.uint8)
    assert (flow.shape, flow.dtype) == ((2, 2, 3, 2, 20, 20), torch.uint8)
    clips, fields = ts.network_inputs(rgb, flow, scale)
    assert (clips.shape, fields.shape) == ((4, 3, 3, 20, 20), (4, 2, 3, 20, 20))


def test_ranks_get_equal_parts_that_hold_every_video(dataset: Path) -> None:
    shards = ts.open_shards(dataset)
    parts = [
        [position for batch in batches.sampler for _, position in batch]
        for rank in range(2)
        for batches in [ts.snippets(shards, "train", batch_size=3, rank=rank, world_size=2)]
    ]
    assert [len(part) for part in parts] == [2, 2]
    assert {*parts[0], *parts[1]} == {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "no split 'val'"),
        ({"segments": 0}, "segments is 0, expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2, expected 0 to 1"),
        ({"stack_length": 9}, "a snippet of 9 flow fields needs at least 10"),
        ({"clip_length": 0}, "clip_length is 0, expected at least 1"),
        ({"clip_length": 3, "clip_stride": 0}, "clip_stride is 0, expected at least 1"),
        ({"clip_stride": 2}, "clip_stride 2 is for clips; give clip_length too"),
        ({"clip_length": 7}, r"a clip of 7 frames needs at least 8; model\.clip_length: 6 would"),
    ],
)
def test_what_snippets_cannot_use_is_one_line(
    options: dict[str, Any], message: str, dataset: Path
) -> None:
    with pytest.raises(ts.InputError, match=message):
        ts.snippets(ts.open_shards(dataset), **options)


def test_snippets_of_another_codec_are_refused(dataset: Path) -> None:
    manifest = ts.open_shards(dataset).manifest
    codec = manifest.flow_codec.model_copy(update={"zero": 127.5})
    (dataset / "dataset.json").write_bytes(
        manifest_bytes(manifest.model_copy(update={"flow_codec": codec}))
    )
    with pytest.raises(ts.InputError, match=r"zero 127\.5"):
        ts.snippets(ts.open_shards(dataset))


def test_a_loaded_network_scores_as_the_run_does(tmp_path: Path) -> None:
    trained = write_run(tmp_path, Path("shards"), stages=["flow", "iter1"]).eval()
    network = ts.load_network(tmp_path)
    assert not network.training
    assert (network.classes, network.stage) == (("left", "right"), "iter1")
    assert (network.settings.train.crop_size, network.attending) == (40, ("rgb",))
    frames, stacks = torch.randn(2, 3, 40, 40), torch.randn(2, 10, 40, 40)
    with torch.inference_mode():
        found = network(frames, stacks)
        expected = trained(frames, stacks, attending=("rgb",))
        before = ts.load_network(tmp_path, "flow")(frames, stacks)
    assert found.keys() == {"rgb", "flow"}
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert before.keys() == {"flow"}
    with pytest.raises(ts.InputError, match="no stage iter7"):
        ts.load_network(tmp_path, "iter7")


def test_a_number_is_no_key_and_no_epoch_comes_before_the_first(dataset: Path) -> None:
    opened = ts.open_shards(dataset)
    with pytest.raises(ts.InputError, match="no sample 0 among"):
        opened[0]
    with pytest.raises(ts.InputError, match="epoch -1; expected 0 or more"):
        ts.snippets(opened, epoch=-1)
