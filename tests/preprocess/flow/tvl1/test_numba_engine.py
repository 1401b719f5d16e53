"""The compiled engine against the float64 definition, and what only it promises: threads, chunks, a
cache, SIMD.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.paths import ROOT
from tests.support.scenes import textured
from twinstream.preprocess.decode.video import open_video
from twinstream.preprocess.flow.engine import Gray, TvL1Params
from twinstream.preprocess.flow.engines import open_engine
from twinstream.preprocess.flow.tvl1 import lanes, numba_engine
from twinstream.preprocess.flow.tvl1.levels import level_sizes
from twinstream.preprocess.flow.tvl1.numba_engine import NumbaEngine
from twinstream.preprocess.flow.tvl1.reference import pyramid, reference_flow

FIXED = TvL1Params(epsilon=0, iterations=20)


def noise(frames: int, height: int, width: int, seed: int) -> Gray:
    """Frames that have nothing to do with one another, smoothed a little."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (frames, height, width)).astype(np.uint8)
    return np.stack([cv2.GaussianBlur(image, (5, 5), 1.0) for image in images]).astype(np.uint8)


def distance(frames: Gray, params: TvL1Params) -> float:
    """Mean endpoint distance of the engine to the reference, in pixels."""
    flow = open_engine("numba", params)(frames)[0]
    return float(
        np.linalg.norm(flow - reference_flow(frames[0], frames[1], params), axis=-1).mean()
    )


@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (17, 23), (33, 16), (48, 64), (31, 81), (64, 47)]
)
def test_moving_texture_gives_the_references_flow(height: int, width: int) -> None:
    frames = np.stack(
        [textured(height=height, width=width), textured(1.7, -0.8, height=height, width=width)]
    )
    assert distance(frames, FIXED) < 1e-3
    assert distance(frames, TvL1Params()) < 0.02


def test_levels_of_one_size_give_the_references_flow() -> None:
    frames = np.stack([textured(height=16, width=41), textured(0.6, -0.3, height=16, width=41)])
    params = TvL1Params(epsilon=0, iterations=10, scales=3, scale_step=0.98)
    assert level_sizes(16, 41, params) == [(16, 41), (16, 40), (16, 39)]
    assert distance(frames, params) < 1e-3
    assert level_sizes(16, 16, params) == 3 * [(16, 16)]
    assert distance(frames[:, :, :16], params) < 1e-3


@pytest.mark.parametrize("side", [3, 5])
def test_the_median_filter_gives_the_references_flow(side: int) -> None:
    frames = np.stack([textured(), textured(1.7, -0.8)])
    assert distance(frames, replace(FIXED, median=side)) < 1e-3


@settings(max_examples=15)
@given(st.integers(16, 40), st.integers(16, 40), st.integers(0, 2**32 - 1))
def test_unrelated_frames_of_any_size_give_the_references_flow(
    height: int, width: int, seed: int
) -> None:
    frames = noise(2, height, width, seed)
    assert distance(frames, TvL1Params(epsilon=0, iterations=4, warps=2, scales=2)) < 1e-3


def test_every_parameter_reaches_the_compiled_code() -> None:
    frames = np.stack([textured(), textured(0.7, 0.4)])
    params = TvL1Params(
        tau=0.2,
        lambda_=0.1,
        theta=0.4,
        scales=2,
        warps=2,
        epsilon=0.02,
        iterations=50,
        scale_step=0.6,
    )
    assert distance(frames, params) < 1e-3
    for name, default in asdict(TvL1Params()).items():
        if name not in ("epsilon", "median"):
            assert distance(frames, replace(params, **{name: default})) < 1e-3, name


def test_the_stopping_rule_counts_as_the_references() -> None:
    """Identical frames stop at the second iteration of every warp of every level."""
    engine = NumbaEngine(TvL1Params(), threads=1)
    engine(np.stack([textured(), textured()]))
    pixels = sum(height * width for height, width in level_sizes(48, 64, TvL1Params()))
    assert engine.pixel_iterations == 2 * 5 * pixels


@pytest.mark.parametrize(("height", "width"), [(256, 340), (26, 100), (16, 16), (333, 21)])
def test_levels_are_the_references(height: int, width: int) -> None:
    levels = pyramid(np.zeros((height, width), np.uint8), TvL1Params())
    assert level_sizes(height, width, TvL1Params()) == [level.shape for level in levels]


def test_the_result_does_not_depend_on_how_a_video_is_cut() -> None:
    frames = noise(6, 24, 37, seed=1)
    whole = open_engine("numba", TvL1Params())(frames)
    engine = open_engine("numba", TvL1Params())
    assert np.array_equal(
        whole, np.concatenate([engine(frames[:2]), engine(frames[1:5]), engine(frames[4:])])
    )


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads: int) -> None:
    frames = noise(20, 18, 21, seed=2)
    expected = open_engine("numba", TvL1Params())(frames)
    engine = open_engine("numba", TvL1Params(), threads=threads)
    for _ in range(3):
        assert np.array_equal(engine(frames), expected)
    assert np.array_equal(engine(frames[:3]), expected[:2])


def test_a_size_in_between_leaves_no_trace() -> None:
    engine = open_engine("numba", TvL1Params())
    small, large = noise(3, 16, 19, seed=3), noise(2, 50, 70, seed=4)
    before = engine(small)
    engine(large)
    assert np.array_equal(engine(small), before)


def test_frames_may_be_views() -> None:
    frames = noise(4, 40, 60, seed=5)
    engine = open_engine("numba", TvL1Params())
    view = frames[::-1, 3:35:1, ::2]
    assert np.array_equal(engine(view), engine(np.ascontiguousarray(view)))


@pytest.mark.parametrize("high", [1, 255])
def test_hard_edges_and_flicker_stay_finite(high: int) -> None:
    checkers = (np.indices((33, 47)).sum(axis=0) % 2 * high).astype(np.uint8)
    flow = open_engine("numba", TvL1Params())(
        np.stack([checkers, high - checkers, np.zeros_like(checkers)])
    )
    assert np.isfinite(flow).all()


def test_a_second_start_compiles_nothing(tmp_path: Path) -> None:
    program = (
        "import numpy as np; from twinstream.preprocess.flow.engine import TvL1Params\n"
        "from twinstream.preprocess.flow.engines import open_engine\n"
        "from twinstream.preprocess.flow.tvl1 import iterations, kernels\n"
        "open_engine('numba', TvL1Params(scales=2, warps=1))(np.zeros((2, 24, 24), np.uint8))\n"
        "print([len(k.stats.cache_misses) for k in (kernels.resize, kernels.fill_taps, "
        "kernels.warp, iterations.iterate)])"
    )
    starts = [start_python(program, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert starts == ["[1, 1, 1, 1]", "[0, 0, 0, 0]"]


@pytest.mark.parametrize(
    ("machine", "features", "lacks"),
    [
        ("x86_64", {"avx2": True, "fma": True}, False),
        ("x86_64", {"avx": True, "fma": False}, True),
        ("x86_64", {}, True),
        ("aarch64", {"neon": True}, False),
    ],
)
def test_a_processor_without_fused_multiply_add_is_told_in_one_line(
    machine: str,
    features: dict[str, bool],
    lacks: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(numba_engine, "get_host_cpu_features", lambda: features)
    open_engine("numba", FIXED)
    told = ["engine numba: this CPU has no fused multiply-add"] if lacks else []
    assert [record.message.partition(" (")[0] for record in caplog.records] == told


def test_the_bits_do_not_depend_on_the_processors_vectors(tmp_path: Path) -> None:
    """`generic` is the least that this architecture has: no AVX, no FMA."""
    program = (
        "from tests.preprocess.flow.tvl1.test_numba_engine import noise\n"
        "from twinstream.preprocess.flow.engine import TvL1Params\n"
        "from twinstream.preprocess.flow.engines import open_engine\n"
        "print(open_engine('numba', TvL1Params())(noise(3, 40, 61, seed=7)).tobytes().hex())"
    )
    expected = open_engine("numba", TvL1Params())(noise(3, 40, 61, seed=7)).tobytes().hex()
    assert (
        start_python(program, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_CPU_NAME="generic") == expected
    )


def start_python(program: str, **environment: str) -> str:
    """What a fresh interpreter prints that has more in its environment."""
    command = [sys.executable, "-c", program]

    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@numba.njit
def _every_operation(a, b, out):
    x, y = lanes.load(a, (1, 2)), lanes.load(b, (0, 0))
    total = x + y
    total += y
    lanes.store(out, (0, 0), total)
    lanes.store(out, (1, 0), x - y)
    lanes.store(out, (2, 0), x * y)
    lanes.store(out, (3, 0), x / y)
    lanes.store(out, (4, 0), lanes.sqrt(x))
    lanes.store(out, (5, 0), lanes.floor(x - y))
    lanes.store(out, (6, 0), lanes.minimum(x, y))
    lanes.store(out, (7, 0), lanes.maximum(x, y))
    lanes.store(out, (8, 0), lanes.rotate(x, 3))
    lanes.store(out, (9, 0), lanes.splat(lanes.lane(x, 5)))
    lanes.store(out, (11, 0), lanes.splat(lanes.load_item(a, (1, 7))))
    lanes.store(out, (10, 0), lanes.fma(x, y, lanes.splat(np.float32(0)) - x * y))


@numba.njit
def _turned(a, taken, out):
    columns = lanes.load(a, (0, 0)), lanes.load(a, (0, 1)), lanes.load(a, (0, 2))
    lanes.store_columns(out, (0, 0), *columns, lanes.load(a, (0, 3)))
    lanes.store(taken, (0, 0), lanes.load_column(out, (0, 0), 2))
    lanes.store_four(out, (1, 1), columns[1])


def test_columns_are_written_in_turn_and_read_back() -> None:
    a = np.arange(24, dtype=np.float32)[None]
    taken, out = np.zeros((1, 16), np.float32), np.full((2, 64), -1, np.float32)
    _turned(a, taken, out)
    expected = np.stack([a[0, n : n + 16] for n in range(4)])
    assert np.array_equal(out[0], expected.T.ravel())
    assert np.array_equal(taken[0], expected[2])
    assert out[1, :7].tolist() == [-1, 1, 2, 3, 4, -1, -1]


@pytest.mark.parametrize("has_many_registers", [False, True])
def test_neighbours_come_from_the_vector_and_one_from_another(
    monkeypatch: pytest.MonkeyPatch, has_many_registers: bool
) -> None:
    monkeypatch.setattr(lanes, "HAS_MANY_REGISTERS", has_many_registers)

    # Compiled anew, since the choice is made then.
    @numba.njit
    def moved(a, out):
        lanes.store(out, (0, 0), lanes.load_beside(a, (20,), (60,), 1))
        lanes.store(out, (1, 0), lanes.load_beside(a, (20,), (60,), -1))

    a = np.arange(80, dtype=np.float32)
    out = np.zeros((2, 16), np.float32)
    moved(a, out)
    assert out.tolist() == [[*range(21, 36), 60], [75, *range(20, 35)]]


def test_lanes_compute_what_numpy_computes_to_the_bit() -> None:
    rng = np.random.default_rng(6)
    a, b = (rng.uniform(0.1, 9, (2, 24)).astype(np.float32) for _ in range(2))
    out = np.zeros((12, 16), np.float32)
    _every_operation(a, b, out)
    x, y = a[1, 2:18], b[0, :16]
    expected = [
        x + y + y,
        x - y,
        x * y,
        x / y,
        np.sqrt(x),
        np.floor(x - y),
        np.minimum(x, y),
        np.maximum(x, y),
    ]
    # A product of two float32 is exact in float64: what is left of it is what rounding took.
    rest = (x.astype(np.float64) * y - x * y).astype(np.float32)
    assert rest.any()
    expected += [np.roll(x, -3), np.full(16, x[5]), rest, np.full(16, x[5])]
    assert np.array_equal(out, np.stack(expected))


def real_pairs(real_data: Path) -> Iterator[Gray]:
    """Three UCF-101, three Weizmann and two Middlebury pairs at 128x128."""
    for folder in ("ucf101", "weizmann"):
        for path in sorted((real_data / folder).rglob("*.avi"))[5::20][:3]:
            with open_video(path, size=(128, 128), short_side=None, chunk_frames=2) as video:
                yield gray(next(iter(video)))
    for name in ("Dimetrodon", "rubberwhale"):
        images = [cv2.imread(str(real_data / "flow_gt" / name / f"frame{n}.png")) for n in (10, 11)]
        yield gray(
            np.array(
                [cv2.resize(np.array(i), (128, 128), interpolation=cv2.INTER_AREA) for i in images]
            )
        )


def gray(images: NDArray[np.uint8]) -> Gray:
    """(2, H, W, 3) -> (2, H, W), the channels' mean."""
    means: Gray = images.mean(axis=-1).astype(np.uint8)
    return means


@pytest.mark.real
def test_real_pairs_give_the_references_flow(real_data: Path) -> None:
    pairs = list(real_pairs(real_data))
    assert len(pairs) == 8
    for pair in pairs:
        assert distance(pair, FIXED) < 1e-3
        assert distance(pair, TvL1Params()) < 0.02
