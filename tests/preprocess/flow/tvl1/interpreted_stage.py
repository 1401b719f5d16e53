"""What is built on the `cuda` engine, in Triton's interpreter: flow as it is stored, and copies.

Started by `test_tvl1_cuda.py` like `interpreted_tvl1.py`, in a process of their own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.preprocess.flow.tvl1.interpreted_tvl1 import SHORT, Array, moving
from twinstream.preprocess.catalog.catalog import Video
from twinstream.preprocess.decode.video_stream import VideoInfo
from twinstream.preprocess.flow.engine import Engine
from twinstream.preprocess.flow.engines import open_engine
from twinstream.preprocess.flow.stored import flow_statistics, stored_flow
from twinstream.preprocess.flow.tvl1 import cuda_engine
from twinstream.preprocess.flow.tvl1.cuda_copies import Copies
from twinstream.preprocess.flow.tvl1.cuda_engine import open_cuda
from twinstream.preprocess.job import Recipe, run_job
from twinstream.preprocess.plan import Job
from twinstream.shards.format.flow_codec import quantize


@pytest.mark.parametrize("max_bytes", [1, 1 << 30])
def test_what_the_device_stores_is_what_the_host_would_to_the_bit(max_bytes: int) -> None:
    frames = moving(0, 3.0, 0.5)
    engine = open_engine("cuda", SHORT, gpu_bytes=max_bytes)
    flow = engine(frames)
    for bound in (20.0, 1.0):
        stored = stored_flow(engine, frames, bound)
        assert stored.planes.dtype == np.uint8
        assert np.array_equal(stored.planes, np.moveaxis(quantize(flow, bound), -1, 1))
        assert stored.statistics == flow_statistics(flow, bound)
    assert 0 < stored.statistics.saturated < 1


@pytest.mark.parametrize("bound", [20.0, 1.0, 127.0])
def test_halves_zeros_and_the_farthest_flow_are_stored_as_the_codec_does(bound: float) -> None:
    halves = np.arange(-128, 129, dtype=np.float32) * np.float32(bound / 254)
    random = np.random.default_rng(0).normal(0, bound / 2, 5000).astype(np.float32)
    values = np.concatenate([halves, random, np.float32([0, -0.0, 1e9, -1e9, 3e-39])])
    flow = torch.from_numpy(np.resize(values, (2, 2, 37, 41)))
    sums = torch.zeros(3, dtype=torch.int64)
    planes = cuda_engine.quantized(flow, bound, sums)
    assert np.array_equal(planes.numpy(), quantize(flow.numpy(), bound))
    expected = flow_statistics(flow.permute(0, 2, 3, 1).numpy(), bound)
    assert sums.tolist() == [expected.micropixels, expected.num_saturated, 0]


def test_flow_that_is_not_finite_is_a_bug_of_ours_and_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(frames: Tensor, first: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        flow = torch.zeros((len(first), 2, *frames.shape[1:]))
        flow[0, 0, 3, 3] = torch.nan
        return flow, torch.zeros((), dtype=torch.int64)

    monkeypatch.setattr(cuda_engine, "batch_flow", broken)
    with pytest.raises(AssertionError, match="NaN"):
        open_cuda(SHORT).stored(moving(0, 1.0), 20.0)


def test_a_batch_that_is_done_again_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = moving(0, 3.0, 0.5, height=16, width=16)
    expected = open_cuda(SHORT).stored(frames, 1.0)
    quantized, tries = cuda_engine.quantized, []

    def full_at_first(flow: Tensor, bound: float, sums: Tensor) -> Tensor:
        tries.append(len(flow))
        if len(tries) == 1:
            raise torch.OutOfMemoryError("simulated")
        return quantized(flow, bound, sums)

    monkeypatch.setattr(cuda_engine, "quantized", full_at_first)
    stored = open_cuda(SHORT).stored(frames, 1.0)
    assert tries == [2, 1, 1]
    assert np.array_equal(stored.planes, expected.planes)
    assert stored.statistics == expected.statistics


class DrawnStream(list[Array]):
    """Chunks of RGB frames that are gray."""

    info = VideoInfo(width=23, height=17, fps=25.0, frames_in_header=None)
    notes = ()


def shard_bytes(folder: Path, engine: Engine, chunks: list[Array]) -> list[bytes]:
    """The files of a shard of one video."""

    @contextmanager
    def open_video(path: Path) -> Iterator[DrawnStream]:
        yield DrawnStream(np.repeat(chunk[..., None], 3, axis=-1) for chunk in chunks)

    job = Job("train", "train-000000", (Video("a", "a.avi", "a", 0, "train", True),))
    recipe = Recipe(
        open_video=open_video,
        engine=engine,
        bound=0.5,
        jpeg_quality=95,
        min_frames=2,
        settings={},
    )
    (done,) = run_job(job, root=folder, out=folder, recipe=recipe)
    assert done.row.status == "written"
    return [path.read_bytes() for path in sorted(folder.rglob("*.*"))]


def test_a_shard_has_the_same_bytes_wherever_its_flow_is_quantized_and_however_it_is_cut(
    tmp_path: Path,
) -> None:
    frames = moving(0, 3.0, 0.5, 1.5, height=16, width=16)
    engine = open_cuda(SHORT)
    on_device = shard_bytes(tmp_path / "device", engine, [frames])
    assert len(on_device) == 2
    assert (
        shard_bytes(tmp_path / "cut", open_cuda(SHORT, max_bytes=1), [frames[:3], frames[3:]])
        == on_device
    )
    assert shard_bytes(tmp_path / "host", lambda gray: engine(gray), [frames]) == on_device


def test_the_next_batch_is_loaded_before_the_present_one_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = moving(0, 0.5, 1.5, 1.0, height=16, width=16)
    whole = open_cuda(SHORT)(frames)
    acts: list[str] = []
    for owner, name in ((Copies, "upload"), (Copies, "download"), (cuda_engine, "batch_flow")):
        monkeypatch.setattr(owner, name, printed(getattr(owner, name), name, acts))
    assert np.array_equal(open_cuda(SHORT, max_bytes=1)(frames), whole)
    frames_and_pairs = ["upload", "upload"]
    assert acts == [
        *frames_and_pairs,
        *2 * [*frames_and_pairs, "batch_flow", "download"],
        "batch_flow",
        "download",
    ]


def printed(act: Callable[..., Any], name: str, acts: list[str]) -> Callable[..., Any]:
    """The same act, which also writes its name down."""

    def acting(*arguments: Any) -> Any:
        acts.append(name)
        return act(*arguments)

    return acting
