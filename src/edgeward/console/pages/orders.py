"""The orders on the modality worklist, to look at: they come from the order system and are changed there."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from edgeward.console import access, render
from edgeward.console.access import Visitor, audit, console_of, form_of
from edgeward.console.pages.worklist import searched
from edgeward.console.site import Unavailable
from edgeward.console.views import order_view
from edgeward.messages import OrdersQuery

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
Clinician = Annotated[Visitor, Depends(access.clinician)]
STATUSES = ("scheduled", "started", "completed", "discontinued", "cancelled")
LIMIT = 200


@router.get("/orders")
async def orders(request: Request, visitor: Anybody, status: str = "", find: str = "") -> Response:
    """Show the orders, the ones due next first."""
    console = console_of(request)
    status = status if status in STATUSES else ""
    text = searched(console, visitor, find)
    views = None
    if text is not None:
        try:
            answer = await console.site.orders(OrdersQuery(status=status, text=text, limit=LIMIT))
            views = [order_view(order, identity=visitor.clinician) for order in answer.orders]
        except Unavailable:
            views = None
    settings = console.settings
    return render.page(
        request,
        "orders.html",
        views=views,
        chosen=status,
        statuses=STATUSES,
        text=text or "",
        find=find if text else "",
        forgotten=text is None,
        full=views is not None and len(views) >= LIMIT,
        limit=LIMIT,
        ae_title=settings.dicom.ae_title,
        dicom_port=settings.dicom.port,
        mllp_port=settings.mllp.port,
        web_port=settings.web.port,
    )


@router.post("/orders/search")
async def search(request: Request, visitor: Clinician) -> Response:
    """Keep what is searched for and go to the orders that match; the address carries no name."""
    form = await form_of(request, visitor)
    status = str(form.get("status", ""))
    handle = console_of(request).searches.keep(visitor.session.id, str(form.get("text", "")))
    audit(visitor, "search of orders" if handle else "search of orders cleared")
    query = "&".join(part for part in (f"status={status}" if status in STATUSES else "", f"find={handle}") if part)
    return RedirectResponse(f"/orders?{query}" if status in STATUSES or handle else "/orders", status_code=303)
