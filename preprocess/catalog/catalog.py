"""Which videos a dataset has, each with its class, label and split.

Pure functions of listings and of a list of file names. Every video that a list names is in the
catalog, whether its file is there or not. Every file that could be a video is in it too: if it is
none, its row says why. Labels are positions in `classes`. The rules for the key of a path and for
the split and class of a folder are in `shards`, so that folders of frames are the same videos here
and in `twinstream shards import`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from twinstream.errors import InputError
from twinstream.preprocess.catalog.files import (
    excluded_warning,
    has_video_suffix,
    list_files,
    splits_folder,
)
from twinstream.preprocess.catalog.listings import (
    Listed,
    parse_csv,
    parse_kinetics,
    parse_split_list,
)
from twinstream.shards.format.classes import first_few, parse_classes, spelling_warning
from twinstream.shards.format.keys import require_plain_class, video_key
from twinstream.shards.rawframes.folders import classes_and_splits, list_frame_folders
from twinstream.shards.storage.location import Location, locate, read_text
from twinstream.shards.storage.walk import is_excluded, refuse_same_file


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


@dataclass(frozen=True)
class Source:
    """What section `dataset` says of a dataset: its root, and where its lists are; and where shards
    of it are made.
    """

    kind: str
    root: Location
    splits: str | None
    fold: int
    annotations: str | Sequence[str] | None
    exclude: Sequence[str]
    out: Location | None


@dataclass(frozen=True)
class DatasetKind:
    """How the catalog of one kind of dataset is read.

    `is_folder`: each video is a folder of images. `has_folds`: `dataset.fold` chooses among lists.
    """

    read: Callable[[Source], Catalog]
    is_folder: bool = False
    has_folds: bool = False


def read_catalog(
    kind: str,
    root: str,
    *,
    splits: str | None = None,
    fold: int = 1,
    annotations: str | Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    out: Location | None = None,
) -> Catalog:
    """The catalog of the videos below `root`, without what a pattern of `exclude` fits.

    What lies in a dataset is left out too; `out` is one that is being made.

    `splits` is the folder of the ucf101 lists; None looks in the root and in `splits` beside it.
    `annotations` is the CSV, or several; without one `rawframes` goes by its folders. InputError
    for what is absent or malformed or cannot be listed, for one file that would be two videos, and
    if no video at all is there.
    """
    there = locate(root)
    if not there.is_dir():
        raise InputError(f"dataset.root {root}: no such folder")
    catalog = KINDS[kind].read(Source(kind, there, splits, fold, annotations, exclude, out))
    catalog = _without_excluded(catalog, exclude)
    if isinstance(there, Path):
        refuse_same_file(there, (video.path for video in catalog.videos if video.present))
    require_a_video(catalog, root)
    return catalog


def _read_ucf101(source: Source) -> Catalog:
    folder = splits_folder(source.root, source.splits)
    names = ("classInd.txt", f"trainlist{source.fold:02d}.txt", f"testlist{source.fold:02d}.txt")
    files = list_files(source.root, source.exclude, source.out)
    texts = {name: read_text(folder / name, "dataset.splits") for name in names}
    return _with_warnings(ucf101_catalog(texts, files.videos), files.warnings)


def _read_kinetics(source: Source) -> Catalog:
    files = list_files(source.root, source.exclude, source.out)
    listed = _read_csvs(source, parse_kinetics)
    return _with_warnings(kinetics_catalog(listed, files.videos), files.warnings)


def _read_folders(source: Source) -> Catalog:
    files = list_files(source.root, source.exclude, source.out)
    name = source.root.resolve().name
    catalog = folders_catalog(files.videos, name, broken=files.broken)
    return _with_warnings(catalog, (*files.barren_warning, *files.warnings))


def _read_csv(source: Source) -> Catalog:
    files = list_files(source.root, source.exclude, source.out)
    listed = _read_csvs(source, parse_csv)
    return _with_warnings(csv_catalog(listed, files.videos, others=files.others), files.warnings)


def _read_rawframes(source: Source) -> Catalog:
    if not isinstance(source.root, Path):
        raise InputError(f"dataset.root {source.root}: folders of frames must be on a disk")
    found = list_frame_folders(source.root, source.exclude, source.out)
    if source.annotations:
        catalog = csv_catalog(_read_csvs(source, parse_csv), found.videos, is_folder=True)
    else:
        name = source.root.resolve().name
        catalog = folders_catalog(found.videos, name, broken=found.broken, is_folder=True)
    told = excluded_warning(found.excluded, source.exclude, "files or folders")
    return _with_warnings(catalog, (*found.warnings, *told))


# A new kind is one function and one line here; settings take their choices from it.
KINDS = {
    "ucf101": DatasetKind(_read_ucf101, has_folds=True),
    "kinetics": DatasetKind(_read_kinetics),
    "folders": DatasetKind(_read_folders),
    "csv": DatasetKind(_read_csv),
    "rawframes": DatasetKind(_read_rawframes, is_folder=True),
}


def _read_csvs(source: Source, parse: Callable[[str, str], list[Listed]]) -> list[Listed]:
    annotations = source.annotations
    paths = [annotations] if isinstance(annotations, str) else list(annotations or ())
    if not paths:
        raise InputError(
            f"dataset.annotations: not set; a dataset of kind {source.kind} needs its CSV"
        )
    return [
        one
        for path in paths
        for one in parse(read_text(locate(path), "dataset.annotations"), locate(path).name)
    ]


def ucf101_catalog(lists: dict[str, str], files: Sequence[str]) -> Catalog:
    """`lists`: the texts of classInd.txt, trainlistNN.txt and testlistNN.txt by their names."""
    classes = parse_classes(lists["classInd.txt"], "classInd.txt")
    for name in classes:
        require_plain_class(name, "classInd.txt")
    listed = [
        one
        for name, text in lists.items()
        if name != "classInd.txt"
        for one in parse_split_list(text, name, "train" if name.startswith("train") else "test")
    ]
    labels = {name: label for label, name in enumerate(classes)}
    for one in listed:
        if one.class_name not in labels:
            raise InputError(f"{one.where}: class {one.class_name!r} is not in classInd.txt")
        if one.class_number not in (None, labels[one.class_name] + 1):
            raise InputError(
                f"{one.where}: {one.class_name} is class {labels[one.class_name] + 1} in "
                "classInd.txt, "
                f"the line says {one.class_number}"
            )
    # Lists and files of UCF-101 differ in the case of HandstandPushups; an exact match wins.
    on_disk = {path.casefold(): path for path in files} | {path: path for path in files}
    found = {one.name: on_disk.get(one.name) or on_disk.get(one.name.casefold()) for one in listed}
    return _catalog(classes, listed, found, files, _absent_classes(listed, files))


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
    return _catalog(classes, listed, found, files, warnings)


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
    return _catalog(tuple(classes), listed, found, files, is_folder=is_folder)


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
    return _catalog(classes, listed, found, list(known), warnings, is_folder=is_folder)


def _with_warnings(catalog: Catalog, warnings: Iterable[str]) -> Catalog:
    return replace(catalog, warnings=(*catalog.warnings, *warnings))


def _without_excluded(catalog: Catalog, exclude: Sequence[str]) -> Catalog:
    """Without the videos that only a list names and a pattern fits. Classes and labels stay."""
    out = {video.path for video in catalog.videos if is_excluded(video.path, exclude)}
    if not out:
        return catalog
    videos = tuple(video for video in catalog.videos if video.path not in out)
    told = excluded_warning(sorted(out), exclude, "listed videos")
    return _with_warnings(replace(catalog, videos=videos), told)


def _kinetics_rank(path: str) -> tuple[bool, bool]:
    return has_video_suffix(path), _is_replacement(path)


def _is_replacement(path: str) -> bool:
    return any(part.lower().startswith("replacement") for part in PurePosixPath(path).parts[:-1])


def require_a_video(catalog: Catalog, root: str) -> None:
    """InputError when videos are named and none is there: the root is most likely wrong."""
    if catalog.videos and not any(video.present for video in catalog.videos):
        first = catalog.videos[0].path
        raise InputError(
            f"dataset.root {root}: holds none of the {len(catalog.videos)} videos that the lists "
            "name; "
            f"first looked for: {first}"
        )


def _catalog(
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
            _refuse_twice(key, seen[key], one)
        seen[key] = one
        present = found[one.name] is not None
        videos[key] = Video(key, path, one.class_name, labels[one.class_name], one.split, present)
    unnamed = sorted(set(files) - {video.path for video in videos.values()})
    if unnamed:
        warnings = [*warnings, f"{_named(unnamed, is_folder)} that no list names, left out"]
    warnings = [*warnings, *spelling_warning(classes)]
    # Sorted by key, so that the order of lines in a list changes no shard.
    return Catalog(classes, tuple(videos[key] for key in sorted(videos)), tuple(warnings))


def _refuse_twice(key: str, first: Listed, second: Listed) -> None:
    """InputError for two files with one key, or for one file that is listed twice."""
    if first.name == second.name:
        raise InputError(
            f"{second.where}: {second.name} is in {first.where} already; expected each video once"
        )
    raise InputError(f"two videos with one key {key!r}: {first.name} and {second.name}; rename one")


def _absent_classes(listed: Sequence[Listed], files: Sequence[str]) -> list[str]:
    """A warning if classes have no file: `2 classes ... : Archery (145 videos), ...`."""
    there = {path.split("/")[0].casefold() for path in files}
    absent = Counter(one.class_name for one in listed if one.class_name.casefold() not in there)
    if not absent:
        return []
    classes = [f"{name} ({count} videos)" for name, count in sorted(absent.items())]
    return [f"{len(absent)} classes of the lists have no folder: {first_few(classes)}"]


def _named(paths: Sequence[str], is_folder: bool) -> str:
    """`7 files (a, b, c, d, e and 2 more)`."""
    return f"{len(paths)} {'folders' if is_folder else 'files'} ({first_few(paths)})"
