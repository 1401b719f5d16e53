"""A batch's memory: its shapes, and that images are written where they stay."""

import numpy as np
import pytest

from twinstream.errors import InputError
from twinstream.train.data import batch
from twinstream.train.data.batch import new_batch
from twinstream.train.snippet_shape import SnippetShape


@pytest.mark.parametrize(
    ("shape", "rgb", "flow"),
    [
        (SnippetShape(fields=5), (2, 6, 3, 8, 8), (2, 6, 10, 8, 8)),
        (SnippetShape(4, 4, 2, has_time=True), (2, 6, 4, 3, 8, 8), (2, 6, 4, 2, 8, 8)),
        (SnippetShape(1, 1, has_time=True), (2, 6, 1, 3, 8, 8), (2, 6, 1, 2, 8, 8)),
    ],
)
def test_only_clips_have_an_axis_of_time(
    shape: SnippetShape, rgb: tuple[int, ...], flow: tuple[int, ...]
) -> None:
    batch = new_batch(2, 6, shape, 8)
    assert (batch.rgb.shape, batch.flow.shape) == (rgb, flow)


@pytest.mark.parametrize("shape", [SnippetShape(fields=5), SnippetShape(4, 4, has_time=True)])
def test_images_are_the_memory_of_the_batch_view_by_view(shape: SnippetShape) -> None:
    batch = new_batch(2, 6, shape, 8)
    rgb, flow = batch.images(3)
    assert rgb.shape == (2, 3, 2 * shape.frames, 3, 8, 8)
    assert flow.shape == (2, 3, 2, 2 * shape.fields, 8, 8)
    rgb[...] = np.arange(rgb[..., 0, 0].size).reshape(*rgb.shape[:-2], 1, 1) % 251
    flow[...] = np.arange(flow[..., 0, 0].size).reshape(*flow.shape[:-2], 1, 1) % 251
    # Snippet 4 of a row is the first one of the third view.
    assert batch.rgb[1, 4].flatten().tolist() == rgb[1, 2, : shape.frames].flatten().tolist()
    assert batch.flow[1, 4].flatten().tolist() == flow[1, 2, 0].flatten().tolist()
    if shape.has_time:
        # dy of the third field
        assert batch.flow[1, 4, 2, 1].tolist() == flow[1, 2, 0, 5].tolist()


def test_a_batch_larger_than_memory_is_refused_before_it_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "machine_bytes", lambda: 13 * 224**2 * 6)
    assert len(new_batch(2, 3, SnippetShape(1, 5), 224)) == 2
    told = r"^2 videos of 4 snippets of 1 frames and 5 flow fields at 224 x 224 take 0 GB, and"
    with pytest.raises(InputError, match=told):
        new_batch(2, 4, SnippetShape(1, 5), 224)
