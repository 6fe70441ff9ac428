"""The bed wall, one bed, and what people do to alarms: acknowledge, pause."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from edgeward.bedside import AlarmPause
from edgeward.console import access, languages, render
from edgeward.console.access import Visitor, audit, console_of, form_of
from edgeward.console.site import Unavailable
from edgeward.console.watch import alarm_bed
from edgeward.messages import Alarm

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
Clinician = Annotated[Visitor, Depends(access.clinician)]
MAX_AT_ONCE = 32
BED = re.compile(r"[A-Za-z0-9_.-]{1,64}")
FAILED = {"acknowledged": "live.acknowledge_failed", "paused": "live.pause_failed"}
MAX_PAUSE_S = 600.0  # the site's own limit is the monitor's to enforce
DONE = ("limits", "place", "standby", "resumed", "discharged", "entered")


def latest(alarms: Iterable[Alarm], bed_id: str = "") -> list[Alarm]:
    """Return the last transition of each alarm (of one bed, if given), the newest alarm first.

    The monitor's log holds transitions: raised, acknowledged, escalated, ended.
    """
    last: dict[str, Alarm] = {}
    for alarm in alarms:
        known = last.get(alarm.alarm_id)
        if bed_id in ("", alarm_bed(alarm)) and (known is None or alarm.at_ns >= known.at_ns):
            last[alarm.alarm_id] = alarm
    return sorted(last.values(), key=lambda alarm: -alarm.raised_ns)


def review_path(alarm: Alarm) -> str:
    """Return the address of an alarm's event review; bed and moment are in it because the log is asked by them."""
    bed = quote(alarm_bed(alarm), safe="")
    return f"/alarms/{quote(alarm.alarm_id, safe='')}?bed={bed}&at={alarm.raised_ns // 1_000_000}"


def is_bed(text: str) -> bool:
    """Whether `text` can be a bed's name: a source's, or the one under which the site's own alarms are shown."""
    return BED.fullmatch(text) is not None


def known_bed(bed_id: str) -> None:
    """Refuse a name that is no bed's.

    Raises
    ------
    HTTPException
        404.
    """
    if not is_bed(bed_id):
        raise HTTPException(404)


def done_of(request: Request) -> str:
    """Return what the page is to confirm: one of the words we know, or nothing."""
    wish = request.query_params.get("done", "")
    return wish if wish in DONE else ""


@router.get("/beds")
async def wall(request: Request, visitor: Anybody) -> Response:
    """Show the wall; the numbers come by the live socket, so that a page cannot show old ones as new."""
    return render.page(request, "beds.html", can_acknowledge=visitor.clinician)


@router.get("/beds/{bed_id}")
async def one_bed(request: Request, visitor: Anybody, bed_id: str) -> Response:  # noqa: ARG001 - guards the page
    """Show one bed, large, with its values, trends and recent alarms."""
    console = console_of(request)
    known_bed(bed_id)
    bed = console.watch.bed(bed_id)
    if bed is None:
        raise HTTPException(404)
    history: list[Alarm] | None
    try:
        answer = await console.site.alarms(bed_id)
        history = latest([*answer.recent, *answer.active], bed_id)[:50]
    except Unavailable:
        history = None
    discharged = await discharges(request, bed_id)
    return render.page(
        request,
        "bed.html",
        id=bed_id,
        bed=bed,
        history=history,
        review=review_path,
        done=done_of(request),
        discharged=discharged[0] if discharged else 0,
    )


async def discharges(request: Request, bed_id: str) -> list[int]:
    """Return when patients left a bed within the last day, newest first; nothing if the monitor does not say."""
    try:
        return (await console_of(request).site.bed(bed_id)).discharged_ns
    except Unavailable:
        return []


def _answer(request: Request, visitor: Visitor, bed_id: str, *, done: str, count: int, problems: list[str]) -> Response:
    if "application/json" not in request.headers.get("accept", ""):
        if problems:
            raise Unavailable("monitor", problems[0])
        return RedirectResponse(access.local_path(f"/beds/{bed_id}"), status_code=303)
    if problems:
        text = languages.text(render.language_of(request, visitor), FAILED[done], reason=problems[0])
        return JSONResponse({"error": text, "refused": len(problems)}, status_code=503)
    return JSONResponse({done: count, "by": visitor.user.name})


@router.post("/beds/{bed_id}/acknowledge")
async def acknowledge(request: Request, visitor: Clinician, bed_id: str) -> Response:
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
            audit(visitor, "acknowledgement refused", alarm=alarm_id, bed=bed_id, reason=error.reason)
            return error.reason
        audit(visitor, "alarm acknowledged", alarm=alarm_id, bed=bed_id)
        return ""

    problems = [problem for problem in await asyncio.gather(*(one(alarm_id) for alarm_id in ids)) if problem]
    return _answer(request, visitor, bed_id, done="acknowledged", count=len(ids), problems=problems)


@router.post("/beds/{bed_id}/pause")
async def pause(request: Request, visitor: Clinician, bed_id: str) -> Response:
    """Pause the sound of a bed or of one of its alarms, or end the pause (0 seconds)."""
    known_bed(bed_id)
    form = await form_of(request, visitor)
    try:
        seconds = float(str(form.get("seconds", "120")))
    except ValueError as error:
        raise HTTPException(400) from error
    if not 0 <= seconds <= MAX_PAUSE_S:  # also refuses what is no number
        raise HTTPException(400)
    alarm_id = str(form.get("alarm", ""))
    wish = AlarmPause(bed_id=bed_id, alarm_id=alarm_id, seconds=seconds, by=visitor.user.name, at_ns=time.time_ns())
    problems: list[str] = []
    try:
        await console_of(request).site.pause(wish)
        audit(visitor, "audio paused", bed=bed_id, alarm=alarm_id, seconds=seconds)
    except Unavailable as error:
        audit(visitor, "audio pause refused", bed=bed_id, alarm=alarm_id, reason=error.reason)
        problems.append(error.reason)
    return _answer(request, visitor, bed_id, done="paused", count=1, problems=problems)
