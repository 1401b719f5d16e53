"""Names of images: which are frames, which are flow, and that preprocessing and import read them
alike.
"""

import pytest

from twinstream.preprocess.decode.image_folder import frame_names
from twinstream.shards.format.video_table import VideoError
from twinstream.shards.rawframes.alignment import Layout, align
from twinstream.shards.rawframes.names import ImageName, parse_image_name


@pytest.mark.parametrize(
    ("name", "kind", "prefix", "number"),
    [
        ("img_00001.jpg", "rgb", "img_", 1),
        ("image_1.jpeg", "rgb", "image_", 1),
        ("frame000017.JPEG", "rgb", "frame", 17),
        ("v_Run_g01_c02_0003.png", "rgb", "v_Run_g01_c02_", 3),
        ("00001.jpg", "rgb", "", 1),
        ("7.PNG", "rgb", "", 7),
        ("flow_x_00012.jpg", "x", "flow_x_", 12),
        ("y_00001.jpg", "y", "y_", 1),
        ("Flow_X_1.JPG", "x", "Flow_X_", 1),
        ("flow_x_p2_00000.jpg", "rgb", "flow_x_p2_", 0),
    ],
)
def test_an_image_is_known_by_its_number_and_what_stands_before_it(
    name: str, kind: str, prefix: str, number: int
) -> None:
    assert parse_image_name(name) == ImageName(kind, prefix, number, name)


@pytest.mark.parametrize(
    "name",
    ["._img_00001.jpg", "img_.jpg", "img_00001.txt", "thumbs.db", "cover.jpg", "img_1.jpg.part"],
)
def test_hidden_files_and_names_without_a_number_are_no_images(name: str) -> None:
    assert parse_image_name(name) is None


def flow(first: int, count: int) -> list[str]:
    return [f"flow_{axis}_{first + n:05d}.jpg" for n in range(count) for axis in "xy"]


@pytest.mark.parametrize(
    "frames",
    [
        ["img_00000.jpg", "img_00001.jpg", "img_00002.jpg"],
        ["img_00001.jpg", "img_00002.jpg", "img_00003.jpg"],
        ["frame_00001.jpg", "frame_00002.jpg"],
        ["00001.jpg", "00002.jpg"],
        ["IMG_1.JPG", "IMG_2.JPG"],
        ["v.Run_g01_1.jpeg", "v.Run_g01_2.jpeg"],
        [f"img_{number}.jpg" for number in range(1, 12)],
    ],
)
def test_both_roads_take_the_same_frames_in_the_order_of_their_numbers(frames: list[str]) -> None:
    first = 0 if "0." in frames[0] else 1
    names = sorted(frames, reverse=True) + flow(first, len(frames) - 1)
    names += ["thumbs.db", "._img_00001.jpg", "cover.jpg", "n_frames"]
    assert frame_names(names) == frames
    assert list(align(names, Layout.AUTO, None).frames) == frames


@pytest.mark.parametrize(
    ("names", "in_preprocess", "in_import", "detail"),
    [
        ([], "unreadable", "unreadable", "no numbered images such as img_00001.jpg"),
        (flow(0, 2), "unreadable", "unreadable", "no numbered images such as img_00001.jpg"),
        (
            ["img_1.jpg", "image_2.jpg", *flow(1, 1)],
            "unreadable",
            "misaligned",
            "images of two names, img_1.jpg and image_2.jpg",
        ),
        (
            ["img_2.jpg", "img_3.jpg", *flow(2, 1)],
            "decode_error",
            "misaligned",
            "begins with img_2.jpg; expected number 0 or 1",
        ),
        (
            ["img_1.jpg", "img_2.jpg", "img_4.jpg", *flow(1, 2)],
            "decode_error",
            "misaligned",
            "img_2.jpg and img_4.jpg are not neighbours",
        ),
        (
            ["img_0.jpg", "img_0.jpeg", *flow(0, 1)],
            "decode_error",
            "misaligned",
            "img_0.jpeg and img_0.jpg have one number",
        ),
    ],
)
def test_both_roads_refuse_what_is_no_whole_video_with_the_same_words(
    names: list[str], in_preprocess: str, in_import: str, detail: str
) -> None:
    with pytest.raises(VideoError) as skipped:
        frame_names(names)
    assert (skipped.value.reason, skipped.value.detail) == (in_preprocess, detail)
    with pytest.raises(VideoError) as refused:
        align(names, Layout.AUTO, None)
    assert (refused.value.reason, refused.value.detail) == (in_import, detail)


@pytest.mark.parametrize("lossless", ["img_00001.png", "flow_x_00000.PNG"])
def test_preprocessing_takes_png_and_import_which_stores_jpegs_as_they_are_refuses_it(
    lossless: str,
) -> None:
    frames = ["img_00000.jpg", "img_00001.jpg"]
    stem = lossless.rpartition(".")[0]
    names = [name for name in [*frames, *flow(0, 1)] if not name.startswith(stem)] + [lossless]
    assert len(frame_names(names)) == 2
    with pytest.raises(VideoError, match=f"{lossless}: import takes JPEGs only") as refused:
        align(names, Layout.AUTO, None)
    assert refused.value.reason == "decode_error"
