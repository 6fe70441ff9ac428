"""Hands notices over to `deliver`, and keeps the duty until it says that it holds them.

Responsible for trying again, for the order of the notices of one alarm, and for a limited number at once. Not
responsible for what a notice says (``escalation``) or for keeping it over a restart (``alarm_log``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from edgeward.bedside import Notice
from edgeward.bus import subjects
from edgeward.bus.client import Bus, BusError
from edgeward.messages import MessageError, Ok, Refused

_log = logging.getLogger("edgeward.monitor.courier")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
TIMEOUT_S = 3.0
AT_ONCE = 32
PATIENCE_S = 10.0  # `deliver` may be starting


class Courier:
    """Notices on their way.

    Parameters
    ----------
    bus : Bus
    done : callable
        Called with the id of a notice that `deliver` holds.
    """

    def __init__(self, bus: Bus, done: Callable[[str], Awaitable[None]]) -> None:
        self._bus = bus
        self._done = done
        self._waiting: dict[str, deque[Notice]] = {}  # per alarm, in order
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._failing = ""
        self._failing_since = 0.0

    @property
    def waiting(self) -> int:
        """How many notices were not yet handed over."""
        return sum(len(queue) for queue in self._waiting.values())

    @property
    def problem(self) -> str:
        """Why notices have not been taken over for a while; empty if they are."""
        patient = time.monotonic() - self._failing_since < PATIENCE_S
        return "" if not self._failing or patient or not self._waiting else self._failing

    def send(self, notices: Iterable[Notice]) -> None:
        """Take over notices."""
        for notice in notices:
            queue = self._waiting.get(notice.alarm.alarm_id)
            if queue is not None:
                queue.append(notice)
                continue
            self._waiting[notice.alarm.alarm_id] = deque([notice])
            task = asyncio.get_running_loop().create_task(self._run(notice.alarm.alarm_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, alarm_id: str) -> None:
        queue = self._waiting[alarm_id]
        pause = FIRST_PAUSE_S
        while queue:
            async with self._room:
                taken = await self._hand_over(queue[0])
            if taken:
                await self._done(queue.popleft().notice_id)
                pause = FIRST_PAUSE_S
                continue
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_S, pause * 2)
        del self._waiting[alarm_id]

    async def _hand_over(self, notice: Notice) -> bool:
        try:
            answer = await self._bus.request(subjects.DELIVER_NOTICE, notice, Ok | Refused, TIMEOUT_S)
        except (BusError, MessageError) as error:
            answer = Refused(reason=str(error))
        if isinstance(answer, Ok):
            if self._failing:
                _log.warning("notices are taken over again")
                self._failing = ""
            return True
        if not self._failing:
            _log.error("notices are not taken over, and are tried again: %s", answer.reason)
            self._failing_since = time.monotonic()
        self._failing = answer.reason
        return False

    def stop(self) -> None:
        """Stop at once; what was not handed over is in the alarm log."""
        for task in self._tasks:
            task.cancel()
