"""What is told of an epoch, and what the log knows of one that goes on."""

from pathlib import Path

import pytest

from twinstream.train.run_folder import LOG
from twinstream.train.run_log import TrainingLog, epoch_line


@pytest.mark.parametrize(
    ("accuracies", "told"),
    [
        ([0.5612], "flow 3/40 · loss 1.250 · train 56.1% · rate 0.001 · 812/s · 01:23"),
        (
            [0.5612, 0.4],
            "flow 3/40 · loss 1.250 · train 56.1% · val 40.0% · rate 0.001 · 812/s · 01:23",
        ),
    ],
)
def test_the_line_of_an_epoch_has_all_figures_and_fits_80_columns(
    accuracies: list[float], told: str
) -> None:
    line = epoch_line(
        "flow 3/40",
        losses=[1.0, 1.5],
        accuracies=accuracies,
        rate=0.001,
        samples_a_second=812.4,
        seconds=83.2,
    )
    assert line == told
    assert len(line) < 80


def test_an_epoch_that_goes_on_has_the_losses_of_its_first_steps(tmp_path: Path) -> None:
    (tmp_path / LOG).touch()
    log = TrainingLog(tmp_path, first_step=0, num_bytes=0)
    for stage, epoch, loss in (("flow", 0, 3.0), ("flow", 1, 2.0), ("flow", 1, 1.0)):
        log.write({"stage": stage, "epoch": epoch, "step": 0, "loss": loss}, 0)
    log.write({"stage": "flow", "epoch": 1, "train_accuracy": 0.5}, 0)
    log.write({"stage": "rgb", "epoch": 1, "step": 0, "loss": 9.0}, 0)
    log.close()
    assert log.losses("flow", 1) == [2.0, 1.0]
    # Of the other ranks none has a folder.
    assert TrainingLog(None, first_step=0, num_bytes=0).losses("flow", 1) == []
