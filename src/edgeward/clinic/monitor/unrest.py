"""Tells ventricular beats from movement, by what lies between them.

Responsible for one question about the last few beats: is the signal as steep between them as within them, and does no
beat look like the next? Then it moves about. A ventricular rhythm, monomorphic or not, has its steepness in its beats.
Not responsible for what follows from the answer (``rhythm``): a run is not told, a tachycardia must go on for longer.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.ectopy import HISTORY
from edgeward.clinic.monitor.state import MASK

MOST = 6  # beats looked at
#: Around a fiducial. The later part is less than the least time after which a beat is reported, so that the answer
#: does not depend on the length of packets.
BEFORE_S, AFTER_S = 0.12, 0.08
SHIFT_S = 0.032  # the fiducial may sit on R in one beat and on S in the next
BETWEEN_LEAST_S = 0.15  # a very fast rhythm has nothing between its beats: then there is no answer
#: Chosen on generated movement and on DS1 of MIT-BIH (docs/physiology.md, "Movement").
STEEP, ALIKE = 0.55, 0.7


@njit
def index_of(c: Any, stream: float) -> int:
    """Return the analysis sample of a stream index."""
    return int(c.start_n + (stream + c.trace_delay - c.start_raw) / c.decimation)


@njit
def steepness(p: Any, c: Any, trace: NDArray[np.float32], beats: int) -> float:
    """Return the mean slope between the last `beats` beats over that within them; -1 if that cannot be told."""
    before, after = int(BEFORE_S * c.analysis_rate), int((AFTER_S + 0.04) * c.analysis_rate)
    inside = outside = 0.0
    n_inside = n_outside = 0
    centre = index_of(c, p.times[(p.beats - beats) % HISTORY])
    for k in range(beats - 1, 0, -1):
        following = index_of(c, p.times[(p.beats - k) % HISTORY])
        if centre <= c.start_n or following > c.n:
            return -1.0
        for j in range(centre + 1, following + 1):
            slope = abs(trace[j & MASK] - trace[(j - 1) & MASK])
            if j - centre <= after or following - j <= before:
                inside += slope
                n_inside += 1
            else:
                outside += slope
                n_outside += 1
        centre = following
    if n_outside < BETWEEN_LEAST_S * c.analysis_rate or n_inside == 0 or inside <= 0.0:
        return -1.0
    return (outside / n_outside) / (inside / n_inside)


@njit
def alike(c: Any, trace: NDArray[np.float32], one: int, other: int) -> float:
    """Return the best correlation of two beats, at analysis samples `one` and `other`, over small shifts."""
    before, after = int(BEFORE_S * c.analysis_rate), int(AFTER_S * c.analysis_rate)
    most = int(SHIFT_S * c.analysis_rate)
    step = max(1, most // 4)
    best = -1.0
    for shift in range(-most, 1, step):  # earlier only: what is later may not be there yet
        for swap in range(2):
            a, b = (one, other + shift) if swap == 0 else (one + shift, other)
            if a - before < c.start_n or b - before < c.start_n:
                return 1.0
            sa = sb = saa = sbb = sab = 0.0
            for k in range(-before, after):
                x, y = trace[(a + k) & MASK], trace[(b + k) & MASK]
                sa += x
                sb += y
                saa += x * x
                sbb += y * y
                sab += x * y
            n = before + after
            spread = math.sqrt(max(saa - sa * sa / n, 0.0) * max(sbb - sb * sb / n, 0.0))
            if spread > 0.0:
                best = max(best, (sab - sa * sb / n) / spread)
    return best


@njit
def is_restless(p: Any, c: Any, trace: NDArray[np.float32], beats: int) -> bool:
    """Return whether the last `beats` beats of a patient are likely movement, as the lead `c` shows them."""
    beats = min(beats, MOST, p.beats)
    if beats < 3 or steepness(p, c, trace, beats) <= STEEP:
        return False
    total = 0.0
    for k in range(1, beats):
        one = index_of(c, p.times[(p.beats - k - 1) % HISTORY])
        other = index_of(c, p.times[(p.beats - k) % HISTORY])
        total += alike(c, trace, one, other)
    return total / (beats - 1) < ALIKE
