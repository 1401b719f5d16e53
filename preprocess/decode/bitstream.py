"""NAL units of a packet of H.264 or HEVC, and the bits within them.

A packet is a chain of NAL units: in Annex B form (TS, AVI, raw) each begins at a start code, in
MP4, Matroska and FLV each follows its own length. Which one holds is read from the extradata,
an avcC or hvcC record in the second case. Sources: ITU-T H.264 and H.265, section 7.3 and Annex B;
ISO/IEC 14496-15 (avcC, hvcC).
"""

from collections.abc import Iterator

START_CODE = b"\0\0\1"
MAX_PADDING = 32


def nal_length_size(codec: str, extradata: bytes | None) -> int | None:
    """Bytes of the length before each NAL unit, None for Annex B."""
    at = {"h264": 4, "hevc": 21}[codec]
    if not extradata or len(extradata) <= at or extradata.startswith((b"\0\0\0\1", START_CODE)):
        return None
    return (extradata[at] & 3) + 1


def nal_units(packet: bytes, length_size: int | None) -> Iterator[bytes]:
    """The NAL units, each with its header, as they lie in the packet.

    A length that leads out of the packet ends the iteration: the unit is given as far as it goes.
    """
    if length_size is None:
        yield from annex_b_units(packet)
        return
    position = 0
    while position + length_size < len(packet):
        start = position + length_size
        position = start + int.from_bytes(packet[position:start], "big")
        if position > start:
            yield packet[start:position]


def annex_b_units(content: bytes) -> Iterator[bytes]:
    """The NAL units between start codes; zero bytes before a start code belong to it."""
    start = content.find(START_CODE)
    while start >= 0:
        start += len(START_CODE)
        end = content.find(START_CODE, start)
        unit = content[start : end if end >= 0 else None]
        # The last byte of a NAL unit is never zero, but zeros may precede a start code.
        if unit := unit.rstrip(b"\0"):
            yield unit
        start = end


def parameter_sets(codec: str, extradata: bytes | None) -> list[bytes]:
    """The NAL units in a stream's extradata: parameter sets, and SEI messages in hvcC."""
    length_size = nal_length_size(codec, extradata)
    if not extradata:
        return []
    if length_size is None:
        return list(annex_b_units(extradata))
    return list(_avcc_units(extradata) if codec == "h264" else _hvcc_units(extradata))


def _avcc_units(record: bytes) -> Iterator[bytes]:
    """SPS and PPS of an avcC record: two lists, each counted by a byte (the first by 5 bits)."""
    position = 5
    for mask in (0x1F, 0xFF):
        count = record[position] & mask if position < len(record) else 0
        position += 1
        for _ in range(count):
            length = int.from_bytes(record[position : position + 2], "big")
            yield record[position + 2 : position + 2 + length]
            position += 2 + length


def _hvcc_units(record: bytes) -> Iterator[bytes]:
    """The units of an hvcC record: arrays, each of a type byte, a count and the units."""
    position = 23
    for _ in range(record[22] if len(record) > 22 else 0):
        count = int.from_bytes(record[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            length = int.from_bytes(record[position : position + 2], "big")
            yield record[position + 2 : position + 2 + length]
            position += 2 + length


def without_emulation(unit: bytes) -> bytes:
    """The unit without the bytes 3 that keep start codes out of it: 00 00 03 01 -> 00 00 01."""
    return unit.replace(b"\0\0\3", b"\0\0")


class BitReader:
    """Fields from the bits of `content`, first bit first; EOFError beyond its end."""

    def __init__(self, content: bytes) -> None:
        self._value = int.from_bytes(content, "big")
        self._left = 8 * len(content)

    def bits(self, count: int) -> int:
        """u(count): an unsigned integer of that many bits."""
        if count > self._left:
            raise EOFError(f"{count} bits wanted, {self._left} left")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        """ue(v), exp-Golomb: 1 -> 0, 010 -> 1, 011 -> 2, 00100 -> 3."""
        num_zeros = 0
        while not self.bits(1):
            num_zeros += 1
        return (1 << num_zeros) - 1 + self.bits(num_zeros)

    def se(self) -> int:
        """se(v), signed exp-Golomb: ue 0, 1, 2, 3, 4 -> 0, 1, -1, 2, -2."""
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def is_zeroed(unit: bytes) -> bool:
    """Whether zeros stand in it that no NAL unit can hold, as where a part of it was overwritten.

    Emulation prevention keeps 00 00 00, 00 00 01 and 00 00 02 out; a few at the end are padding.
    """
    if b"\0\0" not in unit:
        return False
    content = unit.rstrip(b"\0")
    return len(unit) - len(content) > MAX_PADDING or any(
        b"\0\0" + end in content for end in (b"\0", b"\1", b"\2")
    )
