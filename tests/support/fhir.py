"""A strict FHIR R4 server for tests: every transaction is validated twice, and carried out as R4 http.html says.

There is no FHIR server in the test environment's package registries that does transactions with conditional operations
without Java or a database. This one is small and unforgiving instead: what fails one of the two validators, refers to
nothing, or asks for an operation it does not know is refused, and nothing of the transaction is kept.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import uvicorn
from fhir.resources.R4B.bundle import Bundle

from edgeward.config import Fhir
from tests.support.site import free_port

_SCHEMA = json.loads((Path(__file__).parent / "fhir-r4.schema.json").read_text())
_validators: dict[str, Any] = {}

Resource = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]


class Refuse(Exception):
    """The server refuses: HTTP status and diagnostics."""

    def __init__(self, status: int, diagnostics: str) -> None:
        super().__init__(diagnostics)
        self.status = status


def validate(bundle: Resource) -> None:
    """Raise unless `bundle` is valid for `fhir.resources` and for the official JSON Schema of R4."""
    Bundle.model_validate(bundle)
    for entry in bundle["entry"]:
        resource = entry["resource"]
        kind = resource["resourceType"]
        if kind not in _validators:
            schema = {**_SCHEMA, "$ref": f"#/definitions/{kind}"}
            _validators[kind] = jsonschema.Draft6Validator(schema)
        _validators[kind].validate(resource)


@dataclass
class FhirServer:
    """Keeps what it is sent. `script(n, method, path)` may answer the n-th request (from 0) in its place; it may block."""

    script: Callable[[int, str, str], Answer | None] = lambda n, method, path: None
    token: str = ""
    tls: dict[str, Any] = field(default_factory=dict)  # options of uvicorn
    update_create: bool = True  # whether a client may choose ids
    port: int = field(default_factory=free_port)
    store: dict[tuple[str, str], list[Resource]] = field(default_factory=dict)  # (type, id) -> versions
    transactions: list[Resource] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _server: Any = None
    _thread: Any = None

    # ------------------------------------ running

    def start(self) -> None:
        config = uvicorn.Config(
            self._app,
            host="127.0.0.1",
            port=self.port,
            log_level="error",
            lifespan="off",
            interface="asgi3",
            **self.tls,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the FHIR server did not start")

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(10)
            self._server = None

    def settings(self, name: str = "emr", **changes: Any) -> Fhir:
        scheme = "https" if self.tls else "http"
        values = {"name": name, "url": f"{scheme}://127.0.0.1:{self.port}/fhir", "timeout_s": 5.0, **changes}
        return Fhir(**values)

    # ------------------------------------ what it holds

    def of(self, kind: str) -> list[Resource]:
        """Return the current resources of one type."""
        return [versions[-1] for (held, _), versions in self.store.items() if held == kind]

    def put(self, resource: Resource) -> None:
        """Put a resource in, past HTTP."""
        self.store.setdefault((resource["resourceType"], resource["id"]), []).append(resource)

    def find(self, kind: str, query: str) -> list[Resource]:
        """Search by ``identifier`` or ``_tag``."""
        parameters = {key: values[0] for key, values in parse_qs(query).items() if key not in ("_count", "_elements")}
        if set(parameters) - {"identifier", "_tag"} or len(parameters) != 1:
            raise Refuse(400, f"cannot search by {sorted(parameters)}")
        ((name, token),) = parameters.items()
        system, bar, value = token.rpartition("|")
        wanted = (system if bar else None, value)

        def matches(resource: Resource) -> bool:
            if name == "identifier":
                tokens = [(i.get("system"), i.get("value")) for i in resource.get("identifier", [])]
            else:
                tokens = [(t.get("system"), t.get("code")) for t in resource.get("meta", {}).get("tag", [])]
            return any(t == wanted or (wanted[0] is None and t[1] == value) for t in tokens)

        return [resource for resource in self.of(kind) if matches(resource)]

    # ------------------------------------ HTTP

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        import asyncio

        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        n = len(self.asked)
        self.asked.append((scope["method"], scope["path"]))
        self.headers.append(headers)
        query = scope["query_string"].decode()
        answer = await asyncio.to_thread(self.script, n, scope["method"], scope["path"])
        status, more, data = answer or self._answer(scope["method"], scope["path"], query, headers, body)
        more = {"content-type": "application/fhir+json", **more, "content-length": str(len(data))}
        head = [(name.encode(), value.encode()) for name, value in more.items()]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": data})

    def _answer(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> Answer:
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            return 401, {}, b""
        try:
            if method == "POST" and path == "/fhir":
                if headers.get("content-type") != "application/fhir+json":
                    raise Refuse(415, "not FHIR")
                return 200, {}, json.dumps(self.transact(json.loads(body))).encode()
            if method == "GET" and (match := re.fullmatch(r"/fhir/(\w+)", path)):
                found = [{"resource": resource} for resource in self.find(match[1], query)]
                return 200, {}, json.dumps({"resourceType": "Bundle", "type": "searchset", "entry": found}).encode()
            raise Refuse(404, "no such interaction")
        except Refuse as refusal:
            self.problems.append(str(refusal))
            outcome = {
                "resourceType": "OperationOutcome",
                "issue": [{"severity": "error", "code": "invalid", "diagnostics": str(refusal)}],
            }
            return refusal.status, {}, json.dumps(outcome).encode()

    def transact(self, bundle: Resource) -> Resource:
        """Carry out a transaction, whole or not at all (R4 http.html#transaction)."""
        try:
            validate(bundle)
        except Exception as error:
            raise Refuse(422, f"{type(error).__name__}: {error}") from error
        if bundle["type"] != "transaction":
            raise Refuse(400, "not a transaction")
        self.transactions.append(bundle)
        writes: list[tuple[str, str, Resource | None, str]] = []
        places: dict[str, str] = {}
        for entry in bundle["entry"]:
            kind, key, resource, status = self._place(entry)
            if any((kind, key) == (w[0], w[1]) for w in writes):
                raise Refuse(400, f"{kind}/{key} twice in one transaction")
            writes.append((kind, key, resource, status))
            places[entry["fullUrl"]] = f"{kind}/{key}"
        known = {f"{kind}/{key}" for kind, key, _, _ in writes} | {f"{kind}/{key}" for kind, key in self.store}
        for kind, key, resource, _ in writes:
            if resource is not None:
                settled = _resolved(resource, places, known)
                self.store.setdefault((kind, key), []).append({**settled, "id": key})
        response = [
            {"response": {"status": status, "location": f"{kind}/{key}/_history/1"}} for kind, key, _, status in writes
        ]
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": response}

    def _place(self, entry: Resource) -> tuple[str, str, Resource | None, str]:
        resource, request = entry["resource"], entry["request"]
        kind = resource["resourceType"]
        parts = urlsplit(request["url"])
        if request["method"] == "POST" and parts.path == kind:
            found = self.find(kind, request["ifNoneExist"]) if "ifNoneExist" in request else []
            if len(found) > 1:
                raise Refuse(412, "several match")
            return (kind, found[0]["id"], None, "200 OK") if found else (kind, _new(), resource, "201 Created")
        if request["method"] == "PUT" and parts.path == kind and parts.query:
            found = self.find(kind, parts.query)
            if len(found) > 1:
                raise Refuse(412, "several match")
            key = found[0]["id"] if found else _new()
            return kind, key, resource, "200 OK" if found else "201 Created"
        if request["method"] == "PUT" and (match := re.fullmatch(rf"{kind}/([A-Za-z0-9.-]{{1,64}})", parts.path)):
            if resource.get("id") != match[1]:
                raise Refuse(400, "the id does not match the address")
            if not entry["fullUrl"].endswith(f"/fhir/{kind}/{match[1]}"):
                raise Refuse(400, "the full URL does not match the address")
            there = (kind, match[1]) in self.store
            if not there and not self.update_create:
                raise Refuse(405, "this server chooses ids itself")
            return kind, match[1], resource, "200 OK" if there else "201 Created"
        raise Refuse(400, f"cannot {request['method']} {request['url']}")


def _new() -> str:
    return uuid.uuid4().hex


def _resolved(value: Any, places: dict[str, str], known: set[str]) -> Any:
    """Return `value` with references into the bundle replaced; refuse what refers to nothing."""
    if isinstance(value, list):
        return [_resolved(item, places, known) for item in value]
    if not isinstance(value, dict):
        return value
    done = {key: _resolved(item, places, known) for key, item in value.items()}
    target = done.get("reference")
    if isinstance(target, str):
        done["reference"] = places.get(target, target)
        if done["reference"] not in known:
            raise Refuse(422, f"refers to nothing: {target}")
    return done


@contextlib.contextmanager
def fhir_server(**options: Any) -> Iterator[FhirServer]:
    server = FhirServer(**options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def server_tls(home: Any, *, client: bool) -> dict[str, Any]:
    """Return uvicorn's options for TLS with a certificate of the site's authority."""
    folder = home.identity / "roles"
    return {
        "ssl_certfile": str(folder / "gateway.pem"),
        "ssl_keyfile": str(folder / "gateway.key"),
        "ssl_ca_certs": str(home.identity / "ca.pem"),
        "ssl_cert_reqs": ssl.CERT_REQUIRED if client else ssl.CERT_NONE,
    }
