"""While movement hides the beats an asystole waits, says so, and is told all the same; nothing else makes it wait."""

import numpy as np
import pytest
from tests.support import ecg

from edgeward.clinic.monitor import nights

RATE = nights.ECG_HZ
SECONDS, STOPS_S = 60, 30.0
GOES_ON = np.arange(0.6, SECONDS - 0.5, 0.8)
STOPS = GOES_ON[GOES_ON < STOPS_S]


def heart(times):
    return ecg.beats_at(times, RATE, SECONDS) + ecg.noise(RATE, SECONDS, 0.01, seed=5)


def shaken(start_s, stop_s, mv):
    """Return movement without rest, as strong as no heart at rest."""
    x = np.zeros(SECONDS * RATE)
    a, b = int(start_s * RATE), int(stop_s * RATE)
    x[a:b] = mv * nights.movement(np.random.default_rng(11), "muscle", b - a)
    return x


def first_s(result, code):
    return min((known for _, known in result.raised(code)), default=None)


def test_movement_that_hides_the_beats_is_no_asystole_and_no_slow_heart():
    result = ecg.run(heart(GOES_ON) + shaken(30.0, 37.0, 1.2), RATE)

    assert not result.raised("asystole")
    assert not result.raised("extreme_bradycardia")


def test_an_asystole_is_told_once_the_movement_over_it_is():
    result = ecg.run(heart(STOPS) + shaken(31.0, 36.0, 1.2), RATE)

    assert first_s(result, "asystole") <= 42.0


def test_an_asystole_in_movement_that_does_not_end_is_told_as_unreadable():
    result = ecg.run(heart(STOPS) + shaken(31.0, SECONDS, 7.0), RATE)

    assert first_s(result, "ecg_unreadable") <= 31.0 + 10.0


@pytest.mark.parametrize("what", ["tremor", "mains", "wander", "p waves"])
def test_what_moves_in_an_asystole_without_hiding_beats_makes_nobody_wait(what):
    t = np.arange(SECONDS * RATE) / RATE
    over = {
        "tremor": 0.05 * np.sin(2 * np.pi * 5.0 * t + 3.0 * np.sin(t)),
        "mains": 0.4 * np.sin(2 * np.pi * 50.0 * t),
        "wander": 1.2 * np.sin(2 * np.pi * 0.3 * t),
        "p waves": 0.15 * np.exp(-((((t % 0.9) - 0.45) / 0.03) ** 2)),
    }[what]
    result = ecg.run(heart(STOPS) + over * (t > STOPS_S), RATE)

    assert first_s(result, "asystole") <= STOPS[-1] + 6.0
    assert not result.raised("ecg_unreadable")


def test_a_fibrillation_with_movement_over_it_is_told():
    x = heart(STOPS) + shaken(33.0, 38.0, 0.15)
    x[int(STOPS_S * RATE) :] += ecg.fibrillation(RATE, SECONDS - int(STOPS_S), 5.0, height=0.6)
    result = ecg.run(x, RATE)

    assert first_s(result, "ventricular_fibrillation") <= STOPS_S + 10.0


def test_packets_of_any_length_wait_for_the_same_time():
    x = heart(STOPS) + shaken(31.0, 37.0, 1.2)

    told = {tuple(ecg.run(x, RATE, packet=size).raised("asystole")) for size in (50, 125, 250, 500, 613)}

    assert len(told) == 1
