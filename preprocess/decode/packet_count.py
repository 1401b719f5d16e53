"""Did every picture that the file promised come out of the decoder?

FFmpeg's demuxers end without an error at a cut, and its decoders drop what they cannot use, so only
a count shows it. The count is exact: a picture may be absent only for a known reason. In AVI an
empty chunk repeats the picture before it; MPEG-4 has "not coded" pictures; VP8 has pictures that
are not shown; an edit list discards pictures. One case is not exact: an interlaced picture may come
as two packets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# Xvid's "same picture again" is a packet of 6 to 8 bytes.
NOT_CODED_MAX_BYTES = 16
VP8_SHOW_FRAME = 0x10  # bit 4 of a frame's first byte, RFC 6386 section 9.1


@dataclass
class PacketCount:
    """Packets read, packets that rightly give no picture, and pictures decoded."""

    num_packets: int = 0
    num_silent: int = 0
    num_interlaced: int = 0
    num_frames: int = 0

    def shortfall(self, num_promised: int) -> str | None:
        """What is missing, in one line, or None."""
        if self.num_packets < num_promised:
            return (
                f"cut off or damaged: {self.num_packets} of {num_promised} coded pictures are there"
            )
        num_expected = self.num_packets - self.num_silent
        if self.num_frames + self.num_interlaced < num_expected:
            return f"damaged: {self.num_frames} frames from {num_expected} coded pictures"
        return None


def is_silent(codec: str, content: bytes, *, discarded: bool, num_frames: int) -> bool:
    """Whether a packet that gave `num_frames` was never meant to be seen."""
    if discarded:
        return True
    if codec == "vp8":
        return bool(content) and not content[0] & VP8_SHOW_FRAME
    return codec == "mpeg4" and num_frames == 0 and len(content) <= NOT_CODED_MAX_BYTES


def promised_packets(
    format_name: str, num_in_header: int, index_at_open: Sequence[int], num_indexed: int
) -> int:
    """How many packets a whole file has; 0 when it does not say.

    `index_at_open` holds the timestamps of the index; `num_indexed` is the length of the index at
    the end, when it includes the fragments. AVI: 41 in the header, index 0, 2, 3 .. 40 -> 40; 180
    in the header, index 0 (no index) -> 180.
    """
    if format_name == "avi":
        # An AVI's index leaves out empty chunks, so its length is the better count, but only if it
        # was read whole. Its timestamps are frame numbers, which shows whether it reaches the end.
        index_is_whole = bool(index_at_open) and index_at_open[-1] + 2 >= num_in_header
        return len(index_at_open) if index_is_whole else num_in_header
    return num_indexed or num_in_header
