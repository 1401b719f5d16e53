"""The parameters of TV-L1 as settings and as engines take them."""

from dataclasses import asdict

import pytest
from pydantic import ValidationError

from twinstream.preprocess.flow.engine import TvL1Params
from twinstream.preprocess.flow.tvl1_settings import TvL1Settings


def test_settings_and_parameters_are_the_same_list_with_the_same_defaults() -> None:
    assert list(TvL1Settings().model_dump().items()) == list(asdict(TvL1Params()).items())


def test_every_setting_reaches_the_parameters() -> None:
    chosen = {
        "tau": 0.2,
        "lambda": 0.1,
        "theta": 0.4,
        "scales": 2,
        "warps": 3,
        "epsilon": 0.02,
        "iterations": 50,
        "scale_step": 0.6,
        "median": 5,
    }
    settings = TvL1Settings.model_validate(chosen)
    assert list(asdict(settings.params()).values()) == list(chosen.values())
    assert settings.as_dict() == {**chosen, "gamma": 0.0}


def test_the_defaults_are_those_of_opencvs_gpu_implementation() -> None:
    assert TvL1Settings().as_dict() == {
        "tau": 0.25,
        "lambda": 0.15,
        "theta": 0.3,
        "scales": 5,
        "warps": 5,
        "epsilon": 0.01,
        "iterations": 300,
        "scale_step": 0.8,
        "median": None,
        "gamma": 0.0,
    }


def test_lambda_is_set_under_its_own_name() -> None:
    assert TvL1Settings.model_validate({"lambda": 0.2}).lambda_ == 0.2


@pytest.mark.parametrize(
    "wrong",
    [
        {"lamda": 0.1},
        {"tau": 0},
        {"median": 4},
        {"median": -1},
        {"scale_step": 1.0},
        {"gamma": 0.1},
        {"warps": 101},
        {"iterations": 10_001},
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TvL1Settings.model_validate(wrong)
