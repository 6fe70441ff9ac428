"""The overshoot of a pacing pulse, and the step of a touched electrode, are no beats; what is beside them is."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support import ecg

from edgeward.clinic.monitor.front_end import front_end, restart
from edgeward.clinic.monitor.jumps import POINTS, SEEN, fit, straighten, without_high_pass
from edgeward.clinic.monitor.state import MAX_STEP, RING, new_channel

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


def test_packets_of_any_length_give_the_same_beats_where_every_tenth_of_a_second_jumps():
    rng = np.random.default_rng(8)
    x = ecg.regular(80, 250, 30)
    for at in range(5 * 250, 28 * 250, 7):  # more jumps within a packet than anyone would remember one by one
        x[at : at + 4] += rng.choice([-0.5, 0.0, 0.5])
    one = ecg.run(x, 250, packet=125)
    assert len(one.beats) > 20
    for packet in (3, 40, 1000):
        assert np.array_equal(one.beats, ecg.run(x, 250, packet=packet).beats)


@pytest.mark.parametrize("rate", [250, 500, 2000])
@pytest.mark.parametrize("time_constant_s", [0.004, 0.02, 0.1])
def test_what_the_filters_make_of_a_jump_is_explained_by_the_fit(rate, time_constant_s):
    at = 3 * rate + rate // 3
    t = np.arange(5 * rate) - at
    x = np.where(t >= 0, 1500.0 * np.exp(-np.maximum(t, 0) / (time_constant_s * rate)), 0.0).astype(np.int16)
    channel = new_channel(float(rate), 1.0)
    c = channel[0]
    trace = np.zeros(RING, np.float32)
    work, codes, phases = np.zeros((6, 4096)), np.zeros((2, 4096), np.int16), np.zeros((MAX_STEP + 1, 4096), np.float32)
    restart(c, 0)
    for begin in range(0, len(x), rate // 2):
        made = front_end(c, x[begin : begin + rate // 2], codes, phases, work)
        for k in range(made):
            trace[(int(c["n"]) + k) & (RING - 1)] = work[0, k]
        channel["n"] += made
    step = int(c["decimation"])
    first = (at + int(c["taps"]) // 2) // step - round(0.04 * float(c["analysis_rate"]))
    count = round(0.26 * float(c["analysis_rate"]))
    room = np.zeros(2048)
    seen = room[SEEN : SEEN + POINTS]
    without_high_pass(c, trace, first, count, seen)
    power = straighten(seen, count)
    assert fit(c, at + int(c["spike_lag"]), first, count, room) > 0.98 * power  # the median delays by one pulse width


def averaged(rate: int, pulse: float, width_s: float, beats: np.ndarray) -> np.ndarray:
    """Return 30 s of pulses, and of wide beats 90 ms after some, as a device gives them that averages 4000/s down."""
    part = round(4000 / rate)
    fine = part * rate
    x = ecg.pacing(ecg.wide_beats_at(beats + 0.09, fine, 30, height=1.0), fine, TIMES, pulse, width_s)
    return x.reshape(-1, part).mean(axis=1)


@pytest.mark.parametrize("rate", [125, 200, 250, 360, 500])
@pytest.mark.parametrize(("pulse", "width_s"), [(200.0, 0.001), (-200.0, 0.001), (100.0, 0.002), (700.0, 0.0005)])
def test_beats_behind_great_pulses_that_fall_between_samples_are_all_counted(rate, pulse, width_s):
    told = ecg.run(averaged(rate, pulse, width_s, TIMES), rate, gain_uv=10.0).beats
    missed = [at for at in TIMES[1:-1] if not np.any(np.abs(told - at - 0.09) < 0.15)]
    assert not missed
    assert len(told) <= len(TIMES)


@pytest.mark.parametrize("rate", [250, 360, 500])
@pytest.mark.parametrize("pulse", [20.0, -50.0, 100.0, 400.0])
def test_great_pulses_that_fall_between_samples_hide_no_asystole(rate, pulse):
    captured = TIMES[TIMES < 15]
    told = ecg.run(averaged(rate, pulse, 0.001, captured), rate, gain_uv=10.0)
    assert told.raised("asystole")
    assert told.raised("asystole")[0][1] < captured[-1] + 8


def test_packets_of_any_length_give_the_same_beats_behind_great_pulses():
    x = averaged(250, 200.0, 0.001, TIMES) + ecg.noise(250, 30, 0.03)
    one = ecg.run(x, 250, gain_uv=10.0)
    for packet in (1, 7, 61, 1000):
        assert np.array_equal(one.beats, ecg.run(x, 250, gain_uv=10.0, packet=packet).beats)


@pytest.mark.parametrize("rate", [250, 500])
def test_an_electrode_that_leaps_and_stays_costs_one_beat_at_most(rate):
    x = ecg.regular(75, rate, 30)
    x[15 * rate :] += 6.0
    told = ecg.run(x, rate)
    assert abs(len(told.beats) - len(np.arange(0.6, 29.6, 0.8))) <= 1
    assert not told.raised("asystole")
