"""Tells atrial fibrillation: intervals without any order, and no P wave before the beats.

Responsible for the two measures and the verdict; how long it must hold before somebody is told is ``rhythm``'s.
Intervals next to a ventricular beat do not count. The median of their changes is robust against single early beats
(after Tateno & Glass 2001, who compare whole distributions); a P wave is what looks alike before each usual beat.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.detector import sort_into
from edgeward.clinic.monitor.ectopy import HISTORY, SETTLED, VENTRICULAR

CHANGES = 32
CHANGES_LEAST = 16
#: Median change of the interval from beat to beat, as part of the interval. Sinus rhythm at rest: 0.01 to 0.04.
IRREGULAR = 0.06
CHAOTIC = 0.14
#: Mean correlation of what precedes the usual beats with its own mean. With P waves 0.8 and more.
P_SEEN = 0.62
#: From here on a P wave is certain, and the rhythm none however irregular (frequent early atrial beats). Only of narrow
#: beats: the foot of a wide QRS looks alike too. Width as measured here, by slope: 109 or more in bundle-branch block.
P_CERTAIN = 0.75
WIDE_MS = 100.0
HOLD_S = 30.0


@njit
def on_decided(p: Any) -> None:
    """Take the interval before the beat that was decided last."""
    newest = p.beats - 1 - SETTLED
    if newest < 2:
        return
    one, two, three = newest % HISTORY, (newest - 1) % HISTORY, (newest - 2) % HISTORY
    if p.kinds[one] == VENTRICULAR or p.kinds[two] == VENTRICULAR or p.kinds[three] == VENTRICULAR:
        return
    now, before = p.intervals[one], p.intervals[two]
    if now <= 0.0 or before <= 0.0 or now > 3.0 or before > 3.0:
        return
    p.changes[p.change_count % CHANGES] = 2.0 * abs(now - before) / (now + before)
    p.change_count += 1


@njit
def irregularity(p: Any, scratch: NDArray[Any]) -> float:
    """Return the median relative change of the last intervals; 0 while there are too few."""
    count = min(p.change_count, CHANGES)
    if count < CHANGES_LEAST:
        return 0.0
    sort_into(p.changes, count, scratch)
    return float(0.5 * (scratch[(count - 1) // 2] + scratch[count // 2]))


@njit
def is_atrial_fibrillation(change: float, p_like: float, width_ms: float) -> bool:
    """Return whether an irregular rhythm is atrial fibrillation.

    Parameters
    ----------
    change : float
        Median relative change of the interval.
    p_like : float
        How alike P waves are, -1..1.
    width_ms : float
        Of the usual QRS.
    """
    if change > CHAOTIC:
        return p_like < P_CERTAIN or width_ms > WIDE_MS
    return change > IRREGULAR and p_like < P_SEEN
