"""The seam: a family of networks is one module and one entry, and nothing else knows it by name."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18

from twinstream.errors import InputError
from twinstream.section import build_settings
from twinstream.train.choices import BOTH, ModelKind
from twinstream.train.network import families
from twinstream.train.network.branch import Branch
from twinstream.train.network.families import FAMILIES, Family, find_family
from twinstream.train.network.parameter_count import branch_parameters, parameters_used
from twinstream.train.network.two_branch import TwoBranch, build_model
from twinstream.train.network.weights import Use, initialise
from twinstream.train.settings import ModelSettings
from twinstream.train.snippet_shape import SnippetShape


class R2Plus1DBranch(Branch):
    """R(2+1)D: torchvision's, with what this project asks of a family."""

    family = "r2plus1d"
    first_convolution = "stem.0.weight"
    marks = (("stem.0.weight", "layer1.0.conv1.0.0.weight"),)
    stem: nn.Sequential

    def add_layers(self, depth: int, in_channels: int, num_classes: int) -> None:
        net = r2plus1d_18(weights=None, num_classes=num_classes)
        net.stem[0] = nn.Conv3d(in_channels, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        for name, child in net.named_children():
            self.add_module(name, child)

    def begin(self, x: Tensor) -> Tensor:
        out: Tensor = self.stem(x)
        return out


R2PLUS1D = Family(
    "r2plus1d", f"{__name__}.{R2Plus1DBranch.__name__}", (18,), clip_lengths=range(1, 65)
)


@pytest.fixture
def r2plus1d(monkeypatch: pytest.MonkeyPatch) -> ModelSettings:
    """Settings of a family that the project does not have."""
    monkeypatch.setattr(families, "FAMILIES", (*FAMILIES, R2PLUS1D))
    return ModelSettings(family="r2plus1d", depth=18, clip_length=4, dropout=0)


def clips(rows: int, frames: int = 4, side: int = 40) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 3, frames, side, side), torch.randn(rows, 2, frames, side, side)


def test_another_family_is_one_class_and_one_entry_and_learns_with_attention(
    r2plus1d: ModelSettings,
) -> None:
    assert r2plus1d.snippet == SnippetShape(4, 4, 1, has_time=True)
    torch.manual_seed(0)
    model = build_model(r2plus1d, 3).train()
    assert model.rgb.attention_after == ("layer2.1", "layer3.1")
    model.train_only("rgb", part="behind_attention")
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert any(name.startswith("rgb.stem") for name in frozen)
    optimizer, labels, inputs = torch.optim.SGD(learning, lr=0.05), torch.arange(3), clips(3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        scores = model(*inputs, outputs=("rgb",), attending=("rgb",))["rgb"]
        losses.append(nn.functional.cross_entropy(scores, labels))
        losses[-1].backward()
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]
    assert not any(block.is_identity for block in model.rgb.cma.values())
    assert all(torch.equal(model.get_parameter(name), value) for name, value in frozen.items())


def test_another_familys_checkpoint_is_found_and_its_first_layer_adapted(
    r2plus1d: ModelSettings, tmp_path: Path
) -> None:
    model, other = build_model(r2plus1d, 3), build_model(r2plus1d, 3)
    torch.save({"state_dict": model.rgb.state_dict()}, tmp_path / "rgb.pt")
    torch.save({"model": model.state_dict()}, tmp_path / "run.pt")
    use = Use(("a", "b", "c"), 20)
    assert initialise(other.rgb, tmp_path / "run.pt", "rgb", use).is_trained is True
    origin = initialise(other.flow, tmp_path / "rgb.pt", "flow", use)
    assert "first convolution from RGB" in origin.said
    mean = model.rgb.stem[0].weight.mean(dim=1)
    assert torch.equal(other.flow.stem[0].weight, torch.stack([mean, mean], dim=1))
    assert torch.equal(
        other.rgb.layer4[1].conv2[0][3].weight, model.rgb.layer4[1].conv2[0][3].weight
    )


def test_parameters_of_another_family_are_counted(r2plus1d: ModelSettings) -> None:
    with torch.device("meta"):
        model = TwoBranch("two_stream", 18, 3, family="r2plus1d")
    one = branch_parameters(18, 3, "r2plus1d")
    assert parameters_used(model, ("rgb",), ()) == one
    assert parameters_used(model, BOTH, ()) == 2 * one - 45 * 49


@pytest.mark.parametrize("kind", ["rgb", "flow", "two_stream", "nonlocal", "cma", "cma_nonlocal"])
@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_every_kind_of_network_is_built_of_every_family(kind: ModelKind, family: str) -> None:
    depth = find_family(family).depths[0]
    model = TwoBranch(kind, depth, 5, family=family).eval()
    shape = model.snippet
    rgb, flow = clips(2, shape.frames) if shape.has_time else (x[:, :, 0] for x in clips(2))
    if not shape.has_time:
        flow = flow.repeat(1, shape.fields, 1, 1)
    with torch.inference_mode():
        scores = model(rgb, flow)
    assert {name: value.shape for name, value in scores.items()} == dict.fromkeys(
        model.names, (2, 5)
    )
    assert bool(model.attention_after) == (kind not in ("rgb", "flow", "two_stream"))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"family": "i3d"}, "family: expected resnet, p3d or efficientnet_lite0, not 'i3d'"),
        ({"depth": 14}, "depth: expected 18, 34, 50, 101 or 152 for model.family resnet, not 14"),
        (
            {"family": "p3d", "depth": 18},
            "depth: expected 14, 50, 101 or 152 for model.family p3d, not 18",
        ),
        (
            {"family": "p3d", "clip_length": 17},
            "clip_length: expected 1 to 16 for model.family p3d, not 17",
        ),
        (
            {"family": "efficientnet_lite0", "depth": 18},
            "depth: expected 50 for model.family efficientnet_lite0, not 18",
        ),
        ({"attention_at": "last"}, "attention_at"),
    ],
)
def test_settings_that_no_such_family_has_are_one_line(
    tree: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as raised:
        build_settings(ModelSettings, tree)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_not_set_is_the_familys() -> None:
    flat, clip = ModelSettings(), ModelSettings(family="p3d", clip_length=12, clip_stride=2)
    assert (flat.attention_at, clip.attention_at) == ("every_other", "last_of_res4")
    lite = ModelSettings(family="efficientnet_lite0")
    assert (lite.depth, lite.snippet) == (50, SnippetShape(1, 5))
    assert lite.attention_at == ("layer2.1", "layer3.2", "layer3.5")
    assert ModelSettings(family="p3d", attention_at=None).attention_at == "last_of_res4"
    assert ModelSettings(family="p3d", attention_at="every_other").attention_at == "every_other"
    assert flat.snippet == SnippetShape(1, 5)
    assert clip.snippet == SnippetShape(12, 12, 2, has_time=True)
    # What one family does not use may have any value there.
    assert ModelSettings(clip_length=99).snippet == SnippetShape(1, 5)


def test_a_depth_or_family_that_is_not_there_is_told_where_a_network_is_built() -> None:
    with pytest.raises(InputError, match=r"model\.depth: expected 18, .* resnet, not 20"):
        TwoBranch("rgb", 20, 5)
    with pytest.raises(
        InputError, match=r"model\.family: expected resnet, p3d or efficientnet_lite0, not 'i3d'"
    ):
        TwoBranch("rgb", 18, 5, family="i3d")
