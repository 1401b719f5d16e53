"""One video's record in a shard: its members, their names and their order.

    KEY.json · KEY.rgb.00000.jpg ... · KEY.flow_x.00000.jpg KEY.flow_y.00000.jpg
    KEY.flow_x.00001.jpg ...

N frames have N - 1 flow fields; flow t is the motion from frame t to frame t + 1. With this order
the stack of L fields that starts at t is one contiguous read of 2L members. Members are numbered by
position everywhere: 0 is the JSON, 1 + t is frame t, 1 + N + 2t is flow_x t, 2 + N + 2t is flow_y
t.
"""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class SampleMeta:
    """The content of KEY.json.

    width and height are pixels as stored, source_* those of the video; fps is frames per second, 0
    where unknown.
    """

    key: str
    class_name: str
    label: int
    num_frames: int
    width: int
    height: int
    fps: float
    source_width: int
    source_height: int


def meta_to_json(meta: SampleMeta) -> bytes:
    """The JSON member's bytes: sorted keys, no spaces, so that equal metas are equal bytes."""
    return json.dumps(
        asdict(meta), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def meta_from_json(data: bytes) -> SampleMeta:
    """The inverse of `meta_to_json`; TypeError or ValueError when `data` is something else."""
    return SampleMeta(**json.loads(data))


# Readers compute positions with these functions and never search for names in a tar.
def num_members(num_frames: int) -> int:
    """1 frame -> 2 members (JSON, frame); 3 frames -> 1 + 3 + 2 * 2 = 8."""
    return 1 + num_frames + 2 * max(num_frames - 1, 0)


def member_names(key: str, num_frames: int) -> list[str]:
    """Names of all members of a sample of `num_frames` frames, in the order they are stored."""
    frames = [f"{key}.rgb.{t:05d}.jpg" for t in range(num_frames)]
    flow = [f"{key}.flow_{axis}.{t:05d}.jpg" for t in range(num_frames - 1) for axis in "xy"]
    return [f"{key}.json", *frames, *flow]


def frame_member(t: int) -> int:
    """Position of frame t among the members."""
    return 1 + t


def flow_member(num_frames: int, t: int) -> int:
    """Position of flow_x t; flow_y t is the next one."""
    return 1 + num_frames + 2 * t
