"""What a simulated hospital information system receives: results by HL7 v2 and by FHIR, kept in memory and counted.

Responsible for answering as such a system does (ACK; transaction-response) and for remembering the newest of each
result. A simulated peer: no persistence, no users. Not responsible for sockets (`emr`).
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgeward.hl7 import acknowledgement, charset, er7
from edgeward.hl7.acknowledgement import ACCEPTED, Answer, Code, Outcome

_KEEP = 500  # results that are remembered
_JSON = "application/fhir+json"


@dataclass(slots=True)
class Counts:
    """What has gone out and come in.

    Attributes
    ----------
    orders, cancelled
        New orders and cancellations that the site acknowledged.
    orders_refused
        Messages the site answered with an error.
    open
        Orders without a result.
    results
        Different ORU messages, by MSH-10.
    results_repeated, results_refused
        ORU messages that came again, and such as this system cannot use.
    bundles, bundles_refused
        FHIR Bundles.
    resources
        FHIR resources held now, by type.
    alarms, alarms_over
        Alarms told by ORU^R40, by OBR-3, and how many of them have ended.
    pages
        Notices to the pager (``POST /pager``).
    """

    orders: int = 0
    cancelled: int = 0
    orders_refused: int = 0
    open: int = 0
    results: int = 0
    results_repeated: int = 0
    results_refused: int = 0
    bundles: int = 0
    bundles_refused: int = 0
    resources: dict[str, int] = field(default_factory=dict)
    alarms: int = 0
    alarms_over: int = 0
    pages: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """One ORU message: order and accession number, OBR-25 (result status), and its observations (code, value, unit)."""

    control_id: str
    order: str
    accession: str
    status: str
    observations: list[tuple[str, str, str]]


class Record:
    """The memory of the system."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.results: OrderedDict[str, Result] = OrderedDict()
        self.resources: dict[str, OrderedDict[str, dict[str, Any]]] = {}
        self.alarms: OrderedDict[str, str] = OrderedDict()  # OBR-3 -> phase
        self.pages: OrderedDict[str, dict[str, Any]] = OrderedDict()

    # ------------------------------------------------------------ HL7 v2

    def hl7(self, encoded: bytes) -> tuple[bytes, Result | None]:
        """Take a message; return the acknowledgement and the result that it brought, if it is a new one."""
        now = dt.datetime.now().astimezone()
        text, codec = charset.decode(encoded)
        try:
            message = er7.parse(text, codec)
        except er7.NotHl7 as error:
            self.counts.results_refused += 1
            return acknowledgement.unreadable(str(error), "", now).encode(), None
        alarm = (message.code, message.event) == ("ORU", "R40")
        answer, result = (self._alarm(message), None) if alarm else self._result(message)
        if answer.outcome is not Outcome.ACCEPTED:
            self.counts.results_refused += 1
        elif message.control_id in self.results:
            self.counts.results_repeated += 1
            result = None
        elif result is not None:
            self.counts.results += 1
            self.results[message.control_id] = result
            if len(self.results) > _KEEP:
                self.results.popitem(last=False)
        code = acknowledgement.due(message, answer.outcome) or str(answer.outcome)
        return charset.encode(acknowledgement.write(message, answer, code, now), codec), result

    def _alarm(self, message: er7.Message) -> Answer:
        """Take a report of an alarm (IHE PCD-04)."""
        obr = message.first("OBR")
        if obr is None or not obr.text(3):
            return Answer(Outcome.ERROR, "which alarm is it?", Code.FIELD_MISSING, "OBR-3")
        phases = [one.text(5) for one in message.segments if one.name == "OBX" and one.text(3) == "68481"]
        before = self.alarms.pop(obr.text(3), None)
        self.alarms[obr.text(3)] = phase = phases[0] if phases else ""
        self.counts.alarms += before is None
        self.counts.alarms_over += phase == "end" and before != "end"
        if len(self.alarms) > _KEEP:
            self.alarms.popitem(last=False)
        return ACCEPTED

    def page(self, key: str, notice: dict[str, Any]) -> None:
        """Take a notice to somebody on call; a repeat has the same key."""
        self.counts.pages += key not in self.pages
        self.pages[key] = notice
        if len(self.pages) > _KEEP:
            self.pages.popitem(last=False)

    def _result(self, message: er7.Message) -> tuple[Answer, Result | None]:
        if (message.code, message.event) != ("ORU", "R01"):
            return Answer(Outcome.REJECTED, "only results are taken", Code.UNSUPPORTED_TYPE, "MSH-9"), None
        obr, pid = message.first("OBR"), message.first("PID")
        if not message.control_id:
            return Answer(Outcome.REJECTED, "the control id is missing", Code.FIELD_MISSING, "MSH-10"), None
        if pid is None or not pid.text(3):
            return Answer(Outcome.ERROR, "whose result is it?", Code.FIELD_MISSING, "PID-3"), None
        if obr is None:
            return Answer(Outcome.ERROR, "there is no OBR segment", Code.SEGMENT_SEQUENCE, "OBR"), None
        observations = [
            (one.text(3), one.text(5), one.text(6)) for one in message.segments if one.name == "OBX"
        ]  # fmt: skip
        orc = message.first("ORC")
        order = obr.text(2) or (orc.text(2) if orc else "")
        accession = obr.text(18) or obr.text(3)
        return ACCEPTED, Result(message.control_id, order, accession, obr.text(25), observations)

    # ------------------------------------------------------------ FHIR

    def transaction(self, bundle: Any) -> tuple[int, dict[str, Any]]:
        """Carry out a Bundle of POST and PUT entries; return HTTP status and answer."""
        if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
            return self._refused(400, "structure", "a Bundle is expected here")
        if bundle.get("type") not in ("transaction", "batch"):
            return self._refused(422, "value", "only a transaction or a batch is taken")
        entries = [entry for entry in bundle.get("entry") or () if isinstance(entry, dict)]
        wanted = []
        for index, entry in enumerate(entries):
            resource, request = entry.get("resource"), entry.get("request")
            if not isinstance(resource, dict) or not isinstance(request, dict) or not resource.get("resourceType"):
                return self._refused(422, "required", f"entry {index} has no resource or no request")
            method, url = request.get("method"), str(request.get("url", ""))
            kind, _, name = url.partition("?")[0].partition("/")
            if method not in ("POST", "PUT") or kind != resource["resourceType"]:
                return self._refused(
                    422, "not-supported", f"entry {index}: only POST and PUT of the resource's own type"
                )
            wanted.append((resource, name if method == "PUT" else "", url.partition("?")[2] if method == "PUT" else ""))
        self.counts.bundles += 1
        answers = [self._put(resource, name, condition) for resource, name, condition in wanted]
        return 200, {"resourceType": "Bundle", "type": f"{bundle['type']}-response", "entry": answers}

    def put(self, resource: dict[str, Any], name: str = "") -> tuple[int, dict[str, Any]]:
        """Take one resource, under an id of the client's or of ours."""
        answer = self._put(resource, name, "")
        return int(answer["response"]["status"][:3]), resource

    def _put(self, resource: dict[str, Any], name: str, condition: str) -> dict[str, Any]:
        kind = str(resource["resourceType"])
        held = self.resources.setdefault(kind, OrderedDict())
        if not name and condition:  # a conditional update: the same condition is the same resource
            name = uuid.uuid5(uuid.NAMESPACE_URL, f"{kind}?{condition}").hex
        name = name or uuid.uuid4().hex
        known = held.pop(name, None)
        version = int((known or {}).get("meta", {}).get("versionId", "0")) + 1
        meta = resource.get("meta") if isinstance(resource.get("meta"), dict) else {}
        held[name] = resource | {"id": name, "meta": {**(meta or {}), "versionId": str(version)}}
        if len(held) > _KEEP:
            held.popitem(last=False)
        self.counts.resources[kind] = len(held)
        status = "200 OK" if known else "201 Created"
        return {
            "response": {"status": status, "location": f"{kind}/{name}/_history/{version}", "etag": f'W/"{version}"'}
        }

    def _refused(self, status: int, code: str, text: str) -> tuple[int, dict[str, Any]]:
        self.counts.bundles_refused += 1
        return status, _outcome(code, text)


def _outcome(code: str, text: str) -> dict[str, Any]:
    issue = {"severity": "error", "code": code, "diagnostics": text}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def application(record: Record) -> Starlette:
    """Return the HTTP side: FHIR R4 below ``/fhir``, a pager, and ``/counts`` and ``/results`` for people and tests."""

    async def body(request: Request) -> Any:
        try:
            return await request.json()
        except (ValueError, RecursionError):
            return None

    async def bundle(request: Request) -> Response:
        status, answer = record.transaction(await body(request))
        return JSONResponse(answer, status, media_type=_JSON)

    async def resource(request: Request) -> Response:
        found, kind = await body(request), request.path_params["kind"]
        if not isinstance(found, dict) or found.get("resourceType") != kind:
            return JSONResponse(_outcome("structure", f"a {kind} is expected here"), 400, media_type=_JSON)
        status, answer = record.put(found, request.path_params.get("id", ""))
        return JSONResponse(answer, status, media_type=_JSON)

    async def read(request: Request) -> Response:
        held: Mapping[str, dict[str, Any]] = record.resources.get(request.path_params["kind"], {})
        found = held.get(request.path_params["id"])
        if found is None:
            return JSONResponse(_outcome("not-found", "there is no such resource"), 404, media_type=_JSON)
        return JSONResponse(found, media_type=_JSON)

    async def listed(request: Request) -> Response:
        held: Mapping[str, dict[str, Any]] = record.resources.get(request.path_params["kind"], {})
        entries = [{"resource": one} for one in reversed(list(held.values()))]
        return JSONResponse(
            {"resourceType": "Bundle", "type": "searchset", "total": len(entries), "entry": entries}, media_type=_JSON
        )

    async def pager(request: Request) -> Response:
        notice = await body(request)
        if not isinstance(notice, dict):
            return JSONResponse({"error": "a JSON object is expected here"}, 400)
        record.page(request.headers.get("idempotency-key", uuid.uuid4().hex), notice)
        return Response(status_code=204)

    async def pages(_: Request) -> Response:
        return JSONResponse(list(reversed(record.pages.values())))

    async def counts(_: Request) -> Response:
        return JSONResponse(asdict(record.counts))

    async def results(_: Request) -> Response:
        return JSONResponse([asdict(one) for one in reversed(record.results.values())])

    return Starlette(
        routes=[
            Route("/counts", counts),
            Route("/results", results),
            Route("/pager", pager, methods=["POST"]),
            Route("/pager", pages, methods=["GET"]),
            Route("/fhir", bundle, methods=["POST"]),
            Route("/fhir/", bundle, methods=["POST"]),
            Route("/fhir/{kind}", resource, methods=["POST"]),
            Route("/fhir/{kind}", listed, methods=["GET"]),
            Route("/fhir/{kind}/{id}", resource, methods=["PUT"]),
            Route("/fhir/{kind}/{id}", read, methods=["GET"]),
        ]
    )
