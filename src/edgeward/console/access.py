"""Who may do what: the session cookie, the roles a page wants, and the defence against forged requests.

Responsible for turning a request into a `Visitor` or refusing it. Two independent checks guard every change: the Origin
(and ``SameSite=Strict``), and a token that only a page of this session knows.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from starlette.datastructures import FormData
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from edgeward.console.accounts import User
from edgeward.console.sessions import Session, csrf_token

if TYPE_CHECKING:
    from edgeward.console.app import Console

_log = logging.getLogger("edgeward.console")


class LoginNeeded(Exception):
    """Nobody is logged in."""


class PasswordNeeded(Exception):
    """The one-time password must be replaced before anything else."""


class NotAllowed(Exception):
    """`key` is a key of the message catalogue that says why."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is logged in."""

    user: User
    session: Session
    csrf: str

    @property
    def clinician(self) -> bool:
        """Whether she decides on findings, acknowledges alarms, and sees who the patient is."""
        return self.user.has("clinician")

    @property
    def engineer(self) -> bool:
        """Whether she looks after the system and the people's accounts."""
        return self.user.has("engineer")


def console_of(connection: HTTPConnection) -> Console:
    """Return the console that serves this request."""
    return cast("Console", connection.app.state.console)


def cookie_name(connection: HTTPConnection) -> str:
    """Return the session cookie's name; ``__Host-`` makes browsers refuse one set by a neighbour or without TLS."""
    return "__Host-edgeward" if console_of(connection).secure else "edgeward"


def visitor_of(connection: HTTPConnection) -> Visitor | None:
    """Return who is logged in, or None."""
    console = console_of(connection)
    token = connection.cookies.get(cookie_name(connection), "")
    session = console.sessions.find(token, time.time())
    user = console.accounts.get(session.user) if session else None
    if session is None or user is None:
        return None
    return Visitor(user=user, session=session, csrf=csrf_token(token))


def set_session(connection: HTTPConnection, response: Response, token: str) -> None:
    """Give the browser its session."""
    console = console_of(connection)
    response.set_cookie(
        cookie_name(connection),
        token,
        max_age=int(console.settings.console.session_hours * 3600),
        path="/",
        secure=console.secure,
        httponly=True,
        samesite="strict",
    )


def clear_session(connection: HTTPConnection, response: Response) -> None:
    """Take the session from the browser."""
    response.delete_cookie(
        cookie_name(connection), path="/", secure=console_of(connection).secure, httponly=True, samesite="strict"
    )


def anybody(request: Request) -> Visitor:
    """Dependency: somebody who is logged in with an own password."""
    visitor = visitor_of(request)
    if visitor is None:
        raise LoginNeeded
    if visitor.user.one_time:
        raise PasswordNeeded
    return visitor


def clinician(request: Request) -> Visitor:
    """Dependency: a clinician."""
    visitor = anybody(request)
    if not visitor.clinician:
        raise NotAllowed("refused.clinician_only")
    return visitor


def engineer(request: Request) -> Visitor:
    """Dependency: an engineer."""
    visitor = anybody(request)
    if not visitor.engineer:
        raise NotAllowed("refused.engineer_only")
    return visitor


def caretaker(request: Request) -> Visitor:
    """Dependency: somebody who may say what a bed consists of, a clinician or an engineer."""
    visitor = anybody(request)
    if not (visitor.clinician or visitor.engineer):
        raise NotAllowed("refused.caretaker_only")
    return visitor


def same_origin(connection: HTTPConnection, *, required: bool) -> bool:
    """Whether the request comes from a page of ours.

    Browsers send Origin with every POST and every WebSocket. A client that sends none is not a browser and cannot be
    tricked into anything; `required` refuses it nevertheless.
    """
    fetch_site = connection.headers.get("sec-fetch-site", "")
    if fetch_site and fetch_site not in ("same-origin", "none"):
        return False
    origin = connection.headers.get("origin")
    if origin is None:
        return not required
    scheme = "https" if console_of(connection).secure else "http"
    parts = urlsplit(origin)
    return parts.scheme == scheme and parts.netloc.lower() == connection.headers.get("host", "").lower()


async def form_of(request: Request, visitor: Visitor | None, *, fields: int = 50) -> FormData:
    """Return the fields of a POST after both checks, at most `fields`; `visitor` is None before the login.

    Raises
    ------
    NotAllowed
        If the request does not come from a page of ours.
    """
    if not same_origin(request, required=False):
        _log.warning("a request from another origin was refused", extra={"fields": {"path": request.url.path}})
        raise NotAllowed("refused.origin")
    form = await request.form(max_files=0, max_fields=fields)
    if visitor is not None:
        given = request.headers.get("x-csrf") or str(form.get("csrf", ""))
        if not _equal(given, visitor.csrf):
            _log.warning(
                "a request without this session's token was refused",
                extra={"fields": {"path": request.url.path, "user": visitor.user.name}},
            )
            raise NotAllowed("refused.csrf")
    return form


def _equal(given: str, expected: str) -> bool:
    import hmac

    return hmac.compare_digest(given.encode(), expected.encode())


def address_of(request: Request) -> str:
    """Return the client's address for counting failures; an IPv6 client counts by its /64, which is what it owns."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host


def local_path(wish: str) -> str:
    """Return `wish` if it is a path on this console, else ``/``: a login must not send anybody elsewhere."""
    plain = wish.startswith("/") and not wish.startswith(("//", "/\\")) and "\\" not in wish and wish.isprintable()
    return wish if plain and len(wish) <= 512 else "/"


def audit(visitor: Visitor | None, action: str, **fields: object) -> None:
    """Say in the log who did what. Never the name or number of a patient."""
    who = visitor.user.name if visitor else ""
    _log.info(action, extra={"fields": {"user": who, **fields}})
