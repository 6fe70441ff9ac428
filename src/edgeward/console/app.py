"""The web application: which page is served by whom, and what happens when something is refused.

Responsible for putting the parts together. Not responsible for sockets and TLS (``role``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from edgeward.bus.client import Bus
from edgeward.config import Settings
from edgeward.console import render
from edgeward.console.access import LoginNeeded, NotAllowed, PasswordNeeded, local_path, visitor_of
from edgeward.console.accounts import Accounts
from edgeward.console.headers import Headers
from edgeward.console.live import Hub
from edgeward.console.searches import Searches
from edgeward.console.sessions import Sessions, Throttle
from edgeward.console.site import Site, Unavailable
from edgeward.console.watch import Watch
from edgeward.home import Home

_log = logging.getLogger("edgeward.console")


@dataclass(slots=True)
class Console:
    """Everything a page needs."""

    settings: Settings
    accounts: Accounts
    sessions: Sessions
    watch: Watch
    hub: Hub
    site: Site
    secure: bool
    throttle: Throttle = field(default_factory=Throttle)
    searches: Searches = field(default_factory=Searches)
    editing: dict[str, asyncio.Lock] = field(default_factory=dict)  # beds: one change of limits at a time


def build(home: Home, settings: Settings, bus: Bus, *, secure: bool) -> Console:
    """Return the parts of the console; ``hub.start`` makes them listen."""
    accounts = Accounts(home)
    accounts.ensure_first()
    sessions = Sessions(home, settings.console.session_hours * 3600, time.time())
    watch = Watch(clock=time.monotonic, connected=lambda: bus.connected)
    site = Site(bus)
    hub = Hub(bus, watch, lambda session_id: sessions.alive(session_id, time.time()), site.forget, render.BUILD)
    return Console(
        settings=settings, accounts=accounts, sessions=sessions, watch=watch, hub=hub, site=site, secure=secure
    )


def create_app(console: Console) -> FastAPI:
    """Return the application that serves `console`."""
    from edgeward.console.pages import (
        account,
        alarms,
        api,
        beds,
        bedside,
        deliveries,
        frames,
        images,
        orders,
        overview,
        quarantine,
        signals,
        socket,
        system,
        worklist,
    )

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.console = console
    for module in (
        account,
        overview,
        beds,
        bedside,
        alarms,
        signals,
        worklist,
        images,
        frames,
        orders,
        deliveries,
        quarantine,
        system,
        api,
        socket,
    ):
        app.include_router(module.router)
    app.mount(render.STATIC_URL, StaticFiles(directory=render.STATIC), name="static")
    app.add_middleware(Headers, secure=console.secure, static=render.STATIC_URL)

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        ok = console.watch.connected() and not console.hub.closing
        return JSONResponse({"ok": ok}, status_code=200 if ok else 503)

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> RedirectResponse:
        return RedirectResponse(f"{render.STATIC_URL}/img/logo.svg")

    _refusals(app)
    return app


def wants_json(request: Request) -> bool:
    """Whether the answer goes to a script rather than to a person."""
    return request.url.path.startswith("/api/") or "application/json" in request.headers.get("accept", "")


def _refusals(app: FastAPI) -> None:
    def refuse(request: Request, status: int, key: str, **slots: object) -> Response:
        if wants_json(request):
            from edgeward.console import languages

            language = render.language_of(request, visitor_of(request))
            return JSONResponse({"error": languages.text(language, key, **slots)}, status_code=status)
        return render.page(request, "refused.html", status=status, code=status, key=key, slots=slots)

    @app.exception_handler(LoginNeeded)
    async def login_needed(request: Request, _: Exception) -> Response:
        if wants_json(request) or request.headers.get("x-fragment"):
            return JSONResponse({"error": "log in first"}, status_code=401)
        if request.method != "GET":
            return refuse(request, 401, "refused.login_ended")
        wish = local_path(request.url.path + (f"?{request.url.query}" if request.url.query else ""))
        return RedirectResponse("/login" if wish == "/" else f"/login?next={quote(wish, safe='')}", status_code=303)

    @app.exception_handler(PasswordNeeded)
    async def password_needed(request: Request, _: Exception) -> Response:
        if wants_json(request) or request.method != "GET":
            return JSONResponse({"error": "set an own password first"}, status_code=403)
        return RedirectResponse("/password", status_code=303)

    @app.exception_handler(NotAllowed)
    async def not_allowed(request: Request, error: NotAllowed) -> Response:
        return refuse(request, 403, error.key)

    @app.exception_handler(Unavailable)
    async def unavailable(request: Request, error: Unavailable) -> Response:
        _log.warning("%s gave no answer: %s", error.role, error.reason)
        return refuse(request, 503, "refused.unavailable", role=error.role)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        key = "refused.not_found" if error.status_code == 404 else "refused.bad_request"
        return refuse(request, error.status_code, key)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        _log.error("a page failed", exc_info=error, extra={"fields": {"path": request.url.path}})
        return refuse(request, 500, "refused.broken")
