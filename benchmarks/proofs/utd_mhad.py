"""Real actions across people: `python -m benchmarks.proofs.utd_mhad --data DIR`.

Five actions of UTD-MHAD, 4 times by each of 8 people, one room and one pose: odd people to learn
from, even ones to be tested on. swipe_left and swipe_right differ in their direction alone, so
nothing is mirrored. The codec's bound is the paper's 20 pixels at 256, scaled with the picture.
The 4 times of a person and an action are alike and drawn together; 4 people are too few to be drawn
themselves, so the intervals say nothing of other people. `--choose` compares settings on the
training people's number 7 and trains on the other three (docs/results.md).
"""

from pathlib import Path
from typing import Any

from benchmarks.proofs.actions import CMA_TRIED, IMAGENET_START, Proof, proof_command

SIZE, CROP = 96, 64
BOUND = 20 * SIZE / 256
NUM_SEEDS = 3


def proof_settings(data: Path, out: Path) -> dict[str, Any]:
    """pipeline.yaml of the first seed's two-stream run."""
    return {
        "dataset": {
            "kind": "csv",
            "root": str(data / "videos"),
            "annotations": str(data / "split.csv"),
        },
        "preprocess": {"size": SIZE, "bound": BOUND},
        "shards": {"path": str(out / "shards")},
        "model": {"kind": "two_stream", "dropout": 0.2, **IMAGENET_START},
        "train": {
            "stages": ["flow", "rgb"],
            "epochs": 80,
            "batch_size": 8,
            # Nearly half of the fields show somebody who stands still.
            "segments": 3,
            "crop_size": CROP,
            "scales": [1, 0.875, 0.75],
            "learning_rate": 0.002,
            # Never cut: a branch that begins late would be cut before.
            "plateau_patience": 100,
            "validate_split": False,
            "flip": False,
            "workers": 0,
        },
        "test": {"split": "test", "segments": 8, "crops": 1},
    }


PROOF = Proof(
    name="utd_mhad5",
    lists="split.csv",
    settings=proof_settings,
    folds={f"seed{seed}": [f"train.seed={seed}"] for seed in range(NUM_SEEDS)},
    alike=r"(\w+)/a\d+_(s\d+)_",
    held_out="_s7_",
    tried={
        "as chosen": ([], []),
        "learning rate 0.001": (["train.learning_rate=0.001"], []),
        "40 epochs": (["train.epochs=40"], []),
        "dropout 0.8": (["model.dropout=0.8"], []),
        **CMA_TRIED,
    },
    # RGB begins to learn after 60 epochs.
    scratch={"learning_rate": 0.01, "epochs": 100},
)
main = proof_command(PROOF, "Five actions of UTD-MHAD, across people.")

if __name__ == "__main__":
    main()
