"""An alarm as FHIR R4: one transaction with one Observation, replaced as the alarm changes.

Responsible for the resource. Not responsible for sending.

R4 has no resource for an alert of a device (DeviceAlert comes with R6). An Observation says when (`effectivePeriod`),
where (`subject`, a Location by identifier: what is monitored is a bed), what (`code`), and with which values
(`component`). `status` is ``preliminary`` while it is signalled and ``final`` when it is over.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from edgeward.bedside import Notice
from edgeward.clinic.imaging.fhir_bundle import Addresses
from edgeward.clinic.notices.wording import MDC, beds, bound_sign, event, headline, words
from edgeward.parameters import PARAMETERS

Resource = dict[str, Any]

_SPACE = uuid.UUID("5f0e9ddc-6f02-4c53-8d5c-8d3e14e2b3b5")
_MDC_SYSTEM = "urn:iso:std:iso:11073:10101"
_LOINC = "http://loinc.org"
_UCUM = "http://unitsofmeasure.org"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def build_alarm_bundle(notice: Notice, site: str, addresses: Addresses) -> bytes:
    """Return the transaction for one notice, as JSON.

    Parameters
    ----------
    site
        Name of the site: an alarm's number is unique within it.
    addresses
        How the server is written to.
    """
    alarm = notice.alarm
    key = str(uuid.uuid5(_SPACE, f"{site}/{alarm.alarm_id}/{alarm.raised_ns}"))
    code = event(alarm)
    coding = [{"system": _MDC_SYSTEM, "code": code.value, "display": code.meaning}] if code.system == MDC else []
    coding.append({"system": "urn:edgeward:alarm", "code": alarm.code})
    over = alarm.state == "ended"
    period = {"start": instant(alarm.onset_ns or alarm.raised_ns)}
    if over:
        period["end"] = instant(max(alarm.ended_ns or notice.at_ns, alarm.onset_ns or alarm.raised_ns))
    place = alarm.bed_id or alarm.device_id
    resource: Resource = {
        "resourceType": "Observation",
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{key}"}],
        "status": "final" if over else "preliminary",
        "category": [{"coding": [{"system": _CATEGORY, "code": "procedure"}]}],
        "code": {"coding": coding, "text": words(alarm)},
        "subject": {
            "type": "Location",
            "identifier": {"system": f"urn:edgeward:{site}:bed", "value": place},
            "display": alarm.label or place,
        },
        "effectivePeriod": period,
        "issued": instant(notice.at_ns),
        "device": {"type": "Device", "identifier": {"system": f"urn:edgeward:{site}:device", "value": alarm.device_id}}
        if alarm.device_id
        else {"type": "Device", "display": "Edgeward"},
        "valueString": headline(alarm, alarm.label or place) + (f"; beds: {beds(notice)}" if alarm.members else ""),
        "component": [
            _text("priority", str(alarm.priority.value)),
            _text("state", "latched" if not alarm.present and not over else alarm.state),
        ],
    }
    if alarm.acknowledged and alarm.by:
        resource["component"].append(_text("acknowledged-by", alarm.by))
    if alarm.late:
        resource["component"].append(_text("late", f"{alarm.late_ms:.0f} ms"))
    for vital in notice.vitals:
        parameter = PARAMETERS.get(vital.parameter)
        if parameter is None or not parameter.loinc or vital.value is None or vital.stale:
            continue
        quantity: Resource = {"value": vital.value, "unit": vital.unit, "system": _UCUM, "code": vital.unit}
        if off := bound_sign(vital.bound):
            quantity["comparator"] = off
        resource["component"].append(
            {
                "code": {"coding": [{"system": _LOINC, "code": parameter.loinc}], "text": vital.parameter},
                "valueQuantity": quantity,
            }
        )
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [addresses.entry(resource, key)]}
    return msgspec.json.encode(bundle)


def _text(name: str, value: str) -> Resource:
    return {"code": {"coding": [{"system": "urn:edgeward:alarm-attribute", "code": name}]}, "valueString": value}


def instant(at_ns: int) -> str:
    """Return a moment as a FHIR instant in UTC, to the millisecond."""
    return (_EPOCH + timedelta(milliseconds=at_ns // 10**6)).isoformat(timespec="milliseconds")
