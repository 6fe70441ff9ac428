"""What a scanner or a person drew over an image: calipers, dotted ellipses, text.

Responsible for finding such strokes and for filling them from around them, so that the network sees tissue where a line
was. Not responsible for uniform borders (``breast_ultrasound.content_box``) or for what was drawn. Pure functions.

A stroke is thin and stands out at its full, even brightness (drawn ones are saturated, speckle varies), or it is
coloured. It is found by a white top-hat (Serra 1982): what an opening with a small square removes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BRIGHTEST = 250  # strokes are drawn at or near full white
_STANDS_OUT = 70  # grey levels above the tissue right beside it
_THICK = 96  # a stroke is at most so many times thinner than the picture's smaller side, and at least 3 pixels
_COLOURED = 50  # levels between the highest and the lowest of red, green and blue
_SEEN = 0.15  # share of a new pixel that must come from undrawn ones
_FEWEST, _MOST = 6, 0.12  # pixels; part of the picture: more is no annotation but a picture


def strokes(grey: NDArray[np.uint8], rgb: NDArray[np.uint8] | None = None) -> NDArray[np.bool_] | None:
    """Return where the picture was drawn over, or None if nowhere.

    Parameters
    ----------
    grey : (rows, columns)
    rgb : the same in colour, (rows, columns, 3), if it has any
    """
    size = max(3, round(min(grey.shape) / _THICK)) | 1
    bright = grey >= BRIGHTEST
    found = np.zeros(grey.shape, bool)
    if int(np.count_nonzero(bright)) >= _FEWEST:
        opened = _extreme(_extreme(grey, size, np.minimum), size, np.maximum)
        found = bright & (grey - opened > _STANDS_OUT)  # an opening never exceeds the picture
    if rgb is not None:
        red, green, blue = np.moveaxis(rgb, 2, 0)  # reducing over the last axis would take ten times as long
        high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
        found |= (high >= 96) & (high - low > _COLOURED)
    count = int(np.count_nonzero(found))
    if count < _FEWEST or count > _MOST * grey.size:
        return None
    return _extreme(found.view(np.uint8), 3, np.maximum).astype(bool)


def reduced_without(grey: NDArray[np.uint8], where: NDArray[np.bool_], width: int, height: int) -> NDArray[np.float32]:
    """Return the picture at another size, with `where` left out of every mean and filled from around it.

    Parameters
    ----------
    grey, where : (any rows, any columns), the latter from `strokes`
    width, height : the new size

    Returns
    -------
    float32 array (height, width), grey levels
    """
    known = (~where).view(np.uint8) * np.uint8(255)
    visible = grey & known
    size, how = (width, height), Image.Resampling.BILINEAR
    share = np.asarray(Image.fromarray(known).resize(size, how), np.float32) / 255.0
    total = np.asarray(Image.fromarray(visible).resize(size, how), np.float32)
    unknown = share < _SEEN
    out = np.where(unknown, 0, total / np.maximum(share, _SEEN)).astype(np.float32).clip(0, 255)
    for radius in (2, 4, 8, 16):
        rows, columns = np.nonzero(unknown)
        if len(rows) == 0:
            break
        # Only the few unknown pixels are looked at, each with the square around it.
        reach = np.arange(2 * radius + 1)
        at = (rows[:, None, None] + reach[:, None], columns[:, None, None] + reach)
        weight = np.pad(~unknown, radius)[at]
        count = weight.sum(axis=(1, 2))
        total_around = (np.pad(out, radius)[at] * weight).sum(axis=(1, 2))
        ready = count > 0
        out[rows[ready], columns[ready]] = total_around[ready] / count[ready]
        unknown[rows[ready], columns[ready]] = False
    return out


def _extreme(values: NDArray[np.uint8], size: int, pick: np.ufunc) -> NDArray[np.uint8]:
    """Lowest or highest of a square of `size` pixels around each pixel; windows grow by doubling."""
    half = size // 2
    for axis in (0, 1):
        window = np.pad(values, [(half, half) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        width = 1
        while width < size:
            step = min(width, size - width)
            window = pick(window[:-step], window[step:]) if axis == 0 else pick(window[:, :-step], window[:, step:])
            width += step
        values = window
    return values
