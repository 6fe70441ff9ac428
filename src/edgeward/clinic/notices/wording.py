"""An alarm in plain words, for messages to people and systems outside the console.

Responsible for short English texts and for the codes of events. The console has its own catalogue in the reader's
language; what leaves by HL7, mail or webhook is English and carries the code beside the text.

Codes: IEEE 11073-10101, partition 3 (events), as printed in DICOM PS3.16 CID 3038 and IHE PCD TF-2. Where no code is
known for sure, our own (`LOCAL`) stands in its place rather than a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edgeward.messages import Alarm, AlarmPriority, VitalState

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
    """Return the alarm as a short English phrase, such as ``spo2 low: 84 % (limit 90)``."""
    args = alarm.args
    parameter = str(args.get("parameter", "")).replace("_", " ")
    if parameter and alarm.code.startswith("parameter_"):
        text = f"{parameter} {alarm.code.removeprefix('parameter_').replace('_', ' ')}"
        if isinstance(value := args.get("value"), float | int):
            text += f": {bound_sign(args.get('bound'))}{value:.10g}"
            text += f" {args['unit']}" if args.get("unit") else ""
        if isinstance(limit := args.get("limit"), float | int):
            text += f" (limit {limit:.10g})"
        return text
    text = alarm.code.replace("_", " ")
    details = [
        f"{name.replace('_', ' ')} " + (f"{value:.10g}" if isinstance(value, float | int) else str(value))
        for name, value in args.items()
        if value not in ("", None)
    ]
    return f"{text}: {', '.join(details)}" if details else text


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
    """Return one value as ``heart rate 142 /min``; dashes if there is none or it is old."""
    shown = "--" if vital.value is None or vital.stale else f"{bound_sign(vital.bound)}{vital.value:g} {vital.unit}"
    return f"{vital.parameter.replace('_', ' ')} {shown}"


def clock(at_ns: int) -> str:
    """Return a moment in the site's local time, with its offset."""
    return datetime.fromtimestamp(at_ns / 1e9).astimezone().isoformat(timespec="seconds")
