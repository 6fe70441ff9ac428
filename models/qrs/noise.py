"""Makes noise like that of muscles and moving electrodes, and says how strong it is against a recording's QRS.

Responsible for generated noise only (nothing recorded), for training (``train``), selection (``choose``) and the noise
stress test (docs/physiology.md). The same seed gives the same noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("wander", "muscle", "motion")


def noise(kind: str, count: int, rate_hz: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return `count` samples of noise of unit power; muscle and motion come in bursts (log-normal, spread 0.7).

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    f = np.fft.rfftfreq(count, 1.0 / rate_hz)
    if kind == "wander":
        shape, slow = (f > 0.05) & (f < 0.7), 0.0
    elif kind == "muscle":
        shape, slow = ((f > 5) & (f < 0.45 * rate_hz)) * np.sqrt(f / (1.0 + (f / 60.0) ** 2)), 0.3
    elif kind == "motion":
        shape, slow = ((f > 0.5) & (f < 15)) / np.sqrt(1.0 + (f / 3.0) ** 2), 0.2
    else:
        raise ValueError(f"no such noise: {kind!r}; use one of {', '.join(KINDS)}")

    def phases() -> NDArray[np.complex128]:
        return np.exp(2j * np.pi * rng.random(f.size))

    x = np.fft.irfft(shape * phases() * np.sqrt(rng.exponential(size=f.size)), count)
    if slow:
        strength = np.fft.irfft((f < slow) * phases(), count)
        x *= np.exp(0.7 * strength / strength.std())
    return np.asarray(x / x.std(), dtype=np.float64)


def qrs_power(signal: NDArray[Any], beats: NDArray[np.int64], rate_hz: float) -> float:
    """Return the power of a sine as high as the median QRS (peak to peak squared over 8), in units of the signal."""
    half = int(0.05 * rate_hz)
    heights = [np.ptp(signal[max(0, at - half) : at + half].astype(np.float64)) for at in beats[:2000:7]]
    return float(np.median(heights) ** 2 / 8.0)


def disturb(  # noqa: PLR0917 - a recording, its beats and rate belong together
    samples: NDArray[np.int16], beats: NDArray[np.int64], rate_hz: float, kind: str, snr_db: float, seed: list[int]
) -> NDArray[np.int16]:
    """Return a recording, shape (leads, n), with independent noise in every lead at a signal-to-noise ratio in dB."""
    rng = np.random.default_rng(seed)
    out = samples.astype(np.float64)
    for lead in range(len(samples)):
        power = qrs_power(samples[lead], beats, rate_hz)
        out[lead] += noise(kind, samples.shape[1], rate_hz, rng) * np.sqrt(power / 10.0 ** (snr_db / 10.0))
    return np.clip(np.rint(out), -32768, 32767).astype(np.int16)
