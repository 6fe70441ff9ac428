"""Where the pixels of a frame come to lie in a picture: a region of it, its true proportions, the size that is wanted.

Responsible for DICOM PS3.18, 8.3.5.1.3 (viewport and source region) and for pixels that are not square (PS3.3,
C.7.6.3.1.7). Pure; not responsible for windows or encoding (``render.py``).
"""

from __future__ import annotations

import math
from typing import Any

from PIL import Image
from pydicom.dataset import Dataset

from edgeward.compute.codestream import DecodeError
from edgeward.compute.greyscale import attribute
from edgeward.messages import Viewport

LARGEST = 1 << 25  # pixels of a picture that is enlarged
FLATTEST = 16.0  # ratio of height and width of a pixel; beyond it the attribute says something else
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


def pixel_aspect(dataset: Dataset, index: int) -> float:
    """Return the height of a pixel by its width: of its spacing, else of Pixel Aspect Ratio (vertical, horizontal)."""
    for keyword in (*_SPACINGS, "PixelAspectRatio"):
        value = attribute(dataset, keyword, index, "PixelMeasuresSequence")
        if value is None:
            continue
        ratio = _ratio(value)
        if ratio is not None:
            return ratio
    return 1.0


def _ratio(pair: Any) -> float | None:
    try:
        vertical, horizontal = (float(part) for part in pair)
        ratio = vertical / horizontal
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return ratio if math.isfinite(ratio) and 1 / FLATTEST <= ratio <= FLATTEST else None


def proportioned(picture: Image.Image, aspect: float) -> Image.Image:
    """Return a picture whose pixels are square: the side on which they are longer is stretched, so nothing is lost."""
    if abs(aspect - 1.0) * max(picture.size) < 0.5:
        return picture
    width, height = picture.size
    size = (width, round(height * aspect)) if aspect > 1.0 else (round(width / aspect), height)
    return _resized(picture, size)


def fitted(picture: Image.Image, viewport: Viewport, aspect: float = 1.0) -> Image.Image:
    """Return the region of a picture that is wanted, as large as fits into the viewport, in true proportions.

    Parameters
    ----------
    viewport
        Its size, and the region in pixels of the source: left, top, width, height. A negative width or height turns
        the region over.
    aspect
        Height of a source pixel by its width.

    Raises
    ------
    DecodeError
        If the region lies outside, or the picture would be too large.
    """
    width, height = picture.size
    wide = viewport.region_width if viewport.region_width is not None else width - viewport.left
    high = viewport.region_height if viewport.region_height is not None else height - viewport.top
    left, top = max(0.0, viewport.left), max(0.0, viewport.top)
    right, bottom = min(float(width), viewport.left + abs(wide)), min(float(height), viewport.top + abs(high))
    if not (right - left > 0.0 and bottom - top > 0.0):
        raise DecodeError("the region lies outside of the image")
    scale = min(viewport.width / (right - left), viewport.height / ((bottom - top) * aspect))
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * aspect * scale)))
    if size[0] * size[1] > LARGEST:
        raise DecodeError(f"a picture of {size[0]}x{size[1]} pixels is too large: ask for a smaller viewport")
    fitted = _resized(picture, size, (left, top, right, bottom))
    if wide < 0:
        fitted = fitted.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if high < 0:
        fitted = fitted.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return fitted


def reduced(picture: Image.Image, width: int) -> Image.Image:
    """Return a picture of at most so many columns."""
    if picture.width <= width:
        return picture
    return _resized(picture, (width, max(1, round(picture.height * width / picture.width))))


def _resized(
    picture: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    if max(1, size[0]) * max(1, size[1]) > max(LARGEST, picture.width * picture.height):
        raise DecodeError(f"a picture of {size[0]}x{size[1]} pixels is too large")
    # A filter that covers all source pixels: thin calipers stay visible, and speckle does not alias.
    return picture.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
