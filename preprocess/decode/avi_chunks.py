"""How many pictures an AVI file promises: by its headers, its indexes and its chunks themselves.

FFmpeg shows what it finds, and a file cut at the end has no index. An empty chunk stands for the
picture before it, and the headers count it. Sources: Microsoft's AVI RIFF file reference; OpenDML
AVI file format extensions 1.02.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

LISTS = (b"RIFF", b"LIST")
INDEX_ENTRY = np.dtype([("kind", "S4"), ("flags", "<u4"), ("place", "<u4"), ("size", "<u4")])
# An OpenDML index: a head of 24 bytes, then places and sizes; a size's highest bit is a flag.
OPEN_DML_HEAD, SIZE_BITS = 24, 0x7FFFFFFF
# FFmpeg writes this, or more, where it cannot go back to the header: into a pipe.
UNKNOWN_LENGTH = 1 << 30


@dataclass
class AviFile:
    """Pictures of one stream by headers, by the indexes and by the chunks.

    Of indexes and chunks the empty ones count apart. The file's header counts those of one of its
    `num_videos` streams. `has_end`: the chain of chunks leads to the last byte of the file.
    """

    start: int
    num_in_header: int = 0
    num_in_file_header: int = 0
    num_videos: int = 1
    num_in_index: int = 0
    num_in_open_dml: int = 0
    num_chunks: int = 0
    num_empty_in_index: int = 0
    num_empty_chunks: int = 0
    has_end: bool = False

    @property
    def num_promised(self) -> int:
        """The largest number of pictures that are not empty.

        A header is often one more than a whole file has: 41 in the header, 40 indexed -> 40.
        """
        num_indexed = max(self.num_in_index, self.num_in_open_dml)
        counted = max(num_indexed, self.num_chunks)
        numbers = (self.num_in_header, self.num_in_file_header if self.num_videos == 1 else 0)
        known = max(number if number < UNKNOWN_LENGTH else 0 for number in numbers)
        in_header = known - max(self.num_empty_in_index, self.num_empty_chunks)
        return counted if num_indexed and in_header == counted + 1 else max(counted, in_header)


def avi_files(file: BinaryIO, num_bytes: int, stream: int) -> list[AviFile]:
    """The file, then those joined to it; `stream` is its number among all streams."""
    found: list[AviFile] = []
    num_streams = 0
    prefix = b"%02d" % stream
    for kind, content, size in _chunks(file, num_bytes):
        if kind == b"RIFF" and _read(file, content, 4) == b"AVI ":
            num_streams = 0
            found.append(AviFile(content - 8, num_videos=0))
        elif not found:
            continue
        elif kind in (b"avih", b"dmlh"):
            place = content + (16 if kind == b"avih" else 0)
            number = _number(file, place)
            found[-1].num_in_file_header = max(found[-1].num_in_file_header, number)
        elif kind == b"strh":
            if num_streams == stream:
                found[-1].num_in_header = _number(file, content + 32)
            found[-1].num_videos += _read(file, content, 4) == b"vids"
            num_streams += 1
        elif kind == b"idx1":
            index = np.frombuffer(_read(file, content, size // 16 * 16), INDEX_ENTRY)
            sizes = index["size"][np.isin(index["kind"], [prefix + b"dc", prefix + b"db"])]
            found[-1].num_in_index = int(np.count_nonzero(sizes))
            found[-1].num_empty_in_index = len(sizes) - found[-1].num_in_index
        elif kind == b"ix" + prefix:
            num_entries = min(_number(file, content + 4), max(0, size - OPEN_DML_HEAD) // 8)
            words = np.frombuffer(_read(file, content + OPEN_DML_HEAD, 8 * num_entries), "<u4")
            found[-1].num_in_open_dml += int(np.count_nonzero(words[1::2] & SIZE_BITS))
        elif kind in (prefix + b"dc", prefix + b"db"):
            found[-1].num_chunks += size > 0
            found[-1].num_empty_chunks += size == 0
        found[-1].has_end = content + size + size % 2 >= num_bytes
    return found


def _chunks(file: BinaryIO, num_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, content start, size) of each list and each chunk, as they lie in the file.

    What a list holds follows it: a list's own size is wrong in a recording that was cut. A chunk
    that ends after the file is not given.
    """
    position = 0
    while position + 8 <= num_bytes:
        kind, size = _read(file, position, 4), _number(file, position + 4)
        content = position + 8
        if kind in LISTS:
            size = 4
        if content + size > num_bytes:
            return
        yield kind, content, size
        position = content + size + size % 2


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _number(file: BinaryIO, position: int) -> int:
    return int.from_bytes(_read(file, position, 4), "little")
