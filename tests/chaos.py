"""`make chaos`: a run that is killed again and again, and goes on to the same bytes as one that was
left in peace.

Each round starts the same command, waits a while drawn from the seed, and kills a worker (-9), or
the driver (-9, SIGINT or SIGTERM) and starts it again. After the last kill the run is left to end;
then every file is compared and verified.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import yaml

from tests.support.digests import dataset_digests
from tests.support.paths import ROOT
from tests.support.processes import worker_pids
from tests.support.stage import tree, write_videos
from twinstream.shards.verify import faults

KINDS = ("worker -9", "driver -9", "driver INT", "driver TERM")
SIGNALS = {"driver -9": signal.SIGKILL, "driver INT": signal.SIGINT, "driver TERM": signal.SIGTERM}
EXPECTED_CODES = {"driver -9": -signal.SIGKILL, "driver INT": 130, "driver TERM": 143}
MAX_WORKER_KILLS_A_RUN = 2  # a third could hit the same video and rightly leave it out


def command(config: Path, out: Path, root: Path, workers: int, *more: str) -> list[str]:
    config.write_text(yaml.safe_dump(tree(root, out)))
    arguments = ["preprocess", "-c", str(config), "--set", f"preprocess.workers={workers}", *more]
    return [sys.executable, "-m", "twinstream", *arguments]


def run_with_kills(
    arguments: list[str], out: Path, num_kills: int, rng: random.Random
) -> Counter[str]:
    """Kill and resume until `num_kills` have hit, then let it end; how often each kind of kill hit,
    and the resumes.
    """
    counts: Counter[str] = Counter()
    while True:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL)
        _wait_for_work(process)
        worker_kills = 0
        while counts["kills"] < num_kills and process.poll() is None:
            kind = rng.choice(KINDS if worker_kills < MAX_WORKER_KILLS_A_RUN else KINDS[1:])
            time.sleep(rng.random())
            if (out / "dataset.json").exists() or process.poll() is not None:
                break
            if kind == "worker -9":
                pids = worker_pids(process.pid)
                if not pids:
                    continue
                _kill(rng.choice(pids))
                worker_kills += 1
                counts.update(["kills", kind])
                continue
            process.send_signal(SIGNALS[kind])
            if process.wait() != 0:
                assert process.returncode == EXPECTED_CODES[kind], kind
                counts.update(["kills", kind, "resumes"])
        if process.wait() == 0:
            return counts
        assert process.returncode in EXPECTED_CODES.values(), process.returncode


def _wait_for_work(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not worker_pids(process.pid):
        time.sleep(0.05)


def _kill(pid: int) -> None:
    subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)


@click.command(
    help="Kill a run and resume it, for example: python -m tests.chaos --kills 12 --seed 0"
)
@click.option(
    "--kills",
    default=12,
    show_default=True,
    help="Kills that must hit before the run is left to end.",
)
@click.option(
    "--videos",
    default=400,
    show_default=True,
    help="Videos to draw; too few end before the kills do.",
)
@click.option("--seed", default=0, show_default=True, help="Draws what is killed, and when.")
@click.option("--workers", default=2, show_default=True)
@click.option("--local", is_flag=True, help="Kill and resume a run without Ray.")
def main(kills: int, videos: int, seed: int, workers: int, local: bool) -> None:
    """Exit code 1 when a byte differs or a fault is found."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root, peace, war = folder / "videos", folder / "peace", folder / "war"
        write_videos(root, videos)
        subprocess.run(command(folder / "peace.yaml", peace, root, 1), cwd=ROOT, check=True)
        more = ["--local"] if local else []
        arguments = command(folder / "war.yaml", war, root, workers, *more)
        counts = run_with_kills(arguments, war, kills, random.Random(seed))
        expected, found = dataset_digests(peace), dataset_digests(war)
        same = sum(found.get(path) == digest for path, digest in expected.items())
        found_faults = list(faults(war))
    hits = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)
    click.echo(
        f"{counts['kills']} kills ({hits}), {counts['resumes']} resumes, {videos} videos, seed "
        f"{seed}"
    )
    click.echo(
        f"{same} of {len(expected)} files the same, {len(found)} there, {len(found_faults)} faults"
    )
    click.echo(f"{time.monotonic() - begun:.0f} s")
    if found != expected or found_faults or counts["kills"] < kills:
        sys.exit(1)


if __name__ == "__main__":
    main()
