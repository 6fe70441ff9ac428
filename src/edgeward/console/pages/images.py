"""One image with what the AI says of it, what else there is of the patient, and the clinician's verdict."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Annotated
from urllib.parse import parse_qsl, quote

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from edgeward.bus.subjects import TOKEN
from edgeward.console import access, render, stack
from edgeward.console.access import Visitor, audit, console_of, form_of
from edgeward.console.app import Console
from edgeward.console.filters import Filter, walk
from edgeward.console.pages.worklist import searched
from edgeward.console.present import LABELS, ItemView, item_view, stages_of
from edgeward.console.site import Unavailable
from edgeward.console.viewer import KEYS, viewer_data
from edgeward.console.views import date_text, revisions
from edgeward.messages import ItemSummary, Verdict

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
Clinician = Annotated[Visitor, Depends(access.clinician)]
MAX_COMMENT = 2000
MAX_LIST = 512
STRIP = 24  # other images of the patient that are offered beside this one
ACTIONS = ("confirm", "correct", "reject")
Views = list[ItemView]  # one of the parameters below is called "list", as it is in the address


async def _find(request: Request, item_id: str) -> ItemSummary:
    item = await console_of(request).site.item(item_id) if TOKEN.fullmatch(item_id) else None
    if item is None:
        raise HTTPException(404)
    return item


def read_list(query: str) -> Filter:
    """Return the worklist from which somebody came, as its address says."""
    return Filter.read(dict(parse_qsl(query[:MAX_LIST])))


async def following(console: Console, visitor: Visitor, item_id: str, came_from: Filter) -> str:
    """Return the next item of that worklist which waits for a verdict, the most urgent first; ``""`` if none does."""
    text = searched(console, visitor, came_from.find)
    if text is None:
        return ""
    wish = Filter.read({**_fields(came_from), "show": "open", "order": "priority", "before": "", "offset": ""})
    try:
        here = await walk(wish, console.site.items, lambda item: item_view(item, identity=False), text=text)
    except Unavailable:
        return ""
    return next((view.id for view in here.views if view.id != item_id), "")


def _fields(wish: Filter) -> dict[str, str]:
    return dict(parse_qsl(wish.address()))


@router.get("/images/{item_id}")
async def one_image(
    request: Request,
    visitor: Anybody,
    item_id: str,
    *,
    done: str = "",
    of: str = "",
    list: str = "",  # noqa: A002 - the name in the address
) -> Response:
    """Show one image, the finding, its verdicts and its deliveries; `list` is the worklist it was opened from."""
    console = console_of(request)
    item = await _find(request, item_id)
    came_from = read_list(list)

    async def report() -> str | None:
        if item.finding is None or not visitor.clinician:
            return ""
        try:
            return (await console.site.report(item_id)).text
        except Unavailable as error:
            return "" if error.refused else None

    async def others() -> Views | None:
        if not visitor.clinician:
            return []
        try:
            found = await stack.others(console.site.items, item, STRIP)
        except Unavailable:
            return None
        return [item_view(one, identity=True, images=images) for one, images in found]

    text, next_id, strip = await asyncio.gather(report(), following(console, visitor, item_id, came_from), others())
    address = came_from.address()
    return render.page(
        request,
        "image.html",
        view=item_view(item, identity=visitor.clinician),
        item=item,
        finding=item.finding,
        viewer=msgspec.json.encode(viewer_data(item, identity=True)).decode() if visitor.clinician else "",
        keys=KEYS,
        stages=stages_of(item),
        revisions=revisions(item),
        labels=LABELS,
        report=text,
        next_id=next_id,
        strip=strip,
        list_address=address,
        list_part=f"?list={quote(address, safe='')}" if address else "",
        born=date_text(item.patient_birth_date) if visitor.clinician else "",
        done=done if done in ACTIONS else "",
        done_of=of if TOKEN.fullmatch(of) else "",
        budget_ms=console.settings.budgets.interactive_ms,
    )


@router.get("/images/{item_id}/frame.jpg")
async def frame(request: Request, visitor: Clinician, item_id: str) -> Response:  # noqa: ARG001 - guards the picture
    """Return the analysed frame. Clinicians only: burned-in text may say who the patient is."""
    return await _jpeg(request, item_id, thumb=False)


@router.get("/images/{item_id}/thumb.jpg")
async def thumb(request: Request, visitor: Clinician, item_id: str) -> Response:  # noqa: ARG001
    """Return a small picture for the worklist."""
    return await _jpeg(request, item_id, thumb=True)


async def _jpeg(request: Request, item_id: str, *, thumb: bool) -> Response:
    jpeg = await console_of(request).site.preview(item_id, thumb=thumb) if TOKEN.fullmatch(item_id) else b""
    if not jpeg:
        return Response(status_code=404)
    return Response(jpeg, media_type="image/jpeg")


@router.post("/images/{item_id}/verdict")
async def verdict(request: Request, visitor: Clinician, item_id: str) -> Response:
    """Keep a clinician's verdict, with her account's name and the time. Earlier ones stay."""
    console = console_of(request)
    form = await form_of(request, visitor)
    item = await _find(request, item_id)
    action, _, then = str(form.get("action", "")).partition("+")
    label, comment = str(form.get("label", "")), str(form.get("comment", "")).strip()
    finding = item.finding
    if action not in ACTIONS or then not in ("", "next") or finding is None or finding.status != "analysed":
        raise HTTPException(400)
    if str(form.get("finding", "")) != finding.finding_id:
        raise access.NotAllowed("refused.finding_changed")
    if action == "correct" and (label not in LABELS or label == finding.label):
        raise access.NotAllowed("refused.choose_label")
    if len(comment) > MAX_COMMENT:
        raise HTTPException(400)
    decision = Verdict(
        verdict_id=uuid.uuid4().hex,
        item_id=item_id,
        finding_id=finding.finding_id,
        action=action,  # type: ignore[arg-type]
        label=label if action == "correct" else "",
        comment=comment,
        by=visitor.user.name,
        at_ns=time.time_ns(),
    )
    await console.site.decide(decision)
    audit(visitor, f"verdict {action}", item=item_id, finding=finding.finding_id)
    came_from = read_list(str(form.get("list", "")))
    target = await following(console, visitor, item_id, came_from) if then else ""
    address = came_from.address()
    tail = f"&list={quote(address, safe='')}" if address else ""
    of = f"&of={item_id}" if target else ""
    return RedirectResponse(f"/images/{target or item_id}?done={action}{of}{tail}", status_code=303)
