"""Says of one detected beat how wide it is, and how likely it is ventricular or supraventricular.

Responsible for a beat's shape, its comparison with the shapes seen before in this lead, what comes before it (P wave),
and the features that the trees of ``beat_model`` judge: at once, and again when the next beat is known. No feature
depends on an earlier verdict, so a wrong one does not breed others and a model can be tried on recorded features.
Not responsible for finding beats (``detector``), for putting leads together (``ectopy``) or for rhythms (``rhythm``).
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor import beat_net
from edgeward.clinic.monitor.beat_model import SUPRAVENTRICULAR_LATER, VENTRICULAR_LATER, VENTRICULAR_NOW, score
from edgeward.clinic.monitor.detector import B_ENERGY, B_FIDUCIAL, B_HEIGHT, B_INTERVAL, B_RESTART, B_SHARP, B_SHARP_REF
from edgeward.clinic.monitor.first_sight import usual_ms
from edgeward.clinic.monitor.state import CURVE, HELD, LATER, MASK, P_POINTS, SHAPE, TEMPLATES

POINT_S = 0.008
BEFORE_S = 0.100
P_BEFORE_S = 0.260  # what comes before a QRS begins here
SHIFT = 5  # points a beat may slide against a template: the fiducial may sit on R in one and on S in the next
P_SHIFT = 3  # and what comes before it against its own: the interval to the P wave varies
SAME = 0.90  # correlation above which two beats have the same shape
FORGET = 0.995  # weight of a template after each beat: 200 beats of memory, or a long tachycardia would become usual
EDGE = 0.2  # a QRS begins and ends where its slope falls below this part of the steepest
INTERVAL_MOST_S = 3.0  # longer ones tell nothing of the rhythm
#: Beats of one shape vote: the running score of a shape is added to that of its next beat (clustering after Llamedo &
#: Martinez 2012, here causal), fully once it has four.
VOTE_GAIN = 0.1
VOTE_MOST = 4.0
VOTERS = 4
#: What score a beat needs is the patient's own: in a noisy lead, or beside paced beats, the other beats' scores lie
#: higher, in a clean one lower; those of a supraventricular beat lie higher in atrial fibrillation. `LEVEL_EVEN` is the
#: level at which a raw score of 0 is undecided.
LEVEL_GAIN = 0.02
LEVEL_BEATS = 8  # that the level at first weighs
LEVEL_PART = (1.2, 0.9, 0.9)  # ventricular at once and in hindsight, supraventricular in hindsight
LEVEL_LEAST = (-5.5, -6.0, -7.0)  # a very clean lead does not make every odd beat ventricular
LEVEL_MOST = (-2.6, -3.0, -1.5)  # and a very noisy one does not ask for what no beat can have
LEVEL_EVEN = (-3.6, -4.0, -3.5)
#: Of the scores in hindsight the network's part; the rest is the trees'.
NET_PART, NET_PART_S = 0.6, 0.5
FEATURES = HELD + LATER
#: Names of the features, in order; the last `LATER` ones are known only with the next beat.
NAMES = (
    "likeness", "residual", "likeness_best", "share", "width", "width_ratio", "height_ratio", "energy", "sharp_ratio",
    "interval", "interval_change", "fatness", "noise", "irregularity", "interval_long", "p_likeness", "p_height",
    "p_strength", "p_ratio", "likeness_before", "shape_early", "sharpness", "roughness", "offset", "range_before",
    "peak", "peak_change", "interval_median", "jumps", "usual_width",
    "interval_after", "intervals_both", "likeness_after", "likeness_around", "likeness_to_next", "intervals_ratio",
    "t_change", "change_after",
)  # fmt: skip
assert len(NAMES) == FEATURES
CHANGE, AGAINST_LONG, P_LIKE, P_STRENGTH, LIKE_BEFORE, SHARPNESS, LIKE_NEXT, RATIO = (
    NAMES.index(name)
    for name in (
        "interval_change", "interval_long", "p_likeness", "p_strength", "likeness_before", "sharpness",
        "likeness_to_next", "intervals_ratio",
    )
)  # fmt: skip
#: A beat that keeps the pace of those around it and looks like one of its neighbours is conducted from the atria if it
#: begins sharply, or if the patient's own P wave comes before it: a bundle branch that blocks for a while, or a paced
#: patient's own rhythm. Its score is then at most `KEPT_MOST` (``rhythm.on_beat``). Never so a beat that is as fast as
#: a tachycardia might be, by `KEPT_LEAST_S` or by the patient's limit.
KEPT_LEAST_S = 0.667
KEPT_CHANGE, KEPT_RATIO, KEPT_EARLY = 0.2, 0.25, -0.15  # logarithms of intervals' ratios
KEPT_SHARP = -0.7  # logarithm of the second difference over 16 ms to the height; a beat of muscle begins slowly
KEPT_P, KEPT_P_MISSING, KEPT_P_KNOWN = 0.9, 0.5, (0.3, 0.4)  # likeness of what precedes it; P wave against its spread
KEPT_MOST = -2.0

#: What `judge` writes of a beat: width (ms), ventricular score at once; and of the beat before it: stream index (-1:
#: none), ventricular and supraventricular score in hindsight, and the interval before it in s if it keeps the pace, or
#: 0; how wide the usual beat is (``first_sight``); then the features of both.
R_WIDTH, R_NOW, R_BEFORE_AT, R_BEFORE_V, R_BEFORE_S, R_KEPT, R_USUAL = range(7)
R_FEATURES = 7
R_LATER = R_FEATURES + FEATURES
R_CURVES = R_LATER + FEATURES  # what the network was given of the beat before
RESULT = R_CURVES + beat_net.INPUTS
ROOM = 3 * (2 * SHIFT + 1)


@njit
def stretch(c: Any, trace: NDArray[np.float32], start: float, out: NDArray[np.float64]) -> None:
    """Fill `out`, `POINT_S` apart from analysis sample `start` on, interpolated, in mV without their mean."""
    step = POINT_S * c.analysis_rate
    mean = 0.0
    for k in range(out.size):
        at = min(max(start + k * step, 0.0), c.n - 2.0)
        i = np.int64(math.floor(at))
        part = at - i
        out[k] = (1.0 - part) * trace[i & MASK] + part * trace[(i + 1) & MASK]
        mean += out[k]
    mean /= out.size
    for k in range(out.size):
        out[k] -= mean


@njit
def resemblance(
    x: NDArray[np.float64], y: NDArray[np.float64], most: int, room: NDArray[np.float64]
) -> tuple[float, int, float]:
    """Return the best correlation of two curves, one sliding up to `most` points, the shift and the residual there.

    The residual is relative (0: identical). The shifts are the inner loop, so that it runs in vector instructions.
    """
    length, shifts = y.size - 2 * most, 2 * most + 1
    cov, sums, squares = room[:shifts], room[shifts : 2 * shifts], room[2 * shifts : 3 * shifts]
    mean = vy = 0.0
    for j in range(3 * shifts):
        room[j] = 0.0
    for k in range(length):
        mean += y[most + k]
    mean /= length
    for k in range(length):
        d = y[most + k] - mean
        vy += d * d
        for j in range(shifts):
            v = x[k + j]
            cov[j] += v * d
            sums[j] += v
            squares[j] += v * v
    best, at = -1e30, 0
    for j in range(shifts):
        vx = max(squares[j] - sums[j] * sums[j] / length, 1e-12)
        squares[j] = vx
        r = cov[j] * abs(cov[j]) / vx
        if r > best:
            best = r
            at = j
    vx = squares[at]
    return cov[at] / math.sqrt(vx * max(vy, 1e-12)), at - most, (vx + vy - 2.0 * cov[at]) / (vx + vy)


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
    first = last = at
    for side in range(2):
        direction = -1 if side == 0 else 1
        silent = 0
        j = at
        while fiducial - half <= j < end and silent <= quiet:
            if abs(trace[(j + lag) & MASK] - trace[(j - lag) & MASK]) > EDGE * steepest:
                first, last = (j, last) if side == 0 else (first, j)
                silent = 0
            else:
                silent += 1
            j += direction
    return (last - first + 2 * lag) / c.analysis_rate * 1e3


@njit
def span_of(c: Any, trace: NDArray[np.float32], first: float, last: float) -> tuple[float, float, float]:
    """Return mean, mean second difference over 16 ms, and range of the trace between two analysis samples, in mV."""
    lag = max(1, int(0.016 * c.analysis_rate + 0.5))
    total = rough = 0.0
    top, bottom = -1e30, 1e30
    n = 0
    for j in range(int(max(first, 0.0)), min(int(last), c.n - 1)):
        w = trace[j & MASK]
        total += w
        top = max(top, w)
        bottom = min(bottom, w)
        rough += abs(w - 2.0 * trace[(j - lag) & MASK] + trace[(j - 2 * lag) & MASK])
        n += 1
    if n == 0:
        return 0.0, 0.0, 0.0
    return total / n, rough / n, top - bottom


@njit
def peak_of(shape: NDArray[np.float64]) -> float:
    """Return the value farthest from zero within 40 ms of the fiducial."""
    peak = 0.0
    for k in range(8, 18):
        if abs(shape[k]) > abs(peak):
            peak = shape[k]
    return peak


@njit
def interval_of(c: Any, beat: NDArray[np.float64]) -> float:
    """Return the interval before a beat in s; the usual one where a gap or a pause lies between."""
    if beat[B_RESTART] > 0.0 or beat[B_INTERVAL] > INTERVAL_MOST_S:
        return max(c.normal_interval, 0.15)
    return max(beat[B_INTERVAL], 0.15)


@njit
def features_of(
    c: Any,
    trace: NDArray[np.float32],
    at: float,
    beat: NDArray[np.float64],
    shape: NDArray[np.float64],
    before: NDArray[np.float64],
    width: float,
    room: NDArray[np.float64],
    out: NDArray[np.float64],
) -> tuple[int, int]:
    """Fill `out` with the features of a beat that are known at once, as in `NAMES`.

    Return the template that it looks like (-1: none) and its shift against it.

    Intervals, widths and heights are logarithms of their ratio to this patient's usual ones.
    """
    like, residual = 0.0, 1.0
    usual_width, usual_height, usual_peak = 90.0, c.height, 0.0
    if c.dominant >= 0:
        usual_width = c.shape_width[c.dominant]
        usual_height = c.shape_height[c.dominant]
        usual_peak = peak_of(c.shapes[c.dominant])
    best, which, shift, weights = -1.0, -1, 0, 0.0
    for t in range(TEMPLATES):
        weights += c.shape_weight[t]
        if c.shape_weight[t] > 0.0:
            r, moved, rest = resemblance(shape, c.shapes[t], SHIFT, room)
            if t == c.dominant:
                like = r
                residual = rest
            if r > best:
                best = r
                which = t
                shift = moved
    area = 0.0
    for k in range(SHAPE):
        area += abs(shape[k])
    height = max(beat[B_HEIGHT], 1e-3)
    interval = interval_of(c, beat)
    rate = c.analysis_rate
    out[0] = like
    out[1] = residual
    out[2] = best
    out[3] = c.shape_weight[which] / max(weights, 1e-9) if which >= 0 else 0.0
    out[4] = width * 1e-2
    out[5] = math.log(max(width, 8.0) / max(usual_width, 8.0))
    out[6] = math.log(height / max(usual_height, 1e-3))
    out[7] = math.log(max(beat[B_ENERGY], 1e-3))
    out[8] = math.log(max(beat[B_SHARP], 0.02 * height) / max(beat[B_SHARP_REF], 1e-3))
    out[9] = math.log(interval / c.normal_interval)
    out[10] = math.log(interval / max(c.last_interval, 0.15)) if c.last_interval > 0.0 else 0.0
    out[11] = area / (SHAPE * height)
    out[12] = math.log((c.noise_level + 0.01) / max(c.sharpness, 0.05))
    count = min(c.interval_count, 8)
    total = square = 0.0
    for k in range(count):
        total += c.intervals[k]
        square += c.intervals[k] * c.intervals[k]
    out[13] = math.sqrt(max(square / count - (total / count) ** 2, 0.0)) / (total / count) if count > 2 else 0.1
    out[14] = math.log(interval / c.long_interval)
    rms = 0.0
    for k in range(P_POINTS):
        rms += before[k] * before[k]
    rms = math.sqrt(rms / P_POINTS)
    known = c.p_count >= 4
    out[15] = resemblance(before, c.p_shape, P_SHIFT, room)[0] if known else 0.5
    out[16] = math.log((rms + 0.005) / height)
    out[17] = math.log((math.sqrt(c.p_energy) + 0.005) / (math.sqrt(c.p_spread) + 0.005)) if known else 0.0
    out[18] = math.log((rms + 0.005) / (math.sqrt(c.p_energy + c.p_spread) + 0.005)) if known else 0.0
    out[19] = resemblance(shape, c.held_shape, SHIFT, room)[0] if c.judged > 0 else like
    out[20] = c.shape_early[which] if which >= 0 and best >= SAME else 0.0
    out[21] = math.log(max(beat[B_SHARP], 0.02 * height) / height)
    level, rough, reach = span_of(c, trace, at - 0.4 * rate, at - 0.12 * rate)
    after, _, _ = span_of(c, trace, at + 0.12 * rate, at + 0.20 * rate)
    out[22] = math.log((rough + 0.003) / (c.roughness + 0.003)) if c.judged > 3 else 0.0
    out[23] = (after - level) / height
    out[24] = math.log((reach + 0.01) / height)
    peak = peak_of(shape)
    out[25] = peak / height
    out[26] = peak / height - usual_peak / max(usual_height, 1e-3)
    out[27] = math.log(interval * rate / max(c.interval, 1.0))
    out[28] = math.log(c.jumps + 0.01) if c.judged > 8 else -3.0
    out[29] = math.log(max(usual_width, 8.0) * 1e-2)
    c.roughness = rough if c.judged == 0 else c.roughness + 0.1 * (rough - c.roughness)
    for k in range(HELD):
        out[k] = min(max(out[k], -3.0), 3.0)
    return (which if best >= SAME else -1), shift


@njit
def features_later(
    c: Any,
    trace: NDArray[np.float32],
    beat: NDArray[np.float64],
    shape: NDArray[np.float64],
    x: NDArray[np.float64],
    room: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Fill `out` with all features of the beat before, now that `beat`, its successor with features `x`, is known."""
    like = x[0]
    for k in range(HELD):
        out[k] = c.held[k]
    after = interval_of(c, beat)
    interval = max(c.held_interval, 0.15)
    rate = c.analysis_rate
    level, _, _ = span_of(c, trace, c.held_at - 0.12 * rate, c.held_at - 0.08 * rate)
    t, _, _ = span_of(c, trace, c.held_at + 0.18 * rate, c.held_at + min(0.36, 0.6 * after) * rate)
    out[HELD] = math.log(after / c.normal_interval)
    out[HELD + 1] = math.log((interval + after) / (2.0 * c.normal_interval))
    out[HELD + 2] = like
    out[HELD + 3] = resemblance(shape, c.older_shape, SHIFT, room)[0] if c.judged > 1 else like
    out[HELD + 4] = x[19]
    out[HELD + 5] = math.log(interval / after)
    out[HELD + 6] = (t - level) - c.t_level
    out[HELD + 7] = math.log(interval / max(c.last_interval, 0.15)) if c.last_interval > 0.0 else 0.0
    for k in range(HELD, FEATURES):
        out[k] = min(max(out[k], -3.0), 3.0)
    if c.held[0] > SAME:
        c.t_level += 0.1 * (t - level - c.t_level)


@njit
def remember(
    c: Any,
    shape: NDArray[np.float64],
    before: NDArray[np.float64],
    which: int,
    shift: int,
    beat: NDArray[np.float64],
    width: float,
    x: NDArray[np.float64],
) -> int:
    """Update the shapes of this lead and choose the dominant one (the patient's own usual beat); return the beat's."""
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
        c.shape_early[which] = x[9]
        c.serials += 1
        c.shape_serial[which] = c.serials
        for k in range(2):
            c.votes[k, which] = 0.0
            c.voters[k, which] = 0
    else:
        gain = max(0.125, 1.0 / (1.0 + c.shape_weight[which]))
        for k in range(SHAPE):
            j = min(max(k + shift, 0), SHAPE - 1)
            c.shapes[which, k] += gain * (shape[j] - c.shapes[which, k])
        c.shape_weight[which] += 1.0
        c.shape_width[which] += gain * (width - c.shape_width[which])
        c.shape_height[which] += gain * (beat[B_HEIGHT] - c.shape_height[which])
        c.shape_early[which] += gain * (x[9] - c.shape_early[which])
    # Stays dominant until another shape is clearly more frequent: in bigeminy both are equally so, and the wider one
    # must not win.
    if c.dominant < 0:
        c.dominant = which
    for t in range(TEMPLATES):
        margin = 1.5 if c.shape_width[t] <= 1.1 * c.shape_width[c.dominant] else 3.0
        if t != c.dominant and c.shape_weight[t] > margin * c.shape_weight[c.dominant] + 1.0:
            c.dominant = t
    if which == c.dominant:
        gain = max(0.06, 1.0 / (1.0 + c.p_count))
        energy = error = 0.0
        for k in range(P_POINTS):
            d = before[k] - c.p_shape[k]
            c.p_shape[k] += gain * d
            energy += c.p_shape[k] * c.p_shape[k]
            error += d * d
        c.p_energy = energy / P_POINTS
        c.p_spread += gain * (error / P_POINTS - c.p_spread)
        c.p_count += 1
        c.p_like += gain * (x[15] - c.p_like)
    interval = beat[B_INTERVAL]
    if beat[B_RESTART] == 0.0 and interval < INTERVAL_MOST_S:
        if which == c.dominant:
            c.normal_interval += 0.15 * (interval - c.normal_interval)
        if c.last_interval > 0.0:
            c.jumps += 0.04 * (min(abs(interval - c.last_interval) / c.last_interval, 0.4) - c.jumps)
        c.long_interval += 0.04 * (interval - c.long_interval)
        c.last_interval = interval
    else:
        c.last_interval = 0.0
    return which


@njit
def opinion(c: Any, kind: int, which: int) -> float:
    """Return what the earlier beats of a shape say of its next one (`kind` 0: at once, 1: in hindsight)."""
    if which < 0:
        return 0.0
    return float(c.votes[kind, which] * min(1.0, c.voters[kind, which] / VOTERS))


@njit
def vote(c: Any, kind: int, which: int, value: float) -> None:
    """Let the score of a beat count for its shape."""
    c.voters[kind, which] += 1
    gain = max(VOTE_GAIN, 1.0 / c.voters[kind, which])
    c.votes[kind, which] += gain * (min(max(value, -VOTE_MOST), VOTE_MOST) - c.votes[kind, which])


@njit
def raise_level(c: Any, kind: int, value: float) -> None:
    """Let the score of a beat that does not look ventricular (`kind` 2: supraventricular) count for its level."""
    c.leveled[kind] += 1
    if value < 0.0:
        c.level[kind] += max(LEVEL_GAIN, 1.0 / (c.leveled[kind] + LEVEL_BEATS)) * (value - c.level[kind])


@njit
def above_level(c: Any, kind: int) -> float:
    """Return what the level of this lead adds to a score."""
    level = min(max(c.level[kind], LEVEL_LEAST[kind]), LEVEL_MOST[kind])
    return float(LEVEL_PART[kind] * (LEVEL_EVEN[kind] - level))


@njit
def keeps_pace(x: NDArray[np.float64], interval: float) -> bool:
    """Return whether a beat with features `x`, `interval` s after the one before, shows that the atria gave it.

    A steady pace, a neighbour of the same shape, and a sharp QRS or the P wave that this lead's usual beats have.
    """
    if interval < KEPT_LEAST_S or abs(x[CHANGE]) >= KEPT_CHANGE or abs(x[RATIO]) >= KEPT_RATIO:
        return False
    if x[AGAINST_LONG] <= KEPT_EARLY or max(x[LIKE_BEFORE], x[LIKE_NEXT]) <= SAME:
        return False
    seen = x[P_LIKE] > KEPT_P and x[P_STRENGTH] > KEPT_P_KNOWN[0]
    missing = x[P_LIKE] < KEPT_P_MISSING and x[P_STRENGTH] > KEPT_P_KNOWN[1]
    return bool(seen or (x[SHARPNESS] > KEPT_SHARP and not missing))


@njit
def judge(
    c: Any,
    trace: NDArray[np.float32],
    beat: NDArray[np.float64],
    work: NDArray[np.float64],
    model: Any,
    out: NDArray[np.float64],
) -> None:
    """Judge a beat at once and the one before it in hindsight, learn its shape, and write the result to `out`."""
    at = c.start_n + (beat[B_FIDUCIAL] + c.trace_delay - c.start_raw) / c.decimation
    shape, before, room = work[:SHAPE], work[SHAPE : SHAPE + P_POINTS], work[SHAPE + P_POINTS : SHAPE + P_POINTS + ROOM]
    x, later, curves = out[R_FEATURES:R_LATER], out[R_LATER:R_CURVES], out[R_CURVES:RESULT]
    rest = work[SHAPE + P_POINTS + ROOM :]
    stretch(c, trace, at - BEFORE_S * c.analysis_rate, shape)
    stretch(c, trace, at - P_BEFORE_S * c.analysis_rate, before)
    width = width_ms(c, trace, np.int64(round(at)))
    which, shift = features_of(c, trace, at, beat, shape, before, width, room, x)
    out[R_BEFORE_AT] = -1.0
    if c.judged > 0 and beat[B_RESTART] == 0.0:
        features_later(c, trace, beat, shape, x, room, later)
        out[R_BEFORE_AT] = c.held_sample
        fine, curve = rest[: beat_net.FINE], rest[beat_net.FINE : beat_net.FINE + CURVE]
        stretch(c, trace, c.held_at - beat_net.BEGIN_S * c.analysis_rate, fine)
        beat_net.halve(fine, curve)
        beat_net.learn_usual(c, curve, c.held_usual == 1)
        beat_net.compare(c, curve, curves)
        seen, seen_s = beat_net.judge_kind(model.net, curves, later, rest[beat_net.FINE + CURVE :])
        value = NET_PART * seen + (1.0 - NET_PART) * score(model, VENTRICULAR_LATER, later)
        out[R_BEFORE_V] = value + above_level(c, 1)
        if c.shape_serial[c.held_slot] == c.held_serial:
            out[R_BEFORE_V] += opinion(c, 1, c.held_slot)
            vote(c, 1, c.held_slot, value)
        out[R_KEPT] = c.held_interval if keeps_pace(later, c.held_interval) else 0.0
        raise_level(c, 1, value)
        value = NET_PART_S * seen_s + (1.0 - NET_PART_S) * score(model, SUPRAVENTRICULAR_LATER, later)
        out[R_BEFORE_S] = value + above_level(c, 2)
        raise_level(c, 2, value)
    value = score(model, VENTRICULAR_NOW, x)
    out[R_WIDTH] = width
    out[R_NOW] = value + opinion(c, 0, which) + above_level(c, 0)
    which = remember(c, shape, before, which, shift, beat, width, x)
    vote(c, 0, which, value)
    raise_level(c, 0, value)
    out[R_USUAL] = usual_ms(c, int(BEFORE_S / POINT_S), POINT_S)
    for k in range(SHAPE):
        c.older_shape[k] = c.held_shape[k]
        c.held_shape[k] = shape[k]
    for k in range(HELD):
        c.held[k] = x[k]
    c.held_at = at
    c.held_sample = beat[B_FIDUCIAL]
    c.held_interval = interval_of(c, beat)
    c.held_slot = which
    c.held_serial = c.shape_serial[which]
    c.held_usual = 1 if which == c.dominant else 0
    c.judged += 1
