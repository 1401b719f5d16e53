"""The one spelling of a manifest."""

import hashlib
import json

import pytest

from twinstream.shards.format.manifest import (
    FileEntry,
    Manifest,
    ShardEntry,
    manifest_bytes,
    our_codec,
    settings_digest,
)


def entry(path: str) -> FileEntry:
    return FileEntry(path=path, num_bytes=4096, sha256="0" * 64)


def shard(name: str) -> ShardEntry:
    return ShardEntry(tar=entry(f"{name}.tar"), index=entry(f"{name}.parquet"), num_samples=2)


@pytest.mark.parametrize(
    "splits",
    [
        {},
        {"empty": ()},
        {"train": (shard("train/train-000000"), shard('train/"ä" 1')), "test": (shard("t/0"),)},
    ],
)
def test_splits_are_spelt_as_json_spells_them(splits: dict[str, tuple[ShardEntry, ...]]) -> None:
    settings = {"splits": {}, "a": {"splits": {}}, "text": '\n  "splits": {}'}
    manifest = Manifest(
        format=1,
        classes=("a", "ü"),
        flow_codec=our_codec(20.0),
        settings=settings,
        splits=splits,
        videos=entry("videos.parquet"),
    )
    fields = manifest.model_dump(mode="json") | {"settings_sha256": settings_digest(settings)}

    def spelt() -> bytes:
        return (json.dumps(fields, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()

    fields["sha256"] = hashlib.sha256(spelt()).hexdigest()
    assert manifest_bytes(manifest) == spelt()
