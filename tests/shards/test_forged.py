"""A dataset that somebody forged, its digests made to fit: one line says what is wrong with it.

Every way to read it refuses it, verify names it, and nothing is written outside of --out.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.bounds import bounded
from tests.support.datasets import forged, rewritten, write_dataset
from twinstream.errors import InputError
from twinstream.shards.format import index, tables, video_table
from twinstream.shards.format.listings import parse_video_list
from twinstream.shards.format.manifest import read_manifest, spelt
from twinstream.shards.info import describe, listed
from twinstream.shards.rawframes.exporter import export_rawframes
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.read.members import read_frames
from twinstream.shards.split_lists import add_split
from twinstream.shards.storage.location import read_text
from twinstream.shards.verify import fast_faults, faults
from twinstream.shards.write.combine import subset

INDEX = "train/train-000000.parquet"
# It counts; and it must live longer than what is read with it.
POOL = pa.proxy_memory_pool(pa.default_memory_pool())
Columns = dict[str, Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = write_dataset(tmp_path_factory.mktemp("data") / "dataset", {"train": 3, "test": 2})
    listed = dataset.parent / "few.txt"
    listed.write_text("left/train0\nright/train1\n")
    add_split(dataset, "few", str(listed))
    return dataset


@pytest.fixture
def dataset(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "a" / "b" / "dataset"))


def read_all(dataset: Path) -> None:
    """Whatever a training run reads of it."""
    opened = ShardDataset(dataset)
    for samples in opened.splits.values():
        assert set(samples.labels.tolist()) <= {0, 1}
        samples.shortest()
        for sample in samples:
            read_frames(sample, [0])


def refusals(dataset: Path) -> list[str]:
    """What each way to read the dataset says; the first line of verify is the last."""
    out = dataset.parent / "out"
    said = []
    ways: list[Callable[[], object]] = [
        lambda: read_all(dataset),
        lambda: describe(dataset),
        lambda: subset(dataset, out / "subset"),
        lambda: export_rawframes(dataset, out / "frames"),
    ]
    for way in ways:
        with bounded():
            try:
                way()
            except InputError as error:
                said.append(str(error))
    with bounded():
        said += [*faults(dataset)][:1]
    for line in said:
        assert len(line.splitlines()) == 1, line
        assert "\x1b" not in line
    there = {path.name for path in dataset.parents[2].iterdir()} | {
        path.name for path in dataset.parents[1].iterdir()
    }
    assert there <= {"a", "b"}, "something was written outside of --out"
    return said


def json_with(**changes: Any) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | changes)


def shard_with(changes: Columns, file: str | None = "tar") -> Callable[[str], str]:
    def change(text: str) -> str:
        tree = json.loads(text)
        shard = tree["splits"]["train"][0]
        (shard if file is None else shard[file]).update(changes)
        return json.dumps(tree)

    return change


def split_named(name: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        tree = json.loads(text)
        tree["splits"][name] = tree["splits"].pop("train")
        return json.dumps(tree)

    return change


def codec_with(**changes: Any) -> Callable[[str], str]:
    return lambda text: json_with(flow_codec=json.loads(text)["flow_codec"] | changes)(text)


def settings_with(changes: dict[str, Any]) -> Callable[[str], str]:
    return lambda text: json_with(settings=json.loads(text)["settings"] | changes)(text)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (split_named("../../x"), "'../../x'; expected a name without a slash"),
        (split_named("/abs"), "'/abs'; expected a name without a slash"),
        (split_named(".."), "'..': not a usable path"),
        (split_named("a\x1b[31m"), r"'a\x1b[31m': not a usable path"),
        (split_named("pipe:x"), "'pipe:x': begins like a URL"),
        (shard_with({"path": "../x.tar"}), "splits.train.0.tar.path: '../x.tar': not a usable"),
        (shard_with({"path": "/etc/passwd"}), "'/etc/passwd': not a usable path"),
        (shard_with({"path": "a\\..\\x"}), "not a usable path"),
        (shard_with({"path": "x" * 5000}), "5000 letters; expected 4096 at most"),
        (json_with(classes=["x" * 2000, "right"]), "x...; expected 1000 letters at most"),
        (shard_with({"path": "a\nb"}), r"'a\nb': not a usable path"),
        (shard_with({"path": "pipe:touch x"}, "index"), "'pipe:touch x': begins like a URL"),
        (shard_with({"sha256": "../../x"}), "splits.train.0.tar.sha256: String should match"),
        (shard_with({"num_bytes": -1}), "splits.train.0.tar.num_bytes: "),
        (shard_with({"num_bytes": 10**30}, "index"), "splits.train.0.index.num_bytes: "),
        (shard_with({"num_samples": 2_000_000}, None), "2000000 samples in "),
        (shard_with({"num_samples": -1}, None), "splits.train.0.num_samples: "),
        (shard_with({"path": "train/train-000001.tar"}), "train-000001.tar is named 2 times"),
        (json_with(classes=["left", "ri\x1b[31mght"]), r"classes.1: 'ri\x1b[31mght'"),
        (json_with(classes=["left", 1]), "classes.1: "),
        (json_with(classes={}), "classes: "),
        (json_with(format="2\n2"), r"shard format '2\n2'"),
        (codec_with(bound=0), "flow_codec.bound: "),
        (codec_with(bound=float("nan")), "NaN, which is no JSON"),
        (codec_with(bound=10**400), "flow_codec.bound: "),
        (codec_with(bound=1e308), "flow_codec.bound: "),
        (codec_with(bound=1e-320), "flow_codec.bound: "),
        (codec_with(levels=0), "flow_codec.levels: "),
        (settings_with({"convert.codec": 5}), "settings: convert.codec 5: "),
        (settings_with({"convert.codec": {"bound": 20}}), "zero: Field required"),
        (settings_with({"convert.cut": "20 px"}), "settings: convert.cut '20 px': "),
        (settings_with({"preprocess.bound": 1e400}), "Infinity, which is no JSON"),
        (settings_with({"preprocess.bound": None}), "settings: preprocess.bound None: "),
        (json_with(**{"x" * 100_000: 1}), "Extra inputs are not permitted"),
        (lambda text: json.dumps(json.loads(text) | {"settings": []}), "settings: "),
    ],
)
def test_a_forged_manifest_is_refused_by_all(
    dataset: Path, change: Callable[[str], str], told: str
) -> None:
    forged(dataset, change)
    said = refusals(dataset)
    assert len(said) == 5
    assert all(told in line and "dataset.json" in line for line in said), said
    assert all(len(line) <= 2_000 for line in said)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"format": 1, "settings": ' + b"[" * 900 + b"]" * 900 + b"}", "not a manifest"),
        (b"[]", "not a manifest"),
        (b'"format"', "not a manifest"),
        (b"\xff{}", "not a manifest"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not a manifest"),
        (b'{"format": 1e999}', "shard format inf"),
        (b"", "not a manifest"),
    ],
    ids=["deep", "deep settings", "list", "text", "no UTF-8", "long number", "infinity", "empty"],
)
def test_what_is_no_manifest_is_told_in_one_line(dataset: Path, data: bytes, told: str) -> None:
    (dataset / "dataset.json").write_bytes(data)
    said = refusals(dataset)
    assert len(said) == 5
    assert all(told in line for line in said), said


def test_a_manifest_of_gigabytes_is_not_read(dataset: Path) -> None:
    os.truncate(dataset / "dataset.json", 2**34)
    said = refusals(dataset)
    assert len(said) == 5
    assert all("17179869184 bytes; expected 536870912 at most" in line for line in said)


def parquet(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def cell(name: str, value: object) -> Callable[[pa.Table], pa.Table]:
    """The first row has this value."""

    def change(table: pa.Table) -> pa.Table:
        column = table[name].to_pylist()
        column[0] = value(column[0]) if callable(value) else value
        return table.set_column(
            table.column_names.index(name), name, pa.array(column, table[name].type)
        )

    return change


def typed(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    """The column has another type."""
    return lambda table: table.set_column(
        table.column_names.index(name), name, table[name].cast(kind)
    )


def each(begin: int, step: int) -> Callable[[list[int]], list[int]]:
    return lambda values: [begin + step * place for place in range(len(values))]


COLUMNS: list[tuple[Callable[[pa.Table], pa.Table], str]] = [
    (cell("label", None), "1 rows without a label"),
    (cell("key", None), "1 rows without a key"),
    (cell("key", "../../x"), "'../../x': not a usable path"),
    (cell("key", "/abs"), "'/abs': not a usable path"),
    (cell("key", "a\x1b[31m"), r"'a\x1b[31m': not a usable path"),
    (typed("label", pa.string()), "column label is string, expected int32"),
    (typed("label", pa.float64()), "column label is double, expected int32"),
    (typed("key", pa.binary()), "column key is binary, expected string"),
    (lambda table: table.append_column("label", table["label"]), "with 2 columns label"),
    (lambda table: table.drop_columns(["label"]), "without the columns ['label']"),
]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        *COLUMNS,
        (cell("label", -1), "label -1; expected 0 to 1"),
        (cell("label", 2), "label 2; expected 0 to 1"),
        (cell("num_frames", 0), "num_frames 0; expected 1 to"),
        (cell("num_frames", -1), "num_frames -1; expected 1 to"),
        (cell("num_frames", 2 * 10**9), "23 offsets for 2000000000 frames, expected 5999999999"),
        (cell("width", 0), "width 0; expected 1 to 65500"),
        (cell("height", 10**6), "height 1000000; expected 1 to 65500"),
        (cell("offsets", None), "1 rows without a offsets"),
        (cell("offsets", lambda found: found[:-1]), "22 offsets for 8 frames, expected 23"),
        (cell("sizes", lambda found: [*found, 1]), "24 sizes for 8 frames, expected 23"),
        (cell("offsets", lambda found: [None, *found[1:]]), "members without offset or size"),
        (cell("offsets", lambda found: found[::-1]), "expected one behind the other"),
        (cell("offsets", each(512, 0)), "expected one behind the other"),
        (cell("offsets", each(0, 10**12)), "a member at byte 1000000000000; the tar has "),
        (cell("offsets", each(2**63 - 30, 1)), "a member at byte 922337203685477"),
        (cell("offsets", each(-512, 1024)), "a member at byte -512"),
        (cell("sizes", each(-1, 0)), "a member of -1 bytes"),
        (cell("sizes", each(2**31 - 1, 0)), "a member of 2147483647 bytes"),
        (typed("offsets", pa.list_(pa.int32())), "column offsets is list<element: int32>"),
        (typed("sizes", pa.list_(pa.int64())), "column sizes is list<element: int64>"),
        (lambda table: pa.concat_tables([table] * 1000), "2000 rows, dataset.json says 2"),
        (lambda table: table.slice(0, 0), "0 rows, dataset.json says 2"),
    ],
)
def test_a_forged_index_is_refused_by_all_who_read_it(
    dataset: Path, change: Callable[[pa.Table], pa.Table], told: str
) -> None:
    rewritten(dataset, INDEX, parquet(change(pq.ParquetFile(dataset / INDEX).read())))
    said = refusals(dataset)
    # describe reads no index.
    assert len(said) == 4
    assert all(told in line and INDEX in line for line in said), said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        *COLUMNS,
        (cell("label", -1), "row 0: label -1, which no video has"),
        (cell("num_frames", -1), "row 0: num_frames -1, which no video has"),
        (cell("num_frames", None), "row 0: num_frames None, which no video has"),
        (cell("shard", None), "row 0: shard None, which no video has"),
        (cell("shard", "../x"), "'../x': not a usable path"),
        (cell("split", "../../x"), "'../../x': not a usable path"),
        (cell("class_name", "a\nb"), r"row 0: class_name 'a\nb', which no video has"),
        (cell("status", "done"), "row 0: status 'done', which no video has"),
        (cell("fps", float("nan")), "row 0: fps nan, which no video has"),
        (cell("mean_flow", float("inf")), "row 0: mean_flow inf, which no video has"),
        (lambda table: table.slice(1), ""),
    ],
)
def test_a_forged_table_of_videos_is_refused(
    dataset: Path, change: Callable[[pa.Table], pa.Table], told: str
) -> None:
    table = change(pq.ParquetFile(dataset / "videos.parquet").read())
    rewritten(dataset, "videos.parquet", parquet(table))
    with bounded(), pytest.raises(InputError) as caught:
        subset(dataset, dataset.parent / "out")
    printed = [*faults(dataset)]
    assert printed
    if told:
        assert told in str(caught.value)
        assert told in printed[0]


@pytest.mark.parametrize(("label", "told"), [(1, "label 1 is left, not right"), (7, "no class")])
def test_a_row_of_another_class_is_refused_where_rows_are_copied(
    dataset: Path, label: int, told: str
) -> None:
    table = cell("label", label)(pq.ParquetFile(dataset / "videos.parquet").read())
    rewritten(dataset, "videos.parquet", parquet(table))
    for way in (describe, lambda path: subset(path, path.parent / "out")):
        with pytest.raises(InputError, match=told):
            way(dataset)


def test_a_table_that_unpacks_to_gigabytes_is_not_read(dataset: Path) -> None:
    """A few kilobytes say: this text of a megabyte, in 10,000 rows; or two billion zeros."""
    table = pq.ParquetFile(dataset / "videos.parquet").read()
    many = pa.concat_tables([table] * 2000)
    text = pa.array(["x" * 2**20, "y"])
    keys = pa.DictionaryArray.from_arrays(pa.array([0] * len(many), pa.int32()), text)
    bomb = many.set_column(0, "key", keys)
    table_path = dataset / "videos.parquet"
    table_path.write_bytes(parquet(bomb, store_schema=False))
    with (
        bounded(),
        pytest.raises(InputError, match=r"column key holds 10485760000 bytes"),
    ):
        video_table.read_columns(table_path)
    packed = table.set_column(0, "key", pa.array(["z" * 2**25] * len(table)))
    table_path.write_bytes(parquet(packed, compression="zstd", use_dictionary=False))
    with bounded(), pytest.raises(InputError, match=r"packed 32 times at most"):
        video_table.read_columns(table_path)


def test_a_column_that_is_not_of_the_format_takes_no_memory(original: Path) -> None:
    table = pq.ParquetFile(original / INDEX).read()
    extra = table.append_column("extra", pa.array([b"\0" * 2**26] * len(table)))
    data = parquet(extra, compression="zstd")
    before = pa.default_memory_pool()
    pa.set_memory_pool(POOL)
    try:
        found = tables.parse_table(Path("x"), data, index.SCHEMA, "index")
    finally:
        pa.set_memory_pool(before)
    assert found.column_names == table.column_names
    assert 0 < POOL.max_memory() < 2**24


@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
@pytest.mark.parametrize(
    "name", ["dataset.json", "videos.parquet", INDEX, "train/train-000000.tar", "splits/few.json"]
)
def test_what_is_no_file_of_the_dataset_is_not_opened(
    dataset: Path, original: Path, name: str, kind: str
) -> None:
    path = dataset / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else original / name)
    told = "out of the dataset's folder" if kind == "link" else "a pipe, socket or device"
    if name.startswith("splits"):
        with bounded(), pytest.raises(InputError, match=told):
            ShardDataset(dataset).samples("few")
        # A listing shows files alone, and a link is none of this dataset's.
        said = [*faults(dataset), *fast_faults(dataset)] if kind == "link" else [told]
    else:
        said = [*refusals(dataset)]
        with bounded():
            said += [*fast_faults(dataset)][:1]
        if name == "videos.parquet":
            with bounded(), pytest.raises(InputError) as caught:
                listed(dataset)
            said.append(str(caught.value))
        assert len(said) >= 4
    assert said
    assert all(told in line for line in said), said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"keys": ["../../x"]}, "keys.0: '../../x': not a usable path"),
        ({"keys": [1]}, "keys.0: "),
        ({"keys": []}, "keys: Tuple should have at least 1 item"),
        ({"source": "a\x1b[31m"}, r"source: 'a\x1b[31m'"),
        ({"left_out": {"missing": -1}}, "left_out.missing: "),
        ({"left_out": 10**400}, "left_out: "),
    ],
)
def test_a_forged_stored_split_is_told(dataset: Path, change: Columns, told: str) -> None:
    path = dataset / "splits" / "few.json"
    fields = json.loads(path.read_bytes()) | change
    del fields["sha256"]
    fields["sha256"] = hashlib.sha256(spelt(fields)).hexdigest()
    path.write_bytes(spelt(fields))
    with pytest.raises(InputError) as caught:
        ShardDataset(dataset).samples("few")
    assert told in str(caught.value)
    assert any(told in line for line in faults(dataset))


@pytest.mark.parametrize("device", ["pipe", "/dev/zero", "folder"])
def test_a_list_that_is_no_file_is_not_read(tmp_path: Path, device: str) -> None:
    path = tmp_path / "list.txt"
    if device == "pipe":
        os.mkfifo(path)
    elif device == "folder":
        path.mkdir()
    else:
        path.symlink_to(device)
    with bounded(), pytest.raises(InputError, match=r"expected a regular file"):
        read_text(path, "--keys")
    path.rename(tmp_path / "long.txt") if device == "folder" else path.unlink()
    path.write_bytes(b"")
    os.truncate(path, 2**40)
    with bounded(), pytest.raises(InputError, match=r"1099511627776 bytes; expected 1073741824"):
        read_text(path, "--keys")


@pytest.mark.parametrize("name", ["../../x", "/abs/x", "a\\x", "a\x07b"])
def test_a_list_that_leads_elsewhere_is_refused(original: Path, tmp_path: Path, name: str) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(f"path,label\n{name},left\n")
    with pytest.raises(InputError, match=r"list\.csv line 2: .*not a usable path"):
        parse_video_list(listed.read_text(), listed.name)
    listed.write_text(f"{name}\n")
    with pytest.raises(InputError, match=r"list\.csv line 1: .*not a usable path"):
        ShardDataset(original).samples(str(listed))


def test_what_was_not_forged_is_read_as_before(original: Path) -> None:
    assert [*faults(original)] == []
    read_all(original)
    assert read_manifest(original).classes == ("left", "right")
