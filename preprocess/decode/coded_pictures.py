"""What the headers of coded pictures say: read once from each packet, for whoever judges it.

A tally of frames needs what containers do not say: two fields may come in two packets and make one
frame; a stream may begin in the middle, where nothing can be decoded; and where it begins at a key
picture of an open group, the leading pictures refer to pictures that are not there. A hole between
two packets shows only in the numbers that pictures carry.
"""

from typing import Literal, NamedTuple, Protocol

Parity = Literal["frame", "top", "bottom"]
# Headers lie within the first bytes of a unit, and a whole picture as one integer would be slow.
HEAD_BYTES = 64


class CodedPicture(NamedTuple):
    """A frame or a field, in decoding order.

    Fields of opposite parity and one `number` that follow each other make one frame. `is_access`:
    decoding can begin here. `is_leading`: it refers to pictures before the place where decoding
    began, so that no decoder can show it.

    `order` counts in display order from a picture with `is_start` on; None for a second field and
    where it cannot be told. `num_lost`: reference pictures that are missing before it in decoding
    order. `is_entry`: another stream may have been joined on here. `lowest`: the order of the first
    picture shown in this run.
    """

    parity: Parity = "frame"
    number: int = 0
    is_access: bool = True
    is_leading: bool = False
    order: int | None = None
    is_start: bool = False
    is_entry: bool = False
    num_lost: int = 0
    lowest: int | None = None


class PictureReader(Protocol):
    """Reads the packets of one stream, each once and in order."""

    def pictures(self, packet: bytes) -> list[CodedPicture] | None:
        """The pictures that begin in the packet; None where they cannot be told."""

    def configure(self, extradata: bytes | None) -> None:
        """Take the parameters that the container holds, at the start or in mid-stream."""

    def restart(self) -> None:
        """What came before is no reference any more: decoding begins anew."""


def whole_order(low_bits: int, num_bits: int, previous: int) -> int:
    """The count with these low bits that is nearest to `previous`: 1, 4 bits, 30 -> 33."""
    size = 1 << num_bits
    # Half a turn ahead counts as ahead and half a turn back as ahead too, 8-3 of H.264.
    return previous + (low_bits - previous + size // 2) % size - size // 2
