"""Names and order of a sample's members."""

import json

import pytest

from twinstream.errors import InputError
from twinstream.shards.format.sample import (
    SampleMeta,
    flow_member,
    frame_member,
    member_names,
    meta_from_json,
    meta_to_json,
    num_members,
)


def test_members_of_three_frames_come_in_the_order_of_the_format() -> None:
    assert member_names("A/b", 3) == [
        "A/b.json",
        "A/b.rgb.00000.jpg",
        "A/b.rgb.00001.jpg",
        "A/b.rgb.00002.jpg",
        "A/b.flow_x.00000.jpg",
        "A/b.flow_y.00000.jpg",
        "A/b.flow_x.00001.jpg",
        "A/b.flow_y.00001.jpg",
    ]


@pytest.mark.parametrize(("num_frames", "count"), [(1, 2), (2, 5), (3, 8), (300, 899)])
def test_n_frames_have_n_minus_one_flow_fields(num_frames: int, count: int) -> None:
    assert num_members(num_frames) == len(member_names("k", num_frames)) == count


def test_positions_point_at_the_members_they_name() -> None:
    names = member_names("k", 9)
    assert names[frame_member(4)] == "k.rgb.00004.jpg"
    assert names[flow_member(9, 4)] == "k.flow_x.00004.jpg"
    assert names[flow_member(9, 4) + 1] == "k.flow_y.00004.jpg"


def test_the_json_member_reads_back() -> None:
    meta = SampleMeta("k", "tai chi", 3, 25, 256, 256, 29.97, 320, 240)
    assert meta_from_json(meta_to_json(meta)) == meta


GOOD = {
    **{"key": "A/b", "class_name": "A", "label": 0, "num_frames": 2, "width": 32, "height": 24},
    **{"fps": 25, "source_width": 64, "source_height": 48},
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("key", "../b", "its JSON has key '../b', expected the path of a video"),
        ("key", 7, "its JSON has key 7"),
        ("class_name", "A\x1b[31m", r"its JSON has class_name 'A\\x1b\[31m', expected a name"),
        ("label", -1, "its JSON has label -1, expected 0 to 2147483647"),
        ("label", True, "its JSON has label True"),
        ("num_frames", 1, "its JSON has num_frames 1, expected 2 to"),
        ("num_frames", 2.0, "its JSON has num_frames 2.0"),
        ("num_frames", None, "its JSON has num_frames None"),
        ("width", 70_000, "its JSON has width 70000, expected 1 to 65500"),
        ("height", 0, "its JSON has height 0"),
        ("fps", float("nan"), "its JSON has fps nan"),
        ("fps", 10**400, "its JSON has fps 1000"),
        ("more", 1, "damaged JSON member"),
    ],
)
def test_what_no_sample_can_have_is_named(name: str, value: object, message: str) -> None:
    assert meta_from_json(json.dumps(GOOD).encode()).num_frames == 2
    with pytest.raises(InputError, match=f"^{message}"):
        meta_from_json(json.dumps(GOOD | {name: value}).encode())


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xff", b"[" * 50_000, b"[]", b"null", b"{}", b'{"key":' * 9_000, b"9" * 5_000),
        json.dumps(GOOD | {"class_name": "x" * 70_000}).encode(),
    ],
)
def test_what_is_no_json_of_a_sample_is_one_line(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^damaged JSON member") as told:
        meta_from_json(data)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 400
