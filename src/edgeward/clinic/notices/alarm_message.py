"""An alarm as HL7 v2.6: ORU^R40, IHE PCD-04 "Report Alert" (PCD TF-2, 3.4 and appendix).

Responsible for segments, facets and codes. Not responsible for sending.

One message per transition of an alarm, all of one alarm with the same OBR-3. The patient is not in it: the alarm is
found by the place (PV1-3), because what is monitored here is a bed; PID is there since the grammar asks for it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from edgeward.bedside import Notice
from edgeward.clinic.notices.wording import LOCAL, beds, bound_sign, event, words
from edgeward.hl7 import er7
from edgeward.messages import Alarm, AlarmPriority
from edgeward.parameters import PARAMETERS

_PROFILE = ("IHE_PCD_ACM_001", "IHE PCD", "1.3.6.1.4.1.19376.1.6.1.4.1", "ISO")  # MSH-21
_ORIGINAL_TEXT = 199  # characters of CWE.9 (v2.6, 2A.3.13)
_PRIORITY = {AlarmPriority.HIGH: "PH", AlarmPriority.MEDIUM: "PM", AlarmPriority.LOW: "PL"}
_HEART = ("147842", "MDC_ECG_HEART_RATE", "MDC")
_DEVICE = ("69965", "MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS", "MDC")
#: What a physiological alarm without a value is about, where it is not the heart's rhythm.
_SOURCES = {
    "apnea": ("151562", "MDC_RESP_RATE", "MDC"),
    "no_pulse": ("149530", "MDC_PULS_OXIM_PULS_RATE", "MDC"),
    "news2_urgent": _DEVICE,
    "news2_emergency": _DEVICE,
}
_PHASE = {"start": "start", "update": "continue", "escalate": "continue", "acknowledge": "continue", "end": "end"}


@dataclass(frozen=True, slots=True)
class Parties:
    """MSH-3 to MSH-6."""

    sending_facility: str
    receiving_application: str
    receiving_facility: str
    sending_application: str = "EDGEWARD"


def control_id(notice: Notice) -> str:
    """Return MSH-10, 20 characters: a receiver recognises a repeat by it."""
    return hashlib.sha256(f"notice/{notice.notice_id}".encode()).hexdigest()[:20]


def build_alarm_message(notice: Notice, parties: Parties) -> bytes:
    """Return the message for one notice, without MLLP framing: UTF-8, segments end with a carriage return."""
    alarm = notice.alarm
    place = alarm.label or alarm.bed_id or alarm.device_id
    raised, at = stamp(alarm.raised_ns), stamp(notice.at_ns)
    number = (alarm.alarm_id, parties.sending_application, f"{parties.sending_facility}", LOCAL)
    segments = [
        er7.segment(
            "MSH",
            parties.sending_application,
            parties.sending_facility,
            parties.receiving_application,
            parties.receiving_facility,
            at,
            "",
            ("ORU", "R40", "ORU_R40"),
            control_id(notice),
            "P",
            "2.6",
            "", "", "AL", "NE", "",
            "UNICODE UTF-8",
            "", "",
            _PROFILE,
        ),
        er7.segment("PID", "", "", "", "", ""),
        er7.segment("PV1", "", "I", (alarm.ward, "", place, parties.sending_facility)),
        er7.segment("OBR", "1", number, number, ("196616", "MDC_EVT_ALARM", "MDC"), "", "", raised),
        *_facets(notice, place, raised, at),
    ]  # fmt: skip
    return er7.join(segments).encode("utf-8", "replace")


def _facets(notice: Notice, place: str, raised: str, at: str) -> list[str]:
    """Return one OBX per facet of the alert, as PCD TF-2 orders them."""
    alarm, code = notice.alarm, event(notice.alarm)
    flags: list[str | tuple[str, ...]] = [_PRIORITY[alarm.priority], "ST" if alarm.technical else "SP"]
    if alarm.code.endswith("_low"):
        flags.append("L")
    elif alarm.code.endswith("_high"):
        flags.append("H")
    who: er7.Value = (alarm.device_id or place, "", "EDGEWARD")
    text = words(alarm)
    if alarm.members:  # an alarm manager shows this text; all that are named at all stand in the comment (NTE)
        text += f": {beds(notice, _ORIGINAL_TEXT - len(text) - 2)}"
    kind = (code.value, code.meaning, code.system, "", "", "", "", "", text)
    facets: list[tuple[str, tuple[str, ...], er7.Value, er7.Value, str, er7.Value]] = [
        ("CWE", ("196616", "MDC_EVT_ALARM", "MDC"), kind, "", "", flags),
        _source(alarm),
        ("ST", ("68481", "MDC_ATTR_EVENT_PHASE", "MDC"), _PHASE[notice.phase], "", "", ""),
        ("ST", ("68482", "MDC_ATTR_ALARM_STATE", "MDC"), _state(alarm), "", "", ""),
        ("ST", ("68483", "MDC_ATTR_ALARM_INACTIVATION_STATE", "MDC"), _inactivation(alarm, notice.at_ns), "", "", ""),
    ]
    # The times of facets are those of the onset (1, 2) and of this message (what changes).
    segments = [
        er7.segment(
            "OBX", str(number), kind_of, identifier, f"1.0.0.0.{number}", value, unit, limits, flag, "", "",
            "F", "", "", raised if number <= 2 else at, "", "", "", who,
        )
        for number, (kind_of, identifier, value, unit, limits, flag) in enumerate(facets, 1)
    ]  # fmt: skip
    if alarm.members:
        segments.insert(1, er7.segment("NTE", "1", "", f"Beds: {beds(notice)}"))
    return segments


def _source(alarm: Alarm) -> tuple[str, tuple[str, ...], er7.Value, er7.Value, str, er7.Value]:
    """Return facet 2: the value that alarmed with its limit, or the channel."""
    parameter = PARAMETERS.get(str(alarm.args.get("parameter", "")))
    value, limit = alarm.args.get("value"), alarm.args.get("limit")
    if parameter is not None and parameter.mdc_code and isinstance(value, float | int):
        beyond = "<" if alarm.code.endswith("_high") else ">"  # OBX-7 is the range that would be in order
        limits = f"{beyond}{limit:g}" if isinstance(limit, float | int) else ""
        identifier = (str(parameter.mdc_code), parameter.mdc, "MDC")
        unit = (parameter.unit, "", "UCUM")
        if off := bound_sign(alarm.args.get("bound")):  # structured numeric (v2.6, 2A.3.66): comparator, number
            return "SN", identifier, (off, f"{value:g}"), unit, limits, ""
        return "NM", identifier, f"{value:g}", unit, limits, ""
    source = _DEVICE if alarm.technical or alarm.args.get("parameter") else _SOURCES.get(alarm.code, _HEART)
    return "CWE", ("68480", "MDC_ATTR_ALERT_SOURCE", "MDC"), source, "", "", ""


def _state(alarm: Alarm) -> str:
    if alarm.state == "ended":
        return "inactive"
    return "active" if alarm.present else "latched"


def _inactivation(alarm: Alarm, at_ns: int) -> str:
    if alarm.acknowledged:
        return "alert-acknowledged"
    return "audio-paused" if alarm.audio_paused_until_ns > at_ns else "enabled"


def stamp(at_ns: int) -> str:
    """Return a moment as HL7 DTM to the millisecond, with the site's offset from UTC."""
    at = datetime.fromtimestamp(at_ns // 10**9).astimezone()
    return f"{at:%Y%m%d%H%M%S}.{at_ns // 10**6 % 1000:03d}{at:%z}"
