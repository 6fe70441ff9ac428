"""Keeps numerics: on the disk before they are acknowledged, and with the recorder after that.

Responsible for grouping what arrives into one write at a time, for saying when that failed, and for the duty to hand
everything over until the recorder says that it has it. Not responsible for the file (``numerics_log``), for what a
value means (``vitals``), or for alarms: a value is compared with its limits at once, whatever the disk does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from edgeward.bedside import Numerics, Observation, Observed
from edgeward.bus import subjects
from edgeward.bus.client import Bus, BusError
from edgeward.clinic.monitor.numerics_log import Batch, NumericsLog
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.messages import MessageError, Ok, Refused
from edgeward.privacy.database import DatabaseError

T = TypeVar("T")
_log = logging.getLogger("edgeward.monitor.keeper")

MOST_AT_ONCE = 4000  # values of one write, and of one message to the recorder
OWED_MOST = 20_000  # messages without an answer that wait while the disk takes nothing; then the oldest go, counted
AGAIN_S = 0.5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
ANSWER_S = 10.0  # the recorder writes once a second, and a slow disk takes longer
PAGE = 64  # batches of one message to the recorder


class NotKept(Exception):
    """What was to be kept is not on the disk; the text says why."""


@dataclass(slots=True)
class _Entry:
    """A message, what it measured, and who waits for it; without a message, who waits for all before."""

    numerics: Numerics | None
    observations: list[Observation]
    done: asyncio.Future[None] | None = None


class Keeper:
    """Numerics on their way to the disk and to the recorder."""

    def __init__(self, log: NumericsLog, bus: Bus, clock: SiteClock) -> None:
        self._log, self._bus, self._clock = log, bus, clock
        self._pending: deque[_Entry] = deque()
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._writing: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="numerics-log")
        self.problem = ""  # why the last writing failed
        self.counts = {"numerics_kept": 0, "numerics_not_kept": 0, "numerics_handed_over": 0}

    def put(self, numerics: Numerics, observations: list[Observation]) -> None:
        """Keep a message. It is tried again while the disk does not take it."""
        self._pending.append(_Entry(numerics, observations))
        self._wake.set()

    async def settled(self) -> None:
        """Return once everything put so far is on the disk.

        Raises
        ------
        NotKept
            If the disk does not take it now.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(_Entry(None, [], done))
        self._wake.set()
        await done

    # ---------------------------------------- to the disk

    async def write(self) -> None:
        """Write until cancelled. What arrives while one write is on its way shares the next."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                # Never cut short: what has left the queue is written, and whoever waits for it hears (`stop`).
                self._writing = asyncio.ensure_future(self._one())
                await asyncio.shield(self._writing)
                if self.problem:
                    await asyncio.sleep(AGAIN_S)

    async def _one(self) -> None:
        entries = self._cut()
        batch = Batch(
            [entry.numerics for entry in entries if entry.numerics is not None],
            [one for entry in entries for one in entry.observations],
        )
        if batch.numerics:
            try:
                await self._call(self._log.append, batch, self._clock.wall_ns())
            except DatabaseError as error:
                if not self.problem:
                    _log.error("numerics are not written down: %s", error)
                self.problem = str(error)
                self._failed(entries)
                return
            if self.problem:
                _log.warning("numerics are written down again")
            self.problem = ""
            self.counts["numerics_kept"] += len(batch.numerics)
            self._written.set()
        for entry in entries:
            if entry.done is not None and not entry.done.done():
                entry.done.set_result(None)

    def _cut(self) -> list[_Entry]:
        entries: list[_Entry] = []
        values = 0
        while self._pending and values < MOST_AT_ONCE:
            entries.append(self._pending.popleft())
            values += 1 + len(entries[-1].observations)
        return entries

    def _failed(self, entries: list[_Entry]) -> None:
        """Keep the duty for what nobody else can send again; whoever waits keeps it himself."""
        self._pending.extendleft(reversed(entries))
        owed = [entry for entry in self._pending if entry.numerics is not None]
        for entry in self._pending:
            if entry.done is not None and not entry.done.done():
                entry.done.set_exception(NotKept(self.problem))
        for entry in owed[:-OWED_MOST]:
            self.counts["numerics_not_kept"] += len(entry.observations)
        self._pending = deque(owed[-OWED_MOST:])

    async def dump(self, data: bytes) -> None:
        """Keep the values as they are now: a restart begins with them. Call it in the loop that takes messages.

        Raises
        ------
        DatabaseError
            If the disk does not take them.
        """
        # Batches that are numbered later hold messages that `data` may include: taken again, they are repetitions.
        await self._call(self._log.keep, data, self._log.last, self._clock.wall_ns())

    # ---------------------------------------- to the recorder

    async def hand_over(self) -> None:
        """Hand over what is kept until cancelled."""
        pause, told = FIRST_PAUSE_S, False
        while True:
            self._written.clear()
            rows = await self._call(self._log.after, self._log.handed, PAGE)
            if not rows:
                await self._written.wait()
                continue
            batches: list[tuple[int, list[Observation]]] = []
            values = 0
            for number, batch in rows:
                if batches and values + len(batch.observations) > MOST_AT_ONCE:
                    break
                values += len(batch.observations)
                batches.append((number, batch.observations))
            reason = await self._offer(Observed(log=self._log.identity, batches=batches)) if values else ""
            if reason:
                if not told:
                    _log.warning("the recorder does not take numerics; they are kept and offered again: %s", reason)
                told = True
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE_S, 2 * pause)
                continue
            if told:
                _log.warning("the recorder takes numerics again")
            pause, told = FIRST_PAUSE_S, False
            self._log.handed = batches[-1][0]
            self.counts["numerics_handed_over"] += values

    async def _offer(self, observed: Observed) -> str:
        try:
            answer = await self._bus.request(subjects.RECORDER_OBSERVED, observed, Ok | Refused, ANSWER_S)
        except (BusError, MessageError) as error:
            return str(error)
        return answer.reason if isinstance(answer, Refused) else ""

    # ---------------------------------------- life

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def stop(self, data: bytes) -> None:
        """Write what is left, what is under way, and the values as they are; close the file."""
        if self._writing is not None:
            await asyncio.wait({self._writing})
        while self._pending and not self.problem:
            await self._one()
        try:
            await self.dump(data)
        except DatabaseError as error:
            _log.warning("values are not written down: %s", error)
        for entry in self._pending:
            if entry.done is not None and not entry.done.done():
                entry.done.set_exception(NotKept("the monitor stops"))
        self._thread.shutdown(wait=True)
        self._log.close()
