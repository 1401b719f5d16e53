"""The seeds of all random numbers of training: `train.seed`, epoch, step, rank or key.

No random state is carried from one step to the next. So a run that was stopped and resumed, on any
number of workers, draws the same numbers as a run without a stop. Epochs are counted over all
stages: the first epoch of the second stage has another order than that of the first stage.
"""

import hashlib

import numpy as np


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """torch's seed for one step on one rank: it fixes dropout. Each rank drops other features."""
    # The hash of a tuple of integers does not depend on PYTHONHASHSEED; that of a string does.
    return hash((seed, epoch, step, rank))


def order_rng(seed: int, epoch: int) -> np.random.Generator:
    """The order of an epoch's samples, the same on every rank."""
    return np.random.default_rng([seed, epoch])


def sample_rng(seed: int, epoch: int, key: str) -> np.random.Generator:
    """Snippets, crop, scale and flip of one video in one epoch, wherever it is read."""
    digest = hashlib.sha256(key.encode()).digest()[:8]
    return np.random.default_rng([seed, epoch, int.from_bytes(digest, "little")])
