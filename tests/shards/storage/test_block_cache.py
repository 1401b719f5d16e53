"""The cache of blocks: right bytes whatever happens to it, never larger than allowed."""

import fcntl
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from twinstream.errors import InputError
from twinstream.shards.format.manifest import FileEntry
from twinstream.shards.storage import block_cache as cache
from twinstream.shards.storage.block_cache import BLOCK_BYTES, BlockCache, open_cache
from twinstream.shards.storage.location import read_range

NUM_BYTES = 40 * BLOCK_BYTES + 123


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What is read from the shard itself: (begin, num_bytes)."""
    printed: list[tuple[int, int]] = []

    def reads(location: Path, begin: int, num_bytes: int) -> bytes:
        printed.append((begin, num_bytes))
        return read_range(location, begin, num_bytes)

    monkeypatch.setattr(cache, "read_range", reads)
    return printed


def shard(folder: Path, seed: int = 0) -> tuple[Path, FileEntry]:
    data = random.Random(seed).randbytes(NUM_BYTES)
    path = folder / f"{seed}.tar"
    path.write_bytes(data)
    return path, FileEntry(
        path=path.name, num_bytes=NUM_BYTES, sha256=hashlib.sha256(data).hexdigest()
    )


def made(folder: Path, max_bytes: int = 2**30) -> BlockCache:
    opened = open_cache(str(folder / "cache"), max_bytes)
    assert opened is not None
    return opened


def used(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (folder / "cache").glob("*.blocks"))


def test_nothing_is_cached_without_a_folder() -> None:
    assert open_cache(None, 10) is None


@pytest.mark.parametrize(
    ("begin", "num_bytes", "blocks"),
    [
        (0, 1, (0, 1)),
        (BLOCK_BYTES - 1, 2, (0, 2)),
        (3 * BLOCK_BYTES, BLOCK_BYTES, (3, 4)),
        (NUM_BYTES - 5, 5, (40, 41)),
        (NUM_BYTES - 5, 99, (40, 41)),
    ],
)
def test_whole_blocks_are_fetched_once(
    tmp_path: Path,
    fetched: list[tuple[int, int]],
    begin: int,
    num_bytes: int,
    blocks: tuple[int, int],
) -> None:
    tar, entry = shard(tmp_path)
    expected = tar.read_bytes()[begin : begin + num_bytes]
    assert made(tmp_path).read(tar, entry, begin, num_bytes) == expected
    first, end = blocks[0] * BLOCK_BYTES, min(blocks[1] * BLOCK_BYTES, NUM_BYTES)
    assert fetched == [(first, end - first)]
    assert made(tmp_path).read(tar, entry, begin, num_bytes) == expected
    assert len(fetched) == 1


def test_only_the_blocks_that_are_missing_are_fetched_neighbours_together(
    tmp_path: Path, fetched: list[tuple[int, int]]
) -> None:
    tar, entry = shard(tmp_path)
    blocks = made(tmp_path)
    blocks.read(tar, entry, 4 * BLOCK_BYTES, 1)
    fetched.clear()
    assert (
        blocks.read(tar, entry, 2 * BLOCK_BYTES, 5 * BLOCK_BYTES)
        == tar.read_bytes()[2 * BLOCK_BYTES :][: 5 * BLOCK_BYTES]
    )
    assert fetched == [(2 * BLOCK_BYTES, 2 * BLOCK_BYTES), (5 * BLOCK_BYTES, 2 * BLOCK_BYTES)]


def test_reading_beyond_the_end_gives_nothing(tmp_path: Path) -> None:
    tar, entry = shard(tmp_path)
    assert made(tmp_path).read(tar, entry, NUM_BYTES + 5, 3) == b""


def test_a_shard_that_has_become_shorter_is_told(tmp_path: Path) -> None:
    tar, entry = shard(tmp_path)
    tar.write_bytes(tar.read_bytes()[:100])
    with pytest.raises(InputError, match=r"0\.tar: the shard ends at byte 100 of"):
        made(tmp_path).read(tar, entry, 10, 200)


@pytest.mark.parametrize("damage", ["flipped", "zeroed", "cut", "empty"])
def test_a_damaged_entry_is_fetched_again(
    tmp_path: Path, fetched: list[tuple[int, int]], damage: str
) -> None:
    tar, entry = shard(tmp_path)
    made(tmp_path).read(tar, entry, 0, 3 * BLOCK_BYTES)
    (path,) = (tmp_path / "cache").glob("*.blocks")
    data = bytearray(path.read_bytes())
    middle = cache.HEAD_ALIGNMENT + BLOCK_BYTES + 7
    if damage == "flipped":
        data[middle] ^= 1
    elif damage == "zeroed":
        data[middle - 7 :] = bytes(len(data) - middle + 7)
    path.write_bytes(data[:middle] if damage == "cut" else b"" if damage == "empty" else data)
    fetched.clear()
    for _ in range(2):
        assert (
            made(tmp_path).read(tar, entry, 0, 3 * BLOCK_BYTES)
            == tar.read_bytes()[: 3 * BLOCK_BYTES]
        )
    assert len(fetched) == 1


def test_the_least_recently_used_shards_make_room(
    tmp_path: Path, fetched: list[tuple[int, int]]
) -> None:
    blocks = made(tmp_path, 4 * NUM_BYTES)
    shards = [shard(tmp_path, seed) for seed in range(6)]
    for age, (tar, entry) in enumerate(shards):
        if age:
            os.utime(tmp_path / "cache" / f"{shards[0][1].sha256}.blocks")
        blocks.read(tar, entry, 0, NUM_BYTES)
        os.utime(tmp_path / "cache" / f"{entry.sha256}.blocks", (time.time() - 9000 + age,) * 2)
        assert used(tmp_path) <= 4 * NUM_BYTES
    fetched.clear()
    for tar, entry in (shards[0], shards[5]):
        assert blocks.read(tar, entry, 0, NUM_BYTES) == tar.read_bytes()
    assert fetched == []
    blocks.read(*shards[1], 0, 1)
    assert len(fetched) == 1


def hammer(folder: Path, seed: int, max_bytes: int, faults: "multiprocessing.Queue[str]") -> None:
    blocks, rng = made(folder, max_bytes), random.Random(seed)
    shards = [(folder / f"{number}.tar", number) for number in range(6)]
    entries = {
        number: FileEntry.model_validate_json((folder / f"{number}.json").read_text())
        for _, number in shards
    }
    for _ in range(300):
        tar, number = rng.choice(shards)
        begin, num_bytes = rng.randrange(NUM_BYTES), rng.randrange(1, 4 * BLOCK_BYTES)
        if blocks.read(tar, entries[number], begin, num_bytes) != read_range(tar, begin, num_bytes):
            faults.put(f"{number} {begin} {num_bytes}")
        if (num_used := used_now(folder)) > max_bytes:
            faults.put(f"{num_used} bytes")
    faults.put("done")


def used_now(folder: Path) -> int:
    """While no other process makes room, so that no file is counted that was gone before another
    grew.
    """
    with open(folder / "cache" / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return used(folder)


def test_processes_share_a_cache_that_is_too_small_for_them(tmp_path: Path) -> None:
    for seed in range(6):
        _, entry = shard(tmp_path, seed)
        (tmp_path / f"{seed}.json").write_text(entry.model_dump_json())
    context = multiprocessing.get_context("spawn")
    faults: multiprocessing.Queue[str] = context.Queue()
    arguments = [(tmp_path, seed, 3 * NUM_BYTES, faults) for seed in range(3)]
    processes = [context.Process(target=hammer, args=one) for one in arguments]
    for process in processes:
        process.start()
    printed = [faults.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert printed == ["done"] * 3


KILLED = """
import sys
from pathlib import Path
from tests.shards.storage.test_block_cache import made, shard
folder = Path(sys.argv[1])
tar, entry = shard(folder)
print("ready", flush=True)
while True:
    for path in (folder / "cache").glob("*.blocks"):
        path.unlink()
    made(folder).read(tar, entry, 0, entry.num_bytes)
"""


@pytest.mark.parametrize("milliseconds", [0, 3, 11])
def test_a_process_killed_while_it_writes_does_no_harm(tmp_path: Path, milliseconds: int) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGKILL)
    tar, entry = shard(tmp_path)
    for begin in range(0, NUM_BYTES, 3 * BLOCK_BYTES):
        assert made(tmp_path).read(tar, entry, begin, 3 * BLOCK_BYTES) == read_range(
            tar, begin, 3 * BLOCK_BYTES
        )


def test_a_disk_that_fails_is_told_once_and_reading_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar, entry = shard(tmp_path)
    blocks = made(tmp_path)
    (tmp_path / "cache" / "lock").unlink()
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("no folder")
    for _ in range(2):
        assert blocks.read(tar, entry, 5, 9) == tar.read_bytes()[5:14]
    assert (
        capsys.readouterr().err
        == f"shards.cache_dir {tmp_path}/cache: Not a directory; reading without the cache\n"
    )


def test_a_cache_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError,
        match=r"shards\.cache_dir .*file/cache: cannot be written to \(Not a directory\)",
    ):
        open_cache(str(tmp_path / "file" / "cache"), 2**20)
