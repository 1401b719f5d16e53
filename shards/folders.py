"""Which videos a rawframes folder holds, with class, label and split: from the folders or from
annotation lists.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinstream.errors import InputError
from twinstream.shards.rawframes import folder_name, parse_image_name, read_list, split_of_list


@dataclass(frozen=True)
class VideoFolder:
    """One video to import: folder below the root, and how many files a list promises (None without
    a list).
    """

    folder: str
    class_name: str
    label: int
    split: str
    listed: int | None = None

    @property
    def key(self) -> str:
        """The folder's path with dots replaced, since a WebDataset key ends at the first dot."""
        return self.folder.replace(".", "_")

    @property
    def path(self) -> str:
        """What its row calls the folder."""
        return self.folder


Catalog = tuple[list[VideoFolder], tuple[str, ...]]


def found_videos(root: Path, classes: tuple[str, ...] | None) -> Catalog:
    """Every CLASS/VIDEO (split train) or SPLIT/CLASS/VIDEO below `root`, and the classes: given, or
    sorted by name.
    """
    folders = [path.relative_to(root).parts for path in sorted(_image_folders(root))]
    for parts in folders:
        if len(parts) not in (2, 3):
            raise InputError(
                f"{root.joinpath(*parts)}: holds images; expected CLASS/VIDEO or SPLIT/CLASS/VIDEO "
                f"in {root}"
            )
    known = classes or tuple(sorted({parts[-2] for parts in folders}))
    labels = {folder_name(name): label for label, name in enumerate(known)}
    videos = []
    for parts in folders:
        label = labels.get(folder_name(parts[-2]))
        if label is None:
            raise InputError(
                f"{root.joinpath(*parts)}: class {parts[-2]!r} is not among the {len(known)} of "
                "--classes"
            )
        videos.append(
            VideoFolder(
                "/".join(parts), known[label], label, parts[0] if len(parts) == 3 else "train"
            )
        )
    return _once(root, videos), known


def listed_videos(root: Path, lists: Sequence[Path], classes: tuple[str, ...] | None) -> Catalog:
    """The videos that annotation lists name; without `classes` a label's name is the folder its
    videos are in.
    """
    lines = [(split_of_list(path), line) for path in lists for line in read_list(path)]
    named: dict[int, str] = {}
    for _, line in lines:
        parts = line.folder.split("/")
        if not {"", ".", ".."}.isdisjoint(parts) or len(parts) < 2 or "\\" in line.folder:
            raise InputError(f"{line.folder!r}: not a folder CLASS/VIDEO below {root}")
        if named.setdefault(line.label, parts[-2]) != parts[-2] and classes is None:
            raise InputError(
                f"{line.folder}: label {line.label} is {named[line.label]} before; name labels by "
                "--classes"
            )
    known = classes or tuple(named.get(label, "") for label in range(max(named, default=-1) + 1))
    for label in sorted(named.keys() | set(range(len(known)))):
        if label >= len(known) or not known[label]:
            raise InputError(
                f"label {label} has no name among {len(known)} classes; name labels by --classes"
            )
    videos = [
        VideoFolder(line.folder, known[line.label], line.label, split, line.count)
        for split, line in lines
    ]
    return _once(root, videos), known


def _image_folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        if any(parse_image_name(name) for name in files):
            below.clear()
            yield Path(folder)


def _once(root: Path, videos: list[VideoFolder]) -> list[VideoFolder]:
    if not videos:
        raise InputError(
            f"{root}: no video folders, expected CLASS/VIDEO/img_00000.jpg, flow_x_00000.jpg and "
            "so on"
        )
    owners: dict[str, VideoFolder] = {}
    for video in videos:
        other = owners.setdefault(video.key, video)
        if other is not video:
            raise InputError(
                f"two videos with one key {video.key!r}: {other.folder} and {video.folder}"
            )
    return videos
