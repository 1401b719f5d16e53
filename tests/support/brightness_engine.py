"""A minimal flow engine, which `test_engines.py` adds to the registry.

dx is the change of gray from one frame to the next, and dy is 0.
"""

import numpy as np

from twinstream.preprocess.flow.engine import Engine, EngineOptions, Flow, Gray, PairEngine


def open_engine(options: EngineOptions) -> Engine:
    return PairEngine("brightness", change_of_gray)


def change_of_gray(first: Gray, second: Gray) -> Flow:
    change = second.astype(np.float32) - first
    return np.stack([change, np.zeros_like(change)], axis=-1)
