"""Packets in, numbers and alarms out: whatever the packets' length, order, loss, or content."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import ecg
from tests.support.ecg import AlarmingBank as MonitorBank

from edgeward.clinic.monitor.limits import Limits

SECOND = 1_000_000_000


def codes(x):
    return np.atleast_2d(np.clip(np.rint(np.asarray(x) * 1e3), -32768, 32767).astype(np.int16))


def eventful(rate, leads=2):
    """Forty seconds with normal and ventricular beats, noise, an asystole, fibrillation, and a second lead."""
    n = np.arange(0.6, 14, 0.8)
    x = ecg.beats_at(n, rate, 40) + ecg.wide_beats_at(np.arange(5.0, 14, 3.2), rate, 40)
    x[20 * rate :] += ecg.fibrillation(rate, 40)[20 * rate :]
    x = x + ecg.noise(rate, 40, 0.02)
    return codes([x, -0.4 * x][:leads])


def play(samples, rate, edges, bank=None, name="d"):
    bank = bank or MonitorBank(collect_beats=True)
    bank.enrol(name, rate_hz=float(rate), leads=tuple(f"L{i}" for i in range(len(samples))), gain_uv=1.0)
    changes = []
    for number, (a, b) in enumerate(itertools.pairwise(edges)):
        bank.push(name, np.ascontiguousarray(samples[:, a:b]), first_sample=int(a), sequence=number, received_ns=0)
        if number % 7 == 0:
            changes += bank.process(0)
    changes += bank.process(0)
    return bank, changes


def told(changes):
    """Everything an alarm says that must not depend on packets."""
    return [(c.change.state, c.change.alarm.code, c.change.alarm.onset_sample, c.change.alarm.decisive_sample,
             c.change.alarm.end_sample, sorted(c.change.alarm.args.items())) for c in changes]  # fmt: skip


@pytest.mark.parametrize("rate", [125, 360, 1000])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_length_of_packets_changes_nothing_at_all(rate, data):
    samples = eventful(rate)
    total = samples.shape[1]
    reference, expected = play(samples, rate, np.append(np.arange(0, total, rate), total))
    cuts = data.draw(st.lists(st.integers(1, total - 1), max_size=80, unique=True))
    other, got = play(samples, rate, np.array([0, *sorted(cuts), total]))
    np.testing.assert_array_equal(reference.take_beats(), other.take_beats())
    assert told(got) == told(expected)
    assert expected  # it is eventful
    np.testing.assert_array_equal(reference.trace("d", 8.0)[3], other.trace("d", 8.0)[3])


def test_single_samples_give_the_same_as_one_large_block():
    samples = eventful(125)[:, : 125 * 12]
    whole, a = play(samples, 125, np.array([0, samples.shape[1]]))
    single, b = play(samples, 125, np.arange(samples.shape[1] + 1))
    np.testing.assert_array_equal(whole.take_beats(), single.take_beats())
    assert told(a) == told(b)


def test_who_comes_after_others_of_the_same_kind_begins_as_the_first_one_did():
    samples = eventful(250)[:, : 20 * 250]
    edges = range(0, samples.shape[1] + 1, 250)
    bank, first = play(samples, 250, edges)
    one = bank.take_beats()
    later = [play(samples, 250, edges, bank, name)[1] for name in ("e", "f")][-1]
    other = bank.take_beats()[-len(one) :]
    assert [c.change.alarm.code for c in later] == [c.change.alarm.code for c in first]
    np.testing.assert_array_equal(other["sample"], one["sample"])
    np.testing.assert_array_equal(other["features"], one["features"])


def test_patients_do_not_disturb_each_other():
    rates = {"a": 125, "b": 360, "c": 1000, "d": 250}
    alone = {}
    for name, rate in rates.items():
        bank, changes = play(eventful(rate), rate, np.arange(0, 40 * rate + 1, rate), name=name)
        alone[name] = (bank.take_beats()["sample"], told(changes))
    bank = MonitorBank(collect_beats=True)
    changes = {name: [] for name in rates}
    for name, rate in rates.items():
        bank.enrol(name, rate_hz=rate, leads=("L0", "L1"), gain_uv=1.0)
    for second in range(40):
        for name, rate in rates.items():
            x = np.ascontiguousarray(eventful(rate)[:, second * rate : (second + 1) * rate])
            bank.push(name, x, first_sample=second * rate, sequence=second, received_ns=0)
        for change in bank.process(0):
            changes[change.device_id].append(change)
    beats = bank.take_beats()
    for row, name in enumerate(rates):
        np.testing.assert_array_equal(beats["sample"][beats["patient"] == row], alone[name][0])
        assert told(changes[name]) == alone[name][1]


def stream(bank, x, rate, *, lose=(), now=None, name="d"):
    """Send one-second packets except those in `lose`; return the changes."""
    changes = []
    for second in range(x.shape[1] // rate):
        if second in lose:
            continue
        at = (now or (lambda s: (s + 1) * SECOND))(second)
        bank.push(name, np.ascontiguousarray(x[:, second * rate : (second + 1) * rate]), first_sample=second * rate,
                  sequence=second, received_ns=at)  # fmt: skip
        changes += bank.process(at)
        changes += bank.tick(at)
    return changes


def enrolled(rate=250, leads=1, **kwargs):
    bank = MonitorBank(collect_beats=True, **kwargs)
    bank.enrol("d", rate_hz=rate, leads=tuple(f"L{i}" for i in range(leads)), gain_uv=1.0)
    return bank


@pytest.mark.parametrize("bpm", [40, 75, 140])
@pytest.mark.parametrize("seed", [1, 2])
def test_lost_packets_are_told_and_cause_neither_false_beats_nor_a_false_asystole(bpm, seed):
    rng = np.random.default_rng(seed)
    lose = set(rng.choice(np.arange(3, 118), 12, replace=False).tolist()) | {50, 51, 52}
    x = codes(ecg.regular(bpm, 250, 120) + ecg.noise(250, 120, 0.01))
    bank = enrolled()
    raised = [c.change.alarm.code for c in stream(bank, x, 250, lose=lose) if c.change.state == "raised"]
    assert set(raised) == {"packets_missing"}
    assert bank.numerics("d", 120 * SECOND).missing == len(lose)
    truth = np.arange(0.6, 119.6, 60 / bpm)
    beats = bank.take_beats()["sample"] / 250
    assert max(np.abs(truth - b).min() for b in beats) < 0.06
    assert abs(bank.numerics("d", 120 * SECOND).heart_rate - bpm) < 5


def missing_told(lose, seconds=120):
    bank = enrolled()
    changes = stream(bank, codes(ecg.regular(70, 250, seconds) + ecg.noise(250, seconds, 0.01)), 250, lose=set(lose))
    return [c.change.state for c in changes if c.change.alarm.code == "packets_missing"]


@pytest.mark.parametrize("lose", [(), (20,), (20, 100), (10, 95)])
def test_a_packet_lost_now_and_then_is_no_alarm(lose):
    assert missing_told(lose) == []


@pytest.mark.parametrize("lose", [(20, 30), (20, 60), (20, 21), range(20, 110, 9)])
def test_losses_within_a_minute_are_one_alarm_that_ends_a_minute_after_the_last(lose):
    assert missing_told(lose, 200) == ["raised", "ended"]


def feed(bank, samples, rate, seconds):
    changes = []
    for second in seconds:
        piece = np.ascontiguousarray(samples[:, second * rate : (second + 1) * rate])
        bank.push("d", piece, first_sample=second * rate, sequence=second, received_ns=0)
        changes += bank.process(0)
    return changes


@pytest.mark.parametrize("rate", [250, 360])
def test_a_bank_resumed_from_a_snapshot_goes_on_exactly_as_the_one_that_gave_it(rate):
    samples = eventful(rate)
    one = enrolled(leads=2, rate=rate)
    feed(one, samples, rate, range(12))
    state = one.snapshot("d")
    one.take_beats()
    other = enrolled(leads=2, rate=rate)
    other.resume("d", state)
    expected = feed(one, samples, rate, range(12, 40))
    got = feed(other, samples, rate, range(12, 40))
    np.testing.assert_array_equal(one.take_beats(), other.take_beats())
    begun = [change for change in told(expected) if change[2] > 12 * rate]
    assert [change for change in told(got) if change[2] > 12 * rate] == begun
    assert begun


def test_a_snapshot_of_something_else_is_refused():
    state = enrolled(leads=2).snapshot("d")
    for other in (state[:-1], b"", b"x" + state[1:]):
        with pytest.raises(ValueError, match="state"):
            enrolled(leads=2).resume("d", other)
    with pytest.raises(ValueError, match="state"):
        enrolled(leads=1).resume("d", state)
    with pytest.raises(ValueError, match="360"):
        enrolled(leads=2, rate=360).resume("d", state)


@pytest.mark.parametrize("begin", [5, 17, 33])
def test_forty_five_seconds_of_packets_teach_a_fresh_bank_what_the_old_one_knew(begin):
    rng = np.random.default_rng(begin)
    times = 0.6 + np.cumsum(rng.uniform(0.55, 1.1, 150))
    times = times[times < 118]
    early = times[7::11] - 0.2
    x = ecg.beats_at(np.setdiff1d(times, times[7::11]), 250, 120) + ecg.wide_beats_at(early, 250, 120)
    samples = codes([x + ecg.noise(250, 120, 0.05), 0.5 * x + ecg.noise(250, 120, 0.03, seed=5)])
    old, fresh = enrolled(leads=2), enrolled(leads=2)
    feed(old, samples, 250, range(120))
    feed(fresh, samples, 250, range(begin, 120))

    def later(bank):
        beats = bank.take_beats()
        return np.sort(beats["sample"][(beats["counted"] == 1) & (beats["sample"] > (begin + 45) * 250)])

    np.testing.assert_array_equal(later(fresh), later(old))
    assert fresh.numerics("d", 0).heart_rate == pytest.approx(old.numerics("d", 0).heart_rate)


def test_repeated_and_overtaken_packets_are_not_used_twice():
    x = codes(ecg.regular(75, 250, 30))
    bank = enrolled()
    order = [s for k in range(0, 30, 3) for s in (k, k, k + 2, k + 1)]
    for second in order:
        bank.push("d", np.ascontiguousarray(x[:, second * 250 : (second + 1) * 250]), first_sample=second * 250,
                  sequence=second, received_ns=second * SECOND)  # fmt: skip
        bank.process(0)
    beats = bank.take_beats()["sample"] / 250
    assert (np.diff(beats) > 0.7).all()
    assert bank.statistics()["refused"] == 20


def test_sequence_numbers_wrap():
    x = codes(ecg.regular(75, 250, 10))
    bank = enrolled()
    for second in range(10):
        bank.push("d", np.ascontiguousarray(x[:, second * 250 : (second + 1) * 250]), first_sample=second * 250,
                  sequence=(2**32 - 5 + second) % 2**32, received_ns=0)  # fmt: skip
    bank.process(0)
    assert bank.statistics()["missing"] == 0
    assert len(bank.take_beats()) == 12


def test_a_device_that_starts_again_is_followed_and_its_latched_alarm_stays():
    x = ecg.regular(75, 250, 30)
    x[15 * 250 :] = 0.0
    bank = enrolled()
    stream(bank, codes(x), 250)
    assert bank.alarms("d")[0].code == "asystole"
    stream(bank, codes(ecg.regular(75, 250, 20)), 250)
    assert abs(bank.numerics("d", 0).heart_rate - 75) < 5
    (alarm,) = [a for a in bank.alarms("d") if a.code == "asystole"]
    assert not alarm.present
    assert not alarm.acknowledged


def test_silence_is_an_alarm_and_ends_with_the_next_packet():
    bank = enrolled(limits=Limits(silence_s=4.0))
    x = codes(ecg.regular(75, 250, 20))
    stream(bank, x[:, : 10 * 250], 250)
    assert bank.tick(10 * SECOND + int(3.9 * SECOND)) == []
    (change,) = bank.tick(14 * SECOND + 1)
    assert (change.change.alarm.code, change.change.alarm.rule.technical) == ("signal_lost", True)
    assert bank.numerics("d", 15 * SECOND).stale
    bank.push("d", np.ascontiguousarray(x[:, 2500:2750]), first_sample=2500, sequence=10, received_ns=16 * SECOND)
    ended = bank.process(16 * SECOND)
    assert ("ended", "signal_lost") in [(c.change.state, c.change.alarm.code) for c in ended]


def test_a_device_that_never_sends_is_silent_from_its_enrolment_on():
    bank = MonitorBank()
    bank.enrol("d", rate_hz=250, leads=("I",), gain_uv=1.0, now_ns=100 * SECOND)
    assert bank.tick(103 * SECOND) == []
    assert len(bank.tick(105 * SECOND)) == 1


def test_a_clock_that_is_set_back_an_hour_does_not_hide_silence_for_an_hour():
    bank = enrolled()
    bank.push("d", codes(np.zeros(250)), first_sample=0, sequence=0, received_ns=5000 * SECOND)
    bank.process(0)
    bank.tick(1400 * SECOND)
    assert "signal_lost" in {c.change.alarm.code for c in bank.tick(1406 * SECOND)}


def test_an_alarm_names_the_packet_that_decided():
    x = ecg.regular(75, 250, 30)
    x[15 * 250 :] = 0.0
    bank = enrolled()
    (alarm,) = [c.change.alarm for c in stream(bank, codes(x), 250) if c.change.alarm.code == "asystole"]
    second = alarm.decisive_sample // 250 if alarm.decisive_sample % 250 else alarm.decisive_sample // 250 - 1
    assert alarm.received_ns == (second + 1) * SECOND
    assert alarm.args["seconds"] >= 4.0


def test_lead_off_by_flag_is_told_within_two_seconds_and_hides_neither_a_latched_alarm_nor_the_other_lead():
    x = ecg.regular(75, 250, 60)
    x[20 * 250 : 30 * 250] = 0.0
    samples = codes([x, 0.8 * x])
    bank = enrolled(leads=2)
    changes = []
    for second in range(60):
        off = (second >= 35, second >= 45)
        bank.push("d", np.ascontiguousarray(samples[:, second * 250 : (second + 1) * 250]), first_sample=second * 250,
                  sequence=second, received_ns=second * SECOND, lead_off=off)  # fmt: skip
        changes += bank.process(second * SECOND)
    raised = {
        c.change.alarm.code: c.change.alarm for c in changes if c.change.state == "raised" and c.change.alarm.present
    }
    assert 35 <= raised["lead_off"].decisive_sample / 250 <= 37
    assert raised["lead_off"].args == {"leads": "L0"}
    assert 45 <= raised["all_leads_off"].decisive_sample / 250 <= 47
    assert bank.alarms("d")[0].code == "asystole"
    assert not bank.alarms("d")[0].present
    assert len([c for c in changes if c.change.alarm.code == "asystole" and c.change.alarm.present]) == 1
    beats = bank.take_beats()
    beats = beats[beats["counted"] == 1]["sample"] / 250
    assert len(beats[(beats > 36) & (beats < 44)]) == 10
    assert bank.numerics("d", 60 * SECOND).heart_rate is None


@pytest.mark.parametrize("value", [0.0, 32.767, -32.768])
def test_a_dead_or_saturated_electrode_is_lead_off_within_two_seconds(value):
    x = ecg.regular(75, 250, 30)
    x[20 * 250 :] = value
    result = ecg.run(x, 250)
    at = result.raised("all_leads_off")[0][1]
    assert 20 <= at <= 22.1


def test_a_flat_line_near_the_baseline_is_also_an_asystole_but_a_saturated_one_is_not():
    x = ecg.regular(75, 250, 30)
    x[20 * 250 :] = 0.0
    assert ecg.run(x, 250).raised("asystole")
    x[20 * 250 :] = 32.767
    assert not ecg.run(x, 250).raised("asystole")


def relaxing(size, time_constant_s, hidden_s):
    """20 s of a heart, then 1 s of saturation and an amplifier that relaxes; it shows no beat for `hidden_s`."""
    x = ecg.regular(75, 250, 60) + ecg.noise(250, 60, 0.01)
    t = np.arange(40 * 250) / 250
    after = np.where(t < hidden_s, ecg.noise(250, 40, 0.01), x[20 * 250 :])
    x[20 * 250 :] = np.where(t < 1.0, size, after + size * np.exp(-np.clip(t - 1.0, 0, None) / time_constant_s))
    return np.clip(x, -32.7, 32.7)


@pytest.mark.parametrize("size", [5.0, -10.0, 32.7])
@pytest.mark.parametrize("time_constant_s", [1.0, 2.0, 5.0])
def test_an_amplifier_that_relaxes_without_beats_is_a_lead_that_cannot_be_read(size, time_constant_s):
    result = ecg.run(relaxing(size, time_constant_s, hidden_s=8.0), 250)
    assert 20 <= result.raised("all_leads_off")[0][1] <= 24.1
    assert "asystole" not in result.codes()


@pytest.mark.parametrize("size", [5.0, 32.7])
@pytest.mark.parametrize("time_constant_s", [0.5, 1.0, 5.0])
def test_a_heart_that_does_not_come_back_after_it_is_an_asystole(size, time_constant_s):
    result = ecg.run(relaxing(size, time_constant_s, hidden_s=40.0), 250)
    assert 20 <= result.raised("asystole")[0][1] <= 40.0


@pytest.mark.parametrize("size", [5.0, -10.0, 32.7])
def test_beats_on_a_relaxing_amplifier_are_beats(size):
    result = ecg.run(relaxing(size, 2.0, hidden_s=1.0), 250)
    assert "asystole" not in result.codes()
    assert len(result.beats) >= 71


def moved(size, seed, height, until):
    """Low beats, eight seconds of movement far larger than they are, then low beats until the end, or none."""
    rng, rate, seconds = np.random.default_rng(seed), 250, 60
    beats = np.arange(0.7, until, 0.8)
    x = ecg.beats_at(beats, rate, seconds, height=height, t=0.1) + rng.normal(0, 0.008, seconds * rate)
    movement = np.convolve(rng.normal(0, 1, x.size), np.hanning(25), "same")
    t = np.arange(x.size) / rate
    return x + size * movement / movement.std() * ((t > 30) & (t < 38)), rate


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("height", [0.25, 0.4])
def test_low_beats_are_seen_again_soon_after_a_movement(height, size, seed):
    x, rate = moved(size, seed, height, 59)
    beats = ecg.run(x, rate).beats
    assert beats[beats > 38.3][0] < 41.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1.0, 4.0])
def test_a_heart_that_stops_in_a_movement_is_an_asystole(size, seed):
    x, rate = moved(size, seed, 0.4, 36)
    assert "asystole" in ecg.run(x, rate).codes()


def test_when_the_first_lead_dies_the_second_one_keeps_counting():
    x = ecg.regular(75, 250, 60)
    y = 0.7 * x
    x = x.copy()
    x[30 * 250 :] = 0.02
    result = ecg.run([x + 0, y], 250)
    assert "asystole" not in result.codes()
    assert len(result.beats) >= len(np.arange(0.6, 59.6, 0.8)) - 2


def test_restored_alarms_stand_until_the_signal_ends_them():
    x = ecg.regular(75, 250, 30)
    x[15 * 250 :] = 0.0
    before = enrolled()
    stream(before, codes(x), 250)
    after = enrolled()
    after.restore_alarms("d", before.engines["d"].to_dict())
    assert after.alarms("d")[0].code == "asystole"
    changes = stream(after, codes(ecg.regular(75, 250, 10)), 250)
    assert not after.alarms("d")[0].present
    assert after.alarms("d")[0].number == before.alarms("d")[0].number
    assert "asystole" in {c.change.alarm.code for c in changes}
    assert {a.code for a in after.alarms("d")} == {"asystole"}


def test_acknowledging_ends_an_alarm_that_is_over():
    x = ecg.regular(75, 250, 30)
    x[10 * 250 : 16 * 250] = 0.0
    bank = enrolled()
    stream(bank, codes(x), 250)
    (alarm,) = bank.alarms("d")
    changes = bank.acknowledge("d", alarm.number, by="Li", at_ns=31 * SECOND)
    assert [c.change.state for c in changes] == ["acknowledged", "ended"]
    assert bank.alarms("d") == []


@pytest.mark.parametrize(("rate", "leads", "gain"), [(0, 1, 1.0), (-250, 1, 1.0), (float("nan"), 1, 1.0), (1e9, 1, 1.0),
                                                     (50, 1, 1.0), (250, 0, 1.0), (250, 13, 1.0), (250, 1, 0.0),
                                                     (250, 1, -1.0), (250, 1, float("inf"))])  # fmt: skip
def test_impossible_devices_are_refused(rate, leads, gain):
    bank = MonitorBank()
    with pytest.raises(ValueError, match=r"\d"):
        bank.enrol("d", rate_hz=rate, leads=("I",) * leads, gain_uv=gain)
    assert "d" not in bank


@pytest.mark.parametrize("samples", [np.zeros((2, 10), np.int16), np.zeros(10, np.int16), np.zeros((1, 0), np.int16),
                                     np.zeros((1, 10), np.float64)])  # fmt: skip
def test_packets_that_do_not_fit_are_refused(samples):
    with pytest.raises(ValueError):
        enrolled().push("d", samples, first_sample=0, sequence=0, received_ns=0)
    with pytest.raises(ValueError):
        enrolled().push("d", np.zeros((1, 10), np.int16), first_sample=-1, sequence=0, received_ns=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**32 - 1), st.integers(1, 400),
                          st.sampled_from([-32768, -1, 0, 1, 32767])), max_size=12))  # fmt: skip
def test_any_order_of_hostile_packets_leaves_finite_numbers(packets):
    bank = enrolled()
    for first, sequence, count, value in packets:
        x = np.full((1, count), value, np.int16)
        x[0, ::2] = -value - 1
        bank.push("d", x, first_sample=first, sequence=sequence, received_ns=0)
        bank.process(0)
    numbers = bank.numerics("d", 0)
    assert numbers.heart_rate is None or 0 <= numbers.heart_rate < 400
    _, _, _, trace, _ = bank.trace("d", 8.0)
    assert trace.dtype == np.int16
    x = codes(ecg.regular(75, 250, 30))
    for second in range(30):
        bank.push("d", np.ascontiguousarray(x[:, second * 250 : (second + 1) * 250]), first_sample=second * 250,
                  sequence=second, received_ns=0)  # fmt: skip
        bank.process(0)


def test_the_trace_shows_what_was_sent_and_where_the_beats_are():
    bank = enrolled()
    stream(bank, codes(ecg.regular(75, 250, 20) + 5.0), 250)
    rate, start, lead, samples, beats = bank.trace("d", 4.0)
    assert (rate, lead, len(samples)) == (125.0, "L0", 500)
    peaks = [b - start for b in beats if start + 10 < b < start + 490]
    assert len(peaks) >= 4
    for b in peaks:
        assert samples[b - 4 : b + 5].max() > 600
    _, again, _, rest, _ = bank.trace("d", since=start + 400)
    assert (again, len(rest)) == (start + 400, 100)


@pytest.mark.parametrize("change", [{"asystole_s": 2.0}, {"asystole_s": 11}, {"extreme_tachycardia": 99},
                                    {"ventricular_tachycardia_beats": 1}])  # fmt: skip
def test_limits_outside_their_range_are_refused(change):
    with pytest.raises(ValueError, match="allowed"):
        Limits(**change)


def test_a_restarted_stream_tells_each_change_once() -> None:
    bank = MonitorBank()
    bank.enrol("bed", rate_hz=250.0, leads=("II",), gain_uv=1.0)
    silence = np.zeros((1, 250), dtype=np.int16)
    bank.push("bed", silence, first_sample=0, sequence=500, received_ns=0)
    bank.process(0)
    lost = bank.tick(6_000_000_000)
    assert [change.change.alarm.code for change in lost] == ["signal_lost"]

    # Two packets queued, the second of a stream that began anew: the bank processes by itself in between.
    bank.push("bed", silence, first_sample=250, sequence=501, received_ns=7_000_000_000)
    bank.push("bed", silence, first_sample=0, sequence=0, received_ns=7_000_000_000)
    changes = bank.process(7_000_000_000)

    ended = [c for c in changes if c.change.alarm.code == "signal_lost" and c.change.state == "ended"]
    assert len(ended) == 1


def test_what_is_left_in_the_memory_that_the_kernel_works_in_is_not_read():
    samples = eventful(250)
    edges = np.arange(0, samples.shape[1] + 1, 250)
    clean, expected = play(samples, 250, edges)
    soiled = MonitorBank(collect_beats=True)
    for array in soiled._room:
        array.fill(np.nan if array.dtype.kind == "f" else 12345)
    soiled, got = play(samples, 250, edges, soiled)
    assert told(got) == told(expected)
    np.testing.assert_array_equal(soiled.take_beats(), clean.take_beats())
