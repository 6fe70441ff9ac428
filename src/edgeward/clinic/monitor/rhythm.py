"""Turns the beats and the signal of one patient into numbers and alarm conditions.

Responsible for heart rate, ventricular runs, asystole, extreme rates, fibrillation and lead faults, judged at each beat
and twice a second of signal, always at the same samples whatever the packets' length. A condition is only *true or
false* here; latching, priority and acknowledgement are ``alarms``. Not responsible for what is remembered of a patient
(``patient``) or for which lead is listened to (``listening``).
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor import atrial, fibrillation
from edgeward.clinic.monitor.beats import R_BEFORE_AT, R_BEFORE_S, R_BEFORE_V, R_NOW, R_WIDTH
from edgeward.clinic.monitor.detector import B_ENERGY, B_FIDUCIAL, B_REPORT, B_RESTART
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
from edgeward.clinic.monitor.listening import AGREEMENT, choose_lead, judge_lead
from edgeward.clinic.monitor.patient import (
    AF,
    ALL_OFF,
    ASYSTOLE,
    BIGEMINY,
    BRADY,
    COUPLET,
    FREQUENT_V,
    HOPS_A_MINUTE,
    LEAD_OFF,
    NOISY,
    PAUSE,
    TACHY,
    TRIGEMINY,
    V_RUN,
    VF,
    VT,
    switch,
)
from edgeward.clinic.monitor.unrest import doubt, is_restless

TICK_S = 0.5
#: A beat is known at most this long after its R (p99 in docs/physiology.md), so silence counts from here.
REPORT_S = 0.35
RATE_WINDOW_S = 6.0  # a step 80 -> 120 or 80 -> 40 is shown fully within 7 s
#: A run of three (IEC 60601-2-27 leaves the number to the maker) is told; it is a tachycardia by the patient's limits.
RUN_BEATS = 3
#: A run is told while the log odds of movement (``unrest.doubt``) are below this.
RUN_CALM = -0.5
#: A tachycardia is told after so many more beats where it may be movement, and after still more where it most likely
#: is: late, but never not at all. The curve is in docs/physiology.md, "Movement".
DOUBTFUL, RESTLESS_BEATS = 0.0, 3
MOVING, MOVING_BEATS = 1.5, 9
COUPLET_S = 10.0  # a couplet is an event: its condition holds so long after the last one
VT_OVER_BEATS = 3
VT_OVER_S = 3.0
POOR_TICKS = 6
RESCUE = 1.35
SAME_BEAT_S = 0.15


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
        if i < 0.0:  # an asystole: what the heart did before it says nothing of now. But two in a row are a slow heart
            if count == 0 and p.intervals[(p.beats - 2 - k) % HISTORY] < 0.0:
                total -= i
                count = 1
                longest = -i
            break
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
    traces: NDArray[np.float32],
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
    if p.active[ASYSTOLE] == 1:
        interval = -gap
    p.times[slot] = fiducial
    p.intervals[slot] = interval
    p.beats += 1
    p.last_beat = fiducial
    p.anchor = fiducial
    p.beat_width = width if p.beats == 1 else p.beat_width + 0.25 * (width - p.beat_width)
    p.heart_rate = mean_rate(p, 0.0)
    count = switch(p, who, block, ASYSTOLE, False, fiducial, at, 0.0, out, count)
    count = switch(p, who, block, PAUSE, False, fiducial, at, 0.0, out, count)
    # -- ventricular runs: at once, or one beat later where only hindsight sees that the last beats were one
    run, ago = run_length(p, 0), 0
    p.normals = p.normals + 1 if run == 0 else 0
    p.run = run
    if run == 0:
        run, ago = run_length(p, 1), 1
    if 0 < run < HISTORY - 1 - ago:
        p.run_onset = p.times[(p.beats - ago - run) % HISTORY]
    moves = doubt(p, own, traces[p.row + lead], run + ago, scratch) if run >= RUN_BEATS else 0.0
    beats = p.ventricular_tachycardia_beats
    more = 0 if moves < DOUBTFUL else RESTLESS_BEATS if moves < MOVING else MOVING_BEATS
    if run >= (min(beats + more, HISTORY - 1 - ago) if more else beats):
        last = p.beats - ago
        span = (p.times[(last - 1) % HISTORY] - p.times[(last - beats) % HISTORY]) / p.rate
        rate = 60.0 * (beats - 1) / span if span > 0.0 else 0.0
        if rate >= p.ventricular_tachycardia_rate and p.active[VF] == 0:
            count = switch(p, who, block, VT, True, p.run_onset, at, rate, out, count)
    if run >= RUN_BEATS and moves < RUN_CALM and p.active[VF] == 0:
        count = switch(p, who, block, V_RUN, True, p.run_onset, at, float(run), out, count)
    if p.normals >= VT_OVER_BEATS:
        count = switch(p, who, block, VT, False, fiducial, at, 0.0, out, count)
        count = switch(p, who, block, V_RUN, False, fiducial, at, 0.0, out, count)
    if p.beats >= 2:
        count = on_decided(p, channels, traces, who, block, at, scratch, out, count)
    return on_rate(p, who, block, fiducial, at, out, count), True


@njit
def on_decided(
    p: Any,
    channels: Any,
    traces: NDArray[np.float32],
    who: int,
    block: int,
    at: float,
    scratch: NDArray[np.float64],
    out: Any,
    count: int,
) -> int:
    """Settle the kind of the beat before the newest, and judge what follows from it; return the new count."""
    slot = (p.beats - 2) % HISTORY
    kind = decide(p, slot)
    row = p.row_of_v
    follow_patterns(p)
    atrial.on_decided(p)
    own, trace = channels[p.row + p.voice], traces[p.row + p.voice]
    if kind == VENTRICULAR:
        p.v_now += 0 if is_restless(p, own, trace, 4) else 1
    elif row == 2 and p.beats >= 5 and not is_restless(p, own, trace, 5):
        onset = p.times[(p.beats - 4) % HISTORY]
        p.couplet_at = at
        count = switch(p, who, block, COUPLET, True, onset, at, 2.0, out, count)
    rate = p.heart_rate
    if p.bigeminy_left == PATTERN_OVER and not is_restless(p, own, trace, 6):
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
    if channels[p.row + p.primary].recovered_n == channels[p.row + p.primary].n:
        p.anchor = max(p.anchor, at)  # what could not be read proves nothing
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
