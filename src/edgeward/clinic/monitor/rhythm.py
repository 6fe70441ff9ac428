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

from edgeward.clinic.monitor import atrial, fibrillation, first_sight, gaps
from edgeward.clinic.monitor.beats import (
    KEPT_MOST,
    R_BEFORE_AT,
    R_BEFORE_S,
    R_BEFORE_V,
    R_KEPT,
    R_NOW,
    R_USUAL,
    R_WIDTH,
)
from edgeward.clinic.monitor.detector import B_ENERGY, B_FIDUCIAL, B_REPORT, B_RESTART
from edgeward.clinic.monitor.ectopy import (
    ALTERNATIONS,
    HISTORY,
    PATTERN_OVER,
    SETTLED,
    TRIPLES,
    UNHURRIED_BEATS,
    VENTRICULAR,
    add_later,
    decide,
    follow_patterns,
    is_unhurried,
    open_slot,
    run_length,
)
from edgeward.clinic.monitor.fibrillation import STEEP_LEAST, V_STEEP
from edgeward.clinic.monitor.listening import AGREEMENT, choose_lead, judge_lead
from edgeward.clinic.monitor.looks import add_look, is_over, look_anew, looks_fibrillating, note_look
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
    UNREADABLE,
    V_RUN,
    VF,
    VT,
    switch,
)
from edgeward.clinic.monitor.unreadable import LEAKAGE_LEAST, TOLD_S, is_unreadable, note_missed, wait
from edgeward.clinic.monitor.unrest import doubt, is_restless

TICK_S = 0.5
#: A beat is known at most this long after its R (p99 in docs/physiology.md), so silence counts from here.
REPORT_S = 0.35
RATE_WINDOW_S = 6.0  # a step 80 -> 120 or 80 -> 40 is shown fully within 7 s
#: A run of three (IEC 60601-2-27 leaves the number to the maker) is told; it is a tachycardia by the patient's limits.
RUN_BEATS = 3
#: A run is told while the log odds of movement (``unrest.doubt``) are below this.
RUN_CALM = -1.0
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
SLOW_INTERVALS = 3
TORN_MOST = 6  # intervals with a gap among them
TORN_SEEN, TORN_MARGIN = 4.0, 1.1  # longest allowed intervals: seen in all, and for each beat
#: After a gap a beat may be missed for so long: filters settle, then a peak must become final.
BLIND_S = 0.3
#: So many beats, narrow ones, each as long after the one before as the others within this part of it, are no
#: fibrillation; nor a flutter, which is faster.
EVEN_BEATS, EVEN, EVEN_LEAST_S, EVEN_MOST_MS = 6, 0.08, 0.3, 120.0
#: Of new signal between two looks for fibrillation; they come twice a second.
LOOK_S = 0.45
#: So many slow intervals in a row are one, if any of them may have hidden a beat.
BLIND_INTERVALS = 5


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
def is_organised(p: Any, at: float) -> bool:
    """Return whether the last beats come as evenly as no fibrillation has them, and more slowly than a flutter.

    A sinus tachycardia whose T waves are as wide as the pauses between them fills the time as a fibrillation does.
    """
    if p.beats <= EVEN_BEATS or p.run > 0 or p.beat_width > EVEN_MOST_MS:
        return False
    shortest, longest = 1e9, 0.0
    for k in range(EVEN_BEATS):
        i = p.intervals[(p.beats - 1 - k) % HISTORY]
        shortest = min(shortest, i)
        longest = max(longest, i)
    open_s = (at - p.last_beat) / p.rate - REPORT_S
    return shortest >= EVEN_LEAST_S and longest <= (1.0 + EVEN) * shortest and open_s <= 1.2 * longest


@njit
def on_gap(p: Any, first: int) -> None:
    """Take it that the stream goes on at `first`: no time has passed that anybody saw, and nothing has ended."""
    allowed = 60.0 / p.extreme_bradycardia
    blind = BLIND_S * p.rate
    since = max(p.last_beat, p.seen_from + blind)
    if p.beats > 0 and p.slow_open >= 0 and (p.next_index - since) / p.rate - REPORT_S > allowed:
        p.slow_open += 1
    p.seen_from = first
    p.unseen += first + blind - p.next_index
    p.anchor += first - p.next_index
    if first - p.next_index > gaps.BRIDGED_S * p.rate:
        look_anew(p)


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

    Return the new count of transitions and whether the beat was counted. When it was, the kind of the beat `SETTLED`
    before it is settled (``p.kinds``).
    """
    width, value = result[R_WIDTH], result[R_NOW]
    if result[R_BEFORE_AT] >= 0.0:
        kept = result[R_KEPT] * p.ventricular_tachycardia_rate > 60.0
        later = min(result[R_BEFORE_V], KEPT_MOST) if kept else result[R_BEFORE_V]
        add_later(p, lead, result[R_BEFORE_AT], later, result[R_BEFORE_S], SAME_BEAT_S * p.rate)
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
        # At the beginning nothing can be overdue, and no lead has proved itself. There a second such lead has to see
        # the same beat: of twelve, the first may be the one that the heart's axis is square to.
        if n < 4:
            unproved = not is_seen_elsewhere(p, channels, lead, fiducial)
        else:
            unproved = (gap < RESCUE * total / n and lead != p.voice) or own.agreement < AGREEMENT
        if unproved or beat[B_RESTART] > 0.0 or beat[B_ENERGY] < 0.6 or value > 0.0:
            own.told_at = fiducial
            own.told_score = value
            own.agreement *= 0.95
            return count, False
        if n < 4:
            own.agreement = 1.0  # two of a mind
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
    torn = p.beats > 0 and p.seen_from > p.last_beat
    valid = p.beats > 0 and gap < 12.0 and not torn and not (beat[B_RESTART] > 0.0 and lead == p.primary)
    interval = gap if valid else 0.0
    if p.active[ASYSTOLE] == 1:
        interval = -gap
    parts = p.slow_open if torn else -1
    if torn and parts >= 0 and (fiducial - p.seen_from) / p.rate - BLIND_S > 60.0 / p.extreme_bradycardia:
        parts += 1
    p.slow_parts[slot] = parts
    p.parts_s[slot] = gap - p.unseen / p.rate
    p.slow_open = 0
    p.unseen = 0.0
    p.blind[slot] = 1 if p.rough_s > 0.0 else 0
    p.rough_s = p.waited_s = 0.0
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
    if first_sight.is_narrow(result[R_USUAL]):
        p.narrow = 1
    sight = first_sight.look(p, channels, traces, scratch)
    # A single ventricular beat among others, as in bigeminy, does not go on with a run that is over.
    if run >= 2 or sight == first_sight.SEEN:
        p.normals = 0
    elif run == 0 and not (sight == first_sight.UNSEEN and p.active[VT] == 1):
        p.normals += 1
    p.since_run = 0 if run >= RUN_BEATS or sight == first_sight.SEEN else p.since_run + 1
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
    if sight == first_sight.SEEN and p.active[VF] == 0:
        count = on_first_sight(p, own, traces[p.row + lead], who, block, at, scratch, out, count)
    told = run >= UNHURRIED_BEATS or (run >= RUN_BEATS and not is_unhurried(p, run, ago, scratch))
    if told and moves < RUN_CALM and p.active[VF] == 0:
        count = switch(p, who, block, V_RUN, True, p.run_onset, at, float(run), out, count)
    if p.normals >= VT_OVER_BEATS or p.since_run >= HISTORY:
        count = switch(p, who, block, VT, False, fiducial, at, 0.0, out, count)
        count = switch(p, who, block, V_RUN, False, fiducial, at, 0.0, out, count)
    if p.beats > SETTLED:
        count = on_decided(p, channels, traces, who, block, at, scratch, out, count)
    count = on_rate(p, who, block, fiducial, at, out, count)
    return on_slow(p, who, block, fiducial, at, False, out, count), True


@njit
def on_first_sight(
    p: Any,
    own: Any,
    trace: NDArray[np.float32],
    who: int,
    block: int,
    at: float,
    scratch: NDArray[np.float64],
    out: Any,
    count: int,
) -> int:
    """Tell a tachycardia that nothing else came before, unless it is movement; return the new count."""
    if doubt(p, own, trace, first_sight.LOOKED, scratch) >= DOUBTFUL:
        return count
    since = p.times[(p.beats - 1 - first_sight.LOOKED) % HISTORY]
    rate = 60.0 * first_sight.LOOKED * p.rate / (p.last_beat - since)
    return switch(p, who, block, VT, True, since, at, rate, out, count)


@njit
def is_seen_elsewhere(p: Any, channels: Any, lead: int, fiducial: float) -> bool:
    """Return whether a lead that is neither this one nor listened to has told of the same beat."""
    for k in range(p.leads):
        told_at = channels[p.row + k].told_at
        if k == lead or k == p.primary or told_at <= 0.0:  # noqa: PLR1714 - compiled: a tuple of two types is none
            continue
        if abs(told_at - fiducial) < SAME_BEAT_S * p.rate:
            return True
    return False


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
    """Settle the kind of the beat `SETTLED` before the newest, and judge what follows from it; return the new count."""
    slot = (p.beats - 1 - SETTLED) % HISTORY
    kind = decide(p, slot)
    row = p.row_of_v
    follow_patterns(p)
    atrial.on_decided(p)
    own, trace = channels[p.row + p.voice], traces[p.row + p.voice]
    if kind == VENTRICULAR:
        p.v_now += 0 if is_restless(p, own, trace, 3 + SETTLED) else 1
    elif row == 2 and p.beats >= 4 + SETTLED and not is_restless(p, own, trace, 4 + SETTLED):
        onset = p.times[(p.beats - 3 - SETTLED) % HISTORY]
        p.couplet_at = at
        count = switch(p, who, block, COUPLET, True, onset, at, 2.0, out, count)
    rate = p.heart_rate
    if p.bigeminy_left == PATTERN_OVER and not is_restless(p, own, trace, 5 + SETTLED):
        onset = p.times[(p.beats - SETTLED - ALTERNATIONS) % HISTORY]
        count = switch(p, who, block, BIGEMINY, True, onset, at, rate, out, count)
    elif p.bigeminy_left == 0:
        count = switch(p, who, block, BIGEMINY, False, p.times[slot], at, rate, out, count)
    if p.trigeminy_left == PATTERN_OVER:
        onset = p.times[(p.beats - SETTLED - 3 * TRIPLES) % HISTORY]
        count = switch(p, who, block, TRIGEMINY, True, onset, at, rate, out, count)
    elif p.trigeminy_left == 0:
        count = switch(p, who, block, TRIGEMINY, False, p.times[slot], at, rate, out, count)
    # -- atrial fibrillation: so for half a minute before it is told, and not so for as long before it ends
    change = atrial.irregularity(p, scratch)
    looks = p.change_count >= atrial.CHANGES_LEAST and atrial.is_atrial_fibrillation(
        change, own.p_like, own.shape_width[max(own.dominant, 0)]
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
def is_slow(p: Any, allowed: float) -> bool:
    """Return whether the last three intervals were each longer than `allowed`, in seconds.

    One with a gap in it says neither yes nor no, unless a part of it that was seen is longer by itself. Where gaps
    leave too few whole ones, the beats of the time that was seen are counted: four times as long without a shorter
    interval, and clearly fewer beats than allowed.
    """
    found, torn, blind, seen_s = 0, 0, 0, 0.0
    for k in range(1, min(p.beats, HISTORY)):
        slot = (p.beats - k) % HISTORY
        if p.intervals[slot] > allowed and p.blind[slot] == 1:
            blind += 1
        elif p.intervals[slot] > allowed:
            found += 1
            seen_s += p.intervals[slot]
        elif p.intervals[slot] == 0.0 and p.slow_parts[slot] >= 0 and torn < TORN_MOST:
            found += p.slow_parts[slot]
            seen_s += p.parts_s[slot]
            torn += 1
        else:
            return False
        if found >= SLOW_INTERVALS or found + blind >= BLIND_INTERVALS:
            return True
        if seen_s > max(TORN_SEEN, TORN_MARGIN * (k - blind)) * allowed:
            return True
    return False


@njit
def on_rate(p: Any, who: int, block: int, since: float, at: float, out: Any, count: int) -> int:
    """Judge the extreme tachycardia. A margin of 5/min ends it."""
    rate = p.heart_rate
    if math.isnan(rate):
        return count
    p.fast = p.fast + 1 if rate > p.extreme_tachycardia else 0
    if p.fast == 1:
        p.rate_onset = since
    if p.fast >= 3 and p.active[VF] == 0:
        count = switch(p, who, block, TACHY, True, p.rate_onset, at, rate, out, count)
    elif rate < p.extreme_tachycardia - 5.0:
        count = switch(p, who, block, TACHY, False, since, at, rate, out, count)
    return count


@njit
def on_slow(p: Any, who: int, block: int, since: float, at: float, looked: bool, out: Any, count: int) -> int:
    """Judge the extreme bradycardia. A margin of 3/min ends it.

    Three intervals in a row, each longer than the limit allows; one pause is not a slow rhythm. It is told when it has
    been `looked` for beats that were missed.
    """
    rate = p.heart_rate
    if math.isnan(rate):
        return count
    allowed = 60.0 / p.extreme_bradycardia
    slow = is_slow(p, allowed) or (at - p.anchor) / p.rate - REPORT_S > SLOW_INTERVALS * allowed
    if slow and looked:
        onset = p.times[(p.beats - 4) % HISTORY] if p.beats >= 4 else p.anchor
        count = switch(p, who, block, BRADY, True, onset, at, rate, out, count)
    elif not slow and rate > p.extreme_bradycardia + 3.0:
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
    bands: NDArray[np.float32],
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
        p.slow_open = -1
        look_anew(p)
        return count
    # -- fibrillation: three of the last four half seconds, four seconds each
    c = channels[p.row + p.primary]
    lasted, leakage = fibrillation.WINDOW_S, 0.0
    if off & (1 << p.primary) != 0:
        add_look(p, False, False, False)
    elif gaps.seen(c) - c.looked_n >= LOOK_S * c.analysis_rate:
        # While too little was seen nothing is known: that is no sign against it.
        lasted = fibrillation.measure(c, traces[p.row + p.primary], scratch, measures)
        if lasted > 0.0:
            c.looked_n = gaps.seen(c)
            leakage = measures[fibrillation.V_LEAKAGE]
            organised = measures[V_STEEP] >= STEEP_LEAST and is_organised(p, at)
            note_look(p, c, traces[p.row + p.primary], measures, organised, scratch)
    if looks_fibrillating(p):
        count = switch(p, who, block, VF, True, at - lasted * p.rate, at, measures[2] * 60.0, out, count)
    elif is_over(p):
        count = switch(p, who, block, VF, False, at, at, 0.0, out, count)
    # -- what cannot be read proves nothing: the clock waits, and if that lasts it is told
    readable = leakage <= LEAKAGE_LEAST or p.vf_hits & 15 != 0
    wait(p, at, not readable and is_unreadable(p, channels, traces, bands, at, scratch))
    if p.blind_s >= TOLD_S or p.blind_s <= 0.5 * TOLD_S:
        count = switch(p, who, block, UNREADABLE, p.blind_s >= TOLD_S, at, at, p.blind_s, out, count)
    note_missed(p, channels, traces, scratch)
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
    elif p.beats > 1 and p.active[VF] == 0:
        if quiet > 0.0:
            p.heart_rate = mean_rate(p, quiet)
            count = on_rate(p, who, block, at, at, out, count)
        count = on_slow(p, who, block, at, at, True, out, count)
    noisy = p.poor >= POOR_TICKS
    if noisy or p.poor == 0:
        count = switch(p, who, block, NOISY, noisy and off != everything, at, at, p.quality, out, count)
    return count
