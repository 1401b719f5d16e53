"""How often a video is tried when workers die or hang in it, and when it is left out.

A worker that dies takes its job along, and the job starts anew: the machine may be at fault. Only
when the same video has cost `max_tries` workers in a row is it left out, as `crashed`. A video that
makes no progress is left out at once, as `timed_out`, because another try would wait as long. The
counts last as long as the run: a resumed run gives each video all its tries again, and comes to the
same row.
"""

from collections import Counter

from twinstream.shards.format.video_table import Reason, VideoError

# Fixed words: they are stored in the table of videos, whose bytes must not depend on the machine.
DETAILS = {
    Reason.CRASHED: "its worker died each time it was tried",
    Reason.TIMED_OUT: "no progress within preprocess.timeout_seconds",
}


class Retries:
    """Deaths in a row by a video's key (by the job's name for a worker that was in no video)."""

    def __init__(self, max_tries: int) -> None:
        self._max_tries = max_tries
        self._deaths: Counter[str] = Counter()
        self.given_up: dict[str, VideoError] = {}

    def died(self, key: str) -> bool:
        """Count a death in `key`; returns whether it was the last try."""
        self._deaths[key] += 1
        return self._deaths[key] >= self._max_tries

    def succeeded(self, key: str) -> None:
        """Forget the deaths in a video that went through: they were the machine's fault."""
        del self._deaths[key]  # A Counter takes this for a key it does not have, too.

    def give_up(self, key: str, reason: Reason) -> None:
        """Leave this video out from now on."""
        self.given_up[key] = VideoError(reason, DETAILS[reason])
