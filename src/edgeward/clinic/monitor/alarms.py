"""Decides which alarms a patient has, from conditions that begin and end.

Responsible for priority, latching, acknowledgement, what supersedes what, and for the form in which alarms survive a
restart (IEC 60601-1-8:2020, 6.1 and 6.10). Pure: conditions and times are passed in, transitions are returned. It
neither looks at signals (``rhythm``) nor publishes anything (``role``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.messages import AlarmPriority


@dataclass(frozen=True, slots=True)
class Rule:
    """How one condition alarms.

    Attributes
    ----------
    priority
        IEC 60601-1-8, table 1: severity and onset of harm.
    technical
        About the equipment rather than the patient.
    latching
        Stays after the condition has ended, until somebody acknowledged it (6.10): the lethal ones.
    superseded_by
        While one of these is present, this one is not raised: it is the same event, named more precisely.
    """

    priority: AlarmPriority
    technical: bool = False
    latching: bool = False
    superseded_by: tuple[str, ...] = ()


HIGH, MEDIUM, LOW = AlarmPriority.HIGH, AlarmPriority.MEDIUM, AlarmPriority.LOW

#: The catalogue. Codes are keys of the translations.
RULES: dict[str, Rule] = {
    "asystole": Rule(HIGH, latching=True, superseded_by=("ventricular_fibrillation",)),
    "ventricular_fibrillation": Rule(HIGH, latching=True),
    "ventricular_tachycardia": Rule(HIGH, latching=True, superseded_by=("ventricular_fibrillation",)),
    "extreme_bradycardia": Rule(HIGH, latching=True, superseded_by=("asystole", "ventricular_fibrillation")),
    "extreme_tachycardia": Rule(
        HIGH, superseded_by=("ventricular_tachycardia", "ventricular_fibrillation", "asystole")
    ),
    "signal_lost": Rule(MEDIUM, technical=True),
    "all_leads_off": Rule(MEDIUM, technical=True, superseded_by=("signal_lost",)),
    "lead_off": Rule(LOW, technical=True, superseded_by=("signal_lost", "all_leads_off")),
    "noisy": Rule(LOW, technical=True, superseded_by=("signal_lost", "all_leads_off")),
    "packets_missing": Rule(LOW, technical=True, superseded_by=("signal_lost",)),
}


@dataclass(frozen=True, slots=True)
class AlarmRecord:
    """One alarm over its life. Sample indices are in the device's stream, -1 when time alone decided."""

    code: str
    number: int  # counts the alarms of this patient: with the device it makes the alarm's identity
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

    @property
    def rule(self) -> Rule:
        """The rule of this alarm's condition."""
        return RULES[self.code]

    @property
    def active(self) -> bool:
        """Whether it is still to be signalled: present, or latched and not acknowledged."""
        return self.present or (self.rule.latching and not self.acknowledged)


@dataclass(frozen=True, slots=True)
class AlarmChange:
    """A transition to be told: `state` is what happened, `alarm` how it stands now.

    ``ended`` is told when nothing more is signalled. A latched alarm whose condition has ceased is told as ``raised``
    again with ``alarm.present`` false.
    """

    state: Literal["raised", "acknowledged", "ended"]
    alarm: AlarmRecord
    at_ns: int


class PatientAlarms:
    """The alarms of one patient.

    A condition that comes back while its latched alarm is still active continues that alarm. An acknowledged alarm
    whose condition ended is over; the next onset is a new alarm.
    """

    def __init__(self) -> None:
        self._active: dict[str, AlarmRecord] = {}
        self._waiting: dict[str, AlarmRecord] = {}  # true, but superseded by a more precise one
        self._number = 0

    @property
    def active(self) -> list[AlarmRecord]:
        """Alarms to be signalled, most urgent first, then oldest first."""
        order = [HIGH, MEDIUM, LOW]
        return sorted(self._active.values(), key=lambda a: (order.index(a.rule.priority), a.raised_ns, a.number))

    def take(self, event: ConditionEvent) -> list[AlarmChange]:
        """Take a condition that begins or ends.

        Raises
        ------
        KeyError
            If its code is unknown.
        """
        if not event.present:
            return self.end(event.code, at_ns=event.at_ns, sample=event.decisive_sample)
        return self.begin(
            event.code,
            at_ns=event.at_ns,
            received_ns=event.received_ns or event.at_ns,
            onset=event.onset_sample,
            decisive=event.decisive_sample,
            args=event.args,
        )

    def _superseded(self, code: str) -> bool:
        return any(other in self._active and self._active[other].present for other in RULES[code].superseded_by)

    def begin(self, code: str, *, at_ns: int, received_ns: int, onset: int = -1, decisive: int = -1,
              args: dict[str, float | str] | None = None) -> list[AlarmChange]:  # fmt: skip
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
            Parameters of the translated message.

        Raises
        ------
        KeyError
            If the code is unknown.
        """
        rule = RULES[code]
        known = self._active.get(code)
        if known is not None:
            if known.present:
                return []
            again = replace(known, present=True, ended_ns=0, end_sample=-1, received_ns=received_ns,
                            onset_sample=onset, decisive_sample=decisive, args=dict(args or {}))  # fmt: skip
            self._active[code] = again
            return [AlarmChange("raised", again, at_ns), *self._supersede(code, at_ns)]
        self._number += 1
        record = AlarmRecord(code, self._number, at_ns, received_ns, onset, decisive, dict(args or {}))
        if rule.superseded_by and self._superseded(code):
            self._waiting[code] = record
            return []
        self._active[code] = record
        return [AlarmChange("raised", record, at_ns), *self._supersede(code, at_ns)]

    def _supersede(self, code: str, at_ns: int) -> list[AlarmChange]:
        """Put aside what `code` names more precisely. A latched alarm stays: it is a different, lethal event."""
        changes = []
        for other in [c for c, a in self._active.items() if code in RULES[c].superseded_by and a.present]:
            record = self._active[other]
            self._waiting[other] = record
            if not record.rule.latching:
                del self._active[other]
                changes.append(AlarmChange("ended", replace(record, present=False, ended_ns=at_ns), at_ns))
        return changes

    def end(self, code: str, *, at_ns: int, sample: int = -1) -> list[AlarmChange]:
        """Take the end of a condition (at stream index `sample`, if a sample told it)."""
        self._waiting.pop(code, None)
        record = self._active.get(code)
        if record is None or not record.present:
            return self._release(code, at_ns)
        record = replace(record, present=False, ended_ns=at_ns, end_sample=sample)
        if record.active:  # latched
            self._active[code] = record
            return [AlarmChange("raised", record, at_ns), *self._release(code, at_ns)]
        del self._active[code]
        return [AlarmChange("ended", record, at_ns), *self._release(code, at_ns)]

    def _release(self, code: str, at_ns: int) -> list[AlarmChange]:
        """Raise what was only hidden by `code` and still holds."""
        changes: list[AlarmChange] = []
        for other in [c for c in self._waiting if code in RULES[c].superseded_by and not self._superseded(c)]:
            record = self._waiting.pop(other)
            if other in self._active:  # was latched all the time
                continue
            # A new alarm: it may have been raised and told as ended before, and what decided it now is the release.
            self._number += 1
            record = replace(
                record, number=self._number, raised_ns=at_ns, received_ns=at_ns, acknowledged=False, by="",
                acknowledged_ns=0,
            )  # fmt: skip
            self._active[other] = record
            changes.append(AlarmChange("raised", record, at_ns))
        return changes

    def acknowledge(self, number: int, *, by: str, at_ns: int) -> list[AlarmChange]:
        """Take a clinician's acknowledgement of alarm `number`; nothing happens if it is over or acknowledged already.

        Raises
        ------
        ValueError
            If `by` is empty: an acknowledgement has a name.
        """
        if not by:
            raise ValueError("an acknowledgement needs the name of who acknowledged")
        for code, record in self._active.items():
            if record.number == number and not record.acknowledged:
                known = replace(record, acknowledged=True, by=by, acknowledged_ns=at_ns)
                change = AlarmChange("acknowledged", known, at_ns)
                if known.present:
                    self._active[code] = known
                    return [change]
                del self._active[code]
                return [change, AlarmChange("ended", known, at_ns)]
        return []

    def end_all(self, *, at_ns: int) -> list[AlarmChange]:
        """Take the end of monitoring: every alarm is over, latched or not."""
        self._waiting.clear()
        over = [replace(a, present=False, ended_ns=a.ended_ns or at_ns) for a in self._active.values()]
        self._active.clear()
        return [AlarmChange("ended", record, at_ns) for record in over]

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain types, for the alarm log."""
        return {
            "number": self._number,
            "active": [asdict(a) for a in self._active.values()],
            "waiting": [asdict(a) for a in self._waiting.values()],
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> PatientAlarms:
        """Return the alarms saved by `to_dict`.

        After a restart nobody knows whether a condition still holds, so each stays present until the signal says
        otherwise.

        Raises
        ------
        ValueError
            If the state is not one that `to_dict` wrote.
        """
        alarms = cls()
        try:
            alarms._number = int(state["number"])
            for name in ("active", "waiting"):
                for entry in state[name]:
                    kept = AlarmRecord(**entry)
                    if kept.code not in RULES:
                        raise ValueError(f"unknown alarm code {kept.code!r}")
                    getattr(alarms, f"_{name}")[kept.code] = kept
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a saved alarm state: {error}") from error
        return alarms

    def present_codes(self) -> set[str]:
        """Return the codes of the conditions believed to hold now."""
        return {c for c, a in self._active.items() if a.present} | set(self._waiting)
