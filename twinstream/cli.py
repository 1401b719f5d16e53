"""The `twinstream` command: a thin shell over preprocess, shards and train.

A command imports its program inside the function, so that `--help` takes under half a second. The
price: a broken import shows only when its command runs. Exit codes: 0 done; 1 the user's input is
at fault (one line, no traceback); 2 usage; 130 and 143 stopped by a signal. A traceback means a bug
of ours.
"""

import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from twinstream import __version__
from twinstream.errors import InputError, memory_fault
from twinstream.output import one_line, say
from twinstream.shards.commands import shards
from twinstream.train.choices import NUM_CROPS, DeviceName

if TYPE_CHECKING:
    from twinstream.settings import Settings
    from twinstream.train.export import Format

# Of those that cannot be used; the table has all.
NUM_SHOWN = 10
# Of what is told, in click's context
LEVEL = "twinstream.level"
# What may be left out where shards are only read (docs/training.md)
BESIDE_TRAINING = ("av", "numba", "ray")

# Which `twinstream init` writes
SETTINGS_FILE = "pipeline.yaml"
PRESET_NAMES = ("laptop", "ucf101", "kinetics")

F = TypeVar("F", bound=Callable[..., Any])


def with_settings(command: F) -> F:
    """The two options of every command that reads pipeline.yaml."""
    config = click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        help=f"Settings file; {SETTINGS_FILE} of this folder when not given, or else the defaults.",
    )
    override = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="a.b=v",
        help="Change one setting; may be given again.",
    )
    return config(override(command))


def with_machines(command: F) -> F:
    """The two options of every command that has workers."""
    address = click.option(
        "--address",
        help=(
            "Ray cluster to use, from one of its nodes: `auto` or `HOST:6379`; a local one when "
            "not given."
        ),
    )
    local = click.option(
        "--local",
        is_flag=True,
        help=(
            "Workers are plain processes of this machine, without Ray, as one worker always is "
            "(preprocess.workers=1)."
        ),
    )
    return address(local(command))


def with_views(command: F) -> F:
    """The options of every command that scores videos."""
    segments = click.option(
        "--segments",
        type=click.IntRange(min=1),
        help="Snippets a video; the run's test.segments when not given.",
    )
    crops = click.option(
        "--crops",
        type=click.Choice([*map(str, NUM_CROPS)]),
        help="Crops a snippet; the run's test.crops when not given.",
    )
    flip = click.option(
        "--flip/--no-flip",
        default=None,
        help=(
            "Whether 10 crops hold mirrors, or are 5; the run's test.flip when not given, and "
            "without one its train.flip."
        ),
    )
    return segments(crops(flip(command)))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context) -> None:
    """Action videos -> aligned RGB/TV-L1-flow shards -> two-branch network with cross-modality
    attention.

    Example: twinstream demo
    """
    from twinstream.progress import log_to_stderr

    log_to_stderr(context.meta.get(LEVEL, logging.INFO))


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
def demo(out: Path) -> None:
    """The whole road with no data and no GPU: draw toy videos, preprocess, train, test, report.

    Example: twinstream demo --out /tmp/demo
    """
    from twinstream.demo import run_demo

    run_demo(out)


@cli.command()
@with_settings
@click.option("--hours", default=100.0, show_default=True, help="Hours of video to predict for.")
@click.option(
    "--size",
    type=click.IntRange(16, 4096),
    help="Side of the stored square; one of as many pixels as the settings store when not given.",
)
def doctor(config: Path | None, overrides: tuple[str, ...], hours: float, size: int | None) -> None:
    """What engines and devices are here, how fast they are, and what a dataset of N hours would
    take.

    Example: twinstream doctor --hours 600
    """
    from twinstream.preprocess.doctor import report, stored_side

    stored = load_settings(config, overrides).preprocess
    say(report(hours, size or stored_side(stored.size, stored.short_side)))


@cli.command()
@click.option(
    "--preset",
    type=click.Choice(PRESET_NAMES),
    default="laptop",
    show_default=True,
    help="Settings to begin with: a laptop without a GPU, UCF-101, or the paper's Kinetics-400.",
)
def init(preset: str) -> None:
    """Write a commented pipeline.yaml into this folder; one that is there is kept.

    Example: twinstream init --preset laptop
    """
    from twinstream.presets import write_preset

    write_preset(preset, Path(SETTINGS_FILE))
    say(SETTINGS_FILE)


@cli.command()
@click.argument("path", required=False, metavar="[SECTION[.KEY]]")
@click.option("--markdown", is_flag=True, help="Print the page docs/settings.md.")
def settings(path: str | None, markdown: bool) -> None:
    """Every setting with its default, its type and what it means; or those of a section, or one.

    Example: twinstream settings train.micro_batch
    """
    from twinstream.explain import as_markdown, as_text, chosen_settings
    from twinstream.settings import Settings

    found = chosen_settings(Settings, path)
    say(as_markdown(found).removesuffix("\n") if markdown else as_text(found))


@cli.command()
@with_settings
@with_machines
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and do nothing.")
def preprocess(
    config: Path | None,
    overrides: tuple[str, ...],
    address: str | None,
    local: bool,
    dry_run: bool,
) -> None:
    """Videos to shards of aligned RGB and flow; the same command again resumes.

    Example: twinstream preprocess --set dataset.root=videos --set shards.path=out/shards
    """
    from twinstream.preprocess.run import check_skipped, preprocess
    from twinstream.shards.format.video_table import Status, summary

    refuse_both(address, local)
    settings = load_settings(config, overrides)
    rows = preprocess(
        settings.dataset,
        settings.preprocess,
        settings.shards,
        address=address,
        local=local,
        dry_run=dry_run,
    )
    if not dry_run:
        say(f"{summary(rows)} -> {settings.shards.path}/videos.parquet")
        if settings.dataset.hold_out is not None:
            splits = Counter(row.split for row in rows if row.status == Status.WRITTEN)
            say(", ".join(f"{count} {split}" for split, count in sorted(splits.items())))
        check_skipped(rows, settings.preprocess.max_skipped, settings.shards.path)


@cli.command()
@click.argument("videos", nargs=-1, type=click.Path(path_type=Path))
@with_settings
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("videos.parquet"),
    show_default=True,
    help="Table of all videos, FILE.parquet or FILE.csv; one that is there is replaced.",
)
@with_machines
def check(
    videos: tuple[Path, ...],
    config: Path | None,
    overrides: tuple[str, ...],
    out: Path,
    address: str | None,
    local: bool,
) -> None:
    """Decode every video and write a table of what became of each; no flow, no shards.

    Without VIDEOS those of section `dataset` are checked, as preprocess would take them. VIDEOS are
    a folder, which then is dataset.root with dataset.kind folders, or some files; all else of
    pipeline.yaml holds where there is one. Exit code 1 when a video cannot be used or is missing.

    Example: twinstream check videos --out videos.csv
    """
    from twinstream.preprocess.check import check
    from twinstream.shards.format.video_table import Status, summary

    refuse_both(address, local)
    folders = [video for video in videos if not video.is_file()]
    if folders and len(videos) > 1:
        raise InputError(f"{folders[0]}: not a file; expected one folder, or files")
    settings = load_settings(config, overrides, str(folders[0]) if folders else None)
    files = () if folders else videos
    rows = check(
        settings.dataset,
        settings.preprocess,
        settings.shards,
        out,
        files=files,
        address=address,
        local=local,
    )
    unusable = [row for row in rows if row.status != Status.USABLE]
    for row in unusable[:NUM_SHOWN]:
        say(f"{row.path}: {row.reason}: {row.detail}")
    if len(unusable) > NUM_SHOWN:
        say(f"... and {len(unusable) - NUM_SHOWN} more")
    say(f"{summary(rows, Status.USABLE)} -> {out}")
    if unusable:
        sys.exit(1)


@cli.command()
@with_settings
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from the run's checkpoint.")
def train(config: Path | None, overrides: tuple[str, ...], out: Path, resume: bool) -> None:
    """Train the stages of train.stages from a shard dataset.

    With --resume the folder says all: pipeline.yaml is read only where -c names it.

    Example: twinstream train --set train.stages=[flow,iter1] --out runs/cma
    """
    from twinstream.section import build_settings
    from twinstream.train.fit import train
    from twinstream.train.forecast import announce
    from twinstream.train.ranks import shows_output
    from twinstream.train.run_folder import SETTINGS, RunSettings

    if resume and config is None and (out / SETTINGS).exists():
        settings = build_settings(RunSettings, {}, overrides, source="--set")
    else:
        settings = load_settings(config, overrides).run_settings()
    train(settings, out, resume=resume, announce=announce)
    # Under torchrun every rank runs this; one of them answers.
    if shows_output():
        say(str(out))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--split",
    help=(
        "Split to score: of the shards, a stored one, or a list's file; the run's test.split when "
        "not given."
    ),
)
@with_views
@click.option(
    "--shards", "shards_path", help="Shard dataset to score, where it is not the one trained on."
)
@click.option(
    "--stage",
    help="Score the network as it was behind this stage; as training left it when not given.",
)
@click.option(
    "--known-classes",
    is_flag=True,
    help="Leave out, and count, videos of classes that the network lacks.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the results; the run's own when not given.",
)
def test(
    run: Path,
    split: str | None,
    segments: int | None,
    crops: str | None,
    flip: bool | None,
    shards_path: str | None,
    stage: str | None,
    known_classes: bool,
    out: Path | None,
) -> None:
    """Score a trained run: predictions.parquet and metrics.json, in its folder or in --out.

    Example: twinstream test runs/cma --segments 25 --crops 10
    """
    from twinstream.train.run_folder import read_run_settings
    from twinstream.train.score.evaluate import metrics_table, score_run

    given = {"split": split, "segments": segments, "crops": int(crops) if crops else None}
    given |= {"flip": flip}
    settings = read_run_settings(run).test.model_copy(
        update={k: v for k, v in given.items() if v is not None}
    )
    say(metrics_table(score_run(run, settings, shards_path, stage, out, known_classes)))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...")
@click.option(
    "--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to print."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, one for each video.")
@with_views
@click.option(
    "--stage",
    help="Score with the network as it was behind this stage; as training left it when not given.",
)
@click.option(
    "--engine", help="Compute flow with another engine than the run's dataset was made with."
)
@click.option(
    "--device",
    type=click.Choice(get_args(DeviceName)),
    help="Where to compute; the run's train.device when not given.",
)
def predict(
    run: Path,
    videos: tuple[str, ...],
    top: int,
    as_json: bool,
    segments: int | None,
    crops: str | None,
    flip: bool | None,
    stage: str | None,
    engine: str | None,
    device: DeviceName | None,
) -> None:
    """The best classes of video files, by a trained run; needs neither its dataset nor shards.

    A video that cannot be used is one line on stderr; the others are scored, and the exit code
    is 1.

    Example: twinstream predict runs/cma a.mp4 b.mp4 --top 3
    """
    import json
    from dataclasses import asdict

    from twinstream.predictor import Predictor, lines
    from twinstream.progress import LOGGER, Progress

    predictor = Predictor(
        run,
        segments=segments,
        crops=int(crops) if crops else None,
        flip=flip,
        stage=stage,
        engine=engine,
        device=device,
        shown=True,
    )
    if predictor.network.progress:
        network = predictor.network
        LOGGER.warning(f"unfinished: {network.stage} is at {network.progress}")
    failed = False
    with Progress("predict", len(videos), "video") as progress:
        for video in videos:
            # One bad file among many must not cost the others their scores.
            try:
                found = predictor(video, top=top)
            except InputError as error:
                failed = True
                # Through the bar: a plain print would end up inside of it.
                progress.write(f"twinstream: {one_line(str(error))}", sys.stderr)
            else:
                text = json.dumps(asdict(found)) if as_json else "\n".join(lines(found))
                progress.write(text, sys.stdout)
            progress.advance()
    if failed:
        sys.exit(1)


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for tables, figures and the page.",
)
@click.option(
    "--unfinished", is_flag=True, help="Take stages too that were tested before their end."
)
def report(runs: tuple[Path, ...], out: Path, unfinished: bool) -> None:
    """The paper's tables and figures from tested runs, as markdown, CSV, PNG and one HTML page.

    Of one run alone the page is its own: loss and accuracy by epoch, confusion matrix, best and
    worst classes, confusions with frames.

    Runs on the same videos are repeats (mean and spread), runs on others are folds (the mean of
    their accuracies). What does not count, or not like the rest, is a line on stderr.

    Example: twinstream report runs/two_stream runs/nonlocal runs/cma --out report
    """
    from twinstream.progress import LOGGER
    from twinstream.train.report.evidence import read_evidence
    from twinstream.train.report.write import PAGE, report_notes, write_report

    # Before `out` is made: runs that cannot be used leave no empty folder.
    evidence = read_evidence(runs, unfinished=unfinished)
    # On stderr: stdout holds the page's path alone, for scripts.
    for note in report_notes(evidence):
        LOGGER.warning(note)
    for table in write_report(evidence, out, runs[0] if len(runs) == 1 else None):
        for command in table.gaps:
            LOGGER.info(f"{table.name} lacks: {command}")
    say(str(out / PAGE))


def _writable(context: click.Context, option: click.Parameter, path: Path) -> Path:
    """A file whose folder takes one, found before the work and not behind it."""
    if not os.access(path.parent, os.W_OK):
        state = "cannot be written to" if path.parent.exists() else "is not there"
        raise InputError(f"--out {path}: the folder {path.parent} {state}; name another file")
    return path


def _positions(
    context: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> list[tuple[int, ...]]:
    """X,Y or X,Y,T as whole numbers; a usage error for anything else."""
    found = []
    for value in values:
        parts = [part.strip() for part in value.split(",")]
        if len(parts) not in (2, 3) or not all(part.isdecimal() for part in parts):
            raise click.BadParameter(
                f"{value!r} is not X,Y in pixels, such as 120,80, or X,Y,T with a frame"
            )
        found.append(tuple(map(int, parts)))
    return found


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--key",
    required=True,
    help="Sample to look at; `twinstream shards info SHARDS --keys` lists them.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    callback=_writable,
    help="FILE.png, or FILE.mp4 for all frames; of a network that sees clips, those of one clip.",
)
@click.option(
    "--query",
    "queries",
    multiple=True,
    metavar="X,Y[,T]",
    callback=_positions,
    help=(
        "Pixel of the stored frame; in a clip of frame T of the video, or where it moves fastest."
    ),
)
@click.option(
    "--frame",
    "t",
    type=click.IntRange(min=0),
    help="Frame to look at, the first one of a clip; one that moves when not given.",
)
@click.option(
    "--at", help="Residual block whose attention to show; the last of res4 when not given."
)
@click.option(
    "--stage",
    help="Look with the network as it was behind this stage; as training left it when not given.",
)
@click.option(
    "--shards", "shards_path", help="Shard dataset of the key, where it is not the one trained on."
)
def attention(
    run: Path,
    key: str,
    out: Path,
    queries: list[tuple[int, ...]],
    t: int | None,
    at: str | None,
    stage: str | None,
    shards_path: str | None,
) -> None:
    """Where the RGB branch looks: frame, flow, and what each query position attends to. --query may
    be given again.

    Without it the fastest place, the fastest one far from it and the stillest are taken; in a video
    those of a frame that moves, for all frames.

    Example: twinstream attention runs/cma --key Run/v_Run_g01_c01 --query 60,90 --out run.png
    """
    from twinstream.train.look.show import show

    places = [(query[0], query[1]) for query in queries]
    times = [query[2] if len(query) > 2 else None for query in queries]
    show(run, key, out, places, times=times, t=t, at=at, stage=stage, shards_path=shards_path)
    say(str(out))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["torchscript", "onnx", "safetensors"]),
    help="The first two are programs that need no twinstream, the last one are weights alone.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    callback=_writable,
    help="File to write.",
)
@click.option(
    "--stage",
    help="Export the network as it was behind this stage; as training left it when not given.",
)
def export(run: Path, form: "Format", out: Path, stage: str | None) -> None:
    """A run's network as one file: RGB bytes and flow in pixels in, scores out.

    What goes in, what comes out and the classes are JSON in the file's metadata, and are printed.

    Example: twinstream export runs/cma --format onnx --out cma.onnx
    """
    import json

    from twinstream.progress import LOGGER, Progress
    from twinstream.train.export import export_network
    from twinstream.train.trained import load_network

    with Progress("export", 2, "step") as progress:
        network = load_network(run, stage)
        if network.progress:
            LOGGER.warning(f"unfinished: {network.stage} is at {network.progress}")
        progress.advance(note="the network is read")
        facts = export_network(network, form, out)
        progress.advance(note=str(out))
    # Classes can be many, and are in the file.
    shown = {key: value for key, value in facts.items() if key != "classes"}
    LOGGER.info(json.dumps(shown | {"num_classes": len(facts["classes"])}))
    say(str(out))


cli.add_command(shards)


def _set_level(context: click.Context, option: click.Parameter, level: int | None) -> None:
    """Of what is told; said behind a command it holds over what was said before it."""
    if level is not None:
        from twinstream.progress import log_to_stderr

        context.meta[LEVEL] = level
        log_to_stderr(level)


def add_levels(command: click.Command) -> None:
    """Give a command, and those below it, -v and -q."""
    for short, long, level, says in (
        (
            "-v",
            "--verbose",
            logging.DEBUG,
            "Tell more, and where an error arose.",
        ),
        ("-q", "--quiet", logging.WARNING, "Tell warnings and results alone."),
    ):
        command.params.append(
            click.Option(
                [short, long],
                flag_value=level,
                default=None,
                type=int,
                help=says,
                expose_value=False,
                callback=_set_level,
            )
        )
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        add_levels(below)


add_levels(cli)


def refuse_both(address: str | None, local: bool) -> None:
    """A usage error for a cluster and none."""
    if local and address is not None:
        raise click.UsageError("--local is without a cluster: leave out --address")


def load_settings(
    config: Path | None, overrides: tuple[str, ...], folder: str | None = None
) -> "Settings":
    """All sections, checked: of the file, or of pipeline.yaml where there is one, or the defaults.

    A folder stands in the place of the dataset's.
    """
    from twinstream.section import build_settings, read_settings
    from twinstream.settings import Settings

    def change(tree: dict[str, Any]) -> dict[str, Any]:
        return tree if folder is None else tree | {"dataset": {"kind": "folders", "root": folder}}

    if config is None and not Path(SETTINGS_FILE).exists():
        return build_settings(Settings, change({}), overrides)
    return read_settings(Settings, config or Path(SETTINGS_FILE), overrides, change)


def main() -> None:
    """Run the command line and turn what went wrong into the exit codes above."""
    # Python ends at once on SIGTERM and runs no `finally`; as SystemExit it cleans up first.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # Not standalone: click would print its own errors and choose the exit code.
        sys.exit(cli(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("twinstream: stopped\n")
        sys.exit(128 + signal.SIGINT)
    except ModuleNotFoundError as error:
        if error.name not in BESIDE_TRAINING:
            raise
        tell_origin()
        sys.stderr.write(
            f"twinstream: this needs {error.name}, which is not installed; run `pip install "
            f"{error.name}`\n"
        )
        sys.exit(1)
    except InputError as error:
        tell_origin()
        # One write: of ranks that end together the lines would run into one another.
        sys.stderr.write(f"twinstream: {one_line(str(error))}\n")
        sys.exit(1)
    # Settings that ask for more than this machine, its GPU or `ulimit -v` has are at fault.
    except (MemoryError, RuntimeError) as error:
        if (said := memory_fault(error)) is None:
            raise
        tell_origin()
        sys.stderr.write(f"twinstream: no memory left: {one_line(said)}\n")
        sys.exit(1)
    # A full disk or a missing right is the machine's, not a bug of ours: no traceback.
    except OSError as error:
        tell_origin()
        from twinstream.shards.storage.atomic import FULL

        room = "; make room and run the same command again" if error.errno in FULL else ""
        reason = f"{error.filename or 'system'}: {error.strerror or error}{room}"
        sys.stderr.write(f"twinstream: {one_line(reason)}\n")
        sys.exit(1)


def tell_origin() -> None:
    """With -v the traceback of the error that is being handled."""
    logging.getLogger("twinstream").debug("the error arose here:", exc_info=True)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
