"""A patient with a pacemaker: its pulses are seen, a heart that does not answer is told, paced beats are not ectopy."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from tests.clinic.monitor.test_publisher import OnTheBus

from edgeward import waveform
from edgeward.bedside import SetBed
from edgeward.bus.role import Stats
from edgeward.clinic.monitor import nights
from edgeward.clinic.monitor.beds import BedError, Beds
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.limits import Profiles
from edgeward.clinic.monitor.pacing import WITHOUT_CAPTURE, Pacing, find_spikes
from edgeward.clinic.monitor.role import MonitorRole
from edgeward.clinic.monitor.rules import RULES
from edgeward.config import Settings
from edgeward.home import Home
from edgeward.privacy.keys import SiteKey
from edgeward.waveform import WaveformPacket

HZ = nights.ECG_HZ
INTERVAL_S = 0.85
S = 1_000_000_000


def ecg(seconds, *, captured_until=10**6, captured_again=10**6, spike_mv=2.0, tail_mv=0.4, height=1.0, noise=0.01,
        pulses=True, rate=HZ):  # fmt: skip
    """Return mV, where the pulses are and where the beats: 40 ms after each pulse that the heart answers."""
    assert rate == HZ
    x = np.random.default_rng(1).normal(0.0, noise, seconds * HZ) if noise else np.zeros(seconds * HZ)
    x += 0.1 * np.sin(2 * np.pi * 0.2 * np.arange(x.size) / HZ)
    spikes = np.arange(0.5, seconds - 0.5, INTERVAL_S)
    beats = []
    for at in spikes:
        k = round(at * HZ)
        if at < captured_until or at > captured_again:
            nights.lay(x, float(at) + 0.06, nights.wide_beat(height, 0.16))
            beats.append(at + 0.06)
        if pulses:
            x[k] += spike_mv
            t = np.arange(x.size - k - 1) / HZ
            x[k + 1 :] += tail_mv * np.exp(-t / 0.02)
    return x, np.round(spikes * HZ), np.array(beats) * HZ


class Bench:
    def __init__(self, x, beats=(), *, paced=True, asystole_s=4.0):
        self.x, self.beats, self.now = x, np.asarray(beats, dtype=float), 0
        self.at = 0
        self.pacing = Pacing(lambda _: self.beats[self.beats < self.at - 60][-16:])
        self.pacing.want("a", paced, asystole_s, 0)
        self.told: list[tuple[float, str, bool]] = []

    def play(self, *, seconds=None, skip=(), block=HZ):
        total = len(self.x) if seconds is None else seconds * HZ
        while self.at < total:
            part = np.clip(np.rint(self.x[self.at : self.at + block] * 500), -32000, 32000).astype(np.int16)
            packet = WaveformPacket(samples=part[None], sequence=self.at // block, first_sample=self.at, start_ns=1,
                                    rate_hz=float(HZ), gain_uv=2.0, leads=("II",), lead_off=(False,))  # fmt: skip
            self.at += block
            self.now = int(self.at / HZ * S)
            if self.at // HZ not in skip:
                self.pacing.take_packet("a", waveform.encode(packet), self.now)
            self.note(self.pacing.look(self.now))
        return self

    def note(self, events):
        self.told += [(self.at / HZ, event.code, event.present) for event in events]

    def raised(self, code=WITHOUT_CAPTURE):
        return [at for at, told, present in self.told if told == code and present]


@pytest.mark.parametrize("spike", [0.5, 2.0, 30.0, -5.0])
def test_pacing_pulses_are_found_where_they_are_and_nowhere_else(spike):
    x, spikes, _ = ecg(20, spike_mv=spike, tail_mv=0.1 * spike)
    found = find_spikes(x[None], float(HZ))
    assert len(found) == pytest.approx(len(spikes), abs=1)
    assert max(np.abs(spikes - at).min() for at in found) <= 1


@pytest.mark.parametrize("height", [0.5, 1.5, 4.0])
def test_a_heart_without_a_pacemaker_has_no_pulses(height):
    shape = nights.usual_beat(np.random.default_rng(2), height, 1.0, 0.3)
    x = np.random.default_rng(3).normal(0.0, 0.03, 30 * HZ)
    for at in np.arange(0.5, 29, 0.7):
        nights.lay(x, float(at), shape)
    assert find_spikes(x[None], float(HZ)).size == 0


def test_pulses_are_found_whatever_the_length_of_the_packets():
    x, spikes, _ = ecg(20)
    found = []
    for block in (25, 130, HZ, 4 * HZ):
        bench = Bench(x).play(block=block)
        found.append(bench.pacing.spikes("a"))
        assert len(found[-1]) == pytest.approx(len(spikes), abs=1)
    assert all(one[:15] == found[0][:15] for one in found)


@pytest.mark.parametrize("height", [0.4, 1.0, 2.5])
def test_a_heart_that_answers_its_pacemaker_is_no_alarm(height):
    assert Bench(ecg(90, height=height)[0]).play().raised() == []


@pytest.mark.parametrize("tail", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("asystole_s", [3.0, 4.0, 8.0])
def test_a_heart_that_no_longer_answers_is_told_in_the_time_of_an_asystole(tail, asystole_s):
    x, _, beats = ecg(60, captured_until=30.0, tail_mv=tail)
    (at,) = Bench(x, asystole_s=asystole_s).play().raised()
    last = beats[-1] / HZ
    assert asystole_s <= at - last <= asystole_s + 2.5


def test_the_alarm_ends_when_the_heart_answers_again():
    x, _, _ = ecg(70, captured_until=30.0, captured_again=45.0)
    bench = Bench(x).play()
    assert len(bench.raised()) == 1
    ended = [at for at, code, present in bench.told if code == WITHOUT_CAPTURE and not present and at > 40.0]
    assert len(ended) == 1
    assert 45.0 < ended[0] < 49.0


def test_a_flat_line_without_pulses_is_the_detectors_business():
    x, _, _ = ecg(60, captured_until=30.0)
    still = ecg(60, captured_until=30.0, pulses=False)[0]
    x[31 * HZ :] = still[31 * HZ :]
    assert Bench(x).play().raised() == []


def test_what_is_lost_is_not_taken_for_a_still_heart():
    x, _, _ = ecg(60)
    assert Bench(x).play(skip=range(20, 30)).raised() == []


def test_nobody_is_looked_at_whose_patient_is_not_said_to_be_paced():
    x, _, _ = ecg(60, captured_until=30.0)
    bench = Bench(x, paced=False).play()
    assert bench.told == []
    assert bench.pacing.spikes("a") == []
    assert not bench.pacing


def test_when_somebody_says_that_the_patient_is_not_paced_the_alarm_ends():
    bench = Bench(ecg(60, captured_until=30.0)[0]).play(seconds=50)
    assert bench.raised()
    bench.pacing.want("a", False, 4.0, bench.now)
    bench.note(bench.pacing.look(bench.now))
    assert bench.told[-1][1:] == (WITHOUT_CAPTURE, False)


def event(code, present=True):
    return ConditionEvent("a", code, present, 1, 1)


@pytest.mark.parametrize("code", ["atrial_fibrillation", "ventricular_run", "couplet", "frequent_ventricular_beats"])
def test_what_is_said_of_paced_beats_is_kept_back_until_they_are_the_hearts_own(code):
    x, _, beats = ecg(60)
    bench = Bench(x, beats).play(seconds=30)
    assert bench.pacing.filter([event(code)]) == []
    assert bench.pacing.look(bench.now) == []
    bench.beats = np.concatenate((beats[beats < 30 * HZ], 30 * HZ + np.arange(0.3, 30, 0.5) * HZ))  # its own rhythm
    bench.x = bench.x * 0.0 + np.random.default_rng(5).normal(0, 0.01, bench.x.size)
    bench.play(seconds=50)
    assert bench.raised(code)


def test_what_was_kept_back_and_is_over_is_never_told():
    x, _, beats = ecg(40)
    bench = Bench(x, beats).play(seconds=30)
    assert bench.pacing.filter([event("couplet"), event("couplet", False)]) == []
    bench.pacing.want("a", False, 4.0, bench.now)
    assert [one.code for one in bench.pacing.look(bench.now)] == [WITHOUT_CAPTURE]


@pytest.mark.parametrize("code", [*sorted(code for code, rule in RULES.items() if rule.latching), "signal_lost"])
def test_nothing_lethal_or_technical_is_kept_back(code):
    x, _, beats = ecg(40)
    bench = Bench(x, beats).play(seconds=30)
    assert bench.pacing.filter([event(code)]) == [event(code)]


def test_one_beat_that_no_pulse_made_is_enough_to_tell_of_ventricular_beats():
    x, _, beats = ecg(40)
    extra = np.sort(np.append(beats, 28.4 * HZ))
    bench = Bench(x, extra).play(seconds=30)
    assert bench.pacing.filter([event("couplet")]) == [event("couplet")]


@pytest.mark.parametrize("data", [b"", b"EWW1", b"\0" * 200])
def test_what_cannot_be_read_is_ignored(data):
    bench = Bench(ecg(10)[0])
    bench.pacing.take_packet("a", data, 1)
    assert bench.pacing.spikes("a") == []


def test_the_flag_is_the_beds_and_who_set_it_is_recorded():
    beds = Beds(Profiles())
    beds.add_source("a")
    assert beds.settings("a").paced == "unknown"
    (change,) = beds.apply(SetBed(bed_id="a", by="Li", at_ns=5, paced="yes"), {"a"}).changes
    assert (change.by, change.what, change.before, change.after) == ("Li", "paced", "", "yes")
    assert beds.settings("a").paced == "yes"
    beds.apply(SetBed(bed_id="a", by="Li", at_ns=6, discharged=True), {"a"})
    assert beds.settings("a").paced == "unknown"
    with pytest.raises(BedError):
        beds.apply(SetBed(bed_id="a", by="", at_ns=7, paced="no"), {"a"})


async def test_who_is_said_to_be_paced_is_looked_at_by_the_monitor_and_nobody_else(tmp_path):
    home = Home(tmp_path)
    SiteKey.create(home)
    home.data.mkdir(parents=True, exist_ok=True)
    bus = OnTheBus()
    bus.full = False
    role = MonitorRole(SimpleNamespace(bus=bus, stats=Stats(), settings=Settings(), home=home))
    role.waiting = None
    x, _, _ = ecg(24, captured_until=10.0)
    codes = np.clip(np.rint(x * 500), -32000, 32000).astype(np.int16).reshape(24, HZ)
    for source in ("paced", "other"):
        role.know(source, "")
    role.beds.apply(SetBed(bed_id="paced", by="Li", at_ns=1, paced="yes"), {"paced"})
    role.apply_limits("paced")

    for second, part in enumerate(codes):
        packet = WaveformPacket(samples=part[None], sequence=second, first_sample=second * HZ, start_ns=1,
                                rate_hz=float(HZ), gain_uv=2.0, leads=("II",), lead_off=(False,))  # fmt: skip
        role.receive([(f"raw.wave.{source}", waveform.encode(packet)) for source in ("paced", "other")])
        role.process()
    ticking = asyncio.create_task(role.tick())
    async with asyncio.timeout(20):
        while not role.engine.holds("paced", WITHOUT_CAPTURE):
            await asyncio.sleep(0.05)
    ticking.cancel()

    assert role.pacing.spikes("paced")
    assert not role.pacing.spikes("other")
    assert not role.engine.holds("other", WITHOUT_CAPTURE)
    role.beds.apply(SetBed(bed_id="paced", by="Li", at_ns=2, paced="no"), {"paced"})
    role.apply_limits("paced")
    assert not role.pacing.spikes("paced")
    role.log.close()
