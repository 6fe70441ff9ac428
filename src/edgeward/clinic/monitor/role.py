"""The `monitor` role: packets from the bus in, alarms and numbers out.

Responsible for transport, time, persistence and publishing around `MonitorBank`, which decides. An alarm is published
before it is written down: a full or slow disk must not silence it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Any

from edgeward import waveform
from edgeward.bus import subjects
from edgeward.bus.client import BusError
from edgeward.bus.role import RoleContext
from edgeward.clinic.monitor.alarm_log import AlarmLog
from edgeward.clinic.monitor.alarms import AlarmChange, AlarmRecord, PatientAlarms
from edgeward.clinic.monitor.bank import MonitorBank, warm_up
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.limits import RANGES, Limits
from edgeward.messages import (
    Alarm,
    AlarmAck,
    Alarms,
    Ask,
    Bed,
    Beds,
    Message,
    Ok,
    Refused,
    ServiceClass,
    Trace,
    Viewing,
)
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.registry import Registry

_log = logging.getLogger("edgeward.monitor")

GATHER_S = 0.004  # packets that arrive within this time are processed together
TICK_S = 0.25
BEDS_S = 0.5
VIEW_S = 6.0  # a view not renewed for this long is over
RECENT = 100
PAUSED_S = 1.5  # a tick this late means that we stood still, not that every device fell silent
GRACE_S = 1.0
COMPLAIN_S = 10.0  # one quarantine entry per device and reason in this time
DeviceChange = tuple[str, AlarmChange]  # whose, what
RHYTHMS = (
    "ventricular_fibrillation",
    "asystole",
    "ventricular_tachycardia",
    "extreme_tachycardia",
    "extreme_bradycardia",
)


class MonitorRole:
    """State of the running role."""

    def __init__(self, context: RoleContext) -> None:
        self.context = context
        self.log = AlarmLog(context.home.db("alarms"))
        section = context.settings.monitor
        self.bank = MonitorBank(Limits(**{name: getattr(section, name) for name in RANGES}))
        self.engines: dict[str, PatientAlarms] = {}
        self.registry = Registry(context.home)
        self.signals: dict[str, dict[str, Any]] = {}
        self.resting: set[str] = set()  # said that they stop
        self.viewed: dict[str, float] = {}
        self.traced: dict[str, int] = {}
        self.latency_ms: deque[float] = deque(maxlen=1000)
        self._complaints: dict[tuple[str, str], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._fresh: set[str] = set()

    # ---------------------------------------- packets

    def receive(self, subject: str, data: bytes) -> None:
        """Take one packet from the bus."""
        received_ns = time.time_ns()
        device_id = subject.rsplit(".", 1)[-1]
        stats = self.context.stats
        try:
            packet = waveform.decode(data)
            signal: dict[str, Any] = {
                "rate_hz": packet.rate_hz,
                "gain_uv": packet.gain_uv,
                "leads": packet.leads,
            }
            if self.signals.get(device_id) != signal:
                self.bank.enrol(device_id, **signal, now_ns=received_ns)
                self.engines.setdefault(device_id, PatientAlarms())
                self.signals[device_id] = signal
                self._persist({device_id}, [])
            self.bank.push(
                device_id,
                packet.samples,
                first_sample=packet.first_sample,
                sequence=packet.sequence,
                received_ns=received_ns,
                lead_off=packet.lead_off,
            )
        except ValueError as error:  # PacketError among them
            stats.count("packets_refused")
            self._complain(device_id, str(error))
            return
        stats.count("packets")
        self._fresh.add(device_id)
        if packet.flags & waveform.FLAG_LAST:
            self.resting.add(device_id)
            self.bank.rest(device_id)
        else:
            self.resting.discard(device_id)
        if self._due is None:
            self._due = self._loop.call_later(GATHER_S, self._process)

    def _process(self) -> None:
        self._due = None
        began = time.perf_counter()
        changes = self._changes(self.bank.process(time.time_ns()))
        self.context.stats.stage(ServiceClass.ALARM, "analyse", (time.perf_counter() - began) * 1e3)
        fresh, self._fresh = self._fresh, set()
        if changes:
            self._spawn(self.publish(changes))
        now = self._loop.time()
        watched = [device_id for device_id in fresh if self.viewed.get(device_id, 0.0) > now]
        if watched:
            self._spawn(self._publish_traces(watched))

    def _complain(self, device_id: str, reason: str) -> None:
        now = self._loop.time()
        if now - self._complaints.get((device_id, reason), -COMPLAIN_S) < COMPLAIN_S:
            return
        if len(self._complaints) > 10_000:  # a hostile device must not fill the memory with reasons
            self._complaints.clear()
        self._complaints[device_id, reason] = now
        self._spawn(
            self.context.quarantine(
                "mqtt", device_id, reason, "correct the device's packets: docs/protocols/waveform.md"
            )
        )

    # ---------------------------------------- alarms

    def _changes(self, events: list[ConditionEvent]) -> list[DeviceChange]:
        """Let the alarms of each patient decide on what begins or ends."""
        return [
            (event.source_id, change)
            for event in events
            if event.source_id in self.engines
            for change in self.engines[event.source_id].take(event)
        ]

    async def publish(self, changes: list[DeviceChange]) -> None:
        """Publish transitions, then write them down."""
        budget = self.context.settings.budgets.alarm_ms
        stats = self.context.stats
        told: list[Alarm] = []
        for device_id, change in changes:
            alarm = to_message(device_id, change.alarm, change.state, change.at_ns)
            first = change.state == "raised" and change.alarm.present
            if first and alarm.received_ns:
                latency = (time.time_ns() - alarm.received_ns) / 1e6
                if latency > budget:
                    alarm = replace(alarm, late=True)
                    stats.miss(ServiceClass.ALARM, "monitor")
                self.latency_ms.append(latency)
                stats.stage(ServiceClass.ALARM, "decisive sample received to published", latency)
            try:
                await self.context.bus.publish(subjects.alarm(device_id), alarm)
            except BusError as error:
                stats.count("alarms_unpublished")
                _log.error("an alarm could not be published: %s", error)
            if first and change.at_ns == change.alarm.raised_ns:
                stats.count("alarms_raised")
            told.append(alarm)
        self._persist({device_id for device_id, _ in changes}, told)

    def _persist(self, devices: set[str], told: list[Alarm]) -> None:
        patients = {
            device_id: (self.signals[device_id], self.engines[device_id].to_dict())
            for device_id in devices
            if device_id in self.signals
        }
        try:
            self.log.save(patients, told)
            self.context.stats.warnings.discard("alarm log")
        except DatabaseError as error:
            if not any(w.startswith("alarm log") for w in self.context.stats.warnings):
                _log.error("alarms are published but not written down: %s", error)
            self.context.stats.warnings.add(f"alarm log: {error}")

    async def acknowledge(self, ack: AlarmAck) -> Message:
        """Serve an acknowledgement."""
        device_id, _, number = ack.alarm_id.rpartition("-")
        if device_id not in self.bank or not number.isdigit():
            return Refused(reason="there is no such alarm")
        if not ack.by:
            return Refused(reason="an acknowledgement needs a name")
        found = self.engines[device_id].acknowledge(int(number), by=ack.by, at_ns=ack.at_ns)
        changes = [(device_id, change) for change in found]
        if not changes:
            return Refused(reason="the alarm is over or was acknowledged already")
        await self.publish(changes)
        return Ok()

    async def alarms(self, ask: Ask) -> Message:
        """Serve the list of alarms."""
        wanted = [ask.argument] if ask.argument in self.bank else self.bank.device_ids if not ask.argument else []
        active = [alarm for device_id in wanted for alarm in self._active(device_id)]
        counters = self.context.stats.counters
        return Alarms(
            active=active,
            recent=self.log.recent(RECENT, ask.argument),
            raised=counters.get("alarms_raised", 0),
            published=counters.get("alarms_raised", 0) - counters.get("alarms_unpublished", 0),
            late=self.context.stats.budgets.get(ServiceClass.ALARM, 0),
            latency_ms=list(self.latency_ms),
        )

    def _active(self, device_id: str) -> list[Alarm]:
        return [
            to_message(
                device_id,
                record,
                "acknowledged" if record.acknowledged else "raised",
                record.acknowledged_ns or record.raised_ns,
            )
            for record in self.engines[device_id].active
        ]

    # ---------------------------------------- time

    async def tick(self) -> None:
        """Notice silence, four times a second."""
        before = self._loop.time()
        grace = before + GRACE_S
        while True:
            await asyncio.sleep(TICK_S)
            now = self._loop.time()
            if now - before > PAUSED_S:
                _log.warning("stood still for %.1f s; packets that wait are taken first", now - before)
                self.context.stats.count("pauses")
                grace = now + GRACE_S
            before = now
            if now < grace:
                continue
            changes = self._changes(self.bank.tick(time.time_ns()))
            if changes:
                await self.publish(changes)

    async def publish_beds(self) -> None:
        """Publish all numerics twice a second."""
        while True:
            self.registry.refresh()
            for device_id in self.bank.device_ids:
                device = self.registry.by_id(device_id)
                if device is None or device.revoked:
                    self.forget(device_id)
            now_ns = time.time_ns()
            beds = [self._bed(device_id, now_ns) for device_id in self.bank.device_ids]
            try:
                await self.context.bus.publish(subjects.STATE_BEDS, Beds(at_ns=now_ns, beds=beds))
            except BusError as error:
                _log.debug("beds not published: %s", error)
            for name, value in self.bank.statistics().items():
                self.context.stats.counters[f"bank_{name}"] = value
            await asyncio.sleep(BEDS_S)

    def forget(self, device_id: str) -> None:
        """Stop monitoring a device that is no longer enrolled."""
        self.bank.remove(device_id)
        changes = [(device_id, change) for change in self.engines.pop(device_id).end_all(at_ns=time.time_ns())]
        self.signals.pop(device_id, None)
        try:
            self.log.forget(device_id)
        except DatabaseError as error:
            _log.warning("a device could not be forgotten: %s", error)
        if changes:
            self._spawn(self.publish(changes))

    def _bed(self, device_id: str, now_ns: int) -> Bed:
        numbers = self.bank.numerics(device_id, now_ns)
        alarms = self._active(device_id)
        present = {alarm.code for alarm in alarms if alarm.present}
        device = self.registry.by_id(device_id)
        stale = numbers.stale or device_id in self.resting
        rhythm = next((code for code in RHYTHMS if code in present), "")
        return Bed(
            device_id=device_id,
            label=device.label if device else device_id,
            heart_rate=None if stale else numbers.heart_rate,
            quality=None if stale else numbers.quality,
            beat_width_ms=None if stale else numbers.beat_width_ms,
            ventricular_per_min=None if stale else numbers.ventricular_per_min,
            rhythm="standby" if device_id in self.resting else rhythm,
            age_ms=numbers.age_ms,
            stale=stale,
            lead_off=bool(numbers.lead_off),
            packets=numbers.packets,
            missing=numbers.missing,
            alarms=alarms,
        )

    # ---------------------------------------- traces

    async def view(self, _: str, viewing: Viewing) -> None:
        """Somebody looks at these traces."""
        until = self._loop.time() + VIEW_S
        for device_id in viewing.device_ids[:256]:
            self.viewed[device_id] = until

    async def _publish_traces(self, device_ids: list[str]) -> None:
        for device_id in device_ids:
            if device_id not in self.bank:
                continue
            rate, start, lead, samples, beats = self.bank.trace(device_id, since=self.traced.get(device_id))
            if not len(samples):
                rate, start, lead, samples, beats = self.bank.trace(device_id)  # the stream began anew
            self.traced[device_id] = start + len(samples)
            trace = Trace(
                device_id=device_id, rate_hz=rate, start=start, lead=lead, samples=samples.tobytes(), beats=beats
            )
            try:
                await self.context.bus.publish(subjects.trace(device_id), trace)
            except BusError as error:
                _log.debug("trace not published: %s", error)

    # ---------------------------------------- life

    def restore(self) -> list[str]:
        """Take up the patients of before the restart: their alarms stand, and their silence counts from now."""
        now_ns = time.time_ns()
        restored: list[str] = []
        for device_id, (kept, alarms) in self.log.patients().items():
            device = self.registry.by_id(device_id)
            if device is None or device.revoked:
                continue
            try:
                signal = {**kept, "leads": tuple(kept["leads"])}
                self.bank.enrol(device_id, **signal, now_ns=now_ns)
                self.engines[device_id] = PatientAlarms.from_dict(alarms)
                self.bank.assume(device_id, self.engines[device_id].present_codes())
            except (ValueError, TypeError, KeyError) as error:
                _log.error("the alarms of %s could not be taken up again: %s", device_id, error)
                continue
            self.signals[device_id] = signal
            restored.append(device_id)
        return restored

    async def publish_active(self, device_ids: list[str]) -> None:
        """Publish the alarms that stand, for whoever was not there when they were raised."""
        for device_id in device_ids:
            for alarm in self._active(device_id):
                await self.context.bus.publish(subjects.alarm(device_id), alarm)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a task failed", exc_info=task.exception())

    def close(self) -> None:
        """Close the files."""
        if self._due is not None:
            self._due.cancel()
            self._process()
        self.log.close()


def to_message(device_id: str, record: AlarmRecord, state: str, at_ns: int) -> Alarm:
    """Return the alarm as it crosses the bus. A time-driven alarm has no decisive sample and so no arrival."""
    return Alarm(
        alarm_id=f"{device_id}-{record.number}",
        device_id=device_id,
        code=record.code,
        priority=record.rule.priority,
        technical=record.rule.technical,
        latching=record.rule.latching,
        state=state,  # type: ignore[arg-type]
        present=record.present,
        acknowledged=record.acknowledged,
        args=dict(record.args),
        raised_ns=record.raised_ns,
        ended_ns=record.ended_ns,
        by=record.by,
        at_ns=at_ns,
        onset_sample=record.onset_sample,
        decisive_sample=record.decisive_sample,
        received_ns=record.received_ns if record.decisive_sample >= 0 else 0,
    )


def replace(alarm: Alarm, **changes: Any) -> Alarm:
    """Return a copy of `alarm` with some fields changed."""
    import msgspec

    return msgspec.structs.replace(alarm, **changes)


async def run(context: RoleContext) -> None:
    """Run the role until told to stop."""
    try:
        role = MonitorRole(context)
    except DatabaseError as error:
        context.degraded(str(error))
        await context.stopping.wait()
        return
    await asyncio.to_thread(warm_up)
    restored = role.restore()
    bus = context.bus
    await bus.serve(subjects.MONITOR_ACK, AlarmAck, role.acknowledge, subjects.MONITORS)
    await bus.serve(subjects.MONITOR_ALARMS, Ask, role.alarms, subjects.MONITORS)
    await bus.subscribe(subjects.STATE_VIEWING, Viewing, role.view)
    await bus.subscribe_raw(subjects.WAVE_ALL, role.receive)
    await bus.flush()
    await role.publish_active(restored)
    work = [asyncio.ensure_future(role.tick()), asyncio.ensure_future(role.publish_beds())]
    context.ready()
    stopping = asyncio.ensure_future(context.stopping.wait())
    # A loop that ends by itself is a defect: leave, and be restarted.
    await asyncio.wait({stopping, *work}, return_when=asyncio.FIRST_COMPLETED)
    for task in work:
        if task.done():
            task.result()
        task.cancel()
    role.close()
