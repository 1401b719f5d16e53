"""One video's record in a shard: its members, their names and their order.

    KEY.json · KEY.rgb.00000.jpg ... · KEY.flow_x.00000.jpg KEY.flow_y.00000.jpg
    KEY.flow_x.00001.jpg ...

N frames have N - 1 flow fields; flow t is the motion from frame t to frame t + 1. With this order
the stack of L fields that starts at t is one contiguous read of 2L members. Members are numbered by
position everywhere: 0 is the JSON, 1 + t is frame t, 1 + N + 2t is flow_x t, 2 + N + 2t is flow_y
t.
"""

import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from twinstream.errors import InputError, first_line, shortened
from twinstream.shards.format.image import MAX_PIXELS, MAX_SIDE
from twinstream.shards.storage.location import is_plain, is_usable_path

# As large as the columns of an index
MAX_NUMBER = 2**31 - 1
# Key, class and numbers of a video take a few hundred bytes.
MAX_JSON_BYTES = 2**16
# A position in a file is an int64.
MAX_MEMBER_BYTES = 2**62
# Headers that tell of the next one: its name, or all that a plain header has no room for
NAMING = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)


class MemberHeader(tarfile.TarInfo):
    """A header of a tar of somebody else's; tarfile reads a long name whole, whatever its length.

    ReadError for one of more than `MAX_JSON_BYTES`, and for a member that no file has room for.
    """

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        # tarfile calls it for each header before it reads what belongs to it; unknown to typeshed.
        if self.type in NAMING and self.size > MAX_JSON_BYTES:
            raise tarfile.ReadError(f"a header with a name of {self.size} bytes")
        if not 0 <= self.size <= MAX_MEMBER_BYTES:
            raise tarfile.ReadError(f"a member of {self.size} bytes")
        found: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return found


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
    """The inverse of `meta_to_json`; InputError for what no sample can have."""
    try:
        if len(data) > MAX_JSON_BYTES:
            raise ValueError(f"{len(data)} bytes, expected {MAX_JSON_BYTES} at most")
        meta = SampleMeta(**json.loads(data))
    # RecursionError: brackets in brackets without end.
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"damaged JSON member ({first_line(error)})") from error
    for name, (is_right, expected) in _EXPECTED.items():
        if not is_right(value := getattr(meta, name)):
            raise InputError(f"its JSON has {name} {shortened(value)}, expected {expected}")
    if meta.width * meta.height > MAX_PIXELS:
        raise InputError(
            f"its JSON has images of {meta.width}x{meta.height}; expected {MAX_PIXELS} pixels at "
            "most"
        )
    return meta


def _whole(least: int, most: int) -> tuple[Callable[[Any], bool], str]:
    # A bool is an int in Python, and none in JSON.
    return lambda n: type(n) is int and least <= n <= most, f"{least} to {most}"


# A sample has a flow field, and a negative label would count from the end of the classes.
_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "key": (lambda key: isinstance(key, str) and is_usable_path(key), "the path of a video"),
    "class_name": (lambda name: isinstance(name, str) and is_plain(name), "a name on one line"),
    "label": _whole(0, MAX_NUMBER),
    "num_frames": _whole(2, MAX_NUMBER),
    "width": _whole(1, MAX_SIDE),
    "height": _whole(1, MAX_SIDE),
    "fps": (
        lambda fps: type(fps) in (int, float) and 0 <= fps <= MAX_NUMBER,
        "frames a second, or 0",
    ),
    "source_width": _whole(0, MAX_NUMBER),
    "source_height": _whole(0, MAX_NUMBER),
}


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
