"""Decides which peak of the QRS energy is a heart beat, in one lead, causally, sample by sample.

Responsible for that decision and for what a lead learns from it: thresholds, intervals, search-back. It works for any
block length with identical results. Not responsible for filtering (``front_end``), for describing a peak
(``candidate``), for what kind of beat it is (``beats``) or what it means (``rhythm``).

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
from numpy.typing import NDArray

from edgeward.clinic.monitor.candidate import CANDIDATE, describe, gather, is_twin, learn_pattern, likelihood
from edgeward.clinic.monitor.compiled import kernel
from edgeward.clinic.monitor.jumps import is_jump
from edgeward.clinic.monitor.state import CANDIDATES, MASK, NEVER, RING

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
CREST_S = 2.0  # over which a beat that is overdue must stand out
CREST_MV = 0.5
T_EARLIEST_S = 0.25  # the ventricle is refractory until then in a slow rhythm
T_EXCESS = 2.5

BEAT_FIELDS = 9
#: Columns of a detected beat.
B_FIDUCIAL, B_REPORT, B_ENERGY, B_HEIGHT, B_SHARP, B_RESTART, B_INTERVAL, B_SHARP_REF, B_ODDS = range(BEAT_FIELDS)


@kernel
def sort_into(values: NDArray[np.float64], count: int, out: NDArray[np.float64]) -> None:
    """Write the first `count` of at most eight values to `out` in ascending order."""
    if count == 8:
        sort_eight(values, out)
        return
    for i in range(count):
        v = values[i]
        j = i - 1
        while j >= 0 and out[j] > v:
            out[j + 1] = out[j]
            j -= 1
        out[j + 1] = v


@kernel
def in_order(a: float, b: float) -> tuple[float, float]:
    """Return the lesser and the greater of two."""
    return (min(b, a)), (max(a, b))


@kernel
def sort_eight(values: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Write eight values to `out` in ascending order (Batcher's network: nothing that a processor has to guess)."""
    a, b = in_order(values[0], values[1])
    c, d = in_order(values[2], values[3])
    e, f = in_order(values[4], values[5])
    g, h = in_order(values[6], values[7])
    a, c = in_order(a, c)
    b, d = in_order(b, d)
    e, g = in_order(e, g)
    f, h = in_order(f, h)
    b, c = in_order(b, c)
    f, g = in_order(f, g)
    a, e = in_order(a, e)
    d, h = in_order(d, h)
    b, f = in_order(b, f)
    c, g = in_order(c, g)
    b, e = in_order(b, e)
    d, g = in_order(d, g)
    c, e = in_order(c, e)
    d, f = in_order(d, f)
    d, e = in_order(d, e)
    out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7] = a, b, c, d, e, f, g, h


@kernel
def mean_since(c: Any, band: NDArray[np.float32], cand: NDArray[np.float64]) -> float:
    """Return the mean energy up to a candidate since the last beat, of two seconds at most.

    The mean of the front end fades: what moved some seconds ago would hide low beats for as long as an asystole takes.
    """
    last = np.int64(cand[0])
    first = max(last - np.int64(CREST_S * c.analysis_rate), c.beat_peak_n + c.window, c.start_n)
    total = 0.0
    for j in range(first, last + 1):
        total += abs(band[j & MASK] - band[(j - 2) & MASK])
    return 0.5 * c.analysis_rate * total / max(1, last + 1 - first)


@kernel
def is_beat(c: Any, band: NDArray[np.float32], cand: NDArray[np.float64], back: bool) -> int:
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
        return 0 if is_twin(c, band, cand) else 5
    # Where T waves are known to be small, something much stronger in their place is an early beat.
    no_t_wave = c.beats >= 8 and since > T_EARLIEST_S and energy > max(T_EXCESS * c.t_energy, 0.45 * c.signal)
    if not no_t_wave and (
        (since < 0.28 and ((slow and alike < 0.8 and relative < 1.3) or (alike < 0.55 and relative < 1.1)))
        or (since < 0.36 and ((alike < 0.35 and relative < 0.8) or (alike < 0.2 and relative < 1.3)))
        or (since < 0.5 and alike < 0.2 and relative < 0.45)
    ):
        return 0 if is_twin(c, band, cand) else 4
    # Unlike the beats known so far: it must stand out from its surroundings, else noise would hide an asystole. The
    # time since the last beat must not matter here, or one missed beat would lose all that follow.
    known = c.beats >= 4 and relative > 0.65
    if (
        not known
        and height < CREST_MV
        and energy < c.crest * c.mean_energy_now
        and energy < c.crest_noise * max(c.noise, 0.1 * c.signal)
        and (overdue <= 0.0 or energy < c.crest * mean_since(c, band, cand))
    ):
        return 6
    return 0


@kernel
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


@kernel
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


@kernel
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


@kernel
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
    early = c.rejected  # nothing writes there meanwhile
    for i in range(found):
        if is_beat(c, band, early[i], False) == 0:
            count = report(c, band, early[i], SURE, beats, count)
    return count


@kernel
def judge_peak(
    c: Any,
    clean: NDArray[np.int16],
    trace: NDArray[np.float32],
    band: NDArray[np.float32],
    cand: NDArray[np.float64],
    beats: NDArray[np.float64],
    count: int,
    net: Any,
    room: NDArray[np.float64],
) -> int:
    """Judge the peak of energy that has just become final; return the new count of beats."""
    describe(c, trace, band, cand)
    if is_jump(c, clean, trace, cand, room):
        c.again = 1
        return count
    if c.learned == 0:
        if c.rejected_count < CANDIDATES:
            keep(c, cand)
        return count
    why = is_beat(c, band, cand, False)
    odds = SURE
    if why == 0 and c.beats >= 4:
        gather(c, band, cand, cand[CANDIDATE:])
        c.looked_at += 1
        odds = likelihood(net, cand[CANDIDATE:])
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


@kernel
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
    if is_beat(c, band, cand, True) == 0:
        return report(c, band, cand, SURE, beats, count)
    c.rejected[best, 1] = -1.0  # judged; the threshold falls for new candidates only
    return count


@kernel
def lay(ring: NDArray[np.float32], row: NDArray[np.float64], n: int) -> None:
    """Put a row of analysis samples, the first of them sample `n`, into a ring."""
    at = n & MASK
    straight = min(row.size, RING - at)
    place, rest = ring[at : at + straight], row[straight:]
    for j in range(straight):
        place[j] = row[j]
    for j in range(rest.size):
        ring[j] = rest[j]


@kernel
def detect(
    c: Any,
    clean: NDArray[np.int16],
    trace: NDArray[np.float32],
    band: NDArray[np.float32],
    work: NDArray[np.float64],
    start: int,
    stop: int,
    cand: NDArray[np.float64],
    beats: NDArray[np.float64],
    net: Any,
) -> tuple[int, int]:
    """Put analysis samples `start` to `stop` into the rings and search them, up to the first sample that gives a beat.

    Returns the next sample to take and the number of beats written to `beats`.
    """
    rising, peak, peak_n, last = c.rising, c.peak, c.peak_n, c.last_energy
    confirm, settled = c.confirm, c.settled_n
    energy, first = work[2], c.n - start  # sample i of the block is analysis sample first + i
    count, i, laid = 0, start, start
    while i < stop and count == 0:
        # what is due by the clock ends the search for a peak
        due = c.back_from + 1 if c.learned == 1 else min(c.back_from + 1, c.learned_n)
        end = min(stop, max(due - first, i) + 1)
        final = False
        while i < end and not final:
            ahead, used = energy[i:end], 0
            if rising == 0:
                for k in range(ahead.size):
                    used = k + 1
                    e = ahead[k]
                    if e > last and first + i + k >= settled:
                        rising, peak, peak_n, last = 1, e, first + i + k, e
                        break
                    last = e
            else:
                latest = peak_n + confirm
                for k in range(ahead.size):
                    used = k + 1
                    e = ahead[k]
                    if e > peak:
                        peak, peak_n = e, first + i + k
                        latest = peak_n + confirm
                    elif first + i + k >= latest:
                        rising, final = 0, True
                        break
                last = ahead[used - 1]
            i += used
        lay(trace, work[0, laid:i], first + laid)
        lay(band, work[1, laid:i], first + laid)
        laid, c.n, now = i, first + i, first + i - 1
        c.mean_energy_now = work[3, i - 1]
        if final:
            c.peak, c.peak_n = peak, peak_n
            count = judge_peak(c, clean, trace, band, cand, beats, count, net, work[5])
            if c.again == 1:
                c.again, rising, peak, peak_n = 0, 1, last, now
        if c.learned == 0:
            if now >= c.learned_n:
                count = learn(c, band, beats, count)
        elif now > c.back_from:
            count = look_back(c, band, cand, beats, count)
    c.rising, c.peak, c.peak_n, c.last_energy = rising, peak, peak_n, last
    return i, count
