"""The sensors beside the ECG follow the same heart: what happens to it shows in all of them, packet after packet."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.wearable import ecg

from edgeward.clinic.monitor.signals import SignalBank
from edgeward.device import circulation
from edgeward.device.recordings import Recording, seamless
from edgeward.device.schedule import Event
from edgeward.device.sensors import ARTERY, PLETH, RESPIRATION, Sensors, beats_of
from edgeward.device.stream import WaveformStream
from edgeward.waveform import FLAG_LAST, STATE_OFF, read

RATE = 250.0
SECOND = 1_000_000_000


def stream(*, artery=False, size=250, bpm=72):
    samples = seamless(ecg(60, bpm, rate=RATE).reshape(1, -1), RATE)
    recording = Recording("test", samples, RATE, 1.0, ("II",))
    sensors = Sensors(recording, 0, np.random.default_rng(5), artery=artery)
    return WaveformStream(recording, 0, size, 10**18, np.random.default_rng(3), sensors=sensors)


def play(one, seconds):
    """Send what the stream makes through a bank; return the packets, the bank, its conditions and all marks."""
    bank, packets, events, marks = SignalBank(), [], [], []
    for number in range(int(seconds * RATE / one.packet_samples)):
        data, found = one.next_bytes()
        packets.append(read(data))
        marks += found
        bank.push("s", packets[-1], received_ns=number * SECOND)
        events += bank.process(number * SECOND)
    return packets, bank, events, marks


@pytest.mark.parametrize("size", [63, 250, 1000])
def test_channels_follow_each_other_without_gap_or_overlap(size):
    packets, *_ = play(stream(artery=True, size=size), 40)

    assert [p.ecg.leads for p in packets] == [("II",)] * len(packets)
    for place, channel in enumerate((PLETH, ARTERY, RESPIRATION)):
        blocks = [p.others[place] for p in packets]
        assert {b.channel for b in blocks} == {channel}
        at = 0
        for block in blocks:
            assert block.first_sample == at
            at += block.samples.size
        assert at == pytest.approx(40 * channel.rate_hz, abs=4 * channel.rate_hz)


def test_every_heartbeat_has_its_pulse():
    one = stream(artery=True)
    _, bank, events, _ = play(one, 60)

    beats = np.array([p.at_s for p in one.sensors.pulses(round(20 * RATE), round(55 * RATE))])
    assert len(beats) == pytest.approx(42, abs=1)
    for found in bank.pulses("s"):
        delay = np.array([np.min(np.abs(found.times_s - t - circulation.PLETH_DELAY_S)) for t in beats])
        assert delay.max() < 0.25
        assert np.mean(found.qualities[-20:]) > 0.8
    assert events == []


def test_beats_are_found_in_a_loop():
    samples = seamless(ecg(60, 90, rate=RATE).reshape(1, -1), RATE)
    beats = beats_of(Recording("test", samples, RATE, 1.0, ("II",)))

    assert len(beats) == pytest.approx(samples.shape[1] / RATE * 1.5, abs=2)


def test_in_asystole_the_pulse_stops_in_all_sensors():
    one = stream(artery=True)
    one.begin(Event(25.0, 0, "asystole", 14.0), round(25 * RATE))

    _, _, events, marks = play(one, 60)

    onset = next(m.sample for m in marks if m.phase == "onset") / RATE
    told = [e for e in events if e.code == "no_pulse" and e.present]
    assert told
    assert onset + 7 < told[0].received_ns / SECOND < onset + 13
    assert [e for e in events if e.code == "no_pulse" and not e.present]


def test_while_the_electrode_moves_the_pulse_goes_on():
    one = stream()
    calm, *_ = play(stream(), 40)
    one.begin(Event(20.0, 0, "electrode_motion", 10.0), round(20 * RATE))

    packets, bank, events, _ = play(one, 40)

    moved = np.concatenate([p.ecg.samples[0] for p in packets]).astype(float)
    still = np.concatenate([p.ecg.samples[0] for p in calm]).astype(float)
    assert np.abs(moved - still)[round(20.5 * RATE) : round(29.5 * RATE)].max() > 1000
    assert np.array_equal(moved[: 20 * 250], still[: 20 * 250])
    found = bank.pulses("s")[0]
    during = found.times_s[(found.times_s > 20) & (found.times_s < 30)]
    assert np.diff(during).max() < 1.0
    assert events == []


def test_apnea_and_a_loose_finger_sensor_are_told():
    one = stream()
    one.begin(Event(20.0, 0, "apnea", 35.0), round(20 * RATE))
    one.begin(Event(65.0, 0, "sensor_off", 6.0), round(65 * RATE))

    packets, _, events, marks = play(one, 90)

    assert [e.code for e in events if e.present] == ["apnea", "sensor_off"]
    assert 35 < next(e.received_ns for e in events if e.present) / SECOND < 46
    assert [bool(p.others[0].state & STATE_OFF) for p in packets[64:73]] == [False] + [True] * 6 + [False] * 2
    assert {(m.event.kind, m.phase) for m in marks} >= {("apnea", "onset"), ("sensor_off", "decisive")}


def test_events_of_sensors_change_nothing_for_a_device_without_them():
    one = stream()
    one.sensors = None
    one.begin(Event(2.0, 0, "apnea", 5.0), round(2 * RATE))

    packets = [read(one.next_bytes()[0]) for _ in range(10)]

    assert all(not p.others for p in packets)


def test_the_last_packet_says_so():
    assert read(stream().next_bytes(FLAG_LAST, 17)[0]).flags == FLAG_LAST


def test_an_intensive_care_monitor_sends_venous_pressure_and_a_capnogram_that_stops_with_the_breath():
    one = stream()
    one.sensors.intensive = True
    one.begin(Event(10.0, 0, "apnea", 20.0), round(10 * RATE))
    packets, *_ = play(one, 40)

    def values(name):
        blocks = [b for p in packets for b in p.others if b.channel.name == name]
        return np.concatenate([b.samples * b.channel.gain for b in blocks]), blocks[0].channel.rate_hz

    gas, rate = values("CO2")
    assert 34 < gas[: round(10 * rate)].max() < 40
    assert gas[round(12 * rate) : round(29 * rate)].max() < 2
    assert gas[round(31 * rate) :].max() > 34
    chest, rate = values("Resp")
    assert np.ptp(chest[: round(10 * rate)]) > 3 * np.ptp(chest[round(13 * rate) : round(29 * rate)])
    vein, _ = values("CVP")
    assert 2 < vein.min() < 8 < vein.max() < 15
    assert [b.channel.name for b in packets[0].others] == ["Pleth", "ART", "CVP", "Resp", "CO2"]
