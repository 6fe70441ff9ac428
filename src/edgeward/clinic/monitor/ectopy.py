"""Puts the leads' scores of a beat together, and finds couplets, runs, bigeminy and trigeminy in the kinds of beats.

Responsible for what kind each counted beat is: at once, for runs that cannot wait, and two beats later for counts and
patterns. Not responsible for a single lead's score (``beats``) or for saying that a condition begins (``rhythm``).
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import math
from typing import Any

from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.detector import sort_into

HISTORY = 16
#: A beat's kind is settled for good so many beats later. Each lead judges a beat in hindsight when it sees the next
#: one, and the leads see that one up to 0.2 s apart: one beat later many of the others have not spoken yet.
SETTLED = 2
NORMAL, SUPRAVENTRICULAR, VENTRICULAR, UNKNOWN = 0, 1, 2, -1
#: The lead that gave a beat counts fully, the mean of all others so much. With both leads of 26 MIT-BIH records, and
#: records left out in turn: 0.4 costs 2 % of sensitivity and gains 5 % of positive predictivity over one lead.
OTHERS = 0.4
#: A beat is settled as ventricular from this chance on; these log odds are added to its being supraventricular. Chosen
#: where sensitivity and positive predictivity are about equal (records left out in turn).
SETTLED_CHANCE = 0.38
SHIFT_S = -0.5
OTHERS_S = 0.5
#: Beside two ventricular beats in a row one is ventricular with less evidence than an isolated one: in a run it is no
#: longer early or rare. This holds for the beats before the two as for those after them.
RUN_CHANCE = 0.35
#: A run below the patient's tachycardia that is hardly faster than the beats before it is told with so many beats, not
#: with three: beats that are conducted otherwise for a moment (a bundle branch, a pacemaker that pauses) keep the pace.
UNHURRIED = 0.9  # of the interval before
UNHURRIED_BEATS = 5
BEFORE_RUN = 8  # intervals
ALTERNATIONS = 6  # beats of V-N-V-N-V-N
TRIPLES = 3  # of V-N-N
PATTERN_OVER = 9  # beats without the pattern


@njit
def open_slot(p: Any, slot: int, lead: int, value: float) -> None:
    """Begin the record of a beat that lead `lead` gave, with its score."""
    p.voices[slot] = lead
    p.now_own[slot] = value
    p.later_known[slot] = 0
    p.now_sum[slot] = p.later_own[slot] = p.later_sum[slot] = p.super_own[slot] = p.super_sum[slot] = 0.0
    p.now_count[slot] = p.later_count[slot] = 0
    p.kinds[slot] = UNKNOWN


@njit
def add_later(p: Any, lead: int, at: float, v: float, s: float, window: float) -> None:
    """Take a lead's scores in hindsight of its beat at stream index `at`."""
    for k in range(min(p.beats, 3)):
        slot = (p.beats - 1 - k) % HISTORY
        if abs(p.times[slot] - at) < window:
            if p.voices[slot] == lead:
                p.later_own[slot] = v
                p.super_own[slot] = s
                p.later_known[slot] = 1
            else:
                p.later_sum[slot] += v
                p.super_sum[slot] += s
                p.later_count[slot] += 1
            return


@njit
def chance_of(p: Any, slot: int, settled: bool = False) -> float:
    """Return the probability that a beat is ventricular, from all that is known of it until now.

    Once it is `settled`, a lead that has not seen the next beat by then does not count: it has missed that one, and
    what it said at once was said without hindsight.
    """
    own = p.later_own[slot] if p.later_known[slot] == 1 else p.now_own[slot]
    others = own
    if p.later_known[slot] == 1 and p.later_count[slot] > 0:
        others = p.later_sum[slot] / p.later_count[slot]
    elif p.now_count[slot] > 0 and not settled:
        others = p.now_sum[slot] / p.now_count[slot]
    return 1.0 / (1.0 + math.exp(-(own + OTHERS * others)))


@njit
def decide(p: Any, slot: int) -> int:
    """Say for good what kind a beat is, keep it, and return it."""
    kind = NORMAL
    if chance_of(p, slot, p.later_known[slot] == 1) > SETTLED_CHANCE:
        kind = VENTRICULAR
    elif p.later_known[slot] == 1:
        own = p.super_own[slot]
        others = p.super_sum[slot] / p.later_count[slot] if p.later_count[slot] > 0 else own
        if own + OTHERS_S * others + SHIFT_S > 0.0:
            kind = SUPRAVENTRICULAR
    p.kinds[slot] = kind
    return kind


@njit
def run_length(p: Any, ago: int) -> int:
    """Return how many beats the ventricular run up to the newest beat has, or up to the beat `ago` before it.

    `HISTORY` - 1 - `ago` means that or more.
    """
    run = likely = certain = 0
    most = min(p.beats, HISTORY - 1)
    for k in range(most - 1, ago - 1, -1):
        chance = chance_of(p, (p.beats - 1 - k) % HISTORY)
        likely = likely + 1 if chance > RUN_CHANCE else 0
        certain = certain + 1 if chance > 0.5 else 0
        run = likely if likely > 0 and (run >= 2 or certain >= 2) else certain
    return run


@njit
def is_unhurried(p: Any, run: int, ago: int, scratch: NDArray[Any]) -> bool:
    """Return whether the run of `run` beats, up to the one `ago` before the newest, keeps the pace before it.

    One as fast as the patient's ventricular tachycardia never does, nor one with fewer than three intervals before it.
    """
    last = p.beats - 1 - ago
    onset = last - run + 1
    interval = (p.times[last % HISTORY] - p.times[onset % HISTORY]) / p.rate / max(run - 1, 1)
    if interval * p.ventricular_tachycardia_rate < 60.0:
        return False
    before, ordered = scratch[:BEFORE_RUN], scratch[BEFORE_RUN : 2 * BEFORE_RUN]
    count = 0
    for k in range(max(onset - BEFORE_RUN, p.beats - HISTORY + 1, 1), onset):
        if p.intervals[k % HISTORY] > 0.0:
            before[count] = p.intervals[k % HISTORY]
            count += 1
    if count < 3:
        return False
    sort_into(before, count, ordered)
    return bool(interval >= UNHURRIED * 0.5 * (ordered[(count - 1) // 2] + ordered[count // 2]))


@njit
def follow_patterns(p: Any) -> None:
    """Take the beat that was decided last (`SETTLED` before the newest) into the patterns."""
    one = (p.beats - 1 - SETTLED) % HISTORY
    two = (p.beats - 2 - SETTLED) % HISTORY
    v = p.kinds[one] == VENTRICULAR
    before = p.beats >= 2 + SETTLED and p.kinds[two] == VENTRICULAR
    p.alternations = p.alternations + 1 if p.beats >= 2 + SETTLED and v != before else 0
    if p.alternations >= ALTERNATIONS:
        p.bigeminy_left = PATTERN_OVER
    elif p.bigeminy_left > 0:
        p.bigeminy_left -= 1
    # trigeminy: how far into V-N-N, and how many whole ones in a row
    if v:
        if p.since_v != 2:
            p.triples = 0
        p.since_v = 0
    else:
        p.since_v += 1
        if p.since_v == 2:
            p.triples += 1
        elif p.since_v > 2:
            p.triples = 0
    if p.triples >= TRIPLES:
        p.trigeminy_left = PATTERN_OVER
    elif p.trigeminy_left > 0:
        p.trigeminy_left -= 1
    # a couplet is two between others; of a longer run it is a part
    p.row_of_v = p.row_of_v + 1 if v else 0


assert HISTORY >= 16
