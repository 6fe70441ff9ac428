"""The `monitor` role: waveforms and numerics from the bus in, alarms and numbers out.

Responsible for putting its rooms together, for the sources that may be heard, and for the loops: packets at once, time
four times a second, numbers twice a second. What is decided is decided elsewhere: ``intake`` (what is measured),
``engine`` (alarms), ``escalation`` (who is told), ``publisher`` (how they leave), ``screens``, ``desk`` (answers),
``restart``, ``selfcheck_loop`` (whether all this works).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from typing import Any

from edgeward import measurement
from edgeward.bedside import AlarmPause, AlarmQuery, Hearing, NoticeReport, Numerics, SetBed
from edgeward.bus import stored, subjects
from edgeward.bus.bulk import Batch
from edgeward.bus.role import RoleContext
from edgeward.bus.stored import Stored, TwoWays
from edgeward.bus.tasks import end
from edgeward.clinic.monitor import intake, restart, signals, standby
from edgeward.clinic.monitor.alarm_log import AlarmLog
from edgeward.clinic.monitor.bank import warm_up
from edgeward.clinic.monitor.beds import Beds as BedBook
from edgeward.clinic.monitor.desk import BY_HAND, Desk
from edgeward.clinic.monitor.engine import AlarmEngine, BedChange
from edgeward.clinic.monitor.escalation import Escalation
from edgeward.clinic.monitor.floods import FloodWatch
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.keeper import Keeper, NotKept
from edgeward.clinic.monitor.limits import Profiles, rhythm_limits, with_extreme_rates
from edgeward.clinic.monitor.numerics_log import NumericsLog
from edgeward.clinic.monitor.pacing import Pacing
from edgeward.clinic.monitor.publisher import Publisher
from edgeward.clinic.monitor.screens import Screens
from edgeward.clinic.monitor.selfcheck_loop import SelfCheck
from edgeward.clinic.monitor.shown import Shown
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.clinic.monitor.witnesses import Witnesses
from edgeward.messages import AlarmAck, Ask, RoleState, ServiceClass, Viewing
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.keys import SiteKey, WrongKey
from edgeward.privacy.registry import Registry

_log = logging.getLogger("edgeward.monitor")

GATHER_S = 0.004  # packets that arrive within this time are processed together
TICK_S = 0.25
BEDS_S = 0.5
PAUSED_S = 1.5  # a tick this late means that we stood still, not that every device fell silent
GRACE_S = 1.0
GRACE_MOST_S = 30.0
SOURCES_AT_ONCE = 4000  # a second of so many sources' packets is taken within a second
MOST_SOURCES = 20_000  # a gateway that names ever new places must not fill the memory
_DOORS = {"senml": "mqtt", "pcd01": "hl7", "fhir": "fhir"}
COMPLAIN_S = 10.0  # one quarantine entry per device and reason in this time
KEEP_S = 15.0  # values that outlast a restart are written down this often


class MonitorRole:
    """State of the running role."""

    def __init__(self, context: RoleContext, clock: SiteClock | None = None) -> None:
        self.context = context
        settings = context.settings
        section = settings.monitor
        self.clock = clock or SiteClock()
        site_key = SiteKey.load(context.home)
        self.log = AlarmLog(context.home.db("alarms"), site_key)
        self.numerics_log = NumericsLog(context.home.db("numerics"), site_key)
        self.keeper = Keeper(self.numerics_log, context.bus, self.clock)
        self.registry = Registry(context.home)
        self.beds = BedBook(Profiles(section, settings.profile), settings.ward, ward=section.ward)
        profile = self.beds.profiles.rhythm[self.beds.profiles.default]
        self.intake = Intake(self.clock, rhythm_limits(profile), self.know, reorder_ms=section.reorder_ms)
        self.intake.keep = self.keep
        self.intake.measured.bed_of = self.bed_of
        self.witnesses = Witnesses(self.intake)
        self.pacing = Pacing(self.intake.bank.recent_beats)
        self.engine = AlarmEngine(
            self.beds,
            self.clock,
            FloodWatch(section.flood_beds, section.flood_s),
            check=self.witnesses.check if section.suppress else None,
            lag=self.intake.lag_ms,
            late_from_ms=settings.budgets.alarm_ms,
            reminder_s=section.reminder_s,
        )
        self.escalation = Escalation(settings, self.engine, self.clock)
        self.shown = Shown(
            self.beds,
            self.engine,
            self.intake,
            self.clock,
            source_label=self.source_label,
            site_label=settings.site.name,
            silence_s=section.silence_s,
        )
        self.publisher = Publisher(
            context=context,
            log=self.log,
            engine=self.engine,
            shown=self.shown,
            escalation=self.escalation,
            clock=self.clock,
            describe=self.describe,
        )
        self.screens = Screens(
            context.bus,
            beds=self.beds,
            engine=self.engine,
            intake=self.intake,
            shown=self.shown,
            clock=self.clock,
            tell=self.tell,
        )
        self.desk = Desk(self, section.audio_pause_s, lambda: set(self.devices))
        self.selfcheck = SelfCheck(
            context,
            clock=self.clock,
            log=self.log,
            keeper=self.keeper,
            beds=self.beds,
            intake=self.intake,
            engine=self.engine,
            escalation=self.escalation,
            publisher=self.publisher,
            waiting_s=self.waiting_s,
        )
        self._two_ways = TwoWays()
        self.devices: dict[str, str] = {}  # source -> enrolled device that brings it; empty: not known
        self.waiting: list[tuple[str, bytes, int]] | None = []  # packets that come while a restart is taken up
        self._complaints: dict[tuple[str, str], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: asyncio.Handle | None = None
        self._due_at = self._due_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._unchecked: set[str] = set()

    # ---------------------------------------- sources

    def know(self, source_id: str, label: str) -> None:
        """Make room for a source that is heard for the first time.

        Raises
        ------
        ValueError
            If its id cannot stand in a subject, or there are too many.
        """
        if source_id in self.devices:
            return
        subjects.token(source_id)
        if len(self.devices) >= MOST_SOURCES:
            raise ValueError(f"there are {MOST_SOURCES} sources already")
        self.devices[source_id] = ""
        self._unchecked.add(source_id)
        bed_id = self.beds.add_source(source_id) or self.beds.bed_of(source_id)
        if label and not self.beds[bed_id].label and bed_id == source_id:
            self.beds[bed_id].label = label[:64] if label.isprintable() else ""
        self.apply_limits(bed_id)
        self.publisher.keep(beds=[bed_id], sources=[source_id])

    def bed_of(self, source_id: str) -> list[str]:
        """Return all sources of the bed of a source, itself among them."""
        bed = self.beds.get(self.beds.bed_of(source_id))
        return bed.sources if bed is not None else []

    def describe(self, source_id: str) -> dict[str, Any]:
        """Return what is kept of a source."""
        return {
            "ecg": self.intake.descriptions.get(source_id),
            "signals": self.intake.signals.knows(source_id),
            "unmissed": source_id in self.intake.unmissed,
            "device": self.device_of(source_id),
        }

    def device_of(self, source_id: str) -> str:
        """Return the enrolled device that brings a source."""
        if not self.devices.get(source_id):
            known = self.intake.vitals.source(source_id)
            self.devices[source_id] = known.device_id if known else source_id
        return self.devices[source_id]

    def source_label(self, source_id: str) -> str:
        """Return what a source is called."""
        device = self.registry.by_id(source_id)
        return device.label if device else source_id

    def apply_limits(self, bed_id: str) -> None:
        """Bring the limits of a bed's sources into force."""
        limits, rhythm = self.beds.limits(bed_id), self.beds.rhythm(bed_id)
        if not any(source_id in self.intake.bank for source_id in self.beds[bed_id].sources):
            limits = with_extreme_rates(limits, rhythm)
        for source_id in self.beds[bed_id].sources:
            self.intake.watch.set_limits(source_id, limits)
            self.pacing.want(source_id, self.beds[bed_id].paced == "yes", rhythm.asystole_s, self.clock.now_ns())
            if source_id in self.intake.bank:
                self.intake.bank.set_limits(source_id, rhythm)

    def forget(self, source_id: str) -> None:
        """Stop monitoring a source whose device is no longer enrolled."""
        bed_id = self.beds.bed_of(source_id)
        changes = self.engine.remove_source(source_id)
        self.intake.remove(source_id)
        self.pacing.forget(source_id)
        self.devices.pop(source_id, None)
        self.screens.gone.add(bed_id)
        self.publisher.keep(beds=[bed_id], gone_sources=[source_id])
        self.publisher.put(changes)

    def _check_devices(self) -> None:
        changed = self.registry.refresh()
        wanted = list(self.devices) if changed else [one for one in self._unchecked if one in self.devices]
        self._unchecked.clear()
        for source_id in wanted:
            if not self.in_force(self.device_of(source_id)):
                self.forget(source_id)

    def in_force(self, device_id: str) -> bool:
        """Return whether a device may be heard: enrolled and not revoked, a listed exception, or a person's word."""
        if device_id == BY_HAND or any(entry.name == device_id for entry in self.context.settings.mllp.legacy):
            return True
        device = self.registry.by_id(device_id)
        return device is not None and not device.revoked

    # ---------------------------------------- packets

    def receive(self, batch: Batch) -> None:
        """Take the waveform packets that came together from the bus."""
        now = self.clock.now_ns()
        packets = [(subject.rsplit(".", 1)[-1], data) for subject, data in batch]
        if self.waiting is not None:
            self.waiting += [(source_id, data, now) for source_id, data in packets]
            return
        self.take_waves(packets, now)
        self.process_soon(0.0)

    def take_waves(self, packets: list[tuple[str, bytes]], received_ns: int) -> None:
        """Take waveform packets that came together, each with its source."""
        usual = self.intake.waves(packets, received_ns, lambda one, data: self.take_wave(one, data, received_ns))
        self.context.stats.count("packets", usual)
        self.screens.came(source_id for source_id, _ in packets)
        if self.pacing:
            for source_id, data in packets:
                if source_id in self.pacing and source_id in self.intake.bank:
                    self.pacing.take_packet(source_id, data, received_ns)

    def take_wave(self, source_id: str, data: bytes, received_ns: int) -> None:
        """Take one waveform packet that came at a time."""
        known = source_id in self.intake.bank
        try:
            self.intake.wave(source_id, data, received_ns)
        except ValueError as error:  # PacketError among them
            self.context.stats.count("packets_refused")
            self._complain(source_id, str(error), "waveform")
            return
        self.context.stats.count("packets")
        if not known and source_id in self.intake.bank:
            self.apply_limits(self.beds.bed_of(source_id))
            # Killed before its description was written down: what holds from before must find its end.
            self.intake.bank.assume(source_id, self.engine.held(source_id))
        if self.intake.changed:
            self.publisher.keep(sources=self.intake.changed)
            self.intake.changed.clear()
        self.screens.came((source_id,))

    def receive_numerics(self, subject: str, data: bytes, is_stored: bool) -> None:
        """Take one SenML pack from the bus; the server's store may bring it once more."""
        if not is_stored or self._two_ways.in_memory(subject, data):
            self._pack(subject, data, self.clock.now_ns())

    async def keep_stored(self, packs: list[Stored]) -> bool:
        """Take what the server has stored (QoS 1): it was acknowledged to devices, also while nobody was here."""
        for one in packs:
            if self._two_ways.from_store(one.subject, one.data):
                self._pack(one.subject, one.data, min(self.clock.steady_ns(one.at_ns), self.clock.now_ns()))
        try:
            await self.keeper.settled()
        except NotKept:
            return False
        self.context.stats.count("packs_stored", len(packs))
        return True

    def _pack(self, subject: str, data: bytes, received_ns: int) -> None:
        source_id = subject.rsplit(".", 1)[-1]
        try:
            self.intake.pack(source_id, data, received_ns)
        except ValueError as error:
            self.context.stats.count("packs_refused")
            self._complain(source_id, str(error), "vitals")
            return
        self.context.stats.count("packs")
        self.process_soon()

    def keep(self, numerics: Numerics) -> None:
        """Write down what was measured."""
        bed_id = self.beds.bed_of(numerics.source_id)
        found = self.intake.vitals.observations(numerics, bed_id, self.clock.wall_ns)
        self.keeper.put(self.intake.measured.by_wall_clock(numerics), found)
        for reason in measurement.complaints(numerics.vitals):
            self._complain(numerics.source_id, reason, "vitals", _DOORS.get(numerics.protocol, "console"))

    def process_soon(self, after_s: float = GATHER_S) -> None:
        """Look at what came, within a few milliseconds."""
        now = self._loop.time()
        if self._due is not None:
            if self._due_at <= now + after_s:
                return
            self._due.cancel()
        self._due = self._loop.call_later(after_s, self.process)
        self._due_at, self._due_since = now + after_s, now

    def process(self) -> None:
        """Look at what came."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        began = time.perf_counter()
        changes = self.engine.take(self.pacing.filter(self.intake.process()))
        self.context.stats.stage(ServiceClass.ALARM, "analyse", (time.perf_counter() - began) * 1e3)
        self.tell(changes)
        if (due_ns := self.intake.reorder.due_ns) is not None:
            self.process_soon(max(GATHER_S, (due_ns - self.clock.now_ns()) / 1e9))
        if watched := self.screens.watched():
            self._spawn(self.screens.publish_traces(watched))

    def waiting_s(self) -> float:
        """Return how long the oldest packet has waited to be looked at."""
        return self._loop.time() - self._due_since if self._due is not None else 0.0

    def tell(self, changes: list[BedChange]) -> None:
        """Tell transitions."""
        if changes:
            self.publisher.put(changes)

    def _complain(self, source_id: str, reason: str, what: str, where: str = "mqtt") -> None:
        now = self._loop.time()
        if now - self._complaints.get((source_id, reason), -COMPLAIN_S) < COMPLAIN_S:
            return
        if len(self._complaints) > 10_000:  # a hostile device must not fill the memory with reasons
            self._complaints.clear()
        self._complaints[source_id, reason] = now
        self._spawn(
            self.context.quarantine(
                where, source_id, reason, f"correct what the device sends: docs/protocols/{what}.md"
            )
        )

    # ---------------------------------------- time

    async def tick(self) -> None:
        """Notice what time alone tells, four times a second."""
        before = self._loop.time()
        grace = before + GRACE_S
        while True:
            await asyncio.sleep(TICK_S)
            now = self._loop.time()
            if stepped := self.clock.follow():
                _log.warning("this machine's clock was set by %.1f s", stepped / 1e9)
                self.context.stats.count("clock_steps")
                self.tell(self.engine.clock_set(stepped))
            if now - before > PAUSED_S:
                _log.warning("stood still for %.1f s; packets that wait are taken first", now - before)
                self.context.stats.count("pauses")
                # What waits takes its time on a large site: silence is not judged before it is through.
                grace = now + max(GRACE_S, min(GRACE_MOST_S, (now - before) * len(self.devices) / SOURCES_AT_ONCE))
                self.selfcheck.stood_still()
            before = now
            self.selfcheck.ticked()
            if now < grace:
                continue
            self.witnesses.look((bed.sources for bed in self.beds), self.clock.now_ns())
            found = self.pacing.filter(self.intake.tick()) + self.pacing.look(self.clock.now_ns())
            self.tell(self.engine.take(found) + self.engine.tick())
            for change, contacts in self.escalation.tick():
                self.publisher.put([change], contacts)

    async def publish_beds(self) -> None:
        """Publish numerics twice a second."""
        while True:
            self._check_devices()
            changed, self.publisher.changed_beds = self.publisher.changed_beds, set()
            await self.screens.publish_beds(changed)
            counters = self.context.stats.counters
            for name, value in self.intake.bank.statistics().items():
                counters[f"bank_{name}"] = value
            counters |= self.intake.counts | self.intake.vitals.counts | self.keeper.counts
            counters["alarms_suppressed"] = self.engine.suppressed
            counters["notices_waiting"] = self.publisher.courier.waiting
            self.selfcheck.published()
            await asyncio.sleep(BEDS_S)

    # ---------------------------------------- life

    async def write_values(self) -> None:
        """Write down, a few times a minute, the values that outlast a restart."""
        while True:
            await asyncio.sleep(KEEP_S)
            await self.keep_values()

    async def keep_values(self) -> None:
        """Write down the values that outlast a restart."""
        try:
            await self.keeper.dump(self.intake.vitals.dump(self.clock.wall_ns))
        except DatabaseError as error:
            _log.warning("values are not written down: %s", error)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a task failed", exc_info=task.exception())

    async def close(self) -> None:
        """Tell and write what is left, and close the file."""
        self.process()
        await self.keeper.stop(self.intake.vitals.dump(self.clock.wall_ns))
        await self.publisher.stop()
        self.log.close()


def prepare() -> None:
    """Load the compiled kernels: a process that stands by has done that before it is needed."""
    warm_up()
    signals.warm_up()
    intake.warm_up()


async def run(context: RoleContext) -> None:
    """Run the role until told to stop."""
    memory = standby.memories.pop(context, None)
    try:
        role = MonitorRole(context)
    except (DatabaseError, WrongKey, ValueError) as error:
        context.degraded(str(error))
        await context.stopping.wait()
        return
    await asyncio.to_thread(prepare)
    # Thousands of patients are millions of objects that live as long as the process. To look through them for cycles
    # takes a third of a second, in which no alarm is decided: look at the young ones often, at all of them rarely.
    gc.freeze()
    gc.set_threshold(20_000, 50, 1000)
    bus, desk = context.bus, role.desk
    away_s = restart.unmonitored_s(role)
    restored = restart.restore(role)
    queue = subjects.MONITORS
    if memory is None:
        await bus.subscribe_bulk(subjects.WAVE_ALL, role.receive)
        await bus.flush()
    work = [asyncio.ensure_future(one()) for one in (role.publisher.run, role.keeper.write, role.keeper.hand_over)]
    await restart.catch_up(role, memory)
    await bus.serve(subjects.MONITOR_ACK, AlarmAck, desk.acknowledge, queue)
    await bus.serve(subjects.MONITOR_ALARMS, Ask, desk.alarms, queue)
    await bus.serve(subjects.MONITOR_PAUSE, AlarmPause, desk.pause, queue)
    await bus.serve(subjects.MONITOR_EVENTS, AlarmQuery, desk.events, queue)
    await bus.serve(subjects.MONITOR_BED, Ask, desk.bed, queue)
    await bus.serve(subjects.MONITOR_SET_BED, SetBed, desk.set_bed, queue)
    await bus.serve(subjects.MONITOR_NUMERICS, Numerics, desk.numerics, queue)
    await bus.serve(subjects.MONITOR_NOTICE, NoticeReport, desk.notice, queue)
    await bus.subscribe(subjects.MONITOR_HEARING, Hearing, role.selfcheck.hear)
    await bus.subscribe(subjects.role_state("deliver"), RoleState, role.selfcheck.hear_deliver)
    await bus.subscribe(subjects.STATE_VIEWING, Viewing, role.screens.view)
    await stored.subscribe(bus, subjects.VITAL_ALL, role.receive_numerics)
    await bus.flush()
    await restart.publish_active(role, restored)
    role.tell(restart.interrupted(role, away_s))
    role.selfcheck.begin()
    work += [
        asyncio.ensure_future(loop()) for loop in (role.tick, role.publish_beds, role.write_values, role.selfcheck.run)
    ]
    follow = stored.follow(bus, subjects.STORED_VITALS, subjects.VITAL_ALL, role.keep_stored)
    work.append(asyncio.ensure_future(follow))
    context.ready()
    stopping = asyncio.ensure_future(context.stopping.wait())
    # A loop that ends by itself is a defect: leave, and be restarted.
    await asyncio.wait({stopping, *work}, return_when=asyncio.FIRST_COMPLETED)
    for task in work:
        if task.done():
            task.result()
    await end({stopping, *work})
    await role.close()
