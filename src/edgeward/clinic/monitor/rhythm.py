"""Turns the beats and the signal of one patient into numbers and alarm conditions.

Responsible for which lead is listened to, heart rate, ventricular runs, asystole, extreme rates, fibrillation and lead
faults, judged at each beat and twice a second of signal, always at the same samples whatever the packets' length.
A condition is only *true or false* here; latching, priority and acknowledgement are ``alarms``.
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor import atrial, fibrillation
from edgeward.clinic.monitor.atrial import CHANGES
from edgeward.clinic.monitor.beats import R_BEFORE_AT, R_BEFORE_S, R_BEFORE_V, R_NOW, R_WIDTH
from edgeward.clinic.monitor.detector import B_ENERGY, B_FIDUCIAL, B_REPORT, B_RESTART, sort_into
from edgeward.clinic.monitor.ectopy import (
    ALTERNATIONS,
    HISTORY,
    PATTERN_OVER,
    TRIPLES,
    VENTRICULAR,
    add_later,
    decide,
    follow_patterns,
    open_slot,
    run_length,
)
from edgeward.clinic.monitor.fibrillation import is_fibrillation
from edgeward.clinic.monitor.state import MASK, MAX_LEADS


class Condition(IntEnum):
    """What the signal itself can tell (silence and lost packets are told by ``bank``)."""

    ASYSTOLE = 0
    VENTRICULAR_FIBRILLATION = 1
    VENTRICULAR_TACHYCARDIA = 2
    EXTREME_BRADYCARDIA = 3
    EXTREME_TACHYCARDIA = 4
    LEAD_OFF = 5
    ALL_LEADS_OFF = 6
    NOISY = 7
    VENTRICULAR_RUN = 8
    PAUSE = 9
    ATRIAL_FIBRILLATION = 10
    COUPLET = 11
    BIGEMINY = 12
    TRIGEMINY = 13
    FREQUENT_VENTRICULAR_BEATS = 14


(ASYSTOLE, VF, VT, BRADY, TACHY, LEAD_OFF, ALL_OFF, NOISY, V_RUN, PAUSE, AF, COUPLET, BIGEMINY, TRIGEMINY,
 FREQUENT_V) = (int(c) for c in Condition)  # fmt: skip
CONDITIONS = len(Condition)

HOPS_A_MINUTE = 120
TICK_S = 0.5
#: A beat is known at most this long after its R (p99 in docs/physiology.md), so silence counts from here.
REPORT_S = 0.35
RATE_WINDOW_S = 6.0  # a step 80 -> 120 or 80 -> 40 is shown fully within 7 s
#: A run of three (IEC 60601-2-27 leaves the number to the maker) is told; it is a tachycardia by the patient's limits.
RUN_BEATS = 3
COUPLET_S = 10.0  # a couplet is an event: its condition holds so long after the last one
VT_OVER_BEATS = 3
VT_OVER_S = 3.0
FLAT_S = 1.5  # lead off must be told within 2 s (docs/findings.md "Clinical numbers")
RAIL_S = 0.3
NOISE_POINTS = 80
POOR_QUALITY = 0.25
POOR_TICKS = 6
SILENT_S = 2.5
RESCUE = 1.35
AGREEMENT = 0.85
SAME_BEAT_S = 0.15

PATIENT = np.dtype(
    [
        ("rate", "f8"),
        ("hop", "i8"),
        ("leads", "i4"),
        ("row", "i8"),  # of its first lead among the channels
        ("started", "i4"),
        ("next_index", "i8"),
        ("next_tick", "i8"),
        # -- limits
        ("asystole_s", "f8"),
        ("extreme_bradycardia", "f8"),
        ("extreme_tachycardia", "f8"),
        ("ventricular_tachycardia_rate", "f8"),
        ("ventricular_tachycardia_beats", "i4"),
        ("pause_s", "f8"),
        ("frequent_ventricular_beats", "f8"),
        # -- listening
        ("primary", "i4"),
        ("voice", "i4"),  # the lead that gave the last beat
        ("poor", "i4"),
        ("quality", "f8"),
        ("off_mask", "i4"),
        # -- beats
        ("beats", "i8"),
        ("last_beat", "f8"),  # stream index
        ("anchor", "f8"),  # the same, moved by the time nobody could see
        ("times", "f8", (HISTORY,)),
        ("intervals", "f8", (HISTORY,)),  # s; 0 where a gap lies between
        # -- what each of them is: scores of the lead that gave it and of the others, at once and in hindsight
        ("voices", "i1", (HISTORY,)),
        ("now_own", "f8", (HISTORY,)),
        ("now_sum", "f8", (HISTORY,)),
        ("now_count", "i4", (HISTORY,)),
        ("later_known", "i1", (HISTORY,)),
        ("later_own", "f8", (HISTORY,)),
        ("later_sum", "f8", (HISTORY,)),
        ("later_count", "i4", (HISTORY,)),
        ("super_own", "f8", (HISTORY,)),
        ("super_sum", "f8", (HISTORY,)),
        ("kinds", "i1", (HISTORY,)),
        ("alternations", "i4"),
        ("bigeminy_left", "i4"),
        ("triples", "i4"),
        ("since_v", "i4"),
        ("trigeminy_left", "i4"),
        ("row_of_v", "i4"),
        ("couplet_at", "f8"),
        # -- atrial fibrillation
        ("changes", "f8", (CHANGES,)),
        ("change_count", "i8"),
        ("af_since", "f8"),  # stream index from which it has looked so (or not so, while it is told); -1: it does not
        ("heart_rate", "f8"),  # 1/min; nan: no value
        ("beat_width", "f8"),  # ms
        ("run", "i4"),
        ("run_onset", "f8"),
        ("normals", "i4"),
        ("v_counts", "i2", (HOPS_A_MINUTE,)),
        ("v_slot", "i4"),
        ("v_now", "i4"),
        ("v_minute", "i4"),
        ("fast", "i4"),
        ("rate_onset", "f8"),
        ("vf_hits", "i4"),
        # -- conditions
        ("active", "i1", (CONDITIONS,)),
        ("value", "f8", (CONDITIONS,)),
    ]
)

#: A condition begins (1) or ends (0).
TRANSITION = np.dtype(
    [
        ("patient", "i8"),
        ("condition", "i4"),
        ("on", "i4"),
        ("onset", "i8"),
        ("decisive", "i8"),
        ("value", "f8"),
        ("block", "i8"),
    ]
)


@njit
def switch(
    p: Any, who: int, block: int, condition: int, on: bool, onset: float, at: float, value: float, out: Any, count: int
) -> int:
    """Write a transition if the condition changes; return the new count."""
    if (p.active[condition] == 1) == on:
        return count
    p.active[condition] = 1 if on else 0
    p.value[condition] = value
    row = out[count]
    row.patient = who
    row.condition = condition
    row.on = 1 if on else 0
    row.onset = np.int64(max(onset, 0.0))
    row.decisive = np.int64(at)
    row.value = value
    row.block = block
    return count + 1


@njit
def mean_rate(p: Any, open_s: float) -> float:
    """Return the heart rate over the last `RATE_WINDOW_S`, or nan.

    With five intervals or more the shortest and the longest do not count, so that one missed or extra beat does not
    move the number. `open_s` is the time since the last beat; it counts once it exceeds the mean.
    """
    total, count = 0.0, 0
    shortest, longest = 1e9, 0.0
    for k in range(min(p.beats, HISTORY)):
        i = p.intervals[(p.beats - 1 - k) % HISTORY]
        if i <= 0.0:
            if count > 0:
                break
            continue
        if count >= 2 and total + i > RATE_WINDOW_S:
            break
        total += i
        count += 1
        shortest = min(shortest, i)
        longest = max(longest, i)
    if count == 0:
        return math.nan
    if open_s > 1.5 * total / count:
        total += open_s
        count += 1
    elif count >= 5:
        total -= shortest + longest
        count -= 2
    return 60.0 * count / total


@njit
def on_beat(
    p: Any,
    channels: Any,
    who: int,
    block: int,
    lead: int,
    beat: NDArray[np.float64],
    result: NDArray[np.float64],
    scratch: NDArray[np.float64],
    out: Any,
    count: int,
) -> tuple[int, bool]:
    """Take one beat of one lead and what ``beats.judge`` said of it.

    Return the new count of transitions and whether the beat was counted. When it was, the kind of the counted beat
    before it is settled (``p.kinds``).
    """
    width, value = result[R_WIDTH], result[R_NOW]
    if result[R_BEFORE_AT] >= 0.0:
        add_later(p, lead, result[R_BEFORE_AT], result[R_BEFORE_V], result[R_BEFORE_S], SAME_BEAT_S * p.rate)
    at, fiducial = beat[B_REPORT], beat[B_FIDUCIAL]
    gap = (fiducial - p.last_beat) / p.rate if p.beats > 0 else 1e9
    own = channels[p.row + lead]
    if p.beats > 0 and abs(gap) < SAME_BEAT_S:
        own.agreement += 0.1 * (1.0 - own.agreement)
        slot = (p.beats - 1) % HISTORY
        if p.voices[slot] != lead:
            p.now_sum[slot] += value
            p.now_count[slot] += 1
        if lead == p.primary:
            p.voice = lead
        return count, False  # the same beat, seen in another lead before
    if gap < 0.0:
        return count, False
    if lead != p.primary:
        # Another lead speaks only when the primary one is overdue and this one sees a plain, strong beat.
        total, n = 0.0, 0
        for k in range(8):
            i = p.intervals[(p.beats - 1 - k) % HISTORY]
            if i > 0.0:
                total += i
                n += 1
        if (n < 4 or (gap < RESCUE * total / n and lead != p.voice) or beat[B_RESTART] > 0.0 or beat[B_ENERGY] < 0.6
                or value > 0.0
                or own.agreement < AGREEMENT):  # fmt: skip
            own.told_at = fiducial
            own.told_score = value
            own.agreement *= 0.95
            return count, False
    p.voice = lead
    slot = p.beats % HISTORY
    open_slot(p, slot, lead, value)
    for k in range(p.leads):
        other = channels[p.row + k]
        if k != lead and other.told_at > 0.0 and abs(other.told_at - fiducial) < SAME_BEAT_S * p.rate:
            other.agreement = min(1.0, other.agreement / 0.95)
            other.agreement += 0.1 * (1.0 - other.agreement)
            other.told_at = 0.0
            p.now_sum[slot] += other.told_score
            p.now_count[slot] += 1
    valid = p.beats > 0 and gap < 12.0 and not (beat[B_RESTART] > 0.0 and lead == p.primary)
    interval = gap if valid else 0.0
    p.times[slot] = fiducial
    p.intervals[slot] = interval
    p.beats += 1
    p.last_beat = fiducial
    p.anchor = fiducial
    p.beat_width = width if p.beats == 1 else p.beat_width + 0.25 * (width - p.beat_width)
    p.heart_rate = mean_rate(p, 0.0)
    count = switch(p, who, block, ASYSTOLE, False, fiducial, at, 0.0, out, count)
    count = switch(p, who, block, PAUSE, False, fiducial, at, 0.0, out, count)
    # -- ventricular runs: at once
    run = run_length(p)
    if run == 0:
        p.normals += 1
    else:
        p.normals = 0
        if run < HISTORY - 1:
            p.run_onset = p.times[(p.beats - run) % HISTORY]
    p.run = run
    beats = p.ventricular_tachycardia_beats
    if run >= beats:
        span = (fiducial - p.times[(p.beats - beats) % HISTORY]) / p.rate
        rate = 60.0 * (beats - 1) / span if span > 0.0 else 0.0
        if rate >= p.ventricular_tachycardia_rate and p.active[VF] == 0:
            count = switch(p, who, block, VT, True, p.run_onset, at, rate, out, count)
    if run >= RUN_BEATS and p.active[VF] == 0:
        count = switch(p, who, block, V_RUN, True, p.run_onset, at, float(run), out, count)
    if p.normals >= VT_OVER_BEATS:
        count = switch(p, who, block, VT, False, fiducial, at, 0.0, out, count)
        count = switch(p, who, block, V_RUN, False, fiducial, at, 0.0, out, count)
    if p.beats >= 2:
        count = on_decided(p, channels, who, block, at, scratch, out, count)
    return on_rate(p, who, block, fiducial, at, out, count), True


@njit
def on_decided(
    p: Any, channels: Any, who: int, block: int, at: float, scratch: NDArray[np.float64], out: Any, count: int
) -> int:
    """Settle the kind of the beat before the newest, and judge what follows from it; return the new count."""
    slot = (p.beats - 2) % HISTORY
    kind = decide(p, slot)
    row = p.row_of_v
    follow_patterns(p)
    atrial.on_decided(p)
    if kind == VENTRICULAR:
        p.v_now += 1
    elif row == 2 and p.beats >= 5:
        onset = p.times[(p.beats - 4) % HISTORY]
        p.couplet_at = at
        count = switch(p, who, block, COUPLET, True, onset, at, 2.0, out, count)
    rate = p.heart_rate
    if p.bigeminy_left == PATTERN_OVER:
        onset = p.times[(p.beats - 1 - ALTERNATIONS) % HISTORY]
        count = switch(p, who, block, BIGEMINY, True, onset, at, rate, out, count)
    elif p.bigeminy_left == 0:
        count = switch(p, who, block, BIGEMINY, False, p.times[slot], at, rate, out, count)
    if p.trigeminy_left == PATTERN_OVER:
        onset = p.times[(p.beats - 1 - 3 * TRIPLES) % HISTORY]
        count = switch(p, who, block, TRIGEMINY, True, onset, at, rate, out, count)
    elif p.trigeminy_left == 0:
        count = switch(p, who, block, TRIGEMINY, False, p.times[slot], at, rate, out, count)
    # -- atrial fibrillation: so for half a minute before it is told, and not so for as long before it ends
    change = atrial.irregularity(p, scratch)
    looks = p.change_count >= atrial.CHANGES_LEAST and atrial.is_atrial_fibrillation(
        change, channels[p.row + p.voice].p_like
    )
    if looks == (p.active[AF] == 1):
        p.af_since = -1.0
    elif p.af_since < 0.0:
        p.af_since = p.times[slot]
    elif at - p.af_since >= atrial.HOLD_S * p.rate:
        count = switch(p, who, block, AF, looks, p.af_since, at, change, out, count)
        p.af_since = -1.0
    return count


@njit
def on_rate(p: Any, who: int, block: int, since: float, at: float, out: Any, count: int) -> int:
    """Judge the extreme rates. A margin of 5/min (3/min for the slow one) ends them."""
    rate = p.heart_rate
    if math.isnan(rate):
        return count
    p.fast = p.fast + 1 if rate > p.extreme_tachycardia else 0
    # Slow: three intervals in a row, each longer than the limit allows; one pause is not a slow rhythm.
    allowed = 60.0 / p.extreme_bradycardia
    slow = p.beats >= 4
    for k in range(1, 4):
        slow = slow and p.intervals[(p.beats - k) % HISTORY] > allowed
    slow = slow or (at - p.anchor) / p.rate - REPORT_S > 3.0 * allowed
    if p.fast == 1:
        p.rate_onset = since
    if p.fast >= 3 and p.active[VF] == 0:
        count = switch(p, who, block, TACHY, True, p.rate_onset, at, rate, out, count)
    elif rate < p.extreme_tachycardia - 5.0:
        count = switch(p, who, block, TACHY, False, since, at, rate, out, count)
    if slow:
        onset = p.times[(p.beats - 4) % HISTORY] if p.beats >= 4 else p.anchor
        count = switch(p, who, block, BRADY, True, onset, at, rate, out, count)
    elif rate > p.extreme_bradycardia + 3.0:
        count = switch(p, who, block, BRADY, False, since, at, rate, out, count)
    return count


@njit
def judge_lead(c: Any, trace: NDArray[np.float32], scratch: NDArray[np.float64]) -> None:
    """Judge one lead from its last two seconds: flat, saturated, noise (mV), quality (0..1).

    The noise is the median second difference over 16 ms: beats fill less than half of the time and do not move it.
    Quality is how far that lies below the sharpness of the beats.
    """
    rate = c.analysis_rate
    overdue = c.interval_count == 0 or c.n - c.beat_n > 1.5 * c.interval  # a slow heart is flat between its beats
    c.flat = 1 if c.same >= FLAT_S * c.rate and overdue else 0
    c.saturated = 1 if c.railed >= RAIL_S * c.rate else 0
    if c.lead_off == 1 or c.flat == 1 or c.saturated == 1:
        c.quality = 0.0
        return
    lag = max(1, int(0.016 * rate + 0.5))
    count = min(int(2.0 * rate), c.n - c.start_n - 2 * lag)
    if count < rate * 0.4:
        return
    used = 0
    for k in range(0, count, max(1, count // NOISE_POINTS)):
        j = c.n - 1 - k
        scratch[used] = abs(trace[j & MASK] - 2.0 * trace[(j - lag) & MASK] + trace[(j - 2 * lag) & MASK])
        used += 1
    sort_into(scratch, used, scratch)  # in place: what is read has not been written yet
    c.noise_level = scratch[used // 2]
    reference = max(c.sharpness, 0.05) if c.learned == 1 else 0.3
    c.quality = min(1.0, max(0.0, 1.25 - 2.5 * c.noise_level / reference))


@njit
def choose_lead(p: Any, channels: Any) -> None:
    """Change the lead listened to when it is off or dead, or silent while another beats. Mere noise is not a reason:
    measured on real records, changing for it costs more beats than it saves.
    """
    now = channels[p.row + p.primary]
    best, best_quality = p.primary, now.quality
    for k in range(p.leads):
        c = channels[p.row + k]
        if c.lead_off == 0 and c.flat == 0 and c.saturated == 0 and c.learned == 1 and c.quality > best_quality + 0.2:
            best = k
            best_quality = c.quality
    dead = now.lead_off == 1 or now.flat == 1 or now.saturated == 1
    p.poor = p.poor + 1 if now.quality < POOR_QUALITY else 0
    if best != p.primary and dead:
        p.primary = best
        p.poor = 0
        return
    if p.primary != 0 and beats_steadily(channels[p.row]):
        p.primary = 0  # the first lead is the one the device maker or the nurse chose
        p.poor = 0
        return
    if not dead and now.n - now.beat_n > SILENT_S * now.analysis_rate:
        for k in range(p.leads):
            other = channels[p.row + k]
            if k != p.primary and other.agreement > AGREEMENT and beats_steadily(other):
                p.primary = k
                return


@njit
def beats_steadily(c: Any) -> bool:
    """Return whether this lead is connected and gave its last four beats within plausible intervals, until now."""
    if c.lead_off == 1 or c.flat == 1 or c.saturated == 1 or c.interval_count < 4 or c.quality < 0.4:
        return False
    most = 2.0 * c.analysis_rate
    if c.n - c.beat_n > most:
        return False
    steady = True
    for k in range(1, 4):
        steady = steady and c.intervals[(c.interval_count - k) & 7] <= most
    return steady


@njit
def on_tick(
    p: Any,
    who: int,
    block: int,
    at: float,
    channels: Any,
    traces: NDArray[np.float32],
    scratch: NDArray[np.float64],
    measures: NDArray[np.float64],
    out: Any,
    count: int,
) -> int:
    """Judge what no single beat tells, twice a second of signal; return the new count of transitions."""
    off, seen = 0, 0
    for k in range(p.leads):
        c = channels[p.row + k]
        judge_lead(c, traces[p.row + k], scratch)
        if c.lead_off == 1 or c.flat == 1 or c.saturated == 1:
            off |= 1 << k
        if c.lead_off == 0 and c.saturated == 0:
            seen += 1
    choose_lead(p, channels)
    p.quality = channels[p.row + p.primary].quality
    everything = (1 << p.leads) - 1
    if off != p.off_mask and p.active[LEAD_OFF] == 1:
        count = switch(p, who, block, LEAD_OFF, False, at, at, float(off), out, count)
    p.off_mask = off
    count = switch(p, who, block, LEAD_OFF, 0 < off < everything, at, at, float(off), out, count)
    count = switch(p, who, block, ALL_OFF, off == everything, at, at, float(off), out, count)
    # -- ventricular beats of the last minute
    p.v_slot = (p.v_slot + 1) % HOPS_A_MINUTE
    p.v_minute += p.v_now - p.v_counts[p.v_slot]
    p.v_counts[p.v_slot] = p.v_now
    p.v_now = 0
    if p.v_minute >= p.frequent_ventricular_beats:
        since = at - 0.5 * HOPS_A_MINUTE * p.rate
        count = switch(p, who, block, FREQUENT_V, True, since, at, float(p.v_minute), out, count)
    elif p.v_minute < 0.7 * p.frequent_ventricular_beats:
        count = switch(p, who, block, FREQUENT_V, False, at, at, float(p.v_minute), out, count)
    if at - p.couplet_at > COUPLET_S * p.rate:
        count = switch(p, who, block, COUPLET, False, at, at, 0.0, out, count)
    # -- nobody can see: time does not pass for asystole
    if seen == 0:
        p.anchor += p.hop
        p.heart_rate = math.nan
        p.vf_hits = 0
        return count
    # -- fibrillation: three of the last four half seconds, four seconds each
    c = channels[p.row + p.primary]
    hit = False
    if c.n - c.start_n > (fibrillation.WINDOW_S + 0.3) * c.analysis_rate and off & (1 << p.primary) == 0:
        fibrillation.measure(c, traces[p.row + p.primary], scratch, measures)
        hit = is_fibrillation(measures)
    p.vf_hits = ((p.vf_hits << 1) | (1 if hit else 0)) & 15
    hits = (p.vf_hits & 1) + (p.vf_hits >> 1 & 1) + (p.vf_hits >> 2 & 1) + (p.vf_hits >> 3 & 1)
    if hits >= 3:
        count = switch(p, who, block, VF, True, at - fibrillation.WINDOW_S * p.rate, at, measures[2] * 60.0, out, count)
    elif p.vf_hits == 0:
        count = switch(p, who, block, VF, False, at, at, 0.0, out, count)
    quiet = (at - p.anchor) / p.rate - REPORT_S
    if p.active[VT] == 1 and (quiet > VT_OVER_S or p.active[VF] == 1):
        count = switch(p, who, block, VT, False, at, at, 0.0, out, count)
        p.run = 0
    if p.active[V_RUN] == 1 and (quiet > VT_OVER_S or p.active[VF] == 1):
        count = switch(p, who, block, V_RUN, False, at, at, 0.0, out, count)
    if quiet >= p.pause_s and p.beats > 1 and p.active[VF] == 0 and p.active[ASYSTOLE] == 0:
        count = switch(p, who, block, PAUSE, True, p.anchor, at, quiet + REPORT_S, out, count)
    elif p.active[VF] == 1:
        count = switch(p, who, block, PAUSE, False, at, at, 0.0, out, count)
    if quiet >= p.asystole_s and p.active[VF] == 0:
        count = switch(p, who, block, ASYSTOLE, True, p.anchor, at, quiet + REPORT_S, out, count)
    elif p.active[VF] == 1:
        count = switch(p, who, block, ASYSTOLE, False, at, at, 0.0, out, count)
    if quiet > 12.0 or p.active[ASYSTOLE] == 1:
        p.heart_rate = 0.0 if p.active[ASYSTOLE] == 1 else math.nan
        count = switch(p, who, block, TACHY, False, at, at, 0.0, out, count)
    elif p.beats > 1 and quiet > 0.0 and p.active[VF] == 0:
        p.heart_rate = mean_rate(p, quiet)
        count = on_rate(p, who, block, at, at, out, count)
    noisy = p.poor >= POOR_TICKS
    if noisy or p.poor == 0:
        count = switch(p, who, block, NOISY, noisy and off != everything, at, at, p.quality, out, count)
    return count


assert MAX_LEADS <= 31  # off_mask is a 32-bit integer
