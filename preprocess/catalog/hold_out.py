"""Which videos of class folders are held out for the test, where no folder or list says.

A group is held out where a hash of its name, as a part of 1, lies below the fraction: so a video is
of the same split on every machine, and stays there when others are added. The price: a class of few
videos gets more or fewer than the fraction. Without a pattern each video is a group of its own;
with one, the videos of a person or a source are, across all classes.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

from twinstream.errors import InputError
from twinstream.preprocess.catalog.catalog import Catalog
from twinstream.shards.format.classes import first_few


def hold_out(catalog: Catalog, fraction: float, pattern: str | None) -> Catalog:
    """The catalog with about `fraction` of its groups in the split test, and a line that tells.

    InputError where it has splits already, and for a key in which the first group of `pattern` is
    not found.
    """
    if there := {video.split for video in catalog.videos} - {"train"}:
        raise InputError(
            f"dataset.hold_out {fraction:g}: the videos have splits already (train, "
            f"{', '.join(sorted(there))}); leave it out"
        )
    groups = {video.key: group_name(video.key, pattern) for video in catalog.videos}
    by_class: dict[str, set[str]] = defaultdict(set)
    for video in catalog.videos:
        by_class[video.class_name].add(groups[video.key])
    test = held_groups(by_class, fraction)
    videos = tuple(
        replace(video, split="test") if groups[video.key] in test else video
        for video in catalog.videos
    )
    told = (
        f"dataset.hold_out {fraction:g}: {sum(video.split == 'test' for video in videos)} of "
        f"{len(videos)} videos are held out as split test"
    )
    if pattern is not None:
        told += f", {len(test)} of {len({*groups.values()})} groups"
    if bare := sorted(name for name, names in by_class.items() if not names & test):
        told += f"; none of {len(bare)} classes ({first_few(bare)}): too few groups"
    return replace(catalog, videos=videos, warnings=(*catalog.warnings, told))


def group_name(key: str, pattern: str | None) -> str:
    """`wave/daria_wave`, `/([a-z]+)_` -> `daria`; without a pattern the key itself."""
    if pattern is None:
        return key
    found = re.search(pattern, key)
    if found is None or not found[1]:
        raise InputError(f"dataset.group {pattern}: finds no group in {key}, the key of a video")
    return found[1]


def held_groups(by_class: Mapping[str, Collection[str]], fraction: float) -> set[str]:
    """The groups that are held out, of those that each class has.

    Each class keeps a group to learn from, and one of at least two is held out, where the groups
    that it shares with other classes allow both.
    """
    groups = {group for names in by_class.values() for group in names}
    test = {group for group in groups if hashed_part(group) < fraction}
    for name in sorted(by_class):
        if not {*by_class[name]} - test:
            test.remove(max(by_class[name], key=hashed_part))
    for name in sorted(by_class):
        if test.isdisjoint(by_class[name]):
            last = {group for names in by_class.values() for group in _single({*names} - test)}
            if free := {*by_class[name]} - last:
                test.add(min(free, key=hashed_part))
    return test


def hashed_part(group: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    # Not the hash that orders the videos of shards.
    digest = hashlib.sha256(f"hold_out/{group}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _single(names: set[str]) -> set[str]:
    return names if len(names) == 1 else set()
