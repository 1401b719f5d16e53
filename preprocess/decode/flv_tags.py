"""How many pictures the tags of an FLV file hold, and whether the chain of tags is whole.

FLV has no count and no index: FFmpeg takes a cut for the end. Each tag says its length. Sources:
Adobe's video file format specification 10.1, annex E; Enhanced RTMP 2.
"""

from dataclasses import dataclass
from typing import BinaryIO

SIGNATURE = b"FLV\1"
TAG_HEAD_BYTES, SIZE_BYTES = 11, 4
AUDIO, VIDEO, SCRIPT = 8, 9, 18
# Its codecs have a byte for the kind of packet: 1 is a coded picture, 0 and 2 are not.
PACKET_KINDS = {7: (1,), 12: (1,), 13: (1,)}
ENHANCED = 0x80
ENHANCED_PICTURES = (1, 3)
COMMAND = 5


@dataclass(frozen=True)
class FlvTags:
    """Pictures of the video; where the chain ends, and by how many bytes after the file.

    `last`: where the last whole tag begins.
    """

    num_pictures: int
    end: int
    num_missing: int = 0
    last: int = 0


def flv_tags(file: BinaryIO, num_bytes: int) -> FlvTags:
    """The tags up to the first that is of no known kind; `end` is where that one begins."""
    file.seek(5)
    position = int.from_bytes(file.read(4), "big") + SIZE_BYTES
    num_pictures = last = 0
    while position + TAG_HEAD_BYTES <= num_bytes:
        file.seek(position)
        head = file.read(TAG_HEAD_BYTES + 2)
        kind, size = head[0] & 0x1F, int.from_bytes(head[1:4], "big")
        if head[0] & 0xC0 or kind not in (AUDIO, VIDEO, SCRIPT):
            break
        end = position + TAG_HEAD_BYTES + size
        if end > num_bytes:
            return FlvTags(num_pictures, position, end - num_bytes, last)
        num_pictures += kind == VIDEO and _is_picture(head[TAG_HEAD_BYTES:][:size])
        last, position = position, end + SIZE_BYTES
    return FlvTags(num_pictures, position, last=last)


def _is_picture(content: bytes) -> bool:
    """Whether the first two bytes of a video tag are those of a coded picture."""
    if len(content) < 2 or content[0] >> 4 & 7 == COMMAND:
        return False
    if content[0] & ENHANCED:
        return content[0] & 15 in ENHANCED_PICTURES
    kinds = PACKET_KINDS.get(content[0] & 15)
    return kinds is None or content[1] in kinds
