"""Tells transitions of alarms: writes them down, publishes them, and hands notices over, in order.

Responsible for the order of transitions, for the latency that is measured, and for the alarm log. Writing goes first
but is waited for only as long as an alarm can spare (`WAIT_S`): a slow or full disk delays no alarm by more, and a
process killed in between has, nearly always, written down what it published. Not responsible for what is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from edgeward.bedside import LimitChange, Notice
from edgeward.bus import subjects
from edgeward.bus.client import BusError
from edgeward.bus.role import RoleContext
from edgeward.clinic.monitor.alarm_log import AlarmLog, Writing
from edgeward.clinic.monitor.courier import Courier
from edgeward.clinic.monitor.engine import SITE, AlarmEngine, BedChange
from edgeward.clinic.monitor.escalation import Escalation
from edgeward.clinic.monitor.shown import Shown
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.messages import Alarm, ServiceClass
from edgeward.privacy.database import DatabaseError

_log = logging.getLogger("edgeward.monitor")

WAIT_S = 0.02
#: Transitions written and published together: an alarm at the end of a flood must not wait for all before it.
AT_ONCE = 256
OWED_MOST = 10_000  # transitions kept while the log cannot be written


class Publisher:
    """The one way by which alarms leave.

    Parameters
    ----------
    describe : callable
        How a source's signal is sampled, to be written down.
    """

    def __init__(
        self,
        *,
        context: RoleContext,
        log: AlarmLog,
        engine: AlarmEngine,
        shown: Shown,
        escalation: Escalation,
        clock: SiteClock,
        describe: Callable[[str], dict[str, Any]],
    ) -> None:
        self.context = context
        self.latency_ms: deque[float] = deque(maxlen=1000)
        self.log = log
        self.courier = Courier(context.bus, self._handed_over)
        self.changed_beds: set[str] = set()  # with something new to show
        self._engine = engine
        self._shown = shown
        self._escalation = escalation
        self._clock = clock
        self._describe = describe
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="alarm-log")
        self._queue: deque[tuple[BedChange, list[str], asyncio.Future[None] | None]] = deque()
        self._wake = asyncio.Event()
        self._batching: asyncio.Future[None] | None = None
        self._sources: set[str] = set()
        self._gone_sources: set[str] = set()
        self._changes: list[LimitChange] = []
        self._beds: set[str] = set()
        self.problem = ""  # why the last writing failed
        self._unwritten: set[str] = set()  # beds of writings that failed
        self._owed: list[tuple[Alarm, bool]] = []  # and their transitions
        self._owed_notices: list[Notice] = []

    def put(self, changes: Iterable[BedChange], contacts: Iterable[str] = ()) -> None:
        """Tell transitions, in order."""
        told = list(contacts)
        for change in changes:
            self._queue.append((change, told, None))
            self._begin_timer(change)
        self._wake.set()

    async def settled(self, changes: Iterable[BedChange] = ()) -> None:
        """Tell transitions, and return when these and all before them are published and written down."""
        self.put(changes)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((BedChange("", None), [], done))  # type: ignore[arg-type]
        self._wake.set()
        await done

    def keep(
        self,
        *,
        beds: Iterable[str] = (),
        sources: Iterable[str] = (),
        gone_sources: Iterable[str] = (),
        changes: Iterable[LimitChange] = (),
    ) -> None:
        """Write down, with what comes next, how beds and sources are."""
        self._beds |= set(beds)
        self._sources |= set(sources)
        self._gone_sources |= set(gone_sources)
        self._sources -= self._gone_sources
        self._changes += changes
        self._wake.set()

    def _begin_timer(self, change: BedChange) -> None:
        if change.change.new:
            self._escalation.begin(change.bed_id, change.change.alarm)

    def _to_write(self) -> bool:
        return bool(
            self._beds or self._sources or self._gone_sources or self._changes or self._engine.dirty or self._unwritten
        )

    async def run(self) -> None:
        """Tell what comes, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue or self._beds or self._sources or self._gone_sources or self._changes:
                # Never cut short: what has left the queue is published, and whoever waits for it hears (`stop`).
                self._batching = asyncio.ensure_future(self._batch())
                await asyncio.shield(self._batching)

    async def _batch(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(AT_ONCE, len(self._queue)))]
        waiting = [done for _, _, done in batch if done is not None]
        told = [(change, self._message(change), contacts) for change, contacts, done in batch if done is None]
        notices = self._escalation.notices(told, self._shown.vitals, self._shown.label)
        writing = Writing(
            sources={one: self._describe(one) for one in self._sources},
            gone_sources=sorted(self._gone_sources),
            transitions=self._owed
            + [
                (alarm, change.change.new and change.change.alarm.raised_ns == change.change.at_ns)
                for change, alarm, _ in told
            ],
            changes=self._changes,
            notices=self._owed_notices + notices,
        )
        beds = self._beds | self._engine.dirty | self._unwritten | {change.bed_id for change, _, _ in told}
        for bed_id in beds:
            if bed_id == SITE:
                writing.beds[bed_id] = (None, self._engine.alarms(bed_id).snapshot())
            elif bed_id in self._engine.beds:
                record = msgspec.structs.replace(self._engine.beds[bed_id])
                writing.beds[bed_id] = (record, self._engine.alarms(bed_id).snapshot())
            else:
                writing.gone_beds[bed_id] = self._engine.last_number(bed_id)
        self._beds, self._sources, self._gone_sources, self._changes = set(), set(), set(), []
        self._engine.dirty.clear()
        self._unwritten, self._owed, self._owed_notices = set(), [], []
        loop = asyncio.get_running_loop()
        if writing == Writing():
            written = loop.run_in_executor(self._thread, str)  # what was given to it before is done then
        else:
            written = loop.run_in_executor(self._thread, self._write, writing)
            written.add_done_callback(lambda done: self._written(writing, done.result()))
        if told:
            await asyncio.wait({written}, timeout=WAIT_S)
        for change, alarm, _ in told:
            await self._publish(change, alarm)
        if waiting:
            await asyncio.wait({written})
        self.courier.send(notices)
        for done in waiting:
            if not done.done():
                done.set_result(None)

    def _write(self, writing: Writing) -> str:
        """Write, in the log's own thread; return why that failed, or an empty text."""
        try:
            self.log.save(writing)
        except DatabaseError as error:
            return str(error)
        return ""

    def _written(self, writing: Writing, reason: str) -> None:
        warnings = self.context.stats.warnings
        for warning in [w for w in warnings if w.startswith("alarm log")]:
            warnings.discard(warning)
        if not reason:
            self.problem = ""
            return
        if not self.problem:
            _log.error("alarms are published but not written down: %s", reason)
        self.problem = reason
        warnings.add(f"alarm log: {reason}")
        # It is written down with what comes next, or when the alarm system checks itself.
        self._unwritten |= {*writing.beds, *writing.gone_beds}
        self._sources |= set(writing.sources)
        self._gone_sources |= set(writing.gone_sources)
        self._changes = writing.changes + self._changes
        self._owed = [*writing.transitions, *self._owed][-OWED_MOST:]
        self._owed_notices = [*writing.notices, *self._owed_notices][-OWED_MOST:]

    @property
    def owing(self) -> bool:
        """Whether something that was to be written down is not."""
        return bool(self._unwritten)

    def again(self) -> None:
        """Try again to write down what could not be written."""
        self._beds |= self._unwritten
        self._wake.set()

    def _message(self, change: BedChange) -> Alarm:
        self.changed_beds.add(change.bed_id)
        told = change.change
        alarm = self._shown.alarm(change.bed_id, told.alarm, told.state, told.at_ns)
        if not told.new or not alarm.received_ns:
            return alarm
        latency_ms = (self._clock.wall_ns() - alarm.received_ns) / 1e6
        if latency_ms > self.context.settings.budgets.alarm_ms and not alarm.late:
            alarm = msgspec.structs.replace(alarm, late=True, late_ms=round(latency_ms, 1))
        return alarm

    async def _publish(self, change: BedChange, alarm: Alarm) -> None:
        stats = self.context.stats
        told = change.change
        if told.new and alarm.received_ns:
            latency_ms = (self._clock.wall_ns() - alarm.received_ns) / 1e6
            if alarm.late:
                stats.miss(ServiceClass.ALARM, "monitor")
            self.latency_ms.append(latency_ms)
            stats.stage(ServiceClass.ALARM, "decisive sample received to published", latency_ms)
        try:
            await self.context.bus.publish(subjects.alarm("site" if change.bed_id == SITE else change.bed_id), alarm)
        except BusError as error:
            stats.count("alarms_unpublished")
            _log.error("an alarm could not be published: %s", error)
        if told.new and told.at_ns == told.alarm.raised_ns:
            stats.count("alarms_raised")
        if told.state == "ended":
            self._escalation.forget(change.bed_id, told.alarm.number)

    async def _handed_over(self, notice_id: str) -> None:
        try:
            await self.call(self.log.handed_over, [notice_id])
        except DatabaseError as error:  # it is handed over again after a restart; `deliver` knows it by its id
            _log.warning("that a notice was handed over is not written down: %s", error)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function` in the log's thread, after what was given to it before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def stop(self) -> None:
        """Publish and write what is left, and what is under way."""
        if self._batching is not None:
            await asyncio.wait({self._batching})
        while self._queue or self._to_write():
            await self._batch()
            if self._unwritten:
                break  # it cannot be written; it was published
        self.courier.stop()
        self._thread.shutdown(wait=True)
