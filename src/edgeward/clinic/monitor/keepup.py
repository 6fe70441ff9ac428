"""Whether monitoring keeps up with what is sent, and what to do when it does not.

Responsible for how far all streams together are behind their own pace, for when that is said, and for when the newest
packets are taken and those that waited are left out: an alarm out of a backlog that only grows would come later and
later. Pure apart from its memory. One device that sends late what it kept is no such thing: half of all streams must
be late, and the connection full. Nor is what lies there after a pause of this machine: it is worked off, and every
packet of it is looked at. Not responsible for reading (``bus.reading``) or for single streams (``streams``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.streams import STREAM

#: From so far behind on it is said: the budget of an alarm as we ship it (``config.Budgets``).
SAID_FROM_S = 0.5
SAID_AFTER_NS = 1_000_000_000
#: It is over when it was better than this for a while.
OVER_BELOW_S = 0.25
OVER_AFTER_NS = 5_000_000_000
#: From so far behind on, while the connection is full, packets that waited are left out, until it is as good as new.
LEAVE_FROM_S = 2.0
LEAVE_UNTIL_S = 0.5
#: That is so if for this long the backlog became no smaller than by this much.
LEAVE_AFTER_NS = 3_000_000_000
WORKED_OFF_S = 1.0
#: A packet that is no more behind than this is taken in any case.
NEW_S = 0.5
#: Streams that sent nothing for this long say nothing about now.
_LATELY_NS = 2_000_000_000
_FEWEST = 8  # of fewer streams, half are no measure


def behind_s(book: NDArray[np.void], now_ns: int) -> float:
    """Return how far the middle one of all streams is behind its own pace, s; 0 if too few are there to tell."""
    lately = book[(now_ns - book["received_ns"] < _LATELY_NS) & (book["span"] > 0)]
    if len(lately) < _FEWEST:
        return 0.0
    best = np.where(lately["has_before"] == 1, np.minimum(lately["best"], lately["before"]), lately["best"])
    came = lately["received_ns"] - best - np.rint(lately["next_sample"] / lately["rate"] * 1e9).astype(np.int64)
    return max(0.0, float(np.median(came)) / 1e9)


@dataclass(slots=True)
class KeepUp:
    """How far monitoring is behind, and since when.

    Attributes
    ----------
    behind_s
        At the last look.
    told
        Whether it is to be said that monitoring is behind.
    leaving
        Whether packets that waited are to be left out.
    """

    behind_s: float = 0.0
    told: bool = False
    leaving: bool = False
    _since: int = 0  # worse than said, or better than over, without a break since
    _much_since: int = 0  # much behind since, and how much then
    _much_s: float = 0.0

    def look(self, book: NDArray[np.void], now_ns: int, *, full: bool) -> None:
        """Look at all streams; call it a few times a second. `full`: the connection had more each time it was read."""
        assert book.dtype == STREAM
        self.behind_s = behind_s(book, now_ns)
        changing = self.behind_s < OVER_BELOW_S if self.told else self.behind_s > SAID_FROM_S
        if not changing:
            self._since = now_ns
        elif now_ns - self._since >= (OVER_AFTER_NS if self.told else SAID_AFTER_NS):
            self.told = not self.told
            self._since = now_ns
        if self.leaving:
            self.leaving = self.behind_s > LEAVE_UNTIL_S
        else:
            self.leaving = self._grows(now_ns, full=full)

    def _grows(self, now_ns: int, *, full: bool) -> bool:
        """Return whether we are much behind, and not about to be no more."""
        if not full or self.behind_s <= LEAVE_FROM_S:
            self._much_since = 0
            return False
        if self._much_since and now_ns - self._much_since < LEAVE_AFTER_NS:
            return False
        grows = bool(self._much_since) and self.behind_s > self._much_s - WORKED_OFF_S
        self._much_since, self._much_s = now_ns, self.behind_s
        return grows

    @property
    def leave_ns(self) -> int:
        """Packets further behind their stream's pace than this are to be left out; 0: none."""
        return int(NEW_S * 1e9) if self.leaving else 0
