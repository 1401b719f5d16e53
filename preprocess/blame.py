"""Which video is given up, when workers die or hang: a pure count of what happened in each.

A worker that dies takes its job along, and the job starts anew: the machine may be at fault. Only
when the same video has cost `max_tries` workers in a row is it left out, as `crashed`; one that
makes no progress is left out at once, as `timed_out`, because another wait would be as long. The
counts last as long as the run: after a restart a video has its tries again, and ends in the same
row.
"""

from collections import Counter

from twinstream.shards.videos import Reason, VideoError

DETAILS = {
    Reason.CRASHED: "its worker died each time it was tried",
    Reason.TIMED_OUT: "no progress within preprocess.timeout_seconds",
}


class Blame:
    """Deaths in a row by the key of a video (or the name of a job that was in none), and what is
    given up.
    """

    def __init__(self, max_tries: int) -> None:
        self._max_tries = max_tries
        self._deaths: Counter[str] = Counter()
        self.given_up: dict[str, VideoError] = {}

    def died(self, key: str) -> bool:
        """Count a death in `key`; returns whether it was the last try."""
        self._deaths[key] += 1
        return self._deaths[key] >= self._max_tries

    def survived(self, key: str) -> None:
        """The video went through: what died in it before was the machine."""
        del self._deaths[key]

    def give_up(self, key: str, reason: Reason) -> None:
        """Leave this video out from now on."""
        self.given_up[key] = VideoError(reason, DETAILS[reason])
