"""Pictures of HEVC: access points, leading ones, and their places in display order.

Sources: ITU-T H.265 7.3.2, 7.3.6, 7.4.2.2, 8.1 and 8.3.1.
"""

from contextlib import suppress

from twinstream.preprocess.decode.bitstream import (
    BitReader,
    nal_length_size,
    nal_units,
    parameter_sets,
    without_emulation,
)
from twinstream.preprocess.decode.coded_pictures import HEAD_BYTES, CodedPicture, whole_order


class HevcReader:
    """Decoding begins at an IRAP picture; RASL pictures of the first one are leading.

    So are those of a BLA picture, and of a CRA picture after an end of sequence.
    """

    def __init__(self, extradata: bytes | None) -> None:
        # Bits of the order count, and whether planes are coded apart, of each SPS.
        self._sps: dict[int, tuple[int, bool]] = {}
        # SPS, extra bits of slice heads, and whether these have an output flag, of each PPS.
        self._pps: dict[int, tuple[int, int, bool]] = {}
        self._last_order = 0
        self.configure(extradata)
        self.restart()

    def configure(self, extradata: bytes | None) -> None:
        """Length of the units' lengths, and the parameter sets; a cut one is left out."""
        self._length_size = nal_length_size("hevc", extradata)
        for unit in parameter_sets("hevc", extradata):
            with suppress(EOFError):
                self._take_parameters(unit)

    def restart(self) -> None:
        """As at an end of sequence."""
        self._is_new = True
        self._skips_rasl = False

    def pictures(self, packet: bytes) -> list[CodedPicture] | None:
        """A picture for every first slice segment of the base layer."""
        found = []
        kinds = []
        for unit in nal_units(packet, self._length_size):
            # Units of other layers are further views or alpha, which FFmpeg does not show.
            if len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:
                self._is_new |= len(unit) == 2 and unit[0] >> 1 in (36, 37)
                continue
            kinds.append(kind := unit[0] >> 1)
            if kind < 32 and unit[2] & 0x80:
                found.append(self._picture(unit, kind))
            elif kind in (33, 34):
                with suppress(EOFError):
                    self._take_parameters(unit)
        return found if found or (kinds and min(kinds) > 31) else None

    def _picture(self, unit: bytes, kind: int) -> CodedPicture:
        is_irap = 16 <= kind <= 23
        is_start = kind in range(16, 21) or (is_irap and self._is_new)
        if is_irap:
            self._skips_rasl = self._is_new or kind != 21
            self._is_new = False
        is_leading = kind in (8, 9) and self._skips_rasl
        try:
            order = self._order(unit, kind, is_start=is_start)
        except (EOFError, KeyError):
            order = None
        return CodedPicture("frame", 0, is_irap, is_leading, order, is_start, is_irap)

    def _take_parameters(self, unit: bytes) -> None:
        kind = unit[0] >> 1 if unit else 0
        if kind == 33:
            self._take_sps(BitReader(without_emulation(unit)[2:]))
        elif kind == 34:
            reader = BitReader(without_emulation(unit[:HEAD_BYTES])[2:])
            identifier, sps = reader.ue(), reader.ue()
            _, has_output_flag, num_extra_bits = reader.bits(1), reader.bits(1), reader.bits(3)
            self._pps[identifier] = sps, num_extra_bits, bool(has_output_flag)

    def _take_sps(self, reader: BitReader) -> None:
        """(bits of the order count, whether planes are coded apart), 7.3.2.2 and 7.3.3."""
        reader.bits(4)
        num_sub_layers = reader.bits(3)
        reader.bits(1 + 88 + 8)
        present = [(reader.bits(1), reader.bits(1)) for _ in range(num_sub_layers)]
        if num_sub_layers:
            reader.bits(2 * (8 - num_sub_layers))
        for has_profile, has_level in present:
            reader.bits(88 * has_profile + 8 * has_level)
        identifier, chroma = reader.ue(), reader.ue()
        separate = reader.bits(1) if chroma == 3 else 0
        reader.ue(), reader.ue()
        if reader.bits(1):
            for _ in range(4):
                reader.ue()
        reader.ue(), reader.ue()
        self._sps[identifier] = reader.ue() + 4, bool(separate)

    def _order(self, unit: bytes, kind: int, *, is_start: bool) -> int:
        """Picture order count; KeyError without its parameter sets, EOFError if it is cut."""
        reader = BitReader(without_emulation(unit[:HEAD_BYTES])[2:])
        reader.bits(2 if 16 <= kind <= 23 else 1)
        sps, num_extra_bits, has_output_flag = self._pps[reader.ue()]
        order_bits, separate_planes = self._sps[sps]
        order = 0
        if kind not in (19, 20):
            reader.bits(num_extra_bits)
            reader.ue()
            reader.bits(has_output_flag + 2 * separate_planes)
            order = reader.bits(order_bits)
            order = order if is_start else whole_order(order, order_bits, self._last_order)
        # Only pictures of the lowest layer that others refer to count, and no leading ones.
        if unit[1] & 7 == 1 and not (6 <= kind <= 9 or (kind < 15 and kind % 2 == 0)):
            self._last_order = order
        return order
