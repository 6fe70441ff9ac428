"""An ECG of one device and the pulse of another at one bed: who speaks against a lethal alarm, and who does not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.clinic.monitor.test_intake import Bedside
from tests.support import signals
from tests.support.monitoring import SECOND

from edgeward.bedside import SetBed
from edgeward.clinic.monitor import nights
from edgeward.clinic.monitor.witnesses import Witnesses
from edgeward.waveform import Block, Channel, Kind, encode_channels

ECG_HZ = nights.ECG_HZ
LEAD = Channel(name="II", kind=Kind.ECG, rate_hz=float(ECG_HZ), gain=2.0)
EVENT_S = 100


class Pair(Bedside):
    """A wearable with an ECG and an oximeter with a pleth, assigned to one bed, each with its clock and its way."""

    def __init__(self, *, oximeter_late: int = 0) -> None:
        super().__init__()
        self.witnesses = Witnesses(self.intake)
        self.site.engine._check = self.witnesses.check
        self.late = oximeter_late
        for source in ("ecg", "ox"):
            self.know(source, "")
        self.site.beds.apply(SetBed(bed_id="bed", by="nurse", at_ns=1, sources=["ecg", "ox"]), {"ecg", "ox"})

    def play(self, ecg, pleth, seconds, *, ox_stops_at=10**6):
        line = signals.Line("PLETH", Kind.PLETH, pleth)
        codes = np.clip(np.rint(ecg * 500.0), -32000, 32000).astype(np.int16)
        for second in range(seconds):
            self.site.hands.pass_s(1)
            part = np.ascontiguousarray(codes[second * ECG_HZ : (second + 1) * ECG_HZ])
            self.send(encode_channels((Block(LEAD, second * ECG_HZ, part),), sequence=second, start_ns=1), "ecg")
            behind = second - self.late
            if 0 <= behind < ox_stops_at:
                self.send(encode_channels((line.block(behind, behind + 1),), sequence=behind, start_ns=1), "ox")
            self.witnesses.look((bed.sources for bed in self.site.beds), self.site.clock.now_ns())
            self.look()
            for _ in range(3):  # what is kept back is asked again while time passes
                self.site.told += self.site.engine.tick()
        return self


def heartbeats(seconds, spread=0.05, seed=4, rate=72.0):
    rng = np.random.default_rng(seed)
    return np.cumsum(60.0 / rate * (1.0 + spread * rng.standard_normal(int(seconds * 3))))


def waves(beats, seconds, *, ecg_until=10**6, pulse_until=10**6, ecg_again=10**6):
    """ECG (mV) and pleth of one heart; the ECG may vanish while the heart goes on, or both."""
    rng = np.random.default_rng(9)
    shape = nights.usual_beat(np.random.default_rng(3), 1.0, 1.0, 0.25)
    ecg = rng.normal(0.0, 0.01, seconds * ECG_HZ)
    for at in beats:
        if at < ecg_until or at > ecg_again:
            nights.lay(ecg, float(at), shape)
    made = [signals.Pulse(float(at) + 0.2) for at in beats if at < pulse_until]
    return ecg, signals.pleth(made, float(seconds))


SECONDS = EVENT_S + 14


@pytest.fixture(scope="module")
def beats():
    return heartbeats(SECONDS)


def test_an_ecg_that_vanishes_while_the_other_device_feels_the_pulse_is_not_confirmed(beats):
    bedside = Pair().play(*waves(beats, SECONDS, ecg_until=EVENT_S), SECONDS)

    assert "asystole_unconfirmed" in bedside.raised()
    assert "asystole" not in bedside.raised()


def test_a_heart_that_stops_is_an_asystole_and_nobody_delays_it(beats):
    with_ox = Pair().play(*waves(beats, SECONDS, ecg_until=EVENT_S, pulse_until=EVENT_S), SECONDS)
    alone = Pair().play(*waves(beats, SECONDS, ecg_until=EVENT_S), SECONDS, ox_stops_at=0)

    when = [
        next(one.change.at_ns for one in bedside.site.told if one.change.new and one.change.alarm.code == "asystole")
        for bedside in (with_ox, alone)
    ]
    assert when[0] == when[1]


@pytest.mark.parametrize("late", [3, 6, 11])
def test_the_late_pulses_of_a_heart_that_has_stopped_hide_nothing(beats, late):
    bedside = Pair(oximeter_late=late).play(*waves(beats, SECONDS, ecg_until=EVENT_S, pulse_until=EVENT_S), SECONDS)

    assert "asystole" in bedside.raised()
    assert "asystole_unconfirmed" not in bedside.raised()


def test_a_device_that_falls_silent_is_no_witness_any_more(beats):
    bedside = Pair().play(*waves(beats, SECONDS, ecg_until=EVENT_S), SECONDS, ox_stops_at=EVENT_S + 7)

    told = [(one.change.alarm.code, one.change.at_ns) for one in bedside.site.told if one.change.new]
    codes = [code for code, _ in told]
    assert codes.index("asystole_unconfirmed") < codes.index("asystole")
    start = bedside.site.clock.now_ns() - SECONDS * SECOND
    raised = next(at for code, at in told if code == "asystole")
    assert (raised - start) / SECOND <= EVENT_S + 11


def test_the_pulse_of_another_patient_hides_nothing(beats):
    ecg, _ = waves(beats, SECONDS, ecg_until=EVENT_S)
    _, pleth = waves(heartbeats(SECONDS, seed=77), SECONDS)
    bedside = Pair().play(ecg, pleth, SECONDS)

    assert "asystole" in bedside.raised()
    assert "asystole_unconfirmed" not in bedside.raised()


def test_a_number_of_another_device_hides_nothing(beats):
    """A pulse rate is a mean of seconds that are over."""
    bedside = Pair()
    ecg, pleth = waves(beats, SECONDS, ecg_until=EVENT_S)
    pack = json.dumps([{"n": "pulse_rate", "u": "/min", "v": 72}]).encode()
    bedside.intake.pack("ox", pack, bedside.site.clock.now_ns())
    bedside.play(ecg, pleth, SECONDS, ox_stops_at=0)

    assert "asystole" in bedside.raised()


def test_a_device_that_leaves_the_bed_is_forgotten(beats):
    bedside = Pair().play(*waves(beats, SECONDS), 80)
    pair = bedside.witnesses.pair("ecg", "ox", "PLETH")
    assert pair is not None
    assert pair.lag is not None
    bedside.site.beds.apply(SetBed(bed_id="bed", by="nurse", at_ns=2, sources=["ecg"]), {"ecg", "ox"})
    bedside.site.hands.pass_s(3)
    bedside.witnesses.look((bed.sources for bed in bedside.site.beds), bedside.site.clock.now_ns())

    assert bedside.witnesses.pair("ecg", "ox", "PLETH") is None


def test_no_pulse_and_asystole_of_two_devices_are_one_alarm(beats):
    seconds = EVENT_S + 14
    bedside = Pair().play(*waves(beats, seconds, ecg_until=EVENT_S, pulse_until=EVENT_S), seconds)

    active = [one.code for one in bedside.site.engine.active("bed") if one.priority == "high"]
    assert active == ["asystole"]


def test_a_heart_that_beats_and_moves_no_blood_is_told_by_the_other_device(beats):
    """Electromechanical dissociation: the ECG of one device is well, the pulse of the other is gone."""
    bedside = Pair().play(*waves(beats, SECONDS, pulse_until=EVENT_S), SECONDS)

    assert "no_pulse" in bedside.raised()
    assert "asystole" not in bedside.raised()


@pytest.mark.parametrize("device", ["the same", "another"])
def test_beats_too_low_to_be_counted_make_no_slow_heart_while_the_pulse_is_felt(device):
    """From a certain moment on two of three QRS are below what is counted: 24 a minute are left of 72."""
    seconds, rng = EVENT_S + 16, np.random.default_rng(9)
    beats = heartbeats(seconds)
    ecg = rng.normal(0.0, 0.008, seconds * ECG_HZ)
    for number, at in enumerate(beats):
        low = at > EVENT_S and number % 3
        nights.lay(ecg, float(at), nights.usual_beat(np.random.default_rng(3), 0.06 if low else 0.45, 1.0, 0.2))
    pleth = signals.pleth([signals.Pulse(float(at) + 0.2) for at in beats], float(seconds))
    if device == "another":
        bedside = Pair().play(ecg, pleth, seconds)
    else:
        bedside = Pair()
        line = signals.Line("PLETH", Kind.PLETH, pleth)
        codes = np.clip(np.rint(ecg * 500.0), -32000, 32000).astype(np.int16)
        for second in range(seconds):
            bedside.site.hands.pass_s(1)
            part = np.ascontiguousarray(codes[second * ECG_HZ : (second + 1) * ECG_HZ])
            blocks = (Block(LEAD, second * ECG_HZ, part), line.block(second, second + 1))
            bedside.send(encode_channels(blocks, sequence=second, start_ns=1), "ecg")
            bedside.look()

    assert "extreme_bradycardia_unconfirmed" in bedside.raised()
    assert not {"extreme_bradycardia", "asystole"} & set(bedside.raised())
