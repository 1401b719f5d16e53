"""One job, with a decoder and an engine made of integers: what is paired with what, and what is
skipped.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.datasets import SETTINGS, make_catalog
from twinstream.preprocess.decode.video_stream import VideoInfo
from twinstream.preprocess.job import PARTS, Recipe, VideoAt, VideoDone, job_steps, run_job
from twinstream.preprocess.plan import Job
from twinstream.shards.format.index import read_index, read_index_file
from twinstream.shards.format.video_table import Reason, VideoError, VideoRow
from twinstream.shards.read.members import read_flow, read_frames, read_meta
from twinstream.shards.read.samples import StoredSample

INFO = VideoInfo(width=64, height=48, fps=25.0, frames_in_header=None)


@dataclass(frozen=True)
class DrawnStream:
    """Frames of constant gray 10 t, in chunks; breaks after `fails_after` frames where that is set,
    and with `fault` behind the last frame.
    """

    num_frames: int
    chunk_frames: int
    fails_after: int | None = None
    info: VideoInfo = INFO
    notes: tuple[str, ...] = ()
    fault: VideoError | None = None

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, self.num_frames, self.chunk_frames):
            if self.fails_after is not None and start >= self.fails_after:
                raise VideoError(Reason.DECODE_ERROR, f"damaged at frame {start}")
            times = np.arange(
                start, min(start + self.chunk_frames, self.num_frames), dtype=np.uint8
            )
            yield np.broadcast_to(10 * times[:, None, None, None], (len(times), 24, 32, 3))
        if self.fault is not None:
            raise self.fault


def difference_engine(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stands for flow: dx is the change of gray from one frame to the next, dy a tenth of the first
    one's gray.
    """
    wide = gray.astype(np.float32)
    return np.stack([wide[1:] - wide[:-1], wide[:-1] / 10], -1)


difference_engine.name = "difference"


def job_of(count: int) -> Job:
    return Job("train", "train-000000", make_catalog({"train": count}).videos)


def recipe_of(
    streams: dict[str, Any], min_frames: int, max_frames: int | None, cut_long: bool
) -> Recipe:
    """`streams` gives each key's stream or the exception its opening raises."""

    @contextmanager
    def open_video(path: Path) -> Iterator[DrawnStream]:
        stream = streams[path.relative_to("root").with_suffix("").as_posix()]
        if isinstance(stream, Exception):
            raise stream
        yield stream

    return Recipe(
        open_video=open_video,
        engine=difference_engine,
        bound=20.0,
        jpeg_quality=95,
        min_frames=min_frames,
        settings=SETTINGS,
        max_frames=max_frames,
        cut_long=cut_long,
    )


def run(
    folder: Path,
    job: Job,
    streams: dict[str, Any],
    min_frames: int = 6,
    max_frames: int | None = None,
    cut_long: bool = False,
    keep_damaged: bool = False,
) -> list[VideoDone]:
    recipe = recipe_of(streams, min_frames, max_frames, cut_long)
    recipe = replace(recipe, keep_damaged=keep_damaged)
    return list(run_job(job, root=Path("root"), out=folder, recipe=recipe))


def rows(folder: Path) -> dict[str, VideoRow]:
    return {
        row.key: row
        for row in read_index_file(folder / "train" / "train-000000.parquet").record.videos
    }


@pytest.mark.parametrize("chunk_frames", [2, 3, 7, 100])
def test_flow_t_goes_from_frame_t_to_the_next_whatever_the_chunks(
    tmp_path: Path, chunk_frames: int
) -> None:
    (done,) = run(tmp_path, job_of(1), {"left/train0": DrawnStream(9, chunk_frames)})
    (index,) = read_index(tmp_path / "train" / "train-000000.parquet")
    sample = StoredSample(tmp_path / "train" / "train-000000.tar", index)
    assert (done.num_frames, read_meta(sample).num_frames, set(done.seconds)) == (9, 9, set(PARTS))
    assert np.abs(read_frames(sample, range(9))[:, 0, 0, 0] - 10 * np.arange(9)).max() <= 1
    flow = read_flow(sample, 0, 8)
    assert (flow[..., 0] == 128 + round(10 * 127 / 20)).all()
    levels = 128 + np.rint(np.arange(8) * 127 / 20)
    assert np.abs(flow[:, 0, 0, 1] - levels).max() <= 1


def test_chunks_change_neither_bytes_nor_statistics(tmp_path: Path) -> None:
    for chunk_frames in (2, 5):
        run(tmp_path / str(chunk_frames), job_of(1), {"left/train0": DrawnStream(20, chunk_frames)})
    for name in ("train-000000.tar", "train-000000.parquet"):
        assert (tmp_path / "2" / "train" / name).read_bytes() == (
            tmp_path / "5" / "train" / name
        ).read_bytes()


def test_threads_that_encode_change_no_byte(tmp_path: Path) -> None:
    job, streams = job_of(1), {"left/train0": DrawnStream(20, 7)}
    plain = recipe_of(streams, 6, None, False)
    with ThreadPoolExecutor(3) as pool:
        for name, recipe in (("plain", plain), ("threads", replace(plain, pool=pool))):
            assert list(run_job(job, root=Path("root"), out=tmp_path / name, recipe=recipe))
    for name in ("train-000000.tar", "train-000000.parquet"):
        plain_bytes, bytes_of_threads = (
            (tmp_path / n / "train" / name).read_bytes() for n in ("plain", "threads")
        )
        assert plain_bytes == bytes_of_threads


def test_statistics_are_the_mean_speed_and_the_saturated_fraction(tmp_path: Path) -> None:
    run(tmp_path, job_of(1), {"left/train0": DrawnStream(25, 4)})
    row = rows(tmp_path)["left/train0"]
    dy = np.arange(24)
    assert row.mean_flow == pytest.approx(np.hypot(10, dy).mean(), rel=1e-6)
    assert row.saturated == pytest.approx((dy > 20).mean())
    assert (row.num_frames, row.fps, row.width, row.height, row.shard) == (
        25,
        25.0,
        64,
        48,
        "train-000000",
    )


def test_a_video_that_breaks_midway_is_skipped_whole_and_the_others_are_written(
    tmp_path: Path,
) -> None:
    streams = {
        "left/train0": DrawnStream(9, 3),
        "right/train1": DrawnStream(9, 3, fails_after=6),
        "left/train2": DrawnStream(5, 3),
        "right/train3": VideoError(Reason.UNREADABLE, "no header"),
    }
    run(tmp_path, job_of(4), streams)
    printed = {key: (row.status, row.reason, row.detail) for key, row in rows(tmp_path).items()}
    assert printed == {
        "left/train0": ("written", None, None),
        "right/train1": ("skipped", "decode_error", "damaged at frame 6"),
        "left/train2": ("skipped", "too_short", "5 of at least 6 frames"),
        "right/train3": ("skipped", "unreadable", "no header"),
    }
    assert [row.key for row in read_index(tmp_path / "train" / "train-000000.parquet")] == [
        "left/train0"
    ]


@pytest.mark.parametrize("num_frames", [0, 1])
def test_a_video_of_no_or_one_frame_is_too_short(tmp_path: Path, num_frames: int) -> None:
    run(tmp_path, job_of(1), {"left/train0": DrawnStream(num_frames, 3)}, min_frames=2)
    assert rows(tmp_path)["left/train0"].reason == "too_short"


def test_a_fault_of_ours_is_not_caught_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, job_of(1), {"left/train0": ZeroDivisionError()})
    assert list((tmp_path / "train").iterdir()) == []


@pytest.mark.parametrize("chunk_frames", [2, 3, 8, 100])
@pytest.mark.parametrize(("num_frames", "is_long"), [(7, False), (8, False), (9, True), (16, True)])
def test_a_video_longer_than_max_frames_is_skipped_or_cut_and_told(
    tmp_path: Path, chunk_frames: int, num_frames: int, is_long: bool
) -> None:
    streams = {"left/train0": DrawnStream(num_frames, chunk_frames)}
    run(tmp_path / "skip", job_of(1), streams, max_frames=8)
    row = rows(tmp_path / "skip")["left/train0"]
    assert (row.reason, row.detail) == (
        ("too_long", "more than 8 frames") if is_long else (None, None)
    )
    run(tmp_path / "cut", job_of(1), streams, max_frames=8, cut_long=True)
    row = rows(tmp_path / "cut")["left/train0"]
    assert (row.status, row.num_frames) == ("written", min(num_frames, 8))
    assert row.detail == ("cut at 8 frames" if is_long else None)


def test_a_video_cut_short_is_the_beginning_of_the_whole_one(tmp_path: Path) -> None:
    run(
        tmp_path / "cut",
        job_of(1),
        {"left/train0": DrawnStream(20, 3)},
        max_frames=8,
        cut_long=True,
    )
    run(tmp_path / "short", job_of(1), {"left/train0": DrawnStream(8, 3)})
    cut, short = (
        (tmp_path / name / "train" / "train-000000.tar").read_bytes() for name in ("cut", "short")
    )
    assert cut == short


@pytest.mark.parametrize(
    ("cut_long", "row"),
    [
        (False, ("skipped", "too_long", "more than 8 frames")),
        (True, ("written", None, "cut at 8 of 20 frames")),
    ],
)
def test_the_header_tells_how_long_the_video_is(
    tmp_path: Path, cut_long: bool, row: tuple[str, str | None, str]
) -> None:
    stream = DrawnStream(20, 3, info=replace(INFO, frames_in_header=20))
    (done,) = run(tmp_path, job_of(1), {"left/train0": stream}, max_frames=8, cut_long=cut_long)
    assert (done.row.status, done.row.reason, done.row.detail) == row
    assert done.num_frames == (8 if cut_long else 0)


def damaged(num_frames: int, chunk_frames: int = 4, **known: Any) -> DrawnStream:
    """A stream that turns out to be damaged after so many whole frames."""
    fault = VideoError(Reason.DECODE_ERROR, f"frame {num_frames}: damaged", num_frames)
    return DrawnStream(num_frames, chunk_frames, **{"fault": fault} | known)


@pytest.mark.parametrize("chunk_frames", [2, 3, 4, 9, 100])
def test_what_is_kept_of_a_damaged_video_is_a_whole_shorter_video_to_the_byte(
    tmp_path: Path, chunk_frames: int
) -> None:
    (kept,) = run(
        tmp_path / "kept",
        job_of(1),
        {"left/train0": damaged(9, chunk_frames)},
        keep_damaged=True,
    )
    (whole,) = run(tmp_path / "whole", job_of(1), {"left/train0": DrawnStream(9, 4)})
    assert kept.row == replace(whole.row, detail="decode_error: frame 9: damaged; 9 frames kept")
    assert (kept.row.status, kept.row.reason, kept.num_frames) == ("written", None, 9)
    tars = [tmp_path / name / "train" / "train-000000.tar" for name in ("kept", "whole")]
    assert tars[0].read_bytes() == tars[1].read_bytes()


UNKNOWN = VideoError(Reason.DECODE_ERROR, "damaged: 9 frames from 12 coded pictures")
TOO_LARGE = VideoError(Reason.TOO_LARGE, "9000x9000 is more than 33177600 pixels", 9)
HEADER_OF_12 = replace(INFO, frames_in_header=12)


@pytest.mark.parametrize(
    ("stream", "keep_damaged", "row"),
    [
        (damaged(9), False, ("skipped", "decode_error", "frame 9: damaged")),
        (damaged(6), True, ("written", None, "decode_error: frame 6: damaged; 6 frames kept")),
        (
            damaged(5),
            True,
            (
                "skipped",
                "decode_error",
                "frame 5: damaged; 5 of at least 6 frames are before the damage",
            ),
        ),
        (
            damaged(9, info=HEADER_OF_12),
            True,
            ("written", None, "decode_error: frame 9: damaged; 9 frames kept, about 3 lost"),
        ),
        (
            damaged(9, notes=("video stream 2 of 2: 64x48",)),
            True,
            (
                "written",
                None,
                "decode_error: frame 9: damaged; 9 frames kept; video stream 2 of 2: 64x48",
            ),
        ),
        (
            damaged(9, fault=UNKNOWN),
            True,
            (
                "skipped",
                "decode_error",
                "damaged: 9 frames from 12 coded pictures; where the damage begins is not known",
            ),
        ),
        (damaged(9, fault=TOO_LARGE), True, ("skipped", "too_large", TOO_LARGE.detail)),
        (UNKNOWN, False, ("skipped", "decode_error", UNKNOWN.detail)),
        (
            VideoError(Reason.UNREADABLE, "no header"),
            True,
            ("skipped", "unreadable", "no header"),
        ),
    ],
)
def test_a_damaged_video_is_skipped_or_kept_up_to_the_damage(
    tmp_path: Path, stream: Any, keep_damaged: bool, row: tuple[str, str | None, str]
) -> None:
    (done,) = run(tmp_path, job_of(1), {"left/train0": stream}, keep_damaged=keep_damaged)
    assert (done.row.status, done.row.reason, done.row.detail) == row


@pytest.mark.parametrize("chunk_frames", [2, 3, 4, 9, 100])
@pytest.mark.parametrize(
    ("num_whole", "keep_damaged", "row"),
    [
        (9, False, ("written", None, "cut at 8 frames")),
        (9, True, ("written", None, "cut at 8 frames")),
        (8, False, ("skipped", "decode_error", "frame 8: damaged")),
        (8, True, ("written", None, "decode_error: frame 8: damaged; 8 frames kept")),
    ],
)
def test_damage_behind_the_frame_at_which_a_video_is_cut_is_not_looked_at(
    tmp_path: Path,
    chunk_frames: int,
    num_whole: int,
    keep_damaged: bool,
    row: tuple[str, str | None, str],
) -> None:
    (done,) = run(
        tmp_path,
        job_of(1),
        {"left/train0": damaged(num_whole, chunk_frames)},
        max_frames=8,
        cut_long=True,
        keep_damaged=keep_damaged,
    )
    assert (done.row.status, done.row.reason, done.row.detail) == row


def test_what_the_decoder_notes_of_a_video_is_in_its_row(tmp_path: Path) -> None:
    notes = ("video stream 2 of 2: 64x48", "another file is joined behind it")
    streams = {
        "left/train0": DrawnStream(9, 3, notes=notes),
        "right/train1": DrawnStream(9, 3, notes=notes[:1]),
        "left/train2": DrawnStream(2, 3, notes=notes[:1]),
    }
    run(tmp_path, job_of(3), streams, max_frames=8, cut_long=True)
    assert {key: row.detail for key, row in rows(tmp_path).items()} == {
        "left/train0": f"cut at 8 frames; {notes[0]}; {notes[1]}",
        "right/train1": f"cut at 8 frames; {notes[0]}",
        "left/train2": f"2 of at least 6 frames; {notes[0]}",
    }


def test_a_job_tells_the_video_before_it_opens_it_and_at_each_step_and_leaves_out_those_given_up(
    tmp_path: Path,
) -> None:
    streams = {
        "left/train0": DrawnStream(6, 3),
        "left/train2": ValueError(),
        "right/train1": ZeroDivisionError(),
    }
    given_up = {"left/train2": VideoError(Reason.CRASHED, "died")}
    steps = job_steps(
        job_of(3),
        root=Path("root"),
        out=tmp_path,
        recipe=recipe_of(streams, 6, None, False),
        given_up=given_up,
    )
    printed = [
        step.key if isinstance(step, VideoAt) else step.row
        for step in (next(steps) for _ in range(9))
    ]
    assert printed[:5] == ["left/train0"] * 5
    assert printed[6] == "left/train2"
    assert printed[8] == "right/train1"
    assert [
        (row.status, row.reason, row.detail)
        for row in (printed[5], printed[7])
        if not isinstance(row, str)
    ] == [
        ("written", None, None),
        ("skipped", "crashed", "died"),
    ]
    with pytest.raises(ZeroDivisionError):
        next(steps)
