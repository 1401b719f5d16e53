"""Weights of Caffe, of the port and of 2-D networks as those of a P3D branch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.p3d_files import random_layers, shapes
from twinstream.errors import InputError
from twinstream.train.choices import IMAGENET_MEAN
from twinstream.train.data.normalise import normalise_rgb
from twinstream.train.network.p3d_weights import (
    BATCH_NORM,
    CAFFE_MEAN,
    caffe_module,
    caffe_state,
    fold_input,
    is_caffe,
)

OFFICIAL = (3, 8, 36, 3)


def blobs_of(layers: dict[str, list[np.ndarray]]) -> dict[str, Tensor]:
    return {
        f"{name}.{number}": torch.from_numpy(blob)
        for name, blobs in layers.items()
        for number, blob in enumerate(blobs)
    }


def test_each_of_the_official_layers_has_a_module_of_its_own() -> None:
    official = shapes(OFFICIAL, 3)
    modules = {caffe_module(name)[0]: caffe_module(name)[1] for name in official}
    assert len(official) == len(modules) == 405
    assert [len(official[name]) for name in official] == [len(each) for each in modules.values()]
    assert sum(len(each) for each in modules.values()) == 1012
    sizes = [int(np.prod(shape)) for blobs in official.values() for shape in blobs]
    statistics = 2 * sum(int(np.prod(blobs[0])) for blobs in official.values() if len(blobs) == 4)
    assert (sum(sizes) - statistics, statistics) == (66_492_240, 172_288)


@pytest.mark.parametrize(
    ("layer", "module"),
    [
        ("bn_conv1", "bn1"),
        ("res2a_branch1", "layer1.0.downsample.0"),
        ("bn2a_branch1", "layer1.0.downsample.1"),
        ("res2c_branch2b_t", "layer1.2.conv2_t"),
        ("res3b7_branch2c", "layer2.7.conv3"),
        ("bn4b35_branch2b_t", "layer3.35.bn2_t"),
        ("res5b_branch2b", "layer4.1.conv2"),
        ("fc_sports1m", "fc"),
    ],
)
def test_a_layer_of_caffe_is_a_module_of_ours(layer: str, module: str) -> None:
    assert caffe_module(layer)[0] == module


@pytest.mark.parametrize(
    "layer",
    ["conv1_1", "fc6", "res6a_branch2a", "res2a_branch2d", "scale2a_branch1", "res2b0_branch1"],
)
def test_a_layer_of_another_network_has_none(layer: str) -> None:
    assert caffe_module(layer)[1] == ()


def folded(channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """conv1 and the mean behind it, of Caffe and folded; float64."""
    layers = random_layers(channels)
    weight, mean = layers["conv1"][0], layers["bn_conv1"][2].ravel()
    before = torch.from_numpy(weight), torch.from_numpy(mean)
    state = fold_input({"conv1.weight": before[0], "bn1.running_mean": before[1]})
    return before[0].double(), before[1].double(), state["conv1.weight"], state["bn1.running_mean"]


def test_folded_rgb_weights_compute_the_same_from_our_input_as_caffes_from_its_own() -> None:
    weight, mean, own_weight, own_mean = folded(3)
    pixels = torch.randint(0, 256, (2, 2, 3, 20, 20), dtype=torch.uint8)
    bgr = pixels.double().flip(2) - torch.tensor([104.0, 117, 123], dtype=torch.float64).view(
        3, 1, 1
    )
    ours = normalise_rgb(pixels.transpose(1, 2), torch.float64)
    there = F.conv3d(bgr.transpose(1, 2), weight) - mean.view(-1, 1, 1, 1)
    here = F.conv3d(ours, own_weight) - own_mean.view(-1, 1, 1, 1)
    torch.testing.assert_close(here, there, rtol=1e-12, atol=1e-9)


def test_the_means_differ_by_less_than_a_gray_level() -> None:
    rest = [255 * ours - theirs for ours, theirs in zip(IMAGENET_MEAN, CAFFE_MEAN, strict=True)]
    assert rest == pytest.approx([0.675, -0.72, -0.47], abs=1e-9)
    weight, mean, _, own_mean = folded(3)
    sums = weight.sum((2, 3, 4))
    expected = mean - 0.675 * sums[:, 2] + 0.72 * sums[:, 1] + 0.47 * sums[:, 0]
    torch.testing.assert_close(own_mean, expected)


def test_flow_weights_take_values_127_times_smaller() -> None:
    weight, mean, own_weight, own_mean = folded(2)
    assert torch.equal(own_weight, 127 * weight)
    assert torch.equal(own_mean, mean)


def test_keys_that_end_in_the_number_of_a_blob_are_caffes() -> None:
    blobs = blobs_of(random_layers(2))
    assert is_caffe(blobs)
    assert not is_caffe({})
    assert not is_caffe({**blobs, "conv1.weight": blobs["conv1.0"]})
    assert not is_caffe({**blobs, "conv1.0": 3})


def test_batch_norms_lose_their_leading_axis() -> None:
    state = caffe_state(blobs_of(random_layers(2)), "x.caffemodel")
    assert {state[f"layer1.0.bn2_t.{entry}"].shape for entry in BATCH_NORM} == {(64,)}
    assert state["layer4.0.conv2.weight"].shape == (512, 512, 3, 3)
    assert state["fc.bias"].shape == (400,)


def test_other_caffe_networks_are_refused_by_their_layers() -> None:
    blobs = blobs_of(random_layers(2))

    def refusal(changed: dict[str, Tensor]) -> str:
        with pytest.raises(InputError) as caught:
            caffe_state(changed, "x.caffemodel")
        return str(caught.value)

    one = torch.zeros(1)
    assert refusal({"conv1_1.0": one, "conv1_1.1": one, "fc6.0": one}) == (
        "x.caffemodel: no P3D network, whose layers are not conv1_1.0, conv1_1.1, fc6.0"
    )
    # A bias, where P3D has BatchNorm alone
    assert refusal({**blobs, "conv1.1": one}) == (
        "x.caffemodel: no P3D network, whose layers are not conv1.1"
    )
    assert refusal({**blobs, "fc_other.0": one}) == (
        "x.caffemodel: fc_other is there under another name too"
    )
    cut = {key: blob for key, blob in blobs.items() if not key.startswith("fc_")}
    assert refusal(cut) == "x.caffemodel: a P3D network without its last layer, fc_...; is it cut?"
