"""How fast training is fed: `python -m benchmarks.loader --data VIDEOS --shards DATASET`.

DATASET is made from the videos where it is not there yet. All contenders cut the same snippets of
the same videos through the same views: ours by index; a plain webdataset pipeline that decodes the
same members; a folder of images read with OpenCV; and the videos decoded on the fly, which give no
flow. One process, one thread; all contenders read a shard before the next, in turning order, so
that a busy machine slows all alike. Bytes are what the process read, as the kernel counts them.
Cold: the files are dropped from the page cache before each reading.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import cv2
import numpy as np
import torch

from benchmarks.contenders import OURS, RECIPE, Contender, all_contenders, refuse_differences
from benchmarks.decoders import decoder_table
from benchmarks.measuring import data_option, folder_of_videos, machine
from twinstream.preprocess.run import preprocess
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings
from twinstream.shards.format.manifest import FILE_NAME
from twinstream.shards.read import members
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.samples import StoredSample
from twinstream.shards.settings import ShardSettings
from twinstream.train.data import transforms
from twinstream.train.data.loader import TrainSnippets, load_train_batches
from twinstream.train.data.order import EpochSampler
from twinstream.train.memory import keep_freed_memory


@dataclass
class Cost:
    """Of one contender: seconds a sample for each shard, bytes read, and samples."""

    seconds: list[float] = field(default_factory=list)
    num_bytes: int = 0
    num_samples: int = 0


def measured(
    contenders: list[Contender], shards: list[list[StoredSample]], *, cold: bool
) -> dict[str, Cost]:
    """Every contender on every shard, in turning order."""
    costs = {contender.name: Cost() for contender in contenders}
    for number, samples in enumerate(shards):
        # Another one begins each shard, so that nobody always follows the same one.
        first = number % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            if cold:
                forget(contender.files(samples))
            read_before, begun = bytes_read(), time.perf_counter()
            items = contender.items(samples)
            cost = costs[contender.name]
            cost.seconds.append((time.perf_counter() - begun) / len(items))
            cost.num_bytes += bytes_read() - read_before
            cost.num_samples += len(items)
    return costs


def bytes_read() -> int:
    """Bytes this process has asked the kernel for, from disk or page cache."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def forget(paths: Iterable[Path]) -> None:
    """Drop these files from the page cache."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        # Pages that are not on the disk yet would stay.
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def table(costs: dict[str, Cost]) -> str:
    """Samples/s from the median shard; the ratio is ours against it, the median over the shards."""
    lines = [
        "| | samples/s | ours is faster by | MB a sample | ours reads less by |",
        "|---|---|---|---|---|",
    ]
    ours = costs[OURS]
    for name, cost in costs.items():
        ratio = median(
            theirs / mine for theirs, mine in zip(cost.seconds, ours.seconds, strict=True)
        )
        size, less = cost.num_bytes / cost.num_samples, cost.num_bytes / ours.num_bytes
        lines.append(
            f"| {name} | {1 / median(cost.seconds):.0f} | {ratio:.2f} | {size / 1e6:.2f} | "
            f"{less:.1f} |"
        )
    return "\n".join(lines)


def where_time_goes(dataset: ShardDataset, repeats: int) -> str:
    """How much of the CPU time is JPEG decoding, how much crop, scale and flip, how much the rest.

    The median over the epochs after a first one that is not counted.
    """
    snippets = TrainSnippets(dataset.samples("train"), RECIPE)
    sizes = [entry.num_samples for entry in dataset.manifest.splits["train"]]
    epochs = []
    for epoch in range(repeats + 1):
        sampler = EpochSampler(sizes, batch_size=8, seed=0, epoch=epoch)
        decoders, cutters = (
            timed(members, "decode_rgb", "decode_gray"),
            timed(transforms, "view_frame", "view_field"),
        )
        with decoders as decoding, cutters as cutting:
            begun = time.process_time()
            for _ in load_train_batches(snippets, sampler, 0):
                pass
            whole = time.process_time() - begun
        epochs.append((decoding[0] / whole, cutting[0] / whole, 1e3 * whole / sum(sizes)))
    decode, augment, ms = (median(column) for column in zip(*epochs[1:], strict=True))
    return (
        f"of {ms:.2f} ms CPU a sample in batches: JPEG decoding {decode:.1%} · crop, scale and "
        f"flip {augment:.1%} · "
        f"reading, batching and the rest {1 - decode - augment:.1%}"
    )


@contextmanager
def timed(module: Any, *names: str) -> Iterator[list[float]]:
    """While it lasts, the seconds spent in these functions of a module are added up."""
    spent, originals = [0.0], {name: getattr(module, name) for name in names}

    def timing(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            begun = time.process_time()
            result = function(*args, **options)
            # Processor time, so that a busy machine does not count as work.
            spent[0] += time.process_time() - begun
            return result

        return run

    for name, function in originals.items():
        setattr(module, name, timing(function))
    try:
        yield spent
    finally:
        for name, function in originals.items():
            setattr(module, name, function)


def open_or_make(data: Path, shards: Path) -> ShardDataset:
    """The dataset, made of the videos below `data` at 256x256 where it is not there."""
    if not (shards / FILE_NAME).exists():
        settings = ShardSettings(path=str(shards), videos_per_shard=8)
        preprocess(DatasetSettings(kind="folders", root=str(data)), PreprocessSettings(), settings)
    return ShardDataset(shards)


@click.command(
    help=(
        "Feed training, for example: python -m benchmarks.loader --data ucf101/videos --shards "
        "/tmp/ucf"
    )
)
@data_option
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    help="Their shard dataset; made, and kept, if not there.",
)
@click.option(
    "--repeats", default=3, show_default=True, help="Times that every shard is read by everyone."
)
@click.option("--decoders", is_flag=True, help="Also compare JPEG decoders.")
def main(data: Path | None, shards: Path | None, repeats: int, decoders: bool) -> None:
    """Print the tables."""
    data = folder_of_videos(data)
    data = next(path for path in (data / "ucf101" / "videos", data) if path.is_dir())
    # One thread for all: contenders differ in what they run in threads of their own.
    cv2.setNumThreads(1)
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = shards or Path(folder) / "shards"
        dataset = open_or_make(data, shards)
        contenders = all_contenders(dataset, data, shards, Path(folder) / "images")
        groups: dict[str, list[StoredSample]] = {}
        for sample in dataset.samples("train"):
            groups.setdefault(str(sample.tar), []).append(sample)
        blocks = list(groups.values())
        lengths = [sample.index.num_frames for block in blocks for sample in block]
        # The first three read the same JPEGs, so their bytes must agree; videos give other pixels.
        refuse_differences(contenders[:3], blocks[0])
        click.echo(
            f"{machine()}, {len(lengths)} videos of {np.mean(lengths):.0f} frames, {len(blocks)} "
            "shards\n"
        )
        # Once for the page cache and for what is made at first use
        measured(contenders, blocks, cold=False)
        click.echo(
            "warm page cache\n\n" + table(measured(contenders, blocks * repeats, cold=False))
        )
        click.echo(
            "\ncold page cache\n\n" + table(measured(contenders, blocks * repeats, cold=True))
        )
        click.echo("\n" + where_time_goes(dataset, repeats))
        if decoders:
            click.echo("\n" + decoder_table(blocks[0] + blocks[-1]))


if __name__ == "__main__":
    main()
