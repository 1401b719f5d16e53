"""Which videos a dataset has, each with its class, label and split.

Pure functions of listings and of a list of file names. Every video that a list names is in the
catalog, whether its file is there or not. Every file that could be a video is in it too: if it is
none, its row says why. Labels are positions in `classes`. The rules for the key of a path and for
the split and class of a folder are in `shards`, so that folders of frames are the same videos here
and in `twinstream shards import`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.preprocess.catalog.files import has_video_suffix
from twinstream.shards.format.classes import first_few, spelling_warning
from twinstream.shards.format.columns import (
    NAME,
    TEXT,
    Records,
    Some,
    TableBuilder,
    taken,
    values,
)
from twinstream.shards.format.keys import require_plain_class, video_key
from twinstream.shards.format.listings import Listed
from twinstream.shards.format.split_file import SplitList
from twinstream.shards.format.video_table import KNOWN
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


# The columns of a Video, and those of what lists name.
VIDEO = KNOWN.append(pa.field("present", pa.bool_()))
LISTED = pa.schema(
    [
        *(("name", TEXT), ("class_name", NAME), ("split", NAME), ("class_number", pa.int32())),
        *(("file", NAME), ("line", pa.int32())),
    ]
)


@dataclass(frozen=True)
class Catalog:
    """Classes by label, videos by key, and lines that the user should see."""

    classes: tuple[str, ...]
    videos: Sequence[Video]
    warnings: tuple[str, ...]
    lists: tuple[SplitList, ...] = ()
    """Every split that lists of the dataset name, to be stored beside those of the videos"""
    fold: int | None = None
    """The number of the lists whose splits the videos have, where there are several"""


def presence(videos: Sequence[Video]) -> NDArray[np.bool_]:
    """(V,) which of the videos are on disk."""
    if isinstance(videos, Records):
        return np.asarray(videos.table["present"])
    if isinstance(videos, Some) and isinstance(videos.whole, Records):
        return presence(videos.whole)[videos.positions]
    return np.array([video.present for video in videos], bool)


def paths_on_disk(videos: Sequence[Video]) -> Sequence[str]:
    """The path of each video that is there."""
    present = np.flatnonzero(presence(videos))
    if isinstance(videos, Records):
        return Some(Records(videos.table.select(["path"]), str), present)
    return [videos[position].path for position in present.tolist()]


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
    classes = tuple(sorted(_classes_of(listed)))
    return build_catalog(classes, listed, lambda one: on_disk.get(one.name), files, warnings)


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
    names = _classes_of(listed)
    # As text 10 would stand before 2, and the labels would not be the user's numbers.
    classes = sorted(names)
    if all(name.isdecimal() for name in names):
        # As int() would, which refuses thousands of digits.
        classes.sort(key=lambda name: (len(name.lstrip("0")), name.lstrip("0")))
    on_disk = {*files, *others}

    def find(one: Listed) -> str | None:
        return one.name if one.name in on_disk else None

    return build_catalog(tuple(classes), listed, find, files, is_folder=is_folder)


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
    listed = held(Listed(path, name, split, path) for path, (name, split) in known.items())
    classes = tuple(sorted(_classes_of(listed)))
    loose = [path for path in files if path not in known]
    warnings = [f"{_named(loose, is_folder)} in no class folder, left out"] if loose else []
    return build_catalog(
        classes, listed, lambda one: one.name, list(known), warnings, is_folder=is_folder
    )


def held(listed: Iterable[Listed]) -> Records[Listed]:
    """What lists name, as columns."""
    builder = TableBuilder(LISTED)
    for one in listed:
        file, _, line = one.where.rpartition(" line ")
        is_line = bool(file) and line.isdecimal()
        builder.add(
            *(one.name, one.class_name, one.split, one.class_number),
            *((file, int(line)) if is_line else (one.where, None)),
        )
    return Records(builder.table(), _listed)


def _listed(
    name: str, class_name: str, split: str, number: int | None, file: str, line: int | None
) -> Listed:
    where = file if line is None else f"{file} line {line}"
    return Listed(name, class_name, split, where, number)


def _classes_of(listed: Sequence[Listed]) -> set[str]:
    if isinstance(listed, Records):
        return {*values(listed.table["class_name"].unique())}
    return {one.class_name for one in listed}


def _kinetics_rank(path: str) -> tuple[bool, bool]:
    return has_video_suffix(path), _is_replacement(path)


def _is_replacement(path: str) -> bool:
    return any(part.lower().startswith("replacement") for part in PurePosixPath(path).parts[:-1])


def build_catalog(
    classes: tuple[str, ...],
    listed: Sequence[Listed],
    find: Callable[[Listed], str | None],
    files: Sequence[str],
    warnings: Iterable[str] = (),
    *,
    is_folder: bool = False,
) -> Catalog:
    """The videos of a listing; InputError where two of them have one key.

    `find` gives the path on disk of a listed video, or None.
    """
    labels = {name: label for label, name in enumerate(classes)}
    plain: set[str] = set()
    builder = TableBuilder(VIDEO)
    for one in listed:
        # A file in another case gets the key of its path on disk, which is what gets read.
        on_disk = find(one)
        path = on_disk or one.name
        key = video_key(path, is_folder=is_folder)
        if one.class_name not in plain:
            require_plain_class(one.class_name, one.where)
            plain.add(one.class_name)
        label = labels[one.class_name]
        builder.add(key, path, one.class_name, label, one.split, on_disk is not None)
    rows = Records(builder.table(), Video)
    del builder
    _refuse_one_key(rows, listed)
    # Sorted by key, so that the order of lines in a list changes no shard.
    videos = Records(taken(rows.table, rows.by_key), Video)
    del rows
    unnamed = _absent(files, videos.table["path"])
    if unnamed:
        warnings = [*warnings, f"{_named(unnamed, is_folder)} that no list names, left out"]
    warnings = [*warnings, *spelling_warning(classes)]
    return Catalog(classes, videos, tuple(warnings))


def _refuse_one_key(rows: Records[Video], listed: Sequence[Listed]) -> None:
    keys = rows.table["key"].take(pa.array(rows.by_key))
    for place in np.flatnonzero(np.asarray(pc.equal(keys[1:], keys[:-1]))).tolist():
        first, second = sorted(rows.by_key[place : place + 2].tolist())
        refuse_twice(keys[place].as_py(), listed[first], listed[second])


def _absent(files: Sequence[str], paths: pa.ChunkedArray) -> list[str]:
    """Those of `files` that are none of the paths, sorted."""
    # All at once, as each call looks at all paths first.
    there = pa.array(files, TEXT)
    return sorted({*there.filter(pc.invert(pc.is_in(there, paths))).to_pylist()})


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
