"""How far a signal can be believed, 0 to 1.

Responsible for the small measures that quality is made of: likeness of pulses to their template, skewness, spread,
median. Which of them count for which signal is said where they are used (``pulse``, ``respiration``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit
def median(values: Any, count: int, room: NDArray[np.float64]) -> float:
    """Return the median of the first `count` values (the upper one of two); `room` is overwritten."""
    return quantile(values, count, 0.5, room)


@njit
def quantile(values: Any, count: int, part: float, room: NDArray[np.float64]) -> float:
    """Return the value below which `part` of the first `count` values lie; `room` is overwritten."""
    for i in range(count):
        v = values[i]
        j = i - 1
        while j >= 0 and room[j] > v:
            room[j + 1] = room[j]
            j -= 1
        room[j + 1] = v
    return room[min(count - 1, int(count * part))]


@njit
def ramp(value: float, nothing: float, full: float) -> float:
    """Return 0 at `nothing`, 1 at `full`, linear between them (either way round)."""
    x = (value - nothing) / (full - nothing)
    return min(1.0, max(0.0, x))


@njit
def normalise(shape: NDArray[np.float64], count: int) -> bool:
    """Take mean and length out of a shape in place; return False if it is flat."""
    total = 0.0
    for i in range(count):
        total += shape[i]
    total /= count
    power = 0.0
    for i in range(count):
        shape[i] -= total
        power += shape[i] * shape[i]
    if power <= 1e-18:
        return False
    scale = 1.0 / math.sqrt(power)
    for i in range(count):
        shape[i] *= scale
    return True


@njit
def skewness(trace: NDArray[np.float32], mask: int, end: int, count: int) -> float:
    """Return the skewness of the last `count` samples before `end` (Elgendi 2016: clean PPG is skewed to the right)."""
    mean = 0.0
    for k in range(1, count + 1):
        mean += trace[(end - k) & mask]
    mean /= count
    second, third = 0.0, 0.0
    for k in range(1, count + 1):
        d = trace[(end - k) & mask] - mean
        second += d * d
        third += d * d * d
    second /= count
    third /= count
    return third / (second * math.sqrt(second)) if second > 1e-18 else 0.0
