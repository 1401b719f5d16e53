"""The `cuda` engine: what it promises without a GPU, its kernels through compiler and interpreter,
and on a GPU.

`REQUIRE_GPU=1 python -m pytest -m gpu` runs what needs a GPU, and fails where there is none. It
needs torch, Triton, NumPy, any OpenCV, pytest and hypothesis. Every engine of the registry that
uses a GPU is held to the same.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.support.paths import ROOT
from tests.support.scenes import textured
from twinstream.errors import InputError
from twinstream.preprocess.flow import engines
from twinstream.preprocess.flow.engine import Gray, TvL1Params
from twinstream.preprocess.flow.engines import ENGINES, open_engine, resolve_engine
from twinstream.preprocess.flow.stored import flow_statistics
from twinstream.preprocess.flow.tvl1 import triton_kernels, triton_rule, triton_waves
from twinstream.preprocess.flow.tvl1.cuda_batch import (
    OPTIONS,
    Tiling,
    batch_flow,
    bytes_of_frame,
    bytes_of_pair,
)
from twinstream.preprocess.flow.tvl1.cuda_engine import (
    open_cuda,
    pair_starts,
)
from twinstream.preprocess.flow.tvl1.reference import reference_flow
from twinstream.shards.format.flow_codec import quantize

FIXED = TvL1Params(epsilon=0, iterations=20)
MOST_APART = 0.03
"""Twice what `numba`, with exact roots, comes to on the hardest of these pairs."""
FLOATS, INTS = "*fp32", "*i32"

Opened = Callable[..., Any]
Array = npt.NDArray[Any]


def test_the_kernels_hold_in_tritons_interpreter() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "tests/preprocess/flow/tvl1/interpreted_tvl1.py",
        "tests/preprocess/flow/tvl1/interpreted_stage.py",
    ]
    if shutil.which("g++"):
        command.append("tests/preprocess/flow/tvl1/interpreted_resident.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_a_gpu_that_is_required_and_not_there_fails(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-k",
        "stored",
        "-p",
        "no:cacheprovider",
    ]
    # What torch sees is hidden from it, so that this holds on a machine with a GPU.
    environment = os.environ | {
        "REQUIRE_GPU": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HIP_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "REQUIRE_GPU is 1 and torch sees no GPU" in done.stdout


# What the interpreter takes the compiler may refuse. Argument types in order, then constants, then
# warps.
KERNELS: list[tuple[Any, list[str], dict[str, int], int]] = [
    (
        triton_kernels.resize,
        [FLOATS, FLOATS, INTS, FLOATS, INTS, FLOATS, "fp32", *["i32"] * 4],
        {"BLOCK": 256},
        4,
    ),
    (triton_kernels.differences, [FLOATS, FLOATS, "i32", "i32"], {"BLOCK": 256}, 4),
    (
        triton_kernels.warp,
        [FLOATS, FLOATS, INTS, FLOATS, INTS, FLOATS, *["i32"] * 3],
        {"BLOCK": 256},
        4,
    ),
    (triton_kernels.median, [FLOATS, FLOATS, "i32", "i32"], {"SIDE": 3, "BLOCK": 256}, 4),
    (triton_kernels.median, [FLOATS, FLOATS, "i32", "i32"], {"SIDE": 5, "BLOCK": 256}, 4),
    (
        triton_kernels.store,
        [FLOATS, "*u8", "*i64", "fp32", "fp32", "i32"],
        {"BLOCK": 256},
        4,
    ),
    (triton_rule.gather, [INTS, INTS, "i32"], {"BLOCK": 256}, 1),
    (
        triton_waves.advance,
        [FLOATS, FLOATS, INTS, FLOATS, INTS, *["i32"] * 3, "fp32", *["i32"] * 4, *["fp32"] * 3],
        {"DEPTH": 4, "COLUMNS": 64},
        1,
    ),
]


def compiled(
    kernel: Any, types: list[str], constants: dict[str, int], warps: int, target: GPUTarget
) -> Any:
    """A kernel for a GPU that need not be here."""
    names = [param.name for param in kernel.params]
    signature = dict(zip([name for name in names if name not in constants], types, strict=True))
    source = ASTSource(
        fn=kernel,
        signature={name: signature.get(name, "constexpr") for name in names},
        constexprs=constants,
    )
    return triton.compile(source, target=target, options={"num_warps": warps, **OPTIONS})


@pytest.mark.parametrize(
    "target", [GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)], ids=lambda t: t.backend
)
def test_every_kernel_compiles_without_a_gpu(
    target: GPUTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernel, types, constants, warps in KERNELS:
        assert compiled(kernel, types, constants, warps, target).asm


def test_the_iterations_stay_in_registers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shared memory, hence no barriers, and nothing spilled: the design rests on it."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    binary = compiled(*KERNELS[-1], GPUTarget("cuda", 90, 32))
    assert binary.metadata.shared == 0
    (tmp_path / "advance.cubin").write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run(
        [tool, "-res-usage", tmp_path / "advance.cubin"], capture_output=True, text=True, check=True
    )
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", usage.stdout)[0])
    assert stack == 0
    assert registers <= 168  # twelve warps on a multiprocessor with 65,536


def test_without_a_gpu_the_engine_is_one_line_that_names_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"^engine: cuda needs a GPU [^\n]*; use `engine: numba`$"):
        open_engine("cuda", TvL1Params())


def test_auto_is_cuda_where_torch_sees_an_older_gpu_and_numba_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (8, 0))
    monkeypatch.setattr(engines, "has_library", lambda name: name == "libcuda.so.1")
    assert resolve_engine("auto") == "cuda"
    assert open_engine("auto", TvL1Params()).name == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_engine("auto") == "numba"


def test_a_machine_without_a_driver_does_not_import_torch() -> None:
    code = (
        "import sys; from twinstream.preprocess.flow import engines\n"
        "engines.has_library = lambda name: False\n"
        "assert engines.resolve_engine('auto') == 'numba' or engines.Path('/dev/kfd').exists()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_library_that_is_not_there_is_not_there() -> None:
    assert engines.has_library("libc.so.6")
    assert not engines.has_library("libnothing.so.1")


@pytest.mark.parametrize(
    ("lengths", "starts"),
    [([3, 1, 2], [0, 1, 4]), ([1], []), ([0, 2], [0]), ([2, 0, 1, 2], [0, 3]), ([4], [0, 1, 2])],
)
def test_pairs_never_lead_from_one_video_to_the_next(lengths: list[int], starts: list[int]) -> None:
    assert pair_starts(lengths).tolist() == starts


def test_a_batch_is_as_large_as_its_memory_allows() -> None:
    frame, pair = bytes_of_frame(256, 256, TvL1Params()), bytes_of_pair(256, 256)
    neighbours, apart = np.arange(20), np.arange(0, 40, 2)
    for starts, needed in ((neighbours, 6 * frame + 5 * pair), (apart, 10 * frame + 5 * pair)):
        for max_bytes, num in ((needed, 5), (needed - 1, 4), (1, 1)):
            fitting = open_cuda(TvL1Params(), max_bytes=max_bytes).fitting(starts, (41, 256, 256))
            assert fitting.tolist() == starts[:num].tolist()
    assert len(open_cuda(TvL1Params()).fitting(neighbours[:0], (41, 256, 256))) == 0


@pytest.fixture
def gpu() -> None:
    """Skip without a GPU, or fail where one was promised."""
    if not torch.cuda.is_available():
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail("REQUIRE_GPU is 1 and torch sees no GPU")
        pytest.skip("torch sees no GPU")


def noise(frames: int, height: int, width: int, seed: int = 0) -> Gray:
    """Frames that have nothing to do with one another, smoothed a little: pairs end after very
    different times.
    """
    images = np.random.default_rng(seed).integers(0, 256, (frames, height, width)).astype(np.uint8)
    return np.stack([cv2.GaussianBlur(image, (5, 5), 1.0) for image in images]).astype(np.uint8)


@pytest.fixture(params=[entry.name for entry in ENGINES if entry.uses_gpu])
def opened(gpu: None, request: pytest.FixtureRequest) -> Opened:
    """Opens one of the engines that use a GPU; skips where torch lacks what one of them needs."""
    try:
        open_engine(request.param, TvL1Params())
    except InputError as error:
        pytest.skip(str(error))
    return partial(open_engine, request.param)


@cache
def expected_flow(pair: bytes, shape: tuple[int, int], params: TvL1Params) -> Array:
    """The reference's, which takes seconds, computed once for all engines."""
    first, second = np.frombuffer(pair, np.uint8).reshape(2, *shape)
    flow: Array = reference_flow(first, second, params)
    return flow


def distances(opened: Opened, frames: Gray, params: TvL1Params) -> Array:
    """(H, W): endpoint distance of the first pair to the reference, in pixels."""
    expected = expected_flow(frames[:2].tobytes(), frames.shape[1:], params)
    distance: Array = np.linalg.norm(opened(params)(frames[:2])[0] - expected, axis=-1)
    return distance


def share_apart(distance: Array) -> float:
    """Share of the pixels that are more than 0.01 px apart.

    A mean would hang on a few pixels: where the residual is near its limit, the last bit of a root
    decides between two branches, and a pixel of unrelated frames jumps by a tenth of a pixel.
    """
    return float((distance > 0.01).mean())


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (17, 23), (48, 64), (31, 181), (130, 65), (120, 121)]
)
def test_on_a_gpu_any_size_gives_the_references_flow(
    opened: Opened, height: int, width: int
) -> None:
    frames = np.stack(
        [textured(height=height, width=width), textured(1.7, -0.8, height=height, width=width)]
    )
    assert distances(opened, frames, FIXED).mean() < 1e-3
    assert distances(opened, frames, TvL1Params()).mean() < 0.02
    few = TvL1Params(epsilon=0, iterations=4)
    assert share_apart(distances(opened, noise(2, height, width), few)) < MOST_APART


@pytest.mark.gpu
@pytest.mark.parametrize("median", [3, 5])
def test_on_a_gpu_the_median_filter_gives_the_references_flow(
    opened: Opened, median: Literal[3, 5]
) -> None:
    frames = np.stack([textured(), textured(1.7, -0.8)])
    assert distances(opened, frames, replace(FIXED, median=median)).mean() < 1e-3


@pytest.mark.gpu
@pytest.mark.real
@pytest.mark.parametrize("name", ["Dimetrodon", "rubberwhale", "Grove2", "Venus"])
def test_on_a_gpu_real_pairs_give_the_references_flow(
    opened: Opened, real_data: Path, name: str
) -> None:
    paths = [real_data / "flow_gt" / name / f"frame{n}.png" for n in (10, 11)]
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    frames = np.array(
        [cv2.resize(np.array(image), (256, 256), interpolation=cv2.INTER_AREA) for image in images]
    )
    assert share_apart(distances(opened, frames, FIXED)) < MOST_APART
    assert distances(opened, frames, TvL1Params()).mean() < 0.02


@pytest.mark.gpu
def test_on_a_gpu_neither_batch_nor_cut_nor_repetition_changes_a_bit(opened: Opened) -> None:
    frames = np.concatenate(
        [noise(12, 70, 130), np.stack([textured(n / 2, height=70, width=130) for n in range(6)])]
    )
    engine = opened(TvL1Params())
    whole = engine(frames)
    assert np.isfinite(whole).all()
    assert np.array_equal(engine(frames), whole)
    for pair in (0, 5, 11, 12, 16):
        assert np.array_equal(engine(frames[pair : pair + 2])[0], whole[pair])
    for max_bytes in (1, 2_000_000, 5_000_000):
        assert np.array_equal(opened(TvL1Params(), gpu_bytes=max_bytes)(frames), whole)
    together = engine.flow_of_videos([frames[:4], frames[:1], frames[3:]])
    assert np.array_equal(np.concatenate(together), whole)


@pytest.mark.gpu
def test_on_a_gpu_pairs_that_ended_cost_no_work(opened: Opened) -> None:
    frames = np.stack([textured(), textured(), textured(2.0)])
    still, both, moving = (opened(TvL1Params()) for _ in range(3))
    assert not still(frames[:2]).any()
    moving(frames[1:])
    both(frames)
    assert both.pixel_iterations == still.pixel_iterations + moving.pixel_iterations
    assert moving.pixel_iterations > 5 * still.pixel_iterations


@pytest.mark.gpu
def test_on_a_gpu_what_is_stored_is_what_the_host_would_make_of_the_flow(
    opened: Opened,
) -> None:
    frames = noise(40, 40, 50)
    flow = opened(TvL1Params())(frames)
    for max_bytes in (1 << 20, 1 << 30):
        for bound in (20.0, 0.5):
            stored = opened(TvL1Params(), gpu_bytes=max_bytes).stored(frames, bound)
            assert np.array_equal(stored.planes, np.moveaxis(quantize(flow, bound), -1, 1))
            assert stored.statistics == flow_statistics(flow, bound)


@pytest.mark.gpu
# torch says so whenever the mode is first set.
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_on_a_gpu_the_host_waits_for_nothing_but_the_answers_to_its_questions(gpu: None) -> None:
    frames = torch.from_numpy(noise(9, 64, 80)).cuda()
    first = torch.arange(8, dtype=torch.int32, device="cuda")
    expected, _ = batch_flow(frames, first, TvL1Params(), Tiling())
    try:
        torch.cuda.set_sync_debug_mode("error")
        flow, _ = batch_flow(frames, first, TvL1Params(), Tiling())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(flow, expected)


@pytest.mark.gpu
def test_on_a_gpu_a_batch_keeps_within_its_memory(opened: Opened) -> None:
    max_bytes = 64 << 20
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    engine = opened(FIXED, gpu_bytes=max_bytes)
    engine(noise(40, 256, 256))
    used = torch.cuda.max_memory_allocated() - before
    # What a pair takes is counted for Triton's kernels; one that is resident needs less.
    assert (0.5 if engine.name == "cuda" else 0.1) * max_bytes < used < 1.02 * max_bytes


@pytest.mark.gpu
def test_on_a_gpu_that_is_full_the_batch_is_halved(opened: Opened) -> None:
    frames = noise(60, 128, 128)
    engine = opened(FIXED)
    expected = engine(frames).copy()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    # Too little for 59 pairs; torch takes 20 MiB for a tensor of more than 1.
    room = (40 if engine.name == "cuda" else 24) << 20
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total)
    try:
        engine = opened(FIXED)
        assert np.array_equal(engine(frames), expected)
        assert engine.max_pairs is not None
        assert engine.max_pairs < 59
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
