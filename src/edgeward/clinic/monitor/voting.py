"""Lets the other leads of a patient speak for or against a beat that one lead has found.

Responsible for this one question. Which lead is listened to, and what a beat means, is ``rhythm``.

A heart beat is in all leads at the same time; muscle noise, a moved electrode or a spark is mostly in one. How much
another lead's word counts follows from its own noise: energy at the place of the beat is compared with the middle (of
logarithms) between what its beats have and what its rejected peaks have. A lead that only has noise is neutral.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.detector import B_FIDUCIAL, B_ODDS
from edgeward.clinic.monitor.state import MASK

WEIGHT = 2.5
AROUND_S = 0.04  # the steepest part of a QRS is not at the same time in all leads


@njit
def energy_at(c: Any, band: NDArray[np.float32], stream: float) -> float:
    """Return the QRS energy of a lead around a stream index against that of its median beat; -1 where it has none."""
    centre = np.int64(c.start_n + (stream + c.trace_delay - c.start_raw) / c.decimation) + c.qrs_delay
    around = np.int64(AROUND_S * c.analysis_rate)
    first = centre - c.window // 2 - around
    last = centre + c.window // 2 + around
    if first - 2 < c.settled_n or last > c.n:
        return -1.0
    total, best = 0.0, 0.0
    for j in range(first, last):
        total += abs(band[j & MASK] - band[(j - 2) & MASK])
        if j - first >= c.window:
            total -= abs(band[(j - c.window) & MASK] - band[(j - c.window - 2) & MASK])
        best = max(best, total)
    return best * 0.5 * c.analysis_rate / (c.window * c.signal)


@njit
def is_supported(p: Any, channels: Any, bands: NDArray[np.float32], lead: int, beat: NDArray[np.float64]) -> bool:
    """Return whether a beat of one lead stands, having heard the others."""
    odds = beat[B_ODDS]
    for k in range(p.leads):
        other = channels[p.row + k]
        if k == lead or other.lead_off == 1 or other.flat == 1 or other.saturated == 1 or other.running == 0:
            continue
        if other.learned == 0 or other.beats < 8 or other.agreement < 0.5:
            continue
        energy = energy_at(other, bands[p.row + k], beat[B_FIDUCIAL])
        if energy < 0.0:
            continue
        noise = max(other.noise / other.signal, 0.05)
        odds += WEIGHT * min(max(math.log(max(energy, 0.05)) - 0.5 * math.log(min(noise, 1.0)), -1.0), 1.0)
    return odds > 0.0
