"""The two-branch network: identity at the start, gradients only where they belong, nothing computed
in vain.
"""

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from twinstream.train.choices import BranchName, ModelKind
from twinstream.train.network.branch import RGB_CHANNELS
from twinstream.train.network.cma import CMABlock
from twinstream.train.network.resnet import stem
from twinstream.train.network.two_branch import TwoBranch, consensus

CLASSES = 5
SIDE = 48


def snippets(rows: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 3, SIDE, SIDE), torch.randn(rows, 10, SIDE, SIDE)


def with_trained_blocks(model: TwoBranch) -> TwoBranch:
    """The same model, its attention blocks no longer the identity."""
    for module in model.modules():
        if isinstance(module, CMABlock):
            nn.init.uniform_(module.bn.weight, 0.2, 1)
    return model


def plain_resnet(model: TwoBranch, name: BranchName, depth: int) -> nn.Module:
    """torchvision's ResNet with a branch's weights, the dropout before its classifier as TSN has
    it.
    """
    net = models.get_model(f"resnet{depth}", weights=None, num_classes=CLASSES)
    branch = model.branch(name)
    if branch.in_channels != RGB_CHANNELS:
        net.conv1 = stem(branch.in_channels)
    missing, unexpected = net.load_state_dict(branch.state_dict(), strict=False)
    assert not missing
    assert all(key.startswith(("cma.", "non_local.")) for key in unexpected)
    net.fc = nn.Sequential(nn.Dropout(branch.dropout.p), net.fc)
    return net.to(memory_format=torch.channels_last)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("kind", "depth"), [("cma", 18), ("cma", 50), ("nonlocal", 18), ("cma_nonlocal", 18)]
)
@pytest.mark.parametrize("name", ["rgb", "flow"])
def test_at_the_start_each_branch_is_the_plain_resnet_to_the_last_bit(
    name: BranchName, kind: ModelKind, depth: int, training: bool
) -> None:
    torch.manual_seed(1)
    model = TwoBranch(kind, depth, CLASSES).train(training)
    net = plain_resnet(model, name, depth).train(training)
    rgb, flow = snippets()
    torch.manual_seed(2)
    score = model(rgb, flow, outputs=(name,), attending=("rgb", "flow"))[name]
    torch.manual_seed(2)
    expected = net(rgb if name == "rgb" else flow)
    assert expected.any()
    assert torch.equal(score, expected)


@pytest.mark.parametrize("name", ["rgb", "flow"])
def test_a_trained_block_lets_a_branch_see_the_other_and_only_if_it_attends(
    name: BranchName,
) -> None:
    torch.manual_seed(1)
    model = with_trained_blocks(TwoBranch("cma", 18, CLASSES)).eval()
    rgb, flow = snippets()
    seen, changed = (
        ((rgb, flow), (rgb, flow + 1)) if name == "rgb" else ((rgb, flow), (rgb + 1, flow))
    )
    assert not torch.equal(model(*seen)[name], model(*changed)[name])
    for attending in ((), ("flow",) if name == "rgb" else ("rgb",)):
        assert torch.equal(
            model(*seen, attending=attending)[name], model(*changed, attending=attending)[name]
        )


def test_both_directions_are_computed_from_the_same_features() -> None:
    """At depth 18 against the stretches written out: neither branch sees what the other was just
    given.
    """
    torch.manual_seed(1)
    model = with_trained_blocks(TwoBranch("cma", 18, CLASSES)).eval()
    rgb, flow = snippets()
    x, y = model.rgb, model.flow
    a, b = (
        net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(i))))))
        for net, i in ((x, rgb), (y, flow))
    )
    a, b = x.cma["layer2_1"](a, b), y.cma["layer2_1"](b, a)
    a, b = x.layer3(a), y.layer3(b)
    a, b = x.cma["layer3_1"](a, b), y.cma["layer3_1"](b, a)
    scores = model(rgb, flow)
    assert torch.equal(scores["rgb"], x.fc(x.layer4(a).mean(dim=(2, 3))))
    assert torch.equal(scores["flow"], y.fc(y.layer4(b).mean(dim=(2, 3))))


def test_behind_its_own_non_local_block_a_branch_reads_the_other() -> None:
    """At depth 18 against the stretches written out: non-local blocks in RGB alone, flow reads
    their output.
    """
    torch.manual_seed(1)
    model = with_trained_blocks(TwoBranch("cma_nonlocal", 18, CLASSES)).eval()
    rgb, flow = snippets()
    x, y = model.rgb, model.flow
    a, b = (
        net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(i))))))
        for net, i in ((x, rgb), (y, flow))
    )
    a = x.non_local["layer2_1"](a, a)
    a, b = x.cma["layer2_1"](a, b), y.cma["layer2_1"](b, a)
    a, b = x.layer3(a), y.layer3(b)
    a = x.non_local["layer3_1"](a, a)
    a, b = x.cma["layer3_1"](a, b), y.cma["layer3_1"](b, a)
    scores = model(rgb, flow)
    assert torch.equal(scores["rgb"], x.fc(x.layer4(a).mean(dim=(2, 3))))
    assert torch.equal(scores["flow"], y.fc(y.layer4(b).mean(dim=(2, 3))))


def test_the_non_local_model_never_lets_one_branch_see_the_other() -> None:
    torch.manual_seed(1)
    model = with_trained_blocks(TwoBranch("nonlocal", 18, CLASSES)).eval()
    rgb, flow = snippets()
    scores = model(rgb, flow, attending=("rgb", "flow"))
    assert torch.equal(scores["rgb"], model(rgb, None, outputs=("rgb",))["rgb"])
    assert torch.equal(scores["rgb"], model.rgb(rgb))
    without = TwoBranch("two_stream", 18, CLASSES).eval()
    without.load_state_dict(model.state_dict(), strict=False)
    assert not torch.equal(scores["flow"], without(None, flow, outputs=("flow",))["flow"])


def test_a_non_local_branch_trains_its_own_blocks_and_leaves_the_other_branch() -> None:
    torch.manual_seed(1)
    model = with_trained_blocks(TwoBranch("nonlocal", 18, CLASSES))
    model.train_only("flow")
    F.cross_entropy(
        model(*snippets(3), outputs=("flow",))["flow"], torch.tensor([0, 1, 2])
    ).backward()
    assert all(parameter.grad is not None for parameter in model.flow.parameters())
    assert all(parameter.grad is None for parameter in model.rgb.parameters())


def test_what_is_asked_for_does_not_depend_on_what_else_is() -> None:
    torch.manual_seed(1)
    model = with_trained_blocks(TwoBranch("cma", 34, CLASSES)).eval()
    inputs = snippets()
    both = model(*inputs)
    for name in ("rgb", "flow"):
        alone = model(*inputs, outputs=(name,))
        assert list(alone) == [name]
        assert torch.equal(alone[name], both[name])


@pytest.fixture
def calls() -> Iterator[tuple[TwoBranch, Counter[str]]]:
    """A model of depth 34 (5 places) and the number of times each of its modules has run."""
    model, counter = TwoBranch("cma", 34, CLASSES).eval(), Counter[str]()
    names = {module: name for name, module in model.named_modules()}

    def count(module: nn.Module, args: object, output: object) -> None:
        counter[names[module]] += 1

    handle = nn.modules.module.register_module_forward_hook(count)
    yield model, counter
    handle.remove()


def blocks_run(counter: Counter[str], name: BranchName) -> list[str]:
    """Last names of a branch's CMA blocks that ran."""
    found = (key.removeprefix(f"{name}.cma.") for key in counter if key.startswith(f"{name}.cma."))
    return sorted(key for key in found if "." not in key)


ALL_PLACES = ["layer2_1", "layer2_3", "layer3_1", "layer3_3", "layer3_5"]


def test_flow_scores_that_do_not_attend_run_nothing_of_rgb(
    calls: tuple[TwoBranch, Counter[str]],
) -> None:
    model, counter = calls
    model(None, snippets()[1], outputs=("flow",), attending=("rgb",))
    assert counter["flow.fc"] == 1
    assert not [name for name in counter if name.startswith("rgb.") or ".cma." in name]


def test_rgb_scores_run_flow_up_to_its_last_place_and_no_further(
    calls: tuple[TwoBranch, Counter[str]],
) -> None:
    model, counter = calls
    model(*snippets(), outputs=("rgb",), attending=("rgb",))
    assert counter["flow.layer3.5"] == 1
    assert not [
        name for name in counter if name.startswith(("flow.layer4", "flow.fc", "flow.avgpool"))
    ]
    assert blocks_run(counter, "rgb") == ALL_PLACES
    assert blocks_run(counter, "flow") == []


def test_a_branch_that_is_only_read_attends_at_all_places_but_the_last(
    calls: tuple[TwoBranch, Counter[str]],
) -> None:
    model, counter = calls
    model(*snippets(), outputs=("rgb",))
    assert blocks_run(counter, "rgb") == ALL_PLACES
    assert blocks_run(counter, "flow") == ALL_PLACES[:-1]


def test_everything_runs_exactly_once_when_everything_is_asked_for(
    calls: tuple[TwoBranch, Counter[str]],
) -> None:
    model, counter = calls
    model(*snippets())
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    # A block folds its query's weights into the keys.
    assert {counter[name] for name in convolutions if not name.endswith(".query")} == {1}


@pytest.mark.parametrize("other_attends", [False, True])
def test_training_rgb_leaves_flow_as_it_was(other_attends: bool) -> None:
    torch.manual_seed(1)
    model = with_trained_blocks(TwoBranch("cma", 18, CLASSES))
    model.train_only("rgb")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    attending: tuple[BranchName, ...] = ("rgb", "flow") if other_attends else ("rgb",)
    scores = model.train()(*snippets(3), outputs=("rgb",), attending=attending)
    F.cross_entropy(scores["rgb"], torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.flow.parameters())
    assert all(parameter.grad is not None for parameter in model.rgb.parameters())
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert not [name for name in changed if name.startswith("flow.")]
    assert {
        "rgb.conv1.weight",
        "rgb.bn1.running_mean",
        "rgb.cma.layer2_1.key.weight",
        "rgb.fc.bias",
    } <= changed


def iter2_model() -> TwoBranch:
    """In float64 and without dropout; flow learns, both attend."""
    torch.manual_seed(1)
    model = with_trained_blocks(TwoBranch("cma", 18, CLASSES, dropout=0.0)).double()
    return model.train()


def iter2_loss(model: TwoBranch) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    rgb, flow = (
        torch.randn(3, channels, SIDE, SIDE, dtype=torch.float64, generator=draw)
        for channels in (3, 10)
    )
    scores = model(rgb, flow, outputs=("flow",), attending=("rgb", "flow"))["flow"]
    return F.cross_entropy(scores, torch.tensor([0, 1, 2]))


def flow_gradient(model: TwoBranch) -> dict[str, Tensor]:
    iter2_loss(model).backward()
    found = {f"flow.{name}": p.grad for name, p in model.flow.named_parameters()}
    return {name: grad for name, grad in found.items() if grad is not None}


@pytest.mark.parametrize(
    "name", ["flow.conv1.weight", "flow.cma.layer2_1.value.weight", "flow.layer2.0.conv2.weight"]
)
def test_the_gradient_that_comes_back_through_the_frozen_branch_is_that_of_the_loss(
    name: str,
) -> None:
    """Against differences of the loss in float64: the formula of the paper, with no autograd."""
    model = iter2_model()
    model.train_only("flow")
    gradient = flow_gradient(model)[name]
    parameter = model.get_parameter(name)
    draw = torch.Generator().manual_seed(4)
    towards = torch.randn(parameter.shape, dtype=torch.float64, generator=draw)
    # So short a step that no unit crosses the kink of its ReLU.
    towards /= towards.norm()
    losses, start, step = [], parameter.detach().clone(), 1e-7
    with torch.no_grad():
        for sign in (1, -1):
            parameter.copy_(start + sign * step * towards)
            losses.append(float(iter2_loss(model)))
    slope = (losses[0] - losses[1]) / (2 * step)
    assert float((gradient * towards).sum()) == pytest.approx(slope, rel=1e-4)


def test_without_it_the_gradient_is_that_of_a_frozen_branch_of_fixed_features() -> None:
    whole, cut, fixed = (iter2_model() for _ in range(3))
    whole.train_only("flow")
    cut.train_only("flow", through_frozen=False)
    fixed.train_only("flow")
    for block in fixed.flow.cma.values():
        # Features of the frozen branch as plain values: nothing goes back through them.
        block.register_forward_pre_hook(lambda _, inputs: (inputs[0], inputs[1].detach()))
    expected, found, all_of_it = map(flow_gradient, (fixed, cut, whole))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-15)
    lost = torch.cat([(all_of_it[name] - found[name]).flatten() for name in expected])
    kept = torch.cat([gradient.flatten() for gradient in all_of_it.values()])
    # A part of the gradient, not its rounding.
    assert lost.norm() > 0.01 * kept.norm()


def test_frozen_weights_stay_though_the_gradient_goes_through_them() -> None:
    model = iter2_model()
    model.train_only("flow")
    before = {name: value.clone() for name, value in model.rgb.state_dict().items()}
    iter2_loss(model).backward()
    assert all(parameter.grad is None for parameter in model.rgb.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.rgb.state_dict().items())


def test_the_first_gradient_reaches_the_batch_norm_scale_of_every_new_block() -> None:
    torch.manual_seed(1)
    model = TwoBranch("cma", 18, CLASSES)
    model.train_only("rgb")
    F.cross_entropy(
        model(*snippets(3), outputs=("rgb",))["rgb"], torch.tensor([0, 1, 2])
    ).backward()
    for block in model.rgb.cma.values():
        assert block.bn.weight.grad.any()


def test_no_parameter_moves_that_no_score_was_asked_of() -> None:
    """Weight decay included: without `attending`, a branch's blocks stay the identity they are."""
    model = TwoBranch("cma", 18, CLASSES)
    model.train_only("flow")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    keys = model.flow.cma["layer2_1"].key.weight.clone()
    model(None, snippets()[1], outputs=("flow",), attending=())["flow"].sum().backward()
    optimizer.step()
    assert torch.equal(model.flow.cma["layer2_1"].key.weight, keys)
    assert all(block.is_identity for block in model.flow.cma.values())


def test_the_next_stage_thaws_the_branch_that_was_frozen() -> None:
    model = TwoBranch("cma", 18, CLASSES).train()
    model.train_only("rgb")
    assert (model.rgb.training, model.flow.training) == (True, False)
    model.train_only("flow")
    assert (model.rgb.training, model.flow.training) == (False, True)
    assert not any(parameter.requires_grad for parameter in model.rgb.parameters())
    assert all(parameter.requires_grad for parameter in model.flow.parameters())


def test_freeze_survives_train_and_eval() -> None:
    model = TwoBranch("two_stream", 18, CLASSES)
    model.branch("rgb").set_learning(None)
    model.eval().train()
    assert not any(module.training for module in model.rgb.modules())
    assert model.flow.training


def test_one_of_two_frozen_branches_scores_without_the_dropout_of_training() -> None:
    model = TwoBranch("two_stream", 18, CLASSES).train()
    model.train_only("flow")
    rgb, flow = snippets()
    first, second = (model(rgb, flow)["rgb"] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("kind", "names", "num_blocks"),
    [
        ("rgb", ["rgb"], 0),
        ("flow", ["flow"], 0),
        ("two_stream", ["rgb", "flow"], 0),
        ("nonlocal", ["rgb", "flow"], 4),
        ("cma", ["rgb", "flow"], 4),
        ("cma_nonlocal", ["rgb", "flow"], 6),
    ],
)
def test_a_kind_has_its_branches_and_blocks_and_no_others(
    kind: ModelKind, names: list[str], num_blocks: int
) -> None:
    model = TwoBranch(kind, 18, CLASSES).eval()
    assert [name for name, _ in model.named_children()] == names
    assert sum(isinstance(module, CMABlock) for module in model.modules()) == num_blocks
    rgb, flow = snippets()
    scores = model(rgb if "rgb" in names else None, flow if "flow" in names else None)
    assert {name: value.shape for name, value in scores.items()} == dict.fromkeys(
        names, (2, CLASSES)
    )


def test_a_branch_that_is_not_there_and_an_input_that_is_none_are_told() -> None:
    with pytest.raises(ValueError, match=r"model\.kind rgb has no flow branch, it has rgb"):
        TwoBranch("rgb", 18, CLASSES)(*snippets(), outputs=("flow",))
    with pytest.raises(
        ValueError, match="the flow branch is needed for these scores, but its input is None"
    ):
        TwoBranch("cma", 18, CLASSES)(snippets()[0], None, outputs=("rgb",))


def test_parameters_relative_to_one_resnet50_of_400_classes() -> None:
    """What the RGB scores of iter1 need: RGB with its blocks, and flow up to its last place."""
    with torch.device("meta"):
        model = TwoBranch("cma", 50, 400)
    one = num_parameters(models.resnet50(weights=None, num_classes=400))
    blocks = num_parameters(model.rgb.cma)
    flow = model.flow
    read = sum(
        num_parameters(part)
        for part in (flow.conv1, flow.bn1, flow.layer1, flow.layer2, flow.layer3)
    )
    assert (num_parameters(model.rgb) - blocks) / one == 1
    assert (num_parameters(flow) - num_parameters(flow.cma)) / one == pytest.approx(
        1.0009, abs=1e-4
    )
    assert blocks / one == pytest.approx(0.302, abs=1e-3)
    assert (num_parameters(model.rgb) + read) / one == pytest.approx(1.65, abs=5e-3)
    assert (num_parameters(model) - blocks) / one == pytest.approx(2.30, abs=5e-3)


def test_autocast_and_channels_last_go_through() -> None:
    model = with_trained_blocks(TwoBranch("cma", 18, CLASSES)).to(memory_format=torch.channels_last)
    model.train_only("rgb")
    rgb, flow = (x.to(memory_format=torch.channels_last) for x in snippets())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model(rgb, flow)
    assert {value.dtype for value in scores.values()} == {torch.bfloat16}
    consensus(scores["rgb"], 1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.rgb.parameters())


def test_consensus_is_the_mean_over_a_videos_own_rows() -> None:
    scores = torch.tensor([[0.0, 1.0], [2.0, 3.0], [10.0, 0.0], [20.0, 0.0]])
    assert torch.equal(consensus(scores, 2), torch.tensor([[1.0, 2.0], [15.0, 0.0]]))
    assert torch.equal(consensus(scores, 1), scores)


def test_consensus_of_low_precision_scores_is_not_rounded_back() -> None:
    scores = torch.tensor([[1.0], [1.0078125]], dtype=torch.bfloat16)
    assert consensus(scores, 2).item() == 1.00390625
    assert consensus(scores.double(), 2).dtype == torch.float64


@pytest.mark.parametrize("segments", [0, 3])
def test_consensus_refuses_rows_that_do_not_share_out(segments: int) -> None:
    with pytest.raises(
        ValueError, match=f"4 snippet scores cannot be shared among videos of {segments} segments"
    ):
        consensus(torch.zeros(4, 2), segments)
