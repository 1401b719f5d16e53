"""Shards: whole or absent, the same bytes every time, readable by anyone's WebDataset reader."""

import errno
import hashlib
import json
import tarfile
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.support.datasets import (
    HEIGHT,
    SETTINGS,
    WIDTH,
    fill_spool,
    make_catalog,
    write_dataset,
    write_job,
)
from tests.support.digests import digests
from twinstream.preprocess.plan import plan_jobs
from twinstream.shards.format.index import read_index, read_index_file
from twinstream.shards.format.sample import SampleMeta, member_names
from twinstream.shards.storage.atomic import atomic_file, remove_temporaries
from twinstream.shards.write.writer import sample_spool, write_shard


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "a", {"train": 3, "test": 2})
    second = write_dataset(tmp_path / "b", {"train": 3, "test": 2})
    assert digests(first) == digests(second)
    assert sorted(digests(first)) == [
        "dataset.json",
        "test/test-000000.parquet",
        "test/test-000000.tar",
        "train/train-000000.parquet",
        "train/train-000000.tar",
        "train/train-000001.parquet",
        "train/train-000001.tar",
        "videos.parquet",
    ]


def test_a_spool_is_read_like_the_shard_that_is_written_from_it(
    dataset: Path, tmp_path: Path
) -> None:
    (stored, *_) = read_index(dataset / "test" / "test-000000.parquet")
    tar = (dataset / "test" / "test-000000.tar").read_bytes()
    with sample_spool(tmp_path) as spool:
        fill_spool(spool, stored.num_frames, stored.label)
        index = spool.sample_index(stored.key, stored.label, HEIGHT, WIDTH)
        assert (index.key, index.label, index.num_frames) == (stored.key, 0, stored.num_frames)
        assert (index.height, index.width) == (HEIGHT, WIDTH)
        assert index.sizes[1:].tolist() == stored.sizes[1:].tolist()
        for member in reversed(range(1, len(index.sizes))):
            begin, size = int(stored.offsets[member]), int(stored.sizes[member])
            assert spool.read(int(index.offsets[member]), size) == tar[begin : begin + size]
        neighbours = spool.read(int(index.offsets[-2]), int(index.sizes[-2:].sum()))
        assert neighbours == b"".join([*spool.members()][-2:])


def test_offsets_and_sizes_of_the_index_are_those_of_the_tar(dataset: Path) -> None:
    with tarfile.open(dataset / "train" / "train-000000.tar") as tar:
        members = [(member.name, member.offset_data, member.size) for member in tar]
    promised = [
        place
        for row in read_index(dataset / "train" / "train-000000.parquet")
        for place in zip(member_names(row.key, row.num_frames), row.offsets, row.sizes, strict=True)
    ]
    assert members == promised


def test_headers_carry_no_clock_owner_or_host(dataset: Path) -> None:
    with tarfile.open(dataset / "test" / "test-000000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


# Importing webdataset imports torch, whose own modules warn of things that are not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_bytes", [90, 100, 101, 240, 255, 1000, 4000])
def test_a_key_longer_than_a_tar_header_is_stored_whole(tmp_path: Path, num_bytes: int) -> None:
    import webdataset

    key = "a class with spaces/länge/" + "x" * (num_bytes - 27)
    assert len(key.encode()) == num_bytes
    with (
        write_shard(tmp_path / "train", "train-000000", SETTINGS, []) as writer,
        sample_spool(tmp_path) as spool,
    ):
        fill_spool(spool, 7, 0)
        writer.add(SampleMeta(key, "a", 0, 7, WIDTH, HEIGHT, 25.0, 64, 48), spool)
    with tarfile.open(tmp_path / "train" / "train-000000.tar") as tar:
        places = [(member.name, member.offset_data) for member in tar]
    (row,) = read_index(tmp_path / "train" / "train-000000.parquet")
    assert places == list(zip(member_names(key, 7), row.offsets, strict=True))
    url = str(tmp_path / "train" / "train-000000.tar")
    (sample,) = webdataset.WebDataset([url], shardshuffle=False)
    assert sample["__key__"] == key
    assert sum(not name.startswith("__") for name in sample) == 1 + 7 + 2 * 6


def fail_midway(folder: Path) -> None:
    with write_shard(folder, "train-000000", SETTINGS, []) as writer, sample_spool(folder) as spool:
        fill_spool(spool, 7, 0)
        writer.add(SampleMeta("k", "a", 0, 7, WIDTH, HEIGHT, 25.0, 64, 48), spool)
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_shard_that_fails_midway_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        fail_midway(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_job_without_a_usable_video_leaves_a_record_and_no_tar(tmp_path: Path) -> None:
    with write_shard(tmp_path, "train-000000", SETTINGS, []):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["train-000000.parquet"]
    assert read_index_file(tmp_path / "train-000000.parquet").record.num_bytes == 0


def test_the_index_records_hash_settings_and_rows_of_its_job(tmp_path: Path) -> None:
    (job,) = plan_jobs(make_catalog({"train": 2}).videos, 5, seed=0)
    write_job(tmp_path, job)
    record = read_index_file(tmp_path / "train" / "train-000000.parquet").record
    assert (
        record.sha256
        == hashlib.sha256((tmp_path / "train" / "train-000000.tar").read_bytes()).hexdigest()
    )
    assert record.settings == SETTINGS
    assert [row.key for row in record.videos] == [video.key for video in job.items]


def test_an_atomic_file_closed_in_its_block_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with atomic_file(tmp_path / "x") as file:
        file.write(b"new")
        file.close()
    assert (tmp_path / "x").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_leftovers_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / ".train-000000.tar.12ab34cd.tmp").write_bytes(b"half")
    (tmp_path / "train" / "train-000001.tar").write_bytes(b"whole")
    remove_temporaries(tmp_path)
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["train-000001.tar"]


def test_the_manifest_names_no_place_or_time(dataset: Path) -> None:
    text = (dataset / "dataset.json").read_text()
    assert str(dataset.parent) not in text
    assert set(json.loads(text)) == {
        "classes",
        "flow_codec",
        "format",
        "settings",
        "settings_sha256",
        "sha256",
        "splits",
        "videos",
    }


# Importing webdataset imports torch, whose own modules warn of things that are not ours to mend.
@pytest.mark.filterwarnings("ignore")
def test_a_plain_webdataset_reader_finds_every_member(dataset: Path) -> None:
    import webdataset

    urls = [str(path) for path in sorted((dataset / "train").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == 3
    for sample in samples:
        num_frames = sample["json"]["num_frames"]
        for prefix, count in (
            ("rgb.", num_frames),
            ("flow_x.", num_frames - 1),
            ("flow_y.", num_frames - 1),
        ):
            assert sum(name.startswith(prefix) for name in sample) == count


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127 + "a", "train-000000.tar"])
def test_a_file_of_the_longest_name_is_written_by_a_name_that_is_cleared(
    tmp_path: Path, name: str
) -> None:
    with atomic_file(tmp_path / name) as file:
        (temporary,) = tmp_path.iterdir()
        assert fnmatchcase(temporary.name, f".{name[:10]}*.tmp")
        file.write(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    temporary.touch()
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
