"""Is every packet of an ASF file (WMV) whole, and does each picture of a stream follow the last?

FFmpeg leaves out what it cannot put together, and ASF has no count that would show it. But pictures
are numbered, and each piece of one says its place in it and the picture's size. Source: Microsoft's
ASF specification 01.20, sections 3.2 and 5.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

HEADER_OBJECT = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
DATA_OBJECT = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
OBJECT_HEAD_BYTES, DATA_HEAD_BYTES = 24, 50
# Bytes of a field by the two bits that stand for its length.
LENGTHS = (0, 1, 2, 4)


@dataclass(frozen=True)
class Piece:
    """A piece of a picture: which stream and picture, place in it; `size` of it, 0 if unsaid."""

    stream: int
    number: int
    offset: int
    size: int
    num_bytes: int
    is_key: bool


class _Fields:
    """Little-endian fields, one after the other; EOFError after the last."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def skip(self, num_bytes: int) -> bytes:
        start, self.position = self.position, self.position + num_bytes
        if num_bytes < 0 or self.position > len(self.content):
            raise EOFError
        return self.content[start : self.position]

    def number(self, num_bytes: int) -> int:
        return int.from_bytes(self.skip(num_bytes), "little")


def packet_bytes(header: bytes) -> int:
    """The size of every packet, from the content of the header object; 0 where they differ."""
    at = header.find(FILE_PROPERTIES) + OBJECT_HEAD_BYTES
    smallest, largest = header[at + 68 : at + 72], header[at + 72 : at + 76]
    is_there = at >= OBJECT_HEAD_BYTES and smallest == largest
    return int.from_bytes(smallest, "little") if is_there else 0


def pieces(packet: bytes) -> Iterator[Piece]:
    """The pieces in a packet; EOFError where they do not fit into it."""
    fields = _Fields(packet)
    flags = fields.number(1)
    if flags & 0x80:  # error correction
        fields.skip(flags & 15)
        flags = fields.number(1)
    widths = fields.number(1)
    length = fields.number(LENGTHS[flags >> 5 & 3]) or len(packet)
    fields.number(LENGTHS[flags >> 1 & 3])
    fields.content = packet[: max(0, length - fields.number(LENGTHS[flags >> 3 & 3]))]
    fields.skip(6)  # times
    count, width = 1, 0
    if flags & 1:
        head = fields.number(1)
        count, width = head & 63, LENGTHS[head >> 6]
    for _ in range(count):
        head = fields.number(1)
        stream, is_key = head & 127, head > 127
        number, offset = (fields.number(LENGTHS[widths >> shift & 3]) for shift in (4, 2))
        replicated = fields.skip(fields.number(LENGTHS[widths & 3]))
        rest = len(fields.content) - fields.position
        content = _Fields(fields.skip(fields.number(width) if width else rest))
        size = int.from_bytes(replicated[:4], "little") if len(replicated) >= 8 else 0
        if len(replicated) != 1:
            yield Piece(stream, number, offset, size, len(content.content), is_key)
            continue
        # Small ones packed together: the offset's place is that of a time.
        while content.position < len(content.content):
            num_bytes = len(content.skip(content.number(1)))
            yield Piece(stream, number, 0, num_bytes, num_bytes, is_key)
            number += 1


@dataclass
class _Pictures:
    """The pictures of a stream as their pieces come; `began` is the packet of the last one."""

    began: int = 0
    num_pictures: int = 0
    num_jumps: int = 0
    first_jump: int | None = None
    _last: Piece | None = None

    def whole_until(self, position: int) -> int:
        """The byte before which all pictures are complete, if no piece comes from there on."""
        last = self._last
        is_open = last is not None and last.offset + last.num_bytes < last.size
        return self.began if is_open else position

    def add(self, position: int, piece: Piece) -> bool:
        """Whether a piece, of the packet at `position`, follows the last one.

        Numbers of pictures that jump are only counted: an editor may have cut at a key picture.
        """
        last, self._last = self._last, piece
        if piece.offset:
            return (
                last is not None
                and piece.number == last.number
                and piece.offset == last.offset + last.num_bytes
            )
        is_complete = last is None or last.offset + last.num_bytes >= last.size
        if last is not None and not piece.is_key and (piece.number - last.number) % 256 != 1:
            self.num_jumps += 1
            self.first_jump = position if self.first_jump is None else self.first_jump
        self.began = position
        self.num_pictures += 1
        return is_complete


def whole_packets(file: BinaryIO, start: int, end: int, size: int, stream: int) -> tuple[int, bool]:
    """(byte before which the stream's pictures are complete, whether damage follows there).

    The packets, of `size` bytes, lie from `start` to `end`.
    """
    pictures = _Pictures()
    first_bytes: set[int] = set()
    whole, is_damaged = end, False
    for position in range(start, end - size + 1, size):
        file.seek(position)
        packet = file.read(size)
        first_bytes.add(packet[0])
        whole = pictures.whole_until(position)
        try:
            found = [piece for piece in pieces(packet) if piece.stream == stream]
        except EOFError:
            is_damaged = True
            break
        if len(first_bytes) > 1 or not all(pictures.add(position, piece) for piece in found):
            is_damaged = True
            break
    else:
        whole = pictures.whole_until(end)
    # Numbers that jump all the time were written so.
    if pictures.first_jump is not None and pictures.num_jumps * 4 <= pictures.num_pictures:
        return min(whole, pictures.first_jump), True
    return whole, is_damaged
