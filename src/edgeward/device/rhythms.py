"""What a simulated patient's ECG becomes when something happens: asystole, ventricular arrhythmias, a lead that is off.

Responsible for the shapes, in microvolts, as pure functions of a random generator. Not responsible for when they happen
(`schedule`). They exist to set off alarms in the demonstration and in tests; they are synthetic and never count in a
quoted accuracy, which comes from annotated recordings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]

_DECAY_S = 0.25  # an amplifier with a 0.5 Hz high-pass settles in about this time
_NOISE_UV = 6.0  # electrode and amplifier noise; IEC 60601-2-27 allows 30 uV peak to peak


def _noise(rng: np.random.Generator, count: int, rate_hz: float) -> Signal:
    """Electrode noise with some baseline wander, as left on a monitor without a heartbeat."""
    time = np.arange(count) / rate_hz
    wander = 12.0 * np.sin(2 * np.pi * rng.uniform(0.15, 0.3) * time + rng.uniform(0, 2 * np.pi))
    muscle = np.convolve(rng.normal(0.0, _NOISE_UV, count), (0.25, 0.5, 0.25), mode="same")
    return wander - wander[0] + muscle if count else muscle


def asystole(rng: np.random.Generator, count: int, rate_hz: float, start_uv: float) -> Signal:
    """Return `count` samples without atrial or ventricular activity, decaying from `start_uv` to the baseline."""
    time = np.arange(count) / rate_hz
    return start_uv * np.exp(-time / _DECAY_S) + _noise(rng, count, rate_hz)


def ventricular_tachycardia(
    rng: np.random.Generator, count: int, rate_hz: float, start_uv: float, per_minute: float = 172.0
) -> tuple[Signal, NDArray[np.int64]]:
    """Return monomorphic ventricular tachycardia and the sample index of each beat's peak.

    Wide complexes (about 140 ms at the base) with a discordant T wave, without P waves, at a nearly constant rate.
    """
    period = 60.0 / per_minute * rate_hz
    even = np.arange(0.6 * period, count, period)
    peaks: NDArray[np.int64] = np.round(even + rng.normal(0.0, 0.01 * period, even.size)).astype(np.int64)
    peaks = peaks[(peaks >= 0) & (peaks < count)]
    time = np.arange(count, dtype=np.float64)
    signal = asystole(rng, count, rate_hz, start_uv)
    reach = int(0.45 * rate_hz)
    for peak in peaks:
        span = slice(max(0, int(peak) - reach), min(count, int(peak) + reach))
        offset = (time[span] - peak) / rate_hz
        height = 1500.0 * rng.normal(1.0, 0.04)
        signal[span] += height * np.exp(-((offset / 0.036) ** 2))
        signal[span] -= 0.40 * height * np.exp(-(((offset - 0.068) / 0.028) ** 2))
        signal[span] -= 0.22 * height * np.exp(-(((offset - 0.175) / 0.05) ** 2))
    return signal, peaks


def ventricular_fibrillation(rng: np.random.Generator, count: int, rate_hz: float, start_uv: float) -> Signal:
    """Return coarse ventricular fibrillation: 4 to 6 Hz, wandering in frequency and waxing and waning.

    The dominant frequency of early human VF is 4 to 6 Hz (Strohmenger et al. 1997, Chest 111:584).
    """
    time = np.arange(count) / rate_hz
    frequency = 5.0 + 0.6 * np.sin(2 * np.pi * 0.23 * time + rng.uniform(0, 6.28))
    frequency += 0.4 * np.sin(2 * np.pi * 0.71 * time + rng.uniform(0, 6.28))
    phase = 2 * np.pi * np.cumsum(frequency) / rate_hz
    envelope = 380.0 * (1.0 + 0.35 * np.sin(2 * np.pi * 0.31 * time + rng.uniform(0, 6.28)))
    envelope *= 1.0 + 0.25 * np.sin(2 * np.pi * 0.87 * time + rng.uniform(0, 6.28))
    wave = np.sin(phase) + 0.28 * np.sin(1.9 * phase + 1.0) + 0.18 * np.sin(0.53 * phase + 0.4)
    swell = 1.0 - np.exp(-time / 0.4)
    return envelope * swell * wave + asystole(rng, count, rate_hz, start_uv)


def electrode_motion(rng: np.random.Generator, count: int, rate_hz: float) -> Signal:
    """Return what a moving electrode adds to the ECG: sharp and slow swings of millivolts, in the band of the QRS."""
    time = np.arange(count) / rate_hz
    signal = np.zeros(count)
    at = 0.0
    while at < count / rate_hz:
        low, high = np.searchsorted(time, (at - 0.4, at + 0.4))
        width = rng.uniform(0.02, 0.08)
        height = rng.uniform(500.0, 2500.0) * rng.choice((-1.0, 1.0))
        signal[low:high] += height * np.exp(-(((time[low:high] - at) / width) ** 2))
        at += rng.uniform(0.12, 0.6)
    return signal + rng.normal(0.0, 60.0, count)


def lead_off(rng: np.random.Generator, count: int, rate_hz: float, mains_hz: float = 50.0) -> Signal:
    """Return what an open electrode picks up: no ECG, mains hum and noise."""
    time = np.arange(count) / rate_hz
    hum = 120.0 * (1.0 + 0.1 * np.sin(2 * np.pi * 0.4 * time)) * np.sin(2 * np.pi * mains_hz * time)
    return hum + rng.normal(0.0, 15.0, count)
