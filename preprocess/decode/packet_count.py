"""Did every picture that the file promised come out of the decoder?

FFmpeg's demuxers end without an error at a cut, and its decoders drop what they cannot use, so only
a count shows it. The count is exact: a picture may be absent only for a known reason. In AVI an
empty chunk repeats the picture before it; MPEG-4 has "not coded" pictures; VP8 has pictures that
are not shown; an edit list discards pictures; two fields make one frame; leading pictures refer to
what is not there.
"""

from dataclasses import dataclass

from twinstream.preprocess.decode.coded_pictures import CodedPicture

# Xvid's "same picture again" is a packet of 6 to 8 bytes.
NOT_CODED_MAX_BYTES = 16
VP8_SHOW_FRAME = 0x10  # bit 4 of a frame's first byte, RFC 6386 section 9.1
THEORA_COMMENT = 0x81


@dataclass
class PacketCount:
    """Packets read, frames that they must give, leading frames that they may, frames that came."""

    codec: str
    num_packets: int = 0
    num_expected: int = 0
    num_leading: int = 0
    num_frames: int = 0
    is_leading: bool = False
    """Whether the packet that was begun last holds nothing but leading pictures."""
    _is_start: bool = True
    _first_field: CodedPicture | None = None
    _num_expected_before: int = 0

    def restart(self) -> None:
        """The next picture must be one that decoding can begin with."""
        self._is_start = True
        self._first_field = None

    def begin(
        self, content: bytes, pictures: list[CodedPicture] | None, *, is_discarded: bool
    ) -> bool:
        """Count a packet and its pictures, one where they are not known.

        False where decoding cannot begin with it, though it is the first.
        """
        self.num_packets += 1
        self._num_expected_before = self.num_expected
        if pictures is None:
            pictures = [CodedPicture()]
        self.is_leading = bool(pictures) and all(picture.is_leading for picture in pictures)
        is_refused = self._is_start and bool(pictures) and not pictures[0].is_access
        self._is_start &= is_refused or not pictures
        # What an edit list hides need not be decodable.
        if is_discarded or is_silent(self.codec, content):
            return True
        for picture in pictures:
            first, self._first_field = self._first_field, None
            if picture.parity != "frame":
                if first and first.parity != picture.parity and first.number == picture.number:
                    continue
                self._first_field = picture
            self.num_leading += picture.is_leading
            self.num_expected += not picture.is_leading
        return not is_refused

    def end(self, content: bytes, num_frames: int) -> None:
        """What came of the packet: an MPEG-4 packet may repeat the picture before it."""
        if self.codec == "mpeg4" and num_frames == 0 and len(content) <= NOT_CODED_MAX_BYTES:
            self.num_expected = self._num_expected_before

    @property
    def is_complete(self) -> bool:
        """Whether every packet gave its frames."""
        return self.num_frames >= self.num_expected

    @property
    def num_left_out(self) -> int:
        """Leading frames that did not come."""
        return max(0, self.num_leading - max(0, self.num_frames - self.num_expected))

    def shortfall(self, num_promised: int) -> str | None:
        """What is missing, in one line, or None."""
        if self.num_packets < num_promised:
            return (
                f"cut off or damaged: {self.num_packets} of {num_promised} coded pictures are there"
            )
        if not self.is_complete:
            return f"damaged: {self.num_frames} frames from {self.num_expected} coded pictures"
        return None


def is_silent(codec: str, content: bytes) -> bool:
    """Whether a packet was never meant to be seen."""
    if codec == "vp8":
        return bool(content) and not content[0] & VP8_SHOW_FRAME
    return codec == "theora" and bool(content) and content[0] & 0x80 > 0


def is_header(codec: str, content: bytes) -> bool:
    """Whether a packet is a header that the decoder refuses: Theora's comment, in chained Ogg."""
    return codec == "theora" and content[:1] == bytes([THEORA_COMMENT])


def promised_packets(
    format_name: str, num_in_header: int, num_indexed_at_open: int, num_indexed: int
) -> int:
    """How many packets FFmpeg's index and header promise; 0 when they do not say.

    `num_indexed` is the length of the index at the end, when it includes the fragments. AVI is
    counted by its chunks, as its header counts empty ones too: only its index is taken.
    """
    if format_name == "avi":
        return num_indexed_at_open
    return num_indexed or num_in_header
