"""Answers requests: acknowledge, pause, list, look up, change a bed, take numerics and reports of notices.

Responsible for the answers and for what a change of a bed sets in motion. `Ok` is said only when what was asked for is
written down. Not responsible for the rules behind (``engine``, ``beds``, ``escalation``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from edgeward.bedside import REMOVED, AlarmPause, AlarmQuery, BedInfo, LimitChange, NoticeReport, Numerics, SetBed
from edgeward.clinic.monitor.beds import BedError, Beds
from edgeward.clinic.monitor.engine import SITE, AlarmEngine, BedChange
from edgeward.clinic.monitor.escalation import Escalation
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.keeper import Keeper, NotKept
from edgeward.clinic.monitor.publisher import Publisher
from edgeward.clinic.monitor.shown import Shown
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.messages import AlarmAck, Alarms, Ask, Message, Ok, Refused, ServiceClass
from edgeward.privacy.database import DatabaseError

RECENT = 100
BY_HAND = "@hand"  # instead of an enrolled device
_DAY_NS = 24 * 3600 * 10**9  # what trends can reach back


class Monitor(Protocol):
    """What the desk works with."""

    beds: Beds
    engine: AlarmEngine
    escalation: Escalation
    intake: Intake
    publisher: Publisher
    shown: Shown
    clock: SiteClock
    keeper: Keeper
    devices: dict[str, str]

    async def keep_values(self) -> None:
        """Write down the values that outlast a restart."""

    def apply_limits(self, bed_id: str) -> None:
        """Bring the limits of a bed's sources into force."""

    def forget(self, source_id: str) -> None:
        """Stop monitoring a source."""

    def process_soon(self) -> None:
        """Look at what came, within a few milliseconds."""


class Desk:
    """The monitor's answers.

    Parameters
    ----------
    monitor : Monitor
    longest_pause_s : float
        The site's limit of a pause of the sound.
    sources : callable
        All sources that may be assigned to a bed.
    """

    def __init__(self, monitor: Monitor, longest_pause_s: float, sources: Callable[[], set[str]]) -> None:
        self._monitor = monitor
        self._longest_pause_s = longest_pause_s
        self._sources = sources

    # ------------------------------------------------------------------ alarms

    async def acknowledge(self, ack: AlarmAck) -> Message:
        """Serve an acknowledgement."""
        if not ack.by:
            return Refused(reason="an acknowledgement needs a name")
        changes = self._monitor.engine.acknowledge(ack.alarm_id, by=ack.by)
        if not changes:
            return Refused(reason="there is no such alarm, or it is over, or it was acknowledged already")
        return await self._settled(changes)

    async def pause(self, pause: AlarmPause) -> Message:
        """Serve a pause of the sound."""
        if not pause.by:
            return Refused(reason="a pause of the sound needs a name")
        seconds = min(pause.seconds, self._longest_pause_s)
        if not seconds >= 0:
            return Refused(reason="a pause lasts 0 s or more")
        changes = self._monitor.engine.pause(pause.bed_id, pause.alarm_id, seconds=seconds, by=pause.by)
        if not changes:
            return Refused(reason="nothing sounds there")
        return await self._settled(changes)

    async def _settled(self, changes: list[BedChange]) -> Message:
        publisher = self._monitor.publisher
        await publisher.settled(changes)
        if publisher.problem:
            return Refused(reason=f"it is in force, but could not be written down: {publisher.problem}")
        return Ok()

    async def alarms(self, ask: Ask) -> Message:
        """Serve the list of alarms, of a bed, of a source's bed, or of all."""
        monitor = self._monitor
        wanted: list[str]
        if not ask.argument:
            wanted = [SITE, *(bed.bed_id for bed in monitor.beds)]
        elif ask.argument in monitor.beds or ask.argument == SITE:
            wanted = [ask.argument]
        else:
            wanted = [bed_id] if (bed_id := monitor.beds.bed_of(ask.argument)) else []
        stats = monitor.publisher.context.stats
        of_bed = wanted[0] if ask.argument and wanted else ask.argument
        try:
            recent = await asyncio.to_thread(monitor.publisher.log.recent, RECENT, of_bed)
        except DatabaseError as error:
            return Refused(reason=str(error))
        raised = stats.counters.get("alarms_raised", 0)
        return Alarms(
            active=[alarm for bed_id in wanted for alarm in monitor.shown.active(bed_id)],
            recent=recent,
            raised=raised,
            published=raised - stats.counters.get("alarms_unpublished", 0),
            late=stats.budgets.get(ServiceClass.ALARM, 0),
            latency_ms=list(monitor.publisher.latency_ms),
        )

    async def events(self, query: AlarmQuery) -> Message:
        """Serve transitions from the log."""
        try:
            found = await asyncio.to_thread(self._monitor.publisher.log.events, query)
        except DatabaseError as error:
            return Refused(reason=str(error))
        return Alarms(active=[], recent=found)

    # ------------------------------------------------------------------ beds

    async def bed(self, ask: Ask) -> Message:
        """Serve what there is to know of one bed."""
        monitor = self._monitor
        beds = monitor.beds
        bed_id = ask.argument if ask.argument in beds else beds.bed_of(ask.argument)
        if not bed_id:
            return Refused(reason="there is no such bed")
        try:
            changes = await asyncio.to_thread(monitor.publisher.log.changes, bed_id)
            since_ns = time.time_ns() - _DAY_NS
            discharged = await asyncio.to_thread(monitor.publisher.log.discharges, bed_id, since_ns)
        except DatabaseError as error:
            return Refused(reason=str(error))
        if bed_id not in beds:
            return Refused(reason="there is no such bed")
        return BedInfo(
            settings=beds.settings(bed_id, monitor.shown.label(bed_id)),
            defaults=beds.profiles.limits[beds.profile(bed_id)],
            profiles=list(beds.profiles.limits),
            wards=list(beds.wards),
            free_sources=beds.free_sources(),
            changes=changes,
            discharged_ns=discharged,
        )

    async def set_bed(self, wanted: SetBed) -> Message:
        """Serve a change of a bed."""
        monitor = self._monitor
        if wanted.removed:
            return await self._remove(wanted)
        if wanted.discharged and wanted.bed_id not in monitor.beds:
            return Refused(reason="there is no such bed")
        try:
            applied = monitor.beds.apply(wanted, self._sources())
        except BedError as error:
            return Refused(reason=str(error))
        changes: list[BedChange] = []
        for bed_id in applied.beds:
            if bed_id in monitor.beds:
                monitor.apply_limits(bed_id)
        if wanted.discharged:
            changes += monitor.engine.discharge(wanted.bed_id)
            monitor.shown.forget(wanted.bed_id)
            for source_id in monitor.beds[wanted.bed_id].sources:
                monitor.intake.clear(source_id)
            monitor.publisher.keep(sources=monitor.intake.changed)
            monitor.intake.changed.clear()
        for source_id in applied.moved:
            changes += monitor.engine.take(monitor.intake.leave_behind(source_id))
        if wanted.discharged or applied.moved:
            await monitor.keep_values()  # or a restart would take up what was the former patient's
        for bed_id in applied.beds:
            if bed_id not in monitor.beds:
                monitor.shown.forget(bed_id)
            changes += monitor.engine.refresh(bed_id, heir=wanted.bed_id)
        changes += monitor.engine.take(monitor.intake.watch.take_events())
        for bed_id in applied.beds:  # another ward has other steps
            for record in monitor.engine.active(bed_id):
                monitor.escalation.begin(bed_id, record)
        monitor.publisher.keep(beds=applied.beds, changes=applied.changes)
        monitor.publisher.changed_beds |= set(applied.beds)
        return await self._settled(changes)

    async def _remove(self, wanted: SetBed) -> Message:
        """Forget a bed of which nothing comes: a place that was mistyped once. What is sent for it makes it anew."""
        monitor, bed_id = self._monitor, wanted.bed_id
        bed = monitor.beds.get(bed_id)
        if bed is None:
            return Refused(reason="there is no such bed")
        if not wanted.by:
            return Refused(reason="a change needs the name of who makes it")
        sources = list(bed.sources)
        if speaks := [source_id for source_id in sources if monitor.intake.speaks(source_id)]:
            return Refused(reason=f"{speaks[0]} still sends, or has a value that is still valid")
        changes: list[BedChange] = []
        for source_id in sources:
            monitor.forget(source_id)
        if bed_id in monitor.beds:  # somebody made it
            monitor.beds.remove(bed_id)
            changes += monitor.engine.remove_bed(bed_id)
        monitor.shown.forget(bed_id)
        await monitor.keep_values()  # or a restart would take up its messages, and the bed with them
        gone = LimitChange(
            at_ns=wanted.at_ns, by=wanted.by, bed_id=bed_id, what=REMOVED, before=", ".join(sources), after="yes"
        )
        monitor.publisher.keep(beds=[bed_id], changes=[gone])
        monitor.publisher.changed_beds.add(bed_id)
        return await self._settled(changes)

    # ------------------------------------------------------------------ others

    async def numerics(self, numerics: Numerics) -> Message:
        """Serve numerics of a gateway, or what somebody entered."""
        if numerics.protocol == "manual" and numerics.source_id not in self._monitor.devices:
            if numerics.source_id not in self._monitor.beds:
                return Refused(reason="there is no such bed")
            self._monitor.beds.add_source(numerics.source_id)  # a bed without devices: what people say is its source
            self._monitor.devices[numerics.source_id] = BY_HAND
            self._monitor.apply_limits(numerics.source_id)
            self._monitor.publisher.keep(beds=[numerics.source_id], sources=[numerics.source_id])
        now = self._monitor.clock.now_ns()
        received = min(self._monitor.clock.steady_ns(numerics.received_ns), now) if numerics.received_ns else now
        try:
            self._monitor.intake.numerics(numerics, received)
        except ValueError as error:
            return Refused(reason=str(error))
        self._monitor.process_soon()
        try:
            await self._monitor.keeper.settled()
        except NotKept as error:  # it is looked at all the same; whoever sent it keeps the duty
            return Refused(reason=f"it could not be written down: {error}")
        return Ok()

    async def notice(self, report: NoticeReport) -> Message:
        """Serve what became of a notice."""
        for change, contacts in self._monitor.escalation.report(report):
            self._monitor.publisher.put([change], contacts)
        await self._monitor.publisher.settled()
        return Ok()
