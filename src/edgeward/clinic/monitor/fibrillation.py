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

from edgeward.clinic.monitor.gaps import put_together

WINDOW_S = 4.0
POINTS_HZ = 62.5
#: A fibrillating or fluttering ventricle runs at 1.8 to 9.5 cycles a second (adults; Clayton et al. 1993).
FREQUENCY_HZ = (1.8, 9.5)
LEAKAGE_MOST = 0.53
#: Of one that is told later, where nothing like the patient's own QRS is seen (a torsade, a very irregular one).
LEAKAGE_LOOSE = 0.63
OCCUPIED_LEAST = 0.52
HEIGHT_LEAST_MV = 0.18  # lower is asystole, not (coarse or fine) fibrillation
OCCUPIED_LEVEL = 0.2
#: How much steeper the steepest part of each second is than the whole: 1.6 is a sine wave, 2 to 3.5 a fibrillation (and
#: parts of a flutter up to 4.8: alone it decides nothing), 2.7 to 7 a QRS beside a T wave.
STEEP_LEAST = 2.4

V_LEAKAGE, V_OCCUPIED, V_FREQUENCY, V_HEIGHT, V_STEEP = range(5)
MEASURES = 5


@njit
def measure(c: Any, trace: NDArray[np.float32], scratch: NDArray[np.float64], out: NDArray[np.float64]) -> float:
    """Write leakage (0 = one sine wave), occupied part (0..1), dominant frequency (Hz), height (mV) and steepness.

    They are of the last four seconds that were seen, gaps of a packet or two left out. Return how long they lasted with
    the gaps, in seconds; 0: so much was not seen, and nothing is written.
    """
    # Means of neighbours give about 62 points a second: mains and muscle must not count as crossings.
    stride = max(1, int(c.analysis_rate / POINTS_HZ + 0.5))
    rate = c.analysis_rate / stride
    count = int(WINDOW_S * rate)
    first = put_together(c, trace, stride, count, scratch)
    if first < 0:
        return 0.0
    lasted = WINDOW_S + (c.n - first - count * stride) / c.analysis_rate
    mean = 0.0
    for k in range(count):
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
        out[V_LEAKAGE], out[V_OCCUPIED], out[V_FREQUENCY], out[V_STEEP] = 1.0, 0.0, 0.0, 0.0
        return lasted
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
    steepest = 0.0
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
        steep = 0.0
        for k in range(start + 1, start + second):
            steep = max(steep, abs(scratch[k] - scratch[k - 1]))
        steepest += steep
        used += 1
        start += second
    out[V_OCCUPIED] = occupied / max(used, 1)
    out[V_STEEP] = steepest / max(used, 1) * (count - 1) / path
    return lasted


@njit
def is_fibrillation(m: NDArray[np.float64]) -> bool:
    """Return whether four seconds with these measures look like ventricular fibrillation or flutter."""
    return m[V_LEAKAGE] <= LEAKAGE_MOST and is_chaos(m)


@njit
def is_chaos(m: NDArray[np.float64]) -> bool:
    """Return whether four seconds with these measures may be a very irregular fibrillation, a torsade, or movement."""
    return (
        m[V_HEIGHT] >= HEIGHT_LEAST_MV
        and FREQUENCY_HZ[0] <= m[V_FREQUENCY] <= FREQUENCY_HZ[1]
        and m[V_LEAKAGE] <= LEAKAGE_LOOSE
        and m[V_OCCUPIED] >= OCCUPIED_LEAST
    )
