"""Tells a jump of the baseline, and what relaxes after it, from a heart beat.

Responsible for what is no beat although it has a beat's energy: the overshoot that a pacing pulse leaves behind, up to
2 mV with time constants of 4 to 100 ms (IEC 60601-2-27, 201.12.1.101.13), and the step of an electrode that is touched.
A paced beat without capture must not count: it would hide an asystole.

Method: where the signal jumps within one pulse width (no QRS is that steep), a jump that decays exponentially, on a
straight baseline, is fitted to the trace. What it does not explain is the heart's; if that is less than a QRS can be,
there was none. Not responsible for pulses themselves (``front_end`` takes them out) or for other rules (``detector``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.compiled import kernel
from edgeward.clinic.monitor.state import DECAYS, MASK, MAX_STEP, TAPS_MOST

#: A jump is at least this part of what it makes of the trace; the steepest QRS has 0.4 (40 ms wide, 125 Hz).
EDGE_PART = 0.6
BEFORE_S, AFTER_S = 0.04, 0.22  # what is fitted, around the jump, but not the next one
#: Of what is seen, a jump explains at least this part, or enough to look for a beat beside it.
WHOLE, PART = 0.5, 0.3
LATE_S = 0.11  # what a jump does not explain, so long after it, is a beat of its own and lies there
REST_MV, REST_PART = 0.2, 0.12  # unexplained, peak to peak: less is no QRS
NEXT_S = 0.03  # a pulse and its overshoot are one jump
NEAR_BEFORE_S, NEAR_AFTER_S = 0.10, 0.06  # where a jump may lie, seen from the candidate
SHADOW_S, SLOPE_HALF_S = 0.4, 0.08  # after a jump a beat must be more than what is left of the decay
POINTS = 80
#: Places in the room: what the low-pass makes of the jumps, one of them, four sums of each, the trace, the rest of it.
RISES = (TAPS_MOST + MAX_STEP) * DECAYS
SUMS, SEEN, REST = RISES + DECAYS, RISES + 4 * DECAYS, RISES + 4 * DECAYS + POINTS


@kernel
def steepest(clean: NDArray[np.int16], lag: int, first: int, stop: int) -> int:
    """Return the greatest jump within `lag` samples that ends at samples `first` to `stop` (not included)."""
    now, before = clean[first:stop], clean[first - lag : stop - lag]
    most = np.int32(0)
    for i in range(stop - first):
        jump = np.int32(np.int32(now[i]) - np.int32(before[i]))
        size = -jump if jump < 0 else jump
        most = max(most, size)
    return int(most)


@kernel
def first_beyond(clean: NDArray[np.int16], lag: int, first: int, stop: int, least: float) -> int:
    """Return the first sample of these where the jump is more than `least`; `stop` if there is none."""
    for i in range(first, stop):
        if abs(np.int32(clean[i]) - np.int32(clean[i - lag])) > least:
            return i
    return stop


@kernel
def straighten(x: NDArray[np.float64], count: int) -> float:
    """Take mean and slope out of `count` points in place; return what is left, squared."""
    middle = 0.5 * (count - 1)
    mean = slope = 0.0
    for i in range(count):
        mean += x[i]
        slope += (i - middle) * x[i]
    mean /= count
    slope /= count * (count * count - 1.0) / 12.0
    power = 0.0
    for i in range(count):
        x[i] -= mean + slope * (i - middle)
        power += x[i] * x[i]
    return power


@kernel
def without_high_pass(c: Any, trace: NDArray[np.float32], first: int, count: int, out: NDArray[np.float64]) -> None:
    """Write the trace as it was before the high-pass, but for a straight line that nobody knows any more.

    The high-pass has two zeros at 0 Hz, so its inverse is exact up to what they take away: mean and slope.
    """
    b0, a1, a2 = c.high[0], c.high[3], c.high[4]
    y1 = trace[(first - 1) & MASK] if first - 1 >= c.start_n else 0.0
    y2 = trace[(first - 2) & MASK] if first - 2 >= c.start_n else 0.0
    x1, x2 = 0.0, 0.0
    for j in range(count):
        y = trace[(first + j) & MASK]
        x = (y + a1 * y1 + a2 * y2) / b0 + 2.0 * x1 - x2
        out[j] = x
        y1, y2 = y, y1
        x1, x2 = x, x1


@kernel
def rises(c: Any, out: NDArray[np.float64]) -> None:
    """Write what the low-pass makes of a jump by 1, at each sample after it, for every time constant (neighbours)."""
    taps = c.taps
    for q in range(taps + c.decimation - 1):
        weight = c.low[min(q, taps - 1 - q)] if q < taps else 0.0
        for t in range(DECAYS):
            out[q * DECAYS + t] = (c.decays[t] * out[(q - 1) * DECAYS + t] if q > 0 else 0.0) + weight


@kernel
def jump_now(c: Any, rise: NDArray[np.float64], since: int, now: NDArray[np.float64]) -> None:
    """Write what is left of each jump `since` samples after it; `now` has it for the analysis sample before."""
    if since < c.taps + c.decimation - 1:
        for t in range(DECAYS):
            now[t] = rise[since * DECAYS + t]
    else:
        for t in range(DECAYS):
            now[t] *= c.steps[t]


@kernel
def fit(c: Any, at: int, first: int, count: int, room: NDArray[np.float64]) -> float:
    """Fit a jump at clean sample `at` or next to it to what is seen; leave the rest in the room.

    Returns
    -------
    float
        How much of the square of what is seen the jump explains.
    """
    rise, now = room[:RISES], room[RISES:SUMS]
    s0, s1, s2 = room[SUMS : SUMS + DECAYS], room[SUMS + DECAYS : SUMS + 2 * DECAYS], room[SUMS + 2 * DECAYS : SEEN]
    seen, rest = room[SEEN : SEEN + POINTS], room[REST : REST + POINTS]
    cross = room[REST + POINTS : REST + POINTS + DECAYS]
    rises(c, rise)
    middle, spread = 0.5 * (count - 1), count * (count * count - 1.0) / 12.0
    step = c.decimation
    newest = c.start_raw + (first - c.start_n) * step + step - 1
    gained, which, where, factor, mean, slope = 0.0, 0, 0, 0.0, 0.0, 0.0
    for shift in range(-c.spike_lag, 2):
        for t in range(DECAYS):
            now[t] = s0[t] = s1[t] = s2[t] = cross[t] = 0.0
        for j in range(count):
            since = newest + j * step - at - shift
            if since < 0:
                continue
            jump_now(c, rise, since, now)
            place, v = j - middle, seen[j]
            for t in range(DECAYS):
                m = now[t]
                s0[t] += m
                s1[t] += place * m
                s2[t] += m * m
                cross[t] += v * m
        for t in range(DECAYS):
            own = s2[t] - s0[t] * s0[t] / count - s1[t] * s1[t] / spread
            if own > 1e-9 * s2[t] and cross[t] * cross[t] > gained * own:
                gained, which, where = cross[t] * cross[t] / own, t, shift
                factor, mean, slope = cross[t] / own, s0[t] / count, s1[t] / spread
    for j in range(count):
        since = newest + j * step - at - where
        if since >= 0:
            jump_now(c, rise, since, now)
        model = now[which] if since >= 0 else 0.0
        rest[j] = seen[j] - factor * (model - mean - slope * (j - middle))
    return gained


@kernel
def is_jump(
    c: Any, clean: NDArray[np.int16], trace: NDArray[np.float32], cand: NDArray[np.float64], room: NDArray[np.float64]
) -> bool:
    """Return whether a candidate is a jump of the baseline and its decay, and no beat beside it."""
    here = c.start_raw + (np.int64(cand[2]) - c.start_n) * c.decimation
    lag, origin, delay = c.spike_lag, c.clean_first, c.taps // 2
    # nothing that has not been searched yet is looked at, or the length of blocks would matter
    seen_to = c.start_raw + (c.n - c.start_n) * c.decimation - origin
    low = max(here - delay - np.int64(NEAR_BEFORE_S * c.rate) - origin, lag)
    high = min(here - delay + np.int64(NEAR_AFTER_S * c.rate) - origin, seen_to)
    most = steepest(clean, lag, low, high) if low < high else 0
    if most < c.edge_code or most * c.scale <= EDGE_PART * cand[3]:
        return 0.0 < here - c.jump_at < SHADOW_S * c.rate and is_slope(c, trace, cand, room)
    place = first_beyond(clean, lag, low, high, most - 1)
    at = origin + place
    centre = c.start_n + (at + delay - c.start_raw) // c.decimation
    first = max(centre - np.int64(BEFORE_S * c.analysis_rate), c.start_n)
    last = min(centre + np.int64(AFTER_S * c.analysis_rate), c.n - 1)
    after = min(place + np.int64(NEXT_S * c.rate), seen_to)
    following = first_beyond(clean, lag, after, seen_to, max(0.5 * most, c.edge_code - 1))
    if following < seen_to:
        last = min(last, c.start_n + (origin + following - c.start_raw) // c.decimation)
    count = last - first
    if count < 8 or count > POINTS:
        return False
    seen, rest = room[SEEN : SEEN + POINTS], room[REST : REST + POINTS]
    without_high_pass(c, trace, first, count, seen)
    power = straighten(seen, count)
    gained = fit(c, at, first, count, room)
    top, bottom, most_at = 0.0, 0.0, 0
    for j in range(count):
        top = max(top, rest[j])
        bottom = min(bottom, rest[j])
        if abs(rest[j]) > abs(rest[most_at]):
            most_at = j
    if gained < WHOLE * power or top - bottom >= max(REST_MV, REST_PART * cand[3]):
        if gained > PART * power and first + most_at > centre + LATE_S * c.analysis_rate:
            cand[2] = first + most_at
        return False
    c.jump_at = at + delay
    return True


@kernel
def is_slope(c: Any, trace: NDArray[np.float32], cand: NDArray[np.float64], room: NDArray[np.float64]) -> bool:
    """Return whether a candidate is no more than a piece of a decay: less than a QRS, but for a straight line."""
    half = np.int64(SLOPE_HALF_S * c.analysis_rate)
    first = np.int64(cand[2]) - half
    count = min(2 * half + 1, c.n - first)
    if count < 8 or count > POINTS:
        return False
    for j in range(count):
        room[j] = trace[(first + j) & MASK]
    straighten(room, count)
    top, bottom = 0.0, 0.0
    for j in range(count):
        top = max(top, room[j])
        bottom = min(bottom, room[j])
    return top - bottom < REST_MV
