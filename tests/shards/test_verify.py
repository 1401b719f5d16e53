"""Verify: silent on a sound dataset, and every kind of fault is found and named."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.files import change_member
from tests.support.datasets import FirstOfAll, rewritten
from twinstream.errors import InputError
from twinstream.shards.format.index import index_bytes, read_index_file
from twinstream.shards.format.manifest import FileEntry, manifest_bytes, read_manifest
from twinstream.shards.format.split_file import SplitFile, split_bytes
from twinstream.shards.format.video_table import read_videos, videos_bytes
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.storage.location import file_sha256
from twinstream.shards.verify import fast_faults, faults, num_bytes


def test_a_sound_dataset_has_no_fault(dataset: Path) -> None:
    seen: list[str] = []
    assert list(faults(dataset, seen.append)) == []
    assert seen == ["test/test-000000.tar", "train/train-000000.tar", "train/train-000001.tar"]


@pytest.mark.parametrize("seed", range(6))
def test_any_flipped_byte_of_any_file_is_found(dataset: Path, seed: int) -> None:
    rng = random.Random(seed)
    for path in sorted(path for path in dataset.rglob("*") if path.is_file()):
        data = bytearray(path.read_bytes())
        places = {0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(4))}
        for place in places:
            changed = bytearray(data)
            changed[place] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            assert list(faults(dataset)), f"{path.name} byte {place}"
        path.write_bytes(data)
    assert list(faults(dataset)) == []


@pytest.mark.parametrize(
    "name", ["videos.parquet", "train/train-000000.tar", "train/train-000001.parquet"]
)
def test_an_absent_file_is_named(dataset: Path, name: str) -> None:
    (dataset / name).unlink()
    assert any(fault == f"{name}: No such file or directory" for fault in faults(dataset))


def test_a_file_that_the_manifest_does_not_name_is_told(dataset: Path) -> None:
    (dataset / "train" / "train-000009.tar").write_bytes(b"")
    assert list(faults(dataset)) == [
        "train/train-000009.tar: a file that dataset.json does not name"
    ]


def test_a_missing_flow_field_is_told_with_the_numbers(dataset: Path) -> None:
    from twinstream.shards.format.index import SCHEMA, read_index

    name = "test/test-000000.parquet"
    rows = [
        {field: getattr(row, field) for field in SCHEMA.names} for row in read_index(dataset / name)
    ]
    rows[0]["num_frames"] += 1
    rewritten(dataset, name, index_bytes(rows, read_index_file(dataset / name).record))
    assert any("20 offsets for 8 frames, expected 23" in fault for fault in faults(dataset))


def test_a_row_without_its_sample_and_a_sample_without_its_row_are_told(dataset: Path) -> None:
    rows = read_videos(dataset / "videos.parquet")
    renamed = [
        type(row)(**{**vars(row), "key": "other"}) if row.key == "left/train0" else row
        for row in rows
    ]
    rewritten(dataset, "videos.parquet", videos_bytes(renamed))
    printed = list(faults(dataset))
    assert any("other: said to be in train-00000" in fault for fault in printed)
    assert any(
        "left/train0: no row in videos.parquet says it is written" in fault for fault in printed
    )


def test_fast_finds_what_changed_a_byte_and_reads_all_that_it_promised(dataset: Path) -> None:
    seen: list[FileEntry] = []
    assert list(fast_faults(dataset, seen.append)) == []
    assert sum(entry.num_bytes for entry in seen) == num_bytes(dataset)
    assert {entry.path for entry in seen} == {
        p.relative_to(dataset).as_posix() for p in dataset.glob("**/*.[pt]a*r*")
    }
    tar = dataset / "train" / "train-000000.tar"
    changed = bytearray(tar.read_bytes())
    changed[len(changed) // 2] ^= 1
    tar.write_bytes(changed)
    (dataset / "test" / "test-000000.parquet").unlink()
    assert list(fast_faults(dataset)) == [
        "test/test-000000.parquet: No such file or directory",
        "train/train-000000.tar: changed since it was written (its SHA-256 differs)",
    ]


def test_fast_does_not_look_inside_files_whose_bytes_fit(dataset: Path) -> None:
    rewritten(dataset, "videos.parquet", b"no table")
    assert list(fast_faults(dataset)) == []
    assert list(faults(dataset)) != []


def test_a_row_whose_class_is_not_that_of_its_label_is_a_fault(dataset: Path) -> None:
    first, *others = read_videos(dataset / "videos.parquet")
    renamed = replace(first, class_name="up")
    rewritten(dataset, "videos.parquet", videos_bytes([renamed, *others]))
    assert list(faults(dataset)) == [
        f"videos.parquet: {first.key}: label {first.label} is up, not {first.class_name}"
    ]


def test_a_class_that_is_named_twice_is_a_fault(dataset: Path) -> None:
    manifest = read_manifest(dataset).model_copy(update={"classes": ("left", "right", "left")})
    (dataset / "dataset.json").write_bytes(manifest_bytes(manifest))
    assert "dataset.json: class left is there 2 times" in [*faults(dataset)]


@pytest.mark.parametrize("change", [{"split": "val"}, {"shard": "train-000001"}, {"num_frames": 9}])
def test_a_row_that_says_another_place_than_its_sample_has_is_a_fault(
    dataset: Path, change: dict[str, Any]
) -> None:
    first, *rows = read_videos(dataset / "videos.parquet")
    rewritten(dataset, "videos.parquet", videos_bytes([replace(first, **change), *rows]))
    (told,) = faults(dataset)
    assert told.startswith("videos.parquet: left/test0: said to be of ")
    assert told.endswith("; it is of 7 frames in test-000000 of test")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"width": 30}, "its JSON says 30x24; the index 32x24"),
        ({"class_name": "right"}, "its JSON names class right; dataset.json left"),
    ],
)
def test_what_readers_of_a_stream_go_by_is_compared(
    dataset: Path, change: dict[str, Any], told: str
) -> None:
    def other(data: bytes) -> bytes:
        # As long as it was, so that the index fits.
        meta = json.dumps(json.loads(data) | change, separators=(",", ":"), sort_keys=True)
        return meta.encode()

    change_member(".json", lambda data, rng: other(data))(dataset, FirstOfAll())
    assert list(faults(dataset)) == [f"test-000000.tar: left/test0: {told}"]


def store_split(dataset: Path, *keys: str) -> None:
    """A split `few` of these keys, right in all else."""
    data = split_bytes(
        SplitFile.model_construct(
            dataset_sha256=file_sha256(dataset / "dataset.json"),
            source="few.txt",
            source_sha256="0" * 64,
            left_out={},
            keys=keys,
        )
    )
    (dataset / "splits").mkdir()
    (dataset / "splits" / "few.json").write_bytes(data)


def test_a_stored_split_that_names_a_video_twice_is_a_fault(dataset: Path) -> None:
    store_split(dataset, "left/train0", "left/train0")
    (line,) = faults(dataset)
    assert line.endswith("(keys: expected each key once)")
    with pytest.raises(InputError, match="expected each key once"):
        ShardDataset(dataset).samples("few")


def test_a_stored_split_of_what_is_in_no_shard_is_a_fault(dataset: Path) -> None:
    store_split(dataset, "left/nobody", "left/train0")
    assert list(faults(dataset)) == ["few: left/nobody: in no shard"]
    with pytest.raises(InputError, match=r"1 of the 2 videos of few are in its shards"):
        ShardDataset(dataset).samples("few")
