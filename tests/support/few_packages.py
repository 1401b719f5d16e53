"""Stands for a Python with little else than what a GPU needs: `python -m tests.support.few_packages
-m MODULE ARGUMENTS`.

Only the packages below and what they require can be imported, and OpenCV has no contrib modules.
"""

import os
import re
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from typing import Any

import cv2

PACKAGES = ("torch", "triton", "numpy", "pytest", "hypothesis")


def normal(name: str) -> str:
    """`Typing.Extensions` -> `typing-extensions`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(names: Sequence[str]) -> set[str]:
    """These distributions and all that they require, extras left out."""
    found: set[str] = set()
    waiting = [normal(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # Of another platform
            continue
        ours = [re.match(r"[\w.-]+", line) for line in lines if "extra ==" not in line]
        waiting += [normal(match[0]) for match in ours if match]
    return found


def absent_modules() -> set[str]:
    """The names of what is installed here and would not be there."""
    here = required(PACKAGES)
    return {
        module
        for module, distributions in packages_distributions().items()
        if not any(normal(d) in here or d.startswith("opencv") for d in distributions)
    } - {"tests", "benchmarks", "twinstream"}


@dataclass(frozen=True)
class Without:
    """A finder of modules that does not find some."""

    finder: Any
    names: set[str]

    def find_spec(self, name: str, *rest: Any) -> ModuleSpec | None:
        """None for a module that is to be absent."""
        if name.partition(".")[0] in self.names:
            return None
        spec: ModuleSpec | None = self.finder.find_spec(name, *rest)
        return spec

    def __getattr__(self, name: str) -> Any:
        """Whatever else finders have, such as what distributions are installed."""
        return getattr(self.finder, name)


if __name__ == "__main__":
    vars(cv2).pop("optflow", None)
    sys.meta_path[:] = [Without(finder, absent_modules()) for finder in sys.meta_path]
    # Plugins that are installed here would be looked for.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.argv = sys.argv[2:]  # After -m
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
