"""The numbers of the paper (Chi et al., tables 1 to 6), in percent.

A report on Kinetics-400 shows them beside its own, those of Table 6 on UCF-101. They hold for
ResNet-50, in Table 5 for P3D-ResNet-152, 25 segments x 10 crops, 19,169 validation videos. R, F and
S are the scores of the RGB branch, of the flow branch, and of both.
"""

KINETICS_CLASSES, DEPTH = 400, 50
# Family and depth of Tables 1 to 4, and of Table 5
NETWORKS = (("resnet", DEPTH), ("p3d", 152))

# (network, iteration) -> score -> (top-1, top-5)
ACCURACIES: dict[tuple[str, int], dict[str, tuple[float, float]]] = {
    ("baseline", 0): {"R": (67.73, 87.94), "F": (55.73, 79.04), "S": (71.21, 89.92)},
    ("nonlocal", 0): {"R": (68.74, 88.43), "F": (56.66, 80.11), "S": (71.67, 89.87)},
    ("cma", 1): {"R": (72.17, 90.70), "F": (55.73, 79.04), "S": (72.62, 91.04)},
    ("cma", 2): {"R": (68.45, 88.54), "F": (71.17, 90.12), "S": (71.55, 90.24)},
    ("cma", 3): {"R": (72.19, 90.63), "F": (69.81, 89.41), "S": (72.55, 90.82)},
    ("cma_nonlocal", 1): {"R": (72.27, 90.76), "S": (72.60, 91.01)},
}

# Table 5: (network, iteration, frames of a clip) -> score -> top-1
CLIPS: dict[tuple[str, int, int | None], dict[str, float]] = {
    ("baseline", 0, 12): {"R": 70.98, "F": 63.80, "S": 73.91},
    ("baseline", 0, 16): {"R": 71.50, "F": 66.20, "S": 74.62},
    ("cma", 1, 12): {"R": 74.41, "F": 63.80, "S": 75.22},
    ("cma", 1, 16): {"R": 74.86, "F": 66.20, "S": 75.98},
}

# Table 6, UCF-101 from Kinetics, the last layers alone trained anew: score -> top-1. The paper
# names no split; the figures that it compares with are means of the three official ones.
UCF101_CLASSES = 101
TRANSFER: dict[tuple[str, int], dict[str, float]] = {
    ("baseline", 0): {"R": 90.9, "F": 92.4, "S": 95.5},
    ("cma", 1): {"R": 95.3, "S": 96.5},
}

# Number of parameters relative to one ResNet-50
PARAMETERS = {("baseline", "R"): 1.0, ("baseline", "S"): 2.0, ("cma", "R"): 1.8}

# Category -> what two-stream takes it for, of the ten with the largest gain
CONFUSIONS = {
    "gargling": "trimming or shaving beard",
    "tying tie": "tying bow tie",
    "yawning": "baby waking up",
    "cracking neck": "massaging back",
    "kissing": "hugging",
    "rock scissors paper": "shaking hands",
    "running on treadmill": "waxing leg",
    "water sliding": "jumping into pool",
    "sneezing": "crying",
    "breading or breadcrumbing": "cooking chicken",
}
