"""Action videos -> RGB + TV-L1 flow shards -> two-branch network with cross-modality attention.

    import twinstream as ts

These names are the public face, described in docs/python.md; they stay while modules move. Each is
imported when it is first used (PEP 562), so `import twinstream` costs nothing and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from twinstream.errors import InputError

if TYPE_CHECKING:
    from twinstream.predictor import Prediction, Predictor, predict
    from twinstream.preprocess.flow.frames_to_flow import tvl1
    from twinstream.shards.read.dataset import Sample, ShardDataset, open_shards
    from twinstream.train.data.normalise import network_inputs
    from twinstream.train.data.snippet_batches import snippets
    from twinstream.train.trained import TrainedNetwork, load_network

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "Prediction",
    "Predictor",
    "Sample",
    "ShardDataset",
    "TrainedNetwork",
    "load_network",
    "network_inputs",
    "open_shards",
    "predict",
    "snippets",
    "tvl1",
]
_MODULES = {
    "Prediction": "twinstream.predictor",
    "Predictor": "twinstream.predictor",
    "Sample": "twinstream.shards.read.dataset",
    "ShardDataset": "twinstream.shards.read.dataset",
    "TrainedNetwork": "twinstream.train.trained",
    "load_network": "twinstream.train.trained",
    "network_inputs": "twinstream.train.data.normalise",
    "open_shards": "twinstream.shards.read.dataset",
    "predict": "twinstream.predictor",
    "snippets": "twinstream.train.data.snippet_batches",
    "tvl1": "twinstream.preprocess.flow.frames_to_flow",
}


# Hidden from type checkers: with it they would take any name for one of ours.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
