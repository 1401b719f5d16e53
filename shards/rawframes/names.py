"""The rawframes layout, one file an image, as mmaction2 and the TSN tools use it: names and
annotation lists.

    CLASS/VIDEO/img_00000.jpg  flow_x_00000.jpg  flow_y_00000.jpg   denseflow, and what we write: 0
    CLASS/VIDEO/img_00001.jpg  flow_x_00001.jpg  flow_y_00001.jpg   dense_flow of the TSN code: 1

An image is known by the number at the end of its name; what stands before the number says frame or
flow, and is the same for all frames of a video. mmaction2 splits a line of its lists at white space
and trusts its number for every modality, although N frames have N - 1 flow fields: hence no white
space in a folder, and one list for frames and another for flow.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Literal

from twinstream.errors import InputError

CLASSES_NAME = "classes.txt"
RGB_LIST, FLOW_LIST = "_rawframes.txt", "_flow_rawframes.txt"
_IMAGE = re.compile(r"(?P<prefix>|.*\D)(?P<number>\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_FLOW = re.compile(r"(?:flow_)?(?P<axis>[xy])_", re.IGNORECASE)
NO_FRAMES = "no numbered images such as img_00001.jpg"

ImageKind = Literal["rgb", "x", "y"]


@dataclass(frozen=True)
class ImageName:
    """The name of a frame (`rgb`) or of one component of a flow field, and what it says."""

    kind: ImageKind
    prefix: str
    number: int
    name: str


@dataclass(frozen=True)
class ListedVideo:
    """A line of an annotation list: folder below the root, number of frames or fields, label."""

    folder: str
    count: int
    label: int


def image_names(num_frames: int) -> list[str]:
    """File names in the order of a sample's images: 2 frames -> img_00000, img_00001, flow_x_00000,
    flow_y_00000.
    """
    frames = [f"img_{t:05d}.jpg" for t in range(num_frames)]
    return frames + [f"flow_{axis}_{t:05d}.jpg" for t in range(num_frames - 1) for axis in "xy"]


def parse_image_name(name: str) -> ImageName | None:
    """`img_00001.jpg` -> rgb, "img_", 1; `7.PNG` -> rgb, "", 7; `flow_x_00012.jpg` or `x_00012.jpg`
    -> x, 12; None for hidden files and all else.
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
        images.sort(key=lambda image: (image.number, image.prefix, image.name))
    return found


def prefix_fault(images: Sequence[ImageName]) -> str | None:
    """`images of two names, img_1.jpg and image_2.jpg`; None where all have one prefix."""
    for image in images:
        if image.prefix != images[0].prefix:
            return f"images of two names, {images[0].name} and {image.name}"
    return None


def number_fault(images: Sequence[ImageName], first: Sequence[int] = (0, 1)) -> str | None:
    """Where the numbers of sorted images begin with none of `first`, have a gap or come twice; None
    where they are in sequence.
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
    """A class or key as one folder: white space, slashes and control characters become `_`;
    InputError for `..`.
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
    """The lines of an annotation list; a folder may hold spaces here. InputError that names the
    line.
    """
    videos = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        fields = line.rsplit(maxsplit=2)
        if len(fields) != 3 or not (fields[1].isdecimal() and fields[2].isdecimal()):
            raise InputError(
                f"{path}: line {number}: {line!r}, expected `CLASS/VIDEO num_frames label`"
            )
        folder = PurePosixPath(fields[0].strip()).as_posix()
        videos.append(ListedVideo(folder, int(fields[1]), int(fields[2])))
    return videos
