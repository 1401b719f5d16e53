"""Is a video file whole? Walks the elements of Matroska/WebM and MP4/MOV without decoding.

FFmpeg takes a cut for the end of the video, jumps over what it cannot parse, and reports neither.
Matroska has no count of frames that would show this, and a live recording has not even a duration.
Both formats are chains of (kind, size, content), so the sizes must lead exactly from the first byte
to the last. The price is one small read a block. Other formats are not checked. Sources: RFC 8794
and RFC 9559 (Matroska), ISO/IEC 14496-12 (MP4).
"""

from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

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
BOXES = {
    b"ftyp",
    b"moov",
    b"mdat",
    b"moof",
    b"styp",
    b"sidx",
    b"mfra",
    b"free",
    b"skip",
    b"wide",
    b"udta",
    b"meta",
}


class ContainerError(Exception):
    """The chain of elements is broken; the message says where, in one line without paths."""


def count_blocks(path: str, format_name: str) -> list[int]:
    """Blocks of each video track of a Matroska file, none for other formats. Raises ContainerError.

    `format_name` is FFmpeg's name of the demuxer, such as `matroska,webm`.
    """
    names = format_name.split(",")
    with open(path, "rb") as file:
        if "matroska" in names:
            return matroska_blocks(file, file.seek(0, 2))
        if "mp4" in names:
            check_boxes(file, file.seek(0, 2))
    return []


def matroska_blocks(file: BinaryIO, num_bytes: int) -> list[int]:
    """Number of blocks of each video track.

    ContainerError at an element that is unknown or that ends outside its parent. A container of
    unknown size, as live recordings have, lasts until the file ends.
    """
    blocks: Counter[int] = Counter()
    tracks: dict[int, int] = {}
    position, ends = 0, [num_bytes]
    while position < ends[0]:
        # Several containers can end at one byte: a block group, its cluster and the segment.
        while position == ends[-1] and len(ends) > 1:
            ends.pop()
        element, size, content = _ebml_head(file, position)
        end = ends[-1] if size is None else content + size
        if element not in OPENED | INTEGERS | SKIPPED | {BLOCK, SIMPLE_BLOCK}:
            raise ContainerError(f"damaged at byte {position}: no Matroska element starts there")
        # No integer has more than 8 bytes; a longer one is damage that would hide the blocks in it.
        if end > ends[-1] or (element in INTEGERS and end > content + 8):
            raise ContainerError(_overrun(position, end, num_bytes))
        if element in (BLOCK, SIMPLE_BLOCK):
            blocks[_vint(file, content)] += 1
        elif element == TRACKS:
            tracks |= _track_types(file, content, end)
        elif element == SEGMENT:
            # The walk ends with the segment: what follows it holds no block that counts.
            ends = [end]
        elif element in OPENED and size is not None:
            ends.append(end)
        position = content if element in OPENED else end
    # Damage in a block's track number shows only here: its size may still be right.
    for unnamed in sorted(blocks.keys() - tracks.keys()):
        raise ContainerError(f"damaged: blocks of track {unnamed}, which the header does not name")
    return [blocks[number] for number, kind in tracks.items() if kind == VIDEO_TRACK]


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


def check_boxes(file: BinaryIO, num_bytes: int) -> None:
    """ContainerError where a top-level MP4 box ends outside the file.

    Nothing after an unknown box is checked.
    """
    position = 0
    while position + 8 <= num_bytes:
        file.seek(position)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        # Size 1 announces a 64-bit size after the kind, for boxes beyond 4 GiB.
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        # Size 0 lasts to the end of the file, and an unknown kind may be padding: neither is wrong.
        if kind not in BOXES or size < 8:
            return
        if position + size > num_bytes:
            raise ContainerError(_overrun(position, position + size, num_bytes))
        position += size


def _overrun(position: int, end: int, num_bytes: int) -> str:
    if end > num_bytes:
        return (
            f"cut off or damaged: the element at byte {position} ends {end - num_bytes} bytes "
            "after the file"
        )
    return f"damaged: the element at byte {position} is longer than what holds it"


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


def _vint(file: BinaryIO, position: int) -> int:
    """The variable-length integer at `position`; a track number here. 0 where there is none."""
    file.seek(position)
    head = file.read(8)
    length = _vint_length(head[0]) if head else 9
    return int.from_bytes(head[:length], "big") & ((1 << 7 * length) - 1) if length <= 8 else 0


def _vint_length(first_byte: int) -> int:
    """Bytes of a variable-length integer: one more than its leading zero bits.

    A zero byte starts no such integer and gives 9, more than the longest.
    """
    return 9 - first_byte.bit_length()
