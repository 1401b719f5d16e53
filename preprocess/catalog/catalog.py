"""Which videos a dataset has, each with its class, label and split.

Pure functions of listings and of a list of file names. Every video that a list names is in the
catalog, whether its file is there or not. Every file that could be a video is in it too: if it is
none, its row says why. Labels are positions in `classes`. The rules for the key of a path and for
the split and class of a folder are in `shards`, so that folders of frames are the same videos here
and in `twinstream shards import`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from twinstream.errors import InputError
from twinstream.preprocess.catalog.files import has_video_suffix
from twinstream.shards.format.classes import first_few, spelling_warning
from twinstream.shards.format.keys import require_plain_class, video_key
from twinstream.shards.format.listings import Listed
from twinstream.shards.format.split_file import SplitList
from twinstream.shards.rawframes.folders import classes_and_splits


@dataclass(frozen=True)
class Video:
    """One file, or folder of frames, and its label.

    `path` is below the root, as on disk, or as the list names it where it is absent.
    """

    key: str
    path: str
    class_name: str
    label: int
    split: str
    present: bool


@dataclass(frozen=True)
class Catalog:
    """Classes by label, videos by key, and lines that the user should see."""

    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    warnings: tuple[str, ...]
    lists: tuple[SplitList, ...] = ()
    """Every split that lists of the dataset name, to be stored beside those of the videos"""
    fold: int | None = None
    """The number of the lists whose splits the videos have, where there are several"""


def kinetics_catalog(listed: Sequence[Listed], files: Sequence[str]) -> Catalog:
    """Files are found by name, ID_SSSSSS_EEEEEE with any extension, in whatever folder they are.

    Of files of one name that one is taken which has a video's suffix, or lies in a folder named
    `replacement...`, such as that of the videos that stand in for damaged ones of Kinetics-400.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in files:
        by_name[PurePosixPath(path).stem].append(path)
    on_disk: dict[str, str] = {}
    warnings: list[str] = []
    for name, paths in by_name.items():
        *others, taken = sorted(paths, key=_kinetics_rank)
        # Which of the two the list means cannot be known, and their content may differ.
        if others and _kinetics_rank(others[-1]) == _kinetics_rank(taken):
            raise InputError(f"{name}: two files of one name, {others[-1]} and {taken}; remove one")
        on_disk[name] = taken
    replaced = [path for path in on_disk.values() if _is_replacement(path)]
    if replaced:
        warnings.append(
            f"{_named(replaced, is_folder=False)} of a folder of replacements, taken rather than "
            "others of their names"
        )
    classes = tuple(sorted({one.class_name for one in listed}))
    found = {one.name: on_disk.get(one.name) for one in listed}
    return build_catalog(classes, listed, found, files, warnings)


def csv_catalog(
    listed: Sequence[Listed],
    files: Sequence[str],
    *,
    others: Sequence[str] = (),
    is_folder: bool = False,
) -> Catalog:
    """Paths as the CSV gives them, of files or, with `is_folder`, of folders of frames.

    `others` are files that would not be taken for videos if the CSV did not name them. Labels that
    are all whole numbers are sorted as numbers.
    """
    names = {one.class_name for one in listed}
    # As text 10 would stand before 2, and the labels would not be the user's numbers.
    classes = sorted(names)
    if all(name.isdecimal() for name in names):
        # As int() would, which refuses thousands of digits.
        classes.sort(key=lambda name: (len(name.lstrip("0")), name.lstrip("0")))
    on_disk = {*files, *others}
    found = {one.name: one.name if one.name in on_disk else None for one in listed}
    return build_catalog(tuple(classes), listed, found, files, is_folder=is_folder)


def folders_catalog(
    files: Sequence[str],
    root_name: str,
    *,
    broken: Sequence[str] = (),
    is_folder: bool = False,
) -> Catalog:
    """Class and split come from the folders that a file lies in (see `classes_and_splits`).

    Files beside class folders are left out, with a warning. With `is_folder` each of `files` is a
    folder of frames. `broken` are links that lead nowhere and may have led to folders.
    """
    known = classes_and_splits(files, root_name, broken)
    listed = [Listed(path, name, split, path) for path, (name, split) in known.items()]
    classes = tuple(sorted({one.class_name for one in listed}))
    loose = [path for path in files if path not in known]
    warnings = [f"{_named(loose, is_folder)} in no class folder, left out"] if loose else []
    found: dict[str, str | None] = {path: path for path in known}
    return build_catalog(classes, listed, found, list(known), warnings, is_folder=is_folder)


def _kinetics_rank(path: str) -> tuple[bool, bool]:
    return has_video_suffix(path), _is_replacement(path)


def _is_replacement(path: str) -> bool:
    return any(part.lower().startswith("replacement") for part in PurePosixPath(path).parts[:-1])


def build_catalog(
    classes: tuple[str, ...],
    listed: Sequence[Listed],
    found: dict[str, str | None],
    files: Sequence[str],
    warnings: Iterable[str] = (),
    *,
    is_folder: bool = False,
) -> Catalog:
    """The videos of a listing; InputError where two of them have one key.

    `found` gives the path on disk of each name, or None.
    """
    labels = {name: label for label, name in enumerate(classes)}
    videos: dict[str, Video] = {}
    seen: dict[str, Listed] = {}
    for one in listed:
        # A file in another case gets the key of its path on disk, which is what gets read.
        path = found[one.name] or one.name
        key = video_key(path, is_folder=is_folder)
        require_plain_class(one.class_name, one.where)
        if key in videos:
            refuse_twice(key, seen[key], one)
        seen[key] = one
        present = found[one.name] is not None
        videos[key] = Video(key, path, one.class_name, labels[one.class_name], one.split, present)
    unnamed = sorted(set(files) - {video.path for video in videos.values()})
    if unnamed:
        warnings = [*warnings, f"{_named(unnamed, is_folder)} that no list names, left out"]
    warnings = [*warnings, *spelling_warning(classes)]
    # Sorted by key, so that the order of lines in a list changes no shard.
    return Catalog(classes, tuple(videos[key] for key in sorted(videos)), tuple(warnings))


def refuse_twice(key: str, first: Listed, second: Listed) -> None:
    """InputError for two files with one key, or for one file that is listed twice."""
    if first.name == second.name:
        raise InputError(
            f"{second.where}: {second.name} is in {first.where} already; expected each video once"
        )
    raise InputError(f"two videos with one key {key!r}: {first.name} and {second.name}; rename one")


def _named(paths: Sequence[str], is_folder: bool) -> str:
    """`7 files (a, b, c, d, e and 2 more)`."""
    return f"{len(paths)} {'folders' if is_folder else 'files'} ({first_few(paths)})"
