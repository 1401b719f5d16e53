"""Snippets from shards that are read from beginning to end: from any URL, without an index.

One item of the dataset is a shard, streamed once through webdataset; the snippets that the epoch
needs are cut while it is read. The trainer's process holds the snippets of the shards being mixed
(`train.shuffle_window` of them; 31 MB for 16 videos of 3 segments at 224x224, 33 MB for one clip
of 16 frames of each at 160x160) and builds batches from them: the same as by index with the same
window, for any number of workers and after a resume. The price: every rank reads every byte, and no
order mixes all shards.
"""

import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import webdataset as wds
from numpy.typing import NDArray
from webdataset.gopen import Pipe
from webdataset.tariterators import base_plus_ext, group_by_keys

from twinstream.errors import InputError, beginning
from twinstream.shards.format.image import MAX_PIXELS, Size, decode_gray, decode_rgb
from twinstream.shards.format.sample import MemberHeader, SampleMeta, meta_from_json
from twinstream.shards.storage.location import Location, is_regular, locate
from twinstream.train.data import transforms
from twinstream.train.data.batch import Batch, batch_of_rows, new_batch
from twinstream.train.data.loader import SnippetRecipe, loaded
from twinstream.train.data.order import EpochSampler, Positions
from twinstream.train.data.transforms import Bytes
from twinstream.train.memory import machine_bytes
from twinstream.train.snippet_shape import SnippetShape

# epoch, number of a shard, rows of the samples that are wanted of it, ascending
Piece = tuple[int, int, tuple[int, ...]]
Members = dict[str, Any]
# Opened by our own storage: webdataset has no s3:// and needs the program gsutil for gs://.
STORES = ("s3://", "gs://")
HEAD_BYTES = 512
# Of a JPEG of as many pixels as an image can have, four bytes for each
MAX_MEMBER_BYTES = 4 * MAX_PIXELS
# A curl of a command line that ends with an error where the server answers with one: -f, -sSf.
FAILING_CURL = re.compile(r"\bcurl\b[^|]*\s(-[a-zA-Z]*f|--fail(-with-body)?(?=\s))")
# What curl means by the status that it ends with.
CURL_STATUS = {
    6: "the host is not known",
    7: "the server cannot be connected to",
    18: "the transfer broke off",
    22: "the server answered with an error such as 404",
    28: "the server took too long",
}


class StreamedShards:
    """Random snippets of the wanted samples of a shard, read from its URL; an item is a shard.

    InputError for a sample whose label is another one of `classes`: of a stream that another
    dataset was written to.
    """

    def __init__(
        self,
        urls: Sequence[str | Location],
        shard_sizes: Sequence[int],
        classes: Sequence[str],
        recipe: SnippetRecipe,
    ) -> None:
        if not sum(shard_sizes):
            raise InputError("this split holds no samples")
        self.urls, self.recipe = urls, recipe
        self.class_of = dict(enumerate(classes))
        sizes = np.array(shard_sizes, np.int64)
        self.ends: Positions = np.cumsum(sizes)
        self.starts: Positions = self.ends - sizes

    def __len__(self) -> int:
        return len(self.urls)

    def batch(self, piece: Piece) -> Batch:
        """The wanted samples of one shard, in the order of the file."""
        epoch, shard, rows = piece
        recipe, done = self.recipe, 0
        batch = new_batch(len(rows), recipe.segments, recipe.shape, recipe.crop_size)
        rgb, flow = batch.images()
        for row, members in enumerate(stream_samples(self.urls[shard])):
            if row == rows[done]:
                scale, label = self._fill(epoch, members, rgb[done], flow[done])
                batch.flow_scale.numpy()[done] = scale
                batch.labels[done] = label
                batch.positions[done] = self.starts[shard] + row
                done += 1
            if done == len(rows):
                return batch
        size = self.ends[shard] - self.starts[shard]
        raise InputError(
            f"{self.urls[shard]}: ends before sample {rows[done] + 1} of {size} in dataset.json"
        )

    def _fill(
        self, epoch: int, members: Members, rgb: Bytes, flow: Bytes
    ) -> tuple[NDArray[np.float32], int]:
        recipe, shape, meta = self.recipe, self.recipe.shape, _meta(members)
        named = self.class_of.get(meta.label)
        if named is None or meta.class_name != named:
            raise InputError(
                f"{_where(members)}: label {meta.label} is {meta.class_name} here, "
                f"{named or 'no class'} in dataset.json; expected the shards of that dataset"
            )
        try:
            starts, view = recipe.draw(epoch, meta.key, meta.num_frames, meta.height, meta.width)
        except InputError as error:
            raise InputError(f"{_where(members)}: {error}") from error
        size = (meta.height, meta.width)
        frames = (
            _image(members, f"rgb.{t:05d}.jpg", decode_rgb, size)
            for start in starts.tolist()
            for t in range(start, start + shape.frames * shape.stride, shape.stride)
        )
        stacks = (_stack(members, t, shape, size) for t in starts.tolist())
        scale = transforms.apply_views(
            frames, stacks, [view], rgb, flow, scale_motion=recipe.scale_motion
        )
        return scale, meta.label


def load_streamed_batches(
    dataset: StreamedShards, sampler: EpochSampler, workers: int
) -> Iterator[Batch]:
    """The batches of `sampler`, which must mix a window of shards and not the whole dataset."""
    wanted = [part.positions.tolist() for part in sampler.parts]
    pieces = epoch_pieces(wanted, dataset.starts, dataset.ends, sampler.epoch)
    # Position -> the batch of its shard, and its row there
    pool: dict[int, tuple[Batch, int]] = {}
    left = iter(wanted)
    positions = next(left, None)
    for cut in loaded(dataset, workers, sampler=pieces, batch_size=None):
        pool |= {position: (cut, row) for row, position in enumerate(cut.positions.tolist())}
        while positions is not None and all(position in pool for position in positions):
            yield batch_of_rows([pool[position] for position in positions])
            # A position may be in a batch twice, where ranks repeat samples.
            for position in {*positions}:
                del pool[position]
            positions = next(left, None)


def epoch_pieces(
    batches: Sequence[list[int]], starts: Positions, ends: Positions, epoch: int
) -> list[Piece]:
    """The rows that these batches need of each shard; shards in the order of their first use."""
    wanted: dict[int, set[int]] = {}
    for position in (position for batch in batches for position in batch):
        shard = int(np.searchsorted(ends, position, side="right"))
        wanted.setdefault(shard, set()).add(position - int(starts[shard]))
    return [(epoch, shard, tuple(sorted(rows))) for shard, rows in wanted.items()]


def stream_samples(where: str | Location) -> Iterator[Members]:
    """Every sample of a tar as webdataset gives it; InputError for a tar that breaks off.

    Only a text is a URL or command of webdataset's; a location is opened as a file.
    """
    stream: _Watched | None = None
    url, tar = str(where), locate(where) if str(where).startswith(STORES) else where
    if isinstance(tar, Path):
        is_regular(tar)
    try:
        stream = _Watched(wds.gopen(tar) if isinstance(tar, str) else tar.open("rb"))
        try:
            yield from group_by_keys(_members(stream, url))
        finally:
            # A pipe closed before its end raises; `batch` stops early on purpose.
            with suppress(OSError):
                stream.source.close()
    except InputError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        # webdataset adds the stream and the URL to an error's arguments.
        first = str(error.args[0]).partition(" @ ")[0] if len(error.args) > 1 else error
        told = getattr(error, "strerror", None) or first
        reason = told if stream is None else stream.fault(url) or told
        raise InputError(f"{url}: cannot be streamed ({reason})") from error


def _members(stream: "_Watched", url: str) -> Iterator[Members]:
    """Each file of a tar as webdataset groups them, {fname, data, __url__}, and {} at the end.

    InputError for a member or a sample larger than can be: its header may claim anything.
    """
    limit, key, total = machine_bytes(), None, 0
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|*", tarinfo=MemberHeader) as tar:
        for member in tar:
            if not member.isreg():
                continue
            (begins, _), before = base_plus_ext(member.name), key
            key, total = begins, member.size + (total if begins == before else 0)
            if member.size > MAX_MEMBER_BYTES or (limit is not None and total > limit // 2):
                raise InputError(
                    f"{url}: {beginning(member.name)}: {member.size} bytes, its sample {total}; "
                    f"expected {MAX_MEMBER_BYTES} at most, and half of this machine's memory"
                )
            file = tar.extractfile(member)
            assert file is not None
            yield {"fname": member.name, "data": file.read(), "__url__": url}
            # tarfile keeps every header that it has read.
            tar.members = []  # type: ignore[attr-defined]  # Unknown to typeshed.
    yield {}


class _Watched:
    """A stream that remembers how it began and whether it came to its end."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.head, self.has_ended = b"", False

    def read(self, size: int) -> bytes:
        """As of the stream; at its end OSError for a command that ended with an error."""
        try:
            data: bytes = self.source.read(size)
        except OSError:
            self.has_ended = True
            raise
        self.head += data[: HEAD_BYTES - len(self.head)]
        self.has_ended = len(data) < size
        # webdataset asks whether the command has ended, which now and then is too early to know.
        if self.has_ended and isinstance(self.source, Pipe):
            self.source.wait_for_child()
        return data

    def fault(self, url: str) -> str | None:
        """Why what came is no tar, where the beginning or the command's status tells."""
        # A tar has zeros in its first block, and a compressed one other bytes that no text has.
        if self.head and not any(byte < 32 and byte not in b"\t\r\n" for byte in self.head):
            words = " ".join(self.head.decode("utf-8", "replace").split())
            is_silent = re.match(r"pipe:.*\bcurl\b", url) and not FAILING_CURL.search(url)
            hint = "; use curl -sSf so that an answer such as 404 is told" if is_silent else ""
            return f"what arrives is no tar but text that begins {words[:40]!r}{hint}"
        # The status of a command whose output was closed before its end says nothing.
        status = getattr(self.source, "status", None) if self.has_ended else None
        if not status:
            return None
        by_curl = "curl" in url or url.startswith("http")
        meaning = CURL_STATUS.get(status) if by_curl else None
        return f"its command ended with status {status}" + (
            f", by which curl means that {meaning}" if meaning else ""
        )


def _meta(members: Members) -> SampleMeta:
    try:
        return meta_from_json(members["json"])
    except KeyError as error:
        raise InputError(f"{_where(members)}: no JSON member") from error
    except InputError as error:
        raise InputError(f"{_where(members)}: {error}") from error


def _stack(members: Members, start: int, shape: SnippetShape, size: Size) -> Iterator[Bytes]:
    """2L fields (H, W), dx0 dy0 dx1 ..."""
    times = range(start, start + shape.fields * shape.stride, shape.stride)
    names = [f"flow_{axis}.{t:05d}.jpg" for t in times for axis in "xy"]
    return (_image(members, name, decode_gray, size) for name in names)


def _image(
    members: Members, name: str, decode: Callable[[bytes, Size], Bytes], size: Size
) -> Bytes:
    try:
        return decode(members[name], size)
    except KeyError as error:
        raise InputError(f"{_where(members)}: no member {name}") from error
    except InputError as error:
        raise InputError(f"{_where(members)}: {name}: {error}") from error


def _where(members: Members) -> str:
    return f"{members['__url__']}: {members['__key__']}"
