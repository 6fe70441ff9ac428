"""Designs the few digital filters of the monitor and knows their delays.

Responsible for coefficients only (bilinear transform with pre-warping, the closed forms of R. Bristow-Johnson's
"Audio EQ Cookbook" specialised to Butterworth sections). It filters nothing: the loops are in ``detector``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Quality factors of the second-order sections of Butterworth filters, by order (poles on the unit circle).
BUTTERWORTH_Q: dict[int, tuple[float, ...]] = {2: (0.70710678118654752,), 4: (0.54119610014619698, 1.3065629648763766)}


def butterworth(kind: str, order: int, cutoff_hz: float, rate_hz: float) -> NDArray[np.float64]:
    """Return second-order sections of a Butterworth low- or high-pass.

    Parameters
    ----------
    kind : {"low", "high"}
    order : {2, 4}
    cutoff_hz : float
        -3 dB frequency, below half of ``rate_hz``.
    rate_hz : float

    Returns
    -------
    ndarray, shape (order // 2, 5), float64
        ``b0, b1, b2, a1, a2`` of each section with ``a0 = 1``.

    Raises
    ------
    ValueError
        If the cutoff does not lie between 0 and half of the rate, or kind or order is unknown.
    """
    if not 0.0 < cutoff_hz < rate_hz / 2:
        raise ValueError(f"cutoff {cutoff_hz} Hz must lie between 0 and half of the rate {rate_hz} Hz")
    if kind not in {"low", "high"} or order not in BUTTERWORTH_Q:
        raise ValueError(f"no such filter: {kind!r} of order {order}; use low or high, order 2 or 4")
    w0 = 2.0 * math.pi * cutoff_hz / rate_hz
    cos_w0 = math.cos(w0)
    rows = []
    for q in BUTTERWORTH_Q[order]:
        alpha = math.sin(w0) / (2.0 * q)
        edge = (1.0 - cos_w0) / 2.0 if kind == "low" else (1.0 + cos_w0) / 2.0
        middle = 2.0 * edge if kind == "low" else -2.0 * edge
        a0 = 1.0 + alpha
        rows.append((edge / a0, middle / a0, edge / a0, -2.0 * cos_w0 / a0, (1.0 - alpha) / a0))
    return np.array(rows, dtype=np.float64)


def smooth_low_pass(cutoff_hz: float, seconds: float, rate_hz: float) -> NDArray[np.float32]:
    """Return a symmetric low-pass (sinc in a Hamming window), gain 1 for a constant; it delays by half its length.

    Parameters
    ----------
    cutoff_hz : float
        -6 dB frequency, below half of ``rate_hz``.
    seconds : float
        Length; the number of coefficients is odd and at least 3.
    rate_hz : float

    Returns
    -------
    ndarray, shape (taps,), float32

    Raises
    ------
    ValueError
        If the cutoff does not lie between 0 and half of the rate.
    """
    if not 0.0 < cutoff_hz < rate_hz / 2:
        raise ValueError(f"cutoff {cutoff_hz} Hz must lie between 0 and half of the rate {rate_hz} Hz")
    half = max(1, round(0.5 * seconds * rate_hz))
    k = np.arange(-half, half + 1)
    taps = np.sinc(2.0 * cutoff_hz / rate_hz * k) * np.hamming(2 * half + 3)[1:-1]
    return (taps / taps.sum()).astype(np.float32)


def group_delay(sections: NDArray[np.float64], frequency_hz: float, rate_hz: float) -> float:
    """Return the group delay of a cascade at one frequency, in samples.

    Parameters
    ----------
    sections : ndarray, shape (n, 5)
    frequency_hz, rate_hz : float
    """
    step = 1e-4
    w = 2.0 * math.pi * frequency_hz / rate_hz
    phases = []
    for angle in (w - step, w + step):
        z = np.exp(-1j * angle)
        response = 1.0 + 0.0j
        for b0, b1, b2, a1, a2 in sections:
            response *= (b0 + b1 * z + b2 * z * z) / (1.0 + a1 * z + a2 * z * z)
        phases.append(float(np.angle(response)))
    difference = (phases[1] - phases[0] + math.pi) % (2.0 * math.pi) - math.pi
    return -difference / (2.0 * step)
