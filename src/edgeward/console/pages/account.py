"""Logging in and out, the password, language and theme, and the people section of the system page."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from edgeward.console import access, languages, render
from edgeward.console.access import LoginNeeded, Visitor, audit, console_of, form_of, visitor_of
from edgeward.console.accounts import MAX_PASSWORD, MIN_PASSWORD, AccountError

router = APIRouter()
_hashing = asyncio.Semaphore(2)  # each hash takes 64 MiB; a flood of logins must not take the machine's memory

Anybody = Annotated[Visitor, Depends(access.anybody)]
Engineer = Annotated[Visitor, Depends(access.engineer)]


@router.get("/login")
async def login_page(request: Request, next: str = "/") -> Response:  # noqa: A002 - the name in the address
    """Show the login form."""
    if visitor_of(request):
        return RedirectResponse(access.local_path(next), status_code=303)
    return render.page(request, "login.html", next=access.local_path(next), error="", user="", wait_s=0)


@router.post("/login")
async def login(request: Request) -> Response:
    """Check name and password."""
    console = console_of(request)
    form = await form_of(request, None)
    name, password = str(form.get("user", "")).strip()[:64], str(form.get("password", ""))
    wish = access.local_path(str(form.get("next", "/")))
    address = access.address_of(request)
    wait_s = console.throttle.wait_s(name, address, time.monotonic())
    if wait_s > 0:
        page = render.page(
            request, "login.html", status=429, next=wish, error="login.wait", user=name, wait_s=int(wait_s) + 1
        )
        page.headers["retry-after"] = str(int(wait_s) + 1)
        return page
    async with _hashing:
        user = await asyncio.to_thread(console.accounts.verify, name, password)
    if user is None:
        console.throttle.failed(name, address, time.monotonic())
        audit(None, "login refused", account=name if console.accounts.get(name) else "(unknown)", address=address)
        return render.page(request, "login.html", status=401, next=wish, error="login.wrong", user=name, wait_s=0)
    console.throttle.succeeded(name, address)
    token, session = console.sessions.open(user.name, time.time())
    audit(Visitor(user, session, ""), "login", address=address)
    response = RedirectResponse("/password" if user.one_time else wish, status_code=303)
    access.set_session(request, response, token)
    return response


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End the session, its live socket too."""
    visitor = visitor_of(request)
    response = RedirectResponse("/login", status_code=303)
    if visitor is not None:
        await form_of(request, visitor)
        console = console_of(request)
        console.sessions.close(visitor.session.id)
        console.searches.forget([visitor.session.id])
        await console.hub.close_sessions([visitor.session.id])
        audit(visitor, "logout")
    access.clear_session(request, response)
    return response


@router.get("/password")
async def password_page(request: Request) -> Response:
    """Show the form to set an own password; after a one-time password this is the only page."""
    visitor = visitor_of(request)
    if visitor is None:
        raise LoginNeeded
    return render.page(request, "password.html", error="", minimum=MIN_PASSWORD, maximum=MAX_PASSWORD)


@router.post("/password")
async def set_password(request: Request) -> Response:
    """Set an own password. All other sessions of this person end."""
    visitor = visitor_of(request)
    if visitor is None:
        raise LoginNeeded
    console = console_of(request)
    form = await form_of(request, visitor)
    current, new, again = (str(form.get(name, "")) for name in ("current", "new", "again"))
    name, address = visitor.user.name, access.address_of(request)
    error = "password_differs" if new != again else ""
    if not error and console.throttle.wait_s(name, address, time.monotonic()) > 0:
        error = "wait"
    if not error:
        try:
            async with _hashing:
                await asyncio.to_thread(console.accounts.set_password, name, current, new)
        except AccountError as problem:
            error = problem.code
            if error == "wrong_password":
                console.throttle.failed(name, address, time.monotonic())
    if error:
        key = f"account.error.{error}"
        return render.page(request, "password.html", status=400, error=key, minimum=MIN_PASSWORD, maximum=MAX_PASSWORD)
    # A new session, so that a token seen before the change is worth nothing after it.
    ended = console.sessions.close_all_of(name)
    console.searches.forget(ended)
    await console.hub.close_sessions(ended)
    token, _ = console.sessions.open(name, time.time())
    audit(visitor, "password set")
    response = RedirectResponse("/", status_code=303)
    access.set_session(request, response, token)
    return response


@router.post("/preferences")
async def preferences(request: Request) -> Response:
    """Set language and theme: kept in the browser, the language with the account too."""
    console = console_of(request)
    visitor = visitor_of(request)
    form = await form_of(request, visitor)
    response: Response = RedirectResponse(access.local_path(str(form.get("next", "/"))), status_code=303)
    if request.headers.get("x-csrf"):
        response = Response(status_code=204)
    wishes = (
        (render.LANGUAGE_COOKIE, str(form.get("language", "")), languages.LANGUAGES),
        (render.THEME_COOKIE, str(form.get("theme", "")), render.THEMES),
    )
    for cookie, value, allowed in wishes:
        if value in allowed:
            response.set_cookie(
                cookie, value, max_age=365 * 86400, path="/", secure=console.secure, httponly=True, samesite="strict"
            )
            if cookie == render.LANGUAGE_COOKIE and visitor is not None:
                console.accounts.set_language(visitor.user.name, value)
    return response


@router.post("/system/people")
async def add_person(request: Request, visitor: Engineer) -> Response:
    """Create an account; its one-time password is shown once, on the answer to this request."""
    console = console_of(request)
    form = await form_of(request, visitor)
    name = str(form.get("name", "")).strip()
    roles = tuple(str(role) for role in form.getlist("role"))
    try:
        async with _hashing:
            password = await asyncio.to_thread(console.accounts.create, name, roles, visitor.user.name)
    except AccountError as problem:
        return await _people(request, error=f"account.error.{problem.code}", status=400, name=name)
    audit(visitor, "account created", account=name, roles=list(roles))
    return await _people(request, name=name, password=password)


@router.post("/system/people/{name}/{action}")
async def change_person(request: Request, visitor: Engineer, name: str, action: str) -> Response:
    """Close or reopen an account, or give it a new one-time password."""
    console = console_of(request)
    await form_of(request, visitor)
    password = ""
    try:
        if action == "reset":
            async with _hashing:
                password = await asyncio.to_thread(console.accounts.reset, name, visitor.user.name)
        elif action in ("close", "reopen"):
            console.accounts.set_disabled(name, disabled=action == "close", by=visitor.user.name)
        else:
            raise AccountError("unknown")
    except AccountError as problem:
        return await _people(request, error=f"account.error.{problem.code}", status=400, name=name)
    if action != "reopen":
        ended = console.sessions.close_all_of(name)
        console.searches.forget(ended)
        await console.hub.close_sessions(ended)
    audit(visitor, f"account {action}", account=name)
    return await _people(request, name=name, password=password)


async def _people(
    request: Request, *, error: str = "", status: int = 200, name: str = "", password: str = ""
) -> Response:
    return render.page(
        request,
        "people.html",
        status=status,
        people=console_of(request).accounts.all(),
        error=error,
        account=name,
        password=password,
    )


@router.get("/system/people")
async def people_page(request: Request, visitor: Engineer) -> Response:  # noqa: ARG001 - guards the page
    """Show the accounts."""
    return await _people(request)
