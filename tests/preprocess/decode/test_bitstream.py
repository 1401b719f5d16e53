"""NAL units and bit fields, from bytes written by hand."""

import pytest

from twinstream.preprocess.decode.bitstream import (
    BitReader,
    nal_length_size,
    nal_units,
    parameter_sets,
    without_emulation,
)

AVCC = bytes([1, 66, 0, 30, 0xFF, 0xE1, 0, 2]) + b"\x67\x42" + b"\1\0\2" + b"\x68\xce"
HVCC = bytes([1]) + bytes(20) + bytes([0xFF, 1, 0x20, 0, 1, 0, 3]) + b"\x40\1\2"


@pytest.mark.parametrize(
    ("codec", "extradata", "size"),
    [
        ("h264", None, None),
        ("h264", b"", None),
        ("h264", b"\0\0\0\1\x67\x42\0\x1e", None),
        ("h264", b"\0\0\1\x67\x42\0\x1e", None),
        ("h264", AVCC, 4),
        ("h264", AVCC[:4] + b"\xfd" + AVCC[5:], 2),
        ("hevc", HVCC, 4),
        ("hevc", b"\0\0\0\1\x40" + bytes(30), None),
    ],
)
def test_extradata_tells_how_nal_units_are_framed(codec, extradata, size):
    assert nal_length_size(codec, extradata) == size


@pytest.mark.parametrize(
    ("packet", "length_size", "units"),
    [
        (b"\0\0\0\1\x67\1\0\0\1\x65\2\0\0\0\1\x41", None, [b"\x67\1", b"\x65\2", b"\x41"]),
        (b"\0\0\1\x65\2\0\0\0", None, [b"\x65\2"]),
        (b"no start code", None, []),
        (b"", None, []),
        (b"\0\0\0\2\x67\1\0\0\0\1\x65", 4, [b"\x67\1", b"\x65"]),
        (b"\0\2\x67\1\0\1\x65", 2, [b"\x67\1", b"\x65"]),
        (b"\0\0\0\0\0\0\0\1\x65", 4, [b"\x65"]),
        (b"\0\0\0\x09\x67\1", 4, [b"\x67\1"]),
        (b"\0\0", 4, []),
    ],
)
def test_a_packet_is_split_into_its_nal_units(packet, length_size, units):
    assert list(nal_units(packet, length_size)) == units


@pytest.mark.parametrize(
    ("codec", "extradata", "units"),
    [
        ("h264", AVCC, [b"\x67\x42", b"\x68\xce"]),
        ("h264", b"\0\0\1\x67\x42\0\0\1\x68", [b"\x67\x42", b"\x68"]),
        ("hevc", HVCC, [b"\x40\1\2"]),
        ("hevc", None, []),
    ],
)
def test_parameter_sets_are_read_from_extradata(codec, extradata, units):
    assert parameter_sets(codec, extradata) == units


def test_bytes_against_start_codes_are_taken_out():
    assert without_emulation(b"\0\0\3\1\0\0\3\0\0\3") == b"\0\0\1\0\0\0\0"


def test_fields_are_read_bit_by_bit():
    # 101 | 1 | 010 | 00100 | 011 | 0...
    reader = BitReader(bytes([0b10110100, 0b01000110]))
    assert [reader.bits(3), reader.ue(), reader.ue(), reader.ue(), reader.se()] == [5, 0, 1, 3, -1]
    with pytest.raises(EOFError):
        reader.bits(2)
