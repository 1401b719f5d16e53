"""dataset.json, the manifest: what a shard dataset is, and the SHA-256 of its other files.

It is written last, so a dataset with a manifest is complete. It holds its own digest and has
exactly one spelling (sorted keys, two spaces, one newline), so that a change of any byte is found.
It holds no time, host or path: the same videos and settings give the same file.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from twinstream.errors import InputError
from twinstream.shards.format.flow_codec import LEVELS_PER_SIDE, ZERO_LEVEL
from twinstream.shards.storage.location import Location

FORMAT = 1
FILE_NAME = "dataset.json"

# These settings choose and order videos; all others change the pixels of frames or flow, and a
# network trained on a mix of two of them would learn the difference.
NO_PIXELS = (
    "shards.videos_per_shard",
    "dataset.",
    "preprocess.seed",
    "preprocess.min_frames",
    "preprocess.max_pixels",
    "import.layout",
    "import.index_base",
    "merge.",
    "subset.",
    "convert.",
)


class Record(BaseModel):
    """Base of the manifest's parts: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Record):
    """A file of the dataset, its path relative to the dataset's folder."""

    path: str
    num_bytes: int
    sha256: str


class ShardEntry(Record):
    """One shard and its index."""

    tar: FileEntry
    index: FileEntry
    num_samples: int


class FlowCodec(Record):
    """Bytes to pixels of motion: v = (q - zero) * bound / levels, clipped to +-bound.

    Ours are zero 128 and levels 127; imported flow may have halves. `int | float` keeps whole
    numbers whole in the file.
    """

    bound: float
    zero: int | float
    levels: int | float


def our_codec(bound: float) -> FlowCodec:
    """The codec of all flow that is computed here."""
    return FlowCodec(bound=bound, zero=ZERO_LEVEL, levels=LEVELS_PER_SIDE)


class Manifest(Record):
    """dataset.json without its digests; `settings` are those that change bytes of the dataset."""

    format: int
    classes: tuple[str, ...]
    flow_codec: FlowCodec
    settings: dict[str, Any]
    splits: dict[str, tuple[ShardEntry, ...]]
    videos: FileEntry


def pixel_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings of a manifest that the pixels of frames or flow depend on."""
    return {name: value for name, value in settings.items() if not name.startswith(NO_PIXELS)}


def settings_digest(settings: dict[str, Any]) -> str:
    """Hex SHA-256 of the settings that change bytes."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def manifest_bytes(manifest: Manifest) -> bytes:
    """The one spelling of a manifest, its digest included."""
    fields = manifest.model_dump(mode="json")
    fields["settings_sha256"] = settings_digest(manifest.settings)
    fields["sha256"] = hashlib.sha256(spelt(fields)).hexdigest()
    return spelt(fields)


def read_manifest(dataset: Location) -> Manifest:
    """The manifest of the dataset in this folder; InputError without one of this format."""
    path = dataset / FILE_NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{dataset}: no {FILE_NAME}, so this is no shard dataset or it is unfinished; "
            "run the same `twinstream preprocess` again to finish it"
        ) from error
    return parse_manifest(data, path)


def is_dataset(folder: Location) -> bool:
    """Whether a complete dataset lies there; another one's dataset.json is none of ours."""
    try:
        read_manifest(folder)
    # A folder that cannot be looked into is named by whoever lists it.
    except (InputError, PermissionError):
        return False
    return True


def is_output(folder: Path, out: Location | None) -> bool:
    """Whether a folder is `out`, or holds a complete dataset: output is never input."""
    is_out = isinstance(out, Path) and out.exists() and folder.samefile(out)
    return is_out or is_dataset(folder)


def parse_manifest(data: bytes, path: Location) -> Manifest:
    """The manifest in these bytes; InputError that names `path` when they are not intact."""
    try:
        fields = json.loads(data)
        # Before the fields: another format has other fields, and the user needs the real cause.
        found = fields["format"]
        if found != FORMAT:
            raise InputError(f"{path}: shard format {found}; this twinstream reads format {FORMAT}")
        del fields["sha256"], fields["settings_sha256"]
        manifest = Manifest.model_validate(fields)
    except InputError:
        raise
    except (KeyError, TypeError, ValidationError, ValueError) as error:
        raise InputError(
            f"{path}: not a manifest of twinstream ({str(error).splitlines()[0]})"
        ) from error
    # One comparison checks both digests and the spelling.
    if manifest_bytes(manifest) != data:
        raise InputError(f"{path}: changed since it was written (its own digest does not fit)")
    return manifest


def shard_name(tar: str) -> str:
    """The shard's name in videos.parquet: `train/train-000000.tar` -> train-000000."""
    path = tar.removesuffix(".tar")
    return path.partition("/")[2] or path


def file_faults(dataset: Location, entry: FileEntry) -> Iterator[str]:
    """A line if the size or the hash of a file in the manifest differs, or it cannot be read."""
    return faults_of(dataset / entry.path, entry)


def faults_of(path: Location, entry: FileEntry) -> Iterator[str]:
    """The same for the file at `path`, which may be a copy."""
    try:
        with path.open("rb") as file:
            found = file.seek(0, os.SEEK_END)
            file.seek(0)
            if found != entry.num_bytes:
                yield f"{entry.path}: {found} bytes, expected {entry.num_bytes}"
            elif hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                yield f"{entry.path}: changed since it was written (its SHA-256 differs)"
    # A store that does not answer says nothing about the file, so it must not count as damage.
    except ConnectionError:
        raise
    except OSError as error:
        yield f"{entry.path}: {error.strerror}"


def spelt(fields: dict[str, Any]) -> bytes:
    """The one spelling of a JSON file of the format."""
    return (json.dumps(fields, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()
