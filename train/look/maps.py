"""`twinstream attention`: where the RGB branch looks (the paper's Figures 5 to 7).

A map shows the weights with which one query position of a frame reads the flow branch (CMA) or the
RGB branch itself (non-local). They are those of the forward pass at test: centre crop, input size
of the network. The block is the last one of res4 unless another is named; only its weights are
kept, so a look costs one forward pass. The price: a map is as coarse as the features that are read,
pooled by 2, which is 7 x 7 for an input of 224. Maps of clips, which have a time axis, are shown by
`clip`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twinstream.errors import InputError
from twinstream.progress import Progress
from twinstream.shards.preview import shot_changes
from twinstream.shards.read.members import read_flow, read_snippets
from twinstream.shards.read.samples import StoredSample
from twinstream.train.choices import BranchName
from twinstream.train.data.batch import new_batch
from twinstream.train.data.loader import test_crop
from twinstream.train.data.snippets import num_starts
from twinstream.train.data.transforms import Bytes, View, apply_views, test_views
from twinstream.train.device import choose_device, network_input
from twinstream.train.network.branch import Branch
from twinstream.train.network.cma import CMABlock
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.run_folder import read_run_settings
from twinstream.train.score.run_weights import (
    open_network,
    open_run_dataset,
    read_weights,
    refuse_other_dataset,
)

# Least distance of picked queries from the fastest one, as a part of the picture's side
APART = 1 / 3


@dataclass(frozen=True)
class BlockMap:
    """Weights (h, w, kh, kw) of one block for one snippet; they sum to 1 over a query's keys.

    Of a clip (t, h, w, kt, kh, kw).
    """

    name: str
    """CMA layer3.5"""
    reads: BranchName
    weights: NDArray[np.float32]
    read_size: tuple[int, int]
    """(h', w') of the features that are read, before pooling by 2 x 2 into keys"""


@dataclass(frozen=True)
class Seen:
    """A snippet as the network saw it: the centre crop at the stored resolution."""

    frames: NDArray[np.uint8]
    """(T, S, S, 3) RGB"""
    flow: NDArray[np.float32]
    """(L, S, S, 2) pixels"""
    queries: tuple[tuple[int, int], ...]
    """(x, y) pixels of the crop; where it moves when none were asked for"""
    blocks: tuple[BlockMap, ...]
    corner: tuple[int, int] = (0, 0)
    """(x, y) of the crop in the stored frame"""


@dataclass(frozen=True)
class Look:
    """A frame as the network saw it, its motion, and what its queries attend to."""

    t: int
    frame: NDArray[np.uint8]
    """(S, S, 3) RGB, the centre crop at the stored resolution"""
    flow: NDArray[np.float32]
    """(S, S, 2) pixels, the first field of the stack"""
    queries: tuple[tuple[int, int], ...]
    """(x, y) pixels of the crop"""
    blocks: tuple[BlockMap, ...]


class Observer:
    """A run's network, ready to look at samples of its dataset."""

    def __init__(
        self,
        run: Path,
        shards_path: str | None = None,
        at: str | None = None,
        stage: str | None = None,
    ) -> None:
        self.settings = read_run_settings(run)
        scored = read_weights(run, self.settings, stage)
        self.dataset = open_run_dataset(self.settings.shards, "--shards PATH", shards_path)
        refuse_other_dataset(scored.checkpoint, self.dataset)
        self.device = choose_device(self.settings.train.device)
        self.model, self.attending = open_network(run, self.settings, scored, self.device)
        self.model.eval()
        self.blocks = attention_blocks(self.model, self.attending, str(run), at)

    def times(self, key: str) -> range:
        """Frames at which a snippet of that sample can start; InputError for an unknown key."""
        return range(
            num_starts(self.dataset.sample(key).index.num_frames, self.settings.model.snippet)
        )

    def moving(self, key: str) -> int:
        """The start of a snippet of that sample that moves most, shot changes aside.

        Its first field decides: of a 2-D network it is the one that is shown.
        """
        sample, starts = self.dataset.sample(key), self.times(key)
        means = []
        with Progress("motion", len(starts), "frame") as progress:
            for t in starts:
                field = self.dataset.flow_pixels(read_flow(sample, t, 1))
                means.append(float(np.linalg.norm(field, axis=-1).mean()))
                progress.advance()
        # The middle one of the fastest tenth: the fastest alone is often a fault of the video.
        calm = np.where(shot_changes(means), -1.0, means)
        order = np.argsort(-calm, kind="stable")
        return starts[int(order[len(order) // 20])]

    def look(self, key: str, t: int, queries: Sequence[tuple[int, int]] = ()) -> Look:
        """What these queries attend to: (x, y) pixels of the stored frame; by motion when none."""
        seen = self.see(key, t, queries)
        return Look(t, seen.frames[0], seen.flow[0], seen.queries, seen.blocks)

    def see(self, key: str, t: int, queries: Sequence[tuple[int, int]] = ()) -> Seen:
        """The snippet that starts at frame t, with all its frames and fields; else as `look`."""
        sample = self.dataset.sample(key)
        view, shape = centre_view(sample, self.settings.test.scale), self.settings.model.snippet
        images, (fields,) = read_snippets(sample, [t], shape.fields, shape.frames, shape.stride)
        frames, stack = list(images), list(fields)
        inside = tuple(position_in_view(query, view, sample) for query in queries)
        # The whole frame: the view cuts and resizes it as at test.
        blocks = self._maps(frames, stack, view)
        rows, columns = (
            slice(view.top, view.top + view.height),
            slice(view.left, view.left + view.width),
        )
        levels = np.stack([field[rows, columns] for field in stack])
        flow = self.dataset.flow_pixels(np.stack([levels[::2], levels[1::2]], axis=-1))
        # Over the whole stack of fields, because that is what the network sees.
        grid = blocks[0].weights.shape[: blocks[0].weights.ndim // 2][-2:]
        picked = inside or pick_queries(np.linalg.norm(flow, axis=-1).mean(0), grid)
        crops = np.stack([each[rows, columns] for each in frames])
        return Seen(crops, flow, picked, blocks, (view.left, view.top))

    def _maps(self, frames: list[Bytes], stack: list[Bytes], view: View) -> tuple[BlockMap, ...]:
        batch = new_batch(1, 1, self.settings.model.snippet, self.settings.train.crop_size)
        (rgb,), (flow,) = batch.images()
        batch.flow_scale.numpy()[0] = apply_views(
            frames, [stack], [view], rgb, flow, scale_motion=self.settings.train.scale_motion
        )
        maps: dict[str, tuple[NDArray[np.float32], tuple[int, int]]] = {}
        handles = [
            block.register_forward_pre_hook(_keep_map(maps, name))
            for name, (_, block) in self.blocks.items()
        ]
        # A hook reads the inputs of the block: the fused attention of `forward` keeps no weights.
        with torch.inference_mode():
            self.model(
                *network_input(batch, self.device), outputs=("rgb",), attending=self.attending
            )
        # The next look registers its own; one that stays would compute every map twice.
        for handle in handles:
            handle.remove()
        return tuple(BlockMap(name, reads, *maps[name]) for name, (reads, _) in self.blocks.items())


def attention_blocks(
    model: TwoBranch, attending: Sequence[BranchName], run: str, at: str | None
) -> dict[str, tuple[BranchName, CMABlock]]:
    """Trained attention blocks of the RGB branch by name, each with the branch that it reads.

    `at` names the residual block before them, the last one of res4 when None. InputError for a run
    without attention in its RGB branch, for blocks not trained yet, or for a wrong name.
    """
    if "rgb" not in model.names or not model.rgb.attention_after:
        raise InputError(
            f"{run}: model.kind {model.kind} has no attention in an RGB branch; cma and nonlocal "
            "have"
        )
    key = _block_before(model.rgb, at).replace(".", "_")
    sides: tuple[tuple[str, nn.ModuleDict, BranchName], ...]
    sides = (("CMA", model.rgb.cma, "flow"), ("non-local", model.rgb.non_local, "rgb"))
    found: dict[str, tuple[BranchName, CMABlock]] = {}
    for name, blocks, reads in sides:
        block = blocks[key] if key in blocks and (reads == "rgb" or "rgb" in attending) else None
        # An untrained block has random weights that change nothing: its map would mean nothing.
        if isinstance(block, CMABlock) and not block.is_identity:
            found[f"{name} {key.replace('_', '.')}"] = (reads, block)
    if not found:
        raise InputError(f"{run}: no stage has trained the RGB branch's attention yet")
    return found


def centre_view(sample: StoredSample, scale: float) -> View:
    """The centre crop of a test."""
    height, width = sample.index.height, sample.index.width
    return test_views(height, width, test_crop(height, width, scale), 1)[0]


def position_in_view(query: tuple[int, int], view: View, sample: StoredSample) -> tuple[int, int]:
    """Pixels of the stored frame -> pixels of the crop; InputError outside of the crop."""
    x, y = query[0] - view.left, query[1] - view.top
    if not (0 <= x < view.width and 0 <= y < view.height):
        raise InputError(
            f"--query {query[0]},{query[1]}: outside of what the network sees of "
            f"{sample.index.key}, "
            f"x {view.left} to {view.left + view.width - 1}, y {view.top} to "
            f"{view.top + view.height - 1}"
        )
    return x, y


def pick_queries(
    speed: NDArray[np.floating[Any]], grid: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """(S, S) speeds -> three cells of the h x w grid, as (x, y) of their centres.

    The fastest cell, then the fastest and the slowest of those that are far from it.
    """
    cells = cv2.resize(speed.astype(np.float32), (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
    first = np.unravel_index(int(cells.argmax()), cells.shape)
    rows, columns = np.indices(cells.shape)
    far = np.hypot((rows - first[0]) / grid[0], (columns - first[1]) / grid[1]) >= APART
    # A speed is never negative, so -1 keeps near cells from being chosen.
    second = np.unravel_index(int(np.where(far, cells, -1).argmax()), cells.shape)
    third = np.unravel_index(int(np.where(far, cells, np.inf).argmin()), cells.shape)
    centres = [
        cell_centre((int(row), int(column)), grid, speed.shape)
        for row, column in (first, second, third)
    ]
    return tuple((round(x), round(y)) for x, y in centres)


def cell_centre(
    cell: tuple[int, int], grid: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[float, float]:
    """(row, column) of an h x w grid over an (H, W) picture -> its centre (x, y) in pixels."""
    return (cell[1] + 0.5) * shape[1] / grid[1] - 0.5, (cell[0] + 0.5) * shape[0] / grid[0] - 0.5


def key_centre(
    cell: tuple[int, int], block: BlockMap, shape: tuple[int, ...]
) -> tuple[float, float]:
    """(row, column) of a key over an (H, W) picture -> its centre (x, y) in pixels.

    Keys of 7 features: 0-1 2-3 4-5 6.
    """
    first = cell_centre((2 * cell[0], 2 * cell[1]), block.read_size, shape)
    # At an odd end a key covers one row or column of features, not two.
    ends = [min(2 * index + 1, size - 1) for index, size in zip(cell, block.read_size, strict=True)]
    last = cell_centre((ends[0], ends[1]), block.read_size, shape)
    return (first[0] + last[0]) / 2, (first[1] + last[1]) / 2


def over_features(weights: NDArray[np.float32], block: BlockMap) -> NDArray[np.float32]:
    """(kh, kw) of the keys -> (h', w'): each key's value at the features it was pooled from."""
    return weights.repeat(2, axis=0).repeat(2, axis=1)[: block.read_size[0], : block.read_size[1]]


def query_map(
    block: BlockMap, query: tuple[int, int], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """(kh, kw) weights of the query at (x, y) pixels of an (H, W) picture."""
    rows, columns = block.weights.shape[:2]
    weights: NDArray[np.float32] = block.weights[
        query[1] * rows // shape[0], query[0] * columns // shape[1]
    ]
    return weights


def looks(observer: Observer, key: str, queries: Sequence[tuple[int, int]]) -> Iterator[Look]:
    """One look for each frame at which a snippet can start, all with the same queries.

    Without any those of the snippet that moves stay, so that a panel shows one place over time.
    """
    if not queries:
        seen = observer.see(key, observer.moving(key))
        queries = [(x + seen.corner[0], y + seen.corner[1]) for x, y in seen.queries]
    times = observer.times(key)
    with Progress("attention", len(times), "frame") as progress:
        for t in times:
            yield observer.look(key, t, queries)
            progress.advance()


def _block_before(branch: Branch, at: str | None) -> str:
    if at is not None and at not in branch.attention_after:
        raise InputError(f"--at {at}: attention stands at {', '.join(branch.attention_after)}")
    # The paper's figures show res4; a run whose list names no block there shows its last one.
    in_res4 = [name for name in branch.attention_after if name.startswith("layer3.")]
    return at or (in_res4 or list(branch.attention_after))[-1]


def _keep_map(
    maps: dict[str, tuple[NDArray[np.float32], tuple[int, int]]], name: str
) -> Callable[[CMABlock, tuple[Tensor, Tensor]], None]:
    def keep(block: CMABlock, args: tuple[Tensor, Tensor]) -> None:
        x, y = args
        weights = block.attention_map(x, y)[0].reshape(*x.shape[2:], *block.pool(y).shape[2:])
        maps[name] = weights.float().cpu().numpy(), (y.shape[-2], y.shape[-1])

    return keep
