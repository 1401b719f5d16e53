"""Whether two checkouts make the same datasets and the same losses, to the bit:

    python -m tests.same_bytes OLD NEW --data ../shared/data/weizmann

OLD and NEW are commits or folders of checkouts. Each runs its own commands, in folders of the same
names, on the same inputs: the demo's drawn videos, real videos in the UCF-101 layout, folders of
frames and flow as mmaction2 has them, and 20 training steps in each of three stages of `cma`. The
comparison is of the SHA-256 of every file and of every loss in the log. A commit that means to
change a file says so; everything else that differs is a fault.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import yaml

from twinstream.demo import DEMO_FRAMES, DEMO_SEED, DEMO_VIDEOS_PER_PAIR

ROOT = Path(__file__).parents[1]
# What tells of a run and is no part of a dataset: clocks, hosts, versions
UNCOMPARED = {"run.json", "run.jsonl"}
# `draw` has moved; each checkout is asked under the names it may have.
DRAW = f"""
import importlib, sys, yaml
from twinstream.demo import demo_settings
for name in ("twinstream.preprocess.duet", "preprocess.duet"):
    try:
        duet = importlib.import_module(name)
        break
    except ImportError:
        continue
from pathlib import Path
duet.write_duet(Path("demo/videos"), videos_per_pair={DEMO_VIDEOS_PER_PAIR!r},
                size=64, num_frames={DEMO_FRAMES}, seed={DEMO_SEED})
# Each by its own settings: a key may be new, and say there what was not said before.
tree = demo_settings(Path("demo"))
tree["model"] |= {{"kind": "cma"}}
Path("demo.yaml").write_text(yaml.safe_dump(tree))
"""
STEPS = {"train.stages": "[flow,iter1,iter2]", "train.epochs": 1, "train.batch_size": 32}


@contextmanager
def checkout(name: str, work: Path) -> Iterator[Path]:
    """The folder of a checkout: `name` itself, or the commit of that name laid out below `work`."""
    if Path(name).is_dir():
        yield Path(name).absolute()
        return
    folder = work / f"checkout-{name.replace('/', '-')}"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(folder), name], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def make_everything(code: Path, out: Path, weizmann: Path | None) -> None:
    """Run all commands of one checkout in `out`."""
    out.mkdir(parents=True)
    # The checkout goes before whatever is installed.
    environment = os.environ | {"PYTHONPATH": str(code), "PYTHONHASHSEED": "0"}

    def run(*arguments: str) -> None:
        click.echo(f"{code.name}: {' '.join(arguments)[:90]}", err=True)
        command = [sys.executable, *arguments]
        subprocess.run(command, cwd=out, env=environment, stdout=subprocess.DEVNULL, check=True)

    run("-c", DRAW)
    changes = [word for key, value in STEPS.items() for word in ("--set", f"{key}={value}")]
    twinstream = ("-m", "twinstream")
    run(*twinstream, "preprocess", "-c", "demo.yaml")
    run(*twinstream, "train", "-c", "demo.yaml", *changes, "--out", "run")
    run(*twinstream, "test", "run")
    if weizmann is None:
        return
    tree = {
        "dataset": {
            "kind": "ucf101",
            "root": str(weizmann / "videos"),
            "splits": str(weizmann / "splits"),
        },
        "preprocess": {"size": "96x64"},
        "shards": {"path": "weizmann"},
    }
    (out / "weizmann.yaml").write_text(yaml.safe_dump(tree))
    run(*twinstream, "preprocess", "-c", "weizmann.yaml")
    run(*twinstream, "shards", "export", "weizmann", "--out", "rawframes")
    lists = [word for s in ("train", "test") for word in ("--splits", f"{s}_rawframes.txt")]
    for name in ("train", "test"):
        shutil.copy(out / "rawframes" / f"{name}_rawframes.txt", out)
    codec = ("--bound", "20", "--levels", "127")
    run(*twinstream, "shards", "import", "rawframes", "--out", "listed", *codec, *lists)
    run(*twinstream, "shards", "import", "rawframes", "--out", "found", *codec)
    run(*twinstream, "shards", "subset", "listed", "--out", "few", "--max-per-class", "2")


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file that must be the same, and each loss, by name."""
    folders = ("demo/videos", "demo/shards", "weizmann", "rawframes", "listed", "found", "few")
    found = {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted((out / folder).rglob("*"))
        if path.is_file() and path.name not in UNCOMPARED
    }
    for number, line in enumerate((out / "run" / "log.jsonl").read_text().splitlines()):
        figures = {k: v for k, v in json.loads(line).items() if not k.endswith("_ms")}
        found[f"run/log.jsonl/{number}"] = json.dumps(figures, sort_keys=True)
    found["run/metrics.json"] = (out / "run" / "metrics.json").read_text()
    return found


def compare(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Names of what differs or is on one side alone."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


@click.command(help=__doc__)
@click.argument("old")
@click.argument("new")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Weizmann's folder.")
@click.option(
    "--work", type=click.Path(path_type=Path), help="Folder that keeps what OLD has made."
)
def main(old: str, new: str, data: Path | None, work: Path | None) -> None:
    """Make everything twice and name what differs."""
    work = (work or Path(tempfile.mkdtemp(prefix="same-bytes-"))).absolute()
    results = []
    for name, out in ((old, work / "old"), (new, work / "new")):
        finished = out / "finished.txt"
        if out.name == "new" or not finished.exists() or finished.read_text() != old:
            with checkout(name, work) as code:
                shutil.rmtree(out, ignore_errors=True)
                make_everything(code, out, data.absolute() if data else None)
            finished.write_text(name)
        results.append(digests(out))
    differing = compare(*results)
    num_losses = sum(name.startswith("run/log") for name in results[0])
    click.echo(f"{len(results[0]) - num_losses} files, {num_losses} lines of losses")
    for name in differing:
        click.echo(f"differs: {name}")
    click.echo(f"{len(differing)} differ" if differing else "all the same")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
