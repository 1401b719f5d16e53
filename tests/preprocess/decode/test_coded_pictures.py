"""Pictures of a packet: frames and fields, access points and leading pictures."""

import pytest

from twinstream.preprocess.decode.coded_pictures import CodedPicture, PictureReader, whole_order
from twinstream.preprocess.decode.h264 import H264Reader
from twinstream.preprocess.decode.hevc import HevcReader
from twinstream.preprocess.decode.mpeg import Mpeg2Reader, Mpeg4Reader, breaks_link
from twinstream.preprocess.decode.picture_readers import picture_reader

START = b"\0\0\1"


def bits(*fields: tuple[int, int] | int) -> bytes:
    """(value, bits) as they are, a number as exp-Golomb; padded with a one and zeros."""
    text = ""
    for each in fields:
        if isinstance(each, tuple):
            text += f"{each[0]:0{each[1]}b}"
        else:
            text += "0" * ((each + 1).bit_length() - 1) + f"{each + 1:b}"
    text += "1"
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


# Main profile: 4 bits of frame_num, 4 of the order count, one reference, 16x16, fields allowed.
SPS = START + b"\x67" + bits((77, 8), (0, 8), (30, 8), 0, 0, 0, 0, 1, (0, 1), 0, 0, (0, 1))
PPS = START + b"\x68" + bits(0, 0)
RECOVERY = START + b"\x06" + b"\x06\x01" + bits(0)
I_SLICE, P_SLICE, B_SLICE = 7, 5, 6


def piece(
    kind: int,
    frame_num: int,
    order: int,
    *,
    field: str = "frame",
    is_idr: bool = False,
    is_reference: bool = True,
    first_block: int = 0,
) -> bytes:
    """A slice of H.264."""
    head = (0x60 if is_reference else 0) | (5 if is_idr else 1)
    fields = {"frame": [(0, 1)], "top": [(1, 1), (0, 1)], "bottom": [(1, 1), (1, 1)]}[field]
    idr = [0] if is_idr else []
    content = bits(first_block, kind, 0, (frame_num, 4), *fields, *idr, (order, 4), (0, 8))
    return START + bytes([head]) + content


def read(reader: PictureReader, *packets: bytes) -> list[list[CodedPicture]]:
    return [reader.pictures(packet) or [] for packet in packets]


def leading(reader: PictureReader, *packets: bytes) -> list[bool]:
    return [picture.is_leading for found in read(reader, *packets) for picture in found]


def test_fields_of_h264_are_told_apart_and_slices_are_not() -> None:
    first = SPS + PPS + piece(I_SLICE, 0, 0, field="top", is_idr=True)
    second = piece(P_SLICE, 0, 1, field="bottom") + piece(
        P_SLICE, 0, 1, field="bottom", first_block=9
    )
    frame = piece(P_SLICE, 1, 4) + piece(P_SLICE, 1, 4, first_block=9)
    found = read(H264Reader(None), first, second, first + second, frame)
    assert [[(each.parity, each.number) for each in packet] for packet in found] == [
        [("top", 0)],
        [("bottom", 0)],
        [("top", 0), ("bottom", 0)],
        [("frame", 1)],
    ]


def test_what_is_shown_before_a_recovery_point_is_leading() -> None:
    start = SPS + PPS + RECOVERY + piece(I_SLICE, 3, 14)
    early = piece(B_SLICE, 4, 12, is_reference=False)
    wrapped = piece(P_SLICE, 4, 2)
    late = piece(B_SLICE, 5, 12, is_reference=False)
    reader = H264Reader(None)
    assert leading(reader, start, early, early, wrapped, late) == [False, True, True, False, False]


def test_after_an_idr_nothing_is_leading() -> None:
    start = SPS + PPS + piece(I_SLICE, 0, 0, is_idr=True)
    assert leading(H264Reader(None), start, piece(B_SLICE, 1, 15, is_reference=False)) == [
        False,
        False,
    ]


def test_a_gradual_recovery_shows_nothing_until_it_is_done() -> None:
    sei = START + b"\x06" + b"\x06\x01" + bits(2)
    start = SPS + PPS + sei + piece(P_SLICE, 3, 0)
    rest = [piece(P_SLICE, 4, 2), piece(P_SLICE, 5, 4), piece(P_SLICE, 6, 6)]
    assert leading(H264Reader(None), start, *rest) == [True, True, False, False]


@pytest.mark.parametrize(
    ("packet", "is_access"),
    [
        (SPS + PPS + piece(I_SLICE, 0, 0, is_idr=True), True),
        (SPS + PPS + RECOVERY + piece(P_SLICE, 0, 0), True),
        (SPS + PPS + RECOVERY + START + b"\x06\x01\x01\x80" + piece(P_SLICE, 0, 0), True),
        (SPS + PPS + piece(I_SLICE, 3, 0), True),
        (SPS + PPS + piece(P_SLICE, 3, 0), False),
    ],
)
def test_h264_begins_at_idr_recovery_points_and_i_slices(packet: bytes, is_access: bool) -> None:
    assert [each.is_access for each in H264Reader(None).pictures(packet) or []] == [is_access]


def test_packets_without_pictures_and_packets_that_cannot_be_read_differ() -> None:
    reader = H264Reader(None)
    assert reader.pictures(SPS + PPS) == []
    assert reader.pictures(piece(P_SLICE, 0, 0)[:5]) is None
    assert reader.pictures(b"no start code") is None
    assert H264Reader(None).pictures(piece(P_SLICE, 0, 0)) is None  # without parameter sets


def hevc(kind: int, *, layer: int = 0, is_first: bool = True) -> bytes:
    return START + bytes([kind << 1 | layer >> 5, (layer & 31) << 3 | 1, 0x80 * is_first, 1])


TRAIL, RADL, RASL, BLA, IDR, CRA, END = 1, 6, 8, 16, 19, 21, 36


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([CRA, RASL, RASL, TRAIL], [False, True, True, False]),
        ([CRA, RADL, TRAIL], [False, False, False]),
        ([IDR, TRAIL, CRA, RASL, TRAIL], [False] * 5),
        ([IDR, TRAIL, BLA, RASL, TRAIL], [False, False, False, True, False]),
        ([CRA, RASL, CRA, RASL], [False, True, False, False]),
    ],
)
def test_rasl_pictures_of_the_first_cra_and_of_bla_are_leading(
    kinds: list[int], expected: list[bool]
) -> None:
    assert leading(HevcReader(None), *map(hevc, kinds)) == expected


def test_an_end_of_sequence_or_a_restart_makes_the_next_cra_the_first() -> None:
    end = START + bytes([END << 1, 1])
    assert leading(HevcReader(None), hevc(IDR) + end, hevc(CRA), hevc(RASL)) == [False, False, True]
    reader = HevcReader(None)
    assert leading(reader, hevc(IDR)) == [False]
    reader.restart()
    assert leading(reader, hevc(CRA), hevc(RASL)) == [False, True]


def test_further_segments_and_layers_of_hevc_are_no_pictures() -> None:
    packet = hevc(IDR) + hevc(IDR, is_first=False) + hevc(IDR, layer=1)
    assert len(HevcReader(None).pictures(packet) or []) == 1
    assert HevcReader(None).pictures(hevc(33)) == []


def group(*, is_closed: bool = False, is_broken: bool = False) -> bytes:
    return START + b"\xb8" + bytes([0, 8, 0, is_closed << 6 | is_broken << 5])


def picture(kind: int, number: int = 0, structure: int = 3) -> bytes:
    head = (number << 6 | kind << 3).to_bytes(2, "big")
    return (
        START
        + b"\0"
        + head
        + b"\xff\xf8"
        + START
        + b"\xb5"
        + bytes([0x8F, 0xFF, 0xF0 | structure, 0x80])
    )


INTRA, P, B = 1, 2, 3


@pytest.mark.parametrize(
    ("packets", "expected"),
    [
        (
            [group() + picture(INTRA), picture(B), picture(B), picture(P), picture(B)],
            [0, 1, 1, 0, 0],
        ),
        ([group(is_closed=True) + picture(INTRA), picture(B), picture(P)], [0, 0, 0]),
        ([group() + picture(INTRA, 2, 1) + picture(P, 2, 2), picture(B), picture(P)], [0, 0, 1, 0]),
        ([picture(INTRA), picture(P), group() + picture(INTRA), picture(B)], [0, 0, 0, 0]),
    ],
)
def test_b_pictures_before_the_second_reference_of_mpeg2_are_leading(
    packets: list[bytes], expected: list[int]
) -> None:
    assert leading(Mpeg2Reader(), *packets) == [bool(each) for each in expected]


def test_fields_of_mpeg2_have_a_parity() -> None:
    [found] = read(Mpeg2Reader(), picture(INTRA, 2, 1) + picture(P, 2, 2))
    assert [(each.parity, each.number, each.is_access) for each in found] == [
        ("top", 2, True),
        ("bottom", 2, True),
    ]


def test_a_broken_link_is_seen_in_mpeg2_alone() -> None:
    assert breaks_link("mpeg2video", group(is_broken=True) + picture(INTRA))
    assert not breaks_link("mpeg2video", group() + picture(INTRA))
    assert not breaks_link("h264", group(is_broken=True) + picture(INTRA))


def test_b_vops_before_the_second_reference_of_mpeg4_are_leading() -> None:
    i, p, b = (START + b"\xb6" + bytes([kind << 6]) for kind in (0, 1, 2))
    assert leading(Mpeg4Reader(), i, b, b, p, b) == [False, True, True, False, False]
    assert leading(Mpeg4Reader(), i, p + b, b) == [False, False, False]  # packed
    assert Mpeg4Reader().pictures(b"short header") is None


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("extradata", [None, b"", b"\1", b"\1" + bytes(40), b"\xff" * 40])
def test_a_record_of_parameters_that_is_cut_is_passed_over(
    codec: str, extradata: bytes | None
) -> None:
    assert picture_reader(codec, extradata) is not None


def test_in_other_codecs_a_packet_is_a_frame() -> None:
    assert picture_reader("prores", None) is None


@pytest.mark.parametrize(
    ("low_bits", "previous", "whole"),
    [(1, 30, 33), (14, 33, 30), (0, 0, 0), (15, 0, -1), (8, 0, -8), (7, 0, 7)],
)
def test_an_order_of_four_bits_is_the_nearest_to_the_one_before(
    low_bits: int, previous: int, whole: int
) -> None:
    assert whole_order(low_bits, 4, previous) == whole


def test_an_mpeg_picture_between_anchors_that_are_not_there_tells_of_a_loss() -> None:
    # I2 B0 B1 P5 B3 B4 [P8] B6: the last lies behind the anchors 2 and 5.
    packets = [group() + picture(INTRA, 2), picture(B, 0), picture(B, 1), picture(P, 5)]
    packets += [picture(B, 3), picture(B, 4), picture(B, 6)]
    found = [packet[0] for packet in read(Mpeg2Reader(), *packets)]
    assert [each.num_lost for each in found] == [0, 0, 0, 0, 0, 0, 1]
    assert [each.order for each in found] == [2, 0, 1, 5, 3, 4, 6]


def test_the_numbers_of_h264_tell_of_lost_references_and_places() -> None:
    packets = [SPS + PPS + piece(I_SLICE, 0, 0, is_idr=True), piece(P_SLICE, 1, 8)]
    packets += [piece(B_SLICE, 2, 4, is_reference=False), piece(P_SLICE, 2, 0)]
    packets += [piece(P_SLICE, 5, 8), piece(P_SLICE, 6, 10, field="top")]
    packets += [piece(P_SLICE, 6, 11, field="bottom"), piece(P_SLICE, 7, 12)]
    reader = H264Reader(None)
    found = [packet[0] for packet in read(reader, *packets)]
    assert [each.num_lost for each in found] == [0, 0, 0, 0, 2, 0, 0, 0]
    assert [each.order for each in found] == [0, -8, -12, -16, -24, -22, None, -20]
    reader.restart()
    assert read(reader, piece(P_SLICE, 12, 0))[0][0].num_lost == 0
