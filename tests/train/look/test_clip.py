"""Maps of clips: the block's own weights over space and time, as a strip and as a video."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tests.support.command import run
from tests.support.runs import write_run
from twinstream.errors import InputError
from twinstream.train.choices import BranchName
from twinstream.train.look import clip
from twinstream.train.look.clip import clip_map, query_frames, query_panels, step_of
from twinstream.train.look.maps import BlockMap, Observer, Seen
from twinstream.train.look.picture import COLOURS, PANEL, on_panel
from twinstream.train.look.show import show

KEY = "left/test0"
"""7 frames of 32x24, of which the network sees x 5 to 25, y 1 to 21"""


@pytest.fixture
def clips(dataset: Path, tmp_path: Path) -> Path:
    """A run that sees clips of 6 frames; its block behind res3 has 2 steps of time."""
    p3d = {"family": "p3d", "depth": 14, "clip_length": 6, "attention_at": ["layer2.0"]}
    write_run(tmp_path / "run", dataset, **p3d)
    return tmp_path / "run"


def seen(weights: np.ndarray, num_frames: int, reads: BranchName = "rgb") -> Seen:
    """A gray clip of 8x8, still but for field 2, and one query at 1,1."""
    flow = np.zeros((num_frames, 8, 8, 2), np.float32)
    flow[2] = 3
    block = BlockMap("CMA layer2.0", reads, weights, (4, 4))
    frames = np.full((num_frames, 8, 8, 3), 200, np.uint8)
    return Seen(frames, flow, ((1, 1),), (block,))


def test_the_map_of_a_clip_is_what_the_block_computes_for_it(clips: Path) -> None:
    observer = Observer(clips)
    given: list[torch.Tensor] = []
    block = observer.model.rgb.cma["layer2_0"]
    handle = block.register_forward_hook(lambda module, args, output: given.extend(args))
    look = observer.see(KEY, 0)
    handle.remove()
    (found,) = look.blocks
    # Input 40: 5 x 5 features in res3, 3 x 3 of them pooled; time is not pooled.
    assert found.weights.shape == (2, 5, 5, 2, 3, 3)
    np.testing.assert_allclose(found.weights.sum(axis=(3, 4, 5)), 1, rtol=1e-5)
    with torch.inference_mode():
        expected = block.attention_map(*given)[0].reshape(2, 5, 5, 2, 3, 3)
    np.testing.assert_allclose(found.weights, expected.numpy(), rtol=1e-5)
    assert (look.frames.shape, look.flow.shape) == ((6, 21, 21, 3), (6, 21, 21, 2))
    assert len(look.queries) == 3


@pytest.mark.parametrize(
    ("num_frames", "num_steps", "steps"),
    [
        (12, 2, [0] * 8 + [1] * 4),
        (16, 2, [0] * 8 + [1] * 8),
        (12, 3, [0] * 4 + [1] * 4 + [2] * 4),
        (5, 3, [0, 0, 1, 1, 2]),
        (3, 3, [0, 1, 2]),
        (7, 1, [0] * 7),
    ],
)
def test_frames_belong_to_the_step_that_they_were_pooled_into(
    num_frames: int, num_steps: int, steps: list[int]
) -> None:
    assert [step_of(n, num_frames, num_steps) for n in range(num_frames)] == steps


def test_a_query_finds_its_cell_in_space_and_time() -> None:
    weights = np.zeros((2, 4, 4, 2, 2, 2), np.float32)
    weights[1, 0, 2, 1, 1, 0] = 1
    look = seen(weights, 4)
    assert clip_map(look.blocks[0], (5, 1), 2, look).sum() == 1
    assert clip_map(look.blocks[0], (5, 1), 1, look).sum() == 0
    assert clip_map(look.blocks[0], (5, 2), 2, look).sum() == 0


def test_the_frame_of_a_query_is_the_one_asked_for_or_that_of_the_fastest_motion() -> None:
    look = seen(np.ones((1, 1, 1, 1, 1, 1), np.float32), 4)
    frames = range(10, 18, 2)
    assert query_frames(look, [16], frames) == [3]
    assert query_frames(look, [None], frames) == query_frames(look, [], frames) == [2]
    with pytest.raises(
        InputError, match="--query X,Y,11: the clip has frames 10, 12, 14, 16; --frame"
    ):
        query_frames(look, [11], frames)


@pytest.mark.parametrize("reads", ["rgb", "flow"])
def test_frames_are_as_light_as_their_weights_are_in_the_whole_clip(reads: BranchName) -> None:
    weights = np.zeros((1, 1, 1, 2, 2, 2), np.float32)
    weights[0, 0, 0, 1, 0, 0] = 0.8
    weights[0, 0, 0, 0, 1, 1] = 0.2
    look = seen(weights, 4, reads)
    panels = query_panels(look, look.blocks[0], number=0, at=3)
    bright = 255 if reads == "flow" else 200
    levels = [(int(panel[20, 20].max()), int(panel[-20, -20].max())) for panel in panels]
    # The light is 1 where the weight is largest, a quarter of it where that is 1/4, and 0 else.
    dark, low = bright * 0.25, bright * (0.25 + 0.75 / 4)
    assert levels[:2] == [(pytest.approx(dark, abs=2), pytest.approx(low, abs=2))] * 2
    assert levels[2:] == [(pytest.approx(bright, abs=2), pytest.approx(dark, abs=2))] * 2
    # The query is marked in its own frame alone.
    x, y = on_panel((1, 1), (8, 8))
    assert [panel[y, x].tolist() == list(COLOURS[0]) for panel in panels] == [False] * 3 + [True]


def test_the_command_writes_a_strip_and_a_video_of_a_clip(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("look.png", "look.mp4"):
        query = ("--query", "10,10,3", "--query", "20,5")
        out = str(tmp_path / name)
        assert run(monkeypatch, "attention", str(clips), "--key", KEY, "--out", out, *query) == 0
        assert capsys.readouterr().out == f"{out}\n"
    assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")
    with av.open(str(tmp_path / "look.mp4")) as video:
        frames = list(video.decode(video=0))
    # Below three lines of titles
    assert [(frame.width, frame.height) for frame in frames] == [(4 * PANEL, PANEL + 56)] * 6
    assert frames[0].to_ndarray(format="gray")[:56, 3 * PANEL :].min() < 100


def test_a_strip_names_its_frames_and_queries_as_they_are_in_the_video(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strips: list[Figure] = []
    monkeypatch.setattr(clip, "save_figure", lambda figure, path, dpi: strips.append(figure))
    show(clips, KEY, tmp_path / "look.png", [(10, 12)], times=[3])
    axes = strips[0].axes
    assert [axis.get_title() for axis in axes[:7]] == [*(f"frame {n}" for n in range(6)), ""]
    label = axes[12].get_ylabel()
    assert label.startswith("CMA layer2.0 over flow\nfrom 10,12 of frame 3, strongest\n")


def test_a_map_behind_the_last_pool_of_time_is_the_same_for_all_frames(
    dataset: Path, tmp_path: Path
) -> None:
    res5 = {"family": "p3d", "depth": 14, "clip_length": 6, "attention_at": ["layer4.0"]}
    write_run(tmp_path / "run", dataset, **res5)
    look = Observer(tmp_path / "run", at="layer4.0").see(KEY, 0, [(15, 11)])
    (found,) = look.blocks
    assert found.weights.shape == (2, 2, 1, 1)
    assert clip_map(found, look.queries[0], 5, look).shape == (1, 1, 1)
    assert len(query_panels(look, found, number=0, at=5)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--query", "10,10,6"), "--query X,Y,6: the clip has frames 0, 1, 2, 3, 4, 5"),
        (("--frame", "1"), f"--frame 1: a snippet of {KEY} starts at 0 to 0"),
    ],
    ids=["query", "frame"],
)
def test_what_the_clip_does_not_have_is_one_line(
    arguments: tuple[str, ...],
    message: str,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = str(tmp_path / "look.png")
    assert run(monkeypatch, "attention", str(clips), "--key", KEY, "--out", out, *arguments) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
