"""Filters one lead, causally: from raw samples to the trace and the QRS energy at the analysis rate.

Responsible for pacing spikes (out, by a median), the 0.5 - 40 Hz trace, the 5 - 16 Hz band, the energy of the QRS, and
for beginning anew after a gap. Nothing happens at the end of a block, so any block length gives the same results.
Not responsible for which peak of the energy is a beat (``detector``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.compiled import fma, kernel
from edgeward.clinic.monitor.state import NEVER

RAIL = 32700  # a code beyond this is the end of the converter's range
LEARN_S = 1.5
SETTLE_S = 0.3


@kernel
def restart(c: Any, first_index: int) -> None:
    """Begin anew after a gap: filters at rest on the next sample, thresholds kept, no candidate across the gap."""
    c.running = 0
    c.start_raw = first_index
    c.start_n = c.n
    c.phase = 0
    c.band_1 = 0.0
    c.band_2 = 0.0
    for k in range(2):
        c.high_z[k] = c.qrs_high_z[k] = c.qrs_low_z[k] = 0.0
    for k in range(c.slopes.size):
        c.slopes[k] = 0.0
    c.slope_sum = 0.0
    c.leapt = 0
    c.rising = 0
    c.last_energy = 0.0
    c.rejected_count = 0
    c.back_from = NEVER
    c.settled_n = c.n + np.int64(SETTLE_S * c.analysis_rate)
    c.learned_n = c.n + np.int64(LEARN_S * c.analysis_rate)
    c.mean_gain = 1.0 / (2.0 * c.analysis_rate)
    c.same = 0
    c.railed = 0


@kernel
def runs(c: Any, raw: NDArray[np.int16]) -> None:
    """Count how long the signal has been unchanged, and at the end of its range, up to the last sample of `raw`."""
    size = raw.size
    last = raw[size - 1]
    i = size - 1
    while i > 0 and raw[i - 1] == last:
        i -= 1
    if i == 0 and last == c.last_raw:
        c.same += size
    else:
        c.same = size - 1 - i
    i = size
    while i > 0 and (raw[i - 1] >= RAIL or raw[i - 1] <= -RAIL):
        i -= 1
    c.railed = c.railed + size if i == 0 else size - i
    c.last_raw = last


@kernel
def leaps(before: NDArray[np.int16], now: NDArray[np.int16]) -> int:
    """Return the greatest change from one sample to the next."""
    most = np.int32(0)
    for i in range(now.size):
        change = np.int32(np.int32(now[i]) - np.int32(before[i]))
        size = -change if change < 0 else change
        most = max(most, size)
    return int(most)


@kernel
def hold_leaps(c: Any, x: NDArray[np.int16], first: int, stop: int) -> None:
    """Replace samples that leap from the one before as no heart can, by that one, for as long as a pulse may last.

    A pulse that the device has averaged into its samples touches one more of them than the median takes out, and one of
    200 mV leaves 25 mV in each. What lasts longer (an electrode) passes a few samples late.
    """
    for i in range(first, stop):
        change = abs(np.int32(x[i]) - np.int32(x[i - 1]))
        if change > c.leap_code and c.leapt <= c.spike_lag:
            c.leapt += 1
            x[i] = x[i - 1]
        else:
            c.leapt = 0


@kernel
def without_spikes(c: Any, raw: NDArray[np.int16], work: NDArray[np.int16], out: NDArray[np.int16]) -> None:
    """Write the median of three samples one pulse width apart: what is narrower than that vanishes, the rest stays."""
    lag, size = c.spike_lag, raw.size
    before = c.before
    for i in range(2 * lag):
        work[i] = before[i]
    for i in range(size):
        work[2 * lag + i] = raw[i]
    if c.leapt > 0 or leaps(work[2 * lag - 1 : 2 * lag + size - 1], work[2 * lag : 2 * lag + size]) > c.leap_code:
        hold_leaps(c, work, 2 * lag, 2 * lag + size)
    x, y, z = work[:size], work[lag : lag + size], work[2 * lag : 2 * lag + size]
    for i in range(size):
        # written out: `min` and `max` would widen to 64 bits
        p, q, r = x[i], y[i], z[i]
        low = min(r, p)
        high = max(p, r)
        rest = min(high, q)
        out[i] = max(low, rest)
    for i in range(2 * lag):
        before[i] = work[size + i]


@kernel
def low_pass(c: Any, clean: NDArray[np.int16], size: int, phases: NDArray[np.float32], out: NDArray[np.float32]) -> int:
    """Low-pass and decimate the last `size` of the ``taps - 1 + size`` samples; return how many results.

    Every result is the same sum in the same order wherever a block begins. The samples are dealt into one row per
    phase of the decimation, so that the inner loops run over neighbours and become vector instructions.
    """
    step, taps = c.decimation, c.taps
    first = step - 1 - c.phase
    c.phase = (c.phase + size) % step
    if first >= size:
        return 0
    count = (size - 1 - first) // step + 1
    length = count + (taps - 1) // step
    origin = c.origin
    if step == 2:  # the usual monitor: written out, it becomes vector instructions
        even, odd, dealt = phases[0], phases[1], clean[first:]
        for j in range(min(length, dealt.size // 2)):
            even[j] = np.float32(np.int32(dealt[2 * j]) - origin)
            odd[j] = np.float32(np.int32(dealt[2 * j + 1]) - origin)
        if dealt.size % 2 == 1 and dealt.size // 2 < length:
            even[dealt.size // 2] = np.float32(np.int32(dealt[dealt.size - 1]) - origin)
    else:
        for p in range(step):
            row = phases[p]
            at = first + p
            for j in range(min(length, (size + taps - 2 - at) // step + 1)):
                row[j] = np.float32(np.int32(clean[at + j * step]) - origin)
    total = out[:count]
    middle = taps // 2
    weight = c.low[middle]
    centre = phases[middle % step, middle // step : middle // step + count]
    for j in range(count):
        total[j] = weight * centre[j]
    done = middle % 3
    for k in range(done):
        weight = c.low[k]
        far = taps - 1 - k
        early = phases[k % step, k // step : k // step + count]
        late = phases[far % step, far // step : far // step + count]
        for j in range(count):
            total[j] += weight * (early[j] + late[j])
    for k in range(done, middle, 3):  # three at a time: the sum is fetched and stored less often
        far = taps - 1 - k
        w0, w1, w2 = c.low[k], c.low[k + 1], c.low[k + 2]
        e0 = phases[k % step, k // step : k // step + count]
        e1 = phases[(k + 1) % step, (k + 1) // step : (k + 1) // step + count]
        e2 = phases[(k + 2) % step, (k + 2) // step : (k + 2) // step + count]
        l0 = phases[far % step, far // step : far // step + count]
        l1 = phases[(far - 1) % step, (far - 1) // step : (far - 1) // step + count]
        l2 = phases[(far - 2) % step, (far - 2) // step : (far - 2) // step + count]
        for j in range(count):
            total[j] = ((total[j] + w0 * (e0[j] + l0[j])) + w1 * (e1[j] + l1[j])) + w2 * (e2[j] + l2[j])
    return count


@kernel
def stepwise(section: Any) -> tuple[float, float, float, float, float]:
    """Return a section ``b0, b1, b2, a1, a2`` as what its state is made of: from the input (3), from the state (2)."""
    b0, a1, a2 = section[0], section[3], section[4]
    return b0, section[1] - a1 * b0, section[2] - a2 * b0, -a1, -a2


@kernel
def front_end(
    c: Any,
    raw: NDArray[np.int16],
    codes: NDArray[np.int16],
    phases: NDArray[np.float32],
    work: NDArray[np.float64],
) -> int:
    """Filter `raw`; write analysis samples to the rows of `work`; return how many.

    Rows: trace (mV), band (mV), QRS energy (mV/s), mean energy of the last two seconds.
    """
    size, taps = raw.size, c.taps
    if c.running == 0:
        c.running = 1
        c.origin = raw[0]
        c.last_raw = np.int32(raw[0])
        for k in range(c.before.size):
            c.before[k] = raw[0]
        for k in range(c.clean.size):
            c.clean[k] = raw[0]
    runs(c, raw)
    past, kept = c.past, c.clean
    clean = codes[1, : past + size]
    for k in range(past):
        clean[k] = kept[k]
    without_spikes(c, raw, codes[0], clean[past:])
    for k in range(past):
        kept[k] = clean[size + k]
    c.clean_first = c.start_raw + (c.n - c.start_n) * c.decimation + c.phase - past
    smooth = phases[phases.shape[0] - 1]
    count = low_pass(c, clean[past - taps + 1 :], size, phases, smooth)
    scale = c.scale
    # The state goes on without waiting for the output: z0' = (b1 - a1 b0) x + z1 - a1 z0, and so on.
    s0, s1, s2, s3, s4 = stepwise(c.high)
    a0, a1, a2, a3, a4 = stepwise(c.qrs_high)
    b0, b1, b2, b3, b4 = stepwise(c.qrs_low)
    h0, h1 = c.high_z[0], c.high_z[1]
    p0, p1 = c.qrs_high_z[0], c.qrs_high_z[1]
    q0, q1 = c.qrs_low_z[0], c.qrs_low_z[1]
    band_1, band_2 = c.band_1, c.band_2
    slopes, total, at, window = c.slopes, c.slope_sum, c.slope_at, c.window
    slope_scale = 0.5 * c.analysis_rate / window
    mean, keep_part = c.mean_energy, 1.0 - c.mean_gain
    gain = c.mean_gain
    trace, band, energy, means = work[0], work[1], work[2], work[3]
    for i in range(count):
        trace[i] = smooth[i] * scale
    for i in range(count):
        y = trace[i]
        shown = fma(s0, y, h0)
        h0, h1 = fma(s3, h0, fma(s1, y, h1)), fma(s4, h0, s2 * y)
        t = fma(a0, y, p0)
        p0, p1 = fma(a3, p0, fma(a1, y, p1)), fma(a4, p0, a2 * y)
        b = fma(b0, t, q0)
        q0, q1 = fma(b3, q0, fma(b1, t, q1)), fma(b4, q0, b2 * t)
        slope = abs(b - band_2) * slope_scale
        band_2 = band_1
        band_1 = b
        total += slope - slopes[at]
        slopes[at] = slope
        at += 1
        at = 0 if at == window else at
        mean = fma(mean, keep_part, total * gain)
        trace[i] = shown
        band[i] = b
        energy[i] = total
        means[i] = mean
    c.high_z[0], c.high_z[1] = h0, h1
    c.qrs_high_z[0], c.qrs_high_z[1] = p0, p1
    c.qrs_low_z[0], c.qrs_low_z[1] = q0, q1
    c.band_1, c.band_2 = band_1, band_2
    c.slope_sum, c.slope_at, c.mean_energy = total, at, mean
    return count
