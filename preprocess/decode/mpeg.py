"""Pictures of MPEG-1, MPEG-2 and MPEG-4 part 2.

Sources: ISO/IEC 13818-2 6.2 and 6.3; ISO/IEC 14496-2 6.3.5.
"""

from collections.abc import Iterator

from twinstream.preprocess.decode.bitstream import START_CODE
from twinstream.preprocess.decode.coded_pictures import CodedPicture, Parity


def breaks_link(codec: str, packet: bytes) -> bool:
    """Whether an editor has cut MPEG-1 or -2 here, and says so: the GOP header's broken_link."""
    if codec not in ("mpeg1video", "mpeg2video"):
        return False
    return any(code == 0xB8 and content[3] & 0x20 for code, content in _start_codes(packet, 4))


class Mpeg2Reader:
    """Decoding begins at an I picture; B pictures before the next I or P picture are leading.

    Unless the group of pictures is closed: then they refer only to what follows them.
    """

    def __init__(self) -> None:
        self._has_groups = False
        self.restart()

    def configure(self, extradata: bytes | None) -> None:
        """Pictures tell all of themselves."""

    def restart(self) -> None:
        """No reference picture is there."""
        self._num_references = 0
        self._is_closed = False
        self._anchors = [-1, -1]
        self._last_number = -1

    def pictures(self, packet: bytes) -> list[CodedPicture] | None:
        """A picture for every picture header."""
        heads: list[tuple[int, int, Parity]] = []
        begins_group = False
        for code, content in _start_codes(packet, 4):
            if code == 0xB8:
                self._is_closed = bool(content[3] & 0x40)
                begins_group |= not heads
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
            picture = CodedPicture(parity, number, kind == 1 or is_second, is_leading)
            found.append(picture if found else self._placed(picture, kind, begins_group))
        return found or None

    def _placed(self, picture: CodedPicture, kind: int, begins_group: bool) -> CodedPicture:
        """The first picture of a packet with its place: temporal_reference counts in each group."""
        number = picture.number
        is_second = number == self._last_number and not begins_group
        self._last_number = -1 if is_second else number
        if begins_group:
            self._has_groups, self._anchors = True, [-1, -1]
        if is_second or not self._has_groups:
            return picture
        before, last = self._anchors
        # A picture of type B lies between the two anchors that were decoded before it.
        is_out = not before < number < last if kind == 3 else number <= last
        if kind != 3:
            self._anchors = [last, number]
        return picture._replace(
            order=number, is_start=begins_group, is_entry=kind == 1, num_lost=int(is_out), lowest=0
        )


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
