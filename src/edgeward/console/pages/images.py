"""The worklist, one image with what the AI says of it, and the clinician's verdict."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from edgeward.bus.subjects import TOKEN
from edgeward.console import access, render
from edgeward.console.access import Visitor, audit, console_of, form_of
from edgeward.console.present import FILTERS, LABELS, chosen, item_view, outline, stages_of
from edgeward.console.site import Unavailable
from edgeward.messages import ItemSummary, Verdict

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
Clinician = Annotated[Visitor, Depends(access.clinician)]
PAGE = 50
SCAN = 500  # rows looked through for a filter that the journal does not know
MAX_COMMENT = 2000


@router.get("/images")
async def worklist(request: Request, visitor: Anybody, show: str = "all", before: int = 0) -> Response:
    """Show the worklist, newest first."""
    console = console_of(request)
    show = show if show in FILTERS else "all"
    local = show in ("open", "suspicious", "not_analysed")
    limit = SCAN if local else PAGE + 1
    state = "failed" if show == "failed" else ""
    answer = await console.site.items(limit=limit, before_ns=max(0, before), state=state)
    views = [item_view(item, identity=visitor.clinician) for item in answer.items]
    matching = [view for view in views if chosen(view, show)]
    rows = matching[:PAGE]
    older = ""
    if len(matching) > PAGE:
        older = urlencode({"show": show, "before": rows[-1].item.received_ns})
    elif local and len(views) >= SCAN:
        older = urlencode({"show": show, "before": views[-1].item.received_ns})
    return render.page(
        request,
        "images.html",
        views=rows,
        counts=answer.counts,
        show=show,
        filters=FILTERS,
        older=older,
        before=before,
        open_count=sum(view.open for view in views),
    )


async def _find(request: Request, item_id: str) -> ItemSummary:
    item = await console_of(request).site.item(item_id) if TOKEN.match(item_id) else None
    if item is None:
        raise HTTPException(404)
    return item


@router.get("/images/{item_id}")
async def one_image(request: Request, visitor: Anybody, item_id: str, done: str = "") -> Response:
    """Show one image, the finding, its verdicts and its deliveries."""
    console = console_of(request)
    item = await _find(request, item_id)

    async def report() -> str | None:
        if item.finding is None or not visitor.clinician:
            return ""
        try:
            return (await console.site.report(item_id)).text
        except Unavailable:
            return None

    async def following() -> str:
        """Return the next item that waits for a verdict: older first, then the newest."""
        try:
            items = (await console.site.items(limit=PAGE)).items
        except Unavailable:
            return ""
        waiting = [i for i in items if i.item_id != item_id and item_view(i, identity=False).open]
        older = [i for i in waiting if i.received_ns <= item.received_ns]
        return next((i.item_id for i in (*older, *waiting)), "")

    text, next_id = await asyncio.gather(report(), following())
    finding = item.finding
    return render.page(
        request,
        "image.html",
        view=item_view(item, identity=visitor.clinician),
        item=item,
        finding=finding,
        outlines=[outline(lesion) for lesion in finding.lesions] if finding else [],
        stages=stages_of(item),
        labels=LABELS,
        report=text,
        next_id=next_id,
        done=done if done in ("confirm", "correct", "reject") else "",
        error="",
        comment="",
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
    jpeg = await console_of(request).site.preview(item_id, thumb=thumb) if TOKEN.match(item_id) else b""
    if not jpeg:
        return Response(status_code=404)
    return Response(jpeg, media_type="image/jpeg")


@router.post("/images/{item_id}/verdict")
async def verdict(request: Request, visitor: Clinician, item_id: str) -> Response:
    """Keep a clinician's verdict, with her account's name and the time. Earlier ones stay."""
    console = console_of(request)
    form = await form_of(request, visitor)
    item = await _find(request, item_id)
    action, label = str(form.get("action", "")), str(form.get("label", ""))
    comment = str(form.get("comment", "")).strip()
    finding = item.finding
    if action not in ("confirm", "correct", "reject") or finding is None or finding.status != "analysed":
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
    return RedirectResponse(f"/images/{item_id}?done={action}", status_code=303)
