"""The quarantine page: what was refused or set aside, why, and what to do about it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from edgeward.console import access, render
from edgeward.console.access import Visitor, console_of
from edgeward.console.site import Unavailable
from edgeward.console.views import refusals

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]


@router.get("/system/quarantine")
async def quarantine(request: Request, visitor: Anybody, place: str = "") -> Response:  # noqa: ARG001
    """Show what was refused, like cases together, the latest first."""
    try:
        entries = (await console_of(request).site.quarantine()).entries
    except Unavailable:
        entries = None
    places = sorted({entry.where for entry in entries or []})
    place = place if place in places else ""
    return render.page(
        request,
        "quarantine.html",
        groups=None if entries is None else refusals(entry for entry in entries if not place or entry.where == place),
        places=places,
        place=place,
    )
