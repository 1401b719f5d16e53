"""Which pictures a packet holds, and which of them no decoder can show: read from the bitstream.

A tally of frames needs what containers do not say: two fields may come in two packets and make one
frame; a stream may begin in the middle, where nothing can be decoded; and where it begins at a key
picture of an open group, the leading pictures refer to pictures that are not there. H.264, HEVC,
MPEG-1, MPEG-2 and MPEG-4 are read; in other codecs a packet is a frame. Sources: ITU-T H.264 7.3
and D.1.8; ITU-T H.265 7.4.2.2 and 8.1; ISO/IEC 13818-2 6.2 and 6.3; ISO/IEC 14496-2 6.3.5.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from twinstream.preprocess.decode.bitstream import (
    START_CODE,
    BitReader,
    nal_length_size,
    nal_units,
    parameter_sets,
    without_emulation,
)

Parity = Literal["frame", "top", "bottom"]
# Only the head of a slice or message is read, which has fewer bytes.
HEAD_BYTES = 64


@dataclass(frozen=True)
class CodedPicture:
    """A frame or a field, in decoding order.

    Fields of opposite parity and one `number` that follow each other make one frame. `is_access`:
    decoding can begin here. `is_leading`: it refers to pictures before the place where decoding
    began, so that no decoder can show it.
    """

    parity: Parity = "frame"
    number: int = 0
    is_access: bool = True
    is_leading: bool = False


class PictureReader(Protocol):
    """Reads the packets of one stream, each once and in order."""

    def pictures(self, packet: bytes) -> list[CodedPicture] | None:
        """The pictures that begin in the packet; None where they cannot be told."""

    def configure(self, extradata: bytes | None) -> None:
        """Take the parameters that the container holds, at the start or in mid-stream."""

    def restart(self) -> None:
        """What came before is no reference any more: decoding begins anew."""


def picture_reader(codec: str, extradata: bytes | None) -> PictureReader | None:
    """The reader of FFmpeg's `codec`, None where every packet is a frame."""
    if codec == "h264":
        return H264Reader(extradata)
    if codec == "hevc":
        return HevcReader(extradata)
    if codec in ("mpeg1video", "mpeg2video"):
        return Mpeg2Reader()
    return Mpeg4Reader() if codec == "mpeg4" else None


def breaks_link(codec: str, packet: bytes) -> bool:
    """Whether an editor has cut MPEG-1 or -2 here, and says so: the GOP header's broken_link."""
    if codec not in ("mpeg1video", "mpeg2video"):
        return False
    return any(code == 0xB8 and content[3] & 0x20 for code, content in _start_codes(packet, 4))


@dataclass(frozen=True)
class Sequence:
    """What an H.264 sequence parameter set says of the slices: lengths in bits."""

    frame_num_bits: int
    is_frame_only: bool
    has_planes: bool
    order_bits: int | None


@dataclass(frozen=True)
class Slice:
    """The head of an H.264 slice; `order` is the low bits of its picture order count."""

    is_idr: bool
    is_intra: bool
    is_reference: bool
    parity: Parity
    frame_num: int
    order: int | None
    sequence: Sequence


class H264Reader:
    """Decoding begins at an IDR picture, a recovery point or a picture of I slices.

    A picture before the recovery point in decoding or display order is leading.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._sequences: dict[int, Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        self.configure(extradata)
        self.restart()

    def configure(self, extradata: bytes | None) -> None:
        """Length of the units' lengths, and the parameter sets; a cut one is left out."""
        self._length_size = nal_length_size("h264", extradata)
        for unit in parameter_sets("h264", extradata):
            with suppress(EOFError):
                self._read_parameters(unit)

    def restart(self) -> None:
        """Wait for an access point."""
        self._recovery_at: int | None = None
        self._first_shown: Slice | None = None
        self._is_past_leading = False

    def pictures(self, packet: bytes) -> list[CodedPicture] | None:
        """A picture for every slice that does not belong to the picture before it."""
        found: list[CodedPicture] = []
        before: Slice | None = None
        recovery_count: int | None = None
        kinds = []
        try:
            for unit in nal_units(packet, self._length_size):
                kinds.append(kind := unit[0] & 31)
                if kind in (7, 8):
                    self._read_parameters(unit)
                elif kind == 6:
                    recovery_count = _recovery_count(unit)
                elif kind in (1, 2, 5):
                    piece = self._slice(unit)
                    if before is None or _differ(before, piece):
                        found.append(self._picture(piece, recovery_count))
                    before = piece
        except (EOFError, KeyError):
            return None
        return found if found or (kinds and min(kinds) > 5) else None

    def _picture(self, piece: Slice, recovery_count: int | None) -> CodedPicture:
        is_access = piece.is_idr or piece.is_intra or recovery_count is not None
        if self._recovery_at is None and is_access:
            wrap = 1 << piece.sequence.frame_num_bits
            self._recovery_at = (piece.frame_num + (recovery_count or 0)) % wrap
            self._is_past_leading = piece.is_idr
        is_leading = False
        if self._recovery_at is not None and self._first_shown is None:
            if piece.is_idr or (piece.is_reference and piece.frame_num == self._recovery_at):
                self._first_shown = piece
            else:
                is_leading = True
        elif self._first_shown is not None and not self._is_past_leading:
            is_leading = _precedes(piece, self._first_shown)
            is_same = piece.frame_num == self._first_shown.frame_num and piece.is_reference
            self._is_past_leading = not is_leading and not is_same
        return CodedPicture(piece.parity, piece.frame_num, is_access, is_leading)

    def _read_parameters(self, unit: bytes) -> None:
        reader = BitReader(without_emulation(unit)[1:])
        kind = unit[0] & 31 if unit else 0
        if kind == 7:
            number, sequence = _sequence(reader)
            self._sequences[number] = sequence
        elif kind == 8:
            self._sequence_of[reader.ue()] = reader.ue()

    def _slice(self, unit: bytes) -> Slice:
        """The head of a slice; KeyError without its parameter sets, EOFError if it is cut."""
        reader = BitReader(without_emulation(unit[:HEAD_BYTES])[1:])
        is_idr = unit[0] & 31 == 5
        reader.ue()  # first_mb_in_slice
        kind = reader.ue() % 5
        sequence = self._sequences[self._sequence_of[reader.ue()]]
        if sequence.has_planes:
            reader.bits(2)
        frame_num = reader.bits(sequence.frame_num_bits)
        parity: Parity = "frame"
        if not sequence.is_frame_only and reader.bits(1):
            parity = "bottom" if reader.bits(1) else "top"
        if is_idr:
            reader.ue()  # idr_pic_id
        order = None if sequence.order_bits is None else reader.bits(sequence.order_bits)
        is_reference = unit[0] & 0x60 > 0
        return Slice(is_idr, kind in (2, 4), is_reference, parity, frame_num, order, sequence)


def _differ(one: Slice, other: Slice) -> bool:
    """Whether two slices belong to different pictures (ITU-T H.264 7.4.1.2.4)."""
    return (one.frame_num, one.parity, one.order, one.is_idr, one.is_reference) != (
        *(other.frame_num, other.parity, other.order, other.is_idr, other.is_reference),
    )


def _precedes(piece: Slice, anchor: Slice) -> bool:
    """Whether the picture is shown before the anchor: modulo its bits, its order is behind."""
    if piece.order is None or anchor.order is None or piece.is_idr:
        return False
    half = 1 << (anchor.sequence.order_bits or 1) - 1
    return (piece.order - anchor.order) % (2 * half) >= half


def _recovery_count(unit: bytes) -> int | None:
    """Frames until all is right again, from a recovery point message; None in other messages."""
    content = without_emulation(unit)[1:]
    position = 0
    while position + 2 < len(content):
        kind, position = _sei_number(content, position)
        size, position = _sei_number(content, position)
        if kind == 6:
            return BitReader(content[position : position + size]).ue()
        position += size
    return None


def _sei_number(content: bytes, position: int) -> tuple[int, int]:
    """(number, position after it): bytes of 255 and one less than that, added up."""
    total = 0
    while position < len(content):
        total += content[position]
        position += 1
        if content[position - 1] != 255:
            break
    return total, position


def _sequence(reader: BitReader) -> tuple[int, Sequence]:
    """(identifier, fields) of a sequence parameter set of H.264."""
    profile = reader.bits(24) >> 16
    number = reader.ue()
    has_planes = False
    if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
        chroma = reader.ue()
        has_planes = chroma == 3 and bool(reader.bits(1))
        reader.ue(), reader.ue(), reader.bits(1)  # bit depths, transform bypass
        if reader.bits(1):
            for index in range(12 if chroma == 3 else 8):
                if reader.bits(1):
                    _skip_scaling_list(reader, 16 if index < 6 else 64)
    frame_num_bits = reader.ue() + 4
    order_kind = reader.ue()
    order_bits = reader.ue() + 4 if order_kind == 0 else None
    if order_kind == 1:
        reader.bits(1), reader.se(), reader.se()
        for _ in range(reader.ue()):
            reader.se()
    reader.ue(), reader.bits(1), reader.ue(), reader.ue()  # references, gaps, width, height
    return number, Sequence(frame_num_bits, bool(reader.bits(1)), has_planes, order_bits)


def _skip_scaling_list(reader: BitReader, num_values: int) -> None:
    last = following = 8
    for _ in range(num_values):
        if following:
            following = (last + reader.se()) % 256
        last = following or last


class HevcReader:
    """Decoding begins at an IRAP picture; RASL pictures of the first one are leading.

    So are those of a BLA picture, and of a CRA picture after an end of sequence.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self.configure(extradata)
        self.restart()

    def configure(self, extradata: bytes | None) -> None:
        """Length of the units' lengths."""
        self._length_size = nal_length_size("hevc", extradata)

    def restart(self) -> None:
        """As at an end of sequence."""
        self._is_new = True
        self._skips_rasl = False

    def pictures(self, packet: bytes) -> list[CodedPicture] | None:
        """A picture for every first slice segment of the base layer."""
        found = []
        kinds = []
        for unit in nal_units(packet, self._length_size):
            # Units of other layers are further views or alpha, which FFmpeg does not show.
            if len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:
                self._is_new |= len(unit) == 2 and unit[0] >> 1 in (36, 37)
                continue
            kinds.append(kind := unit[0] >> 1)
            if kind < 32 and unit[2] & 0x80:
                is_irap = 16 <= kind <= 23
                if is_irap:
                    self._skips_rasl = self._is_new or kind != 21
                    self._is_new = False
                is_leading = kind in (8, 9) and self._skips_rasl
                found.append(CodedPicture(is_access=is_irap, is_leading=is_leading))
        return found if found or (kinds and min(kinds) > 31) else None


class Mpeg2Reader:
    """Decoding begins at an I picture; B pictures before the next I or P picture are leading.

    Unless the group of pictures is closed: then they refer only to what follows them.
    """

    def __init__(self) -> None:
        self.restart()

    def configure(self, extradata: bytes | None) -> None:
        """Pictures tell all of themselves."""

    def restart(self) -> None:
        """No reference picture is there."""
        self._num_references = 0
        self._is_closed = False

    def pictures(self, packet: bytes) -> list[CodedPicture] | None:
        """A picture for every picture header."""
        heads: list[tuple[int, int, Parity]] = []
        for code, content in _start_codes(packet, 4):
            if code == 0xB8:
                self._is_closed = bool(content[3] & 0x40)
            elif code == 0:
                word = int.from_bytes(content[:2], "big")
                heads.append((word >> 6, word >> 3 & 7, "frame"))
            elif code == 0xB5 and content[0] >> 4 == 8 and heads:
                parities: tuple[Parity, ...] = ("frame", "top", "bottom", "frame")
                heads[-1] = *heads[-1][:2], parities[content[2] & 3]
        found: list[CodedPicture] = []
        for number, kind, parity in heads:
            is_second = bool(found) and parity != "frame" and found[-1].number == number
            is_leading = kind == 3 and self._num_references < 2 and not self._is_closed
            self._num_references += kind != 3 and not is_second
            found.append(CodedPicture(parity, number, kind == 1 or is_second, is_leading))
        return found or None


class Mpeg4Reader:
    """Decoding begins at an I-VOP; B-VOPs before the next I- or P-VOP are leading.

    A packet of two VOPs, "packed", is followed by one without any, so that a packet is a frame.
    """

    def __init__(self) -> None:
        self.restart()

    def configure(self, extradata: bytes | None) -> None:
        """Pictures tell all of themselves."""

    def restart(self) -> None:
        """No reference picture is there."""
        self._num_references = 0

    def pictures(self, packet: bytes) -> list[CodedPicture] | None:
        """One picture, of the first VOP."""
        for code, content in _start_codes(packet, 1):
            if code == 0xB6:
                kind = content[0] >> 6
                is_leading = kind == 2 and self._num_references < 2
                self._num_references += kind != 2
                return [CodedPicture(is_access=kind == 0, is_leading=is_leading)]
        return None


def _start_codes(packet: bytes, num_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(code, the `num_bytes` after it) for each start code that has as many."""
    at = packet.find(START_CODE)
    while at >= 0 and at + 4 + num_bytes <= len(packet):
        yield packet[at + 3], packet[at + 4 : at + 4 + num_bytes]
        at = packet.find(START_CODE, at + 3)
