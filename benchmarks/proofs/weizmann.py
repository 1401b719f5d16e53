"""Real actions, one actor left out at a time: `python -m benchmarks.proofs.weizmann`.

Weizmann has 10 actions by 6 actors. A model is tested on the videos of an actor that it has not
seen, and over the folds every video is tested once. Pictures are small, so the codec's bound is the
paper's 20 pixels at 256, scaled with them: at 20 a step of the codec would be a third of what an
arm moves. What is shared with the other proofs, models and figures, is in `actions`.
"""

from pathlib import Path
from typing import Any

from benchmarks.proofs.actions import IMAGENET_START, Proof, proof_command

SIZE, CROP = 64, 56
BOUND = 20 * SIZE / 256
NUM_ACTORS = 6


def proof_settings(data: Path, out: Path) -> dict[str, Any]:
    """pipeline.yaml of the first fold's two-stream run."""
    return {
        "dataset": {
            "kind": "ucf101",
            "root": str(data / "videos"),
            "splits": str(data / "splits"),
        },
        "preprocess": {"size": SIZE, "bound": BOUND},
        "shards": {"path": str(out / "shards")},
        "model": {"kind": "two_stream", "dropout": 0.2, **IMAGENET_START},
        "train": {
            "split": "train1",
            "stages": ["flow", "rgb"],
            "epochs": 60,
            "batch_size": 10,
            "segments": 1,
            "crop_size": CROP,
            "learning_rate": 0.002,
            "plateau_patience": 100,
            "workers": 0,
        },
        "test": {"split": "test1", "segments": 10, "crops": 10},
    }


PROOF = Proof(
    name="weizmann",
    lists="splits",
    settings=proof_settings,
    folds={
        f"fold{actor}": [f"train.split=train{actor}", f"test.split=test{actor}"]
        for actor in range(1, NUM_ACTORS + 1)
    },
    # Class and actor: one video each.
    alike=r"v_(\w+_g\d+)_",
    held_out="_g02_",
    # Every actor is tested in some fold, so nothing is tried; rate and start are UTD-MHAD's.
    tried={"as chosen": ([], [])},
    # As when the figures of random weights in docs/results.md were taken.
    scratch={
        "learning_rate": 0.01,
        "epochs": 120,
        "plateau_patience": 40,
        "scale_motion": True,
    },
)
main = proof_command(PROOF, "Weizmann, an actor left out at a time.")

if __name__ == "__main__":
    main()
