"""From bytes to what the networks see, at the values where a slip would show."""

import numpy as np
import pytest
import torch

from twinstream.errors import InputError
from twinstream.shards.format.flow_codec import quantize
from twinstream.train.data.normalise import (
    network_inputs,
    normalise,
    normalise_flow,
    normalise_rgb,
    refuse_other_codec,
)

UNSCALED = torch.ones(1, 2)


@pytest.mark.parametrize(
    ("level", "value"), [(128, 0.0), (255, 1.0), (1, -1.0), (0, -1.0), (192, 64 / 127)]
)
def test_flow_levels_become_shares_of_the_bound(level: int, value: float) -> None:
    flow = torch.full((1, 10, 2, 2), level, dtype=torch.uint8)
    torch.testing.assert_close(normalise_flow(flow, UNSCALED), torch.full((1, 10, 2, 2), value))


def test_no_motion_is_exactly_zero_whatever_the_scale() -> None:
    flow = torch.full((1, 4, 2, 2), 128, dtype=torch.uint8)
    assert not normalise_flow(flow, torch.tensor([[1.3, 0.7]])).any()


def test_the_scale_of_dx_goes_to_even_channels_and_each_row_has_its_own() -> None:
    flow = torch.full((2, 4, 1, 1), 255, dtype=torch.uint8)
    values = normalise_flow(flow, torch.tensor([[2.0, 3.0], [4.0, 5.0]]))[:, :, 0, 0]
    assert values.tolist() == [[2, 3, 2, 3], [4, 5, 4, 5]]


def test_the_codec_undone_is_the_motion_over_the_bound() -> None:
    pixels = np.linspace(-25, 25, 101, dtype=np.float32).reshape(1, 1, 1, 101)
    levels = torch.from_numpy(quantize(pixels, 20)).expand(1, 2, 1, 101)
    expected = torch.from_numpy(np.clip(pixels, -20, 20) / 20).expand(1, 2, 1, 101)
    assert (normalise_flow(levels, UNSCALED) - expected).abs().max() <= 0.5 / 127 + 1e-6


def test_rgb_is_imagenets_channel_by_channel() -> None:
    rgb = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 3, 1, 1)
    expected = torch.tensor([[-2.1179, 2.2489], [-2.0357, 2.4286], [-1.8044, 2.6400]])
    torch.testing.assert_close(normalise_rgb(rgb)[0, :, 0], expected, rtol=0, atol=1e-4)


def test_the_dtype_is_the_callers_and_the_layout_stays() -> None:
    rgb = torch.zeros(2, 3, 4, 4, dtype=torch.uint8).to(memory_format=torch.channels_last)
    flow = torch.zeros(2, 10, 4, 4, dtype=torch.uint8).to(memory_format=torch.channels_last)
    for out in normalise(rgb, flow, torch.ones(2, 2), torch.bfloat16):
        assert out.dtype == torch.bfloat16
        assert out.is_contiguous(memory_format=torch.channels_last)


def test_clips_are_normalised_image_by_image_and_have_channels_before_time() -> None:
    drawn = torch.Generator().manual_seed(0)
    rgb, flow = (
        torch.randint(0, 256, (2, 3, 4, channels, 6, 5), dtype=torch.uint8, generator=drawn)
        for channels in (3, 2)
    )
    scale = torch.tensor([[2.0, 3.0], [4.0, 5.0]])
    clips, fields = network_inputs(rgb, flow, scale)
    assert (clips.shape, fields.shape) == ((6, 3, 4, 6, 5), (6, 2, 4, 6, 5))
    assert clips.is_contiguous()
    assert fields.is_contiguous()
    for t in range(4):
        frame, field = network_inputs(rgb[:, :, t], flow[:, :, t], scale)
        assert torch.equal(clips[:, :, t], frame)
        assert torch.equal(fields[:, :, t], field)


def test_only_the_codec_that_a_flip_and_the_network_take_for_granted_is_trained_on() -> None:
    refuse_other_codec("out", 128, 127)
    with pytest.raises(
        InputError,
        match=r"out: flow codec with zero 127.5 and 127.5 levels, training reads zero 128",
    ):
        refuse_other_codec("out", 127.5, 127.5)
