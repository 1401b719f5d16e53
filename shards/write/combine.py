"""Make a dataset from others without new encoding: merge several, or take a subset of one.

Samples keep their bytes, except for the label in their JSON. The rows of skipped and missing videos
are copied too, so that no video is lost silently. The settings of the result hold the SHA-256 of
each source's manifest, so it is known from which bytes it was made.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from twinstream.errors import InputError
from twinstream.shards.format.columns import TEXT, Records, Some, TableBuilder, order_of
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
from twinstream.shards.format.video_table import (
    CODED,
    VIDEOS_NAME,
    Status,
    StoredRows,
    VideoRow,
    refuse_other_classes,
)
from twinstream.shards.storage.location import Location, dataset_file, file_sha256, require_outside
from twinstream.shards.write.copying import Copier, SampleFinder, StoredBytes, fill_spool
from twinstream.shards.write.dataset import DatasetBuild, write_dataset
from twinstream.shards.write.finished import Contents
from twinstream.shards.write.plan import key_hash, plan_shards
from twinstream.shards.write.writer import SampleSpool, ShardWriter, sample_spool

VIDEOS_PER_SHARD = "shards.videos_per_shard"
# Puts a sample's images, frames and then flow, into the spool; returns what changes in its row.
Fill = Callable[[SampleSpool, SampleMeta, Iterator[bytes]], dict[str, Any]]
# A row of videos.parquet, and the number of the dataset that it is of.
PART = CODED.append(pa.field("source", pa.int32()))


@dataclass(frozen=True)
class Part:
    """A video of one of several datasets, with the row that it will have in the new one."""

    row: VideoRow
    source: int

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
        return self.row.split


@dataclass(frozen=True)
class Sources:
    """Datasets to copy from, and the rows of all their videos as columns (`PART`)."""

    paths: Sequence[Location]
    manifests: Sequence[Manifest]
    videos: pa.Table


def merge(
    sources: Sequence[Location], out: Location, progress: Callable[[str], None] = lambda key: None
) -> StoredRows:
    """One dataset of all samples of the sources; returns every row.

    Classes are joined by name, in order of appearance. InputError when codecs or settings cannot be
    mixed, or when two sources have the same video.
    """
    for source in sources:
        require_outside(out, source)
    read = read_sources(sources)
    manifests = read.manifests
    for path, manifest in zip(sources, manifests, strict=True):
        _refuse_unlike(sources[0], manifests[0], path, manifest)
    first = manifests[0]
    classes = tuple(dict.fromkeys(name for manifest in manifests for name in manifest.classes))
    # A setting in which the sources differ has no one value for the result and is left out.
    settings = {
        name: value
        for name, value in first.settings.items()
        if all(manifest.settings.get(name) == value for manifest in manifests)
    }
    settings |= {
        "merge.sources": [file_sha256(path / FILE_NAME) for path in sources],
        VIDEOS_PER_SHARD: samples_per_shard(first),
    }
    cuts = [cut_at(manifest.settings, first.flow_codec.bound) for manifest in manifests]
    # Of another bound each, all the same cut: convert.codec is not in the result.
    known = [cut for cut in cuts if cut is not None]
    if len(known) == len(manifests):
        settings["convert.cut"] = max(known)
    every = np.ones(read.videos.num_rows, bool)
    return write_parts(out, read, every, classes, first.flow_codec, settings, progress)


def subset(
    source: Location,
    out: Location,
    *,
    classes: Collection[str] | None = None,
    keys: Collection[str] | None = None,
    split: str | None = None,
    max_per_class: int | None = None,
    expect: Callable[[int], None] = lambda total: None,
    progress: Callable[[str], None] = lambda key: None,
) -> StoredRows:
    """A dataset of the samples that pass every given filter; returns every row.

    Classes that are not named leave the list of classes, so labels change. `max_per_class` takes
    the first keys of each class and split. InputError for an unknown name.
    """
    require_outside(out, source)
    read = read_sources([source])
    (manifest,), videos = read.manifests, read.videos
    known = manifest.classes
    # A misspelt name would otherwise give a smaller dataset without a word.
    _refuse_unknown(source, "class", classes, known)
    if keys is not None:
        there = pc.is_in(pa.array([*keys], TEXT), videos["key"])
        unknown = next(compress(keys, pc.invert(there).to_pylist()), None)
        if unknown is not None:
            raise InputError(f"{source}: no key {unknown!r} among {len(videos)}")
    _refuse_unknown(source, "split", None if split is None else [split], manifest.splits)
    kept = np.ones(len(videos), bool)
    chosen = (("class_name", classes), ("key", keys), ("split", None if split is None else [split]))
    for name, asked in chosen:
        if asked is not None:
            column = videos[name].cast(TEXT)
            kept &= np.asarray(pc.is_in(column, pa.array([*asked], TEXT)))
    is_written = written(videos)
    if max_per_class is not None:
        kept &= ~is_written | _is_among_first(videos, kept & is_written, max_per_class)
    if not (kept & is_written).any():
        raise InputError(
            f"{source}: no sample is left by this choice; `twinstream shards info` tells what "
            "there is"
        )
    expect(int((kept & is_written).sum()))
    choice = {"classes": classes, "keys": keys, "split": split, "max_per_class": max_per_class}
    settings = manifest.settings | {
        f"subset.{name}": sorted(value)
        if isinstance(value, Collection) and not isinstance(value, str)
        else value
        for name, value in choice.items()
    }
    settings |= {
        "subset.of": file_sha256(source / FILE_NAME),
        VIDEOS_PER_SHARD: samples_per_shard(manifest),
    }
    left = tuple(name for name in known if classes is None or name in classes)
    return write_parts(out, read, kept, left, manifest.flow_codec, settings, progress)


def read_sources(paths: Sequence[Location]) -> Sources:
    """The datasets at `paths`.

    InputError for a sample that no row says is written, and for a video with two rows.
    """
    manifests = [read_manifest(path) for path in paths]
    builder = TableBuilder(PART)
    for number, (path, manifest) in enumerate(zip(paths, manifests, strict=True)):
        table = dataset_file(path, VIDEOS_NAME)
        for rows in StoredRows(table).tables():
            refuse_other_classes(table, rows, manifest.classes)
            source = pa.array(np.full(rows.num_rows, number, np.int32))
            builder.add_table(rows.append_column(PART.field("source"), source))
    videos = builder.table()
    for number, (path, manifest) in enumerate(zip(paths, manifests, strict=True)):
        is_there = written(videos) & (np.asarray(videos["source"]) == number)
        SampleFinder(path, manifest).refuse_unwritten(videos.filter(pa.array(is_there)))
    sources = Sources(paths, manifests, videos)
    _refuse_twice(sources)
    return sources


def written(videos: pa.Table) -> NDArray[np.bool_]:
    """(V,) which videos are in a shard."""
    return np.asarray(pc.equal(videos["status"].cast(pa.string()), Status.WRITTEN.value))


def _meta(stored: StoredBytes, data: bytes) -> SampleMeta:
    """The JSON member of a sample; InputError where it is not that of its index."""
    where = f"{stored.dataset / stored.shard.tar.path}: {stored.index.key}"
    try:
        meta = meta_from_json(data)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    # So many images are copied as the JSON says.
    if (meta.key, meta.num_frames) != (stored.index.key, stored.index.num_frames):
        raise InputError(
            f"{where}: its JSON names {meta.key!r} of {meta.num_frames} frames, the index "
            f"{stored.index.num_frames}"
        )
    return meta


def _fill_alike(spool: SampleSpool, meta: SampleMeta, images: Iterator[bytes]) -> dict[str, Any]:
    fill_spool(spool, meta.num_frames, images)
    return {}


def write_parts(
    out: Location,
    sources: Sources,
    kept: NDArray[np.bool_],
    classes: tuple[str, ...],
    codec: FlowCodec,
    settings: dict[str, Any],
    progress: Callable[[str], None],
    fill: Fill = _fill_alike,
) -> StoredRows:
    """Write the dataset of the videos that are kept, labelled by their class names.

    Returns every row.
    """
    videos = _relabelled(sources.videos, classes)
    is_written, whole = written(videos), Records(videos, _part)
    parts: Some[Part] = Some(whole, np.flatnonzero(kept & is_written))
    others = Some(whole, np.flatnonzero(kept & ~is_written), lambda part: part.row)
    finders = [*map(SampleFinder, sources.paths, sources.manifests)]
    copier = Copier()

    def write(writer: ShardWriter, part: Part) -> VideoRow:
        row = part.row
        stored = finders[part.source].find(row.split, row.shard, row.key)
        members = copier.members(stored)
        meta = replace(_meta(stored, next(members)), label=part.label)
        # Through the spool, as the writer puts the JSON with the new label before the images.
        with sample_spool(out) as spool:
            changes = fill(spool, meta, members)
            writer.add(meta, spool)
        return replace(row, shard=writer.name, **changes)

    contents = Contents(classes, codec, settings, others)
    plans = plan_shards(parts, settings[VIDEOS_PER_SHARD], key_hash)
    return write_dataset(DatasetBuild(out, plans, contents), write, progress)


def _part(*columns: Any) -> Part:
    return Part(VideoRow(*columns[:-1]), columns[-1])


def _relabelled(videos: pa.Table, classes: tuple[str, ...]) -> pa.Table:
    names = videos["class_name"].chunk(0)
    label_of = {name: label for label, name in enumerate(classes)}
    # Of a class that is left out no video is kept.
    known = [label_of.get(name, -1) for name in names.dictionary.to_pylist()]
    labels = pa.array(known, pa.int32()).take(names.indices)
    return videos.set_column(videos.column_names.index("label"), PART.field("label"), labels)


def samples_per_shard(manifest: Manifest) -> int:
    """Samples per shard: the setting of the source, or the size of its fullest shard."""
    stated = manifest.settings.get(VIDEOS_PER_SHARD)
    fullest = max(
        (shard.num_samples for shards in manifest.splits.values() for shard in shards), default=1
    )
    return stated if isinstance(stated, int) and stated > 0 else fullest


def _is_among_first(
    videos: pa.Table, chosen: NDArray[np.bool_], max_per_class: int
) -> NDArray[np.bool_]:
    """(V,) whether a chosen video is one of the first of its class and split."""
    # By key and not by shard order, so that the choice does not depend on how shards were cut.
    order = order_of(videos["key"])
    order = order[chosen[order]]
    codes = [np.asarray(videos[name].chunk(0).indices)[order] for name in ("split", "class_name")]
    grouped = np.lexsort(codes)
    is_new = np.any([np.diff(code[grouped], prepend=-1) != 0 for code in codes], axis=0)
    begins = np.flatnonzero(is_new)
    places = np.arange(len(order)) - np.repeat(begins, np.diff(np.append(begins, len(order))))
    found = np.zeros(len(chosen), bool)
    found[order[grouped[places < max_per_class]]] = True
    return found


def _refuse_unlike(first: Location, mine: Manifest, path: Location, other: Manifest) -> None:
    """InputError when the codecs differ, or a setting that both have and that changes images."""
    if mine.flow_codec != other.flow_codec:
        raise InputError(
            f"{path}: flow codec {other.flow_codec}, {first} has {mine.flow_codec}; flow of two "
            f"codecs cannot be mixed; {_conversion(first, mine, path, other)} encodes one anew"
        )
    pixels, others = pixel_settings(mine.settings), pixel_settings(other.settings)
    for name in sorted(pixels.keys() & others.keys()):
        found, wanted = others[name], pixels[name]
        if found != wanted:
            raise InputError(
                f"{path}: made with {name} = {found}, {first} with {wanted}; they cannot be mixed"
            )


def _conversion(first: Location, mine: Manifest, path: Location, other: Manifest) -> str:
    """The command that brings one of them to the codec of the other, which is ours."""
    codec = mine.flow_codec
    is_ours = codec == our_codec(codec.bound)
    bound = (codec if is_ours else other.flow_codec).bound
    theirs = path if is_ours else first
    return f"`twinstream shards convert-codec {theirs} --bound {bound} --out OUT`"


def _refuse_twice(sources: Sources) -> None:
    order = order_of(sources.videos["key"])
    keys = sources.videos["key"].take(pa.array(order))
    twice = np.flatnonzero(np.asarray(pc.equal(keys[1:], keys[:-1])))
    if len(twice):
        at = order[twice[0] : twice[0] + 2]
        first, second = (
            sources.paths[n] for n in np.sort(np.asarray(sources.videos["source"])[at])
        )
        key = keys[int(twice[0])].as_py()
        if first == second:
            raise InputError(
                f"{first}: {key}: two rows of {VIDEOS_NAME}; `twinstream shards verify` tells more"
            )
        raise InputError(f"{key}: in {first} and in {second}; take a subset of one without it")


def _refuse_unknown(
    source: Location, what: str, asked: Collection[str] | None, known: Collection[str]
) -> None:
    for name in asked or ():
        if name not in known:
            raise InputError(f"{source}: no {what} {name!r} among {len(known)}")
