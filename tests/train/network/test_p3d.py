"""P3D against figures of the authors' own graph, and what freezing and ranks make of it."""

import math
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from twinstream.train.network.families import find_family
from twinstream.train.network.p3d import LAYERS, T_STD, Bottleneck, P3DBranch
from twinstream.train.network.parameter_count import branch_parameters
from twinstream.train.network.two_branch import TwoBranch

RGB, FLOW = 3, 2


def in_caffes_order(branch: P3DBranch) -> Iterator[nn.Module]:
    """Convolutions and BatchNorms as the authors' prototxt lists them, and the classifier."""
    yield from (branch.conv1, branch.bn1)
    for block in branch.modules():
        if isinstance(block, Bottleneck):
            if block.downsample is not None:
                yield from block.downsample.children()
            yield from (child for name, child in block.named_children() if name != "downsample")
    yield branch.fc


def set_weights(module: nn.Module, i: int) -> None:
    """Weights of layer number i, waves without any random number."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    j = torch.arange(weight.numel(), dtype=torch.float64)
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        values = {
            "weight": 0.9 + 0.1 * torch.sin(j + i),
            "bias": 0.01 * torch.cos(j + i),
            "running_mean": 0.01 * torch.sin(2 * j + i),
            "running_var": 1 + 0.5 * torch.sin(3 * j + i) ** 2,
        }
    else:
        gain, fan_in = 2 if isinstance(module, nn.Linear) else 4, weight[0].numel()
        values = {"weight": torch.sin(12.9898 * (j + 1) + i) * math.sqrt(gain / fan_in)}
        values["weight"] = values["weight"].reshape(weight.shape)
        if isinstance(module, nn.Linear):
            values["bias"] = torch.zeros_like(module.bias)
    module.load_state_dict(values, strict=False)


def drawn_clip(channels: int, frames: int, side: int) -> Tensor:
    n = torch.arange(channels * frames * side * side, dtype=torch.float64)
    return torch.sin(0.7 * n + 0.5 * torch.sin(0.0031 * n)).reshape(1, -1, frames, side, side)


@pytest.fixture(scope="module")
def p3d199() -> P3DBranch:
    """P3D-199 for RGB with weights that can be written down, its res4 the end of a stretch."""
    with torch.device("meta"):
        branch = P3DBranch(152, RGB, 400, 0.5, has_cma=True, attention_at="last_of_res4")
    branch = branch.to_empty(device="cpu").double().eval()
    for i, module in enumerate(in_caffes_order(branch)):
        set_weights(module, i)
    assert i == 404
    return branch


@pytest.mark.parametrize(
    ("channels", "frames", "side", "logits", "total", "res4"),
    [
        (
            *(RGB, 16, 64),
            ("-0.000526387901", "-0.000613327689", "-0.000693663951"),
            *("-0.0123486055", "0.0180803311"),
        ),
        (
            *(RGB, 12, 160),
            ("-0.000541896331", "-0.00062682831", "-0.000705011406"),
            *("-0.0119449473", "0.017674881"),
        ),
        (
            *(FLOW, 16, 160),
            ("-0.00055557152", "-0.000641460744", "-0.000720443542"),
            *("-0.0120471668", "0.017736656"),
        ),
    ],
)
def test_features_and_scores_are_those_of_the_authors_graph(
    p3d199: P3DBranch,
    channels: int,
    frames: int,
    side: int,
    logits: tuple[str, ...],
    total: str,
    res4: str,
) -> None:
    """Executed from the authors' prototxt with the same weights, to every digit there is."""
    if channels != p3d199.conv1.in_channels:
        stem = nn.Conv3d(channels, 64, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False).double()
        set_weights(stem, 0)
        p3d199.conv1 = stem
    with torch.inference_mode():
        features = p3d199.run_stretch(drawn_clip(channels, frames, side), 0)
        (scores,) = p3d199.classify(p3d199.pool(p3d199.run_stretch(features, 1)))
    assert features.shape == (1, 1024, 2, -(-side // 16), -(-side // 16))
    assert tuple(f"{value:.9g}" for value in scores[:3].tolist()) == logits
    assert (f"{scores.sum():.9g}", f"{features.mean():.9g}") == (total, res4)


@pytest.mark.parametrize(
    ("depth", "channels", "expected"),
    [
        (50, RGB, 25_745_232),
        (101, RGB, 48_088_400),
        (152, RGB, 66_492_240),
        (152, FLOW, 66_489_104),
    ],
)
def test_there_are_as_many_parameters_as_in_the_authors_networks(
    depth: int, channels: int, expected: int
) -> None:
    with torch.device("meta"):
        branch = P3DBranch(depth, channels, 400, 0.5)
    assert sum(parameter.numel() for parameter in branch.parameters()) == expected
    if channels == RGB:
        assert branch_parameters(depth, 400, "p3d") == expected


def test_kinds_of_blocks_take_turns_over_all_stages_and_res5_is_flat() -> None:
    with torch.device("meta"):
        branch = P3DBranch(152, RGB, 400, 0.5)
    kinds = [block.kind for block in branch.modules() if isinstance(block, Bottleneck)]
    assert "".join(kinds[:12]) == "abcabcabcabc"
    assert kinds[-4:] == ["b", "2d", "2d", "2d"]
    assert Counter(kinds) == {"a": 16, "b": 16, "c": 15, "2d": 3}


def test_every_clip_length_of_the_family_leaves_one_time_step_and_no_longer_one_does() -> None:
    with torch.device("meta"):
        branch = P3DBranch(14, RGB, 5, 0.5).eval()
        for frames in find_family("p3d").clip_lengths:
            assert branch(torch.empty(1, RGB, frames, 36, 36)).shape == (1, 5)
        with pytest.raises(ValueError, match=r"2 time steps at res5, .* too long"):
            branch(torch.empty(1, RGB, 17, 36, 36))


def test_a_new_network_begins_as_torchvisions_do_and_its_temporal_kernels_are_small() -> None:
    torch.manual_seed(0)
    branch = P3DBranch(14, RGB, 5, 0.5)
    fan_out = 64 * 7 * 7
    assert branch.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
    block = branch.get_submodule("layer3.0")
    assert isinstance(block, Bottleneck)
    assert block.conv2_t.get_parameter("weight").std().item() == pytest.approx(T_STD, rel=0.05)
    assert branch.fc.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not branch.fc.bias.any()


def test_iter1_trains_the_block_behind_res4_res5_and_the_classifier() -> None:
    with torch.device("meta"):
        model = TwoBranch("cma", 152, 400, family="p3d")
        model.train_only("rgb", part="behind_attention")
    assert model.attention_after == ("layer3.35",)
    assert sum(parameter.numel() for parameter in model.rgb.cma.parameters()) == 2_099_712
    learning = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert sum(learning.values()) == 17_884_048
    assert all(name.startswith(("rgb.cma.", "rgb.layer4.", "rgb.fc.")) for name in learning)


@pytest.mark.parametrize(("family", "depth"), [("resnet", 18), ("p3d", 14)])
def test_what_is_frozen_before_attention_keeps_no_graph_and_is_as_at_test(
    family: str, depth: int
) -> None:
    torch.manual_seed(0)
    model = TwoBranch("cma", depth, 3, family=family, dropout=0.0)
    model.train_only("rgb", part="behind_attention")
    model.train()
    shape, time = model.snippet, (4,) * model.snippet.has_time
    flow_channels = 2 if shape.has_time else 2 * shape.fields
    inputs = torch.randn(2, 3, *time, 40, 40), torch.randn(2, flow_channels, *time, 40, 40)
    read: list[Tensor] = []
    first = next(iter(model.rgb.cma.values()))
    handle = first.register_forward_pre_hook(lambda _, features: read.extend(features))
    before = {name: value.clone() for name, value in model.named_buffers()}
    scores = model(*inputs, outputs=("rgb",), attending=("rgb",))["rgb"]
    handle.remove()
    assert [features.grad_fn for features in read] == [None, None]
    assert scores.grad_fn is not None
    moved = {n for n, value in model.named_buffers() if not torch.equal(value, before[n])}
    behind = ("rgb.cma.", "rgb.layer4.", *(("rgb.layer3.",) if family == "resnet" else ()))
    assert moved
    assert all(name.startswith(behind) for name in moved)
    with torch.inference_mode():
        x = model.eval().rgb.run_stretch(inputs[0], 0)
    # At test and in training the frozen layers give the same features.
    assert torch.equal(x, read[0])


def test_batch_norm_may_be_replaced_by_one_over_all_ranks() -> None:
    """As on GPUs: no layer is kept under a second name, which would be left behind."""
    torch.manual_seed(0)
    branch = P3DBranch(14, RGB, 3, 0.0, has_cma=True, attention_at="last_of_res4").eval()
    x = torch.randn(1, RGB, 4, 40, 40)
    with torch.inference_mode():
        expected = branch(x)
        nn.SyncBatchNorm.convert_sync_batchnorm(branch)
        assert torch.equal(branch(x), expected)
    kinds = {type(module) for module in branch.modules() if hasattr(module, "running_mean")}
    assert kinds == {nn.SyncBatchNorm}


def test_depth_14_has_one_block_a_stage_and_every_kind_of_it() -> None:
    assert LAYERS[14] == (1, 1, 1, 1)
    with torch.device("meta"):
        branch = P3DBranch(14, RGB, 3, 0.0, has_cma=True, attention_at="last_of_res4")
    assert branch.stretches == [["layer1.0", "layer2.0", "layer3.0"], ["layer4.0"]]
