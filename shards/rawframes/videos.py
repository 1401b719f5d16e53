"""The videos of a rawframes folder to import, with class, label and split.

Class and split come from the folders or from annotation lists.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few, plain_class, spelling_warning
from twinstream.shards.format.columns import Records, TableBuilder, first_equal, order_of
from twinstream.shards.format.keys import require_plain_class, video_key
from twinstream.shards.format.split_names import known_split, split_of_list
from twinstream.shards.format.video_table import KNOWN
from twinstream.shards.rawframes.folders import classes_and_splits, list_frame_folders
from twinstream.shards.rawframes.names import ListedVideo, folder_name, read_list
from twinstream.shards.storage.location import Location, require_usable_path
from twinstream.shards.storage.walk import refuse_same_file

# The columns of a VideoFolder.
VIDEO_FOLDER = KNOWN.append(pa.field("listed", pa.int64()))
SAME_NUMBERS = "number classes alike in all lists"
ONE_BASED = "labels seem to begin with 1, expected 0"


@dataclass(frozen=True)
class VideoFolder:
    """One video to import: `path` is its folder below the root, `listed` its count in a list."""

    key: str
    path: str
    class_name: str
    label: int
    split: str
    listed: int | None = None


@dataclass(frozen=True)
class FoundVideos:
    """The videos to import, the classes by label, and lines that the user should see."""

    videos: Records[VideoFolder]
    classes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def found_videos(
    root: Path, classes: tuple[str, ...] | None, out: Location | None = None
) -> FoundVideos:
    """Every video folder below `root`; without `classes` those found, sorted by name.

    What lies at `out`, the dataset to make, is none.
    """
    listing = list_frame_folders(root, out=out)
    folders = listing.videos
    # Twice, as of millions of videos a list would be gigabytes.
    known = partial(classes_and_splits, folders, root.resolve().name, listing.broken)
    names = classes or tuple(sorted({class_name for _, class_name, _ in known()}))
    _refuse_classes(names)
    # The class `run fast` is exported as the folder run_fast.
    labels = _labels_by_name(names, folder_name)
    rows = TableBuilder(VIDEO_FOLDER)
    for folder, class_name, split in known():
        label = labels.get(class_name, labels.get(folder_name(class_name)))
        if label is None:
            alike = _labels_by_name(names, plain_class).get(plain_class(class_name))
            hint = "" if alike is None else f"; is it {names[alike]!r}?"
            raise InputError(
                f"{folder!r}: class {class_name!r} is not among the {len(names)} of --classes{hint}"
            )
        rows.add(_key(folder), folder, names[label], label, split, None)
    videos = Records(rows.table(), VideoFolder)
    are_all = len(videos) == len(folders)
    loose = [] if are_all else [folder for folder in folders if "/" not in folder]
    warnings = [*listing.warnings, *spelling_warning(names)]
    if loose:
        warnings.append(f"{len(loose)} folders ({first_few(loose)}) in no class folder, left out")
    return _checked(root, FoundVideos(videos, names, tuple(warnings)))


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
    _refuse_classes(names)
    rows = TableBuilder(VIDEO_FOLDER)
    for split, some in by_list:
        for line in some:
            name = names[line.label]
            rows.add(_key(line.folder), line.folder, name, line.label, split, line.count)
    return _checked(root, FoundVideos(Records(rows.table(), VideoFolder), names, warnings))


def _key(folder: str) -> str:
    """The folder's path with dots replaced, since a WebDataset key ends at the first dot."""
    return video_key(folder, is_folder=True)


def _refuse_classes(names: Sequence[str]) -> None:
    """InputError for a class name with control characters."""
    for label, name in enumerate(names):
        require_plain_class(name, f"label {label}")


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
    keys, paths = found.videos.table["key"], found.videos.table["path"]
    if twice := first_equal(keys, order_of(keys)):
        first, second = (paths[position].as_py() for position in twice)
        if first == second:
            raise InputError(f"{first}: listed twice; expected each video once")
        raise InputError(
            f"two videos with one key {keys[twice[0]].as_py()!r}: {first} and {second}; rename one"
        )
    refuse_same_file(root, Records(found.videos.table.select(["path"]), str))
    return found
