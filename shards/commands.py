"""The `twinstream shards` commands; each calls one function of this package.

A command imports what it needs when it runs. So `--help` and shell completion stay fast and need
neither pyarrow nor OpenCV. Those that make datasets are in `making_commands.py`.
"""

from pathlib import Path

import click

from twinstream.errors import InputError, bounded
from twinstream.output import say, tell
from twinstream.shards.making_commands import convert_codec, import_, index, merge, subset


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


for command in (import_, merge, subset, convert_codec, index):
    shards.add_command(command)
