"""Numerics as FHIR R4 says them: Observation, alone or in a Bundle, by the vital signs profile or close to it.

Responsible for reading these resources into `Numerics`. Pure: not responsible for how they arrive or how they are
answered (``fhir_vital_routes``), or for what is a value (``measurement``).

What is measured is ``Observation.code`` and the codes of its components, by LOINC or MDC
(``urn:iso:std:iso:11073:10101``). Where it was measured is ``Observation.device``, when a system speaks for several: by
its identifier, reference or display; without one it is the enrolled device itself. Of the subject, only a keyed digest
goes further.

When it was measured is ``Observation.effective[x]``, else ``issued``. Neither is the time of sending: a record system
sends results of yesterday, and to learn its clock from them would make them results of now. Only ``Bundle.timestamp``
is compared with the arrival; without it the times are taken to be true.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeward import codes, units
from edgeward.bedside import Numerics, Vital
from edgeward.gateway.fhir_elements import FhirError
from edgeward.gateway.handover import source_id
from edgeward.hl7 import values
from edgeward.measurement import SCALES, Bound, comparator, is_level, measured

LOINC = "http://loinc.org"
MDC = "urn:iso:std:iso:11073:10101"
UCUM = "http://unitsofmeasure.org"
# Identifiers of code systems may be written as OIDs.
LOINC_SYSTEMS = (LOINC, "urn:oid:2.16.840.1.113883.6.1")
MDC_SYSTEMS = (MDC, "urn:oid:2.16.840.1.113883.6.24")
SNOMED = "http://snomed.info/sct"
_STATUSES = ("registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown")
_ABSENT = frozenset({
    "unknown", "asked-unknown", "temp-unknown", "not-asked", "asked-declined", "masked", "not-applicable",
    "unsupported", "as-text", "error", "not-a-number", "negative-infinity", "positive-infinity", "not-performed",
    "not-permitted",
})  # fmt: skip
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})?", re.ASCII)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MOST_COMPONENTS = 100
_WITHOUT_RESULT = {"entered-in-error": "entered_in_error", "cancelled": "not_obtained", "registered": "pending"}
_VALUES_READ = frozenset({
    "valueQuantity", "valueInteger", "valueBoolean", "valueCodeableConcept", "valueString"
})  # fmt: skip
_HISTORY = re.compile(r"/_history/[^/]*$")
_INFINITIES: dict[str, Bound] = {"negative-infinity": "below", "positive-infinity": "above"}


def read(
    resource: dict[str, Any],
    *,
    device_id: str,
    received_ns: int,
    pseudonym: Callable[[str], str],
    sent_ns: int = 0,
) -> tuple[Numerics | None, int]:
    """Return what an Observation measures (None: nothing of ours), and how many of its codes are unknown.

    Parameters
    ----------
    device_id
        The enrolled device that sent it.
    pseudonym
        Returns the opaque digest of a patient identifier.
    sent_ns
        When the Bundle around it was put together; 0: nothing says so.

    Raises
    ------
    FhirError
        If it is no usable Observation.
    """
    status = resource.get("status")
    if status not in _STATUSES:
        raise FhirError(422, "required", "the status is missing or not one", "Observation.status")
    if not _rows(resource.get("code"), "coding") and not _table(resource.get("code")).get("text"):
        raise FhirError(422, "required", "what was observed is missing", "Observation.code")
    _nothing_unsaid(resource)
    withdrawn = _WITHOUT_RESULT.get(status, "")
    at_ns = _effective(resource)
    vitals: list[Vital] = []
    unknown = 0
    waves = False
    components = _rows(resource, "component")
    if len(components) > _MOST_COMPONENTS:
        raise FhirError(413, "too-costly", f"more than {_MOST_COMPONENTS} components", "Observation.component")
    for part, where in [(resource, "Observation"), *((one, "Observation.component") for one in components)]:
        if "valueSampledData" in part:
            waves = True  # ``fhir_waves``
            continue
        meaning, code = _meaning(part)
        if meaning is None:
            # A panel has components and no value; its own code need not be known.
            unknown += part is not resource or not components
            continue
        if part is resource and components and not _has_value(part):
            continue
        vitals.append(_vital(part, (meaning, code), at_ns, withdrawn, where))
    if not vitals and not waves:
        return None, unknown
    place, label = _place(resource)
    return (
        Numerics(
            source_id=source_id(device_id, place),
            device_id=device_id,
            protocol="fhir",
            received_ns=received_ns,
            vitals=vitals,
            sent_ns=sent_ns,
            clock="device" if sent_ns else "site",
            label=values.clean(label),
            patient=_patient(resource, pseudonym),
        ),
        unknown,
    )


def merged(numerics: Sequence[Numerics]) -> list[Numerics]:
    """Return numerics with those of one source put together, in their order.

    Raises
    ------
    FhirError
        If two patients are said to be at one place.
    """
    by_source: dict[str, list[Numerics]] = {}
    for one in numerics:
        by_source.setdefault(one.source_id, []).append(one)
    result = []
    for rows in by_source.values():
        patients = {row.patient for row in rows if row.patient}
        if len(patients) > 1:
            raise FhirError(
                422, "business-rule", "two subjects at one place: tell the places apart by device", "Observation.device"
            )
        first = rows[0]
        result.append(
            Numerics(
                source_id=first.source_id,
                device_id=first.device_id,
                protocol="fhir",
                received_ns=first.received_ns,
                vitals=[vital for row in rows for vital in row.vitals],
                sent_ns=max(row.sent_ns for row in rows),
                clock=first.clock,
                label=next((row.label for row in rows if row.label), ""),
                patient=next(iter(patients), ""),
            )
        )
    return result


def sent_of(bundle: dict[str, Any]) -> int:
    """Return when a Bundle says that it was put together; 0 if it does not."""
    return instant(bundle.get("timestamp"))


def resolved(resource: dict[str, Any], bundled: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return an Observation of a Bundle, with what its subject and its device are called in that Bundle.

    In a transaction they are often named by a ``urn:uuid`` that holds for this one Bundle: to take it for
    a name would make another patient, or another bed, of each.

    Parameters
    ----------
    bundled
        The resources of the Bundle by ``fullUrl``.
    """
    found = resource
    for element in ("subject", "device"):
        reference = _table(resource.get(element))
        target = bundled.get(str(reference.get("reference", "")))
        if target is None or not str(reference.get("reference")).startswith("urn:") or reference.get("identifier"):
            continue
        names = [str(one.get("name", "")) for one in _rows(target, "deviceName")]
        identifier = next((one for one in _rows(target, "identifier") if one.get("value")), None)
        if identifier is None and element == "device":
            value = next((text for text in (str(target.get("serialNumber") or ""), *names) if text), "")
            identifier = {"value": value} if value else None
        named = {key: value for key, value in reference.items() if key != "reference"}
        if identifier is not None:
            named["identifier"] = identifier
        if names and element == "device":
            named.setdefault("display", names[0])
        found = {**found, element: named}
    return found


def _nothing_unsaid(resource: dict[str, Any]) -> None:
    """Refuse what says that it means something else than it seems to (R4, 2.4.1.3 and ``Resource.implicitRules``).

    And what nobody would read: an answer that it is taken would end the sender's care for it.
    """
    rows = [("Observation", resource), *(("Observation.component", one) for one in _rows(resource, "component"))]
    for where, row in rows:
        if row.get("modifierExtension"):
            raise FhirError(
                422, "extension", "a modifierExtension is not understood here", f"{where}.modifierExtension"
            )
    if resource.get("implicitRules"):
        raise FhirError(422, "not-supported", "implicitRules are not understood here", "Observation.implicitRules")


# ---------------------------------------- one value


def _vital(part: dict[str, Any], coded_as: tuple[codes.Meaning, str], at_ns: int, withdrawn: str, where: str) -> Vital:
    meaning, code = coded_as
    parameter = meaning.parameter
    absent = next((str(one.get("code", "")) for one in _rows(part.get("dataAbsentReason"), "coding")), "")
    why = withdrawn
    if not why and "dataAbsentReason" in part:
        why = absent.replace("-", "_") if absent in _ABSENT else "no_value"
    quantity = _table(part.get("valueQuantity"))
    value: Any = None
    unit = ""
    bound: Bound = ""
    if parameter.name in SCALES and not withdrawn:
        bound = _off_scale(part, absent)
        why = "" if bound else why
    if quantity:
        value = quantity.get("value")
        if value is not None and not _is_number(value):
            raise FhirError(422, "value", "the value of a Quantity must be a number", f"{where}.valueQuantity.value")
        if sign := quantity.get("comparator"):
            bound = comparator(str(sign))
            why = why or ("" if bound else "comparator")
        read = quantity.get("system") in (UCUM, *MDC_SYSTEMS, None)
        code_of_unit, text_of_unit = str((quantity.get("code") if read else "") or ""), str(quantity.get("unit") or "")
        unit = code_of_unit or text_of_unit
        if units.differ((code_of_unit, text_of_unit)):
            unit = "?"  # which of the two the number is in cannot be told
        # A Quantity without any unit is a pure number: nothing that a parameter with a unit could be.
        unit = unit or ("1" if parameter.unit == "1" else "?")
    elif "valueInteger" in part:
        value, unit = part["valueInteger"], "1"
        if isinstance(value, bool) or not isinstance(value, int):
            raise FhirError(422, "value", "the value must be an integer", f"{where}.valueInteger")
    elif "valueBoolean" in part:
        value, unit = part["valueBoolean"] is True, "1"
    elif "valueCodeableConcept" in part:
        value = _words(part["valueCodeableConcept"])
    elif "valueString" in part:
        value = str(part["valueString"])
    elif other := next((name for name in part if name.startswith("value") and name not in _VALUES_READ), ""):
        raise FhirError(
            422, "not-supported", f"a value of this type is not read for {parameter.name}", f"{where}.{_cut(other)}"
        )
    return measured(parameter, value, unit, at_ns=at_ns, code=code, why=why, bound=bound)


def _off_scale(part: dict[str, Any], absent: str) -> Bound:
    """Return what an Observation without a number says of the end of the scale.

    ``dataAbsentReason`` negative- or positive-infinity, or ``interpretation`` (HL7 v3 ObservationInterpretation) "<"
    (off scale low) or ">" (off scale high).
    """
    if absent in _INFINITIES:
        return _INFINITIES[absent]
    for concept in _rows(part, "interpretation"):
        for coding in _rows(concept, "coding"):
            if bound := comparator(str(coding.get("code", ""))):
                return bound
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _words(concept: Any) -> str:
    """Return the level of consciousness that a concept stands for, else its first text."""
    table = _table(concept)
    codings = _rows(table, "coding")
    known = [codes.LEVELS.get(str(one.get("code"))) for one in codings if one.get("system") == SNOMED]
    found = [str(text) for text in (*known, table.get("text"), *(one.get("display") for one in codings)) if text]
    return next((text for text in found if is_level(text)), found[0] if found else "")


def _has_value(part: dict[str, Any]) -> bool:
    return any(name.startswith("value") for name in part) or "dataAbsentReason" in part


def _meaning(part: dict[str, Any]) -> tuple[codes.Meaning | None, str]:
    meanings: list[tuple[codes.Meaning, str]] = []
    for coding in _rows(part.get("code"), "coding"):
        code, system = str(coding.get("code", "")), coding.get("system")
        found = None
        if system in LOINC_SYSTEMS:
            found = codes.BY_LOINC.get(code)
        elif system in MDC_SYSTEMS:
            found = codes.mdc(code) or codes.BY_REFERENCE.get(code)
        if found is not None:
            meanings.append((found, code))
    return codes.one_of(meanings) or (None, "")


def _cut(name: str) -> str:
    """Return the name of an element as it may be told: what a sender made up is not quoted."""
    return name if re.fullmatch(r"value[A-Z][A-Za-z]{1,30}", name) else "value[x]"


# ---------------------------------------- when, where, who


def _effective(resource: dict[str, Any]) -> int:
    period = _table(resource.get("effectivePeriod"))
    events = _table(resource.get("effectiveTiming")).get("event")
    for text in (
        resource.get("effectiveDateTime"),
        resource.get("effectiveInstant"),
        period.get("end"),
        period.get("start"),
        events[-1] if isinstance(events, list) and events else None,
    ):
        if text is None:
            continue
        if not isinstance(text, str):
            raise FhirError(422, "value", "the time is not one", "Observation.effective[x]")
        at_ns = _day(text) if _DAY.fullmatch(text) else instant(text)
        if not at_ns:
            why = "the time is not one, or not known to the day"  # vs-1 of the vital signs profile
            raise FhirError(422, "value", why, "Observation.effective[x]")
        return at_ns
    return instant(resource.get("issued"))


def _day(text: str) -> int:
    """Return the beginning of a day as nanoseconds, by the site's zone; 0 if there is none such.

    It was measured at any time since: as what is of now it must not pass.
    """
    try:
        at = dt.datetime.fromisoformat(text).astimezone()
        return values.nanoseconds(at) if 1970 < at.year < 2200 else 0
    except (ValueError, OverflowError, OSError):
        return 0


def instant(text: Any) -> int:
    """Return a dateTime as nanoseconds; 0 if it is none, or known to the day only."""
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        return 0
    try:
        # A leap second (:60) is allowed in FHIR, and none in Python.
        at = dt.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", re.sub(r"(T\d\d:\d\d):60", r"\1:59", text)))
        at = at if at.tzinfo else at.astimezone()
        return values.nanoseconds(at) if at.year < 2200 else 0
    except (ValueError, OverflowError, OSError):
        return 0


def _place(resource: dict[str, Any]) -> tuple[str, str]:
    """Return what tells the device apart that measured, and what people call it."""
    device = _table(resource.get("device"))
    identifier = str(_table(device.get("identifier")).get("value", ""))
    reference, display = str(device.get("reference", "")), str(device.get("display", ""))
    if reference.startswith("#"):
        found = next((one for one in _rows(resource, "contained") if f"#{one.get('id')}" == reference), {})
        inner = next((str(one.get("value", "")) for one in _rows(found, "identifier")), "")
        names = next((str(one.get("name", "")) for one in _rows(found, "deviceName")), "")
        name = identifier or inner or str(found.get("serialNumber", "")) or display or names
        if not name:  # it would be taken for the sender's own bed, and so would every other
            raise FhirError(
                422, "not-found", "the contained device is not there, or nothing identifies it", "Observation.device"
            )
        return name[:512], display or names
    if reference.startswith("urn:uuid:") and not identifier and not display:
        raise FhirError(422, "not-found", "the device is not in the Bundle, or has no identifier", "Observation.device")
    reference = _HISTORY.sub("", reference.removeprefix("Device/"))
    return (identifier or reference or display)[:512], display


def _patient(resource: dict[str, Any], pseudonym: Callable[[str], str]) -> str:
    subject = _table(resource.get("subject"))
    identifier = _table(subject.get("identifier"))
    reference = str(subject.get("reference", ""))
    if reference.startswith("#") and not identifier:
        found = next((one for one in _rows(resource, "contained") if f"#{one.get('id')}" == reference), {})
        identifier = next((one for one in _rows(found, "identifier") if one.get("value")), {})
    if identifier.get("value"):
        return pseudonym(f"{identifier.get('system', '')}\0{identifier['value']}")
    reference = _HISTORY.sub("", reference)  # another version of a patient is no other patient
    return pseudonym(f"reference\0{reference}") if reference and not reference.startswith("#") else ""


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def coded(table: Any, name: str) -> list[dict[str, Any]]:
    """Return the rows of an element that may be anything."""
    return _rows(table, name)


def _rows(table: Any, name: str) -> list[dict[str, Any]]:
    value = _table(table).get(name)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
