"""From packets to alarms: a heart that stops, and one that only seems to."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support import signals
from tests.support.monitoring import SECOND, Site
from tests.support.wearable import RATE, ecg

from edgeward.bedside import Numerics, Vital
from edgeward.clinic.monitor import streams
from edgeward.clinic.monitor.engine import SITE
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.witnesses import Witnesses
from edgeward.waveform import FLAG_LAST, Block, Channel, Kind, WaveformPacket, encode, encode_channels

BPM = 72
STOPS_S = 40


class Bedside:
    """One device at one bed, with everything that looks at it."""

    def __init__(self) -> None:
        self.site = Site()
        self.intake = Intake(self.site.clock, Limits(), self.know)
        self.site.engine._check = Witnesses(self.intake).check
        self.site.engine._lag = self.intake.lag_ms

    def know(self, source_id: str, _: str) -> None:
        if self.site.beds.add_source(source_id):
            self.intake.watch.set_limits(source_id, self.site.beds.limits(source_id))

    def send(self, data: bytes, source: str = "a") -> None:
        self.intake.wave(source, data, self.site.clock.now_ns())

    def look(self) -> None:
        self.site.told += self.site.engine.take(self.intake.process())
        self.site.told += self.site.engine.take(self.intake.tick())
        self.site.told += self.site.engine.tick()

    def numerics(self, *vitals: Vital, **fields) -> None:
        now = self.site.clock.now_ns()
        known = {"source_id": "a", "device_id": "a", "protocol": "pcd01", "received_ns": now}
        self.intake.numerics(Numerics(**{**known, **fields}, vitals=list(vitals)), now)

    def raised(self) -> list[str]:
        return [one.change.alarm.code for one in self.site.told if one.change.new]


def heart(*, pulse_stops: bool, seconds: int = 60) -> Bedside:
    """An ECG that goes flat at `STOPS_S`, and a pleth of the same device that does, or does not."""
    bedside = Bedside()
    line = np.concatenate([ecg(STOPS_S, BPM), ecg(seconds - STOPS_S, 0, seed=1)])
    beats = np.arange(0.4, seconds, 60.0 / BPM)
    pulses = [signals.Pulse(float(at) + 0.2) for at in beats if not pulse_stops or at < STOPS_S]
    wave = signals.Line("PLETH", Kind.PLETH, signals.pleth(pulses, float(seconds)))
    lead = Channel(name="II", kind=Kind.ECG, rate_hz=RATE, gain=1.0)
    rate = round(RATE)
    for second in range(seconds):
        bedside.site.hands.pass_s(1)
        part = np.ascontiguousarray(line[second * rate : (second + 1) * rate])
        blocks = (Block(lead, second * rate, part), wave.block(second, second + 1))
        bedside.send(encode_channels(blocks, sequence=second, start_ns=1))
        bedside.look()
    return bedside


def test_a_heart_that_stops_is_an_asystole_although_a_pulse_was_there_before():
    bedside = heart(pulse_stops=True)
    assert "asystole" in bedside.raised()
    assert bedside.site.codes("a")[0] in ("asystole", "no_pulse")


def test_an_ecg_that_only_goes_flat_is_said_as_not_confirmed_and_not_hidden():
    bedside = heart(pulse_stops=False)
    assert "asystole_unconfirmed" in bedside.raised()
    assert "asystole" not in bedside.raised()
    (record,) = [one for one in bedside.site.engine.active("a") if one.code == "asystole_unconfirmed"]
    assert record.args["reason"].startswith("pulse_")


def test_a_flat_ecg_without_a_pulse_signal_is_an_asystole():
    bedside = Bedside()
    line = np.concatenate([ecg(12, BPM), ecg(8, 0, seed=1)])
    for packet in packets(line):
        bedside.site.hands.pass_s(1)
        bedside.send(packet)
        bedside.look()
    assert "asystole" in bedside.raised()


def test_a_meter_that_says_lo_alarms_and_takes_the_place_of_the_value_before():
    bedside = Bedside()
    pack = b'[{"n":"glucose","u":"mg/dL","v":104}]'
    bedside.intake.pack("a", pack, bedside.site.clock.now_ns())
    bedside.site.hands.pass_s(60)
    bedside.intake.pack("a", b'[{"n":"glucose","u":"mg/dL","vs":"LO"}]', bedside.site.clock.now_ns())
    bedside.look()
    (alarm,) = [one.change.alarm for one in bedside.site.told if one.change.new]
    assert (alarm.code, alarm.scope, alarm.args["bound"]) == ("parameter_extreme_low", "glucose", "below")
    held = bedside.intake.watch.values("a")["glucose"]
    assert (held.value, held.bound) == (20.0, "below")
    bedside.site.hands.pass_s(600)
    bedside.intake.pack("a", b'[{"n":"glucose","u":"mg/dL","v":88}]', bedside.site.clock.now_ns())
    assert bedside.intake.watch.values("a")["glucose"].bound == ""


def test_after_an_asystole_the_heart_rate_of_before_is_no_alarm():
    """The rate had fallen below its limit when the heart stopped; afterwards it beats at a usual rate."""
    bedside = Bedside()
    line = np.concatenate([ecg(30, BPM), ecg(6, 44), ecg(12, 0, seed=1), ecg(30, BPM)])
    rate = round(RATE)
    for second in range(line.size // rate):
        bedside.site.hands.pass_s(1)
        lead = Block(Channel(name="II", kind=Kind.ECG, rate_hz=RATE, gain=1.0), second * rate,
                     np.ascontiguousarray(line[second * rate : (second + 1) * rate]))  # fmt: skip
        bedside.send(encode_channels((lead,), sequence=second, start_ns=1))
        bedside.look()
    raised = [one for one in bedside.site.told if one.change.new]
    asystole = next(one for one in raised if one.change.alarm.code == "asystole")
    after = [one.change.alarm.code for one in raised[raised.index(asystole) + 1 :]]
    assert "parameter_low" not in after, after
    assert abs((bedside.intake.bank.numerics("a", 0).heart_rate or 0) - BPM) < 3


def packets(line: np.ndarray, flags: int = 0) -> list[bytes]:
    rate = round(RATE)
    return [
        encode(
            WaveformPacket(
                samples=line[at : at + rate].reshape(1, -1), sequence=number, first_sample=at, start_ns=0,
                rate_hz=RATE, gain_uv=1.0, leads=("II",), lead_off=(False,), flags=flags,
            )
        )
        for number, at in enumerate(range(0, len(line) - rate + 1, rate))
    ]  # fmt: skip


def test_an_alarm_from_packets_that_waited_says_how_late_it_is():
    bedside = Bedside()
    sent = packets(np.concatenate([ecg(20, BPM), ecg(12, 0, seed=1)]))
    for packet in sent[:20]:
        bedside.site.hands.pass_s(1)
        bedside.send(packet)
        bedside.look()
    bedside.site.hands.pass_s(12)  # the way was blocked
    for packet in sent[20:]:
        bedside.send(packet)
    bedside.look()
    (alarm,) = [one.change.alarm for one in bedside.site.told if one.change.new and one.change.alarm.code == "asystole"]
    assert 5_000 < alarm.late_ms < 9_000, "decided by the fifth of twelve seconds"


def test_an_alarm_from_packets_in_time_is_not_late():
    bedside = Bedside()
    for packet in packets(np.concatenate([ecg(20, BPM), ecg(12, 0, seed=1)])):
        bedside.site.hands.pass_s(1)
        bedside.send(packet)
        bedside.look()
    (alarm,) = [one.change.alarm for one in bedside.site.told if one.change.new and one.change.alarm.code == "asystole"]
    assert alarm.late_ms == 0


def test_a_faster_clock_in_the_device_does_not_make_it_late_for_ever():
    book = np.zeros(1, dtype=streams.STREAM)
    streams.new_stream(book, 0, 250.0, 0)
    for second in range(7200):
        streams.take_pace(book, 0, second * 250, 250, int(second * SECOND * 1.0002))  # 200 ppm: 1.4 s in two hours
    assert streams.behind_ns(book, 0, 7200 * 250, int(7200 * SECOND * 1.0002)) < SECOND * 0.1


def test_a_heart_rate_beyond_its_limit_alarms_once():
    bedside = Bedside()
    for packet in packets(ecg(30, 135)):
        bedside.site.hands.pass_s(1)
        bedside.send(packet)
        bedside.look()
    assert bedside.raised() == ["parameter_high"]
    (record,) = bedside.site.engine.active("a")
    assert record.args["parameter"] == "heart_rate"
    assert 130 <= record.args["value"] <= 140


def test_a_planned_stop_is_missed_by_nobody():
    bedside = Bedside()
    sent = packets(ecg(10, BPM))
    for packet in sent[:-1]:
        bedside.site.hands.pass_s(1)
        bedside.send(packet)
        bedside.look()
    bedside.send(packets(ecg(10, BPM), flags=FLAG_LAST)[-1])
    for _ in range(240):
        bedside.site.hands.pass_s(0.25)
        bedside.look()
    assert bedside.raised() == []


@pytest.mark.parametrize("with_ecg", [True, False])
def test_numbers_of_the_last_packets_signals_are_not_missed_after_a_planned_stop(with_ecg):
    bedside = Bedside()
    seconds, rate = 20, round(RATE)
    beats = [signals.Pulse(float(at)) for at in np.arange(0.6, seconds, 60.0 / BPM)]
    wave = signals.Line("PLETH", Kind.PLETH, signals.pleth(beats, float(seconds)))
    lead, line = Channel(name="II", kind=Kind.ECG, rate_hz=RATE, gain=1.0), ecg(seconds, BPM)
    for second in range(seconds):
        bedside.site.hands.pass_s(1)
        part = np.ascontiguousarray(line[second * rate : (second + 1) * rate])
        blocks = (*([Block(lead, second * rate, part)] if with_ecg else []), wave.block(second, second + 1))
        flags = FLAG_LAST if second == seconds - 1 else 0
        bedside.send(encode_channels(blocks, sequence=second, start_ns=1, flags=flags))
        bedside.look()
    assert "pulse_rate" in bedside.intake.watch.values("a")
    for _ in range(120):
        bedside.site.hands.pass_s(1)
        bedside.look()
    assert bedside.raised() == []


@pytest.mark.parametrize("sensor", ["leads", "CVP", "PLETH"])
def test_a_sensor_that_is_off_hides_only_what_it_measures(sensor):
    """A standing SpO2 alarm whose value stops coming must not end behind an electrode, or another channel's sensor."""
    bedside = Bedside()
    rate = round(RATE)
    line, off = ecg(60, BPM), 10
    lead = Channel(name="II", kind=Kind.ECG, rate_hz=RATE, gain=1.0)
    others = (
        signals.Line("CVP", Kind.CVP, np.full(60 * rate, 8.0), state=lambda at: int(sensor == "CVP" and at >= off)),
        signals.Line(
            "PLETH", Kind.PLETH, signals.pleth(signals.steady(BPM, 60), 60.0),
            state=lambda at: int(sensor == "PLETH" and at >= off),
        ),
    )  # fmt: skip
    for second in range(60):
        bedside.site.hands.pass_s(1)
        part = np.ascontiguousarray(line[second * rate : (second + 1) * rate])
        state = int(sensor == "leads" and second >= off)
        blocks = (Block(lead, second * rate, part, state), *(wave.block(second, second + 1) for wave in others))
        bedside.send(encode_channels(blocks, sequence=second, start_ns=1))
        if second < 20:
            now = bedside.site.clock.now_ns()
            bedside.numerics(Vital(parameter="spo2", value=77.0, at_ns=now), protocol="senml")
        bedside.look()
        if second == 19:
            assert "parameter_extreme_low" in bedside.site.codes("a")
    told = bedside.site.codes("a")
    assert ("all_leads_off" if sensor == "leads" else "sensor_off") in told
    assert ("no_value" in told) == (sensor != "PLETH"), "a finger's probe that is off is why there is no SpO2"


def test_a_sensor_that_is_off_is_not_told_of_a_channel_that_is_no_longer_sent():
    bedside = Bedside()
    pleth = signals.Line("PLETH", Kind.PLETH, signals.pleth(signals.steady(BPM, 90), 90.0))
    arterial = signals.arterial(signals.steady(BPM, 90), 90.0)
    pressure = signals.Line("ART", Kind.ABP, arterial, state=lambda at: int(10 <= at < 60))
    for second in range(90):
        bedside.site.hands.pass_s(1)
        waves = (pleth, pressure) if second < 20 or second >= 50 else (pleth,)
        bedside.send(
            encode_channels(tuple(one.block(second, second + 1) for one in waves), sequence=second, start_ns=1)
        )
        bedside.look()
        if second in (15, 28, 55):
            assert "sensor_off" in bedside.site.codes("a"), second
        if second in (35, 75):
            assert "sensor_off" not in bedside.site.codes("a"), second


def test_a_slow_heart_while_nobody_breathes_is_told():
    bedside = Bedside()
    rate = round(RATE)
    line = np.concatenate([ecg(70, BPM), ecg(50, 43, seed=1)])
    lead = Channel(name="II", kind=Kind.ECG, rate_hz=RATE, gain=1.0)
    breath = signals.Line("RESP", Kind.RESPIRATION, signals.breath(120.0, stop=(30.0, 120.0)), 25.0, 0.001)
    for second in range(120):
        bedside.site.hands.pass_s(1)
        part = np.ascontiguousarray(line[second * rate : (second + 1) * rate])
        bedside.send(encode_channels((Block(lead, second * rate, part), breath.block(second, second + 1)), sequence=second, start_ns=1))  # fmt: skip
        bedside.look()
    assert {"apnea", "parameter_low"} <= set(bedside.site.codes("a"))


def test_a_value_that_came_once_long_before_does_not_put_off_the_alarm_of_its_silence():
    """A spot check at admission, then a monitor that measures every second, then nothing."""
    bedside = Bedside()
    silent_s = 0.0
    for quarter in range(4 * 200):
        second = quarter / 4
        bedside.site.hands.pass_s(0.25)
        if second == 0 or (75 <= second < 95 and second == int(second)):
            now = bedside.site.clock.now_ns()
            values = {"heart_rate": 80.0, "spo2": 97.0}
            bedside.numerics(*(Vital(parameter=name, value=value, at_ns=now) for name, value in values.items()))
        bedside.look()
        if bedside.raised() and not silent_s:
            silent_s = second - 94
    assert 8 < silent_s < 15


@pytest.mark.parametrize(("bpm", "code"), [(0, "asystole"), (195, "extreme_tachycardia"), (25, "extreme_bradycardia")])
def test_what_is_lethal_and_goes_on_after_a_discharge_is_told_anew(bpm, code):
    """Somebody discharged the wrong bed, or the next patient is in it already."""
    bedside = Bedside()
    rate = round(RATE)
    line = np.concatenate([ecg(20, BPM), ecg(60, bpm, seed=1)])
    for second in range(80):
        bedside.site.hands.pass_s(1)
        part = line[second * rate : (second + 1) * rate].reshape(1, -1)
        packet = WaveformPacket(
            samples=part, sequence=second, first_sample=second * rate, start_ns=1, rate_hz=RATE, gain_uv=1.0, leads=("II",),
            lead_off=(False,),
        )  # fmt: skip
        bedside.send(encode(packet))
        bedside.look()
        if second == 50:
            assert code in bedside.site.codes("a")
            bedside.site.told += bedside.site.engine.discharge("a")
            bedside.intake.clear("a")
            assert bedside.site.codes("a") == []
    assert code in bedside.site.codes("a")
    assert bedside.raised().count(code) == 2


def test_a_pulse_and_breaths_that_are_missing_after_a_discharge_are_told_anew():
    bedside = Bedside()
    beats = np.arange(0.4, 90.0, 60.0 / BPM)
    pulses = [signals.Pulse(float(at) + 0.2) for at in beats if at < 30]
    waves = (
        signals.Line("PLETH", Kind.PLETH, signals.pleth(pulses, 90.0)),
        signals.Line("RESP", Kind.RESPIRATION, signals.breath(90.0, stop=(30.0, 90.0)), 25.0, 0.001),
    )
    for second in range(90):
        bedside.site.hands.pass_s(1)
        bedside.send(
            encode_channels(tuple(wave.block(second, second + 1) for wave in waves), sequence=second, start_ns=1)
        )
        bedside.look()
        if second == 70:
            assert {"no_pulse", "apnea"} <= set(bedside.site.codes("a"))
            bedside.site.told += bedside.site.engine.discharge("a")
            bedside.intake.clear("a")
    assert {"no_pulse", "apnea"} <= set(bedside.site.codes("a"))


def test_another_patient_in_the_same_place_starts_with_nothing():
    bedside = Bedside()
    now = bedside.site.clock.now_ns()
    bedside.numerics(Vital(parameter="spo2", value=75.0, at_ns=now), patient="one")
    bedside.look()
    assert bedside.site.codes("a") == ["parameter_extreme_low"]
    bedside.site.hands.pass_s(5)
    bedside.numerics(Vital(parameter="heart_rate", value=80.0, at_ns=bedside.site.clock.now_ns()), patient="two")
    bedside.site.hands.pass_s(1)
    bedside.look()
    assert bedside.site.codes("a") == ["another_patient"]
    assert set(bedside.intake.watch.values("a")) == {"heart_rate"}


def test_a_gateway_that_sends_once_a_minute_does_not_alarm_in_between():
    bedside = Bedside()
    for _ in range(8):
        bedside.numerics(Vital(parameter="heart_rate", value=80.0, at_ns=bedside.site.clock.now_ns()))
        for _ in range(240):
            bedside.site.hands.pass_s(0.25)
            bedside.look()
    assert bedside.raised().count("no_value") <= 1, "until its habit is known"


# ---------------------------------------- a restart, of a bed with only numerics


def restarted(before: Bedside, away_s: float, messages: list[Numerics] | None = None) -> Bedside:
    """A process that takes up what the one before kept, `away_s` later."""
    dump = before.intake.vitals.dump(before.site.clock.wall_ns)
    after = Bedside()
    after.site.hands.wall = before.site.hands.wall + round(away_s * SECOND)
    after.site.hands.steady = 5 * SECOND  # another clock: only the wall's goes on
    after.site.clock = after.intake._clock = after.intake.measured._clock = after.site.hands.clock()
    after.intake.watch._clock = after.site.clock.now_ns
    after.site.engine._clock = after.site.clock
    after.know("a", "")
    after.intake.measured.take_up(dump, messages or [])
    return after


def steadily(*, seconds: int = 40, spo2: float = 97.0) -> Bedside:
    bedside = Bedside()
    for _ in range(seconds // 10):
        bedside.site.hands.pass_s(10)
        bedside.numerics(Vital(parameter="spo2", value=spo2, at_ns=0))
        bedside.look()
    return bedside


def passing(bedside: Bedside, seconds: float) -> list[str]:
    for _ in range(round(seconds * 4)):
        bedside.site.hands.pass_s(0.25)
        bedside.look()
    return bedside.raised()


def test_a_source_that_fell_silent_while_the_monitor_was_away_is_missed() -> None:
    after = restarted(steadily(), 300)
    assert passing(after, 20) == []
    assert passing(after, 20) == ["signal_lost"], "which says more than that a value is missing"
    assert after.site.engine.active("a")[0].args["seconds"] <= 40


def test_a_value_keeps_its_age_over_a_restart() -> None:
    after = restarted(steadily(), 20)
    value = after.intake.watch.values("a")["spo2"]
    assert value.value == 97.0
    assert not value.stale(after.site.clock.now_ns())
    assert passing(after, 12) == ["signal_lost"], "30 s after it was measured, not after the restart"


def test_a_value_that_was_acknowledged_and_never_looked_at_alarms_after_the_restart() -> None:
    before = steadily()
    before.site.hands.pass_s(10)
    now = before.site.clock.now_ns()
    message = Numerics(
        source_id="a", device_id="a", protocol="pcd01", received_ns=now,
        vitals=[Vital(parameter="spo2", value=70.0, at_ns=0)],
    )  # fmt: skip
    after = restarted(before, 8, [before.intake.measured.by_wall_clock(message)])
    after.look()
    assert after.raised() == ["parameter_extreme_low"]
    assert after.intake.measured.take_up(None, [before.intake.measured.by_wall_clock(message)]) == 1
    after.look()
    assert after.raised() == ["parameter_extreme_low"], "taken up twice it is a repetition"


def test_a_spot_check_of_before_is_not_missed() -> None:
    before = Bedside()
    before.site.hands.pass_s(10)
    before.numerics(Vital(parameter="spo2", value=97.0, at_ns=0), Vital(parameter="temperature", value=36.5, at_ns=0))
    after = restarted(before, 300)
    assert passing(after, 60) == []
    assert after.intake.watch.values("a")["temperature"].value == 36.5


@pytest.mark.parametrize("every_s", [1, 3])
def test_a_gateway_of_many_beds_that_is_cut_is_one_alarm_with_a_list(every_s: int) -> None:
    ward = Bedside()
    beds = [f"gw-icu-{number}" for number in range(12)]
    for _ in range(30):
        ward.site.hands.pass_s(every_s)
        measured_ns = ward.site.clock.now_ns() - SECOND * 7 // 10  # numbers are a little older than their message
        for bed in beds:
            vitals = [
                Vital(parameter=name, value=value, at_ns=measured_ns)
                for name, value in (("heart_rate", 70), ("spo2", 97), ("abp_systolic", 120), ("respiratory_rate", 15))
            ]
            ward.numerics(*vitals, source_id=bed, device_id="gw", clock="site")
        ward.look()
    for _ in range(400):
        ward.site.hands.pass_s(0.25)
        ward.look()
    assert "no_value" not in ward.raised()
    (flood,) = ward.site.engine.active(SITE)
    assert (flood.code, sorted(flood.members)) == ("signal_flood", sorted(beds))
    assert not any(ward.site.engine.active(bed) for bed in beds)
    for bed in beds:
        ward.numerics(Vital(parameter="heart_rate", value=70, at_ns=0), source_id=bed, device_id="gw", clock="site")
    ward.look()
    assert ward.site.engine.active(SITE) == []
