"""Damaged videos that are noticed, and good ones that are refused: `python -m benchmarks.damages`.

Videos are drawn and encoded by many codecs, damaged in seeded ways, and decoded as in preprocess.
Each is then caught (VideoError), harmless (the same pictures as undamaged), short (all pictures
right, but not all there) or wrong (other pictures). Short and wrong are what a dataset would hold
without a word. The same table counts good files that are refused: encodes with drawn settings, and
copies of a stream from a key frame on. `--good DIR` counts the refused among real files instead.
Damage n of a kind is drawn from the seed, its kind and n alone, so that it can be made again.
"""

import hashlib
import json
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.encodings import (
    ENCODINGS,
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    Encoding,
    encode,
    packets,
    remux,
)
from benchmarks.measuring import machine
from twinstream.preprocess.decode.video import open_video
from twinstream.shards.format.video_table import VideoError

NUM_VIDEOS = 4
TS_BYTES = 188
ZERO_BYTES = 64
GOOD, CUT = "encoded", "cut at a key frame"
OUTCOMES = ("caught", "harmless", "short", "wrong")


class Judged(NamedTuple):
    """What became of one file.

    `early` says that a picture was given before the VideoError that is not as in the whole one.
    """

    label: str
    kind: str
    number: int
    outcome: str
    early: bool
    text: str


def lost_packet(source: Path, target: Path, rng: random.Random) -> bool:
    """One packet, but the last, left out on remuxing: a loss that no container tells."""
    left_out = rng.randrange(len(packets(source)) - 1)
    remux(source, target, lambda number: number != left_out)
    return True


def cut_start(source: Path, target: Path, rng: random.Random) -> bool:
    """The first packets left out on remuxing, up to one that is no key frame."""
    begins = [number for number, (*_, is_key) in enumerate(packets(source)) if not is_key]
    if not begins:
        return False
    begin = rng.choice(begins)
    remux(source, target, lambda number: number >= begin)
    return True


def zeroed(source: Path, target: Path, rng: random.Random) -> bool:
    """Zero bytes over a place in a packet, in the file as it lies."""
    data = bytearray(source.read_bytes())
    place = _place(source, rng)
    length = len(data[place : place + ZERO_BYTES])
    data[place : place + length] = bytes(length)
    target.write_bytes(data)
    return True


def flipped(source: Path, target: Path, rng: random.Random) -> bool:
    """One bit of a packet flipped, in the file as it lies."""
    data = bytearray(source.read_bytes())
    data[min(_place(source, rng), len(data) - 1)] ^= 1 << rng.randrange(8)
    target.write_bytes(data)
    return True


def _place(path: Path, rng: random.Random) -> int:
    position, size, _ = rng.choice(packets(path))
    return position + rng.randrange(size)


def lost_ts_packet(source: Path, target: Path, rng: random.Random) -> bool:
    """One transport packet left out of the file."""
    if source.suffix != ".ts":
        return False
    data = source.read_bytes()
    place = TS_BYTES * rng.randrange(len(data) // TS_BYTES)
    target.write_bytes(data[:place] + data[place + TS_BYTES :])
    return True


def cut_end(source: Path, target: Path, rng: random.Random) -> bool:
    """The file up to a byte."""
    data = source.read_bytes()
    target.write_bytes(data[: rng.randrange(1, len(data))])
    return True


DAMAGES: dict[str, Callable[[Path, Path, random.Random], bool]] = {
    "lost packet": lost_packet,
    "64 zero bytes": zeroed,
    "flipped bit": flipped,
    "lost TS packet": lost_ts_packet,
    "cut end": cut_end,
    "cut start": cut_start,
}


def decoded(path: Path) -> tuple[list[bytes], VideoError | None]:
    """A digest of every picture that is given, and the error that ended it."""
    found: list[bytes] = []
    try:
        # Chunks of one picture, so that those before an error are seen.
        with open_video(path, size=(WIDTH, HEIGHT), short_side=None, chunk_frames=1) as video:
            found.extend(hashlib.sha1(chunk.tobytes()).digest() for chunk in video)
    except VideoError as error:
        return found, error
    return found, None


def outcome(whole: list[bytes], found: list[bytes], error: VideoError | None) -> tuple[str, bool]:
    """One of OUTCOMES, and whether a picture before the error is not the whole video's."""
    if error is not None:
        known = getattr(error, "num_whole", None)
        found = found if known is None else found[:known]
        # A stretch of the whole video, which starts late where its start was cut.
        begin = whole.index(found[0]) if found and found[0] in whole else 0
        return "caught", found != whole[begin : begin + len(found)]
    if found == whole:
        return "harmless", False
    rest = iter(whole)
    return ("short" if all(one in rest for one in found) else "wrong"), False


def judge_damage(
    folder: Path, keep: Path | None, seed: int, task: tuple[str, list[Path], str, int]
) -> Judged | None:
    """Damage one of the videos of a label and decode it; None where it has no such damage."""
    label, sources, kind, number = task
    rng = random.Random(f"{seed}/{label}/{kind}/{number}")
    source = sources[number % len(sources)]
    target = folder / f"{os.getpid()}{source.suffix}"
    whole, error = decoded(source)
    # A video that is refused undamaged is in the table of good files; nothing can be compared.
    if error is not None or not DAMAGES[kind](source, target, rng):
        return None
    found, error = decoded(target)
    name, early = outcome(whole, found, error)
    text = str(error or f"{len(found)} of {len(whole)} frames")
    judged = Judged(label, kind, number, name, early, text)
    if keep and (name in ("short", "wrong") or early):
        target.replace(keep / kept_name(judged, source.suffix))
    return judged


def judge_good(
    folder: Path, keep: Path | None, seed: int, task: tuple[Encoding, str, int]
) -> Judged | None:
    """Encode with drawn settings, copy from a key frame on if asked, and decode."""
    encoding, kind, number = task
    rng = random.Random(f"{seed}/{encoding.label}/{GOOD}/{number}")
    source = folder / f"{os.getpid()}-good.{encoding.suffix}"
    encode(source, encoding, rng, plain=False)
    if kind == CUT:
        begins = [place for place, (*_, is_key) in enumerate(packets(source)) if is_key and place]
        if not begins:
            return None
        begin, whole = rng.choice(begins), source
        source = whole.with_name(f"{os.getpid()}-cut.{encoding.suffix}")
        remux(whole, source, lambda place: place >= begin)
    found, error = decoded(source)
    is_short = kind == GOOD and len(found) != NUM_FRAMES
    name = "refused" if error else "short" if is_short else "good"
    judged = Judged(encoding.label, kind, number, name, False, str(error or len(found)))
    if keep and name != "good":
        source.replace(keep / kept_name(judged, source.suffix))
    return judged


def judge_real(path: Path) -> Judged:
    """Decode a file that is taken to be good."""
    found, error = decoded(path)
    return Judged(str(path), "", 0, "refused" if error else "good", False, str(error or len(found)))


def kept_name(judged: Judged, suffix: str) -> str:
    """`h264_B_mp4-lost_packet-17-wrong.mp4`."""
    words = (judged.label, judged.kind, str(judged.number), judged.outcome)
    return "-".join("_".join(re.findall(r"\w+", word)) for word in words) + suffix


def write_source(folder: Path, seed: int, task: tuple[Encoding, int]) -> tuple[str, Path]:
    """Encode a video that will be damaged."""
    encoding, number = task
    rng = random.Random(f"{seed}/{encoding.label}/{number}")
    path = folder / f"{ENCODINGS.index(encoding)}-{number}.{encoding.suffix}"
    # The first as encoders do it without further ado, the others with settings of their own.
    encode(path, encoding, rng, plain=number == 0)
    return encoding.label, path


def damage_table(found: list[Judged]) -> str:
    """A line an encoding: caught/harmless/short/wrong of each kind, then of all."""
    kinds = [kind for kind in DAMAGES if any(one.kind == kind for one in found)]
    lines = [
        f"{' / '.join(OUTCOMES)} of each kind; early: wrong pictures before the error",
        f"\n| | {' | '.join(kinds)} | all | caught of what matters | early |",
        "|---" * (len(kinds) + 4) + "|",
    ]
    encodings = list(dict.fromkeys(one.label for one in found))
    for encoding in [*encodings, None]:
        rows = [one for one in found if encoding in (None, one.label)]
        cells = [_counts([one for one in rows if one.kind == kind]) for kind in kinds]
        counts = Counter(one.outcome for one in rows)
        mattered = len(rows) - counts["harmless"]
        rate = f"{counts['caught'] / mattered:.1%}" if mattered else ""
        cells += [_counts(rows), rate, str(sum(one.early for one in rows))]
        lines.append(f"| {encoding or 'all'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _counts(rows: list[Judged]) -> str:
    counts = Counter(one.outcome for one in rows)
    return " / ".join(str(counts[name]) for name in OUTCOMES) if rows else ""


def good_table(found: list[Judged]) -> str:
    """A line an encoding: files, refused and short ones, and the first reason."""
    lines = ["| good files | encoded | refused | short | cut at a key frame | refused | first |"]
    lines.append("|---" * 7 + "|")
    for encoding in dict.fromkeys(one.label for one in found):
        rows = {
            kind: [one for one in found if (one.label, one.kind) == (encoding, kind)]
            for kind in (GOOD, CUT)
        }
        bad = [one for one in rows[GOOD] + rows[CUT] if one.outcome != "good"]
        first = f"{bad[0].kind} {bad[0].number}: {bad[0].text}" if bad else ""
        counts = {kind: Counter(one.outcome for one in rows[kind]) for kind in rows}
        cells = [
            len(rows[GOOD]),
            counts[GOOD]["refused"],
            counts[GOOD]["short"],
            len(rows[CUT]),
            counts[CUT]["refused"],
            first,
        ]
        lines.append(f"| {encoding} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


@click.command(
    help=(
        "Damage drawn videos and count what is caught, for example: python -m benchmarks.damages "
        "--damages 100 --seed 0"
    )
)
@click.option("--damages", default=100, show_default=True, help="Damages of each kind.")
@click.option("--encodes", default=40, show_default=True, help="Good files of each encoding.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", default="", help="Encodings whose label holds this text, such as `h264`.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice([*DAMAGES]), help="All if none.")
@click.option("--workers", type=int, default=os.cpu_count(), show_default=True)
@click.option(
    "--damage", "real", multiple=True, type=click.Path(path_type=Path), help="Damage this file."
)
@click.option("--good", type=click.Path(path_type=Path), help="Folder of good files to decode.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for what went unnoticed.")
@click.option("--rows", type=click.Path(path_type=Path), help="File for a JSON line a file.")
def main(
    damages: int,
    encodes: int,
    seed: int,
    only: str,
    kinds: tuple[str, ...],
    workers: int,
    real: tuple[Path, ...],
    good: Path | None,
    keep: Path | None,
    rows: Path | None,
) -> None:
    """Print the tables; with `--good` or `--damage` those of real files alone."""
    encodings = [one for one in ENCODINGS if only in one.label and not real and good is None]
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
    click.echo(f"{machine()}, seed {seed}\n")
    # Not multiprocessing's pool, which waits for ever where a worker has died.
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
    ):
        folder = Path(name)
        sources: dict[str, list[Path]] = {path.name: [path] for path in real}
        drawings = [(one, number) for one in encodings for number in range(NUM_VIDEOS)]
        for label, path in pool.map(partial(write_source, folder, seed), drawings):
            sources.setdefault(label, []).append(path)
        tasks = [
            (label, paths, kind, number)
            for label, paths in sources.items()
            for kind in kinds or DAMAGES
            for number in range(damages)
        ]
        judged = pool.map(partial(judge_damage, folder, keep, seed), tasks, chunksize=8)
        damaged = [one for one in judged if one]
        encoded = [
            (one, kind, n) for one in encodings for kind in (GOOD, CUT) for n in range(encodes)
        ]
        judged = pool.map(partial(judge_good, folder, keep, seed), encoded, chunksize=4)
        whole = [one for one in judged if one]
        files = sorted(path for path in good.rglob("*") if path.is_file()) if good else []
        found = list(pool.map(judge_real, files, chunksize=4))
    if rows:
        rows.write_text(
            "".join(f"{json.dumps(one._asdict())}\n" for one in damaged + whole + found)
        )
    if damaged:
        click.echo(damage_table(damaged))
    if whole:
        click.echo(f"\n{good_table(whole)}")
    if found:
        refused = [one for one in found if one.outcome == "refused"]
        click.echo(f"{len(refused)} of {len(found)} files refused")
        click.echo("\n".join(f"{one.label}: {one.text}" for one in refused))


if __name__ == "__main__":
    main()
