"""Section `preprocess.tvl1` of pipeline.yaml: the parameters of TV-L1, checked.

Apart from `TvL1Params`, which holds them, because engines run where pydantic is not installed.
"""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from twinstream.preprocess.flow.engine import TvL1Params
from twinstream.section import Section


class TvL1Settings(Section):
    """The fields of `TvL1Params`, with its defaults; `gamma` is 0 and not offered."""

    model_config = ConfigDict(populate_by_name=True)

    tau: float = Field(TvL1Params.tau, gt=0)
    """Time step of the dual update; the scheme converges for at most 0.25."""
    # `lambda` is a keyword of Python: only settings and manifests call it that.
    lambda_: float = Field(
        TvL1Params.lambda_, gt=0, validation_alias="lambda", serialization_alias="lambda"
    )
    """Weight of the brightness term, for gray levels 0 to 255: smaller gives smoother flow."""
    theta: float = Field(TvL1Params.theta, gt=0)
    """Tightness of the coupling between the brightness and the smoothness step."""
    scales: int = Field(TvL1Params.scales, ge=1, le=256)
    """Pyramid levels at most; a level below 16 pixels a side is not used."""
    warps: int = Field(TvL1Params.warps, ge=1, le=100)
    """How often a level warps the second frame anew."""
    epsilon: float = Field(TvL1Params.epsilon, ge=0)
    """A warp ends when the flow's root mean square change in pixels is at most this; 0: never."""
    iterations: int = Field(TvL1Params.iterations, ge=1, le=10_000)
    """Iterations of one warp at most."""
    scale_step: float = Field(TvL1Params.scale_step, gt=0, lt=1)
    """Size of a level relative to the next finer one."""
    median: Literal[3, 5] | None = TvL1Params.median
    """Side of a median filter on the flow before every warp; off by default."""

    def params(self) -> TvL1Params:
        """What engines take."""
        return TvL1Params(**self.model_dump())

    def as_dict(self) -> dict[str, Any]:
        """Every parameter under its name in the settings, `gamma` included, for the manifest."""
        return {**self.model_dump(by_alias=True), "gamma": 0.0}
