"""The tags of an FLV file: coded pictures count, headers and commands do not."""

from io import BytesIO

import pytest

from twinstream.preprocess.decode.flv_tags import FlvTags, flv_tags

HEADER = b"FLV\1\1" + (9).to_bytes(4, "big") + bytes(4)


def tag(kind: int, content: bytes) -> bytes:
    size = len(content).to_bytes(3, "big")
    return bytes([kind]) + size + bytes(7) + content + (len(content) + 11).to_bytes(4, "big")


def tags(content: bytes) -> FlvTags:
    return flv_tags(BytesIO(content), len(content))


@pytest.mark.parametrize(
    ("content", "num_pictures"),
    [
        (b"\x12picture", 1),  # Sorenson H.263
        (b"\x17\1\0\0\0picture", 1),  # H.264
        (b"\x17\0\0\0\0avcC", 0),
        (b"\x17\2\0\0\0", 0),  # end of sequence
        (b"\x57\1", 0),  # a command
        (b"\x91hvc1picture", 1),  # enhanced
        (b"\x90hvc1hvcC", 0),
        (b"", 0),
    ],
)
def test_only_coded_pictures_count(content: bytes, num_pictures: int) -> None:
    whole = HEADER + tag(18, b"onMetaData") + tag(9, content) + tag(8, b"sound")
    assert tags(whole) == FlvTags(num_pictures, len(whole), last=len(whole) - 20)


def test_a_cut_tag_says_what_is_missing() -> None:
    whole = HEADER + tag(9, b"\x12picture") + tag(9, b"\x12picture")
    assert tags(whole[:-7]) == FlvTags(1, len(HEADER) + 23, 3, len(HEADER))


def test_the_chain_ends_where_no_tag_begins() -> None:
    whole = HEADER + tag(9, b"\x12picture")
    assert tags(whole + HEADER + tag(9, b"\x12picture")) == FlvTags(1, len(whole), last=len(HEADER))
    assert tags(whole + bytes(20)) == FlvTags(1, len(whole), last=len(HEADER))
