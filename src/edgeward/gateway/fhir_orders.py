"""Orders as FHIR R4 says them: ServiceRequest, alone or in a Bundle with its Patient.

Responsible for reading these resources into changes of the order book. Pure: not responsible for how they arrive or how
they are answered (``fhir_routes``).

The patient has to come along, because an order without name and identifier is of no use at a modality: as an entry of
the Bundle, contained in the ServiceRequest, or as ``subject`` with ``identifier`` and ``display``.

What a ServiceRequest has no element for is found by its coding system: the modality is a coding with the DICOM system
(``http://dicom.nema.org/resources/ontology/DCM``) in orderDetail, category or code; the accession number is the
identifier of type ACSN; the study instance UID the one with system ``urn:dicom:uid``; a station's AE title an
identifier of a Device that is contained, in the Bundle, or named as ``performer``.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import Any, Literal

from edgeward.gateway.hl7_orders import modality
from edgeward.gateway.order_entry import Action, Assigner, Change, Code, Entry, Status
from edgeward.hl7 import values
from edgeward.messages import Order

DCM = "http://dicom.nema.org/resources/ontology/DCM"
_MOST_ENTRIES = 500
ID = re.compile(r"^[A-Za-z0-9\-.]{1,64}$")
_UID = re.compile(r"^(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))*$")

_ACTIONS: dict[str, tuple[Action, Status | None]] = {
    "active": ("new", None),
    "on-hold": ("cancel", None),
    "revoked": ("cancel", None),
    "entered-in-error": ("cancel", None),
    "completed": ("status", "completed"),
}
_PRIORITIES: dict[str, Literal["routine", "urgent", "stat"]] = {
    "routine": "routine",
    "urgent": "urgent",
    "asap": "urgent",
    "stat": "stat",
}
_SEXES = {"male": "M", "female": "F", "other": "O"}
_SEVERAL: dict[str, Any] = {"resourceType": "several"}
_INTENTS = ("order", "original-order", "reflex-order", "filler-order", "instance-order")


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


# ---------------------------------------- reading


def order_of(
    resource: dict[str, Any],
    around: dict[str, dict[str, Any]],
    *,
    source: str,
    received_ns: int,
    resource_id: str = "",
) -> Change:
    """Return what a ServiceRequest asks for.

    Parameters
    ----------
    around
        Other resources of its Bundle, by every reference that may name them.
    resource_id
        The id that the client chose (PUT).

    Raises
    ------
    FhirError
        If it lacks what an order needs.
    """
    status = _text(resource.get("status"), "ServiceRequest.status")
    if status not in _ACTIONS:
        raise FhirError(
            422,
            "business-rule",
            "only active, on-hold, revoked and completed orders are taken",
            "ServiceRequest.status",
        )
    if resource.get("intent") not in _INTENTS:
        raise FhirError(422, "business-rule", "the intent must be an order", "ServiceRequest.intent")
    action, told = _ACTIONS[status]
    here = around | named((f"#{one.get('id')}", one) for one in _rows(resource, "contained"))
    patient = _patient(resource, here)
    accession = _number(_value(_identifier(resource, "ACSN")), 16, "ServiceRequest.identifier")
    placed = _identifier(resource, "PLAC") or _identifier(resource, "")
    number = _value(placed) or accession
    if not number and not resource_id:
        raise FhirError(422, "required", "an order needs an identifier", "ServiceRequest.identifier")
    code = _coding(_codings(resource.get("code")))
    detail = [
        coding for name in ("orderDetail", "category") for one in _rows(resource, name) for coding in _codings(one)
    ]
    dicom = [str(one.get("code", "")) for one in (*detail, *_codings(resource.get("code"))) if one.get("system") == DCM]
    study = _study(resource)
    order = Order(
        order_id=_number(number, 199, "ServiceRequest.identifier") or resource_id,
        accession_number=accession,
        status="scheduled",
        patient_id=patient["id"],
        patient_name=patient["name"],
        birth_date=patient["birth_date"],
        sex=patient["sex"],  # type: ignore[arg-type]  # of _SEXES
        modality=modality(*dicom, *(str(one.get("code", "")) for one in detail)),
        station_ae_title=_station(resource, here),
        procedure_code=code.value,
        procedure=values.clean(_concept(resource.get("code"))) or code.meaning or code.value,
        study_instance_uid=study,
        scheduled=_scheduled(resource),
        referring_physician=_person(resource.get("requester"), here),
        priority=_PRIORITIES.get(str(resource.get("priority", "routine")), "routine"),
        source=source,
    )
    if action == "new" and not (order.patient_id and order.patient_name):
        raise FhirError(
            422, "required", "the patient's identifier and name must come with the order", "ServiceRequest.subject"
        )
    # Never later than now, or a clock that is ahead would silence all others.
    at = min(_moment(_table(resource.get("meta")).get("lastUpdated")) or received_ns, received_ns)
    entry = Entry(
        order=order,
        placer=Assigner(universal_id=values.clean(str(placed.get("system", "")), 255).removeprefix("urn:oid:")),
        issuer_of_patient_id=patient["issuer"],
        procedure_code=code,
        requesting_physician=order.referring_physician,
        reason=values.clean(next((text for one in _rows(resource, "reasonCode") if (text := _concept(one))), "")),
        comments=values.clean(" ".join(str(one.get("text", "")) for one in _rows(resource, "note")), 1024),
        resource_id=resource_id,
        message_ns=at,
        patient_ns=at,
    )
    return Change(action=action, entry=entry, status=told, patient_ids=_patient_ids(resource, here))


def _patient(resource: dict[str, Any], here: dict[str, dict[str, Any]]) -> dict[str, str]:
    subject = _table(resource.get("subject"))
    if not subject:
        raise FhirError(422, "required", "the order has no subject", "ServiceRequest.subject")
    patient = here.get(str(subject.get("reference", "")), {})
    if patient is _SEVERAL:
        raise FhirError(
            422, "duplicate", "several resources have the id that the subject names", "ServiceRequest.subject"
        )
    if patient and patient.get("resourceType") != "Patient":
        raise FhirError(422, "value", "the subject is no Patient", "ServiceRequest.subject")
    identifiers = _rows(patient, "identifier") or [_table(subject.get("identifier"))]
    medical = [one for one in identifiers if "MR" in _kinds(one)]
    chosen = next((one for one in (*medical, *identifiers) if one.get("value")), {})
    name = _human_name(_rows(patient, "name")) or _display_name(subject.get("display"))
    return {
        "id": _number(str(chosen.get("value", "")), 64, "Patient.identifier"),
        "issuer": _assigner(chosen),
        "name": name,
        "birth_date": values.date(str(patient.get("birthDate", "")).replace("-", "")),
        "sex": _SEXES.get(str(patient.get("gender", "")), ""),
    }


def _patient_ids(resource: dict[str, Any], here: dict[str, dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    subject = _table(resource.get("subject"))
    patient = here.get(str(subject.get("reference", "")), {})
    return tuple(
        (_value(one), _assigner(one))
        for one in _rows(patient, "identifier") or [_table(subject.get("identifier"))]
        if _value(one)
    )


def _assigner(identifier: dict[str, Any]) -> str:
    told = str(_table(identifier.get("assigner")).get("display", "")) or str(identifier.get("system", ""))
    return values.clean(told)


def named(resources: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return resources by what references name them by; a name that several different ones have leads to none."""
    found: dict[str, dict[str, Any]] = {}
    for name, resource in resources:
        known = found.setdefault(name, resource)
        found[name] = resource if known is resource or _same(known, resource) else _SEVERAL
    return found


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    try:
        return one == other
    except RecursionError:
        return False


def _human_name(names: list[dict[str, Any]]) -> str:
    """Return a HumanName as DICOM PN: the official one, or the usual one, or the first."""
    order = {"official": 0, "usual": 1}
    for name in sorted(names, key=lambda one: order.get(str(one.get("use", "")), 2)):
        given = [_part(one) for one in _texts(name.get("given"))]
        parts = [
            _part(name.get("family", "")),
            given[0] if given else "",
            " ".join(given[1:]),
            " ".join(_part(one) for one in _texts(name.get("prefix"))),
            " ".join(_part(one) for one in _texts(name.get("suffix"))),
        ]
        if any(parts):
            return "^".join(parts).rstrip("^")[:64]
        if name.get("text"):
            return _display_name(name["text"])
    return ""


def _display_name(text: Any) -> str:
    """Return a name that is only a text as PN; "Family, Given" is told apart, anything else is one component."""
    family, _, given = str(text or "").partition(",")
    return "^".join(filter(None, (_part(family), _part(given))))[:64]


def _part(text: Any) -> str:
    return values.clean(str(text)).replace("^", " ").replace("=", " ")


def _person(reference: Any, here: dict[str, dict[str, Any]]) -> str:
    table = _table(reference)
    found = here.get(str(table.get("reference", "")), {})
    return _human_name(_rows(found, "name")) or _display_name(table.get("display"))


def _station(resource: dict[str, Any], here: dict[str, dict[str, Any]]) -> str:
    for performer in _rows(resource, "performer"):
        device = here.get(str(performer.get("reference", "")), {})
        candidates = [*_rows(device, "identifier")] if device.get("resourceType") == "Device" else []
        if performer.get("type") == "Device":
            candidates.append(_table(performer.get("identifier")))
        for one in candidates:
            value = str(one.get("value", "")).strip()
            if value and len(value) <= 16 and values.clean(value, 16) == value:
                return value
    return ""


def _study(resource: dict[str, Any]) -> str:
    for one in _rows(resource, "identifier"):
        if one.get("system") == "urn:dicom:uid":
            uid = str(one.get("value", "")).removeprefix("urn:oid:")
            if not _UID.match(uid):
                raise FhirError(422, "value", "the study instance UID is not a UID", "ServiceRequest.identifier")
            return uid
    return ""


def _identifier(resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the identifier of a type (v2-0203); with an empty `kind`, the first that is no other's; else nothing."""
    for one in _rows(resource, "identifier"):
        kinds = _kinds(one)
        wanted = kind in kinds if kind else one.get("system") != "urn:dicom:uid" and not kinds & {"ACSN", "FILL"}
        if wanted and _value(one):
            return one
    return {}


def _value(identifier: dict[str, Any]) -> str:
    return str(identifier.get("value", "")).strip()


def _kinds(identifier: dict[str, Any]) -> set[str]:
    return {str(one.get("code", "")) for one in _codings(identifier.get("type"))}


def _scheduled(resource: dict[str, Any]) -> str:
    period, timing = _table(resource.get("occurrencePeriod")), _table(resource.get("occurrenceTiming"))
    for text in (resource.get("occurrenceDateTime"), period.get("start"), *_texts(timing.get("event"))):
        if text is None:
            continue
        at = _datetime(str(text))
        if at is None:
            raise FhirError(422, "value", "the time is not one", "ServiceRequest.occurrence[x]")
        return values.local(at)
    return ""


def _datetime(text: str) -> dt.datetime | None:
    if not re.fullmatch(r"\d{4}(-\d{2}(-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?)?)?", text):
        return None
    try:
        at = dt.datetime.fromisoformat(text + "-01" * (2 - text[:10].count("-")) if "T" not in text else text)
        return at if at.tzinfo else at.astimezone()
    except (ValueError, OverflowError):
        return None


def _moment(text: Any) -> int:
    at = _datetime(str(text)) if text else None
    return values.nanoseconds(at) if at else 0


def _number(text: str, most: int, where: str) -> str:
    text = text.strip()
    if len(text) > most or values.clean(text, most) != text:
        raise FhirError(422, "value", f"it is longer than {most} characters or holds characters DICOM lacks", where)
    return text


def _coding(codings: list[dict[str, Any]]) -> Code:
    """Return a code as DICOM writes it: the first that is not a modality; its system in short (PS3.16, 8)."""
    schemes = {"http://snomed.info/sct": "SCT", "http://loinc.org": "LN", DCM: "DCM", "http://www.radlex.org": "RADLEX"}
    for one in sorted(codings, key=lambda coding: coding.get("system") == DCM):
        value = values.clean(str(one.get("code", "")), 16)
        if value:
            scheme = schemes.get(str(one.get("system", "")), "L")
            return Code(value=value, scheme=scheme, meaning=values.clean(str(one.get("display", ""))))
    return Code()


def _codings(concept: Any) -> list[dict[str, Any]]:
    return _rows(_table(concept), "coding")


def _concept(concept: Any) -> str:
    table = _table(concept)
    return str(table.get("text", "")) or next(
        (str(one["display"]) for one in _codings(table) if one.get("display")), ""
    )


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _rows(table: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = table.get(name)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise FhirError(422, "required", "it is missing", where)
    return value


# ---------------------------------------- Bundles


def changes_of(bundle: dict[str, Any], *, source: str, received_ns: int) -> list[tuple[int, Change]]:
    """Return what the ServiceRequests of a Bundle ask for, each with its place in the Bundle.

    Raises
    ------
    FhirError
        If it is no transaction, batch, collection or message, or one of its orders cannot be used.
    """
    if bundle.get("type") not in ("transaction", "collection", "batch", "message"):
        raise FhirError(422, "value", "the Bundle must be a transaction or a collection", "Bundle.type")
    entries = _rows(bundle, "entry")
    if len(entries) > _MOST_ENTRIES:
        raise FhirError(413, "too-costly", f"a Bundle may hold {_MOST_ENTRIES} entries", "Bundle.entry")
    resources = [(entry, _table(entry.get("resource"))) for entry in entries]
    by_url = ((str(entry["fullUrl"]), one) for entry, one in resources if entry.get("fullUrl"))
    by_id = ((f"{one.get('resourceType')}/{one['id']}", one) for _, one in resources if one.get("id"))
    around = named((*by_url, *by_id))
    found = []
    for index, entry in enumerate(entries):
        resource = _table(entry.get("resource"))
        if resource.get("resourceType") != "ServiceRequest":
            continue
        request = _table(entry.get("request"))
        if str(request.get("method", "POST")) not in ("POST", "PUT"):
            raise FhirError(
                422, "not-supported", "only POST and PUT are taken", f"Bundle.entry[{index}].request.method"
            )
        chosen = _resource_id(request, resource)
        try:
            change = order_of(resource, around, source=source, received_ns=received_ns, resource_id=chosen)
        except FhirError as error:
            where = f"Bundle.entry[{index}].resource.ofType(ServiceRequest)"
            expression = error.expression.replace("ServiceRequest", where, 1)
            raise FhirError(error.status, error.code, str(error), expression) from None
        found.append((index, change))
    if not found:
        raise FhirError(422, "required", "the Bundle holds no ServiceRequest", "Bundle.entry")
    return found


def _resource_id(request: dict[str, Any], resource: dict[str, Any]) -> str:
    if request.get("method") != "PUT":
        return ""
    name = str(request.get("url", "")).removeprefix("ServiceRequest/")
    if not ID.match(name) or resource.get("id", name) != name:
        raise FhirError(
            422,
            "value",
            "the url of a PUT must be ServiceRequest/[id] with the resource's own id",
            "Bundle.entry.request.url",
        )
    return name
