"""Frames of AV1 and their numbers. Source: AV1 Bitstream Specification 5.3, 5.5 and 5.9."""

from contextlib import suppress
from typing import NamedTuple

from twinstream.preprocess.decode.bitstream import BitReader
from twinstream.preprocess.decode.coded_pictures import HEAD_BYTES, CodedPicture


class Av1Sequence(NamedTuple):
    """The fields of a sequence header that a frame header needs; None: each frame chooses."""

    hint_bits: int
    frame_id_bits: int
    screen_tools: int | None
    integer_motion: int | None


def av1_sequence(reader: BitReader) -> Av1Sequence | None:
    """AV1 5.5.1; None for still pictures and for streams that say when buffers are freed."""
    reader.bits(4)
    if reader.bits(1):
        return None
    has_equal_interval = False
    if reader.bits(1):
        reader.bits(64)
        has_equal_interval = bool(reader.bits(1))
        if has_equal_interval:
            reader.ue()
        if reader.bits(1):
            return None
    has_delay = reader.bits(1)
    for _ in range(reader.bits(5) + 1):
        reader.bits(12)
        reader.bits(1 if reader.bits(5) > 7 else 0)
        reader.bits(4 if has_delay and reader.bits(1) else 0)
    width_bits, height_bits = reader.bits(4) + 1, reader.bits(4) + 1
    reader.bits(width_bits + height_bits)
    frame_id_bits = reader.bits(4) + reader.bits(3) + 3 if reader.bits(1) else 0
    reader.bits(3 + 4)
    has_hint = reader.bits(1)
    reader.bits(2 if has_hint else 0)
    screen_tools = None if reader.bits(1) else reader.bits(1)
    integer_motion = None
    if screen_tools != 0:
        integer_motion = None if reader.bits(1) else reader.bits(1)
    hint_bits = reader.bits(3) + 1 if has_hint else 0
    return Av1Sequence(hint_bits, frame_id_bits, screen_tools, integer_motion)


KEY_FRAME, INTRA_FRAME, SWITCH_FRAME = 0, 2, 3


class Av1Reader:
    """order_hint: each packet shows one frame, in display order, and its hint is one more."""

    def __init__(self, extradata: bytes | None) -> None:
        self._sequence: Av1Sequence | None = None
        # Hint and kind of the frame in each of the eight places that frames are kept in.
        self._kept: list[tuple[int, int]] = [(0, INTRA_FRAME)] * 8
        self.configure(extradata)
        self.restart()

    def configure(self, extradata: bytes | None) -> None:
        """Take an av1C record: four bytes, then OBUs."""
        if extradata and extradata[0] == 0x81:
            with suppress(EOFError, IndexError):
                self._take(extradata[4:])

    def restart(self) -> None:
        """No frame is there that the next one follows."""
        self._last: int | None = None

    def pictures(self, packet: bytes) -> list[CodedPicture] | None:
        """The frame that the packet shows."""
        try:
            shown = self._take(packet)
        except (EOFError, IndexError):
            return None
        if shown is None or self._sequence is None or not self._sequence.hint_bits:
            self._last = None
            return [CodedPicture()]
        hint, kind = shown
        num_lost = 0
        if self._last is not None and kind != KEY_FRAME:
            num_lost = (hint - self._last - 1) % (1 << self._sequence.hint_bits)
        self._last = hint
        return [CodedPicture(is_start=kind == KEY_FRAME, num_lost=num_lost)]

    def _take(self, packet: bytes) -> tuple[int, int] | None:
        """Hint and kind of the last frame shown in a chain of OBUs, AV1 5.3."""
        shown, position = None, 0
        while position < len(packet):
            head = packet[position]
            position += 2 if head & 4 else 1
            size, position = _leb128(packet, position) if head & 2 else (len(packet), position)
            content = packet[position : position + min(size, HEAD_BYTES)]
            position += size
            kind = head >> 3 & 15
            if kind == 1:
                self._sequence = av1_sequence(BitReader(content))
            elif kind in (3, 6) and self._sequence is not None:
                shown = self._frame(BitReader(content), self._sequence) or shown
        return shown

    def _frame(self, reader: BitReader, sequence: Av1Sequence) -> tuple[int, int] | None:
        """Hint and kind if the frame is shown, 5.9.2; keeps it where it asks for that."""
        if reader.bits(1):
            frame = self._kept[reader.bits(3)]
            if frame[1] == KEY_FRAME:
                self._kept = [frame] * 8
            return frame
        kind, is_shown = reader.bits(2), reader.bits(1)
        reader.bits(0 if is_shown else 1)
        is_reset = kind == SWITCH_FRAME or (kind == KEY_FRAME and bool(is_shown))
        is_robust = is_reset or bool(reader.bits(1))
        reader.bits(1)
        tools = reader.bits(1) if sequence.screen_tools is None else sequence.screen_tools
        reader.bits(1 if tools and sequence.integer_motion is None else 0)
        reader.bits(sequence.frame_id_bits + (kind != SWITCH_FRAME))
        hint = reader.bits(sequence.hint_bits)
        reader.bits(0 if is_robust or kind in (KEY_FRAME, INTRA_FRAME) else 3)
        kept_at = 0xFF if is_reset else reader.bits(8)
        for place in range(8):
            if kept_at >> place & 1:
                # A key frame is shown once: to show it again is the sign of a loss.
                self._kept[place] = hint, INTRA_FRAME if is_shown else kind
        return (hint, kind) if is_shown else None


def _leb128(content: bytes, position: int) -> tuple[int, int]:
    """(number, position after it): seven bits a byte, the lowest first."""
    number = 0
    for index in range(8):
        byte = content[position]
        position += 1
        number |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            break
    return number, position
