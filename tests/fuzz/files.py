"""Thousands of forged datasets, predictions, checkpoints and runs, driven as the commands do it.

A case is drawn from the seed and its number alone: one file of a small original is changed, in
half of the cases with its digests made to fit, as somebody who means harm would do it. Each entry
point may do its work or end with an InputError of one line. A traceback, a hang, more memory than
the bound, and a verify that passes changed bytes, or what another command refuses, are faults.
"""

import hashlib
import io
import json
import os
import random
import resource
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from tests.fuzz.mutations import (
    odd_jpeg,
    odd_json,
    odd_parquet,
    odd_safetensors,
    odd_tar,
    odd_tree,
    odd_zip,
)
from tests.fuzz.mutations import odd_value as odd
from tests.fuzz.originals import register, run_settings, write_originals
from tests.fuzz.videos import mutated
from tests.fuzz.watching import parts_of, watched
from tests.support.datasets import bare, rewritten
from twinstream.errors import InputError
from twinstream.predictor import Predictor
from twinstream.shards.format.manifest import our_codec, settings_digest, spelt
from twinstream.shards.info import describe
from twinstream.shards.preview import write_preview
from twinstream.shards.rawframes.exporter import export_rawframes
from twinstream.shards.read.dataset import open_shards
from twinstream.shards.split_lists import describe_splits
from twinstream.shards.verify import fast_faults, faults
from twinstream.shards.write.combine import merge, subset
from twinstream.shards.write.convert_codec import convert_codec
from twinstream.shards.write.index_tars import index_dataset
from twinstream.shards.write.writer import TarStream
from twinstream.train.data.feed import Feed
from twinstream.train.fit import train
from twinstream.train.network.two_branch import build_model
from twinstream.train.network.weights import Use, initialise
from twinstream.train.ranks import Ranks
from twinstream.train.report.evidence import read_evidence
from twinstream.train.report.page import page
from twinstream.train.report.write import (
    as_csv,
    as_markdown,
    report_notes,
    report_parts,
    write_report,
)
from twinstream.train.run_folder import read_run_settings
from twinstream.train.score.evaluate import metrics_table, score_run, tell_replaced
from twinstream.train.session import load_training, open_session
from twinstream.train.settings import TestSettings
from twinstream.train.trained import load_network

# Of the processor, however much other work the machine has: a case takes a second
CPU_SECONDS = 60
# By the clock, for what only waits
HANG_SECONDS = 300
# Beyond what the process has mapped before its first case
MEMORY_BYTES = 2**30
SPLIT = "splits/few.json"
Entry = Callable[[], object]


@dataclass
class Case:
    """What became of one case."""

    folder: Path
    """A copy of the originals, to be changed"""
    rng: random.Random
    refused: dict[str, str] = field(default_factory=dict)
    """By entry point, what it said"""
    found: list[str] = field(default_factory=list)

    def enters(self, name: str, entry: Entry) -> None:
        """Call an entry point; its refusal or fault is noted."""
        with Noted(self, name):
            entry()

    def maybe(self, share: float, name: str, entry: Entry) -> None:
        """The same of an entry point that takes long, in a share of the cases."""
        if self.rng.random() < share:
            self.enters(name, entry)


@dataclass
class Noted:
    """A block whose exceptions are noted: an InputError is a refusal, any other one a fault."""

    case: Case
    name: str

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        # As the command line tells the disk's: a file's name and the reason.
        told = isinstance(error, InputError) or (isinstance(error, OSError) and error.strerror)
        if not told:
            frames = [f for f in traceback.extract_tb(trace) if "/tests/" not in f.filename]
            ours = [f for f in frames if "twinstream" in f.filename] or frames
            place = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "?"
            self.case.found.append(f"{self.name}: {type(error).__name__} in {place}")
        elif isinstance(error, InputError) and ("\n" in str(error) or len(str(error)) > 5_000):
            self.case.found.append(f"{self.name}: {len(str(error))} characters of an error")
        else:
            self.case.refused[self.name] = str(error)
        return True


def tree_digest(folder: Path) -> str:
    """Of the bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


# Changes of a dataset ---------------------------------------------------------------------------


def change_manifest(dataset: Path, rng: random.Random) -> bool:
    """Change dataset.json; whether its digests fit again."""
    path = dataset / "dataset.json"
    data = path.read_bytes()
    if rng.random() < 0.2:
        path.write_bytes(mutated(data, data, rng))
        return False
    changed = odd_json(data, rng)
    path.write_bytes(sealed(changed) if (fits := rng.random() < 0.8) else changed)
    return fits


def sealed(data: bytes) -> bytes:
    """A manifest or a stored split with the digests of what it says, where it says anything."""
    try:
        fields = json.loads(data)
        digests = {name: fields.pop(name) for name in ("sha256",)}
        if "settings_sha256" in fields:
            fields["settings_sha256"] = settings_digest(fields["settings"])
        digests["sha256"] = hashlib.sha256(spelt(fields)).hexdigest()
        return spelt(fields | digests)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return data


def resealed(dataset: Path, name: str, data: bytes) -> None:
    """Replace a file, and its size and digest in the manifest, whatever that refuses of them."""
    (dataset / name).write_bytes(data)
    path = dataset / "dataset.json"
    fields = json.loads(path.read_bytes())
    shards = chain.from_iterable(fields["splits"].values())
    for entry in [fields["videos"], *chain.from_iterable(shard.values() for shard in shards)]:
        if isinstance(entry, dict) and entry["path"] == name:
            entry |= {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_bytes(sealed(spelt(fields)))


def change_file(
    pattern: str, change: Callable[[bytes, random.Random], bytes]
) -> Callable[[Path, random.Random], bool]:
    """A change of one file of a dataset, in most cases with its digest in the manifest."""

    def changed(dataset: Path, rng: random.Random) -> bool:
        path = rng.choice(sorted(dataset.glob(pattern)))
        data = path.read_bytes()
        made = mutated(data, data, rng) if rng.random() < 0.2 else change(data, rng)
        if fits := rng.random() < 0.8:
            resealed(dataset, path.relative_to(dataset).as_posix(), made)
        else:
            path.write_bytes(made)
        return fits

    return changed


def change_member(
    wanted: str, change: Callable[[bytes, random.Random], bytes]
) -> Callable[[Path, random.Random], bool]:
    """A change of a member of a tar, whose index and digests fit."""

    def changed(dataset: Path, rng: random.Random) -> bool:
        path = rng.choice(sorted(dataset.glob("*/*.tar")))
        data = path.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = [[m.name, data[m.offset_data : m.offset_data + m.size]] for m in tar]
        member = rng.choice([each for each in members if each[0].endswith(wanted)])
        member[1] = change(member[1], rng)
        out, offsets = io.BytesIO(), []
        stream = TarStream(out)
        for name, content in members:
            offsets.append(stream.add(name, content))
        stream.finish()
        rewritten(dataset, path.relative_to(dataset).as_posix(), out.getvalue())
        index = path.with_suffix(".parquet")
        table = pq.ParquetFile(pa.BufferReader(index.read_bytes())).read(use_threads=False)
        places = iter(zip(offsets, [len(content) for _, content in members], strict=True))
        rows = [[next(places) for _ in row] for row in table.column("offsets").to_pylist()]
        for number, name in enumerate(("offsets", "sizes")):
            kind = table.schema.field(name).type
            column = pa.array([[place[number] for place in row] for row in rows], kind)
            table = table.set_column(table.column_names.index(name), name, column)
        made = io.BytesIO()
        pq.write_table(table, made)
        rewritten(dataset, index.relative_to(dataset).as_posix(), made.getvalue())
        return True

    return changed


def change_split(dataset: Path, rng: random.Random) -> bool:
    """Change a stored split; whether its digest fits again."""
    data = (dataset / SPLIT).read_bytes()
    changed = mutated(data, data, rng) if rng.random() < 0.2 else odd_json(data, rng)
    fits = rng.random() < 0.8
    (dataset / SPLIT).write_bytes(sealed(changed) if fits else changed)
    return fits


def drive_dataset(case: Case, change: Callable[[Path, random.Random], bool]) -> None:
    """Change the dataset and have it read by all that reads one."""
    dataset, out = case.folder / "dataset", case.folder / "out"
    before = tree_digest(dataset)
    fits = change(dataset, case.rng)
    lines: list[str] = []
    case.enters("verify", lambda: lines.extend(faults(dataset)))
    fast: list[str] = []
    case.enters("verify --fast", lambda: fast.extend(fast_faults(dataset)))
    is_sound = not lines and "verify" not in case.refused
    if tree_digest(dataset) != before and not fits:
        if is_sound:
            case.found.append("verify: passes changed bytes")
        if not fast and "verify --fast" not in case.refused:
            case.found.append("verify --fast: passes changed bytes")
    readers: dict[str, Entry] = {
        "info": lambda: describe(dataset),
        "splits": lambda: describe_splits(dataset),
        "samples": lambda: read_samples(dataset),
        "list": lambda: open_shards(dataset).samples("few")[0],
        "index loader": lambda: load_batches(dataset, "index"),
        "stream loader": lambda: load_batches(dataset, "stream"),
    }
    for name, entry in readers.items():
        case.enters(name, entry)
    case.maybe(0.01, "preview", lambda: preview(dataset, out / "preview.png"))
    case.maybe(0.15, "subset", lambda: subset(dataset, out / "subset", max_per_class=1))
    case.maybe(0.15, "merge", lambda: merge([dataset], out / "merge"))
    case.maybe(0.15, "export", lambda: export_rawframes(dataset, out / "export"))
    case.maybe(0.1, "convert-codec", lambda: convert(dataset, out / "converted"))
    if is_sound and fits:
        for name, said in case.refused.items():
            if name != "convert-codec":
                case.found.append(f"verify: passes what {name} refuses")
                case.refused[name] = said
    if lines:
        case.refused.setdefault("verify", lines[0])
    outside = [p for p in case.folder.parent.iterdir() if p != case.folder]
    outside += [p for p in case.folder.iterdir() if p.name not in KNOWN]
    case.found.extend(f"writes outside: {path.name}" for path in outside)
    case.maybe(0.3, "index", lambda: index_dataset(bare(dataset), our_codec(20.0)))


# In memory where there is such a folder: every file that a command writes is synced.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
KNOWN = {"dataset", "run", "base", "cma", "out", "few.txt", "weights.pt"}


def read_samples(dataset: Path) -> None:
    """What `preview` and the Python interface read of every sample."""
    shards = open_shards(dataset)
    for key in shards.keys()[:20]:
        sample = shards[key]
        sample.frames([0, sample.num_frames - 1])
        sample.flow(0, sample.num_frames - 1)


def load_batches(dataset: Path, loader: str) -> None:
    """An epoch of batches as training sees them."""
    window = "train.shuffle_window=2"
    settings = run_settings(dataset, f"train.loader={loader}", window)
    feed = Feed(open_shards(dataset), settings.train, settings.model.snippet)
    for _ in feed.batches(0, 0, Ranks()):
        pass


def preview(dataset: Path, out: Path) -> None:
    """The picture of the first samples."""
    shards = open_shards(dataset)
    out.parent.mkdir(exist_ok=True)
    write_preview(shards, [shards.sample(key) for key in shards.keys()[:2]], out)


def convert(dataset: Path, out: Path) -> None:
    """Flow of another bound."""
    convert_codec(dataset, out, bound=10.0, default_quality=95)


# Predictions, checkpoints and runs --------------------------------------------------------------


def drive_predictions(case: Case) -> None:
    """Change predictions and make a report of them."""
    runs = [case.folder / "base", case.folder / "cma"]
    path = case.rng.choice(runs) / "predictions.parquet"
    data = path.read_bytes()
    raw = case.rng.random() < 0.2
    path.write_bytes(mutated(data, data, case.rng) if raw else odd_parquet(data, case.rng))

    def report() -> None:
        evidence = read_evidence(runs, unfinished=case.rng.random() < 0.5)
        # The tables build networks to count their parameters.
        if case.rng.random() < 0.6:
            return
        parts, notes = report_parts(evidence), report_notes(evidence)
        for part in parts:
            as_markdown(part, notes), as_csv(part)
        page(evidence, notes, parts, {})
        if case.rng.random() < 0.05:
            write_report(evidence, case.folder / "out")

    case.enters("report", report)
    case.maybe(0.2, "report of one", lambda: report_parts(read_evidence([path.parent])))
    told = {"run": "x", "stage": "iter1", "dataset_sha256": "x", "split": "x"}
    case.enters("test", lambda: tell_replaced(path, told | {"kind": "cma", "depth": 18}))


def odd_state(data: bytes, rng: random.Random) -> bytes:
    """What torch.save wrote after one change of its dict, its pickle or its zip."""
    kind = rng.random()
    if kind < 0.15:
        return mutated(data, data, rng)
    if kind < 0.35:
        return odd_zip(data, rng)
    state = odd_tree(torch.load(io.BytesIO(data)), rng, odd_entry)
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def odd_entry(rng: random.Random) -> Any:
    """A value or a tensor that stands where it does not belong."""
    if rng.random() < 0.5:
        return odd(rng)
    made: list[Callable[[], torch.Tensor]] = [
        lambda: torch.full((4,), float("nan")),
        lambda: torch.zeros(()),
        lambda: torch.zeros(4, dtype=torch.complex64),
        lambda: torch.zeros(4, dtype=torch.int64),
        lambda: torch.zeros(4, 4).to_sparse(),
        lambda: torch.zeros(1).expand(10**10),
        lambda: torch.zeros(1, 1).expand(10**5, 10**6),
        lambda: torch.empty(4, device="meta"),
        lambda: torch.zeros(0),
        lambda: torch.full((4,), 1e38),
        lambda: torch.zeros(4, dtype=torch.bool),
        lambda: torch.quantize_per_tensor(torch.zeros(4), 1.0, 0, torch.qint8),
    ]
    return rng.choice(made)()


def drive_run(case: Case, *, trains: bool) -> None:
    """Open a run by all that opens one; with `trains`, go on to its end."""
    run, dataset, rng = case.folder / "run", case.folder / "dataset", case.rng
    stage = rng.choice((None, "flow"))
    case.maybe(0.7, "network", lambda: load_network(run, stage))
    case.maybe(0.15, "predict", lambda: Predictor(run, segments=1, crops=1, device="cpu"))
    once = TestSettings(segments=1, crops=1)
    score = partial(score_run, run, once, str(dataset), stage, case.folder / "out")
    case.maybe(0.2, "test", lambda: metrics_table(score()))
    wanted = run_settings(dataset)
    weights = {f"model.{name}_weights": str(run) for name in ("rgb", "flow")}
    first = run_settings(dataset, *(f"{name}={path}" for name, path in weights.items()))
    use = Use(("left", "right"), 20.0)
    model = build_model(first.model, 2)
    case.maybe(
        0.3, "first weights", lambda: initialise(model.rgb, run / "flow.safetensors", "rgb", use)
    )
    if trains:
        case.maybe(0.4, "resume", lambda: train(wanted, run, resume=True))
        return

    def opened() -> None:
        settings = read_run_settings(run)
        shards = settings.shards.model_copy(update={"path": str(dataset)})
        session = open_session(settings.model_copy(update={"shards": shards}), run, Ranks())
        load_training(session, more_epochs=False)

    case.enters("resume", opened)


def drive_checkpoint(case: Case) -> None:
    """Change a checkpoint, of a stage or of the whole run, or the file of a branch."""
    name = case.rng.choice(("checkpoint.pt", "flow.safetensors"))
    path = case.folder / "run" / name
    change = odd_state if name == "checkpoint.pt" else odd_safetensors
    path.write_bytes(change(path.read_bytes(), case.rng))
    drive_run(case, trains=True)


def drive_weights(case: Case) -> None:
    """Change a file of weights that a run would begin with."""
    path = case.folder / "weights.pt"
    path.write_bytes(odd_state(path.read_bytes(), case.rng))
    settings = run_settings(case.folder / "dataset")
    model, use = build_model(settings.model, 2), Use(("left", "right"), 20.0)
    for name in model.names:
        case.enters("weights", partial(initialise, model.branch(name), path, name, use))


# Too deep, in itself, so large when it is written out that it would fill all memory, code
YAMLS = (
    b"[" * 100_000,
    b"train: &a [*a, *a]",
    b"a0: &a0 x\n"
    + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 40)),
    b"a: !!python/name:os.system",
    b"train: " + b"9" * 5_000,
    b"\xff\xfe",
)


def drive_settings(case: Case) -> None:
    """Change a run's settings, or one of its small files."""
    run, rng = case.folder / "run", case.rng
    name = rng.choice(("settings.yaml",) * 6 + ("starts.jsonl", "log.jsonl", "dataset.json"))
    path = run / name
    data = path.read_bytes()
    if name == "settings.yaml" and rng.random() < 0.85:
        tree = odd_tree(yaml.safe_load(data), rng, odd)
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    elif name == "settings.yaml" and rng.random() < 0.3:
        path.write_bytes(rng.choice(YAMLS))
    elif name == "dataset.json" and rng.random() < 0.7:
        path.write_bytes(sealed(odd_json(data, rng)))
    elif name.endswith("jsonl") and rng.random() < 0.7:
        lines = data.splitlines() or [b"{}"]
        at = rng.randrange(len(lines))
        lines[at] = odd_json(lines[at], rng)
        path.write_bytes(b"\n".join(lines) + b"\n")
    else:
        path.write_bytes(mutated(data, data, rng))
    drive_run(case, trains=name.endswith("jsonl"))


KINDS: dict[str, Callable[[Case], None]] = {
    "manifest": partial(drive_dataset, change=change_manifest),
    "index": partial(drive_dataset, change=change_file("*/*.parquet", odd_parquet)),
    "videos": partial(drive_dataset, change=change_file("videos.parquet", odd_parquet)),
    "tar": partial(drive_dataset, change=change_file("*/*.tar", odd_tar)),
    "sample JSON": partial(drive_dataset, change=change_member(".json", odd_json)),
    "JPEG": partial(drive_dataset, change=change_member(".jpg", odd_jpeg)),
    "split": partial(drive_dataset, change=change_split),
    "predictions": drive_predictions,
    "checkpoint": drive_checkpoint,
    "weights": drive_weights,
    "run folder": drive_settings,
}


def kind_of(number: int) -> str:
    """The kinds take turns."""
    return [*KINDS][number % len(KINDS)]


def tried(number: int, seed: int, originals: Path, folder: Path) -> Case:
    """Draw a case, drive it, and tell what became of it."""
    shutil.copytree(originals, folder)
    case = Case(folder, random.Random(f"{seed}/{number}"))
    KINDS[kind_of(number)](case)
    return case


def outcome(case: Case) -> str:
    """`refused`, `read`, or `fault` with what was found, each once."""
    if case.found:
        return "fault\t" + "\t".join(dict.fromkeys(case.found))
    return "refused" if case.refused else "read"


def work(numbers: range, answers: Connection, seed: int, originals: Path) -> None:
    """Try these cases in bounded memory, silently, and tell of each before and after it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with (
        open(os.devnull, "w") as silent,
        redirect_stdout(silent),
        redirect_stderr(silent),
        tempfile.TemporaryDirectory(dir=SCRATCH) as name,
    ):
        for number in numbers:
            answers.send((number, ""))
            # Whoever takes more ends by SIGXCPU.
            used, most = time.process_time(), resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (int(used) + CPU_SECONDS, most))
            folder = Path(name, str(number), "case")
            answers.send((number, outcome(tried(number, seed, originals, folder))))
            shutil.rmtree(folder.parent)


def table(outcomes: list[tuple[int, str]]) -> str:
    """Counts of outcomes, a line for each kind."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for number, text in outcomes:
        first = text.partition("\t")[0]
        counts[kind_of(number)][first if first in ("refused", "read") else "fault"] += 1
    names = ("refused", "read", "fault")
    lines = [f"{'kind':<12}{'cases':>8}" + "".join(f"{name:>9}" for name in names)]
    for kind in [*KINDS, "all"]:
        found = sum(counts.values(), Counter()) if kind == "all" else counts[kind]
        cells = [found.total(), *(found[name] for name in names)]
        lines.append(f"{kind:<12}{cells[0]:>8}" + "".join(f"{cell:>9}" for cell in cells[1:]))
    return "\n".join(lines)


def findings(outcomes: list[tuple[int, str]]) -> dict[str, list[int]]:
    """The numbers of the cases by kind and what was found, the most frequent first."""
    found: dict[str, list[int]] = defaultdict(list)
    for number, text in outcomes:
        if text not in ("refused", "read"):
            for what in text.removeprefix("fault\t").split("\t"):
                found[f"{kind_of(number)}: {what}"].append(number)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def try_all(numbers: range, seed: int, originals: Path, workers: int) -> list[tuple[int, str]]:
    """(number, outcome) of each case, by so many processes that are forked off this one."""
    register()
    tries = partial(work, seed=seed, originals=originals)
    run = partial(watched, tries=tries, method="fork", hang_seconds=HANG_SECONDS)
    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(lambda part: list(run(part)), parts_of(numbers, workers))
        return list(chain.from_iterable(parts))


@click.command(help="Forged files, for example: python -m tests.fuzz.files --count 10000")
@click.option("--count", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--begin", default=0, show_default=True, help="Number of the first case.")
@click.option("--workers", default=2, show_default=True)
def main(count: int, seed: int, begin: int, workers: int) -> None:
    """Exit code 1 when anything is found."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=SCRATCH) as name:
        write_originals(Path(name, "originals"))
        outcomes = try_all(range(begin, begin + count), seed, Path(name, "originals"), workers)
    click.echo(table(outcomes))
    found = findings(outcomes)
    for what, numbers in found.items():
        click.echo(f"{len(numbers)} x {what}: cases {', '.join(map(str, numbers[:5]))}")
    click.echo(f"{len(outcomes)} cases of seed {seed}, {time.monotonic() - begun:.0f} s")
    if found or len(outcomes) != count:
        sys.exit(1)


if __name__ == "__main__":
    main()
