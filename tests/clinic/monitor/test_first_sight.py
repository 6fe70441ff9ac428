"""A ventricular tachycardia that was there before the first packet is told; what only looks like one is not."""

import numpy as np
import pytest
from tests.support import ecg

from edgeward.clinic.monitor.bank import MonitorBank

RATE, SECONDS = 250, 16
VT = "ventricular_tachycardia"
LETHAL = {VT, "ventricular_fibrillation"}


def wide(times, height=1.3, width=0.16, t=-0.4, seconds=SECONDS):
    """Return QRS of two slurred forces, without P waves, their T waves the other way."""
    x = ecg.noise(RATE, seconds, 0.008, seed=3)
    s = np.arange(len(x)) / RATE
    for at in times:
        u = (s - at) / width
        x += height * (np.exp(-((4.2 * (u + 0.12)) ** 2)) - 0.7 * np.exp(-((4.2 * (u - 0.2)) ** 2)))
        x += t * np.exp(-(((s - at - 0.27) / 0.07) ** 2))
    return x


def with_p(x, times, before=0.2):
    """Add a P wave so long before each beat."""
    s = np.arange(len(x)) / RATE
    for at in times:
        x = x + 0.15 * np.exp(-(((s - at + before) / 0.028) ** 2))
    return x


def every(bpm, seconds=SECONDS, start=0.4):
    return np.arange(start, seconds - 0.5, 60.0 / bpm)


def told_at(result):
    return min((known for _, known in result.raised(VT)), default=None)


@pytest.mark.parametrize("bpm", [125, 140, 155])
@pytest.mark.parametrize("width", [0.16, 0.2])
def test_a_tachycardia_with_wide_qrs_that_nothing_came_before_is_ventricular(bpm, width):
    result = ecg.run(wide(every(bpm), width=width), RATE)
    assert told_at(result) <= 7.0


def test_it_is_told_where_every_lead_shows_it_and_not_where_one_shows_a_narrow_qrs():
    times = every(140)
    other = ecg.beats_at(times, RATE, SECONDS, t=0.0, width=0.08) + ecg.noise(RATE, SECONDS, 0.008)
    assert told_at(ecg.run(np.stack((wide(times), -0.8 * wide(times, width=0.18))), RATE)) <= 7.0
    assert told_at(ecg.run(np.stack((wide(times), other)), RATE)) is None


@pytest.mark.parametrize("bpm", [70, 95])
def test_wide_qrs_below_the_patients_limit_are_no_tachycardia(bpm):
    assert not ecg.run(wide(every(bpm)), RATE).codes() & LETHAL


@pytest.mark.parametrize("bpm", [101, 106, 112])
def test_wide_qrs_after_p_waves_are_conducted(bpm):
    times = every(bpm)
    assert not ecg.run(with_p(wide(times), times), RATE).codes() & LETHAL


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_wide_qrs_without_order_are_no_tachycardia_of_this_kind(seed):
    intervals = np.clip(np.random.default_rng(seed).normal(0.52, 0.09, 60), 0.36, 0.9)
    times = 0.4 + np.cumsum(intervals)
    assert told_at(ecg.run(wide(times[times < SECONDS - 0.5]), RATE)) is None


@pytest.mark.parametrize("bpm", [120, 150, 180])
def test_a_narrow_tachycardia_is_none_from_the_first_packet_on(bpm):
    x = ecg.beats_at(every(bpm), RATE, SECONDS, t=0.3, qt=0.28) + ecg.noise(RATE, SECONDS, 0.01)
    assert not ecg.run(x, RATE).codes() & LETHAL


def test_it_is_over_when_the_rhythm_is():
    before, after = np.arange(0.4, 15.6, 60.0 / 140), np.arange(16.4, 39.5, 0.8)
    x = wide(before, seconds=40)
    x += with_p(ecg.beats_at(after, RATE, 40), after, 0.16)
    result = ecg.run(x, RATE)
    assert told_at(result) <= 7.0
    alarms = [c.change.alarm for c in result.changes if c.change.alarm.code == VT]
    ends = [alarm.end_sample / RATE for alarm in alarms if not alarm.present]
    assert 16.0 < ends[0] < 24.0


@pytest.mark.parametrize("packet", [10, 93, 250, 1000])
def test_the_length_of_packets_changes_nothing(packet):
    x = np.stack((wide(every(150)), wide(every(150), height=-0.9)))
    codes = np.clip(np.rint(x * 1e3), -32768, 32767).astype(np.int16)

    def told(length):
        bank = MonitorBank()
        bank.enrol("d", rate_hz=float(RATE), leads=("I", "II"), gain_uv=1.0)
        found = []
        for number, first in enumerate(range(0, codes.shape[1], length)):
            piece = np.ascontiguousarray(codes[:, first : first + length])
            bank.push("d", piece, first_sample=first, sequence=number, received_ns=0)
            found += [(e.code, e.present, e.onset_sample, e.decisive_sample, e.args) for e in bank.process(0)]
        return found

    assert told(packet) == told(500)
    assert any(code == VT for code, *_ in told(packet))
