"""Counts breaths in an impedance pneumogram or a capnogram, one analysis sample at a time.

Responsible for breaths, their rate, how alike they are, the end-tidal CO2, and for how long there was none. A breath is
a rise and a fall of at least a third of the usual depth: the heart moves the impedance too, and its waves must not
pass for breaths in an apnoea. Waves that are smaller than the breaths and keep step with a pulse of the same source are
the heart's, whatever their size. Not responsible for the alarm (``signals``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.pulse import stream_index
from edgeward.clinic.monitor.quality import median, ramp
from edgeward.clinic.monitor.signals_state import APNEA, BEATS, BREATH, GAS, MASK, PEERS, RECENT

LEARN_S = 10.0
PART = 0.33  # of the usual depth that a breath must have
SHALLOW_PART = 0.16
SHALLOW_AFTER_S = 15.0  # of apnoea; then smaller breaths count, if they come slower than any heart
SHALLOW_LEAST_S = 1.6
LARGEST = 4.0  # times the usual depth: a movement
SHORTEST_S = 0.45
RATE_WINDOW_S = 40.0
#: Waves below this part of the patient's breaths that keep step with the pulse, one to one, are the heart's.
HEART_PART = 0.75
DEEP_S = 60.0
LOCK_BEHIND_S = 4.0  # only pulses older than this are asked: by then they are known, however long the packets are
LOCK_S = 15.0
LOCK_LEAST = 5  # waves
LOCK_SHARE, LOCK_HELD = 0.8, 0.5  # of the waves, to begin with and to go on
LOCK_APART_S = 0.08
LOCK_APART_PART = 0.15  # of the pulse's interval
PACE_PART = 0.15  # breaths of before that are this near to the pulse's interval cannot be told from the heart
PULSE_LEAST = 0.3  # quality
#: CO2 of expired air is above this, of inspired air below half of it, mm[Hg].
GAS_LEAST = 8.0


@njit
def depth_needed(c: Any) -> float:
    """Return how far the signal must come back from an extreme for it to count."""
    if c.family == GAS:
        return max(0.5 * GAS_LEAST, 0.3 * c.usual)
    return (SHALLOW_PART if c.shallow == 1 or c.active[APNEA] == 1 else PART) * c.usual


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
def since_breath(c: Any, when: float) -> float:
    """Return how long before `when` the last breath was, s; 0 if a gap lies between or it is not known any more."""
    for k in range(min(c.count, BEATS)):
        i = (c.count - 1 - k) % BEATS
        if c.times[i] < c.start_raw:
            break
        if c.qualities[i] > 0.0:
            return float((when - c.times[i]) / c.rate)
    return 0.0


@njit
def take_breath(c: Any, room: NDArray[np.float64]) -> None:
    """Judge the rise that has just ended, and write it down if it is a breath."""
    depth = c.crest - c.trough
    when = stream_index(c, c.top_n)
    last = (c.count - 1) % BEATS
    interval, since, heart = 0.0, 0.0, False
    if c.count > 0 and c.times[last] >= c.start_raw:
        since = (when - c.times[last]) / c.rate
        if since < SHORTEST_S and (c.qualities[last] > 0.0 or depth < PART * c.usual):
            return
        interval = since_breath(c, when)
        if interval > 60.0:
            interval = 0.0
    if c.family == BREATH:
        small = depth < PART * c.usual  # in an apnoea: its waves are written down, to be held against the pulse
        heart = small and (c.shallow == 0 or 0.0 < since < SHALLOW_LEAST_S)
        heart = heart or (c.locked == 1 and depth < HEART_PART * c.deep)
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
    c.count += 1
    if heart:
        c.qualities[slot] = 0.0
        return
    c.qualities[slot] = 1.0
    c.anchor = when
    if c.deep == 0.0:
        c.deep = c.usual
    c.deep += min(0.25, interval / DEEP_S) * (depth - c.deep)
    if 0.0 < interval < c.apnea_s:
        c.pace += (min(0.25, interval / DEEP_S) if c.pace > 0.0 else 1.0) * (interval - c.pace)
    n = min(c.count, RECENT)
    own = 0
    for k in range(n):
        i = (c.count - 1 - k) % BEATS
        if c.qualities[i] > 0.0:
            room[64 + own] = c.amplitudes[i]
            own += 1
    if own >= 3:
        c.usual = median(room[64:], own, room)


@njit
def in_step(c: Any, p: Any, until: float) -> float:
    """Return which part of the waves of the last seconds before `until` (s) follow the pulses of `p`, one to one."""
    since = until - LOCK_S
    waves, beats, first_beat, last_beat = 0, 0, 0.0, 0.0
    for k in range(min(p.count, BEATS)):
        i = (p.count - 1 - k) % BEATS
        t = p.times[i] / p.rate
        if since < t <= until and p.qualities[i] >= PULSE_LEAST:
            if beats == 0:
                last_beat = t
            first_beat = t
            beats += 1
    for k in range(min(c.count, BEATS)):
        t = c.times[(c.count - 1 - k) % BEATS] / c.rate
        if since < t <= until:
            waves += 1
    more = (0.4 if c.locked == 1 else 0.2) * beats
    if waves < LOCK_LEAST or beats < LOCK_LEAST or abs(waves - beats) > max(1.0, more):
        return 0.0
    beat_s = (last_beat - first_beat) / (beats - 1)
    if c.locked == 0 and abs(beat_s - c.pace) < PACE_PART * c.pace:
        return 0.0  # the patient has breathed as fast as the heart beats: it may be the breath still
    apart = min(LOCK_APART_S, LOCK_APART_PART * beat_s)
    tried, best = 0, 0
    for k in range(min(c.count, BEATS)):
        t = c.times[(c.count - 1 - k) % BEATS] / c.rate
        if not since < t <= until:
            continue
        lag = nearest(p, t, since, until)
        if math.isnan(lag):
            continue
        agreed = 0
        for m in range(min(c.count, BEATS)):
            other = c.times[(c.count - 1 - m) % BEATS] / c.rate
            if since < other <= until and abs(nearest(p, other - lag, since, until)) <= apart:
                agreed += 1
        best = max(best, agreed)
        tried += 1
        if tried == 3:
            break
    return best / waves


@njit
def nearest(p: Any, t: float, since: float, until: float) -> float:
    """Return how far `t` lies after the pulse of `p` nearest to it, s; NaN if there is none."""
    found = math.nan
    for k in range(min(p.count, BEATS)):
        i = (p.count - 1 - k) % BEATS
        at = p.times[i] / p.rate
        if since < at <= until and p.qualities[i] >= PULSE_LEAST and not abs(t - at) >= abs(found):
            found = t - at
    return found


@njit
def leave_heart_out(c: Any, rows: Any, at: float) -> None:
    """Find out, once a tick, whether the small waves of an impedance are the heart's; then they were no breaths."""
    if c.family != BREATH or c.count < LOCK_LEAST or c.deep <= 0.0:
        return
    last = (c.count - 1) % BEATS
    if c.locked == 0 and c.amplitudes[last] >= HEART_PART * c.deep:
        return
    locked = False
    for k in range(PEERS):
        if c.peers[k] >= 0 and not locked:
            part = in_step(c, rows[c.peers[k]], at / c.rate - LOCK_BEHIND_S)
            locked = part >= (LOCK_HELD if c.locked == 1 else LOCK_SHARE)
    if locked and c.locked == 0:
        anchor = c.anchor
        for k in range(min(c.count, BEATS)):
            i = (c.count - 1 - k) % BEATS
            anchor = c.times[i]
            if c.amplitudes[i] >= HEART_PART * c.deep:
                break
            c.qualities[i] = 0.0
        c.anchor = max(anchor, c.start_raw, c.blind)
        c.usual = c.deep
    c.locked = 1 if locked else 0


@njit
def judge_breathing(c: Any, at: float) -> None:
    """Judge the channel once a tick: rate and quality."""
    sum_of, used = 0.0, 0
    squares, depths, depth_squares = 0.0, 0.0, 0.0
    for k in range(min(c.count, RECENT)):
        i = (c.count - 1 - k) % BEATS
        if c.qualities[i] == 0.0:
            continue  # the heart's
        # an apnoea is no part of how fast somebody breathes after it
        if (at - c.times[i]) / c.rate > RATE_WINDOW_S or not 0.0 < c.intervals[i] < c.apnea_s:
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
