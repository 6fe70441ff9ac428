"""What is in a wearable's packets: numbers without a gap, and events exactly where the truth log says."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.wearable import ecg

from edgeward.device.recordings import Recording, seamless, slope_energy
from edgeward.device.schedule import Event
from edgeward.device.stream import WaveformStream, between
from edgeward.waveform import FLAG_LAST, decode, encode

RATE = 250.0
START_NS = 1_700_000_000_000_000_000


def stream(size=250, leads=1, seed=3, offset=0, bpm=70):
    signal = ecg(60, bpm, rate=RATE)
    samples = np.stack([signal // (lead + 1) for lead in range(leads)]).astype(np.int16)
    recording = Recording("test", seamless(samples, RATE), RATE, 1.0, tuple(f"V{i + 1}" for i in range(leads)))
    return WaveformStream(recording, offset, size, START_NS, np.random.default_rng(seed))


def play(one, packets):
    """Return (signal, packets, marks) of the next packets, all decoded from their bytes."""
    taken, marks = [], []
    for _ in range(packets):
        packet, found = one.next()
        taken.append(decode(encode(packet)))
        marks += found
    return np.concatenate([p.samples for p in taken], axis=1), taken, marks


def where(marks, phase):
    return next(mark.sample for mark in marks if mark.phase == phase)


def test_packets_follow_each_other_without_gap_or_overlap():
    one = stream(size=91)

    signal, packets, _ = play(one, 300)

    assert [p.sequence for p in packets] == list(range(300))
    assert [p.first_sample for p in packets] == [91 * n for n in range(300)]
    assert [p.start_ns - START_NS for p in packets] == [round(91 * n * 1e9 / RATE) for n in range(300)]
    assert np.array_equal(signal, one.recording.stretch(0, 91 * 300)), "the recording itself, going round"


def test_the_size_of_packets_does_not_change_the_signal():
    event = Event(5.0, 0, "asystole", 6.0)
    pieces = []
    for size in (37, 250):
        one = stream(size=size)
        one.begin(event, 1250)
        pieces.append(play(one, 20 * 250 // size)[0][:, :4900])

    assert np.array_equal(*pieces)


def test_a_lost_packet_takes_its_number_and_a_hung_device_does_not():
    one = stream()
    one.next()

    one.lose()
    after_loss, _ = one.next()
    one.hang()
    after_hang, _ = one.next()

    assert (after_loss.sequence, after_loss.first_sample) == (2, 500)
    assert (after_hang.sequence, after_hang.first_sample) == (3, 1000)


def test_the_last_packet_may_be_shorter_and_says_that_it_is_the_last():
    packet, _ = stream().next(FLAG_LAST, 17)

    assert packet.samples.shape == (1, 17)
    assert packet.flags == FLAG_LAST
    assert stream().next(FLAG_LAST, 0)[0].samples.shape == (1, 1), "a packet is never empty"


@pytest.mark.parametrize("at", range(500, 1500, 83))
def test_in_asystole_no_beat_is_left_and_none_is_cut_in_half(at):
    one = stream()
    one.begin(Event(at / RATE, 0, "asystole", 8.0), at)

    signal, _, marks = play(one, 40)

    onset, end = where(marks, "onset"), where(marks, "end")
    assert at <= onset <= at + 1.5 * RATE
    assert 6.5 * RATE < end - onset < 9.5 * RATE
    settled = signal[0, onset + 150 : end - 40].astype(float)
    assert np.abs(settled).max() < 100, "0.15 mV is what a monitor must not count"
    assert settled.std() > 3, "but it is not a dead straight line"
    steps = np.abs(np.diff(signal[0].astype(float)))
    for joint in (onset, end):
        assert steps[joint - 3 : joint + 3].max() < 60, "a step would look like a beat"


def test_asystole_is_decided_four_seconds_after_the_last_beat():
    one = stream()
    one.begin(Event(5.0, 0, "asystole", 8.0), 1250)

    signal, _, marks = play(one, 20)

    energy = slope_energy(signal[:, : where(marks, "onset")], RATE, 0.04)
    last_beat = int(np.flatnonzero(energy > 0.4 * energy.max())[-1])
    assert where(marks, "decisive") == pytest.approx(last_beat + 4 * RATE, abs=0.08 * RATE)


def test_an_asystole_too_short_to_alarm_has_no_decisive_sample():
    one = stream()
    one.begin(Event(5.0, 0, "asystole", 2.0), 1250)

    assert {mark.phase for mark in play(one, 20)[2]} == {"onset", "end"}


def test_ventricular_tachycardia_is_wide_fast_and_decided_by_its_fifth_beat():
    one = stream(leads=2)
    one.begin(Event(5.0, 0, "ventricular_tachycardia", 8.0), 1250)

    signal, _, marks = play(one, 20)

    onset, end = where(marks, "onset"), where(marks, "end")
    part = signal[0, onset:end].astype(float)
    peaks = np.flatnonzero((part[1:-1] > 900) & (part[1:-1] >= part[:-2]) & (part[1:-1] > part[2:])) + 1
    peaks = peaks[np.diff(peaks, prepend=-100) > 30]
    assert 160 < 60 * RATE / np.diff(peaks).mean() < 200
    assert where(marks, "decisive") - onset == pytest.approx(peaks[4], abs=3)
    wide = [(part[p - 30 : p + 30] > 0.25 * part[p]).sum() / RATE for p in peaks[1:-1]]
    assert min(wide) > 0.07
    assert np.corrcoef(signal[0, onset:end], signal[1, onset:end])[0, 1] < -0.9, "each lead has its own view"


def test_fibrillation_has_no_beats_but_four_to_six_hertz():
    one = stream()
    one.begin(Event(5.0, 0, "ventricular_fibrillation", 10.0), 1250)

    signal, _, marks = play(one, 20)

    part = signal[0, where(marks, "onset") + 250 : where(marks, "end") - 50].astype(float)
    spectrum = np.abs(np.fft.rfft(part - part.mean())) ** 2
    frequency = np.fft.rfftfreq(part.size, 1 / RATE)
    assert 4.0 <= frequency[np.argmax(spectrum)] <= 6.2
    assert spectrum[(frequency > 2) & (frequency < 12)].sum() > 0.9 * spectrum.sum()
    assert 300 < np.ptp(part) < 3000


def test_a_loose_electrode_is_flagged_in_exactly_its_packets_and_shows_no_ecg():
    one = stream(leads=2)
    one.begin(Event(2.0, 0, "lead_off", 3.0), 500)

    signal, packets, marks = play(one, 8)

    assert [all(p.lead_off) for p in packets] == [False, False, True, True, True, False, False, False]
    assert (where(marks, "onset"), where(marks, "decisive"), where(marks, "end")) == (500, 500, 1250)
    hum = signal[0, 500:1200].astype(float)
    assert np.argmax(np.abs(np.fft.rfft(hum))) == pytest.approx(50 / RATE * hum.size, abs=1)


def test_an_event_never_changes_what_has_been_sent():
    one = stream()
    play(one, 10)

    one.begin(Event(1.0, 0, "lead_off", 3.0), 250)

    assert where(play(one, 1)[2], "onset") == 2500


def test_marks_come_with_their_packet_and_once():
    one = stream()
    one.begin(Event(2.5, 0, "lead_off", 1.0), 625)

    found = [(n, mark.phase) for n in range(8) for mark in one.next()[1]]

    assert found == [(2, "onset"), (2, "decisive"), (3, "end")]


def test_a_clipping_event_stays_within_sixteen_bits():
    one = stream()
    fine = Recording("fine", one.recording.samples, RATE, 0.01, ("II",))
    one = WaveformStream(fine, 0, 250, START_NS, np.random.default_rng(1))
    one.begin(Event(2.0, 0, "ventricular_tachycardia", 4.0), 500)

    assert play(one, 8)[0].max() == 32_767


@pytest.mark.parametrize(
    ("seconds", "rate", "size"), [(1.0, 360.0, 360), (0.25, 250.0, 62), (4.0, 2000.0, 4096), (0.001, 20.0, 1)]
)
def test_packets_hold_the_time_asked_for_within_what_the_format_allows(seconds, rate, size):
    assert between(seconds, rate) == size
