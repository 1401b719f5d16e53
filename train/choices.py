"""The names and defaults that settings, data and network have in common, each defined once.

Settings are read without torch (`twinstream --help` must stay quick), so this module imports
nothing but `typing`.
"""

from typing import Final, Literal, get_args

BranchName = Literal["rgb", "flow"]
BOTH: tuple[BranchName, ...] = get_args(BranchName)
OTHER: dict[BranchName, BranchName] = {"rgb": "flow", "flow": "rgb"}

ModelKind = Literal["rgb", "flow", "two_stream", "nonlocal", "cma", "cma_nonlocal"]
BRANCHES: dict[ModelKind, tuple[BranchName, ...]] = {
    "rgb": ("rgb",),
    "flow": ("flow",),
    "two_stream": BOTH,
    "nonlocal": BOTH,
    "cma": BOTH,
    "cma_nonlocal": BOTH,
}
WITH_CMA: tuple[ModelKind, ...] = ("cma", "cma_nonlocal")

# Where attention blocks stand: after every other residual block of res3 and res4, after the last
# one of res4, or after the blocks that a list names as torchvision does.
AttentionPlaces = Literal["every_other", "last_of_res4"]
EVERY_OTHER: Final = "every_other"
LAST_OF_RES4: Final = "last_of_res4"
AttentionAt = AttentionPlaces | tuple[str, ...]

# Frames and fields of a snippet of a 3-D network
CLIP_LENGTH = 16

# Of the input: with less a ResNet's last maps are single points, too few for BatchNorm.
LEAST_SIDE = 33

# Where a branch's first weights come from, if not from a file.
IMAGENET = "imagenet"
# Of its pixels, red green blue, between 0 and 1: what its weights expect the input to be less by
# and divided by.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Which layers of a branch learn: all, the attention blocks and what is behind the first of them, or
# the last layer alone.
Trainable = Literal["all", "behind_attention", "fc"]

DROPOUT = 0.7

# Sides of TSN's random crop relative to the shorter side of the stored frame.
TSN_SCALES = (1.0, 0.875, 0.75, 0.66)

NumCrops = Literal[1, 5, 10]
NUM_CROPS: tuple[NumCrops, ...] = get_args(NumCrops)

DeviceName = Literal["auto", "cpu", "cuda"]

# A stage trains a branch by itself, or is an iteration of training both in turn.
STAGE_NAME = r"^(flow|rgb|iter[1-9][0-9]*)$"


def iteration(stage: str) -> int:
    """iter3 -> 3; 0 for flow and rgb, which train a branch by itself."""
    return int(stage.removeprefix("iter")) if stage.startswith("iter") else 0
