"""Exports a shard dataset as a rawframes folder for mmaction2: the stored JPEGs, byte for byte.

The folder of a video appears complete or not at all, and a complete one is left as it is. So the
same command continues a run that was stopped. Lists are written last. Files are not synced to disk
one by one, as a video has hundreds; the price is that a power cut can leave cut files, which the
next run finds by their sizes.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from twinstream.errors import InputError
from twinstream.shards.format.index import SampleIndex
from twinstream.shards.format.manifest import read_manifest
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
from twinstream.shards.storage.location import Location, require_outside
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
    samples = stored_samples(dataset, manifest)
    # Before any file is written: two samples of one folder name are an error of the whole export.
    folders = video_folders(
        [(sample.index.key, manifest.classes[sample.index.label]) for sample in samples]
    )
    copier, copied = Copier(), 0
    with (
        owned(out, "twinstream shards export"),
        one_line_disk_faults(out, "finished folders are kept", SAME_COMMAND, option="--out"),
    ):
        _clear_leftovers(out)
        for sample in samples:
            copied += _export_video(out, folders[sample.index.key], sample, copier)
            progress(folders[sample.index.key])
        for split in manifest.splits:
            _write_lists(
                out, split, folders, [sample.index for sample in samples if sample.split == split]
            )
        classes = "".join(f"{name}\n" for name in manifest.classes)
        write_atomically(out / CLASSES_NAME, classes.encode())
    return copied


def video_folders(videos: Iterable[tuple[str, str]]) -> dict[str, str]:
    """(key, class) pairs -> `CLASS/VIDEO` by key.

    VIDEO is the last part of the key: a/Run/v_1 of class `to run` is to_run/v_1. InputError that
    names two keys of one folder, or a name that no disk takes.
    """
    owners: dict[str, str] = {}
    for key, class_name in videos:
        folder = f"{folder_name(class_name)}/{folder_name(key.rpartition('/')[2])}"
        for name in folder.split("/"):
            if (num_bytes := len(os.fsencode(name))) > NAME_BYTES:
                raise InputError(
                    f"{key}: the folder {name[:20]}... would have a name of {num_bytes} bytes, and "
                    f"a disk takes {NAME_BYTES}; export a subset without it"
                )
        if folder in owners:
            raise InputError(
                f"{key} and {owners[folder]}: both would be the folder {folder}; export a subset "
                "of each"
            )
        owners[folder] = key
    return {key: folder for folder, key in owners.items()}


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


def _write_lists(
    out: Path, split: str, folders: dict[str, str], samples: list[SampleIndex]
) -> None:
    # Two lists, as mmaction2 trusts the number in a line, and N frames have N - 1 flow fields.
    for suffix, spare in ((RGB_LIST, 0), (FLOW_LIST, 1)):
        videos = [
            ListedVideo(folders[row.key], row.num_frames - spare, row.label) for row in samples
        ]
        write_atomically(out / f"{folder_name(split)}{suffix}", list_text(videos).encode())
