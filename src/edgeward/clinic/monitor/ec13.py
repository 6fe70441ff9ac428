"""Measures the monitor on generated waveforms after ANSI/AAMI EC13 and IEC 60601-2-27, as makers disclose it.

Responsible for these figures and for setting them beside what three makers print in their manuals. Makers measure on
the standards' own waveforms, so only the order of magnitude compares. The limits that must be kept are tests
(``tests/clinic/monitor/test_ec13.py``). Not responsible for real recordings (``evaluate``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor import generated as ecg
from edgeward.clinic.monitor.bank import MonitorBank

RATE = 250
PULSES = np.arange(0.6, 28, 0.75)
#: Manuals: GE B20 p. 141, Mindray uMEC10 p. 232, Philips MP2 p. 300.
MAKERS = ("GE B20", "Mindray uMEC10", "Philips MP2")


@dataclass(frozen=True, slots=True)
class Row:
    """One disclosed figure."""

    name: str
    unit: str
    measured: float | list[float | None] | None
    makers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Heard:
    """What a bank said of one signal: beats (s), the last heart rate, and when each condition first began (s)."""

    beats: NDArray[np.float64]
    heart_rate: float | None
    began: dict[str, list[float]]


def listen(x: NDArray[np.float64], rate: int = RATE, gain_uv: float = 1.0) -> Heard:
    """Send one lead, shape (n,), in mV, through a bank in packets of a second."""
    codes = np.clip(np.rint(x * 1e3 / gain_uv), -32768, 32767).astype(np.int16)[None]
    bank = MonitorBank(collect_beats=True)
    bank.enrol("d", rate_hz=float(rate), leads=("II",), gain_uv=gain_uv)
    began: dict[str, list[float]] = {}
    for number, first in enumerate(range(0, codes.shape[1], rate)):
        now = int((first + rate) / rate * 1e9)
        bank.push("d", np.ascontiguousarray(codes[:, first : first + rate]), first_sample=first, sequence=number,
                  received_ns=now)  # fmt: skip
        for event in bank.process(now):
            if event.present:
                began.setdefault(event.code, []).append(event.decisive_sample / rate)
    beats = bank.take_beats()
    beats = beats[beats["counted"] == 1]
    return Heard(np.sort(beats["sample"]) / rate, bank.numerics("d", 0).heart_rate, began)


def heart_rate_error() -> float:
    """Return the largest error of the shown rate over 15 to 300/min, in 1/min."""
    worst = 0.0
    for bpm in (15, 20, 30, 45, 60, 80, 120, 160, 200, 240, 300):
        shown = listen(ecg.regular(bpm, RATE, 40, width=0.1 if bpm <= 200 else 0.06, shape="triangle")).heart_rate
        worst = max(worst, abs((shown or 0.0) - bpm))
    return round(worst, 1)


def largest(
    heights: NDArray[np.float64], signal: Callable[[float], NDArray[np.float64]], right: Callable[[Heard], bool]
) -> float:
    """Return the last height, in mV, up to which everything was right."""
    best = 0.0
    for height in heights.tolist():
        if not right(listen(signal(height))):
            break
        best = height
    return round(best, 2)


def tall_t_wave(shape: str) -> float:
    """Return the tallest T wave, in mV, that is not counted beside a QRS of 1 mV and 100 ms (QT 350 ms)."""
    count = len(np.arange(0.6, 29.6, 0.75))
    return largest(
        np.arange(0.2, 3.05, 0.1),
        lambda height: ecg.regular(80, RATE, 30, t=height, shape=shape, qt=0.35),
        lambda heard: len(heard.beats) == count,
    )


def small_qrs() -> float:
    """Return the height of a QRS (triangle, 100 ms), in mV, up to which none is counted."""
    return largest(
        np.arange(0.05, 0.6, 0.01),
        lambda height: ecg.regular(80, RATE, 20, height=height, t=0.0, shape="triangle"),
        lambda heard: len(heard.beats) == 0,
    )


def response(before: float, after: float, part: float = 0.95) -> float | None:
    """Return the time, in s, until the shown rate has gone `part` of a step; None: not within 14 s."""
    for seconds in np.arange(0.5, 14.0, 0.5).tolist():
        at = np.concatenate((np.arange(0.6, 20, 60 / before), np.arange(20.2, 20.2 + seconds, 60 / after)))
        shown = listen(ecg.beats_at(at, RATE, 20.2 + seconds)).heart_rate
        if shown is not None and (shown - before) / (after - before) >= part:
            return float(seconds)
    return None


def irregular(intervals: list[float]) -> float | None:
    """Return the rate shown, in 1/min, of a rhythm whose intervals repeat."""
    at = 0.6 + np.cumsum(np.resize(np.asarray(intervals), 80))
    shown = listen(ecg.beats_at(at[at < 39], RATE, 40)).heart_rate
    return None if shown is None else round(shown)


def alarm_time(codes: set[str], make: Callable[[float], NDArray[np.float64]]) -> list[float | None]:
    """Return the times, in s after 20 s, to one of the conditions, at amplitudes of half, once and twice."""
    found: list[float | None] = []
    for factor in (0.5, 1.0, 2.0):
        began = listen(make(factor)).began
        told = [at - 20 for code in codes for at in began.get(code, []) if at > 20]
        found.append(round(min(told), 1) if told else None)
    return found


def tachycardia(bpm: float) -> Callable[[float], NDArray[np.float64]]:
    """Return a maker of 20 s of sinus rhythm, then ventricular tachycardia."""

    def make(factor: float) -> NDArray[np.float64]:
        x = ecg.beats_at(np.arange(0.6, 19.7, 0.75), RATE, 40)
        return x + ecg.wide_beats_at(np.arange(20.0, 39, 60 / bpm), RATE, 40, height=1.6 * factor)

    return make


def asystole_time() -> float | None:
    """Return the time, in s after the last beat, until asystole is told."""
    x = ecg.regular(75, RATE, 40)
    x[20 * RATE :] = 0.0
    told = listen(x).began.get("asystole")
    return round(told[0] - 19.8, 1) if told else None


def paced(height: float, width_s: float, tail_mv: float = 0.0, tail_s: float = 0.008) -> float:
    """Return how many of 37 pulses without capture are counted, with an overshoot of `tail_mv` that decays."""
    rate = 1000
    x = ecg.pacing(np.zeros(30 * rate), rate, PULSES, height, width_s)
    if tail_mv:
        x = ecg.overshoot(x, rate, PULSES, tail_mv, tail_s, width_s=width_s)
    return float(len(listen(x, rate, gain_uv=25.0 if height > 30 else 1.0).beats))


def evaluate_ec13() -> dict[str, Any]:
    """Measure all figures; takes about a minute.

    Returns
    -------
    dict
        ``rows``: each with ``name``, ``unit``, ``measured`` (a number, a list of numbers, or None: never), ``makers``
        (what they disclose, as text); ``rate_hz``; ``sources`` of the makers' figures.
    """
    lethal = {"ventricular_tachycardia", "ventricular_fibrillation"}
    ge, mindray, philips = MAKERS
    rows = [
        Row("heart rate 15-300/min, largest error", "1/min", heart_rate_error(), {ge: "5 % or 5/min, 30-300"}),
        *(
            Row(f"tallest T wave not counted, {shape} QRS of 1 mV", "mV", tall_t_wave(shape),
                {ge: "> 1.4", mindray: "1.2", philips: "> 1.2"})
            for shape in ("natural", "triangle", "sine")
        ),
        Row("QRS not counted up to", "mV", small_qrs(), {ge: "counted from 0.5"}),
        Row("step 80 to 120/min, 95 % shown", "s", response(80, 120), {ge: "6.9", mindray: "< 11", philips: "6.8"}),
        Row("step 80 to 40/min, 95 % shown", "s", response(80, 40), {ge: "8.2", mindray: "< 11", philips: "6.0"}),
        Row("bigeminy 0.5 + 1.0 s, rate shown", "1/min", irregular([0.5, 1.0]),
            {ge: "80", mindray: "80", philips: "80"}),
        Row("intervals 0.4, 0.4, 0.8, 0.8 s, rate shown", "1/min", irregular([0.4, 0.4, 0.8, 0.8])),
        Row("VT 120/min to alarm at 0.8, 1.6, 3.2 mV", "s", alarm_time(lethal, tachycardia(120)),
            {ge: "9.9, 7.1, 4.4", mindray: "< 11", philips: "7.2, 6.5, 6.3 (206/min)"}),
        Row("VT 195/min to alarm at 0.8, 1.6, 3.2 mV", "s", alarm_time(lethal, tachycardia(195)),
            {mindray: "< 11", philips: "5.8, 6.1, 5.7"}),
        Row("asystole after the last beat", "s", asystole_time()),
        *(
            Row(f"pacing pulse {h:g} mV, {w * 1e3:g} ms, no capture: counted of 37", "", paced(h, w),
                {philips: "2-700 mV rejected"})
            for h in (2.0, 30.0, 700.0) for w in (0.001, 0.002)
        ),
        *(
            Row(f"the same, 30 mV, 2 ms, {tail:g} mV overshoot, {s * 1e3:g} ms: counted of 37", "",
                paced(30.0, 0.002, tail, s))
            for tail in (0.5, 2.0, -2.0) for s in (0.004, 0.03, 0.1)
        ),
    ]  # fmt: skip
    return {
        "rows": [{"name": row.name, "unit": row.unit, "measured": row.measured, "makers": row.makers} for row in rows],
        "rate_hz": RATE,
        "sources": "manuals: GE B20 p. 141, Mindray uMEC10 p. 232, Philips MP2 p. 300",
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(text(one) for one in value)
        return "never" if value is None else f"{value:g}"

    lines = ["| | Edgeward | " + " | ".join(MAKERS) + " |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['name']} | {text(row['measured'])} {row['unit']} | "
        + " | ".join(row["makers"].get(maker, "") for maker in MAKERS)
        + " |"
        for row in result["rows"]
    ]
    return "\n".join(lines)
