"""Finds heart beats in one lead, causally, sample by sample.

Responsible for the front end (pacing spikes out, 0.5 - 40 Hz trace at the analysis rate, QRS energy) and for deciding
which peak of the energy is a QRS. It works for any block length with identical results, because nothing
happens at the end of a block. Not responsible for what kind of beat it is (``beats``) or what it means (``rhythm``).

Method: 5 - 16 Hz band-pass, difference, rectify, moving mean (after Pan & Tompkins 1985 and docs/findings.md "QRS
detection"), thresholds from the median of the last eight beats, search-back. Three things are different, because the
earlier trial had three faults: beats may follow each other by 165 ms if they look alike (300/min), a peak early after
a beat must also be as sharp as a QRS (tall T waves), and there is a floor in mV (small deflections, asystole).
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.qrs_model import BIAS_1, BIAS_2, CENTRE, SPREAD, WEIGHT_1, WEIGHT_2
from edgeward.clinic.monitor.state import CANDIDATES, FACTS, MASK, NEVER, PATTERN, SHIFTS

RAIL = 32700  # a code beyond this is the end of the converter's range
#: Not counted below: 0.15 mV must not, 0.5 mV must be counted (IEC 60601-2-27, 201.12.1.101.15 b).
FLOOR_MV = 0.22
#: A patient whose beats are low (median height below 0.35 mV) may have some that are lower; never as low as 0.15 mV.
FLOOR_LEAST_MV = 0.165
#: Nobody's heart makes this; an electrode that is moved does.
ARTEFACT_MV = 15.0
REFRACTORY_S = 0.165  # 300/min is 200 ms; two bumps of one wide QRS are closer than this
#: After this long without a beat the network has no say: it knows the patient's old shapes only.
VETO_MOST_S = 2.5
OWN = 0.93  # so like a known pattern, a candidate needs no other argument; its height may have changed at once
SURE = 8.0  # log-odds of a beat that nothing speaks against
POINT_S = 0.012  # between the points of a pattern
LEARN_S = 1.5
SETTLE_S = 0.3
CREST_MV = 0.5
T_EARLIEST_S = 0.25  # the ventricle is refractory until then in a slow rhythm
T_EXCESS = 2.5
SHARP_LAG_S = 0.016
SHARP_HALF_S = 0.08
FIDUCIAL_HALF_S = 0.05

CANDIDATE, BEAT_FIELDS = 5, 9
#: Columns of a detected beat.
B_FIDUCIAL, B_REPORT, B_ENERGY, B_HEIGHT, B_SHARP, B_RESTART, B_INTERVAL, B_SHARP_REF, B_ODDS = range(BEAT_FIELDS)


@njit
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
    c.rising = 0
    c.last_energy = 0.0
    c.rejected_count = 0
    c.back_from = NEVER
    c.settled_n = c.n + np.int64(SETTLE_S * c.analysis_rate)
    c.learned_n = c.n + np.int64(LEARN_S * c.analysis_rate)
    c.mean_gain = 1.0 / (2.0 * c.analysis_rate)
    c.same = 0
    c.railed = 0


@njit
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


@njit
def without_spikes(c: Any, raw: NDArray[np.int16], work: NDArray[np.int16], out: NDArray[np.int16]) -> None:
    """Write the median of three samples one pulse width apart: what is narrower than that vanishes, the rest stays."""
    lag, size = c.spike_lag, raw.size
    work[: 2 * lag] = c.before[: 2 * lag]
    work[2 * lag : 2 * lag + size] = raw
    x, y, z = work[:size], work[lag : lag + size], work[2 * lag : 2 * lag + size]
    for i in range(size):
        out[i] = max(min(x[i], z[i]), min(y[i], max(x[i], z[i])))
    c.before[: 2 * lag] = work[size : size + 2 * lag]


@njit
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
    for p in range(step):
        row = phases[p]
        at = first + p
        for j in range(min(length, (clean.size - 1 - at) // step + 1)):
            row[j] = np.float32(np.int32(clean[at + j * step]) - origin)
    total = out[:count]
    middle = taps // 2
    weight = c.low[middle]
    centre = phases[middle % step, middle // step : middle // step + count]
    for j in range(count):
        total[j] = weight * centre[j]
    for k in range(middle):
        weight = c.low[k]
        far = taps - 1 - k
        early = phases[k % step, k // step : k // step + count]
        late = phases[far % step, far // step : far // step + count]
        for j in range(count):
            total[j] += weight * (early[j] + late[j])
    return count


@njit
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
        c.before[:] = raw[0]
        c.clean[:] = raw[0]
    runs(c, raw)
    clean = codes[1, : taps - 1 + size]
    clean[: taps - 1] = c.clean[: taps - 1]
    without_spikes(c, raw, codes[0], clean[taps - 1 :])
    c.clean[: taps - 1] = clean[size:]
    smooth = phases[phases.shape[0] - 1]
    count = low_pass(c, clean, size, phases, smooth)
    scale = c.scale
    s0, s1, s2, s3, s4 = c.high[0], c.high[1], c.high[2], c.high[3], c.high[4]
    a0, a1, a2, a3, a4 = c.qrs_high[0], c.qrs_high[1], c.qrs_high[2], c.qrs_high[3], c.qrs_high[4]
    b0, b1, b2, b3, b4 = c.qrs_low[0], c.qrs_low[1], c.qrs_low[2], c.qrs_low[3], c.qrs_low[4]
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
        # each line of the three sections is arranged so that the next sample waits for as little as possible
        y = smooth[i] * scale
        shown = s0 * y + h0
        h0 = (s1 * y + h1) - s3 * shown
        h1 = s2 * y - s4 * shown
        t = a0 * y + p0
        p0 = (a1 * y + p1) - a3 * t
        p1 = a2 * y - a4 * t
        b = b0 * t + q0
        q0 = (b1 * t + q1) - b3 * b
        q1 = b2 * t - b4 * b
        slope = abs(b - band_2) * slope_scale
        band_2 = band_1
        band_1 = b
        total += slope - slopes[at]
        slopes[at] = slope
        at += 1
        at = 0 if at == window else at
        mean = mean * keep_part + total * gain
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


@njit
def sort_into(values: NDArray[np.float64], count: int, out: NDArray[np.float64]) -> None:
    """Write the first `count` values to `out` in ascending order (insertion: there are few)."""
    for i in range(count):
        v = values[i]
        j = i - 1
        while j >= 0 and out[j] > v:
            out[j + 1] = out[j]
            j -= 1
        out[j + 1] = v


@njit
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


@njit
def pattern_at(c: Any, band: NDArray[np.float32], fiducial: float, out: NDArray[np.float64]) -> None:
    """Write the band around a candidate, 12 ms apart, `SHIFTS` points longer at each end than a pattern."""
    step = max(1, int(POINT_S * c.analysis_rate + 0.5))
    first = np.int64(fiducial) + c.qrs_delay - step * (PATTERN // 2 + SHIFTS)
    for k in range(PATTERN + 2 * SHIFTS):
        out[k] = band[(first + k * step) & MASK]


@njit
def resemblance(shape: NDArray[np.float64], pattern: NDArray[np.float64]) -> tuple[float, int]:
    """Return the best correlation of a candidate with a pattern over small shifts, and that shift."""
    norm = 1e-12
    for k in range(PATTERN):
        norm += pattern[k] * pattern[k]
    best, where = -1.0, SHIFTS
    for shift in range(2 * SHIFTS + 1):
        cross, power = 0.0, 1e-12
        for k in range(PATTERN):
            cross += shape[shift + k] * pattern[k]
            power += shape[shift + k] * shape[shift + k]
        r = cross / math.sqrt(norm * power)
        if r > best:
            best, where = r, shift
    return best, where


@njit
def learn_pattern(c: Any, band: NDArray[np.float32], cand: NDArray[np.float64]) -> None:
    """Remember what an accepted beat looks like: two patterns, the more usual one is kept longer."""
    shape = c.around
    pattern_at(c, band, cand[2], shape)
    best, which, where = -1.0, 0, SHIFTS
    for t in range(2):
        c.pattern_weight[t] *= 0.95
        if c.pattern_weight[t] > 0.0:
            r, shift = resemblance(shape, c.patterns[t])
            if r > best:
                best, which, where = r, t, shift
    if best < 0.75:
        which = 0 if c.pattern_weight[0] <= c.pattern_weight[1] else 1
        where = SHIFTS
        c.pattern_weight[which] = 0.0
    gain = max(0.125, 1.0 / (1.0 + c.pattern_weight[which]))
    c.pattern_weight[which] += 1.0
    for k in range(PATTERN):
        c.patterns[which, k] += gain * (shape[where + k] - c.patterns[which, k])


@njit
def gather(c: Any, band: NDArray[np.float32], cand: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Write what is known of a candidate: logs of energy, noise, sharpness, height, crest; likeness; earliness."""
    shape = c.around
    pattern_at(c, band, cand[2], shape)
    like = -1.0
    for t in range(2):
        if c.pattern_weight[t] > 1.5:
            r, _ = resemblance(shape, c.patterns[t])
            like = max(like, r)
    since = (cand[2] - c.beat_n) / c.interval
    out[0] = math.log(max(cand[1], 1e-6) / c.signal)
    out[1] = math.log(max(c.noise, 0.02 * c.signal) / c.signal)
    out[2] = like
    out[3] = math.log(max(cand[4], 0.05 * c.sharpness, 1e-6) / max(c.sharpness, 1e-6))
    out[4] = math.log(cand[3] / max(c.height, 1e-6))
    out[5] = max(0.0, 1.0 - since)
    out[6] = min(max(0.0, since - 1.0), 2.0)
    out[7] = math.log(cand[1] / max(c.mean_energy_now, 1e-9))


@njit
def likelihood(x: NDArray[np.float64]) -> float:
    """Return the log-odds that a candidate with these facts is a QRS: one hidden layer, tanh."""
    total = BIAS_2
    for h in range(BIAS_1.size):
        v = BIAS_1[h]
        for k in range(FACTS):
            v += WEIGHT_1[k, h] * (min(max(x[k], -4.0), 4.0) - CENTRE[k]) / SPREAD[k]
        total += WEIGHT_2[h] * math.tanh(v)
    return total


@njit
def is_beat(c: Any, cand: NDArray[np.float64], back: bool) -> int:
    """Return 0 if the candidate is a QRS, else why not.

    1 too small, 2 refractory, 3 below threshold, 4 T wave, 5 too early and unlike, 6 no crest, 7 artefact; `judge_peak`
    adds 8: looks like noise.
    """
    energy, height, sharp = cand[1], cand[3], cand[4]
    rate = c.analysis_rate
    since = (cand[2] - c.beat_n) / rate
    floor = FLOOR_MV
    if c.beats > 0:
        floor = min(max(c.floor_part * c.height, FLOOR_LEAST_MV), FLOOR_MV)
    if height < floor:
        return 1
    if height > ARTEFACT_MV:
        return 7
    if since < REFRACTORY_S:
        return 2
    relative = energy / c.signal
    overdue = (cand[0] - c.beat_peak_n) / rate - max(1.0, c.overdue * c.interval / rate)
    # Capped: what is as strong as the usual beat is a beat, however noisy. Without it a beat that was missed would
    # count as noise, raise the threshold, and lose the next one too.
    threshold = max(c.threshold * c.signal, min(c.noise_factor * c.noise, c.noise_cap * c.signal))
    if overdue > 0.0:
        threshold *= math.exp(-overdue / c.decay_s)
    if back:
        threshold *= c.threshold_back / c.threshold
    if energy < threshold:
        return 3
    # Early after a beat: is it sharp enough for a QRS, or the T wave? Ventricular beats are blunt but strong. T waves
    # peak 0.2 - 0.36 s after the R; a slow heart has no true beat within 0.28 s unless it is as sharp as the others.
    alike = sharp / max(c.sharpness, 1e-9)
    slow = c.interval > 0.5 * rate
    if since < 0.2 and (alike < 0.6 or relative < 0.5):
        return 5
    # Where T waves are known to be small, something much stronger in their place is an early beat.
    no_t_wave = c.beats >= 8 and since > T_EARLIEST_S and energy > max(T_EXCESS * c.t_energy, 0.45 * c.signal)
    if not no_t_wave:
        if since < 0.28 and ((slow and alike < 0.8 and relative < 1.3) or (alike < 0.55 and relative < 1.1)):
            return 4
        if since < 0.36 and ((alike < 0.35 and relative < 0.8) or (alike < 0.2 and relative < 1.3)):
            return 4
        if since < 0.5 and alike < 0.2 and relative < 0.45:
            return 4
    # Unlike the beats known so far: it must stand out from its surroundings, else noise would hide an asystole. The
    # time since the last beat must not matter here, or one missed beat would lose all that follow.
    known = c.beats >= 4 and relative > 0.65
    if (
        not known
        and height < CREST_MV
        and energy < c.crest * c.mean_energy_now
        and energy < c.crest_noise * max(c.noise, 0.1 * c.signal)
    ):
        return 6
    return 0


@njit
def take(c: Any, cand: NDArray[np.float64]) -> None:
    """Let an accepted beat shape the thresholds."""
    since = cand[2] - c.beat_n
    c.t_energy += 0.2 * (c.t_most - c.t_energy)
    c.t_most = 0.0
    if since < 3.0 * c.analysis_rate:
        c.intervals[c.interval_count & 7] = since
        c.interval_count += 1
        count = min(c.interval_count, 8)
        sort_into(c.intervals, count, c.order)
        c.interval = 0.5 * (c.order[(count - 1) // 2] + c.order[count // 2])
    energy = cand[1]
    if c.beats > 0:
        energy = min(energy, 2.0 * c.signal)
    c.signals[c.beats & 7] = energy
    c.sharpnesses[c.beats & 7] = cand[4]
    c.beats += 1
    count = min(c.beats, 8)
    sort_into(c.signals, count, c.order)
    c.signal = 0.5 * (c.order[(count - 1) // 2] + c.order[count // 2])
    sort_into(c.sharpnesses, count, c.order)
    c.sharpness = c.order[5 if count == 8 else (3 * count) // 4]
    c.height = cand[3] if c.beats == 1 else c.height + 0.25 * (cand[3] - c.height)
    c.beat_n = np.int64(cand[2])
    c.beat_peak_n = np.int64(cand[0])
    c.rejected_count = 0
    c.back_from = NEVER


@njit
def keep(c: Any, cand: NDArray[np.float64]) -> None:
    """Remember a rejected candidate for the search-back; the weakest makes room."""
    slot = c.rejected_count
    if slot < CANDIDATES:
        c.rejected_count += 1
    else:
        slot = 0
        for i in range(CANDIDATES):
            if c.rejected[i, 1] < c.rejected[slot, 1]:
                slot = i
        if c.rejected[slot, 1] > cand[1]:
            return
    for k in range(CANDIDATE):
        c.rejected[slot, k] = cand[k]
    c.back_from = c.beat_n + np.int64(c.overdue * c.interval)


@njit
def report(
    c: Any, band: NDArray[np.float32], cand: NDArray[np.float64], odds: float, beats: NDArray[np.float64], count: int
) -> int:
    """Accept the candidate and write it as a beat (stream sample indices); return the new count."""
    row = beats[count]
    previous = c.beat_n
    row[B_SHARP_REF] = c.sharpness
    row[B_ENERGY] = cand[1] / c.signal
    take(c, cand)
    learn_pattern(c, band, cand)
    row[B_FIDUCIAL] = c.start_raw + (cand[2] - c.start_n) * c.decimation - c.trace_delay
    row[B_REPORT] = c.start_raw + (c.n - c.start_n) * c.decimation
    row[B_HEIGHT] = cand[3]
    row[B_ODDS] = odds
    row[B_SHARP] = cand[4]
    row[B_RESTART] = 1.0 if previous < c.start_n else 0.0
    row[B_INTERVAL] = (cand[2] - previous) / c.analysis_rate
    return count + 1


@njit
def learn(c: Any, band: NDArray[np.float32], beats: NDArray[np.float64], count: int) -> int:
    """End the first seconds: take the strongest candidate as a beat, then judge all in order; return the count."""
    strongest = 0.0
    for i in range(c.rejected_count):
        if FLOOR_MV <= c.rejected[i, 3] <= ARTEFACT_MV:
            strongest = max(strongest, c.rejected[i, 1])
    sharpest = 0.0
    for i in range(c.rejected_count):
        if c.rejected[i, 3] >= FLOOR_MV and c.rejected[i, 1] > 0.4 * strongest:
            sharpest = max(sharpest, c.rejected[i, 4])
    found, c.rejected_count = c.rejected_count, 0
    if strongest == 0.0:
        return count
    c.learned = 1
    c.signal = strongest
    c.sharpness = sharpest
    early = c.rejected.copy()
    for i in range(found):
        if is_beat(c, early[i], False) == 0:
            count = report(c, band, early[i], SURE, beats, count)
    return count


@njit
def judge_peak(
    c: Any,
    trace: NDArray[np.float32],
    band: NDArray[np.float32],
    cand: NDArray[np.float64],
    beats: NDArray[np.float64],
    count: int,
) -> int:
    """Judge the peak of energy that has just become final; return the new count of beats."""
    describe(c, trace, band, cand)
    if c.learned == 0:
        if c.rejected_count < CANDIDATES:
            keep(c, cand)
        return count
    why = is_beat(c, cand, False)
    odds = SURE
    if why == 0 and c.beats >= 4:
        gather(c, band, cand, cand[CANDIDATE:])
        c.looked_at += 1
        odds = likelihood(cand[CANDIDATE:])
        noisy = c.noise > c.noisy * c.signal
        overdue = (cand[0] - c.beat_peak_n) / c.analysis_rate > VETO_MOST_S
        odds -= c.odds_noisy if noisy else c.odds_quiet
        if overdue or cand[CANDIDATE + 2] > OWN:
            odds = SURE
        elif odds < 0.0:
            why = 8
    if why == 0:
        return report(c, band, cand, odds, beats, count)
    c.noise += 0.125 * (min(cand[1], c.signal) - c.noise)
    if REFRACTORY_S < (cand[2] - c.beat_n) / c.analysis_rate < 0.42:
        c.t_most = max(c.t_most, cand[1])
    if why in (3, 6):
        keep(c, cand)
    return count


@njit
def look_back(
    c: Any, band: NDArray[np.float32], cand: NDArray[np.float64], beats: NDArray[np.float64], count: int
) -> int:
    """A beat is overdue: judge the strongest rejected candidate by the lower threshold; return the new count."""
    best = 0
    for i in range(c.rejected_count):
        if c.rejected[i, 1] > c.rejected[best, 1]:
            best = i
    if c.rejected_count == 0 or c.rejected[best, 1] <= 0.0:
        c.back_from = NEVER
        return count
    for k in range(CANDIDATE):
        cand[k] = c.rejected[best, k]
    if is_beat(c, cand, True) == 0:
        return report(c, band, cand, SURE, beats, count)
    c.rejected[best, 1] = -1.0  # judged; the threshold falls for new candidates only
    return count


@njit
def detect(
    c: Any,
    trace: NDArray[np.float32],
    band: NDArray[np.float32],
    work: NDArray[np.float64],
    start: int,
    stop: int,
    cand: NDArray[np.float64],
    beats: NDArray[np.float64],
) -> tuple[int, int]:
    """Put analysis samples `start` to `stop` into the rings and search them, up to the first sample that gives a beat.

    Returns the next sample to take and the number of beats written to `beats`.
    """
    n, rising, peak, peak_n, last = c.n, c.rising, c.peak, c.peak_n, c.last_energy
    settled, confirm, learned, learned_n = c.settled_n, c.confirm, c.learned, c.learned_n
    back_from = c.back_from
    new_trace, new_band, energy, means = work[0], work[1], work[2], work[3]
    count, i = 0, start
    while i < stop and count == 0:
        e = energy[i]
        trace[n & MASK] = new_trace[i]
        band[n & MASK] = new_band[i]
        now = n
        n += 1
        i += 1
        final = False
        if rising == 0:
            if now >= settled and e > last:
                rising, peak, peak_n = 1, e, now
        elif e > peak:
            peak, peak_n = e, now
        elif now - peak_n >= confirm:
            rising, final = 0, True
        last = e
        if final or now > back_from or (learned == 0 and now >= learned_n):
            # rare: only here is the state written back and read again
            c.n, c.peak, c.peak_n, c.mean_energy_now = n, peak, peak_n, means[i - 1]
            if final:
                count = judge_peak(c, trace, band, cand, beats, count)
            if c.learned == 0:
                if now >= learned_n:
                    count = learn(c, band, beats, count)
            elif now > c.back_from:
                count = look_back(c, band, cand, beats, count)
            learned, back_from = c.learned, c.back_from
    c.n, c.rising, c.peak, c.peak_n, c.last_energy = n, rising, peak, peak_n, last
    return i, count
