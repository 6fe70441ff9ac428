"""Says when an ECG in which no beat is found cannot be read, so that it proves nothing.

Responsible for two signs. *Rough*: the QRS band is full of movement, all the time, as a heart that stands still never
makes it, nor a tremor, a pacemaker, wander or mains. *Deaf*: the patient's own usual QRS are plainly there, and the
detector does not take them (they are low, and what moved before was strong). And for how long a clock waits for them.
Not responsible for what is told (``rhythm``).

The sign against both is a fibrillation: what may be one is never called movement here.
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.compiled import bare
from edgeward.clinic.monitor.ectopy import HISTORY
from edgeward.clinic.monitor.state import MASK, RING
from edgeward.clinic.monitor.unrest import index_of

ROUGH_S, PARTS, PARTS_LEAST = 1.0, 8, 5
#: In the QRS band, in more than half of the parts. Of 5,700 half seconds of generated asystole with tremor, mains,
#: wander, P waves, pacing, white noise 0.1 % reach it, of movements that hide beats seven of ten.
ROUGH_MV = 0.15
#: And of the usual beat's height: less hides no beat.
ROUGH_PART = 0.2
#: Below this leakage (``fibrillation``) it may be a fibrillation.
LEAKAGE_LEAST = 0.5
#: The QRS of a shape (``beats``: 8 ms apart, the fiducial is the thirteenth point).
CORE_FROM, CORE_TO, POINT_S = 6, 21, 0.008
#: One of the patient's own QRS: likeness, and height against the usual one. None in the asystoles above.
OWN, OWN_LEAST, OWN_MOST = 0.95, 0.7, 1.4
#: The same where it only casts doubt on a fibrillation.
LIKE, LIKE_LEAST, LIKE_MOST = 0.85, 0.6, 1.6
APART_S = 0.25
DEAF_BEATS = 2
#: Only so long after movement: of a paced patient the usual beat may hold the overshoot of the pulse, which goes on.
MOVED_S = 10.0
#: The clocks of asystole and pause wait, this long at most after a beat; then an asystole is told as ever.
WAIT_MOST_S = 12.0
#: So much of it that lies `OVERDUE_S` or more after a beat is told. It fades by a part of the time that can be read.
TOLD_S, OVERDUE_S, FADES = 5.0, 1.0, 0.2


@bare
def is_rough(c: Any, band: NDArray[np.float32]) -> bool:
    """Return whether the last second of the QRS band of a lead is full of movement."""
    count = int(ROUGH_S * c.analysis_rate)
    if c.n - c.settled_n < count:
        return False
    least = ROUGH_MV
    if c.dominant >= 0:
        least = max(least, ROUGH_PART * c.shape_height[c.dominant])
    size, full = count // PARTS, 0
    for part in range(PARTS):
        first = c.n - count + part * size
        top = 0.0
        for j in range(first, first + size):
            top = max(top, abs(band[j & MASK]))
        if top > least:
            full += 1
    return full >= PARTS_LEAST


@bare
def own_beats(
    c: Any,
    trace: NDArray[np.float32],
    first: int,
    last: int,
    like: float,
    least: float,
    most: float,
    room: NDArray[np.float64],
) -> int:
    """Return how often the usual QRS of a lead is seen, beginning between two analysis samples.

    `like` is the least correlation, `least` and `most` bound the height against the usual one. `room` is overwritten.
    """
    if c.dominant < 0:
        return 0
    rate = c.analysis_rate
    size = int((CORE_TO - CORE_FROM) * POINT_S * rate)
    step = 1.0 / (rate * POINT_S)
    mean = 0.0
    for k in range(size):
        at = k * step
        i = int(at)
        part = at - i
        room[k] = (1.0 - part) * c.shapes[c.dominant, CORE_FROM + i] + part * c.shapes[c.dominant, CORE_FROM + i + 1]
    slope, level = (room[size - 1] - room[0]) / (size - 1), room[0]
    for k in range(size):
        room[k] -= level + slope * k
        mean += room[k]
    mean /= size
    power = 0.0
    for k in range(size):
        room[k] -= mean
        power += room[k] * room[k]
    if power <= 0.0:
        return 0
    found, before = 0, -(10**9)
    for s in range(max(first, c.start_n, c.n - RING + 1), min(last, c.n - size) + 1):
        if s - before <= APART_S * rate:
            continue
        level = trace[s & MASK]
        slope = (trace[(s + size - 1) & MASK] - level) / (size - 1)
        total = squares = cross = 0.0
        for k in range(size):
            value = trace[(s + k) & MASK] - level - slope * k
            total += value
            squares += value * value
            cross += value * room[k]
        spread = squares - total * total / size
        if least * power < cross < most * power and cross > like * math.sqrt(max(spread * power, 0.0)):
            found += 1
            before = s
    return found


@bare
def own_between(c: Any, trace: NDArray[np.float32], first: int, last: int, room: NDArray[np.float64]) -> int:
    """Return how many of the patient's own QRS lie between two beats, or since one; both are analysis samples."""
    margin = int(APART_S * c.analysis_rate)
    return own_beats(c, trace, first + margin, last - margin, OWN, OWN_LEAST, OWN_MOST, room)


@bare
def shows_usual(c: Any, trace: NDArray[np.float32], seconds: float, room: NDArray[np.float64]) -> bool:
    """Return whether something like the patient's usual QRS is seen in the last `seconds`."""
    first = c.n - int(seconds * c.analysis_rate)
    return own_beats(c, trace, first, c.n, LIKE, LIKE_LEAST, LIKE_MOST, room) > 0


@bare
def is_unreadable(
    p: Any,
    channels: Any,
    traces: NDArray[np.float32],
    bands: NDArray[np.float32],
    at: float,
    room: NDArray[np.float64],
) -> bool:
    """Return whether nothing follows from it that no beat was found since the last one: no lead can be read.

    A lead that is flat, or quiet, can be read: no beat is in it.
    """
    rough = True
    for k in range(p.leads):
        c = channels[p.row + k]
        if c.lead_off == 1 or c.saturated == 1:
            continue
        rough = rough and is_rough(c, bands[p.row + k])
        if p.moved_s > 0.0 and (at - p.last_beat) / p.rate > OVERDUE_S:
            last = index_of(c, p.last_beat) if p.beats > 0 else c.start_n
            if own_between(c, traces[p.row + k], last, c.n, room) >= DEAF_BEATS:
                return True
    if rough:
        p.moved_s = MOVED_S
    return rough


@bare
def wait(p: Any, at: float, unreadable: bool) -> None:
    """Let half a second pass that could be read, or could not."""
    hop_s = p.hop / p.rate
    p.moved_s = max(p.moved_s - hop_s, 0.0)
    if unreadable:
        p.rough_s += hop_s
        if p.waited_s < WAIT_MOST_S:
            p.waited_s += hop_s
            p.anchor = min(p.anchor + p.hop, at)
    if unreadable and (at - p.last_beat) / p.rate > OVERDUE_S:
        p.blind_s = min(p.blind_s + hop_s, 2.0 * TOLD_S)
    else:
        p.blind_s = max(p.blind_s - FADES * hop_s, 0.0)


@bare
def note_missed(p: Any, channels: Any, traces: NDArray[np.float32], room: NDArray[np.float64]) -> None:
    """Look whether the slow intervals that have ended since the last look hide one of the patient's own QRS."""
    c, trace = channels[p.row + p.primary], traces[p.row + p.primary]
    for k in range(min(p.beats - p.blind_known, HISTORY - 1)):
        slot = (p.beats - 1 - k) % HISTORY
        if p.moved_s > 0.0 and p.intervals[slot] > 60.0 / p.extreme_bradycardia and p.blind[slot] == 0:
            first = index_of(c, p.times[(slot - 1) % HISTORY])
            if own_between(c, trace, first, index_of(c, p.times[slot]), room) > 0:
                p.blind[slot] = 1
    p.blind_known = p.beats
