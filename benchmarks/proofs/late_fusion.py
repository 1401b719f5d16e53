"""Late fusion that is learnt as a whole: one linear layer over the features of both branches.

The harder rival of the two-stream sum: both branches and the layer are trained together, end to
end, on the loss of their one score. A linear layer over (N, 2D) concatenated features is the sum of
one over each branch's (N, D), so the classifiers of both branches are that layer, and the network
stays a two-stream one: feed, training, checkpoint and test are those of any run, and its score is
the 1:1 sum of the two. The price: what a run folder says does not tell it from a two-stream run, so
it must not be reported among those.
"""

from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from twinstream.signals import noted_signals
from twinstream.train.choices import BranchName, Trainable
from twinstream.train.device import choose_device
from twinstream.train.fit import fit
from twinstream.train.memory import keep_freed_memory
from twinstream.train.network.two_branch import TwoBranch
from twinstream.train.ranks import joined_ranks
from twinstream.train.run_folder import SETTINGS, RunSettings, settings_to_use
from twinstream.train.session import (
    begin_training,
    load_training,
    open_log,
    open_session,
    owned_run,
)
from twinstream.train.settings import CHECKPOINT


class LateFusion(TwoBranch):
    """A two-stream network whose branches learn together; every score is the sum of both."""

    def forward(
        self,
        rgb: Tensor | None,
        flow: Tensor | None,
        *,
        outputs: Collection[BranchName] | None = None,
        attending: Collection[BranchName] | None = None,
    ) -> dict[BranchName, Tensor]:
        """(N, 3, H, W), (N, 2L, H, W) -> the same (N, num_classes) for each of `outputs`."""
        scores = super().forward(rgb, flow, attending=attending)
        return dict.fromkeys(outputs or self.names, scores["rgb"] + scores["flow"])

    def train_only(
        self, name: BranchName, *, part: Trainable = "all", through_frozen: bool = True
    ) -> None:
        """Both branches learn, whichever the stage names."""
        for each in self.names:
            self.branch(each).set_learning(part, through_frozen=through_frozen)


def train_late_fusion(settings: RunSettings, out: Path) -> None:
    """Train into the run directory `out`, or resume; the settings are those of a two-stream run.

    It has one stage, rgb, and begins with the branches that `model.weights` names.
    """
    keep_freed_memory()
    with joined_ranks(choose_device(settings.train.device)) as ranks, owned_run(out, ranks):
        settings = settings_to_use(out, settings, resume=True)
        session = open_session(settings, out, ranks)
        fused = late_fusion(session.settings, len(session.dataset.classes)).to(ranks.device)
        session = replace(session, model=fused)
        is_begun = (out / SETTINGS).exists() and (out / CHECKPOINT).exists()
        session, start = (
            load_training(session, more_epochs=False) if is_begun else begin_training(session)
        )
        if start.position.stage < len(session.stages):
            with closing(open_log(session, start)) as log, noted_signals() as stop:
                fit(session, start, log, stop)


def late_fusion(settings: RunSettings, num_classes: int) -> LateFusion:
    """The network of these settings with random weights."""
    model = settings.model
    return LateFusion(
        model.kind,
        model.depth,
        num_classes,
        model.snippet,
        model.dropout,
        model.attention_at,
        model.family,
    )
