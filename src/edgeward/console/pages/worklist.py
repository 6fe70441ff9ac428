"""The worklist: filters, order, search and paging."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from edgeward.console import access, render
from edgeward.console.access import Visitor, audit, console_of, form_of
from edgeward.console.app import Console
from edgeward.console.filters import ORDERS, STATES, Filter, Found, walk
from edgeward.console.present import FILTERS, item_view

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
Clinician = Annotated[Visitor, Depends(access.clinician)]


def searched(console: Console, visitor: Visitor, handle: str) -> str | None:
    """Return what the search `handle` of this session looks for; None if it was forgotten or is not hers to do.

    Only a clinician searches: who may not see a name must not find out by searching whether it is there.
    """
    return console.searches.find(visitor.session.id, handle) if visitor.clinician else (None if handle else "")


async def found(console: Console, visitor: Visitor, wish: Filter, text: str) -> Found:
    """Return one page of the worklist as `visitor` may see it.

    Raises
    ------
    HTTPException
        404 if the item whose study is asked for is not there.
    """
    study = ""
    if wish.study_of:
        item = await console.site.item(wish.study_of)
        if item is None or not item.study_instance_uid:
            raise HTTPException(404)
        study = item.study_instance_uid
    return await walk(
        wish,
        console.site.items,
        lambda item: item_view(item, identity=visitor.clinician),
        text=text,
        study_instance_uid=study,
    )


@router.get("/images")
async def worklist(request: Request, visitor: Anybody) -> Response:
    """Show the worklist."""
    console = console_of(request)
    wish = Filter.read(request.query_params)
    text = searched(console, visitor, wish.find)
    here = await found(console, visitor, wish, text or "") if text is not None else None
    return render.page(
        request,
        "images.html",
        wish=wish,
        views=here.views if here else [],
        counts=here.answer.counts if here else {},
        total=here.total if here else -1,
        modalities=here.answer.modalities if here else [],
        devices=here.answer.devices if here else [],
        more=here.more.address() if here and here.more else "",
        text=text or "",
        forgotten=text is None,
        filters=FILTERS,
        states=STATES,
        orders=ORDERS,
    )


@router.post("/images/search")
async def search(request: Request, visitor: Clinician) -> Response:
    """Keep what is searched for and go to the worklist that shows it; the address carries no name."""
    console = console_of(request)
    form = await form_of(request, visitor)
    wish = Filter.read({key: str(value) for key, value in form.items()})
    handle = console.searches.keep(visitor.session.id, str(form.get("text", "")))
    audit(visitor, "search" if handle else "search cleared")
    address = wish.first_page.address(find=handle)
    return RedirectResponse(f"/images?{address}" if address else "/images", status_code=303)
