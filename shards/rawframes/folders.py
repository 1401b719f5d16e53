"""Finds the videos of a rawframes folder, with class, label and split.

Class and split come from the folders or from annotation lists. A folder is a video if one of its
files is named like a frame; the search does not go below it. A folder with nothing below it is a
video too, because a video that has lost all its images must become a row. Links to folders are
followed, but not in a circle; hidden folders are ignored.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few
from twinstream.shards.format.keys import require_plain_class, video_key
from twinstream.shards.format.split_names import known_split, split_of_list
from twinstream.shards.rawframes.names import ListedVideo, folder_name, parse_image_name, read_list


@dataclass(frozen=True)
class VideoFolder:
    """One video to import: its folder below the root, and its count in a list, if there is one."""

    folder: str
    class_name: str
    label: int
    split: str
    listed: int | None = None

    @property
    def key(self) -> str:
        """The folder's path with dots replaced, since a WebDataset key ends at the first dot."""
        return video_key(self.folder, is_folder=True)

    @property
    def path(self) -> str:
        """The path in the video's row."""
        return self.folder


@dataclass(frozen=True)
class FoundVideos:
    """The videos to import, the classes by label, and lines that the user should see."""

    videos: tuple[VideoFolder, ...]
    classes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def list_frame_folders(root: Path) -> list[str]:
    """Sorted paths below `root`, with `/`, of every folder that is a video.

    InputError if the root is no folder or is a video itself.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    found = []
    # Each folder with the real paths of those that held the links on the way to it: a link to one
    # of these, or to a folder above one, would lead in a circle.
    left: list[tuple[Path, tuple[Path, ...]]] = [(root, ())]
    while left:
        folder, sources = left.pop()
        try:
            below = _folders_below(folder, sources)
        except OSError as error:
            raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
        if below is None and folder == root:
            raise InputError(
                f"{root}: holds images itself; expected CLASS/VIDEO/img_00001.jpg below it"
            )
        if not below and folder != root:
            found.append(folder.relative_to(root).as_posix())
        left += below or ()
    return sorted(found)


def classes_and_splits(paths: Sequence[str], root_name: str) -> dict[str, tuple[str, str]]:
    """Class and split of each path, from its folders; paths in no class folder are left out.

    SPLIT/CLASS/... if every top folder is named like a split, else CLASS/... of split train. Where
    no path lies in a folder, all are of one class, the root's name.
    """
    in_folders = [path for path in paths if "/" in path]
    if not in_folders:
        return dict.fromkeys(paths, (root_name, "train"))
    tops = {path.split("/")[0] for path in in_folders}
    splits = {top: split for top in tops if (split := known_split(top))}
    # One top folder that is no split means that all are classes: a class may be named `test`.
    if len(splits) < len(tops):
        return {path: (path.split("/")[0], "train") for path in in_folders}
    found = {}
    for path in in_folders:
        split, *folders, _ = path.split("/")
        if not folders:
            raise InputError(
                f"{path}: in a split's folder but in no class's; expected SPLIT/CLASS/FILE"
            )
        found[path] = folders[0], splits[split]
    return found


def found_videos(root: Path, classes: tuple[str, ...] | None) -> FoundVideos:
    """Every video folder below `root`; without `classes` those found, sorted by name."""
    folders = list_frame_folders(root)
    known = classes_and_splits(folders, root.resolve().name)
    names = classes or tuple(sorted({class_name for class_name, _ in known.values()}))
    exact = {name: label for label, name in enumerate(names)}
    # The class `run fast` is exported as the folder run_fast.
    labels = {folder_name(name): label for name, label in exact.items()} | exact
    videos = []
    for folder, (class_name, split) in known.items():
        label = labels.get(class_name, labels.get(folder_name(class_name)))
        if label is None:
            raise InputError(
                f"{folder!r}: class {class_name!r} is not among the {len(names)} of --classes"
            )
        videos.append(VideoFolder(folder, names[label], label, split))
    loose = [folder for folder in folders if folder not in known]
    warning = f"{len(loose)} folders ({first_few(loose)}) in no class folder, left out"
    return _checked(root, FoundVideos(tuple(videos), names, (warning,) if loose else ()))


def listed_videos(
    root: Path, lists: Sequence[Path], classes: tuple[str, ...] | None
) -> FoundVideos:
    """The videos of annotation lists; without `classes` a label is named like its folder."""
    lines = [(split_of_list(path), line) for path in lists for line in read_list(path)]
    names = classes or _class_folders(root, [line for _, line in lines])
    for label in sorted({line.label for _, line in lines} | set(range(len(names)))):
        if label >= len(names) or not names[label]:
            raise InputError(
                f"label {label} has no name among {len(names)} classes; name labels by --classes"
            )
    videos = (
        VideoFolder(line.folder, names[line.label], line.label, split, line.count)
        for split, line in lines
    )
    return _checked(root, FoundVideos(tuple(videos), names))


def _class_folders(root: Path, lines: Iterable[ListedVideo]) -> tuple[str, ...]:
    """The name of each label, "" for a label in no line; InputError for a label of two names."""
    found: dict[int, str] = {}
    for line in lines:
        parts = line.folder.split("/")
        if len(parts) < 2:
            raise InputError(f"{line.folder!r}: not a folder CLASS/VIDEO below {root}")
        if found.setdefault(line.label, parts[-2]) != parts[-2]:
            raise InputError(
                f"{line.folder}: label {line.label} is {found[line.label]} before; name labels by "
                "--classes"
            )
    return tuple(found.get(label, "") for label in range(max(found, default=-1) + 1))


def _folders_below(
    folder: Path, sources: tuple[Path, ...]
) -> list[tuple[Path, tuple[Path, ...]]] | None:
    """The folders in a folder, each with its sources; None as soon as a frame is seen."""
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if entry.is_symlink() and path.is_dir():
                through = (*sources, folder.resolve())
                target = path.resolve()
                if not any(source.is_relative_to(target) for source in through):
                    below.append((path, through))
            elif entry.is_dir(follow_symlinks=False):
                below.append((path, sources))
            elif (image := parse_image_name(entry.name)) and image.kind == "rgb":
                # A video may hold hundreds of files: one frame is enough to know.
                return None
    return below


def _checked(root: Path, found: FoundVideos) -> FoundVideos:
    """`found` itself; InputError for no video, two with one key, or a name that is not usable."""
    if not found.videos:
        raise InputError(
            f"{root}: no video folders, expected CLASS/VIDEO/img_00000.jpg, flow_x_00000.jpg and "
            "so on"
        )
    owners: dict[str, VideoFolder] = {}
    for video in found.videos:
        other = owners.setdefault(video.key, video)
        if other is not video and other.folder == video.folder:
            raise InputError(f"{video.folder}: listed twice; expected each video once")
        if other is not video:
            raise InputError(
                f"two videos with one key {video.key!r}: {other.folder} and {video.folder}; "
                "rename one"
            )
    for label, name in enumerate(found.classes):
        require_plain_class(name, f"label {label}")
    return found
