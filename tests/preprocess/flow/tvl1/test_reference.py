"""TV-L1: the engines' common promises, and the float64 definition."""

from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from tests.support.scenes import textured
from twinstream.errors import InputError
from twinstream.preprocess.flow.engine import Engine, Gray, TvL1Params
from twinstream.preprocess.flow.engines import open_engine
from twinstream.preprocess.flow.tvl1 import reference
from twinstream.preprocess.flow.tvl1.levels import positions

ENGINES = ("numba", "opencv", "reference")
QUICK = TvL1Params(scales=3, warps=3, iterations=60)

planes = st_numpy.arrays(
    np.float64, st.tuples(st.integers(2, 9), st.integers(2, 9)), elements=st.floats(-100, 100)
)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return open_engine(request.param, QUICK)


def test_opencv_without_its_contrib_modules_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(
        InputError,
        match=r"no optflow module; install opencv-contrib-python or use `engine: numba`$",
    ):
        open_engine("opencv", QUICK)


class FakeGpuMat:
    """What `cv2.cuda.GpuMat` looks like from outside."""

    def upload(self, image: Gray) -> None:
        self.image = image

    def download(self) -> Any:
        return self.image


class FakeCudaTvL1:
    """What a CUDA build's TV-L1 looks like; its flow is the sum of the frames, and its parameters
    are kept.
    """

    made: ClassVar[list[tuple[float, ...]]] = []

    @classmethod
    def create(cls, *parameters: float) -> "FakeCudaTvL1":
        cls.made.append(parameters)
        return cls()

    def calc(self, first: FakeGpuMat, second: FakeGpuMat, flow: None) -> FakeGpuMat:
        out = FakeGpuMat()
        out.upload(np.repeat((first.image + second.image)[..., None], 2, axis=-1))
        return out


def test_an_opencv_with_cuda_and_a_device_computes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2.cuda, "getCudaEnabledDeviceCount", lambda: 1)
    monkeypatch.setattr(cv2.cuda, "GpuMat", FakeGpuMat, raising=False)
    monkeypatch.setattr(cv2.cuda, "OpticalFlowDual_TVL1", FakeCudaTvL1, raising=False)
    frames = np.stack([np.full((16, 16), level, np.uint8) for level in (3, 4, 6)])
    assert open_engine("opencv", TvL1Params())(frames)[:, 0, 0].tolist() == [[7, 7], [10, 10]]
    assert FakeCudaTvL1.made == 2 * [(0.25, 0.15, 0.3, 5, 5, 0.01, 300, 0.8, 0.0)]


@pytest.mark.parametrize("frames", [0, 1])
def test_fewer_than_two_frames_have_no_flow(engine: Engine, frames: int) -> None:
    flow = engine(np.zeros((frames, 20, 24), np.uint8))
    assert flow.shape == (0, 20, 24, 2)
    assert flow.dtype == np.float32


@pytest.mark.parametrize(("height", "width"), [(15, 64), (64, 15)])
def test_frames_below_16_pixels_are_refused_with_their_size(
    engine: Engine, height: int, width: int
) -> None:
    with pytest.raises(InputError, match=f"{width}x{height}.*at least 16"):
        engine(np.zeros((2, height, width), np.uint8))


def test_frames_that_are_not_gray_bytes_are_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"float64 \(2, 32, 32\)"):
        engine(np.zeros((2, 32, 32)))
    with pytest.raises(InputError, match=r"uint8 \(2, 32, 32, 3\)"):
        engine(np.zeros((2, 32, 32, 3), np.uint8))


@pytest.mark.parametrize(("dx", "dy"), [(0.5, 0.0), (-1.25, 0.75), (0.3, -2.4)])
def test_a_known_subpixel_translation_is_found(engine: Engine, dx: float, dy: float) -> None:
    flow = engine(np.stack([textured(), textured(dx, dy)]))
    inside = flow[0, 8:-8, 8:-8]
    assert np.abs(inside.mean(axis=(0, 1)) - (dx, dy)).max() < 0.05
    assert np.abs(inside - np.array([dx, dy])).mean() < 0.05


def test_flow_t_leads_from_frame_t_to_the_next(engine: Engine) -> None:
    flow = engine(np.stack([textured(), textured(1.0), textured(0.0, -1.0)]))
    centres = flow[:, 12:-12, 12:-12].mean(axis=(1, 2))
    assert np.abs(centres - [[1, 0], [-1, -1]]).max() < 0.1


def test_identical_frames_have_exactly_zero_flow(engine: Engine) -> None:
    assert not engine(np.stack([textured(), textured()])).any()


def test_constant_frames_of_different_brightness_have_zero_flow(engine: Engine) -> None:
    assert not engine(
        np.stack([np.full((20, 33), 10, np.uint8), np.full((20, 33), 200, np.uint8)])
    ).any()


def test_mirrored_frames_have_mirrored_flow(engine: Engine) -> None:
    frames = np.stack([textured(), textured(1.3, -0.6)])
    mirrored = engine(np.ascontiguousarray(frames[:, :, ::-1]))[:, :, ::-1] * np.array([-1, 1])
    assert np.abs(engine(frames) - mirrored)[:, 8:-8, 8:-8].mean() < 0.05


def test_reversed_frames_have_nearly_opposite_flow(engine: Engine) -> None:
    frames = np.stack([textured(), textured(1.3, -0.6)])
    assert np.abs(engine(frames) + engine(frames[::-1]))[:, 8:-8, 8:-8].mean() < 0.05


def test_a_small_image_in_between_changes_nothing(engine: Engine) -> None:
    frames = np.stack([textured(), textured(1.5)])
    before = engine(frames)
    engine(frames[:, :16, :17])
    assert np.array_equal(engine(frames), before)


def test_pyramid_sizes_are_rounded_from_level_to_level() -> None:
    sizes = [
        level.shape for level in reference.pyramid(np.zeros((256, 340), np.uint8), TvL1Params())
    ]
    assert sizes == [(256, 340), (205, 272), (164, 218), (131, 174), (105, 139)]


def test_the_pyramid_stops_above_16_pixels() -> None:
    sizes = [
        level.shape for level in reference.pyramid(np.zeros((26, 100), np.uint8), TvL1Params())
    ]
    assert sizes == [(26, 100), (21, 80), (17, 64)]


@pytest.mark.parametrize(
    ("num", "step", "expected"),
    [
        (4, 1.25, [0, 12.5, 25, 37.5]),  # a level, from five rows
        (6, 5 / 6, [0, 8 + 1 / 3, 16 + 2 / 3, 25, 33 + 1 / 3, 40]),  # and back up: the last repeats
        (5, 1.0, [0, 10, 20, 30, 40]),
    ],
)
def test_a_resize_reads_from_the_first_pixel_on_without_half_a_pixel(
    num: int, step: float, expected: list[float]
) -> None:
    column = np.arange(5.0)[:, None] * 10
    np.testing.assert_allclose(reference.sampled_rows(column, num, step)[:, 0], expected)
    before, part = positions(num, 4, step)
    np.testing.assert_allclose((before + part) * 10, expected, rtol=1e-6)


@given(planes, st.integers(2, 12), st.integers(2, 12))
def test_resizing_is_linear_in_rows_and_columns(
    image: reference.Field, height: int, width: int
) -> None:
    """`np.interp` repeats the last pixel too."""
    rows, columns = (
        np.arange(new) * (old / new) for new, old in zip((height, width), image.shape, strict=True)
    )
    tall = np.stack([np.interp(rows, np.arange(len(image)), line) for line in image.T], axis=1)
    wide = np.stack([np.interp(columns, np.arange(image.shape[1]), line) for line in tall])
    np.testing.assert_allclose(reference.upsampled(image, (height, width)), wide, atol=1e-9)


def test_a_level_that_rounds_to_the_same_size_is_a_copy_and_its_flow_is_scaled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = TvL1Params(scales=2, warps=1, iterations=1, scale_step=0.98)
    frame = textured(height=16, width=16)
    levels = list(reference.pyramid(frame, params))
    assert [level.shape for level in levels] == [(16, 16), (16, 16)]
    assert np.array_equal(levels[1], frame)
    begins = []

    def ones(i0: reference.Field, i1: object, u: reference.Pair, params: object) -> reference.Pair:
        begins.append(u[0][0, 0])
        return np.ones_like(i0), np.ones_like(i0)

    monkeypatch.setattr(reference, "flow_at_level", ones)
    reference.reference_flow(frame, frame, params)
    assert begins == [0, 1 / 0.98]


def test_the_threshold_holds_where_the_gradient_is_too_small_to_divide_by() -> None:
    """|grad|^2 is 1e-8, below float32's epsilon: rho of 5 and -5 is beyond the limit, 1e-12 not."""
    rho = np.array([[5.0, -5.0, 1e-12]])
    zero = np.zeros_like(rho)
    params = TvL1Params()
    moved, _ = reference.primal_step(
        (zero, zero), [(zero, zero)] * 2, rho, (np.full_like(rho, 1e-4), zero), params
    )
    limit = params.lambda_ * params.theta
    np.testing.assert_allclose(moved, [[-limit * 1e-4, limit * 1e-4, 0]])


@given(planes)
def test_a_warp_by_whole_pixels_moves_the_image_and_repeats_its_border(
    image: reference.Field,
) -> None:
    shift = (np.full(image.shape, 1.0), np.full(image.shape, -2.0))
    rows, columns = np.arange(image.shape[0]) - 2, np.arange(image.shape[1]) + 1
    expected = image[np.maximum(rows, 0)][:, np.minimum(columns, image.shape[1] - 1)]
    np.testing.assert_allclose(reference.bicubic_warp(image, shift), expected, atol=1e-9)


def test_the_cubic_is_keys_with_a_of_minus_one_half() -> None:
    """Which reproduces a parabola, as no other value does; at the half its weights are -1/16, 9/16,
    9/16, -1/16.
    """
    assert [float(weight) for weight in reference.keys_weights(np.array(0.5))] == [
        -0.0625,
        0.5625,
        0.5625,
        -0.0625,
    ]
    x = np.tile(np.arange(12.0), (6, 1))
    warped = reference.bicubic_warp(x**2, (np.full_like(x, 0.3), np.full_like(x, 0.7)))
    np.testing.assert_allclose(warped[:, 2:-3], ((x + 0.3) ** 2)[:, 2:-3])


@given(planes, st.data())
def test_divergence_is_the_negative_adjoint_of_the_forward_differences(
    field: reference.Field, data: st.DataObject
) -> None:
    same_shape = st_numpy.arrays(np.float64, field.shape, elements=st.floats(-100, 100))
    p = (data.draw(same_shape).copy(), data.draw(same_shape).copy())
    p[0][:, -1] = 0  # where the forward difference is zero, p stays zero
    p[1][-1] = 0
    dx, dy = np.diff(field, axis=1, append=field[:, -1:]), np.diff(field, axis=0, append=field[-1:])
    assert np.isclose(
        (dx * p[0] + dy * p[1]).sum(), -(field * reference.divergence(p)).sum(), atol=1e-6
    )


@given(planes, st.sampled_from([3, 5]))
def test_the_median_filter_is_opencvs(field: reference.Field, side: int) -> None:
    field = np.tile(field, (3, 3)).astype(np.float32).astype(np.float64)
    expected = cv2.medianBlur(field.astype(np.float32), side)
    assert np.array_equal(reference.median(field, side), expected.astype(np.float64))


def test_a_warp_ends_at_an_odd_iteration_whose_change_is_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Identical frames do not change at all: iterations 0 and 1, then the rule is looked at and
    met.
    """
    steps = []
    step = reference.primal_step

    def counted(*args: Any) -> Any:
        steps.append(1)
        return step(*args)

    monkeypatch.setattr(reference, "primal_step", counted)
    reference.reference_flow(textured(), textured(), TvL1Params(scales=1, warps=3))
    assert len(steps) == 3 * 2
    steps.clear()
    reference.reference_flow(
        textured(), textured(), TvL1Params(scales=1, warps=3, epsilon=0, iterations=7)
    )
    assert len(steps) == 3 * 7


# Mean endpoint errors in pixels, unknown ones left out. The last two are where the definition costs
# something: OpenCV's CPU implementation warps with a sharper cubic, a = -0.75, and reads these
# textures better (0.157 and 0.306).
@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "bound"),
    [("Dimetrodon", 0.180), ("rubberwhale", 0.157), ("Grove2", 0.207), ("Venus", 0.338)],
)
@pytest.mark.parametrize("median", [None, 5])
def test_middlebury_errors_stay_where_they_are(
    real_data: Path, name: str, bound: float, median: int | None
) -> None:
    folder = real_data / "flow_gt" / name
    images = [cv2.imread(str(folder / f"frame{n}.png"), cv2.IMREAD_GRAYSCALE) for n in (10, 11)]
    frames = np.array(images, np.uint8)
    truth = np.fromfile(folder / "flow10.flo", np.float32, offset=12).reshape(*frames.shape[1:], 2)
    known = (np.abs(truth) < 1e6).all(axis=-1)
    flow = open_engine("numba", TvL1Params(median=median))(frames)[0]
    assert np.linalg.norm(flow - truth, axis=-1)[known].mean() < bound
