"""A run folder and the settings that it belongs to.

It holds settings.yaml, dataset.json (a copy of the dataset's), starts.jsonl, log.jsonl,
checkpoint.pt, STAGE.safetensors for each finished stage, and the files of `twinstream test`. A run
resumes with the settings it was begun with. A key that is set beside `--resume` must be the same,
or one that does not change the result, weights that have moved, or more epochs; the message names
the first that differs.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from twinstream.errors import InputError
from twinstream.section import Section, build_settings, parse_settings
from twinstream.shards.format.manifest import (
    FILE_NAME,
    MAX_BYTES,
    Manifest,
    manifest_bytes,
    parse_manifest,
    read_manifest,
)
from twinstream.shards.settings import ShardSettings
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.location import file_sha256, locate, read_whole
from twinstream.train.choices import BOTH, BranchName
from twinstream.train.settings import (
    CHECKPOINT,
    STAGE_ENDS,
    ModelSettings,
    TestSettings,
    TrainSettings,
    weights_file,
)

LOG = "log.jsonl"
SETTINGS = "settings.yaml"
STARTS = "starts.jsonl"
# Of settings.yaml; of log.jsonl and starts.jsonl, some million lines
MAX_SETTINGS_BYTES, MAX_LOG_BYTES = 2**18, 2**30
# Keys that begin with one of these do not change the result of training.
MAY_DIFFER = (
    "train.workers",
    "train.checkpoint_steps",
    "train.device",
    "train.loader",
    "train.stream_url",
    "test.",
    "shards.",
)
# Loaded when the run began: another path is the same setting where the file is the same.
WEIGHTS: dict[str, tuple[BranchName, ...]] = {
    "model.weights": BOTH,
    "model.rgb_weights": ("rgb",),
    "model.flow_weights": ("flow",),
}
# A list may lie elsewhere by now: its keys are compared with those in the checkpoint.
LISTS = ("train.split", "train.validate_split")
# What a run did that was begun before there was such a key
BEFORE = {"train.gradient_through_frozen": False, "train.scale_motion": True}


class RunSettings(Section):
    """The sections of pipeline.yaml that training and testing use."""

    shards: ShardSettings = ShardSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    test: TestSettings = TestSettings()


def network_facts(settings: RunSettings) -> dict[str, Any]:
    """What a file of weights says of its network: kind, family, depth and input."""
    model, shape = settings.model, settings.model.snippet
    return {
        "kind": model.kind,
        "family": model.family,
        "depth": model.depth,
        "attention_at": model.attention_at,
        "frames": shape.frames,
        "fields": shape.fields,
        "stride": shape.stride,
        "crop_size": settings.train.crop_size,
    }


def settings_to_use(run: Path, wanted: RunSettings, *, resume: bool) -> RunSettings:
    """The settings of a run to begin, or of one to go on with.

    InputError when the folder holds a run that must be kept, or that was begun with others.
    """
    if not (run / SETTINGS).exists():
        return wanted
    if not resume:
        raise InputError(f"{run}: holds a run already; give --resume to go on, or another --out")
    return resumed_settings(run, read_run_settings(run), wanted)


def takes_more_epochs(run: Path, settings: RunSettings) -> bool:
    """Whether the settings are those of the run in this folder with a higher number of epochs."""
    begun = (run / SETTINGS).exists()
    return begun and read_run_settings(run).train.epochs < settings.train.epochs


def refuse_small_disk(
    run: Path, weights: int, learning: Mapping[str, int], again: str | None = None
) -> None:
    """InputError where the run's disk lacks room for its files; see `bytes_to_write`.

    `again` is a stage that may be finished and will be once more.
    """
    there = {path.name: path.stat().st_size for path in run.glob("*") if path.suffix in STAGE_ENDS}
    for end in STAGE_ENDS:
        there.pop(f"{again}{end}", None)
    needed, free = bytes_to_write(weights, learning, there), shutil.disk_usage(run).free
    if free < needed:
        raise InputError(
            f"--out {run}: checkpoint.pt, twice while it is replaced, and each STAGE.safetensors "
            f"take {needed / 1e6:,.1f} MB more, and {free / 1e6:,.1f} MB are free; make room or "
            "choose another --out"
        )


def bytes_to_write(weights: int, learning: Mapping[str, int], there: Mapping[str, int]) -> int:
    """Bytes that a run's files still take: checkpoint.pt twice, and a file of each stage left.

    `weights` are the network's bytes, `learning` those of the branch that learns in each stage,
    whose momentum is in checkpoint.pt as well. `there` are sizes of files in the folder, by name.
    """
    left = [stage for stage in learning if not {f"{stage}{end}" for end in STAGE_ENDS} & {*there}]
    if not left:
        return 0
    checkpoint = weights + max(learning[stage] for stage in left)
    return 2 * checkpoint + len(left) * weights - min(there.get(CHECKPOINT, 0), checkpoint)


def remove_leftovers(run: Path) -> None:
    """Remove what killed training runs left; `twinstream test` may be writing files of its own."""
    for name in (*(f"*{end}" for end in STAGE_ENDS), SETTINGS, FILE_NAME):
        for leftover in run.glob(f".{name}.*.tmp"):
            leftover.unlink(missing_ok=True)


def begin_run(run: Path, settings: RunSettings) -> None:
    """Make the folder with the settings and an empty log."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_settings(run, settings)
        (run / LOG).write_bytes(b"")
    except OSError as error:
        raise InputError(f"--out {run}: cannot be written to ({error.strerror})") from error


def write_settings(run: Path, settings: RunSettings) -> None:
    """Replace settings.yaml."""
    tree = settings.model_dump(mode="json")
    write_atomically(run / SETTINGS, yaml.safe_dump(tree, sort_keys=False).encode())


def keep_manifest(run: Path, manifest: Manifest) -> None:
    """Copy dataset.json into the run: `predict` needs it when the dataset is gone."""
    write_atomically(run / FILE_NAME, manifest_bytes(manifest))


def read_run_manifest(run: Path, settings: RunSettings) -> Manifest:
    """The manifest of the dataset that the run was trained on.

    The run's own copy, or the dataset's for a run without one. InputError when both are gone.
    """
    path, dataset = run / FILE_NAME, locate(settings.shards.path)
    if path.exists():
        return parse_manifest(read_whole(path, MAX_BYTES), path)
    if not (dataset / FILE_NAME).exists():
        raise InputError(
            f"{run}: keeps no {FILE_NAME}, and its dataset is no longer at {dataset}; copy the "
            f"dataset's {FILE_NAME} into the run"
        )
    return read_manifest(dataset)


def read_run_settings(run: Path) -> RunSettings:
    """The settings that a run was begun with; InputError when the folder is no run."""
    path = run / SETTINGS
    if not path.exists():
        raise InputError(f"{run}: no {SETTINGS}, so this is not the folder of a run")
    data = read_whole(path, MAX_SETTINGS_BYTES)
    return parse_settings(RunSettings, data, path, change=as_it_was_meant)


def as_it_was_meant(tree: dict[str, Any]) -> dict[str, Any]:
    """A stored settings.yaml with today's names for what an older version meant by it."""
    for key, value in BEFORE.items():
        section, _, name = key.partition(".")
        if isinstance(found := tree.setdefault(section, {}), dict):
            found.setdefault(name, value)
    # Null meant the training accuracy. A run that begins now stores what null stands for.
    train = tree["train"]
    if isinstance(train, dict) and train.get("validate_split") is None:
        train["validate_split"] = False
    return tree


def resumed_settings(run: Path, found: RunSettings, wanted: RunSettings) -> RunSettings:
    """Those of the run, with what is set in `wanted` where that does not change the result.

    InputError that names the first key whose change would.
    """
    tree = found.model_dump(mode="json")
    old = flatten(tree)
    # What is not set is the run's: a default may have changed since it was begun.
    for key, value in flatten(wanted.model_dump(mode="json", exclude_unset=True)).items():
        # Null leaves the choice to the run, which has made it.
        if key == "train.validate_split" and value is None:
            continue
        more_epochs = key == "train.epochs" and value > old[key]
        same = old[key] == value or key.startswith(MAY_DIFFER) or more_epochs
        if not (same or has_moved(run, key, value)):
            raise InputError(
                f"{run}: was begun with {key} = {old[key]}, not {value}; --set "
                f"{key}={json.dumps(old[key])} goes on with it, or choose another --out"
            )
        section, _, name = key.partition(".")
        tree[section][name] = value
    return build_settings(RunSettings, tree, source=str(run / SETTINGS))


def has_moved(run: Path, key: str, value: object) -> bool:
    """Whether a setting names by another path what the run began with, as far as that is seen here.

    A file of weights is compared. Of a list it is seen that the run has one.
    """
    if key in LISTS:
        return any(key in lists for lists in _recorded(run, "lists"))
    if key not in WEIGHTS or not isinstance(value, str) or not weights_file(value).is_file():
        return False
    # The start that began the run has loaded them; later ones have not.
    loaded = [start.get(branch) for start in _recorded(run, "weights") for branch in WEIGHTS[key]]
    return file_sha256(weights_file(value)) in loaded


def _recorded(run: Path, name: str) -> list[dict[str, str]]:
    """What the starts of a run say of its weights or lists."""
    found = []
    for line in logged(run / STARTS):
        with suppress(ValueError, TypeError):
            found.append(dict(line.get(name, {})))
    return found


def logged(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log in their order, those left out that are torn; none without a file."""
    for line in read_whole(path, MAX_LOG_BYTES).splitlines() if path.exists() else []:
        # Torn where the disk was full.
        with suppress(ValueError, RecursionError):
            if isinstance(given := json.loads(line), dict):
                yield given


def logged_epochs(run: Path, stage: str) -> int:
    """How many epochs of a stage have ended, by the run's log."""
    return sum(line.get("stage") == stage and "loss" not in line for line in logged(run / LOG))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
