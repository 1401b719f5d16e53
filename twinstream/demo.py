"""The demo: every step on drawn videos, to accuracies whose best possible values are known.

It shows in minutes, without data or GPU, that the pipeline learns what it should. Ray and torch are
imported inside the functions that need them, so that `--help` stays quick.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from twinstream.errors import InputError
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards.storage.lock import OWNER_NAME, owned

DEMO_SEED = 0
DEMO_FRAMES = 12
DEMO_CMA_EPOCHS = 16
DEMO_MARK = ".twinstream-demo"
DEMO_VIDEOS_PER_PAIR = {"train": 40, "test": 12}


def train_and_score(
    tree: Mapping[str, Any], overrides: Sequence[str], run: Path
) -> dict[str, float]:
    """Train into `run`, or resume, and test it; top-1 in [0, 1] by score (rgb, fused 1:1 ...)."""
    from twinstream.train.fit import train
    from twinstream.train.score.evaluate import score_run

    settings = build_settings(Settings, deepcopy(dict(tree)), overrides).run_settings()
    train(settings, run, resume=True)
    return {
        name: figures["top1"] for name, figures in score_run(run, settings.test)["scores"].items()
    }


def demo_settings(out: Path) -> dict[str, Any]:
    """pipeline.yaml of the demo: all small; no mirroring, as left and right are classes here."""
    return {
        "dataset": {"kind": "folders", "root": str(out / "videos")},
        # The paper's 20 pixels at 256, scaled with the picture: a codec level is the same part of
        # the picture.
        "preprocess": {"size": 64, "bound": 5},
        "shards": {"path": str(out / "shards")},
        "model": {
            "kind": "two_stream",
            "depth": 18,
            "dropout": 0.0,
            "rgb_weights": None,
            "flow_weights": None,
        },
        "train": {
            "stages": ["flow", "rgb"],
            "epochs": 8,
            "batch_size": 16,
            "segments": 1,
            "crop_size": 56,
            "flip": False,
            # As when the figures in docs/results.md were taken; crops are resized to 56.
            "scale_motion": True,
            "workers": 0,
        },
        "test": {"segments": 3, "crops": 1},
    }


def cma_overrides(out: Path) -> list[str]:
    """Overrides of the CMA run: stage iter1, on the flow branch of the two-stream run."""
    weights = out / "two_stream" / "checkpoint.pt"
    return [
        "model.kind=cma",
        "train.stages=[iter1]",
        f"train.epochs={DEMO_CMA_EPOCHS}",
        f"model.flow_weights={weights}",
    ]


def run_demo(
    out: Path,
    videos_per_pair: Mapping[str, int] = DEMO_VIDEOS_PER_PAIR,
    overrides: Sequence[str] = (),
) -> dict[str, float]:
    """Draw duet, preprocess, train and test both kinds of network; returns their accuracies."""
    with _emptied(out):
        return _run(out, videos_per_pair, overrides)


def _run(
    out: Path, videos_per_pair: Mapping[str, int], overrides: Sequence[str]
) -> dict[str, float]:
    from twinstream.preprocess.duet import CEILINGS, write_duet
    from twinstream.preprocess.run import preprocess
    from twinstream.shards.format.video_table import summary
    from twinstream.shards.preview import write_preview
    from twinstream.shards.read.dataset import ShardDataset
    from twinstream.train.report.figures import write_bars

    begun = time.monotonic()
    tree = demo_settings(out)
    size = tree["preprocess"]["size"]
    print(f"drawing {16 * sum(videos_per_pair.values())} videos", flush=True)
    write_duet(
        out / "videos",
        videos_per_pair=videos_per_pair,
        size=size,
        num_frames=DEMO_FRAMES,
        seed=DEMO_SEED,
    )
    # Not used here: a user can start from it with `twinstream train -c`.
    (out / "pipeline.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    settings = build_settings(Settings, deepcopy(tree))
    rows = preprocess(settings.dataset, settings.preprocess, settings.shards, local=True)
    print(f"{summary(rows)} -> {settings.shards.path}", flush=True)
    dataset = ShardDataset(settings.shards.path)
    held_out = dataset.samples("test")
    write_preview(dataset, held_out[:: len(held_out) // 3][:3], out / "flow.png")
    runs: dict[str, list[str]] = {"two_stream": [], "cma": cma_overrides(out)}
    top1 = {
        name: train_and_score(tree, [*changes, *overrides], out / name)
        for name, changes in runs.items()
    }
    reached = {
        "rgb": top1["two_stream"]["rgb"],
        "flow": top1["two_stream"]["flow"],
        "two-stream": top1["two_stream"]["fused 1:1"],
        "CMA": top1["cma"]["rgb"],
    }
    write_bars(reached, CEILINGS, out / "accuracy.png")
    print(f"top-1 on {len(held_out)} held-out videos, and the best possible:")
    for name, value in reached.items():
        print(f"  {name:<10} {value:6.1%}  of {CEILINGS[name]:.0%}")
    print(f"{out}/accuracy.png, {out}/flow.png · {time.monotonic() - begun:.0f} s")
    return reached


@contextmanager
def _emptied(out: Path) -> Iterator[None]:
    """Hold the demo's folder, made anew; InputError when it holds something that no demo wrote."""
    if out.exists() and not (out / DEMO_MARK).exists():
        raise InputError(
            f"--out {out}: is there already and no demo made it; choose another folder"
        )
    with owned(out, "twinstream demo"):
        # A run of before would be resumed, or refused for its settings.
        try:
            for path in out.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != OWNER_NAME:
                    path.unlink()
            (out / DEMO_MARK).touch()
        except OSError as error:
            raise InputError(f"--out {out}: cannot be written to ({error.strerror})") from error
        yield
