"""The overshoot of a pacing pulse, and the step of a touched electrode, are no beats; what is beside them is."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support import ecg

TIMES = np.arange(0.6, 28, 0.75) + 0.0033


def paced(rate: int, overshoot: float, time_constant_s: float, pulse: float = 30.0) -> np.ndarray:
    """Return 30 s of pulses of 2 ms, each followed by an overshoot (mV) that decays (IEC 60601-2-27, 201.12.1.101.13)."""
    t = np.arange(30 * rate) / rate
    x = np.zeros(len(t))
    for at in TIMES:
        after = t - at - 0.002
        x += np.where((t >= at) & (after < 0), pulse, 0.0)
        x += np.where(after >= 0, overshoot * np.exp(-np.clip(after, 0, None) / time_constant_s), 0.0)
    return x


@pytest.mark.parametrize("rate", [250, 360, 500, 1000])
@pytest.mark.parametrize("time_constant_s", [0.004, 0.03, 0.1])
@pytest.mark.parametrize(("overshoot", "pulse"), [(2.0, 2.0), (-2.0, 30.0), (0.6, 30.0)])
def test_the_overshoot_of_a_pulse_without_capture_is_not_a_beat(rate, time_constant_s, overshoot, pulse):
    result = ecg.run(paced(rate, overshoot, time_constant_s, pulse), rate)
    assert len(result.beats) <= 1  # before anything is known, one may be
    assert result.raised("asystole")


@pytest.mark.parametrize("rate", [250, 500])
@pytest.mark.parametrize(("overshoot", "time_constant_s"), [(2.0, 0.03), (-1.0, 0.06), (2.0, 0.1)])
def test_loss_of_capture_under_continued_pacing_is_an_asystole(rate, overshoot, time_constant_s):
    captured = TIMES[TIMES < 15]
    x = paced(rate, overshoot, time_constant_s) + ecg.noise(rate, 30, 0.02)
    x += ecg.wide_beats_at(captured + 0.1, rate, 30, height=1.2)
    told = ecg.run(x, rate).raised("asystole")
    assert told
    assert told[0][1] < captured[-1] + 8


@pytest.mark.parametrize("rate", [125, 250, 1000])
@pytest.mark.parametrize(("overshoot", "time_constant_s"), [(1.0, 0.03), (-1.0, 0.06), (2.0, 0.004)])
def test_a_paced_beat_behind_an_overshoot_is_counted_once(rate, overshoot, time_constant_s):
    x = paced(rate, overshoot, time_constant_s, 2.0) + ecg.beats_at(TIMES + 0.09, rate, 30)
    result = ecg.run(x, rate)
    assert abs(len(result.beats) - len(TIMES)) <= 1
    assert "asystole" not in result.codes()


@pytest.mark.parametrize("step", [0.5, 3.0, -3.0])
def test_a_step_of_the_baseline_is_not_a_beat(step):
    x = ecg.regular(60, 250, 30)
    x[int(15.1 * 250) :] += step  # halfway between two beats
    result = ecg.run(x, 250)
    assert len(result.beats) == len(np.arange(0.6, 29.6, 1.0))


def test_packets_of_any_length_give_the_same_beats_behind_jumps():
    x = paced(250, -2.0, 0.06) + ecg.beats_at(TIMES[::3] + 0.2, 250, 30) + ecg.noise(250, 30, 0.03)
    one = ecg.run(x, 250)
    for packet in (7, 61, 1000):
        other = ecg.run(x, 250, packet=packet)
        assert np.array_equal(one.beats, other.beats)
        assert other.raised("asystole") == one.raised("asystole")
