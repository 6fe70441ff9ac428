"""What was recorded: strips of waveforms and trends of a bed for our scripts, and trends as a file for a person."""

from __future__ import annotations

import csv
import datetime as dt
import io
import math
import time
from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from edgeward.bedside import StripQuery, Trend, TrendQuery
from edgeward.bus.subjects import TOKEN
from edgeward.console import access
from edgeward.console.access import Visitor, audit, console_of
from edgeward.console.filters import zone_of
from edgeward.console.pages.beds import discharges, is_bed
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
    left = [at_ns // 1_000_000 for at_ns in await discharges(request, bed_id) if at_ns >= since_ns]
    return JSONResponse(trend_view(found) | ends | {"limits": limits, "discharged": left})


CSV_HEAD = ("time", "parameter", "unit", "mean", "lowest", "highest")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for a command at the beginning of a field


def trend_csv(trend: Trend, zone: dt.tzinfo | None, discharged_ns: Iterable[int] = ()) -> str:
    """Return trends as CSV (RFC 4180): one row per parameter and interval, in order of time, none for a gap.

    Times are ISO 8601 with their distance from UTC, in `zone` (None: the site's own). Where a patient left the bed
    stands a row ``discharged`` without values: what is above it is of somebody else.
    """
    rows = [
        (at_ns, series.parameter, series.unit, f"{series.mean[i]:.6g}", f"{series.low[i]:.6g}", f"{series.high[i]:.6g}")
        for series in trend.series
        for i, at_ns in enumerate(series.at_ns)
    ]
    rows += [(at_ns, "discharged", "", "", "", "") for at_ns in discharged_ns]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(CSV_HEAD)
    for at_ns, parameter, unit, *numbers in sorted(rows):
        stamp = dt.datetime.fromtimestamp(at_ns // SECOND_NS, dt.UTC).astimezone(zone).isoformat()
        texts = ("'" + text if text.startswith(FORMULA) else text for text in (parameter, unit))
        writer.writerow((stamp, *texts, *numbers))
    return out.getvalue()


@router.get("/beds/{bed_id}/trend.csv")
async def trend_file(request: Request, visitor: Anybody, bed_id: str, hours: float = 24.0, zone: str = "") -> Response:
    """Return the trends of a bed over the last hours as a file."""
    if not is_bed(bed_id) or not 0 < hours <= MAX_HOURS or len(zone) > 64:
        raise HTTPException(400)
    until_ns = time.time_ns()
    query = TrendQuery(bed_id=bed_id, since_ns=until_ns - int(hours * 3600 * SECOND_NS), until_ns=until_ns)
    found = await console_of(request).site.trend(query)
    left = [at_ns for at_ns in await discharges(request, bed_id) if at_ns >= query.since_ns]
    audit(visitor, "trends exported", bed=bed_id, hours=hours)
    name = f"{bed_id}-{time.strftime('%Y%m%dT%H%MZ', time.gmtime(until_ns // SECOND_NS))}.csv"
    # The mark tells a spreadsheet that this is UTF-8: without it "mm[Hg]" survives and "°C" does not.
    return Response(
        "\ufeff" + trend_csv(found, zone_of(zone), left),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )
