"""What the nodes of a cluster must have in common, checked before a node gets its first job.

The bytes of a dataset depend on our own source, on the libraries that decode, compute and encode,
and on the CPU's architecture. A node that does not see the disk would report its videos as missing,
and write shards where nobody looks. The price: a second or two for each node that joins.
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

from twinstream.errors import InputError

PACKAGES = ("twinstream", "av", "llvmlite", "numba", "numpy", "pyarrow", "torch")
SOURCES, SUFFIXES = ("preprocess", "shards"), (".py", ".cu")
FFMPEG_LIBRARIES = ("libavcodec", "libavformat", "libswscale")
NUM_DIGITS = 12


@dataclass(frozen=True)
class NodeReport:
    """A node's host, its versions by name, and whether it sees the videos and the output folder."""

    host: str
    versions: dict[str, str]
    sees_root: bool = True
    sees_out: bool = True


# A node on which twinstream cannot be imported answers with its host and the import's error.
NodeAnswer = NodeReport | tuple[str, str]


def versions_here() -> dict[str, str]:
    """Version of everything on which the bytes of a dataset depend, by name."""
    # Here alone, so that who only counts nodes and retries does without FFmpeg.
    from av import library_versions

    ffmpeg = (f"{name} {'.'.join(map(str, library_versions[name]))}" for name in FFMPEG_LIBRARIES)
    # OpenCV has no function for the version of the JPEG library it was built with.
    jpeg = re.search(r"JPEG:\s+(.*)", cv2.getBuildInformation())
    return {name: package_version(name) for name in PACKAGES} | {
        "twinstream source": source_digest(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "ffmpeg": ", ".join(ffmpeg),
        "opencv": cv2.__version__,
        "opencv's JPEG": jpeg[1] if jpeg else "unknown",
        "machine": platform.machine(),
    }


def source_digest(folder: Path) -> str:
    """Digest of the two packages below `folder` that make datasets.

    It is the same for a checkout and for an installed package.
    """
    digest = hashlib.sha256()
    for package in SOURCES:
        for path in sorted((folder / package).rglob("*")):
            if path.suffix not in SUFFIXES:
                continue
            # Zero bytes end the name and the text, so that text cannot pass for the next name.
            digest.update(
                path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0"
            )
    return digest.hexdigest()[:NUM_DIGITS]


def report_here(root: str | None, probe: str | None) -> NodeReport:
    """The report of this node.

    `root` and `probe`, a file in the output folder, are local paths that it must see; None if
    remote.
    """
    sees_root, sees_out = (path is None or Path(path).exists() for path in (root, probe))
    return NodeReport(socket.gethostname(), versions_here(), sees_root, sees_out)


def node_task() -> Callable[[str | None, str | None], NodeAnswer]:
    """`report_here` as a function that also runs on a node without twinstream.

    Ray sends a nested function as code, and any other by its module's name.
    """

    def answer(root: Any, probe: Any) -> Any:
        import socket

        try:
            from twinstream.preprocess.cluster.nodes import report_here
        except ImportError as error:
            return socket.gethostname(), str(error)
        return report_here(root, probe)

    return answer


@dataclass(frozen=True)
class NodeRequirements:
    """What every node must have: the versions, the videos' folder and a file in the output folder.

    A path is None where it is remote.
    """

    versions: dict[str, str]
    root: str | None = None
    probe: str | None = None

    def check(self, answer: NodeAnswer) -> None:
        """InputError, naming the node, when it cannot take part."""
        if not isinstance(answer, NodeReport):
            host, text = answer
            raise InputError(
                f"node {host}: has no twinstream, or another one ({text}); install the same on "
                "every node"
            )
        differences = [
            f"{name} is {answer.versions.get(name)} there and {self.versions.get(name)} here"
            for name in sorted(answer.versions.keys() | self.versions.keys())
            if answer.versions.get(name) != self.versions.get(name)
        ]
        if differences:
            raise InputError(
                f"node {answer.host}: {', '.join(differences)}; every node needs the same versions"
            )
        folders = (
            ("dataset.root", self.root, answer.sees_root),
            ("shards.path", self.probe and Path(self.probe).parent, answer.sees_out),
        )
        for name, folder, is_seen in folders:
            if not is_seen:
                raise InputError(
                    f"node {answer.host}: does not see {name} {folder}; expected a disk that all "
                    "nodes share, or a URI"
                )


@contextmanager
def node_requirements(root: object, out: object) -> Iterator[NodeRequirements]:
    """What this node has; within the block the output folder holds a file that others look for.

    Only local paths are looked for: `root` and `out` may be remote locations.
    """
    probe = None
    if isinstance(out, Path):
        out.mkdir(parents=True, exist_ok=True)
        # A new file, because each node's own disk may have a folder of the same name.
        probe = out / f".nodes.{secrets.token_hex(4)}.tmp"
        probe.touch()
    try:
        yield NodeRequirements(
            versions_here(),
            str(root) if isinstance(root, Path) else None,
            str(probe) if probe else None,
        )
    finally:
        if probe:
            probe.unlink(missing_ok=True)


def package_version(name: str) -> str:
    """Of an installed package, without what follows a plus sign; `unknown` where it is absent."""
    try:
        # torch 2.11.0+cpu and 2.11.0+cu128 are one release.
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return "unknown"
