"""pipeline.yaml -> frozen settings, with a message of one line for a mistake.

Each program declares its own `Section`s, and each default is written once, there. This module reads
the YAML, applies `--set a.b=v`, and names the nearest right key for a wrong one.
"""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from twinstream.credentials import refuse_credentials
from twinstream.errors import InputError, beginning, shortened
from twinstream.output import one_line


class Section(BaseModel):
    """A section of pipeline.yaml: frozen, and an unknown key, inf or nan is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


M = TypeVar("M", bound=BaseModel)


def read_settings(
    model: type[M],
    path: Path,
    overrides: Sequence[str] = (),
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda tree: tree,
) -> M:
    """The settings of a file with `a.b=v` overrides, checked; InputError in one line."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{path}: no such settings file") from error
    return parse_settings(model, data, path, overrides, change)


def parse_settings(
    model: type[M],
    data: bytes,
    path: Path,
    overrides: Sequence[str] = (),
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda tree: tree,
) -> M:
    """The same from the bytes of the file at `path`.

    `change` is applied to what the file says, before it is checked.
    """
    try:
        tree = yaml.safe_load(data.decode("utf-8"))
    # RecursionError: brackets in brackets; ValueError: no UTF-8, a date or a number that is none.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if tree is not None and not isinstance(tree, dict):
        raise InputError(
            f"{path}: holds a {type(tree).__name__}, expected sections such as `dataset:`"
        )
    return build_settings(model, change(tree or {}), overrides, source=str(path))


def build_settings(
    model: type[M], tree: dict[str, Any], overrides: Sequence[str] = (), source: str = "settings"
) -> M:
    """The same from a tree in memory, which the overrides change."""
    # Before anything else: no message below may repeat a secret.
    for override in overrides:
        refuse_credentials(override, "--set")
        _set(tree, override)
    _refuse_credentials(tree, "", set())
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{source}: {_one_line(error, model)}") from error


def _set(tree: dict[str, Any], override: str) -> None:
    """`a.b=v` sets tree["a"]["b"] to the YAML value v."""
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise InputError(f"--set {override}: expected section.key=value")
    *sections, key = path.split(".")
    for name in sections:
        # A section without keys is None in YAML: `train:` alone.
        if tree.get(name) is None:
            tree[name] = {}
        tree = tree[name]
        if not isinstance(tree, dict):
            raise InputError(f"--set {override}: {name} is no section")
    try:
        tree[key] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"--set {override}: {value!r} is not a YAML value; a text with signs of YAML stands in "
            f"quotes within quotes: '{path}=\"...\"'"
        ) from error


def _refuse_credentials(value: object, path: str, seen: set[int]) -> None:
    """InputError for a URI with a secret anywhere in the tree; it names the key."""
    # An alias of YAML may stand in itself, or in so many places that walking them has no end.
    if id(value) in seen:
        return
    if isinstance(value, dict | list):
        seen.add(id(value))
    if isinstance(value, str):
        refuse_credentials(value, path)
    elif isinstance(value, dict):
        for key, below in value.items():
            _refuse_credentials(below, f"{path}.{key}".lstrip("."), seen)
    elif isinstance(value, list):
        for item in value:
            _refuse_credentials(item, path, seen)


def _one_line(error: ValidationError, model: type[BaseModel]) -> str:
    # Of a default that hangs on a wrong value pydantic says that it has none: no fault of its own.
    first, *others = [e for e in error.errors() if e["type"] != "default_factory_not_called"]
    # pydantic adds names of its own validators to the location.
    path = ".".join(
        str(part)
        for part in first["loc"]
        if not str(part).startswith(("function-", "constrained-"))
    )
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        said = f"no such key{nearest_key(path, model)}"
    else:
        said = f"{first['msg'].removeprefix('Value error, ')}, not {shortened(first['input'])}"
    text = f"{one_line(beginning(path))}: {said}"
    return text + (f" (and {len(others)} more)" if others else "")


def nearest_key(path: str, model: type[BaseModel]) -> str:
    """A hint at the key that was probably meant, or at the keys of the section."""
    keys = _all_keys(model)
    leaf = path.rpartition(".")[2]
    near = difflib.get_close_matches(path, keys, n=1, cutoff=0.6)
    # The right key in the wrong section is far from it as text: compare the last part alone.
    near = near or [key for key in keys if key.rpartition(".")[2] == leaf]
    return (
        f"; did you mean {near[0]}?" if near else f"; keys here: {', '.join(_siblings(path, keys))}"
    )


def _siblings(path: str, keys: list[str]) -> list[str]:
    parent = path.rpartition(".")[0]
    return [key for key in keys if key.rpartition(".")[0] == parent]


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + str(field.validation_alias or name))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _all_keys(field.annotation, f"{prefix}{name}.")
    return keys
