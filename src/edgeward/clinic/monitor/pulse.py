"""Finds pulses in a photoplethysmogram or an arterial pressure, one analysis sample at a time.

Responsible for onset, amplitude and quality of each pulse, the pulse rate, and whether pulses have stopped. Method: the
slope sum function of Zong et al. 2003 (rises summed over the length of an upstroke) with an adaptive threshold; each
pulse is then compared with the channel's own template. Detection is generous, belief is not: noise gives pulses of low
quality, and those are no evidence of a circulation. Not responsible for pressures as numbers (``pressure``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.quality import median, normalise, quantile, ramp, skewness
from edgeward.clinic.monitor.signals_state import AFTER_S, ARTERIAL, BEATS, BEFORE_S, MASK, PULSE, RECENT, RING, SHAPE

CONFIRM_S = 0.12  # a slope peak is final when none greater followed for this long
REFRACTORY_S = 0.24  # 250/min
LEARN_S = 3.0
#: Within this time after a pulse, a rise that is this much smaller is its dicrotic wave.
DICROTIC_S = 0.5
DICROTIC_PART = 0.7
RELEARN_S = 6.0  # nothing found for this long: perhaps the signal has become smaller
SETTLE_S = 0.6
RATE_WINDOW_S = 8.0
KNOWN_AFTER_S = AFTER_S + 0.1  # a pulse is written down this long after its onset
RAILED_FEW, RAILED_MOST = 0.02, 0.15  # of the last seconds, flat at an edge of the range
GOOD = 0.5  # quality of a pulse that counts as evidence
#: Less than this part of the usual amplitude is not a pulse, however regular it is, until it has been so for long.
LEAST_PART = 0.12
LEAST_PRESSURE = 4.0  # mm[Hg]; less is the noise of a line


@njit
def threshold(c: Any) -> float:
    """Return the slope sum that a pulse must reach now: it falls while a pulse is overdue."""
    overdue = (c.n - c.beat_n) / c.interval
    part = 0.42 if overdue < 1.6 else max(0.2, 0.42 - 0.15 * (overdue - 1.6))
    return part * c.reference


@njit
def search(c: Any, trace: NDArray[np.float32], value: float, room: NDArray[np.float64]) -> bool:
    """Take one sample of the trace (it must be in the ring already); return whether a pulse was accepted.

    Its place is then known and it waits (``c.pending``) until enough of it has been seen to be judged.
    """
    rate = c.analysis_rate
    step = max(value - c.before, 0.0)
    c.before = value
    old = (c.step_at - c.window) & 31
    c.slope_sum += step - c.steps[old]
    c.steps[c.step_at] = step
    c.step_at = (c.step_at + 1) & 31
    if c.step_at == 0:  # rounding must not add up
        total = 0.0
        for k in range(1, c.window + 1):
            total += c.steps[(c.step_at - k) & 31]
        c.slope_sum = total
    if c.n - c.start_n < SETTLE_S * rate:
        return False
    if c.slope_sum > c.peak:
        c.peak = c.slope_sum
        c.peak_n = c.n
        return False
    if c.peak <= 0.0 or c.n - c.peak_n < CONFIRM_S * rate:
        return False
    top, at = c.peak, c.peak_n
    c.peak = 0.0
    if c.slope_sum > 0.5 * top:  # still within the same rise
        c.peak = c.slope_sum
        c.peak_n = c.n
    if c.learned == 0:
        if c.learn_n == 0:
            c.learn_n = c.n
        for k in range(3):
            if top > c.tops[k]:
                top, c.tops[k] = c.tops[k], top
        if c.n - c.learn_n >= LEARN_S * rate and c.tops[1] > 0.0:
            c.reference = c.tops[2] if c.tops[2] > 0.4 * c.tops[0] else c.tops[1]
            c.reference_count = 0
            c.learned = 1
            c.beat_n = c.n
        return False
    since = at - c.beat_n
    if since < REFRACTORY_S * rate or top < threshold(c):
        return False
    if since < DICROTIC_S * rate and top < DICROTIC_PART * c.last_top:
        return False
    c.references[c.reference_count % RECENT] = min(top, 2.5 * c.reference)
    c.reference_count += 1
    if c.reference_count >= 4:  # the upper quarter, so that a wave counted twice does not draw it down
        c.reference = quantile(c.references, min(c.reference_count, RECENT), 0.75, room)
    c.beat_n = at
    if c.pending == 1 and top < 1.3 * c.last_top:
        return False  # a very fast pair: the first of it has not been seen whole yet
    c.last_top = top  # (a much greater one shows that what waits was none)
    locate(c, trace, at)
    c.pending = 1
    return True


@njit
def locate(c: Any, trace: NDArray[np.float32], at: int) -> None:
    """Find foot, middle and top of the upstroke whose slope sum is greatest at `at`.

    The middle of the upstroke is the pulse's time: it moves less with noise and with slow waves than the foot.
    """
    top_n = at
    for k in range(1, c.window + 1):
        if trace[(at - k) & MASK] > trace[top_n & MASK]:
            top_n = at - k
    top = trace[top_n & MASK]
    back = min(top_n - c.start_n, int(0.4 * c.analysis_rate), RING - 64)
    foot_n, foot = top_n, top
    for k in range(1, back + 1):
        v = trace[(top_n - k) & MASK]
        if v < foot:
            foot = v
            foot_n = top_n - k
        elif v > foot + 0.25 * (top - foot) and k > 2:
            break
    middle = 0.5 * (top + foot)
    n = top_n
    while n > foot_n and trace[(n - 1) & MASK] > middle:
        n -= 1
    high, low = trace[n & MASK], trace[(n - 1) & MASK]
    c.onset_n = n
    c.onset = n - (high - middle) / (high - low) if high > low else float(n)
    c.foot_n = foot_n
    c.top_n = top_n


@njit
def stream_index(c: Any, n: float) -> float:
    """Return the stream index of analysis sample `n`."""
    return c.start_raw + (n - c.start_n + 1.0) * c.decimation - 1.0 - c.delay


@njit
def judge_pulse(c: Any, trace: NDArray[np.float32], room: NDArray[np.float64], shape: NDArray[np.float64]) -> None:
    """Judge the pending pulse, now that it has been seen as far as its shape reaches, and write it down."""
    rate = c.analysis_rate
    c.pending = 0
    onset = c.onset_n
    foot = trace[c.foot_n & MASK]
    top, top_n = trace[c.top_n & MASK], c.top_n
    for k in range(1, int(0.1 * rate) + 1):  # the slope had ended; the top may come a little later
        v = trace[(c.top_n + k) & MASK]
        if v <= top:
            break
        top = v
        top_n = c.top_n + k
    amplitude = top - foot
    when = stream_index(c, c.onset)
    last = (c.count - 1) % BEATS
    interval = 0.0
    if c.count > 0 and c.times[last] >= c.start_raw:
        interval = (when - c.times[last]) / c.rate
        if interval > 4.0:
            interval = 0.0
    # -- shape
    first = c.onset - BEFORE_S * rate
    width = (BEFORE_S + AFTER_S) * rate / (SHAPE - 1)
    for k in range(SHAPE):
        x = first + k * width
        i = math.floor(x)
        f = x - i
        shape[k] = (1.0 - f) * trace[i & MASK] + f * trace[(i + 1) & MASK]
    likeness = 0.0
    if normalise(shape, SHAPE):
        for k in range(SHAPE):
            likeness += shape[k] * c.template[k]
        if 0.0 < interval < DICROTIC_S + 0.1 and likeness < 0.75 and amplitude < 0.8 * c.amplitudes[last]:
            return  # smaller, soon after, and of another shape: the dicrotic wave of the last pulse
        learn_shape(c, shape, likeness)
    else:
        amplitude = 0.0
    quality = ramp(likeness, 0.55, 0.92)
    # -- size against its neighbours, and against what is usual here
    n = min(c.count, RECENT)
    if n >= 3:
        for k in range(n):
            shape[k] = c.amplitudes[(c.count - 1 - k) % BEATS]
        part = amplitude / max(median(shape, n, room), 1e-12)
        quality *= min(ramp(part, 0.15, 0.45), ramp(part, 4.0, 2.0))
    if c.usual > 0.0:
        quality *= ramp(amplitude / c.usual, 5.0, 2.5)  # a movement
        if amplitude < LEAST_PART * c.usual:
            quality *= 0.2
    rise = 2.0 * (top_n - c.onset) / rate
    quality *= min(ramp(rise, 0.02, 0.06), ramp(rise, 0.5, 0.36))
    if c.clipped_n >= onset - BEFORE_S * rate:
        quality *= 0.3
    if amplitude <= (LEAST_PRESSURE if c.family == ARTERIAL else 0.0) or c.missing_run > 0:
        quality = 0.0
    slot = c.count % BEATS
    c.times[slot] = when
    c.amplitudes[slot] = amplitude
    c.qualities[slot] = quality
    c.intervals[slot] = interval
    c.count += 1
    if quality >= GOOD:
        c.good_run += 1
        c.anchor = when
        rate_of_change = 0.25 if c.usual == 0.0 else 0.03
        c.usual += rate_of_change * (amplitude - c.usual) if c.usual > 0.0 else amplitude
    elif quality >= 0.25:
        c.anchor = max(c.anchor, when)
        c.good_run = 0
    else:
        c.good_run = 0
        if c.usual > 0.0 and amplitude > 0.0 and likeness > 0.9:
            c.usual += 0.01 * (amplitude - c.usual)  # alike but of another size: it becomes usual after a while
    if c.good_run >= 5:
        c.present = 1
    n = min(c.count, RECENT)
    used = 0
    for k in range(n):
        i = c.intervals[(c.count - 1 - k) % BEATS]
        if i > 0.0:
            shape[used] = i
            used += 1
    if used >= 3:
        c.interval = min(2.5, max(0.24, median(shape, used, room))) * rate


@njit
def learn_shape(c: Any, shape: NDArray[np.float64], likeness: float) -> None:
    """Let the template follow pulses that look like it; give it up when many in a row do not."""
    if c.template_weight == 0.0:
        for k in range(SHAPE):
            c.template[k] = shape[k]
        c.template_weight = 1.0
        return
    if likeness < 0.7:
        c.doubt += 1
        if c.doubt >= 6:
            for k in range(SHAPE):
                c.template[k] = shape[k]
            c.template_weight = 1.0
            c.doubt = 0
        return
    c.doubt = 0
    c.template_weight = min(c.template_weight + 1.0, 12.0)
    part = 1.0 / c.template_weight
    for k in range(SHAPE):
        c.template[k] += part * (shape[k] - c.template[k])
    normalise(c.template, SHAPE)


@njit
def judge_channel(c: Any, trace: NDArray[np.float32], at: float, room: NDArray[np.float64]) -> None:
    """Judge the channel as a whole, once a tick: quality, pulse rate, amplitude."""
    rate = c.analysis_rate
    if c.learned == 0 and c.learn_n == 0 and c.n - c.start_n > SETTLE_S * rate:
        c.learn_n = c.n
    if c.learned == 1 and c.n - c.beat_n > RELEARN_S * rate:
        c.learned = 0
        c.learn_n = 0
        c.tops[:] = 0.0
    total, seen, used = 0.0, 0, 0
    sum_of, shortest, longest = 0.0, 1e9, 0.0
    change, before, change_of_size = 0.0, 0.0, 0.0
    open_s = 1e9
    for k in range(min(c.count, 32)):
        i = (c.count - 1 - k) % BEATS
        age = (at - c.times[i]) / c.rate
        if k == 0:
            open_s = age
        if age > RATE_WINDOW_S or c.times[i] < c.start_raw:
            break
        if seen > 0:
            size, later = c.amplitudes[i], c.amplitudes[(i + 1) % BEATS]
            change_of_size += abs(size - later) / max(size, later, 1e-12)
        total += c.qualities[i]
        seen += 1
        interval = c.intervals[i]
        if interval <= 0.0:
            continue
        room[128 + used] = interval
        if used > 0:
            change += abs(interval - before)
        before = interval
        sum_of += interval
        used += 1
        shortest = min(shortest, interval)
        longest = max(longest, interval)
    c.pulse_rate = math.nan
    c.amplitude = math.nan
    c.perfusion = math.nan
    if seen < 2 or used < 1 or open_s > max(2.5, 2.5 * sum_of / used):
        c.quality = 0.0
        return
    quality = total / seen
    mean = sum_of / used
    if used >= 3:  # irregular as in atrial fibrillation is fine, random as in noise is not
        change /= (used - 1) * mean
        quality *= min(ramp(change, 0.75, 0.45), ramp(change + change_of_size / (seen - 1), 0.9, 0.6))
    n = min(seen, RECENT)
    for k in range(n):
        room[64 + k] = c.amplitudes[(c.count - 1 - k) % BEATS]
    amplitude = median(room[64:], n, room)
    span = 0.0
    for k in range(4):
        span = max(span, c.spans[(c.ticks - k) & 7])
    if c.family == PULSE:
        quality *= ramp(span / max(amplitude, 1e-12), 5.0, 2.5)  # motion
        count = int(4.0 * rate)
        if c.n - c.start_n > count:
            quality *= 0.6 + 0.4 * ramp(skewness(trace, MASK, c.n, count), -0.5, 0.0)
        quality *= ramp(c.railed_part, RAILED_MOST, RAILED_FEW)  # pulses may hide behind the edge
    if c.missing > 0:
        quality *= 1.0 - c.missing / c.hop
    c.quality = min(1.0, max(0.0, quality))
    c.amplitude = amplitude
    if c.usual > 0.0:
        c.perfusion = amplitude / c.usual
    if c.quality >= 0.3:
        open_s -= KNOWN_AFTER_S
        if open_s > 1.5 * mean:
            sum_of += open_s
            used += 1
        elif c.quality < 0.8:
            sum_of = median(room[128:], used, room) * used
        elif used >= 5:
            sum_of -= shortest + longest
            used -= 2
        c.pulse_rate = 60.0 * used / sum_of


@njit
def is_quiet(c: Any) -> bool:
    """Return whether nothing like a pulse has moved the signal for 2 s."""
    span = 0.0
    for k in range(4):
        span = max(span, c.spans[(c.ticks - k) & 7])
    return c.usual > 0.0 and span < 0.3 * c.usual


assert PULSE < ARTERIAL
