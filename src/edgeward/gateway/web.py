"""The HTTPS door for systems: TLS 1.3, a client certificate of an enrolled device, HTTP/1.1.

Responsible for who may come in, what kind of device may use which route, limits, and for cutting connections of devices
that were revoked or fell silent. Not responsible for what is asked: DICOMweb (``gateway.dicomweb``) and FHIR bring
their routes along.

Every access is logged with device, route and outcome; neither paths nor queries are, because they carry identifiers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeward.config import Settings
from edgeward.gateway.doorstep import Doorstep, Refused
from edgeward.gateway.quarantine import Quarantine
from edgeward.home import Home
from edgeward.privacy.identity import device_of, server_context, uri_of
from edgeward.privacy.registry import Registry

_log = logging.getLogger("edgeward.gateway.web")

Endpoint = Callable[[Request], Awaitable[Response]]
Refusal = Callable[[int, str, Mapping[str, str]], Response]
IDLE_S = 60.0  # a connection on which nothing moves is cut
PER_DEVICE = 16  # requests at once
CONNECTIONS = 1024  # in all, beyond which requests are answered with 503
PER_PEER = 64
_LOOK_S = 0.5
_STOP_S = 2.0


class WebError(RuntimeError):
    """The door cannot be opened; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class WebPeer:
    """Who is on the other side. `device_id` is empty if it may not come in, and `refusal` says why."""

    address: str
    device_id: str = ""
    kind: str = ""
    fingerprint: str = ""
    refusal: str = ""


class WebDoor:
    """The door. Lives in the event loop.

    Parameters
    ----------
    routes
        What is served; each endpoint wrapped by `guarded`.
    """

    def __init__(
        self, home: Home, settings: Settings, *, registry: Registry, quarantine: Quarantine, routes: Sequence[BaseRoute]
    ) -> None:
        self._home, self._settings = home, settings
        self._registry, self._quarantine = registry, quarantine
        self._connections: set[_Connection] = set()
        self._in_work: Counter[str] = Counter()
        self.last_seen_ns: dict[str, int] = {}
        self.app = Starlette(routes=routes)
        self.app.state.door = self
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._server is None:
            raise WebError("the HTTPS door is not open")
        return int(self._server.listener.getsockname()[1])

    async def open(self) -> None:
        """Serve.

        Raises
        ------
        WebError
            If the address is taken or not ours.
        """
        settings = self._settings.web
        try:
            listener = _listen(settings.host, settings.port)
        except OSError as error:
            raise WebError(
                f"the HTTPS door cannot listen on {settings.host} port {settings.port} ({error.strerror}): choose "
                "another with [web] host and port"
            ) from error

        class Connection(_Connection):
            door = self

        config = uvicorn.Config(
            self.app,
            http=Connection,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=1,
            limit_concurrency=CONNECTIONS,
            backlog=CONNECTIONS,
        )
        config.load()
        config.ssl = server_context(self._home, "gateway")
        self._server = _Server(config, listener, self._stranger)
        self._serving = asyncio.create_task(self._server.serve())
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({up, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._serving.done():
            self._serving.result()
            raise WebError("the HTTPS door ended as it opened")

    async def close(self) -> None:
        """Serve no more; what is in work has a moment to end."""
        if self._server is None or self._serving is None:
            return
        for connection in list(self._connections):
            if connection.idle:
                connection.transport.abort()
        self._server.should_exit = True
        done, _ = await asyncio.wait({self._serving}, timeout=_STOP_S)
        for connection in list(self._connections):
            connection.transport.abort()
        if not done:
            self._serving.cancel()
            await asyncio.wait({self._serving})
        self._server.listener.close()

    async def keep_enforcing(self) -> None:
        """Cut what may not be there any more, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.enforce(time.monotonic())

    def enforce(self, now: float) -> None:
        """Cut connections of revoked devices, and those on which nothing has moved for `IDLE_S`."""
        self._registry.refresh()
        for connection in list(self._connections):
            peer = connection.peer
            if peer.device_id and not self._in_force(peer):
                self._quarantine.note("web", peer.device_id, "the device was revoked: its connection was cut")
                connection.transport.abort()
            elif connection.silent_since(now) > IDLE_S:
                _log.info("a silent connection was cut", extra={"fields": {"device": peer.device_id or peer.address}})
                connection.transport.abort()

    def recognise(self, transport: asyncio.Transport) -> WebPeer:
        """Return who a connection is from, by its certificate."""
        name = transport.get_extra_info("peername")
        address = str(name[0]) if isinstance(name, tuple) else "unknown"
        tls = transport.get_extra_info("ssl_object")
        if tls is None:
            return WebPeer(address, refusal="TLS is required")
        fingerprint = hashlib.sha256(tls.getpeercert(True) or b"").hexdigest()
        device_id = device_of(self._settings.site.name, uri_of(tls.getpeercert()))
        self._registry.refresh()
        device = self._registry.by_id(device_id) if device_id else None
        if device is None:
            refusal = "the certificate names no device that is enrolled here"
        elif device.revoked:
            refusal = "the device is revoked"
        elif device.fingerprint != fingerprint:
            refusal = "it presents another certificate than the one it was enrolled with"
        else:
            return WebPeer(address, device_id, device.kind, fingerprint)
        self._quarantine.note("web", device_id or address, refusal, "enrol it: edgeward device enroll NAME --kind KIND")
        return WebPeer(address, refusal=refusal)

    @contextlib.contextmanager
    def working(self, peer: WebPeer) -> Iterator[None]:
        """Count a request of a device while it is served.

        Raises
        ------
        HTTPException
            403 if the device may not come in (any more), 503 if it has too many requests in work.
        """
        if not peer.device_id or not self._in_force(peer):
            raise HTTPException(403, f"refused: {peer.refusal or 'the device is revoked'}")
        if self._in_work[peer.device_id] >= PER_DEVICE:
            raise HTTPException(503, "too many requests at once from this device", {"Retry-After": "1"})
        self._in_work[peer.device_id] += 1
        self.last_seen_ns[peer.device_id] = time.time_ns()
        try:
            yield
        finally:
            self._in_work[peer.device_id] -= 1
            if not self._in_work[peer.device_id]:
                del self._in_work[peer.device_id]

    def has_room(self, peer: WebPeer) -> bool:
        """Return whether a peer may open one more connection; notes it if not."""
        who = peer.device_id or peer.address
        own = sum((one.peer.device_id or one.peer.address) == who for one in self._connections)
        if own < PER_PEER:
            return True
        self._quarantine.note("web", who, "too many connections at once", "let it close what it does not use")
        return False

    def _stranger(self, address: str, reason: str) -> None:
        self._quarantine.note("web", address, reason, "let the system use its enrolment")

    def refused(self, peer: WebPeer, what: str) -> None:
        """Note that a device asked for what its kind may not do."""
        reason = f"a device of kind {peer.kind} may not {what}"
        self._quarantine.note("web", peer.device_id, reason, "enrol it as another kind, if it should")

    def _in_force(self, peer: WebPeer) -> bool:
        self._registry.refresh()
        device = self._registry.by_id(peer.device_id)
        return device is not None and not device.revoked and device.fingerprint == peer.fingerprint


def _plainly(status: int, text: str, headers: Mapping[str, str]) -> Response:
    return PlainTextResponse(f"{text}\n" if text else "", status, dict(headers))


def guarded(
    endpoint: Endpoint, what: str, kinds: Sequence[str], max_body: int = 0, *, told: Refusal = _plainly
) -> Endpoint:
    """Return `endpoint` for devices of these kinds only.

    Parameters
    ----------
    what
        What it does, in words: for the log and for refusals ("search", "store objects").
    max_body
        Bytes of the request's body that are read at most; more is answered with 413.
    told
        Makes the answer that says why there is none: of status, text and headers.
    """

    async def serve(request: Request) -> Response:
        door: WebDoor = request.app.state.door
        peer: WebPeer = request.scope["state"]["peer"]
        started = time.perf_counter()
        status = 500
        try:
            with door.working(peer):
                if peer.kind not in kinds:
                    door.refused(peer, what)
                    raise HTTPException(403, f"a device of kind {peer.kind} may not {what}")
                response = await endpoint(Request(request.scope, _limited(request, max_body), request._send))  # noqa: SLF001
            status = response.status_code
        except HTTPException as error:
            status = error.status_code
            response = told(status, error.detail, error.headers or {})
        except ClientDisconnect:
            status = 499
            response = told(400, "", {})
        except Exception as error:
            # Only the type: the text of an unforeseen error may quote what was asked for.
            _log.error("a request could not be served: %s", type(error).__name__, exc_info=False)
            response = told(500, "the request could not be served", {})
        spent = round((time.perf_counter() - started) * 1e3, 1)
        _log.info(
            "%s: %d",
            what,
            status,
            extra={"fields": {"device": peer.device_id or peer.address, "method": request.method, "ms": spent}},
        )
        return response

    return serve


def _limited(request: Request, most: int) -> Callable[[], Awaitable[MutableMapping[str, Any]]]:
    """Return the request's `receive`, which does not read more than `most` bytes of body."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > most:
        raise HTTPException(413, f"the body is larger than {most} bytes", {"Connection": "close"})
    received = 0

    async def receive() -> MutableMapping[str, Any]:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most:
            raise HTTPException(413, f"the body is larger than {most} bytes", {"Connection": "close"})
        return message

    return receive


class _Connection(H11Protocol):
    """One connection; knows who it is from and when something last moved on it."""

    door: WebDoor
    peer = WebPeer("unknown")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = self.door.recognise(transport)
        self.app_state = {**self.app_state, "peer": self.peer}
        self._moved, self._waiting = time.monotonic(), 0
        if not self.door.has_room(self.peer):
            transport.abort()
            return
        self.door._connections.add(self)  # noqa: SLF001

    def connection_lost(self, exc: Exception | None) -> None:
        self.door._connections.discard(self)  # noqa: SLF001
        super().connection_lost(exc)
        # uvicorn forgets this after a reset, and its timer would hold the request and its answer for another 30 s.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        self._moved = time.monotonic()
        try:
            super().data_received(data)
        except UnicodeDecodeError:  # h11 lets a target pass that is not ASCII, uvicorn does not
            self.send_400_response("the request's target is not ASCII")

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP. A request in work has lost its client; an answer that was begun ends where it is."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    @property
    def idle(self) -> bool:
        """Whether no request is in work."""
        return self.cycle is None or self.cycle.response_complete

    def silent_since(self, now: float) -> float:
        """Return for how many seconds the other side has neither sent nor taken anything that we wait for."""
        waiting = self.transport.get_write_buffer_size()
        ours = not self.idle and not self.cycle.more_body
        if waiting != self._waiting or (ours and not waiting) or self.flow.read_paused:
            self._moved, self._waiting = now, waiting  # something moved, or it is our turn
        return now - self._moved


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals belong to the role."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, refused: Refused) -> None:
        super().__init__(config)
        self.up, self.listener, self.refused = asyncio.Event(), listener, refused

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - the base's signature
        """Listen; as the base class does, but strangers are bounded in number and time (``Doorstep``)."""
        config = self.config

        def connection() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )

        self.listener.listen(config.backlog)
        server = Doorstep(self.listener, config.ssl, connection, self.refused)
        self.servers, self.started = [server], True  # type: ignore[list-item]
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
