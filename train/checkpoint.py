"""Checkpoints that hold all that is needed to go on, written whole or not at all.

Only tensors and plain values, read with `weights_only=True`: opening someone's checkpoint runs no
code. There is no random state in them, because order, augmentation and dropout follow from (seed,
stage, epoch, step).
"""

from pathlib import Path
from typing import Any

import torch

from twinstream.errors import InputError
from twinstream.shards.atomic import atomic_file
from twinstream.train.weights import read_state


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace `path` by this state."""
    with atomic_file(path) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in `path`, on the CPU; InputError when it is absent, damaged or not ours."""
    state = read_state(path)
    if not {"model", "classes", "attending"} <= state.keys():
        raise InputError(f"{path}: not a checkpoint of twinstream")
    return state
