"""Files of a disk, folder by folder, are sorted and sifted as if they were looked at together."""

import random
from pathlib import Path

import pytest

from twinstream.preprocess.catalog.files import list_files
from twinstream.shards.format import columns
from twinstream.shards.storage.walk import walk_folders

NAMES = [
    *("a.mp4", "a.wav", "b.MP4", "b.xyz", "c", "c-d", "c!", "d.txt", "e.avi", "e.mov", "f.srt"),
    *("g.mp4.part-Frag7", "h.\x01.mp4", "i\\j.avi"),
]


def grown(root: Path, rng: random.Random, depth: int = 3) -> None:
    for name in rng.sample(NAMES, 7):
        if depth and rng.random() < 0.3:
            (root / name).mkdir()
            grown(root / name, rng, depth - 1)
        else:
            (root / name).write_bytes(b"")


@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_folders_tell_what_all_together_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    grown(tmp_path, random.Random(seed))
    whole = list_files(tmp_path)
    for rows in (1, 3, 10):
        monkeypatch.setattr(columns, "BLOCK_ROWS", rows)
        assert list_files(tmp_path) == whole
    videos, others = [*whole.videos], [*whole.others]
    assert (videos, others) == (sorted(videos), sorted(others))
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    unusable = {path for path in there if "\x01" in path or "\\" in path}
    assert {*videos, *others} == there - unusable


def test_folders_come_in_the_order_of_what_lies_in_them(tmp_path: Path) -> None:
    for name in ("c/1", "c!/1", "c-d/1", "c.d/e/1", "cd/1", "c/b/1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.avi").write_bytes(b"")
    found = [path for folder in walk_folders(tmp_path) for path in folder.files]
    assert found == sorted(found)
    assert len(found) == 6
