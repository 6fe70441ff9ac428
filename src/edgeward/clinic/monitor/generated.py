"""Makes ECG signals of known content, after the shapes of ANSI/AAMI EC13 and IEC 60601-2-27.

Responsible for these signals: in mV, at any rate, the same ones each time. For measuring (``ec13``) and for tests; no
patient's signal ever passes here. Not responsible for judging what a monitor makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]


def qrs(t: Signal, at: float, height: float, width: float, shape: str = "natural") -> Signal:
    """Return one QRS: a triangle, half a sine wave, or a small Q, an R and an S within `width` seconds."""
    u = (t - at) / width
    if shape == "triangle":
        return np.asarray(height * np.clip(1 - np.abs(2 * u), 0, None))
    if shape == "sine":
        return np.asarray(height * np.where(np.abs(u) < 0.5, np.cos(np.pi * u), 0))
    r = np.clip(1 - np.abs(u / 0.25), 0, None)
    s = np.clip(1 - np.abs((u - 0.35) / 0.15), 0, None)
    q = np.clip(1 - np.abs((u + 0.35) / 0.15), 0, None)
    return np.asarray(height * (r - 0.25 * s - 0.1 * q))


def t_wave(t: Signal, at: float, height: float, width: float = 0.18, shape: str = "sine") -> Signal:
    """Return one T wave: half a sine wave, or a raised cosine."""
    u = (t - at) / width
    inside = np.abs(u) < 0.5
    wave = np.cos(np.pi * u) if shape == "sine" else 0.5 + 0.5 * np.cos(2 * np.pi * u)
    return np.asarray(height * np.where(inside, wave, 0))


def add(x: Signal, rate: float, at: float, half_s: float, make: Callable[[Signal], Signal]) -> None:
    """Add ``make(t)`` to `x` within `half_s` around `at`."""
    a, b = max(0, int((at - half_s) * rate)), min(len(x), int((at + half_s) * rate) + 1)
    if a < b:
        x[a:b] += make(np.arange(a, b) / rate)


def beats_at(
    times: Iterable[float],
    rate: float,
    seconds: float,
    *,
    height: float = 1.0,
    width: float = 0.1,
    shape: str = "natural",
    t: float = 0.25,
    qt: float = 0.35,
    t_shape: str = "sine",
) -> Signal:
    """Return an ECG with a beat at each of `times`."""
    x = np.zeros(int(seconds * rate))
    for at in times:
        add(x, rate, at, 0.3, lambda s, at=at: qrs(s, at, height, width, shape))  # type: ignore[misc]
        if t:
            centre = at - width / 2 + qt - 0.09
            add(x, rate, centre, 0.2, lambda s, c=centre: t_wave(s, c, t, shape=t_shape))  # type: ignore[misc]
    return x


def regular(bpm: float, rate: float, seconds: float, start: float = 0.6, **kwargs: Any) -> Signal:
    """Return a regular rhythm; the T wave shrinks and comes earlier as the rate rises."""
    interval = 60.0 / bpm
    if bpm > 150:
        kwargs.setdefault("t", 0.0)
    kwargs.setdefault("qt", min(0.35, 0.45 * interval**0.5))
    return beats_at(np.arange(start, seconds - 0.4, interval), rate, seconds, **kwargs)


def wide_beats_at(
    times: Iterable[float], rate: float, seconds: float, height: float = 1.6, width: float = 0.17
) -> Signal:
    """Return ventricular beats: wide, tall, with a discordant T wave."""
    x = np.zeros(int(seconds * rate))
    for at in times:
        add(x, rate, at, 0.3, lambda s, at=at: qrs(s, at, height, width, "sine"))  # type: ignore[misc]
        add(x, rate, at + 0.2, 0.3, lambda s, at=at: t_wave(s, at + 0.2, -0.35 * height, 0.2, "cosine"))  # type: ignore[misc]
    return x


def fibrillation(
    rate: float, seconds: float, frequency: float = 4.5, *, spread: float = 0.6, height: float = 0.5, seed: int = 1
) -> Signal:
    """Return narrow-band noise around `frequency` Hz, about `height` mV peak to peak."""
    count = int(seconds * rate)
    f = np.fft.rfftfreq(count, 1 / rate)
    rng = np.random.default_rng(seed)
    spectrum = np.exp(-0.5 * ((f - frequency) / spread) ** 2) * np.exp(2j * np.pi * rng.random(f.size))
    x = np.fft.irfft(spectrum, count)
    return np.asarray(x / x.std() * height / 4.0)


def noise(  # noqa: PLR0917 - a band and its level belong together
    rate: float, seconds: float, rms: float, low: float = 0.5, high: float = 40.0, seed: int = 2
) -> Signal:
    """Return noise of equal power from `low` to `high` Hz."""
    count = int(seconds * rate)
    f = np.fft.rfftfreq(count, 1 / rate)
    rng = np.random.default_rng(seed)
    spectrum = ((f >= low) & (f <= min(high, 0.45 * rate))) * np.exp(2j * np.pi * rng.random(f.size))
    x = np.fft.irfft(spectrum, count)
    return np.asarray(x / x.std() * rms)


def pacing(x: Signal, rate: float, times: Iterable[float], height: float, width_s: float = 0.002) -> Signal:
    """Return `x` with pacing pulses."""
    x = x.copy()
    for at in times:
        a = int(at * rate)
        x[a : a + max(1, int(width_s * rate))] += height
    return x


def overshoot(
    x: Signal, rate: float, times: Iterable[float], height: float, time_constant_s: float, *, width_s: float = 0.002
) -> Signal:
    """Return `x` with what each pacing pulse leaves behind: `height` mV that decay exponentially."""
    x = x.copy()
    for at in times:
        a = int(at * rate) + max(1, int(width_s * rate))
        t = np.arange(min(len(x) - a, int(8 * time_constant_s * rate) + 1)) / rate
        x[a : a + len(t)] += height * np.exp(-t / time_constant_s)
    return x
