"""First weights of a branch: what is taken, what is adapted, and what is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchvision import models

from twinstream.errors import InputError
from twinstream.shards.format.manifest import FLOW_DEFINITION, pixel_settings
from twinstream.train.choices import BOTH, BranchName, ModelKind
from twinstream.train.network.branch import Branch
from twinstream.train.network.resnet import ResNetBranch
from twinstream.train.network.stages import plan_stages
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.network.weight_files import read_state
from twinstream.train.network.weights import (
    Origin,
    Use,
    fitted,
    flow_stem,
    initialise,
    unfit_starts,
)

CLASSES = 5
NAMES = ["Archery", "Biking", "Diving", "Fencing", "Golf"]
USE = Use(NAMES, bound=20.0)


def new_branch(in_channels: int = 3, *, depth: int = 18, has_cma: bool = True) -> Branch:
    return ResNetBranch(depth, in_channels, CLASSES, 0.7, has_cma=has_cma)


def saved_resnet(folder: Path, num_classes: int = CLASSES) -> tuple[Path, dict[str, torch.Tensor]]:
    state = models.resnet18(weights=None, num_classes=num_classes).state_dict()
    torch.save(state, folder / "resnet18.pth")
    return folder / "resnet18.pth", state


def test_no_source_leaves_the_branch_as_it_is() -> None:
    branch = new_branch()
    before = {key: value.clone() for key, value in branch.state_dict().items()}
    initialise(branch, None, "rgb", USE)
    assert all(torch.equal(value, before[key]) for key, value in branch.state_dict().items())


def test_a_resnet_file_goes_into_the_rgb_branch_whole(tmp_path: Path) -> None:
    path, state = saved_resnet(tmp_path)
    branch = new_branch()
    initialise(branch, path, "rgb", USE)
    own = branch.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state if not key.startswith("fc."))
    assert all(block.is_identity for block in branch.cma.values())


def test_the_flow_branch_takes_the_colour_mean_as_its_stem(tmp_path: Path) -> None:
    path, state = saved_resnet(tmp_path)
    branch = new_branch(10)
    initialise(branch, str(path), "flow", USE)
    mean = (
        state["conv1.weight"][:, 0] + state["conv1.weight"][:, 1] + state["conv1.weight"][:, 2]
    ) / 3
    for channel in range(10):
        torch.testing.assert_close(branch.conv1.weight[:, channel], mean)
    assert torch.equal(branch.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])


def test_a_gray_picture_excites_the_flow_stem_as_it_does_the_rgb_stem() -> None:
    weight, gray = torch.randn(64, 3, 7, 7).double(), torch.randn(1, 1, 16, 16).double()
    rgb = torch.nn.functional.conv2d(gray.expand(1, 3, 16, 16), weight) / 3
    flow = torch.nn.functional.conv2d(gray.expand(1, 10, 16, 16), flow_stem(weight, 10)) / 10
    torch.testing.assert_close(rgb, flow)


@pytest.mark.parametrize("num_classes", [CLASSES, 1000])
def test_a_classifier_without_class_names_is_left_out(tmp_path: Path, num_classes: int) -> None:
    path, state = saved_resnet(tmp_path, num_classes)
    branch = new_branch()
    before = branch.fc.weight.clone()
    origin = initialise(branch, path, "rgb", USE)
    assert (origin.has_classifier, origin.is_trained) == (False, True)
    assert origin.said == (
        f"rgb weights: {path}, classifier new, the file names no classes, attention new at 2 places"
    )
    assert torch.equal(branch.fc.weight, before)
    assert torch.equal(branch.conv1.weight, state["conv1.weight"])


def test_a_checkpoint_gives_each_branch_its_own_weights_and_blocks(tmp_path: Path) -> None:
    model = with_trained_classifier(TwoBranch("cma", 18, CLASSES))
    torch.nn.init.ones_(model.flow.cma["layer2_1"].bn.weight)
    checkpoint = {"model": model.state_dict(), "classes": NAMES, "epoch": 3}
    torch.save(checkpoint, tmp_path / "last.pt")
    branches: tuple[tuple[BranchName, int], ...] = (("rgb", 3), ("flow", 10))
    for name, in_channels in branches:
        branch = new_branch(in_channels)
        initialise(branch, tmp_path / "last.pt", name, USE)
        expected = model.branch(name).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in branch.state_dict().items())


def test_a_plain_branch_and_one_with_blocks_start_from_each_other(tmp_path: Path) -> None:
    kinds: tuple[tuple[ModelKind, bool], ...] = (
        ("cma", False),
        ("two_stream", True),
        ("nonlocal", True),
        ("cma_nonlocal", False),
    )
    for kind, has_cma in kinds:
        model = with_trained_classifier(TwoBranch(kind, 18, CLASSES))
        torch.save({"model": model.state_dict(), "classes": NAMES}, tmp_path / "last.pt")
        branch = new_branch(has_cma=has_cma)
        initialise(branch, tmp_path / "last.pt", "rgb", USE)
        assert torch.equal(branch.fc.weight, model.rgb.fc.weight)


def test_older_files_without_batch_counters_are_taken(tmp_path: Path) -> None:
    _, state = saved_resnet(tmp_path)
    older = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(older, tmp_path / "older.pth")
    branch = new_branch()
    initialise(branch, tmp_path / "older.pth", "rgb", USE)
    assert torch.equal(branch.conv1.weight, state["conv1.weight"])


def refusal(branch: Branch, source: Path | str, name: BranchName = "rgb", use: Use = USE) -> str:
    with pytest.raises(InputError) as caught:
        initialise(branch, source, name, use)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_another_depth_is_refused_with_some_of_its_keys(tmp_path: Path) -> None:
    path, _ = saved_resnet(tmp_path)
    message = refusal(new_branch(depth=34), path)
    assert message.startswith(
        f"{path}: does not fit resnet34: missing layer1.2.conv1.weight, layer1.2.bn1.weight,"
    )
    assert message.count("layer") == 5
    assert message.endswith(" more")


def test_left_over_keys_and_other_shapes_are_refused(tmp_path: Path) -> None:
    branch = new_branch()
    state = dict(branch.state_dict())
    with pytest.raises(
        InputError, match=r"x\.pt: does not fit resnet18: unexpected layer5\.weight$"
    ):
        fitted({**state, "layer5.weight": torch.zeros(1)}, branch, "x.pt")
    with pytest.raises(
        InputError, match=r"x\.pt: does not fit resnet18: of another shape conv1\.weight$"
    ):
        fitted({**state, "conv1.weight": torch.zeros(64, 20, 7, 7)}, branch, "x.pt")
    with pytest.raises(InputError, match=r"of another shape bn1\.weight$"):
        fitted({**state, "bn1.weight": [1.0, 2.0]}, branch, "x.pt")


def test_a_checkpoint_without_that_branch_is_refused(tmp_path: Path) -> None:
    torch.save({"model": TwoBranch("rgb", 18, CLASSES).state_dict()}, tmp_path / "rgb.pt")
    assert refusal(new_branch(10), tmp_path / "rgb.pt", "flow") == (
        f"{tmp_path / 'rgb.pt'}: a checkpoint without a flow branch"
    )


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = tmp_path / "absent.pth"
    assert refusal(new_branch(), path) == f"{path}: cannot be read: No such file or directory"


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "flipped"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: str, zipped: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(50)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    flipped = whole[:20] + bytes(255 - byte for byte in whole[20:60]) + whole[60:]
    damaged = {
        "empty": b"",
        "text": b"hello\n",
        "truncated": whole[: len(whole) // 2],
        "flipped": flipped,
    }
    path.write_bytes(damaged[damage])
    assert refusal(new_branch(), path).startswith(
        f"{path}: damaged, or not written by torch.save ("
    )


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(InputError, match=r"tensor\.pt: holds a Tensor, expected a state_dict"):
        read_state(tmp_path / "tensor.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    assert "does not fit resnet18: missing conv1.weight, bn1.weight, bn1.bias" in refusal(
        new_branch(), tmp_path / "other.pt"
    )


def test_imagenet_without_a_network_names_the_key_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    message = refusal(new_branch(10), "imagenet", "flow")
    assert "resnet18" in message
    assert "model.flow_weights=FILE" in message


def test_imagenet_weights_leave_the_classifier_even_of_a_thousand_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = models.resnet18(weights=None).state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: state
    )
    branch = ResNetBranch(18, 3, 1000, 0.7, has_cma=False)
    before = branch.fc.weight.clone()
    initialise(branch, "imagenet", "rgb", USE)
    assert torch.equal(branch.fc.weight, before)
    assert torch.equal(branch.conv1.weight, state["conv1.weight"])


def saved_checkpoint(path: Path, model: TwoBranch, **more: object) -> Path:
    """A checkpoint of five classes, both classifiers trained."""
    about = {"classes": NAMES, "bound": 20.0, "trained": ["rgb", "flow"], "attending": []}
    torch.save({"model": model.state_dict(), **about, **more}, path)
    return path


def with_trained_classifier(model: TwoBranch) -> TwoBranch:
    for name in model.names:
        torch.nn.init.normal_(model.branch(name).fc.bias)
    return model


@pytest.mark.parametrize(
    ("classes", "taken"),
    [
        (NAMES[::-1], 5),
        (NAMES[2:] + NAMES[:2], 5),
        (["Golf", "Archery"], 2),
        ([*NAMES, "Rowing"], 5),
        (["Rowing", "Sumo"], 0),
    ],
)
def test_the_classifier_is_taken_over_by_the_names_of_the_classes(
    tmp_path: Path, classes: list[str], taken: int
) -> None:
    model = with_trained_classifier(TwoBranch("two_stream", 18, CLASSES))
    path = saved_checkpoint(tmp_path / "last.pt", model)
    branch = ResNetBranch(18, 3, len(classes), 0.7)
    before = branch.fc.weight.clone()
    origin = initialise(branch, path, "rgb", Use(classes, 20.0))
    for number, name in enumerate(classes):
        known = name in NAMES
        expected = model.rgb.fc.weight[NAMES.index(name)] if known else before[number]
        assert torch.equal(branch.fc.weight[number], expected)
        assert bool(branch.fc.bias[number] == 0) is not known
    # One class without weights: its scores, and so all of them, would be those of no network.
    assert origin.has_classifier is (taken == len(classes))
    said = f"classifier of {taken} of {len(classes)} classes" if taken else "classifier new"
    assert said in origin.said


@pytest.mark.parametrize("told", [True, False])
def test_a_branch_that_was_never_trained_gives_no_classifier(tmp_path: Path, told: bool) -> None:
    model = TwoBranch("two_stream", 18, CLASSES)
    torch.nn.init.normal_(model.flow.fc.bias)
    more = {"trained": ["flow"] if told else None}
    path = saved_checkpoint(tmp_path / "flow.pt", model, **more)
    flow = initialise(new_branch(10), path, "flow", USE)
    rgb = initialise(new_branch(), path, "rgb", USE)
    assert (flow.has_classifier, flow.is_trained) == (True, True)
    assert (rgb.has_classifier, rgb.is_trained) == (False, False)
    assert "classifier new, which was not trained there for all classes" in rgb.said


def with_trained_block(kind: ModelKind, place: str = "layer2_1", depth: int = 18) -> TwoBranch:
    model = TwoBranch(kind, depth, CLASSES)
    blocks = model.rgb.non_local if kind == "nonlocal" else model.rgb.cma
    torch.nn.init.ones_(blocks[place].bn.bias)
    return model


@pytest.mark.parametrize("kind", ["cma", "nonlocal"])
def test_trained_attention_is_never_dropped(tmp_path: Path, kind: ModelKind) -> None:
    path = saved_checkpoint(tmp_path / "iter1.pt", with_trained_block(kind))
    message = refusal(new_branch(has_cma=False), path)
    part = "cma" if kind == "cma" else "non_local"
    assert f"has trained attention ({part}.layer2_1) that has no place here" in message
    elsewhere = ResNetBranch(18, 3, CLASSES, 0.7, has_cma=True, attention_at=("layer3.1",))
    assert "no place here" in refusal(elsewhere, path)


def test_trained_attention_is_taken_and_told(tmp_path: Path) -> None:
    path = saved_checkpoint(tmp_path / "iter1.pt", with_trained_block("cma"))
    branch = new_branch()
    origin = initialise(branch, path, "rgb", USE)
    assert origin.partner is not None
    assert "trained attention at 1 places" in origin.said
    assert [not block.is_identity for block in branch.cma.values()] == [True, False]


def test_a_trained_block_that_is_cut_is_refused(tmp_path: Path) -> None:
    model = with_trained_block("cma")
    state = model.state_dict()
    del state["rgb.cma.layer2_1.key.weight"]
    torch.save({"model": state, "classes": NAMES}, tmp_path / "cut.pt")
    assert "missing cma.layer2_1.key.weight" in refusal(new_branch(), tmp_path / "cut.pt")


def test_flow_of_another_bound_is_refused_and_rgb_does_not_mind(tmp_path: Path) -> None:
    path = saved_checkpoint(tmp_path / "last.pt", TwoBranch("two_stream", 18, CLASSES))
    other = Use(NAMES, bound=5.0)
    assert refusal(new_branch(10), path, "flow", other) == (
        f"{path}: was trained on flow of bound 20.0, these shards have 5; make shards with "
        "preprocess.bound 20.0, or start from other weights"
    )
    initialise(new_branch(), path, "rgb", other)


def test_shards_made_in_another_way_are_told(tmp_path: Path) -> None:
    made = {"preprocess.size": [340, 256], "preprocess.engine": "cuda", "preprocess.bound": 20}
    model = TwoBranch("two_stream", 18, CLASSES)
    path = saved_checkpoint(tmp_path / "last.pt", model, made_with=made)
    here = Use(NAMES, 20.0, {**made, "preprocess.size": [256, 256], "preprocess.engine": "numba"})
    size = "trained on preprocess.size [340, 256], not [256, 256]"
    engine = "trained on preprocess.engine cuda, not numba"
    rgb, flow = (
        initialise(new_branch(3 if name == "rgb" else 10), path, name, here).said for name in BOTH
    )
    assert (size in rgb, engine in rgb) == (True, False)
    assert (size in flow, engine in flow) == (True, True)


def test_weights_from_before_flow_had_a_second_definition_are_told(tmp_path: Path) -> None:
    old, new = {"preprocess.engine": "numba"}, {"preprocess.engine": "numba", FLOW_DEFINITION: 2}
    model = TwoBranch("two_stream", 18, CLASSES)
    path = saved_checkpoint(tmp_path / "last.pt", model, made_with=old)
    said = [
        initialise(new_branch(10), path, "flow", Use(NAMES, 20.0, pixel_settings(made))).said
        for made in (old, new)
    ]
    assert [f"trained on {FLOW_DEFINITION} 1, not 2" in one for one in said] == [False, True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    path, state = saved_resnet(tmp_path)
    state["layer1.0.bn1.running_var"][3] = bad
    torch.save(state, path)
    assert refusal(new_branch(), path) == (
        f"{path}: weights that are no finite numbers of type float: layer1.0.bn1.running_var"
    )


@pytest.mark.parametrize(
    ("stages", "flow", "words"),
    [
        (["iter1"], Origin("", is_trained=False), "attends to the flow branch, which nothing has"),
        (["iter1"], Origin("", is_trained=True, sha256="a"), None),
        (["flow", "iter1"], Origin(""), None),
        (["iter1", "iter2"], Origin("", is_trained=True), None),
    ],
)
def test_attention_to_a_branch_that_nothing_trained_is_told(
    stages: list[str], flow: Origin, words: str | None
) -> None:
    lines = unfit_starts(plan_stages(stages, "cma"), {"rgb": Origin(""), "flow": flow}, {})
    assert bool(lines) is bool(words)
    assert words is None or words in lines[0]


def test_attention_that_knew_another_branch_is_told() -> None:
    one, other = (TwoBranch("cma", 18, CLASSES).flow.state_dict() for _ in range(2))
    rgb = Origin("", is_trained=True, partner=one, sha256="a")
    origins = {"rgb": rgb, "flow": Origin("", is_trained=True, sha256="b")}
    stages = plan_stages(["iter2"], "cma")
    # Another file, and the same branch in it: of the same layers, whatever the last one is.
    same = {**one, "fc.weight": torch.zeros(3, 512)}
    assert not unfit_starts(stages, origins, {"flow": same})
    (line,) = unfit_starts(stages, origins, {"flow": other})
    assert line.startswith("rgb: its attention was trained with another flow branch")


def test_a_stage_by_itself_does_not_begin_with_trained_attention() -> None:
    origins = {"rgb": Origin("", is_trained=True, partner={}, sha256="a"), "flow": Origin("")}
    with pytest.raises(InputError, match=r"rgb trains a branch by itself, but its weights hold"):
        unfit_starts(plan_stages(["rgb"], "cma"), origins, {})


def test_an_rgb_file_is_no_trained_flow_branch(tmp_path: Path) -> None:
    path, _ = saved_resnet(tmp_path)
    flow = initialise(new_branch(10), path, "flow", USE)
    assert not flow.is_trained
    assert "first convolution from RGB" in flow.said
    assert initialise(new_branch(), path, "rgb", USE).is_trained


def test_layers_learned_for_other_classes_are_trained_layers(tmp_path: Path) -> None:
    model = TwoBranch("two_stream", 18, CLASSES)
    path = saved_checkpoint(tmp_path / "a.pt", model, trained=["rgb"], learned=["rgb", "flow"])
    flow = initialise(new_branch(10), path, "flow", USE)
    assert (flow.is_trained, flow.has_classifier) == (True, False)


def test_a_file_that_names_a_class_twice_is_refused(tmp_path: Path) -> None:
    model = TwoBranch("two_stream", 18, CLASSES)
    path = saved_checkpoint(tmp_path / "a.pt", model, classes=["Golf"] * CLASSES)
    assert refusal(new_branch(), path).endswith(
        "names a class twice, so its last layer cannot be told apart"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to(torch.int8), "no finite numbers of type float: conv1.weight"),
        (lambda value: value.double() * 1e300, "no finite numbers of type float: conv1.weight"),
        (lambda value: value.to_sparse(), "no finite numbers of type float: conv1.weight"),
        (lambda value: value.to("meta"), "no finite numbers of type float: conv1.weight"),
    ],
)
def test_tensors_of_another_sort_are_refused(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    path, state = saved_resnet(tmp_path)
    torch.save({**state, "conv1.weight": change(state["conv1.weight"]), 0: torch.zeros(1)}, path)
    assert "unexpected 0" in refusal(new_branch(), path)
    torch.save({**state, "conv1.weight": change(state["conv1.weight"])}, path)
    assert message in refusal(new_branch(), path)


@pytest.mark.parametrize("key", ["cma.layer2_1.bn.weight", "fc.bias", "fc.weight"])
@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda value: value.to("meta")])
def test_attention_and_classifiers_of_another_sort_are_refused_or_left_out(
    tmp_path: Path, key: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    model = with_trained_classifier(TwoBranch("cma", 18, CLASSES))
    path = saved_checkpoint(tmp_path / "a.pt", model)
    loaded = torch.load(path)
    loaded["model"][f"rgb.{key}"] = change(loaded["model"][f"rgb.{key}"])
    torch.save(loaded, path)
    if key.startswith("cma"):
        assert "no finite numbers of type float: cma.layer2_1.bn.weight" in refusal(
            new_branch(), path
        )
    else:
        assert not initialise(new_branch(), path, "rgb", USE).has_classifier


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(tmp_path: Path, dtype: torch.dtype) -> None:
    path, state = saved_resnet(tmp_path)
    floats = {key: value for key, value in state.items() if value.is_floating_point()}
    torch.save({**state, **{key: value.to(dtype) for key, value in floats.items()}}, path)
    branch = new_branch()
    initialise(branch, path, "rgb", USE)
    assert torch.equal(branch.conv1.weight, state["conv1.weight"].to(dtype).float())


def test_a_variance_below_zero_is_refused(tmp_path: Path) -> None:
    path, state = saved_resnet(tmp_path)
    state["bn1.running_var"][0] = -1
    torch.save(state, path)
    assert refusal(new_branch(), path) == f"{path}: a variance below zero: bn1.running_var"
