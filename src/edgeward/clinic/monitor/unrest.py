"""Tells ventricular beats from movement, by what lies between them.

Responsible for one question about the last few beats: are they a ventricular rhythm or does the signal just move about?
A ventricular rhythm has its steepness in its beats, few turns between them, beats of one height at even intervals; and
what was before it was quieter. Movement has none of that for long. Not responsible for what follows from the answer
(``rhythm``): a run is not told, a tachycardia must go on for longer.

Two ways to ask: `is_restless` about single beats among others, by two facts; `doubt` about a run, by fifteen facts and
small trees (``unrest_model``, grown by ``models/unrest/train.py``).
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.compiled import bare
from edgeward.clinic.monitor.ectopy import HISTORY
from edgeward.clinic.monitor.state import MASK
from edgeward.clinic.monitor.unrest_model import CHILD, FEATURE, LEAF, ROOT, THRESHOLD

MOST = 6  # beats looked at
#: Around a fiducial. The later part is less than the least time after which a beat is reported, so that the answer
#: does not depend on the length of packets.
BEFORE_S, AFTER_S = 0.12, 0.08
SHIFT_S = 0.032  # the fiducial may sit on R in one beat and on S in the next
BETWEEN_LEAST_S = 0.15  # a very fast rhythm has nothing between its beats: then there is no answer
#: Chosen on generated movement and on DS1 of MIT-BIH (docs/physiology.md, "Movement").
STEEP, ALIKE = 0.55, 0.7


#: What is asked about a run, in the order of the trees' features.
FACTS = (
    "steepness", "likeness", "cycle", "turns", "noise_part", "noise_risen", "heights", "drift", "intervals", "interval",
    "before", "height", "crest", "noise", "score",
)  # fmt: skip
TURN_S, TURN_PART = 0.02, 0.08  # the trace is smoothed so long; a turn is more than this part of the mean beat
EARLIER_S, EARLIER_LEAST_S = 1.5, 0.5  # what was before the run
CYCLE_S = 0.6
UNKNOWN = -10.0  # then it is not held against a run


@bare
def index_of(c: Any, stream: float) -> int:
    """Return the analysis sample of a stream index."""
    return int(c.start_n + (stream + c.trace_delay - c.start_raw) / c.decimation)


@bare
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


@bare
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


@bare
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


@bare
def correlation(trace: NDArray[np.float32], one: int, other: int, count: int, most: int, least: int) -> float:
    """Return the best correlation of two stretches of `count` samples; the second may slide by `most`."""
    best = -1.0
    step = max(1, most // 4)
    for shift in range(-most, most + 1, step):
        b = other + shift
        if one < least or b < least:
            continue
        sa = sb = saa = sbb = sab = 0.0
        for k in range(count):
            x, y = trace[(one + k) & MASK], trace[(b + k) & MASK]
            sa += x
            sb += y
            saa += x * x
            sbb += y * y
            sab += x * y
        spread = math.sqrt(max(saa - sa * sa / count, 0.0) * max(sbb - sb * sb / count, 0.0))
        if spread > 0.0:
            best = max(best, (sab - sa * sb / count) / spread)
    return best


@bare
def turns_of(c: Any, trace: NDArray[np.float32], first: int, last: int, least: float) -> int:
    """Return how often the smoothed trace turns by more than `least` mV from `first` to `last`."""
    width = max(1, int(TURN_S * c.analysis_rate))
    found, way = 0, 0
    extreme = 0.0
    total = 0.0
    for k in range(width):
        total += trace[(first + k) & MASK]
    extreme = total / width
    for j in range(first + width, last + 1):
        total += trace[j & MASK] - trace[(j - width) & MASK]
        value = total / width
        if way >= 0 and value < extreme - least:
            found += 1 if way == 1 else 0
            way = -1
            extreme = value
        elif way <= 0 and value > extreme + least:
            found += 1 if way == -1 else 0
            way = 1
            extreme = value
        elif (way == 1 and value > extreme) or (way == -1 and value < extreme):
            extreme = value
    return found


@bare
def slope_between(trace: NDArray[np.float32], first: int, last: int) -> tuple[float, float]:
    """Return the mean slope between two samples, and its root mean square."""
    total = squares = 0.0
    for j in range(first + 1, last + 1):
        slope = abs(trace[j & MASK] - trace[(j - 1) & MASK])
        total += slope
        squares += slope * slope
    count = max(1, last - first)
    return total / count, math.sqrt(squares / count)


@bare
def gather(p: Any, c: Any, trace: NDArray[np.float32], run: int, out: NDArray[np.float64]) -> bool:
    """Write `FACTS` of the last `run` beats, as the lead `c` shows them; return whether they could be gathered."""
    beats = min(run, MOST, p.beats)
    before, after = int(BEFORE_S * c.analysis_rate), int(AFTER_S * c.analysis_rate)
    first = index_of(c, p.times[(p.beats - beats) % HISTORY])
    newest = index_of(c, p.times[(p.beats - 1) % HISTORY])
    if beats < 3 or first - before < c.start_n or newest + after > c.n or newest <= first:
        return False
    most = int(SHIFT_S * c.analysis_rate)
    likes = cycles = heights = logs = log_squares = levels = level_squares = score = 0.0
    gaps = gap_squares = 0.0
    n_cycles = 0
    earlier, between = 0, 0
    for k in range(beats, 0, -1):
        slot = (p.beats - k) % HISTORY
        here = index_of(c, p.times[slot])
        low = high = trace[here & MASK]
        level = 0.0
        for j in range(here - before, here + after):
            value = trace[j & MASK]
            low, high = min(low, value), max(high, value)
            level += value
        level /= before + after
        height = high - low
        heights += height
        logs += math.log(height + 0.02)
        log_squares += math.log(height + 0.02) ** 2
        levels += level
        level_squares += level * level
        score += p.now_own[slot]
        if k < beats:
            likes += correlation(trace, earlier - before, here - before, before + after, most, c.start_n)
            gap = (here - earlier) / c.analysis_rate
            gaps += gap
            gap_squares += gap * gap
            if k < beats - 1:
                count = min(between, here - earlier, int(CYCLE_S * c.analysis_rate))
                if count > 10:
                    cycles += correlation(trace, earlier - between, earlier, count, most, c.start_n)
                    n_cycles += 1
            between = here - earlier
        earlier = here
    mean_height = heights / beats
    gap = gaps / (beats - 1)
    steep = steepness(p, c, trace, beats)
    within, within_rms = slope_between(trace, first - before, newest)
    start = max(c.start_n, first - before - int(EARLIER_S * c.analysis_rate))
    out[0] = steep if steep >= 0.0 else 0.5
    out[1] = likes / (beats - 1)
    out[2] = cycles / n_cycles if n_cycles else 0.0
    out[3] = turns_of(c, trace, first - before, newest + after, TURN_PART * mean_height) / beats
    out[4] = math.log((c.noise_level + 0.005) / (mean_height + 0.05))
    out[5] = math.log((c.noise_level + 0.005) / (c.roughness + 0.005))
    out[6] = math.sqrt(max(log_squares / beats - (logs / beats) ** 2, 0.0))
    out[7] = math.sqrt(max(level_squares / beats - (levels / beats) ** 2, 0.0)) / (mean_height + 0.02)
    out[8] = math.sqrt(max(gap_squares / (beats - 1) - gap * gap, 0.0)) / gap
    out[9] = gap
    out[10] = 0.0
    if first - before - start > EARLIER_LEAST_S * c.analysis_rate:
        quiet, _ = slope_between(trace, start, first - before)
        out[10] = math.log((quiet + 0.001) / (within + 0.001))
    out[11] = math.log((mean_height + 0.02) / (c.height + 0.05))
    out[12] = math.log((within_rms + 1e-4) / (within + 1e-4))
    out[13] = math.log((c.noise_level + 0.005) / 0.03)
    out[14] = score / beats
    return True


@bare
def doubt(p: Any, c: Any, trace: NDArray[np.float32], run: int, room: NDArray[np.float64]) -> float:
    """Return the log odds that the last `run` beats of a patient are movement; `UNKNOWN` if that cannot be told.

    `room` is overwritten.
    """
    if not gather(p, c, trace, run, room):
        return UNKNOWN
    total = 0.0
    for tree in range(ROOT.size):
        node = ROOT[tree]
        while node >= 0:
            node = CHILD[node, 0] if room[FEATURE[node]] <= THRESHOLD[node] else CHILD[node, 1]
        total += LEAF[-1 - node]
    return total
