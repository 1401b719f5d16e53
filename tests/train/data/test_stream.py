"""Streaming gives what the index gives, from files and pipes, and tells what it cannot read."""

import json
import os
import re
import shutil
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.datasets import forged, write_dataset
from twinstream.errors import InputError
from twinstream.shards.format.manifest import Manifest, manifest_bytes, read_manifest
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.write.index_tars import tar_samples
from twinstream.train.data import stream
from twinstream.train.data.batch import Batch
from twinstream.train.data.feed import Feed, shard_url, shard_urls
from twinstream.train.data.stream import stream_samples
from twinstream.train.ranks import Ranks
from twinstream.train.settings import TrainSettings
from twinstream.train.snippet_shape import SnippetShape

STEPS = list[tuple[list[int], Batch]]
STACK, CLIP = SnippetShape(), SnippetShape(3, 3, stride=2, has_time=True)
BOTH_SHAPES = pytest.mark.parametrize("shape", [STACK, CLIP], ids=["stack", "clip"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 training samples in shards of 4, 4 and 1: what a rank wants of one are often not
    neighbours.
    """
    return write_dataset(
        tmp_path_factory.mktemp("data") / "dataset", {"train": 9}, videos_per_shard=4
    )


def read(
    dataset: Path,
    ranks: Ranks | None = None,
    first_step: int = 0,
    shape: SnippetShape = STACK,
    **changes: object,
) -> STEPS:
    """Epoch 1 in batches of 3, two shards mixed at a time."""
    options = {
        "batch_size": 3,
        "shuffle_window": 2,
        "crop_size": 33,
        "segments": 2,
        "workers": 0,
        **changes,
    }
    feed = Feed(ShardDataset(dataset), TrainSettings.model_validate(options), shape)
    return [
        (part.positions.tolist(), batch)
        for part, batch in feed.batches(1, first_step, ranks or Ranks())
    ]


def assert_same(some: STEPS, others: STEPS) -> None:
    assert all(batch.positions.tolist() == positions for positions, batch in some)
    assert [positions for positions, _ in some] == [positions for positions, _ in others]
    for (_, one), (_, other) in zip(some, others, strict=True):
        for name, part in vars(one).items():
            assert torch.equal(part, vars(other)[name]), name


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_streamed_batches_are_those_of_the_index(dataset: Path, workers: int, window: int) -> None:
    by_index = read(dataset, shuffle_window=window)
    assert len(by_index) == 3
    assert_same(read(dataset, loader="stream", workers=workers, shuffle_window=window), by_index)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_streamed_clips_are_those_of_the_index(dataset: Path, workers: int) -> None:
    by_index = read(dataset, shape=CLIP)
    assert by_index[0][1].rgb.shape == (3, 2, 3, 3, 33, 33)
    assert_same(read(dataset, shape=CLIP, loader="stream", workers=workers), by_index)


@pytest.mark.parametrize("scale_motion", [False, True])
@BOTH_SHAPES
def test_both_loaders_treat_the_motion_of_resized_crops_alike(
    dataset: Path, scale_motion: bool, shape: SnippetShape
) -> None:
    by_index = read(dataset, shape=shape, scale_motion=scale_motion)
    assert_same(read(dataset, shape=shape, loader="stream", scale_motion=scale_motion), by_index)
    # Stored 24 x 32 to 33: every crop is resized.
    scales = torch.cat([batch.flow_scale for _, batch in by_index])
    assert (scales > 1).all() if scale_motion else (scales == 1).all()


@BOTH_SHAPES
def test_a_streamed_epoch_goes_on_in_the_middle_with_the_same_batches(
    dataset: Path, shape: SnippetShape
) -> None:
    rest = read(dataset, first_step=1, shape=shape, loader="stream", workers=1)
    assert_same(rest, read(dataset, shape=shape)[1:])


@pytest.mark.parametrize("rank", [0, 1])
@BOTH_SHAPES
def test_every_rank_streams_its_part(dataset: Path, rank: int, shape: SnippetShape) -> None:
    part = Ranks(rank, 2)
    assert_same(read(dataset, part, shape=shape, loader="stream"), read(dataset, part, shape=shape))


def test_a_pipe_is_streamed_and_no_index_is_needed(dataset: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(dataset / "dataset.json", bare)
    url = f"pipe:cat {dataset}/{{shard}}"
    assert_same(read(bare, loader="stream", stream_url=url), read(dataset))


def renamed(dataset: Path, folder: Path, name: str) -> Path:
    """A copy whose first training shard has another name, as dataset.json says."""
    shutil.copytree(dataset, folder)
    old = "train/train-000000.tar"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / old).rename(folder / name)
    text = read_manifest(dataset).model_dump_json().replace(f'"{old}"', json.dumps(name))
    (folder / "dataset.json").write_bytes(manifest_bytes(Manifest.model_validate_json(text)))
    return folder


@pytest.mark.parametrize(
    "name", ["x; touch OWNED ;#", "$(touch OWNED)", "'`touch OWNED`'", "-x", "a b.tar", "é%41.tar"]
)
def test_a_shards_name_is_data_wherever_it_is_streamed_from(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here = renamed(dataset, tmp_path / "here", name)
    monkeypatch.chdir(here)
    by_index = read(dataset)
    for template in (None, "{shard}", f"{here}/{{shard}}", f"file://{here}/{{shard}}"):
        assert_same(read(Path("."), loader="stream", stream_url=template), by_index)
    for template in ("pipe:cat {shard}", "pipe:cat './{shard}'", 'pipe:sh -c "cat ./{shard}"'):
        # A second shell parts the words of the first one's quotes.
        if name == "é%41.tar" or (name == "a b.tar" and "sh -c" not in template):
            assert_same(read(Path("."), loader="stream", stream_url=template), by_index)
        else:
            with pytest.raises(InputError, match=r"no path to put into a command|cannot be strea"):
                read(Path("."), loader="stream", stream_url=template)
    assert not [*tmp_path.rglob("OWNED")]


@pytest.mark.parametrize("name", ["pipe:touch OWNED", "http://127.0.0.1:9/x.tar", "file:x.tar"])
def test_a_shard_whose_name_is_a_url_is_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shutil.copytree(dataset, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    old = "train/train-000000.tar"
    forged(Path("."), lambda text: text.replace(old, name))
    with pytest.raises(InputError, match=r"begins like a URL|not a usable path"):
        read(Path("."), loader="stream")
    assert not [*tmp_path.rglob("OWNED")]


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("https://host/d/{shard}", "https://host/d/a%20b%3F%23.tar"),
        ("{shard}", Path.cwd() / "a b?#.tar"),
        ("d/{shard}:x", Path.cwd() / "d/a b?#.tar:x"),
    ],
)
def test_a_shards_path_is_quoted_for_a_url(template: str, url: str | Path) -> None:
    assert shard_url(template, "a b?#.tar") == url


def test_a_shards_path_adds_no_options_to_a_store() -> None:
    with pytest.raises(InputError, match=r"has a '\?'"):
        shard_url("s3://bucket/{shard}", "x.tar?endpoint_override=host")
    assert shard_url("s3://bucket/{shard}", "a b.tar") == "s3://bucket/a b.tar"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_device_in_place_of_a_shard_is_not_streamed(
    dataset: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    shutil.copytree(dataset, tmp_path / "here")
    tar = tmp_path / "here" / "train" / "train-000000.tar"
    tar.unlink()
    make(tar)
    for template in (None, f"{tmp_path}/here/{{shard}}"):
        with pytest.raises(InputError, match=r"train-000000\.tar: a pipe, socket or device"):
            read(tmp_path / "here", loader="stream", stream_url=template)


def test_where_shards_are_streamed_from() -> None:
    """Without a URL the dataset's own files."""
    unread: Any = None
    with pytest.raises(
        InputError, match=r"train\.stream_url: 'pipe:cat x\.tar' names no \{shard\}"
    ):
        shard_urls(unread, "pipe:cat x.tar")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "/nowhere/{shard}",
            r"^/nowhere/train/train-00000\d\.tar: cannot be streamed \(No such file or "
            r"directory\)$",
        ),
        ("pipe:cat /nowhere/{shard} 2>&-", r"^pipe:cat /nowhere/.*: cannot be streamed \(.*\)$"),
        ("pipe:head -c 9000 DATASET/{shard}", r"^pipe:head .*train-00000\d\.tar: "),
    ],
)
def test_a_stream_that_breaks_off_is_one_line_with_its_url(
    dataset: Path, url: str, message: str, workers: int
) -> None:
    with pytest.raises(InputError, match=message):
        read(
            dataset,
            loader="stream",
            workers=workers,
            stream_url=url.replace("DATASET", str(dataset)),
        )


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder; of a file below `cut/` it promises all and sends 9000 bytes."""

    def log_message(self, *_: object) -> None:
        """Nothing: the server's lines would stand among the test's."""

    def do_GET(self) -> None:
        """The file, or the half of it."""
        if not self.path.startswith("/cut/"):
            return super().do_GET()
        data = Path(self.translate_path(self.path.removeprefix("/cut"))).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:9000])
        return None


@pytest.fixture(scope="module")
def host(dataset: Path) -> Iterator[str]:
    """`http://127.0.0.1:PORT`, which serves the dataset."""
    if shutil.which("curl") is None:
        pytest.skip("no curl, which streaming from a web server needs")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=dataset)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine that refuses connections: it is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("url", ["pipe:curl -sSf HOST/{shard}", "HOST/{shard}"])
def test_shards_are_streamed_from_a_web_server(dataset: Path, host: str, url: str) -> None:
    url = url.replace("HOST", host)
    assert_same(read(dataset, loader="stream", stream_url=url), read(dataset))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (
            "pipe:curl -sf HOST/absent/{shard}",
            "its command ended with status 22, by which curl means that the server answered with "
            "an error such as 404",
        ),
        (
            "HOST/absent/{shard}",
            "its command ended with status 22, by which curl means that the server answered with "
            "an error such as 404",
        ),
        (
            "pipe:curl -s HOST/absent/{shard}",
            r"what arrives is no tar but text that begins '<!DOCTYPE [^']+'; use curl -sSf so that "
            "an answer such as 404 is told",
        ),
        (
            "pipe:curl -s http://127.0.0.1:PORT/{shard}",
            "its command ended with status 7, by which curl means that the server cannot be",
        ),
        (
            "http://127.0.0.1:PORT/{shard}",
            "its command ended with status 7, by which curl means that the server cannot be",
        ),
        (
            "pipe:curl -s HOST/cut/{shard}",
            "its command ended with status 18, by which curl means that the transfer broke off",
        ),
        ("pipe:echo no shards today; : {shard}", "what arrives is no tar but text that begins 'no"),
        ("pipe:exit 3; : {shard}", "its command ended with status 3"),
        ("pipe:true {shard}", "empty file"),
    ],
)
def test_what_a_stream_sends_instead_of_a_tar_is_told(
    dataset: Path, host: str, closed_port: int, url: str, reason: str, workers: int
) -> None:
    url = url.replace("HOST", host).replace("PORT", str(closed_port))
    with pytest.raises(InputError) as caught:
        read(dataset, loader="stream", workers=workers, stream_url=url)
    assert re.search(rf"train-00000\d\.tar: cannot be streamed \({reason}", str(caught.value))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("url", "is_told"),
    [
        ("pipe:cat page; : curl -s -L {shard}", True),
        ("pipe:cat page; : curl -o - --form f {shard} | tar -xf -", True),
        ("pipe:cat page; : curl {shard}", True),
        ("pipe:cat page; : curl -f {shard}", False),
        ("pipe:cat page; : curl -s -LfS {shard}", False),
        ("pipe:cat page; : curl --fail {shard}", False),
        ("pipe:cat page; : curl --fail-with-body -s {shard}", False),
        ("pipe:cat page; : {shard}", False),
        ("curl/{shard}", False),
    ],
)
def test_curl_is_told_to_fail_only_where_it_does_not(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, is_told: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("page", *shard_urls(ShardDataset(dataset).samples("train"), "curl/{shard}")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("<html> 404 </html>" * 40)
    with pytest.raises(InputError, match="what arrives is no tar but text") as caught:
        read(dataset, loader="stream", stream_url=url, shuffle_window=1, batch_size=9)
    assert ("use curl -sSf" in str(caught.value)) == is_told


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (("right", "left"), r"label [01] is (left|right) here, (right|left) in dataset\.json"),
        (("left",), r"label 1 is right here, no class in dataset\.json"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_whose_labels_are_of_other_classes_is_refused(
    dataset: Path, tmp_path: Path, classes: tuple[str, ...], told: str, workers: int
) -> None:
    manifest = read_manifest(dataset)
    assert manifest.classes == ("left", "right")
    (tmp_path / "dataset.json").write_bytes(
        manifest_bytes(manifest.model_copy(update={"classes": classes}))
    )
    with pytest.raises(InputError) as caught:
        read(tmp_path, loader="stream", workers=workers, stream_url=f"{dataset}/{{shard}}")
    line = rf"{dataset}/train/train-00000\d\.tar: (left|right)/train\d: {told}; expected the shards"
    assert re.match(line, str(caught.value))
    assert len(str(caught.value).splitlines()) == 1


def test_a_stream_with_fewer_samples_than_the_dataset_has_is_told(tmp_path: Path) -> None:
    dataset, short = (
        write_dataset(tmp_path / str(size), {"train": size}, videos_per_shard=4) for size in (4, 3)
    )
    message = r"train-000000\.tar: ends before sample 4 of 4 in dataset\.json$"
    with pytest.raises(InputError, match=message):
        read(dataset, loader="stream", stream_url=f"{short}/{{shard}}", batch_size=4)


def test_a_video_of_a_stream_too_short_for_a_clip_is_named_with_settings_that_fit(
    dataset: Path,
) -> None:
    line = r"train-000000\.tar: left/train0: 7 frames: a clip of 7 frames needs at least 8; "
    with pytest.raises(InputError, match=rf"{line}model\.clip_length: 6 would fit$"):
        read(dataset, shape=SnippetShape(7, 7, has_time=True), loader="stream")


def test_a_damaged_member_of_a_stream_names_shard_and_key(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", {"train": 2})
    (sample, _) = ShardDataset(dataset).samples("train")
    with open(dataset / "train" / "train-000000.tar", "r+b") as tar:
        for offset, size in zip(sample.index.offsets[1:], sample.index.sizes[1:], strict=True):
            tar.seek(int(offset))
            tar.write(bytes(int(size)))
    with pytest.raises(
        InputError, match=rf"train-000000\.tar: {sample.index.key}: rgb\.\d+\.jpg: .* do not decode"
    ):
        read(dataset, loader="stream", workers=1)


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        (tarfile.REGTYPE, "left/train0.json", r"train0\.json: 1099511627776 bytes, its sample 109"),
        (tarfile.GNUTYPE_LONGNAME, "x", r"a header with a name of 1099511627776 bytes"),
        (tarfile.XHDTYPE, "x", r"a header with a name of 1099511627776 bytes"),
    ],
)
def test_what_a_tars_header_claims_is_looked_at_before_it_takes_memory(
    tmp_path: Path, kind: bytes, name: str, told: str
) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type = 2**40, kind
    tar = tmp_path / "x.tar"
    tar.write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    os.truncate(tar, 2**41)
    with pytest.raises(InputError, match=told):
        list(stream_samples(tar))
    os.truncate(tar, 2**15)
    if kind != tarfile.REGTYPE:
        with pytest.raises(InputError, match=told):
            list(tar_samples(tar))


def test_a_member_larger_than_any_file_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("left/train0.json")
    member.size = 2**80
    tar = tmp_path / "x.tar"
    tar.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2**14))
    with pytest.raises(InputError, match=rf"a member of {2**80} bytes"):
        list(tar_samples(tar))
    with pytest.raises(InputError, match=rf"{2**80} bytes"):
        list(stream_samples(tar))


def test_a_sample_larger_than_half_of_the_memory_is_refused(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list(stream_samples(dataset / "train" / "train-000000.tar"))) == 4
    monkeypatch.setattr(stream, "machine_bytes", lambda: 20_000)
    with pytest.raises(InputError, match=r"/train\d\.\S+: \d+ bytes, its sample 10\d\d\d; exp"):
        list(stream_samples(dataset / "train" / "train-000000.tar"))
