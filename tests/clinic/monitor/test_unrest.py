"""Movement is not taken for ventricular beats, and ventricular beats are not taken for movement."""

import numpy as np
import pytest
from tests.support import ecg

from edgeward.clinic.monitor.patient import PATIENT
from edgeward.clinic.monitor.rhythm import DOUBTFUL, MOVING
from edgeward.clinic.monitor.state import CHANNEL, MASK, RING
from edgeward.clinic.monitor.unrest import FACTS, UNKNOWN, doubt, is_restless
from edgeward.clinic.monitor.unrest_model import CHILD, FEATURE, LEAF, ROOT, THRESHOLD

RATE = 250
LENGTH_S = 8


def asked(x, times, beats=5, question=is_restless):
    """Ask a question about the last `beats` of `times` (s) in the signal `x` (mV)."""
    p, c = np.zeros(1, PATIENT)[0], np.zeros(1, CHANNEL)[0]
    trace = np.zeros(RING, np.float32)
    trace[np.arange(len(x)) & MASK] = x
    c["analysis_rate"], c["decimation"], c["n"] = RATE, 1, len(x)
    p["beats"] = len(times)
    history = len(p["times"])
    for number, at in enumerate(times):
        p["times"][number % history] = at * RATE
    if question is is_restless:
        return is_restless(p, c, trace, beats)
    # What the bedside knows of the lead besides: its noise now, its usual roughness and height.
    curved = np.abs(x[8:] - 2 * x[4:-4] + x[:-8])[-2 * RATE :]
    c["noise_level"], c["roughness"], c["height"] = np.median(curved), 0.03, 1.2
    p["now_own"][:] = 3.0
    return doubt(p, c, trace, beats, np.zeros(64))


def restless(x, times, beats=5):
    return asked(x, times, beats)


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


@pytest.mark.parametrize("rate", [110, 130, 160, 200])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_ventricular_tachycardia_is_not_doubted(rate, noise):
    assert asked(*wide(rate, noise=noise), question=doubt) < DOUBTFUL


def test_beats_that_were_seen_in_movement_are_doubted():
    doubts = []
    for seed in range(20):
        x = ecg.noise(RATE, LENGTH_S, 0.5, 0.5, 12, seed) + ecg.noise(RATE, LENGTH_S, 0.1, 15, 100, seed + 50)
        rng = np.random.default_rng(seed)
        peaks = [int(at * RATE) + int(np.argmax(np.abs(x[int(at * RATE) : int(at * RATE) + 60])))
                 for at in np.cumsum(rng.uniform(0.35, 0.6, 12))]  # fmt: skip
        doubts.append(asked(x, np.array(peaks) / RATE, question=doubt))
    assert sum(d > DOUBTFUL for d in doubts) >= 16, doubts
    assert sum(d > MOVING for d in doubts) >= 10, doubts


def test_what_cannot_be_told_is_not_held_against_a_run():
    x, times = wide(150)
    assert asked(x, times[:2], question=doubt) == UNKNOWN
    assert UNKNOWN < DOUBTFUL


def test_the_trees_fit_together():
    """Each walk ends in a leaf, and asks for facts that there are."""
    nodes = np.arange(len(FEATURE))[:, None]
    assert np.all((CHILD < 0) | (nodes < CHILD)), "children come after their node"
    assert CHILD.max() < len(FEATURE) == len(THRESHOLD) == len(CHILD)
    assert (-1 - CHILD[CHILD < 0]).max() < len(LEAF)
    assert 0 <= FEATURE.min() <= FEATURE.max() < len(FACTS)
    assert ROOT.max() < len(FEATURE)
