"""A result as FHIR R4: one transaction that says the same however often it is sent.

Responsible for the resources, their codes and their identifiers. Not responsible for sending them (``fhir``) or for
what a verdict means (``standing``).

One Bundle per revision: the DiagnosticReport, its Observations, the Device that is the model, a Provenance, and the
ImagingStudy if the server has none. Every resource of ours has an id and an identifier that follow from the item, so
that a repeat writes the same resources again (``PUT``); a later revision replaces the report and its observations and
adds a Provenance. Patients, orders and clinicians are not ours: they are referred to by their identifiers and never
made.
"""

from __future__ import annotations

import html
import math
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from edgeward.clinic.imaging import codes
from edgeward.clinic.imaging.codes import Code
from edgeward.clinic.imaging.header import MANUFACTURER, local_time
from edgeward.clinic.imaging.source import Assigner, Source, derived_uid, moment
from edgeward.clinic.imaging.standing import Judged, Standing, judge, model_name, statement
from edgeward.messages import DeliverRequest, Lesion

Resource = dict[str, Any]

DICOM_UID = "urn:dicom:uid"  # system of DICOM UIDs, FHIR R4 ImagingStudy.identifier
_URI = "urn:ietf:rfc:3986"
_SYSTEMS = {"DCM": "http://dicom.nema.org/resources/ontology/DCM", "SCT": "http://snomed.info/sct"}
_LOINC = "http://loinc.org"
_UCUM = "http://unitsofmeasure.org"
_HL7 = "http://terminology.hl7.org/CodeSystem"
_BREAST_REPORT = {"system": _LOINC, "code": "24601-7", "display": "US Breast"}
_IMAGING_REPORT = {"system": _LOINC, "code": "18748-4", "display": "Diagnostic imaging study"}
_SITES = {  # body structures of SNOMED CT that carry the side: FHIR has no separate laterality
    "": codes.BREAST,
    "R": Code("73056007", "SCT", "Right breast structure"),
    "L": Code("80248007", "SCT", "Left breast structure"),
    "B": Code("63762007", "SCT", "Both breasts"),
}
# FHIR R4 DiagnosticReport.status and Observation.status; both say amended for "changed after it was out".
_STATUS = {
    Standing.PRELIMINARY: "preliminary",
    Standing.FINAL: "final",
    Standing.AMENDED: "amended",
    Standing.WITHDRAWN: "entered-in-error",
}
_OID = re.compile(r"[0-2](\.(0|[1-9]\d*))+")
_ABSOLUTE_URI = re.compile(r"[a-z][a-z0-9+.-]*:\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Addresses:
    """How our resources are addressed at one server.

    `ids` ``ours``: under ids that we choose, which needs *update as create* (``PUT [type]/[id]``). ``server``: under
    ids that the server chooses, found again by identifier (conditional update, ``PUT [type]?identifier=``).
    """

    base: str
    ids: Literal["ours", "server"] = "ours"

    def full_url(self, kind: str, key: str) -> str:
        """Return ``fullUrl`` of an entry."""
        return f"{self.base}/{kind}/{key}" if self.ids == "ours" else f"urn:uuid:{key}"

    def reference(self, kind: str, key: str) -> str:
        """Return how another resource of the bundle refers to it."""
        return f"{kind}/{key}" if self.ids == "ours" else f"urn:uuid:{key}"

    def entry(self, resource: Resource, key: str) -> Resource:
        """Return the entry that makes or replaces `resource`."""
        kind = resource["resourceType"]
        if self.ids == "ours":
            request = {"method": "PUT", "url": f"{kind}/{key}"}
            resource = {**resource, "id": key}
        elif "identifier" in resource:
            first = resource["identifier"][0]
            request = {"method": "PUT", "url": f"{kind}?identifier={_token(first['system'], first['value'])}"}
        else:  # Provenance has no identifier in R4: it is found by a tag, and is never changed
            tag = {"system": "urn:oid:" + derived_uid("fhir", "tag"), "code": key}
            resource = {**resource, "meta": {"tag": [tag]}}
            request = {"method": "POST", "url": kind, "ifNoneExist": f"_tag={_token(tag['system'], tag['code'])}"}
        return {"fullUrl": self.full_url(kind, key), "resource": resource, "request": request}


def key_of(*parts: str) -> str:
    """Return the resource id that these parts always give."""
    return str(uuid.UUID(int=int(derived_uid("fhir", *parts).removeprefix("2.25."))))


def patient_identifier(source: Source, system: str = "") -> Resource | None:
    """Return the patient's identifier, or None if the image names no patient.

    Parameters
    ----------
    system
        Of the site's patient identifiers, from the settings. Without it, the image's issuer is used if that is a URI or
        an OID; else the identifier has no system, and no server can take it for another's.
    """
    value, issuer = str(source.common.get("PatientID", "")), str(source.common.get("IssuerOfPatientID", ""))
    if not value:
        return None
    kind = {"coding": [{"system": f"{_HL7}/v2-0203", "code": "MR"}]}
    identifier: Resource = {"type": kind}
    if system or _OID.fullmatch(issuer) or _ABSOLUTE_URI.fullmatch(issuer):
        identifier["system"] = system or (f"urn:oid:{issuer}" if _OID.fullmatch(issuer) else issuer)
    identifier["value"] = value
    if issuer and "system" not in identifier:
        identifier["assigner"] = {"display": issuer}
    return identifier


def build_bundle(
    request: DeliverRequest, source: Source, zone: tzinfo, addresses: Addresses, patient: Resource | None = None
) -> bytes:
    """Return the transaction for one revision of a result, as JSON.

    Parameters
    ----------
    request
        Finding, revision and verdicts.
    source
        The image it is about.
    zone
        Of the image's times, unless it states its own.
    addresses
        How the server is written to.
    patient
        Reference to the Patient, where it is known; else by `patient_identifier`.
    """
    return msgspec.json.encode(_Writer(request, source, zone, addresses, patient).bundle())


class _Writer:
    """Writes the resources of one revision."""

    def __init__(
        self, request: DeliverRequest, source: Source, zone: tzinfo, addresses: Addresses, patient: Resource | None
    ) -> None:
        self.request, self.finding, self.source, self.addresses = request, request.finding, source, addresses
        self.item, self.revision = request.item_id, request.revision
        self.judged: Judged = judge(request)
        self.status = _STATUS[self.judged.standing]
        offset = str(source.common.get("TimezoneOffsetFromUTC", ""))
        self.at = local_time(self.judged.at_ns, offset, zone)
        local = local_time(self.finding.created_ns, offset, zone).tzinfo or UTC
        self.acquired = _date_time(source.acquired, local)
        self.started = _date_time("".join(moment(source.common, "Study")), local)
        identifier = patient_identifier(source)
        self.patient = patient or (
            {"type": "Patient", "identifier": identifier} if identifier else {"type": "Patient", "display": "unknown"}
        )
        self.device = key_of("device", self.finding.model, self.finding.model_version)
        self.study = key_of("study", source.study_instance_uid)
        self.report = key_of(self.item, "report")

    def bundle(self) -> Resource:
        observations = self.observations()
        entries = [
            self.addresses.entry(self.model(), self.device),
            self.imaging_study(),
            *(self.addresses.entry(resource, key) for key, resource in observations.items()),
            self.addresses.entry(self.diagnostic_report(list(observations)), self.report),
            self.addresses.entry(
                self.provenance(list(observations)), key_of(self.item, "provenance", str(self.revision))
            ),
        ]
        return {"resourceType": "Bundle", "type": "transaction", "timestamp": _instant(self.at), "entry": entries}

    # ------------------------------------ what is not a finding

    def model(self) -> Resource:
        name, version = self.finding.model or "unnamed model", self.finding.model_version or "unknown"
        return {
            "resourceType": "Device",
            "identifier": [_own_identifier("device", name, version)],
            "status": "active",
            "manufacturer": MANUFACTURER,
            "deviceName": [{"name": name, "type": "model-name"}],
            "type": {"text": "AI model for the analysis of images"},
            "version": [{"type": {"text": "model"}, "value": version}],
        }

    def imaging_study(self) -> Resource:
        """Return the entry that makes the ImagingStudy where the server does not know it. It is never changed."""
        uid = f"urn:oid:{self.source.study_instance_uid}"
        resource: Resource = {
            "resourceType": "ImagingStudy",
            "identifier": [{"system": DICOM_UID, "value": uid}, *self.accession()],
            "status": "available",
            "modality": [_coding(Code(self.source.modality, "DCM", ""))],
            "subject": self.patient,
        }
        if self.started:
            resource["started"] = self.started
        if description := str(self.source.common.get("StudyDescription", "")):
            resource["description"] = description
        return {
            "fullUrl": f"urn:uuid:{self.study}",
            "resource": resource,
            "request": {
                "method": "POST",
                "url": "ImagingStudy",
                "ifNoneExist": f"identifier={_token(DICOM_UID, uid)}",
            },
        }

    def accession(self) -> list[Resource]:
        return [
            {"type": {"coding": [{"system": f"{_HL7}/v2-0203", "code": code}]}, "value": value}
            | ({"system": system} if system else {})
            for code, value, system in (
                ("ACSN", str(self.source.common.get("AccessionNumber", "")), ""),
                ("PLAC", self.source.placer_order, _system(self.source.placer)),
            )
            if value
        ]

    def provenance(self, observations: list[str]) -> Resource:
        """Return who made this revision: the model, and the clinician whose verdict it carries."""
        participants = f"{_HL7}/provenance-participant-type"
        agents = [
            {
                "type": {"coding": [{"system": participants, "code": "author", "display": "Author"}]},
                "who": self._refer("Device", self.device, model_name(self.finding)),
            }
        ]
        if who := self.clinician():
            kind = {"coding": [{"system": participants, "code": "verifier", "display": "Verifier"}]}
            agents.append({"type": kind, "who": who})
        operation = ("UPDATE", "revise") if self.revision else ("CREATE", "create")
        image = {"system": _URI, "value": f"urn:oid:{self.source.sop_instance_uid}"}
        return {
            "resourceType": "Provenance",
            "target": [
                self._refer("DiagnosticReport", self.report),
                *(self._refer("Observation", key) for key in observations),
            ],
            "occurredDateTime": _instant(self.at),
            "recorded": _instant(self.at),
            "activity": {
                "coding": [{"system": f"{_HL7}/v3-DataOperation", "code": operation[0], "display": operation[1]}]
            },
            "agent": agents,
            "entity": [{"role": "source", "what": {"identifier": image, "display": "the analysed DICOM image"}}],
        }

    def clinician(self) -> Resource | None:
        verdict = self.judged.verdict
        if verdict is None:
            return None
        account = {"system": "urn:oid:" + derived_uid("fhir", "accounts"), "value": verdict.by}
        return {"type": "Practitioner", "identifier": account, "display": verdict.by}

    # ------------------------------------ the findings

    def diagnostic_report(self, observations: list[str]) -> Resource:
        analysed = self.finding.status == "analysed"
        conclusion = " ".join(statement(self.request, self.judged))
        resource: Resource = {
            "resourceType": "DiagnosticReport",
            "text": _narrative(conclusion),
            "identifier": [_own_identifier(self.item, "report")],
            "status": self.status,
            "category": [{"coding": [{"system": f"{_HL7}/v2-0074", "code": "RUS", "display": "Radiology Ultrasound"}]}],
            "code": {"coding": [_BREAST_REPORT if analysed else _IMAGING_REPORT]},
            "subject": self.patient,
            "issued": _instant(self.at),
            "result": [self._refer("Observation", key) for key in observations],
            "imagingStudy": [{"reference": f"urn:uuid:{self.study}"}],
            "conclusion": conclusion,
        }
        if orders := self.accession():
            resource["basedOn"] = [{"type": "ServiceRequest", "identifier": order} for order in orders]
        if self.acquired:
            resource["effectiveDateTime"] = self.acquired
        if who := self.clinician():
            resource["resultsInterpreter"] = [who]
        if analysed and self.judged.label in codes.LABELS and self.judged.standing is not Standing.WITHDRAWN:
            resource["conclusionCode"] = [_concept(codes.LABELS[self.judged.label])]
        return resource

    def observations(self) -> dict[str, Resource]:
        """Return the Observations by key."""
        finding, judged = self.finding, self.judged
        found = {key_of(self.item, "impression"): self.impression()}
        if finding.status != "analysed":
            return found
        if finding.malignancy is not None and math.isfinite(finding.malignancy):
            stands = judged.standing is not Standing.WITHDRAWN and not judged.overruled
            back = judged.probability_back
            probability = self._observation("probability", codes.PROBABILITY_OF_CANCER, stands=stands, changed=back)
            probability["valueQuantity"] = _quantity(100.0 * finding.malignancy, codes.PERCENT, 1)
            sign = ("POS", "Positive") if finding.suspicious else ("NEG", "Negative")  # at the operating point
            coding = {"system": f"{_HL7}/v3-ObservationInterpretation", "code": sign[0], "display": sign[1]}
            probability["interpretation"] = [{"coding": [coding]}]
            found[key_of(self.item, "probability")] = probability
        for number, lesion in enumerate(finding.lesions, start=1):
            found[key_of(self.item, f"lesion-{number}")] = self.lesion(number, lesion)
        return found

    def impression(self) -> Resource:
        stands = self.judged.standing is not Standing.WITHDRAWN
        resource = self._observation("impression", codes.IMPRESSION, stands=stands, changed=self.judged.label_changed)
        label = codes.LABELS.get(self.judged.label)
        if self.judged.overruled and (who := self.clinician()):  # it is the clinician's word now, not the model's
            resource["performer"] = [who]
            del resource["device"]
        if self.finding.status != "analysed" and not self.judged.overruled:
            coding = {"system": f"{_HL7}/data-absent-reason", "code": "not-performed", "display": "Not Performed"}
            resource["dataAbsentReason"] = {"coding": [coding]}
            resource["note"] = [{"text": f"Not analysed: {self.finding.reason or 'no reason was given'}"}]
        elif label is not None:
            resource["valueCodeableConcept"] = _concept(label)
        else:
            resource["valueCodeableConcept"] = {"text": self.judged.label or "not classified"}
        return resource

    def lesion(self, number: int, lesion: Lesion) -> Resource:
        part = f"lesion-{number}"
        judged = self.judged
        resource = self._observation(part, codes.FINDING, stands=judged.lesions_stand, changed=judged.lesions_back)
        resource["valueCodeableConcept"] = {**_concept(codes.LESION), "text": f"Lesion {number}"}
        length, square = (codes.MM, codes.MM2) if lesion.unit == "mm" else (codes.PIXELS, codes.PIXELS)
        values = (
            (codes.LONG_AXIS, lesion.long_axis, length, 2),
            (codes.SHORT_AXIS, lesion.short_axis, length, 2),
            (codes.AREA, lesion.area, square, 2),
            (codes.CERTAINTY, 100.0 * lesion.probability, codes.PERCENT, 1),
        )
        resource["component"] = [
            {"code": _concept(code), "valueQuantity": _quantity(value, unit, digits)}
            for code, value, unit, digits in values
            if math.isfinite(value)
        ]
        if not resource["component"]:
            del resource["component"]
        return resource

    def _observation(self, part: str, code: Code, *, stands: bool, changed: bool = False) -> Resource:
        status = self.status
        if not stands:
            status = "entered-in-error"
        elif self.judged.standing is Standing.AMENDED and not changed:
            status = "final"  # looked at, and left as it was
        resource: Resource = {
            "resourceType": "Observation",
            "identifier": [_own_identifier(self.item, part)],
            "status": status,
            "category": [{"coding": [{"system": f"{_HL7}/observation-category", "code": "imaging"}]}],
            "code": _concept(code),
            "subject": self.patient,
            "issued": _instant(self.at),
            "device": self._refer("Device", self.device, model_name(self.finding)),
            "derivedFrom": [{"reference": f"urn:uuid:{self.study}"}],
        }
        if self.finding.status == "analysed":
            resource["bodySite"] = _concept(_SITES.get(self.source.laterality, codes.BREAST))
        if self.acquired:
            resource["effectiveDateTime"] = self.acquired
        return resource

    def _refer(self, kind: str, key: str, display: str = "") -> Resource:
        reference = {"reference": self.addresses.reference(kind, key)}
        return {**reference, "display": display} if display else reference


def _own_identifier(*parts: str) -> Resource:
    return {"system": _URI, "value": f"urn:oid:{derived_uid('fhir', *parts)}"}


def _coding(code: Code) -> Resource:
    coding = {"system": _SYSTEMS[code.scheme], "code": code.value, "display": code.meaning}
    return {key: value for key, value in coding.items() if value}


def _concept(code: Code) -> Resource:
    return {"coding": [_coding(code)]}


def _quantity(value: float, unit: Code, digits: int) -> Resource:
    return {"value": round(value, digits), "unit": unit.value.strip("{}"), "system": _UCUM, "code": unit.value}


def _system(assigner: Assigner) -> str:
    """Return who gave a number as the system of a FHIR identifier: empty if only a local name is known."""
    _, universal, kind = assigner
    if kind == "ISO" or (universal and universal.replace(".", "").isdigit()):
        return f"urn:oid:{universal}"
    if kind == "UUID" and universal:
        return f"urn:uuid:{universal.lower()}"
    return universal if _ABSOLUTE_URI.fullmatch(universal) else ""


def _token(system: str, value: str) -> str:
    return f"{quote(system, safe=':')}%7C{quote(value, safe=':.')}"


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")


def _date_time(value: str, zone: tzinfo) -> str:
    """Return a DICOM DT as FHIR dateTime, a day alone as a date; empty if it is none.

    FHIR has no hour without minutes, nor minutes without seconds: they are filled with zeros.
    """
    try:
        if len(value) == 8:
            return datetime.strptime(value, "%Y%m%d").date().isoformat()  # noqa: DTZ007 - a date
        value = value.ljust(14, "0")
        second = int(value[12:14])
        at = datetime.strptime(value[:12], "%Y%m%d%H%M").replace(tzinfo=zone)
        return (at + timedelta(seconds=min(second, 59))).isoformat()  # FHIR has no leap seconds
    except ValueError:
        return ""


def _narrative(text: str) -> Resource:
    shown = "".join(character if character.isprintable() else " " for character in text)
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{html.escape(shown)}</div>'}
