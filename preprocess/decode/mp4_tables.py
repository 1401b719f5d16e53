"""What the sample tables of an MP4/MOV track promise, and whether they agree with each other.

The number of coded pictures stands in several tables (ISO/IEC 14496-12 8.6 and 8.7), and FFmpeg
reads as many as the smallest of them says, without an error. Sizes (stsz), durations (stts) and
chunks (stsc, stco) must name the same number, and the durations add up to that of the header. What
an edit list hides is not missed, unless it contradicts the durations.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]
# Headers are rounded, and a last picture may be given a longer time than the table says.
MAX_EXCESS = 0.02


@dataclass(frozen=True)
class Mp4Track:
    """One track's number of coded pictures by each table that has one, and its chunks.

    `starts` and `sizes` are the chunks' places in the file, in bytes. `is_timed`: header, edit list
    and durations agree.
    """

    num_samples: dict[str, int] = field(default_factory=dict)
    starts: Table = field(default_factory=lambda: np.empty(0, np.int64))
    sizes: Table = field(default_factory=lambda: np.empty(0, np.int64))
    is_timed: bool = True

    @property
    def num_promised(self) -> int:
        """The largest number where the tables contradict each other, 0 where all agree."""
        numbers = set(self.num_samples.values())
        return max(numbers) if len(numbers) > 1 or not self.is_timed else 0

    @property
    def num_readable(self) -> int:
        """The smallest number."""
        return min(self.num_samples.get(name, 0) for name in ("stsz", "stts", "stsc"))


@dataclass(frozen=True)
class Media:
    """Times of a track in its own clock: of all pictures, of the longest, and the latest delay."""

    duration: int
    longest: int
    latest: int

    def is_about(self, one: int, other: int) -> bool:
        """Whether two durations are the same but for rounding and a last picture."""
        return abs(one - other) <= max(2 * self.longest, MAX_EXCESS * max(one, other))

    def is_told_by(self, duration: int) -> bool:
        """Whether a header names this duration, or the time of the last picture's display.

        A cut in decoding order takes off pictures that are shown before the last one.
        """
        shown = self.duration + self.latest
        return self.duration < duration < shown or self.is_about(duration, self.duration)


def boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, content start, content end) of the whole boxes from `start` to `end`."""
    while start + 8 <= end:
        size, kind = (
            int.from_bytes(content[start : start + 4], "big"),
            content[start + 4 : start + 8],
        )
        first = start + 8
        if size == 1:
            size, first = int.from_bytes(content[first : first + 8], "big"), start + 16
        last = start + size if size else end
        if last < first or last > end:
            return
        yield kind, first, last
        start = last


def inner(content: bytes, start: int, end: int, *path: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of the content of every box that `path` leads to."""
    if not path:
        yield start, end
        return
    for kind, first, last in boxes(content, start, end):
        if kind == path[0]:
            yield from inner(content, first, last, *path[1:])


def mp4_track(moov: bytes, number: int) -> Mp4Track | None:
    """The track whose identifier is `number`, from the content of the moov box."""
    movie = _content(moov, 0, len(moov), b"mvhd")
    movie_rate = int.from_bytes(movie[20:24] if movie[:1] == b"\1" else movie[12:16], "big")
    for start, end in inner(moov, 0, len(moov), b"trak"):
        head = _content(moov, start, end, b"tkhd")
        at = 20 if head[:1] == b"\1" else 12
        if head and int.from_bytes(head[at : at + 4], "big") == number:
            return _track(moov, start, end, movie_rate)
    return None


def fragment_samples(moof: bytes, number: int) -> int:
    """Samples of the track in a fragment, from the content of the moof box."""
    return sum(
        int.from_bytes(moof[first + 4 : first + 8], "big")
        for start, end in inner(moof, 0, len(moof), b"traf")
        if _content(moof, start, end, b"tfhd")[4:8] == number.to_bytes(4, "big")
        for first, _ in inner(moof, start, end, b"trun")
    )


def _track(moov: bytes, start: int, end: int, movie_rate: int) -> Mp4Track:
    table = {
        kind: _content(moov, start, end, b"mdia", b"minf", b"stbl", kind)
        for kind in (b"stsz", b"stz2", b"stts", b"ctts", b"stsc", b"stco", b"co64", b"stss")
    }
    durations = _rows(table[b"stts"], 2)
    starts = (_rows(table[b"stco"], 1) if table[b"stco"] else _rows(table[b"co64"], 1, 8))[:, 0]
    in_chunk = _samples_of_chunks(_rows(table[b"stsc"], 3), len(starts))
    num_sizes, sizes = _sample_sizes(table[b"stsz"], table[b"stz2"])
    delays = _rows(table[b"ctts"], 2)
    media = Media(
        int(durations.prod(axis=1).sum()),
        int(durations[:, 1].max(initial=0)),
        int(delays[:, 1].astype(np.int32).max(initial=0)),
    )
    clock = _Clock(
        *_duration(_content(moov, start, end, b"mdia", b"mdhd"), 4),
        _duration(_content(moov, start, end, b"tkhd"), 8)[1],
        movie_rate,
    )
    edits = _edits(_content(moov, start, end, b"edts", b"elst"))
    longest = clock.media_duration if edits else max(clock.media_duration, clock.track_duration)
    is_longer = longest > media.duration > 0 and not media.is_told_by(longest)
    num_samples = {
        "stsz": num_sizes,
        "stts": int(durations[:, 0].sum()),
        "stsc": int(in_chunk.sum()),
        "ctts": int(delays[:, 0].sum()),
        "time": num_sizes * longest // media.duration if is_longer else 0,
        "stss": int(_rows(table[b"stss"], 1).max(initial=0)),
    }
    # The last chunk may be said to be as full as the others.
    if 0 < num_samples["stsc"] - num_sizes < (in_chunk[-1] if len(in_chunk) else 0):
        num_samples["stsc"] = num_sizes
    # These need not name every picture.
    for name in ("ctts", "stss", "time"):
        if num_samples[name] <= num_samples["stts"]:
            del num_samples[name]
    num_known = num_sizes if isinstance(sizes, int) else len(sizes)
    ends = np.minimum(np.cumsum(in_chunk), num_known)
    places = sizes * ends if isinstance(sizes, int) else np.insert(np.cumsum(sizes), 0, 0)[ends]
    chunk_bytes = np.diff(places, prepend=0)
    is_timed = media.duration == 0 or _agree(clock, edits, media)
    return Mp4Track(num_samples, starts, chunk_bytes, is_timed)


def _content(moov: bytes, start: int, end: int, *path: bytes) -> bytes:
    """The content of the first such box, empty where there is none."""
    first, last = next(inner(moov, start, end, *path), (0, 0))
    return moov[first:last]


def _rows(table: bytes, num_columns: int, num_bytes: int = 4) -> Table:
    """The rows of a table, as many as its head says and it holds."""
    size = num_columns * num_bytes
    count = min(int.from_bytes(table[4:8], "big"), max(0, len(table) - 8) // size)
    numbers = np.frombuffer(table[8 : 8 + count * size], f">u{num_bytes}")
    return numbers.astype(np.int64).reshape(count, num_columns)


def _sample_sizes(stsz: bytes, stz2: bytes) -> tuple[int, int | Table]:
    """(number of samples, bytes of each); stz2 has sizes of 4, 8 or 16 bits."""
    count = int.from_bytes((stz2 or stsz)[8:12], "big")
    if size := int.from_bytes(stsz[4:8], "big"):
        return count, size
    if not stz2:
        sizes = np.frombuffer(stsz[12 : len(stsz) // 4 * 4], ">u4")
    elif stz2[7:8] == b"\4":
        pairs = np.frombuffer(stz2[12:], np.uint8)
        sizes = np.stack([pairs >> 4, pairs & 15], axis=1).reshape(-1)
    else:
        width = 2 if stz2[7:8] == b"\x10" else 1
        sizes = np.frombuffer(stz2[12 : 12 + len(stz2[12:]) // width * width], f">u{width}")
    return count, sizes[:count].astype(np.int64)


def _samples_of_chunks(runs: Table, num_chunks: int) -> Table:
    """Samples in each chunk: 5 from chunk 1 on, 2 from chunk 4 on, 5 chunks -> 5 5 5 2 2."""
    firsts = np.clip(runs[:, 0] - 1, 0, num_chunks)
    samples = np.zeros(num_chunks, np.int64)
    for first, num_samples in zip(firsts.tolist(), runs[:, 1].tolist(), strict=True):
        samples[first:] = num_samples
    return samples


@dataclass(frozen=True)
class _Clock:
    """Ticks a second of a track, and the durations of its two headers in these; 0 if unknown."""

    rate: int
    media_duration: int
    movie_duration: int
    movie_rate: int

    def ticks(self, movie_ticks: int) -> int:
        """A duration of the movie's clock in the track's own."""
        return movie_ticks * self.rate // self.movie_rate if self.movie_rate else 0

    @property
    def track_duration(self) -> int:
        """What tkhd says."""
        return self.ticks(self.movie_duration)


def _duration(head: bytes, gap: int) -> tuple[int, int]:
    """(what stands `gap` bytes before the duration, the duration) of mdhd or tkhd; 0 if unknown."""
    width, at = (8, 20 + gap) if head[:1] == b"\1" else (4, 12 + gap)
    duration = int.from_bytes(head[at : at + width], "big")
    is_known = duration != (1 << 8 * width) - 1
    return int.from_bytes(head[at - gap : at - gap + 4], "big"), duration if is_known else 0


def _agree(clock: _Clock, edits: list[tuple[int, int]], media: Media) -> bool:
    """Whether the durations of headers and edits agree with those of the pictures."""
    if clock.media_duration and not media.is_told_by(clock.media_duration):
        return False
    shown = clock.ticks(sum(duration for duration, _ in edits))
    if edits and not media.is_about(clock.track_duration, shown):
        return False
    ends = [begin + clock.ticks(duration) for duration, begin in edits if begin >= 0]
    last = media.duration + media.latest
    return max(ends, default=0) <= last or media.is_about(max(ends), last)


def _edits(elst: bytes) -> list[tuple[int, int]]:
    """(duration, media time) of each edit; a media time of -1 is a pause."""
    width = 8 if elst[:1] == b"\1" else 4
    size = 2 * width + 4
    count = min(int.from_bytes(elst[4:8], "big"), max(0, len(elst) - 8) // size)
    rows = [elst[8 + size * row : 8 + size * (row + 1)] for row in range(count)]
    return [
        (
            int.from_bytes(row[:width], "big"),
            int.from_bytes(row[width : 2 * width], "big", signed=True),
        )
        for row in rows
    ]
