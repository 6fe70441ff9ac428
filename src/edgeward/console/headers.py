"""Response headers and request limits, for every answer of the console.

Responsible for what a browser is told to refuse: foreign scripts, frames, caches. A plain ASGI layer, so that it holds
for errors and static files too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 64 * 1024  # the largest thing a page of ours posts is a comment

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)

_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # Not "no-referrer": with it browsers send "Origin: null", and the check of the origin would be blind.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=(), display-capture=()"),
)
_NO_STORE = (b"cache-control", b"no-store")  # patients' data must not remain on the disk of a workstation
_FOR_EVER = (b"cache-control", b"public, max-age=31536000, immutable")  # the address holds the files' hash
_HSTS = (b"strict-transport-security", b"max-age=31536000")


class BodyTooLarge(Exception):
    """A request's body is larger than anything our pages send."""


class Headers:
    """ASGI layer that adds the headers and caps the body."""

    def __init__(self, app: App, *, secure: bool, static: str) -> None:
        self._app = app
        self._static = static + "/"
        self._extra = (*_HEADERS, _HSTS) if secure else _HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > MAX_BODY:
            await self._refuse(send)
            return
        seen = 0
        started = False

        async def limited() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
                raise BodyTooLarge
            return message

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                lasting = scope["path"].startswith(self._static) and message["status"] in (200, 304)
                message["headers"] = self._complete(list(message["headers"]), _FOR_EVER if lasting else _NO_STORE)
            await send(message)

        try:
            await self._app(scope, limited, with_headers)
        except BodyTooLarge:
            if started:
                raise
            await self._refuse(send)

    def _complete(
        self, headers: list[tuple[bytes, bytes]], cache: tuple[bytes, bytes] = _NO_STORE
    ) -> list[tuple[bytes, bytes]]:
        if not any(name == b"cache-control" for name, _ in headers):
            headers.append(cache)
        return [*headers, *self._extra]

    async def _refuse(self, send: Send) -> None:
        headers = self._complete([(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")])
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": f"more than {MAX_BODY} bytes\n".encode()})
