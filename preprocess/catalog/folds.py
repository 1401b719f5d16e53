"""Datasets with several pairs of lists for the same videos: UCF-101 and HMDB-51.

The shards have the splits of the first pair, and each list is a split that is stored beside them
(`shards.split_lists`), so that one dataset serves all folds.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from twinstream.errors import InputError
from twinstream.preprocess.catalog.catalog import Catalog, build_catalog, refuse_twice
from twinstream.shards.format.classes import first_few, parse_classes
from twinstream.shards.format.keys import require_plain_class, video_key
from twinstream.shards.format.listings import Listed, hmdb51_list, parse_hmdb51, parse_split_list
from twinstream.shards.format.split_file import SplitList

# The split of videos that no list of the first pair names
REST = "rest"


def ucf101_catalog(lists: Mapping[str, str], files: Sequence[str]) -> Catalog:
    """`lists`: the texts of classInd.txt, trainlistNN.txt and testlistNN.txt by their names."""
    classes = parse_classes(lists["classInd.txt"], "classInd.txt")
    for name in classes:
        require_plain_class(name, "classInd.txt")
    labels = {name: label for label, name in enumerate(classes)}
    folds: list[Fold] = []
    for name, text in lists.items():
        if name == "classInd.txt":
            continue
        part = "train" if name.startswith("train") else "test"
        listed = parse_split_list(text, name, part)
        for one in listed:
            if one.class_name not in labels:
                raise InputError(f"{one.where}: class {one.class_name!r} is not in classInd.txt")
            if one.class_number not in (None, labels[one.class_name] + 1):
                raise InputError(
                    f"{one.where}: {one.class_name} is class {labels[one.class_name] + 1} in "
                    f"classInd.txt, the line says {one.class_number}"
                )
        folds.append(Fold(int(name[-6:-4]), part, name, (name,), listed))
    # Lists and files of UCF-101 differ in the case of HandstandPushups; an exact match wins.
    on_disk = {path.casefold(): path for path in files} | {path: path for path in files}

    def find(one: Listed) -> str | None:
        return on_disk.get(one.name) or on_disk.get(one.name.casefold())

    return _folds_catalog(classes, folds, files, find)


def hmdb51_catalog(lists: Mapping[str, str], files: Sequence[str]) -> Catalog:
    """`lists`: the texts of CLASS_test_splitN.txt by their names; videos lie in CLASS/FILE.

    InputError where a class has the list of one split and lacks that of another.
    """
    listed: dict[tuple[int, str], list[Listed]] = defaultdict(list)
    names: dict[int, dict[str, str]] = defaultdict(dict)
    for name, text in sorted(lists.items()):
        class_name, number = hmdb51_list(name)
        names[number][class_name] = name
        for one in parse_hmdb51(text, name):
            in_folder = replace(one, name=f"{class_name}/{one.name}")
            listed[number, one.split].append(in_folder)
    classes = tuple(sorted({name for some in names.values() for name in some}))
    for number, by_class in names.items():
        if absent := [name for name in classes if name not in by_class]:
            raise InputError(
                f"dataset.splits: no {absent[0]}_test_split{number}.txt, though other classes have "
                f"lists of split {number}"
            )
    folds = [
        Fold(number, part, f"*_test_split{number}.txt:{part}", tuple(names[number].values()), some)
        for (number, part), some in listed.items()
    ]
    there = {*files}
    return _folds_catalog(
        classes, folds, files, lambda one: one.name if one.name in there else None
    )


class Fold(NamedTuple):
    """One of the lists of a dataset that has several pairs of them."""

    number: int
    part: str
    """train or test"""
    source: str
    """The name of its file, or what stands for several"""
    names: tuple[str, ...]
    """Of its files"""
    listed: list[Listed]


def _folds_catalog(
    classes: tuple[str, ...],
    folds: Sequence[Fold],
    files: Sequence[str],
    find: Callable[[Listed], str | None],
) -> Catalog:
    """The videos that any of the lists names, in the splits of the first pair.

    Those that only later pairs name are in the split `rest`. Every list is one of `lists`.
    """
    chosen: dict[str, Listed] = {}
    found: dict[str, str | None] = {}
    lists = []
    first = min((fold.number for fold in folds), default=1)
    of_pair: dict[int, dict[str, Listed]] = defaultdict(dict)
    for fold in sorted(folds, key=lambda fold: fold.number):
        keys = []
        for one in fold.listed:
            path = found.setdefault(one.name, find(one))
            keys.append(video_key(path or one.name))
            # In a pair a video is learned from or tested on, and never both.
            if before := of_pair[fold.number].get(keys[-1]):
                refuse_twice(keys[-1], before, one)
            of_pair[fold.number][keys[-1]] = one
            chosen.setdefault(one.name, one if fold.number == first else replace(one, split=REST))
        lists.append(SplitList(f"{fold.part}{fold.number}", fold.source, fold.names, tuple(keys)))
    listed = list(chosen.values())
    catalog = build_catalog(
        classes, listed, lambda one: found[one.name], files, _absent_classes(listed, files)
    )
    return replace(catalog, lists=tuple(lists), fold=first)


def _absent_classes(listed: Sequence[Listed], files: Sequence[str]) -> list[str]:
    """A warning if classes have no file: `2 classes ... : Archery (145 videos), ...`."""
    there = {path.split("/")[0].casefold() for path in files}
    absent = Counter(one.class_name for one in listed if one.class_name.casefold() not in there)
    if not absent:
        return []
    classes = [f"{name} ({count} videos)" for name, count in sorted(absent.items())]
    return [f"{len(absent)} classes of the lists have no folder: {first_few(classes)}"]
