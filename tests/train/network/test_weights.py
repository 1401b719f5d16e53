"""First weights of a branch: what is taken, what is adapted, and what is refused in one line."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchvision import models

from twinstream.errors import InputError
from twinstream.train.choices import ModelKind
from twinstream.train.network.branch import Branch
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.network.weights import fitted, flow_stem, initialise, read_state

CLASSES = 5


def new_branch(in_channels: int = 3, *, depth: int = 18, has_cma: bool = True) -> Branch:
    return Branch(depth, in_channels, CLASSES, 0.7, has_cma=has_cma)


def saved_resnet(folder: Path, num_classes: int = CLASSES) -> tuple[Path, dict[str, torch.Tensor]]:
    state = models.resnet18(weights=None, num_classes=num_classes).state_dict()
    torch.save(state, folder / "resnet18.pth")
    return folder / "resnet18.pth", state


def test_no_source_leaves_the_branch_as_it_is() -> None:
    branch = new_branch()
    before = {key: value.clone() for key, value in branch.state_dict().items()}
    initialise(branch, None, "rgb")
    assert all(torch.equal(value, before[key]) for key, value in branch.state_dict().items())


def test_a_resnet_file_goes_into_the_rgb_branch_whole(tmp_path: Path) -> None:
    path, state = saved_resnet(tmp_path)
    branch = new_branch()
    initialise(branch, path, "rgb")
    own = branch.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())
    assert all(block.is_identity for block in branch.cma.values())


def test_the_flow_branch_takes_the_colour_mean_as_its_stem(tmp_path: Path) -> None:
    path, state = saved_resnet(tmp_path)
    branch = new_branch(10)
    initialise(branch, str(path), "flow")
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


def test_a_classifier_of_other_classes_is_left_out(tmp_path: Path) -> None:
    path, state = saved_resnet(tmp_path, num_classes=1000)
    branch = new_branch()
    before = branch.fc.weight.clone()
    initialise(branch, path, "rgb")
    assert torch.equal(branch.fc.weight, before)
    assert torch.equal(branch.conv1.weight, state["conv1.weight"])


def test_a_checkpoint_gives_each_branch_its_own_weights_and_blocks(tmp_path: Path) -> None:
    model = TwoBranch("cma", 18, CLASSES)
    torch.nn.init.ones_(model.flow.cma["layer2_1"].bn.weight)
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "last.pt")
    for name, in_channels in (("rgb", 3), ("flow", 10)):
        branch = new_branch(in_channels)
        initialise(branch, tmp_path / "last.pt", name)
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
        model = TwoBranch(kind, 18, CLASSES)
        torch.save({"model": model.state_dict()}, tmp_path / "last.pt")
        branch = new_branch(has_cma=has_cma)
        initialise(branch, tmp_path / "last.pt", "rgb")
        assert torch.equal(branch.fc.weight, model.rgb.fc.weight)


def test_older_files_without_batch_counters_are_taken(tmp_path: Path) -> None:
    _, state = saved_resnet(tmp_path)
    older = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(older, tmp_path / "older.pth")
    branch = new_branch()
    initialise(branch, tmp_path / "older.pth", "rgb")
    assert torch.equal(branch.conv1.weight, state["conv1.weight"])


def refusal(branch: Branch, source: Path | str, name: str = "rgb") -> str:
    with pytest.raises(InputError) as caught:
        initialise(branch, source, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_another_depth_is_refused_with_three_of_its_keys(tmp_path: Path) -> None:
    path, _ = saved_resnet(tmp_path)
    message = refusal(new_branch(depth=34), path)
    assert message.startswith(
        f"{path}: does not fit resnet34: missing layer1.2.conv1.weight, layer1.2.bn1.weight,"
    )
    assert message.count("layer") == 3
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
    assert "does not fit resnet18: missing conv1.weight, bn1.weight, bn1.bias and" in refusal(
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
    branch = Branch(18, 3, 1000, 0.7, has_cma=False)
    before = branch.fc.weight.clone()
    initialise(branch, "imagenet", "rgb")
    assert torch.equal(branch.fc.weight, before)
    assert torch.equal(branch.conv1.weight, state["conv1.weight"])
