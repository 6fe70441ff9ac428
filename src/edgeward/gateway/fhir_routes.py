"""The FHIR R4 door for orders: routes below ``/fhir``, and what they answer.

Responsible for HTTP and for the shape of answers: ServiceRequest, transaction-response, OperationOutcome,
CapabilityStatement. Not responsible for what an order means (``fhir_orders``), for keeping it (``orders``), or for who
may come in (``gateway.web``).

A Bundle is one transaction: all of its orders are kept, durably, or none. An answer never quotes what was refused.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from edgeward import __version__
from edgeward.gateway.fhir_elements import DCM, FhirError
from edgeward.gateway.fhir_orders import ID, changes_of, order_of
from edgeward.gateway.order_entry import Assigner, Change, Entry, OrderError
from edgeward.gateway.orders import OrderBook
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.web import guarded
from edgeward.privacy.database import DatabaseError

_log = logging.getLogger("edgeward.gateway.fhir")

PLACERS = ("emr", "other")  # who may place orders
_V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"
_JSON = "application/fhir+json"
_LARGEST = 4 << 20
_ISSUES = {403: "forbidden", 404: "not-found", 413: "too-costly", 503: "transient"}  # value set IssueType
_STATUSES = {
    "scheduled": "active",
    "started": "active",
    "completed": "completed",
    "discontinued": "revoked",
    "cancelled": "revoked",
}


def service_request(entry: Entry) -> dict[str, Any]:
    """Return an order as a ServiceRequest with its Patient contained."""
    order = entry.order
    family, *rest = [*order.patient_name.split("=")[0].split("^"), ""]
    patient: dict[str, Any] = {"resourceType": "Patient", "id": "patient"}
    if order.patient_id:
        patient["identifier"] = [{"value": order.patient_id}]
    if order.patient_name:
        name: dict[str, Any] = {"text": order.patient_name}
        if family:
            name["family"] = family
        if given := [part for part in rest[:2] if part]:
            name["given"] = given
        patient["name"] = [name]
    if order.birth_date:
        patient["birthDate"] = f"{order.birth_date[:4]}-{order.birth_date[4:6]}-{order.birth_date[6:]}"
    if order.sex:
        patient["gender"] = {"M": "male", "F": "female", "O": "other"}[order.sex]
    identifiers: list[dict[str, Any]] = [
        {"type": {"coding": [{"system": _V2_0203, "code": "PLAC"}]}, **_system(entry.placer), "value": order.order_id},
        {"type": {"coding": [{"system": _V2_0203, "code": "ACSN"}]}, "value": order.accession_number},
        {"system": "urn:dicom:uid", "value": f"urn:oid:{order.study_instance_uid}"},
    ]
    found: dict[str, Any] = {
        "resourceType": "ServiceRequest",
        "id": entry.resource_id,
        "meta": {"lastUpdated": _instant(order.changed_ns)},
        "contained": [patient],
        "identifier": [one for one in identifiers if one["value"]],
        "status": _STATUSES[order.status],
        "intent": "order",
        "priority": order.priority,
        "subject": {"reference": "#patient"},
    }
    if order.procedure:
        found["code"] = {"text": order.procedure}
        if entry.procedure_code.value:
            systems = {"SCT": "http://snomed.info/sct", "LN": "http://loinc.org", "DCM": DCM}
            coding = {"code": entry.procedure_code.value, "display": entry.procedure_code.meaning}
            if scheme := systems.get(entry.procedure_code.scheme):
                coding["system"] = scheme
            found["code"]["coding"] = [{key: value for key, value in coding.items() if value}]
    if order.modality:
        found["orderDetail"] = [{"coding": [{"system": DCM, "code": order.modality}]}]
    if order.scheduled:
        at = dt.datetime.strptime(order.scheduled[:14].ljust(14, "0"), "%Y%m%d%H%M%S").astimezone()
        found["occurrenceDateTime"] = at.isoformat()
    if order.referring_physician:
        found["requester"] = {"display": order.referring_physician.replace("^", " ").strip()}
    return found


def _system(assigner: Assigner) -> dict[str, str]:
    universal = assigner.universal_id
    if not universal:
        return {}
    return {"system": f"urn:oid:{universal}" if universal.replace(".", "").isdigit() else universal}


def _instant(at_ns: int) -> str:
    return dt.datetime.fromtimestamp(at_ns / 1e9, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def outcome(error: FhirError) -> dict[str, Any]:
    """Return an OperationOutcome."""
    issue: dict[str, Any] = {"severity": "error", "code": error.code, "diagnostics": str(error)}
    if error.expression:
        issue["expression"] = [error.expression]
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def capability() -> dict[str, Any]:
    """Return the CapabilityStatement."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-01-01",
        "kind": "instance",
        "software": {"name": "Edgeward", "version": __version__},
        "implementation": {"description": "Imaging orders and vital signs in"},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [
            {
                "mode": "server",
                "security": {"description": "TLS 1.3 with a client certificate of the site's authority"},
                "resource": [
                    {
                        "type": "ServiceRequest",
                        "interaction": [{"code": code} for code in ("read", "create", "update")],
                        "updateCreate": True,
                        "conditionalCreate": False,
                        "documentation": "The Patient is contained, in the Bundle, or given by identifier and display",
                    },
                    {
                        "type": "Observation",
                        "interaction": [{"code": "create"}],
                        "conditionalCreate": True,
                        "documentation": "Vital signs go to the monitor; they are not kept as resources",
                    },
                ],
                "interaction": [{"code": "transaction"}, {"code": "batch"}],
            }
        ],
    }


# ---------------------------------------- routes


class TakesVitals(Protocol):
    """Takes Bundles of Observations, which come to the same address as Bundles of orders."""

    def has_some(self, bundle: dict[str, Any]) -> bool:
        """Whether a Bundle holds Observations."""

    async def bundle(self, bundle: dict[str, Any], device_id: str) -> Response:
        """Take them."""


def routes(
    book: OrderBook, quarantine: Quarantine, vitals: TakesVitals | None = None, senders: Sequence[str] = ()
) -> list[BaseRoute]:
    """Return the routes, below ``/fhir``; Bundles of Observations are taken from devices of the kinds `senders`."""
    door = _Door(book, vitals)

    def placing(endpoint: Callable[[Request], Awaitable[Response]]) -> Any:
        return guarded(telling(endpoint, quarantine), "place orders", PLACERS, _LARGEST, told=refusal)

    def reading(endpoint: Callable[[Request], Awaitable[Response]]) -> Any:
        return guarded(telling(endpoint, quarantine), "read orders", PLACERS, told=refusal)

    def sending(endpoint: Callable[[Request], Awaitable[Response]]) -> Any:
        kinds = tuple(dict.fromkeys((*PLACERS, *senders)))
        return guarded(telling(endpoint, quarantine), "send a Bundle", kinds, _LARGEST, told=refusal)

    inside = [
        Route("/metadata", reading(door.metadata), methods=["GET"]),
        Route("/ServiceRequest", placing(door.create), methods=["POST"]),
        Route("/ServiceRequest/{id}", placing(door.update), methods=["PUT"]),
        Route("/ServiceRequest/{id}", reading(door.read), methods=["GET"]),
        Route("/", sending(door.bundle), methods=["POST"]),
    ]
    # The base address is used without a slash as well, and many clients do not follow redirects of a POST.
    return [Route("/fhir", sending(door.bundle), methods=["POST"]), Mount("/fhir", routes=inside)]


def telling(
    endpoint: Callable[[Request], Awaitable[Response]], quarantine: Quarantine
) -> Callable[[Request], Awaitable[Response]]:
    """Return `endpoint`, with what it raises told as an OperationOutcome."""

    async def serve(request: Request) -> Response:
        try:
            return await endpoint(request)
        except FhirError as error:
            problem = error
        except OrderError as error:
            problem = FhirError(409 if error.kind in ("conflict", "closed") else 422, "conflict", str(error))
        except DatabaseError as error:
            _log.error("an order could not be kept: %s", error)
            problem = FhirError(503, "transient", "it could not be kept; send it again later")
        if problem.status != 404:
            where = f" ({problem.expression})" if problem.expression else ""
            quarantine.note("fhir", sender_of(request), f"{problem}{where}", "nothing of it was kept")
        return answered(outcome(problem), problem.status)

    return serve


class _Door:
    def __init__(self, book: OrderBook, vitals: TakesVitals | None) -> None:
        self._book, self._vitals = book, vitals

    async def metadata(self, _: Request) -> Response:
        """Answer what can be done here."""
        return answered(capability())

    async def create(self, request: Request) -> Response:
        """Take one ServiceRequest."""
        resource = await body_of(request, "ServiceRequest")
        change = order_of(resource, {}, source=sender_of(request), received_ns=time.time_ns())
        return self._answer(await self._apply([change]))

    async def update(self, request: Request) -> Response:
        """Take one ServiceRequest under an id that the client chose."""
        resource = await body_of(request, "ServiceRequest")
        name = request.path_params["id"]
        if not ID.match(name) or resource.get("id") != name:
            raise FhirError(400, "value", "the resource's id must be the one of the address", "ServiceRequest.id")
        change = order_of(resource, {}, source=sender_of(request), received_ns=time.time_ns(), resource_id=name)
        return self._answer(await self._apply([change]))

    async def read(self, request: Request) -> Response:
        """Return one order."""
        entry = await asyncio.to_thread(self._book.by_resource, request.path_params["id"])
        if entry is None:
            raise FhirError(404, "not-found", "there is no such order")
        return answered(service_request(entry))

    async def bundle(self, request: Request) -> Response:
        """Take all orders of a Bundle, or none."""
        resource = await body_of(request, "Bundle")
        if self._vitals is not None and self._vitals.has_some(resource):
            return await self._vitals.bundle(resource, sender_of(request))
        kind = request.scope["state"]["peer"].kind
        if kind not in PLACERS:
            raise FhirError(403, "forbidden", f"a device of kind {kind} may not place orders")
        found = changes_of(resource, source=sender_of(request), received_ns=time.time_ns())
        entries = await self._apply([change for _, change in found])
        by_place = {index: entry for (index, _), entry in zip(found, entries, strict=False)}
        kind = "batch-response" if resource.get("type") == "batch" else "transaction-response"
        answers = [_entry_answer(by_place.get(index)) for index in range(len(resource.get("entry", ())))]
        return answered({"resourceType": "Bundle", "type": kind, "entry": answers})

    async def _apply(self, changes: list[Change]) -> list[Entry]:
        def work() -> list[Entry]:
            return [rows[0] for rows in self._book.apply(changes)]

        return await asyncio.to_thread(work)

    def _answer(self, entries: list[Entry]) -> Response:
        entry = entries[0]
        location = {"Location": f"/fhir/ServiceRequest/{entry.resource_id}"}
        return answered(service_request(entry), 201 if _is_new(entry) else 200, location)


def _entry_answer(entry: Entry | None) -> dict[str, Any]:
    if entry is None:
        note = {"severity": "information", "code": "informational", "diagnostics": "used for the orders of this Bundle"}
        return {"response": {"status": "200 OK", "outcome": {"resourceType": "OperationOutcome", "issue": [note]}}}
    return {
        "response": {
            "status": "201 Created" if _is_new(entry) else "200 OK",
            "location": f"ServiceRequest/{entry.resource_id}",
            "lastModified": _instant(entry.order.changed_ns),
        }
    }


def _is_new(entry: Entry) -> bool:
    return entry.order.received_ns == entry.order.changed_ns


async def body_of(request: Request, kind: str) -> dict[str, Any]:
    """Return a request's resource of that type.

    Raises
    ------
    FhirError
        If it is something else.
    """
    media_type = request.headers.get("content-type", _JSON).split(";")[0].strip().lower()
    if media_type not in (_JSON, "application/json", "text/json"):
        raise FhirError(415, "not-supported", "only JSON is taken (application/fhir+json)")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise FhirError(415, "not-supported", "compressed bodies are not taken (Content-Encoding)")
    body = await request.body()
    try:
        resource = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_once)
        if b"\\u" in body:  # half of a surrogate pair can be written so, and is no character
            json.dumps(resource, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise FhirError(400, "structure", "it is not JSON, or an element stands twice in an object") from None
    if not isinstance(resource, dict) or resource.get("resourceType") != kind:
        raise FhirError(400, "structure", f"a {kind} is expected here")
    return resource


def _no_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # which of the two is meant nobody can say: it may be the patient
        raise ValueError("an element stands twice")
    return found


def refusal(status: int, text: str, headers: Mapping[str, str]) -> Response:
    """Return why a request is not served, as an OperationOutcome."""
    code = _ISSUES.get(status, "exception" if status >= 500 else "processing")
    return answered(outcome(FhirError(status, code, text)), status, dict(headers))


def sender_of(request: Request) -> str:
    """Return the enrolled device that sent a request."""
    return str(request.scope["state"]["peer"].device_id)


def answered(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a resource as an answer."""
    return JSONResponse(content, status, headers, media_type=_JSON)
