"""Scores what the monitor says of the rhythm against the annotations of recordings.

Responsible for ventricular tachycardia (run by run, told in time or not, told without a run), and for atrial
fibrillation, bigeminy and trigeminy (by duration and by episode, after ANSI/AAMI EC57). Not responsible for single
beats (``evaluate``). A rhythm counts as told from the sample at which it was known until its end was known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.beat_model import BeatModel
from edgeward.clinic.monitor.evaluate import BEATS, CHAOS, PACKETS_AT_ONCE, VENTRICULAR
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.records import GAIN_UV, Recording, read_annotations, read_recording

#: Codes and the WFDB rhythm notes that mean them. Flutter may be called fibrillation of the atria or not.
RHYTHMS = {"atrial_fibrillation": "(AFIB", "bigeminy": "(B", "trigeminy": "(T"}
EITHER = {"atrial_fibrillation": ("(AFL",)}
VT_NOTES = ("(VT", "(VFL", "(VF", "(VFIB")
VT_BEATS, VT_RATE, VT_IN_TIME_S = 5, 100.0, 10.0
LETHAL = ("asystole", "ventricular_fibrillation", "ventricular_tachycardia", "extreme_bradycardia")

Stretch = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Told:
    """A condition that was told: from when to when (samples), and when it began."""

    code: str
    known: int
    end: int
    onset: int


def conditions_of(recording: Recording, *, model: BeatModel | None = None, limits: Limits | None = None) -> list[Told]:
    """Return the conditions that a recording tells, in the order in which they were known."""
    bank = MonitorBank(limits, model=model)
    bank.enrol(recording.name, rate_hz=recording.rate_hz, leads=recording.leads, gain_uv=GAIN_UV)
    length = recording.samples.shape[1]
    open_: dict[str, tuple[int, int]] = {}
    told: list[Told] = []
    events = []
    for number, (first, samples, off) in enumerate(recording.packets(1.0)):
        bank.push(recording.name, samples, first_sample=first, sequence=number, received_ns=0, lead_off=off)
        if number % PACKETS_AT_ONCE == PACKETS_AT_ONCE - 1:
            events += bank.process(0)
    for event in events + bank.process(0):
        if event.present:
            open_.setdefault(event.code, (event.decisive_sample, event.onset_sample))
        elif event.code in open_:
            known, onset = open_.pop(event.code)
            told.append(Told(event.code, known, event.decisive_sample, onset))
    told += [Told(code, known, length, onset) for code, (known, onset) in open_.items()]
    return sorted(told, key=lambda t: t.known)


def stretches(samples: NDArray[np.int64], notes: list[str], wanted: tuple[str, ...], length: int) -> list[Stretch]:
    """Return where one of the wanted rhythms is annotated."""
    found: list[Stretch] = []
    start: int | None = None
    for at, note in zip(samples.tolist(), notes, strict=True):
        if not note.startswith("("):
            continue
        if start is not None:
            found.append((start, at))
        start = at if note in wanted else None
    return found if start is None else [*found, (start, length)]


def ventricular_runs(
    samples: NDArray[np.int64], symbols: list[str], rate_hz: float, *, beats: int = VT_BEATS, rate: float = VT_RATE
) -> list[Stretch]:
    """Return runs with at least `beats` ventricular beats in a row that reach `rate` (1/min) over that many."""
    found: list[Stretch] = []
    run: list[int] = []
    sequence = [(at, s in VENTRICULAR) for at, s in zip(samples.tolist(), symbols, strict=True) if s in BEATS]
    for at, ventricular in [*sequence, (0, False)]:
        if ventricular:
            run.append(at)
            continue
        most = rate_hz * 60.0 / rate * (beats - 1)
        if any(run[k + beats - 1] - run[k] <= most for k in range(len(run) - beats + 1)):
            found.append((run[0], run[-1]))
        run = []
    return found


def mask(parts: list[Stretch], length: int) -> NDArray[np.bool_]:
    """Return a boolean per sample."""
    marked = np.zeros(length, dtype=np.bool_)
    for start, stop in parts:
        marked[max(start, 0) : stop] = True
    return marked


def score_rhythm(path: str | Path, *, model: BeatModel | None = None) -> dict[str, Any]:
    """Score the rhythms of one record.

    Returns
    -------
    dict
        Per code of `RHYTHMS`: seconds ``true``, ``told``, ``both`` and, of episodes of 60 s or more, ``episodes``,
        ``found``; ``false_episodes`` overlap no annotation. ``ventricular_tachycardia``: ``runs``, ``found``,
        ``in_time`` (within 10 s of the first beat), ``delays_s``, ``alarms``, ``unmatched``. ``lethal``: how often
        each lethal condition was told. ``hours``.

    Raises
    ------
    RecordError
        If the record or its annotations cannot be used.
    """
    samples, symbols, notes = read_annotations(path)
    recording = read_recording(path)
    length, rate = recording.samples.shape[1], recording.rate_hz
    told = conditions_of(recording, model=model)
    figures: dict[str, Any] = {"hours": length / rate / 3600.0}
    for code, note in RHYTHMS.items():
        truth = stretches(samples, notes, (note,), length)
        mine = [(t.known, t.end) for t in told if t.code == code]
        either = mask(stretches(samples, notes, EITHER.get(code, ()), length), length)
        is_true, is_told = mask(truth, length), mask(mine, length) & ~either
        long = [part for part in truth if part[1] - part[0] >= 60.0 * rate]
        figures[code] = {
            "true_s": round(float(is_true.sum()) / rate, 1),
            "told_s": round(float(is_told.sum()) / rate, 1),
            "both_s": round(float((is_true & is_told).sum()) / rate, 1),
            "episodes": len(long),
            "found": sum(1 for start, stop in long if is_told[start:stop].any()),
            "false_episodes": sum(1 for start, stop in mine if not (is_true | either)[start:stop].any()),
        }
    runs = ventricular_runs(samples, symbols, rate)
    alarms = [t for t in told if t.code == "ventricular_tachycardia"]
    # An alarm belongs to a run if it was known between the run's first beat and ten seconds after its last.
    margin = int(VT_IN_TIME_S * rate)
    delays = []
    for start, stop in runs:
        hits = [t for t in alarms if t.known <= stop + margin and t.end >= start]
        if hits:
            delays.append(round(max(0.0, (hits[0].known - start) / rate), 2))
    real = runs + stretches(samples, notes, VT_NOTES, length)
    real += ventricular_runs(samples, symbols, rate, beats=VT_BEATS, rate=0.9 * VT_RATE)
    unmatched = [t for t in alarms if not any(t.onset <= stop + rate and t.known >= start for start, stop in real)]
    figures["ventricular_tachycardia"] = {
        "runs": len(runs),
        "found": len(delays),
        "in_time": sum(1 for d in delays if d <= VT_IN_TIME_S),
        "delays_s": delays,
        "alarms": len(alarms),
        "unmatched": len(unmatched),
    }
    figures["lethal"] = {code: sum(1 for t in told if t.code == code) for code in LETHAL}
    return figures


def sum_up(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all records together; duration and episode sensitivity and +P in percent."""

    def share(part: float, whole: float) -> float | None:
        return round(100.0 * part / whole, 1) if whole else None

    total: dict[str, Any] = {"hours": round(sum(r["hours"] for r in records.values()), 2)}
    for code in RHYTHMS:
        one = {k: sum(r[code][k] for r in records.values()) for k in ("true_s", "told_s", "both_s", "episodes", "found",
                                                                      "false_episodes")}  # fmt: skip
        total[code] = {
            "duration_se": share(one["both_s"], one["true_s"]),
            "duration_ppv": share(one["both_s"], one["told_s"]),
            "episode_se": share(one["found"], one["episodes"]),
            **one,
        }
    runs = [r["ventricular_tachycardia"] for r in records.values()]
    total["ventricular_tachycardia"] = {
        **{k: sum(r[k] for r in runs) for k in ("runs", "found", "in_time", "alarms", "unmatched")},
        "unmatched_per_hour": round(sum(r["unmatched"] for r in runs) / max(total["hours"], 1e-9), 2),
    }
    total["lethal"] = {code: sum(r["lethal"][code] for r in records.values()) for code in LETHAL}
    return total


assert CHAOS[0] in VT_NOTES
