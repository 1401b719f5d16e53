"""Frames for `gpu_report.sh`: `python -m benchmarks.flow_frames frames.npz --data DIR`.

A machine with a GPU may lack PyAV and the network, so frames are written elsewhere beforehand: runs
(n, 17, H, W) uint8 of neighbouring gray frames, each from another video while there are more.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.flow import parse_size
from benchmarks.measuring import data_option, folder_of_videos, spread, videos_by_kind
from twinstream.preprocess.decode.video import open_video
from twinstream.preprocess.flow.engine import Gray
from twinstream.shards.format.video_table import VideoError

RUN_FRAMES = 17


def read_runs(videos: list[Path], num: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(n, 17, H, W) gray frames, from the videos in turn; n is `num` or as many as there are."""

    def runs_of(path: Path) -> Iterator[Gray]:
        with (
            suppress(VideoError),
            open_video(path, size=size, short_side=None, chunk_frames=RUN_FRAMES) as video,
        ):
            for chunk in video:
                if len(chunk) == RUN_FRAMES:
                    yield np.stack(
                        [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in chunk]
                    ).astype(np.uint8)

    sources = [runs_of(path) for path in videos]
    # One run of each video in turn, until all videos are at their end
    turns = chain.from_iterable(
        iter(lambda: [run for source in sources for run in islice(source, 1)], [])
    )
    runs = list(islice(turns, num))
    if not runs:
        raise click.ClickException(f"none of {len(videos)} videos has {RUN_FRAMES} frames")
    return np.stack(runs)


@click.command(help="Write frames for gpu_report.sh to a file.npz; 40 runs of 256x256 are 26 MB.")
@click.argument("out", type=click.Path(path_type=Path))
@data_option
@click.option("--runs", default=40, show_default=True, help="Runs of 17 frames.")
@click.option("--size", default="256x256", show_default=True)
def main(out: Path, data: Path | None, runs: int, size: str) -> None:
    """Write the file, and print what is in it."""
    found = [path for paths in videos_by_kind(folder_of_videos(data)).values() for path in paths]
    frames = read_runs(spread(found, runs), runs, parse_size(size))
    np.savez_compressed(out, runs=frames)
    click.echo(f"{out}: {len(frames)} runs of {RUN_FRAMES} frames, {size}")


if __name__ == "__main__":
    main()
