"""Says of one detected beat how wide it is and whether it is ventricular.

Responsible for a beat's shape, its comparison with the shapes seen before in this lead, and the
features and small network that call it ventricular (weights in ``beat_model``, trained by ``models/beats/train.py``).
Not responsible for finding beats (``detector``) or for what runs of them mean (``rhythm``).
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.beat_model import BIAS_1, BIAS_2, CENTRE, SPREAD, WEIGHT_1, WEIGHT_2
from edgeward.clinic.monitor.detector import B_ENERGY, B_FIDUCIAL, B_HEIGHT, B_INTERVAL, B_RESTART, B_SHARP, B_SHARP_REF
from edgeward.clinic.monitor.state import MASK, SHAPE, TEMPLATES

POINT_S = 0.008
BEFORE_S = 0.100
SHIFT = 5  # points a beat may slide against a template: the fiducial may sit on R in one and on S in the next
SAME = 0.90  # correlation above which two beats have the same shape
FORGET = 0.97  # weight of a template after each beat: about 30 beats of memory
EDGE = 0.2  # a QRS begins and ends where its slope falls below this part of the steepest
FEATURES = 14


@njit
def shape_of(c: Any, trace: NDArray[np.float32], fiducial: float, out: NDArray[np.float64]) -> None:
    """Write `SHAPE` points around the fiducial (analysis samples), linearly interpolated, in mV without their mean."""
    rate = c.analysis_rate
    mean = 0.0
    for k in range(SHAPE):
        at = fiducial + (k * POINT_S - BEFORE_S) * rate
        at = min(at, c.n - 2.0)
        i = np.int64(math.floor(at))
        part = at - i
        out[k] = (1.0 - part) * trace[i & MASK] + part * trace[(i + 1) & MASK]
        mean += out[k]
    mean /= SHAPE
    for k in range(SHAPE):
        out[k] -= mean


@njit
def likeness(shape: NDArray[np.float64], template: NDArray[np.float64]) -> tuple[float, int, float]:
    """Return the best correlation over small shifts, that shift, and the relative residual there (0 = identical)."""
    best, best_shift, residual = -1.0, 0, 2.0
    length = SHAPE - 2 * SHIFT
    for shift in range(-SHIFT, SHIFT + 1):
        sx = sy = sxx = syy = sxy = 0.0
        for k in range(length):
            x = shape[SHIFT + k + shift]
            y = template[SHIFT + k]
            sx += x
            sy += y
            sxx += x * x
            syy += y * y
            sxy += x * y
        vx = sxx - sx * sx / length
        vy = syy - sy * sy / length
        cov = sxy - sx * sy / length
        r = cov / math.sqrt(max(vx * vy, 1e-18))
        if r > best:
            best = r
            best_shift = shift
            residual = (vx + vy - 2.0 * cov) / max(vx + vy, 1e-18)
    return best, best_shift, residual


@njit
def width_ms(c: Any, trace: NDArray[np.float32], fiducial: int) -> float:
    """Return the duration of the QRS: first to last slope above `EDGE` of the steepest, around the fiducial."""
    half = int(0.12 * c.analysis_rate + 0.5)
    lag = max(1, int(0.004 * c.analysis_rate + 0.5))
    steepest = 0.0
    at = fiducial
    end = min(fiducial + half, c.n - 1 - lag)
    for j in range(fiducial - half, end):
        v = abs(trace[(j + lag) & MASK] - trace[(j - lag) & MASK])
        if v > steepest:
            steepest = v
            at = j
    quiet = int(0.024 * c.analysis_rate + 0.5)
    edges = [at, at]
    for side in range(2):
        direction = -1 if side == 0 else 1
        silent = 0
        j = at
        while fiducial - half <= j < end and silent <= quiet:
            if abs(trace[(j + lag) & MASK] - trace[(j - lag) & MASK]) > EDGE * steepest:
                edges[side] = j
                silent = 0
            else:
                silent += 1
            j += direction
    return (edges[1] - edges[0] + 2 * lag) / c.analysis_rate * 1e3


@njit
def features_of(
    c: Any, beat: NDArray[np.float64], shape: NDArray[np.float64], width: float, out: NDArray[np.float64]
) -> int:
    """Fill `out` with the `FEATURES` of a beat; return the index of the template it resembles, or -1.

    Likeness to and residual from the dominant shape, the best likeness to any, the weight of that one, width and
    width ratio, height, energy and sharpness against the usual beat (logarithms), prematurity, interval ratio, fatness,
    noise, irregularity of the rhythm.
    """
    like, _, residual = 0.0, 0, 1.0
    reference_width, reference_height = 90.0, c.height
    if c.dominant >= 0:
        like, _, residual = likeness(shape, c.shapes[c.dominant])
        reference_width = c.shape_width[c.dominant]
        reference_height = c.shape_height[c.dominant]
    best, which, heaviest = -1.0, -1, 0.0
    for t in range(TEMPLATES):
        heaviest += c.shape_weight[t]
        if c.shape_weight[t] > 0.0:
            r, _, _ = likeness(shape, c.shapes[t])
            if r > best:
                best = r
                which = t
    area = 0.0
    for k in range(SHAPE):
        area += abs(shape[k])
    height = max(beat[B_HEIGHT], 1e-3)
    interval = beat[B_INTERVAL]
    if beat[B_RESTART] > 0.0 or interval > 3.0:
        interval = c.normal_interval
    out[0] = like
    out[1] = residual
    out[2] = best
    out[3] = c.shape_weight[which] / max(heaviest, 1e-9) if which >= 0 else 0.0
    out[4] = width * 1e-2
    out[5] = math.log(max(width, 8.0) / max(reference_width, 8.0))
    out[6] = math.log(height / max(reference_height, 1e-3))
    out[7] = math.log(max(beat[B_ENERGY], 1e-3))
    out[8] = math.log(max(beat[B_SHARP], 0.02 * height) / max(beat[B_SHARP_REF], 1e-3))
    out[9] = math.log(max(interval, 0.15) / c.normal_interval)
    out[10] = math.log(max(interval, 0.15) / max(c.last_interval, 0.15)) if c.last_interval > 0.0 else 0.0
    out[11] = area / (SHAPE * height)
    out[12] = math.log((c.noise_level + 0.01) / max(c.sharpness, 0.05))
    count = min(c.interval_count, 8)
    total = square = 0.0
    for k in range(count):
        total += c.intervals[k]
        square += c.intervals[k] * c.intervals[k]
    out[13] = math.sqrt(max(square / count - (total / count) ** 2, 0.0)) / (total / count) if count > 2 else 0.1
    for k in range(FEATURES):
        out[k] = min(max(out[k], -3.0), 3.0)
    return which if best >= SAME else -1


@njit
def probability(x: NDArray[np.float64]) -> float:
    """Return the probability that a beat with these features is ventricular: one hidden layer, tanh."""
    total = BIAS_2
    for h in range(BIAS_1.size):
        s = BIAS_1[h]
        for k in range(FEATURES):
            s += WEIGHT_1[k, h] * (x[k] - CENTRE[k]) / SPREAD[k]
        total += WEIGHT_2[h] * math.tanh(s)
    return 1.0 / (1.0 + math.exp(-total))


@njit
def remember(
    c: Any, shape: NDArray[np.float64], which: int, beat: NDArray[np.float64], width: float, ventricular: bool
) -> None:
    """Update the shapes of this lead and choose the dominant one (the patient's own usual beat)."""
    for t in range(TEMPLATES):
        c.shape_weight[t] *= FORGET
    if which < 0:
        which = 0
        for t in range(TEMPLATES):
            if (c.shape_weight[t] < c.shape_weight[which] or which == c.dominant) and t != c.dominant:
                which = t
        for k in range(SHAPE):
            c.shapes[which, k] = shape[k]
        c.shape_weight[which] = 1.0
        c.shape_width[which] = width
        c.shape_height[which] = beat[B_HEIGHT]
    else:
        _, shift, _ = likeness(shape, c.shapes[which])
        gain = max(0.125, 1.0 / (1.0 + c.shape_weight[which]))
        for k in range(SHAPE):
            j = min(max(k + shift, 0), SHAPE - 1)
            c.shapes[which, k] += gain * (shape[j] - c.shapes[which, k])
        c.shape_weight[which] += 1.0
        c.shape_width[which] += gain * (width - c.shape_width[which])
        c.shape_height[which] += gain * (beat[B_HEIGHT] - c.shape_height[which])
    # Stays dominant until another shape is clearly more frequent: in bigeminy both are equally so, and the wider one
    # must not win.
    if c.dominant < 0:
        c.dominant = which
    for t in range(TEMPLATES):
        margin = 1.5 if c.shape_width[t] <= 1.1 * c.shape_width[c.dominant] else 3.0
        if t != c.dominant and c.shape_weight[t] > margin * c.shape_weight[c.dominant] + 1.0:
            c.dominant = t
    if beat[B_RESTART] == 0.0 and beat[B_INTERVAL] < 3.0:
        if not ventricular:
            c.normal_interval += 0.15 * (beat[B_INTERVAL] - c.normal_interval)
        c.last_interval = beat[B_INTERVAL]
    else:
        c.last_interval = 0.0


@njit
def judge(
    c: Any, trace: NDArray[np.float32], beat: NDArray[np.float64], shape: NDArray[np.float64], x: NDArray[np.float64]
) -> tuple[float, float]:
    """Return width (ms) and probability of ventricular origin of a beat, and learn its shape."""
    fiducial = c.start_n + (beat[B_FIDUCIAL] + c.trace_delay - c.start_raw) / c.decimation
    shape_of(c, trace, fiducial, shape)
    width = width_ms(c, trace, np.int64(round(fiducial)))
    which = features_of(c, beat, shape, width, x)
    p = probability(x)
    remember(c, shape, which, beat, width, p > 0.5)
    return width, p
