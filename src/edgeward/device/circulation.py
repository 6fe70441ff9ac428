"""What a simulated patient's heartbeats and breaths look like in pleth, arterial pressure and impedance.

Responsible for the shapes, as pure functions of beat times and a random generator. Not responsible for when beats and
events happen (`stream`, `schedule`). They are synthetic: plausible in timing and shape, no measurement, and they never
count in a quoted accuracy of detection on patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]

PLETH_DELAY_S = 0.28  # R wave to the foot of the finger's pulse
ARTERIAL_DELAY_S = 0.16  # R wave to the foot in the radial artery


@dataclass(frozen=True, slots=True)
class Pulse:
    """One ejection: when the QRS was, and its stroke as a part of the usual one (0: no pulse)."""

    at_s: float
    stroke: float = 1.0


def strokes(times_s: Sequence[float], ventricular: Sequence[bool] | None = None) -> list[Pulse]:
    """Return the ejection of each QRS.

    An early beat meets a heart that has not filled: its stroke falls with the interval before it, a ventricular one's
    by another third, and the beat after the pause is stronger (Frank-Starling).
    """
    found: list[Pulse] = []
    usual = 0.8
    for i, at in enumerate(times_s):
        interval = at - times_s[i - 1] if i else usual
        early = interval / usual
        stroke = (
            float(np.clip((early - 0.42) / 0.4, 0.0, 1.0)) if early < 0.82 else float(min(1.15, 0.85 + 0.15 * early))
        )
        if ventricular is not None and ventricular[i]:
            stroke *= 0.65
        found.append(Pulse(float(at), stroke))
        if 0.24 < interval < 2.0:
            usual += 0.2 * (interval - usual)
    return found


def pleth(pulses: Sequence[Pulse], first: int, count: int, rate_hz: float, *, amplitude: float = 1.0) -> Signal:
    """Return `count` samples from index `first` on of a photoplethysmogram, `amplitude` high, around 0.

    Each pulse: a fast rise, a peak 0.2 s after its foot, a dicrotic wave, a run-off of about 0.4 s.
    """
    time = (first + np.arange(count)) / rate_hz
    signal = np.zeros(count)
    for pulse in pulses:
        foot = pulse.at_s + PLETH_DELAY_S
        low, high = np.searchsorted(time, (foot, foot + 2.2))
        if low >= high or pulse.stroke <= 0.0:
            continue
        t = time[low:high] - foot
        rise = (t / 0.16) ** 2 * np.exp(2.0 * (1.0 - t / 0.16))
        dicrotic = 0.28 * np.exp(-(((t - 0.42) / 0.09) ** 2))
        signal[low:high] += amplitude * pulse.stroke * (rise + dicrotic * (1.0 - np.exp(-t / 0.1)))
    return signal


def pressure(
    pulses: Sequence[Pulse],
    first: int,
    count: int,
    rate_hz: float,
    *,
    systolic: float = 122.0,
    diastolic: float = 72.0,
    delay_s: float = ARTERIAL_DELAY_S,
    floor: float = 22.0,
    usual: float = 0.8,
) -> Signal:
    """Return `count` samples from index `first` on of an arterial pressure, mm[Hg].

    A two-element windkessel: each ejection adds to the store, the store runs off towards `floor`, which is where the
    pressure ends when the heart has stopped (mean systemic filling pressure). `usual`: seconds between two beats at
    which it reaches `systolic` and `diastolic`.
    """
    time = (first + np.arange(count)) / rate_hz
    run_off = usual / max(np.log((systolic - floor) / (diastolic - floor)), 0.1) * 1.15
    pulse_pressure = systolic - diastolic
    signal = np.full(count, floor)
    for pulse in pulses:
        foot = pulse.at_s + delay_s
        low, high = np.searchsorted(time, (foot, foot + 9.0 * run_off))
        if low >= high or pulse.stroke <= 0.0:
            continue
        t = time[low:high] - foot
        fill = 1.0 - np.exp(-((t / 0.075) ** 2))
        store = (systolic - floor) * (1.0 - np.exp(-usual / run_off)) * 1.02
        signal[low:high] += pulse.stroke * store * fill * np.exp(-t / run_off)
        signal[low:high] += pulse.stroke * 0.25 * pulse_pressure * np.exp(-(((t - 0.13) / 0.07) ** 2)) * fill
        signal[low:high] += pulse.stroke * 0.08 * pulse_pressure * np.exp(-(((t - 0.40) / 0.05) ** 2))
    return signal


def venous_pressure(pulses: Sequence[Pulse], first: int, count: int, rate_hz: float, *, mean: float = 8.0) -> Signal:
    """Return `count` samples from index `first` on of a central venous pressure, mm[Hg].

    The a wave of the atrium before each QRS, the c wave with it, the v wave late in systole, x and y descent between.
    """
    time = (first + np.arange(count)) / rate_hz
    signal = np.full(count, mean)
    for pulse in pulses:
        for after_s, width_s, height in (
            (-0.06, 0.05, 2.6), (0.08, 0.03, 1.2), (0.20, 0.06, -1.8), (0.38, 0.06, 2.0), (0.52, 0.06, -1.4),
        ):  # fmt: skip
            low, high = np.searchsorted(time, (pulse.at_s + after_s - 0.25, pulse.at_s + after_s + 0.25))
            t = time[low:high] - pulse.at_s - after_s
            signal[low:high] += height * np.exp(-((t / width_s) ** 2))
    return signal


def capnogram(first: int, count: int, rate_hz: float, *, per_minute: float = 15.0, end_tidal: float = 38.0) -> Signal:
    """Return `count` samples of a capnogram, mm[Hg]: nothing while breathing in, a plateau up to `end_tidal`."""
    cycle = ((first + np.arange(count)) / rate_hz * per_minute / 60.0) % 1.0  # in phase with `breathing`
    out = (cycle - 0.46) / 0.54
    plateau = end_tidal * (0.92 + 0.08 * np.clip(out, 0.0, 1.0))
    rise = 1.0 / (1.0 + np.exp(-(cycle - 0.50) / 0.012))
    falls = 1.0 - 1.0 / (1.0 + np.exp(-(cycle - 0.985) / 0.004))
    return np.asarray(plateau * rise * falls)


def breathing(
    first: int, count: int, rate_hz: float, *, per_minute: float = 15.0, depth: float = 1.0, phase: float = 0.0
) -> Signal:
    """Return `count` samples of an impedance pneumogram, `depth` ohms high: one part in, one and a half out."""
    cycle = ((first + np.arange(count)) / rate_hz * per_minute / 60.0 + phase) % 1.0
    return depth * np.where(
        cycle < 0.4, 0.5 - 0.5 * np.cos(np.pi * cycle / 0.4), 0.5 + 0.5 * np.cos(np.pi * (cycle - 0.4) / 0.6)
    )


def cardiac_artefact(pulses: Sequence[Pulse], first: int, count: int, rate_hz: float, *, depth: float = 0.08) -> Signal:
    """Return what the heart's own movement adds to an impedance pneumogram, ohms."""
    time = (first + np.arange(count)) / rate_hz
    signal = np.zeros(count)
    for pulse in pulses:
        low, high = np.searchsorted(time, (pulse.at_s - 0.1, pulse.at_s + 0.6))
        t = time[low:high] - pulse.at_s - 0.2
        signal[low:high] += depth * pulse.stroke * np.exp(-((t / 0.12) ** 2))
    return signal


def motion(rng: np.random.Generator, count: int, rate_hz: float, size: float) -> Signal:
    """Return a movement: noise of 0.5 to 4 Hz, `size` high, swelling and fading."""
    spectrum = np.fft.rfftfreq(max(count, 2), 1.0 / rate_hz)
    band = ((spectrum > 0.5) & (spectrum < 4.0)) * np.exp(2j * np.pi * rng.random(spectrum.size))
    signal = np.fft.irfft(band, max(count, 2))[:count]
    spread = float(signal.std())
    return size / 3.0 * signal / spread if spread > 0.0 else signal
