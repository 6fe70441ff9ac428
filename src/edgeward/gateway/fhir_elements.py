"""Elements of FHIR R4 resources, read from JSON that somebody else wrote: names, identifiers, times, codes, references.

Pure. Nothing is taken for granted: what is not of its type is as good as absent, unless it is required. Not responsible
for which element of a resource means what (``fhir_orders``).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import Any

from edgeward.gateway.order_entry import Assigner, Code
from edgeward.hl7 import values

DCM = "http://dicom.nema.org/resources/ontology/DCM"
SEVERAL: dict[str, Any] = {"resourceType": "several"}
"""What a name leads to that several different resources have."""


class FhirError(ValueError):
    """A resource cannot be used.

    Attributes
    ----------
    code
        Of the value set IssueType.
    expression
        FHIRPath of what is wrong; the text never quotes it.
    """

    def __init__(self, status: int, code: str, text: str, expression: str = "") -> None:
        super().__init__(text)
        self.status, self.code, self.expression = status, code, expression


def named(resources: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return resources by what references name them by; a name that several different ones have leads to none."""
    found: dict[str, dict[str, Any]] = {}
    for name, resource in resources:
        known = found.setdefault(name, resource)
        found[name] = resource if known is resource or _same(known, resource) else SEVERAL
    return found


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    try:
        return one == other
    except RecursionError:
        return False


def human_name(names: list[dict[str, Any]]) -> str:
    """Return a HumanName as DICOM PN: the official one, or the usual one, or the first; one of former times last."""
    order = {"official": 0, "usual": 1, "old": 3}
    for name in sorted(names, key=lambda one: order.get(str(one.get("use", "")), 2)):
        given = [_part(one) for one in texts(name.get("given"))]
        parts = [
            _part(name.get("family", "")),
            given[0] if given else "",
            " ".join(given[1:]),
            " ".join(_part(one) for one in texts(name.get("prefix"))),
            " ".join(_part(one) for one in texts(name.get("suffix"))),
        ]
        if any(parts):
            return "^".join(parts).rstrip("^")[:64]
        if name.get("text"):
            return display_name(name["text"])
    return ""


def display_name(text: Any) -> str:
    """Return a name that is only a text as PN; "Family, Given" is told apart, anything else is one component."""
    family, _, given = str(text or "").partition(",")
    return "^".join(filter(None, (_part(family), _part(given))))[:64]


def _part(text: Any) -> str:
    return values.clean(str(text)).replace("^", " ").replace("=", " ")


def person(reference: Any, here: dict[str, dict[str, Any]]) -> str:
    """Return the name of whom a reference names: of a resource that came along, else as it is displayed."""
    told = table(reference)
    found = here.get(str(told.get("reference", "")), {})
    return human_name(rows(found, "name")) or display_name(told.get("display"))


def assigner(identifier: dict[str, Any]) -> str:
    """Return who gave a patient's number: as it is displayed, else its system."""
    told = str(table(identifier.get("assigner")).get("display", "")) or str(identifier.get("system", ""))
    return values.clean(told)


def namespace(identifier: dict[str, Any]) -> Assigner:
    """Return who gave an identifier, as HL7 v2 and DICOM name it (table 0301)."""
    system = values.clean(str(identifier.get("system", "")), 255)
    universal = system.removeprefix("urn:oid:").removeprefix("urn:uuid:")
    kind = "URI" if universal == system else "ISO" if system.startswith("urn:oid:") else "UUID"
    return Assigner(universal_id=universal, kind=kind if universal else "")


def in_use(identifiers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the Identifiers that may be used (``use`` is a modifier): no old ones, temporary and secondary last."""
    usable = [one for one in identifiers if one.get("use") != "old"]
    return sorted(usable, key=lambda one: one.get("use") in ("temp", "secondary"))


def understood(resource: dict[str, Any], where: str) -> None:
    """Refuse a resource, or a part of one, whose meaning something changes that is not known here (R4, 2.4.1.3).

    Raises
    ------
    FhirError
        If it has a ``modifierExtension`` or ``implicitRules``.
    """
    if resource.get("modifierExtension"):
        raise FhirError(422, "extension", "a modifierExtension is not understood here", f"{where}.modifierExtension")
    if resource.get("implicitRules"):
        raise FhirError(422, "not-supported", "implicitRules are not understood here", f"{where}.implicitRules")


def value(identifier: dict[str, Any]) -> str:
    """Return the value of an Identifier."""
    return str(identifier.get("value", "")).strip()


def kinds(identifier: dict[str, Any]) -> set[str]:
    """Return the types of an Identifier (v2-0203)."""
    return {str(one.get("code", "")) for one in codings(identifier.get("type"))}


def datetime(text: str) -> dt.datetime | None:
    """Return a dateTime as a moment, in the site's zone if it names none; None if it is none."""
    if not re.fullmatch(r"\d{4}(-\d{2}(-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?)?)?", text):
        return None
    try:
        at = dt.datetime.fromisoformat(text + "-01" * (2 - text[:10].count("-")) if "T" not in text else text)
        return at if at.tzinfo else at.astimezone()
    except (ValueError, OverflowError):
        return None


def moment(text: Any) -> int:
    """Return a dateTime in nanoseconds since the epoch; 0 if there is none."""
    at = datetime(str(text)) if text else None
    return values.nanoseconds(at) if at else 0


def number(text: str, most: int, where: str) -> str:
    """Return an identifier: never shortened, because a shortened number is another one."""
    text = text.strip()
    if len(text) > most or values.clean(text, most) != text:
        raise FhirError(422, "value", f"it is longer than {most} characters or holds characters DICOM lacks", where)
    return text


def coding(codings: list[dict[str, Any]]) -> Code:
    """Return a code as DICOM writes it: the first that is not a modality; its system in short (PS3.16, 8)."""
    schemes = {"http://snomed.info/sct": "SCT", "http://loinc.org": "LN", DCM: "DCM", "http://www.radlex.org": "RADLEX"}
    for one in sorted(codings, key=lambda coding: coding.get("system") == DCM):
        value = values.clean(str(one.get("code", "")), 16)
        if value:
            scheme = schemes.get(str(one.get("system", "")), "L")
            return Code(value=value, scheme=scheme, meaning=values.clean(str(one.get("display", ""))))
    return Code()


def codings(concept: Any) -> list[dict[str, Any]]:
    """Return the codings of a CodeableConcept."""
    return rows(table(concept), "coding")


def concept(value: Any) -> str:
    """Return what a CodeableConcept says in words."""
    told = table(value)
    return str(told.get("text", "")) or next((str(one["display"]) for one in codings(told) if one.get("display")), "")


def table(value: Any) -> dict[str, Any]:
    """Return an element that is an object, or an empty one."""
    return value if isinstance(value, dict) else {}


def rows(table: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the objects of an element that repeats."""
    value = table.get(name)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def texts(value: Any) -> list[str]:
    """Return the strings of an element that repeats."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def text(value: Any, where: str) -> str:
    """Return an element that must be a string, and not empty."""
    if not isinstance(value, str) or not value:
        raise FhirError(422, "required", "it is missing", where)
    return value
