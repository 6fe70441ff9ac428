"""Clocks of devices, simulated: jitter, drift, steps and backlogs of which the truth is known."""

from __future__ import annotations

import random

import pytest

from edgeward.clinic.monitor.clocks import CODE, Clock, Clocks

S = 10**9
BEGIN = 1_760_000_000 * S


class Device:
    """A device with a clock of its own that sends over a network with delays."""

    def __init__(
        self, offset_s: float = 0.0, ppm: float = 0.0, *, every_s: float = 1.0, jitter_s: float = 0.03, seed: int = 1
    ):
        self.offset_s, self.ppm, self.every_s, self.jitter_s = offset_s, ppm, every_s, jitter_s
        self.rng, self.now_s, self.clock = random.Random(seed), 0.0, Clock()
        self.steps: list[float] = []
        self._last_arrival = 0.0

    def device_ns(self, at_s: float) -> int:
        return BEGIN + round((at_s * (1 + self.ppm * 1e-6) + self.offset_s) * 1e9)

    def send(self, sampled_s: float, arrival_s: float) -> None:
        arrival_s = self._last_arrival = max(arrival_s, self._last_arrival + 1e-4)  # TCP keeps the order
        if self.clock.observe(self.device_ns(sampled_s), BEGIN + round(arrival_s * 1e9)):
            self.steps.append(arrival_s)

    def run(self, seconds: float, extra_delay_s: float = 0.0) -> Device:
        end = self.now_s + seconds
        while self.now_s < end:
            self.now_s += self.every_s
            delay = 0.004 + self.rng.expovariate(1 / self.jitter_s) + extra_delay_s
            self.send(self.now_s, self.now_s + delay)
        return self

    def outage(self, seconds: float, *, keep_s: float = 30.0) -> Device:
        """Out of reach; then what was kept comes at once, the oldest first."""
        begin, self.now_s = self.now_s, self.now_s + seconds
        at = max(begin, self.now_s - keep_s) + self.every_s
        while at <= self.now_s:
            self.send(at, self.now_s + 0.01)
            at += self.every_s
        return self

    @property
    def error_s(self) -> float:
        truth = self.offset_s + self.now_s * self.ppm * 1e-6
        return self.clock.offset_ns(BEGIN + round(self.now_s * 1e9)) / 1e9 - truth


@pytest.mark.parametrize("offset_s", [0.0, 3.2, -45.0, 3600.0, -86_400.0 * 365])
@pytest.mark.parametrize("every_s", [0.25, 1.0, 5.0])
def test_the_offset_is_found_whatever_it_is(offset_s, every_s):
    device = Device(offset_s, every_s=every_s).run(120)
    assert abs(device.error_s) < 0.05
    assert device.steps == []


@pytest.mark.parametrize("ppm", [-200.0, -50.0, 0.0, 50.0, 200.0])
@pytest.mark.parametrize("seed", range(3))
def test_drift_is_told_from_jitter(ppm, seed):
    device = Device(7.0, ppm, jitter_s=0.05, seed=seed).run(1200)
    assert device.clock.drift_ppm == pytest.approx(ppm, abs=30)
    assert abs(device.error_s) < 0.05
    assert device.steps == []


def test_drift_is_not_told_before_it_can_be():
    assert Device(ppm=200).run(120).clock.drift_ppm is None


@pytest.mark.parametrize("ppm", [-200.0, 200.0])
def test_a_day_of_drift_is_followed_and_is_no_step(ppm):
    device = Device(0.0, ppm, every_s=10.0).run(86_400)
    assert abs(device.error_s) < 0.1
    assert device.steps == []
    assert abs(device.clock.offset_ns(BEGIN + 86_400 * S)) / 1e9 == pytest.approx(17.28, abs=0.1)


@pytest.mark.parametrize("ppm", [-200.0, 200.0])
def test_a_device_that_sends_once_an_hour_may_drift_between(ppm):
    device = Device(0.0, ppm, every_s=3600.0).run(5 * 86_400)
    assert device.steps == []
    assert abs(device.error_s) < 0.5


@pytest.mark.parametrize("step_s", [3600.0, 30.0, 1.5, -1.5, -10.0, -30.0, -3600.0])
def test_a_clock_that_is_set_is_noticed_once_and_soon(step_s):
    device = Device(2.0).run(300)
    device.offset_s += step_s
    device.run(10)
    assert len(device.steps) == 1
    assert abs(device.error_s) < 0.2
    device.run(300)
    assert len(device.steps) == 1
    assert abs(device.error_s) < 0.05


def test_a_small_step_corrects_the_estimate_without_being_told():
    device = Device(0.0, jitter_s=0.005).run(1000)
    for step, within_s in ((0.5, 10), (-0.6, 100)):
        device.offset_s += step
        device.run(within_s)
        assert abs(device.error_s) < 0.1
    assert device.steps == []
    assert abs(device.run(600).clock.drift_ppm) < 30


@pytest.mark.parametrize("every_s", [0.25, 1.0])
@pytest.mark.parametrize("outage_s", [5, 30, 300])
@pytest.mark.parametrize("ppm", [-200.0, 0.0, 200.0])
def test_a_backlog_is_neither_a_step_nor_drift(every_s, outage_s, ppm):
    device = Device(5.0, ppm, every_s=every_s).run(600)
    for _ in range(3):
        device.outage(outage_s)
        assert abs(device.error_s) < 0.1
        device.run(60)
    assert device.steps == []
    assert abs(device.error_s) < 0.05
    assert device.clock.drift_ppm == pytest.approx(ppm, abs=30)


def test_what_waited_in_a_backlog_keeps_its_own_time():
    device = Device(100.0).run(120)
    sampled, arrival = device.now_s + 1, device.now_s + 31
    at = device.clock.to_site(device.device_ns(sampled), BEGIN + round(arrival * 1e9))
    assert (at - BEGIN) / 1e9 == pytest.approx(sampled, abs=0.1)


def test_the_newest_first_and_then_what_was_kept_is_no_step():
    device = Device(0.0, every_s=0.25).run(120)
    begin = device.now_s
    device.now_s += 30
    device.send(device.now_s, device.now_s + 0.01)  # live
    for index in range(100):
        device.send(begin + 0.25 * (index + 1), device.now_s + 0.011 + index * 0.002)
    device.run(60)
    assert device.steps == []
    assert abs(device.error_s) < 0.05


def test_a_backlog_at_the_very_beginning_is_not_told_as_a_step():
    device = Device(0.0)
    device.outage(40).run(60)
    assert device.steps == []
    assert abs(device.error_s) < 0.05


def test_a_clock_set_back_while_the_device_was_silent_is_found_later():
    device = Device(0.0).run(120)
    device.now_s += 60
    device.offset_s -= 30
    device.run(60)
    assert device.steps == [], "it could be the way that became longer"
    device.run(90)
    assert len(device.steps) == 1
    assert abs(device.error_s) < 0.1


def test_one_message_from_the_future_changes_nothing():
    device = Device(0.0).run(120)
    device.send(device.now_s + 5000, device.now_s + 0.5)
    device.run(60)
    assert device.steps == []
    assert abs(device.error_s) < 0.05


def test_one_message_that_is_sent_again_changes_nothing():
    device = Device(0.0).run(120)
    for _ in range(5):
        device.send(device.now_s - 20, device.now_s + 0.05)
        device.run(3)
    assert device.steps == []
    assert abs(device.error_s) < 0.05


def test_times_in_whole_seconds_do():
    device = Device(0.0, every_s=1.013)
    exact = device.device_ns
    device.device_ns = lambda at: exact(at) // S * S  # type: ignore[method-assign]
    device.run(600)
    assert device.steps == []
    assert abs(device.error_s) < 0.1


def test_site_time_is_never_later_than_the_arrival():
    clock = Clock()
    for index in range(10):
        clock.observe(BEGIN + index * S, BEGIN + index * S + 10**7)
    assert clock.to_site(BEGIN + 3600 * S, BEGIN + 20 * S) == BEGIN + 20 * S


def feed(clocks: Clocks, offset_s: float, seconds: int, begin_s: int = 0, **more: bool) -> int:
    for second in range(begin_s, begin_s + seconds):
        arrival = BEGIN + second * S
        clocks.observe("bed-1", arrival + round(offset_s * S), arrival, **more)
    return BEGIN + (begin_s + seconds) * S


def test_people_are_told_of_more_than_ten_seconds_and_of_the_end():
    clocks = Clocks()
    now = feed(clocks, 11.0, 20)
    (begun,) = clocks.conditions(now)
    assert (begun.source_id, begun.code, begun.present, begun.args) == ("bed-1", CODE, True, {"offset_s": 11.0})
    assert list(clocks.conditions(now)) == []
    now = feed(clocks, 0.0, 30, 20)
    assert list(clocks.conditions(now)) == [], "it was just set"
    (ended,) = clocks.conditions(now + 61 * S)
    assert (ended.present, ended.args) == (False, {"offset_s": 0.0})


def test_nine_seconds_are_shown_and_no_condition():
    clocks = Clocks()
    now = feed(clocks, -9.0, 20)
    assert list(clocks.conditions(now)) == []
    assert clocks.shown("bed-1", now) == (-9000.0, None)


def test_a_step_alone_is_told_for_a_minute():
    clocks = Clocks()
    feed(clocks, 0.0, 300)
    now = feed(clocks, 5.0, 10, 300)
    (begun,) = clocks.conditions(now)
    assert begun.present
    (ended,) = clocks.conditions(now + 61 * S)
    assert not ended.present


@pytest.mark.parametrize("more", [{"synchronised": False}, {}])
def test_a_device_without_a_clock_is_no_alarm_but_its_times_can_be_used(more):
    clocks = Clocks()
    offset_s = 12_345.0 if more else -BEGIN / S + 17  # declared to be unsynchronised; or it counts from switching on
    now = feed(clocks, offset_s, 20, **more)
    assert list(clocks.conditions(now)) == []
    assert clocks.shown("bed-1", now) == (None, None)
    assert clocks.to_site("bed-1", now + round(offset_s * S) - 3 * S, now) == pytest.approx(now - 3 * S, abs=S // 10)


def test_a_source_that_never_told_the_time_has_none():
    clocks = Clocks()
    assert clocks.shown("bed-1", BEGIN) == (None, None)
    assert clocks.to_site("bed-1", BEGIN + 5, BEGIN) == BEGIN
    feed(clocks, 100.0, 5)
    clocks.forget("bed-1")
    assert "bed-1" not in clocks
