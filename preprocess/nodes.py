"""What the nodes of a cluster must have alike, found before their first job instead of in the
bytes.

Bytes depend on our own source, on the libraries that decode, compute and encode, and on the CPU's
architecture; and a node that does not see the disk would tell of missing videos, and write where
nobody looks. The price of asking each node is a second or two at its start.
"""

import hashlib
import platform
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
from av import library_versions

from twinstream.errors import InputError

PACKAGES = ("twinstream", "av", "llvmlite", "numba", "numpy", "pyarrow", "torch")
SOURCES = ("preprocess", "shards")
FFMPEG_LIBRARIES = ("libavcodec", "libavformat", "libswscale")
NUM_DIGITS = 12


@dataclass(frozen=True)
class NodeReport:
    """What a node says of itself: its host, versions by name, and whether it sees the videos and
    the output.
    """

    host: str
    versions: dict[str, str]
    sees_root: bool = True
    sees_out: bool = True


def versions_here() -> dict[str, str]:
    """Version of everything on which the bytes of a dataset depend, by name."""
    ffmpeg = (f"{name} {'.'.join(map(str, library_versions[name]))}" for name in FFMPEG_LIBRARIES)
    jpeg = re.search(r"JPEG:\s+(.*)", cv2.getBuildInformation())
    return {name: _version(name) for name in PACKAGES} | {
        "twinstream source": source_digest(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "ffmpeg": ", ".join(ffmpeg),
        "opencv": cv2.__version__,
        "opencv's JPEG": jpeg[1] if jpeg else "unknown",
        "machine": platform.machine(),
    }


def source_digest(folder: Path) -> str:
    """Of the two packages below `folder` that make datasets: the same for a checkout and for what
    pip installed.
    """
    digest = hashlib.sha256()
    for package in SOURCES:
        for path in sorted((folder / package).rglob("*.py")):
            digest.update(
                path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0"
            )
    return digest.hexdigest()[:NUM_DIGITS]


def look_around(root: str | None, sign: str | None) -> NodeReport:
    """Of this node; `root` and `sign`, a file of the output folder, are local paths it must see,
    None where remote.
    """
    sees_root, sees_out = (path is None or Path(path).exists() for path in (root, sign))
    return NodeReport(socket.gethostname(), versions_here(), sees_root, sees_out)


def node_task() -> Callable[[str | None, str | None], NodeReport | tuple[str, str]]:
    """`look_around` as a function that can be sent to where twinstream is not: a nested one is
    pickled by value.
    """

    def look(root: Any, sign: Any) -> Any:
        import socket

        try:
            from twinstream.preprocess.nodes import look_around
        except ImportError as error:
            return socket.gethostname(), str(error)
        return look_around(root, sign)

    return look


@dataclass(frozen=True)
class CommonGround:
    """What this node has and every other must have too: versions, folder of the videos, a file in
    the output folder.

    Paths are None where every node sees them by nature.
    """

    versions: dict[str, str]
    root: str | None = None
    sign: str | None = None

    def check(self, report: NodeReport | tuple[str, str]) -> None:
        """InputError, naming the node, when it cannot take part."""
        if not isinstance(report, NodeReport):
            host, text = report
            raise InputError(
                f"node {host}: has no twinstream, or another one ({text}); install the same on "
                "every node"
            )
        told = [
            f"{name} is {report.versions.get(name)} there and {self.versions.get(name)} here"
            for name in sorted(report.versions.keys() | self.versions.keys())
            if report.versions.get(name) != self.versions.get(name)
        ]
        if told:
            raise InputError(
                f"node {report.host}: {', '.join(told)}; every node needs the same versions"
            )
        folders = (
            ("dataset.root", self.root, report.sees_root),
            ("shards.path", self.sign and Path(self.sign).parent, report.sees_out),
        )
        for name, folder, seen in folders:
            if not seen:
                raise InputError(
                    f"node {report.host}: does not see {name} {folder}; expected a disk that all "
                    "nodes share, or a URI"
                )


@contextmanager
def common_ground(root: object, out: object, *, on: bool = True) -> Iterator[CommonGround | None]:
    """What to compare other nodes with, None unless `on`; within the block the output folder holds
    a sign to look for.

    Only paths of this machine's disks are looked for: `root` and `out` may be something else.
    """
    if not on:
        yield None
        return
    sign = None
    if isinstance(out, Path):
        out.mkdir(parents=True, exist_ok=True)
        sign = out / f".nodes.{secrets.token_hex(4)}.tmp"
        sign.touch()
    try:
        yield CommonGround(
            versions_here(),
            str(root) if isinstance(root, Path) else None,
            str(sign) if sign else None,
        )
    finally:
        if sign:
            sign.unlink(missing_ok=True)


def num_places(resources: dict[str, float], gpu_share: float, cores: int = 1) -> int:
    """Workers of so many cores there is room for: 16 CPUs and 1 GPU at a share of 0.25 -> 4, at a
    share of 0 -> 16.
    """
    by_cores = int(resources.get("CPU", 1)) // cores
    return (
        by_cores
        if gpu_share == 0
        else min(by_cores, int(round(resources.get("GPU", 0) / gpu_share, 6)))
    )


def _version(name: str) -> str:
    try:
        # torch 2.11.0+cpu and 2.11.0+cu128 are one release.
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "unknown"
