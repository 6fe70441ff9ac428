"""What a client wants of a picture (PS3.18, 8.3.5): window, viewport, quality, in what a request's query says.

Responsible for reading these parameters and refusing what makes no sense. Not responsible for which media type is
chosen (``accept``) or for drawing (``compute.render``).
"""

from __future__ import annotations

import math
import re

from msgspec import structs
from starlette.exceptions import HTTPException
from starlette.requests import Request

from edgeward.messages import FrameQuery, Viewport, WindowFunction

PICTURES = ("image/jpeg", "image/png", "image/gif")
_NUMBER = re.compile(r"[+-]?\d{1,9}(\.\d{1,9})?([eE][+-]?\d{1,2})?")
_LARGEST = 1 << 14  # pixels on each side
_FUNCTIONS: dict[str, WindowFunction] = {"linear": "linear", "linear-exact": "linear-exact", "sigmoid": "sigmoid"}


def wishes(request: Request, query: FrameQuery) -> FrameQuery:
    """Return a query with what a request wants of the picture. Pictures for others always have square pixels.

    Raises
    ------
    HTTPException
        400 if a parameter cannot be read.
    """
    center, width, function = _window(request.query_params.get("window", ""))
    return structs.replace(
        query,
        window_center=center,
        window_width=width,
        window_function=function,
        viewport=_viewport(request.query_params.get("viewport", "")),
        quality=_quality(request.query_params.get("quality", "")),
        square_pixels=True,
    )


def asks_for(request: Request, name: str) -> bool:
    """Whether a request asks for what pictures here never have (8.3.5.1.1, 8.3.5.1.5)."""
    return request.query_params.get(name, "no").lower() not in ("", "no")


def _quality(text: str) -> int:
    """Return the quality of a JPEG (8.3.5.1.2); 0 if none is told."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= 100):
        raise HTTPException(400, "quality must be a number from 1 to 100")
    return int(text)


def _viewport(text: str) -> Viewport | None:
    """Return the viewport and the region shown in it (8.3.5.1.3): ``vw,vh`` or ``vw,vh,[sx],[sy],[sw],[sh]``."""
    if not text:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 6) or not all(
        part.isascii() and part.isdigit() and len(part) < 6 and 0 < int(part) < _LARGEST for part in parts[:2]
    ):
        raise HTTPException(400, "viewport must be width,height or width,height,left,top,width,height in pixels")
    region = [_number(part, "viewport") if part else None for part in parts[2:]] or [None] * 4
    left, top, wide, high = region
    if wide == 0 or high == 0 or (left or 0.0) < 0 or (top or 0.0) < 0:
        raise HTTPException(400, "the region of a viewport must have a size and begin within the image")
    return Viewport(
        width=int(parts[0]),
        height=int(parts[1]),
        left=left or 0.0,
        top=top or 0.0,
        region_width=wide,
        region_height=high,
    )


def _window(text: str) -> tuple[float | None, float | None, WindowFunction]:
    """Return center, width and function of a window (8.3.5.1.4); without a function the object's own is meant."""
    if not text:
        return None, None, ""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 3):
        raise HTTPException(400, "window must be center,width,function")
    function: WindowFunction = ""
    if len(parts) == 3:
        if parts[2].lower().replace("_", "-") not in _FUNCTIONS:
            raise HTTPException(400, "the function of a window is linear, linear-exact or sigmoid")
        function = _FUNCTIONS[parts[2].lower().replace("_", "-")]
    center, width = _number(parts[0], "window"), _number(parts[1], "window")
    if not width > 0:
        raise HTTPException(400, "the width of a window must be above 0")
    return center, width, function


def _number(text: str, name: str) -> float:
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise HTTPException(400, f"{name} must be made of numbers")
    return float(text)
