"""The first page: is the site well, and who needs somebody."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from edgeward.console import access, render
from edgeward.console.access import Visitor, console_of
from edgeward.console.app import Console
from edgeward.console.present import budgets, item_view, notices
from edgeward.console.site import Unavailable
from edgeward.console.watch import bed_order
from edgeward.messages import Items, ItemsQuery, QuarantineList

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
LATEST = 8


def limits(console: Console) -> dict[str, float]:
    """Return the budget of each class that this site measures, in milliseconds."""
    settings = console.settings.budgets
    return {"alarm": settings.alarm_ms, "interactive": settings.interactive_ms}


async def gather(console: Console, visitor: Visitor) -> dict[str, Any]:
    """Return everything the overview shows."""
    unavailable: list[str] = []

    async def items() -> Items:
        try:
            return await console.site.items(ItemsQuery(limit=LATEST))
        except Unavailable as error:
            unavailable.append(error.role)
            return Items(items=[])

    async def quarantine() -> QuarantineList:
        try:
            return await console.site.quarantine()
        except Unavailable:  # the same role; told once
            return QuarantineList(entries=[])

    found, refused = await asyncio.gather(items(), quarantine())
    watch = console.watch
    roles = watch.role_views()
    beds = sorted(watch.beds.beds, key=bed_order) if watch.beds else []
    return {
        "views": [item_view(item, identity=visitor.clinician) for item in found.items],
        "counts": found.counts,
        "notices": notices(
            connected=watch.connected(),
            monitor_live=watch.beds_live(),
            monitor_known=watch.beds is not None,
            roles=roles,
            warnings=watch.warnings(),
            counts=found.counts,
            quarantine=refused.entries,
            unavailable=[] if not watch.connected() else unavailable,
        ),
        "roles": roles,
        "beds": beds,
        "beds_live": watch.beds_live(),
        "alarms": watch.alarms(),
        "budgets": budgets(roles, limits(console)),
        "site": watch.site,
    }


@router.get("/")
async def overview(request: Request, visitor: Anybody) -> Response:
    """Show the overview."""
    return render.page(request, "overview.html", **await gather(console_of(request), visitor))
