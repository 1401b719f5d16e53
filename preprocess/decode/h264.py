"""Pictures of H.264: fields, access points, leading ones, and their numbers.

Sources: ITU-T H.264 7.3.2, 7.3.3, 7.4.1.2.4, 8.2.1 and D.1.8.
"""

from contextlib import suppress
from dataclasses import dataclass

from twinstream.preprocess.decode.bitstream import (
    BitReader,
    nal_length_size,
    nal_units,
    parameter_sets,
    without_emulation,
)
from twinstream.preprocess.decode.coded_pictures import (
    HEAD_BYTES,
    CodedPicture,
    Parity,
    whole_order,
)

HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}


@dataclass(frozen=True)
class Sequence:
    """What an H.264 sequence parameter set says of the slices: lengths in bits."""

    frame_num_bits: int
    is_frame_only: bool
    has_planes: bool
    order_bits: int | None
    has_gaps: bool


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
        self._last_number: int | None = None
        self._last_order = 0
        self._last_field: Slice | None = None
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
                elif kind == 6 and recovery_count is None:
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
        is_second = self._is_second(piece)
        num_lost = 0 if is_second else self._num_lost(piece)
        order = None if is_second else self._whole_order(piece)
        if piece.is_reference:
            self._last_number = piece.frame_num
        elif not is_second:
            self._last_number = piece.frame_num - 1
        return CodedPicture(
            *(piece.parity, piece.frame_num, is_access, is_leading, order),
            is_start=piece.is_idr and not is_second,
            is_entry=is_access,
            num_lost=num_lost,
        )

    def _is_second(self, piece: Slice) -> bool:
        """Whether it is the second field of a frame."""
        first, self._last_field = self._last_field, piece if piece.parity != "frame" else None
        if first is None or self._last_field is None:
            return False
        is_second = first.frame_num == piece.frame_num and first.parity != piece.parity
        self._last_field = None if is_second else piece
        return is_second

    def _num_lost(self, piece: Slice) -> int:
        """Reference pictures that are missing before it."""
        if piece.is_idr or self._last_number is None or piece.sequence.has_gaps:
            return 0
        return (piece.frame_num - self._last_number - 1) % (1 << piece.sequence.frame_num_bits)

    def _whole_order(self, piece: Slice) -> int | None:
        """Picture order count of type 0, 8.2.1.1; None for the other types."""
        if piece.order is None or piece.sequence.order_bits is None:
            return None
        previous = 0 if piece.is_idr else self._last_order
        order = whole_order(piece.order, piece.sequence.order_bits, previous)
        if piece.is_reference:
            self._last_order = order
        return order

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
    if profile in HIGH_PROFILES:
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
    reader.ue()  # references
    has_gaps, _, _, is_frame_only = reader.bits(1), reader.ue(), reader.ue(), reader.bits(1)
    return number, Sequence(
        frame_num_bits, bool(is_frame_only), has_planes, order_bits, bool(has_gaps)
    )


def _skip_scaling_list(reader: BitReader, num_values: int) -> None:
    last = following = 8
    for _ in range(num_values):
        if following:
            following = (last + reader.se()) % 256
        last = following or last
