"""All alarms of the site: active ones, the log, and the review of one event."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response
from starlette.datastructures import QueryParams

from edgeward.bedside import AlarmQuery
from edgeward.console import access, render
from edgeward.console.access import Visitor, console_of
from edgeward.console.app import Console
from edgeward.console.pages.beds import is_bed, latest, review_path
from edgeward.console.site import Unavailable
from edgeward.console.wall import wards
from edgeward.console.watch import alarm_bed, alarm_order
from edgeward.messages import Alarm

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
HOURS = (1, 8, 24, 168)
PRIORITIES = ("high", "medium", "low")
MAX_ROWS = 200
HOUR_NS = 3_600_000_000_000
MS_NS = 1_000_000
BEFORE_S, AFTER_S = 10, 20  # of the event, in the strip that opens


@dataclass(frozen=True, slots=True)
class Wish:
    """Filters of the log, as the address says them. What it does not know is left out."""

    bed: str = ""
    ward: str = ""
    priority: str = ""
    hours: int = 24
    every: bool = False  # every transition, not one row per alarm

    @staticmethod
    def read(params: QueryParams) -> Wish:
        """Return the filters in an address; nonsense is no filter."""
        bed = params.get("bed", "")
        hours = params.get("hours", "24")
        priority = params.get("priority", "")
        return Wish(
            bed=bed if is_bed(bed) else "",
            ward=params.get("ward", "")[:64],
            priority=priority if priority in PRIORITIES else "",
            hours=int(hours) if hours.isdigit() and int(hours) in HOURS else 24,
            every=params.get("every") == "1",
        )

    def query(self, now_ns: int) -> AlarmQuery:
        """Return the question for the monitor."""
        return AlarmQuery(
            bed_id=self.bed,
            ward=self.ward,
            since_ns=now_ns - self.hours * HOUR_NS,
            priority=self.priority,
            limit=MAX_ROWS * (1 if self.every else 4),
        )

    @property
    def address(self) -> str:
        """The address of these filters."""
        given = {"bed": self.bed, "ward": self.ward, "priority": self.priority, "hours": str(self.hours)}
        return "/alarms?" + urlencode({k: v for k, v in given.items() if v})


async def active(console: Console) -> list[Alarm]:
    """Return the alarms that are signalled now, the most urgent first.

    The monitor's own list has those of no bed too (a flood). Without its answer those that the beds carry are shown.
    """
    try:
        found = (await console.site.alarms()).active
    except Unavailable:
        found = [alarm for _, alarm in console.watch.alarms()]
    return sorted(found, key=alarm_order)


@router.get("/alarms")
async def alarms(request: Request, visitor: Anybody) -> Response:  # noqa: ARG001 - guards the page
    """Show what is signalled, by priority, and the log."""
    console = console_of(request)
    wish = Wish.read(request.query_params)

    async def log() -> list[Alarm] | None:
        try:
            return await console.site.events(wish.query(time.time_ns()))
        except Unavailable:
            return None

    present, rows = await asyncio.gather(active(console), log())
    if rows is not None:
        rows = sorted(rows, key=lambda alarm: -alarm.at_ns)[:MAX_ROWS] if wish.every else latest(rows)[:MAX_ROWS]
    beds = console.watch.by_id
    return render.page(
        request,
        "alarms.html",
        active=present,
        history=rows,
        wish=wish,
        hours=HOURS,
        priorities=PRIORITIES,
        wards=[ward["name"] for ward in wards(beds.values()) if ward["name"]],
        bed_of=alarm_bed,
        labels={bed_id: bed.label or bed_id for bed_id, bed in beds.items()},
        review=review_path,
        now_ns=time.time_ns(),
        most=MAX_ROWS,
    )


async def found(console: Console, bed: str, alarm_id: str, at_ns: int) -> Alarm | None:
    """Return how one alarm stands: its own row, and what became of it."""
    around = AlarmQuery(bed_id=bed, since_ns=max(0, at_ns - MS_NS), until_ns=at_ns + 1000 * MS_NS, limit=500)
    later = AlarmQuery(bed_id=bed, since_ns=max(0, at_ns - MS_NS), limit=500)
    rows = await asyncio.gather(console.site.events(around), console.site.events(later))
    return next((alarm for alarm in latest([*rows[0], *rows[1]]) if alarm.alarm_id == alarm_id), None)


async def neighbours(console: Console, alarm: Alarm) -> tuple[Alarm | None, Alarm | None]:
    """Return the bed's alarms raised before and after this one."""
    bed = alarm_bed(alarm)
    before = AlarmQuery(bed_id=bed, until_ns=alarm.raised_ns - 1, raised_only=True, limit=5)
    after = AlarmQuery(bed_id=bed, since_ns=alarm.raised_ns + 1, raised_only=True, limit=500)
    old, new = await asyncio.gather(console.site.events(before), console.site.events(after))
    older = [a for a in latest(old) if a.alarm_id != alarm.alarm_id and a.raised_ns <= alarm.raised_ns]
    newer = [a for a in latest(new) if a.alarm_id != alarm.alarm_id and a.raised_ns >= alarm.raised_ns]
    return (older[0] if older else None), (newer[-1] if newer else None)


@router.get("/alarms/{alarm_id}")
async def review(request: Request, visitor: Anybody, alarm_id: str, bed: str = "", at: int = 0) -> Response:  # noqa: ARG001
    """Show the strip around one alarm; the samples come by ``/api/strip``."""
    console = console_of(request)
    if not is_bed(bed) or not 0 < at < 2**53:
        raise HTTPException(404)
    alarm = await found(console, bed, alarm_id, at * MS_NS)
    if alarm is None:
        raise HTTPException(404)
    older, newer = await neighbours(console, alarm)
    centre_ns = alarm.onset_ns or alarm.raised_ns
    state = console.watch.bed(bed)
    return render.page(
        request,
        "review.html",
        alarm=alarm,
        bed=bed,
        label=alarm.label or (state.label if state else "") or bed,
        sources=list(dict.fromkeys([alarm.device_id, *(state.sources if state else ())])),
        older=review_path(older) if older else "",
        newer=review_path(newer) if newer else "",
        start_ms=centre_ns / 1e6 - BEFORE_S * 1000,
        seconds=BEFORE_S + AFTER_S,
    )
