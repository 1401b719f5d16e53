"""SHA-256 of files, to compare folders with."""

import hashlib
from pathlib import Path


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def dataset_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the dataset, without the two files that describe the run."""
    # These two hold times, which differ between runs that make the same dataset.
    found = digests(folder)
    return {name: digest for name, digest in found.items() if name not in ("run.json", "run.jsonl")}
