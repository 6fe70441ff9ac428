"""The FHIR R4 door for vital signs: routes below ``/fhir``, and what they answer.

Responsible for HTTP, for repeated sending (If-None-Exist, identifiers), and for the answers. Not responsible for what
an Observation measures (``fhir_vitals``), for handing over (``handover``), or for who may come in (``gateway.web``).

An Observation is accepted once the monitor has taken it. It is not kept as a resource: there is nothing to read back,
search or change, and the Location of the answer only names it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edgeward.bedside import Numerics
from edgeward.gateway import fhir_vitals, fhir_waves
from edgeward.gateway.fhir_elements import FhirError
from edgeward.gateway.fhir_routes import answered, body_of, outcome, refusal, sender_of, telling
from edgeward.gateway.handover import Handover, NotTaken
from edgeward.gateway.pcd01_waves import Array, Streams, Unusable
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.web import guarded

SENDERS = ("monitor", "wearable", "emr", "other")  # who may send vital signs
_LARGEST = 4 << 20
_MOST_ENTRIES = 1000
_TAKEN = "the monitor has taken it"
_UNKNOWN = "none of its codes is monitored here: nothing of it is used"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One Observation, read."""

    resource_id: str
    numerics: Numerics | None
    unknown: int
    condition: str  # of its creation (If-None-Exist); empty: none
    named: bool  # it has an identifier of its own
    waves: list[Array]


@dataclass(frozen=True, slots=True)
class _Waves:
    source_id: str
    arrays: list[Array]


class VitalSigns:
    """Takes Observations, alone and in Bundles.

    Parameters
    ----------
    publish
        Sends a waveform packet of a source on its way. It raises `NotTaken` where that is not possible.
    """

    def __init__(
        self,
        handover: Handover,
        quarantine: Quarantine,
        pseudonym: Callable[[str], str],
        publish: Callable[[str, bytes], Awaitable[None]],
    ) -> None:
        self._handover, self._quarantine, self._pseudonym = handover, quarantine, pseudonym
        self._publish = publish
        self._streams = Streams()

    def routes(self) -> list[BaseRoute]:
        """Return the routes, with their full path."""
        create = guarded(telling(self.create, self._quarantine), "send vital signs", SENDERS, _LARGEST, told=refusal)
        return [Route("/fhir/Observation", create, methods=["POST"])]

    @staticmethod
    def has_some(bundle: dict[str, Any]) -> bool:
        """Whether a Bundle holds Observations."""
        return any(_resource(entry).get("resourceType") == "Observation" for entry in _entries(bundle))

    async def create(self, request: Request) -> Response:
        """Take one Observation."""
        resource = await body_of(request, "Observation")
        entry = self._read(resource, sender_of(request), request.headers.get("if-none-exist", ""), 0)
        is_new = await self._give(entry, sender_of(request))
        location = {"Location": f"/fhir/Observation/{entry.resource_id}"}
        return answered(_note(_TAKEN if entry.numerics else _UNKNOWN), 201 if is_new else 200, location)

    async def bundle(self, bundle: dict[str, Any], device_id: str) -> Response:
        """Take the Observations of a Bundle: of a batch each by itself, of a transaction all or none.

        Raises
        ------
        FhirError
            If a transaction cannot be taken as a whole, or it is no Bundle of these.
        """
        kind = bundle.get("type")
        if kind not in ("transaction", "batch", "collection", "message"):
            raise FhirError(422, "value", "the Bundle must be a transaction, batch or collection", "Bundle.type")
        rows = _entries(bundle)
        if len(rows) > _MOST_ENTRIES:
            raise FhirError(413, "too-costly", f"a Bundle may hold {_MOST_ENTRIES} entries", "Bundle.entry")
        sent_ns = fhir_vitals.sent_of(bundle)
        if kind == "batch":
            # Of a batch no entry may refer to another (R4, 3.1.0.11), but some do.
            answers = [await self._batched(row, index, device_id, sent_ns) for index, row in enumerate(_resolved(rows))]
        else:
            answers = await self._transacted(rows, device_id, sent_ns)
        response = "batch-response" if kind == "batch" else "transaction-response"
        return answered({"resourceType": "Bundle", "type": response, "entry": answers})

    # ---------------------------------------- one by one, or together

    async def _batched(self, row: Any, index: int, device_id: str, sent_ns: int) -> dict[str, Any]:
        try:
            entry = self._entry(row, index, device_id, sent_ns)
            return _created(entry, await self._give(entry, device_id)) if entry else _passed_over()
        except FhirError as error:
            self._quarantine.note("fhir", device_id, f"an entry of a batch: {error}", "nothing of it was taken")
            return {"response": {"status": str(error.status), "outcome": outcome(error)}}

    async def _transacted(self, rows: list[Any], device_id: str, sent_ns: int) -> list[dict[str, Any]]:
        entries = [self._entry(row, index, device_id, sent_ns) for index, row in enumerate(_resolved(rows))]
        together = fhir_vitals.merged([entry.numerics for entry in entries if entry and entry.numerics])
        arrivals = [_arrival(entry) for entry in entries if entry]
        whole = json.dumps([device_id, rows, arrivals], sort_keys=True, default=str).encode()

        async def give() -> None:
            await self._handover.give(together)
            await self._send([wave for entry in entries if entry for wave in _waves_of(entry)])

        is_new = await self._once(whole, give, sum(entry.unknown for entry in entries if entry))
        return [_created(entry, is_new) if entry else _passed_over() for entry in entries]

    def _entry(self, row: Any, index: int, device_id: str, sent_ns: int) -> _Entry | None:
        """Return an entry of a Bundle, or None for one that is about something else (a Patient, a Device)."""
        resource = _resource(row)
        if resource.get("resourceType") != "Observation":
            return None
        request = row.get("request") if isinstance(row.get("request"), dict) else {}
        where = f"Bundle.entry[{index}]"
        if str(request.get("method", "POST")) not in ("POST", "PUT"):
            raise FhirError(422, "not-supported", "only POST and PUT are taken", f"{where}.request.method")
        try:
            return self._read(resource, device_id, str(request.get("ifNoneExist", "")), sent_ns)
        except FhirError as error:
            place = error.expression.replace("Observation", f"{where}.resource.ofType(Observation)", 1)
            raise FhirError(error.status, error.code, str(error), place) from None

    def _read(self, resource: dict[str, Any], device_id: str, condition: str, sent_ns: int) -> _Entry:
        numerics, unknown = fhir_vitals.read(
            resource, device_id=device_id, received_ns=time.time_ns(), pseudonym=self._pseudonym, sent_ns=sent_ns
        )
        waves, strange = fhir_waves.arrays(resource)
        if numerics is not None and not numerics.vitals and not waves:
            numerics = None  # a waveform of something else
        # By what tells it from others: its own identifier, or all of it.
        named = resource.get("identifier") or {key: value for key, value in resource.items() if key != "meta"}
        digest = hashlib.sha256(json.dumps([device_id, condition or named], sort_keys=True, default=str).encode())
        named_so = bool(resource.get("identifier"))
        return _Entry(digest.hexdigest()[:32], numerics, unknown + strange, condition, named_so, waves)

    async def _send(self, waves: list[_Waves]) -> None:
        """Send waveforms on their way, those of one source and time together.

        Raises
        ------
        FhirError
            If some cannot be used; everything else was taken.
        """
        together: dict[tuple[int, str], list[Array]] = {}
        for one in waves:
            for array in one.arrays:
                together.setdefault((array.at_ns, one.source_id), []).append(array)
        unusable: Unusable | None = None
        for (_, source), arrays in sorted(together.items()):
            try:
                packets, repeated = self._streams.packets(source, arrays)
            except Unusable as error:
                unusable = unusable or error
                continue
            if repeated:
                self._handover.count("fhir_samples_repeated", repeated)
            for packet in packets:
                await self._publish(source, packet)
        if unusable is not None:
            text = f"{unusable}; everything else of it was taken"
            raise FhirError(422, "value", text, "Observation.valueSampledData")

    async def _give(self, entry: _Entry, device_id: str) -> bool:
        """Hand one Observation over; return whether it is new."""

        async def give() -> None:
            await self._handover.give([entry.numerics] if entry.numerics else [])
            await self._send(_waves_of(entry))

        # An identifier does not change when a result is corrected: without a condition all of it decides.
        key = [device_id, entry.condition or entry.resource_id]
        if not entry.condition and entry.waves:
            key += [hashlib.sha256(b"".join(wave.values.tobytes() for wave in entry.waves)).hexdigest()]
            key += [str(wave.at_ns) for wave in entry.waves]
        if not entry.condition and entry.numerics:
            key += [repr(entry.numerics.vitals), _arrival(entry)]
        return await self._once("\0".join(key).encode(), give, entry.unknown)

    async def _once(self, key: bytes, give: Callable[[], Any], unknown: int) -> bool:
        try:
            is_new = await self._handover.once(key, give)
        except NotTaken as error:
            raise FhirError(503, "transient", f"{error}; send it again later") from None
        if is_new:
            self._handover.count("fhir_observations")
            if unknown:
                self._handover.count("fhir_codes_unknown", unknown)
        return is_new


def _entries(bundle: dict[str, Any]) -> list[Any]:
    rows = bundle.get("entry")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _resolved(rows: list[Any]) -> list[Any]:
    bundled = {str(row["fullUrl"]): _resource(row) for row in rows if row.get("fullUrl")}
    return [{**row, "resource": fhir_vitals.resolved(_resource(row), bundled)} for row in rows]


def _resource(row: Any) -> dict[str, Any]:
    found = row.get("resource") if isinstance(row, dict) else None
    return found if isinstance(found, dict) else {}


def _waves_of(entry: _Entry) -> list[_Waves]:
    return [_Waves(entry.numerics.source_id, entry.waves)] if entry.numerics and entry.waves else []


def _arrival(entry: _Entry) -> str:
    """Return when an Observation arrived that says neither what it is called nor when it was: the next may be alike."""
    if entry.named or entry.condition or entry.numerics is None or all(one.at_ns for one in entry.numerics.vitals):
        return ""
    return str(entry.numerics.received_ns)


def _created(entry: _Entry, is_new: bool) -> dict[str, Any]:
    response: dict[str, Any] = {
        "status": "201 Created" if is_new else "200 OK",
        "location": f"Observation/{entry.resource_id}",
    }
    if entry.numerics is None:
        response["outcome"] = _note(_UNKNOWN)
    return {"response": response}


def _passed_over() -> dict[str, Any]:
    return {"response": {"status": "200 OK", "outcome": _note("only Observations are used here")}}


def _note(text: str) -> dict[str, Any]:
    issue = {"severity": "information", "code": "informational", "diagnostics": text}
    return {"resourceType": "OperationOutcome", "issue": [issue]}
