"""Movement is not taken for ventricular beats, and ventricular beats are not taken for movement."""

import numpy as np
import pytest
from tests.support import ecg

from edgeward.clinic.monitor.patient import PATIENT
from edgeward.clinic.monitor.state import CHANNEL, MASK, RING
from edgeward.clinic.monitor.unrest import is_restless

RATE = 250
LENGTH_S = 8


def restless(x, times, beats=5):
    """Ask about the last `beats` of `times` (s) in the signal `x` (mV)."""
    p, c = np.zeros(1, PATIENT)[0], np.zeros(1, CHANNEL)[0]
    trace = np.zeros(RING, np.float32)
    trace[np.arange(len(x)) & MASK] = x
    c["analysis_rate"], c["decimation"], c["n"] = RATE, 1, len(x)
    p["beats"] = len(times)
    history = len(p["times"])
    for number, at in enumerate(times):
        p["times"][number % history] = at * RATE
    return is_restless(p, c, trace, beats)


def wide(rate, heights=(1.6,), noise=0.0, seed=1):
    times = np.arange(0.5, LENGTH_S - 0.4, 60 / rate)
    x = np.zeros(LENGTH_S * RATE)
    for number, at in enumerate(times):
        x += ecg.wide_beats_at([at], RATE, LENGTH_S, height=heights[number % len(heights)])
    return x + ecg.noise(RATE, LENGTH_S, 0.01 + noise, seed=seed), times


@pytest.mark.parametrize("rate", [70, 100, 130, 160, 200, 240])
def test_a_ventricular_rhythm_is_not_movement(rate):
    assert not restless(*wide(rate))


@pytest.mark.parametrize("rate", [110, 150, 200])
def test_nor_is_one_whose_beats_change(rate):
    assert not restless(*wide(rate, heights=(1.6, 1.2, 0.7, -0.6, -1.1, -1.5, -0.7, 0.6)))


def test_movement_is_movement_wherever_beats_were_seen_in_it():
    told = 0
    for seed in range(20):
        x = ecg.noise(RATE, LENGTH_S, 0.5, 0.5, 12, seed)
        rng = np.random.default_rng(seed)
        peaks = [int(at * RATE) + int(np.argmax(np.abs(x[int(at * RATE) : int(at * RATE) + 60])))
                 for at in np.cumsum(rng.uniform(0.35, 0.6, 12))]  # fmt: skip
        told += restless(x, np.array(peaks) / RATE)
    assert told >= 14, "of twenty"
