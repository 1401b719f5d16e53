"""The ways of feeding training that `benchmarks.loader` compares.

Each returns the items of a list of samples of one shard: the same snippets through the same views,
and the same bytes where the same JPEGs are read. Video decoders give frames only.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import webdataset as wds
from numpy.typing import NDArray

from twinstream.shards.format.image import decode_gray, decode_rgb
from twinstream.shards.format.sample import meta_from_json
from twinstream.shards.format.video_table import VIDEOS_NAME, read_videos
from twinstream.shards.rawframes.exporter import export_rawframes, video_folder
from twinstream.shards.read import members
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.samples import StoredSample
from twinstream.train.choices import TSN_SCALES
from twinstream.train.data import transforms
from twinstream.train.data.loader import SnippetRecipe
from twinstream.train.data.transforms import Bytes
from twinstream.train.snippet_shape import SnippetShape

OURS, WEBDATASET, RAWFRAMES = "ours, by index", "webdataset, streamed", "images in folders, cv2"
RECIPE = SnippetRecipe(
    segments=3,
    shape=SnippetShape(),
    crop_size=224,
    scales=TSN_SCALES,
    flip=True,
    scale_motion=False,
    seed=0,
)
FramesAt = Callable[[Path, list[int]], list[Any]]
# rgb (K, 3, S, S), flow (K, 2L, S, S), flow_scale (2,), label
Item = tuple[Bytes, Bytes, NDArray[np.float32], int]


@dataclass(frozen=True)
class Contender:
    """A way to read the snippets of some samples of one shard, and the files that hold them."""

    name: str
    items: Callable[[list[StoredSample]], list[Item]]
    files: Callable[[list[StoredSample]], Iterable[Path]]


def all_contenders(
    dataset: ShardDataset, data: Path, shards: Path, images: Path
) -> list[Contender]:
    """Ours first."""
    export_rawframes(shards, images)
    samples = dataset.samples("train")
    classes = dataset.manifest.classes
    named = [(sample.index.key, classes[sample.index.label]) for sample in samples]
    folders = {key: images / video_folder(key, class_name) for key, class_name in named}
    videos = {row.key: data / row.path for row in read_videos(shards / VIDEOS_NAME)}
    return [
        Contender(OURS, by_index, lambda some: {Path(str(sample.tar)) for sample in some}),
        Contender(WEBDATASET, streamed, lambda some: {Path(str(sample.tar)) for sample in some}),
        Contender(
            RAWFRAMES,
            from_folders(folders),
            lambda some: [path for sample in some for path in folders[sample.index.key].iterdir()],
        ),
        *(
            Contender(
                name,
                from_videos(videos, read),
                lambda some: [videos[sample.index.key] for sample in some],
            )
            for name, read in video_readers().items()
        ),
    ]


def by_index(samples: list[StoredSample]) -> list[Item]:
    """What training does."""
    return [
        cut(sample, *members.read_snippets(sample, starts(sample), RECIPE.shape.fields))
        for sample in samples
    ]


def streamed(samples: list[StoredSample]) -> list[Item]:
    """A plain webdataset pipeline over the samples' shard; every sample of it must be asked for."""
    by_key = {sample.index.key: sample for sample in samples}
    pipeline = wds.DataPipeline(
        # No shuffle and no split over workers, so that only reading and decoding are timed.
        wds.SimpleShardList([str(samples[0].tar)]),
        wds.tarfile_to_samples(),
    )
    return [cut(by_key[members["__key__"]], *members_wanted(members)) for members in pipeline]


def members_wanted(members: dict[str, Any]) -> tuple[Iterator[Any], Iterator[Iterator[Any]]]:
    """The frames and fields of a streamed sample's snippets, decoded as they are asked for."""
    meta = meta_from_json(members["json"])
    begins, _ = RECIPE.draw(0, meta.key, meta.num_frames, meta.height, meta.width)
    frames = (decode_rgb(members[f"rgb.{t:05d}.jpg"]) for t in begins)
    return frames, (
        (decode_gray(members[f"{name}.jpg"]) for name in field_names(int(t), ".")) for t in begins
    )


def from_folders(folders: dict[str, Path]) -> Callable[[list[StoredSample]], list[Item]]:
    """What mmaction2's rawframes do: an image, a file."""

    def read(sample: StoredSample) -> Item:
        folder, begins = folders[sample.index.key], starts(sample)
        frames = (
            cv2.imread(str(folder / f"img_{t:05d}.jpg"), cv2.IMREAD_COLOR_RGB) for t in begins
        )
        names = [field_names(t, "_") for t in begins]
        stacks = (
            (cv2.imread(str(folder / f"{n}.jpg"), cv2.IMREAD_GRAYSCALE) for n in some)
            for some in names
        )
        return cut(sample, frames, stacks)

    return lambda samples: [read(sample) for sample in samples]


def from_videos(
    videos: dict[str, Path], frames_at: Callable[[Path, list[int]], list[Any]]
) -> Callable[..., list[Item]]:
    """Three frames of each video, resized to the stored size: no flow."""

    def read(sample: StoredSample) -> Item:
        size = (sample.index.width, sample.index.height)
        frames = [
            cv2.resize(frame, size) for frame in frames_at(videos[sample.index.key], starts(sample))
        ]
        return cut(sample, frames, [], num_stacks=0)

    return lambda samples: [read(sample) for sample in samples]


def cut(
    sample: StoredSample,
    frames: Iterable[Any],
    stacks: Iterable[Iterable[Any]],
    num_stacks: int = RECIPE.segments,
) -> Item:
    """Through the sample's view, image by image as they are decoded."""
    view, side = choices(sample)[1], RECIPE.crop_size
    rgb = np.empty((1, RECIPE.segments, 3, side, side), np.uint8)
    flow = np.empty((1, num_stacks, 2 * RECIPE.shape.fields, side, side), np.uint8)
    return (
        rgb[0],
        flow[0],
        transforms.apply_views(frames, stacks, [view], rgb, flow, scale_motion=RECIPE.scale_motion),
        sample.index.label,
    )


def choices(sample: StoredSample) -> Any:
    """Starts and view, epoch 0."""
    index = sample.index
    return RECIPE.draw(0, index.key, index.num_frames, index.height, index.width)


def starts(sample: StoredSample) -> list[int]:
    """Where the snippets start."""
    return [int(t) for t in choices(sample)[0]]


def field_names(start: int, dot: str) -> list[str]:
    """The stack that starts there: flow_x.00003, flow_y.00003, flow_x.00004 ..."""
    return [
        f"flow_{axis}{dot}{t:05d}"
        for t in range(start, start + RECIPE.shape.fields)
        for axis in "xy"
    ]


def opencv_frames(path: Path, numbers: list[int]) -> list[Any]:
    """Frames by number, by seeking."""
    capture, frames = cv2.VideoCapture(str(path)), []
    for number in numbers:
        # A seek for each frame, as loaders do that want a few frames of a long video.
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return frames


def video_readers() -> dict[str, FramesAt]:
    """OpenCV, and decord and torchcodec where they are installed."""
    found: dict[str, FramesAt] = {"videos, cv2 seek, no flow": opencv_frames}
    try:
        import decord

        found["videos, decord, no flow"] = lambda path, numbers: [
            *decord.VideoReader(str(path), num_threads=1).get_batch(numbers).asnumpy()
        ]
    except ImportError:
        pass
    try:
        from torchcodec.decoders import VideoDecoder

        found["videos, torchcodec, no flow"] = lambda path, numbers: [
            *VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
            .get_frames_at(numbers)
            .data.numpy()
        ]
    # RuntimeError: torchcodec finds no FFmpeg that it can use.
    except (ImportError, RuntimeError):
        pass
    return found


def refuse_differences(contenders: list[Contender], samples: list[StoredSample]) -> None:
    """AssertionError unless all give the same bytes: else their times say nothing."""
    # webdataset gives the samples in the shard's order, so they are put in one of their own.
    ours, *others = [
        sorted(contender.items(samples), key=lambda item: item[0].tobytes())
        for contender in contenders
    ]
    for theirs in others:
        for mine, other in zip(ours, theirs, strict=True):
            assert np.array_equal(mine[0], other[0])
            assert np.array_equal(mine[1], other[1])
