"""Reads invasive pressures: systolic, diastolic and mean, and when they are none.

Responsible for the numbers of each beat, for their plausibility, and for telling a flush, a disconnected line and a
damped one from a patient. Not responsible for finding the pulses (``pulse``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.pulse import GOOD
from edgeward.clinic.monitor.quality import median
from edgeward.clinic.monitor.signals_state import BEATS, MASK, RECENT, RING, TICKS

#: Highest systolic pressure that is believed, mm[Hg].
HIGHEST = 320.0
#: A flush stands far above any beat: the bag is at 300 mm[Hg].
FLUSH_ABOVE = 180.0
FLUSH_TICKS = 6
#: An open line stands at the level of its transducer.
OPEN_BELOW = 10.0
#: It falls there at once. In an arrest the pressure takes longer, and 10 mm[Hg] is about where it ends.
OPEN_WITHIN_S = 4.0


@njit
def judge_pressure(c: Any, trace: NDArray[np.float32], at: int, room: NDArray[np.float64]) -> None:
    """Take systolic, diastolic and mean of the beat that has just been judged (its onset is at ring place `at`)."""
    slot = (c.count - 1) % BEATS
    foot = trace[at & MASK]
    top = foot + c.amplitudes[slot]
    if top > HIGHEST or c.flush > 0:
        c.qualities[slot] = 0.0
        c.good_run = 0
        return
    if c.qualities[slot] < GOOD:
        return
    mean = math.nan
    interval = c.intervals[slot]
    if 0.2 < interval < 2.5:
        count = min(int(interval * c.analysis_rate + 0.5), RING - 2)
        total = 0.0
        for k in range(1, count + 1):
            total += trace[(at - k) & MASK]
        mean = total / count
    if math.isnan(mean):
        return
    place = c.pressure_count % RECENT
    c.systolics[place] = top
    c.diastolics[place] = foot
    c.meanings[place] = mean
    c.pressure_count += 1
    n = min(c.pressure_count, 5)
    for which in range(3):
        for k in range(n):
            i = (c.pressure_count - 1 - k) % RECENT
            room[64 + k] = c.systolics[i] if which == 0 else c.diastolics[i] if which == 1 else c.meanings[i]
        value = median(room[64:], n, room)
        if which == 0:
            c.systolic = value
        elif which == 1:
            c.diastolic = value
        else:
            c.mean = value
    if c.damped == 0:
        c.usual_mean += (0.03 if c.usual_mean > 0.0 else 1.0) * (mean - c.usual_mean)


@njit
def judge_line(c: Any, at: float) -> None:
    """Judge the line once a tick: flush, open line, damping; withdraw numbers that are none."""
    now = c.ticks & 7
    before = (c.ticks - 1) & 7
    mean = 0.5 * (c.means[now] + c.means[before])
    span = max(c.spans[now], c.spans[before])
    if mean > max(FLUSH_ABOVE, 1.5 * c.usual_mean) and span < 40.0:
        c.flush = FLUSH_TICKS
    elif c.flush > 0:
        c.flush -= 1
    if mean < OPEN_BELOW and span < 5.0 and c.present == 1:
        fell = (at - c.anchor) / c.rate
        if c.disconnected > 0 or fell < OPEN_WITHIN_S:
            c.disconnected += 1
    elif mean > OPEN_BELOW + 5.0 or span > 8.0:
        c.disconnected = 0
    # -- damped: the mean stays, the pulse shrinks (Gardner 1981)
    if c.usual > 0.0 and c.usual_mean > 0.0 and not math.isnan(c.amplitude):
        small = c.amplitude < 0.55 * c.usual and abs(mean - c.usual_mean) < 0.2 * c.usual_mean
        c.damped = min(c.damped + 1, 40) if small else max(0, c.damped - 2)
    if c.damped >= 20:
        c.quality *= 0.6
    stale = c.count == 0 or (at - c.times[(c.count - 1) % BEATS]) / c.rate > 8.0
    if stale or c.flush > 0 or c.disconnected >= 2 or (c.state & 3) != 0 or c.quality < 0.2:
        c.systolic = math.nan
        c.diastolic = math.nan
        c.mean = math.nan
        c.pressure_count = 0
        if stale and c.flush == 0 and c.disconnected < 2 and (c.state & 3) == 0 and c.present == 1:
            c.mean = mean  # no pulse, but the line is open to the patient: the mean is true


@njit
def judge_level(c: Any) -> None:
    """Take the mean of 4 s of a pressure without a pulse of interest (CVP, ICP)."""
    n = min(c.ticks + 1, TICKS)
    total = 0.0
    for k in range(n):
        total += c.means[k]
    mean = total / n
    good = n == TICKS and -40.0 <= mean <= 150.0 and (c.state & 3) == 0
    c.quality = 1.0 if good else 0.0
    c.mean = mean if good else math.nan
