"""Does every packet of an MPEG transport stream follow the one before it, and where are its seams?

Each transport packet of 188 bytes carries a counter, so a lost one shows; so does a cut video
packet (PES) that says its length. Where files were joined the counters jump too, but there a new
program table comes, and then the start of a video packet. Source: ISO/IEC 13818-1 2.4.3.
"""

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

SYNC = 0x47
# (bytes of a packet, bytes before its sync byte): plain, M2TS with a clock, with error correction.
LAYOUTS = ((188, 0), (192, 4), (204, 0))
TABLE_PID = 0
NUM_PROBED = 8
NUM_AT_ONCE = 1 << 16
HEAD = np.dtype(
    [
        *(("at", np.int64), ("pid", np.int64), ("counter", np.int64), ("counts", bool)),
        *(("starts", bool), ("jumps", bool), ("is_bad", bool)),
        *(("num_bytes", np.int64), ("pes_bytes", np.int64)),
    ]
)
Heads = NDArray[np.void]


@dataclass(frozen=True)
class Continuity:
    """Byte positions where another piece begins; the first damage, if any.

    `damaged_at` is where the video packet begins that is damaged.
    """

    seams: tuple[int, ...] = ()
    damage: str | None = None
    damaged_at: int | None = None


def transport_continuity(file: BinaryIO, num_bytes: int, pid: int) -> Continuity | None:
    """The check of the video with this packet identifier; None if the packets cannot be found."""
    layout = _layout(file)
    if layout is None:
        return None
    size, before_sync = layout
    rows = []
    damage = None
    if num_bytes % size:
        damage = f"cut off: the last transport packet has {num_bytes % size} of {size} bytes"
    for first in range(0, num_bytes // size, NUM_AT_ONCE):
        file.seek(first * size)
        content = np.frombuffer(file.read(NUM_AT_ONCE * size), np.uint8)
        packets = content[: len(content) // size * size].reshape(-1, size)[:, before_sync:]
        torn = np.flatnonzero(packets[:, 0] != SYNC)
        if len(torn):
            at = (first + int(torn[0])) * size
            damage = f"damaged at byte {at}: no transport packet starts there"
            packets = packets[: torn[0]]
        pids = (packets[:, 1] & 0x1F).astype(np.int64) << 8 | packets[:, 2]
        wanted = np.flatnonzero((pids == pid) | (pids == TABLE_PID))
        rows.append(_heads(packets[wanted], pids[wanted], (first + wanted) * size))
        if len(torn):
            break
    return _checked(np.concatenate(rows), pid, damage) if rows else None


def _layout(file: BinaryIO) -> tuple[int, int] | None:
    file.seek(0)
    head = file.read(NUM_PROBED * LAYOUTS[0][0])
    for size, before_sync in LAYOUTS:
        if set(head[before_sync::size]) == {SYNC}:
            return size, before_sync
    return None


def _heads(
    packets: NDArray[np.uint8], pids: NDArray[np.int64], positions: NDArray[np.int64]
) -> Heads:
    """What the heads of the packets say.

    `num_bytes` is their payload, `pes_bytes` the size of the video packet that starts, 0 if unsaid.
    """
    heads = np.zeros(len(packets), HEAD)
    has_field = packets[:, 3] & 0x20 > 0
    field_bytes = np.where(has_field, packets[:, 4].astype(np.int64) + 1, 0)
    heads["at"], heads["pid"], heads["counter"] = positions, pids, packets[:, 3] & 15
    heads["counts"] = packets[:, 3] & 0x10 > 0
    heads["starts"] = packets[:, 1] & 0x40 > 0
    heads["is_bad"] = packets[:, 1] & 0x80 > 0
    heads["jumps"] = (field_bytes > 1) & (packets[:, 5] & 0x80 > 0)
    heads["num_bytes"] = np.where(heads["counts"], np.maximum(184 - field_bytes, 0), 0)
    begins = np.flatnonzero(heads["starts"] & (heads["num_bytes"] >= 6))
    # Bytes 4 and 5 of a PES packet say how many follow.
    at = 4 + field_bytes[begins] + 4
    length = packets[begins, at].astype(np.int64) << 8 | packets[begins, at + 1]
    heads["pes_bytes"][begins] = np.where(length > 0, length + 6, 0)
    return heads


def _checked(heads: Heads, pid: int, damage: str | None) -> Continuity:
    """The seams before the first damage; `damage` is one at the end."""
    is_video = heads["pid"] == pid
    breaks = np.zeros(len(heads), bool)
    for chosen in (is_video, ~is_video):
        breaks[chosen] = _breaks(heads[chosen])
    video = heads[is_video]
    places = np.flatnonzero(is_video)
    starts = np.flatnonzero(video["starts"])
    faults = [(len(video), damage)] if damage else []
    seams = []
    for index in np.flatnonzero(_after_table_break(is_video, breaks) | video["is_bad"]).tolist():
        place = places[index]
        tables = slice(places[index - 1] + 1 if index else 0, place)
        if index and _is_seam(video[index], heads[tables], breaks[tables]):
            seams.append(int(video["at"][index]))
        elif breaks[place] or video["is_bad"][index]:
            at = video["at"][index]
            faults.append((index, f"damaged at byte {at}: transport packets are missing"))
            break
    if len(starts):
        sums = np.add.reduceat(video["num_bytes"], starts)
        wanted = video["pes_bytes"][starts]
        for number in np.flatnonzero((wanted > 0) & (sums != wanted)).tolist()[:1]:
            at = video["at"][starts[number]]
            text = f"damaged at byte {at}: {sums[number]} of {wanted[number]} bytes of a picture"
            faults.append((starts.tolist()[number], text))
    if not faults:
        return Continuity(tuple(seams))
    first, text = min(faults)
    # A packet that is missing may have begun a picture: the one before it may be cut.
    whole = video["at"][starts[starts < max(first, 1)]]
    return Continuity(tuple(seams), text, int(whole[-1]) if len(whole) else 0)


def _after_table_break(is_video: NDArray[np.bool_], breaks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each video packet: does it, or a table since the one before it, not follow?"""
    total = np.cumsum(breaks)[is_video]
    return np.diff(total, prepend=0) > 0


def _is_seam(head: np.void, tables: Heads, table_breaks: NDArray[np.bool_]) -> bool:
    """Whether a joined file begins: a table that does not follow, or begins to count anew."""
    is_fresh = head["counter"] == 0 and bool((tables["counter"] == 0).any())
    return bool(head["starts"] and (table_breaks.any() or is_fresh))


def _breaks(heads: Heads) -> NDArray[np.bool_]:
    """Where the counter of one PID does not follow; packets without payload do not count."""
    if not len(heads):
        return np.empty(0, bool)
    expected = heads["counter"][:-1] + heads["counts"][1:]
    follows = (heads["counter"][1:] == expected % 16) | heads["jumps"][1:]
    return np.concatenate([[False], ~follows])
