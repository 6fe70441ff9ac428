"""Rendered frames, and what the viewer needs to know of an item.

Responsible for passing on what the gateway renders, to clinicians alone. Nothing is kept: the browser holds the frames
of an open page in memory and is told to store none.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from edgeward.bus.subjects import TOKEN
from edgeward.console import access, stack
from edgeward.console.access import Visitor, console_of
from edgeward.console.viewer import picture_facts, viewer_data
from edgeward.messages import FrameQuery, Refused

router = APIRouter()
Clinician = Annotated[Visitor, Depends(access.clinician)]
PRIVATE = {"cache-control": "private, no-store"}
PASSING = ("busy", "the engine is stopping")  # refusals that another attempt may not meet
MAX_FRAME = 1_000_000
MAX_PX = 16_384


@router.get("/api/items/{item_id}/frames/{number}")
async def frame(
    request: Request,
    visitor: Clinician,  # noqa: ARG001 - guards the picture
    item_id: str,
    number: int,
    *,
    center: float | None = None,
    width: float | None = None,
    max: int = 0,  # noqa: A002 - the name in the address
    form: Literal["jpeg", "png"] = "jpeg",
) -> Response:
    """Return one frame, rendered; the header ``x-picture`` says what it is (JSON).

    404 with the reason if there is no such picture, 503 if there may be one a little later. `center` and `width` are a
    window (PS3.3, C.11.2.1.2).
    """
    windowed = center is not None and width is not None
    if not TOKEN.fullmatch(item_id) or not 0 <= number <= MAX_FRAME or not 0 <= max <= MAX_PX:
        raise HTTPException(404)
    if (center is None) != (width is None) or (windowed and not _sane(center, width)):
        raise HTTPException(400)
    query = FrameQuery(
        item_id=item_id,
        frame=number,
        window_center=center,
        window_width=width,
        max_width=max,
        media_type="image/png" if form == "png" else "image/jpeg",
    )
    answer = await console_of(request).site.frame(query)
    if isinstance(answer, Refused):
        passing = answer.reason in PASSING or answer.reason.endswith("try again")
        return JSONResponse({"error": answer.reason}, status_code=503 if passing else 404, headers=PRIVATE)
    media_type = "image/png" if answer.media_type == "image/png" else "image/jpeg"
    facts = msgspec.json.encode(picture_facts(answer)).decode("ascii", "replace")
    return Response(answer.data, media_type=media_type, headers={**PRIVATE, "x-picture": facts})


def _sane(center: float | None, width: float | None) -> bool:
    return (
        center is not None
        and width is not None
        and math.isfinite(center)
        and math.isfinite(width)
        and abs(center) < 1e12
        and 0 < width < 1e12
    )


@router.get("/api/items/{item_id}/viewer")
async def viewer(request: Request, visitor: Clinician, item_id: str, beside: str = "") -> Response:
    """Return what the viewer needs to know of an item; 404 if `beside` is given and another patient's."""
    site = console_of(request).site
    item = await site.item(item_id) if TOKEN.fullmatch(item_id) else None
    if item is None:
        raise HTTPException(404)
    if beside:
        own = await site.item(beside) if TOKEN.fullmatch(beside) else None
        if own is None or not stack.same_patient(own, item):
            raise HTTPException(404)
    return JSONResponse(viewer_data(item, identity=visitor.clinician), headers=PRIVATE)


@router.get("/api/items/{item_id}/series")
async def series(request: Request, visitor: Clinician, item_id: str) -> Response:  # noqa: ARG001 - guards the pictures
    """Return the images of an item's series in their order: what the viewer scrolls through."""
    console = console_of(request)
    item = await console.site.item(item_id) if TOKEN.fullmatch(item_id) else None
    if item is None:
        raise HTTPException(404)
    images = await stack.series(console.site.items, item)
    return JSONResponse({"images": [one.item_id for one in images]}, headers=PRIVATE)
