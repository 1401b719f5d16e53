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

from benchmarks.proofs.actions import Proof, proof_command

SIZE, CROP = 96, 64
BOUND = 20 * SIZE / 256
NUM_SEEDS = 3
FROM_RGB = "model.rgb_weights={base}/rgb.safetensors"


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
        "model": {
            "kind": "two_stream",
            "depth": 18,
            "dropout": 0.2,
            "rgb_weights": None,
            "flow_weights": None,
        },
        "train": {
            "stages": ["flow", "rgb"],
            "epochs": 30,
            "batch_size": 8,
            # Nearly half of the fields show somebody who stands still.
            "segments": 3,
            "crop_size": CROP,
            "scales": [1, 0.875, 0.75],
            "learning_rate": 0.003,
            # Off: a branch that begins late would have its rate cut before.
            "plateau_patience": 30,
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
        "learning rate 0.01": (["train.learning_rate=0.01"], []),
        "one segment, batch 24": (["train.segments=1", "train.batch_size=24"], []),
        "CMA at the end of res4 alone": ([], ["model.attention_at=last_of_res4"]),
        "CMA, 60 epochs": ([], ["train.epochs=60", "train.plateau_patience=60"]),
        "CMA from the two-stream RGB": ([], [FROM_RGB]),
        "CMA from it, behind attention alone": ([], [FROM_RGB, "train.trainable=behind_attention"]),
    },
)
main = proof_command(PROOF, "Five actions of UTD-MHAD, across people.")

if __name__ == "__main__":
    main()
