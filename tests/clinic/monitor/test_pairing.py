"""Two devices, two clocks, one heart: the lag between them is found from the heart's irregularity, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from edgeward.clinic.monitor.pairing import LEAST_BEATS, Pair, find

CLOCK_S = 4711.3


def heart(beats=150, spread=0.04, interval=0.8, seed=1):
    rng = np.random.default_rng(seed)
    return np.cumsum(interval * (1.0 + spread * rng.standard_normal(beats)))


def pulses(qrs, lag=CLOCK_S, jitter=0.008, seed=2):
    return qrs + lag + jitter * np.random.default_rng(seed).standard_normal(qrs.size)


@pytest.mark.parametrize("wrong_s", [-9.0, -2.0, 0.0, 0.4, 8.0])
def test_the_lag_is_found_wherever_arrival_puts_it(wrong_s):
    qrs = heart()
    lag = find(qrs, pulses(qrs), CLOCK_S + wrong_s)
    assert lag is not None
    assert lag.lag_s == pytest.approx(CLOCK_S, abs=0.02)


def test_a_heart_as_regular_as_a_clock_tells_no_lag():
    qrs = heart(spread=0.0005)
    assert find(qrs, pulses(qrs), CLOCK_S) is None


def test_the_pulses_of_another_person_tell_no_lag():
    for seed in range(20):
        assert find(heart(seed=seed), pulses(heart(seed=seed + 100)), CLOCK_S) is None


def test_lost_and_invented_pulses_do_not_matter_until_they_are_many():
    qrs, rng = heart(), np.random.default_rng(3)
    few = np.sort(np.concatenate((pulses(qrs)[rng.random(qrs.size) > 0.07], CLOCK_S + rng.uniform(0, 100, 5))))
    many = pulses(qrs)[rng.random(qrs.size) > 0.4]
    found = find(qrs, few, CLOCK_S + 3.0)
    assert found is not None
    assert found.lag_s == pytest.approx(CLOCK_S, abs=0.03)
    assert find(qrs, many, CLOCK_S) is None


def test_sample_clocks_that_run_apart_are_followed_to_the_last_beat():
    qrs = heart(230)
    found = find(qrs, pulses(qrs * (1.0 + 1e-4)), CLOCK_S)
    assert found is not None
    assert found.lag_s == pytest.approx(CLOCK_S + 1e-4 * qrs[-1], abs=0.02)


def test_a_few_beats_are_too_few():
    qrs = heart(LEAST_BEATS - 1)
    assert find(qrs, pulses(qrs), CLOCK_S) is None


@pytest.mark.parametrize("size", [0, 1, 70])
def test_hostile_numbers_give_an_answer(size):
    same = np.full(size, 3.0)
    assert find(same, same, 0.0) is None
    assert find(heart(), same, 0.0) is None
    assert find(same, heart(), 0.0) is None


def learned(qrs, wave, *, expected=CLOCK_S, upto=None):
    pair = Pair()
    for end in np.arange(10.0, qrs[-1] if upto is None else upto, 2.0):
        pair.take(qrs[qrs < end][-16:], wave[wave < end + CLOCK_S][-64:])
        pair.learn(expected)
    return pair


def test_the_lag_is_borne_out_as_long_as_the_pulses_follow_and_forgotten_when_they_do_not():
    qrs = heart(500)
    follows = pulses(qrs)
    stops = np.concatenate((follows[:200], CLOCK_S + np.sort(np.random.default_rng(5).uniform(qrs[200], qrs[-1], 300))))
    assert learned(qrs, follows).confirmed_s > qrs[-1] - 5.0
    other = learned(qrs, stops)
    assert other.lag is None


def test_a_stream_that_lost_time_must_be_learned_anew():
    qrs = heart()
    pair = learned(qrs, pulses(qrs))
    assert pair.lag is not None
    found = pair.lag
    pair.learn(CLOCK_S + 0.3)  # the network has become a little better
    assert pair.lag is not None
    pair.learn(CLOCK_S + 1.0)  # packets come a second sooner than the stream's time says: it left a second out
    assert pair.lag != found
    assert pair.lag is None or pair.lag.lag_s == pytest.approx(CLOCK_S, abs=0.02)  # found anew, from the beats


def test_a_stream_that_began_anew_must_be_learned_anew():
    qrs = heart()
    pair = learned(qrs, pulses(qrs))
    pair.take(np.array([0.4, 1.2, 2.0]), pulses(qrs)[-5:])
    assert pair.lag is None
    pair.learn(CLOCK_S)
    assert pair.lag is None
