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

import re
from typing import Any, Literal

from edgeward.gateway import fhir_elements as fhir
from edgeward.gateway.fhir_elements import DCM, FhirError
from edgeward.gateway.order_entry import Action, Change, Entry, Status
from edgeward.gateway.order_terms import modality
from edgeward.hl7 import values
from edgeward.messages import Order

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
_INTENTS = ("order", "original-order", "reflex-order", "filler-order", "instance-order")


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
    status = fhir.text(resource.get("status"), "ServiceRequest.status")
    if status not in _ACTIONS:
        raise FhirError(
            422,
            "business-rule",
            "only active, on-hold, revoked and completed orders are taken",
            "ServiceRequest.status",
        )
    if resource.get("intent") not in _INTENTS:
        raise FhirError(422, "business-rule", "the intent must be an order", "ServiceRequest.intent")
    _is_wanted(resource)
    action, told = _ACTIONS[status]
    here = around | fhir.named((f"#{one.get('id')}", one) for one in fhir.rows(resource, "contained"))
    _understood_of_others(resource, here)
    patient = _patient(resource, here)
    if action == "new":  # an order under a number that nobody uses any more can still be taken back
        _in_force(resource, _subject(resource, here))
    accessed = _identifier(resource, "ACSN")
    accession = fhir.number(fhir.value(accessed), 16, "ServiceRequest.identifier")
    placed = _identifier(resource, "PLAC") or _identifier(resource, "")
    number = fhir.value(placed) or accession
    if not number and not resource_id:
        raise FhirError(422, "required", "an order needs an identifier", "ServiceRequest.identifier")
    code = fhir.coding(fhir.codings(resource.get("code")))
    detail = [
        coding
        for name in ("orderDetail", "category")
        for one in fhir.rows(resource, name)
        for coding in fhir.codings(one)
    ]
    dicom = [
        str(one.get("code", "")) for one in (*detail, *fhir.codings(resource.get("code"))) if one.get("system") == DCM
    ]
    study = _study(resource)
    order = Order(
        order_id=fhir.number(number, 199, "ServiceRequest.identifier") or resource_id,
        accession_number=accession,
        status="scheduled",
        patient_id=patient["id"],
        patient_name=patient["name"],
        birth_date=patient["birth_date"],
        sex=patient["sex"],  # type: ignore[arg-type]  # of _SEXES
        modality=modality(*dicom, *(str(one.get("code", "")) for one in detail)),
        station_ae_title=_station(resource, here),
        procedure_code=code.value,
        procedure=values.clean(fhir.concept(resource.get("code"))) or code.meaning or code.value,
        study_instance_uid=study,
        scheduled=_scheduled(resource),
        referring_physician=fhir.person(resource.get("requester"), here),
        priority=_PRIORITIES.get(str(resource.get("priority", "routine")), "routine"),
        source=source,
    )
    if action == "new" and not (order.patient_id and order.patient_name):
        raise FhirError(
            422, "required", "the patient's identifier and name must come with the order", "ServiceRequest.subject"
        )
    # Never later than now, or a clock that is ahead would silence all others.
    at = min(fhir.moment(fhir.table(resource.get("meta")).get("lastUpdated")) or received_ns, received_ns)
    entry = Entry(
        order=order,
        placer=fhir.namespace(placed),
        filler_id=fhir.number(fhir.value(_identifier(resource, "FILL")), 64, "ServiceRequest.identifier"),
        filler=fhir.namespace(_identifier(resource, "FILL")),
        issuer_of_patient_id=patient["issuer"],
        procedure_code=code,
        requesting_physician=order.referring_physician,
        reason=values.clean(
            next((text for one in fhir.rows(resource, "reasonCode") if (text := fhir.concept(one))), "")
        ),
        comments=values.clean(" ".join(str(one.get("text", "")) for one in fhir.rows(resource, "note")), 1024),
        resource_id=resource_id,
        accession_by=fhir.namespace(accessed),
        message_ns=at,
        patient_ns=at,
    )
    return Change(action=action, entry=entry, status=told, versioned=True, patient_ids=_patient_ids(resource, here))


def _is_wanted(resource: dict[str, Any]) -> None:
    """Refuse what says that it means something else than an order for an examination."""
    fhir.understood(resource, "ServiceRequest")
    if resource.get("doNotPerform") not in (None, False):
        raise FhirError(
            422,
            "business-rule",
            "doNotPerform prohibits the examination, and only orders are taken; revoke the order instead",
            "ServiceRequest.doNotPerform",
        )


def _understood_of_others(resource: dict[str, Any], here: dict[str, dict[str, Any]]) -> None:
    """Refuse an order if something is not understood of the patient, the device or the people that it names."""
    told = [fhir.table(resource.get(name)) for name in ("subject", "requester")]
    for reference in (*told, *fhir.rows(resource, "performer")):
        other = here.get(str(reference.get("reference", "")), {})
        kind = other.get("resourceType")
        fhir.understood(other, kind if kind in ("Patient", "Device", "Practitioner") else "Resource")


def _in_force(resource: dict[str, Any], patient: dict[str, Any]) -> None:
    """Refuse an order for a patient's record that is not in use any more, and one that is to replace another."""
    if patient.get("active") not in (None, True):
        raise FhirError(422, "business-rule", "the patient's record is not in use", "Patient.active")
    for link in fhir.rows(patient, "link"):
        fhir.understood(link, "Patient.link")
        if link.get("type") == "replaced-by":
            raise FhirError(
                422,
                "business-rule",
                "the patient's record was replaced; order for the one that replaces it",
                "Patient.link",
            )
    if resource.get("replaces"):
        raise FhirError(
            422,
            "not-supported",
            "replaces is not carried out here; revoke the order that is replaced, and send this one without it",
            "ServiceRequest.replaces",
        )


def _subject(resource: dict[str, Any], here: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the patient's resource, or nothing if none came along."""
    return here.get(str(fhir.table(resource.get("subject")).get("reference", "")), {})


def _patient(resource: dict[str, Any], here: dict[str, dict[str, Any]]) -> dict[str, str]:
    subject = fhir.table(resource.get("subject"))
    if not subject:
        raise FhirError(422, "required", "the order has no subject", "ServiceRequest.subject")
    patient = _subject(resource, here)
    if patient is fhir.SEVERAL:
        raise FhirError(
            422, "duplicate", "several resources have the id that the subject names", "ServiceRequest.subject"
        )
    if patient and patient.get("resourceType") != "Patient":
        raise FhirError(422, "value", "the subject is no Patient", "ServiceRequest.subject")
    identifiers = fhir.rows(patient, "identifier") or [fhir.table(subject.get("identifier"))]
    medical_first = sorted(identifiers, key=lambda one: "MR" not in fhir.kinds(one))
    chosen = next((one for one in fhir.in_use(medical_first) if one.get("value")), {})
    name = fhir.human_name(fhir.rows(patient, "name")) or fhir.display_name(subject.get("display"))
    return {
        "id": fhir.number(str(chosen.get("value", "")), 64, "Patient.identifier"),
        "issuer": fhir.assigner(chosen),
        "name": name,
        "birth_date": values.date(str(patient.get("birthDate", "")).replace("-", "")),
        "sex": _SEXES.get(str(patient.get("gender", "")), ""),
    }


def _patient_ids(resource: dict[str, Any], here: dict[str, dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    """Return every number the patient has or had: an order may be known by one that is not in use any more."""
    subject = fhir.table(resource.get("subject"))
    return tuple(
        (fhir.value(one), fhir.assigner(one))
        for one in fhir.rows(_subject(resource, here), "identifier") or [fhir.table(subject.get("identifier"))]
        if fhir.value(one)
    )


def _station(resource: dict[str, Any], here: dict[str, dict[str, Any]]) -> str:
    for performer in fhir.rows(resource, "performer"):
        device = here.get(str(performer.get("reference", "")), {})
        candidates = [*fhir.rows(device, "identifier")] if device.get("resourceType") == "Device" else []
        if performer.get("type") == "Device":
            candidates.append(fhir.table(performer.get("identifier")))
        for one in fhir.in_use(candidates):
            value = str(one.get("value", "")).strip()
            if value and len(value) <= 16 and values.clean(value, 16) == value:
                return value
    return ""


def _study(resource: dict[str, Any]) -> str:
    for one in fhir.in_use(fhir.rows(resource, "identifier")):
        if one.get("system") == "urn:dicom:uid":
            uid = str(one.get("value", "")).removeprefix("urn:oid:")
            if not _UID.match(uid):
                raise FhirError(422, "value", "the study instance UID is not a UID", "ServiceRequest.identifier")
            return uid
    return ""


def _identifier(resource: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the identifier of a type (v2-0203); with an empty `kind`, the first that is no other's; else nothing."""
    for one in fhir.in_use(fhir.rows(resource, "identifier")):
        kinds = fhir.kinds(one)
        wanted = kind in kinds if kind else one.get("system") != "urn:dicom:uid" and not kinds & {"ACSN", "FILL"}
        if wanted and fhir.value(one):
            return one
    return {}


def _scheduled(resource: dict[str, Any]) -> str:
    period, timing = fhir.table(resource.get("occurrencePeriod")), fhir.table(resource.get("occurrenceTiming"))
    for text in (resource.get("occurrenceDateTime"), period.get("start"), *fhir.texts(timing.get("event"))):
        if text is None:
            continue
        at = fhir.datetime(str(text))
        if at is None:
            raise FhirError(422, "value", "the time is not one", "ServiceRequest.occurrence[x]")
        return values.local(at)
    return ""


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
    fhir.understood(bundle, "Bundle")
    entries = fhir.rows(bundle, "entry")
    if len(entries) > _MOST_ENTRIES:
        raise FhirError(413, "too-costly", f"a Bundle may hold {_MOST_ENTRIES} entries", "Bundle.entry")
    resources = [(entry, fhir.table(entry.get("resource"))) for entry in entries]
    by_url = ((str(entry["fullUrl"]), one) for entry, one in resources if entry.get("fullUrl"))
    by_id = ((f"{one.get('resourceType')}/{one['id']}", one) for _, one in resources if one.get("id"))
    around = fhir.named((*by_url, *by_id))
    found = []
    for index, entry in enumerate(entries):
        resource = fhir.table(entry.get("resource"))
        if resource.get("resourceType") != "ServiceRequest":
            continue
        fhir.understood(entry, f"Bundle.entry[{index}]")
        request = fhir.table(entry.get("request"))
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
