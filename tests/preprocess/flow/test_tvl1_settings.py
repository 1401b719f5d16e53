"""The parameters of TV-L1 as settings and as engines take them."""

from dataclasses import asdict

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
