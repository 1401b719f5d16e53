"""The splits of a dataset and their one spelling: `training` and `Train` are both train.

A split names a folder of the output, so it must be a plain word. Words that are no alias, such as
`test_2`, stay as they are, in lower case.
"""

import re
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


def known_split(word: str) -> str | None:
    """`Training` -> train, `validate` -> val; None for a word that is no split's name."""
    return _SPLITS.get(word.lower())


def split_name(text: str, where: str) -> str:
    """The split in its one spelling; InputError, which begins with `where`, for what is no word."""
    name = text.strip().lower()
    if not re.fullmatch(r"[a-z0-9_-]+", name):
        raise InputError(f"{where}: split {text!r}; expected a word such as train, val or test")
    return known_split(name) or name


def split_of_list(path: Path) -> str:
    """`ucf101_train_split_1_rawframes.txt` -> train; without such a word the name is the split."""
    stem = path.stem.removesuffix("_rawframes")
    found = (known_split(word) for word in re.split(r"[_\-.]", stem))
    return next((split for split in found if split), None) or split_name(stem, str(path))
