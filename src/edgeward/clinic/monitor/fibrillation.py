"""Tells ventricular fibrillation and flutter from everything with beats in it.

Responsible for measures of four seconds of trace and for the verdict from them. Not responsible for how long a
verdict must hold before somebody is told (``rhythm``).

Measures: the VF filter leakage (Kuo & Dillon 1978), the part of the time the signal spends away from the
baseline (after the threshold crossing sample count of Arafat et al. 2011), the dominant frequency, and the height.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.state import MASK

WINDOW_S = 4.0
POINTS_HZ = 62.5
#: A fibrillating or fluttering ventricle runs at 1.8 to 9.5 cycles a second (adults; Clayton et al. 1993).
FREQUENCY_HZ = (1.8, 9.5)
LEAKAGE_MOST = 0.53
OCCUPIED_LEAST = 0.52
HEIGHT_LEAST_MV = 0.18  # lower is asystole, not (coarse or fine) fibrillation
OCCUPIED_LEVEL = 0.2

V_LEAKAGE, V_OCCUPIED, V_FREQUENCY, V_HEIGHT = range(4)


@njit
def measure(c: Any, trace: NDArray[np.float32], scratch: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Write leakage (0 = one sine wave), occupied part (0..1), dominant frequency (Hz) and height (mV)."""
    # Means of neighbours give about 62 points a second: mains and muscle must not count as crossings.
    stride = max(1, int(c.analysis_rate / POINTS_HZ + 0.5))
    rate = c.analysis_rate / stride
    count = int(WINDOW_S * rate)
    first = c.n - count * stride
    mean = 0.0
    for k in range(count):
        s = 0.0
        for j in range(stride):
            s += trace[(first + k * stride + j) & MASK]
        scratch[k] = s / stride
        mean += scratch[k]
    mean /= count
    previous = 0.0
    total = path = 0.0
    top, bottom = -1e30, 1e30
    for k in range(count):
        v = scratch[k] - mean
        scratch[k] = v
        total += abs(v)
        if k > 0:
            path += abs(v - previous)
        previous = v
        top = max(top, v)
        bottom = min(bottom, v)
    out[V_HEIGHT] = top - bottom
    if path <= 0.0 or total <= 0.0:
        out[V_LEAKAGE], out[V_OCCUPIED], out[V_FREQUENCY] = 1.0, 0.0, 0.0
        return
    period = 2.0 * math.pi * total / path
    out[V_FREQUENCY] = rate / period
    shift = int(0.5 * period + 0.5)
    above = below = 0.0
    if 0 < shift < count:
        for k in range(shift, count):
            above += abs(scratch[k] + scratch[k - shift])
            below += abs(scratch[k]) + abs(scratch[k - shift])
    out[V_LEAKAGE] = above / below if below > 0.0 else 1.0
    # occupied part second by second, so that one spike does not set the scale for all four
    second = int(rate)
    occupied, used = 0.0, 0
    start = 0
    while start + second <= count:
        most = 0.0
        for k in range(start, start + second):
            most = max(most, abs(scratch[k]))
        away = 0
        for k in range(start, start + second):
            if abs(scratch[k]) > OCCUPIED_LEVEL * most:
                away += 1
        occupied += away / second
        used += 1
        start += second
    out[V_OCCUPIED] = occupied / max(used, 1)


@njit
def is_fibrillation(m: NDArray[np.float64]) -> bool:
    """Return whether four seconds with these measures look like ventricular fibrillation or flutter."""
    return (
        m[V_HEIGHT] >= HEIGHT_LEAST_MV
        and FREQUENCY_HZ[0] <= m[V_FREQUENCY] <= FREQUENCY_HZ[1]
        and m[V_LEAKAGE] <= LEAKAGE_MOST
        and m[V_OCCUPIED] >= OCCUPIED_LEAST
    )
