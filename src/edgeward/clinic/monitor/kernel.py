"""The one compiled entry point: all queued packets of all patients in one call.

Responsible for taking each block through its leads, in steps that end at fixed sample indices (so that block lengths do
not matter), for gaps and overlaps, and for the compiled code's cache. Numba keys its cache by the file of the cached
function alone; here the hash of all kernel sources is part of the key, so an update of any of them recompiles.
"""

# ruff: noqa: PLR0917 - compiled kernels take their arrays by position
from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeward.clinic.monitor.beat_net import INPUTS
from edgeward.clinic.monitor.beats import FEATURES, R_BEFORE_AT, R_CURVES, R_FEATURES, R_LATER, R_WIDTH, RESULT, judge
from edgeward.clinic.monitor.compiled import bare
from edgeward.clinic.monitor.detector import (
    B_ENERGY,
    B_FIDUCIAL,
    B_HEIGHT,
    B_REPORT,
    BEAT_FIELDS,
    detect,
)
from edgeward.clinic.monitor.ectopy import HISTORY, SETTLED, UNKNOWN, chance_of
from edgeward.clinic.monitor.fibrillation import MEASURES
from edgeward.clinic.monitor.front_end import front_end, restart
from edgeward.clinic.monitor.gaps import note_gap
from edgeward.clinic.monitor.looks import look_anew
from edgeward.clinic.monitor.rhythm import on_beat, on_gap, on_tick
from edgeward.clinic.monitor.state import CHANNEL, HELD, MASK, MAX_LEADS, MAX_STEP, RING
from edgeward.clinic.monitor.voting import is_supported

#: One packet of one patient in the queue.
BLOCK = np.dtype(
    [("patient", "i8"), ("offset", "i8"), ("samples", "i8"), ("first", "i8"), ("off_mask", "i4"), ("leads", "i4")]
)

#: A beat as reported to whoever wants to know (evaluation, display).
BEAT = np.dtype(
    [
        ("patient", "i8"),
        ("lead", "i4"),
        ("counted", "i4"),
        ("sample", "f8"),  # of the fiducial, in the stream
        ("reported", "i8"),  # sample at which it was known
        ("width_ms", "f8"),
        ("ventricular", "f8"),  # probability by what was known at once; -1: the beat was not counted
        ("before", "i4"),  # kind (``ectopy``) of the counted beat `SETTLED` before, settled by this one
        ("energy", "f8"),
        ("height", "f8"),
        ("features", "f8", (HELD,)),
        ("later_of", "f8"),  # sample of this lead's beat before, -1: none
        ("later", "f8", (FEATURES,)),  # its features in hindsight
        ("curves", "f4", (INPUTS,)),  # and its curve beside the usual one (``beat_net``)
    ]
)

_PIECE = 32  # beats one lead can report at once: 2.5 s at 300 a minute when learning ends, and then some

_SOURCES = ("compiled", "state", "filters", "qrs_model", "jumps", "front_end", "candidate", "detector",
            "beats", "beat_model", "beat_net", "ectopy", "unrest", "unrest_model", "unreadable", "atrial", "gaps",
            "first_sight", "fibrillation", "looks", "voting", "patient", "listening", "rhythm", "kernel")  # fmt: skip


def _stamp() -> int:
    total = 0
    for name in _SOURCES:
        total = zlib.crc32(Path(__file__).with_name(f"{name}.py").read_bytes(), total)
    return total


@bare
def advance_lead(
    c: Any,
    trace: NDArray[np.float32],
    band: NDArray[np.float32],
    raw: NDArray[np.int16],
    first: int,
    codes: NDArray[np.int16],
    phases: NDArray[np.float32],
    work: NDArray[np.float64],
    beats: NDArray[np.float64],
    extra: NDArray[np.float64],
    model: Any,
    net: Any,
) -> int:
    """Take one lead through `raw`; return how many beats were reported (rows of `beats` and `extra`)."""
    if c.running == 0:
        until = c.n
        skipped = (first - c.start_raw) // c.decimation - (c.n - c.start_n)
        if skipped > 0 and c.n > 0:
            for k in range(min(skipped, RING)):
                trace[(c.n + k) & MASK] = 0.0
                band[(c.n + k) & MASK] = 0.0
            c.n += skipped
        restart(c, first)
        note_gap(c, until)
        c.beat_peak_n = max(c.beat_peak_n, c.n)
    count, at = 0, 0
    made = front_end(c, raw, codes, phases, work)
    while at < made:
        at, more = detect(c, codes[1], trace, band, work, at, made, work[4], beats[count:], net)
        for k in range(count, count + more):
            judge(c, trace, beats[k], work[5], model, extra[k])
        count += more
    return count


@bare
def take_beats(
    p: Any,
    channels: Any,
    traces: NDArray[np.float32],
    bands: NDArray[np.float32],
    who: int,
    b: int,
    beats: NDArray[np.float64],
    extra: NDArray[np.float64],
    counts: NDArray[np.int64],
    out: Any,
    found: int,
    told: Any,
    heard: int,
    scratch: NDArray[np.float64],
    taken: NDArray[np.int64],
) -> tuple[int, int]:
    """Give the beats of all leads to the rhythm in the order in which they were known."""
    for k in range(p.leads):
        taken[k] = 0
    while True:
        lead = -1
        for k in range(p.leads):
            if taken[k] < counts[k] and (
                lead < 0
                or beats[k, taken[k], B_REPORT] < beats[lead, taken[lead], B_REPORT]
                or (beats[k, taken[k], B_REPORT] == beats[lead, taken[lead], B_REPORT] and k == p.primary)
            ):
                lead = k
        if lead < 0:
            return found, heard
        row = beats[lead, taken[lead]]
        more = extra[lead, taken[lead]]
        counted = False
        if is_supported(p, channels, bands, lead, row):
            found, counted = on_beat(p, channels, traces, who, b, lead, row, more, scratch, out, found)
        if heard < told.size:
            t = told[heard]
            t.patient = who
            t.lead = lead
            t.counted = 1 if counted else 0
            t.sample = row[B_FIDUCIAL]
            t.reported = np.int64(row[B_REPORT])
            t.width_ms = more[R_WIDTH]
            t.ventricular = chance_of(p, (p.beats - 1) % HISTORY) if counted else -1.0
            t.before = p.kinds[(p.beats - 1 - SETTLED) % HISTORY] if counted and p.beats > SETTLED else UNKNOWN
            t.energy = row[B_ENERGY]
            t.height = row[B_HEIGHT]
            t.later_of = more[R_BEFORE_AT]
            for k in range(HELD):
                t.features[k] = more[R_FEATURES + k]
            if t.later_of >= 0.0:  # else nothing was written there
                for k in range(FEATURES):
                    t.later[k] = more[R_LATER + k]
                for k in range(INPUTS):
                    t.curves[k] = more[R_CURVES + k]
            heard += 1
        taken[lead] += 1


@bare
def advance_all(
    patients: Any,
    channels: Any,
    traces: NDArray[np.float32],
    bands: NDArray[np.float32],
    samples: NDArray[np.int16],
    blocks: Any,
    out: Any,
    told: Any,
    model: Any,
    net: Any,
    work: NDArray[np.float64],
    codes: NDArray[np.int16],
    phases: NDArray[np.float32],
    beats: NDArray[np.float64],
    extra: NDArray[np.float64],
    counts: NDArray[np.int64],
    taken: NDArray[np.int64],
    measures: NDArray[np.float64],
) -> tuple[int, int]:
    """Take every block through its patient's leads and rhythm; return how many events and beats were written."""
    found, heard = 0, 0
    for b in range(blocks.size):
        block = blocks[b]
        who = block.patient
        p = patients[who]
        first, skip = block.first, 0
        if p.started == 0:
            p.started = 1
            p.next_index = first
            p.next_tick = (first // p.hop + 1) * p.hop
            p.anchor = float(first)
            look_anew(p)
        if first > p.next_index:  # a gap: nobody saw what was there
            on_gap(p, first)
            p.next_index = first
            p.next_tick = (first // p.hop + 1) * p.hop
            for k in range(p.leads):
                channels[p.row + k].running = 0
        elif first < p.next_index:  # sent twice
            skip = p.next_index - first
            if skip >= block.samples:
                continue
        at = skip
        for k in range(p.leads):
            c = channels[p.row + k]
            c.lead_off = block.off_mask >> k & 1
            if c.lead_off == 1:
                c.running = 0
                c.was_off = 1
        while at < block.samples:
            size = min(block.samples - at, p.next_tick - p.next_index)
            for k in range(p.leads):
                counts[k] = 0
                row = p.row + k
                c = channels[row]
                if c.lead_off == 0:
                    start = block.offset + k * block.samples + at
                    piece = samples[start : start + size]
                    counts[k] = advance_lead(
                        c,
                        traces[row],
                        bands[row],
                        piece,
                        p.next_index,
                        codes,
                        phases,
                        work,
                        beats[k],
                        extra[k],
                        model,
                        net,
                    )
            found, heard = take_beats(
                p, channels, traces, bands, who, b, beats, extra, counts, out, found, told, heard, work[0], taken
            )
            p.next_index += size
            at += size
            if p.next_index == p.next_tick:
                p.next_tick += p.hop
                found = on_tick(p, who, b, float(p.next_index), channels, traces, bands, work[0], measures, out, found)
    return found, heard


class Room(NamedTuple):
    """Memory that `advance` works in. What is in it before a call is not read."""

    work: NDArray[np.float64]
    codes: NDArray[np.int16]
    phases: NDArray[np.float32]
    beats: NDArray[np.float64]
    extra: NDArray[np.float64]
    counts: NDArray[np.int64]
    taken: NDArray[np.int64]
    measures: NDArray[np.float64]


def new_room() -> Room:
    """Make it once: new memory for each call is mapped, cleared and given back by the kernel each time."""
    return Room(
        work=np.zeros((6, 2048)),
        codes=np.zeros((2, 2048), dtype=np.int16),
        phases=np.zeros((MAX_STEP + 1, 2048), dtype=np.float32),
        beats=np.zeros((MAX_LEADS, _PIECE, BEAT_FIELDS)),
        extra=np.zeros((MAX_LEADS, _PIECE, RESULT)),
        counts=np.zeros(MAX_LEADS, dtype=np.int64),
        taken=np.zeros(MAX_LEADS, dtype=np.int64),
        measures=np.zeros(MEASURES),
    )


def _build(stamp: int) -> Callable[..., tuple[int, int]]:
    @njit(cache=True)
    def advance(
        patients: Any,
        channels: Any,
        traces: NDArray[np.float32],
        bands: NDArray[np.float32],
        samples: NDArray[np.int16],
        blocks: Any,
        out: Any,
        told: Any,
        model: Any,
        net: Any,
        room: Any,
    ) -> tuple[int, int]:
        if stamp == -1:  # the stamp is in the cache key because it is used
            return 0, 0
        return advance_all(
            patients,
            channels,
            traces,
            bands,
            samples,
            blocks,
            out,
            told,
            model,
            net,
            room.work,
            room.codes,
            room.phases,
            room.beats,
            room.extra,
            room.counts,
            room.taken,
            room.measures,
        )

    return advance


advance = _build(_stamp())
CHANNEL_DTYPE = CHANNEL
