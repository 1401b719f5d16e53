"""pipeline.yaml, --set, and one line for every mistake."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from tests.support.paths import ROOT
from twinstream.errors import InputError
from twinstream.preprocess.settings import PreprocessSettings
from twinstream.section import build_settings, read_settings
from twinstream.settings import Settings

PIPELINE = ROOT / "pipeline.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(text)
    return path


def test_the_shipped_file_says_what_the_defaults_are() -> None:
    assert read_settings(Settings, PIPELINE) == Settings()


def test_settings_are_read_without_torch() -> None:
    code = (
        "import sys\nimport twinstream.settings\n"
        "sys.exit(','.join({'torch', 'cv2', 'ray', 'pyarrow'} & {*sys.modules}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_setting_has_a_docstring() -> None:
    def fields(model: type[BaseModel]) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                found += fields(field.annotation)
            elif not field.description:
                found.append(f"{model.__name__}.{name}")
        return found

    assert fields(Settings) == []


def test_set_changes_one_value_and_may_name_a_section_the_file_has_not(tmp_path: Path) -> None:
    path = write(tmp_path, "train:\n  epochs: 3\n")
    settings = read_settings(
        Settings, path, ["train.stages=[flow, iter1]", "preprocess.size=340x256", "test.crops=1"]
    )
    assert (settings.train.epochs, settings.train.stages) == (3, ("flow", "iter1"))
    assert (settings.preprocess.size, settings.test.crops) == ((340, 256), 1)


@pytest.mark.parametrize(
    ("value", "size"), [("256", (256, 256)), ("64x48", (64, 48)), ("[64, 48]", (64, 48))]
)
def test_a_size_can_be_written_in_three_ways(value: str, size: tuple[int, int]) -> None:
    assert build_settings(Settings, {}, [f"preprocess.size={value}"]).preprocess.size == size


@pytest.mark.parametrize(
    ("value", "exclude"),
    [("null", ()), ("[]", ()), ("extras", ("extras",)), ('["*.gif", a/b]', ("*.gif", "a/b"))],
)
def test_one_pattern_to_exclude_needs_no_list(value: str, exclude: tuple[str, ...]) -> None:
    settings = read_settings(Settings, PIPELINE, [f"dataset.exclude={value}"])
    assert settings.dataset.exclude == exclude


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "train.epoch: no such key; did you mean train.epochs?"),
        ("trian.epochs=3", "trian: no such key; did you mean train?"),
        ("epochs=3", "epochs: no such key; did you mean train.epochs?"),
        (
            "preprocess.tvl1.lamda=.2",
            "preprocess.tvl1.lamda: no such key; did you mean preprocess.tvl1.lambda?",
        ),
        ("train.epochs=0", "train.epochs: Input should be greater than or equal to 1, not 0"),
        ("train.epochs=many", "train.epochs: Input should be a valid integer"),
        (
            "preprocess.engine=gpu",
            "preprocess.engine: expected auto, resident, cuda, numba, opencv or reference, "
            "not 'gpu'",
        ),
        (
            "dataset.kind=ucf",
            "dataset.kind: expected ucf101, hmdb51, kinetics, folders, csv or rawframes, not 'ucf'",
        ),
        ("train.stages=[flow, iter0]", "train.stages.1: String should match pattern"),
        ("preprocess.size=8", "preprocess.size.0: Input should be greater than or equal to 16"),
        ("train", "--set train: expected section.key=value"),
        ("train.epochs=[", "--set train.epochs=[: '[' is not a YAML value"),
        ("dataset.exclude=*.gif", "stands in quotes within quotes: 'dataset.exclude=\"...\"'"),
        ("train.epochs.more=1", "train.epochs: Input should be a valid integer"),
    ],
)
def test_a_mistake_is_one_line_with_the_path_of_the_key(override: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        build_settings(Settings, {}, [override])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "override",
    [
        *("model.stack_length=1001", "model.clip_length=1001", "model.clip_stride=1001"),
        *("train.segments=10001", "test.segments=10001", "train.crop_size=4097"),
        *("train.workers=1025", "train.seed=-1", "train.seed=9223372036854775808"),
        f"train.stages={['flow'] * 101}",
        f"train.scales={[0.5] * 101}",
        f"model.attention_at={['layer3.5'] * 101}",
        *("preprocess.tvl1.scales=257", "preprocess.tvl1.warps=101"),
        "preprocess.tvl1.iterations=10001",
    ],
)
def test_what_would_fill_memory_or_never_end_is_refused_where_it_is_read(override: str) -> None:
    with pytest.raises(InputError, match=override.partition("=")[0]):
        build_settings(Settings, {}, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.family=p4d", "model.family: expected resnet, p3d or efficientnet_lite0, not 'p4d'"),
        ("model.depth=14", "model.depth: expected 18, 34, 50, 101 or 152 for model.family resnet"),
    ],
)
def test_a_default_that_hangs_on_a_wrong_value_is_no_second_mistake(
    override: str, message: str
) -> None:
    with pytest.raises(InputError) as raised:
        build_settings(Settings, {}, [override])
    assert message in str(raised.value)
    assert "more" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "not YAML"),
        ("- 1\n", "holds a list, expected sections"),
        ("train:\n  epochs: 1\n  epoch: 2\n", "train.epoch: no such key"),
        ("train: 3\n", "train: Input should be a valid dictionary"),
        (f"? {'x' * 100_000}\n: 1\n", "x...: no such key"),
        ('train:\n  "two\\nlines": 1\n', r"train.two\nlines: no such key"),
    ],
)
def test_a_file_that_is_no_settings_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=r"pipeline\.yaml: ") as raised:
        read_settings(Settings, write(tmp_path, text))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1_000


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such settings file"):
        read_settings(Settings, tmp_path / "absent.yaml")


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert read_settings(Settings, write(tmp_path, "")) == Settings()


def test_settings_survive_being_saved(tmp_path: Path) -> None:
    settings = build_settings(Settings, {}, ["preprocess.short_side=128", "train.scales=[1, 0.5]"])
    path = write(tmp_path, yaml.safe_dump(settings.model_dump(mode="json", by_alias=True)))
    assert read_settings(Settings, path) == settings


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize(
    "path", ["preprocess.bound", "preprocess.timeout_seconds", "preprocess.tvl1.tau"]
)
def test_a_number_that_is_not_finite_is_refused(path: str, value: str) -> None:
    name = path.removeprefix("preprocess.")
    with pytest.raises(InputError, match=rf"{name}: .*, not -?(inf|nan)$"):
        build_settings(PreprocessSettings, {}, [f"{name}={value}"])
