"""splits/NAME.json, a stored virtual split: keys of a dataset's videos, and the list they are from.

Beside the manifest and not in it, so that a split can be added without a change of the dataset. It
names the dataset by the digest of dataset.json and holds its own digest; its spelling is that of
dataset.json. Readers of version 1 of the format do not look at it.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from twinstream.errors import InputError
from twinstream.shards.format.manifest import (
    JSON_FAULTS,
    Count,
    Key,
    PlainName,
    Record,
    from_json,
    spelt,
    told,
)
from twinstream.shards.storage.location import Location

FOLDER = "splits"


def _each_once(keys: tuple[str, ...]) -> tuple[str, ...]:
    if len({*keys}) != len(keys):
        raise ValueError("expected each key once")
    return keys


class SplitFile(Record):
    """splits/NAME.json without its digest."""

    dataset_sha256: str
    """Of dataset.json"""
    source: PlainName
    """Name of the list, without its folder"""
    source_sha256: str
    left_out: Mapping[PlainName, Count]
    """Listed videos in no shard, by reason"""
    keys: Annotated[tuple[Key, ...], Field(min_length=1), AfterValidator(_each_once)]
    """Sorted"""


class SplitList(NamedTuple):
    """A split that a list names."""

    name: str
    source: str
    """The name of the list"""
    files: tuple[str, ...]
    """The names of its files"""
    keys: tuple[str, ...]
    sha256: str = ""
    """Of the bytes of its files"""


def split_path(dataset: Location, name: str) -> Location:
    """Where the split of this name is stored."""
    return dataset / FOLDER / f"{name}.json"


def split_bytes(split: SplitFile) -> bytes:
    """The one spelling of a stored split, its digest included."""
    fields = split.model_dump(mode="json")
    fields["sha256"] = hashlib.sha256(spelt(fields)).hexdigest()
    return spelt(fields)


def parse_split(data: bytes, path: Location) -> SplitFile:
    """The split in these bytes; InputError that names `path` when they are not intact."""
    try:
        fields = from_json(data)
        del fields["sha256"]
        split = SplitFile.model_validate(fields)
        is_changed = split_bytes(split) != data
    except JSON_FAULTS as error:
        raise InputError(f"{path}: not a split of twinstream ({told(error)})") from error
    if is_changed:
        raise InputError(f"{path}: changed since it was written (its own digest does not fit)")
    return split
