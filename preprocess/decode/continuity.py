"""Is a coded picture missing between two packets? From the numbers that pictures carry.

H.264 counts its reference pictures in decoding order (frame_num); H.264 and HEVC (picture order
count), MPEG-1 and -2 (temporal_reference) and AV1 (order_hint) number all in display order. A
decoder plays over a hole without an error. VP8, VP9, MPEG-4 part 2, H.263, WMV and the intra codecs
carry no count, and a picture that is last before a key picture may go unmissed. Sources:
ITU-T H.264 7.3.2, 7.3.3, 8.2.1; H.265 7.3, 8.3.1; H.262 6.2.2, 6.3.9; AV1 5.3, 5.5, 5.9.
"""

from bisect import insort
from collections import Counter
from itertools import pairwise
from typing import NamedTuple, Protocol

from twinstream.preprocess.decode.bitstream import (
    BitReader,
    nal_length_size,
    nal_units,
    parameter_sets,
    without_emulation,
)

# The most pictures that can be decoded before one that is shown before them (H.264 and H.265 A.4).
MAX_REORDERED = 16
# Headers lie within the first bytes of a unit, and a whole picture as one integer would be slow.
HEAD_BYTES = 64
# Holes before an entry point that are longer are joints of two streams.
MAX_HOLE_AT_ENTRY = 3
MIN_STEPS = 4
START_CODES = {"gop": b"\0\0\1\xb8", "picture": b"\0\0\1\0"}
HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}


class CodedPicture(NamedTuple):
    """What a picture says of its place; `order` counts in display order from a start on.

    `num_lost`: reference pictures that are missing before it in decoding order. `is_entry`: an
    intra picture, where another stream may have been joined on.
    """

    order: int | None
    is_start: bool = False
    is_entry: bool = False
    num_lost: int = 0
    lowest: int | None = None


class Reader(Protocol):
    """Reads the headers of one codec."""

    def read(self, packet: bytes) -> CodedPicture | None:
        """The picture that begins in the packet; None for a second field or without a picture.

        EOFError where a header is cut off, KeyError where its parameter set is missing.
        """


class DisplayOrder:
    """Finds a hole in the display order of pictures that otherwise step evenly.

    Pictures are added in decoding order; a place is settled once `MAX_REORDERED` later ones are in.
    Orders 0, 8, 4, 2, [6], 16, ... with 6 lost, where others step by 2: a hole after 3 pictures.
    """

    def __init__(self) -> None:
        self.hole: int | None = None
        """Number of pictures that are shown before the first hole."""
        self._pending: list[tuple[int, int]] = []
        self._last: tuple[int, int] | None = None
        self._steps: Counter[int] = Counter()
        self._num_settled = 0
        self._run = 0
        self._is_entry_whole = True
        self._num_reordered = 0
        self._start: CodedPicture | None = None

    def add(self, picture: CodedPicture) -> None:
        """Take in the next picture in decoding order."""
        if picture.order is None:
            return
        if picture.is_start or picture.is_entry:
            highest = self._pending[-1] if self._pending else self._last
            if picture.is_start or highest is None or picture.order <= highest[0]:
                self.close()
            self._run += 1
            self._start = picture
            self._is_entry_whole = picture.num_lost <= 1
        place = picture.order, self._run
        insort(self._pending, place)
        num_later = len(self._pending) - 1 - self._pending.index(place)
        self._num_reordered = max(self._num_reordered, num_later)
        if len(self._pending) > MAX_REORDERED:
            self._settle()

    def close(self) -> None:
        """The run of pictures ends here: settle all."""
        while self._pending:
            self._settle()
        self._last = None

    def finish(self) -> None:
        """The stream ends here: a hole among its last pictures is a cut, not damage.

        `ffmpeg -t ... -c copy` cuts in decoding order: pictures shown before the last are absent.
        """
        while len(self._pending) > self._num_reordered:
            self._settle()

    def _settle(self) -> None:
        order, run = self._pending.pop(0)
        if self._last is not None:
            difference = order - self._last[0]
            is_usual = 0 < difference <= min(self._steps, default=0)
            step = None if is_usual else self._step([order, *(it[0] for it in self._pending)])
            if step and difference > step and self.hole is None:
                num_missing = difference // step - 1
                at_entry = run != self._last[1]
                if not at_entry or (num_missing <= MAX_HOLE_AT_ENTRY and self._is_entry_whole):
                    self.hole = self._num_settled
            else:
                self._steps[difference] += 1
        elif self._num_settled and self._lacks_first(order) and self.hole is None:
            self.hole = self._num_settled
        self._last = order, run
        self._num_settled += 1

    def _lacks_first(self, order: int) -> bool:
        """Whether some but not all of the pictures shown before a run's first picture are there.

        An editor that cuts there removes all of them.
        """
        start = self._start
        if start is None or start.lowest is None or start.order is None:
            return False
        return start.lowest < order < start.order

    def _step(self, ahead: list[int]) -> int | None:
        """The step between neighbours; None where there are too few, or they are uneven."""
        steps = self._steps + Counter(after - before for before, after in pairwise(ahead))
        common = steps.most_common(1)
        if not common or common[0][1] < MIN_STEPS:
            return None
        step = common[0][0]
        is_even = step > 0 and all(other > 0 and other % step == 0 for other in steps)
        return step if is_even else None


class H264Sps(NamedTuple):
    """The fields of a sequence parameter set that a slice header needs."""

    frame_num_bits: int
    poc_type: int
    poc_bits: int
    gaps_allowed: bool
    frames_only: bool
    separate_planes: bool


def h264_sps(unit: bytes) -> tuple[int, H264Sps]:
    """(identifier, fields) of a sequence parameter set, H.264 7.3.2.1.1."""
    reader = BitReader(without_emulation(unit)[1:])
    profile = reader.bits(24) >> 16
    identifier, separate = reader.ue(), 0
    if profile in HIGH_PROFILES:
        chroma = reader.ue()
        separate = reader.bits(1) if chroma == 3 else 0
        reader.ue(), reader.ue(), reader.bits(1)
        if reader.bits(1):
            for index in range(12 if chroma == 3 else 8):
                if reader.bits(1):
                    _skip_scaling_list(reader, 16 if index < 6 else 64)
    frame_num_bits, poc_type, poc_bits = reader.ue() + 4, reader.ue(), 0
    if poc_type == 0:
        poc_bits = reader.ue() + 4
    elif poc_type == 1:
        reader.bits(1), reader.se(), reader.se()
        for _ in range(reader.ue()):
            reader.se()
    reader.ue()
    gaps, _, _, frames_only = reader.bits(1), reader.ue(), reader.ue(), reader.bits(1)
    return identifier, H264Sps(
        frame_num_bits, poc_type, poc_bits, bool(gaps), bool(frames_only), bool(separate)
    )


def _skip_scaling_list(reader: BitReader, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + reader.se()) % 256
        last = following or last


class H264Reader:
    """frame_num and picture order count of type 0; parameter sets come from packets too."""

    def __init__(self, extradata: bytes | None) -> None:
        self._length_size = nal_length_size("h264", extradata)
        self._sps: dict[int, H264Sps] = {}
        self._sps_of: dict[int, int] = {}
        self._prev_ref_frame_num: int | None = None
        self._prev_poc = 0
        self._first_field: tuple[int, int] | None = None
        for unit in parameter_sets("h264", extradata):
            self._take_parameters(unit)

    def read(self, packet: bytes) -> CodedPicture | None:
        """The first slice of the packet."""
        for unit in nal_units(packet, self._length_size):
            if unit[0] & 31 in (1, 2, 5):
                return self._slice(unit)
            self._take_parameters(unit)
        return None

    def _take_parameters(self, unit: bytes) -> None:
        if unit[0] & 31 == 7:
            identifier, sps = h264_sps(unit)
            self._sps[identifier] = sps
        elif unit[0] & 31 == 8:
            reader = BitReader(unit[1:HEAD_BYTES])
            identifier = reader.ue()
            self._sps_of[identifier] = reader.ue()

    def _slice(self, unit: bytes) -> CodedPicture | None:
        is_idr, is_reference = unit[0] & 31 == 5, bool(unit[0] & 0x60)
        reader = BitReader(without_emulation(unit[:HEAD_BYTES])[1:])
        _, slice_type = reader.ue(), reader.ue()
        sps = self._sps[self._sps_of[reader.ue()]]
        reader.bits(2 if sps.separate_planes else 0)
        frame_num = reader.bits(sps.frame_num_bits)
        is_field = 0 if sps.frames_only else reader.bits(1)
        field = 1 + reader.bits(1) if is_field else 0
        if is_idr:
            reader.ue()
        first, self._first_field = self._first_field, (frame_num, field) if field else None
        if field and first == (frame_num, 3 - field):
            self._first_field = None
            self._prev_ref_frame_num = frame_num if is_reference else self._prev_ref_frame_num
            return None
        num_lost, previous = 0, self._prev_ref_frame_num
        if not is_idr and previous is not None and not sps.gaps_allowed:
            num_lost = (frame_num - previous - 1) % (1 << sps.frame_num_bits)
        order = self._poc(reader, sps, is_idr, is_reference)
        self._prev_ref_frame_num = (
            frame_num if is_reference else (frame_num - 1) % (1 << sps.frame_num_bits)
        )
        return CodedPicture(order, is_idr, slice_type % 5 in (2, 4), num_lost)

    def _poc(self, reader: BitReader, sps: H264Sps, is_idr: bool, is_reference: bool) -> int | None:
        """Picture order count of type 0, 8.2.1.1; None for the other types."""
        if sps.poc_type != 0:
            return None
        previous = 0 if is_idr else self._prev_poc
        poc = whole_order(reader.bits(sps.poc_bits), sps.poc_bits, previous)
        if is_reference:
            self._prev_poc = poc
        return poc


def whole_order(low_bits: int, num_bits: int, previous: int) -> int:
    """The count with these low bits that is nearest to `previous`: 1, 4 bits, 30 -> 33."""
    size = 1 << num_bits
    # Half a turn ahead counts as ahead and half a turn back as ahead too, 8-3 of H.264.
    return previous + (low_bits - previous + size // 2) % size - size // 2


class HevcReader:
    """Picture order count, H.265 8.3.1."""

    def __init__(self, extradata: bytes | None) -> None:
        self._length_size = nal_length_size("hevc", extradata)
        self._sps: dict[int, tuple[int, bool]] = {}
        self._pps: dict[int, tuple[int, int, bool]] = {}
        self._prev_poc = 0
        self._after_end = True
        for unit in parameter_sets("hevc", extradata):
            self._take_parameters(unit)

    def read(self, packet: bytes) -> CodedPicture | None:
        """The first slice of the packet, of the base layer."""
        picture = None
        for unit in nal_units(packet, self._length_size):
            kind = unit[0] >> 1
            if len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:
                continue
            if kind < 32 and picture is None:
                picture = self._slice(unit, kind)
            elif kind in (36, 37):
                self._after_end = True
            elif picture is None:
                self._take_parameters(unit)
        return picture

    def _take_parameters(self, unit: bytes) -> None:
        kind = unit[0] >> 1
        if kind == 33:
            self._take_sps(BitReader(without_emulation(unit)[2:]))
        elif kind == 34:
            reader = BitReader(without_emulation(unit[:HEAD_BYTES])[2:])
            identifier, sps = reader.ue(), reader.ue()
            _, has_output_flag, num_extra_bits = reader.bits(1), reader.bits(1), reader.bits(3)
            self._pps[identifier] = sps, num_extra_bits, bool(has_output_flag)

    def _take_sps(self, reader: BitReader) -> None:
        """(bits of the order count, whether planes are coded apart), 7.3.2.2 and 7.3.3."""
        reader.bits(4)
        num_sub_layers = reader.bits(3)
        reader.bits(1 + 88 + 8)
        present = [(reader.bits(1), reader.bits(1)) for _ in range(num_sub_layers)]
        if num_sub_layers:
            reader.bits(2 * (8 - num_sub_layers))
        for has_profile, has_level in present:
            reader.bits(88 * has_profile + 8 * has_level)
        identifier, chroma = reader.ue(), reader.ue()
        separate = reader.bits(1) if chroma == 3 else 0
        reader.ue(), reader.ue()
        if reader.bits(1):
            for _ in range(4):
                reader.ue()
        reader.ue(), reader.ue()
        self._sps[identifier] = reader.ue() + 4, bool(separate)

    def _slice(self, unit: bytes, kind: int) -> CodedPicture:
        reader = BitReader(without_emulation(unit[:HEAD_BYTES])[2:])
        is_random_access = 16 <= kind <= 23
        reader.bits(2 if is_random_access else 1)
        sps, num_extra_bits, has_output_flag = self._pps[reader.ue()]
        poc_bits, separate_planes = self._sps[sps]
        is_start = kind in (16, 17, 18, 19, 20) or (is_random_access and self._after_end)
        self._after_end = False
        if kind in (19, 20):
            poc = 0
        else:
            reader.bits(num_extra_bits)
            reader.ue()
            reader.bits(has_output_flag + 2 * separate_planes)
            low_bits = reader.bits(poc_bits)
            poc = low_bits if is_start else whole_order(low_bits, poc_bits, self._prev_poc)
        # Only pictures of the lowest layer that others refer to count, and no leading ones.
        if unit[1] & 7 == 1 and not (6 <= kind <= 9 or (kind < 15 and kind % 2 == 0)):
            self._prev_poc = poc
        return CodedPicture(poc, is_start, is_random_access)


class MpegReader:
    """temporal_reference of MPEG-1 and MPEG-2, which starts at 0 in each group of pictures."""

    def __init__(self) -> None:
        self._anchors = [-1, -1]
        self._first_field = -1
        self._has_groups = False

    def read(self, packet: bytes) -> CodedPicture | None:
        """The first picture header of the packet."""
        at = packet.find(START_CODES["picture"])
        if at < 0 or at + 6 > len(packet):
            return None
        group = packet.find(START_CODES["gop"], 0, at)
        head = int.from_bytes(packet[at + 4 : at + 6], "big")
        order, kind = head >> 6, head >> 3 & 7
        if order == self._first_field and group < 0:
            self._first_field = -1
            return None
        self._first_field = order
        if group >= 0:
            self._has_groups, self._anchors = True, [-1, -1]
        if not self._has_groups:
            return None
        before, last = self._anchors
        if kind == 3:
            # A picture of type B lies between the two anchors that were decoded before it.
            is_out = not before < order < last
        else:
            is_out = order <= last
            self._anchors = [last, order]
        return CodedPicture(order, group >= 0, kind == 1, int(is_out), lowest=0)


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
        self._last: int | None = None
        # An av1C record: four bytes, then OBUs.
        self._take(extradata[4:] if extradata and extradata[0] == 0x81 else b"")

    def read(self, packet: bytes) -> CodedPicture | None:
        """The frame that the packet shows."""
        shown = self._take(packet)
        if shown is None or self._sequence is None or not self._sequence.hint_bits:
            self._last = None
            return None
        hint, kind = shown
        num_lost = 0
        if self._last is not None and kind != KEY_FRAME:
            num_lost = (hint - self._last - 1) % (1 << self._sequence.hint_bits)
        self._last = hint
        return CodedPicture(None, is_start=kind == KEY_FRAME, num_lost=num_lost)

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


def reader_of(codec: str, extradata: bytes | None) -> Reader | None:
    """The reader for a codec of FFmpeg's name; None where pictures carry no count."""
    try:
        if codec == "h264":
            return H264Reader(extradata)
        if codec == "hevc":
            return HevcReader(extradata)
        if codec == "av1":
            return Av1Reader(extradata)
    except (EOFError, KeyError, IndexError):
        return None
    return MpegReader() if codec in ("mpeg1video", "mpeg2video") else None
