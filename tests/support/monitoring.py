"""An alarm engine with clocks that tests turn."""

from __future__ import annotations

from typing import Any

from edgeward.clinic.monitor.beds import Beds
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.engine import AlarmEngine, BedChange, Check
from edgeward.clinic.monitor.floods import FloodWatch
from edgeward.clinic.monitor.limits import Profiles
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.config import Settings

SECOND = 1_000_000_000


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
        self.beds = Beds(Profiles(self.settings.monitor, self.settings.profile), self.settings.ward)
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
