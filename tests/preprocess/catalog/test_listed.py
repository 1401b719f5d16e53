"""What lists name as columns, a block at a time, and where it is among files."""

import random
from pathlib import PurePosixPath

import pyarrow as pa
import pytest

from twinstream.errors import InputError
from twinstream.preprocess.catalog.listed import (
    csv_listed,
    file_stems,
    places_of,
    sorted_texts,
    video_keys,
)
from twinstream.shards.format import columns
from twinstream.shards.format.columns import TEXT
from twinstream.shards.format.keys import video_key
from twinstream.shards.format.listings import parse_csv

LINES = [
    *("b/2.avi,run,train", "./a//1.avi,run,Training", "", 'c.avi,"x, y",', "d/é.avi,run,holdout"),
    *("e.avi,walk,test", "f.avi,walk,val"),
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK_ROWS", 2)


@pytest.mark.parametrize("head", ["path,label,split", "id,path,label", "split,label,path,split"])
def test_a_csv_in_blocks_is_the_csv_row_by_row(head: str) -> None:
    lines = [head, *LINES] if head.startswith("path") else [head]
    lines += ["0,x.avi,run"] * 3 if head.startswith("id") else []
    lines += ["train,run,y.avi,test", "train,run,z.avi,"] if head.startswith("split") else []
    text = "\n".join(lines) + "\n"
    found = csv_listed([(text.splitlines(keepends=True), "my.csv")] * 2)
    assert list(found) == 2 * parse_csv(text, "my.csv")


@pytest.mark.parametrize("row", ["../g.avi,run,train", "g.avi,,train", "g.avi,run,a b", "g.avi"])
def test_a_row_that_is_wrong_is_named_as_row_by_row(row: str) -> None:
    text = "\n".join(["path,label,split", *LINES, row])
    with pytest.raises(InputError) as one_by_one:
        parse_csv(text, "my.csv")
    with pytest.raises(InputError) as in_blocks:
        csv_listed([(text.splitlines(keepends=True), "my.csv")])
    assert str(in_blocks.value) == str(one_by_one.value)
    assert "my.csv line 9" in str(in_blocks.value)


def test_places_are_those_in_what_is_sorted() -> None:
    rng = random.Random(0)
    texts = [f"{rng.randrange(60)}é{rng.randrange(3)}" for _ in range(90)]
    files = sorted_texts(texts[:40])
    places = places_of(pa.chunked_array([pa.array(texts, TEXT)]), files.table["path"])
    found = list(files)
    assert [*places] == [found.index(text) if text in found else -1 for text in texts]
    assert found == sorted({*texts[:40]})
    none = pa.chunked_array([pa.array([], TEXT)])
    assert [*places_of(none, files.table["path"])] == []
    assert {*places_of(files.table["path"], none)} == {-1}


@pytest.mark.parametrize("is_folder", [False, True])
def test_keys_of_a_column_are_keys_one_by_one(is_folder: bool) -> None:
    names = ("a", ".a", "a.", "a.b", "a.b.c", "..a", ".a.b", "...", "é.é", "a b.mp4", "a-.x_")
    paths = [f"{folder}{name}" for folder in ("", "c/", "c.d/", ".c/e.f/") for name in names]
    found = video_keys(pa.chunked_array([pa.array(paths, TEXT)]), is_folder=is_folder)
    assert found.to_pylist() == [video_key(path, is_folder=is_folder) for path in paths]
    stems = file_stems(pa.chunked_array([pa.array(paths, TEXT)]))
    assert stems.to_pylist() == [PurePosixPath(path).stem for path in paths]
