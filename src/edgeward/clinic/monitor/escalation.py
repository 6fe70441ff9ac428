"""Who is told of an alarm, and when the next one is.

Responsible for the steps of a ward (``[[ward]].escalation``), for their timers, for going on at once when nobody could
be told, and for writing the notices that `deliver` takes over. Pure: time is passed in. Not responsible for bringing
notices to people (`deliver`), nor for handing them over (``courier``).

A step that was taken stands in the alarm itself (``level``) and is durable with it; the time of the next is its own
``after_s`` from when the alarm was raised, or called once more (``reminded_ns``). So a restart forgets no step.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from edgeward.bedside import MOST_PLACES, Notice, NoticeReport
from edgeward.clinic.monitor.alarms import AlarmRecord
from edgeward.clinic.monitor.engine import SITE, AlarmEngine, BedChange
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.config import EscalationStep, Settings
from edgeward.messages import Alarm, VitalState

#: Nobody can be waited for who does not hear.
AT_ONCE = frozenset({"alarms_not_heard", "alarm_system_failure"})
_PHASES = {"acknowledged": "acknowledge", "ended": "end"}


class Escalation:
    """The steps of all alarms.

    Parameters
    ----------
    settings : Settings
        Wards, contacts and receivers of notices.
    engine : AlarmEngine
    clock : SiteClock
    """

    def __init__(self, settings: Settings, engine: AlarmEngine, clock: SiteClock) -> None:
        self._engine = engine
        self._clock = clock
        self._wards = {ward.name: sorted(ward.escalation, key=lambda step: step.after_s) for ward in settings.ward}
        #: Whether there is a system that is told of every transition.
        self.systems = bool(settings.pcd04) or any(one.alarms for one in settings.fhir)
        self._channels = {
            contact.name: {
                f"{contact.name}/{kind}" for kind, given in (("webhook", contact.webhook), ("email", contact.email))
                if given
            }
            or {f"{contact.name}/nothing"}
            for contact in settings.contact
        }  # fmt: skip
        self._due: list[tuple[int, str, int, int]] = []  # steady time, bed, alarm, level
        self._raised: dict[tuple[str, int], tuple[int, int]] = {}  # bed and alarm -> wall time, and steady time
        self._next: dict[tuple[str, int], int] = {}  # bed and alarm -> when its next step is due, as begun last
        self._failed: dict[str, set[str]] = {}  # alarm and level -> channels that failed

    def steps(self, bed_id: str, record: AlarmRecord) -> list[EscalationStep]:
        """Return the steps of an alarm, the first first. A site's alarm has those of all wards it concerns."""
        beds = self._engine.beds
        if bed_id != SITE:
            wards = {beds[bed_id].ward} if bed_id in beds else set()
        else:
            wards = {beds[member].ward for member in record.members if member in beds} or set(self._wards)
        found: list[EscalationStep] = []
        for ward in sorted(wards):
            own = [step for step in self._wards.get(ward, []) if record.priority.value in step.priorities]
            for number, step in enumerate(own):
                if number == len(found):
                    found.append(step)
                else:
                    merged = list(dict.fromkeys((*found[number].contacts, *step.contacts)))
                    after_s = min(found[number].after_s, step.after_s)
                    found[number] = found[number].model_copy(update={"contacts": merged, "after_s": after_s})
        return found

    def begin(self, bed_id: str, record: AlarmRecord) -> None:
        """Start the timer of an alarm that is raised, or was taken up after a restart."""
        steps = self.steps(bed_id, record)
        if record.acknowledged or record.folded or record.level >= len(steps):
            return
        after_s = 0.0 if record.code in AT_ONCE and not record.level else steps[record.level].after_s
        # Kept by the steady clock: a wall clock that is set meanwhile must not call anybody early, or late.
        key = bed_id, record.number
        begun_ns = record.reminded_ns or record.raised_ns
        if self._raised.get(key, (0, 0))[0] != begun_ns:
            self._raised[key] = begun_ns, self._clock.steady_ns(begun_ns)
        due = self._raised[key][1] + int(after_s * 1e9)
        self._next[key] = due
        heapq.heappush(self._due, (due, bed_id, record.number, record.level))

    def tick(self) -> list[tuple[BedChange, list[str]]]:
        """Return the steps that are due: the transition, and who is to be told."""
        now = self._clock.now_ns()
        taken: list[tuple[BedChange, list[str]]] = []
        while self._due and self._due[0][0] <= now:
            due, bed_id, number, level = heapq.heappop(self._due)
            if self._next.get((bed_id, number)) != due:
                continue  # of the ward before, or of before it was acknowledged and called once more
            taken += self._take(bed_id, number, level)
        return taken

    def _take(self, bed_id: str, number: int, level: int) -> list[tuple[BedChange, list[str]]]:
        record = self._engine.alarms(bed_id).by_number(number)
        if record is None or record.acknowledged or record.folded or record.level != level:
            return []
        steps = self.steps(bed_id, record)
        if level >= len(steps):
            return []
        changes = self._engine.escalate(bed_id, number, level=level + 1)
        self.begin(bed_id, changes[0].change.alarm)
        return [(change, list(steps[level].contacts)) for change in changes]

    def report(self, report: NoticeReport) -> list[tuple[BedChange, list[str]]]:
        """Take what became of a notice at one receiver; when a whole step could not be told, the next is due now."""
        found = self._engine.find(report.alarm_id)
        contact = report.receiver.partition("/")[0]
        if found is None or contact not in self._channels:
            return []  # the alarm is over, or the receiver is a system
        bed_id, record = found
        if report.state == "delivered":
            return [(change, []) for change in self._engine.escalate(bed_id, record.number, told=contact)]
        steps = self.steps(bed_id, record)
        if not 0 < record.level <= len(steps):
            return []
        step = f"{report.alarm_id}/{record.level}"
        if not report.notice_id.endswith(f"/{record.level}"):
            return []  # of a step before
        failed = self._failed.setdefault(step, set())
        # `deliver` tells of a person, by name, once none of the channels is left; a channel alone is told of as such.
        failed |= self._channels[contact] if report.receiver == contact else {report.receiver}
        wanted = set().union(*(self._channels[one] for one in steps[record.level - 1].contacts))
        if not wanted <= failed or record.acknowledged:
            return []
        del self._failed[step]
        return self._take(bed_id, record.number, record.level)

    def notices(
        self,
        told: Iterable[tuple[BedChange, Alarm, list[str]]],
        vitals: Callable[[str], list[VitalState]],
        label: Callable[[str], str] = str,
    ) -> list[Notice]:
        """Return what is to be handed to `deliver` of transitions.

        Parameters
        ----------
        told : iterable
            The transition, as message, and the contacts of an escalation.
        vitals : callable
            The values of a bed now.
        label : callable
            What a bed is called.
        """
        found = []
        for change, alarm, contacts in told:
            state, record = change.change.state, change.change.alarm
            if contacts:
                phase, mark = "escalate", f"{record.reminded_ns or record.raised_ns}/{record.level}"
            elif not self.systems:
                continue
            else:
                fresh = change.change.new and record.raised_ns == change.change.at_ns
                phase = _PHASES.get(state, "start" if fresh else "update")
                mark = f"{change.change.at_ns}"
            found.append(
                Notice(
                    notice_id=f"{alarm.alarm_id}/{phase}/{mark}",
                    phase=phase,  # type: ignore[arg-type]
                    alarm=alarm,
                    contacts=contacts,
                    vitals=vitals(change.bed_id),
                    places=[label(bed_id) for bed_id in alarm.members[:MOST_PLACES]],
                    at_ns=change.change.at_ns,
                )
            )
        return found

    def forget(self, bed_id: str, number: int) -> None:
        """Forget an alarm that is over."""
        self._raised.pop((bed_id, number), None)
        self._next.pop((bed_id, number), None)
        alarm_id = f"{bed_id}-{number}"
        for step in [step for step in self._failed if step.startswith(f"{alarm_id}/")]:
            del self._failed[step]
