"""When nobody watches the patients any more, people are told, by whoever would have told them of an alarm."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from tests.support.site import TestSite

from edgeward.bedside import AlarmSystemState, Notice
from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.clinic.notices import watch as module
from edgeward.clinic.notices.watch import MonitorWatch
from edgeward.config import EscalationStep, Ward
from edgeward.messages import Message, Ok, Refused


class Held:
    """Who takes notices over."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.full = False

    async def __call__(self, notice: Notice) -> Message:
        if self.full:
            return Refused(reason="the disk is full")
        self.notices.append(notice)
        return Ok()

    @property
    def told(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(one.phase, tuple(one.contacts)) for one in self.notices]


@pytest.fixture
def wards(bus_site: TestSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.4)
    monkeypatch.setattr(module, "START_S", 0.4)
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    bus_site.settings.ward = [
        Ward(
            name="icu",
            escalation=[
                EscalationStep(after_s=10, contacts=["nurse"]),
                EscalationStep(after_s=10.5, contacts=["doctor", "technician"]),
                EscalationStep(after_s=0, contacts=["nobody"], priorities=["low"]),
            ],
        )
    ]


@contextlib.asynccontextmanager
async def watching(site: TestSite) -> AsyncIterator[tuple[Held, Bus]]:
    held = Held()
    task = asyncio.create_task(MonitorWatch(await site.context("deliver"), held).run())
    monitor = await site.bus("monitor")
    await asyncio.sleep(0.05)
    try:
        yield held, monitor
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def speak(monitor: Bus, number: int = 1) -> None:
    await monitor.publish(subjects.ALARM_SYSTEM, AlarmSystemState(at_ns=1, number=number, ok=True))
    await monitor.flush()


async def until(check, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("wards")
async def test_the_first_are_told_at_once_the_others_in_their_time_and_all_when_it_is_over(bus_site: TestSite) -> None:
    async with watching(bus_site) as (held, monitor):
        for number in range(10):  # while it speaks nobody is told
            await speak(monitor, number)
            await asyncio.sleep(0.1)
        assert held.told == []

        await until(lambda: len(held.told) == 2)
        assert held.told == [("escalate", ("nurse",)), ("escalate", ("doctor", "technician"))]
        first, second = held.notices
        assert second.at_ns - first.at_ns >= 0.4e9, "half a second after the first"
        assert first.alarm.code == "alarm_system_failure"
        assert first.alarm.present
        assert first.alarm.alarm_id == second.alarm.alarm_id
        assert first.notice_id != second.notice_id

        await speak(monitor)
        await until(lambda: len(held.told) == 3)
        assert held.told[2] == ("end", ("nurse", "doctor", "technician"))
        assert not held.notices[2].alarm.present


@pytest.mark.usefixtures("wards")
async def test_that_the_bus_is_away_is_told_too_with_its_reason(bus_site: TestSite) -> None:
    async with watching(bus_site) as (held, monitor):
        await speak(monitor)
        await bus_site.kill_bus()
        await until(lambda: held.told)
        assert "the message bus is away" in str(held.notices[0].alarm.args["reason"])


@pytest.mark.usefixtures("wards")
async def test_a_notice_that_is_not_taken_over_is_tried_again(bus_site: TestSite) -> None:
    async with watching(bus_site) as (held, _):
        held.full = True
        await asyncio.sleep(0.8)
        held.full = False
        await until(lambda: held.told)
        assert held.told[0] == ("escalate", ("nurse",))


@pytest.mark.usefixtures("wards")
async def test_a_site_without_contacts_tells_its_systems_once(bus_site: TestSite) -> None:
    bus_site.settings.ward = []
    async with watching(bus_site) as (held, monitor):
        await until(lambda: held.told)
        await asyncio.sleep(0.3)
        assert held.told == [("start", ())]
        await speak(monitor)
        await until(lambda: len(held.told) == 2)
        assert held.told[1] == ("end", ())


@pytest.mark.usefixtures("wards")
async def test_a_process_that_stood_still_does_not_take_its_own_silence_for_the_others(
    bus_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSED_S", 0.2)
    async with watching(bus_site) as (held, monitor):
        await speak(monitor)
        stood = asyncio.get_running_loop().call_soon(time.sleep, 0.7)
        await asyncio.sleep(0.02)
        await speak(monitor)
        await asyncio.sleep(0.1)
        assert held.told == []
        stood.cancel()
