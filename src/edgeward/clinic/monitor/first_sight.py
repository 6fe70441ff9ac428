"""Tells a ventricular tachycardia that was there before any other rhythm was seen.

Whoever is connected in a ventricular tachycardia has no usual beat that it could differ from: its own shape becomes
the usual one. What is left is what a clinician asks of a regular tachycardia with wide QRS: is anything narrow known of
this patient, and does a P wave come before the QRS? If neither, it is ventricular until something else is seen.
Responsible for these two questions, and for the mean cycle that answers the second. Not responsible for tachycardias
that begin later (``ectopy``) or for what is told (``rhythm``).
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.compiled import bare
from edgeward.clinic.monitor.ectopy import HISTORY
from edgeward.clinic.monitor.state import MASK
from edgeward.clinic.monitor.unrest import index_of

#: Beats whose mean is looked at; they come evenly: the longest interval is at most so many times the shortest. Bundle
#: branch block in atrial fibrillation does not.
LOOKED = 8
EVEN = 1.15
CYCLE_BEFORE_S = 0.2  # the mean begins so long before the fiducial
#: A QRS from here on is wide in every lead that shows one; where the speaking lead's usual beat is below the other, it
#: is known to be narrow, once it has been seen so often. Bundle branch block is between them, or above.
WIDE_MS, NARROW_MS, NARROW_BEATS = 130.0, 110.0, 4.0
HEIGHT_MV = 0.2  # what is lower shows too little of a QRS to say how wide it is
#: Edges of a QRS: no slope above this part of the steepest for so long. A flat top between two steep flanks belongs to
#: it: the second flank goes the other way, and is at least so steep against the first.
EDGE, QUIET_S, REACH_S, HALF_S, FLANK = 0.2, 0.024, 0.16, 0.14, 0.5
#: Between two QRS a T wave turns once. What turns again, by more than this, is a P wave; so is a shoulder on the T
#: wave, of which only the slope turns.
TURN_MV, TURN_PART = 0.03, 0.03
J_POINT_S = 0.06  # a turn so soon after the QRS is its own
SLOPE_S, SLOPE_MARGIN_S = 0.024, 0.02
SLOPE_TURN = 1.0  # mV/s
#: The slope of a T wave turns twice, and often once more towards the next QRS. Below this rate there is room for a P
#: wave beside the T wave, and a bundle branch block in sinus tachycardia is the likelier: there one turn less counts.
TURNS, SLOPE_TURNS, SLOPE_TURNS_ROOM, ROOM_RATE = 2, 4, 3, 120.0
ROOM = 512  # samples
KNOWN_NOT, UNSEEN, SEEN = -1, 0, 1


@bare
def qrs_edges(curve: NDArray[np.float64], length: int, centre: int, rate: float) -> tuple[int, int]:
    """Return the first and the last sample of the QRS around `centre`."""
    half, quiet, reach = int(HALF_S * rate + 0.5), int(QUIET_S * rate + 0.5), int(REACH_S * rate)
    lag = max(1, int(0.004 * rate + 0.5))
    low, high = max(lag, centre - half), min(length - lag - 1, centre + half)
    steepest, at = 0.0, centre
    for j in range(low, high):
        slope = abs(curve[j + lag] - curve[j - lag])
        if slope > steepest:
            steepest = slope
            at = j
    first = last = at
    own = curve[at + lag] - curve[at - lag]
    for side in range(2):
        way = -1 if side == 0 else 1
        edge, silent = at, 0
        j = at
        while low <= j < high and silent <= quiet:
            if abs(curve[j + lag] - curve[j - lag]) > EDGE * steepest:
                edge = j
                silent = 0
            else:
                silent += 1
            j += way
        j = edge
        while low <= j < high and abs(j - edge) <= reach:
            slope = curve[j + lag] - curve[j - lag]
            if slope * own < 0.0 and abs(slope) > FLANK * steepest:
                while low <= j < high and abs(curve[j + lag] - curve[j - lag]) > EDGE * steepest:
                    j += way
                edge = j - way
                break
            j += way
        first, last = (edge, last) if side == 0 else (first, edge)
    return first - lag, last + lag


@bare
def turns(curve: NDArray[np.float64], first: int, last: int, least: float) -> tuple[int, int]:
    """Return how often a curve turns by more than `least` between two samples, and where it does so first."""
    count, at, way = 0, last, 0
    low = high = curve[first]
    low_at = high_at = first
    for j in range(first + 1, last + 1):
        value = curve[j]
        if value > high:
            high = value
            high_at = j
        if value < low:
            low = value
            low_at = j
        turned = 0
        if way >= 0 and value < high - least:
            turned, place = -1, high_at
        elif way <= 0 and value > low + least:
            turned, place = 1, low_at
        if turned != 0:
            if way != 0 or place > first:
                at = place if count == 0 else at
                count += 1
            way = turned
            low = high = value
            low_at = high_at = j
    return count, at


@bare
def mean_cycle(p: Any, c: Any, trace: NDArray[np.float32], length: int, out: NDArray[np.float64]) -> bool:
    """Fill `out` with the mean of the `LOOKED` beats before the newest, from `CYCLE_BEFORE_S` before each of them on.

    Return whether all of it was seen.
    """
    before = int(CYCLE_BEFORE_S * c.analysis_rate)
    for j in range(length):
        out[j] = 0.0
    for k in range(2, LOOKED + 2):
        at = index_of(c, p.times[(p.beats - k) % HISTORY]) - before
        if at <= c.start_n or at + length > c.n:
            return False
        for j in range(length):
            out[j] += trace[(at + j) & MASK] / LOOKED
    return True


@bare
def shows_p(
    curve: NDArray[np.float64],
    length: int,
    last: int,
    onset: int,
    height: float,
    c: Any,
    fast: bool,
    room: NDArray[np.float64],
) -> bool:
    """Return whether there is more than a T wave between the end of a QRS and the `onset` of the next."""
    rate = c.analysis_rate
    wide = max(1, int(0.008 * rate))
    for j in range(last, onset + 1):
        total, count = 0.0, 0
        for i in range(max(0, j - wide), min(length, j + wide + 1)):
            total += curve[i]
            count += 1
        room[j] = total / count
    found, at = turns(room, last, onset, max(TURN_MV, TURN_PART * height))
    if found > 0 and at - last < J_POINT_S * rate:
        found -= 1
    if found >= TURNS:
        return True
    wide = max(2, int(SLOPE_S * rate + 0.5))
    margin = int(SLOPE_MARGIN_S * rate)
    first, end = max(last + margin, wide), min(onset - margin, length - wide - 1)
    if end - first < 3:
        return False
    for j in range(first, end + 1):
        slope = 0.0
        for i in range(1, wide + 1):
            slope += curve[j + i] - curve[j - i]
        room[j] = slope / wide / (wide + 1) * rate
    found, at = turns(room, first, end, SLOPE_TURN)
    return bool(found >= (SLOPE_TURNS if fast else SLOPE_TURNS_ROOM))


@bare
def usual_ms(c: Any, centre: int, point_s: float) -> float:
    """Return how wide the QRS of this lead's usual beat is; 0 until it has been seen often enough.

    The points of a shape are `point_s` apart, its fiducial is at point `centre`.
    """
    if c.dominant < 0 or c.shape_weight[c.dominant] < NARROW_BEATS:
        return 0.0
    shape = c.shapes[c.dominant]
    first, last = qrs_edges(shape, shape.size, centre, 1.0 / point_s)
    return (last - first) * point_s * 1e3


@bare
def is_narrow(usual: float) -> bool:
    """Return whether a lead's usual beat, `usual` ms wide, is narrow; one that is not known is not."""
    return 0.0 < usual < NARROW_MS


@bare
def look(p: Any, channels: Any, traces: NDArray[np.float32], scratch: NDArray[np.float64]) -> int:
    """Return `SEEN` if the last beats are a tachycardia, all of whose leads show wide QRS and none a P wave.

    `KNOWN_NOT` if they are none; `UNSEEN` if they cannot tell. `scratch` is overwritten.
    """
    if p.narrow == 1:
        return KNOWN_NOT
    if p.beats < LOOKED + 2:
        return UNSEEN
    shortest, longest, total = 1e9, 0.0, 0.0
    for k in range(LOOKED):
        interval = p.intervals[(p.beats - 1 - k) % HISTORY]
        shortest = min(shortest, interval)
        longest = max(longest, interval)
        total += interval
    recent = 0.0
    for k in range(3):
        recent += p.intervals[(p.beats - 1 - k) % HISTORY]
    if recent * p.ventricular_tachycardia_rate > 180.0:
        return KNOWN_NOT
    if shortest <= 0.0 or longest > EVEN * shortest:
        return UNSEEN
    if total * p.ventricular_tachycardia_rate > 60.0 * LOOKED:
        return KNOWN_NOT
    curve, room = scratch[:ROOM], scratch[ROOM : 2 * ROOM]
    fast = total * ROOM_RATE < 60.0 * LOOKED
    seen = 0
    for k in range(p.leads):
        c = channels[p.row + k]
        if c.lead_off == 1 or c.flat == 1 or c.saturated == 1:
            continue
        length = min(ROOM, int((CYCLE_BEFORE_S + min(total / LOOKED, shortest)) * c.analysis_rate))
        if not mean_cycle(p, c, traces[p.row + k], length, curve):
            continue
        first, last = qrs_edges(curve, length, int(CYCLE_BEFORE_S * c.analysis_rate), c.analysis_rate)
        top, bottom = -1e9, 1e9
        for j in range(max(0, first), min(length, last + 1)):
            top = max(top, curve[j])
            bottom = min(bottom, curve[j])
        if top - bottom < HEIGHT_MV:
            continue
        if (last - first) * 1e3 < WIDE_MS * c.analysis_rate:
            return KNOWN_NOT
        onset = min(int(first + total / LOOKED * c.analysis_rate), length - 1)
        if shows_p(curve, length, last, onset, top - bottom, c, fast, room):
            return KNOWN_NOT
        seen += 1
    return SEEN if seen > 0 else UNSEEN
