"""The bed wall, one bed, and acknowledging alarms."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from edgeward.bus.subjects import TOKEN
from edgeward.console import access, languages, render
from edgeward.console.access import Visitor, audit, console_of, form_of
from edgeward.console.site import Unavailable
from edgeward.messages import Alarm

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
Clinician = Annotated[Visitor, Depends(access.clinician)]
MAX_AT_ONCE = 32


def latest(device_id: str, alarms: list[Alarm]) -> list[Alarm]:
    """Return the last transition of each alarm of one bed, the newest alarm first.

    The monitor's log holds transitions: raised, acknowledged, ended.
    """
    last: dict[str, Alarm] = {}
    for alarm in alarms:
        known = last.get(alarm.alarm_id)
        if alarm.device_id == device_id and (known is None or alarm.at_ns >= known.at_ns):
            last[alarm.alarm_id] = alarm
    return sorted(last.values(), key=lambda alarm: -alarm.raised_ns)


@router.get("/beds")
async def wall(request: Request, visitor: Anybody) -> Response:
    """Show the wall; the numbers come by the live socket, so that a page cannot show old ones as new."""
    beds = console_of(request).watch.beds
    count = len(beds.beds) if beds else 0
    return render.page(request, "beds.html", count=count, can_acknowledge=visitor.clinician)


@router.get("/beds/{device_id}")
async def one_bed(request: Request, visitor: Anybody, device_id: str) -> Response:
    """Show one bed, large, with its recent alarms."""
    console = console_of(request)
    bed = console.watch.bed(device_id)
    if not TOKEN.match(device_id) or bed is None:
        raise HTTPException(404)
    history: list[Alarm] | None
    try:
        answer = await console.site.alarms(device_id)
        history = latest(device_id, [*answer.recent, *answer.active])[:50]
    except Unavailable:
        history = None
    return render.page(request, "bed.html", bed=bed, history=history, can_acknowledge=visitor.clinician)


@router.post("/beds/{device_id}/acknowledge")
async def acknowledge(request: Request, visitor: Clinician, device_id: str) -> Response:
    """Acknowledge the alarms that the clinician saw (their ids are in the form), and no others."""
    console = console_of(request)
    form = await form_of(request, visitor)
    ids = [str(value) for value in form.getlist("alarm")][:MAX_AT_ONCE]
    if not ids:
        raise HTTPException(400)
    now_ns = time.time_ns()

    async def one(alarm_id: str) -> str:
        try:
            await console.site.acknowledge(alarm_id, visitor.user.name, now_ns)
        except Unavailable as error:
            audit(visitor, "acknowledgement refused", alarm=alarm_id, device=device_id, reason=error.reason)
            return error.reason
        audit(visitor, "alarm acknowledged", alarm=alarm_id, device=device_id)
        return ""

    problems = [problem for problem in await asyncio.gather(*(one(alarm_id) for alarm_id in ids)) if problem]
    if "application/json" not in request.headers.get("accept", ""):
        if problems:
            raise Unavailable("monitor", problems[0])
        return RedirectResponse(access.local_path(f"/beds/{device_id}"), status_code=303)
    if problems:
        language = render.language_of(request, visitor)
        text = languages.text(language, "live.acknowledge_failed", reason=problems[0])
        return JSONResponse({"error": text, "refused": len(problems)}, status_code=503)
    return JSONResponse({"acknowledged": len(ids), "by": visitor.user.name})
