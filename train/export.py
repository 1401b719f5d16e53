"""`twinstream export`: a trained network as one file for programs that have no twinstream.

TorchScript and ONNX take what any decoder and any flow give: `rgb` as bytes, `flow` in pixels of
the input; they normalise both themselves, and give scores before softmax. safetensors has the
weights alone, under the names of the network's layers. The file tells its classes, inputs and
outputs as JSON (`twinstream`: TorchScript's extra file, metadata of the others). The price: the
size of the crop is fixed, the number of snippets is not.
"""

import io
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from twinstream.errors import InputError
from twinstream.shards.storage.atomic import write_atomically
from twinstream.train.choices import BOTH, BranchName, iteration
from twinstream.train.data.normalise import normalise_rgb
from twinstream.train.network.weight_files import OWN, safetensors_bytes
from twinstream.train.run_folder import network_facts
from twinstream.train.score.metrics import fusion_weights
from twinstream.train.trained import TrainedNetwork

Format = Literal["torchscript", "onnx", "safetensors"]
OPSET = 18


class ExportedNetwork(nn.Module):
    """Snippets in, `scores` out: of both branches fused where both are trained, else of the one.

    Inputs, those of `inputs`: rgb (N, 3, S, S) uint8, flow (N, 2L, S, S) float32 pixels; of clips
    (N, 3, T, S, S) and (N, 2, T, S, S). Outputs, those of `outputs`: (N, num_classes) each.
    """

    def __init__(self, network: TrainedNetwork) -> None:
        super().__init__()
        self.network, self.bound = network, network.bound
        self.inputs = network.needed(network.outputs, network.attending)
        self.weights = fusion_weights(iteration(network.stage))
        alone = len(network.outputs) == 1
        self.outputs = ["scores"] if alone else ["scores", *(f"{b}_scores" for b in BOTH)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs in their order, from the inputs in theirs."""
        given: dict[BranchName, Tensor] = dict(zip(self.inputs, inputs, strict=True))
        rgb, flow = given.get("rgb"), given.get("flow")
        found = self.network(
            None if rgb is None else normalise_rgb(rgb),
            None if flow is None else flow / self.bound,
        )
        if len(found) == 1:
            return tuple(found.values())
        of_rgb, of_flow = self.weights
        fused = (of_rgb * found["rgb"] + of_flow * found["flow"]) / (of_rgb + of_flow)
        return fused, found["rgb"], found["flow"]

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of two snippets."""
        settings = self.network.settings
        shape, side = settings.model.snippet, settings.train.crop_size
        time = (shape.frames,) if shape.has_time else ()
        generator, found = torch.Generator().manual_seed(0), []
        for name in self.inputs:
            channels = self.network.branch(name).in_channels
            values = torch.rand((2, channels, *time, side, side), generator=generator)
            found.append((values * 255).to(torch.uint8) if name == "rgb" else values * self.bound)
        return tuple(found)

    def facts(self) -> dict[str, Any]:
        """What a program must know that runs it."""
        network = self.network
        pixels = "input" if network.settings.train.scale_motion else "stored frame"
        meaning = {
            "rgb": "uint8 RGB",
            "flow": f"float32 pixels of the {pixels}, dx then dy of each field, cut at the bound",
        }
        return {
            **network_facts(network.settings),
            "stage": network.stage,
            "classes": list(network.classes),
            "bound": self.bound,
            "inputs": {name: meaning[name] for name in self.inputs},
            "outputs": self.outputs,
            "scores": "of a snippet, before softmax; the mean over snippets is a video's",
            "fused": dict(zip(BOTH, self.weights, strict=True)),
        }


def export_network(network: TrainedNetwork, form: Format, path: Path) -> dict[str, Any]:
    """Write the network to `path` as a whole, and return what the file tells of it.

    InputError for ONNX without its packages.
    """
    exported = ExportedNetwork(network).eval()
    facts = exported.facts()
    if form == "safetensors":
        # The same as in a stage's file, so that it can be first weights as well.
        data = safetensors_bytes({**facts, "model": network.state_dict()})
    elif form == "torchscript":
        data = torchscript_bytes(exported, facts)
    else:
        data = onnx_bytes(exported, facts)
    write_atomically(path, data)
    return facts


def torchscript_bytes(exported: ExportedNetwork, facts: Mapping[str, Any]) -> bytes:
    """A program for torch.jit.load, with the facts as its extra file `twinstream`."""
    file = io.BytesIO()
    # Which has no types.
    trace: Any = torch.jit.trace
    with _traced():
        traced = trace(exported, exported.example())
        torch.jit.save(traced, file, _extra_files={OWN: json.dumps(facts)})
    return file.getvalue()


def onnx_bytes(exported: ExportedNetwork, facts: Mapping[str, Any]) -> bytes:
    """An ONNX model with the facts in its metadata."""
    try:
        import onnx
    except ImportError as error:
        raise InputError(
            "--format onnx: the package onnx is not installed; pip install onnx"
        ) from error
    # As one of a file, which torch takes and its types do not name.
    file: Any = io.BytesIO()
    names = [*exported.inputs, *exported.outputs]
    # From a trace: torch's other exporter takes six times as long for the same model.
    with _traced():
        torch.onnx.export(
            exported,
            exported.example(),
            file,
            input_names=list(exported.inputs),
            output_names=exported.outputs,
            dynamic_axes={name: {0: "snippets"} for name in names},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(model, {OWN: json.dumps(facts)})
    data: bytes = model.SerializeToString()
    return data


@contextmanager
def _traced() -> Iterator[None]:
    with warnings.catch_warnings(), torch.inference_mode():
        # torch says that it prefers other formats, and which shapes a trace takes as fixed: that
        # these are none of the snippets' is tested.
        warnings.simplefilter("ignore")
        yield
