"""The delivery page: destinations of results, what they would not take, and sending that again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from edgeward.bus.subjects import TOKEN
from edgeward.console import access, render
from edgeward.console.access import NotAllowed, Visitor, audit, console_of, form_of
from edgeward.console.site import Unavailable
from edgeward.messages import Destinations, Resend

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
Engineer = Annotated[Visitor, Depends(access.engineer)]
MAX_NAME = 64


async def _page(request: Request, *, resent: int = -1, error: str = "", status: int = 200) -> Response:
    answer: Destinations | None
    try:
        answer = await console_of(request).site.destinations()
    except Unavailable:
        answer = None
    return render.page(
        request,
        "delivery.html",
        status=status,
        destinations=answer.destinations if answer else None,
        dead=sorted(answer.dead, key=lambda letter: -letter.at_ns) if answer else [],
        resent=resent,
        error=error,
    )


@router.get("/system/delivery")
async def delivery(request: Request, visitor: Anybody, resent: int = -1) -> Response:  # noqa: ARG001 - guards the page
    """Show the destinations and the dead letters."""
    return await _page(request, resent=max(-1, resent))


@router.post("/system/delivery/resend")
async def resend(request: Request, visitor: Engineer) -> Response:
    """Put dead letters into their queues again: one, those of a destination, or all."""
    form = await form_of(request, visitor)
    item, destination = str(form.get("item", "")), str(form.get("destination", ""))
    if (item and not TOKEN.fullmatch(item)) or len(destination) > MAX_NAME:
        raise NotAllowed("refused.bad_request")
    try:
        wish = Resend(by=visitor.user.name, item_id=item, destination=destination)
        count = await console_of(request).site.resend(wish)
    except Unavailable as error:
        audit(visitor, "resend refused", item=item, destination=destination, reason=error.reason)
        return await _page(request, error=error.reason, status=503)
    audit(visitor, "resent", item=item, destination=destination, count=count)
    return RedirectResponse(f"/system/delivery?resent={count}", status_code=303)
