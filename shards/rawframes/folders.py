"""Finds the videos of a rawframes folder, with class, label and split.

Class and split come from the folders or from annotation lists. A folder is a video if one of its
files is named like a frame; the search does not go below it. A folder with nothing below it is a
video too, because a video that has lost all its images must become a row. `storage.walk` says which
links are followed and which folders are ignored.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few, plain_class, spelling_warning
from twinstream.shards.format.keys import require_plain_class, usable_paths, video_key
from twinstream.shards.format.manifest import is_output
from twinstream.shards.format.split_names import (
    alike_but_for_split,
    known_split,
    split_of_list,
)
from twinstream.shards.rawframes.names import ListedVideo, folder_name, parse_image_name, read_list
from twinstream.shards.storage.location import Location, require_usable_path
from twinstream.shards.storage.walk import refuse_same_file, walk_folders

SAME_NUMBERS = "number classes alike in all lists"
ONE_BASED = "labels seem to begin with 1, expected 0"


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


@dataclass(frozen=True)
class FrameFolders:
    """Sorted paths below a root of every folder that is a video, of links that lead nowhere, and of
    what was left out on request; and lines that the user should see.
    """

    videos: tuple[str, ...]
    broken: tuple[str, ...]
    excluded: tuple[str, ...]
    warnings: tuple[str, ...]


def list_frame_folders(
    root: Path, exclude: Sequence[str] = (), out: Location | None = None
) -> FrameFolders:
    """The videos below `root`, without what a pattern of `exclude` fits and without datasets; `out`
    is one that is being made.

    InputError if the root is no folder or is a video itself, and for what cannot be listed.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    leaves: list[str] = []
    broken: list[str] = []
    excluded: list[str] = []
    for folder in walk_folders(
        root, exclude, ends=_is_frame, is_output=partial(is_output, out=out)
    ):
        if folder.ended and not folder.path:
            raise InputError(
                f"{root}: holds images itself; expected CLASS/VIDEO/img_00001.jpg below it"
            )
        leaves += [folder.path] if folder.is_leaf else []
        broken += folder.broken
        excluded += folder.excluded
    videos, warnings = usable_paths(sorted(leaves))
    broken.sort()
    if broken:
        warnings.append(f"{len(broken)} links ({first_few(broken)}) that lead nowhere, left out")
    return FrameFolders(tuple(videos), tuple(broken), tuple(sorted(excluded)), tuple(warnings))


def _is_frame(name: str) -> bool:
    image = parse_image_name(name)
    return image is not None and image.kind == "rgb"


def classes_and_splits(
    paths: Sequence[str], root_name: str, broken: Sequence[str] = ()
) -> Iterator[tuple[str, str, str]]:
    """Each path, its class and split, from its folders; paths in no class folder are left out.

    SPLIT/CLASS/... if every top folder is named like a split, CLASS/... of split train if none is.
    Where no path lies in a folder, all are of one class, the root's name. InputError if some top
    folders are named like splits, if classes seem to be splits or hold some, and for one of
    `broken`, links that lead nowhere, which stands where classes do.
    """
    # Looked at again and again: of millions of paths a list would be a gigabyte.
    folders = sorted({tuple(path.split("/")[:-1][:2]) for path in paths if "/" in path})
    tops = sorted({top for top, *_ in folders})
    splits = _splits_of(tops, root_name)
    depth = 2 if splits else 1
    # In a split's folder a video may lie in no class's.
    class_folders = {"/".join(path.split("/")[:depth]) for path in paths if "/" in path}
    for link in broken:
        class_folder = "/".join(link.split("/")[:depth])
        if class_folder not in class_folders:
            raise InputError(
                f"{link}: a link that leads nowhere, and {class_folder} has no other video, so a "
                "class may be lost; mend or remove the link"
            )
    if not tops:
        for path in paths:
            yield path, root_name, "train"
        return
    if not splits:
        _refuse_splits_for_classes(tops, folders, root_name)
    for path in paths:
        top, *others = path.split("/")
        if not others:
            continue
        if not splits:
            yield path, top, "train"
        elif len(others) == 1:
            raise InputError(
                f"{path}: in a split's folder but in no class's; expected SPLIT/CLASS/FILE"
            )
        else:
            yield path, others[0], splits[top]


def _splits_of(tops: Sequence[str], root_name: str) -> dict[str, str]:
    """The split of each top folder, {} where none is named like one; InputError if some are."""
    splits = {top: split for top in tops if (split := known_split(top))}
    others = [top for top in tops if top not in splits]
    # A class may be named `test`, and a split `holdout`: to guess would mix test into training.
    if splits and others:
        raise InputError(
            f"{root_name}: top folders named like splits ({first_few([*splits])}) beside others "
            f"({first_few(others)}); expected SPLIT/CLASS for all or CLASS for all: leave some "
            "out, rename them, or give a list that names the class and split of each video"
        )
    owners: dict[str, str] = {}
    for top, split in splits.items():
        if split in owners:
            raise InputError(
                f"{root_name}: top folders {owners[split]} and {top} are both of split {split}; "
                "they may hold the same videos: leave one out, or join them"
            )
        owners[split] = top
    return splits


def _refuse_splits_for_classes(
    tops: Sequence[str], folders: Sequence[tuple[str, ...]], root_name: str
) -> None:
    """InputError for top folders such as `train_1` and `test_1`, and for splits within classes."""
    hint = "or give a list that names the class and split of each video"
    if pair := alike_but_for_split(tops):
        raise InputError(
            f"{root_name}: top folders {pair[0]} and {pair[1]} seem to be splits, not classes; "
            f"name them train, val or test (videos_train, train_256), {hint}"
        )
    below = [two for two in folders if len(two) == 2]
    inner = {"/".join(two): split for two in below if (split := known_split(two[1]))}
    if len({*inner.values()}) > 1:
        raise InputError(
            f"{root_name}: folders named like splits below others ({first_few([*inner])}); "
            f"expected SPLIT/CLASS: choose another root, move them, {hint}"
        )


def found_videos(
    root: Path, classes: tuple[str, ...] | None, out: Location | None = None
) -> FoundVideos:
    """Every video folder below `root`; without `classes` those found, sorted by name.

    What lies at `out`, the dataset to make, is none.
    """
    listing = list_frame_folders(root, out=out)
    folders = listing.videos
    known = [*classes_and_splits(folders, root.resolve().name, listing.broken)]
    names = classes or tuple(sorted({class_name for _, class_name, _ in known}))
    # The class `run fast` is exported as the folder run_fast.
    labels = _labels_by_name(names, folder_name)
    videos = []
    for folder, class_name, split in known:
        label = labels.get(class_name, labels.get(folder_name(class_name)))
        if label is None:
            alike = _labels_by_name(names, plain_class).get(plain_class(class_name))
            hint = "" if alike is None else f"; is it {names[alike]!r}?"
            raise InputError(
                f"{folder!r}: class {class_name!r} is not among the {len(names)} of --classes{hint}"
            )
        videos.append(VideoFolder(folder, names[label], label, split))
    loose = [folder for folder in folders if "/" not in folder] if len(known) < len(folders) else []
    warnings = [*listing.warnings, *spelling_warning(names)]
    if loose:
        warnings.append(f"{len(loose)} folders ({first_few(loose)}) in no class folder, left out")
    return _checked(root, FoundVideos(tuple(videos), names, tuple(warnings)))


def listed_videos(
    root: Path, lists: Sequence[Path], classes: tuple[str, ...] | None
) -> FoundVideos:
    """The videos of annotation lists; without `classes` a label is named like its folder.

    With `classes` numbers decide, but InputError for one that contradicts a folder of a class, or
    another number of its folder.
    """
    by_list = [(split_of_list(path), read_list(path)) for path in lists]
    lines = [line for _, some in by_list for line in some]
    for line in lines:
        require_usable_path(line.folder, line.where)
    names = _class_folders(root, lines) if classes is None else classes
    warnings = () if classes is None else _checked_labels([some for _, some in by_list], classes)
    videos = (
        VideoFolder(line.folder, names[line.label], line.label, split, line.count)
        for split, some in by_list
        for line in some
    )
    return _checked(root, FoundVideos(tuple(videos), names, warnings))


def _class_folders(root: Path, lines: Iterable[ListedVideo]) -> tuple[str, ...]:
    """The name of each label, that of its folder; InputError unless each has one of its own."""
    names: dict[int, tuple[str, str]] = {}
    labels: dict[str, tuple[int, str]] = {}
    for line in lines:
        parts = line.folder.split("/")
        if len(parts) < 2:
            raise InputError(f"{line.folder!r}: not a folder CLASS/VIDEO below {root}")
        name, before = names.setdefault(line.label, (parts[-2], line.where))
        if name != parts[-2]:
            raise InputError(
                f"{line.where}: {line.folder}: label {line.label} is {name} in {before}; "
                f"{SAME_NUMBERS}, or name labels by --classes"
            )
        label, before = labels.setdefault(parts[-2], (line.label, line.where))
        if label != line.label:
            raise InputError(
                f"{line.where}: {line.folder}: {name} is label {line.label} here, {label} in "
                f"{before}; {SAME_NUMBERS}, or name labels by --classes"
            )
    for label in range(max(names, default=-1)):
        if label not in names:
            hint = (
                "name labels by --classes"
                if 0 in names
                else f"{ONE_BASED}; or name labels by --classes"
            )
            raise InputError(f"label {label} of 0 to {max(names)} is in no list; {hint}")
    return tuple(names[label][0] for label in sorted(names))


def _labels_by_name(classes: Sequence[str], spell: Callable[[str], str]) -> dict[str, int]:
    """Labels by the names and by their spellings, save one that two classes share."""
    spelt = [spell(name) for name in classes]
    counts = Counter(spelt)
    unique = {name: label for label, name in enumerate(spelt) if counts[name] == 1}
    return unique | {name: label for label, name in enumerate(classes)}


def _checked_labels(
    lists: Sequence[Sequence[ListedVideo]], classes: Sequence[str]
) -> tuple[str, ...]:
    """A warning where no folder tells the class; InputError for a label that cannot be right."""
    labels = _labels_by_name(classes, plain_class)
    silent = [_refuse_contradictions(lines, labels, classes) for lines in lists]
    _refuse_two_labels(silent)
    folders = [line.folder for lines in silent for line in lines]
    return (_silent_warning(folders),) if folders else ()


def _refuse_contradictions(
    lines: Sequence[ListedVideo], labels: dict[str, int], classes: Sequence[str]
) -> list[ListedVideo]:
    """The lines of a list in no folder of a class; InputError for a label that is not its folder's
    or no class's.
    """

    def label_of(line: ListedVideo) -> int | None:
        # From the inside out: in `test/Run/v1` the class is Run, though one may be named test.
        folders = reversed(line.folder.split("/")[:-1])
        found = (labels.get(name, labels.get(plain_class(name))) for name in folders)
        return next((label for label in found if label is not None), None)

    told = [(line, label_of(line)) for line in lines]
    # All of them, as a list that begins with 1 is wrong in every line.
    shifted = all(line.label == label + 1 for line, label in told if label is not None)
    hint = f"; {ONE_BASED}" if shifted and all(line.label for line in lines) else ""
    for line, label in told:
        if label not in (None, line.label):
            name = classes[line.label] if line.label < len(classes) else "no class"
            raise InputError(
                f"{line.where}: {line.folder}: label {line.label} is {name} in --classes, but "
                f"the folder is of {classes[label]}, label {label}{hint}"
            )
        if line.label >= len(classes):
            raise InputError(
                f"{line.where}: {line.folder}: label {line.label}, --classes names 0 to "
                f"{len(classes) - 1}{hint}"
            )
    return [line for line, label in told if label is None]


def _refuse_two_labels(lists: Sequence[Sequence[ListedVideo]]) -> None:
    """InputError for a folder of videos whose label is another one in another line."""
    first: dict[str, ListedVideo] = {}
    for lines in lists:
        by_folder: dict[str, list[ListedVideo]] = defaultdict(list)
        for line in lines:
            top, *others = line.folder.split("/")[:-1] or [""]
            by_folder["/".join(others if known_split(top) else (top, *others))].append(line)
        # Videos beside one another, in no class folder.
        by_folder.pop("", None)
        # A list in which every folder has several labels has folders that are no classes.
        if all(len({line.label for line in some}) > 1 for some in by_folder.values()):
            continue
        for folder, some in by_folder.items():
            for line in some:
                other = first.setdefault(folder, line)
                if other.label != line.label:
                    raise InputError(
                        f"{line.where}: {line.folder}: {folder} is label {line.label} here, "
                        f"{other.label} in {other.where}; {SAME_NUMBERS}"
                    )


def _silent_warning(folders: Sequence[str]) -> str:
    return (
        f"{len(folders)} listed videos ({first_few(folders)}) in no folder of a class of "
        "--classes; their numbers alone decide"
    )


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
    refuse_same_file(root, [video.folder for video in found.videos])
    return found
