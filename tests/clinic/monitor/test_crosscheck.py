"""The pulse speaks against a lethal alarm only with strong evidence in every respect, and never for fibrillation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.suppression import generated

from edgeward.clinic.monitor.crosscheck import DOUBTED, THRESHOLD, Beats, Pulses, judge
from edgeward.clinic.monitor.rules import RULES, UNCONFIRMED

ONSET = 40.0  # last QRS before the event


def rhythm(interval=0.8, until=ONSET, spread=0.01, seed=1):
    steps = interval * (1.0 + spread * np.random.default_rng(seed).standard_normal(200))
    times = until - np.concatenate(([0.0], np.cumsum(steps)))
    return times[times > 5.0][::-1]


def beats(quality=1.0, times=None, now=ONSET + 4.5):
    return Beats((rhythm() if times is None else times)[-16:], now, quality)


def pulses(times=None, *, delay=0.25, now=ONSET + 4.5, sizes=1.0, qualities=0.95, **changes):
    """The pulses of every beat, going on after the onset."""
    if times is None:
        times = np.concatenate((rhythm(), ONSET + 0.8 * np.arange(1, 30)))
    times = times + delay
    times = times[times < now - 0.5]
    found = Pulses("Pleth", times, np.full(times.size, sizes), np.full(times.size, qualities), 5.0, now, 0.9)
    return replace(found, **changes)


def asystole(channel, ecg=None, **kwargs):
    return judge("asystole", ONSET, ecg or beats(), [channel], **kwargs)


def test_an_asystole_while_the_pulse_goes_on_as_before_is_doubted():
    verdict = asystole(pulses())

    assert verdict.doubt
    assert verdict.pulse == "present"
    assert verdict.channel == "Pleth"


def test_a_true_asystole_stands_and_the_pulse_confirms_it():
    verdict = asystole(pulses(rhythm()))

    assert not verdict.doubt
    assert verdict.score == 0.0
    assert verdict.pulse == "absent"


def test_without_a_pulse_signal_nothing_is_doubted():
    assert not judge("asystole", ONSET, beats(), []).doubt
    assert judge("asystole", ONSET, beats(), []).pulse == "unknown"


@pytest.mark.parametrize("code", [*sorted(set(UNCONFIRMED) - DOUBTED), "news2_emergency"])
def test_fibrillation_and_all_that_is_not_listed_is_never_doubted(code):
    assert "ventricular_fibrillation" not in DOUBTED
    assert not judge(code, ONSET, beats(0.0), [pulses()]).doubt


def test_what_can_be_doubted_has_a_rule_and_a_stand_in():
    assert set(UNCONFIRMED) >= DOUBTED
    assert set(RULES) >= DOUBTED


@pytest.mark.parametrize("delay", [0.08, 0.25, 0.6])
def test_the_time_a_pulse_takes_to_the_finger_does_not_matter(delay):
    assert asystole(pulses(delay=delay)).doubt


@pytest.mark.parametrize("gap", [1.8, 2.5, 4.0])
def test_one_pause_is_enough_to_let_the_alarm_stand(gap):
    after = np.concatenate((rhythm(), ONSET + gap + 0.8 * np.arange(0, 10)))

    assert not asystole(pulses(after)).doubt


def test_pulses_that_have_just_stopped_are_no_longer_evidence():
    went_on = np.concatenate((rhythm(), ONSET + 0.8 * np.arange(1, 5)))

    assert asystole(pulses(went_on)).doubt
    assert not asystole(pulses(went_on, now=ONSET + 6.5), beats(now=ONSET + 6.5)).doubt


@pytest.mark.parametrize("bpm", [92, 100, 110, 120, 128])
def test_nothing_at_the_rate_of_chest_compressions_is_evidence(bpm):
    interval = 60.0 / bpm
    before = rhythm(interval)
    through = np.concatenate((before, ONSET + interval * np.arange(1, 40)))

    assert not asystole(pulses(through), beats(times=before)).doubt


@pytest.mark.parametrize("wait", [0.3, 0.8, 1.2])
@pytest.mark.parametrize("bpm", [95, 100, 110, 120, 125])
def test_compressions_that_begin_with_the_asystole_do_not_hide_it(wait, bpm):
    pressed = ONSET + wait + 60.0 / bpm * np.arange(0, 40)

    assert not asystole(pulses(np.concatenate((rhythm(), pressed)))).doubt


def test_pulses_that_never_followed_the_heart_are_no_evidence():
    steps = np.arange(5.0, 60.0, 60.0 / 83)

    assert not asystole(pulses(steps)).doubt


def test_a_balloon_pump_that_makes_two_waves_of_each_beat_is_no_evidence():
    both = np.concatenate((rhythm(), rhythm() + 0.35, ONSET + 0.75 * np.arange(1, 30)))

    assert not asystole(pulses(np.sort(both))).doubt


@pytest.mark.parametrize(
    "changes",
    [{"qualities": 0.4}, {"seen_from_s": ONSET - 2.0}, {"now": ONSET + 2.5}, {"times": rhythm()[-4:]}],
    ids=["poor", "not watched before", "not watched long enough", "too few"],
)
def test_weak_evidence_is_none(changes):
    assert not asystole(pulses(**changes)).doubt


@pytest.mark.parametrize("part", [0.3, 3.0])
def test_pulses_of_another_size_are_no_evidence(part):
    channel = pulses()
    channel.amplitudes[channel.times_s > ONSET + 0.3] *= part

    assert not asystole(channel).doubt


def test_an_artery_that_stopped_outweighs_a_finger_that_goes_on():
    artery = replace(pulses(rhythm(), delay=0.15), name="ART", arterial=True)

    verdict = judge("asystole", ONSET, beats(), [pulses(), artery])

    assert not verdict.doubt
    assert (verdict.channel, verdict.pulse) == ("ART", "absent")


def test_a_late_clock_is_not_taken_for_a_pulse_that_goes_on():
    """A true asystole; the other device is 3 s behind, so its pulses seem to go on for 3 s."""
    regular = rhythm(spread=0.0)

    late = asystole(pulses(regular, delay=3.0, offset_s=4.0), beats(times=regular))

    assert not late.doubt


def test_another_clock_gives_evidence_once_it_has_been_watched_long_enough():
    irregular = rhythm(spread=0.08)
    on = np.concatenate((irregular, ONSET + 0.8 * np.arange(1, 30)))
    early = asystole(pulses(on, delay=2.0, offset_s=3.0, now=ONSET + 4.5), beats(times=irregular))
    later = asystole(pulses(on, delay=2.0, offset_s=3.0, now=ONSET + 8.0), beats(times=irregular, now=ONSET + 8.0))

    assert early.score <= later.score


def tachycardia(quality, *, rate=150.0, code="ventricular_tachycardia", now=ONSET + 4.0, **changes):
    first = ONSET + 0.6
    seen = np.concatenate((rhythm(), np.arange(first, now, 60.0 / rate)))
    return judge(code, first, Beats(seen, now, quality), [pulses(now=now, **changes)], rate=rate)


@pytest.mark.parametrize("code", ["ventricular_tachycardia", "extreme_tachycardia"])
def test_a_tachycardia_in_a_poor_ecg_with_an_unmoved_pulse_is_doubted(code):
    assert tachycardia(0.2, code=code, rate=190.0).doubt


@pytest.mark.parametrize("code", ["ventricular_tachycardia", "extreme_tachycardia"])
def test_a_tachycardia_in_a_good_ecg_stands_whatever_the_pulse_does(code):
    assert not tachycardia(0.9, code=code, rate=190.0).doubt


def test_a_tachycardia_whose_every_second_beat_is_felt_stands():
    assert not tachycardia(0.2, rate=150.0).doubt  # the pulse goes at 75
    assert not tachycardia(0.2, rate=75.0).doubt


def test_a_short_run_stands_because_the_pulse_cannot_have_answered_yet():
    assert not tachycardia(0.2, rate=190.0, now=ONSET + 2.2).doubt


def test_weaker_pulses_or_a_shifted_beat_let_a_tachycardia_stand():
    weaker = np.concatenate((rhythm(), ONSET + 0.8 * np.arange(1, 30)))
    shifted = np.concatenate((rhythm(), ONSET + 0.6 + 0.8 * np.arange(0, 30)))
    channel = pulses(weaker, now=ONSET + 4.0)
    channel.amplitudes[channel.times_s > ONSET + 1.0] *= 0.7
    seen = Beats(np.concatenate((rhythm(), np.arange(ONSET + 0.6, ONSET + 4, 0.3)))[-16:], ONSET + 4.0, 0.2)

    assert not judge("ventricular_tachycardia", ONSET + 0.6, seen, [channel], rate=200.0).doubt
    assert not tachycardia(0.2, rate=200.0, times=shifted).doubt


def test_a_bradycardia_of_missed_beats_is_doubted_and_a_true_one_with_a_double_wave_is_not():
    slow = np.concatenate((rhythm(), ONSET + 2.4 * np.arange(1, 4)))
    now = float(slow[-1]) + 0.4
    ecg = Beats(slow[-16:], now, 1.0)
    doubled = np.concatenate((rhythm(), np.sort(np.concatenate((slow[-3:], slow[-3:] + 0.9)))))
    channel = pulses(doubled, now=now)
    channel.amplitudes[np.isin(channel.times_s, slow[-3:] + 0.9 + 0.25)] = 0.6

    assert judge("extreme_bradycardia", ONSET, ecg, [pulses(now=now)], rate=25.0).doubt
    assert not judge("extreme_bradycardia", ONSET, ecg, [channel], rate=25.0).doubt


def test_a_lower_threshold_doubts_no_less():
    channel = pulses(qualities=0.7)

    assert not asystole(channel).doubt
    assert asystole(channel, threshold=0.6).doubt
    assert asystole(channel).weakest == "quality"


@pytest.mark.parametrize("seed", range(20))
def test_hostile_numbers_give_an_answer(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(0, 30))
    times = np.sort(rng.uniform(0, 50, size))
    channel = Pulses("x", times, rng.uniform(-1, 1, size), rng.uniform(0, 1, size), 0.0, 45.0, 0.5, bool(seed % 2))
    heart = Beats(np.sort(rng.uniform(0, 45, int(rng.integers(0, 16)))), 45.0, float(rng.uniform()))

    for code in DOUBTED:
        assert 0.0 <= judge(code, ONSET, heart, [channel], rate=float(rng.uniform(0, 300))).score <= 1.0


def test_of_generated_alarms_no_true_one_is_put_down_and_many_false_ones_are():
    found = generated(12, seed=11)

    true = [score for case, score in found if case.true]
    false = [score for case, score in found if not case.true]
    assert len(true) >= 80
    assert max(true) < THRESHOLD
    assert sum(score >= THRESHOLD for score in false) >= 0.15 * len(false)
