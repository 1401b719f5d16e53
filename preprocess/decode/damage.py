"""Is a packet or a picture damaged or lost? Three witnesses, asked before a picture is given out.

FFmpeg conceals most damage: it paints over the hole, returns success and only logs it. So (1) its
log is captured around each read and decode, (2) its marks on packets and pictures are read, and
(3) the numbers in the pictures' own headers must follow one another. For the third, packets are
read some pictures ahead. The price: PyAV's log level, which is of the process, is changed
meanwhile; flipped bits that make another picture, equally well formed, are not seen.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from av import logging as ffmpeg_log
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from twinstream.preprocess.decode.bitstream import is_zeroed, nal_length_size, nal_units
from twinstream.preprocess.decode.coded_pictures import CodedPicture
from twinstream.preprocess.decode.continuity import MAX_REORDERED, DisplayOrder
from twinstream.preprocess.decode.picture_readers import picture_reader

if TYPE_CHECKING:
    VideoPacket = Packet[VideoStream]

# A hole is known once this many packets after it are read; the decoder stays so far behind.
READ_AHEAD = MAX_REORDERED + 8
# Errors that are logged of whole files too: of references that a cut has taken off, of headers in a
# joined Ogg, at the end of a joined MXF, of numbers that no picture needs.
HARMLESS = (
    *("mmco: unref short failure", "number of reference frames (", "Header packet passed"),
    *("cannot find current edit unit", "Overread VUI", "SEI type", "EXIF", "ICC "),
)
# FFmpeg paints over what it could not decode and says so as mere information.
CONCEALED = "concealing "
# Microsoft's codecs have no marker at the end of a picture; its length is checked if asked for.
CHECKS = {"wmv1": "buffer", "wmv2": "buffer", "msmpeg4v2": "buffer", "msmpeg4v3": "buffer"}

# An arithmetic coder writes a run of zeros only where nothing moves, and less than half a bit for
# each block of 16 x 16 pixels: at most a byte for so many pixels, and some of a header.
PIXELS_PER_ZERO_BYTE, HEADER_ZERO_BYTES = 4096, 24
NO_ZEROS = "damaged: zeros in its coded picture"
LOST = "a picture that it refers to is missing"
Message = tuple[int, str, str]


class ReadPacket(NamedTuple):
    """A packet, whether decoding must be able to begin there, and its pictures, None if unknown.

    `fault`: what is wrong with it or before it.
    """

    packet: "VideoPacket"
    is_first: bool
    pictures: list[CodedPicture] | None
    fault: str | None
    content: bytes = b""


class DamageWatch:
    """Decodes the packets of one stream and finds what is wrong with them, and in reading them."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        context = stream.codec_context
        self._codec = context.codec.canonical_name
        # The parsers of sound streams speak while packets are read, too.
        self._parts = {container.format.name, context.name, self._codec}
        self._reader = picture_reader(self._codec, context.extradata)
        self._has_nal_units = self._codec in ("h264", "hevc")
        if self._has_nal_units:
            self._nal_length_size = nal_length_size(self._codec, context.extradata)
        self._order = DisplayOrder()
        self._num_read = self._num_jumps = 0
        self._is_countable = True
        self._zero_run = b""
        if self._codec in ("vp8", "vp9"):
            num_pixels = context.width * context.height
            self._zero_run = bytes(HEADER_ZERO_BYTES + num_pixels // PIXELS_PER_ZERO_BYTE)
        checks = CHECKS.get(self._codec, "crccheck")
        context.options = {**context.options, "err_detect": checks}
        self.fault: str | None = None
        """What is wrong with the packet that was given or decoded last, or before it."""

    def packets(self, packets: "Iterator[tuple[VideoPacket, bool]]") -> Iterator[ReadPacket]:
        """Every packet, some pictures behind the last one that is read.

        Each comes with whether decoding must be able to begin there; an empty one restarts it.
        """
        waiting: deque[ReadPacket] = deque()
        # MPEG-4 has no numbers that a hole would show in.
        num_ahead = READ_AHEAD if self._reader and self._codec != "mpeg4" else 0
        while True:
            with captured_log() as messages:
                packet, is_first = next(packets, (None, False))
            fault = logged_damage(messages, self._parts) if packet is not None else None
            if packet is None or not (packet.size or packet.pts is not None or is_first):
                break
            # Theora says "the same picture again" by a packet of no bytes, which decoders refuse.
            if not packet.size and packet.pts is not None:
                continue
            content = bytes(packet)
            pictures, seen = self._read(packet, content)
            waiting.append(ReadPacket(packet, is_first, pictures, fault or seen, content))
            if len(waiting) > num_ahead:
                yield self._due(waiting.popleft())
        self._order.finish()
        while waiting:
            yield self._due(waiting.popleft())
        self.fault = self.fault or fault

    def decoded(self, packet: "VideoPacket", *, is_leading: bool) -> list[VideoFrame]:
        """The pictures that the decoder gives for the packet.

        Of a leading picture it may say that what it refers to is missing: that is not damage.
        """
        with captured_log() as messages:
            pictures = packet.decode()
        if not is_leading:
            self.fault = self.fault or logged_damage(messages, self._parts)
        return pictures

    def fault_at(self, frame: int) -> str | None:
        """What is wrong with that frame, by its place in display order."""
        hole = self._order.hole
        if hole is None or (self._is_countable and frame < hole):
            return None
        return "a picture is missing before it"

    def _due(self, read: ReadPacket) -> ReadPacket:
        # A stream whose numbers jump all the time was written so; but one lost packet of AV1, which
        # holds several frames, makes many jump.
        is_usual = self._codec != "av1" and self._num_jumps * 4 > self._num_read
        if read.fault and not (read.fault == LOST and is_usual):
            self.fault = self.fault or read.fault
        return read

    def _read(
        self, packet: "VideoPacket", content: bytes
    ) -> tuple[list[CodedPicture] | None, str | None]:
        """Pictures, and what their headers show: damage or a picture missing before them."""
        if self._zero_run and self._zero_run in content:
            return None, NO_ZEROS
        if self._reader is None:
            return None, None
        if not content:
            self._order.close()
            self._reader.restart()
            return None, None
        if packet.has_sidedata("new_extradata"):
            extradata = bytes(packet.get_sidedata("new_extradata"))
            self._reader.configure(extradata)
            if self._has_nal_units:
                self._nal_length_size = nal_length_size(self._codec, extradata)
        pictures = self._reader.pictures(content)
        if self._has_nal_units and any(map(is_zeroed, nal_units(content, self._nal_length_size))):
            return pictures, NO_ZEROS
        self._is_countable &= pictures is not None and not (pictures and packet.is_discard)
        fault = None
        for picture in pictures or ():
            self._is_countable &= picture.order is not None or self._codec != "hevc"
            self._num_read += 1
            self._order.add(picture)
            if picture.num_lost and not picture.is_entry:
                self._num_jumps += 1
                fault = LOST
        return pictures, fault


def logged_damage(messages: list[Message], parts: set[str]) -> str | None:
    """The first message by one of FFmpeg's parts, such as `h264`, that tells of damage."""
    for level, part, text in messages:
        is_bad = level <= ffmpeg_log.ERROR or text.startswith(CONCEALED)
        if is_bad and part in parts and not any(words in text for words in HARMLESS):
            return f"damaged: {text.strip()}"
    return None


@dataclass
class _LogLevel:
    """FFmpeg's log level, which is of the process: the first thread that captures raises it, and
    the last one restores what was there.
    """

    lock: Lock = field(default_factory=Lock)
    num_users: int = 0
    before: tuple[int | None, bool] = (None, True)

    def raise_it(self) -> None:
        with self.lock:
            if not self.num_users:
                level = ffmpeg_log.get_level()
                self.before = level, ffmpeg_log.get_skip_repeated()
                ffmpeg_log.set_skip_repeated(False)
                loud = ffmpeg_log.INFO if level is None else max(level, ffmpeg_log.INFO)
                ffmpeg_log.set_level(loud)
            self.num_users += 1

    def restore(self) -> None:
        with self.lock:
            self.num_users -= 1
            if not self.num_users:
                level, skips = self.before
                ffmpeg_log.set_level(level)
                ffmpeg_log.set_skip_repeated(skips)


_LOG_LEVEL = _LogLevel()


@contextmanager
def captured_log() -> Iterator[list[Message]]:
    """What FFmpeg logs in this thread, as (level, name of the part, text), repeats too."""
    with ffmpeg_log.Capture() as messages:
        _LOG_LEVEL.raise_it()
        try:
            yield messages
        finally:
            _LOG_LEVEL.restore()
