"""Walks the elements of a Matroska or WebM file and counts the blocks of its video tracks.

It has no count of frames that would show a cut, and a live recording has not even a duration.
Sources: RFC 8794 (EBML) and RFC 9559 (Matroska).
"""

from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from twinstream.preprocess.decode.container_error import ContainerError, overrun

EBML, SEGMENT, CLUSTER, BLOCK_GROUP, SIMPLE_BLOCK, BLOCK = (
    0x1A45DFA3,
    0x18538067,
    0x1F43B675,
    0xA0,
    0xA3,
    0xA1,
)
BLOCK_ADDITIONS, BLOCK_MORE = 0x75A1, 0xA6
TRACKS, TRACK_ENTRY, TRACK_NUMBER, TRACK_TYPE = 0x1654AE6B, 0xAE, 0xD7, 0x83
VIDEO_TRACK = 1
LACING = 0x06
OPENED = {SEGMENT, CLUSTER, BLOCK_GROUP, BLOCK_ADDITIONS, BLOCK_MORE}
# Timestamp, Position, PrevSize; BlockDuration, ReferencePriority, ReferenceBlock, DiscardPadding,
# BlockAddID.
INTEGERS = {0xE7, 0xA7, 0xAB, 0x9B, 0xFA, 0xFB, 0x75A2, 0xEE}
# SeekHead, Info, Chapters, Cues, Attachments, Tags; SilentTracks, EncryptedBlock, BlockVirtual,
# CodecState, Slices, BlockAdditional; Void and CRC-32.
SKIPPED = {
    *(EBML, TRACKS, 0x114D9B74, 0x1549A966, 0x1043A770, 0x1C53BB6B, 0x1941A469, 0x1254C367),
    *(0x5854, 0xAF, 0xA2, 0xA4, 0x8E, 0xA5, 0xEC, 0xBF),
}


def matroska_files(file: BinaryIO, num_bytes: int) -> list[tuple[int, list[int]]]:
    """(first byte, number of blocks of each video track) of the file and of those joined to it.

    ContainerError at an element that is unknown or that ends outside its parent. A container of
    unknown size, as live recordings have, lasts until the file ends.
    """
    found: list[tuple[int, list[int]]] = []
    position = 0
    while not found or (position < num_bytes and _ebml_head(file, position)[0] == EBML):
        start = position
        blocks, position = _matroska_blocks(file, start, num_bytes)
        found.append((start, blocks))
    return found


def _matroska_blocks(file: BinaryIO, start: int, num_bytes: int) -> tuple[list[int], int]:
    """(blocks of each video track, end) of the file that begins at `start`."""
    blocks: Counter[int] = Counter()
    tracks: dict[int, int] = {}
    position, ends = start, [num_bytes]
    cut: str | None = None
    # Where the chain breaks behind a block, bytes of that block may be what is lost.
    last_block = start
    while position < ends[0]:
        # Several containers can end at one byte: a block group, its cluster and the segment.
        while position == ends[-1] and len(ends) > 1:
            ends.pop()
        element, size, content = _ebml_head(file, position)
        end = ends[-1] if size is None else content + size
        if element not in OPENED | INTEGERS | SKIPPED | {BLOCK, SIMPLE_BLOCK}:
            raise ContainerError(
                cut or f"damaged at byte {position}: no Matroska element starts there", last_block
            )
        # A container may be cut off behind blocks that are whole: the damage is what is not.
        if end > num_bytes and element in OPENED:
            cut, end = cut or overrun(position, end, num_bytes), num_bytes
        # No integer has more than 8 bytes; a longer one is damage that would hide the blocks in it.
        if end > ends[-1] or (element in INTEGERS and end > content + 8):
            raise ContainerError(cut or overrun(position, end, num_bytes), last_block)
        if element in (BLOCK, SIMPLE_BLOCK):
            number, num_frames = _block_head(file, content, end)
            blocks[number] += num_frames
            last_block = position
        elif element == TRACKS:
            tracks |= _track_types(file, content, end)
        elif element == SEGMENT:
            # The walk ends with the segment: what follows it holds no block that counts.
            ends = [end]
        elif element in OPENED and size is not None:
            ends.append(end)
        position = content if element in OPENED else end
    if cut is not None:
        raise ContainerError(cut, num_bytes)
    # Damage in a block's track number shows only here: its size may still be right.
    for unnamed in sorted(blocks.keys() - tracks.keys()):
        raise ContainerError(f"damaged: blocks of track {unnamed}, which the header does not name")
    videos = [blocks[number] for number, kind in tracks.items() if kind == VIDEO_TRACK]
    return videos, position


def _block_head(file: BinaryIO, start: int, end: int) -> tuple[int, int]:
    """(track number, frames) of a block; several frames are laced."""
    file.seek(start)
    head = file.read(min(13, end - start))
    length = _vint_length(head[0]) if head else 9
    if length > 8:
        return 0, 1
    # The number is followed by a time of two bytes, the flags, and the number of frames less one.
    is_laced = head[length + 2 : length + 3] != b"" and head[length + 2] & LACING
    num_frames = 1 + (head[length + 3] if is_laced and length + 3 < len(head) else 0)
    return int.from_bytes(head[:length], "big") & ((1 << 7 * length) - 1), num_frames


def _track_types(file: BinaryIO, start: int, end: int) -> dict[int, int]:
    """Type of each track by its number, in the header's order."""
    types = {}
    for element, content, content_end in _elements(file, start, end):
        if element == TRACK_ENTRY:
            fields = {
                kind: (first, last) for kind, first, last in _elements(file, content, content_end)
            }
            if TRACK_NUMBER in fields and TRACK_TYPE in fields:
                types[_integer(file, *fields[TRACK_NUMBER])] = _integer(file, *fields[TRACK_TYPE])
    return types


def _elements(file: BinaryIO, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(identifier, content start, content end) of the whole elements from `position` to `end`."""
    while position < end:
        element, size, content = _ebml_head(file, position)
        position = end if size is None else content + size
        if position <= end:
            yield element, content, position


def _integer(file: BinaryIO, start: int, end: int) -> int:
    file.seek(start)
    return int.from_bytes(file.read(end - start), "big")


def _ebml_head(file: BinaryIO, position: int) -> tuple[int, int | None, int]:
    """(identifier, size, content start) of the element at `position`; size None means unknown."""
    file.seek(position)
    head = file.read(12)
    id_length = _vint_length(head[0])
    size_length = _vint_length(head[id_length]) if id_length < len(head) else 1
    # All value bits set means that the size is unknown.
    all_ones = (1 << 7 * size_length) - 1
    size = int.from_bytes(head[id_length : id_length + size_length], "big") & all_ones
    element = int.from_bytes(head[:id_length], "big")
    return element, None if size == all_ones else size, position + id_length + size_length


def _vint_length(first_byte: int) -> int:
    """Bytes of a variable-length integer: one more than its leading zero bits.

    A zero byte starts no such integer and gives 9, more than the longest.
    """
    return 9 - first_byte.bit_length()
