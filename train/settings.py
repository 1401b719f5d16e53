"""Sections `model`, `train` and `test` of pipeline.yaml; defaults as in the paper, section 4.4."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from twinstream.section import Section
from twinstream.shards.settings import DEFAULT_STACK_LENGTH
from twinstream.train.choices import (
    DROPOUT,
    EVERY_OTHER,
    IMAGENET,
    STAGE_NAME,
    TSN_SCALES,
    BranchName,
    Depth,
    DeviceName,
    EveryOther,
    ModelKind,
    NumCrops,
    Trainable,
)

# In a run's folder, the network as its last step has left it
CHECKPOINT = "checkpoint.pt"
StageName = Annotated[str, StringConstraints(pattern=STAGE_NAME)]


def _split_or_false(value: object) -> object:
    if value is True or not isinstance(value, str | bool | None):
        raise ValueError("expected the name of a split, false or null")
    return value


# Checked first, for one message: pydantic has one for each member of a union.
ValidateSplit = Annotated[str | Literal[False] | None, BeforeValidator(_split_or_false)]


class ModelSettings(Section):
    """Section `model`: the network."""

    kind: ModelKind = "cma"
    """One branch, both side by side, both with non-local blocks, both with cross-modality
    attention, or that with non-local blocks in the RGB branch as well.
    """
    depth: Depth = 50
    """Depth of both ResNets."""
    attention_at: EveryOther | Annotated[tuple[str, ...], Field(min_length=1)] = EVERY_OTHER
    """Residual blocks that attention blocks follow: every other one of res3 and res4, or a list by
    torchvision's names, such as [layer2.1, layer3.5].
    """
    stack_length: int = Field(DEFAULT_STACK_LENGTH, ge=1)
    """Consecutive flow fields a snippet has."""
    dropout: float = Field(DROPOUT, ge=0, lt=1)
    """Dropout before each branch's last layer."""
    rgb_weights: str | None = IMAGENET
    """What the RGB branch starts from: imagenet, a file of weights, a checkpoint of another run, or
    null.
    """
    flow_weights: str | None = IMAGENET
    """The same for the flow branch; from RGB weights its first layer takes their mean over the
    channels.
    """

    weights: str | None = None
    """What the whole network starts from, attention included: the folder of another run, or a
    checkpoint; replaces rgb_weights and flow_weights.
    """

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
    stages: tuple[StageName, ...] = Field(("flow", "iter1", "iter2", "iter3"), min_length=1)
    """flow and rgb train a branch by itself; iter1, iter3 ... RGB that attends to flow, iter2 ...
    the reverse.
    """
    trainable: Trainable = "all"
    """Which layers of the branch that learns: all, behind_attention for the attention blocks and
    all layers behind the first of them, or fc for the last layer alone; the others stay as they
    are.
    """
    cache_features: int | None = Field(None, ge=1)
    """With trainable fc: so many random views of each video are computed once, their features kept
    in the run's folder while the stage lasts, and trained on in turn; off when not set.
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
    segments: int = Field(3, ge=1)
    """Snippets a video."""
    crop_size: int = Field(224, ge=33)
    """Side of the network's input; up to 32 pixels a ResNet's last maps are single points, too few
    for BatchNorm.
    """
    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = TSN_SCALES
    """Sides of the random crop relative to the stored shorter side."""
    gradient_through_frozen: bool = True
    """From iter2 on the branch that learns reads the frozen one, which reads it: pass back the
    gradient that comes this way too. false leaves it out, which is cheaper, and an approximation.
    """
    flip: bool = True
    """Mirror half of the samples; off where left and right are different classes."""
    scale_motion: bool = False
    """Scale the flow of a resized crop along with it; the paper and TSN leave its values."""
    seed: int = 0
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
    https://host/{shard}`, where -f tells an answer such as 404.
    """
    workers: int | None = Field(None, ge=0)
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
    segments: int = Field(25, ge=1)
    """Snippets a video."""
    crops: NumCrops = 10
    """1: centre; 5: corners and centre; 10: their mirrors too."""
    flip: bool | None = None
    """Whether 10 crops hold mirrors, or are 5; as train.flip when not set."""
    batch_views: int = Field(80, ge=1)
    """Views scored at a time."""


def weights_file(source: str | Path) -> Path:
    """The file itself; of a run's folder its checkpoint.pt."""
    path = Path(source)
    return path / CHECKPOINT if path.is_dir() else path
