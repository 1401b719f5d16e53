"""Files in an object store are listed by the rules of a disk."""

import pytest

from tests.support.stores import Store, Wire
from twinstream.preprocess.catalog.kinds import read_catalog

FILES = ["a/1.mp4", "a/1.srt", "a/.hidden.mp4", "a/@eaDir/1.mp4", "b/2.mp4", "b/out/3.mp4"]


def test_a_store_has_the_videos_that_a_disk_has(store: Store) -> None:
    root = store.folder / "listed"
    for file in FILES:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")
    for where in (str(root), store.uri("listed")):
        catalog = read_catalog("folders", where, exclude=("out",))
        assert [video.path for video in catalog.videos] == ["a/1.mp4", "b/2.mp4"]
        assert catalog.warnings[0] == (
            "1 files that are no videos by their names (1 .srt), left out"
        )
        assert catalog.warnings[1].startswith("1 files or folders (b/out")


def test_a_store_that_cannot_be_listed_to_its_end_is_no_empty_one(store: Store) -> None:
    (store.folder / "cut" / "a").mkdir(parents=True)
    (store.folder / "cut" / "a" / "1.mp4").write_bytes(b"x")
    # All else goes through, such as the question whether the folder is there.
    wire = Wire(store.endpoint, refuses="max-keys=1000")
    where = f"endpoint_override={wire.endpoint.removeprefix('http://')}&scheme=http"
    with pytest.raises(OSError, match="the store does not answer"):
        read_catalog("folders", store.uri(f"cut?{where}"))
    wire.close()
