"""Make a dataset from others without new encoding: merge several, or take a subset of one.

Samples keep their bytes, except for the label in their JSON. The rows of skipped and missing videos
are copied too, so that no video is lost silently. The settings of the result hold the SHA-256 of
each source's manifest, so it is known from which bytes it was made.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twinstream.errors import InputError
from twinstream.shards.format.flow_codec import cut_at
from twinstream.shards.format.manifest import (
    FILE_NAME,
    FlowCodec,
    Manifest,
    our_codec,
    pixel_settings,
    read_manifest,
)
from twinstream.shards.format.sample import SampleMeta, meta_from_json
from twinstream.shards.format.video_table import VIDEOS_NAME, Status, VideoRow, read_videos
from twinstream.shards.storage.location import Location, dataset_file, file_sha256, require_outside
from twinstream.shards.write.copying import Copier, StoredBytes, fill_spool, stored_samples
from twinstream.shards.write.dataset import Contents, DatasetBuild, write_dataset
from twinstream.shards.write.plan import key_hash, plan_shards
from twinstream.shards.write.writer import SampleSpool, ShardWriter, sample_spool

VIDEOS_PER_SHARD = "shards.videos_per_shard"
# Puts a sample's images, frames and then flow, into the spool; returns what changes in its row.
Fill = Callable[[SampleSpool, SampleMeta, Iterator[bytes]], dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A stored sample to copy into a new dataset, with the row that it will have there."""

    stored: StoredBytes
    row: VideoRow

    @property
    def key(self) -> str:
        """The sample's key."""
        return self.row.key

    @property
    def path(self) -> str:
        """The path of the row."""
        return self.row.path

    @property
    def class_name(self) -> str:
        """The class of the row."""
        return self.row.class_name

    @property
    def label(self) -> int:
        """The label of the row."""
        return self.row.label

    @property
    def split(self) -> str:
        """The split that it is stored in."""
        return self.stored.split


@dataclass(frozen=True)
class Source:
    """A dataset as the parts to copy, and the rows of videos that are in no shard."""

    path: Location
    manifest: Manifest
    parts: list[Part]
    other_rows: list[VideoRow]


def merge(
    sources: Sequence[Location], out: Location, progress: Callable[[str], None] = lambda key: None
) -> list[VideoRow]:
    """One dataset of all samples of the sources; returns every row.

    Classes are joined by name, in order of appearance. InputError when codecs or settings cannot be
    mixed, or when two sources have the same video.
    """
    for source in sources:
        require_outside(out, source)
    read = [read_source(path) for path in sources]
    for other in read[1:]:
        _refuse_unlike(read[0], other)
    _refuse_twice(read)
    first = read[0].manifest
    classes = tuple(dict.fromkeys(name for source in read for name in source.manifest.classes))
    # A setting in which the sources differ has no one value for the result and is left out.
    settings = {
        name: value
        for name, value in first.settings.items()
        if all(source.manifest.settings.get(name) == value for source in read)
    }
    settings |= {
        "merge.sources": [file_sha256(path / FILE_NAME) for path in sources],
        VIDEOS_PER_SHARD: samples_per_shard(first),
    }
    cuts = [cut_at(source.manifest.settings, first.flow_codec.bound) for source in read]
    # Of another bound each, all the same cut: convert.codec is not in the result.
    known = [cut for cut in cuts if cut is not None]
    if len(known) == len(read):
        settings["convert.cut"] = max(known)
    parts = [part for source in read for part in source.parts]
    rows = [row for source in read for row in source.other_rows]
    return write_parts(out, parts, rows, classes, first.flow_codec, settings, progress)


def subset(
    source: Location,
    out: Location,
    *,
    classes: Collection[str] | None = None,
    keys: Collection[str] | None = None,
    split: str | None = None,
    max_per_class: int | None = None,
    progress: Callable[[str], None] = lambda key: None,
) -> list[VideoRow]:
    """A dataset of the samples that pass every given filter; returns every row.

    Classes that are not named leave the list of classes, so labels change. `max_per_class` takes
    the first keys of each class and split. InputError for an unknown name.
    """
    require_outside(out, source)
    read = read_source(source)
    known = read.manifest.classes
    rows = [part.row for part in read.parts] + read.other_rows
    # A misspelt name would otherwise give a smaller dataset without a word.
    _refuse_unknown(source, "class", classes, known)
    _refuse_unknown(source, "key", keys, {row.key for row in rows})
    _refuse_unknown(source, "split", None if split is None else [split], read.manifest.splits)

    def is_kept(row: VideoRow) -> bool:
        in_class = classes is None or row.class_name in classes
        return (
            in_class and (keys is None or row.key in keys) and (split is None or row.split == split)
        )

    parts = _first_of_each_class([part for part in read.parts if is_kept(part.row)], max_per_class)
    if not parts:
        raise InputError(
            f"{source}: no sample is left by this choice; `twinstream shards info` tells what "
            "there is"
        )
    choice = {"classes": classes, "keys": keys, "split": split, "max_per_class": max_per_class}
    settings = read.manifest.settings | {
        f"subset.{name}": sorted(value)
        if isinstance(value, Collection) and not isinstance(value, str)
        else value
        for name, value in choice.items()
    }
    settings |= {
        "subset.of": file_sha256(source / FILE_NAME),
        VIDEOS_PER_SHARD: samples_per_shard(read.manifest),
    }
    kept = tuple(name for name in known if classes is None or name in classes)
    others = [row for row in read.other_rows if is_kept(row)]
    return write_parts(out, parts, others, kept, read.manifest.flow_codec, settings, progress)


def read_source(path: Location) -> Source:
    """The dataset at `path`; InputError for a sample that no row says is written."""
    manifest = read_manifest(path)
    table = dataset_file(path, VIDEOS_NAME)
    rows = {row.key: row for row in read_videos(table, manifest.classes)}
    parts = []
    for stored in stored_samples(path, manifest):
        row = rows.get(stored.index.key)
        if row is None or row.status != Status.WRITTEN:
            raise InputError(
                f"{path}: {stored.index.key}: no row in {VIDEOS_NAME} says it is written"
            )
        parts.append(Part(stored, row))
    return Source(
        path, manifest, parts, [row for row in rows.values() if row.status != Status.WRITTEN]
    )


def _fill_alike(spool: SampleSpool, meta: SampleMeta, images: Iterator[bytes]) -> dict[str, Any]:
    fill_spool(spool, meta.num_frames, images)
    return {}


def write_parts(
    out: Location,
    parts: list[Part],
    others: list[VideoRow],
    classes: tuple[str, ...],
    codec: FlowCodec,
    settings: dict[str, Any],
    progress: Callable[[str], None],
    fill: Fill = _fill_alike,
) -> list[VideoRow]:
    """Write the dataset of these parts, labelled by their class names; returns every row."""
    labels = {name: label for label, name in enumerate(classes)}
    copier = Copier()

    def relabelled(row: VideoRow) -> VideoRow:
        return replace(row, label=labels[row.class_name])

    def write(writer: ShardWriter, part: Part) -> VideoRow:
        members = copier.members(part.stored)
        meta = replace(meta_from_json(next(members)), label=part.label)
        # Through the spool, as the writer puts the JSON with the new label before the images.
        with sample_spool(out) as spool:
            changes = fill(spool, meta, members)
            writer.add(meta, spool)
        return replace(part.row, shard=writer.name, **changes)

    contents = Contents(classes, codec, settings, tuple(map(relabelled, others)))
    parts = [replace(part, row=relabelled(part.row)) for part in parts]
    plans = plan_shards(parts, settings[VIDEOS_PER_SHARD], key_hash)
    return write_dataset(DatasetBuild(out, plans, contents), write, progress)


def samples_per_shard(manifest: Manifest) -> int:
    """Samples per shard: the setting of the source, or the size of its fullest shard."""
    stated = manifest.settings.get(VIDEOS_PER_SHARD)
    fullest = max(
        (shard.num_samples for shards in manifest.splits.values() for shard in shards), default=1
    )
    return stated if isinstance(stated, int) and stated > 0 else fullest


def _first_of_each_class(parts: list[Part], max_per_class: int | None) -> list[Part]:
    counts: dict[tuple[str, str], int] = {}
    kept = []
    # By key and not by shard order, so that the choice does not depend on how shards were cut.
    for part in sorted(parts, key=lambda part: part.key):
        group = (part.split, part.row.class_name)
        counts[group] = counts.get(group, 0) + 1
        if max_per_class is None or counts[group] <= max_per_class:
            kept.append(part)
    return kept


def _refuse_unlike(first: Source, other: Source) -> None:
    """InputError when the codecs differ, or a setting that both have and that changes images."""
    if first.manifest.flow_codec != other.manifest.flow_codec:
        raise InputError(
            f"{other.path}: flow codec {other.manifest.flow_codec}, {first.path} has "
            f"{first.manifest.flow_codec}; flow of two codecs cannot be mixed; "
            f"{_conversion(first, other)} encodes one anew"
        )
    pixels = pixel_settings(first.manifest.settings)
    for name in sorted(pixels.keys() & other.manifest.settings.keys()):
        found, wanted = other.manifest.settings[name], first.manifest.settings[name]
        if found != wanted:
            raise InputError(
                f"{other.path}: made with {name} = {found}, {first.path} with {wanted}; they "
                "cannot be mixed"
            )


def _conversion(first: Source, other: Source) -> str:
    """The command that brings one of them to the codec of the other, which is ours."""
    codec = first.manifest.flow_codec
    ours, theirs = (first, other) if codec == our_codec(codec.bound) else (other, first)
    bound = ours.manifest.flow_codec.bound
    return f"`twinstream shards convert-codec {theirs.path} --bound {bound} --out OUT`"


def _refuse_twice(sources: list[Source]) -> None:
    owners: dict[str, Location] = {}
    for source in sources:
        for row in [*(part.row for part in source.parts), *source.other_rows]:
            if row.key in owners:
                raise InputError(
                    f"{row.key}: in {owners[row.key]} and in {source.path}; take a subset of one "
                    "without it"
                )
            owners[row.key] = source.path


def _refuse_unknown(
    source: Location, what: str, asked: Collection[str] | None, known: Collection[str]
) -> None:
    for name in asked or ():
        if name not in known:
            raise InputError(f"{source}: no {what} {name!r} among {len(known)}")
