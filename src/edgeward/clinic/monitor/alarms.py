"""Decides which alarms a bed has, from conditions that begin and end.

Responsible for priority, latching, acknowledgement, the pause of the sound, what supersedes what, what a flood folds,
and for the form in which alarms survive a restart (IEC 60601-1-8:2020, 6.1, 6.8 and 6.10). Pure: conditions and times
are passed in, transitions are returned. It neither looks at signals (``rhythm``) nor publishes anything (``role``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.rules import HIGH, LOW, MEDIUM, RATES, RULES, Rule, names_better
from edgeward.messages import AlarmPriority

__all__ = ["RULES", "AlarmChange", "AlarmRecord", "BedAlarms", "Rule", "key_of"]

#: What there is at most one alarm of: a code and what it is about (a parameter, a source, or empty: the bed).
Key = tuple[str, str]
_ORDER = {HIGH: 0, MEDIUM: 1, LOW: 2}
_LISTS = ("told", "members")


def key_of(event: ConditionEvent) -> Key:
    """Return what the alarm of this condition is about.

    Raises
    ------
    KeyError
        If its code is unknown.
    """
    scope = RULES[event.code].scope
    if scope == "source":
        return event.code, event.source_id
    return event.code, str(event.args.get("parameter", "")) if scope == "parameter" else ""


@dataclass(frozen=True, slots=True)
class AlarmRecord:
    """One alarm over its life. Sample indices are in the source's stream, -1 when time alone decided.

    Times are those of the site's wall clock.
    """

    code: str
    number: int  # counts the alarms of this bed: with the bed it makes the alarm's identity
    raised_ns: int
    received_ns: int  # arrival of the packet that carried the decisive sample
    onset_sample: int
    decisive_sample: int
    args: dict[str, float | str] = field(default_factory=dict)
    present: bool = True
    acknowledged: bool = False
    by: str = ""
    acknowledged_ns: int = 0
    ended_ns: int = 0
    end_sample: int = -1
    scope: str = ""
    source_id: str = ""
    own_priority: str = ""  # instead of the rule's
    onset_ns: int = 0
    late_ms: float = 0.0
    level: int = 0  # steps of escalation taken
    told: tuple[str, ...] = ()
    paused_until_ns: int = 0
    folded: bool = False  # an alarm flood tells it
    members: tuple[str, ...] = ()  # of an alarm flood
    reminded_ns: int = 0  # when it called once more, after it had been acknowledged and lasted
    kept: bool = False  # nobody saw its condition end: it stays until somebody acknowledged it

    @property
    def rule(self) -> Rule:
        """The rule of this alarm's condition."""
        return RULES[self.code]

    @property
    def key(self) -> Key:
        """What it is about."""
        return self.code, self.scope

    @property
    def priority(self) -> AlarmPriority:
        """Its priority."""
        return AlarmPriority(self.own_priority) if self.own_priority else self.rule.priority

    @property
    def latching(self) -> bool:
        """Whether it stays until somebody acknowledged it, also when its condition is over."""
        return self.rule.latching or self.kept

    @property
    def active(self) -> bool:
        """Whether it is still to be signalled: present, or latched and not acknowledged."""
        return self.present or (self.latching and not self.acknowledged)


@dataclass(frozen=True, slots=True)
class AlarmChange:
    """A transition to be told: `state` is what happened, `alarm` how it stands now.

    ``ended`` is told when nothing more is signalled. A latched alarm whose condition has ceased is told as ``raised``
    again with ``alarm.present`` false; so is an alarm whose sound was paused, with ``alarm.paused_until_ns``.
    """

    state: Literal["raised", "acknowledged", "escalated", "ended"]
    alarm: AlarmRecord
    at_ns: int
    new: bool = False  # it is raised now, and was not before: its sound begins


class BedAlarms:
    """The alarms of one bed.

    A condition that comes back while its latched alarm is still active continues that alarm, and sounds again. An
    acknowledged alarm whose condition ended is over; the next onset is a new alarm.

    Parameters
    ----------
    number : int
        The last number that an alarm of this bed had: no number is given twice.
    """

    def __init__(self, number: int = 0) -> None:
        self._active: dict[Key, AlarmRecord] = {}
        self._waiting: dict[Key, AlarmRecord] = {}  # true, but superseded by a more precise one
        self._number = number

    @property
    def number(self) -> int:
        """The last number that an alarm of this bed has."""
        return self._number

    @property
    def active(self) -> list[AlarmRecord]:
        """Alarms to be signalled, most urgent first, then oldest first."""
        if not self._active:
            return []
        return sorted(
            (a for a in self._active.values() if not a.folded),
            key=lambda a: (_ORDER[a.priority], a.raised_ns, a.number),
        )

    @property
    def paused_until_ns(self) -> int:
        """Until when the sound of everything that would sound now is paused; 0 if something sounds, or nothing."""
        sounding = [a.paused_until_ns for a in self._active.values() if not a.acknowledged and not a.folded]
        return min(sounding, default=0)

    def get(self, key: Key) -> AlarmRecord | None:
        """Return the alarm about `key` that is active, folded ones too."""
        return self._active.get(key)

    def by_number(self, number: int) -> AlarmRecord | None:
        """Return the active alarm of this number."""
        return next((a for a in self._active.values() if a.number == number), None)

    def take(self, event: ConditionEvent) -> list[AlarmChange]:
        """Take a condition that begins or ends.

        Raises
        ------
        KeyError
            If its code is unknown.
        """
        code, scope = key_of(event)
        if not event.present:
            return self.end(code, at_ns=event.at_ns, sample=event.decisive_sample, scope=scope, unseen=event.unseen)
        return self.begin(
            code,
            at_ns=event.at_ns,
            received_ns=event.received_ns or event.at_ns,
            onset=event.onset_sample,
            decisive=event.decisive_sample,
            args=event.args,
            scope=scope,
            source_id=event.source_id,
            onset_ns=event.onset_ns,
        )

    @staticmethod
    def _names_better(other: AlarmRecord, this: AlarmRecord) -> bool:
        if not other.present or _ORDER[other.priority] > _ORDER[this.priority]:
            return False  # what is more urgent is never hidden by what is less
        measures = str(other.args.get("parameters", "")).split()
        return names_better(
            (other.code, other.scope, other.source_id), (this.code, this.scope, this.source_id), measures
        )

    def _superseded(self, record: AlarmRecord) -> bool:
        return any(self._names_better(other, record) for other in self._active.values())

    def begin(
        self,
        code: str,
        *,
        at_ns: int,
        received_ns: int,
        onset: int = -1,
        decisive: int = -1,
        args: dict[str, float | str] | None = None,
        scope: str = "",
        source_id: str = "",
        onset_ns: int = 0,
        late_ms: float = 0.0,
        folded: bool = False,
        members: tuple[str, ...] = (),
    ) -> list[AlarmChange]:
        """Take the onset of a condition.

        Parameters
        ----------
        code : str
            Key of `RULES`.
        at_ns, received_ns : int
            Now, and when the packet with the decisive sample arrived.
        onset, decisive : int
            Stream indices of the first sample of the event and of the one that decided; -1 if time decided.
        args : dict, optional
            Parameters of the translated message. ``priority``, if there is one, is the alarm's own.
        scope : str
            The parameter or source that it is about, if its rule says so.
        late_ms : float
            How late it is known.
        folded : bool
            An alarm flood tells it: it is not signalled by itself.
        members : tuple of str
            The beds of an alarm flood.

        Raises
        ------
        KeyError
            If the code is unknown.
        """
        rule = RULES[code]
        given = dict(args or {})
        own = str(given.pop("priority", ""))
        known = self._active.get((code, scope))
        if known is not None:
            if known.present:
                return []
            again = replace(
                known, present=True, ended_ns=0, end_sample=-1, received_ns=received_ns, onset_sample=onset,
                decisive_sample=decisive, onset_ns=onset_ns, args=given, paused_until_ns=0, late_ms=late_ms,
                kept=False,
            )  # fmt: skip
            self._active[known.key] = again
            return [AlarmChange("raised", again, at_ns, new=True), *self._supersede(again, at_ns)]
        self._number += 1
        record = AlarmRecord(
            code, self._number, at_ns, received_ns, onset, decisive, given, scope=scope, source_id=source_id,
            own_priority=own, onset_ns=onset_ns, late_ms=late_ms, folded=folded,
            members=members,
        )  # fmt: skip
        if (rule.superseded_by or scope in RATES) and self._superseded(record):
            self._waiting[record.key] = record
            return []
        self._active[record.key] = record
        told = [] if folded else [AlarmChange("raised", record, at_ns, new=True)]
        return [*told, *self._supersede(record, at_ns)]

    def _supersede(self, by: AlarmRecord, at_ns: int) -> list[AlarmChange]:
        """Put aside what `by` names more precisely. A latched alarm stays: it is a different, lethal event."""
        changes = []
        for key in [k for k, a in self._active.items() if a.present and self._names_better(by, a)]:
            record = self._active[key]
            self._waiting[key] = record
            if not record.rule.latching:
                del self._active[key]
                if not record.folded:
                    over = replace(record, present=False, ended_ns=at_ns)
                    changes.append(AlarmChange("ended", over, at_ns))
        return changes

    def end(
        self, code: str, *, at_ns: int, sample: int = -1, scope: str = "", unseen: bool = False
    ) -> list[AlarmChange]:
        """Take the end of a condition (at stream index `sample`, if a sample told it).

        Where nobody saw it end (`unseen`), its alarm stays as if latched.
        """
        key = (code, scope)
        self._waiting.pop(key, None)
        record = self._active.get(key)
        if record is None or not (record.present or (record.kept and not unseen)):
            return self._release(at_ns)
        record = replace(record, present=False, ended_ns=at_ns, end_sample=sample, kept=unseen)
        if record.active:  # latched
            self._active[key] = record
            return [AlarmChange("raised", record, at_ns), *self._release(at_ns)]
        del self._active[key]
        told = [] if record.folded else [AlarmChange("ended", record, at_ns)]
        return [*told, *self._release(at_ns)]

    def _release(self, at_ns: int) -> list[AlarmChange]:
        """Raise what was only hidden by something that is over, and still holds."""
        changes: list[AlarmChange] = []
        # The most precise first: it may go on hiding the others.
        for key, record in sorted(self._waiting.items(), key=lambda item: len(RULES[item[0][0]].superseded_by)):
            if not record.rule.settle_s and not self._superseded(record):
                changes += self._come_up(key, at_ns)
        return changes

    def _come_up(self, key: Key, at_ns: int) -> list[AlarmChange]:
        record = self._waiting.pop(key)
        # Was latched all the time; or was over when it came.
        if key in self._active or record.rule.event:
            return []
        # A new alarm: it may have been raised and told as ended before, and what decided it now is the release.
        self._number += 1
        again = replace(
            record, number=self._number, raised_ns=at_ns, received_ns=at_ns, acknowledged=False, by="",
            acknowledged_ns=0, level=0, told=(), paused_until_ns=0, late_ms=0.0, reminded_ns=0,
        )  # fmt: skip
        self._active[key] = again
        return [] if again.folded else [AlarmChange("raised", again, at_ns, new=True)]

    def settling(self) -> list[Key]:
        """Return what nothing hides any more, and is to be raised only if it still holds a while later."""
        return [k for k, a in self._waiting.items() if a.rule.settle_s and not self._superseded(a)]

    def settled(self, key: Key, *, at_ns: int) -> list[AlarmChange]:
        """Take it that what is `settling` was waited for."""
        if key not in self._waiting or self._superseded(self._waiting[key]):
            return []
        return [*self._come_up(key, at_ns), *self._release(at_ns)]

    def acknowledge(self, number: int, *, by: str, at_ns: int) -> list[AlarmChange]:
        """Take a clinician's acknowledgement of alarm `number`; nothing happens if it is over or acknowledged already.

        Raises
        ------
        ValueError
            If `by` is empty: an acknowledgement has a name.
        """
        if not by:
            raise ValueError("an acknowledgement needs the name of who acknowledged")
        record = self.by_number(number)
        if record is None or record.acknowledged:
            return []
        known = replace(record, acknowledged=True, by=by, acknowledged_ns=at_ns, paused_until_ns=0)
        change = AlarmChange("acknowledged", known, at_ns)
        if known.present:
            self._active[known.key] = known
            return [change]
        del self._active[known.key]
        return [change, AlarmChange("ended", known, at_ns)]

    def remind(self, number: int, *, at_ns: int) -> list[AlarmChange]:
        """Let an acknowledged alarm whose condition still holds call once more, as if it began now.

        Alarms of low priority are left as they are.
        """
        record = self.by_number(number)
        if record is None or not record.acknowledged or not record.present or record.priority is LOW:
            return []
        record = replace(
            record, acknowledged=False, by="", acknowledged_ns=0, level=0, told=(), paused_until_ns=0,
            reminded_ns=at_ns,
        )  # fmt: skip
        self._active[record.key] = record
        return [AlarmChange("raised", record, at_ns, new=True)]

    def shift_pauses(self, step_ns: int, *, at_ns: int) -> list[AlarmChange]:
        """Let pauses of the sound last as long as they were meant to, after the wall clock was set by `step_ns`."""
        changes = []
        for key, record in self._active.items():
            if record.paused_until_ns > at_ns - step_ns:
                self._active[key] = replace(record, paused_until_ns=record.paused_until_ns + step_ns)
                changes.append(AlarmChange("raised", self._active[key], at_ns))
        return changes

    def pause(self, number: int | None, *, until_ns: int, by: str, at_ns: int) -> list[AlarmChange]:
        """Pause the sound of one alarm, or of all that sound now, until `until_ns`; 0 ends the pause (6.8).

        Alarms that are raised later sound. Acknowledged ones do not sound anyway.

        Raises
        ------
        ValueError
            If `by` is empty.
        """
        if not by:
            raise ValueError("a pause of the sound needs the name of who pauses")
        changes = []
        for record in self.active:
            if record.acknowledged or (number is not None and record.number != number):
                continue
            if record.paused_until_ns == until_ns:
                continue
            paused = replace(record, paused_until_ns=until_ns)
            self._active[paused.key] = paused
            # `by` of the record is who acknowledged; who paused stands in the transition only.
            changes.append(AlarmChange("raised", replace(paused, by=by), at_ns))
        return changes

    def escalate(self, number: int, *, at_ns: int, level: int | None = None, told: str = "") -> list[AlarmChange]:
        """Take a step of the escalation of an alarm, or that a contact was told."""
        record = self.by_number(number)
        if record is None or (told and told in record.told):
            return []
        record = replace(
            record,
            level=record.level if level is None else level,
            told=(*record.told, told) if told else record.told,
        )
        self._active[record.key] = record
        return [AlarmChange("escalated", record, at_ns)]

    def fold(self, key: Key, *, at_ns: int) -> list[AlarmChange]:
        """Let an alarm flood tell this alarm from now on."""
        record = self._active.get(key)
        if record is None or record.folded:
            return []
        self._active[key] = replace(record, folded=True)
        return [AlarmChange("ended", replace(record, present=False, ended_ns=at_ns), at_ns)]

    def alter(self, key: Key, args: dict[str, float | str], *, at_ns: int) -> list[AlarmChange]:
        """Say something else of an alarm whose condition still holds: its limit was changed.

        One that is more urgent by it calls as if it began now.
        """
        given = dict(args)
        own = str(given.pop("priority", ""))
        if key in self._waiting:
            self._waiting[key] = replace(self._waiting[key], args=given, own_priority=own)
        before = self._active.get(key)
        if before is None or not before.present:
            return []
        record = replace(before, args=given, own_priority=own)
        urgent = _ORDER[record.priority] < _ORDER[before.priority]
        if urgent:
            record = replace(
                record, acknowledged=False, by="", acknowledged_ns=0, level=0, told=(), paused_until_ns=0, reminded_ns=0
            )
        self._active[key] = record
        changes = [] if record.folded else [AlarmChange("raised", record, at_ns, new=urgent)]
        return [*changes, *self._supersede(record, at_ns), *self._release(at_ns)]

    def set_members(self, key: Key, members: Iterable[str], *, at_ns: int) -> list[AlarmChange]:
        """Change the list of an alarm flood. A bed that joins makes an acknowledged or paused alarm sound again."""
        record = self._active.get(key)
        listed = tuple(members)
        if record is None or record.members == listed:
            return []
        joined = bool(set(listed) - set(record.members))
        record = replace(record, members=listed, args={**record.args, "beds": float(len(listed))})
        if joined:
            record = replace(record, acknowledged=False, by="", acknowledged_ns=0, paused_until_ns=0)
        self._active[key] = record
        return [AlarmChange("raised", record, at_ns, new=joined)]

    def adopt(self, record: AlarmRecord, *, at_ns: int) -> list[AlarmChange]:
        """Take over a latched alarm of a bed that is no more; nothing happens if there is one of its kind here."""
        if record.key in self._active:
            return []
        self._number += 1
        mine = replace(record, number=self._number, present=False, ended_ns=record.ended_ns or at_ns)
        self._active[mine.key] = mine
        return [AlarmChange("raised", mine, at_ns, new=True)]

    def end_all(self, *, at_ns: int) -> list[AlarmChange]:
        """Take the end of monitoring: every alarm is over, latched or not."""
        self._waiting.clear()
        over = [replace(a, present=False, ended_ns=a.ended_ns or at_ns) for a in self._active.values() if not a.folded]
        self._active.clear()
        return [AlarmChange("ended", record, at_ns) for record in over]

    def snapshot(self) -> dict[str, Any]:
        """Return the state as it is now, for msgspec to encode later or elsewhere; otherwise as `to_dict`."""
        return {
            "number": self._number,
            "active": list(self._active.values()),
            "waiting": list(self._waiting.values()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain types."""
        return {
            "number": self._number,
            "active": [asdict(a) for a in self._active.values()],
            "waiting": [asdict(a) for a in self._waiting.values()],
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any], *, source_id: str = "") -> BedAlarms:
        """Return the alarms saved by `to_dict`, of this version or the one before.

        After a restart nobody knows whether a condition still holds, so each stays present until the signal says
        otherwise.

        Parameters
        ----------
        source_id : str
            Source of the alarms of the version before, which knew only one per bed.

        Raises
        ------
        ValueError
            If the state is not one that `to_dict` wrote.
        """
        alarms = cls()
        try:
            alarms._number = int(state["number"])
            for name, kept in (("active", alarms._active), ("waiting", alarms._waiting)):
                for entry in state[name]:
                    if entry["code"] not in RULES:
                        raise ValueError(f"unknown alarm code {entry['code']!r}")
                    of_source = RULES[entry["code"]].scope == "source"
                    old = {"source_id": source_id, "scope": source_id if of_source else ""}
                    record = AlarmRecord(**{**old, **entry, **{k: tuple(entry.get(k, ())) for k in _LISTS}})
                    kept[record.key] = record
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a saved alarm state: {error}") from error
        return alarms

    def present(self) -> list[AlarmRecord]:
        """Return the alarms whose conditions are believed to hold now, those too that are not signalled."""
        return [a for a in self._active.values() if a.present] + [
            a for k, a in self._waiting.items() if k not in self._active
        ]

    def present_codes(self) -> set[str]:
        """Return the codes of the conditions believed to hold now."""
        return {a.code for a in self.present()}
