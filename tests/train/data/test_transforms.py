"""Views: frame and flow through one of them stay aligned to the pixel, and motion keeps meaning
motion.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.format.flow_codec import quantize
from twinstream.train.choices import NumCrops

# `transforms.test_views` is called by its module: pytest would collect the bare name as a test.
from twinstream.train.data import transforms
from twinstream.train.data.normalise import normalise_flow
from twinstream.train.data.transforms import View, apply_views, negate_levels, random_view

Bytes = NDArray[np.uint8]


def one_picture_in_both(
    height: int, width: int, seed: int = 0
) -> tuple[list[Bytes], list[list[Bytes]]]:
    """2 random frames (H, W, 3) and 2 stacks of 10 fields (H, W): all of a segment is the same
    picture.
    """
    pictures = np.random.default_rng(seed).integers(1, 256, (2, height, width), dtype=np.uint8)
    return [np.repeat(picture[..., None], 3, axis=2) for picture in pictures], [
        [p] * 10 for p in pictures
    ]


def through(
    frames: list[Bytes],
    flow: list[list[Bytes]],
    view: View,
    out: int,
    *,
    scale_motion: bool = True,
) -> tuple[Bytes, Bytes, NDArray[np.float32]]:
    """One view of frames and flow: rgb (K, 3, out, out), flow (K, 2L, out, out) and flow_scale."""
    rgb = np.empty((1, len(frames), 3, out, out), np.uint8)
    fields = np.empty((1, len(flow), len(flow[0]), out, out), np.uint8)
    scale = apply_views(frames, flow, [view], rgb, fields, scale_motion=scale_motion)
    return rgb[0], fields[0], scale


def negated(levels: Bytes) -> Bytes:
    """A negated copy."""
    result = levels.copy()
    negate_levels(result)
    return result


def test_shapes_are_channels_first_with_a_pair_of_channels_for_each_field() -> None:
    rgb, flow, scale = through(*one_picture_in_both(40, 60), View(1, 2, 30, 20, False), 32)
    assert (rgb.shape, rgb.dtype) == ((2, 3, 32, 32), np.uint8)
    assert (flow.shape, flow.dtype) == ((2, 10, 32, 32), np.uint8)
    assert scale.tolist() == pytest.approx([1.6, 32 / 30])


def test_channels_are_dx0_dy0_dx1_dy1() -> None:
    flow = [[np.full((4, 4), 10 * t + axis, np.uint8) for t in range(1, 4) for axis in range(2)]]
    frame = np.zeros((4, 4, 3), np.uint8)
    _, plain, _ = through([frame], flow, View(0, 0, 4, 4, False), 4)
    _, mirrored, _ = through([frame], flow, View(0, 0, 4, 4, True), 4)
    assert plain[0, :, 0, 0].tolist() == [10, 11, 20, 21, 30, 31]
    assert mirrored[0, :, 0, 0].tolist() == [246, 11, 236, 21, 226, 31]


def test_each_view_of_each_snippet_has_its_place() -> None:
    frames, flow = one_picture_in_both(20, 30)
    views = [View(0, 0, 16, 16, False), View(2, 9, 16, 16, False), View(4, 14, 16, 16, True)]
    rgb, fields = np.empty((3, 2, 3, 16, 16), np.uint8), np.empty((3, 2, 10, 16, 16), np.uint8)
    apply_views(frames, flow, views, rgb, fields, scale_motion=True)
    for v, view in enumerate(views):
        one, stack, _ = through(frames, flow, view, 16)
        np.testing.assert_array_equal(rgb[v], one)
        np.testing.assert_array_equal(fields[v], stack)


@pytest.mark.parametrize(("num_frames", "num_fields"), [(1, 10), (3, 10), (2, 9), (2, 11)])
def test_images_too_few_or_too_many_for_their_places_are_an_error(
    num_frames: int, num_fields: int
) -> None:
    frames, flow = (
        [np.zeros((8, 8, 3), np.uint8)] * num_frames,
        [[np.zeros((8, 8), np.uint8)] * num_fields] * 2,
    )
    rgb, fields = np.empty((1, 2, 3, 6, 6), np.uint8), np.empty((1, 2, 10, 6, 6), np.uint8)
    with pytest.raises(ValueError, match="zip"):
        apply_views(frames, flow, [View(0, 0, 8, 8, False)], rgb, fields, scale_motion=True)


def test_a_crop_of_the_output_size_is_cut_without_a_change() -> None:
    frames, flow = one_picture_in_both(20, 30)
    rgb, stack, scale = through(frames, flow, View(3, 7, 16, 16, False), 16)
    np.testing.assert_array_equal(rgb[1, 2], frames[1][3:19, 7:23, 2])
    np.testing.assert_array_equal(stack[1, 5], flow[1][5][3:19, 7:23])
    assert scale.tolist() == [1, 1]


def test_mirroring_reverses_columns_after_the_crop() -> None:
    frames, flow = one_picture_in_both(20, 30)
    rgb, stack, _ = through(frames, flow, View(3, 7, 16, 16, True), 16)
    np.testing.assert_array_equal(rgb[0, 1], frames[0][3:19, 7:23, 1][:, ::-1])
    np.testing.assert_array_equal(stack[0, 3], flow[0][3][3:19, 7:23][:, ::-1])
    np.testing.assert_array_equal(
        stack[0, 2].astype(int), 256 - flow[0][2][3:19, 7:23][:, ::-1].astype(int)
    )


def test_colours_keep_their_order() -> None:
    rgb = np.empty((3, 6, 6), np.uint8)
    transforms.view_frame(np.full((8, 8, 3), (10, 20, 30), np.uint8), View(0, 0, 8, 8, True), rgb)
    assert rgb[:, 2, 3].tolist() == [10, 20, 30]


@given(st.integers(0, 2**32))
def test_frame_and_flow_stay_aligned_to_the_pixel(seed: int) -> None:
    """Within one level: OpenCV rounds two and three channels by different code. A shift would
    differ by dozens.
    """
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(24, 70, 2))
    frames, flow = one_picture_in_both(height, width, seed)
    view = random_view(rng, height, width)
    rgb, stack, _ = through(frames, flow, view, int(rng.integers(8, 60)))
    dx = negated(stack[:, 0::2]) if view.flip else stack[:, 0::2]
    for channel in (
        *rgb.transpose(1, 0, 2, 3),
        *dx.transpose(1, 0, 2, 3),
        *stack[:, 1::2].transpose(1, 0, 2, 3),
    ):
        assert np.abs(channel.astype(int) - rgb[:, 0]).max() <= 1


def test_resizing_aligns_pixel_centres() -> None:
    """On a ramp, output column j reads stored column left + (j + 1/2) * width / out - 1/2."""
    ramp = np.broadcast_to((4 * np.arange(60, dtype=np.uint8))[:, None], (40, 60, 3))
    rgb = np.empty((3, 32, 32), np.uint8)
    transforms.view_frame(np.ascontiguousarray(ramp), View(0, 6, 40, 48, False), rgb)
    expected = 4 * (6 + (np.arange(32) + 0.5) * 48 / 32 - 0.5)
    assert np.abs(rgb[0, 5] - expected).max() <= 0.51


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("dx", "dy"), [(6, -4), (-5, 0), (0, 7)])
def test_flow_after_a_view_is_the_motion_seen_in_the_frames_after_it(
    dx: int, dy: int, flip: bool
) -> None:
    """A blob moves by (dx, dy); cropped, resized unevenly and mirrored, its flow still says where
    it went.
    """
    bound, frames = 20, np.zeros((2, 64, 64, 3), dtype=np.uint8)
    motion = np.zeros((2, 1, 64, 64, 2), dtype=np.float32)
    for t in range(2):
        blob = (slice(26 + t * dy, 38 + t * dy), slice(24 + t * dx, 38 + t * dx))
        frames[t, *blob] = 200
        motion[t, 0, *blob] = dx, dy
    stacks = [list(quantize(motion[t, 0], bound).transpose(2, 0, 1)) for t in range(2)]
    rgb, flow, scale = through(list(frames), stacks, View(8, 4, 40, 56, flip), 56)
    values = (
        normalise_flow(torch.from_numpy(flow), torch.from_numpy(scale)[None].expand(2, 2)).numpy()
        * bound
    )
    rows, columns = np.mgrid[:56, :56]
    weights = rgb[:, 0] / rgb[:, 0].sum(axis=(1, 2), keepdims=True)
    seen = [np.diff((weights * axis).sum(axis=(1, 2)))[0] for axis in (columns, rows)]
    inside = values[0][:, rgb[0, 0] == 200]
    assert inside.shape[1] > 100
    assert inside.mean(axis=1) == pytest.approx(seen, abs=0.15)
    assert (rgb[0, 0][(np.abs(values[0]) > 1).any(axis=0)] > 0).all()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("view", "scaled"),
    [
        ((168, 192), [224 / 192, 224 / 168]),
        ((256, 256), [0.875, 0.875]),
        ((224, 224), [1, 1]),
        ((168, 168), [4 / 3, 4 / 3]),
    ],
)
def test_motion_of_a_resized_crop_keeps_its_value_unless_it_is_scaled_along(
    view: tuple[int, int], scaled: list[float], flip: bool
) -> None:
    """A mirror negates dx either way."""
    motion = quantize(np.broadcast_to(np.float32((6, -4)), (256, 256, 2)), 20).transpose(2, 0, 1)
    frame, crop = np.zeros((256, 256, 3), np.uint8), View(0, 0, *view, flip)
    for scale_motion, expected in ((False, [1, 1]), (True, scaled)):
        _, flow, scale = through([frame], [[*motion]], crop, 224, scale_motion=scale_motion)
        assert scale.tolist() == pytest.approx(expected)
        values = normalise_flow(torch.from_numpy(flow), torch.from_numpy(scale)[None])[0] * 20
        seen = [float(axis.mean()) for axis in values]
        assert seen == pytest.approx([(-6 if flip else 6) * expected[0], -4 * expected[1]], abs=0.1)


def test_negating_a_level_twice_is_the_identity_and_zero_motion_stays() -> None:
    levels = np.arange(1, 256, dtype=np.uint8)
    assert negated(negated(levels)).tolist() == levels.tolist()
    assert negated(np.array([0, 1, 127, 128, 129, 255], np.uint8)).tolist() == [
        255,
        255,
        129,
        128,
        127,
        1,
    ]


def test_negated_levels_are_negated_motion() -> None:
    pixels = np.linspace(-22, 22, 177)
    np.testing.assert_array_equal(negated(quantize(pixels, 20)), quantize(-pixels, 20))


@given(st.integers(8, 300), st.integers(8, 300), st.integers(0, 2**32))
def test_a_random_view_lies_within_the_frame_at_neighbouring_scales(
    height: int, width: int, seed: int
) -> None:
    view = random_view(np.random.default_rng(seed), height, width)
    assert 0 <= view.top <= height - view.height
    assert 0 <= view.left <= width - view.width
    sides = [int(min(height, width) * scale) for scale in (1, 0.875, 0.75, 0.66)]
    assert any({view.height, view.width} <= set(sides[i : i + 2]) for i in range(3))


def test_random_views_cover_tsns_sizes_places_and_both_flips() -> None:
    rng = np.random.default_rng(0)
    views = {random_view(rng, 256, 340) for _ in range(4000)}
    assert {view.height for view in views} == {256, 224, 192, 168}
    assert len({(view.height, view.width) for view in views}) == 10
    assert {view.flip for view in views} == {False, True}
    small = {(view.top, view.left) for view in views if view.height == view.width == 168}
    assert small == {(22 * i, 43 * j) for i in range(5) for j in range(5) if (i + j) % 2 == 0}


def test_views_without_jitter_and_flip_are_the_whole_square() -> None:
    view = random_view(np.random.default_rng(0), 64, 64, scales=(1.0,), flip=False)
    assert view == View(0, 0, 64, 64, False)


def test_one_generator_state_gives_one_view() -> None:
    assert random_view(np.random.default_rng(7), 99, 99) == random_view(
        np.random.default_rng(7), 99, 99
    )


@pytest.mark.parametrize(
    ("crops", "places"),
    [
        (1, [(16, 58)]),
        (5, [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]),
        (10, 2 * [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]),
    ],
)
def test_views_at_test_are_corners_centre_and_their_mirrors(
    crops: NumCrops, places: list[tuple[int, int]]
) -> None:
    views = transforms.test_views(256, 340, 224, crops)
    assert [(view.top, view.left) for view in views] == places
    assert [view.flip for view in views] == [i >= 5 for i in range(crops)]
    assert {(view.height, view.width) for view in views} == {(224, 224)}


@pytest.mark.parametrize(
    ("crops", "flip", "train_flip", "scored"),
    [
        (10, None, True, 10),
        (10, None, False, 5),
        (10, True, False, 10),
        (10, False, True, 5),
        (5, None, True, 5),
        (5, False, False, 5),
        (1, None, True, 1),
        (1, False, True, 1),
    ],
)
def test_ten_crops_are_mirrored_as_training_was_unless_told_otherwise(
    crops: NumCrops, flip: bool | None, train_flip: bool, scored: NumCrops
) -> None:
    assert transforms.crops_to_score(crops, flip, train_flip) == scored
    views = transforms.test_views(256, 340, 224, scored)
    assert len(set(views)) == len(views) == scored
    assert any(view.flip for view in views) == (scored == 10)


@pytest.mark.parametrize("crops", [1, 5])
def test_mirrors_of_fewer_than_ten_crops_are_refused(crops: NumCrops) -> None:
    with pytest.raises(InputError, match=rf"test\.flip: true, but of {crops} crops none is"):
        transforms.crops_to_score(crops, True, True)


def test_a_crop_larger_than_the_frame_is_told() -> None:
    with pytest.raises(
        InputError, match=r"a crop of 224 pixels does not fit .* 256 x 200 \(H x W\)"
    ):
        transforms.test_views(256, 200, 224, 10)
