"""Transport packets must follow one another; where files were joined they begin anew."""

from io import BytesIO

import pytest

from twinstream.preprocess.decode.transport_stream import Continuity, transport_continuity

VIDEO, TABLE, SOUND = 0x100, 0, 0x101


def packet(pid: int, counter: int, *, starts: bool = False, size: int = 184, pes: int = 0) -> bytes:
    """A packet with `size` bytes of payload, padded in front; a start has a PES head."""
    head = bytes([0x47, starts << 6 | pid >> 8, pid & 255])
    payload = (b"\0\0\1\xe0" + pes.to_bytes(2, "big") if starts else b"").ljust(size, b"p")
    if size == 184:
        return head + bytes([0x10 | counter]) + payload
    field = bytes([183 - size]) + (b"\0" * (183 - size))
    return head + bytes([0x30 | counter]) + field + payload


def stream(counter: int = 0, table: int = 0, pes: int = 0) -> list[bytes]:
    """A table, then two video packets of two transport packets each, and sound in between."""
    return [
        packet(TABLE, table, starts=True),
        packet(VIDEO, counter % 16, starts=True, pes=pes),
        packet(SOUND, 0),
        packet(VIDEO, (counter + 1) % 16, size=100),
        packet(TABLE, (table + 1) % 16, starts=True),
        packet(VIDEO, (counter + 2) % 16, starts=True, pes=pes),
        packet(VIDEO, (counter + 3) % 16, size=100),
    ]


WHOLE = stream()


def checked(packets: list[bytes], tail: bytes = b"") -> Continuity | None:
    content = b"".join(packets) + tail
    return transport_continuity(BytesIO(content), len(content), VIDEO)


@pytest.mark.parametrize(
    ("packets", "seams"),
    [
        (WHOLE, ()),
        (WHOLE + stream(4, 2), ()),  # it goes on
        (WHOLE + stream(), (8 * 188,)),
        (WHOLE + stream(9, 5), (8 * 188,)),
        (WHOLE + WHOLE + WHOLE, (8 * 188, 15 * 188)),
        (stream(pes=184 + 100 - 6), ()),
    ],
)
def test_joined_files_have_seams_and_no_damage(
    packets: list[bytes], seams: tuple[int, ...]
) -> None:
    assert checked(packets) == Continuity(seams)


@pytest.mark.parametrize("number", [3, 5, 6])
def test_a_packet_that_is_lost_is_damage_of_the_picture_it_is_in(number: int) -> None:
    found = checked(WHOLE[:number] + WHOLE[number + 1 :] + stream(4, 2))
    assert found is not None
    assert found.damage is not None
    assert "transport packets are missing" in found.damage
    assert found.damaged_at == {3: 188, 5: 188, 6: 5 * 188}[number]


def test_a_packet_marked_as_bad_is_damage() -> None:
    bad = bytearray(WHOLE[3])
    bad[1] |= 0x80
    found = checked([*WHOLE[:3], bytes(bad), *WHOLE[4:]])
    assert found is not None
    assert (found.damage is not None, found.damaged_at) == (True, 188)


def test_an_announced_jump_is_no_damage() -> None:
    jump = packet(VIDEO, 9, size=100)
    jump = jump[:5] + b"\x80" + jump[6:]
    assert checked([*WHOLE[:3], jump]) == Continuity()
    assert checked([*WHOLE[:3], packet(VIDEO, 9, size=100)]) != Continuity()


def test_a_video_packet_shorter_than_it_says_is_damage() -> None:
    found = checked(stream(pes=184 + 100))
    assert found is not None
    assert found.damage == "damaged at byte 188: 284 of 290 bytes of a picture"


@pytest.mark.parametrize(
    ("packets", "tail", "damage"),
    [
        (WHOLE, b"\x47" * 9, "cut off: the last transport packet has 9 of 188 bytes"),
        ([*WHOLE * 2, b"\0" * 188, *WHOLE], b"", "no transport packet starts there"),
    ],
)
def test_a_cut_packet_and_lost_order_are_damage(
    packets: list[bytes], tail: bytes, damage: str
) -> None:
    found = checked(packets, tail)
    assert found is not None
    assert found.damage is not None
    assert damage in found.damage


@pytest.mark.parametrize(("before", "after"), [(4, 0), (0, 16)])
def test_packets_with_a_clock_or_error_correction_are_read(before: int, after: int) -> None:
    packets = [bytes(before) + each + bytes(after) for each in WHOLE * 2]
    found = checked(packets)
    assert found is not None
    assert found.damage is None
    assert len(found.seams) == 1


def test_what_has_no_packets_is_not_checked() -> None:
    assert checked([]) is None
    assert checked([b"text" * 100]) is None
