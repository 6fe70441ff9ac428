"""The alarms of all beds: conditions of sources in, transitions of alarms out.

Responsible for whose alarm a condition is, for what a bed's settings keep out (standby, switched off), for the check of
lethal rhythms against the pulse, for the alarm of a flood, and for taking everything up again after a restart. Pure
apart from its memory: clocks are passed in. The life of one alarm is ``alarms``; in which order conditions that come
together are taken is ``ordering``, who is part of a flood ``floods``, what calls once more ``reminders``. Publishing
and writing is ``publisher``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from edgeward.clinic.monitor.alarms import AlarmChange, AlarmRecord, BedAlarms, Key, key_of
from edgeward.clinic.monitor.beds import Beds
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.floods import Flood, FloodWatch
from edgeward.clinic.monitor.ordering import hidden_ends_first
from edgeward.clinic.monitor.reminders import Reminders
from edgeward.clinic.monitor.rules import RULES, UNCONFIRMED
from edgeward.clinic.monitor.site_clock import SiteClock

#: The bed of alarms that are no single bed's. Not a token, so that no device or bed can have this name.
SITE = "site.alarms"
_OWN = "@"  # before a bed's id: the source of conditions that are the bed's own (NEWS2), and of the site's
FLOOD = "signal_flood"
_LOST = "signal_lost"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What other signals say to a lethal rhythm. `reason` is a code of the translations."""

    verdict: Literal["confirm", "suppress", "undecided"]
    reason: str = ""


class Check(Protocol):
    """Holds a lethal rhythm against the other signals of its bed."""

    def __call__(self, event: ConditionEvent, sources: list[str], now_ns: int) -> Verdict:
        """Return what speaks for or against `event`, judged from `sources` at steady time `now_ns`."""


@dataclass(frozen=True, slots=True)
class BedChange:
    """A transition and whose it is."""

    bed_id: str
    change: AlarmChange


class AlarmEngine:
    """The alarms of a site.

    Parameters
    ----------
    beds : Beds
    clock : SiteClock
    flood : FloodWatch
    check : Check, optional
        Without it every lethal alarm is raised.
    lag : callable, optional
        By how many ms what an event tells has come later than it should have (packets that waited).
    reminder_s : float
        How long after its acknowledgement an alarm that lasts calls once more; 0: never.
    """

    def __init__(
        self,
        beds: Beds,
        clock: SiteClock,
        flood: FloodWatch,
        *,
        check: Check | None = None,
        lag: Callable[[ConditionEvent], float] = lambda _: 0.0,
        late_from_ms: float = 500.0,
        reminder_s: float = 0.0,
    ) -> None:
        self.beds = beds
        self.dirty: set[str] = set()  # beds whose alarms differ from what was written down last
        self.unknown: dict[str, int] = {}  # codes that nobody knows -> how often
        self.suppressed = 0
        self._clock = clock
        self._flood = Flood(flood)
        self._check = check
        self._lag = lag
        self._late_from_ms = late_from_ms
        self._reminders = Reminders(reminder_s)
        self._alarms: dict[str, BedAlarms] = {}
        self._numbers: dict[str, int] = {}  # of beds that are no more: the last number of an alarm
        self._holding: dict[str, dict[Key, ConditionEvent]] = {}  # per source: what holds now
        self._doubted: dict[tuple[str, str], ConditionEvent] = {}  # (bed, code): lethal rhythms kept back
        self._ending: dict[tuple[str, Key], tuple[int, ConditionEvent]] = {}  # ended, but not long enough ago to say so
        self._settling: dict[tuple[str, Key], int] = {}  # not hidden any more -> when it is raised if it still holds

    # ------------------------------------------------------------------ who

    def alarms(self, bed_id: str) -> BedAlarms:
        """Return the alarms of a bed."""
        found = self._alarms.get(bed_id)
        if found is None:
            found = self._alarms[bed_id] = BedAlarms(self._numbers.get(bed_id, 0))
        return found

    def last_number(self, bed_id: str) -> int:
        """Return the last number that an alarm of this bed has had, also if the bed is no more."""
        found = self._alarms.get(bed_id)
        return max(self._numbers.get(bed_id, 0), found.number if found else 0)

    def number_on(self, numbers: Mapping[str, int]) -> None:
        """Take it that beds have had alarms up to these numbers: whoever tells two alarms apart does it by them."""
        for bed_id, number in numbers.items():
            self._numbers[bed_id] = max(number, self._numbers.get(bed_id, 0))

    def active(self, bed_id: str) -> list[AlarmRecord]:
        """Return the alarms of a bed that are to be signalled, most urgent first."""
        found = self._alarms.get(bed_id)
        return found.active if found else []

    @property
    def flooded(self) -> bool:
        """Whether an alarm flood is on."""
        return bool(self._flood)

    def holds(self, source_id: str, code: str) -> bool:
        """Return whether a source tells this condition now."""
        return any(key[0] == code for key in self._holding.get(source_id, ()))

    def held(self, source_id: str) -> set[str]:
        """Return the codes of what a source tells now."""
        return {code for code, _ in self._holding.get(source_id, ())}

    def standing(self) -> set[tuple[str, Key]]:
        """Return what all sources tell now: the source, and what about."""
        return {(source_id, key) for source_id, held in self._holding.items() for key in held}

    def _bed_of(self, source_id: str) -> str:
        return source_id[1:] if source_id.startswith(_OWN) else self.beds.bed_of(source_id)

    # ------------------------------------------------------------------ conditions

    def take(self, events: Iterable[ConditionEvent]) -> list[BedChange]:
        """Take conditions that begin or end, in order. One that is told twice counts once."""
        changes: list[BedChange] = []
        for event in hidden_ends_first(events):
            bed_id = self._bed_of(event.source_id)
            if not bed_id:
                continue
            try:
                key = key_of(event)
            except KeyError:
                self.unknown[event.code] = self.unknown.get(event.code, 0) + 1
                continue
            held = self._holding.setdefault(event.source_id, {})
            if event.present:
                if key not in held:
                    held[key] = event
                    changes += self._begin(bed_id, key, event)
                elif event.altered:
                    held[key] = event
                    changes += self._tell(
                        bed_id, self.alarms(bed_id).alter(key, event.args, at_ns=self._clock.wall_ns())
                    )
            elif held.pop(key, None) is not None or self._is_kept(bed_id, key):
                changes += self._end(bed_id, key, event)
        return changes + self._tell_flood()

    def condition(
        self,
        bed_id: str,
        code: str,
        present: bool,
        args: Mapping[str, float | str] | None = None,
        *,
        unseen: bool = False,
    ) -> list[BedChange]:
        """Take a condition of a bed itself, or of the `SITE`."""
        now = self._clock.now_ns()
        event = ConditionEvent(_OWN + bed_id, code, present, now, now, args=dict(args or {}), unseen=unseen)
        return self.take([event])

    def _is_kept(self, bed_id: str, key: Key) -> bool:
        record = self._alarms[bed_id].get(key) if bed_id in self._alarms else None
        return record is not None and record.kept

    def _kept_out(self, bed_id: str, code: str) -> bool:
        if bed_id == SITE or bed_id not in self.beds:
            return False
        bed = self.beds[bed_id]
        return bed.standby or code in bed.disabled

    def _begin(self, bed_id: str, key: Key, event: ConditionEvent) -> list[BedChange]:
        if self._kept_out(bed_id, event.code):
            return []
        code = event.code
        self._ending.pop((bed_id, key), None)  # it is the same alarm still
        joined = self._flood.lost(event.source_id, self._clock.now_ns(), self._lost_of) if code == _LOST else []
        folded = event.source_id in self._flood if code == _LOST else False
        if self._check is not None and code in UNCONFIRMED:
            verdict = self._ask(bed_id, event)
            if verdict.verdict == "suppress":
                self.suppressed += 1
                self._doubted[bed_id, code] = event
                args = {**event.args, "reason": verdict.reason}
                return self._raise(bed_id, (UNCONFIRMED[code], ""), event, args=args)
        changes = self._raise(bed_id, key, event, folded=folded)
        for source_id, other in joined:
            if source_id != event.source_id:
                changes += self._tell(other, self.alarms(other).fold((_LOST, source_id), at_ns=self._clock.wall_ns()))
        return changes

    def _raise(
        self,
        bed_id: str,
        key: Key,
        event: ConditionEvent,
        *,
        folded: bool = False,
        args: dict[str, float | str] | None = None,
    ) -> list[BedChange]:
        now = self._clock.now_ns()
        received = event.received_ns or event.at_ns
        late_ms = 0.0
        if event.decisive_sample >= 0:
            late_ms = max((now - received) / 1e6, self._lag(event))
        found = self.alarms(bed_id).begin(
            key[0],
            at_ns=self._clock.wall_ns(now),
            received_ns=self._clock.wall_ns(received),
            onset=event.onset_sample,
            decisive=event.decisive_sample,
            args=event.args if args is None else args,
            scope=key[1],
            source_id=event.source_id,
            onset_ns=self._clock.wall_ns(event.onset_ns) if event.onset_ns else 0,
            late_ms=round(late_ms, 1) if late_ms > self._late_from_ms else 0.0,
            folded=folded,
        )
        return self._tell(bed_id, found)

    def _end(self, bed_id: str, key: Key, event: ConditionEvent) -> list[BedChange]:
        code = key[0]
        if code == _LOST:
            self._flood.found(event.source_id)
        if self._held_elsewhere(bed_id, key, event.source_id):
            return []
        changes: list[BedChange] = []
        at_ns = self._clock.wall_ns()
        if self._doubted.pop((bed_id, code), None) is not None:
            changes += self._tell(bed_id, self.alarms(bed_id).end(UNCONFIRMED[code], at_ns=at_ns))
        # What another alarm hides ends at once, or it would come up later.
        told = self.alarms(bed_id).get(key) is not None
        if (hold_s := RULES[code].hold_s) > 0 and told and not self._kept_out(bed_id, code):
            self._ending[bed_id, key] = (self._clock.now_ns() + int(hold_s * 1e9), event)
            return changes
        ended = self.alarms(bed_id).end(
            code, at_ns=at_ns, sample=event.decisive_sample, scope=key[1], unseen=event.unseen
        )
        return changes + self._tell(bed_id, ended)

    def _end_held(self) -> list[BedChange]:
        """Tell the ends that were held back for long enough."""
        if not self._ending:
            return []
        changes: list[BedChange] = []
        now = self._clock.now_ns()
        for (bed_id, key), (due, event) in list(self._ending.items()):
            if due > now:
                continue
            del self._ending[bed_id, key]
            if bed_id in self._alarms and not self._held_elsewhere(bed_id, key, event.source_id):
                ended = self._alarms[bed_id].end(
                    key[0],
                    at_ns=self._clock.wall_ns(),
                    sample=event.decisive_sample,
                    scope=key[1],
                    unseen=event.unseen,
                )
                changes += self._tell(bed_id, ended)
        return changes

    def _held_elsewhere(self, bed_id: str, key: Key, source_id: str) -> bool:
        if bed_id == SITE or bed_id not in self.beds:
            return False
        return any(key in self._holding.get(other, ()) for other in self.beds[bed_id].sources if other != source_id)

    def _tell(self, bed_id: str, changes: list[AlarmChange]) -> list[BedChange]:
        self.dirty.add(bed_id)
        self._note_settling(bed_id)
        return [BedChange(bed_id, change) for change in changes]

    def _note_settling(self, bed_id: str) -> None:
        found = self._alarms[bed_id].settling() if bed_id in self._alarms else []
        for pair in [pair for pair in self._settling if pair[0] == bed_id and pair[1] not in found]:
            del self._settling[pair]
        for key in found:
            self._settling.setdefault((bed_id, key), self._clock.now_ns() + int(RULES[key[0]].settle_s * 1e9))

    def _settle(self) -> list[BedChange]:
        """Raise what still holds a while after nothing hid it any more."""
        if not self._settling:
            return []
        changes: list[BedChange] = []
        now = self._clock.now_ns()
        for bed_id, key in [pair for pair, due in self._settling.items() if due <= now]:
            self._settling.pop((bed_id, key), None)
            if bed_id in self._alarms:
                changes += self._tell(bed_id, self._alarms[bed_id].settled(key, at_ns=self._clock.wall_ns()))
        return changes

    # ------------------------------------------------------------------ lethal rhythms and the pulse

    def _ask(self, bed_id: str, event: ConditionEvent) -> Verdict:
        if self._check is None:
            return Verdict("confirm")
        sources = list(self.beds[bed_id].sources) if bed_id in self.beds else [event.source_id]
        return self._check(event, sources, self._clock.now_ns())

    def tick(self) -> list[BedChange]:
        """Take the passing of time.

        Lethal rhythms that were kept back and are not spoken against any more are raised at once; ends that were held
        back are told, and what was hidden and still holds is raised.
        """
        changes = self._end_held() + self._settle() + self._remind()
        for (bed_id, code), event in list(self._doubted.items()):
            if self._ask(bed_id, event).verdict == "suppress":
                continue
            del self._doubted[bed_id, code]
            at_ns = self._clock.wall_ns()
            # First the lethal one, then the end of its stand-in: never nothing in between.
            changes += self._raise(bed_id, (code, ""), event)
            changes += self._tell(bed_id, self.alarms(bed_id).end(UNCONFIRMED[code], at_ns=at_ns))
        return changes

    def _remind(self) -> list[BedChange]:
        """Let acknowledged alarms that last call once more."""
        changes: list[BedChange] = []
        for bed_id, number in self._reminders.due(self._clock.now_ns(), self._is_acknowledged):
            changes += self._tell(bed_id, self._alarms[bed_id].remind(number, at_ns=self._clock.wall_ns()))
        return changes

    def _is_acknowledged(self, bed_id: str, number: int) -> bool:
        record = self._alarms[bed_id].by_number(number) if bed_id in self._alarms else None
        return record is not None and record.acknowledged

    def clock_set(self, step_ns: int) -> list[BedChange]:
        """Take it that the wall clock was set: a pause of the sound lasts as long as it was meant to."""
        at_ns = self._clock.wall_ns()
        changes: list[BedChange] = []
        for bed_id, alarms in self._alarms.items():
            if found := alarms.shift_pauses(step_ns, at_ns=at_ns):
                changes += self._tell(bed_id, found)
        return changes

    # ------------------------------------------------------------------ floods

    def _lost_of(self, source_id: str) -> str:
        """Return the bed of a source that is silent now; empty if there is none, or it is not."""
        return self._bed_of(source_id) if self.holds(source_id, _LOST) else ""

    def _tell_flood(self) -> list[BedChange]:
        if not self._flood.take_changed():
            return []
        at_ns = self._clock.wall_ns()
        site = self.alarms(SITE)
        key = (FLOOD, "")
        members = self._flood.beds
        if not members:
            return self._tell(SITE, site.end(FLOOD, at_ns=at_ns))
        if site.get(key) is None:
            args: dict[str, float | str] = {"beds": float(len(members))}
            begun = site.begin(FLOOD, at_ns=at_ns, received_ns=at_ns, args=args, source_id=_OWN + SITE, members=members)
            return self._tell(SITE, begun)
        return self._tell(SITE, site.set_members(key, members, at_ns=at_ns))

    # ------------------------------------------------------------------ people

    def find(self, alarm_id: str) -> tuple[str, AlarmRecord] | None:
        """Return the bed and the active alarm of this identity."""
        bed_id, _, number = alarm_id.rpartition("-")
        if not (number.isascii() and number.isdigit()) or bed_id not in self._alarms:
            return None
        record = self._alarms[bed_id].by_number(int(number))
        return None if record is None or record.folded else (bed_id, record)

    def acknowledge(self, alarm_id: str, *, by: str) -> list[BedChange]:
        """Take an acknowledgement; nothing happens if the alarm is over or acknowledged already.

        Raises
        ------
        ValueError
            If `by` is empty.
        """
        found = self.find(alarm_id)
        if found is None:
            return []
        bed_id, record = found
        told = self.alarms(bed_id).acknowledge(record.number, by=by, at_ns=self._clock.wall_ns())
        if told and record.present:
            self._reminders.acknowledged(bed_id, record.number, self._clock.now_ns())
        return self._tell(bed_id, told)

    def pause(self, bed_id: str, alarm_id: str, *, seconds: float, by: str) -> list[BedChange]:
        """Pause the sound of a bed's alarms, or of one of them, for `seconds`; 0 ends the pause.

        Raises
        ------
        ValueError
            If `by` is empty.
        """
        number: int | None = None
        if alarm_id:
            found = self.find(alarm_id)
            if found is None:
                return []
            bed_id, number = found[0], found[1].number
        now = self._clock.wall_ns()
        until = now + int(seconds * 1e9) if seconds > 0 else 0
        return self._tell(bed_id, self.alarms(bed_id).pause(number, until_ns=until, by=by, at_ns=now))

    def escalate(self, bed_id: str, number: int, *, level: int | None = None, told: str = "") -> list[BedChange]:
        """Take a step of an alarm's escalation, or that a contact was told."""
        found = self.alarms(bed_id).escalate(number, at_ns=self._clock.wall_ns(), level=level, told=told)
        return self._tell(bed_id, found)

    # ------------------------------------------------------------------ beds that change

    def refresh(self, bed_id: str, heir: str = "") -> list[BedChange]:
        """Bring a bed's alarms into line with its settings and sources, after these have changed.

        If the bed is no more, since its last source went to the bed `heir`, its latched alarms go there too.
        """
        if bed_id not in self.beds:
            return self.remove_bed(bed_id, heir)
        wanted: dict[Key, ConditionEvent] = {}
        for source_id in (*self.beds[bed_id].sources, _OWN + bed_id):
            for key, event in self._holding.get(source_id, {}).items():
                if not self._kept_out(bed_id, event.code):
                    wanted.setdefault(key, event)
        changes: list[BedChange] = []
        at_ns = self._clock.wall_ns()
        for other, code in [pair for pair in self._doubted if pair[0] == bed_id]:
            if (code, "") not in wanted:
                del self._doubted[other, code]
                changes += self._tell(bed_id, self.alarms(bed_id).end(UNCONFIRMED[code], at_ns=at_ns))
        present = {record.key for record in self.alarms(bed_id).present()}
        for key in present - set(wanted):
            if key[0] in UNCONFIRMED.values():
                continue
            if key[0] == _LOST:
                self._flood.leave(key[1])
            changes += self._tell(bed_id, self.alarms(bed_id).end(key[0], at_ns=at_ns, scope=key[1]))
        for key, event in wanted.items():
            if key not in present and (bed_id, key[0]) not in self._doubted:
                changes += self._begin(bed_id, key, event)
        return changes + self._tell_flood()

    def discharge(self, bed_id: str) -> list[BedChange]:
        """Take it that the patient has left: every alarm of the bed is over, and what holds now begins none."""
        if bed_id in self.beds:
            for source_id in (*self.beds[bed_id].sources, _OWN + bed_id):
                self._forget(source_id)
        for pair in [pair for pair in self._doubted if pair[0] == bed_id]:
            del self._doubted[pair]
        told = self.alarms(bed_id).end_all(at_ns=self._clock.wall_ns())
        return self._tell(bed_id, told) + self._tell_flood()

    def remove_source(self, source_id: str) -> list[BedChange]:
        """Forget a source that is no longer enrolled, and its bed if nothing is left of it."""
        bed_id = self.beds.remove_source(source_id)
        self._forget(source_id)
        if not bed_id:
            return []
        changes = self.refresh(bed_id) if bed_id in self.beds else self.remove_bed(bed_id)
        return changes + self._tell_flood()

    def remove_bed(self, bed_id: str, heir: str = "") -> list[BedChange]:
        """Forget a bed that is no more; what is latched and nobody has acknowledged is the bed `heir`'s from now on."""
        for pair in [pair for pair in self._doubted if pair[0] == bed_id]:
            del self._doubted[pair]
        self._forget(_OWN + bed_id)
        self._numbers[bed_id] = self.last_number(bed_id)  # the bed may come back
        found = self._alarms.pop(bed_id, None)
        changes: list[BedChange] = []
        at_ns = self._clock.wall_ns()
        if found is not None:
            for record in found.active if heir in self.beds else ():
                if record.latching and not record.acknowledged:
                    changes += self._tell(heir, self.alarms(heir).adopt(record, at_ns=at_ns))
            changes += self._tell(bed_id, found.end_all(at_ns=at_ns))
        self.dirty.discard(bed_id)
        return changes

    def _forget(self, source_id: str) -> None:
        self._holding.pop(source_id, None)
        self._flood.found(source_id)

    # ------------------------------------------------------------------ restart

    def restore(self, bed_id: str, state: Mapping[str, Any]) -> dict[str, list[AlarmRecord]]:
        """Put back a bed's alarms; return, per source, those whose conditions are taken to hold still.

        Raises
        ------
        ValueError
            If the state is not one that `BedAlarms.snapshot` gave.
        """
        sources = self.beds[bed_id].sources if bed_id in self.beds else []
        alarms = BedAlarms.from_dict(dict(state), source_id=sources[0] if sources else _OWN + bed_id)
        self._alarms[bed_id] = alarms
        self._note_settling(bed_id)
        found: dict[str, list[AlarmRecord]] = {}
        for record in alarms.active:
            if record.acknowledged and record.present:
                since = min(self._clock.steady_ns(record.acknowledged_ns), self._clock.now_ns())
                self._reminders.acknowledged(bed_id, record.number, since)
        for record in alarms.present():
            source_id = record.source_id or (sources[0] if sources else _OWN + bed_id)
            if record.code == FLOOD:
                continue
            code = record.code.removesuffix("_unconfirmed") if record.code in UNCONFIRMED.values() else record.code
            event = ConditionEvent(
                source_id,
                code,
                True,
                self._clock.steady_ns(record.raised_ns),
                self._clock.steady_ns(record.received_ns),
                onset_sample=record.onset_sample,
                decisive_sample=record.decisive_sample,
                args=record.args,
            )
            self._holding.setdefault(source_id, {})[code, record.scope] = event
            if code != record.code:
                self._doubted[bed_id, code] = event
            if record.folded:
                self._flood.put_back(source_id, bed_id)
            found.setdefault(source_id, []).append(record)
        return found

    def settle(self) -> list[BedChange]:
        """After all beds were restored: bring the flood into line with them."""
        if self._flood or self.alarms(SITE).get((FLOOD, "")) is not None:
            self._flood.changed = True
        return self._tell_flood()
