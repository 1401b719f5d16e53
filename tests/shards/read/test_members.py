"""What is read of a shard: the members asked for, neighbours at once, and which one is damaged."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from twinstream.errors import InputError
from twinstream.shards.read import members
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_flow, read_frames, read_snippets
from twinstream.shards.read.samples import StoredSample

# Bytes between neighbours in a tar: a header, and less than a block of padding before it.
NEIGHBOURS = 1023


@dataclass(frozen=True)
class CountedSample(StoredSample):
    """Remembers what is read of it."""

    reads: list[tuple[int, int]] = field(default_factory=list)

    def read(self, begin: int, num_bytes: int) -> bytes:
        """As of the shard."""
        self.reads.append((begin, num_bytes))
        return super().read(begin, num_bytes)


@pytest.fixture
def sample(dataset: Path) -> CountedSample:
    """8 frames and 7 fields of 24 x 32."""
    return CountedSample(**vars(ShardDataset(dataset).sample("right/train1")))


def spans(sample: StoredSample, numbers: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(offset, bytes) from the first to the last of these members."""
    index = sample.index
    ends = index.offsets + index.sizes
    return [(int(index.offsets[n[0]]), int(ends[n[-1]] - index.offsets[n[0]])) for n in numbers]


@pytest.mark.parametrize(
    ("num_frames", "stride", "read"),
    [
        (1, 1, [[1], [3], range(9, 17), range(13, 21)]),
        (4, 1, [range(1, 5), range(3, 7), range(9, 17), range(13, 21)]),
        # What lies between the frames of a clip is read along.
        (3, 2, [range(1, 6), range(3, 8), range(9, 19), range(13, 23)]),
    ],
)
def test_a_snippet_is_one_read_of_frames_and_one_of_fields(
    sample: CountedSample, num_frames: int, stride: int, read: list[Sequence[int]]
) -> None:
    read_snippets(sample, [0, 2], 3 if stride == 2 else 4, num_frames, stride)
    assert sample.reads == spans(sample, read)


@pytest.mark.parametrize(
    ("stride", "read"),
    [
        (1, [range(1, 4), range(9, 15)]),
        (2, [[1], [3], [5], [9, 10], [13, 14], [17, 18]]),
        (3, [[1], [4], [7], [9, 10], [15, 16], [21, 22]]),
    ],
)
def test_what_is_too_much_to_read_along_is_left_out(
    sample: CountedSample, monkeypatch: pytest.MonkeyPatch, stride: int, read: list[Sequence[int]]
) -> None:
    monkeypatch.setattr(members, "MAX_GAP_BYTES", NEIGHBOURS)
    read_snippets(sample, [0], 3, 3, stride)
    assert sample.reads == spans(sample, read)


@pytest.mark.parametrize("max_gap", [NEIGHBOURS, members.MAX_GAP_BYTES])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_clip_has_frames_and_fields_at_the_same_times(
    sample: CountedSample, monkeypatch: pytest.MonkeyPatch, stride: int, max_gap: int
) -> None:
    monkeypatch.setattr(members, "MAX_GAP_BYTES", max_gap)
    frames, stacks = read_snippets(sample, [0, 2], 3, 3, stride)
    times = [[start + stride * number for number in range(3)] for start in (0, 2)]
    assert np.array_equal([*frames], read_frames(sample, [t for clip in times for t in clip]))
    for clip, fields in zip(times, stacks, strict=True):
        expected = [read_flow(sample, t, 1)[0, :, :, axis] for t in clip for axis in range(2)]
        assert np.array_equal([*fields], expected)


@pytest.mark.parametrize(
    ("start", "num_fields", "message"),
    [(4, 3, r"frame 4 to 8 asked for, it has 0 to 7"), (3, 3, r"field 3 to 7 .* has 0 to 6")],
)
def test_a_clip_that_reaches_beyond_the_video_is_told(
    sample: CountedSample, start: int, num_fields: int, message: str
) -> None:
    with pytest.raises(InputError, match=rf"^train-00000\d\.tar: right/train1: .*{message}$"):
        read_snippets(sample, [start], num_fields, 3, 2)


@pytest.mark.parametrize(
    ("member", "told"), [(3, "frame 2"), (9 + 4, "flow_x 2"), (9 + 4 + 1, "flow_y 2")]
)
def test_a_damaged_member_of_a_clip_is_named_by_its_number(
    sample: CountedSample, member: int, told: str
) -> None:
    with open(str(sample.tar), "r+b") as tar:
        tar.seek(int(sample.index.offsets[member]))
        tar.write(bytes(int(sample.index.sizes[member])))
    frames, stacks = read_snippets(sample, [0], 3, 3, 2)
    with pytest.raises(InputError, match=rf"right/train1: {told}: .* do not decode as a JPEG$"):
        print([*frames], [[*fields] for fields in stacks])
