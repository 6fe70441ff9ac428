"""The loop in which the alarm system tries itself, and tells whether it works.

Responsible for looking at everything around the alarm path (bus, log, disk, the role's other loops, `deliver`), for
trying it every two seconds, and for telling the outcome: on the bus, and as alarms of the site. Not responsible for
what is tried and what counts as wrong (``selfcheck``), or for what a monitor does that is behind (``keepup``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable

from edgeward.bedside import Hearing
from edgeward.bus import subjects
from edgeward.bus.client import BusError
from edgeward.bus.role import RoleContext
from edgeward.clinic.monitor.alarm_log import AlarmLog
from edgeward.clinic.monitor.beds import Beds
from edgeward.clinic.monitor.engine import SITE, AlarmEngine
from edgeward.clinic.monitor.escalation import Escalation
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.keeper import Keeper
from edgeward.clinic.monitor.publisher import Publisher
from edgeward.clinic.monitor.selfcheck import EVERY_S, NOT_DELIVERED_S, AlarmSystem, Surroundings
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.messages import RoleState

_log = logging.getLogger("edgeward.monitor")

WRITE_S = 2.0  # a log that takes longer to write one row is a problem
_BEHIND = "monitoring is behind what is sent: alarms are late"


class SelfCheck:
    """The alarm system's look at itself.

    Parameters
    ----------
    context, clock, log, keeper, beds, intake, engine, escalation, publisher
        What is looked at.
    waiting_s : callable
        For how long the oldest packet has waited to be looked at.

    Attributes
    ----------
    system
        Whether it works, and who hears.
    """

    def __init__(
        self,
        context: RoleContext,
        *,
        clock: SiteClock,
        log: AlarmLog,
        keeper: Keeper,
        beds: Beds,
        intake: Intake,
        engine: AlarmEngine,
        escalation: Escalation,
        publisher: Publisher,
        waiting_s: Callable[[], float],
    ) -> None:
        self._context = context
        self._clock = clock
        self._alarm_log = log
        self._keeper = keeper
        self._beds = beds
        self._intake = intake
        self._engine = engine
        self._escalation = escalation
        self._publisher = publisher
        self._waiting_s = waiting_s
        now = time.monotonic()
        self.system = AlarmSystem(now)
        self._ticked_s = self._published_s = now
        self._behind_told = asyncio.Event()
        self._deliver_heard_s = 0.0  # when `deliver` said last that it lives; 0: it never did, and is not missed

    def begin(self) -> None:
        """Count from now: what a start takes (a compilation after an update, a minute) is no failure of the loops."""
        now = time.monotonic()
        self._ticked_s = self._published_s = now
        self.system.started_s = now

    # ---------------------------------------- what others tell

    def ticked(self) -> None:
        """Time was looked at: call it several times a second."""
        self._ticked_s = time.monotonic()
        self._look_behind()

    def published(self) -> None:
        """Numbers were published."""
        self._published_s = time.monotonic()

    def stood_still(self) -> None:
        """Take it that our process stood still: that it heard nothing meanwhile says nothing of others."""
        if self._deliver_heard_s:
            self._deliver_heard_s = time.monotonic()

    async def hear(self, _: str, hearing: Hearing) -> None:
        """Somebody hears alarms."""
        self.system.hear(hearing, time.monotonic())

    async def hear_deliver(self, _: str, state: RoleState) -> None:  # noqa: ARG002 - that it came is what matters
        """`deliver` lives."""
        self._deliver_heard_s = time.monotonic()

    def _look_behind(self) -> None:
        """Say when monitoring does not keep up with what is sent, and when it does again."""
        keep_up, stats = self._intake.keep_up, self._context.stats
        told = keep_up.told
        self._intake.look_behind(full=self._context.bus.full)
        stats.counters["behind_ms"] = round(1e3 * keep_up.behind_s)
        if keep_up.told == told:
            return
        if keep_up.told:
            _log.error("monitoring is %.1f s behind what is sent: alarms are late", keep_up.behind_s)
            stats.count("overloads")
            stats.warnings.add(_BEHIND)
        else:
            _log.warning("monitoring keeps up again")
            stats.warnings.discard(_BEHIND)
        self._behind_told.set()

    # ---------------------------------------- the check

    async def run(self) -> None:
        """Try the alarm system, and tell whether it works, every few seconds."""
        while True:
            self._behind_told.clear()
            now = time.monotonic()
            self.system.check(await self.surroundings())
            problems = self.system.problems
            args: dict[str, float | str] = {"reason": problems[0]} if problems else {}
            changes = self._engine.condition(SITE, "alarm_system_failure", bool(problems), args)
            changes += self._engine.condition(SITE, "alarms_not_heard", self.system.unheard(time.monotonic()))
            if changes:
                self._publisher.put(changes)
            state = self.system.state(
                self._clock.wall_ns(), time.monotonic(), beds=len(self._beds), flood=self._engine.flooded
            )
            try:
                await self._context.bus.publish(subjects.ALARM_SYSTEM, state)
            except BusError as error:
                _log.debug("the state of the alarm system was not published: %s", error)
            # That monitoring is behind is told at once.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, EVERY_S - (time.monotonic() - now))):
                    await self._behind_told.wait()

    async def surroundings(self) -> Surroundings:
        """Return what is to be seen around the alarm path now; a row is written to the alarm log for it."""
        if self._publisher.owing:
            self._publisher.again()
        problem = ""
        writing = asyncio.ensure_future(self._publisher.call(self._alarm_log.try_writing, self._clock.wall_ns()))
        await asyncio.wait({writing}, timeout=WRITE_S)
        if not writing.done():
            problem = f"it has taken more than {WRITE_S:g} s"
            writing.add_done_callback(lambda done: done.cancelled() or done.exception())  # it is told above
        elif error := writing.exception():
            problem = str(error)
        elif self._keeper.problem:
            problem = f"numerics: {self._keeper.problem}"
        now = time.monotonic()
        keep_up = self._intake.keep_up
        return Surroundings(
            bus=self._context.bus.connected,
            log_problem=problem,
            free_mb=shutil.disk_usage(self._context.home.data).free / 1e6,
            tick_age_s=now - self._ticked_s,
            beds_age_s=now - self._published_s,
            packets_waiting_s=self._waiting_s(),
            behind_s=keep_up.behind_s if keep_up.told else 0.0,
            notices_problem=self._publisher.courier.problem or self._deliver_problem(now),
            unknown_codes=len(self._engine.unknown),
        )

    def _deliver_problem(self, now: float) -> str:
        """Return what keeps people from being told; empty if nothing does, or if nobody is to be told."""
        wanted = self._escalation.systems or bool(self._context.settings.contact)
        silent = self._deliver_heard_s and now - self._deliver_heard_s > NOT_DELIVERED_S
        return "`deliver` does not answer" if wanted and silent and self._context.bus.connected else ""
