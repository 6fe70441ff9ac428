"""The one compiled entry point of `signals`: all queued blocks of all channels in one call.

Responsible for taking each block through its channel in steps that end at fixed sample indices (so that block lengths
do not matter), for gaps and overlaps, for conditions that begin or end, and for the compiled code's cache (the hash of
all kernel sources is part of its key, as in ``kernel``).
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.pressure import judge_level, judge_line, judge_pressure
from edgeward.clinic.monitor.pulse import GOOD, is_quiet, judge_channel, judge_pulse, search
from edgeward.clinic.monitor.respiration import SHALLOW_AFTER_S, breathe, judge_breathing, leave_heart_out
from edgeward.clinic.monitor.signals_state import (
    AFTER_S,
    APNEA,
    ARTERIAL,
    BEATS,
    BREATH,
    DISCONNECTED,
    GAS,
    LEVEL,
    MASK,
    NO_PULSE,
    OFF,
    POOR,
    PULSE,
    RING,
    SHAPE,
)
from edgeward.waveform import MISSING, STATE_CALIBRATING, STATE_OFF, STATE_POOR, Kind

#: One block of one channel in the queue.
BLOCK = np.dtype([("row", "i8"), ("offset", "i8"), ("samples", "i8"), ("first", "i8"), ("state", "i4")])

#: A condition of one channel begins (1) or ends (0).
TRANSITION = np.dtype(
    [("row", "i8"), ("block", "i8"), ("condition", "i4"), ("on", "i4"), ("onset", "f8"), ("decisive", "f8")]
)

FLAT_S = 4.0  # a living sensor is never exactly constant for this long
FLAT_LINE_S = 10.0  # the same for a pressure
LOST_S = 2.0
CLIP_S = 0.09
RAIL = 32767
POOR_BELOW, FINE_FROM = 0.3, 0.5
POOR_TICKS, FINE_TICKS = 20, 6
BACK_PULSES = 3
_PAP = int(Kind.PAP)

_SOURCES = ("quality", "signals_state", "pulse", "pressure", "respiration", "signals_kernel")


def _stamp() -> int:
    total = 0
    for name in _SOURCES:
        total = zlib.crc32(Path(__file__).with_name(f"{name}.py").read_bytes(), total)
    return total


@njit
def restart(c: Any, first: int, value: float) -> None:
    """Begin anew at stream index `first`: filters in their steady state for `value`, what was learned is kept."""
    skipped = int((first - c.start_raw) // c.decimation) - (c.n - c.start_n)
    if c.n > 0 and skipped > 0:
        c.n += skipped
    c.running = 1
    c.origin = value
    c.held = value
    c.phase = 0
    c.low_z[:] = 0.0
    c.high_z[:] = 0.0
    c.start_n = c.n
    c.start_raw = first
    c.same = 0
    c.missing_run = 0
    c.steps[:] = 0.0
    c.slope_sum = 0.0
    c.before = 0.0 if c.family != ARTERIAL else value
    c.peak = 0.0
    c.pending = 0
    c.beat_n = c.n
    c.sum = 0.0
    c.added = 0
    c.least = math.inf
    c.most = -math.inf
    if c.learned == 0:
        c.learn_n = 0
    c.extreme = value if c.family == GAS else 0.0
    c.trough = c.extreme
    c.extreme_n = c.n
    c.trough_n = c.n


@njit
def switch(c: Any, row: int, block: int, which: int, on: bool, onset: float, at: float, out: Any, count: int) -> int:
    """Write a transition if the condition changes; return the new count."""
    if (c.active[which] == 1) == on:
        return count
    c.active[which] = 1 if on else 0
    t = out[count]
    t.row = row
    t.block = block
    t.condition = which
    t.on = 1 if on else 0
    t.onset = max(onset, 0.0)
    t.decisive = at
    return count + 1


@njit
def advance_signal(
    c: Any,
    trace: NDArray[np.float32],
    raw: NDArray[np.int16],
    room: NDArray[np.float64],
    shape: NDArray[np.float64],
) -> None:
    """Take one channel through `raw`, all of it after its present index and within one tick."""
    for i in range(raw.size):
        code = raw[i]
        if code == MISSING:
            c.missing += 1
            c.missing_run += 1
            value = c.held
        else:
            value = code * c.gain + c.offset
            if c.running == 0:
                restart(c, c.next_index + i, value)
            c.held = value
            c.missing_run = 0
            if code == c.last_raw:
                c.same += 1
                if c.same >= CLIP_S * c.rate and value - c.level > 0.3 * c.usual and c.family == PULSE:
                    c.clipped_n = c.n
                away = value - c.level
                if c.same >= CLIP_S * c.rate and (abs(code) >= RAIL or not -0.7 * c.usual <= away <= 0.3 * c.usual):
                    c.railed += 1
            else:
                c.same = 0
                c.last_raw = code
        if c.running == 0:
            continue
        x = value - c.origin
        y = c.low[0] * x + c.low_z[0]
        c.low_z[0] = c.low[1] * x - c.low[3] * y + c.low_z[1]
        c.low_z[1] = c.low[2] * x - c.low[4] * y
        c.phase += 1
        if c.phase < c.decimation:
            continue
        c.phase = 0
        v = y + c.origin
        c.sum += v
        c.added += 1
        if c.family in (PULSE, BREATH):
            v = c.high[0] * y + c.high_z[0]
            c.high_z[0] = c.high[1] * y - c.high[3] * v + c.high_z[1]
            c.high_z[1] = c.high[2] * y - c.high[4] * v
        c.least = min(c.least, v)
        c.most = max(c.most, v)
        trace[c.n & MASK] = v
        if c.family <= ARTERIAL:
            search(c, trace, v, room)
            if c.pending == 1 and c.n >= c.onset_n + AFTER_S * c.analysis_rate + 1:
                judge_pulse(c, trace, room, shape)
                if c.family == ARTERIAL:
                    judge_pressure(c, trace, c.foot_n, room)
        elif c.family >= BREATH:
            breathe(c, trace, v, room)
        c.n += 1


@njit
def on_tick(
    rows: Any,
    trace: NDArray[np.float32],
    row: int,
    block: int,
    at: float,
    room: NDArray[np.float64],
    out: Any,
    count: int,
) -> int:
    """Judge what no single beat tells, twice a second of signal; return the new count of transitions."""
    c = rows[row]
    lost = c.missing_run >= LOST_S * c.rate or c.running == 0
    flat = c.same >= (FLAT_S if c.family in (PULSE, BREATH) else FLAT_LINE_S) * c.rate and c.family <= BREATH
    off = (c.state & STATE_OFF) != 0 or lost or flat
    c.ticks += 1
    slot = c.ticks & 7
    if c.added > 0:
        c.means[slot] = c.sum / c.added
        c.spans[slot] = c.most - c.least
        c.level += (0.2 if c.ticks > 8 else 0.5) * (c.means[slot] - c.level)
    c.sum = 0.0
    c.added = 0
    c.least = math.inf
    c.most = -math.inf
    c.railed_part += 0.125 * (c.railed / c.hop - c.railed_part)
    c.railed = 0
    if c.family <= ARTERIAL:
        judge_channel(c, trace, at, room)
        if c.family == ARTERIAL:
            judge_line(c, at)
    elif c.family == LEVEL:
        judge_level(c)
    else:
        leave_heart_out(c, rows, at)
        judge_breathing(c, at)
    c.missing = 0
    if (c.state & STATE_POOR) != 0:
        c.quality = min(c.quality, 0.3)
    if off:
        withdraw(c)
        c.blind = at
        c.locked = 0
        c.anchor = at  # nobody can see: time does not pass for a missing pulse or breath
        c.good_run = 0
        c.present = 0
        c.learned = 0
        c.learn_n = 0
        c.tops[:] = 0.0
    elif c.flush > 0 or (c.state & STATE_CALIBRATING) != 0:
        c.anchor = max(c.anchor, at - c.rate)
    count = switch(c, row, block, OFF, off, at, at, out, count)
    calm = c.flush == 0 and (c.state & STATE_CALIBRATING) == 0
    open_line = c.family == ARTERIAL and c.disconnected >= 4 and calm and not off
    count = switch(c, row, block, DISCONNECTED, open_line, at, at, out, count)
    if c.family <= ARTERIAL and c.kind != _PAP:
        since = (at - c.anchor) / c.rate
        gone = c.present == 1 and not off and not open_line and calm and since >= c.no_pulse_s and is_quiet(c)
        if gone:
            count = switch(c, row, block, NO_PULSE, True, c.anchor, at, out, count)
        elif off or open_line or c.good_run >= BACK_PULSES:
            count = switch(c, row, block, NO_PULSE, False, at, at, out, count)
    if c.family in (BREATH, GAS):
        since = (at - c.anchor) / c.rate
        none = c.learned == 1 and c.count >= 3 and not off and since >= c.apnea_s
        if none:
            if c.active[APNEA] == 0 and c.family == BREATH:  # from here on smaller waves are followed, from now
                c.rising = 0
                c.extreme = trace[(c.n - 1) & MASK]
                c.extreme_n = c.n - 1
            count = switch(c, row, block, APNEA, True, c.anchor, at, out, count)
            c.shallow = 1 if since >= c.apnea_s + SHALLOW_AFTER_S else c.shallow
        elif off or (c.active[APNEA] == 1 and back_for_good(c)):
            count = switch(c, row, block, APNEA, False, at, at, out, count)
            c.shallow = 0
    if c.family <= ARTERIAL:
        watched = not off and not open_line and calm and c.active[NO_PULSE] == 0 and c.n - c.start_n > c.analysis_rate
        c.poor_ticks = c.poor_ticks + 1 if watched and c.quality < POOR_BELOW else 0
        c.fine_ticks = c.fine_ticks + 1 if c.quality >= FINE_FROM else 0
        if c.poor_ticks >= POOR_TICKS:
            count = switch(c, row, block, POOR, True, at - c.poor_ticks * c.hop, at, out, count)
        elif c.fine_ticks >= FINE_TICKS or not watched:
            count = switch(c, row, block, POOR, False, at, at, out, count)
    if c.ticks & 1 == 0:
        c.fresh = 1
    return count


@njit
def back_for_good(c: Any) -> bool:
    """Return whether the last two breaths follow each other as breaths do."""
    last = (c.count - 1) % BEATS
    return 0.0 < c.intervals[last] < 15.0 and c.qualities[last] > 0.0


@njit
def withdraw(c: Any) -> None:
    """Say that nothing is known."""
    c.quality = 0.0
    c.pulse_rate = math.nan
    c.amplitude = math.nan
    c.perfusion = math.nan
    c.systolic = math.nan
    c.diastolic = math.nan
    c.mean = math.nan
    c.breath_rate = math.nan
    c.end_tidal = math.nan
    c.pressure_count = 0


def _build(stamp: int) -> Callable[..., int]:
    @njit(cache=True)
    def advance_all(rows: Any, traces: NDArray[np.float32], samples: NDArray[np.int16], blocks: Any, out: Any) -> int:
        count = 0
        if stamp == -1:  # the stamp is in the cache key because it is used
            return count
        room = np.zeros(256)
        shape = np.zeros(SHAPE)
        for b in range(blocks.size):
            block = blocks[b]
            c = rows[block.row]
            first, at = block.first, 0
            if c.started == 0:
                c.started = 1
                c.next_index = first
                c.next_tick = (first // c.hop + 1) * c.hop
                c.anchor = float(first)
                c.last_raw = MISSING
            if first > c.next_index:  # a gap: nobody saw what was there
                c.anchor += first - c.next_index
                c.next_index = first
                c.next_tick = (first // c.hop + 1) * c.hop
                c.running = 0
            elif first < c.next_index:  # sent twice
                at = c.next_index - first
                if at >= block.samples:
                    continue
            c.state = block.state
            while at < block.samples:
                size = min(block.samples - at, c.next_tick - c.next_index)
                start = block.offset + at
                advance_signal(c, traces[block.row], samples[start : start + size], room, shape)
                c.next_index += size
                at += size
                if c.next_index == c.next_tick:
                    c.next_tick += c.hop
                    count = on_tick(rows, traces[block.row], block.row, b, float(c.next_index), room, out, count)
        return count

    return advance_all


advance_all = _build(_stamp())
EVENTS_PER_TICK = 6
assert RING > 2 * SHAPE
assert GOOD > POOR_BELOW
