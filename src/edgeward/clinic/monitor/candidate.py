"""Says what is known of one candidate: a peak of QRS energy that may be a beat.

Responsible for its place, height and sharpness, its likeness to this lead's beats, the facts that the network judges,
and the network itself. Not responsible for the decision (``detector``).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor import qrs_model
from edgeward.clinic.monitor.compiled import kernel
from edgeward.clinic.monitor.state import FACTS, MASK, PATTERN, SHIFTS

POINT_S = 0.012  # between the points of a pattern
SHARP_LAG_S = 0.016
SHARP_HALF_S = 0.08
FIDUCIAL_HALF_S = 0.05
TWIN = 0.96  # likeness to the usual beat
TWIN_PART, TWIN_SHARP = 0.8, 0.7  # of its energy and height; of its sharpness, where there is a turning point
#: Columns of a candidate: peak_n, energy, fiducial, height (mV), sharpness (mV).
CANDIDATE = 5


class Network(NamedTuple):
    """Weights of the network that tells QRS from noise: `FACTS` inputs, one hidden layer (tanh), log-odds.

    Attributes
    ----------
    centre, spread : ndarray, shape (FACTS,)
        Of the inputs.
    weight_1 : ndarray, shape (FACTS, hidden)
    bias_1, weight_2 : ndarray, shape (hidden,)
    bias_2 : float
    """

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    weight_1: NDArray[np.float64]
    bias_1: NDArray[np.float64]
    weight_2: NDArray[np.float64]
    bias_2: float


#: What ships (``models/qrs``).
SHIPPED = Network(qrs_model.CENTRE, qrs_model.SPREAD, qrs_model.WEIGHT_1, qrs_model.BIAS_1, qrs_model.WEIGHT_2,
                  qrs_model.BIAS_2)  # fmt: skip


@kernel
def describe(c: Any, trace: NDArray[np.float32], band: NDArray[np.float32], out: NDArray[np.float64]) -> None:
    """Describe the candidate at ``c.peak_n``: write peak_n, energy, fiducial, height (mV) and sharpness (mV) to `out`.

    Sharpness is the second difference over 16 ms at a true turning point: a QRS turns within a few samples, a T wave of
    the same height does not.
    """
    centre = c.peak_n
    best = -1.0
    for j in range(c.peak_n - c.window - 2, c.peak_n + 1):
        v = abs(band[j & MASK])
        if v > best:
            best = v
            centre = j
    centre -= c.qrs_delay
    half = int(SHARP_HALF_S * c.analysis_rate + 0.5)
    lag = max(1, int(SHARP_LAG_S * c.analysis_rate + 0.5))
    top, bottom = -1e30, 1e30
    top_at = bottom_at = centre
    for j in range(centre - half, centre + half + 1):
        w = trace[j & MASK]
        if w > top:
            top = w
            top_at = j
        if w < bottom:
            bottom = w
            bottom_at = j
    left = trace[(centre - half) & MASK]
    right = trace[(centre + half) & MASK]
    height = top - bottom
    sharp = 0.0
    if top - max(left, right) > 0.25 * height:
        sharp = max(sharp, 2.0 * trace[top_at & MASK] - trace[(top_at - lag) & MASK] - trace[(top_at + lag) & MASK])
    if min(left, right) - bottom > 0.25 * height:
        sharp = max(
            sharp, trace[(bottom_at - lag) & MASK] + trace[(bottom_at + lag) & MASK] - 2.0 * trace[bottom_at & MASK]
        )
    # The fiducial is the turning point nearest in time to the QRS energy that leads away from the baseline.
    level = 0.5 * (left + right)
    half = int(FIDUCIAL_HALF_S * c.analysis_rate + 0.5)
    top, bottom = -1e30, 1e30
    for j in range(centre - half, centre + half + 1):
        w = trace[j & MASK]
        if w > top:
            top = w
            top_at = j
        if w < bottom:
            bottom = w
            bottom_at = j
    out[0] = c.peak_n
    out[1] = c.peak
    out[2] = top_at if top - level > level - bottom else bottom_at
    out[3] = height
    out[4] = sharp


@kernel
def pattern_at(c: Any, band: NDArray[np.float32], fiducial: float, out: NDArray[np.float64]) -> None:
    """Write the band around a candidate, 12 ms apart, `SHIFTS` points longer at each end than a pattern."""
    step = max(1, int(POINT_S * c.analysis_rate + 0.5))
    first = np.int64(fiducial) + c.qrs_delay - step * (PATTERN // 2 + SHIFTS)
    for k in range(PATTERN + 2 * SHIFTS):
        out[k] = band[(first + k * step) & MASK]


@kernel
def compare(c: Any) -> None:
    """Compare the candidate in ``c.around`` with both patterns: best correlation over small shifts, and that shift.

    The inner loops run over the shifts, which do not wait for one another.
    """
    shape, power, cross, other = c.around, c.powers, c.crosses[0], c.crosses[1]
    for shift in range(2 * SHIFTS + 1):
        power[shift] = 1e-12
        cross[shift] = other[shift] = 0.0
    for k in range(PATTERN):
        v, w = c.patterns[0, k], c.patterns[1, k]
        for shift in range(2 * SHIFTS + 1):
            x = shape[shift + k]
            power[shift] += x * x
            cross[shift] += x * v
            other[shift] += x * w
    for t in range(2):
        c.likes[t], c.slides[t] = -1.0, SHIFTS
        if c.pattern_weight[t] <= 0.0:
            continue
        norm = 1e-12
        for k in range(PATTERN):
            norm += c.patterns[t, k] * c.patterns[t, k]
        for shift in range(2 * SHIFTS + 1):
            r = c.crosses[t, shift] / math.sqrt(norm * power[shift])
            if r > c.likes[t]:
                c.likes[t], c.slides[t] = r, shift


@kernel
def likeness(c: Any, band: NDArray[np.float32], cand: NDArray[np.float64]) -> float:
    """Return how like a candidate is to the better known of this lead's patterns: a correlation."""
    if c.compared != cand[0]:
        pattern_at(c, band, cand[2], c.around)
        compare(c)
        c.compared = cand[0]
    return c.likes[0 if c.pattern_weight[0] >= c.pattern_weight[1] else 1]


@kernel
def is_twin(c: Any, band: NDArray[np.float32], cand: NDArray[np.float64]) -> bool:
    """Return whether a candidate has the shape, energy and height of the lead's usual beat.

    Blunt beats (ventricular tachycardia) turn as slowly as a T wave does, or not at one point at all.
    """
    if c.beats == 0 or not TWIN_PART < cand[1] / c.signal < 1.0 / TWIN_PART:
        return False
    if not TWIN_PART < cand[3] / c.height < 1.0 / TWIN_PART:
        return False
    if cand[4] > 0.0 and not TWIN_SHARP < cand[4] / max(c.sharpness, 1e-9) < 1.0 / TWIN_SHARP:
        return False
    return likeness(c, band, cand) > TWIN


@kernel
def learn_pattern(c: Any, band: NDArray[np.float32], cand: NDArray[np.float64]) -> None:
    """Remember what an accepted beat looks like: two patterns, the more usual one is kept longer."""
    shape = c.around
    if c.compared != cand[0]:  # `gather` has not just done it
        pattern_at(c, band, cand[2], shape)
        compare(c)
    best, which, where = -1.0, 0, SHIFTS
    for t in range(2):
        c.pattern_weight[t] *= 0.95
        if c.likes[t] > best:
            best, which, where = c.likes[t], t, c.slides[t]
    if best < 0.75:
        which = 0 if c.pattern_weight[0] <= c.pattern_weight[1] else 1
        where = SHIFTS
        c.pattern_weight[which] = 0.0
    gain = max(0.125, 1.0 / (1.0 + c.pattern_weight[which]))
    c.pattern_weight[which] += 1.0
    for k in range(PATTERN):
        c.patterns[which, k] += gain * (shape[where + k] - c.patterns[which, k])


@kernel
def gather(c: Any, band: NDArray[np.float32], cand: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Write what is known of a candidate: logs of energy, noise, sharpness, height, crest; likeness; earliness."""
    likeness(c, band, cand)
    like = -1.0
    for t in range(2):
        if c.pattern_weight[t] > 1.5:
            like = max(like, c.likes[t])
    since = (cand[2] - c.beat_n) / c.interval
    out[0] = math.log(max(cand[1], 1e-6) / c.signal)
    out[1] = math.log(max(c.noise, 0.02 * c.signal) / c.signal)
    out[2] = like
    out[3] = math.log(max(cand[4], 0.05 * c.sharpness, 1e-6) / max(c.sharpness, 1e-6))
    out[4] = math.log(cand[3] / max(c.height, 1e-6))
    out[5] = max(0.0, 1.0 - since)
    out[6] = min(max(0.0, since - 1.0), 2.0)
    out[7] = math.log(cand[1] / max(c.mean_energy_now, 1e-9))


@kernel
def likelihood(net: Any, x: NDArray[np.float64]) -> float:
    """Return the log-odds that a candidate with these facts is a QRS: one hidden layer, tanh."""
    total = net.bias_2
    for h in range(net.bias_1.size):
        v = net.bias_1[h]
        for k in range(FACTS):
            v += net.weight_1[k, h] * (min(max(x[k], -4.0), 4.0) - net.centre[k]) / net.spread[k]
        total += net.weight_2[h] * math.tanh(v)
    return total
