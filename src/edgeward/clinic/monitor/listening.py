"""Judges how well each lead of a patient can be read, and chooses the one that is listened to.

Responsible for flat, saturated and noisy leads and for changing to another one. Not responsible for telling anybody
(``rhythm``) or for what a lead's beats are (``detector``, ``beats``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.state import MASK

FLAT_S = 1.5  # lead off must be told within 2 s (docs/findings.md "Clinical numbers")
RAIL_S = 0.3
#: An amplifier that relaxes: half second by half second at least so far one way, never faster, and so far in all.
#: Breath moves an electrode to and fro by a millivolt; relaxation goes one way. After the longest it is no reason.
RELAX_LEAST_MV, RELAX_SLACK_MV, RELAXED_MV = 0.1, 0.05, 1.2
RELAX_TICKS, RELAX_MOST_TICKS = 3, 24
NOISE_POINTS = 80
POOR_QUALITY = 0.25
SILENT_S = 2.5
AGREEMENT = 0.85


@njit
def judge_lead(c: Any, trace: NDArray[np.float32], scratch: NDArray[np.float64]) -> None:
    """Judge one lead from its last two seconds: flat, saturated, noise (mV), quality (0..1).

    The noise is the median second difference over 16 ms: beats fill less than half of the time and do not move it.
    Quality is how far that lies below the sharpness of the beats.
    """
    rate = c.analysis_rate
    overdue = c.interval_count == 0 or c.n - c.beat_n > 1.5 * c.interval  # a slow heart is flat between its beats
    judge_recovery(c)
    c.flat = 1 if c.same >= FLAT_S * c.rate and overdue else 0
    c.saturated = 1 if c.railed >= RAIL_S * c.rate or c.recovering == 1 else 0
    if c.lead_off == 1 or c.flat == 1 or c.saturated == 1:
        c.quality = 0.0
        return
    lag = max(1, int(0.016 * rate + 0.5))
    count = min(int(2.0 * rate), c.n - c.start_n - 2 * lag)
    if count < rate * 0.4:
        return
    used = 0
    for k in range(0, count, max(1, count // NOISE_POINTS)):
        j = c.n - 1 - k
        scratch[used] = abs(trace[j & MASK] - 2.0 * trace[(j - lag) & MASK] + trace[(j - 2 * lag) & MASK])
        used += 1
    c.noise_level = in_place(scratch, used, used // 2)
    reference = max(c.sharpness, 0.05) if c.learned == 1 else 0.3
    c.quality = min(1.0, max(0.0, 1.25 - 2.5 * c.noise_level / reference))


@njit
def in_place(values: NDArray[np.float64], count: int, place: int) -> float:
    """Return which of the first `count` values has this place in ascending order (Hoare's FIND); they are reordered."""
    low, high = 0, count - 1
    while low < high:
        pivot, i, j = values[place], low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if j < place:
            low = i
        if place < i:
            high = j
    return float(values[place])


@njit
def judge_recovery(c: Any) -> None:
    """Judge, twice a second, whether an amplifier relaxes after saturation without showing a beat.

    Nobody can say then whether the heart beats: the lead cannot be read, which is told, and an asystole is not. A beat
    ends it; so does a signal that lies still, and then a heart that stands still is told after its usual time.
    """
    now = c.last_raw * c.scale
    step = now - c.raw_level
    same_way = step * c.raw_step > 0.0 and abs(step) <= abs(c.raw_step) + RELAX_SLACK_MV
    c.raw_level, c.raw_step = now, step
    if not same_way or abs(step) < RELAX_LEAST_MV or c.lead_off == 1:
        c.relaxing = 0
        c.relaxed = 0.0
    else:
        if c.relaxing == 0:
            c.relaxing_n = c.n
        c.relaxing += 1
        c.relaxed += abs(step)
    recovering = RELAX_TICKS <= c.relaxing <= RELAX_MOST_TICKS and c.relaxed >= RELAXED_MV and c.beat_n <= c.relaxing_n
    if c.recovering == 1 and not recovering:
        c.recovered_n = c.n
    c.recovering = 1 if recovering else 0


@njit
def choose_lead(p: Any, channels: Any) -> None:
    """Change the lead listened to when it is off or dead, or silent while another beats. Mere noise is not a reason:
    measured on real records, changing for it costs more beats than it saves.
    """
    now = channels[p.row + p.primary]
    best, best_quality = p.primary, now.quality
    for k in range(p.leads):
        c = channels[p.row + k]
        if c.lead_off == 0 and c.flat == 0 and c.saturated == 0 and c.learned == 1 and c.quality > best_quality + 0.2:
            best = k
            best_quality = c.quality
    dead = now.lead_off == 1 or now.flat == 1 or now.saturated == 1
    p.poor = p.poor + 1 if now.quality < POOR_QUALITY else 0
    if best != p.primary and dead:
        p.primary = best
        p.poor = 0
        return
    if p.primary != 0 and beats_steadily(channels[p.row]):
        p.primary = 0  # the first lead is the one the device maker or the nurse chose
        p.poor = 0
        return
    if not dead and now.n - now.beat_n > SILENT_S * now.analysis_rate:
        for k in range(p.leads):
            other = channels[p.row + k]
            if k != p.primary and other.agreement > AGREEMENT and beats_steadily(other):
                p.primary = k
                return


@njit
def beats_steadily(c: Any) -> bool:
    """Return whether this lead is connected and gave its last four beats within plausible intervals, until now."""
    if c.lead_off == 1 or c.flat == 1 or c.saturated == 1 or c.interval_count < 4 or c.quality < 0.4:
        return False
    most = 2.0 * c.analysis_rate
    if c.n - c.beat_n > most:
        return False
    steady = True
    for k in range(1, 4):
        steady = steady and c.intervals[(c.interval_count - k) & 7] <= most
    return steady
