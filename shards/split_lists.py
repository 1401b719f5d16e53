"""Stores lists in a dataset as virtual splits (`shards.read.virtual_splits`).

They lie beside the manifest: no byte of the dataset changes, and a reader that does not know them
sees the splits of the shards.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath

from twinstream.errors import InputError
from twinstream.progress import LOGGER
from twinstream.shards.format.listings import Listed
from twinstream.shards.format.manifest import FILE_NAME, MAX_BYTES, read_manifest
from twinstream.shards.format.split_file import (
    FOLDER,
    SplitFile,
    SplitList,
    parse_split,
    split_bytes,
    split_path,
)
from twinstream.shards.format.split_names import is_split_name
from twinstream.shards.format.video_table import VIDEOS_NAME, read_columns
from twinstream.shards.read.virtual_splits import (
    COLUMNS,
    VirtualSplit,
    read_list,
    resolve,
    stored_names,
    stored_split,
    stored_splits,
)
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.location import (
    Location,
    dataset_file,
    file_sha256,
    is_inside,
    read_whole,
)


def add_split(dataset: Location, name: str, source: str) -> VirtualSplit:
    """Store the split of a list; the same again is no fault.

    InputError for a name that is taken or no word, and for a list that does not fit the dataset.
    """
    if not is_split_name(name):
        raise InputError(f"--add {name!r}: expected a word in lower case, such as test2")
    if name in read_manifest(dataset).splits:
        raise InputError(f"--add {name}: {dataset} has shards of this split; choose another name")
    listed = read_list(dataset, source)
    split = _split_file(file_sha256(dataset_file(dataset, FILE_NAME)), listed)
    # Runs name a split: its videos must not become others behind their backs.
    before = stored_split(dataset, name)
    if before is not None and before.keys != split.keys:
        raise InputError(
            f"--add {name}: is there with other videos, from {before.source}; --remove it first, "
            "or choose another name"
        )
    _write(dataset, name, split)
    return listed


def store_splits(dataset: Location, lists: Sequence[SplitList]) -> None:
    """Store these splits of a dataset that is whole; tells which have no video in a shard.

    One that is there with other videos stays, and is told too: runs may name it.
    """
    if not lists:
        return
    videos = read_columns(dataset_file(dataset, VIDEOS_NAME), COLUMNS)
    digest = file_sha256(dataset_file(dataset, FILE_NAME))
    for one in lists:
        listed = [Listed(key, "", "", one.source) for key in one.keys]
        try:
            split = _split_file(digest, resolve(listed, videos, one.source, one.sha256))
        except InputError as error:
            LOGGER.warning(f"no split {one.name}: {error}")
            continue
        path = dataset_file(dataset, f"{FOLDER}/{one.name}.json")
        before = parse_split(read_whole(path, MAX_BYTES), path) if path.exists() else None
        if before is not None and before.dataset_sha256 == digest:
            if before.keys != split.keys:
                LOGGER.warning(f"{path}: kept, though {one.source} names other videos")
            continue
        _write(dataset, one.name, split)


def _split_file(dataset_sha256: str, split: VirtualSplit) -> SplitFile:
    return SplitFile(
        dataset_sha256=dataset_sha256,
        source=PurePosixPath(split.name).name,
        source_sha256=split.sha256,
        left_out=split.left_out,
        keys=split.keys,
    )


def _write(dataset: Location, name: str, split: SplitFile) -> None:
    path = split_path(dataset, name)
    if not is_inside(path.parent, dataset):
        raise InputError(f"{path.parent}: a link out of the dataset's folder; remove it")
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, split_bytes(split))


def remove_split(dataset: Location, name: str) -> None:
    """Remove a stored split; InputError where none has this name."""
    if name not in stored_names(dataset):
        raise InputError(f"--remove {name}: {dataset} stores no such split")
    split_path(dataset, name).unlink()


def describe_splits(dataset: Location) -> str:
    """A line for each split: `test2: 3696 videos, from testlist02.txt`."""
    lines = [
        f"{name}: {sum(shard.num_samples for shard in shards)} videos, in {len(shards)} shards"
        for name, shards in read_manifest(dataset).splits.items()
    ]
    lines += [
        str(split)
        if isinstance(split, InputError)
        else f"{name}: {len(split.keys)} videos, from {split.source}"
        for name, split in stored_splits(dataset).items()
    ]
    return "\n".join(lines)
