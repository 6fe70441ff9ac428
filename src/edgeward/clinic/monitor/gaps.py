"""Remembers where the signal of a lead has short gaps, so that what needs seconds of it may look across them.

Responsible for what is a short gap, and for the last seconds that were seen, put together without the gaps. Not
responsible for filters that begin anew (``front_end``) or for what a gap means to a rhythm (``rhythm``).

A packet or two that are lost take nothing away from what was before and after them. Without this, each loss would begin
the watch anew, and a fibrillation that is torn every few seconds would never be told.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.compiled import bare
from edgeward.clinic.monitor.state import GAPS, MASK

#: A gap of two packets of a second, and a little. A longer one may have been anything.
BRIDGED_S = 2.1
#: Nothing older than this is put together with now, however short the gaps.
REACH_S = 8.0


@bare
def note_gap(c: Any, first_n: int) -> None:
    """Take it that a lead begins anew, after a gap that began at analysis sample `first_n`; it has just restarted."""
    missing = c.n - first_n
    if first_n > c.seen_from and missing <= BRIDGED_S * c.analysis_rate and c.was_off == 0:
        slot = c.gaps % GAPS
        c.gap_from[slot] = first_n
        c.gap_to[slot] = c.settled_n
        c.gaps += 1
    else:
        c.seen_from = c.settled_n
        c.gaps = 0
    c.unseen += c.settled_n - first_n
    c.was_off = 0


@bare
def seen(c: Any) -> int:
    """Return how many analysis samples of a lead were seen until now."""
    return int(c.n - c.unseen)


@bare
def put_together(c: Any, trace: NDArray[np.float32], stride: int, count: int, out: NDArray[np.float64]) -> int:
    """Write the last `count` means of `stride` samples that were seen, oldest first; return where the oldest begins.

    -1: so many were not seen within `REACH_S`.
    """
    oldest = max(c.seen_from, c.n - int(REACH_S * c.analysis_rate))
    left, end, gap = count, c.n, c.gaps - 1
    while left > 0 and end > oldest:
        start, before = oldest, oldest
        if gap >= max(0, c.gaps - GAPS):
            start, before = max(oldest, c.gap_to[gap % GAPS]), c.gap_from[gap % GAPS]
        elif c.gaps > GAPS:  # what was before is forgotten
            return -1
        points = min(left, (end - start) // stride)
        for k in range(points):
            first = end - (points - k) * stride
            total = 0.0
            for j in range(stride):
                total += trace[(first + j) & MASK]
            out[left - points + k] = total / stride
        if points > 0:
            left -= points
            end -= points * stride
        if left == 0:
            return int(end)
        end, gap = before, gap - 1
    return -1
