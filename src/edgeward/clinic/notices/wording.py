"""An alarm in plain words, for messages to people and systems outside the console.

Responsible for short English texts and for the codes of events. The console speaks the reader's language; what leaves
by HL7, mail or webhook is the console's English and carries the code beside the text.

Codes: IEEE 11073-10101, partition 3 (events), as printed in DICOM PS3.16 CID 3038 and IHE PCD TF-2. Where no code is
known for sure, our own (`LOCAL`) stands in its place rather than a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from edgeward.bedside import MOST_PLACES, Notice
from edgeward.clinic.notices.sentences import PARAMETERS, SENTENCES
from edgeward.messages import Alarm, AlarmPriority, VitalState
from edgeward.phrases import UNITS, fill, particulars

LOCAL = "99EDGEWARD"
MDC = "MDC"


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept: `value` of `system`, with the words that go with it."""

    value: str
    meaning: str
    system: str


_EVENTS = {
    "asystole": Code("199684", "MDC_EVT_ECG_ASYSTOLE", MDC),  # 3:3076
    "atrial_fibrillation": Code("199736", "MDC_EVT_ECG_ATR_FIB", MDC),  # 3:3128
    "apnea": Code("199680", "MDC_EVT_APNEA", MDC),  # 3:3072
    "apnoea": Code("199680", "MDC_EVT_APNEA", MDC),
    "lead_off": Code("196680", "MDC_EVT_LEAD_OFF", MDC),  # 3:72
    "all_leads_off": Code("196680", "MDC_EVT_LEAD_OFF", MDC),
}
_HIGH = Code("196648", "MDC_EVT_HI", MDC)  # 3:40
_LOW = Code("196670", "MDC_EVT_LO", MDC)  # 3:62


def event(alarm: Alarm) -> Code:
    """Return what kind of event an alarm is."""
    if (code := _EVENTS.get(alarm.code)) is not None:
        return code
    if alarm.code in ("parameter_low", "parameter_extreme_low"):
        return _LOW
    if alarm.code in ("parameter_high", "parameter_extreme_high"):
        return _HIGH
    return Code(alarm.code, words(alarm), LOCAL)


def words(alarm: Alarm) -> str:
    """Return the alarm as a short English sentence, such as ``SpO₂ 84 %: below 90``, in the console's words.

    A code that we have no sentence for is said as it is, with its particulars.
    """
    args = particulars(alarm.args)
    if "parameter" in args:
        args["parameter"] = named(str(args["parameter"]))
    sentence = SENTENCES.get(alarm.code)
    if sentence is None:
        details = [
            f"{name.replace('_', ' ')} {_plain(value)}" for name, value in args.items() if value not in ("", None)
        ]
        text = alarm.code.replace("_", " ")
        return f"{text}: {', '.join(details)}" if details else text
    text = fill(sentence, args)
    # Who reads this cannot see the console, where the system page says why.
    why = alarm.args.get("reason") if alarm.code == "alarm_system_failure" else ""
    return f"{text}: {why}" if why else text


def _plain(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float | int) else str(value)


def named(parameter: str) -> str:
    """Return what a parameter is called."""
    return PARAMETERS.get(parameter, parameter.replace("_", " "))


def beds(notice: Notice, room: int | None = None) -> str:
    """Return which beds an alarm of several is about, as ``Bed 1, Bed 2 and 25 more``; empty if it is of one bed.

    Parameters
    ----------
    room
        The most characters; one bed is named in any case.
    """
    labels = bed_labels(notice)
    text = _list(labels, len(notice.alarm.members))
    while room is not None and len(text) > room and len(labels) > 1:
        labels = labels[:-1]
        text = _list(labels, len(notice.alarm.members))
    return text


def _list(labels: Sequence[str], count: int) -> str:
    more = f" and {count - len(labels)} more" if count > len(labels) else ""
    return ", ".join(labels) + more


def bed_labels(notice: Notice) -> list[str]:
    """Return what the beds of an alarm of several are called, the first `MOST_PLACES` of them."""
    members = notice.alarm.members[:MOST_PLACES]
    return notice.places[:MOST_PLACES] if len(notice.places) >= len(members) else members  # of the version before


def bound_sign(bound: object) -> str:
    """Return what stands before a value off the scale of its device: the true one lies below, or above."""
    return {"below": "<", "above": ">"}.get(str(bound), "")


def headline(alarm: Alarm, place: str) -> str:
    """Return one line: how urgent, where, what."""
    urgency = {AlarmPriority.HIGH: "HIGH", AlarmPriority.MEDIUM: "MEDIUM", AlarmPriority.LOW: "LOW"}[alarm.priority]
    technical = " (technical)" if alarm.technical else ""
    late = " LATE" if alarm.late else ""
    return f"{urgency}{late} {place}: {words(alarm)}{technical}"


def reading(vital: VitalState) -> str:
    """Return one value as ``Heart rate 142 /min``; dashes if there is none or it is old."""
    name = named(vital.parameter)
    if vital.value is None or vital.stale:
        return f"{name} --"
    return f"{name} {bound_sign(vital.bound)}{vital.value:g} {UNITS.get(vital.unit, vital.unit)}".rstrip()


def clock(at_ns: int) -> str:
    """Return a moment in the site's local time, with its offset."""
    return datetime.fromtimestamp(at_ns / 1e9).astimezone().isoformat(timespec="seconds")
