"""Options of commands that say how flow is written in bytes."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A range of numbers without inf and nan, which compares with no end of a range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As of a FloatRange; a usage error for what is not finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


# As of preprocess.bound, by which predict makes flow.
BOUND = FiniteRange(0, 1000, min_open=True)


def with_codec(levels: float) -> Callable[[F], F]:
    """Add the options of a foreign flow codec; `levels` is the default of --levels."""
    levels_help = "Bytes from no motion to the bound; 127 for what twinstream wrote."
    options = (
        click.option("--bound", required=True, type=BOUND, help="Pixels of the codec's bound."),
        click.option(
            "--zero",
            type=FiniteRange(0, 255),
            default=128,
            show_default=True,
            help="Byte of no motion.",
        ),
        click.option(
            "--levels",
            type=FiniteRange(1, 255),
            default=levels,
            show_default=True,
            help=levels_help,
        ),
    )

    def add(command: F) -> F:
        # click shows the option that was added last first.
        for option in reversed(options):
            command = option(command)
        return command

    return add
