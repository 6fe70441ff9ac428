"""The system page: roles, devices, budgets, journal, deliveries, what was refused and why."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from edgeward.console import access, render
from edgeward.console.access import Visitor, console_of
from edgeward.console.app import Console
from edgeward.console.pages.overview import limits
from edgeward.console.present import budgets
from edgeward.console.site import Unavailable
from edgeward.console.watch import Watch
from edgeward.messages import DeviceInfo, ItemsQuery

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
T = TypeVar("T")


async def _or_none(question: Awaitable[T]) -> T | None:
    """Return the answer, or None when the role that owns it is not there; the page then says so in that place."""
    try:
        return await question
    except Unavailable:
        return None


async def gather(console: Console) -> dict[str, Any]:
    """Return everything the system page shows."""
    devices, quarantine, items, destinations = await asyncio.gather(
        _or_none(console.site.devices()),
        _or_none(console.site.quarantine()),
        _or_none(console.site.items(ItemsQuery(limit=1))),
        _or_none(console.site.destinations()),
    )
    watch = console.watch
    roles = watch.role_views()
    return {
        "roles": roles,
        "site": watch.site,
        "warnings": watch.warnings(),
        "budgets": budgets(roles, limits(console)),
        "devices": [seen(device, watch) for device in devices.devices] if devices else None,
        "quarantine": quarantine.entries if quarantine else None,
        "counts": items.counts if items else None,
        "destinations": destinations.destinations if destinations else None,
        "dead_letters": destinations.dead if destinations else [],
    }


def seen(device: DeviceInfo, watch: Watch) -> DeviceInfo:
    """Return `device` with the time of its last packet if it is monitored: the gateway knows when it connected."""
    bed = watch.source(device.device_id)
    if bed is None or watch.beds is None:
        return device
    last = watch.beds.at_ns - int(bed.age_ms * 1e6)
    return msgspec.structs.replace(device, last_seen_ns=max(device.last_seen_ns, last))


@router.get("/system")
async def system(request: Request, visitor: Anybody) -> Response:  # noqa: ARG001 - guards the page
    """Show the system page."""
    console = console_of(request)
    return render.page(
        request,
        "system.html",
        **await gather(console),
        python=platform.python_version(),
        node=console.settings.site.node,
    )
