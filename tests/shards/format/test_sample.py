"""Names and order of a sample's members."""

import pytest

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
