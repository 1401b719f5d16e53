"""Attention maps: they are the block's own weights, queries land where they point, and bad input is
one line.
"""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.support.command import run
from tests.support.runs import write_run
from twinstream.errors import InputError
from twinstream.train.choices import BranchName
from twinstream.train.data.transforms import View
from twinstream.train.look import show as attention
from twinstream.train.look.maps import (
    BlockMap,
    Look,
    Observer,
    attention_blocks,
    cell_centre,
    key_centre,
    looks,
    over_features,
    pick_queries,
    position_in_view,
    query_map,
)
from twinstream.train.look.picture import PANEL, TITLE_LINE, attended, on_panel, panels
from twinstream.train.network.cma import CMABlock
from twinstream.train.network.two_branch import TwoBranch


@pytest.fixture
def key(dataset: Path) -> str:
    """A test sample: 7 frames of 32x24, of which the network sees x 5 to 25, y 1 to 21."""
    return "left/test0"


@pytest.mark.parametrize(
    ("kind", "stages", "names"),
    [
        ("cma", ["flow", "iter1"], {"CMA layer3.1": "flow"}),
        ("nonlocal", ["flow", "rgb"], {"non-local layer3.1": "rgb"}),
        ("cma_nonlocal", ["iter1"], {"CMA layer3.1": "flow", "non-local layer3.1": "rgb"}),
    ],
)
def test_a_look_has_the_weights_of_the_last_blocks_of_res4(
    dataset: Path, tmp_path: Path, key: str, kind: str, stages: list[str], names: dict[str, str]
) -> None:
    write_run(tmp_path / "run", dataset, kind, stages)
    look = Observer(tmp_path / "run").look(key, 1)
    assert {block.name: block.reads for block in look.blocks} == names
    for block in look.blocks:
        # Input 40: 3 x 3 features in res4, 2 x 2 of them pooled.
        assert block.weights.shape == (3, 3, 2, 2)
        np.testing.assert_allclose(block.weights.sum(axis=(2, 3)), 1, rtol=1e-5)
    assert (look.t, look.frame.shape, look.flow.shape, len(look.queries)) == (
        1,
        (21, 21, 3),
        (21, 21, 2),
        3,
    )


def test_the_map_is_what_the_block_computes_for_the_networks_own_input(
    dataset: Path, tmp_path: Path, key: str
) -> None:
    write_run(tmp_path / "run", dataset)
    observer = Observer(tmp_path / "run", at="layer2.1")
    given: list[torch.Tensor] = []
    block = observer.model.rgb.cma["layer2_1"]
    handle = block.register_forward_hook(lambda module, args, output: given.extend(args))
    (found,) = observer.look(key, 0).blocks
    handle.remove()
    x, y = given
    with torch.inference_mode():
        expected = block.attention_map(x, y)[0].reshape(5, 5, 3, 3)
    np.testing.assert_allclose(found.weights, expected.numpy(), rtol=1e-5)
    assert not block._forward_pre_hooks


def test_attention_sees_the_motion_that_the_run_was_trained_on(
    dataset: Path, tmp_path: Path, key: str
) -> None:
    write_run(tmp_path / "run", dataset)
    observer = Observer(tmp_path / "run")
    given: list[torch.Tensor] = []
    observer.model.register_forward_pre_hook(lambda module, args: given.append(args[1]))
    for scale_motion in (False, True):
        train = observer.settings.train.model_copy(update={"scale_motion": scale_motion})
        observer.settings = observer.settings.model_copy(update={"train": train})
        observer.look(key, 1)
    assert given[0].any()
    # 21 stored pixels become 40.
    torch.testing.assert_close(given[1], given[0] * 40 / 21)


def test_a_stage_is_looked_at_as_it_was(dataset: Path, tmp_path: Path, key: str) -> None:
    write_run(tmp_path / "run", dataset, stages=["flow", "iter1", "iter2"])
    last, first = (
        Observer(tmp_path / "run", stage=stage).look(key, 0).blocks[0] for stage in (None, "iter1")
    )
    # Behind iter2 the flow branch, which is read, has read RGB itself.
    assert not np.array_equal(last.weights, first.weights)
    with pytest.raises(InputError, match="no stage has trained the RGB branch's attention yet"):
        Observer(tmp_path / "run", stage="flow")


def test_the_flow_that_is_shown_is_the_first_field_of_the_stack(
    dataset: Path, tmp_path: Path, key: str
) -> None:
    write_run(tmp_path / "run", dataset)
    look = Observer(tmp_path / "run").look(key, 1)
    assert abs(look.frame[..., 0].mean() - 10) < 3
    np.testing.assert_allclose(look.flow, np.broadcast_to([-1.1, 0], (21, 21, 2)), atol=0.2)


def test_queries_are_pixels_of_the_stored_frame(dataset: Path, tmp_path: Path, key: str) -> None:
    write_run(tmp_path / "run", dataset)
    look = Observer(tmp_path / "run").look(key, 0, [(5, 1), (25, 21)])
    assert look.queries == ((0, 0), (20, 20))


@pytest.mark.parametrize("query", [(9, 20), (31, 20), (10, 4), (10, 26)])
def test_a_query_outside_of_the_crop_is_refused(
    query: tuple[int, int], dataset: Path, tmp_path: Path
) -> None:
    from twinstream.shards.read.dataset import ShardDataset

    sample = ShardDataset(dataset).sample("left/test0")
    view = View(top=5, left=10, height=21, width=21, flip=False)
    assert position_in_view((10, 5), view, sample) == (0, 0)
    assert position_in_view((30, 25), view, sample) == (20, 20)
    with pytest.raises(
        InputError, match=f"--query {query[0]},{query[1]}: outside .* x 10 to 30, y 5 to 25"
    ):
        position_in_view(query, view, sample)


def test_queries_are_picked_at_the_fastest_place_another_fast_one_and_the_stillest() -> None:
    speed = np.full((80, 80), 1.0)
    speed[0:20, 60:80] = 9
    speed[20:40, 60:80] = 8
    speed[60:80, 0:20] = 5
    speed[40:60, 40:60] = 0
    # Cells of 20 pixels; the second fastest one lies beside the first and is passed over.
    assert pick_queries(speed, (4, 4)) == ((70, 10), (10, 70), (50, 50))


def test_a_picture_without_motion_still_has_three_queries() -> None:
    assert len(pick_queries(np.zeros((40, 40)), (3, 3))) == 3


@pytest.mark.parametrize(
    ("query", "cell"), [((0, 0), (0, 0)), ((10, 9), (0, 1)), ((39, 19), (1, 3)), ((29, 10), (1, 2))]
)
def test_a_query_finds_its_cell(query: tuple[int, int], cell: tuple[int, int]) -> None:
    weights = np.zeros((2, 4, 1, 2), np.float32)
    weights[cell] = 1
    assert query_map(BlockMap("CMA", "flow", weights, (2, 4)), query, (20, 40)).sum() == 2


def test_cells_have_their_centres_in_the_middle() -> None:
    assert cell_centre((0, 0), (2, 2), (20, 40)) == (9.5, 4.5)
    assert cell_centre((1, 1), (2, 2), (20, 40)) == (29.5, 14.5)


def test_a_key_lies_over_the_features_it_was_pooled_from() -> None:
    block = BlockMap("CMA", "flow", np.empty((1, 1, 2, 4), np.float32), (4, 7))
    assert key_centre((0, 0), block, (40, 70)) == (9.5, 9.5)
    assert key_centre((1, 2), block, (40, 70)) == (49.5, 29.5)
    # The fourth column has been pooled from one column alone.
    assert key_centre((1, 3), block, (40, 70)) == (64.5, 29.5)
    spread = over_features(np.arange(8, dtype=np.float32).reshape(2, 4), block)
    assert spread[0].tolist() == [0, 0, 1, 1, 2, 2, 3]
    assert spread[3].tolist() == [4, 4, 5, 5, 6, 6, 7]


def test_a_panel_is_bright_where_the_weights_are() -> None:
    under = np.full((PANEL, PANEL, 3), 200, np.uint8)
    weights = np.array([[0.9, 0.05], [0.05, 0.0]], np.float32)
    block = BlockMap("CMA", "flow", np.empty((1, 1, 2, 2), np.float32), (4, 4))
    panel = attended(under, block, weights, on_panel((30, 30), (40, 40)), (0, 0, 255)).astype(int)
    assert panel[20, 20, 1] > 190
    assert panel[20, -20, 1] < 70
    assert panel[-20, -60, 1] < 70
    arrow = (panel[..., 2] - panel[..., 0] > 150).sum()
    # One arrow alone, to the one cell of more than an even share.
    alone = np.array([[1, 0], [0, 0]], np.float32)
    straight = attended(under, block, alone, on_panel((30, 30), (40, 40)), (0, 0, 255))
    assert arrow == pytest.approx(
        (straight[..., 2].astype(int) - straight[..., 0] > 150).sum(), rel=0.1
    )


def test_arrows_go_to_the_strongest_keys_and_to_none_of_even_weight() -> None:
    under, query = np.full((PANEL, PANEL, 3), 200, np.uint8), (20, 20)
    block = BlockMap("CMA layer3.1", "flow", np.zeros((4, 4, 4, 4), np.float32), (8, 8))
    weights = np.full((4, 4), 0.4 / 15, np.float32)
    weights[3, 3] = 0.6
    end = np.array(key_centre((3, 3), block, under.shape))
    column, row = np.rint((query + end) / 2).astype(int)
    assert attended(under, block, weights, query, (0, 0, 255))[row, column].tolist() == [0, 0, 255]
    even = attended(under, block, np.full((4, 4), 1 / 16, np.float32), query, (0, 0, 255))
    assert even[40:].min() >= 199


@pytest.mark.parametrize(("reads", "grey"), [("rgb", True), ("flow", False)])
def test_a_map_lies_over_what_the_block_reads(reads: BranchName, grey: bool) -> None:
    flow = np.zeros((8, 8, 2), np.float32)
    flow[..., 0] = 3
    block = BlockMap("a block", reads, np.full((2, 2, 2, 2), 0.25, np.float32), (4, 4))
    look = Look(0, np.full((8, 8, 3), 90, np.uint8), flow, ((0, 0),), (block,))
    corner = panels(look, block)[2][-1, -1]
    assert (corner.tolist() == [90, 90, 90]) == grey


def test_the_place_is_the_last_of_res4_unless_another_is_asked_for() -> None:
    model = TwoBranch("cma", 34, 2)
    for block in model.rgb.cma.values():
        assert isinstance(block, CMABlock)
        torch.nn.init.ones_(block.bn.weight)
    assert [*attention_blocks(model, ("rgb",), "run", None)] == ["CMA layer3.5"]
    assert [*attention_blocks(model, ("rgb",), "run", "layer2.1")] == ["CMA layer2.1"]


def test_a_pixel_of_an_oblong_picture_has_its_place_on_the_panel() -> None:
    assert on_panel((10, 0), (20, 40)) == (75, 7)


def test_a_frame_that_moves_is_looked_at_where_none_is_named(
    dataset: Path, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", dataset)
    times: list[int] = []
    monkeypatch.setattr(attention, "write_look", lambda look, title, path: times.append(look.t))
    attention.show(tmp_path / "run", key, tmp_path / "a.png", ())
    attention.show(tmp_path / "run", key, tmp_path / "a.png", (), t=0)
    # A stack of 5 starts at frame 0 or 1 of 7; field 0 of these videos is still.
    assert times == [1, 0]


def test_a_video_keeps_the_queries_of_a_frame_that_moves(
    dataset: Path, tmp_path: Path, key: str
) -> None:
    write_run(tmp_path / "run", dataset)
    observer = attention.Observer(tmp_path / "run")
    found = [*looks(observer, key, ())]
    assert [look.t for look in found] == [0, 1]
    assert found[0].queries == found[1].queries == observer.look(key, 1).queries


def test_the_command_writes_a_picture(
    dataset: Path,
    tmp_path: Path,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_run(tmp_path / "run", dataset, "cma_nonlocal", ["iter1"])
    out = tmp_path / "look.png"
    query = ("--query", "10,10", "--query", "20,5")
    assert (
        run(
            monkeypatch, "attention", str(tmp_path / "run"), "--key", key, "--out", str(out), *query
        )
        == 0
    )
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_a_video_of_every_frame_with_a_stack(
    dataset: Path, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", dataset)
    assert (
        run(
            monkeypatch,
            "attention",
            str(tmp_path / "run"),
            "--key",
            key,
            "--out",
            str(tmp_path / "look.mp4"),
        )
        == 0
    )
    with av.open(str(tmp_path / "look.mp4")) as video:
        frames = list(video.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [
        (5 * PANEL, PANEL + 2 * TITLE_LINE + TITLE_LINE // 2)
    ] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--key", "nobody"), "no sample 'nobody' among 5"),
        (
            ("--key", "left/test0", "--query", "1,1"),
            "--query 1,1: outside of what the network sees of left/test0",
        ),
        (
            ("--key", "left/test0", "--query", "9,9,0"),
            "--query X,Y,0: this network sees single frames; expected X,Y",
        ),
        (
            ("--key", "left/test0", "--frame", "2"),
            "--frame 2: a snippet of left/test0 starts at 0 to 1",
        ),
        (
            ("--key", "left/test0", "--at", "layer9.1"),
            "--at layer9.1: attention stands at layer2.1, layer3.1",
        ),
        (
            ("--key", "left/test0", "--out", "look.jpg"),
            "--out look.jpg: expected a name that ends in .png or .mp4",
        ),
    ],
    ids=["key", "query", "query in time", "frame", "place", "name"],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...],
    message: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_run(tmp_path / "run", dataset)
    monkeypatch.chdir(tmp_path)
    out = () if "--out" in arguments else ("--out", "look.png")
    assert run(monkeypatch, "attention", str(tmp_path / "run"), *arguments, *out) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "look.png").exists()


@pytest.mark.parametrize("value", ["1", "1,", "a,b", "1,2,", "1,2,3,4", "-1,2"])
def test_a_query_that_is_no_position_is_a_usage_error(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        run(monkeypatch, "attention", "run", "--key", "k", "--out", "a.png", f"--query={value}")
        == 2
    )


@pytest.mark.parametrize(
    ("kind", "stages", "trained", "message"),
    [
        (
            "two_stream",
            ["flow", "rgb"],
            True,
            "model.kind two_stream has no attention in an RGB branch",
        ),
        ("flow", ["flow"], True, "model.kind flow has no attention in an RGB branch"),
        ("cma", ["flow"], True, "no stage has trained the RGB branch's attention yet"),
        ("nonlocal", ["flow"], False, "no stage has trained the RGB branch's attention yet"),
    ],
)
def test_a_run_without_attention_is_told(
    kind: str, stages: list[str], trained: bool, message: str, dataset: Path, tmp_path: Path
) -> None:
    write_run(tmp_path / "run", dataset, kind, stages, trained=trained)
    with pytest.raises(InputError, match=message):
        Observer(tmp_path / "run")
