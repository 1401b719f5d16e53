"""The `cuda` engine's kernels in Triton's interpreter, on the CPU, against NumPy and the float64
definition.

Triton decides when it is imported whether it interprets, so these tests have a process of their
own, which `test_cuda_engine.py` starts with TRITON_INTERPRET=1. The interpreter takes milliseconds
for each row of each iteration: sizes are small and odd.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from tests.support.scenes import textured
from twinstream.errors import InputError
from twinstream.preprocess.flow.engine import TvL1Params
from twinstream.preprocess.flow.tvl1 import (
    cuda_engine,
    reference,
    triton_kernels,
    triton_rule,
    triton_waves,
)
from twinstream.preprocess.flow.tvl1.cuda_batch import (
    ASK_EVERY,
    Level,
    Tiling,
    resized,
    suitable_rows,
    upsampled,
)
from twinstream.preprocess.flow.tvl1.cuda_engine import CudaEngine, open_cuda

assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1 before Python starts"

SHORT = TvL1Params(scales=1, warps=1, epsilon=0, iterations=2)
SIDE, DONE, LEFT, RUN = 0, 1, 2, 4
"""Rows of a slot of a level's `control`."""
SMALL_TILES = Tiling(depth=4, columns=16)

Array = np.ndarray[Any, Any]


def random_planes(*shape: int, seed: int = 0, high: float = 255) -> Array:
    return np.random.default_rng(seed).uniform(0, high, shape).astype(np.float32)


def tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def level_of(images: Array, flow: Array, params: TvL1Params, tiling: Tiling = SMALL_TILES) -> Level:
    """Pairs of neighbouring images, (T, H, W) and (T - 1, 2, H, W)."""
    return Level(
        tensor(images), torch.arange(len(flow), dtype=torch.int32), tensor(flow), params, tiling
    )


def moving(*shifts: float, height: int = 17, width: int = 23) -> Array:
    """The textured scene, moved by each shift in x and half of it in y."""
    return np.stack([textured(shift, shift / 2, height=height, width=width) for shift in shifts])


@pytest.mark.parametrize(("height", "width"), [(14, 18), (16, 16)])
def test_resize_shrinks_as_the_definition(height: int, width: int) -> None:
    images = random_planes(3, 17, 23)
    shrunk = resized(tensor(images), height, width, (1.25, 1.25), 1.0).numpy()
    for image, result in zip(images, shrunk, strict=True):
        expected = reference.sampled(image.astype(np.float64), (height, width), (1.25, 1.25))
        np.testing.assert_allclose(result, expected, atol=1e-3)


def test_resize_enlarges_and_scales_flow_as_the_definition() -> None:
    flow = random_planes(2, 2, 17, 23, high=9)
    enlarged = upsampled(tensor(flow), 21, 29, 1.25).numpy()
    assert enlarged.shape == (2, 2, 21, 29)
    for n in np.ndindex(2, 2):
        expected = reference.upsampled(flow[n].astype(np.float64), (21, 29)) / 0.8
        np.testing.assert_allclose(enlarged[n], expected, atol=1e-5)


def test_differences_are_central_and_repeat_the_border() -> None:
    images = random_planes(2, 17, 23)
    level = level_of(images, np.zeros((1, 2, 17, 23)), SHORT)
    for image, gradient in zip(images, level.gradients.numpy(), strict=True):
        np.testing.assert_array_equal(gradient, np.stack(reference.central_differences(image)))


@pytest.mark.parametrize("side", [3, 5])
def test_the_median_filter_is_the_definitions(side: int) -> None:
    flow = np.round(random_planes(1, 2, 17, 16, high=9))  # with many equal values
    level = level_of(random_planes(2, 17, 16), flow, SHORT)
    for n in range(2):
        np.testing.assert_array_equal(
            level.filtered(side)[0, n], reference.median(flow[0, n], side)
        )


def test_warp_linearises_around_the_flow_wherever_it_leads() -> None:
    images, flow = random_planes(3, 17, 23), random_planes(2, 2, 17, 23, seed=1, high=8) - 4
    flow[0, 0, :5], flow[0, 1, 5:9], flow[1, :, 3, 3] = 1e6, -40.25, 3.0
    images[2] = 7.5  # without any gradient
    level = level_of(images, flow, SHORT)
    level.warp()
    for pair in range(2):
        u = (flow[pair, 0].astype(np.float64), flow[pair, 1].astype(np.float64))
        second = images[pair + 1].astype(np.float64)
        warped, gx, gy = (
            reference.bicubic_warp(i, u) for i in (second, *reference.central_differences(second))
        )
        inverse = 1 / np.maximum(gx**2 + gy**2, 1e-30)
        constant = warped - gx * u[0] - gy * u[1] - images[pair]
        near = (
            np.abs(flow[pair]).max(axis=0) < 1e5
        )  # float32 has no room for the fraction of the others
        for result, expected in zip(
            level.constants[pair].numpy(), (constant, gx, gy, inverse), strict=True
        ):
            np.testing.assert_allclose(result[near], expected[near], rtol=2e-3, atol=2e-2)


def random_level(num_pairs: int, tiling: Tiling) -> tuple[Level, Array]:
    """A level in the middle of its work, on side 1 for odd pairs, and its (pairs, 6, H,
    W) fields.
    """
    level = level_of(
        random_planes(num_pairs + 1, 17, 23), np.zeros((num_pairs, 2, 17, 23)), TvL1Params(), tiling
    )
    level.warp()
    fields = random_planes(num_pairs, 6, 17, 23, seed=5, high=2) - 1
    # Where the forward difference is zero, so is the dual.
    fields[:, 2::2, :, -1] = 0
    fields[:, 3::2, -1] = 0
    level.state.fill_(np.nan)
    level.control[:, SIDE] = torch.arange(num_pairs) % 2
    for pair in range(num_pairs):
        level.state[pair % 2, pair] = tensor(fields[pair])
    return level, fields


def iterated(level: Level, pair: int, fields: Array, count: int) -> tuple[list[Array], list[float]]:
    """The definition's fields after `count` iterations, and the squared change in each."""
    constant, gx, gy, _ = level.constants[pair].numpy().astype(np.float64)
    u, v, pux, puy, pvx, pvy = fields[pair].astype(np.float64)
    flow, duals, changes = (u, v), [(pux, puy), (pvx, pvy)], []
    for _ in range(count):
        old = flow
        flow = reference.primal_step(flow, duals, constant, (gx, gy), level.params)
        step = level.params.tau / level.params.theta
        duals = [
            reference.dual_step(field, dual, step) for field, dual in zip(flow, duals, strict=True)
        ]
        changes.append(float(((flow[0] - old[0]) ** 2 + (flow[1] - old[1]) ** 2).sum()))
    return [*flow, *duals[0], *duals[1]], changes


@pytest.mark.parametrize("tiling", [SMALL_TILES, Tiling()])
def test_a_wave_does_as_many_iterations_as_each_pair_asks_for(tiling: Tiling) -> None:
    counts = (4, 0, 3)
    level, fields = random_level(len(counts), tiling)
    level.control[:, LEFT] = torch.tensor(counts)
    level.advance(1, len(counts))
    for pair, count in enumerate(counts):
        written = level.state[1 - pair % 2, pair].numpy()
        if count == 0:
            assert np.isnan(written).all()
            continue
        expected, changes = iterated(level, pair, fields, count)
        np.testing.assert_allclose(written, np.stack(expected), atol=2e-5)
        sums = level.changes[0, pair].sum(dim=0).numpy()
        for half in range(count // 2):
            assert np.isclose(sums[half], changes[2 * half + 1], rtol=1e-5)


def test_a_wave_that_went_too_far_is_done_again_from_the_same_state() -> None:
    """The rule is met at the first look, after 2 of the wave's 4 iterations; pair 1 starts on the
    other side.
    """
    level, fields = random_level(2, Tiling())
    level.params = TvL1Params(epsilon=100.0)
    level.iterate()
    for pair in range(2):
        expected, _ = iterated(level, pair, fields, 2)
        np.testing.assert_allclose(
            level.state[level.side[pair], pair], np.stack(expected), atol=1e-5
        )
    assert level.work().item() == 2 * 2 * 17 * 23


def rule(changes: Array, tolerance: float) -> int:
    """How many iterations the definition does with these squared changes, as
    `reference.flow_at_level` counts.
    """
    expected = 0.0
    for n, change in enumerate(changes):
        if n % 2 == 1 and expected < tolerance:
            expected = float(change)
            if expected <= tolerance:
                return n + 1
        else:
            expected -= tolerance
    return len(changes)


@pytest.mark.parametrize(("depth", "iterations"), [(4, 30), (8, 31), (4, 1), (2, 9)])
def test_the_stopping_rule_is_the_definitions_whatever_the_changes(
    depth: int, iterations: int
) -> None:
    """Two warps, the second with a guess from the first; only iterations that are kept count."""
    num = 12
    level = level_of(
        np.zeros((num + 1, 16, 16)), np.zeros((num, 2, 16, 16)), TvL1Params(), Tiling(depth=depth)
    )
    level.params = TvL1Params(iterations=iterations, epsilon=1 / 16)  # a tolerance of 1
    rng = np.random.default_rng(depth)
    total = np.zeros(num)
    for _ in range(2):
        decline = np.linspace(0.0, 1.5, num)[:, None] * np.arange(iterations)
        changes = np.exp(
            rng.uniform(0, 5, (num, 1)) - decline + rng.normal(0, 0.3, (num, iterations))
        )
        kept, _ = replay(level, changes)
        assert kept.tolist() == [rule(row, 1.0) for row in changes]
        total += kept
    assert level.work().item() == total.sum() * 256


def replay(level: Level, changes: Array) -> tuple[Array, int]:
    """A warp of `level` without its fields: iteration n of a pair changes it by `changes[pair, n]`.

    Gives the iterations kept of each pair, and the number of waves.
    """
    waves = 0

    def advance(wave: int, count: int) -> None:
        nonlocal waves
        waves += 1
        height, width, num = level.sizes
        tolerance = level.params.epsilon**2 * height * width
        pieces, depth = level.changes.shape[2], level.tiling.depth
        judge[(num,)](
            level.control,
            level.changes,
            pieces,
            tolerance,
            num,
            wave,
            level.params.iterations,
            depth,
        )
        slot = 1 - wave % 2
        done, run = level.control[slot, DONE].numpy(), level.control[slot, RUN].numpy()
        level.changes[slot] = np.nan
        for pair in range(len(changes)):
            for n in range(1, run[pair], 2):
                level.changes[slot, pair, :, n // 2] = float(changes[pair, done[pair] + n]) / pieces

    level.advance = advance
    level.iterate()
    assert not level.control[:, LEFT].any()
    assert torch.equal(level.control[0], level.control[1])
    return level.control[0, DONE].numpy().copy(), waves


@triton_kernels.kernel
def judge(
    control: tl.tensor,
    changes: tl.tensor,
    pieces: tl.tensor,
    tolerance: tl.tensor,
    pairs: tl.tensor,
    wave: tl.tensor,
    iterations: tl.tensor,
    DEPTH: constexpr,
) -> None:
    """What every program of a wave begins with, alone."""
    pair = tl.program_id(0)
    now, then = wave % 2, 1 - wave % 2
    side, done, left, look, run, total = triton_rule.judged(
        control + now * triton_rule.NUM_CONTROLS * pairs + pair,
        changes + (now * pairs + pair) * pieces * (DEPTH // 2),
        pieces,
        tolerance,
        pairs,
        wave,
        iterations,
        2,
        DEPTH,
    )
    own = control + then * triton_rule.NUM_CONTROLS * pairs + pair
    triton_rule.keep(own, pairs, side, done, left, look, run, total)


def test_how_a_strip_is_cut_into_segments_changes_no_bit() -> None:
    written, sums = [], []
    for rows in (64, 16):
        images, flow = random_planes(2, 35, 19), random_planes(1, 2, 35, 19, high=2)
        level = level_of(images, flow, TvL1Params(), Tiling(depth=2, columns=16))
        level.warp()
        level.control[:, LEFT] = 2
        level.advance(1, 1, rows)
        written.append(level.state[1].numpy().copy())
        sums.append(level.changes[0].numpy().copy())
    # Two strips of three pieces
    assert np.count_nonzero(sums[0]) == sums[0].size == 2 * 3
    assert np.array_equal(written[1], written[0])
    assert np.array_equal(sums[1], sums[0])


def test_pairs_at_work_are_listed_in_order_until_both_slots_say_that_they_ended() -> None:
    level = level_of(np.zeros((7, 16, 16)), np.zeros((6, 2, 16, 16)), TvL1Params())
    level.control[0, LEFT] = torch.tensor([0, 3, 0, 0, 300, 0])
    level.control[1, LEFT] = torch.tensor([0, 7, 0, 2, 0, 0])
    assert level.question().answer() == 3
    assert level.working[:3].tolist() == [1, 3, 4]


@pytest.mark.parametrize(
    ("height", "strips", "rows"), [(256, 5, 16), (256, 240, 32), (256, 500, 64), (105, 1280, 64)]
)
def test_segments_are_long_while_many_pairs_are_at_work_and_short_in_the_end(
    height: int, strips: int, rows: int
) -> None:
    assert suitable_rows(height, strips, 4, 1584) == rows


def test_waves_end_soon_after_the_last_pair() -> None:
    level = level_of(np.zeros((3, 16, 16)), np.zeros((2, 2, 16, 16)), TvL1Params())
    kept, waves = replay(level, np.zeros((2, 300)))
    assert kept.tolist() == [2, 2]
    assert waves == 2 * ASK_EVERY


def endpoint_distance(engine: CudaEngine, frames: Array) -> float:
    flow = engine(frames)
    pairs = zip(flow, frames, frames[1:], strict=False)
    return float(
        np.mean(
            [
                np.linalg.norm(f - reference.reference_flow(a, b, engine.params), axis=-1).mean()
                for f, a, b in pairs
            ]
        )
    )


@pytest.mark.parametrize("median", [None, 3])
def test_two_levels_and_two_warps_give_the_references_flow(median: int | None) -> None:
    params = TvL1Params(scales=2, warps=2, epsilon=0, iterations=3, median=median)
    assert endpoint_distance(open_cuda(params), moving(0, 1.3, height=21, width=28)) < 1e-4


def test_every_parameter_reaches_the_kernels() -> None:
    frames = moving(0, 0.7, height=24, width=27)
    params = TvL1Params(
        tau=0.2, lambda_=0.1, theta=0.4, scales=2, warps=2, iterations=2, epsilon=0, scale_step=0.7
    )
    assert endpoint_distance(open_cuda(params), frames) < 1e-4


def test_pairs_stop_one_by_one_and_a_batch_changes_no_bit() -> None:
    params = TvL1Params(scales=1, warps=2, epsilon=0.12, iterations=10)
    frames = moving(0, 0, 1.5)
    engine = open_cuda(params)
    together = engine(frames)
    assert not together[0].any()
    assert (
        np.linalg.norm(
            together[1] - reference.reference_flow(frames[1], frames[2], params), axis=-1
        ).mean()
        < 0.02
    )
    work_together = engine.pixel_iterations
    alone = open_cuda(params)
    assert np.array_equal(alone(frames[1:])[0], together[1])
    assert work_together == alone.pixel_iterations + 2 * 2 * 17 * 23


def counting_batches(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[int]:
    """Sizes of the batches that are computed from now on; more pairs than `limit` do not fit the
    device.
    """
    sizes = []
    compute: Callable[..., tuple[Tensor, Tensor]] = cuda_engine.batch_flow

    def counted(frames: Tensor, first: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        if len(first) > limit:
            raise torch.OutOfMemoryError("simulated")
        sizes.append(len(first))
        return compute(frames, first, *rest)

    monkeypatch.setattr(cuda_engine, "batch_flow", counted)
    return sizes


def test_a_chunk_that_does_not_fit_is_cut_and_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = moving(0, 0.5, 1.5, 1.0, height=16, width=16)
    whole = open_cuda(SHORT)(frames)
    sizes = counting_batches(monkeypatch, limit=99)
    assert np.array_equal(open_cuda(SHORT, max_bytes=70_000)(frames), whole)
    assert np.array_equal(open_cuda(SHORT, max_bytes=1)(frames[:2]), whole[:1])
    assert sizes == [2, 1, 1]


def test_a_device_without_room_gets_half_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = moving(0, 0.5, 1.5, 1.0, height=16, width=16)
    whole = open_cuda(SHORT)(frames)
    sizes = counting_batches(monkeypatch, limit=1)
    engine = open_cuda(SHORT)
    assert np.array_equal(engine(frames), whole)
    assert engine.max_pairs == 1
    assert sizes == [1, 1, 1]
    counting_batches(monkeypatch, limit=0)
    with pytest.raises(InputError, match="no memory for one pair of 16x16"):
        engine(frames)


def test_videos_computed_together_are_as_if_alone() -> None:
    videos = [moving(0, 0.5), moving(1.0), moving(2.0, 0.5)]
    flows = open_cuda(SHORT).flow_of_videos(videos)
    assert [flow.shape for flow in flows] == [(1, 17, 23, 2), (0, 17, 23, 2), (1, 17, 23, 2)]
    assert np.array_equal(flows[0], open_cuda(SHORT)(videos[0]))
    assert np.array_equal(flows[2], open_cuda(SHORT)(videos[2]))
    with pytest.raises(InputError, match="sizes 23x17, 16x20"):
        open_cuda(SHORT).flow_of_videos([videos[0], np.zeros((2, 20, 16), np.uint8)])


class Launches:
    """Stands for a kernel, does nothing, and counts how often it is launched."""

    count = 0

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        self.count += 1
        return lambda *arguments, **options: None


def test_how_much_is_launched_does_not_depend_on_the_number_of_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [(triton_kernels, name) for name in ("resize", "differences", "warp", "median")]
    names += [(triton_waves, "advance"), (triton_rule, "gather")]
    counts = []
    for num_frames in (2, 60):
        kernels = [Launches() for _ in names]
        for (module, name), kernel in zip(names, kernels, strict=True):
            monkeypatch.setattr(module, name, kernel)
        open_cuda(TvL1Params(median=3))(np.zeros((num_frames, 60, 70), np.uint8))
        counts.append([kernel.count for kernel in kernels])
    assert counts[0] == counts[1]
    assert all(counts[0])


def test_frames_may_be_read_only_views() -> None:
    frames = moving(0, 1.0, height=32, width=32)
    view = frames[::-1, ::2, ::2]
    view.flags.writeable = False
    assert np.array_equal(open_cuda(SHORT)(view), open_cuda(SHORT)(view.copy()))


@pytest.mark.parametrize("frames", [0, 1])
def test_fewer_than_two_frames_have_no_flow(frames: int) -> None:
    assert open_cuda(SHORT)(np.zeros((frames, 20, 24), np.uint8)).shape == (0, 20, 24, 2)


def test_frames_that_no_engine_takes_are_refused() -> None:
    with pytest.raises(InputError, match=r"15x64.*at least 16"):
        open_cuda(SHORT)(np.zeros((2, 64, 15), np.uint8))
    with pytest.raises(InputError, match="max_bytes is 0"):
        open_cuda(SHORT, max_bytes=0)
