"""First weights of a branch: random, ImageNet, a ResNet's file, or a checkpoint of another run.

Weights trained on RGB fit the flow branch except for its first convolution, which takes their mean
over the three channels, repeated (paper, section 4.1). The classifier is taken over class by class,
by name: from a file that names no classes nothing of it is taken, and with one class that the file
lacks it counts as not trained. Attention that was trained must find its place. Everything else must
fit or is refused. Otherwise a branch could be half random and still train and be scored, with
worse results and no message. `Origin` says what was taken, in one line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from twinstream.errors import InputError
from twinstream.shards.format.classes import first_few
from twinstream.shards.format.manifest import pixel_settings
from twinstream.shards.storage.location import file_sha256
from twinstream.train.choices import IMAGENET, OTHER, BranchName, iteration
from twinstream.train.network.branch import RGB_CHANNELS, Branch
from twinstream.train.network.families import FAMILIES, either
from twinstream.train.network.stages import Stage
from twinstream.train.network.weight_files import (
    State,
    branch_state,
    has_bias,
    has_network,
    is_plain,
    read_state,
)
from twinstream.train.settings import weights_file

# What may be absent or left over: torchvision's older files have no counters, plain ResNets no
# attention blocks.
ATTENTION = ("cma.", "non_local.")
OPTIONAL_END = "num_batches_tracked"
# Of what the pixels of frames depend on; all settings are what those of flow depend on.
FRAMES = (
    *("preprocess.size", "preprocess.short_side", "shards.jpeg_quality"),
    *("model.clip_length", "model.clip_stride"),
)


@dataclass(frozen=True)
class Use:
    """What the weights are to be used on: a dataset's classes and flow."""

    classes: Sequence[str]
    bound: float
    """Pixels"""
    made_with: Mapping[str, Any] = field(default_factory=dict)
    """The settings that its frames and flow depend on"""


@dataclass(frozen=True)
class Origin:
    """What a branch began from."""

    said: str
    """One line: what was taken, and what is new; empty where nothing was loaded"""
    is_trained: bool = False
    """Whether it was trained as this branch somewhere, as far as the file tells"""
    has_classifier: bool = False
    """Whether every class has the weights of a trained classifier"""
    partner: State | None = None
    """The other branch of the file, where attention to it is trained"""
    trained_on: Tensor | None = None
    """Digests of the videos that the weights were trained on; None where the file does not say"""
    sha256: str | None = None
    """Of the file"""


def initialise(branch: Branch, source: str | Path | None, name: BranchName, use: Use) -> Origin:
    """Load `source` (None: leave as it is, "imagenet", or a file) into the branch called `name`.

    InputError if it does not fit, holds NaN, or was trained on other flow than that of `use`.
    """
    if source is None:
        return Origin("")
    if source == IMAGENET:
        adapted = branch.adapted(branch.imagenet_state(name), "ImageNet weights")
        _load(branch, without_classifier(adapted.state), "ImageNet weights")
        said = f"{name} weights: ImageNet"
        return Origin(", ".join([said, *adapted.said, "classifier new"]))
    path, where = weights_file(source), str(source)
    loaded = read_state(path)
    refuse_other_family(loaded, branch, where)
    adapted = branch.adapted(branch_state(loaded, name, where, branch.marks), where)
    found = adapted.state
    if name == "flow":
        refuse_other_bound(loaded.get("bound"), use.bound, where)
    rows, why_new = classifier_rows(loaded, found, name, use.classes, where)
    _load(branch, state_by_name(found, rows, branch), where)
    is_rgb = has_rgb_stem(found, branch) and branch.in_channels != RGB_CHANNELS
    trained = is_learned(loaded, found, name) and adapted.is_whole and not is_rgb
    # Our own checkpoints say it, since there are such records.
    unrecorded = "attending" in loaded and loaded.get("trained_on") is None
    acting = acting_blocks(found)
    new = blocks_of(branch.state_dict()) - blocks_of(found)
    notes = [
        f"{name} weights: {where}",
        *adapted.said,
        *(["first convolution from RGB"] if is_rgb else []),
        f"classifier of {len(rows)} of {len(use.classes)} classes" if rows else "classifier new",
        *([why_new] if why_new else []),
        *([f"trained attention at {len(acting)} places"] if acting else []),
        *([f"attention new at {len(new)} places"] if new else []),
        *other_settings(loaded.get("made_with"), use.made_with, name),
        *(["on which videos it was trained is not known"] if unrecorded else []),
    ]
    reads = any(block.startswith("cma.") for block in acting)
    return Origin(
        ", ".join(notes),
        is_trained=trained,
        has_classifier=trained and len(rows) == len(use.classes),
        partner=branch_state(loaded, OTHER[name], where, branch.marks) if reads else None,
        trained_on=videos if isinstance(videos := loaded.get("trained_on"), Tensor) else None,
        sha256=file_sha256(path),
    )


def unfit_starts(
    stages: Sequence[Stage],
    origins: Mapping[BranchName, Origin],
    branches: Mapping[BranchName, State],
) -> list[str]:
    """A line for what these stages do with first weights that can hardly be meant.

    `branches` are the state_dicts of the branches, their first weights loaded. InputError for a
    stage that trains a branch by itself whose attention is trained already.
    """
    lines = []
    trained = {name for name, origin in origins.items() if origin.is_trained}
    for stage in stages:
        other = OTHER[stage.trains]
        if not iteration(stage.name) and origins[stage.trains].partner is not None:
            raise InputError(
                f"train.stages: {stage.name} trains a branch by itself, but its weights hold "
                "trained attention, which acts; use an iter stage"
            )
        if iteration(stage.name) and other not in trained:
            lines.append(
                f"{stage.name}: attends to the {other} branch, which nothing has trained; put stage"
                f" {other} before it, or name a run's weights in model.{other}_weights"
            )
        trained.add(stage.trains)
    for name, origin in origins.items():
        if origin.partner is not None and not _same_layers(origin.partner, branches[OTHER[name]]):
            lines.append(
                f"{name}: its attention was trained with another {OTHER[name]} branch than that of "
                f"model.{OTHER[name]}_weights"
            )
    return lines


def refuse_other_family(loaded: Mapping[str, Any], branch: Branch, where: str) -> None:
    """InputError for a file that holds no network of the branch's family, but one of another."""
    if has_network(loaded, branch.marks):
        return
    # ResNets and P3D share marks: `adapted` knows them apart.
    others = [each.name for each in FAMILIES if has_network(loaded, each.branch_type.marks)]
    if others:
        raise InputError(
            f"{where}: holds a network of {either(others)}; set model.family {either(others)}"
        )


def classifier_rows(
    loaded: Mapping[str, Any], state: State, name: BranchName, classes: Sequence[str], where: str
) -> tuple[dict[int, int], str]:
    """For each of `classes` that the file has a trained classifier of: its row here and there.

    With the reason where there is none. InputError for a file that names a class twice.
    """
    there = loaded.get("classes")
    sizes = [len(state[key]) for key in ("fc.weight", "fc.bias") if _is_tensor(state.get(key))]
    # Without names the same number of classes says nothing of which is which.
    if not isinstance(there, list | tuple):
        return {}, "the file names no classes"
    if len(sizes) != 2 or {*sizes} != {len(there)}:
        return {}, f"{len(there)} classes are named, and its last layer has others"
    numbers = {str(class_name): number for number, class_name in enumerate(there)}
    if len(numbers) != len(there):
        raise InputError(f"{where}: names a class twice, so its last layer cannot be told apart")
    trained = loaded.get("trained")
    if name not in trained if isinstance(trained, list) else not has_bias(state):
        return {}, "which was not trained there for all classes"
    rows = {here: numbers[each] for here, each in enumerate(classes) if each in numbers}
    return rows, "" if rows else "it has none of these classes"


def is_learned(loaded: Mapping[str, Any], state: State, name: BranchName) -> bool:
    """Whether that branch of a file, with these weights, was trained, as far as the file tells."""
    learned = loaded.get("learned", loaded.get("trained"))
    if isinstance(learned, list):
        return name in learned
    return "attending" not in loaded or has_bias(state)


def state_by_name(state: State, rows: Mapping[int, int], branch: Branch) -> State:
    """`state` with a classifier for the branch's classes: the given rows of it, else as new."""
    found = without_classifier(state)
    if not rows:
        return found
    here, there = [*rows], [*rows.values()]
    for key, own in (("fc.weight", branch.fc.weight), ("fc.bias", branch.fc.bias)):
        value = own.detach().clone()
        # Another depth has another width; `fitted` then names layers that say so.
        if state[key].shape[1:] == own.shape[1:]:
            value[here] = state[key][there].to(value)
        found[key] = value
    return found


def acting_blocks(state: State) -> set[str]:
    """The attention blocks that change their input: `cma.layer2_1`, `non_local.layer3_5`."""
    return {
        block
        for block in blocks_of(state)
        if any(
            _is_tensor(state.get(f"{block}.bn.{part}")) and state[f"{block}.bn.{part}"].any()
            for part in ("weight", "bias")
        )
    }


def blocks_of(state: State) -> set[str]:
    """The attention blocks of a state_dict by name."""
    return {".".join(key.split(".")[:2]) for key in state if key.startswith(ATTENTION)}


def fitted(state: State, branch: Branch, where: str) -> State:
    """The entries of `state` that go into the branch, the first convolution adapted to its input.

    InputError naming the first keys where one is missing, left over, of another shape or not
    finite; and where trained attention has no place in the branch.
    """
    own: State = branch.state_dict()
    # Before the shapes are compared: a first convolution for RGB fits the flow branch after it.
    state = with_stem(state, branch)
    # A trained block that is left out would be a network with other scores, and no word of it.
    acting = tuple(f"{block}." for block in sorted(acting_blocks(state)))
    if lost := [block for block in acting if not any(key.startswith(block) for key in own)]:
        raise InputError(
            f"{where}: has trained attention ({first_few([name[:-1] for name in lost])}) that has "
            "no place here; choose model.kind and model.attention_at as they were there"
        )
    wrong = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            key for key in own if key in state and not _same_shape(state[key], own[key])
        ],
    }
    for fault, keys in wrong.items():
        refused = [key for key in keys if key.startswith(acting) or not _is_optional(key)]
        if refused:
            raise InputError(f"{where}: does not fit {branch.label}: {fault} {first_few(refused)}")
    taken = {key: state[key] for key in own if key in state and _same_shape(state[key], own[key])}
    if bad := [key for key, value in taken.items() if not _is_like(value, own[key])]:
        raise InputError(
            f"{where}: weights that are no finite numbers of type float: {first_few(bad)}"
        )
    if bad := [key for key in taken if key.endswith("running_var") and (taken[key] < 0).any()]:
        raise InputError(f"{where}: a variance below zero: {first_few(bad)}")
    return taken


def refuse_other_bound(found: object, wanted: float, where: str) -> None:
    """InputError for weights that were trained on flow of another bound; None is not known."""
    # A value of the input means so many bounds of motion: all motion would look too fast or slow.
    if isinstance(found, int | float) and found != wanted:
        raise InputError(
            f"{where}: was trained on flow of bound {found}, these shards have {wanted:g}; make "
            f"shards with preprocess.bound {found}, or start from other weights"
        )


def other_settings(found: object, wanted: Mapping[str, Any], name: BranchName) -> list[str]:
    """What the branch's input was made with in training, where these shards differ from it."""
    made_with = pixel_settings(found) if isinstance(found, Mapping) else {}
    return [
        f"trained on {key} {made_with[key]}, not {wanted[key]}"
        for key in sorted(made_with.keys() & wanted.keys())
        if made_with[key] != wanted[key] and (name == "flow" or key in FRAMES)
    ]


def with_stem(state: State, branch: Branch) -> dict[str, Any]:
    """`state` with its first convolution adapted to the branch's input, where it is one for RGB."""
    # A state that is no such network's passes here unchanged; `fitted` then names its keys.
    if not has_rgb_stem(state, branch) or branch.in_channels == RGB_CHANNELS:
        return dict(state)
    stem = branch.first_convolution
    return {**state, stem: flow_stem(state[stem], branch.in_channels)}


def has_rgb_stem(state: State, branch: Branch) -> bool:
    """Whether the first convolution takes three channels."""
    weight = state.get(branch.first_convolution)
    axes = branch.get_parameter(branch.first_convolution).ndim
    return isinstance(weight, Tensor) and weight.ndim == axes and weight.shape[1] == RGB_CHANNELS


def flow_stem(rgb_weight: Tensor, in_channels: int) -> Tensor:
    """(64, 3, ...) -> (64, in_channels, ...): the mean over the colours, repeated."""
    return rgb_weight.mean(dim=1, keepdim=True).repeat_interleave(in_channels, dim=1)


def without_classifier(state: State) -> dict[str, Tensor]:
    """`state` without the entries of the last layer."""
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def _load(branch: Branch, state: State, where: str) -> None:
    # Not strict: `fitted` has refused all that must be there, with a message of one line.
    branch.load_state_dict(fitted(state, branch, where), strict=False)


def _is_optional(key: str) -> bool:
    return key.startswith((*ATTENTION, "fc.")) or key.endswith(OPTIONAL_END)


def _is_like(value: Tensor, own: Tensor) -> bool:
    """Whether it is a plain tensor whose numbers are finite in the type that they are used in."""
    return (
        is_plain(value)
        and value.is_floating_point() == own.is_floating_point()
        and bool(value.to(own.dtype).isfinite().all())
    )


def _same_layers(one: State, other: State) -> bool:
    """Whether both have the same weights, apart from the classifier and attention."""
    keys = [key for key in other if key in one and not _is_optional(key)]
    plain = all(is_plain(value) for key in keys for value in (one[key], other[key]))
    return (
        plain
        and all(_same_shape(one[key], other[key]) for key in keys)
        and all(torch.equal(one[key].to(other[key]), other[key]) for key in keys)
    )


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    return is_plain(value) and value.ndim > 0


def _same_shape(value: object, expected: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == expected.shape
