"""The `twinstream shards` commands that make datasets, of folders of images and of datasets; they
import what they need when they run, as those of `commands.py`.
"""

from pathlib import Path

import click

from twinstream.output import say, tell
from twinstream.shards.codec_options import BOUND, with_codec


def _default_videos_per_shard() -> int:
    # A function, as click calls it only when needed: the settings import pydantic.
    from twinstream.shards.settings import ShardSettings

    return ShardSettings().videos_per_shard


@click.command("import")
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


@click.command()
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


@click.command()
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


@click.command("convert-codec")
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


@click.command()
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
