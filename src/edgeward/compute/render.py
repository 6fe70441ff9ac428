"""One frame of an object as a picture for a person to look at.

Responsible for windowing, scaling and encoding, and for a picture that fits into one message. Works for whatever
``image.py`` opens, CT and mammograms included. Not responsible for who asks (``render_service.py``) or for diagnosis:
it is 8 bits.
"""

from __future__ import annotations

import io
import math
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeward.compute.cine import frame_time_ms
from edgeward.compute.codestream import DecodeError
from edgeward.compute.colour import apply_palette, to_rgb
from edgeward.compute.decode import shown, spacing_of
from edgeward.compute.image import ImageObject, told
from edgeward.compute.plane import plane_of
from edgeward.compute.regions import read_regions, scales
from edgeward.compute.viewport import fitted, pixel_aspect, proportioned, reduced
from edgeward.messages import Rendered, RenderRequest

MAX_PICTURE = 7_500_000  # bytes; a message of the bus holds 8 MB
QUALITIES = (90, 75, 55)  # JPEG; the next lower one when the picture is too large
_FUNCTIONS = {"": None, "linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_SMALLEST_WIDTH = 512  # of a JPEG that is reduced because even the lowest quality is too large


def render(source: bytes | BinaryIO, request: RenderRequest) -> Rendered:
    """Render one frame.

    Parameters
    ----------
    source : the object's bytes, or a file with them; only the header and the frame are read
    request : which frame, window, width and kind of picture

    Raises
    ------
    DecodeError
        If the object cannot be decoded, has no such frame, or its picture is too large for a message.
    VaultDamaged
        If the source is a vault object that was altered.
    """
    image = ImageObject(source)
    if not 0 <= request.frame < image.frames:
        raise DecodeError(f"there is no frame {request.frame + 1}, the object has {image.frames}")
    stored = image.stored(request.frame)
    center = width = None
    lowest, highest = 0.0, 255.0
    with told():
        if stored.values.ndim == 3:
            pixels: NDArray[np.uint8] = to_rgb(stored.values, stored.photometric, stored.bits)
        elif stored.photometric == "PALETTE COLOR":
            pixels = apply_palette(stored.values, image.dataset)
        else:
            grey = shown(image, stored, request.frame, _asked_window(request), _FUNCTIONS[request.window_function])
            pixels, lowest, highest = grey.grey, grey.lowest, grey.highest
            center, width = grey.center, grey.width
            if center is None and not grey.by_table:  # the window that does the same
                center, width = (lowest + highest + 1) / 2, highest - lowest + 1
        data, size = _encode(_placed(pixels, image, request), request)
        regions = read_regions(image.dataset, image.rows, image.columns)
        region = max((r for r in regions if r.is_tissue), key=lambda r: r.area, default=None)
        spacing, source_of_spacing = spacing_of(image, request.frame, region)
    return Rendered(
        data=data,
        media_type=request.media_type,
        width=size[0],
        height=size[1],
        scale=size[0] / image.columns,
        rows=image.rows,
        columns=image.columns,
        frame=request.frame,
        frames=image.frames,
        frame_time_ms=frame_time_ms(image.dataset, request.frame) if image.frames > 1 else 0.0,
        window_center=center,
        window_width=width,
        lowest=lowest,
        highest=highest,
        inverted=stored.photometric == "MONOCHROME1",
        spacing_mm=spacing,
        spacing_source=source_of_spacing,
        scales=scales(regions, spacing),
        plane=plane_of(image.dataset, request.frame),
        frame_of_reference=image.text("FrameOfReferenceUID")[:64],
        pixel_aspect=1.0 if request.square_pixels else pixel_aspect(image.dataset, request.frame),
    )


def _asked_window(request: RenderRequest) -> tuple[float, float] | None:
    center, width = request.window_center, request.window_width
    if center is None or width is None:
        return None
    if not (math.isfinite(center) and math.isfinite(width)) or width <= 0:
        raise DecodeError("a window needs a finite centre and a width above 0")
    return center, width


def _placed(pixels: NDArray[np.uint8], image: ImageObject, request: RenderRequest) -> Image.Image:
    picture = Image.fromarray(pixels)
    aspect = pixel_aspect(image.dataset, request.frame) if request.square_pixels else 1.0
    if request.viewport is not None:
        return fitted(picture, request.viewport, aspect)
    picture = proportioned(picture, aspect)
    return reduced(picture, request.max_width) if request.max_width > 0 else picture


def _encode(picture: Image.Image, request: RenderRequest) -> tuple[bytes, tuple[int, int]]:
    """Return the encoded picture and its width and height."""
    if request.media_type != "image/jpeg":
        kind = request.media_type.partition("/")[2].upper()
        data = _saved(picture, kind, **({"compress_level": 1} if kind == "PNG" else {}))
        if len(data) > MAX_PICTURE:
            raise DecodeError(
                f"the {kind} of {picture.width}x{picture.height} pixels is too large for a message: "
                "ask for a JPEG, or for a smaller width"
            )
        return data, picture.size
    while True:
        asked = request.quality or QUALITIES[0]
        for quality in (asked, *(lower for lower in QUALITIES if lower < asked)):
            data = _saved(picture, "JPEG", quality=quality)
            if len(data) <= MAX_PICTURE:
                return data, picture.size
        if picture.width <= _SMALLEST_WIDTH:
            raise DecodeError("the picture is too large for a message")
        picture = reduced(picture, picture.width * 2 // 3)


def _saved(picture: Image.Image, kind: str, **options: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()
