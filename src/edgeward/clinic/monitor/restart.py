"""Takes up the monitoring where the process before left it.

Responsible for putting back beds, alarms, timers, notices and values from the alarm log, and for asking the recorder
for the last seconds of signal: they settle the filters, and what happened in them is raised late rather than never.
Whatever was told already is not told again; that nobody monitored for a while is told. Not responsible for the log's
form (``alarm_log``).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from operator import itemgetter
from typing import TYPE_CHECKING

from edgeward.bedside import AlarmQuery, Recent, RecentQuery
from edgeward.bus import subjects
from edgeward.bus.client import BusError, NoAnswer
from edgeward.clinic.monitor.alarms import Key, key_of
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.engine import SITE, BedChange
from edgeward.clinic.monitor.rules import RULES
from edgeward.clinic.monitor.standby import Heard, Memory
from edgeward.messages import Alarm, MessageError, Refused

if TYPE_CHECKING:
    from edgeward.clinic.monitor.role import MonitorRole

_log = logging.getLogger("edgeward.monitor.restart")

#: So much signal settles the detector's thresholds and shows an asystole from its beginning.
SECONDS = 20.0
#: With the time that nobody was there; the recorder has no more at hand.
MOST_BACK_S = 45.0
ASK_S = 3.0
AT_ONCE = 256  # packets between two looks at what else is to be done: some milliseconds
#: So long a recorder may be away that the same fault has ended; nobody's alarm waits for longer.
RECORDER_S = 5.0
AGAIN_S = 0.1
#: Taking up may take so long. Sources whose past has been taken are live again meanwhile.
MOST_S = 60.0
#: Two alarms of one code this close together are the same: filters that begin in the middle differ a little.
SAME_NS = 2_000_000_000
#: No two stamps of what is taken up are so far apart, unless the clock was set between them.
SET_NS = 120_000_000_000
#: A loss of power this long is told; settings outlast any (IEC 60601-1-8, 6.5.4 asks for 30 s).
INTERRUPTED_S = 30.0


def unmonitored_s(role: MonitorRole) -> float:
    """Return for how long nobody monitored before this start; 0 if nobody ever did."""
    tried = role.log.tried_ns()
    return max(0.0, (role.clock.wall_ns() - tried) / 1e9) if tried else 0.0


def interrupted(role: MonitorRole, away_s: float) -> list[BedChange]:
    """Return what is to be told, and to stand in the log, of the time in which nobody monitored."""
    engine, code = role.engine, "monitoring_interrupted"
    told = engine.condition(SITE, code, False)  # of an earlier start, whose minute was not over
    if away_s >= INTERRUPTED_S:
        told += engine.condition(SITE, code, True, {"seconds": round(away_s)})
        told += engine.condition(SITE, code, False)
    return told


def restore(role: MonitorRole) -> list[str]:
    """Put back what the alarm log holds; silence counts from now. Return the beds."""
    sources = role.log.sources()
    kept = role.log.beds()
    enrolled: set[str] = set()
    for source_id, row in sources.items():
        # The version before kept the ECG's description alone.
        ecg = row if "rate_hz" in row else row.get("ecg")
        device_id = str(row.get("device") or source_id)
        if not role.in_force(device_id):
            role.publisher.keep(gone_sources=[source_id])
            continue
        try:
            if ecg:
                role.intake.enrol(source_id, {**ecg, "leads": tuple(ecg["leads"])})
        except (ValueError, TypeError, KeyError) as error:
            _log.error("the signal of %s could not be taken up again: %s", source_id, error)
        if row.get("unmissed"):  # its silence is no news after a restart either
            role.intake.quiet(source_id)
            role.intake.unmissed.add(source_id)
        if row.get("signals") and not ecg:
            role.intake.signals.expect(source_id, role.clock.now_ns(), missed=not row.get("unmissed"))
        role.devices[source_id] = device_id
        enrolled.add(source_id)
    records = [record for record, _ in kept if record.bed_id != SITE]
    for record in records:
        record.sources = [source_id for source_id in record.sources if source_id in enrolled]
    role.beds.restore(records)
    for source_id in enrolled:
        role.beds.add_source(source_id)
    for bed in role.beds:
        role.apply_limits(bed.bed_id)
    _restore_values(role)
    role.engine.number_on(role.log.numbers())
    for record, alarms in kept:
        role.engine.number_on({record.bed_id: int(alarms.get("number", 0))})  # also where nothing else can be put back
        if record.bed_id in role.beds or record.bed_id == SITE:
            _restore_alarms(role, record.bed_id, alarms)
        else:
            role.publisher.keep(beds=[record.bed_id])
    role.tell(role.engine.settle())
    beds = [SITE, *(bed.bed_id for bed in role.beds)]
    for bed_id in beds:
        for alarm in role.engine.active(bed_id):
            role.escalation.begin(bed_id, alarm)
    role.publisher.courier.send(role.log.notices())
    return beds


def _restore_values(role: MonitorRole) -> None:
    """Take up the values of the last dump, and all messages that came after it."""
    log = role.numerics_log
    messages = []
    for one in log.since_dump():
        if one.source_id not in role.devices and role.in_force(one.device_id):
            role.know(one.source_id, one.label)  # its first message came last
        if one.source_id in role.devices:
            messages.append(one)
    try:
        if count := role.intake.measured.take_up(log.dump(), messages):
            _log.info("took up %d messages of numerics of before", count)
    except ValueError as error:
        _log.error("the values of before could not be taken up again: %s", error)
    if log.unreadable:
        _log.error("%d entries of the log of numerics do not open with this site's key", log.unreadable)


def _restore_alarms(role: MonitorRole, bed_id: str, alarms: dict[str, object]) -> None:
    try:
        found = role.engine.restore(bed_id, alarms)
    except ValueError as error:
        _log.error("the alarms of %s could not be taken up again: %s", bed_id, error)
        return
    for source_id, records in found.items():
        if source_id.startswith("@"):
            for record in records:
                if record.code.startswith("news2_"):
                    role.shown.assume(bed_id, record.code)
            continue
        codes = {record.code.removesuffix("_unconfirmed") for record in records}
        if source_id in role.intake.bank:
            role.intake.bank.assume(source_id, codes)
        for record in records:
            if record.code != "signal_lost" or source_id not in role.intake.bank:
                channels = str(record.args.get("channels", "")).split(", ")
                role.intake.signals.assume(source_id, record.code, [name for name in channels if name])
            if RULES[record.code].scope == "parameter" or (
                record.code == "signal_lost" and source_id not in role.intake.bank
            ):
                role.intake.watch.assume(source_id, record.code, record.scope)


async def catch_up(role: MonitorRole, memory: Memory | None = None) -> None:
    """Take the last seconds of signal and the packets that came meanwhile, source by source.

    They are in this process's own memory if it stood by for long enough, without losing the bus; else the recorder has
    them, and what only one of the two has heard is put together. Without a recorder, or when it does not come back in
    time, what there is and the live packets are taken.
    """
    now_ns = role.clock.wall_ns()
    away_s = (now_ns - await asyncio.to_thread(role.log.tried_ns)) / 1e9
    # A clock that was set back meanwhile makes this negative: then as far as there is.
    seconds = min(MOST_BACK_S, SECONDS + away_s) if away_s >= 0 else MOST_BACK_S
    told = await asyncio.to_thread(
        role.log.events,
        AlarmQuery(since_ns=now_ns - int(2 * seconds * 1e9), raised_only=True, limit=2000),
    )
    past = Past(role, told)
    past.take()  # what the values of before say
    own, heard = 0.0, Heard([], now_ns=0, seconds=0.0)
    if memory is not None:
        own = memory.reach_s
        # From here on what comes waits.
        heard = Heard(memory.give(role.receive), now_ns=role.clock.now_ns(), seconds=seconds)
    try:
        async with asyncio.timeout(MOST_S):
            packets = await _from_recorder(role, past, seconds, heard) if own < seconds else 0
        if packets:
            _log.info("took up %d packets of before", packets)
    except TimeoutError:
        _log.warning("the recorder was slow; the signal of before is taken up in part")
    except NoAnswer:
        _log.warning("there is no recorder: the signal of before is not taken up, or in part")
    except (BusError, MessageError) as error:
        _log.warning("the signal of before is not taken up: %s", error)
    await _from_memory(role, past, heard)
    _release(role, past)
    role.waiting = None


async def _from_recorder(role: MonitorRole, past: Past, seconds: float, heard: Heard) -> int:
    count, after = 0, ""
    loop = asyncio.get_running_loop()
    # Where one has recorded, the same fault may have ended both: it is back sooner than we are of use without it.
    patience_s = RECORDER_S if (role.context.home.data / "recorder").exists() else 0.0
    until = loop.time() + patience_s
    while True:
        try:
            answer = await role.context.bus.request(
                subjects.RECORDER_RECENT, RecentQuery(seconds=seconds, after=after), Recent | Refused, ASK_S
            )
        except NoAnswer:
            if loop.time() >= until:
                raise
            await asyncio.sleep(AGAIN_S)
            continue
        until = loop.time() + patience_s
        if isinstance(answer, Refused):
            _log.warning("the recorder gives no signal of before: %s", answer.reason)
            return count
        number = 0
        for source_id, page in itertools.groupby(answer.packets, itemgetter(0)):
            if source_id not in role.devices:  # a device revoked meanwhile is not taken up
                continue
            recorded = [(role.clock.steady_ns(received_ns), packet) for _, received_ns, packet in page]
            for at_ns, packet in heard.join(source_id, recorded):
                past.took(source_id, at_ns)
                role.take_waves([(source_id, packet)], at_ns)
                number += 1
                if number % AT_ONCE == 0:
                    past.take()
                    await asyncio.sleep(0)
        past.take()
        count += len(answer.packets)
        after = answer.after
        if not after:
            return count
        _release(role, past, after)


async def _from_memory(role: MonitorRole, past: Past, heard: Heard) -> None:
    count = 0
    for source_id in heard.sources:
        for at_ns, packet in heard.join(source_id, []):
            if source_id in role.devices:
                role.take_waves([(source_id, packet)], at_ns)
            else:  # it came first while nobody was there
                role.take_wave(source_id, packet, at_ns)
            count += 1
            if count % AT_ONCE == 0:
                past.take()
                await asyncio.sleep(0)
    past.take()
    if count:
        _log.info("took up %d packets that were heard while standing by", count)


def _release(role: MonitorRole, past: Past, upto: str = "") -> None:
    """Take the packets that came meanwhile from sources up to `upto` (in the order of their ids), or from all.

    On a busy machine the past of thousands takes many seconds: nobody's presence waits for another one's past.
    """
    past.over(upto)
    waiting = role.waiting or []
    role.waiting = [one for one in waiting if upto and one[0] > upto]
    for source_id, data, received_ns in waiting:
        if (not upto or source_id <= upto) and not past.has(source_id, received_ns):
            role.take_waves([(source_id, data)], received_ns)
    role.process()


class Past:
    """The signal of before, held against what was told of it.

    The signal is taken up from before the alarms that stand: at its beginning their conditions do not hold yet. An end
    that it tells of one of them, before it has told the beginning again, counts only once all of it was taken.

    Parameters
    ----------
    told : list of Alarm
        How alarms were raised, of the time that is taken up and of some time before.
    """

    def __init__(self, role: MonitorRole, told: list[Alarm]) -> None:
        self._role = role
        self._told: dict[tuple[str, str], list[Alarm]] = {}
        for alarm in told:
            self._told.setdefault((alarm.code, alarm.bed_id), []).append(alarm)
        self._standing = role.engine.standing()  # and not told again yet
        self._ends: dict[tuple[str, Key], ConditionEvent] = {}
        self._newest: dict[str, int] = {}  # arrival of each source's newest packet from the recorder

    def took(self, source_id: str, received_ns: int) -> None:
        """A packet of the recorder's is taken."""
        self._newest[source_id] = max(received_ns, self._newest.get(source_id, 0))

    def has(self, source_id: str, received_ns: int) -> bool:
        """Return whether a packet is a copy of one that the recorder gave.

        Copies are known by their number too, but one that is far behind would be a device that has started again.
        """
        newest = self._newest.get(source_id)
        return newest is not None and received_ns < newest - SAME_NS // 2

    def take(self) -> None:
        """Take what is queued."""
        self._role.tell(self._role.engine.take(self.new(self._role.intake.process(of_before=True))))

    def over(self, upto: str = "") -> None:
        """Take it that nothing more comes of sources up to `upto`, or of all."""
        over = [one for one in self._ends if not upto or one[0] <= upto]
        self._role.tell(self._role.engine.take([self._ends.pop(one) for one in over]))

    def new(self, events: Iterable[ConditionEvent]) -> list[ConditionEvent]:
        """Return what was not told yet."""
        found = []
        for event in events:
            try:
                one = event.source_id, key_of(event)
            except KeyError:  # the engine counts it
                found.append(event)
                continue
            if not event.present:
                if one in self._standing:
                    self._ends[one] = event
                else:
                    found.append(event)
                continue
            end = self._ends.pop(one, None)
            self._standing.discard(one)
            if self._was_told(event):
                continue
            found += [event] if end is None else [end, event]
        return found

    def _was_told(self, event: ConditionEvent) -> bool:
        role = self._role
        bed_id = role.beds.bed_of(event.source_id)
        return any(
            alarm.args.get("parameter") == event.args.get("parameter") and self._is_same(alarm, event)
            for alarm in self._told.get((event.code, bed_id), ())
        )

    def _is_same(self, alarm: Alarm, event: ConditionEvent) -> bool:
        if not event.onset_ns:
            return alarm.raised_ns >= event.at_ns
        apart_ns = abs(alarm.onset_ns - self._role.clock.wall_ns(event.onset_ns))
        if apart_ns < SAME_NS:
            return True
        # The clock was set meanwhile: then the place in the stream tells.
        described = self._role.intake.descriptions.get(event.source_id)
        if apart_ns < SET_NS or described is None or min(alarm.onset_sample, event.onset_sample) < 0:
            return False
        apart = abs(alarm.onset_sample - event.onset_sample) / described["rate_hz"]
        return alarm.device_id == event.source_id and apart < SAME_NS / 1e9


async def publish_active(role: MonitorRole, bed_ids: Iterable[str]) -> None:
    """Publish the alarms that stand, for whoever was not there when they were raised."""
    for bed_id in bed_ids:
        for alarm in role.shown.active(bed_id):
            await role.context.bus.publish(subjects.alarm("site" if bed_id == SITE else bed_id), alarm)
