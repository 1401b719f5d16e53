"""The splits of a dataset and their one spelling: `training` and `videos_train` are both train.

A split names a folder of the output, so it must be a plain word. Words that are no alias, such as
`test_2`, stay as they are, in lower case.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from twinstream.errors import InputError

# Lists and folders of other tools use these words; without one spelling, a dataset whose folder is
# `validation` would have no split `val` for testing.
_ALIASES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}
_SPLITS = {alias: split for split, aliases in _ALIASES.items() for alias in aliases}
# `trainset`, `testlist01`: the number is that of a fold.
_ENDED = re.compile(rf"({'|'.join(_SPLITS)})(?:set|(?:list|split)\d{{0,2}})?")
# Longest first, or `validation` would be read as `val`.
_ANYWHERE = re.compile("|".join(sorted(_SPLITS, key=len, reverse=True)))
# What may stand beside the split without making another split of it: what is in the folder, its
# size (`train_256`, `val_340x256`, `test_720p`) or the dataset (`k400_train`). `test_2` is another.
_BESIDE = re.compile(
    r"videos?|clips?|rawframes|frames?|rgb|flow|images?|jpe?gs?|mp4|avi|set|split|data|list|files|"
    r"resized|compressed|\d{3,4}p?|\d+x\d+|\d+fps|(?:kinetics|k|ucf|hmdb|mit|sthv|ssv)\d*"
)


@lru_cache(maxsize=1024)
def known_split(name: str) -> str | None:
    """`Training` -> train, `videos_val` -> val, `train_256` -> train; None for no split's name."""
    words = _words(name)
    splits = [split for word in words if (split := _split_of_word(word))]
    beside = [word for word in words if not _split_of_word(word)]
    is_split = len(splits) == 1 and all(_BESIDE.fullmatch(word) for word in beside)
    return splits[0] if is_split else None


def is_split_name(text: str) -> bool:
    """Whether it is a word that can name a split, in its one spelling."""
    return bool(re.fullmatch(r"[a-z0-9_-]+", text))


def alike_but_for_split(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that differ in the words of splits only: `Train1`, `Test2`."""
    first: dict[str, tuple[set[str], str]] = {}
    for name in names:
        splits = {_SPLITS[word] for word in _ANYWHERE.findall(name.lower())}
        others = re.sub(r"[\W\d_]", "", _ANYWHERE.sub("", name.lower()))
        if splits:
            other_splits, other = first.setdefault(others, (splits, name))
            if other_splits != splits:
                return other, name
    return None


def split_name(text: str, where: str) -> str:
    """The split in its one spelling; InputError, which begins with `where`, for what is no word."""
    name = text.strip().lower()
    if split := known_split(name):
        return split
    if not is_split_name(name):
        raise InputError(f"{where}: split {text!r}; expected a word such as train, val or test")
    return name


def split_of_list(path: Path) -> str:
    """`ucf101_train_split_1_rawframes.txt` -> train; without such a word the name is the split.

    InputError for a name with the words of two splits.
    """
    stem = path.stem.removesuffix("_rawframes")
    found = sorted({split for word in _words(stem) if (split := _split_of_word(word))})
    if len(found) > 1:
        raise InputError(f"{path}: its name says {' and '.join(found)}; expected one split a list")
    return found[0] if found else split_name(stem, str(path))


def _words(name: str) -> list[str]:
    return re.findall(r"[^\s_.\-]+", name.lower())


def _split_of_word(word: str) -> str | None:
    match = _ENDED.fullmatch(word)
    return _SPLITS[match[1]] if match else None
