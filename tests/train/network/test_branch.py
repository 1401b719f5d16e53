"""One branch: where its places are, what freezing means, and that it is torchvision's ResNet."""

import pytest
import torch
from torchvision import models

from twinstream.errors import InputError
from twinstream.train.network.branch import (
    blocks_before_attention,
    cut_at,
    residual_blocks,
)
from twinstream.train.network.resnet import ResNetBranch, stem

PLACES = {
    18: ["layer2.1", "layer3.1"],
    34: ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"],
    50: ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"],
    101: ["layer2.1", "layer2.3", *(f"layer3.{i}" for i in range(1, 23, 2))],
    152: [*(f"layer2.{i}" for i in range(1, 8, 2)), *(f"layer3.{i}" for i in range(1, 36, 2))],
}


@pytest.mark.parametrize("depth", PLACES)
def test_blocks_stand_in_res3_and_res4_after_every_other_residual_block(depth: int) -> None:
    with torch.device("meta"):
        net = models.get_model(f"resnet{depth}", weights=None)
    assert list(blocks_before_attention(residual_blocks(net), "every_other")) == PLACES[depth]


def test_blocks_stand_where_they_are_asked_for_in_the_order_of_computation() -> None:
    with torch.device("meta"):
        branch = ResNetBranch(
            18, 3, 7, 0.7, has_cma=True, attention_at=("layer4.1", "layer1.0", "layer1.0")
        )
    assert list(branch.cma) == ["layer1_0", "layer4_1"]
    assert branch.stretches == [
        ["layer1.0"],
        [f"layer{n}" for n in (1.1, 2.0, 2.1, 3.0, 3.1, 4.0, 4.1)],
        [],
    ]


def test_a_place_that_this_depth_has_not_is_told() -> None:
    with pytest.raises(
        InputError,
        match=r"model\.attention_at: layer3\.5 is no residual block .* layer3\.1, layer4\.0",
    ):
        ResNetBranch(18, 3, 7, 0.7, has_cma=True, attention_at=("layer2.1", "layer3.5"))


def test_resnet50_has_five_blocks_of_512_and_1024_channels() -> None:
    with torch.device("meta"):
        branch = ResNetBranch(50, 3, 7, 0.7, has_cma=True)
    widths = {name: block.bn.num_features for name, block in branch.cma.items()}
    assert widths == {
        "layer2_1": 512,
        "layer2_3": 512,
        "layer3_1": 1024,
        "layer3_3": 1024,
        "layer3_5": 1024,
    }


@pytest.mark.parametrize(
    ("places", "stretches"),
    [
        ((), [["a", "b", "c", "d", "e"]]),
        (("b", "d"), [["a", "b"], ["c", "d"], ["e"]]),
        (("a", "e"), [["a"], ["b", "c", "d", "e"], []]),
    ],
)
def test_stretches_end_with_a_place_and_lose_nothing(
    places: tuple[str, ...], stretches: list[list[str]]
) -> None:
    assert cut_at(["a", "b", "c", "d", "e"], places) == stretches


def test_the_names_are_torchvisions() -> None:
    net, branch = (
        models.resnet18(weights=None, num_classes=5),
        ResNetBranch(18, 3, 5, 0.7, has_cma=True),
    )
    own = {
        name: value.shape
        for name, value in branch.state_dict().items()
        if not name.startswith("cma.")
    }
    assert own == {name: value.shape for name, value in net.state_dict().items()}
    assert residual_blocks(branch)[:3] == ["layer1.0", "layer1.1", "layer2.0"]


@pytest.mark.parametrize("training", [True, False])
def test_the_branch_is_the_plain_resnet_to_the_last_bit(training: bool) -> None:
    net, branch = (
        models.resnet18(weights=None, num_classes=5),
        ResNetBranch(18, 3, 5, 0.0, has_cma=True),
    )
    branch.load_state_dict(net.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(branch.train(training)(x), net.train(training)(x))


def test_a_new_stem_is_initialised_as_torchvisions() -> None:
    torch.manual_seed(0)
    assert stem(10).weight.std().item() == pytest.approx(
        models.resnet18(weights=None).conv1.weight.std().item(), rel=0.05
    )


def test_a_new_classifier_scores_near_zero() -> None:
    branch = ResNetBranch(18, 3, 5, 0.0, has_cma=False).eval()
    assert branch.fc.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not branch.fc.bias.any()
    assert branch(torch.randn(2, 3, 64, 64)).abs().max() < 0.1


def test_a_frozen_branch_stays_in_evaluation_mode_when_the_model_trains() -> None:
    branch = ResNetBranch(18, 3, 5, 0.7, has_cma=True)
    branch.set_learning(None)
    branch.train()
    assert not any(module.training for module in branch.modules())
    branch.set_learning("all")
    branch.train()
    assert all(module.training for module in branch.modules())
    assert all(p.requires_grad for p in branch.parameters())


def test_a_frozen_branch_keeps_no_graph_even_for_an_input_that_has_one() -> None:
    branch = ResNetBranch(18, 3, 5, 0.0, has_cma=True)
    branch.set_learning(None, through_frozen=False)
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    features = branch.run_stretch(x, 0)
    assert not features.requires_grad
    assert not branch.attend(features, features + x.mean(), 0).requires_grad
    assert not branch(x).requires_grad
