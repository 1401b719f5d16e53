"""A dataset that `preprocess` made of drawn videos, and a run on it, as in docs/python.md."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.runs import write_run
from tests.support.videos import moving_square, write_video
from twinstream.preprocess.run import preprocess
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards.read.dataset import open_shards
from twinstream.train.run_folder import keep_manifest

STEPS = {"Run": 4, "Walk": 1}
VIDEOS = {"train": ["Run", "Walk", "Run", "Walk"], "test": ["Run"]}


def write_folder(folder: Path) -> Path:
    """`folder` with videos/, the dataset out/shards (48x40), the run runs/cma and video.mp4."""
    table = ["path,label,split"]
    number = 0
    for split, classes in VIDEOS.items():
        for name in classes:
            number += 1
            path = f"{name}/v_{name}_g{number:02d}_c01.avi"
            write_video(folder / "videos" / path, drawn(STEPS[name], 11 + number, shift=number))
            table.append(f"{path},{name},{split}")
    (folder / "videos" / "broken.avi").write_bytes(b"no video")
    table.append("broken.avi,Run,test")
    (folder / "videos.csv").write_text("\n".join(table))
    write_video(folder / "video.mp4", drawn(STEPS["Walk"], 17))
    write_video(folder / "short.mp4", drawn(STEPS["Walk"], 3))
    tree = {
        "dataset": {
            "kind": "csv",
            "root": str(folder / "videos"),
            "annotations": str(folder / "videos.csv"),
        },
        "preprocess": {
            "size": [48, 40],
            "bound": 10,
            "tvl1": {"warps": 2, "iterations": 20},
            "engine": "numba",
            "workers": 1,
        },
        "shards": {"path": str(folder / "out" / "shards"), "jpeg_quality": 90},
    }
    settings = build_settings(Settings, tree)
    preprocess(settings.dataset, settings.preprocess, settings.shards)
    dataset = open_shards(folder / "out" / "shards")
    run = folder / "runs" / "cma"
    write_run(run, Path(str(dataset.path)), classes=dataset.classes, bound=dataset.codec.bound)
    keep_manifest(run, dataset.manifest)
    return folder


def drawn(step: int, num_frames: int, shift: int = 0) -> NDArray[np.uint8]:
    """A square that moves `step` pixels a frame, in a picture that is rolled down by `shift`."""
    return np.roll(moving_square(num_frames, step=step), shift, axis=1)
