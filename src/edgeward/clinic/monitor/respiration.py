"""Counts breaths in an impedance pneumogram or a capnogram, one analysis sample at a time.

Responsible for breaths, their rate, how alike they are, the end-tidal CO2, and for how long there was none. A breath is
a rise and a fall of at least a third of the usual depth: the heart moves the impedance too, and its waves must not
pass for breaths in an apnoea. Not responsible for the alarm (``signals``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.pulse import stream_index
from edgeward.clinic.monitor.quality import median, ramp
from edgeward.clinic.monitor.signals_state import APNEA, BEATS, GAS, MASK, RECENT

LEARN_S = 10.0
PART = 0.33  # of the usual depth that a breath must have
SHALLOW_PART = 0.16
SHALLOW_AFTER_S = 15.0  # of apnoea; then smaller breaths count, if they come slower than any heart
SHALLOW_LEAST_S = 1.6
LARGEST = 4.0  # times the usual depth: a movement
SHORTEST_S = 0.45
RATE_WINDOW_S = 40.0
#: CO2 of expired air is above this, of inspired air below half of it, mm[Hg].
GAS_LEAST = 8.0


@njit
def depth_needed(c: Any) -> float:
    """Return how far the signal must come back from an extreme for it to count."""
    if c.family == GAS:
        return max(0.5 * GAS_LEAST, 0.3 * c.usual)
    return (SHALLOW_PART if c.shallow == 1 else PART) * c.usual


@njit
def breathe(c: Any, trace: NDArray[np.float32], value: float, room: NDArray[np.float64]) -> None:
    """Take one sample of the trace (it must be in the ring already)."""
    rate = c.analysis_rate
    if c.learned == 0:
        if c.learn_n == 0:
            c.learn_n = c.n
        if c.n - c.learn_n < LEARN_S * rate:
            return
        least, most = value, value
        for k in range(1, int(8.0 * rate)):
            v = trace[(c.n - k) & MASK]
            least = min(least, v)
            most = max(most, v)
        if most - least <= 1e-9:
            return
        c.learned = 1
        c.usual = max(0.8 * (most - least), 1e-9)
        c.extreme = value
        c.extreme_n = c.n
        c.trough = value
        c.trough_n = c.n
        c.rising = 1
        c.anchor = stream_index(c, c.n)
        return
    needed = depth_needed(c)
    if c.rising == 1:
        if value > c.extreme:
            c.extreme = value
            c.extreme_n = c.n
        elif value < c.extreme - needed:
            c.crest = c.extreme
            c.top_n = c.extreme_n
            c.rising = 0
            c.extreme = value
            c.extreme_n = c.n
            take_breath(c, room)
    elif value < c.extreme:
        c.extreme = value
        c.extreme_n = c.n
    elif value > c.extreme + needed:
        c.trough = c.extreme
        c.trough_n = c.extreme_n
        c.rising = 1
        c.extreme = value
        c.extreme_n = c.n


@njit
def take_breath(c: Any, room: NDArray[np.float64]) -> None:
    """Judge the rise that has just ended, and write it down if it is a breath."""
    depth = c.crest - c.trough
    when = stream_index(c, c.top_n)
    last = (c.count - 1) % BEATS
    interval = 0.0
    if c.count > 0 and c.times[last] >= c.start_raw:
        interval = (when - c.times[last]) / c.rate
        if interval < SHORTEST_S:
            return
        if c.shallow == 1 and depth < PART * c.usual and interval < SHALLOW_LEAST_S:
            return
        if interval > 60.0:
            interval = 0.0
    if c.family == GAS:
        if c.crest < GAS_LEAST:
            return
        c.end_tidal = c.crest
    elif depth > LARGEST * c.usual and c.count >= 3:
        c.moved = c.n
        c.usual *= 1.15  # if it goes on like this, it becomes usual
        return
    slot = c.count % BEATS
    c.times[slot] = when
    c.amplitudes[slot] = depth
    c.intervals[slot] = interval
    c.qualities[slot] = 1.0
    c.count += 1
    c.anchor = when
    n = min(c.count, RECENT)
    for k in range(n):
        room[64 + k] = c.amplitudes[(c.count - 1 - k) % BEATS]
    if n >= 3:
        c.usual = median(room[64:], n, room)


@njit
def judge_breathing(c: Any, at: float) -> None:
    """Judge the channel once a tick: rate and quality."""
    sum_of, used = 0.0, 0
    squares, depths, depth_squares = 0.0, 0.0, 0.0
    for k in range(min(c.count, RECENT)):
        i = (c.count - 1 - k) % BEATS
        if (at - c.times[i]) / c.rate > RATE_WINDOW_S or c.intervals[i] <= 0.0:
            break
        sum_of += c.intervals[i]
        squares += c.intervals[i] * c.intervals[i]
        depths += c.amplitudes[i]
        depth_squares += c.amplitudes[i] * c.amplitudes[i]
        used += 1
    c.breath_rate = math.nan
    if c.active[APNEA] == 1:
        c.breath_rate = 0.0
        if c.family == GAS:
            c.end_tidal = math.nan
    if used < 2:
        c.quality = 0.0
        return
    mean = sum_of / used
    spread = math.sqrt(max(0.0, squares / used - mean * mean)) / mean
    depth = depths / used
    depth_spread = math.sqrt(max(0.0, depth_squares / used - depth * depth)) / max(depth, 1e-12)
    quality = ramp(spread, 0.9, 0.35) * ramp(depth_spread, 1.0, 0.4)
    if c.moved > c.n - 10.0 * c.analysis_rate:
        quality *= 0.4
    if c.missing > 0:
        quality *= 1.0 - c.missing / c.hop
    c.quality = quality
    open_s = (at - c.times[(c.count - 1) % BEATS]) / c.rate
    if open_s > 1.5 * mean:
        sum_of += open_s
        used += 1
    if c.active[APNEA] == 0 and quality >= 0.2:
        c.breath_rate = 60.0 * used / sum_of


assert MASK > 8 * 25
