"""First weights of a P3D branch from files of Caffe, of the port, of 2-D networks and of runs."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.resnet import Bottleneck, ResNet

from tests.support.caffemodels import caffemodel
from tests.support.p3d_files import caffe_logits, port_checkpoint, random_layers
from twinstream.errors import InputError
from twinstream.train.choices import IMAGENET_MEAN, BranchName
from twinstream.train.data.normalise import normalise_rgb
from twinstream.train.network import p3d
from twinstream.train.network.branch import Branch
from twinstream.train.network.families import find_family
from twinstream.train.network.p3d_weights import CAFFE_MEAN
from twinstream.train.network.weights import Origin, Use, initialise

NAMES = ["Archery", "Biking", "Diving"]
USE = Use(NAMES, bound=20.0)
CHANNELS: dict[BranchName, int] = {"rgb": 3, "flow": 2}
OWN_MEANS = [255 * mean for mean in IMAGENET_MEAN]


def new_branch(channels: int = 3, *, depth: int = 14, num_classes: int = 3) -> Branch:
    return find_family("p3d").build_branch(depth, channels, num_classes, 0.5)


def new_resnet() -> Branch:
    return find_family("resnet").build_branch(18, 3, 3, 0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rgb.caffemodel, flow.caffemodel and the same as checkpoints of the port."""
    folder = tmp_path_factory.mktemp("official")
    for name, channels in CHANNELS.items():
        layers = random_layers(channels)
        (folder / f"{name}.caffemodel").write_bytes(caffemodel(layers))
        torch.save({"epoch": 3, "state_dict": port_checkpoint(layers)}, folder / f"{name}.pth.tar")
    return folder


def refusal(branch: Branch, source: Path | str, name: BranchName = "rgb") -> str:
    with pytest.raises(InputError) as caught:
        initialise(branch, source, name, USE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def inputs(channels: int) -> tuple[Tensor, Tensor, list[float]]:
    """A clip (N, C, T, H, W) as our branch gets it, as Caffe's net does; and our padding there."""
    levels = torch.randint(0, 256, (2, 12, channels, 32, 32), dtype=torch.uint8)
    if channels == 2:
        flow = (levels.double() - 128).transpose(1, 2)
        return flow / 127, flow, [0.0, 0.0]
    means = torch.tensor(CAFFE_MEAN, dtype=torch.float64).view(3, 1, 1)
    bgr = (levels.double() - means).flip(2).transpose(1, 2)
    rest = [ours - theirs for ours, theirs in zip(OWN_MEANS, CAFFE_MEAN, strict=True)]
    return normalise_rgb(levels.transpose(1, 2), torch.float64), bgr, rest[::-1]


@pytest.mark.parametrize("suffix", ["caffemodel", "pth.tar"])
@pytest.mark.parametrize("name", ["rgb", "flow"])
def test_official_weights_give_the_logits_of_the_official_graph(
    folder: Path, name: BranchName, suffix: str
) -> None:
    layers, path = random_layers(CHANNELS[name]), folder / f"{name}.{suffix}"
    branch = new_branch(CHANNELS[name], num_classes=400).double().eval()
    origin = initialise(branch, path, name, USE)
    # It has no class names, so its classifier is not taken.
    for own, blob in zip(branch.fc.parameters(), layers["fc_kinetics"], strict=True):
        own.data.copy_(torch.from_numpy(blob))
    ours, caffes, padding = inputs(CHANNELS[name])
    with torch.no_grad():
        found = branch(ours)
        same = caffe_logits(layers, caffes, padding)
        # Caffe pads with its own mean, which is up to 0.72 gray levels from ours.
        near = caffe_logits(layers, caffes, [0.0] * CHANNELS[name])
    scale = same.abs().max()
    assert (found - same).abs().max() < 1e-13 * scale
    # Of a clip of 32 pixels: the larger it is, the less of it is border.
    assert (found - near).abs().max() < 0.005 * scale
    assert (origin.is_trained, origin.has_classifier) == (True, False)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("rgb.caffemodel", "names and input of Caffe's P3D"),
        ("flow.caffemodel", "names and input of Caffe's P3D, bound of its flow not known"),
        ("rgb.pth.tar", "names of P3D's PyTorch port, input taken to be Caffe's"),
    ],
)
def test_the_line_on_first_weights_says_what_they_were(folder: Path, file: str, said: str) -> None:
    name: BranchName = "flow" if file.startswith("flow") else "rgb"
    origin = initialise(new_branch(CHANNELS[name]), folder / file, name, USE)
    assert origin.said == (
        f"{name} weights: {folder / file}, {said}, classifier new, the file names no classes"
    )


def test_rgb_weights_of_caffe_start_the_flow_branch_with_the_mean_of_their_colours(
    folder: Path,
) -> None:
    rgb, flow = new_branch(), new_branch(2)
    initialise(rgb, folder / "rgb.caffemodel", "rgb", USE)
    origin = initialise(flow, folder / "rgb.caffemodel", "flow", USE)
    mean = rgb.get_parameter("conv1.weight").mean(1)
    for channel in range(2):
        torch.testing.assert_close(flow.get_parameter("conv1.weight")[:, channel], mean)
    assert "first convolution from RGB" in origin.said
    assert not origin.is_trained


def test_files_that_do_not_fit_are_one_line_each(folder: Path, tmp_path: Path) -> None:
    path = folder / "flow.caffemodel"
    assert refusal(new_branch(), path) == (
        f"{path}: does not fit p3d14: of another shape conv1.weight"
    )
    path = folder / "rgb.caffemodel"
    assert refusal(new_branch(depth=50), path).startswith(
        f"{path}: does not fit p3d50: missing layer1.1.conv1.weight, "
    )
    other = tmp_path / "vgg.caffemodel"
    other.write_bytes(caffemodel({"conv1_1": random_layers(3)["conv1"]}))
    assert refusal(new_branch(), other) == (
        f"{other}: no P3D network, whose layers are not conv1_1.0"
    )
    (tmp_path / "lacking.caffemodel").write_bytes(
        caffemodel({key: blobs for key, blobs in random_layers(3).items() if "4a" not in key})
    )
    assert "does not fit p3d14: missing layer3.0.conv1.weight, " in refusal(
        new_branch(), tmp_path / "lacking.caffemodel"
    )


def test_a_caffemodel_cut_anywhere_is_refused(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "rgb.caffemodel").read_bytes()
    path, branch = tmp_path / "cut.caffemodel", new_branch()
    first_of_fc = whole.index(b"fc_kinetics") - 7
    for length in (0, 1, 20, len(whole) // 3, len(whole) // 2, first_of_fc, len(whole) - 30):
        path.write_bytes(whole[:length])
        assert refusal(branch, path).startswith(f"{path}: ")


@pytest.mark.parametrize("file", ["rgb.caffemodel", "rgb.pth.tar", "run.pt"])
def test_a_p3d_file_in_a_resnet_names_the_setting(folder: Path, file: str) -> None:
    state = {f"rgb.{key}": value for key, value in new_branch().state_dict().items()}
    torch.save({"model": state, "classes": NAMES}, folder / "run.pt")
    assert refusal(new_resnet(), folder / file) == (
        f"{folder / file}: holds a p3d network; set model.family p3d"
    )


def resnet14() -> dict[str, Tensor]:
    """A ResNet of torchvision with one bottleneck a stage."""
    state: dict[str, Tensor] = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=3).state_dict()
    state["fc.bias"].fill_(1)
    return state


TWO_D = "2-D weights in space, temporal convolutions new"


def test_a_2d_resnet_gives_its_weights_to_space(tmp_path: Path) -> None:
    state, path = resnet14(), tmp_path / "resnet.pth"
    torch.save(state, path)
    branch = new_branch()
    new = {key: value.clone() for key, value in branch.state_dict().items()}
    origin = initialise(branch, path, "rgb", USE)
    own = branch.state_dict()
    for key, value in own.items():
        if "conv2_t" in key or "bn2_t" in key or key.startswith("fc."):
            assert torch.equal(value, new[key])
        else:
            assert torch.equal(value.view_as(state[key]), state[key])
    assert 0.0005 < own["layer3.0.conv2_t.weight"].std() < 0.002
    assert origin.said == (
        f"rgb weights: {path}, {TWO_D}, classifier new, the file names no classes"
    )
    assert not origin.is_trained


def test_a_2d_run_gives_its_classes_too_but_counts_as_not_trained(tmp_path: Path) -> None:
    state, path = resnet14(), tmp_path / "rgb.pt"
    run = {f"rgb.{key}": value for key, value in state.items()}
    torch.save({"model": run, "classes": NAMES, "trained": ["rgb"]}, path)
    branch = new_branch()
    origin = initialise(branch, path, "rgb", USE)
    assert origin.said == f"rgb weights: {path}, {TWO_D}, classifier of 3 of 3 classes"
    assert torch.equal(branch.fc.weight, state["fc.weight"])
    assert origin == Origin(origin.said, sha256=origin.sha256)
    flow = initialise(new_branch(2), path.rename(tmp_path / "x.pt"), "rgb", USE)
    assert f"{TWO_D}, first convolution from RGB" in flow.said


def test_imagenet_starts_both_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    state = resnet14()
    monkeypatch.setattr(p3d, "imagenet_state", lambda depth, name: state)
    for name, channels in CHANNELS.items():
        branch = new_branch(channels)
        assert initialise(branch, "imagenet", name, USE) == Origin(
            f"{name} weights: ImageNet, {TWO_D}, classifier new"
        )
    mean = state["conv1.weight"].mean(1)
    torch.testing.assert_close(branch.get_parameter("conv1.weight")[:, 1, 0], mean)


def test_a_depth_that_has_no_imagenet_weights_is_told() -> None:
    assert refusal(new_branch(), "imagenet") == (
        "model.rgb_weights: imagenet has no ResNet of depth 14; name a file, or null to start from "
        "random weights"
    )


def test_a_2d_resnet_of_another_depth_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(new_resnet().state_dict(), path)
    assert refusal(new_branch(), path).startswith(
        f"{path}: does not fit p3d14: missing layer1.0.conv3.weight, "
    )


def test_a_run_of_p3d_starts_another_and_says_how_long_its_clips_were(tmp_path: Path) -> None:
    there, here = new_branch(), new_branch()
    torch.nn.init.ones_(there.fc.bias)
    run = {
        "model": {f"rgb.{key}": value for key, value in there.state_dict().items()},
        "classes": NAMES,
        "made_with": {"model.clip_length": 16, "model.clip_stride": 1},
    }
    torch.save(run, tmp_path / "rgb.pt")
    use = Use(NAMES, 20.0, {"model.clip_length": 12, "model.clip_stride": 1})
    origin = initialise(here, tmp_path / "rgb.pt", "rgb", use)
    assert origin.said.endswith(
        "classifier of 3 of 3 classes, trained on model.clip_length 16, not 12"
    )
    assert origin.has_classifier
    own = here.state_dict()
    assert all(torch.equal(own[key], value) for key, value in there.state_dict().items())
