"""SHA-256 of files, to compare folders with."""

import hashlib
from pathlib import Path


def digests(folder: Path) -> dict[str, str]:
    """Of every file below, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def dataset_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the dataset; the two that tell of the run are no part of it."""
    found = digests(folder)
    return {name: digest for name, digest in found.items() if name not in ("run.json", "run.jsonl")}
