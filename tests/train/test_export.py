"""`twinstream export`: what the file computes is what the network computes."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.paths import ROOT
from tests.support.runs import BOUND, write_run
from twinstream.errors import InputError
from twinstream.shards.format.flow_codec import LEVELS_PER_SIDE, ZERO_LEVEL
from twinstream.train.data.normalise import network_inputs
from twinstream.train.export import ExportedNetwork, Format, export_network
from twinstream.train.network.weight_files import read_state
from twinstream.train.trained import TrainedNetwork, load_network

# As everywhere in the tests
DATA = Path(os.environ.get("TWINSTREAM_DATA", ROOT.parent / "shared" / "data"))
NUM = 3
FLOW_SCALE = torch.tensor([[1.0, 1.0], [1.5, 0.75], [0.5, 2.0]])

P3D = {"family": "p3d", "depth": 14, "clip_length": 4}
LITE = {"family": "efficientnet_lite0", "depth": 50}
KINDS: list[tuple[str, list[str], dict[str, Any]]] = [
    ("rgb", ["rgb"], {}),
    ("flow", ["flow"], {}),
    ("two_stream", ["flow", "rgb"], {}),
    ("nonlocal", ["flow", "rgb"], {}),
    ("cma", ["flow", "iter1"], {}),
    ("cma", ["flow", "iter1", "iter2"], {}),
    ("cma_nonlocal", ["flow", "iter1"], {}),
    ("two_stream", ["flow", "rgb"], P3D),
    ("cma", ["flow", "iter1"], P3D),
    ("nonlocal", ["flow", "rgb"], P3D),
    ("cma", ["flow", "iter1"], LITE),
]


def new_network(
    folder: Path, kind: str, stages: list[str], model: dict[str, Any], side: int = 40
) -> TrainedNetwork:
    """A network with trained attention, and a last layer that tells its snippets apart."""
    write_run(folder / "run", folder / "no shards", kind, stages, **model)
    settings = folder / "run" / "settings.yaml"
    settings.write_text(settings.read_text().replace("crop_size: 40", f"crop_size: {side}"))
    network = load_network(folder / "run")
    for name in network.names:
        torch.nn.init.normal_(network.branch(name).fc.weight)
    return network


def snippets(network: TrainedNetwork, frames: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Bytes of rgb (NUM, 1, 3, S, S) and flow (NUM, 1, 2L, S, S), or of clips, as a loader has."""
    shape, side = network.settings.model.snippet, network.settings.train.crop_size
    images = [cv2.resize(frame, (side, side)) for frame in frames]
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    rgb, flow = [], []
    for start in range(NUM):
        fields = [
            cv2.calcOpticalFlowFarneback(
                gray[t], gray[t + 1], np.empty(0), 0.5, 2, 9, 2, 5, 1.1, 0
            ).transpose(2, 0, 1)
            for t in range(start, start + shape.fields)
        ]
        levels = np.stack(fields) * LEVELS_PER_SIDE / BOUND + ZERO_LEVEL
        motion = np.clip(np.rint(levels), 1, 255).astype(np.uint8)
        flow.append(motion if shape.has_time else motion.reshape(-1, side, side))
        clip = np.stack(images[start : start + shape.frames]).transpose(0, 3, 1, 2)
        rgb.append(clip if shape.has_time else clip[0])
    return torch.tensor(np.stack(rgb))[:, None], torch.tensor(np.stack(flow))[:, None]


def of_a_user(rgb: Tensor, flow: Tensor) -> dict[str, Tensor]:
    """The same bytes as a program has them: RGB bytes, and flow in pixels of the input."""
    if rgb.ndim == 6:
        rgb, flow = rgb.transpose(2, 3), flow.transpose(2, 3)
    rgb, flow = rgb[:, 0].contiguous(), flow[:, 0].float()
    scale = FLOW_SCALE.repeat(1, flow.shape[1] // 2).reshape(NUM, -1, *[1] * (flow.ndim - 2))
    return {"rgb": rgb, "flow": (flow - ZERO_LEVEL) * BOUND / LEVELS_PER_SIDE * scale}


def compare(network: TrainedNetwork, form: Format, path: Path, frames: NDArray[np.uint8]) -> None:
    rgb, flow = snippets(network, frames)
    inputs = network_inputs(rgb, flow, FLOW_SCALE)
    with torch.inference_mode():
        for name, scores in network(*inputs).items():
            # Scores of the size of a trained network's: 1e-5 of smaller ones would say little.
            network.branch(name).fc.weight *= 3 / scores.abs().max()
        own = network(*inputs)
    facts = export_network(network, form, path)
    given = {name: value for name, value in of_a_user(rgb, flow).items() if name in facts["inputs"]}
    found = (run_torchscript if form == "torchscript" else run_onnx)(path, given, facts)
    assert found.keys() == {*facts["outputs"]}
    for name, scores in own.items():
        assert scores.abs().max() > 2
        alone = found["scores"] if len(own) == 1 else found[f"{name}_scores"]
        torch.testing.assert_close(alone, scores, rtol=0, atol=1e-5)
    if len(own) == 2:
        weights = facts["fused"]
        fused = sum(weights[name] * scores for name, scores in own.items())
        expected = fused / sum(weights.values())
        torch.testing.assert_close(found["scores"], expected, rtol=0, atol=1e-5)


def as_json(facts: dict[str, Any]) -> dict[str, Any]:
    """With lists for tuples."""
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return found


def run_torchscript(
    path: Path, given: dict[str, Tensor], facts: dict[str, Any]
) -> dict[str, Tensor]:
    extra = {"twinstream": ""}
    with warnings.catch_warnings():
        # torch prefers other formats.
        warnings.simplefilter("ignore")
        program = torch.jit.load(path, _extra_files=extra)
    assert json.loads(extra["twinstream"]) == as_json(facts)
    return dict(zip(facts["outputs"], program(*given.values()), strict=True))


def run_onnx(path: Path, given: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, Tensor]:
    onnxruntime = pytest.importorskip("onnxruntime", exc_type=ImportError)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["twinstream"]) == as_json(facts)
    scores = session.run(facts["outputs"], {name: value.numpy() for name, value in given.items()})
    return dict(zip(facts["outputs"], map(torch.tensor, scores), strict=True))


@pytest.fixture(scope="module")
def drawn() -> NDArray[np.uint8]:
    """Frames of a pattern that moves by a pixel and a half."""
    rng = np.random.default_rng(3)
    pattern = cv2.GaussianBlur(rng.integers(0, 256, (64, 96, 3), np.uint8), (0, 0), 2)
    shifts = [np.array([[1, 0, -1.5 * t], [0, 1, -t]], np.float32) for t in range(12)]
    return np.stack([cv2.warpAffine(pattern, shift, (64, 48)) for shift in shifts])


@pytest.mark.parametrize(("kind", "stages", "model"), KINDS)
def test_torchscript_gives_the_scores_of_the_network(
    tmp_path: Path, drawn: NDArray[np.uint8], kind: str, stages: list[str], model: dict[str, Any]
) -> None:
    compare(new_network(tmp_path, kind, stages, model), "torchscript", tmp_path / "x.pt", drawn)


@pytest.mark.parametrize(("kind", "stages", "model"), [KINDS[1], KINDS[6], KINDS[8], KINDS[10]])
def test_onnx_gives_the_scores_of_the_network(
    tmp_path: Path, drawn: NDArray[np.uint8], kind: str, stages: list[str], model: dict[str, Any]
) -> None:
    pytest.importorskip("onnx")
    compare(new_network(tmp_path, kind, stages, model), "onnx", tmp_path / "x.onnx", drawn)


@pytest.mark.real
@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_exports_of_a_crop_with_both_ways_of_attention_fit_on_real_snippets(
    tmp_path: Path, form: Format
) -> None:
    videos = sorted((DATA / "ucf101_5cls").rglob("*.avi"))
    if not videos:
        pytest.skip(f"no videos in {DATA}")
    if form == "onnx":
        pytest.importorskip("onnx")
    capture, frames = cv2.VideoCapture(str(videos[0])), []
    while len(frames) < 12:
        frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
    # res3 has 36 keys for 128 channels, and attends as the formula has it; res4 folds 9 for 256.
    network = new_network(tmp_path, "cma", ["flow", "iter1", "iter2"], {}, side=96)
    compare(network, form, tmp_path / "exported", np.stack(frames))


def test_exported_weights_are_first_weights_and_tell_what_they_are(tmp_path: Path) -> None:
    network = new_network(tmp_path, "cma", ["flow", "iter1"], {})
    facts = export_network(network, "safetensors", tmp_path / "x.safetensors")
    found = read_state(tmp_path / "x.safetensors")
    model = found.pop("model")
    assert all(torch.equal(model[name], value) for name, value in network.state_dict().items())
    assert {name: value for name, value in found.items() if value is not None} == facts
    assert facts["classes"] == ["left", "right"]
    assert (facts["kind"], facts["family"], facts["stage"]) == ("cma", "resnet", "iter1")


@pytest.mark.parametrize(("scaled", "frame"), [(True, "input"), (False, "stored frame")])
def test_the_file_says_of_which_frame_the_pixels_of_flow_are(
    tmp_path: Path, scaled: bool, frame: str
) -> None:
    network = new_network(tmp_path, "flow", ["flow"], {})
    settings = network.settings
    train = settings.train.model_copy(update={"scale_motion": scaled})
    network.settings = settings.model_copy(update={"train": train})
    (said,) = ExportedNetwork(network).facts()["inputs"].values()
    assert said.startswith(f"float32 pixels of the {frame}, ")


def test_onnx_without_its_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = new_network(tmp_path, "rgb", ["rgb"], {})
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="the package onnx is not installed; pip install onnx"):
        export_network(network, "onnx", tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
