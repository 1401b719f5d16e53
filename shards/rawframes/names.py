"""The rawframes layout of mmaction2 and the TSN tools: file names and annotation lists.

    CLASS/VIDEO/img_00000.jpg  flow_x_00000.jpg  flow_y_00000.jpg   denseflow, and what we write: 0
    CLASS/VIDEO/img_00001.jpg  flow_x_00001.jpg  flow_y_00001.jpg   dense_flow of the TSN code: 1

The name of an image ends with its number. The prefix before the number says frame or flow, and is
the same for all frames of a video. mmaction2 splits a line of a list at white space, so our folders
have none. It uses the number in the line for frames and flow alike, although N frames have N - 1
flow fields, so there is one list for frames and another for flow.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Literal

from twinstream.errors import InputError
from twinstream.shards.format.classes import parse_classes
from twinstream.shards.storage.location import read_text

# A longer number is no count or label, and Python refuses to read one of thousands of digits.
NUMBER = re.compile(r"[0-9]{1,9}")
CLASSES_NAME = "classes.txt"
RGB_LIST, FLOW_LIST = "_rawframes.txt", "_flow_rawframes.txt"
_IMAGE = re.compile(r"(?P<prefix>|.*\D)(?P<number>\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_FLOW = re.compile(r"(?:flow_)?(?P<axis>[xy])_", re.IGNORECASE)
FIRST_NUMBERS = (0, 1)
NO_FRAMES = "no numbered images such as img_00001.jpg"

ImageKind = Literal["rgb", "x", "y"]


@dataclass(frozen=True)
class ImageName:
    """The parsed file name of a frame (`rgb`) or of one component of a flow field."""

    kind: ImageKind
    prefix: str
    number: int
    name: str


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """A line of an annotation list: folder below the root, number of frames or fields, label.

    `where` is `FILE: line 3`, for messages.
    """

    folder: str
    count: int
    label: int
    where: str = field(default="", compare=False)


def image_names(num_frames: int) -> list[str]:
    """File names in a sample's order: 2 frames -> img 0, img 1, flow_x 0, flow_y 0."""
    frames = [f"img_{t:05d}.jpg" for t in range(num_frames)]
    return frames + [f"flow_{axis}_{t:05d}.jpg" for t in range(num_frames - 1) for axis in "xy"]


def parse_image_name(name: str) -> ImageName | None:
    """`img_00001.jpg` -> rgb, "img_", 1; `7.PNG` -> rgb, "", 7; `x_00012.jpg` -> x, "x_", 12.

    None for hidden files and for names that are no image's.
    """
    match = _IMAGE.fullmatch(name)
    if match is None or name.startswith("."):
        return None
    flow = _FLOW.fullmatch(match["prefix"])
    kind: ImageKind = "rgb" if flow is None else "x" if flow["axis"] in "xX" else "y"
    return ImageName(kind, match["prefix"], int(match["number"]), name)


def numbered_images(names: Iterable[str]) -> dict[ImageKind, list[ImageName]]:
    """The frames and the flow images of a folder, each in the order of their numbers."""
    found: dict[ImageKind, list[ImageName]] = {"rgb": [], "x": [], "y": []}
    for image in filter(None, map(parse_image_name, names)):
        found[image.kind].append(image)
    for images in found.values():
        # By number, not by name: `img_10.jpg` comes after `img_9.jpg`. The rest breaks ties.
        images.sort(key=lambda image: (image.number, image.prefix, image.name))
    return found


def prefix_fault(images: Sequence[ImageName]) -> str | None:
    """`images of two names, img_1.jpg and image_2.jpg`; None where all have one prefix."""
    for image in images:
        if image.prefix != images[0].prefix:
            return f"images of two names, {images[0].name} and {image.name}"
    return None


def number_fault(images: Sequence[ImageName], first: Sequence[int] = FIRST_NUMBERS) -> str | None:
    """The first fault in the numbers of sorted images; None when they are in sequence.

    A fault is a start that is not in `first`, a gap, or a number that comes twice.
    """
    if images[0].number not in first:
        expected = " or ".join(map(str, first))
        return f"begins with {images[0].name}; expected number {expected}"
    for image, following in pairwise(images):
        if following.number != image.number + 1:
            same = following.number == image.number
            fault = "have one number" if same else "are not neighbours"
            return f"{image.name} and {following.name} {fault}"
    return None


def folder_name(name: str) -> str:
    """A class or key as one folder name: white space, slashes and control characters become `_`.

    InputError for an empty name, `.` and `..`.
    """
    plain = re.sub(r"[\s/\\\x00-\x1f\x7f]", "_", name)
    if plain in ("", ".", ".."):
        raise InputError(f"{name!r}: not usable as the name of a folder")
    return plain


def list_text(videos: Iterable[ListedVideo]) -> str:
    """An annotation list, one `CLASS/VIDEO count label` a line, in the order of the folders."""
    ordered = sorted(videos, key=lambda video: video.folder)
    return "".join(f"{video.folder} {video.count} {video.label}\n" for video in ordered)


def read_list(path: Path) -> list[ListedVideo]:
    """The lines of an annotation list; InputError that names a wrong line."""
    videos = []
    for number, line in enumerate(read_text(path, "--splits").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        # From the right: in lists of other tools a folder may contain spaces.
        fields = line.rsplit(maxsplit=2)
        if len(fields) != 3 or not all(NUMBER.fullmatch(field) for field in fields[1:]):
            raise InputError(f"{where}: {line!r}, expected `CLASS/VIDEO num_frames label`")
        folder = PurePosixPath(fields[0].strip()).as_posix()
        videos.append(ListedVideo(folder, int(fields[1]), int(fields[2]), where))
    return videos


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names of a file, by label (see `parse_classes`)."""
    return parse_classes(read_text(path, "--classes"), str(path))
