"""Prints how the monitor does on generated waveforms after ANSI/AAMI EC13 and IEC 60601-2-27, as a table.

    python benchmarks/ec13.py

The limits that a test must keep are in ``tests/clinic/monitor/test_ec13.py``; here the figures themselves are measured,
in the way in which makers disclose them. Times to alarm are from the first changed beat to the packet that decides.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support import ecg

RATE = 250


def heart_rate_errors() -> str:
    """Return the largest error of the shown rate over 15 to 300/min."""
    worst = 0.0
    for bpm in (15, 20, 30, 45, 60, 80, 120, 160, 200, 240, 300):
        x = ecg.regular(bpm, RATE, 40, width=0.1 if bpm <= 200 else 0.06, shape="triangle")
        shown = ecg.run(x, RATE).heart_rate
        worst = max(worst, abs((shown or 0.0) - bpm))
    return f"{worst:.1f}/min"


def largest(heights: NDArray[np.float64], signal: Callable[[float], Any], right: Callable[[Any], bool]) -> float:
    """Return the last height up to which everything was right."""
    best = 0.0
    for height in heights:
        if not right(ecg.run(signal(float(height)), RATE)):
            break
        best = float(height)
    return best


def tall_t_wave() -> str:
    """Return the tallest T wave that is not counted, for QRS of 1 mV and 100 ms of three shapes (QT 350 ms)."""
    count = len(np.arange(0.6, 29.6, 0.75))
    heights = np.arange(0.2, 3.05, 0.1)
    parts = []
    for shape in ("natural", "triangle", "sine"):

        def tall(h: float, shape: str = shape) -> Any:
            return ecg.regular(80, RATE, 30, t=h, shape=shape, qt=0.35)

        parts.append(f"{shape} {largest(heights, tall, lambda r: len(r.beats) == count):.1f} mV")
    return ", ".join(parts)


def response(before: float, after: float) -> str:
    """Return the time until the shown rate has gone 63 % and 95 % of a step."""
    times: dict[float, float] = {}
    for seconds in np.arange(0.5, 14.0, 0.5):
        at = np.concatenate((np.arange(0.6, 20, 60 / before), np.arange(20.2, 20.2 + seconds, 60 / after)))
        shown = ecg.run(ecg.beats_at(at, RATE, 20.2 + seconds), RATE).heart_rate
        if shown is None:
            continue
        for part in (0.63, 0.95):
            if part not in times and (shown - before) / (after - before) >= part:
                times[part] = float(seconds)
    return " / ".join(f"{times[p]:.1f} s" if p in times else "never" for p in (0.63, 0.95))


def irregular(times: list[float]) -> str:
    """Return the rate shown of a rhythm whose intervals repeat."""
    at = 0.6 + np.cumsum(np.resize(np.asarray(times), 80))
    at = at[at < 39]
    shown = ecg.run(ecg.beats_at(at, RATE, 40), RATE).heart_rate
    return f"{shown:.0f}/min (mean {60 / float(np.mean(times)):.0f})" if shown else "no value"


def alarm_time(codes: set[str], make: Callable[[float], Any]) -> str:
    """Return the times to one of the alarms, at amplitudes of half, once and twice."""
    parts = []
    for factor in (0.5, 1.0, 2.0):
        result = ecg.run(make(factor), RATE)
        told = [decisive for code in codes for _, decisive in result.raised(code) if decisive > 20]
        parts.append(f"{min(told) - 20:.1f} s" if told else "never")
    return " / ".join(parts)


def tachycardia(bpm: float) -> Callable[[float], Any]:
    """Return a maker of 20 s of sinus rhythm, then ventricular tachycardia."""

    def make(factor: float) -> Any:
        x = ecg.beats_at(np.arange(0.6, 19.7, 0.75), RATE, 40)
        return x + ecg.wide_beats_at(np.arange(20.0, 39, 60 / bpm), RATE, 40, height=1.6 * factor)

    return make


def asystole(_: float) -> Any:
    """Return 20 s of rhythm, then nothing."""
    x = ecg.regular(75, RATE, 40)
    x[20 * RATE :] = 0.0
    return x


def pacing(height: float, width_s: float, tail_mv: float = 0.0, tail_s: float = 0.008) -> str:
    """Return how many pulses without capture are counted, of 37, with an overshoot of `tail_mv` that decays."""
    times = np.arange(0.6, 28, 0.75)
    x = ecg.pacing(np.zeros(30 * 1000), 1000, times, height, width_s)
    if tail_mv:
        t = np.arange(100) / 1000
        for at in times:
            a = int(at * 1000) + max(1, int(width_s * 1000))
            x[a : a + 100] -= tail_mv * np.exp(-t / tail_s)
    return f"{len(ecg.run(x, 1000).beats)} of {len(times)}"


def main() -> None:
    """Print the table."""
    small = np.arange(0.05, 0.6, 0.01)

    def low(h: float) -> Any:
        return ecg.regular(80, RATE, 20, height=h, t=0.0, shape="triangle")

    rows = [
        ("heart rate 15-300/min, largest error", heart_rate_errors()),
        ("tallest T wave not counted (QRS 1 mV, 100 ms)", tall_t_wave()),
        ("QRS not counted up to (triangle, 100 ms)", f"{largest(small, low, lambda r: len(r.beats) == 0):.2f} mV"),
        ("step 80 to 120/min, 63 % / 95 % shown", response(80, 120)),
        ("step 80 to 40/min, 63 % / 95 % shown", response(80, 40)),
        ("bigeminy 0.5 + 1.0 s", irregular([0.5, 1.0])),
        ("alternating 0.4, 0.4, 0.8, 0.8 s", irregular([0.4, 0.4, 0.8, 0.8])),
        ("VT 120/min at 0.8 / 1.6 / 3.2 mV", alarm_time({"ventricular_tachycardia", "ventricular_fibrillation"}, tachycardia(120))),
        ("VT 195/min at 0.8 / 1.6 / 3.2 mV", alarm_time({"ventricular_tachycardia", "ventricular_fibrillation"}, tachycardia(195))),
        ("asystole after the last beat's packet", alarm_time({"asystole"}, asystole)),
        *((f"pacing pulse {h:g} mV, {w * 1e3:g} ms, counted", pacing(h, w)) for h in (2.0, 30.0) for w in (0.001, 0.002)),
        ("pacing pulse 30 mV, 2 ms, 2 mV overshoot 8 ms", pacing(30.0, 0.002, 2.0)),
        ("pacing pulse 30 mV, 2 ms, 0.5 mV overshoot 8 ms", pacing(30.0, 0.002, 0.5)),
    ]  # fmt: skip
    print("| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |", flush=True)


if __name__ == "__main__":
    main()
