"""An alarm engine with clocks that tests turn, and the monitor on a real bus with everybody it talks to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal

from edgeward.bedside import AlarmSystemState, Numerics, Vital
from edgeward.bus import subjects
from edgeward.bus.role import RoleContext
from edgeward.clinic.monitor import role as monitor
from edgeward.clinic.monitor.beds import Beds as BedBook
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.engine import AlarmEngine, BedChange, Check
from edgeward.clinic.monitor.floods import FloodWatch
from edgeward.clinic.monitor.limits import Profiles
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.config import Settings
from edgeward.messages import Alarm, Beds, Message, Ok, Refused
from edgeward.privacy.keys import SiteKey
from tests.support.site import TestSite
from tests.support.wearable import Wearable

SECOND = 1_000_000_000

KEY = SiteKey(b"a site key, only of these tests.")


class OnTheBus:
    """Keeps what is published."""

    connected = True

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.news = asyncio.Event()

    async def publish(self, _: str, message: Message) -> None:
        self.sent.append(message)
        self.news.set()

    def alarms(self) -> list[tuple[str, str]]:
        return [(one.bed_id, one.state) for one in self.sent if isinstance(one, Alarm)]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.sent) < count:
                self.news.clear()
                await self.news.wait()


class Hands:
    """The hands of both clocks, in ns."""

    def __init__(self) -> None:
        self.steady = 0
        self.wall = 1_800_000_000 * SECOND

    def pass_s(self, seconds: float) -> None:
        self.steady += int(seconds * SECOND)
        self.wall += int(seconds * SECOND)

    def clock(self) -> SiteClock:
        return SiteClock(lambda: self.steady, lambda: self.wall)


class Site:
    """Beds, an engine, and what it told."""

    def __init__(
        self, *sources: str, settings: Settings | None = None, check: Check | None = None, flood_beds: int = 8
    ) -> None:
        self.hands = Hands()
        self.clock = self.hands.clock()
        self.settings = settings or Settings()
        self.beds = BedBook(Profiles(self.settings.monitor, self.settings.profile), self.settings.ward)
        for source in sources:
            self.beds.add_source(source)
        self.engine = AlarmEngine(self.beds, self.clock, FloodWatch(flood_beds, 5.0), check=check)
        self.told: list[BedChange] = []

    def event(self, source: str, code: str, present: bool, **fields: Any) -> ConditionEvent:
        now = self.clock.now_ns()
        return ConditionEvent(source, code, present, now, now, **fields)

    def begin(self, source: str, code: str, **fields: Any) -> list[BedChange]:
        return self.take(self.event(source, code, True, **fields))

    def end(self, source: str, code: str, **fields: Any) -> list[BedChange]:
        return self.take(self.event(source, code, False, **fields))

    def take(self, *events: ConditionEvent) -> list[BedChange]:
        changes = self.engine.take(events)
        self.told += changes
        return changes

    def codes(self, bed: str) -> list[str]:
        return [record.code for record in self.engine.active(bed)]


class Monitored:
    """A monitor on a real bus, whoever talks to it, and an operator who listens."""

    def __init__(self, site: TestSite) -> None:
        self.site = site
        self.alarms: list[Alarm] = []
        self.published: list[Beds] = []
        self.beds: dict[str, Any] = {}  # as published last
        self.words: list[AlarmSystemState] = []
        self.context: RoleContext | None = None
        self.task: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        self.operator, self.console = await self.site.bus("operator"), await self.site.bus("console")
        self.gateway = await self.site.bus("gateway")

        async def heard(_: str, alarm: Alarm) -> None:
            self.alarms.append(alarm)

        async def seen(_: str, beds: Beds) -> None:
            self.published.append(beds)
            self.beds = {bed.bed_id: bed for bed in beds.beds}

        async def word(_: str, state: AlarmSystemState) -> None:
            self.words.append(state)

        await self.operator.subscribe(subjects.ALARM_ALL, Alarm, heard)
        await self.operator.subscribe(subjects.STATE_BEDS, Beds, seen)
        await self.operator.subscribe(subjects.ALARM_SYSTEM, AlarmSystemState, word)
        await self.operator.flush()

    async def start(self) -> None:
        self.context = await self.site.context("monitor")
        self.task = asyncio.create_task(monitor.run(self.context))
        async with asyncio.timeout(60):
            while self.context._status != "ready":
                if self.task.done():
                    self.task.result()
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        assert self.context is not None
        assert self.task is not None
        self.context.stopping.set()
        await self.task
        await self.context.bus.close()

    async def until(self, check: Callable[[], object], seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not check():
                if self.task is not None and self.task.done() and self.task.exception():
                    self.task.result()
                await asyncio.sleep(0.02)

    async def give(
        self,
        source: str,
        *,
        at_ns: int = 0,
        patient: str = "",
        clock: Literal["device", "site"] = "device",
        **values: float,
    ) -> Ok | Refused:
        """Send numerics as the gateway does; return the monitor's answer."""
        now = time.time_ns()
        numerics = Numerics(
            source_id=source,
            device_id="central",
            protocol="pcd01",
            received_ns=now,
            label="Room 7",
            patient=patient,
            clock=clock,
            vitals=[Vital(parameter=name, value=value, at_ns=at_ns or now) for name, value in values.items()],
        )
        return await self.gateway.request(subjects.MONITOR_NUMERICS, numerics, Ok | Refused, 10.0)

    async def values(self, source: str, **values: float) -> None:
        assert await self.give(source, **values) == Ok()

    async def ask(self, subject: str, message: Message, kind: Any = Ok | Refused) -> Any:
        return await self.console.request(subject, message, kind, 10.0)

    def told(self, code: str, state: str = "raised") -> list[Alarm]:
        return [alarm for alarm in self.alarms if (alarm.code, alarm.state) == (code, state)]

    async def wearable(self, name: str) -> Wearable:
        folder = self.site.enrol(name)
        return await asyncio.to_thread(Wearable, folder)
