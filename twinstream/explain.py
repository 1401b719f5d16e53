"""Every setting with its type, default and docstring, of the models alone.

For `twinstream settings`, as text or as the page docs/settings.md.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from twinstream.errors import InputError
from twinstream.section import nearest_key

BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
NAMES = {"string": "text", "boolean": "true or false", "null": "null"}
HEAD = """# Settings

Made by `twinstream settings --markdown`; `twinstream settings SECTION.KEY` prints one of them.
Each is a key of pipeline.yaml, and `--set SECTION.KEY=VALUE` changes it on the command line.
"""
COLUMNS = "| key | type | default | what it is |\n|---|---|---|---|\n"


@dataclass(frozen=True)
class Setting:
    """One key of pipeline.yaml: its path, and what stands for type, default and meaning."""

    path: str
    type: str
    default: str
    text: str


def all_settings(model: type[BaseModel]) -> list[Setting]:
    """Every key below `model`, in the order of the classes."""
    schema = model.model_json_schema()
    return [*_below(schema, schema, model().model_dump(mode="json", by_alias=True), "")]


def chosen_settings(model: type[BaseModel], path: str | None) -> list[Setting]:
    """All of them, those of a section, or one; InputError for another path."""
    found = all_settings(model)
    if path is not None:
        found = [one for one in found if f"{one.path}.".startswith(f"{path}.")]
        if not found:
            raise InputError(f"{path}: no such key{nearest_key(path, model)}")
    return found


def as_text(settings: Sequence[Setting]) -> str:
    """`train.epochs = 30`, the type behind it, the docstring below it."""
    return "\n\n".join(
        f"{one.path} = {one.default}    ({one.type})\n{textwrap.indent(one.text, '    ')}"
        for one in settings
    )


def as_markdown(settings: Sequence[Setting]) -> str:
    """The page: a table for each section."""
    lines, section = [HEAD], ""
    for one in settings:
        if one.path.partition(".")[0] != section:
            section = one.path.partition(".")[0]
            lines.append(
                f"\n## {section}\n\n| key | type | default | what it is |\n|---|---|---|---|\n"
            )
        cells = (f"`{one.path}`", one.type, f"`{one.default}`", " ".join(one.text.split()))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
    return "".join(lines)


def _below(
    node: dict[str, Any], schema: dict[str, Any], default: object, path: str
) -> Iterator[Setting]:
    node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    for name, field in node["properties"].items():
        assert isinstance(default, dict)
        where, value = f"{path}{name}", default[name]
        if "$ref" in field:
            yield from _below(field, schema, value, f"{where}.")
        else:
            shown = yaml.safe_dump(value, default_flow_style=True, width=1000)
            shown = shown.removesuffix("\n").removesuffix("\n...")
            yield Setting(where, type_text(field), shown, field["description"].strip())


def type_text(field: dict[str, Any]) -> str:
    """`{"type": "integer", "minimum": 1}` -> `integer >= 1`."""
    if "anyOf" in field:
        return " or ".join(type_text(one) for one in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(
            str(value).lower() if isinstance(value, bool) else str(value)
            for value in field.get("enum", [field.get("const")])
        )
    if "prefixItems" in field:
        return f"[{', '.join(type_text(one) for one in field['prefixItems'])}]"
    if "items" in field:
        return f"list of: {type_text(field['items'])}"
    if {"minimum", "maximum"} <= field.keys():
        return f"{field['type']} {field['minimum']} to {field['maximum']}"
    limits = ", ".join(f"{sign} {field[name]}" for name, sign in BOUNDS.items() if name in field)
    kind = NAMES.get(field["type"], field["type"])
    return f"{kind} {limits}" if limits else kind
