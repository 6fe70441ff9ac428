"""What was recorded, for our scripts: strips of waveforms and trends of a bed."""

from __future__ import annotations

import math
import time
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse

from edgeward.bedside import StripQuery, TrendQuery
from edgeward.bus.subjects import TOKEN
from edgeward.console import access
from edgeward.console.access import Visitor, console_of
from edgeward.console.pages.beds import is_bed
from edgeward.console.site import Unavailable
from edgeward.console.wire import strip_view, trend_view

router = APIRouter()
Anybody = Annotated[Visitor, Depends(access.anybody)]
MAX_STRIP_S = 300.0  # the recorder's own bound
MAX_HOURS = 24.0
SECOND_NS = 1_000_000_000


def _refused(error: Unavailable) -> JSONResponse:
    return JSONResponse({"error": error.reason}, status_code=404 if error.refused else 503)


@router.get("/api/strip")
async def strip(
    request: Request,
    visitor: Anybody,  # noqa: ARG001 - guards the answer
    source: str,
    start: float,
    seconds: float,
) -> JSONResponse:
    """Return the waveforms of one source as they arrived; `start` in milliseconds, site time."""
    if not TOKEN.fullmatch(source) or not math.isfinite(start) or start < 0 or not 0 < seconds <= MAX_STRIP_S:
        raise HTTPException(400)
    start_ns = int(start * 1e6)
    query = StripQuery(source_id=source, start_ns=start_ns, end_ns=start_ns + int(seconds * SECOND_NS))
    try:
        return JSONResponse(strip_view(await console_of(request).site.strip(query)))
    except Unavailable as error:
        return _refused(error)


@router.get("/api/beds/{bed_id}/trend")
async def trend(request: Request, visitor: Anybody, bed_id: str, hours: float = 24.0) -> JSONResponse:  # noqa: ARG001
    """Return the trends of a bed over the last hours, with the limits in force now."""
    if not is_bed(bed_id) or not 0 < hours <= MAX_HOURS:
        raise HTTPException(400)
    console = console_of(request)
    until_ns = time.time_ns()
    since_ns = until_ns - int(hours * 3600 * SECOND_NS)
    try:
        found = await console.site.trend(TrendQuery(bed_id=bed_id, since_ns=since_ns, until_ns=until_ns))
    except Unavailable as error:
        return _refused(error)
    bed = console.watch.bed(bed_id)
    limits = {vital.parameter: {"low": vital.low, "high": vital.high} for vital in bed.vitals} if bed else {}
    ends = {"since": since_ns // 1_000_000, "until": until_ns // 1_000_000}
    return JSONResponse(trend_view(found) | ends | {"limits": limits})
