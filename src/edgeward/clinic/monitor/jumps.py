"""Tells a jump of the baseline, and what relaxes after it, from a heart beat.

Responsible for what is no beat although it has a beat's energy: the overshoot that a pacing pulse leaves behind, up to
2 mV with time constants of 4 to 100 ms (IEC 60601-2-27, 201.12.1.101.13), and the step of an electrode that is touched.
A paced beat without capture must not count: it would hide an asystole.

Method: where the signal jumps within one pulse width (no QRS is that steep), a jump that decays exponentially, on a
straight baseline, is fitted to the trace. What it does not explain is the heart's; if that is less than a QRS can be,
there was none. Not responsible for pulses themselves (``front_end`` takes them out) or for other rules (``detector``).
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.compiled import kernel
from edgeward.clinic.monitor.state import EDGES, MASK

EDGE_S = 0.02  # edges closer than this are one
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
TIME_CONSTANTS_S = (0.003, 0.0045, 0.007, 0.01, 0.015, 0.022, 0.033, 0.05, 0.075, 0.11, 0.17, 0.6)
POINTS = 80


@kernel
def note_edges(c: Any, clean: NDArray[np.int16], size: int) -> None:
    """Remember where the last `size` samples (without pulses) jump within one pulse width, and by how much."""
    lag, first = c.spike_lag, clean.size - size
    now, before = clean[first:], clean[first - lag : clean.size - lag]
    most: Any = 0  # int32, as the samples have it
    for i in range(size):
        most = max(most, abs(np.int32(now[i]) - np.int32(before[i])))
    if most < c.edge_code:
        return
    base = c.start_raw + (c.n - c.start_n) * c.decimation + c.phase
    near = EDGE_S * c.rate
    for i in range(size):
        jump = np.int32(now[i]) - np.int32(before[i])
        if abs(jump) < c.edge_code:
            continue
        slot = (c.edge_count - 1) % EDGES
        if c.edge_count == 0 or base + i - c.edge_first > near:
            slot = c.edge_count % EDGES
            c.edge_count += 1
            c.edge_first = base + i
        elif abs(jump) <= abs(c.edges[slot]):
            continue
        c.edges[slot] = jump
        c.edge_at[slot] = base + i


@kernel
def response(c: Any, at: float, decay: float, first: int, count: int, out: NDArray[np.float64]) -> None:
    """Write what the filters make of a jump by 1 at clean sample `at`, times `decay` each sample after it."""
    taps = c.taps
    z0, z1 = 0.0, 0.0
    for j in range(count):
        newest = c.start_raw + (first + j - c.start_n) * c.decimation + c.decimation - 1 - at
        total, power = 0.0, 1.0
        # from the jump on, oldest first
        back = min(newest, taps - 1)
        if back >= 0 and newest > back:
            power = decay ** (newest - back)
        for k in range(back, -1, -1):
            total += c.low[min(k, taps - 1 - k)] * power
            power *= decay
        y = c.high[0] * total + z0
        z0 = c.high[1] * total + z1 - c.high[3] * y
        z1 = c.high[2] * total - c.high[4] * y
        out[j] = y


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
def is_jump(c: Any, trace: NDArray[np.float32], cand: NDArray[np.float64], room: NDArray[np.float64]) -> bool:
    """Return whether a candidate is a jump of the baseline and its decay, and no beat beside it."""
    here = c.start_raw + (cand[2] - c.start_n) * c.decimation
    which, most = -1, EDGE_PART * cand[3] / c.scale
    for k in range(min(c.edge_count, EDGES)):
        near = -NEAR_BEFORE_S * c.rate < c.edge_at[k] + c.taps // 2 - here < NEAR_AFTER_S * c.rate
        if near and abs(c.edges[k]) > most:
            which, most = k, abs(c.edges[k])
    if which < 0:
        return 0.0 < here - c.jump_at < SHADOW_S * c.rate and is_slope(c, trace, cand, room)
    at = c.edge_at[which]
    centre = c.start_n + (at + c.taps // 2 - c.start_raw) // c.decimation
    first = max(centre - np.int64(BEFORE_S * c.analysis_rate), c.start_n)
    last = min(centre + np.int64(AFTER_S * c.analysis_rate), c.n - 1)
    for k in range(min(c.edge_count, EDGES)):
        if c.edge_at[k] > at + NEXT_S * c.rate and 2 * abs(c.edges[k]) > most:
            edge = c.start_n + (c.edge_at[k] - c.start_raw) // c.decimation
            last = min(last, edge)
    count = last - first
    if count < 8 or count > POINTS:
        return False
    seen, model, best = room[:POINTS], room[POINTS : 2 * POINTS], room[2 * POINTS : 3 * POINTS]
    for j in range(count):
        seen[j] = trace[(first + j) & MASK]
    power = straighten(seen, count)
    gained = -1.0
    for tau in TIME_CONSTANTS_S:
        decay = math.exp(-1.0 / (tau * c.rate))
        for shift in range(-c.spike_lag, 2):
            response(c, at + shift, decay, first, count, model)
            own = straighten(model, count)
            cross = 0.0
            for j in range(count):
                cross += seen[j] * model[j]
            if cross * cross > gained * own:
                gained = cross * cross / own
                for j in range(count):
                    best[j] = seen[j] - cross / own * model[j]
    top, bottom, most_at = 0.0, 0.0, 0
    for j in range(count):
        top = max(top, best[j])
        bottom = min(bottom, best[j])
        if abs(best[j]) > abs(best[most_at]):
            most_at = j
    if gained < WHOLE * power or top - bottom >= max(REST_MV, REST_PART * cand[3]):
        if gained > PART * power and first + most_at > centre + LATE_S * c.analysis_rate:
            cand[2] = first + most_at
        return False
    c.jump_at = at + c.taps // 2
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
