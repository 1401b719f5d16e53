"""Folders of numbered images in the place of videos: which images are the frames, and what is
absent is told.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.images import jpeg_with_exif
from tests.support.videos import moving_square
from twinstream.preprocess.catalog.kinds import read_catalog
from twinstream.preprocess.cluster.worker import WorkerSetup, make_recipe
from twinstream.preprocess.decode.image_folder import open_frames
from twinstream.preprocess.job import run_job
from twinstream.preprocess.plan import dataset_build, plan_jobs
from twinstream.preprocess.settings import byte_settings
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards.format.video_table import Reason, VideoError, VideoRow
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_meta
from twinstream.shards.verify import faults


def write_frames(
    folder: Path, num_frames: int, *, first: int = 1, suffix: str = ".jpg", width: int = 64
) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(moving_square(num_frames, width=width), first):
        cv2.imwrite(str(folder / f"img_{number:05d}{suffix}"), frame[..., ::-1])
    return folder


def test_images_come_out_as_stored_in_chunks(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", 7, suffix=".png")
    with open_frames(folder, size=(64, 48), short_side=None, chunk_frames=3) as video:
        chunks = list(video)
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(chunks), moving_square(7))
    assert (video.info.width, video.info.height, video.info.fps, video.info.frames_in_header) == (
        64,
        48,
        None,
        7,
    )


def test_the_aspect_is_kept_with_short_side(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", 2, width=96)
    with open_frames(folder, size=None, short_side=24, chunk_frames=8) as video:
        assert next(iter(video)).shape == (2, 24, 48, 3)


def cut_short(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-40])


def resize(image: Path) -> None:
    cv2.imwrite(str(image), np.zeros((10, 20, 3), np.uint8))


def replace_by_text(image: Path) -> None:
    image.write_bytes(b"no image" * 10 + b"\xff\xd9")


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        (cut_short, "bytes without the end of a JPEG"),
        (resize, "img_00004.jpg: 20x10, the first image is 64x48"),
        (replace_by_text, "img_00004.jpg: Invalid data found when processing input"),
        (Path.unlink, "img_00003.jpg and img_00005.jpg are not neighbours"),
    ],
)
def test_a_damaged_image_makes_the_video_unusable(
    tmp_path: Path, damage: Callable[[Path], None], detail: str
) -> None:
    folder = write_frames(tmp_path / "v", 6)
    damage(folder / "img_00004.jpg")
    with (
        pytest.raises(VideoError, match=detail) as caught,
        open_frames(folder, size=(32, 32), short_side=None, chunk_frames=2) as video,
    ):
        list(video)
    assert caught.value.reason is Reason.DECODE_ERROR


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"#EXTM3U\n#EXTINF:1,\nreal.jpg\n", "Invalid data found when processing input"),
        (b"ffconcat version 1.0\nfile real.jpg\n", "no JPEG or PNG"),
        (cv2.imencode(".bmp", np.zeros((48, 64, 3), np.uint8))[1].tobytes(), "no JPEG or PNG"),
        (b"some words", "Invalid data found when processing input"),
    ],
)
def test_an_image_is_a_jpeg_or_a_png_and_opens_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, detail: str
) -> None:
    folder = write_frames(tmp_path / "v", 6, suffix=".png")
    write_frames(tmp_path / "real", 1)
    (tmp_path / "real" / "img_00001.jpg").rename(tmp_path / "real.jpg")
    monkeypatch.chdir(tmp_path)
    (folder / "img_00004.png").write_bytes(content)
    with (
        pytest.raises(VideoError) as caught,
        open_frames(folder, size=(32, 32), short_side=None, chunk_frames=2) as video,
    ):
        list(video)
    expected = (Reason.DECODE_ERROR, f"img_00004.png: {detail}", 3)
    assert (caught.value.reason, caught.value.detail, caught.value.num_whole) == expected


@pytest.mark.parametrize(
    ("value", "size", "place"),
    [
        (1, (64, 48), (0, 0)),
        (2, (64, 48), (0, -1)),
        (3, (64, 48), (-1, -1)),
        (4, (64, 48), (-1, 0)),
        (5, (48, 64), (0, 0)),
        (6, (48, 64), (0, -1)),
        (7, (48, 64), (-1, -1)),
        (8, (48, 64), (-1, 0)),
    ],
)
@pytest.mark.parametrize("order", ["II", "MM"])
def test_photos_are_turned_upright(
    tmp_path: Path, value: int, order: str, size: tuple[int, int], place: tuple[int, int]
) -> None:
    """The mark in the stored picture's top left corner is where EXIF 4.6.4 says."""
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:8, :8] = 255
    (tmp_path / "v").mkdir()
    for number in (1, 2):
        (tmp_path / "v" / f"{number}.jpg").write_bytes(jpeg_with_exif(stored, value, order))
    with open_frames(tmp_path / "v", size=size, short_side=None, chunk_frames=2) as video:
        assert (video.info.width, video.info.height) == size
        (chunk,) = list(video)
    bright = np.argwhere(chunk[1, ..., 0] > 128)
    corner = np.zeros((size[1], size[0]), bool)
    rows, columns = (slice(0, 8) if at == 0 else slice(-8, None) for at in place)
    corner[rows, columns] = True
    np.testing.assert_array_equal(bright, np.argwhere(corner))


def test_images_that_lie_alike_only_when_turned_are_of_two_sizes(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", 3)
    (folder / "img_00003.jpg").write_bytes(jpeg_with_exif(moving_square(1)[0], 6))
    with (
        pytest.raises(VideoError, match=r"img_00003\.jpg: 48x64, the first image is 64x48"),
        open_frames(folder, size=(32, 32), short_side=None, chunk_frames=2) as video,
    ):
        list(video)


@pytest.mark.parametrize(
    ("damage", "num_whole"),
    [
        (cut_short, 3),
        (resize, 3),
        (replace_by_text, 3),
        (Path.unlink, 3),
        (lambda image: image.with_name("img_4.jpg").write_bytes(image.read_bytes()), 3),
    ],
)
def test_until_its_damage_a_folder_gives_the_images_before_it(
    tmp_path: Path, damage: Callable[[Path], None], num_whole: int
) -> None:
    folder = write_frames(tmp_path / "v", 6)
    damage(folder / "img_00004.jpg")
    chunks: list[NDArray[np.uint8]] = []
    with (
        pytest.raises(VideoError) as caught,
        open_frames(
            folder, size=(32, 32), short_side=None, chunk_frames=2, up_to_damage=True
        ) as video,
    ):
        chunks.extend(video)
    expected = (Reason.DECODE_ERROR, num_whole, num_whole)
    given = sum(map(len, chunks))
    assert (caught.value.reason, caught.value.num_whole, given) == expected


def test_an_image_that_no_jpeg_holds_when_scaled_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    cv2.imwrite(str(tmp_path / "v" / "1.png"), np.zeros((1, 4200, 3), np.uint8))
    with (
        pytest.raises(VideoError, match="too_large: 67200x16 is more than a JPEG holds"),
        open_frames(tmp_path / "v", size=None, short_side=16, chunk_frames=2),
    ):
        pass


def test_images_of_too_many_pixels_are_too_large(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "v", 6)
    with (
        pytest.raises(VideoError, match="too_large: 64x48 is more than 3000 pixels"),
        open_frames(folder, size=(32, 32), short_side=None, chunk_frames=2, max_pixels=3000),
    ):
        pass


def test_a_csv_names_folders_of_frames(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames" / "one.avi", 2)
    write_frames(tmp_path / "frames" / "unnamed", 2)
    (tmp_path / "list.csv").write_text("path,label,split\none.avi/,run,val\ntwo,walk,val\n")
    catalog = read_catalog(
        "rawframes", str(tmp_path / "frames"), annotations=str(tmp_path / "list.csv")
    )
    assert [(video.key, video.path, video.label, video.present) for video in catalog.videos] == [
        ("one_avi", "one.avi", 0, True),
        ("two", "two", 1, False),
    ]
    assert catalog.warnings == ("1 folders (unnamed) that no list names, left out",)


def written(root: Path, out: Path, chunk_frames: int, on_damage: str = "skip") -> list[VideoRow]:
    """The dataset of a root of frames, without Ray."""
    tree = {
        "dataset": {"kind": "rawframes", "root": str(root)},
        "preprocess": {
            "size": 32,
            "chunk_frames": chunk_frames,
            "on_damage": on_damage,
            "tvl1": {"warps": 1, "iterations": 5},
        },
    }
    settings = build_settings(Settings, tree)
    catalog = read_catalog("rawframes", str(root))
    made_with = byte_settings(settings.dataset, settings.preprocess, settings.shards, "opencv")
    setup = WorkerSetup(
        root=root,
        out=out,
        dataset=settings.dataset,
        preprocess=settings.preprocess,
        shards=settings.shards,
        engine="opencv",
    )
    jobs = plan_jobs(catalog.videos, 2, seed=0)
    for job in jobs:
        list(run_job(job, root=root, out=out, recipe=make_recipe(setup)))
    return list(dataset_build(out, catalog, jobs, made_with, settings.preprocess.bound).finish())


def test_folders_of_frames_become_a_sound_dataset_and_every_one_has_a_row(tmp_path: Path) -> None:
    root = tmp_path / "frames"
    write_frames(root / "a" / "one", 8)
    write_frames(root / "b" / "two", 7, first=0, suffix=".png")
    write_frames(root / "b" / "short", 3)
    (write_frames(root / "b" / "gap", 9) / "img_00005.jpg").unlink()
    (root / "b" / "lost").mkdir()
    rows = written(root, tmp_path / "out", chunk_frames=3)
    assert {row.key: (row.status, row.reason, row.num_frames, row.fps) for row in rows} == {
        "a/one": ("written", None, 8, None),
        "b/two": ("written", None, 7, None),
        "b/short": ("skipped", "too_short", 3, None),
        "b/gap": ("skipped", "decode_error", None, None),
        "b/lost": ("skipped", "unreadable", None, None),
    }
    assert list(faults(tmp_path / "out")) == []
    assert read_meta(ShardDataset(tmp_path / "out").sample("a/one")).fps == 0.0
    assert rows == written(root, tmp_path / "again", chunk_frames=32)


def test_a_folder_with_a_gap_or_a_damaged_image_is_kept_up_to_it(tmp_path: Path) -> None:
    root = tmp_path / "frames"
    write_frames(root / "a" / "one", 8)
    (write_frames(root / "b" / "gap", 12) / "img_00009.jpg").unlink()
    (write_frames(root / "b" / "early", 12) / "img_00003.jpg").unlink()
    cut_short(write_frames(root / "b" / "damaged", 12) / "img_00008.jpg")
    rows = written(root, tmp_path / "out", 3, on_damage="keep")
    found = {row.key: (row.status, row.reason, row.num_frames, row.detail) for row in rows}
    gap = "decode_error: img_00008.jpg and img_00010.jpg are not neighbours"
    damaged = found.pop("b/damaged")
    assert damaged[:3] == ("written", None, 7)
    assert damaged[3].endswith("without the end of a JPEG; 7 frames kept, about 5 lost")
    assert found == {
        "a/one": ("written", None, 8, None),
        "b/gap": ("written", None, 8, f"{gap}; 8 frames kept, about 3 lost"),
        "b/early": (
            "skipped",
            "decode_error",
            None,
            "img_00002.jpg and img_00004.jpg are not neighbours; "
            "2 of at least 6 frames are before the damage",
        ),
    }
    assert list(faults(tmp_path / "out")) == []
    assert rows == written(root, tmp_path / "again", 32, on_damage="keep")
    for shard in (tmp_path / "out").rglob("*.tar"):
        same = tmp_path / "again" / shard.relative_to(tmp_path / "out")
        assert shard.read_bytes() == same.read_bytes()
