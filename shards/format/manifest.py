"""dataset.json, the manifest: what a shard dataset is, and the SHA-256 of its other files.

It is written last, so a dataset with a manifest is complete. It holds its own digest and has
exactly one spelling (sorted keys, two spaces, one newline), so that a change of any byte is found.
It holds no time, host or path: the same videos and settings give the same file.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from twinstream.errors import InputError, beginning, shortened
from twinstream.shards.format.flow_codec import LEVELS_PER_SIDE, ZERO_LEVEL
from twinstream.shards.storage.location import (
    Location,
    dataset_file,
    is_plain,
    read_whole,
    require_file_path,
    require_usable_path,
)

FORMAT = 1
FILE_NAME = "dataset.json"
# 625,000 shards, 10 million videos of 16 each, are 270 MB.
MAX_BYTES = 2**29
# A sample has two members at least, its JSON and a frame, each a block behind a block of header.
SAMPLE_BYTES = 4 * 512
# Of a class: it stands in messages and tables.
MAX_NAME = 1_000
# What a JSON file that is not ours can be: not JSON, nested too deep, of other fields.
JSON_FAULTS = (KeyError, RecursionError, TypeError, ValueError)

ENGINE = "preprocess.engine"
FLOW_DEFINITION = "preprocess.tvl1.definition"
"""Version of what flow is, where it was computed: no setting of a run, which has the newest."""

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


def _file_path(path: str) -> str:
    require_file_path(path)
    return path


def _key(path: str) -> str:
    require_usable_path(path)
    return path


def _plain(name: str) -> str:
    if not is_plain(name):
        raise ValueError(f"{name!r}; expected a name without control characters")
    if len(name) > MAX_NAME:
        raise ValueError(f"{beginning(name)}; expected {MAX_NAME} letters at most")
    return name


def _split_name(name: str) -> str:
    if "/" in name:
        raise ValueError(f"{name!r}; expected a name without a slash")
    return _file_path(name)


# What the files of the format hold, and nothing else.
Key = Annotated[str, AfterValidator(_key)]
FilePath = Annotated[str, AfterValidator(_file_path)]
PlainName = Annotated[str, AfterValidator(_plain)]
SplitName = Annotated[str, AfterValidator(_split_name)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
NumBytes = Annotated[int, Field(ge=0, le=2**62)]
# Of flow, in pixels: far beyond what anybody stores, and float32 computes with it.
Bound = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]


class FileEntry(Record):
    """A file of the dataset, its path relative to the dataset's folder."""

    path: FilePath
    num_bytes: NumBytes
    sha256: Sha256


class ShardEntry(Record):
    """One shard and its index."""

    tar: FileEntry
    index: FileEntry
    num_samples: Count

    @model_validator(mode="after")
    def _room_for_samples(self) -> "ShardEntry":
        if self.num_samples * SAMPLE_BYTES > self.tar.num_bytes:
            raise ValueError(
                f"{self.num_samples} samples in {self.tar.num_bytes} bytes of {self.tar.path}"
            )
        return self


class FlowCodec(Record):
    """Bytes to pixels of motion: v = (q - zero) * bound / levels, clipped to +-bound.

    Ours are zero 128 and levels 127; imported flow may have halves. `int | float` keeps whole
    numbers whole in the file.
    """

    bound: Bound
    zero: Annotated[int | float, Field(ge=0, le=255)]
    levels: Annotated[int | float, Field(gt=0, le=255)]


# All other settings are compared and shown.
COMPUTED_WITH: dict[str, TypeAdapter[Any]] = {
    "preprocess.bound": TypeAdapter(Bound),
    "convert.codec": TypeAdapter(FlowCodec),
    "convert.cut": TypeAdapter(Bound),
}


def our_codec(bound: float) -> FlowCodec:
    """The codec of all flow that is computed here."""
    return FlowCodec(bound=bound, zero=ZERO_LEVEL, levels=LEVELS_PER_SIDE)


class Manifest(Record):
    """dataset.json without its digests; `settings` are those that change bytes of the dataset."""

    format: int
    classes: tuple[PlainName, ...]
    flow_codec: FlowCodec
    settings: dict[str, Any]
    splits: dict[SplitName, tuple[ShardEntry, ...]]
    videos: FileEntry

    @field_validator("settings")
    @classmethod
    def _can_be_computed_with(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name in COMPUTED_WITH.keys() & settings.keys():
            try:
                COMPUTED_WITH[name].validate_python(settings[name])
            except ValidationError as error:
                raise ValueError(f"{name} {shortened(settings[name])}: {told(error)}") from error
        return settings

    @model_validator(mode="after")
    def _each_file_once(self) -> "Manifest":
        named = Counter(entry.path for entry in self.files())
        for path, count in named.items():
            if count > 1:
                raise ValueError(f"{path} is named {count} times")
        return self

    def files(self) -> list[FileEntry]:
        """Every file that it names: the table of videos, then each shard and its index."""
        shards = (shard for entries in self.splits.values() for shard in entries)
        return [self.videos, *(file for shard in shards for file in (shard.tar, shard.index))]


def pixel_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings of a manifest that the pixels of frames or flow depend on."""
    pixels = {name: value for name, value in settings.items() if not name.startswith(NO_PIXELS)}
    # Computed flow that does not name its definition was made before there was a second one.
    if ENGINE in pixels:
        pixels.setdefault(FLOW_DEFINITION, 1)
    return pixels


def settings_digest(settings: dict[str, Any]) -> str:
    """Hex SHA-256 of the settings that change bytes."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def manifest_bytes(manifest: Manifest) -> bytes:
    """The one spelling of a manifest, its digest included."""
    fields = manifest.model_dump(mode="json", exclude={"splits"}) | {"splits": {}}
    fields["settings_sha256"] = settings_digest(manifest.settings)
    splits = _spelt_splits(manifest.splits)
    fields["sha256"] = hashlib.sha256(_with_splits(fields, splits)).hexdigest()
    return _with_splits(fields, splits)


def _with_splits(fields: dict[str, Any], splits: bytes) -> bytes:
    # No other line begins so: what is nested is indented further, and texts have no line ends.
    return spelt(fields).replace(b'\n  "splits": {}', b'\n  "splits": ' + splits)


def _spelt_splits(splits: Mapping[str, Sequence[ShardEntry]]) -> bytes:
    """The splits as `spelt` writes them: json indents in Python, a second for 15,000 shards."""
    parts = [
        f"    {_text(name)}: [\n" + ",\n".join(map(_spelt_shard, splits[name])) + "\n    ]"
        if splits[name]
        else f"    {_text(name)}: []"
        for name in sorted(splits)
    ]
    return ("{\n" + ",\n".join(parts) + "\n  }" if parts else "{}").encode()


def _spelt_shard(shard: ShardEntry) -> str:
    index, tar = (
        f'{{\n          "num_bytes": {file.num_bytes},\n          "path": {_text(file.path)},\n'
        f'          "sha256": {_text(file.sha256)}\n        }}'
        for file in (shard.index, shard.tar)
    )
    return (
        f'      {{\n        "index": {index},\n        "num_samples": {shard.num_samples},\n'
        f'        "tar": {tar}\n      }}'
    )


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def read_manifest(dataset: Location) -> Manifest:
    """The manifest of the dataset in this folder; InputError without one of this format."""
    path = dataset_file(dataset, FILE_NAME)
    try:
        data = read_whole(path, MAX_BYTES)
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
        fields = from_json(data)
        # Before the fields: another format has other fields, and the user needs the real cause.
        found = fields["format"]
        if found != FORMAT:
            raise InputError(
                f"{path}: shard format {found!r:.20}; this twinstream reads format {FORMAT}"
            )
        del fields["sha256"], fields["settings_sha256"]
        manifest = Manifest.model_validate(fields)
        is_changed = manifest_bytes(manifest) != data
    except InputError:
        raise
    except JSON_FAULTS as error:
        raise InputError(f"{path}: not a manifest of twinstream ({told(error)})") from error
    # One comparison checks both digests and the spelling.
    if is_changed:
        raise InputError(f"{path}: changed since it was written (its own digest does not fit)")
    return manifest


def shard_name(tar: str) -> str:
    """The shard's name in videos.parquet: `train/train-000000.tar` -> train-000000."""
    path = tar.removesuffix(".tar")
    return path.partition("/")[2] or path


def file_faults(dataset: Location, entry: FileEntry) -> Iterator[str]:
    """A line if the size or the hash of a file in the manifest differs, or it cannot be read."""
    try:
        path = dataset_file(dataset, entry.path)
    except InputError as error:
        yield str(error)
        return
    yield from faults_of(path, entry)


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


def from_json(data: bytes) -> Any:
    """The value of a JSON file of the format; one of `JSON_FAULTS` for NaN and what is no JSON."""
    return json.loads(data, parse_constant=_refuse_constant)


def told(error: Exception) -> str:
    """One of `JSON_FAULTS` in one line: of several wrong fields the first."""
    if not isinstance(error, ValidationError):
        return "nested too deep" if isinstance(error, RecursionError) else str(error)
    first = error.errors()[0]
    parts = [repr(part) if not is_plain(str(part)) else str(part) for part in first["loc"]]
    where = f"{'.'.join(parts)}: " if parts else ""
    return f"{where}{first['msg'].removeprefix('Value error, ')}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no JSON")
