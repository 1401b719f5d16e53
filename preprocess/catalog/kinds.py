"""Reads the catalog of a dataset of any kind: lists its files, and the lists that name them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twinstream.errors import InputError
from twinstream.preprocess.catalog.files import excluded_warning, list_files, splits_folder
from twinstream.shards.format.listings import Listed, kinetics_rows, kinetics_video
from twinstream.shards.rawframes.folders import list_frame_folders
from twinstream.shards.storage.location import Location, files_sha256, locate, read_lines, read_text
from twinstream.shards.storage.walk import is_excluded, refuse_same_file

# The settings take their choices from here, and load no Arrow.
if TYPE_CHECKING:
    from twinstream.preprocess.catalog.catalog import Catalog, Matched, Video
    from twinstream.shards.format.columns import Records


@dataclass(frozen=True)
class Source:
    """What section `dataset` says of a dataset: its root, and where its lists are; and where shards
    of it are made.
    """

    kind: str
    root: Location
    splits: str | None
    annotations: str | Sequence[str] | None
    exclude: Sequence[str]
    out: Location | None


@dataclass(frozen=True)
class DatasetKind:
    """How the catalog of one kind of dataset is read.

    `is_folder`: each video is a folder of images. `has_folds`: it has several pairs of lists.
    """

    read: "Callable[[Source], Catalog]"
    is_folder: bool = False
    has_folds: bool = False


def read_catalog(
    kind: str,
    root: str,
    *,
    splits: str | None = None,
    annotations: str | Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    held_out: float | None = None,
    group: str | None = None,
    out: Location | None = None,
) -> "Catalog":
    """The catalog of the videos below `root`, without what a pattern of `exclude` fits.

    What lies in a dataset is left out too; `out` is one that is being made.

    `splits` is the folder of the lists of ucf101 and hmdb51; None looks in the root and beside it.
    `annotations` is the CSV, or several; without one `rawframes` goes by its folders. `held_out` is
    the part of videos in class folders that become the split test, `group` the pattern of what
    stays together. InputError for what is absent or malformed or cannot be listed, for one file
    that would be two videos, and if no video at all is there.
    """
    from twinstream.preprocess.catalog.catalog import paths_on_disk

    there = locate(root)
    if not there.is_dir():
        raise InputError(f"dataset.root {root}: no such folder")
    catalog = KINDS[kind].read(Source(kind, there, splits, annotations, exclude, out))
    catalog = _without_excluded(catalog, exclude)
    if isinstance(there, Path):
        refuse_same_file(there, paths_on_disk(catalog.videos))
    require_a_video(catalog, root)
    if held_out is None:
        return catalog
    if kind not in ("folders", "rawframes") or annotations:
        raise InputError(
            f"dataset.hold_out {held_out:g}: the lists of kind {kind} name the splits; it is for "
            "class folders, kind folders, and rawframes without annotations"
        )
    from twinstream.preprocess.catalog.hold_out import hold_out

    return hold_out(catalog, held_out, group)


def _read_ucf101(source: Source) -> "Catalog":
    from twinstream.preprocess.catalog.folds import ucf101_catalog

    folder = splits_folder(source.root, source.splits, "classInd.txt")
    there = [number for number in range(1, 100) if any(_pair(folder, number))]
    # Of the first pair both must be there: it gives the splits of the shards.
    names = ["trainlist01.txt", "testlist01.txt"]
    if there:
        names = [f"{part}list{there[0]:02d}.txt" for part in ("train", "test")]
        names += [path.name for number in there[1:] for path in _pair(folder, number)]
    return _of_lists(source, folder, ["classInd.txt", *names], ucf101_catalog)


def _pair(folder: Location, number: int) -> list[Location]:
    """Those lists of a pair that are there."""
    paths = [folder / f"{part}list{number:02d}.txt" for part in ("train", "test")]
    return [path for path in paths if path.exists()]


def _read_hmdb51(source: Source) -> "Catalog":
    from twinstream.preprocess.catalog.folds import hmdb51_catalog

    pattern = "*_test_split[0-9].txt"
    folder = splits_folder(source.root, source.splits, pattern)
    names = sorted(path.name for path in folder.glob(pattern))
    if not names:
        raise InputError(f"dataset.splits: no {pattern} in {folder}")
    return _of_lists(source, folder, names, hmdb51_catalog)


def _of_lists(
    source: Source,
    folder: Location,
    names: Sequence[str],
    catalog_of: "Callable[[Mapping[str, str], Sequence[str]], Catalog]",
) -> "Catalog":
    """The catalog of the lists of these names, each with its digest."""
    files = list_files(source.root, source.exclude, source.out)
    texts = {name: read_text(folder / name, "dataset.splits") for name in names}
    catalog = catalog_of(texts, files.videos)
    lists = tuple(
        one._replace(sha256=files_sha256([folder / name for name in one.files]))
        for one in catalog.lists
    )
    return _with_warnings(replace(catalog, lists=lists), files.warnings)


def _read_kinetics(source: Source) -> "Catalog":
    from twinstream.preprocess.catalog.catalog import kinetics_catalog
    from twinstream.preprocess.catalog.listed import held

    files = list_files(source.root, source.exclude, source.out)
    listed = held(
        kinetics_video(name, *row)
        for lines, name in _csvs(source)
        for row in kinetics_rows(lines, name)
    )
    return _with_warnings(kinetics_catalog(listed, files.videos), files.warnings)


def _read_folders(source: Source) -> "Catalog":
    from twinstream.preprocess.catalog.catalog import folders_catalog

    files = list_files(source.root, source.exclude, source.out)
    name = source.root.resolve().name
    catalog = folders_catalog(files.videos, name, broken=files.broken)
    return _with_warnings(catalog, (*files.barren_warning, *files.warnings))


def _read_csv(source: Source) -> "Catalog":
    from twinstream.preprocess.catalog.catalog import matched_catalog

    # So that what is on disk is forgotten before the catalog is made.
    matched, warnings = _matched_csv(source)
    return _with_warnings(matched_catalog(matched), warnings)


def _matched_csv(source: Source) -> "tuple[Matched, tuple[str, ...]]":
    """The videos of the CSVs and those of them that are there, and warnings."""
    from twinstream.preprocess.catalog.catalog import match_paths

    files = list_files(source.root, source.exclude, source.out)
    return match_paths(_listed_by_csv(source), files.videos, files.others), files.warnings


def _read_rawframes(source: Source) -> "Catalog":
    from twinstream.preprocess.catalog.catalog import csv_catalog, folders_catalog

    if not isinstance(source.root, Path):
        raise InputError(f"dataset.root {source.root}: folders of frames must be on a disk")
    found = list_frame_folders(source.root, source.exclude, source.out)
    if source.annotations:
        catalog = csv_catalog(_listed_by_csv(source), found.videos, is_folder=True)
    else:
        name = source.root.resolve().name
        catalog = folders_catalog(found.videos, name, broken=found.broken, is_folder=True)
    told = excluded_warning(found.excluded, source.exclude, "files or folders")
    return _with_warnings(catalog, (*found.warnings, *told))


# A new kind is one function and one line here; settings take their choices from it.
KINDS = {
    "ucf101": DatasetKind(_read_ucf101, has_folds=True),
    "hmdb51": DatasetKind(_read_hmdb51, has_folds=True),
    "kinetics": DatasetKind(_read_kinetics),
    "folders": DatasetKind(_read_folders),
    "csv": DatasetKind(_read_csv),
    "rawframes": DatasetKind(_read_rawframes, is_folder=True),
}


def _listed_by_csv(source: Source) -> "Records[Listed]":
    from twinstream.preprocess.catalog.listed import csv_listed

    return csv_listed(_csvs(source))


def _csvs(source: Source) -> Iterator[tuple[Iterator[str], str]]:
    """The lines of each CSV and its name."""
    annotations = source.annotations
    paths = [annotations] if isinstance(annotations, str) else list(annotations or ())
    if not paths:
        raise InputError(
            f"dataset.annotations: not set; a dataset of kind {source.kind} needs its CSV"
        )
    for path in map(locate, paths):
        yield read_lines(path, "dataset.annotations"), path.name


def _with_warnings(catalog: "Catalog", warnings: Iterable[str]) -> "Catalog":
    return replace(catalog, warnings=(*catalog.warnings, *warnings))


def _without_excluded(catalog: "Catalog", exclude: Sequence[str]) -> "Catalog":
    """Without the videos that only a list names and a pattern fits. Classes and labels stay."""
    from twinstream.shards.format.columns import Some

    if not exclude:
        return catalog
    out = {video.path for video in catalog.videos if is_excluded(video.path, exclude)}
    if not out:
        return catalog
    kept = np.array([video.path not in out for video in catalog.videos], bool)
    videos: Some[Video] = Some(catalog.videos, np.flatnonzero(kept))
    told = excluded_warning(sorted(out), exclude, "listed videos")
    keys_out = {video.key for video in catalog.videos if video.path in out}
    lists = tuple(
        one._replace(keys=tuple(key for key in one.keys if key not in keys_out))
        for one in catalog.lists
    )
    return _with_warnings(replace(catalog, videos=videos, lists=lists), told)


def require_a_video(catalog: "Catalog", root: str) -> None:
    """InputError when videos are named and none is there: the root is most likely wrong."""
    from twinstream.preprocess.catalog.catalog import presence

    if catalog.videos and not presence(catalog.videos).any():
        first = catalog.videos[0].path
        raise InputError(
            f"dataset.root {root}: holds none of the {len(catalog.videos)} videos that the lists "
            "name; "
            f"first looked for: {first}"
        )
