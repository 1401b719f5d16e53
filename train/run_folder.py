"""A run folder and the settings that it belongs to.

It holds settings.yaml, dataset.json (a copy of the dataset's), starts.jsonl, log.jsonl,
checkpoint.pt, STAGE.pt for each finished stage, and the files of `twinstream test`. A run resumes
only with the settings it was begun with, except for those that do not change the result; the
message names the first key that differs.
"""

from pathlib import Path
from typing import Any

import yaml

from twinstream.errors import InputError
from twinstream.section import Section, build_settings
from twinstream.shards.format.manifest import (
    FILE_NAME,
    Manifest,
    manifest_bytes,
    parse_manifest,
    read_manifest,
)
from twinstream.shards.settings import ShardSettings
from twinstream.shards.storage.atomic import write_atomically
from twinstream.shards.storage.location import locate
from twinstream.train.settings import ModelSettings, TestSettings, TrainSettings

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
SETTINGS = "settings.yaml"
STARTS = "starts.jsonl"
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
# What a run did that was begun before there was such a key
BEFORE = {"train.scale_motion": True}


class RunSettings(Section):
    """The sections of pipeline.yaml that training and testing use."""

    shards: ShardSettings = ShardSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    test: TestSettings = TestSettings()


def can_resume(run: Path, settings: RunSettings, *, resume: bool) -> bool:
    """True when there is a checkpoint to go on from; InputError when the folder holds a run that
    must be kept.
    """
    if not (run / SETTINGS).exists():
        return False
    if not resume:
        raise InputError(f"{run}: holds a run already; give --resume to go on, or another --out")
    # A run stopped before its first checkpoint has settings only: it starts from the beginning.
    refuse_other_settings(run, read_run_settings(run), settings)
    return (run / CHECKPOINT).exists()


def begin_run(run: Path, settings: RunSettings) -> None:
    """Make the folder with the settings and an empty log."""
    tree = settings.model_dump(mode="json")
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_atomically(run / SETTINGS, yaml.safe_dump(tree, sort_keys=False).encode())
        (run / LOG).write_bytes(b"")
    except OSError as error:
        raise InputError(f"--out {run}: cannot be written to ({error.strerror})") from error


def keep_manifest(run: Path, manifest: Manifest) -> None:
    """Copy dataset.json into the run: `predict` needs it when the dataset is gone."""
    write_atomically(run / FILE_NAME, manifest_bytes(manifest))


def read_run_manifest(run: Path, settings: RunSettings) -> Manifest:
    """The manifest of the dataset that the run was trained on.

    The run's own copy, or the dataset's for a run without one. InputError when both are gone.
    """
    path = run / FILE_NAME
    if path.exists():
        return parse_manifest(path.read_bytes(), path)
    try:
        return read_manifest(locate(settings.shards.path))
    except InputError as error:
        raise InputError(f"{run}: keeps no {FILE_NAME}, and of its dataset: {error}") from error


def read_run_settings(run: Path) -> RunSettings:
    """The settings that a run was begun with; InputError when the folder is no run."""
    path = run / SETTINGS
    if not path.exists():
        raise InputError(f"{run}: no {SETTINGS}, so this is not the folder of a run")
    tree = as_it_was_meant(yaml.safe_load(path.read_text()) or {})
    return build_settings(RunSettings, tree, source=str(path))


def as_it_was_meant(tree: dict[str, Any]) -> dict[str, Any]:
    """A stored settings.yaml with today's names for what an older version meant by it."""
    for key, value in BEFORE.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {}).setdefault(name, value)
    # Null meant the training accuracy. A run that begins now stores what null stands for.
    if tree["train"].get("validate_split") is None:
        tree["train"]["validate_split"] = False
    return tree


def with_runs_choices(run: Path, wanted: RunSettings) -> RunSettings:
    """`wanted` with what the run chose when it began, where there is one, for what is left open."""
    if wanted.train.validate_split is not None or not (run / SETTINGS).exists():
        return wanted
    chosen = {"validate_split": read_run_settings(run).train.validate_split}
    return wanted.model_copy(update={"train": wanted.train.model_copy(update=chosen)})


def refuse_other_settings(run: Path, found: RunSettings, wanted: RunSettings) -> None:
    """InputError that names the first key whose change would change the result."""
    old, new = flatten(found.model_dump(mode="json")), flatten(wanted.model_dump(mode="json"))
    for key in old:
        if old[key] != new[key] and not key.startswith(MAY_DIFFER):
            raise InputError(
                f"{run}: was begun with {key} = {old[key]}, not {new[key]}; choose another --out"
            )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
