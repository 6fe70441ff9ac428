"""Tells people when nobody watches the patients: the alarm system's word has stopped.

`monitor` says every few seconds that alarms work, and consoles show when it stops. That reaches who looks. This is the
other end (IEC 60601-1-8:2020, 6.11.2.2): whoever would be told of an alarm is told within ten seconds that none can
come, and told again when they can. Responsible for noticing, and for whom to tell. Not responsible for bringing it to
them (``service``): this file only hands notices over, in this very process, so that it works while the bus is away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from edgeward.bedside import AlarmSystemState, Notice
from edgeward.bus import subjects
from edgeward.bus.role import RoleContext
from edgeward.config import EscalationStep, Settings
from edgeward.messages import Alarm, AlarmPriority, Message, Ok

_log = logging.getLogger("edgeward.deliver.watch")

#: The word comes every 2 s (``monitor.selfcheck``); with one look a quarter of a second, ten seconds are kept.
SILENCE_S = 8.5
LOOK_S = 0.25
#: A site that starts, or a `deliver` that was started anew, has not heard it yet.
START_S = 60.0
#: A look this late means that this process stood still: others were not heard, and that is not their silence.
PAUSED_S = 1.5
CODE = "alarm_system_failure"
SITE = "site.alarms"
WARD = "all wards"


def steps(settings: Settings) -> list[EscalationStep]:
    """Return the steps of all wards for alarms of high priority, the first first."""
    found = [step for ward in settings.ward for step in ward.escalation if "high" in step.priorities]
    return sorted(found, key=lambda step: step.after_s)


class MonitorWatch:
    """Hears the alarm system's word.

    Parameters
    ----------
    accept : callable
        Takes a notice over; answers `Ok` once it holds it durably.
    clock : callable
        A clock that only goes forward, in seconds.
    """

    def __init__(
        self,
        context: RoleContext,
        accept: Callable[[Notice], Awaitable[Message]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._accept = accept
        self._steps = steps(context.settings)
        self._clock = clock
        self._heard = clock() + START_S - SILENCE_S
        self._since_ns = 0  # when it was missed, wall clock; 0: it is heard
        self._missed = 0.0  # the same by `clock`
        self._level = 0  # steps taken
        self._told: list[str] = []

    async def run(self) -> None:
        """Watch until cancelled."""
        await self._context.bus.subscribe(subjects.ALARM_SYSTEM, AlarmSystemState, self._hear)
        before = self._clock()
        while True:
            await asyncio.sleep(LOOK_S)
            now = self._clock()
            if now - before > PAUSED_S:
                self._heard = max(self._heard, now - SILENCE_S / 2)
            before = now
            if now - self._heard > SILENCE_S:
                await self._miss(now)
            elif self._since_ns:
                await self._over()

    async def _hear(self, _: str, state: AlarmSystemState) -> None:  # noqa: ARG002 - that it came is what matters
        self._heard = self._clock()

    async def _miss(self, now: float) -> None:
        if not self._since_ns:
            self._since_ns, self._missed, self._level, self._told = time.time_ns(), now, 0, []
            _log.critical("the alarm system has not been heard for %.0f s: people are told", now - self._heard)
            self._context.stats.count("alarm_system_missed")
        if not self._steps:  # systems are told all the same
            if not self._level:
                self._level = await self._tell("start", [], self._since_ns)
            return
        if self._level >= len(self._steps):
            return
        # Nobody can be waited for who does not hear: the first are told at once, the others in their time.
        step = self._steps[self._level]
        wait_s = step.after_s - self._steps[0].after_s
        if now - self._missed >= wait_s and await self._tell("escalate", step.contacts, time.time_ns()):
            self._level += 1
            self._told = list(dict.fromkeys((*self._told, *step.contacts)))

    async def _over(self) -> None:
        _log.warning("the alarm system is heard again")
        if await self._tell("end", self._told, time.time_ns()):
            self._since_ns = 0

    async def _tell(self, phase: str, contacts: list[str], at_ns: int) -> bool:
        over = phase == "end"
        reason = "monitoring does not answer" if self._context.bus.connected else "the message bus is away"
        alarm = Alarm(
            alarm_id=f"{SITE}-watch-{self._since_ns}",
            device_id="",
            code=CODE,
            priority=AlarmPriority.HIGH,
            technical=True,
            latching=False,
            state="ended" if over else "escalated" if contacts else "raised",
            present=not over,
            args={} if over else {"reason": f"{reason}: no alarm can come"},
            raised_ns=self._since_ns,
            ended_ns=at_ns if over else 0,
            at_ns=at_ns,
            received_ns=self._since_ns,
            bed_id=SITE,
            label=self._context.settings.site.name,
            ward=WARD,
            level=self._level,
            told=list(self._told),
        )
        notice = Notice(
            notice_id=f"{alarm.alarm_id}/{phase}/{self._level}",
            phase=phase,  # type: ignore[arg-type]
            alarm=alarm,
            contacts=list(contacts),
            at_ns=at_ns,
        )
        answer = await self._accept(notice)
        if not isinstance(answer, Ok):
            _log.error("that the alarm system is away could not be written down, and is tried again: %s", answer)
            return False
        return True
