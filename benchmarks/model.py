"""What attention costs, in step time and peak memory of each model: `python -m benchmarks.model`.

The baseline is two plain torchvision ResNets trained the same way: SGD, cross-entropy, batches of
random pictures that are in memory already. One run takes all cases in turn, round after round; a
ratio is the median over the rounds, each within itself, because the machine's speed varies more
over time than between cases. Memory is the peak of a process that does one case alone; on a GPU,
what torch allocated. All of it is channels_last, and bfloat16 on a GPU, as in training. Attention
alone is measured too.

With `--family p3d` it is clips, and the baseline a P3D branch by itself: there is no other that
computes the same. `behind attention` trains the block and the layers behind it alone.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torchvision import models

from benchmarks.measuring import machine, peak_kibibytes
from twinstream.shards.settings import DEFAULT_STACK_LENGTH
from twinstream.train.choices import BOTH, CLIP_LENGTH, BranchName, ModelKind, Trainable
from twinstream.train.device import half_precision
from twinstream.train.memory import keep_freed_memory
from twinstream.train.network.branch import RGB_CHANNELS
from twinstream.train.network.cma import CMABlock
from twinstream.train.network.families import DEFAULT_FAMILY, find_family
from twinstream.train.network.resnet import stem
from twinstream.train.network.two_branch import TwoBranch

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
CLASSES = 400
FLOW_CHANNELS = 2 * DEFAULT_STACK_LENGTH
P3D = "p3d"


@dataclass(frozen=True)
class Size:
    """What is the same for all cases."""

    depth: int
    side: int
    batch: int
    device: str
    family: str = DEFAULT_FAMILY
    frames: int = CLIP_LENGTH
    """Of a clip, where the family sees clips"""


# Depth, side and batch of a family when they are not given. What clips cost in full needs a GPU.
DEFAULT_SIZES = {DEFAULT_FAMILY: (50, 224, 6), P3D: (50, 80, 2)}


@dataclass(frozen=True)
class Case:
    """A model, the branch that a step trains, the branch whose scores it wants, and who attends.

    A trained branch of None means forward only.
    """

    name: str
    kind: ModelKind | None
    """None: torchvision's ResNet, no code of ours"""
    trains: BranchName | None
    outputs: tuple[BranchName, ...]
    attending: tuple[BranchName, ...] = ()
    through_frozen: bool = True
    """train.gradient_through_frozen"""
    part: Trainable = "all"
    """train.trainable"""


CASES = (
    Case("plain rgb, training", None, "rgb", ("rgb",)),
    Case("plain flow, training", None, "flow", ("flow",)),
    Case("two-stream rgb, training", "two_stream", "rgb", ("rgb",)),
    Case("two-stream flow, training", "two_stream", "flow", ("flow",)),
    Case("non-local rgb, training", "nonlocal", "rgb", ("rgb",)),
    Case("CMA iter1, training", "cma", "rgb", ("rgb",), ("rgb",)),
    Case("CMA iter2, training", "cma", "flow", ("flow",), BOTH),
    Case("CMA iter2, not through the frozen", "cma", "flow", ("flow",), BOTH, False),
    Case("CMA and non-local iter1, training", "cma_nonlocal", "rgb", ("rgb",), ("rgb",)),
    Case("plain rgb, forward", None, None, ("rgb",)),
    Case("plain flow, forward", None, None, ("flow",)),
    Case("two-stream, forward", "two_stream", None, BOTH),
    Case("non-local two-stream, forward", "nonlocal", None, BOTH),
    Case("CMA iter1-R, forward", "cma", None, ("rgb",), ("rgb",)),
    Case("CMA iter1-S, forward", "cma", None, BOTH, ("rgb",)),
)
CLIP_CASES = (
    Case("plain rgb, training", "rgb", "rgb", ("rgb",)),
    Case("plain flow, training", "flow", "flow", ("flow",)),
    Case("two-stream rgb, training", "two_stream", "rgb", ("rgb",)),
    Case("CMA iter1, training", "cma", "rgb", ("rgb",), ("rgb",)),
    Case("CMA iter1, behind attention", "cma", "rgb", ("rgb",), ("rgb",), part="behind_attention"),
    Case("plain rgb, forward", "rgb", None, ("rgb",)),
    Case("plain flow, forward", "flow", None, ("flow",)),
    Case("two-stream, forward", "two_stream", None, BOTH),
    Case("CMA iter1-R, forward", "cma", None, ("rgb",), ("rgb",)),
    Case("CMA iter1-S, forward", "cma", None, BOTH, ("rgb",)),
)
# Named in the last column: the plain cases that a case is measured against
TRAINING, FORWARD = (
    ("plain rgb, training", "plain flow, training"),
    ("plain rgb, forward", "plain flow, forward"),
)
YARDSTICKS = {
    "two-stream rgb, training": TRAINING[:1],
    "two-stream flow, training": TRAINING[1:],
    "non-local rgb, training": TRAINING[:1],
    "CMA iter1, training": (TRAINING[0], FORWARD[1]),
    "CMA iter1, behind attention": (TRAINING[0], FORWARD[1]),
    "CMA iter2, training": (TRAINING[1], FORWARD[0]),
    "CMA iter2, not through the frozen": (TRAINING[1], FORWARD[0]),
    "CMA and non-local iter1, training": (TRAINING[0], FORWARD[1]),
    "two-stream, forward": FORWARD,
    "non-local two-stream, forward": FORWARD,
    "CMA iter1-R, forward": FORWARD,
    "CMA iter1-S, forward": FORWARD,
}


def plain_resnet(name: BranchName, depth: int) -> nn.Module:
    """torchvision's ResNet, its first convolution made for that branch's input."""
    net: nn.Module = models.get_model(f"resnet{depth}", weights=None, num_classes=CLASSES)
    if name == "flow":
        net.conv1 = stem(FLOW_CHANNELS)
    return net


def prepare(case: Case, size: Size) -> Callable[[], None]:
    """A function that does one step of the case and waits for its end."""
    torch.manual_seed(0)
    device = torch.device(size.device)
    clips = size.family != DEFAULT_FAMILY
    time, flow_channels = ((size.frames,), 2) if clips else ((), FLOW_CHANNELS)
    rgb, flow = (
        torch.randn(size.batch, channels, *time, size.side, size.side, device=device)
        for channels in (RGB_CHANNELS, flow_channels)
    )
    labels = torch.randint(0, CLASSES, (size.batch,), device=device)
    name = case.outputs[0]
    if case.kind is None:
        net = plain_resnet(name, size.depth).to(memory_format=torch.channels_last)
        forward = _plain_forward(net, rgb if name == "rgb" else flow)
    else:
        net = TwoBranch(case.kind, size.depth, CLASSES, family=size.family)
        forward = _forward(net, rgb, flow, case)
    net.to(device)
    net.train(case.trains is not None)
    if isinstance(net, TwoBranch) and case.trains:
        net.train_only(case.trains, part=case.part, through_frozen=case.through_frozen)
    return (
        _training_step(net, forward, labels, device) if case.trains else _test_step(forward, device)
    )


def _plain_forward(net: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        scores: Tensor = net(x)
        return scores

    return forward


def _forward(net: TwoBranch, rgb: Tensor, flow: Tensor, case: Case) -> Callable[[], Tensor]:
    return lambda: net(rgb, flow, outputs=case.outputs, attending=case.attending)[case.outputs[0]]


def _training_step(
    net: nn.Module, forward: Callable[[], Tensor], labels: Tensor, device: torch.device
) -> Callable[[], None]:
    optimizer = SGD(
        [p for p in net.parameters() if p.requires_grad], lr=0.01, momentum=0.9, weight_decay=5e-4
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with half_precision(device):
            scores = forward()
        torch.autograd.backward(F.cross_entropy(scores.float(), labels))
        optimizer.step()
        _wait(device)

    return step


def _test_step(forward: Callable[[], Tensor], device: torch.device) -> Callable[[], None]:
    def step() -> None:
        with torch.inference_mode(), half_precision(device):
            forward()
        _wait(device)

    return step


def _wait(device: torch.device) -> None:
    # Kernels run on after their launch has come back.
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_by_round(
    steps: Sequence[Callable[[], None]], rounds: int, clock: Clock
) -> list[list[float]]:
    """Seconds of each step in each round, all steps in turn, after a round for warm-up."""
    taken: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        for step, each in zip(steps, taken, strict=True):
            begun = clock()
            step()
            if number:
                each.append(clock() - begun)
    return taken


def median_ratio(seconds: Sequence[float], parts: Sequence[Sequence[float]]) -> float:
    """Of the seconds to the sum of the parts', round by round."""
    ratios = [each / sum(others) for each, *others in zip(seconds, *parts, strict=True)]
    return float(statistics.median(ratios))


def peak_mebibytes(case: Case, size: Size, threads: int) -> int:
    """Peak of this process, or of the GPU's allocator, over two steps."""
    torch.set_num_threads(threads)
    # As in training, where memory given back and taken anew would cost time.
    keep_freed_memory()
    step = prepare(case, size)
    # SGD makes its momentum at the end of the first step; the second one has it from the start.
    step()
    step()
    return (
        torch.cuda.max_memory_allocated() >> 20 if size.device == "cuda" else peak_kibibytes() >> 10
    )


def written_out(block: CMABlock, x: Tensor, y: Tensor) -> Tensor:
    """The block's output with its softmax written out, every weight in memory."""
    z = block.attention_map(x, y) @ block.value(block.pool(y)).flatten(2).transpose(1, 2)
    read: Tensor = block.bn(block.out(z.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])))
    return x + read


def attention_line(channels: int, side: int, size: Size, rounds: int, clock: Clock) -> str:
    """One table line: a block forward and backward, fused and written out, and their difference."""
    torch.manual_seed(0)
    block = CMABlock(channels).to(size.device).to(memory_format=torch.channels_last)
    # Zero in a new block: both ways would give x and differ in nothing.
    nn.init.ones_(block.bn.weight)
    shape = size.batch, side, side, channels
    x, y, gradient = (torch.randn(shape, device=size.device).permute(0, 3, 1, 2) for _ in range(3))
    x.requires_grad_()
    ways: tuple[Callable[..., Tensor], ...] = (
        lambda: block(x, y),
        lambda: written_out(block, x, y),
    )

    def step_of(way: Callable[..., Tensor]) -> Callable[[], None]:
        def step() -> None:
            torch.autograd.backward(way(), gradient)
            _wait(torch.device(size.device))

        return step

    with torch.no_grad():
        difference = (ways[0]() - ways[1]()).abs().max().item()
    fused, plain = seconds_by_round([step_of(way) for way in ways], 3 * rounds, clock)
    medians = f"{1e3 * statistics.median(fused):.1f} | {1e3 * statistics.median(plain):.1f}"
    return (
        f"| {channels} x {side} x {side} | {medians} | {median_ratio(fused, [plain]):.2f} | "
        f"{difference:.1e} |"
    )


@click.command(
    help="Cost of each model, for example: python -m benchmarks.model --batch 3 --rounds 5"
)
@click.option(
    "--family", default=DEFAULT_FAMILY, show_default=True, type=click.Choice([*DEFAULT_SIZES])
)
@click.option("--depth", type=int, help="50 when not given.")
@click.option("--side", type=int, help="Side of the network's input; 224, and 80 of p3d.")
@click.option(
    "--batch",
    type=int,
    help="Snippets a step; 6, two videos of 3 segments, and 2 of p3d.",
)
@click.option("--frames", default=CLIP_LENGTH, show_default=True, help="Frames of a clip of p3d.")
@click.option("--rounds", default=7, show_default=True, help="Steps of each case that are counted.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option(
    "--clock",
    default="wall",
    show_default=True,
    type=click.Choice(sorted(CLOCKS)),
    help=(
        "What a step is timed by; cpu, with one thread, tells the same on a machine that has "
        "other work."
    ),
)
def main(
    family: str,
    depth: int | None,
    side: int | None,
    batch: int | None,
    frames: int,
    rounds: int,
    device: str,
    clock: str,
) -> None:
    """Print what was measured on, the table of models, and that of the attention alone."""
    keep_freed_memory()
    defaults = zip((depth, side, batch), DEFAULT_SIZES[family], strict=True)
    depth, side, batch = (default if given is None else given for given, default in defaults)
    if depth not in find_family(family).depths:
        raise click.BadParameter(find_family(family).expected_depth, param_hint="--depth")
    size, threads = Size(depth, side, batch, device, family, frames), torch.get_num_threads()
    cases, what_of = (
        (CASES, f"ResNet-{depth}, {batch} snippets")
        if family == DEFAULT_FAMILY
        else (CLIP_CASES, f"{family} of depth {depth}, {batch} clips of {frames} frames")
    )
    what = torch.cuda.get_device_name() if device == "cuda" else f"{machine()}, {threads} threads"
    click.echo(f"{what}, torch {torch.__version__}, {what_of} of {side}x{side}, {clock} time\n")
    taken = seconds_by_round([prepare(case, size) for case in cases], rounds, CLOCKS[clock])
    seconds = {case.name: each for case, each in zip(cases, taken, strict=True)}
    click.echo("| | ms a step | of plain networks | which | peak MiB |\n|---|---|---|---|---|")
    for case in cases:
        # One process a case: memory that another case has had does not come back.
        with get_context("spawn").Pool(1) as pool:
            peak = pool.apply(peak_mebibytes, (case, size, threads))
        parts = YARDSTICKS.get(case.name, ())
        own = seconds[case.name]
        ratio = f"{median_ratio(own, [seconds[part] for part in parts]):.2f}" if parts else ""
        click.echo(
            f"| {case.name} | {1e3 * statistics.median(own):.0f} | {ratio} | {' + '.join(parts)} | "
            f"{peak} |"
        )
    if family != DEFAULT_FAMILY:
        return
    click.echo(
        "\n| block | fused ms | written out ms | ratio | largest difference "
        "|\n|---|---|---|---|---|"
    )
    for channels, stride in ((512, 8), (1024, 16)):
        click.echo(attention_line(channels, -(-side // stride), size, rounds, CLOCKS[clock]))


if __name__ == "__main__":
    main()
