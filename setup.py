"""What pyproject.toml cannot say: the long description is README.md, with links that hold outside
of the checkout.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup


def portable(text: str, source: str | None) -> str:
    """Markdown whose relative links lead below the address `source`; without one they are plain
    text.
    """

    def link(match: re.Match[str]) -> str:
        name, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        return f"[{name}]({source.rstrip('/')}/{target})" if source else name

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)


# As build tools run it; tests import it.
if __name__ == "__main__":
    here = Path(__file__).parent
    project = tomllib.loads((here / "pyproject.toml").read_text("utf-8"))["project"]
    setup(
        long_description=portable(
            (here / "README.md").read_text("utf-8"), project.get("urls", {}).get("Source")
        ),
        long_description_content_type="text/markdown",
    )
