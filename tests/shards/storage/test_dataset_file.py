"""What a dataset may name as its file: a regular file within its folder."""

import os
from pathlib import Path

import pytest

from twinstream.errors import InputError
from twinstream.shards.storage.location import dataset_file
from twinstream.shards.storage.remote import RemotePath

STORED = RemotePath("s3", "bucket/shards")


@pytest.mark.parametrize(
    "path", ["train/train-000000.tar", "videos.parquet", "a/b:c.tar", "ünï/x y.tar", "..a/b..c"]
)
@pytest.mark.parametrize("dataset", [Path("shards"), STORED], ids=["disk", "store"])
def test_a_path_below_the_dataset_is_its_file(path: str, dataset: Path | RemotePath) -> None:
    assert dataset_file(dataset, path) == dataset / path


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "..", "../x.tar", "a/../../x.tar", "/etc/passwd", "a//b", "a/", "./a"),
        *("..\\x.tar", "a\nb", "a\x00b", "a\x7f", "a\u2028b", "\udc80"),
        *("pipe:cat x", "http://host/x.tar", "C:x.tar", "file:x"),
    ],
)
@pytest.mark.parametrize("dataset", [Path("shards"), STORED], ids=["disk", "store"])
def test_a_path_to_elsewhere_is_refused(path: str, dataset: Path | RemotePath) -> None:
    with pytest.raises(InputError, match=r"not a usable path|begins like a URL") as caught:
        dataset_file(dataset, path)
    assert "\n" not in str(caught.value)


def test_links_within_the_folder_and_to_the_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "x.tar").write_bytes(b"tar")
    (tmp_path / "data" / "y.tar").symlink_to("train/x.tar")
    (tmp_path / "data" / "test").symlink_to(tmp_path / "data" / "train")
    (tmp_path / "linked").symlink_to("data")
    for name in ("train/x.tar", "y.tar", "test/x.tar"):
        for folder in (tmp_path / "data", tmp_path / "linked"):
            assert dataset_file(folder, name).read_bytes() == b"tar"


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    for folder in ("data", "data2"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data2" / "x.tar").write_bytes(b"of another")
    (tmp_path / "data" / "x.tar").symlink_to("../data2/x.tar")
    (tmp_path / "data" / "train").symlink_to(tmp_path / "data2")
    for name in ("x.tar", "train/x.tar"):
        with pytest.raises(InputError, match=r"a link to /.*data2/x\.tar, out of the dataset's"):
            dataset_file(tmp_path / "data", name)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "circle", "long name"])
def test_what_is_no_regular_file_is_refused_and_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x" * 256 if kind == "long name" else "x")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "circle":
        path.symlink_to(path)
    fault = {
        "folder": "a folder; expected a regular file",
        "circle": "Too many levels of symbolic links",
        "long name": "File name too long",
    }.get(kind, "a pipe, socket or device; expected a regular file")
    with pytest.raises(InputError, match=fault):
        dataset_file(tmp_path, path.name)
