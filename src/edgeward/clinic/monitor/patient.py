"""Lays out what the monitor remembers of one patient, and how a condition that begins or ends is written down.

Responsible for the conditions that the signal itself can tell, for the patient's row (a NumPy structured type, so that
the compiled kernels and Python read the same fields) and for the list of transitions. Not responsible for a lead's
memory (``state``) or for when a condition holds (``rhythm``).
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numba import njit

from edgeward.clinic.monitor.atrial import CHANGES
from edgeward.clinic.monitor.ectopy import HISTORY
from edgeward.clinic.monitor.state import MAX_LEADS


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
    ECG_UNREADABLE = 15


(ASYSTOLE, VF, VT, BRADY, TACHY, LEAD_OFF, ALL_OFF, NOISY, V_RUN, PAUSE, AF, COUPLET, BIGEMINY, TRIGEMINY,
 FREQUENT_V, UNREADABLE) = (int(c) for c in Condition)  # fmt: skip
CONDITIONS = len(Condition)

HOPS_A_MINUTE = 120

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
        ("intervals", "f8", (HISTORY,)),  # s; 0 where a gap lies between, negative where an asystole does
        # of an interval with a gap: its parts that are longer than the slowest allowed one; -1: nobody knows
        ("slow_parts", "i1", (HISTORY,)),
        ("slow_open", "i4"),  # the same, of the interval that is open
        ("parts_s", "f8", (HISTORY,)),  # how much of an interval with a gap was seen
        ("unseen", "f8"),  # samples since the last beat that were not
        ("seen_from", "f8"),  # stream index after the last gap
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
        ("normals", "i4"),  # beats of another kind since two ventricular ones in a row
        ("since_run", "i4"),  # beats since a run
        ("narrow", "i1"),  # a narrow QRS was this patient's usual one (``first_sight``)
        ("v_counts", "i2", (HOPS_A_MINUTE,)),
        ("v_slot", "i4"),
        ("v_now", "i4"),
        ("v_minute", "i4"),
        ("fast", "i4"),
        ("rate_onset", "f8"),
        ("vf_hits", "i4"),  # of the last looks for fibrillation, newest lowest
        ("vf_sure", "i4"),  # the same, without those in which the patient's usual QRS were seen
        ("vf_maybe", "i4"),  # and with those that are more irregular, and show no usual QRS
        # -- while no beat is found and the signal cannot be read
        ("rough_s", "f8"),  # since the last beat
        ("waited_s", "f8"),  # for which the clock of asystole has waited since then
        ("moved_s", "f8"),  # how long what moved last still counts
        ("blind_s", "f8"),  # of the last minute or so; fades
        ("blind", "i1", (HISTORY,)),  # an interval in which a beat may have been missed
        ("blind_known", "i8"),  # beats whose interval has been looked at
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


assert MAX_LEADS <= 31  # off_mask is a 32-bit integer
