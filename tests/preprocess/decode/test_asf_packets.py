"""The packets of an ASF file: pieces of pictures that follow one another, or damage."""

from io import BytesIO
from pathlib import Path

import pytest

from tests.support.videos import moving_square, write_video
from twinstream.preprocess.decode.asf_packets import Piece, pieces, whole_packets
from twinstream.preprocess.decode.video import open_video
from twinstream.shards.format.video_table import VideoError

SIZE = 64
STREAM = 1


def payload(number: int, offset: int, size: int, content: bytes, *, is_key: bool = False) -> bytes:
    """One of several in a packet: the picture's number, a place in it, its size and a time."""
    head = bytes([STREAM | (128 if is_key else 0), number]) + offset.to_bytes(4, "little")
    replicated = b"\x08" + size.to_bytes(4, "little") + bytes(4)
    return head + replicated + len(content).to_bytes(2, "little") + content


def packet(*payloads: bytes, size: int = SIZE) -> bytes:
    """With error correction, a padding of one byte's length, and payloads of two bytes' length."""
    head, times = b"\x82\0\0\x09\x5d", bytes(6) + bytes([0x80 | len(payloads)])
    padding = size - len(head) - 1 - len(times) - len(b"".join(payloads))
    return head + bytes([padding]) + times + b"".join(payloads) + bytes(padding)


def picture(number: int, *, is_key: bool = False) -> bytes:
    return payload(number, 0, 4, b"abcd", is_key=is_key)


def checked(*packets: bytes, stream: int = STREAM) -> tuple[int, bool]:
    content = b"".join(packets)
    return whole_packets(BytesIO(content), 0, len(content), SIZE, stream)


def test_pieces_of_a_packet() -> None:
    found = list(pieces(packet(payload(7, 0, 2, b"ab", is_key=True), payload(8, 5, 9, b"c"))))
    assert found == [Piece(1, 7, 0, 2, 2, True), Piece(1, 8, 5, 9, 1, False)]


def test_one_piece_fills_a_packet() -> None:
    single = b"\x82\0\0\x00\x5d" + bytes(6) + b"\x01\x07" + bytes(4) + b"\x08" + b"\x20" + bytes(7)
    assert list(pieces(single + b"content")) == [Piece(1, 7, 0, 32, 7, False)]


def test_small_ones_packed_together_are_pictures_of_their_own() -> None:
    together = b"\x01\x07" + bytes(4) + b"\x01\x05" + b"\x05\0" + b"\2ab\1c"
    found = list(pieces(packet(together)))
    assert found == [Piece(1, 7, 0, 2, 2, False), Piece(1, 8, 0, 1, 1, False)]


def test_pictures_in_pieces_are_whole() -> None:
    halves = packet(picture(254), payload(255, 0, 4, b"ab")), packet(payload(255, 2, 4, b"cd"))
    assert checked(*halves, packet(picture(0))) == (3 * SIZE, False)


def test_a_last_picture_that_is_cut_begins_where_the_whole_ones_end() -> None:
    assert checked(packet(picture(1)), packet(payload(2, 0, 9, b"ab"))) == (SIZE, False)


@pytest.mark.parametrize(
    ("packets", "whole"),
    [
        ((packet(picture(1)), packet(picture(3))), SIZE),
        ((packet(payload(1, 0, 4, b"ab")), packet(picture(2))), 0),
        ((packet(payload(1, 0, 4, b"ab")), packet(payload(1, 3, 4, b"d"))), 0),
        ((packet(payload(1, 0, 4, b"ab")), packet(payload(2, 2, 4, b"cd"))), 0),
        ((packet(picture(1)), bytes(SIZE)), SIZE),
        ((packet(picture(1)), packet(picture(2))[:20] + b"\xff" * 44), SIZE),
        ((packet(payload(1, 2, 4, b"cd")),), 0),
    ],
)
def test_what_does_not_follow_is_damage(packets: tuple[bytes, ...], whole: int) -> None:
    more = [packet(picture(number)) for number in range(4, 12)]
    assert checked(*packets, *more) == (whole, True)


def test_an_editor_may_cut_at_a_key_picture() -> None:
    assert checked(packet(picture(1)), packet(picture(9, is_key=True))) == (2 * SIZE, False)


def test_numbers_that_jump_all_the_time_were_written_so() -> None:
    assert checked(*(packet(picture(0)) for _ in range(5))) == (5 * SIZE, False)


def test_another_stream_may_be_damaged() -> None:
    assert checked(packet(picture(1)), packet(picture(3)), stream=2) == (2 * SIZE, False)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_lost_packet_of_a_real_file_is_found(tmp_path: Path, share: float) -> None:
    path = write_video(tmp_path / "a.wmv", moving_square(60, 128, 96), codec="wmv2")
    content = path.read_bytes()
    start = content.index(b"\x82\0\0")
    at = start + int((len(content) - start) * share) // 3200 * 3200
    path.write_bytes(content[:at] + bytes(3200) + content[at + 3200 :])
    with (
        pytest.raises(VideoError, match="packets of the video are damaged or missing"),
        open_video(path, size=(32, 24), short_side=None, chunk_frames=4) as video,
    ):
        list(video)
