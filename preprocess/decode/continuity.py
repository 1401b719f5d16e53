"""Is a coded picture missing between two packets? From the places in display order they carry.

A decoder plays over a hole without an error. A picture that is last before a key picture may go
unmissed.
"""

from bisect import insort
from collections import Counter
from itertools import pairwise

from twinstream.preprocess.decode.coded_pictures import CodedPicture

# The most pictures that can be decoded before one that is shown before them (H.264 and H.265 A.4).
MAX_REORDERED = 16
# Holes before an entry point that are longer are joints of two streams.
MAX_HOLE_AT_ENTRY = 3
MIN_STEPS = 4


class DisplayOrder:
    """Finds a hole in the display order of pictures that otherwise step evenly.

    Pictures are added in decoding order; a place is settled once `MAX_REORDERED` later ones are in.
    Orders 0, 8, 4, 2, [6], 16, ... with 6 lost, where others step by 2: a hole after 3 pictures.
    """

    def __init__(self) -> None:
        self.hole: int | None = None
        """Number of pictures that are shown before the first hole."""
        self._pending: list[tuple[int, int]] = []
        self._last: tuple[int, int] | None = None
        self._steps: Counter[int] = Counter()
        self._num_settled = 0
        self._run = 0
        self._is_entry_whole = True
        self._num_reordered = 0
        self._start: CodedPicture | None = None

    def add(self, picture: CodedPicture) -> None:
        """Take in the next picture in decoding order."""
        if picture.order is None:
            return
        if picture.is_start or picture.is_entry:
            highest = self._pending[-1] if self._pending else self._last
            if picture.is_start or highest is None or picture.order <= highest[0]:
                self.close()
            self._run += 1
            self._start = picture
            self._is_entry_whole = picture.num_lost <= 1
        place = picture.order, self._run
        insort(self._pending, place)
        num_later = len(self._pending) - 1 - self._pending.index(place)
        self._num_reordered = max(self._num_reordered, num_later)
        if len(self._pending) > MAX_REORDERED:
            self._settle()

    def close(self) -> None:
        """The run of pictures ends here: settle all."""
        while self._pending:
            self._settle()
        self._last = None

    def finish(self) -> None:
        """The stream ends here: a hole among its last pictures is a cut, not damage.

        `ffmpeg -t ... -c copy` cuts in decoding order: pictures shown before the last are absent.
        """
        while len(self._pending) > self._num_reordered:
            self._settle()

    def _settle(self) -> None:
        order, run = self._pending.pop(0)
        if self._last is not None:
            difference = order - self._last[0]
            is_usual = 0 < difference <= min(self._steps, default=0)
            step = None if is_usual else self._step([order, *(it[0] for it in self._pending)])
            if step and difference > step and self.hole is None:
                num_missing = difference // step - 1
                at_entry = run != self._last[1]
                if not at_entry or (num_missing <= MAX_HOLE_AT_ENTRY and self._is_entry_whole):
                    self.hole = self._num_settled
            else:
                self._steps[difference] += 1
        elif self._num_settled and self._lacks_first(order) and self.hole is None:
            self.hole = self._num_settled
        self._last = order, run
        self._num_settled += 1

    def _lacks_first(self, order: int) -> bool:
        """Whether some but not all of the pictures shown before a run's first picture are there.

        An editor that cuts there removes all of them.
        """
        start = self._start
        if start is None or start.lowest is None or start.order is None:
            return False
        return start.lowest < order < start.order

    def _step(self, ahead: list[int]) -> int | None:
        """The step between neighbours; None where there are too few, or they are uneven."""
        steps = self._steps + Counter(after - before for before, after in pairwise(ahead))
        common = steps.most_common(1)
        if not common or common[0][1] < MIN_STEPS:
            return None
        step = common[0][0]
        is_even = step > 0 and all(other > 0 and other % step == 0 for other in steps)
        return step if is_even else None
