"""The `resident` engine: how it cuts a level, its kernel on a CPU and through NVRTC, and on a GPU.

On a CPU the kernel runs in an emulator (`emulator/`), whose threads take turns in an order drawn
from a seed: what depends on that order is a race.
"""

import ctypes
import os
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.preprocess.flow.tvl1.emulator.chip import H100_SHARED_BYTES, EmulatedChip
from tests.preprocess.flow.tvl1.test_cuda_engine import noise
from tests.support.scenes import textured
from twinstream.errors import InputError
from twinstream.preprocess.flow import engines
from twinstream.preprocess.flow.engine import DEFAULT_GPU_BYTES, Gray, TvL1Params
from twinstream.preprocess.flow.engines import open_engine, resolve_engine
from twinstream.preprocess.flow.tvl1 import nvrtc
from twinstream.preprocess.flow.tvl1.levels import level_sizes
from twinstream.preprocess.flow.tvl1.reference import reference_flow
from twinstream.preprocess.flow.tvl1.resident_engine import (
    MAX_ROWS,
    SOURCE,
    THREADS_OF_SM,
    Plan,
    ResidentEngine,
    level_plan,
    resident_flow,
)


# 256, 205, 164, 131, 105 are the levels of 256x256.
@pytest.mark.parametrize(
    ("height", "width", "plan"),
    [
        (256, 256, Plan(16, 8, 2, 8)),
        (205, 205, Plan(16, 7, 2, 7)),
        (164, 164, Plan(16, 6, 2, 6)),
        (131, 131, Plan(8, 5, 3, 6)),
        (105, 105, Plan(8, 4, 2, 7)),
        (256, 340, Plan(16, 11, 2, 8)),
        (16, 16, Plan(1, 1, 2, 8)),
        (17, 4096, None),
        (512, 512, None),
    ],
)
def test_the_smallest_cluster_that_holds_a_level_takes_it(
    height: int, width: int, plan: Plan | None
) -> None:
    assert level_plan(height, width, 16, H100_SHARED_BYTES) == plan


def test_every_plan_holds_its_level_with_a_row_in_each_block() -> None:
    rng = np.random.default_rng(0)
    for height, width in rng.integers(16, 400, (300, 2)).tolist():
        plan = level_plan(height, width, 16, H100_SHARED_BYTES)
        if plan is None:
            assert height * width > 50_000
            continue
        blocks = plan.ctas * plan.down
        assert 32 * (plan.across - 1) < width <= 32 * plan.across
        assert blocks * (plan.rows - 1) < height <= blocks * plan.rows
        assert blocks <= height
        assert plan.threads <= THREADS_OF_SM
        assert plan.rows <= MAX_ROWS
        assert plan.shared_bytes <= H100_SHARED_BYTES


def test_where_clusters_of_sixteen_are_refused_smaller_ones_hold_the_level() -> None:
    asked = []

    def num_clusters(kernel: Any) -> int:
        asked.append(kernel.ctas)
        return 3 if kernel.ctas <= most else 0

    engine = ResidentEngine(TvL1Params(), torch.device("cpu"), 1 << 30)
    engine.chip = SimpleNamespace(
        largest_cluster=16, shared_bytes=H100_SHARED_BYTES, num_clusters=num_clusters
    )
    most = 8
    assert engine.place(256, 256) == (Plan(8, 8, 4, 8), 3)
    most = 4
    assert engine.place(205, 205) is None
    assert engine.place(512, 512) is None
    assert asked == [16, 8, 16, 8]


@pytest.mark.parametrize(("largest", "shared_bytes"), [(1, H100_SHARED_BYTES), (16, 99 << 10)])
def test_a_gpu_without_clusters_or_shared_memory_has_no_plan_for_a_large_level(
    largest: int, shared_bytes: int
) -> None:
    assert level_plan(256, 256, largest, shared_bytes) is None


@pytest.fixture(scope="module")
def chip(tmp_path_factory: pytest.TempPathFactory) -> EmulatedChip:
    """The emulator; its libraries are built once."""
    return EmulatedChip(tmp_path_factory.mktemp("emulator"))


def scene(height: int, width: int) -> Gray:
    """Four frames: nothing moves at first, then a little, then far."""
    shifts = [(0.0, 0.0), (0.0, 0.0), (0.4, -0.3), (2.6, 1.1)]
    return np.stack([textured(dx, dy, height=height, width=width) for dx, dy in shifts])


def emulated(
    chip: EmulatedChip, frames: Gray, params: TvL1Params, plan: Plan
) -> tuple[NDArray[np.float32], int]:
    """The flow of one level, (T - 1, 2, H, W), and the pixels updated."""
    images = torch.from_numpy(frames).to(torch.float32)
    first = torch.arange(len(frames) - 1, dtype=torch.int32)
    flow = torch.zeros((len(first), 2, *images.shape[1:]))
    flow, updates = resident_flow(images, first, flow, params, plan, chip.clusters, chip)
    return flow.numpy(), int(updates)


def distance(flow: NDArray[np.float32], frames: Gray, params: TvL1Params) -> float:
    """The largest of all pixels of all pairs to the reference."""
    expected = [reference_flow(*pair, params) for pair in pairwise(frames)]
    return float(np.linalg.norm(np.moveaxis(flow, 1, -1) - np.stack(expected), axis=-1).max())


LEVEL = TvL1Params(scales=1, warps=2, epsilon=0.12, iterations=9)
SMALL = [
    (29, 45, Plan(2, 2, 5, 3)),
    (23, 33, Plan(4, 2, 2, 3)),
    (25, 70, Plan(1, 3, 9, 3)),
    (24, 64, Plan(8, 2, 1, 3)),
    (16, 17, Plan(2, 1, 8, 1)),
    (18, 16, Plan(1, 1, 18, 1)),
    (31, 181, Plan(4, 6, 1, 8)),
    (130, 65, Plan(4, 3, 5, 7)),
]


@pytest.mark.parametrize(("height", "width", "plan"), SMALL)
@pytest.mark.parametrize("epsilon", [0.12, 0])
def test_the_kernel_gives_the_references_flow(
    chip: EmulatedChip, height: int, width: int, plan: Plan, epsilon: float
) -> None:
    frames = scene(height, width)
    params = replace(LEVEL, epsilon=epsilon)
    flow, updates = emulated(chip, frames, params, plan)
    assert distance(flow, frames, params) < 1e-4
    most = 3 * params.warps * params.iterations * height * width
    assert updates == most if epsilon == 0 else updates < 0.8 * most


@pytest.mark.parametrize(("height", "width", "plan"), SMALL[:3])
def test_neither_the_order_of_threads_nor_the_batch_changes_a_bit(
    chip: EmulatedChip, height: int, width: int, plan: Plan
) -> None:
    frames = scene(height, width)
    whole, updates = emulated(chip, frames, LEVEL, plan)
    try:
        for chip.seed, chip.clusters in ((1, 1), (2, 3), (3, 2)):
            again = emulated(chip, frames, LEVEL, plan)
            assert np.array_equal(again[0], whole)
            assert again[1] == updates
    finally:
        chip.seed, chip.clusters = 0, 2
    alone = [emulated(chip, frames[n : n + 2], LEVEL, plan) for n in range(3)]
    assert np.array_equal(np.concatenate([flow for flow, _ in alone]), whole)
    assert sum(work for _, work in alone) == updates


def test_sixteen_ctas_hold_a_pair_of_256x256(chip: EmulatedChip) -> None:
    frames = scene(256, 256)[2:]
    params = TvL1Params(scales=1, warps=1, epsilon=0, iterations=2)
    plan = level_plan(256, 256, 16, H100_SHARED_BYTES)
    assert plan == Plan(16, 8, 2, 8)
    flow, updates = emulated(chip, frames, params, plan)
    assert distance(flow, frames, params) < 1e-4
    assert updates == 2 * 256 * 256


def test_the_emulator_sees_what_a_gpu_would_not_forgive(chip: EmulatedChip) -> None:
    plan, images, flow = Plan(1, 1, 16, 1), torch.zeros((2, 16, 16)), torch.zeros((1, 2, 16, 16))
    # A pair that begins with the last frame
    with pytest.raises(AssertionError, match=r"thread [0-9]+: index 1152 of 1152$"):
        resident_flow(images, torch.ones(1, dtype=torch.int32), flow, LEVEL, plan, 1, chip)
    short = replace(plan.kernel, shared_bytes=plan.shared_bytes - 1)
    with pytest.raises(AssertionError, match=r"more shared memory than the launch has$"):
        chip.launch(short, 1, [*[images] * 6, 2, 1, 16, 16, 1, 16, 1, (ctypes.c_int * 6)()])
    # A CTA that is told of another one, which was not launched
    large = replace(plan.kernel, shared_bytes=H100_SHARED_BYTES)
    with pytest.raises(AssertionError, match=r"no CTA has rank 1$"):
        chip.launch(large, 1, [*[images] * 6, 2, 1, 16, 16, 1, 16, 2, (ctypes.c_int * 6)()])


needs_nvrtc = pytest.mark.skipif(
    torch.version.cuda is None, reason="this torch comes without NVRTC"
)


@needs_nvrtc
@pytest.mark.parametrize(
    ("arch", "height", "width"),
    [("sm_90", 256, 256), ("sm_90", 256, 340), ("sm_100", 256, 256), ("sm_80", 80, 80)],
)
def test_the_kernel_compiles_without_a_gpu_and_spills_nothing(
    arch: str, height: int, width: int
) -> None:
    largest = 1 if arch == "sm_80" else 16
    for size in level_sizes(height, width, TvL1Params()):
        plan = level_plan(*size, largest, H100_SHARED_BYTES)
        assert plan is not None
        options = (f"-arch={arch}", "--ptxas-options=-v", *plan.kernel.options)
        code, log = nvrtc.compiled(SOURCE.read_text(), options)
        assert code.startswith(b"\x7fELF")
        assert len(re.findall(r"0 bytes stack frame, 0 bytes spill stores", log)) == 2
        # As many CTAs as were planned find registers on a multiprocessor.
        registers = max(map(int, re.findall(r"Used (\d+) registers", log)))
        assert registers * plan.threads * (THREADS_OF_SM // plan.threads) <= 65536


@needs_nvrtc
def test_what_nvrtc_refuses_is_one_line_that_names_another_engine() -> None:
    with pytest.raises(InputError, match=r"^NVRTC [^\n]*sm_12[^\n]*; use `engine: cuda`$"):
        nvrtc.compiled(SOURCE.read_text(), ("-arch=sm_12",))


class FakeDriver:
    """Notes what it is called with, as the driver would read it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails, self.status = "", 1

    def __getattr__(self, name: str) -> Callable[..., int]:
        def called(*arguments: Any) -> int:
            if name == "cuGetErrorString":
                arguments[1]._obj.value = b"out of sorts"
            elif name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = H100_SHARED_BYTES
            elif name.startswith("cuOccupancy"):
                arguments[0]._obj.value = 3
            elif name == "cuLaunchKernelEx":
                config, _, values, _ = arguments
                config, number = config._obj, ctypes.POINTER(ctypes.c_int)
                self.calls.append((config.grid[0], config.block[0], config.shared_bytes))
                attributes = config.attributes[: config.num_attributes]
                self.calls.append(tuple((each.id, each.value[0]) for each in attributes))
                self.calls.append(tuple(ctypes.cast(value, number)[0] for value in values))
            return self.status if name == self.fails else 0

        return called


def test_the_driver_is_given_clusters_and_the_addresses_of_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, compilations, empty = FakeDriver(), [], torch.empty
    monkeypatch.setattr(nvrtc.ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr(nvrtc, "cached_code", lambda *given: compilations.append(given) or b"code")
    monkeypatch.setattr(torch, "empty", lambda *sizes, device: empty(*sizes))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    chip = nvrtc.Chip("source")
    assert (chip.largest_cluster, chip.shared_bytes) == (16, H100_SHARED_BYTES)
    kernel = Plan(8, 8, 4, 8).kernel
    alone = Plan(1, 1, 16, 1).kernel
    assert chip.num_clusters(kernel) == 3
    assert chip.num_clusters(alone) == 3 * 132
    chip.launch(kernel, 2, [torch.zeros(1), 7, ctypes.c_int(8)])
    policy = (nvrtc.CLUSTER_SCHEDULING, nvrtc.LOAD_BALANCING)
    size = (nvrtc.CLUSTER_DIMENSION, 8)
    assert driver.calls[:2] == [(16, 512, kernel.shared_bytes), (size, policy)]
    assert driver.calls[2][1:] == (7, 8)
    chip.launch(alone, 5, [1])
    assert driver.calls[3:] == [(5, 256, alone.shared_bytes), (), (1,)]
    assert [given[1][0] for given in compilations] == 2 * ["-arch=sm_90"]
    driver.fails, driver.status = "cuOccupancyMaxActiveClusters", nvrtc.INVALID_CLUSTER_SIZE
    assert chip.num_clusters(Plan(16, 11, 2, 8).kernel) == 0
    driver.fails, driver.status = "cuLaunchKernelEx", 1
    with pytest.raises(RuntimeError, match=r"^cuLaunchKernelEx: out of sorts$"):
        chip.launch(alone, 5, [1])


@needs_nvrtc
def test_a_kernel_is_compiled_once_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    source = 'extern "C" __global__ void nothing() {}'
    code = nvrtc.cached_code(source, ("-arch=sm_90",))
    assert code.startswith(b"\x7fELF")
    monkeypatch.setattr(nvrtc, "compiled", None)
    assert nvrtc.cached_code(source, ("-arch=sm_90",)) == code


def test_a_torch_without_cuda_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    nvrtc.nvrtc_library.cache_clear()
    with pytest.raises(InputError, match=r"^engine: resident needs CUDA[^\n]*`engine: numba`$"):
        nvrtc.nvrtc_library()


@pytest.mark.parametrize(
    ("capabilities", "cuda", "name"),
    [
        ([(9, 0)], "13.0", "resident"),
        ([(10, 0), (9, 0)], "13.0", "resident"),
        ([(9, 0), (8, 0)], "13.0", "cuda"),
        # Less shared memory
        ([(12, 0)], "13.0", "cuda"),
        # AMD's
        ([(9, 4)], None, "cuda"),
    ],
)
def test_auto_is_this_engine_where_all_gpus_have_clusters(
    capabilities: list[tuple[int, int]],
    cuda: str | None,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "sees_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)

    def found() -> None:
        if cuda is None:
            raise InputError("torch was built without it")

    monkeypatch.setattr(nvrtc, "nvrtc_library", found)
    assert resolve_engine("auto") == name


def test_without_a_gpu_it_is_one_line_that_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for interpret in ("0", "1"):
        monkeypatch.setenv("TRITON_INTERPRET", interpret)
        with pytest.raises(
            InputError, match=r"^engine: resident needs a GPU [^\n]*`engine: numba`$"
        ):
            open_engine("resident", TvL1Params())


@pytest.fixture
def engine() -> ResidentEngine:
    """On a GPU that `auto` takes it for; skips on others, or fails where a GPU was promised."""
    if not torch.cuda.is_available():
        if os.environ.get("REQUIRE_GPU") == "1":
            pytest.fail("REQUIRE_GPU is 1 and torch sees no GPU")
        pytest.skip("torch sees no GPU")
    if not engines.sees_clusters():
        pytest.skip("this GPU has no clusters, or too little shared memory for large levels")
    return ResidentEngine(TvL1Params(), torch.device("cuda"), DEFAULT_GPU_BYTES)


@pytest.mark.gpu
def test_on_a_gpu_with_clusters_all_levels_up_to_256x256_are_resident(
    engine: ResidentEngine,
) -> None:
    for size in level_sizes(256, 256, TvL1Params()):
        assert engine.place(*size) is not None
    frames = scene(256, 256)[2:]
    apart = np.linalg.norm(engine(frames)[0] - reference_flow(*frames, TvL1Params()), axis=-1)
    assert (apart > 0.01).mean() < 0.03


@pytest.mark.gpu
def test_on_a_gpu_a_size_beyond_a_cluster_and_the_median_filter_are_those_of_cuda(
    engine: ResidentEngine,
) -> None:
    for params, size in ((TvL1Params(scales=1, warps=1), 520), (TvL1Params(median=3), 64)):
        frames = noise(3, size, size)
        engine.params = params
        assert np.array_equal(engine(frames), open_engine("cuda", params)(frames))
