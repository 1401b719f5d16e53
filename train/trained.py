"""A trained network as a plain nn.Module: `twinstream.load_network`.

It holds its classes, the branches that classify and those that attend, so that a call computes the
same scores as `twinstream test`.
"""

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from twinstream.train.checkpoint import load_weights, trained_branches
from twinstream.train.choices import BranchName
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.run_folder import RunSettings, read_run_settings
from twinstream.train.score.run_weights import Scored, acting_branches, read_weights


class TrainedNetwork(TwoBranch):
    """The network of a run as it is after a stage; made by `load_network`."""

    classes: tuple[str, ...]
    """The name of each score"""
    settings: RunSettings
    """The run's settings: `settings.model.snippet`, `settings.train.crop_size` ..."""
    stage: str
    """The last stage that was trained"""
    progress: str
    """How far it got, such as `epoch 2 of 30, step 6`; empty for a stage that has ended"""
    outputs: tuple[BranchName, ...]
    """The branches that have learned to classify"""
    attending: tuple[BranchName, ...]
    """The branches that read the other one"""

    def __init__(self, run: Path, settings: RunSettings, scored: Scored) -> None:
        model, checkpoint = settings.model, scored.checkpoint
        super().__init__(
            model.kind,
            model.depth,
            len(checkpoint.classes),
            model.snippet,
            model.dropout,
            model.attention_at,
            model.family,
        )
        load_weights(self, checkpoint, run)
        self.classes = tuple(checkpoint.classes)
        self.settings, self.stage, self.progress = settings, scored.stage, scored.progress
        self.outputs = trained_branches(checkpoint)
        self.attending = acting_branches(self, checkpoint, run)
        self.dataset_sha256, self.bound = checkpoint.dataset_sha256, checkpoint.bound

    def forward(
        self,
        rgb: Tensor | None,
        flow: Tensor | None,
        *,
        outputs: Collection[BranchName] | None = None,
        attending: Collection[BranchName] | None = None,
    ) -> dict[BranchName, Tensor]:
        """(N, 3, S, S), (N, 2L, S, S) float32 -> (N, num_classes) scores of each branch, by name.

        Inputs are normalised as `twinstream.network_inputs` does it. Scores are those of N
        snippets, before softmax; a video's are the mean over its snippets.
        """
        return super().forward(
            rgb,
            flow,
            outputs=self.outputs if outputs is None else outputs,
            attending=self.attending if attending is None else attending,
        )


def load_network(run: str | Path, stage: str | None = None) -> TrainedNetwork:
    """The network of a run, on the CPU and in eval mode, as it is or as it was after `stage`.

    InputError for a folder that is no run, a stage it does not train, or weights that are not
    there.
    """
    run = Path(run)
    settings = read_run_settings(run)
    return TrainedNetwork(run, settings, read_weights(run, settings, stage)).eval()
