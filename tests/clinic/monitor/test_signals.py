"""Pulse, pressure and breathing: right numbers from known signals, conditions in time, whatever the packets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.signals import RATE, SECOND, Line, arterial, breath, listen, pleth, steady, times

from edgeward.clinic.monitor.signals import SignalBank, SignalLimits
from edgeward.device import circulation
from edgeward.device.circulation import Pulse
from edgeward.parameters import PARAMETERS
from edgeward.waveform import STATE_CALIBRATING, STATE_OFF, Block, Channel, Kind, SignalPacket

# ---------------------------------------- pulse


@pytest.mark.parametrize("rate", [25.0, 64.0, 125.0, 500.0])
@pytest.mark.parametrize("bpm", [30, 60, 100, 180])
def test_the_pulse_rate_is_right_at_every_sampling_rate(rate, bpm):
    got = listen(Line("Pleth", Kind.PLETH, pleth(steady(bpm, 40), 40, rate=rate), rate))

    assert got["Pleth"].pulse_rate == pytest.approx(bpm, rel=0.03)
    assert got["Pleth"].quality > 0.7
    assert not got.codes()


def test_every_pulse_is_found_once_and_at_its_time():
    beats = times(72, 60)
    got = listen(Line("Pleth", Kind.PLETH, pleth([Pulse(t) for t in beats], 60)))

    found = got.bank.pulses("s")[0]
    expected = np.array([t for t in beats if 6 < t < 58]) + circulation.PLETH_DELAY_S
    delay = np.array([found.times_s[np.argmin(np.abs(found.times_s - t))] - t for t in expected])
    assert len(found.times_s[(found.times_s > 6) & (found.times_s < 58)]) == pytest.approx(len(expected), abs=1)
    assert delay.std() < 0.02
    assert 0.0 < delay.mean() < 0.12
    assert found.qualities[5:].min() > 0.6


def test_a_dicrotic_wave_is_not_a_pulse_in_an_artery():
    got = listen(Line("ART", Kind.ABP, arterial(steady(50, 40), 40)))

    assert got["ART"].pulse_rate == pytest.approx(50, rel=0.03)


def test_atrial_fibrillation_is_no_poor_signal():
    rng = np.random.default_rng(4)
    beats = np.cumsum(rng.uniform(0.5, 1.1, 70))
    got = listen(Line("Pleth", Kind.PLETH, pleth(circulation.strokes(list(beats)), 50)))

    assert got["Pleth"].quality > 0.5
    assert "pulse_noisy" not in got.codes()


def test_noise_has_no_pulse_rate_and_is_told():
    x = 300.0 * np.random.default_rng(2).normal(size=60 * 125)
    got = listen(Line("Pleth", Kind.PLETH, x))

    assert got["Pleth"].pulse_rate is None
    assert got["Pleth"].quality < 0.3
    assert "no_pulse" not in got.codes()
    assert "pulse_noisy" in got.codes()


def test_a_movement_is_no_evidence_of_a_pulse():
    count = 60 * 125
    x = pleth(steady(70, 60), 60)
    x[30 * 125 :] = 1000 * circulation.motion(np.random.default_rng(5), count - 30 * 125, RATE, 6.0)
    got = listen(Line("Pleth", Kind.PLETH, x))

    late = got.bank.pulses("s")[0]
    assert np.mean(late.qualities[late.times_s > 32]) < 0.5
    assert got["Pleth"].quality < 0.5


@pytest.mark.parametrize("kind", [Kind.PLETH, Kind.ABP])
def test_a_lost_pulse_is_told_in_time_and_its_return_too(kind):
    beats = [t for t in times(75, 80) if not 30 < t < 55]
    pulses = [Pulse(t) for t in beats]
    x = pleth(pulses, 80) if kind == Kind.PLETH else arterial(pulses, 80)
    got = listen(Line("P", kind, x))

    assert len(got.began("no_pulse")) == 1
    assert 38 <= got.began("no_pulse")[0] <= 41
    assert 55 < got.ended("no_pulse")[0] < 64
    assert not {"sensor_off"} & got.codes()


def test_a_pulse_lost_in_one_channel_while_another_has_it_is_not_told():
    gone = [Pulse(t) for t in times(75, 60) if t < 30]
    got = listen(Line("Pleth", Kind.PLETH, pleth(gone, 60)), Line("ART", Kind.ABP, arterial(steady(75, 60), 60)))

    assert "no_pulse" not in got.codes()


def test_what_only_the_artery_hid_is_told_when_the_artery_stops_too():
    first = [Pulse(t) for t in times(75, 80) if t < 30]
    second = [Pulse(t) for t in times(75, 80) if t < 50]
    got = listen(Line("Pleth", Kind.PLETH, pleth(first, 80)), Line("ART", Kind.ABP, arterial(second, 80)))

    assert 52 <= min(got.began("no_pulse")) <= 61


def test_gaps_do_not_count_as_time_without_a_pulse():
    line = Line("Pleth", Kind.PLETH, pleth(steady(75, 90), 90))
    bank = SignalBank()
    events = []
    for number in range(90):
        if 30 <= number < 60 and number % 8 > 1:  # 2 s heard, 6 s not
            continue
        bank.push("s", SignalPacket(number, 0, 0, None, (line.block(number, number + 1),)), received_ns=number * SECOND)
        events += bank.process(number * SECOND)

    assert "no_pulse" not in {event.code for event in events}


def test_a_sensor_that_is_off_is_told_at_once_and_has_no_numbers():
    x = pleth(steady(75, 40), 40)
    got = listen(Line("Pleth", Kind.PLETH, x, state=lambda t: STATE_OFF if t >= 20 else 0))

    assert got.began("sensor_off") == [21.0]
    assert got["Pleth"].pulse_rate is None
    assert "no_pulse" not in got.codes()


def test_a_constant_and_a_missing_signal_are_a_sensor_that_is_off():
    x = pleth(steady(75, 40), 40)
    flat, none = x.copy(), x.copy()
    flat[20 * 125 :] = 100.0
    none[20 * 125 :] = np.nan

    for x in (flat, none):
        got = listen(Line("Pleth", Kind.PLETH, x))
        assert 21 < got.began("sensor_off")[0] < 26
        assert "no_pulse" not in got.codes()


def test_perfusion_is_relative_to_what_is_usual():
    pulses = [Pulse(t, 1.0 if t < 60 else 0.5) for t in times(75, 70)]
    got = listen(Line("Pleth", Kind.PLETH, pleth(pulses, 70)))

    assert got["Pleth"].perfusion == pytest.approx(0.5, abs=0.12)
    assert got["Pleth"].pulse_rate == pytest.approx(75, rel=0.03)


# ---------------------------------------- pressure


@pytest.mark.parametrize(("systolic", "diastolic"), [(120, 70), (180, 100), (70, 40)])
def test_systolic_diastolic_and_mean_are_those_of_the_signal(systolic, diastolic):
    x = arterial(steady(75, 40), 40, systolic=systolic, diastolic=diastolic)
    got = listen(Line("ART", Kind.ABP, x))["ART"]

    settled = x[20 * 125 : 38 * 125].reshape(-1, 25).mean(axis=1)  # the sensor's noise is not the patient's
    assert got.systolic == pytest.approx(x[20 * 125 : 38 * 125].max(), abs=4)
    assert got.diastolic == pytest.approx(x[20 * 125 : 38 * 125].min(), abs=4)
    assert got.mean == pytest.approx(settled.mean(), abs=2)


def test_a_flush_is_no_pressure_and_no_lost_pulse():
    x = arterial(steady(75, 60), 60)
    x[30 * 125 : 42 * 125] = 300.0 + np.random.default_rng(1).normal(0, 0.5, 12 * 125)
    line = Line("ART", Kind.ABP, x)

    during, after = listen(line, until=40), listen(line)

    assert during["ART"].flush
    assert during["ART"].systolic is None
    assert "no_pulse" not in after.codes()
    assert after["ART"].systolic == pytest.approx(124, abs=8)


def test_an_open_line_is_told_apart_from_an_arrest():
    stopped = [Pulse(t) for t in times(75, 60) if t < 30]
    opened = arterial(steady(75, 60), 60)
    opened[30 * 125 :] = np.random.default_rng(1).normal(0, 0.3, 30 * 125)

    arrest = listen(Line("ART", Kind.ABP, arterial(stopped, 60)))
    line = listen(Line("ART", Kind.ABP, opened))

    assert arrest.codes() == {"no_pulse"}
    assert line.codes() == {"sensor_off"}
    assert [e.args.get("reason") for e in line.events if e.present] == ["disconnected"]
    assert line["ART"].mean is None


def test_zeroing_is_no_alarm():
    x = arterial(steady(75, 60), 60)
    x[30 * 125 : 45 * 125] = np.random.default_rng(1).normal(0, 0.3, 15 * 125)
    got = listen(Line("ART", Kind.ABP, x, state=lambda t: STATE_CALIBRATING if 30 <= t < 45 else 0))

    assert not got.codes()


def test_a_damped_line_is_questionable():
    x = arterial(steady(75, 100), 100)
    damped = 95.0 + 0.3 * (x - x[20 * 125 : 50 * 125].mean())
    x[50 * 125 :] = damped[50 * 125 :] - 95.0 + x[20 * 125 : 50 * 125].mean()
    got = listen(Line("ART", Kind.ABP, x))

    assert got["ART"].damped
    assert got["ART"].quality <= 0.6


def test_venous_pressure_is_a_mean():
    t = np.arange(30 * 125) / RATE
    got = listen(Line("CVP", Kind.CVP, 8.0 + 2.0 * np.sin(2 * np.pi * 1.2 * t) + np.sin(2 * np.pi * 0.25 * t)))

    assert got["CVP"].mean == pytest.approx(8.0, abs=0.5)


# ---------------------------------------- breathing


@pytest.mark.parametrize("rate", [10.0, 25.0, 62.5, 250.0])
@pytest.mark.parametrize("per_minute", [6, 15, 40])
def test_the_respiratory_rate_is_right(rate, per_minute):
    x = breath(90, per_minute, rate=rate, pulses=steady(75, 90))
    got = listen(Line("Resp", Kind.RESPIRATION, x, rate, gain=0.001))

    assert got["Resp"].breath_rate == pytest.approx(per_minute, rel=0.05)
    assert not got.codes()


def test_an_apnoea_is_told_after_its_time_although_the_heart_goes_on():
    x = breath(150, pulses=steady(70, 150), stop=(60.0, 110.0))
    got = listen(Line("Resp", Kind.RESPIRATION, x, 25.0, gain=0.001))

    assert len(got.began("apnea")) == 1
    assert 78 <= got.began("apnea")[0] <= 83
    assert 110 < got.ended("apnea")[0] < 125


def heart_in_the_impedance(bpm: float, depth: float, seconds: float, stop_s: float, *, goes_on: float = 0.0):
    """Breaths of 1 ohm at 15/min until `stop_s`, `goes_on` of that afterwards, and the heart's waves all the time."""
    t = np.arange(round(seconds * 25)) / 25
    x = np.where(t < stop_s, 1.0, goes_on) * 0.5 * np.sin(2 * np.pi * 0.25 * t)
    heart = 0.5 * depth * np.sin(2 * np.pi * bpm / 60 * t)
    line = Line("Resp", Kind.RESPIRATION, x + heart + np.random.default_rng(5).normal(0, 0.005, t.size), 25.0, 0.001)
    return line, Line("Pleth", Kind.PLETH, pleth(steady(bpm, seconds), seconds))


@pytest.mark.parametrize(("bpm", "depth"), [(60, 0.3), (72, 0.3), (48, 0.6)])
def test_an_apnoea_lasts_while_only_the_heart_moves_the_impedance(bpm, depth):
    got = listen(*heart_in_the_impedance(bpm, depth, 120, 30.0))

    assert len(got.began("apnea")) == 1
    assert got.began("apnea")[0] <= 55
    assert not got.ended("apnea")


@pytest.mark.parametrize(("bpm", "depth"), [(60, 0.3), (72, 0.15)])
def test_an_apnoea_lasts_without_a_pulse_beside_it(bpm, depth):
    got = listen(heart_in_the_impedance(bpm, depth, 120, 30.0)[0])

    assert len(got.began("apnea")) == 1
    assert not got.ended("apnea")


@pytest.mark.parametrize("bpm", [60, 90, 120])
def test_half_the_depth_is_no_apnoea(bpm):
    got = listen(*heart_in_the_impedance(bpm, 0.1, 120, 30.0, goes_on=0.5))

    assert "apnea" not in got.codes()


def test_what_the_heart_does_to_breathing_does_not_depend_on_the_length_of_packets():
    lines = heart_in_the_impedance(48, 0.6, 90, 30.0)
    one, other = listen(*lines, packet_s=1.0), listen(*lines, packet_s=2.0)

    assert [event.decisive_sample for event in one.events if event.present] == [
        event.decisive_sample for event in other.events if event.present
    ]
    assert one["Resp"] == other["Resp"]


@pytest.mark.parametrize("gain", [0.05, 0.2])
def test_a_pulse_rate_of_full_quality_is_right_while_the_breath_swings_the_baseline(gain):
    t = np.arange(round(60 * RATE)) / RATE
    x = 2000.0 * np.sin(2 * np.pi * 0.25 * t)  # more than 16 bits of 0.05 hold: it stands at both edges
    for beat in times(75, 60):
        since = np.clip(t - beat, 0.0, 2.5) / 0.12
        x += 1000.0 * since**2 * np.exp(2.0 * (1.0 - since))
        x += 250.0 * np.exp(-0.5 * ((t - beat - 0.32) / 0.06) ** 2)
    got = listen(Line("Pleth", Kind.PLETH, x, gain=gain))["Pleth"]

    if got.pulse_rate is not None and got.quality >= 0.5:
        assert got.pulse_rate == pytest.approx(75, rel=0.03)
    assert gain < 0.1 or got.pulse_rate is not None


def test_the_capnogram_speaks_for_the_impedance():
    still = Line("Resp", Kind.RESPIRATION, breath(120, stop=(50.0, 120.0)), 25.0, gain=0.001)
    t = np.arange(120 * 25) / 25.0
    co2 = Line("CO2", Kind.CO2, 19.0 + 19.0 * np.tanh(6 * np.sin(2 * np.pi * 0.25 * t)), 25.0, gain=0.01)

    both = listen(still, co2)

    assert "apnea" not in both.codes()
    assert "apnea" in listen(still).codes()
    assert both["CO2"].end_tidal == pytest.approx(38, abs=2)
    assert both["CO2"].breath_rate == pytest.approx(15, rel=0.05)


@pytest.mark.parametrize("pause", [25.0, 45.0])
def test_the_rate_is_back_with_the_third_breath_after_an_apnoea(pause):
    seconds = int(60 + pause + 14)
    t = np.arange(seconds * 25) / 25.0
    wave = 19.0 + 19.0 * np.tanh(6 * np.sin(2 * np.pi * 0.25 * t))
    wave[(t >= 60.0) & (t < 60.0 + pause)] = 0.0

    got = listen(Line("CO2", Kind.CO2, wave, 25.0, gain=0.01))

    assert "apnea" in got.codes()
    assert got["CO2"].breath_rate == pytest.approx(15, rel=0.1)


# ---------------------------------------- packets


def eventful() -> tuple[Line, ...]:
    beats = [t for t in times(80, 60) if not 25 < t < 40]
    pulses = circulation.strokes(beats)
    return (
        Line("Pleth", Kind.PLETH, pleth(pulses, 60)),
        Line("ART", Kind.ABP, arterial(pulses, 60), 250.0 / 2),
        Line("Resp", Kind.RESPIRATION, breath(60, stop=(15.0, 45.0), pulses=pulses), 25.0, gain=0.001),
    )


def played(lines, cuts):
    """Send whole streams cut at `cuts` (parts of 1); return everything that may not depend on the cuts."""
    bank = SignalBank()
    edges = [0.0, *sorted(cuts), 1.0]
    for number, (a, b) in enumerate(itertools.pairwise(edges)):
        blocks = [line.block(a * line.seconds, b * line.seconds) for line in lines]
        packet = SignalPacket(number, 0, 0, None, tuple(x for x in blocks if x.samples.size))
        bank.push("s", packet, received_ns=0)
        if number % 3 == 0:
            bank.process(0)
    bank.process(0)
    rows = [{name: row[name].tobytes() for name in row.dtype.names if name != "fresh"} for row in bank._kept.rows[:3]]
    # What a source says of two channels at once is put together per call; each channel's own statement is in its row.
    return rows, [p.times_s.tobytes() + p.qualities.tobytes() for p in bank.pulses("s")]


LINES = eventful()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0.001, 0.999), max_size=60, unique=True))
def test_the_length_of_packets_changes_nothing_at_all(cuts):
    rows, pulses = played(LINES, [k / 60 for k in range(1, 60)])
    other_rows, other_pulses = played(LINES, cuts)

    assert other_pulses == pulses
    for one, other in zip(rows, other_rows, strict=True):
        assert [name for name in one if one[name] != other[name]] == []


def test_patients_do_not_disturb_each_other():
    alone = listen(Line("Pleth", Kind.PLETH, pleth(steady(75, 30), 30)))["Pleth"]
    bank = SignalBank()
    lines = {f"p{i}": Line("Pleth", Kind.PLETH, pleth(steady(50 + 5 * i, 30), 30)) for i in range(11)}
    for number in range(30):
        for name, line in lines.items():
            bank.push(name, SignalPacket(number, 0, 0, None, (line.block(number, number + 1),)), received_ns=0)
        bank.process(0)

    assert bank.numerics("p5")[0].pulse_rate == alone.pulse_rate
    assert bank.numerics("p5")[0].quality == alone.quality


def test_repeated_and_overtaken_packets_are_counted_and_not_used():
    line = Line("Pleth", Kind.PLETH, pleth(steady(75, 30), 30))
    bank = SignalBank()
    for number in range(30):
        packet = SignalPacket(number, 0, 0, None, (line.block(number, number + 1),))
        for _ in range(2):
            bank.push("s", packet, received_ns=0)
    bank.process(0)

    assert bank.statistics()["refused"] == 30
    assert bank.numerics("s")[0].pulse_rate == pytest.approx(75, rel=0.03)


def test_a_device_that_starts_again_begins_a_new_stream():
    line = Line("Pleth", Kind.PLETH, pleth(steady(75, 30), 30))
    bank = SignalBank()
    for start in (0, 1):
        for number in range(30):
            packet = SignalPacket(number, 0, 0, None, (line.block(number, number + 1),))
            bank.push("s", packet, received_ns=start)
    bank.process(0)

    assert bank.numerics("s")[0].pulse_rate == pytest.approx(75, rel=0.03)
    assert bank.pulses("s")[0].now_s == pytest.approx(30)


def test_a_channel_that_changes_its_gain_begins_anew_and_a_new_one_is_taken():
    one = Line("Pleth", Kind.PLETH, pleth(steady(75, 60), 60))
    other = Line("Pleth", Kind.PLETH, pleth(steady(75, 60), 60), gain=0.1)
    more = Line("ART", Kind.ABP, arterial(steady(75, 60), 60))
    bank = SignalBank()
    for number in range(60):
        blocks = [(one if number < 20 else other).block(number, number + 1)]
        if number >= 30:
            blocks.append(more.block(number, number + 1))
        bank.push("s", SignalPacket(number, 0, 0, None, tuple(blocks)), received_ns=0)
    bank.process(0)

    assert [round(n.pulse_rate or 0) for n in bank.numerics("s")] == [75, 75]


def test_a_source_without_ecg_that_falls_silent_is_lost_and_found():
    line = Line("Pleth", Kind.PLETH, pleth(steady(75, 30), 30))
    bank = SignalBank()
    bank.push("s", SignalPacket(0, 0, 0, None, (line.block(0, 1),)), received_ns=SECOND)

    assert bank.tick(4 * SECOND) == []
    lost = bank.tick(6 * SECOND)
    bank.push("s", SignalPacket(1, 0, 0, None, (line.block(1, 2),)), received_ns=7 * SECOND)

    assert [(e.code, e.present) for e in lost] == [("signal_lost", True)]
    assert ("signal_lost", False) in [(e.code, e.present) for e in bank.process(7 * SECOND)]


def test_a_source_that_rests_is_not_lost_and_one_removed_takes_its_conditions_with_it():
    x = pleth(steady(75, 30), 30)
    line = Line("Pleth", Kind.PLETH, x, state=lambda _: STATE_OFF)
    bank = SignalBank()
    bank.push("s", SignalPacket(0, 0, 0, None, (line.block(0, 1),)), received_ns=0)
    assert [e.code for e in bank.process(0)] == ["sensor_off"]

    bank.rest("s")

    assert bank.tick(100 * SECOND) == []
    assert [(e.code, e.present) for e in bank.remove("s", 0)] == [("sensor_off", False)]
    assert "s" not in bank
    bank.push("t", SignalPacket(0, 0, 0, None, (line.block(0, 1),)), received_ns=0)
    assert [e.source_id for e in bank.process(0)] == ["t"]


# ---------------------------------------- after a restart


def assuming(*told: tuple[str, str]) -> SignalBank:
    bank = SignalBank()
    for code, channel in told:
        bank.assume("s", code, [channel] if channel else [])
    return bank


@pytest.mark.parametrize("code", ["no_pulse", "sensor_off", "pulse_noisy"])
def test_what_held_of_a_pulse_before_a_restart_ends_when_the_signal_says_so(code):
    bank = assuming((code, "Pleth"))
    got = listen(Line("Pleth", Kind.PLETH, pleth(steady(75, 30), 30)), bank=bank)
    assert [(e.code, e.present) for e in got.events] == [(code, False)]
    assert got.ended(code)[0] <= 12


def test_an_apnoea_of_before_a_restart_ends_with_the_breaths():
    got = listen(Line("Resp", Kind.RESPIRATION, breath(60), 25.0, gain=0.001), bank=assuming(("apnea", "Resp")))
    assert [(e.code, e.present) for e in got.events] == [("apnea", False)]
    assert got.ended("apnea")[0] <= 30


def test_what_goes_on_after_a_restart_is_neither_ended_nor_told_again():
    still = 1000.0 + np.random.default_rng(1).normal(0, 3, 40 * 125)
    got = listen(Line("Pleth", Kind.PLETH, still), bank=assuming(("no_pulse", "Pleth")))
    assert "no_pulse" not in got.codes()
    x = pleth(steady(75, 30), 30)
    got = listen(Line("Pleth", Kind.PLETH, x, state=lambda _: STATE_OFF), bank=assuming(("sensor_off", "Pleth")))
    assert got.events == []


def test_what_was_told_of_a_channel_that_is_not_sent_any_more_ends():
    bank = assuming(("sensor_off", "ART"), ("no_pulse", "ART"))
    got = listen(Line("Pleth", Kind.PLETH, pleth(steady(75, 30), 30)), bank=bank)
    assert sorted((e.code, e.present) for e in got.events) == [("no_pulse", False), ("sensor_off", False)]
    assert got.ended("sensor_off")[0] >= 10


def test_a_source_without_ecg_that_was_lost_before_a_restart_is_found():
    got = listen(Line("Pleth", Kind.PLETH, pleth(steady(75, 10), 10)), bank=assuming(("signal_lost", "")))
    assert [(e.code, e.present) for e in got.events] == [("signal_lost", False)]


def test_what_is_told_of_a_channel_ends_although_it_changed_its_gain_meanwhile():
    off = Line("Pleth", Kind.PLETH, pleth(steady(75, 60), 60), state=lambda t: STATE_OFF if t < 15 else 0)
    other = Line("Pleth", Kind.PLETH, pleth(steady(75, 60), 60), gain=0.1, state=lambda t: STATE_OFF if t < 15 else 0)
    bank = SignalBank()
    events = []
    for number in range(40):
        block = (off if number < 10 else other).block(number, number + 1)
        bank.push("s", SignalPacket(number, 0, 0, None, (block,)), received_ns=number * SECOND)
        events += bank.process(number * SECOND)
    assert [(e.code, e.present) for e in events] == [("sensor_off", True), ("sensor_off", False)]


def test_what_cannot_be_read_is_refused_by_name():
    slow = Block(Channel(name="ART", kind=Kind.ABP, rate_hz=20.0, gain=1.0), 0, np.zeros(20, dtype=np.int16))

    with pytest.raises(ValueError, match="20 Hz; abp is read from 40 Hz"):
        SignalBank().push("s", SignalPacket(0, 0, 0, None, (slow,)), received_ns=0)
    with pytest.raises(ValueError, match="apnea_s"):
        SignalLimits(apnea_s=5.0)


def test_a_device_with_ever_new_channels_is_refused():
    bank = SignalBank()
    with pytest.raises(ValueError, match="different channels"):
        for number in range(100):
            channel = Channel(name=f"P{number}", kind=Kind.PLETH, rate_hz=125.0, gain=1.0)
            block = Block(channel, number * 125, np.zeros(125, dtype=np.int16))
            bank.push("s", SignalPacket(number, 0, 0, None, (block,)), received_ns=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=2, max_size=400), st.integers(0, 7)), max_size=12))
def test_hostile_samples_never_break_anything(parts):
    bank = SignalBank()
    kinds = [k for k in Kind if k != Kind.ECG]
    for number, (first, raw, state) in enumerate(parts):
        samples = np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<i2")
        blocks = tuple(
            Block(Channel(name=k.name[:8], kind=k, rate_hz=50.0, gain=10.0, offset=-1e6), first, samples, state)
            for k in kinds if k not in {Kind.PLETH_RED, Kind.PLETH_INFRARED}
        )  # fmt: skip
        bank.push("s", SignalPacket(number, 0, 0, None, blocks), received_ns=number)
        bank.process(number)
    for found in bank.numerics("s") if "s" in bank else ():
        assert 0.0 <= found.quality <= 1.0
        assert all(v is None or math.isfinite(v) for v in (found.pulse_rate, found.systolic, found.mean))


# ---------------------------------------- values


class Sink:
    def __init__(self) -> None:
        self.got: dict[str, list[float | None]] = {}

    def update(self, source_id, parameter, value, *, at_ns, received_ns, quality=None):
        assert parameter in PARAMETERS
        assert 0.0 <= quality <= 1.0
        self.got.setdefault(parameter, []).append(value)


def test_values_are_handed_on_about_once_a_second_and_withdrawn_when_gone():
    lines = (
        Line("Pleth", Kind.PLETH, pleth(steady(90, 60), 60), state=lambda t: STATE_OFF if t > 40 else 0),
        Line("Resp", Kind.RESPIRATION, breath(60), 25.0, gain=0.001),
    )
    bank, sink = SignalBank(), Sink()
    for number in range(60):
        packet = SignalPacket(number, 0, 0, None, tuple(line.block(number, number + 1) for line in lines))
        bank.push("s", packet, received_ns=number * SECOND)
        bank.process(number * SECOND)
        bank.give_values(sink)

    rates = sink.got["pulse_rate"]
    assert 30 <= len([r for r in rates if r is not None]) <= 40
    assert rates[-1] is None
    assert sink.got["respiratory_rate"][-1] == pytest.approx(15, rel=0.05)


def test_the_artery_speaks_for_the_pulse_rate_when_both_are_good():
    bank, sink = SignalBank(), Sink()
    lines = (
        Line("Pleth", Kind.PLETH, pleth(steady(60, 30), 30)),
        Line("ART", Kind.ABP, arterial(steady(90, 30), 30)),
    )
    for number in range(30):
        packet = SignalPacket(number, 0, 0, None, tuple(line.block(number, number + 1) for line in lines))
        bank.push("s", packet, received_ns=number * SECOND)
        bank.process(number * SECOND)
        bank.give_values(sink)

    assert sink.got["pulse_rate"][-1] == pytest.approx(90, rel=0.03)
    assert sink.got["abp_systolic"][-1] is not None


def test_without_a_breath_there_is_soon_no_end_tidal_value():
    rate = 25.0
    gas = circulation.capnogram(0, round(100 * rate), rate, per_minute=15.0, end_tidal=38.0)
    gas[round(60 * rate) :] = 0.0
    line = Line("CO2", Kind.CO2, gas, rate)
    bank, seen = SignalBank(), {}
    for second in range(100):
        packet = SignalPacket(second, 0, 0, None, (line.block(second, second + 1),))
        bank.push("s", packet, received_ns=second * SECOND)
        bank.process(second * SECOND)
        seen.update((second, v.value) for v in bank.take_values() if v.parameter == "etco2")

    assert seen[55] == pytest.approx(38, abs=1.5)
    gone = [at for at, value in seen.items() if value is None and at > 60]
    assert gone
    assert min(gone) <= 60 + 21
    assert all(value is None for at, value in seen.items() if at > 82)
