"""The `twinstream shards` commands; each calls one function of this package.

A command imports what it needs when it runs. So `--help` and shell completion stay fast and need
neither pyarrow nor OpenCV.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from twinstream.errors import InputError, bounded
from twinstream.output import say, tell

F = TypeVar("F", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A range of numbers without inf and nan, which compares with no end of a range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As of a FloatRange; a usage error for what is not finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


# As of preprocess.bound, by which predict makes flow.
BOUND = FiniteRange(0, 1000, min_open=True)


def with_codec(levels: float) -> Callable[[F], F]:
    """Add the options of a foreign flow codec; `levels` is the default of --levels."""
    levels_help = "Bytes from no motion to the bound; 127 for what twinstream wrote."
    options = (
        click.option("--bound", required=True, type=BOUND, help="Pixels of the codec's bound."),
        click.option(
            "--zero",
            type=FiniteRange(0, 255),
            default=128,
            show_default=True,
            help="Byte of no motion.",
        ),
        click.option(
            "--levels",
            type=FiniteRange(1, 255),
            default=levels,
            show_default=True,
            help=levels_help,
        ),
    )

    def add(command: F) -> F:
        # click shows the option that was added last first.
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _default_videos_per_shard() -> int:
    # A function, as click calls it only when needed: the settings import pydantic.
    from twinstream.shards.settings import ShardSettings

    return ShardSettings().videos_per_shard


@click.group()
def shards() -> None:
    """Look at, check, see and convert a shard dataset.

    Example: twinstream shards verify out/shards
    """


@shards.command()
@click.argument("path")
@click.option("--keys", is_flag=True, help="List the samples instead: a key a line.")
@click.option("--split", help="With --keys: of this split alone, of the shards or a stored list.")
@click.option("--class", "class_name", help="With --keys: of this class alone.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="With --keys: a line of JSON for each sample: key, class, split, num_frames, fps.",
)
def info(path: str, keys: bool, split: str | None, class_name: str | None, as_json: bool) -> None:
    """What is in a dataset: splits, classes, hours, bytes, settings, skipped videos; or its keys.

    Example: twinstream shards info out/shards --keys --split test --class Walk
    """
    import json

    from twinstream.shards.info import describe, listed
    from twinstream.shards.storage.location import locate

    if not keys:
        if split is not None or class_name is not None or as_json:
            raise click.UsageError("--split, --class and --json belong to --keys")
        say(describe(locate(path)))
        return
    for row in listed(locate(path), split, class_name):
        facts: dict[str, object] = {"key": row.key, "class": row.class_name, "split": row.split}
        facts |= {"num_frames": row.num_frames, "fps": row.fps}
        say(json.dumps(facts) if as_json else row.key)


@shards.command()
@click.argument("path")
@click.option("--fast", is_flag=True, help="Compare sizes and hashes only, at the disk's speed.")
def verify(path: str, fast: bool) -> None:
    """Read everything again and name each fault; exit code 1 when there is one.

    Example: twinstream shards verify out/shards
    """
    from twinstream.progress import Progress
    from twinstream.shards.storage.location import locate
    from twinstream.shards.verify import fast_faults, faults, num_bytes, num_steps

    found, dataset = 0, locate(path)
    with Progress(
        "verify", num_bytes(dataset) if fast else num_steps(dataset), "B" if fast else "shard"
    ) as progress:
        lines = (
            fast_faults(
                dataset, progress=lambda file: progress.advance(file.num_bytes, note=file.path)
            )
            if fast
            else faults(dataset, progress=lambda shard: progress.advance(note=shard))
        )
        # Printed as they are found: a large dataset takes long, and the first fault may be enough.
        for fault in lines:
            tell(bounded(fault))
            found += 1
    if found:
        raise InputError(f"{dataset}: {found} fault{'s' if found > 1 else ''}")
    say(f"{dataset}: {'every byte as written' if fast else 'sound'}")


@shards.command()
@click.argument("path")
@click.option(
    "--key",
    "keys",
    multiple=True,
    help="Sample to show; may be given again. The first ones when not given.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("preview.png"), show_default=True
)
def preview(path: str, keys: tuple[str, ...], out: Path) -> None:
    """A contact sheet as PNG, or with an --out that ends in .mp4 a video: RGB frames and
    colour-coded flow.

    Example: twinstream shards preview out/shards --key Walk/v_Walk_g01_c01 --out walk.mp4
    """
    from twinstream.shards.preview import write_preview, write_preview_video
    from twinstream.shards.read.dataset import ShardDataset

    if out.suffix not in (".png", ".mp4"):
        raise InputError(f"--out {out}: expected a name that ends in .png or .mp4")
    dataset = ShardDataset(path)
    samples = [dataset.sample(key) for key in keys]
    # Three of each split at most, so that no split is read further than it is shown.
    if not keys:
        samples = [sample for split in dataset.splits.values() for sample in split[:3]][:3]
    if not samples:
        raise InputError(f"{dataset.path}: has no samples to show")
    if out.suffix == ".mp4":
        write_preview_video(dataset, samples, out)
    else:
        write_preview(dataset, samples, out)
    say(str(out))


@shards.command()
@click.argument("path")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to fill; what is whole in it stays.",
)
@click.option("--layout", type=click.Choice(["rawframes"]), default="rawframes", show_default=True)
def export(path: str, out: Path, layout: str) -> None:
    """Copy a dataset's JPEGs out, one file an image, with the annotation lists that mmaction2
    reads.

    Example: twinstream shards export out/shards --out out/rawframes
    """
    from twinstream.progress import Progress
    from twinstream.shards.format.manifest import read_manifest
    from twinstream.shards.rawframes.exporter import export_rawframes
    from twinstream.shards.storage.location import locate

    dataset = locate(path)
    manifest = read_manifest(dataset)
    total = sum(shard.num_samples for entries in manifest.splits.values() for shard in entries)
    with Progress("export", total, "video") as progress:
        copied = export_rawframes(
            dataset, out, progress=lambda folder: progress.advance(note=folder)
        )
    codec = manifest.flow_codec
    others = ", the others were there" if copied < total else ""
    say(f"{copied} of {total} videos copied{others} -> {out}")
    say(f"flow: pixels = (byte - {codec.zero}) * {codec.bound:g} / {codec.levels}")


@shards.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", required=True, help="Folder of the new dataset.")
# denseflow maps 255 levels evenly to [-bound, bound], so 127.5 on each side.
@with_codec(levels=127.5)
@click.option(
    "--layout",
    type=click.Choice(["auto", "denseflow", "dense_flow"]),
    default="auto",
    show_default=True,
)
@click.option(
    "--index-base", type=click.Choice(["auto", "0", "1"]), default="auto", show_default=True
)
@click.option(
    "--splits",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=(
        "Annotation list `CLASS/VIDEO num_frames label`; may be given again. Without any, the "
        "folders tell."
    ),
)
@click.option(
    "--classes",
    "classes_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Class names, one a line in the order of the labels, or numbered as in classInd.txt.",
)
@click.option(
    "--skip-bad", is_flag=True, help="Leave videos out that do not line up, as skipped rows."
)
@click.option(
    "--videos-per-shard",
    type=click.IntRange(min=1),
    default=_default_videos_per_shard,
    show_default="as shards.videos_per_shard",
    help="Videos that share a tar.",
)
def import_(
    folder: Path,
    out: str,
    bound: float,
    zero: float,
    levels: float,
    layout: str,
    index_base: str,
    splits: tuple[Path, ...],
    classes_file: Path | None,
    skip_bad: bool,
    videos_per_shard: int,
) -> None:
    """Folders of frames and flow (denseflow, dense_flow) to a shard dataset, the JPEGs byte for
    byte.

    Example: twinstream shards import rawframes --out out/shards --bound 20 --splits
    train_rawframes.txt
    """
    from twinstream.progress import Progress
    from twinstream.shards.format.video_table import summary
    from twinstream.shards.rawframes.alignment import Layout
    from twinstream.shards.rawframes.importer import foreign_codec, import_rawframes
    from twinstream.shards.rawframes.names import read_classes
    from twinstream.shards.rawframes.videos import found_videos, listed_videos
    from twinstream.shards.storage.location import locate

    target = locate(out)
    classes = read_classes(classes_file) if classes_file else None
    found = (
        listed_videos(folder, splits, classes)
        if splits
        else found_videos(folder, classes, out=target)
    )
    # On stderr: stdout has the result line only.
    for warning in found.warnings:
        tell(warning)
    with Progress("import", len(found.videos), "video") as progress:
        rows = import_rawframes(
            folder,
            target,
            found.videos,
            found.classes,
            foreign_codec(bound, zero, levels),
            layout=Layout(layout),
            index_base=None if index_base == "auto" else int(index_base),
            videos_per_shard=videos_per_shard,
            skip_bad=skip_bad,
            progress=lambda key: progress.advance(note=key),
        )
    say(f"{summary(rows)} -> {target / 'videos.parquet'}")


@shards.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--out", required=True, help="Folder of the new dataset.")
def merge(paths: tuple[str, ...], out: str) -> None:
    """One dataset out of several, nothing encoded again; classes are joined by name.

    Example: twinstream shards merge out/ucf out/hmdb --out out/both
    """
    from twinstream.progress import Progress
    from twinstream.shards.format.flow_codec import cut_at
    from twinstream.shards.format.manifest import read_manifest
    from twinstream.shards.format.video_table import summary
    from twinstream.shards.storage.location import locate
    from twinstream.shards.write.combine import merge

    sources, target = [locate(path) for path in paths], locate(out)
    manifests = [read_manifest(source) for source in sources]
    for source, manifest in zip(sources, manifests, strict=True):
        bound = manifest.flow_codec.bound
        cut = cut_at(manifest.settings, bound)
        if cut is not None:
            tell(
                f"{source}: its bound was {cut:g} px before it was converted to {bound:g}; motion "
                f"beyond {cut:g} px stays cut"
            )
    entries = (
        shard for manifest in manifests for shards in manifest.splits.values() for shard in shards
    )
    with Progress("merge", sum(shard.num_samples for shard in entries), "video") as progress:
        rows = merge(sources, target, progress=lambda key: progress.advance(note=key))
    say(f"{summary(rows)} -> {target}")


@shards.command()
@click.argument("path")
@click.option("--out", required=True, help="Folder of the new dataset.")
@click.option("--classes", help="Class names to keep, with commas between them.")
@click.option(
    "--keys",
    "keys_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of keys to keep, one a line.",
)
@click.option("--split", help="Split to keep.")
@click.option(
    "--max-per-class",
    type=click.IntRange(min=1),
    help="At most so many samples of a class in each split.",
)
def subset(
    path: str,
    out: str,
    classes: str | None,
    keys_file: Path | None,
    split: str | None,
    max_per_class: int | None,
) -> None:
    """A part of a dataset as a dataset, nothing encoded again; every option given must hold for a
    sample.

    Example: twinstream shards subset out/shards --out out/few --split train --max-per-class 10
    """
    from twinstream.progress import Progress
    from twinstream.shards.format.video_table import summary
    from twinstream.shards.storage.location import locate, read_text
    from twinstream.shards.write.combine import subset

    target = locate(out)
    with Progress("subset", 0, "video") as progress:
        rows = subset(
            locate(path),
            target,
            classes=None if classes is None else [name.strip() for name in classes.split(",")],
            keys=None
            if keys_file is None
            else [line for line in read_text(keys_file, "--keys").splitlines() if line],
            split=split,
            max_per_class=max_per_class,
            expect=progress.expect,
            progress=lambda key: progress.advance(note=key),
        )
    say(f"{summary(rows)} -> {target}")


@shards.command()
@click.argument("path")
@click.option("--add", "name", help="Name of a split to store.")
@click.option(
    "--from",
    "source",
    metavar="LIST",
    help="Its videos: a list of UCF-101 or HMDB-51, a CSV of path,label[,split], or keys.",
)
@click.option("--remove", help="Name of a stored split to remove.")
def splits(path: str, name: str | None, source: str | None, remove: str | None) -> None:
    """The splits of a dataset; with --add and --from a further one out of a list, for all who use
    the dataset. A list with several splits is LIST:SPLIT.

    Example: twinstream shards splits out/shards --add test2 --from splits/testlist02.txt
    """
    from twinstream.shards.split_lists import add_split, describe_splits, remove_split
    from twinstream.shards.storage.location import locate

    if (name is None) != (source is None):
        raise click.UsageError("--add NAME and --from LIST belong together")
    dataset = locate(path)
    if remove is not None:
        remove_split(dataset, remove)
    if name is not None and source is not None:
        added = add_split(dataset, name, source)
        if note := added.note():
            tell(note)
    say(describe_splits(dataset))


@shards.command("convert-codec")
@click.argument("path")
@click.option("--out", required=True, help="Folder of the new dataset.")
@click.option(
    "--bound",
    type=BOUND,
    help="Pixels of the new codec's bound; the dataset's own when not given.",
)
def convert_codec(path: str, out: str, bound: float | None) -> None:
    """Flow of another tool's codec, or of another bound, encoded anew in ours (zero 128, 127
    levels); all else is copied. It loses a little, and says how much.

    Example: twinstream shards convert-codec out/denseflow --out out/shards --bound 20
    """
    from twinstream.progress import Progress
    from twinstream.shards.format.flow_codec import cut_at
    from twinstream.shards.format.manifest import read_manifest
    from twinstream.shards.format.video_table import summary
    from twinstream.shards.settings import ShardSettings
    from twinstream.shards.storage.location import locate
    from twinstream.shards.write.convert_codec import convert_codec

    source, target = locate(path), locate(out)
    entries = [shard for shards in read_manifest(source).splits.values() for shard in shards]
    with Progress("convert-codec", sum(shard.num_samples for shard in entries), "video") as done:
        rows, change = convert_codec(
            source,
            target,
            bound=bound,
            default_quality=ShardSettings().jpeg_quality,
            progress=lambda key: done.advance(note=key),
        )
    say(f"{summary(rows)} -> {target}")
    made = read_manifest(target)
    cut = cut_at(made.settings, made.flow_codec.bound)
    if change.num_values:
        say(
            f"flow is changed by {change.mean:.3f} px in the mean, {change.largest:.2f} px at most"
            + ("" if cut is None else f"; motion beyond {cut:g} px stays cut")
        )


@shards.command()
@click.argument("path")
@with_codec(levels=127)
def index(path: str, bound: float, zero: float, levels: float) -> None:
    """Make a dataset of plain tars of this layout: an index for each and dataset.json; the tars
    stay as they are.

    Example: twinstream shards index downloads/shards --bound 20
    """
    from twinstream.progress import Progress
    from twinstream.shards.format.video_table import summary
    from twinstream.shards.rawframes.importer import foreign_codec
    from twinstream.shards.storage.location import file_sizes, locate
    from twinstream.shards.write.index_tars import index_dataset

    # foreign_codec leaves our own codec as it is, so one call serves foreign tars and ours.
    folder, codec = locate(path), foreign_codec(bound, zero, levels)
    with Progress(
        "index", sum(name.endswith(".tar") for name in file_sizes(folder)), "shard"
    ) as progress:
        rows = index_dataset(folder, codec, progress=lambda tar: progress.advance(note=tar))
    say(f"{summary(rows)} -> {folder}")
