"""Thousands of broken videos and lists, none of which may end otherwise than by its named error.

Drawn videos of every container are changed, cut and spliced, random bytes follow the first bytes
of formats, and lists get bytes that do not belong there. Each input is drawn from the seed and its
number alone. A video may give pictures or a VideoError, a list records or an InputError; any other
exception, a process that dies and one that is silent for too long are findings.
"""

import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path

import click

from benchmarks.encodings import ENCODINGS, encode
from tests.fuzz.watching import parts_of, watched
from twinstream.errors import InputError
from twinstream.preprocess.decode.image_folder import open_frames
from twinstream.preprocess.decode.video import open_video
from twinstream.shards.format.classes import parse_classes
from twinstream.shards.format.listings import parse_csv, parse_kinetics, parse_split_list
from twinstream.shards.format.video_table import VideoError
from twinstream.shards.rawframes.names import read_list
from twinstream.shards.storage.location import read_text

MEMORY_BYTES = 8 * 2**30
MAX_PIXELS = 7680 * 4320
MAGIC = {
    "mp4": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2avc1mp41\0\0\0\x08moov",
    "mkv": b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x23\x42\x82\x88matroska\x18\x53\x80\x67\x01\xff",
    "avi": b"RIFF\xff\xff\0\0AVI LIST\xc0\0\0\0hdrlavih8\0\0\0",
    "ts": b"G@\0\x10\0\0\xb0\r\0\1\xc1\0\0\0\1\xf0\0" + b"\xff" * 171 + b"G",
    "mpg": b"\0\0\1\xba!\0\1\0\1\x80\x1b\x91\0\0\1\xe0\x07\xec",
    "flv": b"FLV\1\1\0\0\0\x09\0\0\0\0\x09\0\0\x20\0\0\0\0\0\0\0",
    "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + b"\xff\1\0\0\0\0\0\0\6\0\0\0\1\2",
    "gif": b"GIF89a\x40\0\x30\0\xf7\0\0",
    "ogv": b"OggS\0\2\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\xff\xff\xff\xff\1\x2a\x80theora\3\2\1",
    "h264": b"\0\0\0\1\x67\x42\0\x1e\xab\x40\x50\x1e\xd0\0\0\0\1\x68\xce\x3c\x80\0\0\0\1\x65",
    "wmv": b"\x30\x26\xb2\x75",
    "jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xdb",
    "webm": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\xf7\x81\1\x42\x82\x84webm",
}
LISTS = {
    "csv.csv": b'path,label,split\nRun/a.avi,Run,train\n"Run/b, c.avi",Run,val\nWalk/d,Walk,test\n',
    "kinetics.csv": b"label,youtube_id,time_start,time_end,split,is_cc\n"
    b"abseiling,_4YTwq0-73Y,74,84,train,0\nair drumming,---QUuC4vJs,12.0,22,validate,1\n",
    "trainlist01.txt": b"Run/v_Run_g01_c01.avi 1\nWalk/v_Walk_g02_c01.avi 2\n",
    "classInd.txt": b"1 Run\n2 Walk\n3 Throw Frisbee\n",
    "train_rawframes.txt": b"Run/v_1 30 0\nWalk/v 2 40 1\n",
}
PARSERS: dict[str, Callable[[Path], object]] = {
    "csv.csv": lambda path: parse_csv(read_text(path, "list"), path.name),
    "kinetics.csv": lambda path: parse_kinetics(read_text(path, "list"), path.name),
    "trainlist01.txt": lambda path: parse_split_list(read_text(path, "list"), path.name, "train"),
    "classInd.txt": lambda path: parse_classes(read_text(path, "list"), path.name),
    "train_rawframes.txt": read_list,
}


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """`data` after one to three changes, some with bytes of `other`."""
    for _ in range(rng.randint(1, 3)):
        # Headers and tables stand at either end, and are small: half of the changes go there.
        edge = rng.choice((len(data), min(len(data), 2048)))
        begin = rng.randrange(max(edge, 1))
        begin = begin if rng.random() < 0.7 else max(0, len(data) - 1 - begin)
        end = min(len(data), begin + rng.choice((1, 4, 64, 1000, len(data) // 3)))
        place = rng.randrange(max(len(other), 1))
        data = changed(data, begin, end, other[place:], rng)
    return data


def changed(data: bytes, begin: int, end: int, other: bytes, rng: random.Random) -> bytes:
    """One change of the bytes from `begin` to `end`."""
    before, run, after = data[:begin], data[begin:end], data[end:]
    return rng.choice(
        [
            before + rng.randbytes(len(run)) + after,
            before + rng.choice((b"\0", b"\xff")) * len(run) + after,
            before + bytes(byte ^ 1 << rng.randrange(8) for byte in run[:1]) + data[begin + 1 :],
            before,
            run + after,
            before + after,
            before + run + run + after,
            before + other,
            before + other[: len(run)] + run + after,
        ]
    )


def drawn_input(number: int, seed: int, sources: list[Path], folder: Path) -> Path:
    """Write the input of that number."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.random()
    if kind < 0.8:
        source, other = rng.choice(sources), rng.choice(sources)
        path = folder / f"{number}{source.suffix}"
        path.write_bytes(mutated(source.read_bytes(), other.read_bytes(), rng))
    elif kind < 0.9:
        suffix = rng.choice([*MAGIC])
        magic = MAGIC[suffix]
        path = folder / f"{number}.{rng.choice([suffix, *MAGIC])}"
        path.write_bytes(
            magic[: rng.randint(2, len(magic))] + rng.randbytes(rng.choice((0, 50, 5000)))
        )
    else:
        name = rng.choice([*LISTS])
        path = folder / str(number) / name
        path.parent.mkdir()
        path.write_bytes(mutated(LISTS[name], rng.choice([*LISTS.values()]), rng))
    return path


def tried(path: Path) -> str:
    """`whole`, a reason, `list` or `refused list`; raises what may not come."""
    if path.name in PARSERS:
        try:
            PARSERS[path.name](path)
        except InputError as error:
            return "refused list" if "\n" not in str(error) else f"several lines: {error}"
        return "list"
    size = {"size": (64, 48), "short_side": None}
    try:
        # An image may lie in a folder of frames.
        if path.suffix == ".jpg":
            folder = path.with_suffix("")
            folder.mkdir()
            path.replace(folder / "img_00000.jpg")
            with open_frames(folder, **size, chunk_frames=32, max_pixels=MAX_PIXELS) as video:
                for _ in video:
                    pass
            return "whole"
        with open_video(path, **size, chunk_frames=32, max_pixels=MAX_PIXELS) as video:
            for _ in video:
                pass
    except VideoError as error:
        is_bad = "\n" in error.detail or str(path.parent) in error.detail
        return f"not one line without a path: {error.detail}" if is_bad else error.reason.value
    return "whole"


def work(
    numbers: range, answers: Connection, seed: int, sources: list[Path], keep: Path | None = None
) -> None:
    """Try these inputs, and tell of each before and after it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as name:
        for number in numbers:
            path = drawn_input(number, seed, sources, keep or Path(name))
            answers.send((number, ""))
            # Whatever else it raises ends the process, which is what is looked for.
            found = tried(path)
            answers.send((number, found))


def write_sources(folder: Path, seed: int) -> list[Path]:
    """A video of each encoding, and one of each with drawn settings."""
    paths = []
    for number, encoding in enumerate(ENCODINGS):
        for plain in (True, False):
            path = folder / f"{number}{plain:d}.{encoding.suffix}"
            encode(path, encoding, random.Random(f"{seed}/{number}"), plain=plain)
            paths.append(path)
    return paths


NAMED = {
    *("whole", "list", "refused list", "unreadable", "no_video_stream", "too_large"),
    *("decode_error", "too_short", "missing"),
}


@click.command(
    help="Broken inputs, for example: python -m tests.fuzz.videos --inputs 10000 --seed 0"
)
@click.option("--inputs", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--begin", default=0, show_default=True, help="Number of the first input.")
@click.option("--workers", default=2, show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Folder that keeps the inputs.")
def main(inputs: int, seed: int, begin: int, workers: int, keep: Path | None) -> None:
    """Exit code 1 when anything is found."""
    begun = time.monotonic()
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
    parts = parts_of(range(begin, begin + inputs), workers)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(workers) as pool:
        sources = write_sources(Path(name), seed)
        tries = partial(work, seed=seed, sources=sources, keep=keep)
        outcomes = list(
            chain.from_iterable(pool.map(lambda part: list(watched(part, tries)), parts))
        )
    counts = Counter(outcome for _, outcome in outcomes if outcome in NAMED)
    click.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    findings = [(number, outcome) for number, outcome in outcomes if outcome not in NAMED]
    for number, outcome in findings:
        click.echo(f"input {number} of seed {seed}: {outcome}")
    click.echo(
        f"{len(outcomes)} inputs, {len(findings)} findings, {time.monotonic() - begun:.0f} s"
    )
    if findings or len(outcomes) != inputs:
        sys.exit(1)


if __name__ == "__main__":
    main()
