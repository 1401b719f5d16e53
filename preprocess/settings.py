"""Sections `dataset` and `preprocess` of pipeline.yaml."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from twinstream.errors import InputError
from twinstream.preprocess.catalog.kinds import KINDS
from twinstream.preprocess.flow.engine import DEFAULT_GPU_BYTES, MIN_SIDE
from twinstream.preprocess.flow.engines import engine_choices, find_engine
from twinstream.preprocess.flow.tvl1_settings import TvL1Settings
from twinstream.section import Section, build_settings
from twinstream.shards.format.flow_codec import cut_at
from twinstream.shards.format.manifest import FLOW_DEFINITION
from twinstream.shards.settings import DEFAULT_STACK_LENGTH, ShardSettings


def _size(value: object) -> object:
    """256, `340x256` (width x height) or [340, 256] -> (width, height)."""
    if isinstance(value, str) and "x" in value:
        return tuple(value.split("x"))
    if isinstance(value, int | str):
        return (value, value)
    return value


def _several(value: object) -> object:
    """`extras` -> (`extras`,); null is nothing."""
    return (value,) if isinstance(value, str) else () if value is None else value


def _one_of(choices: Callable[[], Iterable[str]]) -> AfterValidator:
    """Check for a name that a registry knows, asked when a value comes in: an engine may be
    registered later than this module is imported.
    """

    def check(value: str) -> str:
        *others, last = choices()
        if value not in (*others, last):
            raise ValueError(f"expected {', '.join(others)} or {last}")
        return value

    return AfterValidator(check)


def _grouping(value: str) -> str:
    try:
        num_groups = re.compile(value).groups
    except re.error as error:
        raise ValueError(f"expected a regular expression ({error})") from error
    if not num_groups:
        raise ValueError("expected a regular expression with a group in parentheses")
    return value


Side = Annotated[int, Field(ge=MIN_SIDE, le=4096)]
Size = Annotated[tuple[Side, Side], BeforeValidator(_size)]
Pattern = Annotated[str, Field(min_length=1)]
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(_several)]
KindName = Annotated[str, _one_of(lambda: KINDS)]
EngineName = Annotated[str, _one_of(engine_choices)]


class DatasetSettings(Section):
    """Section `dataset`: which videos there are, and what class and split each has."""

    kind: KindName = "kinetics"
    """ucf101, hmdb51: root/Class/FILE with split lists; kinetics: official CSVs; folders:
    root/[split/]class/file; csv: path,label,split; rawframes:
    root/[split/]class/VIDEO/img_00001.jpg, or such folders as a CSV names them.
    """
    root: str = "videos"
    """Folder of the videos."""
    splits: str | None = None
    """Folder of classInd.txt, trainlistNN.txt and testlistNN.txt (ucf101), or of
    CLASS_test_splitN.txt (hmdb51). Each list is stored as a split: train1, test1, train2 ...
    """
    fold: int = Field(1, ge=1, le=99)
    """Changes nothing: the shards have the splits of the first lists, and every list is stored."""
    annotations: str | tuple[str, ...] | None = None
    """The CSV, or several (kinetics, csv, rawframes)."""
    exclude: Patterns = ()
    """Patterns of files and folders below the root that are left out, whatever lists name: `*.gif`
    and `extras` at any depth, `train/*.gif` and `/extras` from the root on; `**` is any number of
    folders.
    """
    hold_out: float | None = Field(None, gt=0, lt=1)
    """Part of the videos in class folders that becomes the split test, by class and by a hash of
    each key, so that a video stays in its split when others are added; off when not set.
    """
    group: Annotated[str, AfterValidator(_grouping)] | None = None
    """Regular expression whose first group names in a key what hold_out keeps on one side, such as
    a person or a source: `/([a-z]+)_` finds daria in `wave/daria_wave`; each video by itself when
    not set.
    """

    @model_validator(mode="after")
    def _held_out(self) -> Self:
        if self.group is not None and self.hold_out is None:
            raise ValueError("group is for hold_out, which is not set: expected both or neither")
        return self


class PreprocessSettings(Section):
    """Section `preprocess`: how frames and flow are made of a video."""

    size: Size = (256, 256)
    """Stored width and height: 256, 340x256 or [340, 256]; the picture is stretched to it, as in
    the paper.
    """
    short_side: Side | None = None
    """Keep the aspect instead, with this shorter side; replaces size."""
    engine: EngineName = "auto"
    """What computes flow: an engine by its name, as `twinstream doctor` lists them; auto takes the
    fastest that is here, once for the whole run.
    """
    tvl1: TvL1Settings = TvL1Settings()
    """Parameters of TV-L1; the defaults are those of OpenCV's GPU version."""
    bound: float = Field(20.0, gt=0, le=1000)
    """Flow is clipped to [-bound, bound] pixels."""
    min_frames: int = Field(DEFAULT_STACK_LENGTH + 1, ge=2)
    """Shorter videos are skipped as too_short; 6 frames are one stack of 5 flow fields."""
    max_pixels: int | None = Field(7680 * 4320, ge=1)
    """Videos whose frames have more pixels are skipped as too_large."""
    max_frames: int | None = Field(None, ge=2)
    """Longer videos are skipped as too_long or cut at this many frames; off when not set."""
    too_long: Literal["skip", "cut"] = "skip"
    """What becomes of videos with more than max_frames; the rest of one that is cut is not looked
    at.
    """
    on_damage: Literal["skip", "keep"] = "skip"
    """What becomes of damaged videos: keep stores the frames before the damage, where these are at
    least min_frames.
    """
    timeout_seconds: float | None = Field(600.0, gt=0)
    """A video that makes no progress, a chunk of frames read or computed, for so long is skipped as
    timed_out.
    """
    max_tries: int = Field(3, ge=1)
    """A video in which this many workers in a row have died is skipped as crashed."""
    chunk_frames: int | None = Field(None, ge=2)
    """Frames of a video that are decoded, computed and encoded together, and held in memory; when
    not set 32, with an engine on GPUs 256, or fewer where they are large.
    """
    seed: int = 0
    """Fixes which training videos share a shard."""
    threads: int = Field(1, ge=1)
    """CPU cores of a worker with a CPU engine: one video's flow and encoding are spread over them.
    """
    workers_per_gpu: int = Field(4, ge=1)
    """Workers that use one GPU with an engine on GPUs: while one decodes and encodes another one's
    flow is computed.
    """
    cores_per_gpu: int | None = Field(None, ge=1)
    """CPU cores that decode and encode for each GPU, divided among its workers; when not set all
    that a node has, in equal parts for its GPUs.
    """
    gpu_memory_bytes: int = Field(DEFAULT_GPU_BYTES, ge=1)
    """Memory that each worker may use of its GPU, for the arrays of one batch; a chunk that needs
    more is split.
    """
    workers: int | None = Field(None, ge=1)
    """Shards made at the same time; when not set as many as the CPUs have room for, or with an
    engine on GPUs the GPUs. One worker needs no Ray.
    """
    max_skipped: int | None = Field(None, ge=0)
    """More skipped videos than this end the run with exit code 1, after all else is written; off
    when not set.
    """


# What a manifest must say for new videos to be treated like the dataset's, beside their size.
NEEDED = ("preprocess.engine", "preprocess.bound", "shards.jpeg_quality")
# Written for the record; no setting changes it.
FIXED = ("preprocess.tvl1.gamma", FLOW_DEFINITION)
# What changes no byte is in no manifest of ours; from another one it must not fill this machine.
OF_THE_MACHINE = (
    *("chunk_frames", "threads", "workers", "workers_per_gpu", "cores_per_gpu"),
    *("gpu_memory_bytes", "timeout_seconds", "max_tries", "max_skipped"),
)


def made_settings(made_with: Mapping[str, Any], source: str) -> PreprocessSettings:
    """The inverse of `byte_settings`, for a dataset's manifest: how its frames and flow were made.

    InputError that names `source` where the manifest does not say, for an imported dataset, and
    where flow was cut at a smaller bound before a conversion, which that of new videos is not.
    """
    has_size = not {"preprocess.size", "preprocess.short_side"}.isdisjoint(made_with)
    missing = [path for path in NEEDED if path not in made_with]
    if missing or not has_size:
        raise InputError(
            f"{source}: has no {missing[0] if missing else 'preprocess.size'}, so it is not known "
            "how its frames and flow were made of videos; an imported dataset does not say"
        )
    bound = made_with["preprocess.bound"]
    cut = cut_at(made_with, bound)
    if cut is not None:
        raise InputError(
            f"{source}: its flow was converted from bound {cut:g} to {bound:g} px, so motion "
            f"beyond {cut:g} px is cut, and in new videos it would not be; train on a dataset of "
            f"bound {cut:g}"
        )
    tree: dict[str, Any] = {"tvl1": {}}
    for path, value in made_with.items():
        section, _, name = path.partition(".")
        if section == "preprocess" and path not in FIXED and name not in OF_THE_MACHINE:
            below, _, parameter = name.rpartition(".")
            (tree[below] if below else tree)[parameter] = value
    if tree.get("too_long") is None:
        tree.pop("too_long", None)
    return build_settings(PreprocessSettings, tree, source=source)


def byte_settings(
    dataset: DatasetSettings, preprocess: PreprocessSettings, shards: ShardSettings, engine: str
) -> dict[str, Any]:
    """Every setting that changes the bytes of a dataset, and none that does not, by its path;
    `engine` resolved.
    """
    size = (
        {"short_side": preprocess.short_side}
        if preprocess.short_side
        else {"size": list(preprocess.size)}
    )
    # Not in the record: what changes how fast or where a dataset is made, and no byte of it.
    fields = {
        **size,
        "engine": engine,
        "bound": preprocess.bound,
        "min_frames": preprocess.min_frames,
        "max_pixels": preprocess.max_pixels,
        "seed": preprocess.seed,
        "max_frames": preprocess.max_frames,
        # Without a limit nothing is too long, whichever of the two was chosen.
        "too_long": preprocess.too_long if preprocess.max_frames else None,
    }
    settings: dict[str, Any] = {f"preprocess.{name}": value for name, value in fields.items()}
    # An engine of another method gives the same bytes whatever these are.
    entry = find_engine(engine)
    if entry.uses_tvl1:
        settings |= {
            f"preprocess.tvl1.{name}": value for name, value in preprocess.tvl1.as_dict().items()
        }
    if entry.definition is not None:
        settings[FLOW_DEFINITION] = entry.definition
    # These only where they are chosen: datasets from before the choice was there do not name them.
    if preprocess.on_damage == "keep":
        settings["preprocess.on_damage"] = "keep"
    if dataset.hold_out is not None:
        settings["dataset.hold_out"] = dataset.hold_out
        settings |= {"dataset.group": dataset.group} if dataset.group is not None else {}
    settings["dataset.kind"] = dataset.kind
    settings["dataset.fold"] = dataset.fold if KINDS[dataset.kind].has_folds else None
    settings["shards.videos_per_shard"] = shards.videos_per_shard
    settings["shards.jpeg_quality"] = shards.jpeg_quality
    return settings
