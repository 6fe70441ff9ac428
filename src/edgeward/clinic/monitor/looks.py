"""Remembers what the last looks for fibrillation found, and says when that is enough to tell of one.

Responsible for how sure each look is, and for how many must agree: three of four where nothing speaks against it, five
of six where it may be movement, seven of eight where it is very irregular. Each only delays; none is kept back. Not
responsible for the measures (``fibrillation``) or for when to look (``rhythm``).
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.fibrillation import V_LEAKAGE, WINDOW_S, is_chaos, is_fibrillation
from edgeward.clinic.monitor.patient import VF
from edgeward.clinic.monitor.unreadable import shows_usual

SURE_LOOKS, DOUBTFUL_LOOKS, CHAOS_LOOKS = 4, 6, 8
KEPT = (1 << CHAOS_LOOKS) - 1
OVER = 15  # the last two seconds
#: What has a leakage above this and shows the patient's usual QRS may be movement. Of generated movement that passes
#: for a fibrillation 83 % has both, of generated fibrillations 3 to 11 % (docs/physiology.md, "Movement").
DOUBTFUL = 0.42


@njit
def look_anew(p: Any) -> None:
    """Begin the looks for fibrillation anew. One that is told goes on until it is seen that it does not."""
    p.vf_hits = p.vf_sure = p.vf_maybe = 15 if p.active[VF] == 1 else 0


@njit
def add_look(p: Any, hit: bool, sure: bool, maybe: bool) -> None:
    """Add what a look found: a fibrillation, surely one, or one that may be very irregular."""
    p.vf_hits = (p.vf_hits << 1 | (1 if hit else 0)) & KEPT
    p.vf_sure = (p.vf_sure << 1 | (1 if sure else 0)) & KEPT
    p.vf_maybe = (p.vf_maybe << 1 | (1 if maybe else 0)) & KEPT


@njit
def note_look(
    p: Any,
    c: Any,
    trace: NDArray[np.float32],
    measures: NDArray[np.float64],
    organised: bool,
    room: NDArray[np.float64],
) -> None:
    """Judge the measures of the last seconds of a lead.

    `organised`: its beats come too evenly for a fibrillation. `room` is overwritten.
    """
    hit = is_fibrillation(measures) and not organised
    sure = maybe = hit
    if measures[V_LEAKAGE] > DOUBTFUL and is_chaos(measures) and not organised:
        usual = shows_usual(c, trace, WINDOW_S, room)
        sure = hit and not usual
        maybe = hit or (c.dominant >= 0 and not usual)
    add_look(p, hit, sure, maybe)


@njit
def ones(bits: int, looks: int) -> int:
    """Return how many of the lowest `looks` bits are set."""
    found = 0
    for k in range(looks):
        found += bits >> k & 1
    return found


@njit
def looks_fibrillating(p: Any) -> bool:
    """Return whether enough of the last looks found a fibrillation."""
    return (
        ones(p.vf_sure, SURE_LOOKS) >= SURE_LOOKS - 1
        or ones(p.vf_hits, DOUBTFUL_LOOKS) >= DOUBTFUL_LOOKS - 1
        or ones(p.vf_maybe, CHAOS_LOOKS) >= CHAOS_LOOKS - 1
    )


@njit
def is_over(p: Any) -> bool:
    """Return whether none of the last looks found anything like a fibrillation."""
    return (p.vf_hits | p.vf_maybe) & OVER == 0
