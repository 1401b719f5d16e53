"""The registry of network families: what there is, and what is known of one before it is built.

A family is one module with a subclass of `Branch`, and one entry in `FAMILIES`. Settings, data and
`TwoBranch` learn all they need from the entry; the module is imported when a branch is built, so
that settings are read without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from twinstream.errors import InputError
from twinstream.shards.settings import DEFAULT_STACK_LENGTH
from twinstream.train.choices import (
    CLIP_LENGTH,
    EVERY_OTHER,
    LAST_OF_RES4,
    LEAST_SIDE,
    AttentionAt,
)
from twinstream.train.snippet_shape import SnippetShape

if TYPE_CHECKING:
    from twinstream.train.network.branch import Branch


@dataclass(frozen=True)
class Family:
    """Networks of one kind that differ in depth."""

    name: str
    branch: str
    """Full name of its subclass of `Branch`"""
    depths: tuple[int, ...]
    attention_at: AttentionAt = EVERY_OTHER
    """Where attention blocks stand unless the settings say otherwise"""
    clip_lengths: Sequence[int] = ()
    """Frames and fields that a snippet may have; none: one frame, and fields as its channels"""
    least_side: int = LEAST_SIDE
    """Of its input; with less the last maps are single points, too few for BatchNorm"""
    title: str = "{name}-{depth}"
    """What its networks are called in reports"""

    def snippet(
        self,
        stack_length: int = DEFAULT_STACK_LENGTH,
        clip_length: int = CLIP_LENGTH,
        clip_stride: int = 1,
    ) -> SnippetShape:
        """What a snippet is: a frame and a stack of fields, or clips of both with a time axis."""
        if not self.clip_lengths:
            return SnippetShape(1, stack_length)
        return SnippetShape(clip_length, clip_length, clip_stride, has_time=True)

    @property
    def expected_depth(self) -> str:
        """expected 18, 34, 50, 101 or 152 for model.family resnet."""
        return f"expected {either(self.depths)} for model.family {self.name}"

    def network(self, depth: int) -> str:
        """P3D-ResNet-50."""
        return self.title.format(name=self.name, depth=depth)

    def build_branch(self, depth: int, *arguments: Any, **options: Any) -> "Branch":
        """A branch of that depth with random weights; `Branch` says of what else it is made."""
        if depth not in self.depths:
            raise InputError(f"model.depth: {self.expected_depth}, not {depth}")
        return self.branch_type(depth, *arguments, **options)

    @property
    def branch_type(self) -> "type[Branch]":
        """Its subclass of `Branch`, imported now."""
        module, _, name = self.branch.rpartition(".")
        found: type[Branch] = getattr(import_module(module), name)
        return found


NETWORK = "twinstream.train.network"
DEFAULT_FAMILY = "resnet"
FAMILIES: tuple[Family, ...] = (
    Family(
        "resnet",
        f"{NETWORK}.resnet.ResNetBranch",
        (18, 34, 50, 101, 152),
        title="ResNet-{depth}",
    ),
    # Four pools halve time, rounding up, and res5 takes one time step.
    Family(
        "p3d",
        f"{NETWORK}.p3d.P3DBranch",
        (14, 50, 101, 152),
        LAST_OF_RES4,
        range(1, 2**4 + 1),
        least_side=35,
        # As its authors call it: by the ResNet that it was made of.
        title="P3D-ResNet-{depth}",
    ),
    # Layers with weights, counted as a ResNet's. Attention ends the stages of strides 8 and 16.
    Family(
        "efficientnet_lite0",
        f"{NETWORK}.efficientnet_lite.EfficientNetLiteBranch",
        (50,),
        ("layer2.1", "layer3.2", "layer3.5"),
        title="EfficientNet-Lite0",
    ),
)


def find_family(name: str) -> Family:
    """The family of this name; InputError where there is none."""
    for family in FAMILIES:
        if family.name == name:
            return family
    raise InputError(f"model.family: {expected_family()}, not {name!r}")


def family_names() -> list[str]:
    """What `model.family` may be."""
    return [family.name for family in FAMILIES]


def expected_family() -> str:
    """expected resnet, p3d or efficientnet_lite0."""
    return f"expected {either(family_names())}"


def either(values: Sequence[object]) -> str:
    """18, 34 or 50."""
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last
