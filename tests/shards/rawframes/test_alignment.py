"""Which frame goes with which flow field, from file names: the known pairings, and all that is
refused.
"""

import pytest

from twinstream.shards.format.video_table import VideoError
from twinstream.shards.rawframes.alignment import Layout, align


def names(frames: range, flow_x: range, flow_y: range | None = None) -> list[str]:
    found = [f"img_{t:05d}.jpg" for t in frames] + [f"flow_x_{t:05d}.jpg" for t in flow_x]
    return found + [f"flow_y_{t:05d}.jpg" for t in (flow_x if flow_y is None else flow_y)]


@pytest.mark.parametrize("base", [0, 1])
def test_flow_one_shorter_than_the_frames_starts_with_the_first_frame(base: int) -> None:
    aligned = align(names(range(base, base + 3), range(base, base + 2)), Layout.AUTO, None)
    assert aligned.index_base == base
    assert aligned.names == [
        *(f"img_{base + t:05d}.jpg" for t in range(3)),
        f"flow_x_{base:05d}.jpg",
        f"flow_y_{base:05d}.jpg",
        f"flow_x_{base + 1:05d}.jpg",
        f"flow_y_{base + 1:05d}.jpg",
    ]


def test_dense_flows_first_field_leads_from_a_frame_that_is_gone() -> None:
    aligned = align(names(range(1, 4), range(1, 4)), Layout.DENSE_FLOW, None)
    assert aligned.frames == ("img_00001.jpg", "img_00002.jpg", "img_00003.jpg")
    assert aligned.flow_x == ("flow_x_00002.jpg", "flow_x_00003.jpg")


def test_numbers_order_the_files_beyond_five_digits_and_other_files_are_left_alone() -> None:
    found = [f"image_{t}.jpeg" for t in range(12)] + [
        f"{axis}_{t}.jpg" for t in range(11) for axis in "xy"
    ]
    assert align([*found, "n_frames", ".DS_Store"], Layout.AUTO, 0).frames[9:] == (
        "image_9.jpeg",
        "image_10.jpeg",
        "image_11.jpeg",
    )


@pytest.mark.parametrize(
    ("files", "layout", "base", "message"),
    [
        (
            names(range(3), range(3)),
            "auto",
            None,
            r"3 flow fields for 3 frames, expected 2; .*--layout dense_flow",
        ),
        (names(range(3), range(3)), "denseflow", None, "3 flow fields for 3 frames, expected 2$"),
        (
            names(range(1, 4), range(1, 3)),
            "dense_flow",
            None,
            "2 flow fields for 3 frames, expected 3",
        ),
        (names(range(5), range(2)), "auto", None, "2 flow fields for 5 frames, expected 4"),
        (names(range(3), range(2), range(1)), "auto", None, "flow_x 1 without flow_y 1"),
        (names(range(3), range(1), range(2)), "auto", None, "flow_y 1 without flow_x 1"),
        (
            names(range(1, 4), range(2)),
            "auto",
            None,
            "images are numbered from 1, flow from 0; expected one base",
        ),
        (names(range(2, 5), range(2)), "auto", None, "begins with img_00002.jpg; expected .* 0 or"),
        (names(range(3), range(2)), "auto", 1, "begins with img_00000.jpg; expected number 1"),
        (
            names(range(0, 6, 2), range(2)),
            "auto",
            None,
            "img_00000.jpg and img_00002.jpg are not neighbours",
        ),
        (
            names(range(4), range(0, 6, 2)),
            "auto",
            None,
            "flow_x_00000.jpg and flow_x_00002.jpg are not neighbours",
        ),
        (
            [*names(range(3), range(2)), "img_1.jpg"],
            "auto",
            None,
            "img_00001.jpg and img_1.jpg have one number",
        ),
        (
            [*names(range(3), range(2)), "flow_x_p2_00000.jpg"],
            "auto",
            None,
            "images of two names, flow_x_p2_00000.jpg and img_00000.jpg",
        ),
        (
            [*names(range(3), range(1)), "x_1.jpg", "y_1.jpg"],
            "auto",
            None,
            "images of two names, flow_x_00000.jpg and x_1.jpg",
        ),
        (names(range(3), range(0)), "auto", None, "no numbered flow such as flow_x_00001.jpg"),
    ],
)
def test_what_does_not_line_up_is_refused_with_the_place(
    files: list[str], layout: str, base: int | None, message: str
) -> None:
    with pytest.raises(VideoError, match=message) as refused:
        align(files, Layout(layout), base)
    assert refused.value.reason == "misaligned"


def test_a_single_frame_is_too_short() -> None:
    with pytest.raises(VideoError, match="1 frame, expected at least 2") as refused:
        align(names(range(1), range(1)), Layout.DENSE_FLOW, None)
    assert refused.value.reason == "too_short"
