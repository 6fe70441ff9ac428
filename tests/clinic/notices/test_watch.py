"""When nobody watches the patients any more, people are told, by whoever would have told them of an alarm."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from tests.support.site import TestSite

from edgeward.bedside import AlarmSystemState, Notice
from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.bus.tasks import end
from edgeward.clinic.notices import watch as module
from edgeward.clinic.notices.watch import MonitorWatch
from edgeward.config import EscalationStep, Ward
from edgeward.messages import Message, Ok, Refused


class Held:
    """Who takes notices over."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.full = False
        self.refused = 0

    async def __call__(self, notice: Notice) -> Message:
        if self.full:
            self.refused += 1
            return Refused(reason="the disk is full")
        self.notices.append(notice)
        return Ok()

    @property
    def told(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(one.phase, tuple(one.contacts)) for one in self.notices]


class Hand:
    """The watch's clock: it goes as the test says, so that no busy machine can make a silence, or end one."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now_s


class Watched:
    """A watch on a real bus, and the monitor that it listens to."""

    def __init__(self, watch: MonitorWatch, held: Held, hand: Hand, monitor: Bus) -> None:
        self.watch, self.held, self.hand, self.monitor = watch, held, hand, monitor
        self._number = 0

    async def speak(self) -> None:
        """Say that alarms work, and wait until it was heard."""
        self.hand.now_s += 0.001  # it was not heard at this moment before
        self._number += 1
        await self.monitor.publish(subjects.ALARM_SYSTEM, AlarmSystemState(at_ns=1, number=self._number, ok=True))
        await until(lambda: self.watch._heard == self.hand.now_s)

    async def pass_s(self, seconds: float) -> None:
        """Let time pass, in steps in which no process would seem to have stood still, each looked at."""
        until_s = self.hand.now_s + seconds
        while self.hand.now_s < until_s:
            self.hand.now_s = min(self.hand.now_s + 1.0, until_s)
            await self.looked()

    async def looked(self) -> None:
        """Wait until the watch has looked, and done what it found to do."""
        looks = self.hand.looks
        await until(lambda: self.hand.looks >= looks + 2)


@pytest.fixture
def wards(bus_site: TestSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.005)
    bus_site.settings.ward = [
        Ward(
            name="icu",
            escalation=[
                EscalationStep(after_s=10, contacts=["nurse"]),
                EscalationStep(after_s=12, contacts=["doctor", "technician"]),
                EscalationStep(after_s=0, contacts=["nobody"], priorities=["low"]),
            ],
        )
    ]


@contextlib.asynccontextmanager
async def watching(site: TestSite) -> AsyncIterator[Watched]:
    held, hand = Held(), Hand()
    watch = MonitorWatch(await site.context("deliver"), held, hand)
    task = asyncio.create_task(watch.run())
    watched = Watched(watch, held, hand, await site.bus("monitor"))
    await watched.looked()  # it listens by now
    await watch._context.bus.flush()
    try:
        yield watched
    finally:
        await end([task])


async def until(check: Callable[[], object], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.005)


@pytest.mark.usefixtures("wards")
async def test_the_first_are_told_at_once_the_others_in_their_time_and_all_when_it_is_over(bus_site: TestSite) -> None:
    async with watching(bus_site) as watched:
        held = watched.held
        for _ in range(10):  # while it speaks nobody is told
            await watched.speak()
            await watched.pass_s(8.0)
        assert held.told == []

        await watched.pass_s(1.0)
        await until(lambda: held.told)
        assert held.told == [("escalate", ("nurse",))], "ten seconds are not over"
        await watched.pass_s(1.0)
        assert len(held.told) == 1, "the others are told two seconds after the first"
        await watched.pass_s(1.0)
        await until(lambda: len(held.told) == 2)
        assert held.told == [("escalate", ("nurse",)), ("escalate", ("doctor", "technician"))]
        first, second = held.notices
        assert first.alarm.code == "alarm_system_failure"
        assert first.alarm.present
        assert first.alarm.alarm_id == second.alarm.alarm_id
        assert first.notice_id != second.notice_id

        await watched.speak()
        await until(lambda: len(held.told) == 3)
        assert held.told[2] == ("end", ("nurse", "doctor", "technician"))
        assert not held.notices[2].alarm.present


@pytest.mark.usefixtures("wards")
async def test_a_site_that_starts_is_given_a_minute(bus_site: TestSite) -> None:
    async with watching(bus_site) as watched:
        await watched.pass_s(60.0)
        assert watched.held.told == []
        await watched.pass_s(1.0)
        await until(lambda: watched.held.told)


@pytest.mark.usefixtures("wards")
async def test_that_the_bus_is_away_is_told_too_with_its_reason(bus_site: TestSite) -> None:
    async with watching(bus_site) as watched:
        await watched.speak()
        await bus_site.kill_bus()
        await until(lambda: not watched.watch._context.bus.connected)
        await watched.pass_s(9.0)
        await until(lambda: watched.held.told)
        assert "the message bus is away" in str(watched.held.notices[0].alarm.args["reason"])


@pytest.mark.usefixtures("wards")
async def test_a_notice_that_is_not_taken_over_is_tried_again(bus_site: TestSite) -> None:
    async with watching(bus_site) as watched:
        held = watched.held
        held.full = True
        await watched.speak()
        await watched.pass_s(9.0)
        await until(lambda: held.refused >= 2)
        held.full = False
        await until(lambda: held.told)
        assert held.told[0] == ("escalate", ("nurse",))


@pytest.mark.usefixtures("wards")
async def test_a_site_without_contacts_tells_its_systems_once(bus_site: TestSite) -> None:
    bus_site.settings.ward = []
    async with watching(bus_site) as watched:
        held = watched.held
        await watched.speak()
        await watched.pass_s(9.0)
        await until(lambda: held.told)
        await watched.pass_s(20.0)
        assert held.told == [("start", ())]
        await watched.speak()
        await until(lambda: len(held.told) == 2)
        assert held.told[1] == ("end", ())


@pytest.mark.usefixtures("wards")
async def test_a_process_that_stood_still_does_not_take_its_own_silence_for_the_others(bus_site: TestSite) -> None:
    async with watching(bus_site) as watched:
        await watched.speak()
        watched.hand.now_s += 30.0  # at once: nobody was heard, for nobody listened
        await watched.looked()
        await watched.pass_s(4.0)
        assert watched.held.told == []
        await watched.pass_s(1.0)
        await until(lambda: watched.held.told)
