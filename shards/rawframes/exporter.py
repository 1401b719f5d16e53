"""Exports a shard dataset as a rawframes folder for mmaction2: the stored JPEGs, byte for byte.

The folder of a video appears complete or not at all, and a complete one is left as it is. So the
same command continues a run that was stopped. Lists are written last. Files are not synced to disk
one by one, as a video has hundreds; the price is that a power cut can leave cut files, which the
next run finds by their sizes.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twinstream.errors import InputError
from twinstream.shards.format.columns import TEXT, TableBuilder, order_of, values
from twinstream.shards.format.manifest import read_manifest
from twinstream.shards.format.video_table import VIDEOS_NAME, Status, StoredRows
from twinstream.shards.rawframes.names import (
    CLASSES_NAME,
    FLOW_LIST,
    RGB_LIST,
    ListedVideo,
    folder_name,
    image_names,
    list_text,
)
from twinstream.shards.storage.atomic import (
    NAME_BYTES,
    one_line_disk_faults,
    temporary_name,
    write_atomically,
)
from twinstream.shards.storage.location import Location, dataset_file, require_outside
from twinstream.shards.storage.lock import owned
from twinstream.shards.storage.walk import folder_entries
from twinstream.shards.write.copying import Copier, StoredBytes, stored_samples
from twinstream.shards.write.dataset import SAME_COMMAND


def export_rawframes(
    dataset: Location, out: Path, progress: Callable[[str], None] = lambda folder: None
) -> int:
    """Write CLASS/VIDEO folders, two lists a split and classes.txt; returns the videos copied.

    InputError for a folder that holds something else, or while another run writes there.
    """
    require_outside(out, dataset)
    manifest = read_manifest(dataset)
    # Before any file is written: two samples of one folder name are an error of the whole export.
    refuse_one_folder(_written_videos(dataset))
    copier, copied = Copier(), 0
    with (
        owned(out, "twinstream shards export"),
        one_line_disk_faults(out, "finished folders are kept", SAME_COMMAND, option="--out"),
    ):
        _clear_leftovers(out)
        listed: dict[str, list[ListedVideo]] = {split: [] for split in manifest.splits}
        for sample in stored_samples(dataset, manifest):
            index = sample.index
            folder = video_folder(index.key, manifest.classes[index.label])
            copied += _export_video(out, folder, sample, copier)
            listed[sample.split].append(ListedVideo(folder, index.num_frames, index.label))
            progress(folder)
        for split, videos in listed.items():
            _write_lists(out, split, videos)
        classes = "".join(f"{name}\n" for name in manifest.classes)
        write_atomically(out / CLASSES_NAME, classes.encode())
    return copied


def _written_videos(dataset: Location) -> Iterator[tuple[str, str]]:
    """Key and class of every sample."""
    for rows in StoredRows(dataset_file(dataset, VIDEOS_NAME)).tables(
        ["key", "class_name", "status"]
    ):
        there = rows.filter(pc.equal(rows["status"], Status.WRITTEN.value))
        yield from zip(values(there["key"]), values(there["class_name"]), strict=True)


def video_folder(key: str, class_name: str) -> str:
    """`CLASS/VIDEO`; VIDEO is the last part of the key: a/Run/v_1 of class `to run` is to_run/v_1.

    InputError for a name that no disk takes.
    """
    folder = f"{folder_name(class_name)}/{folder_name(key.rpartition('/')[2])}"
    for name in folder.split("/"):
        if (num_bytes := len(os.fsencode(name))) > NAME_BYTES:
            raise InputError(
                f"{key}: the folder {name[:20]}... would have a name of {num_bytes} bytes, and "
                f"a disk takes {NAME_BYTES}; export a subset without it"
            )
    return folder


def refuse_one_folder(videos: Iterable[tuple[str, str]]) -> None:
    """InputError that names two keys of one folder, of (key, class) pairs."""
    builder = TableBuilder(pa.schema([("folder", TEXT), ("key", TEXT)]))
    for key, class_name in videos:
        builder.add(video_folder(key, class_name), key)
    table = builder.table()
    ordered = table.take(pa.array(order_of(table["folder"])))
    folders = ordered["folder"]
    twice = np.flatnonzero(np.asarray(pc.equal(folders[1:], folders[:-1])))
    if len(twice):
        first, second = values(ordered["key"].slice(int(twice[0]), 2))
        raise InputError(
            f"{second} and {first}: both would be the folder {folders[int(twice[0])].as_py()}; "
            "export a subset of each"
        )


def _export_video(out: Path, folder: str, sample: StoredBytes, copier: Copier) -> bool:
    """Copy a sample's images to `out`/`folder`; False when they are there already."""
    target = out / folder
    target.parent.mkdir(exist_ok=True)
    # A link with the name of a class would let the export write into a foreign folder.
    if not target.parent.resolve().is_relative_to(out.resolve()):
        raise InputError(
            f"{target.parent}: leads out of {out}; remove the link or choose another --out"
        )
    names = image_names(sample.index.num_frames)
    if target.exists():
        # sizes[0] is the JSON member, which is not exported.
        _refuse_other_files(target, dict(zip(names, sample.index.sizes[1:].tolist(), strict=True)))
        return False
    temporary = target.with_name(temporary_name(target.name))
    temporary.mkdir()
    try:
        members = copier.members(sample)
        next(members)  # The JSON member.
        for name, data in zip(names, members, strict=True):
            (temporary / name).write_bytes(data)
        os.rename(temporary, target)
    # Ctrl-C too: the folder may hold hundreds of files.
    except BaseException:
        shutil.rmtree(temporary)
        raise
    return True


def _refuse_other_files(folder: Path, expected: dict[str, int]) -> None:
    found = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    if found != expected:
        name = min(
            name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
        )
        raise InputError(
            f"{folder}: {name} has {found.get(name, 'no')} bytes, expected "
            f"{expected.get(name, 'no such file')}; "
            "this is not what this dataset holds: remove the folder or choose another --out"
        )


def _clear_leftovers(out: Path) -> None:
    for entry in [*folder_entries(out)]:
        if entry.is_dir(follow_symlinks=False):
            for leftover in [*folder_entries(out / entry.name)]:
                if fnmatchcase(leftover.name, ".*.tmp"):
                    shutil.rmtree(leftover)


def _write_lists(out: Path, split: str, videos: list[ListedVideo]) -> None:
    # Two lists, as mmaction2 trusts the number in a line, and N frames have N - 1 flow fields.
    for suffix, spare in ((RGB_LIST, 0), (FLOW_LIST, 1)):
        lines = [replace(video, count=video.count - spare) for video in videos]
        write_atomically(out / f"{folder_name(split)}{suffix}", list_text(lines).encode())
