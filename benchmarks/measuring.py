"""What several benchmarks need: machine name, folder and choice of videos, peak memory.

It imports neither OpenCV nor PyAV: a machine with a GPU may lack both.
"""

import os
import platform
from pathlib import Path

import click

VIDEOS = {"ucf101": 6, "weizmann": 4}
SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov")

data_option = click.option(
    "--data", type=click.Path(path_type=Path), envvar="TWINSTREAM_DATA", help="Folder of videos."
)


def machine() -> str:
    """Processor and number of cores, as far as the system says: `AMD EPYC, 2 cores`."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    # On ARM, Linux lists no model name.
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def peak_kibibytes() -> int:
    """Peak resident memory of this process, in KiB (Linux)."""
    # getrusage would count what the parent held when it started this process as well.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def folder_of_videos(data: Path | None) -> Path:
    """The value of `--data`; ClickException where it is not given or no folder."""
    if data is None or not data.is_dir():
        raise click.ClickException(
            f"no folder of videos at {data}; give --data DIR or set TWINSTREAM_DATA"
        )
    return data


def choose_videos(data: Path) -> list[Path]:
    """Six UCF-101 and four Weizmann videos of the data folder, or ten of all below it."""
    return [
        path
        for name, paths in videos_by_kind(data).items()
        for path in spread(paths, VIDEOS.get(name, sum(VIDEOS.values())))
    ]


def videos_by_kind(data: Path) -> dict[str, list[Path]]:
    """The videos in the folder's `ucf101` and `weizmann`, or all below it under an empty name."""
    found = {name: videos_below(data / name) for name in VIDEOS if (data / name).is_dir()}
    return found or {"": videos_below(data)}


def videos_below(folder: Path) -> list[Path]:
    """Every video below the folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)


def spread(items: list[Path], num: int) -> list[Path]:
    """`num` of the items, evenly over the list; all where there are fewer."""
    return items if len(items) <= num else [items[i * len(items) // num] for i in range(num)]
