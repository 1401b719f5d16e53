"""What `twinstream settings` says of every setting, and the page that is made of it."""

import pytest

from tests.support.command import run
from tests.support.paths import ROOT
from twinstream.errors import InputError
from twinstream.explain import (
    Setting,
    all_settings,
    as_markdown,
    as_text,
    chosen_settings,
    type_text,
)
from twinstream.section import build_settings
from twinstream.settings import Settings


def test_the_page_of_settings_is_what_the_command_prints() -> None:
    made = as_markdown(all_settings(Settings))
    assert (ROOT / "docs" / "settings.md").read_text() == made, (
        "made anew by: twinstream settings --markdown > docs/settings.md"
    )


def test_every_setting_is_there_with_a_default_that_can_be_set_and_changes_nothing() -> None:
    found = all_settings(Settings)
    assert len({one.path for one in found}) == len(found) > 70
    # What one key's default is may hang on another's.
    overrides = [f"{one.path}={one.default}" for one in found]
    assert build_settings(Settings, {}, overrides) == Settings()


@pytest.mark.parametrize(
    ("path", "paths"),
    [
        ("train.epochs", ["train.epochs"]),
        ("shards", ["path", "videos_per_shard", "jpeg_quality", "cache_dir", "cache_bytes"]),
        ("preprocess.tvl1.lambda", ["preprocess.tvl1.lambda"]),
    ],
)
def test_a_key_or_a_section_is_chosen(path: str, paths: list[str]) -> None:
    found = [one.path.removeprefix("shards.") for one in chosen_settings(Settings, path)]
    assert found == paths


def test_a_key_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"train\.epoch: no such key; did you mean train\.epochs"):
        chosen_settings(Settings, "train.epoch")


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ({"type": "integer", "minimum": 1}, "integer >= 1"),
        ({"type": "integer", "minimum": 16, "maximum": 4096}, "integer 16 to 4096"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text or null"),
        ({"anyOf": [{"type": "string"}, {"const": False, "type": "boolean"}]}, "text or false"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number > 0, <= 1"),
        ({"enum": ["skip", "cut"], "type": "string"}, "skip, cut"),
        ({"type": "array", "items": {"type": "string"}}, "list of: text"),
        ({"type": "array", "prefixItems": [{"type": "integer"}] * 2}, "[integer, integer]"),
    ],
)
def test_a_type_is_said_in_words(field: dict[str, object], text: str) -> None:
    assert type_text(field) == text


def test_a_bar_in_a_docstring_does_not_end_the_cell() -> None:
    assert r"| a \| b |" in as_markdown([Setting("train.x", "text", "null", "a | b")])


def test_the_command_prints_default_type_and_docstring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "settings", "train.momentum") == 0
    assert capsys.readouterr().out == (
        "train.momentum = 0.9    (number >= 0, < 1)\n    Momentum of SGD.\n"
    )
    assert run(monkeypatch, "settings") == 0
    assert capsys.readouterr().out == as_text(all_settings(Settings)) + "\n"
