"""Stored grey values to what is shown: modality LUT, VOI LUT or window, 8 bits (PS3.3 C.11.1, C.11.2).

Responsible for the order of the steps and for exact windows. Not responsible for reading values (``image.py``) or for
colour (``colour.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from edgeward.compute.codestream import DecodeError

_MAX_TABLE = 65_536
_TABLE_WORTH = 4096  # pixels; for fewer, computing each is quicker than making a table
Values = NDArray[Any]


@dataclass(frozen=True)
class Shown:
    """A frame as grey of 8 bits.

    Attributes
    ----------
    grey : uint8 (rows, columns)
    center, width : the window that was applied; None where a VOI LUT or the values themselves decided
    lowest, highest : range of the frame after the modality LUT
    by_table : a VOI LUT was applied
    """

    grey: NDArray[np.uint8]
    center: float | None
    width: float | None
    lowest: float
    highest: float
    by_table: bool = False


def attribute(dataset: Dataset, keyword: str, index: int, *groups: str) -> Any:
    """Return an attribute of a frame, which an enhanced object keeps in a functional group (PS3.3 C.7.6.16).

    Looks in the object itself, then in the frame's own group, then in the shared one.
    """
    value = dataset.get(keyword)
    if value is not None:
        return value
    for sequence, place in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(sequence)
        if items is None or len(items) <= place:
            continue
        for group in groups:
            inner = items[place].get(group)
            if inner is not None and len(inner) and inner[0].get(keyword) is not None:
                return inner[0].get(keyword)
    return None


def show(
    values: Values,
    dataset: Dataset,
    *,
    bits: int,
    index: int = 0,
    inverse: bool = False,
    window: tuple[float, float] | None = None,
    function: str | None = None,
) -> Shown:
    """Return a frame of stored values as grey of 8 bits.

    The object's own window comes before its VOI LUT, and its first window before others. Without either, 8-bit values
    are shown as they are, and others from the lowest to the highest of the frame.

    Parameters
    ----------
    values : (rows, columns) integers or floating point, as stored
    bits : bits per value in use
    index : which frame, for attributes that differ by frame
    inverse : the lowest value is white (MONOCHROME1)
    window : center and width after the modality LUT, instead of the object's own
    function : LINEAR, LINEAR_EXACT or SIGMOID, instead of the object's own
    """
    rescale = _modality(dataset, index)
    whole = values.dtype.kind in "iu" and values.dtype.itemsize <= 2
    if whole:
        low_stored, high_stored = int(values.min()), int(values.max())
        ends = rescale(np.arange(low_stored, high_stored + 1, dtype=np.int64))
    else:
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if finite.size == 0:
            raise DecodeError("no pixel of the frame has a value")
        ends = rescale(np.array([finite.min(), finite.max()]))
    lowest, highest = float(ends.min()), float(ends.max())
    window = window or _window(dataset, index)
    own = attribute(dataset, "VOILUTFunction", index, "FrameVOILUTSequence")
    function = function or str(own or "LINEAR").strip().upper()
    by_table = False
    if window is None:
        table = _voi_table(dataset)
        if table is not None:
            tone, by_table = table, True
        elif values.dtype == np.uint8 and bits == 8 and (lowest, highest) == (low_stored, high_stored):
            return Shown(255 - values if inverse else values, None, None, lowest, highest)
        else:
            tone = _stretch(lowest, highest)
    else:
        tone = _windowed(window[0], window[1], function)

    def final(stored: Values) -> NDArray[np.uint8]:
        level = np.rint(np.clip(tone(rescale(stored)), 0.0, 255.0))
        return np.asarray(255.0 - level if inverse else level, np.uint8)

    if whole and values.size >= _TABLE_WORTH:
        lookup = final(np.arange(low_stored, high_stored + 1, dtype=np.int64))
        grey = lookup[values.astype(np.int32) - low_stored] if low_stored else lookup[values]
    else:
        safe = np.nan_to_num(values, nan=lowest) if values.dtype.kind == "f" else values
        grey = final(safe)
    center, width = window if window is not None else (None, None)
    return Shown(np.ascontiguousarray(grey), center, width, lowest, highest, by_table=by_table)


def _modality(dataset: Dataset, index: int) -> Callable[[Values], Values]:
    """Return the modality transformation (PS3.3 C.11.1): a table, a line, or nothing."""
    sequence = dataset.get("ModalityLUTSequence")
    if sequence is not None and len(sequence):
        return _lookup(sequence[0])[0]
    group = "PixelValueTransformationSequence"
    slope = _float(attribute(dataset, "RescaleSlope", index, group))
    intercept = _float(attribute(dataset, "RescaleIntercept", index, group))
    if slope is None and intercept is None:
        return lambda values: values.astype(np.float64)
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    return lambda values: values.astype(np.float64) * slope + intercept


def _window(dataset: Dataset, index: int) -> tuple[float, float] | None:
    center = _float(attribute(dataset, "WindowCenter", index, "FrameVOILUTSequence"))
    width = _float(attribute(dataset, "WindowWidth", index, "FrameVOILUTSequence"))
    if center is None or width is None or width <= 0:
        return None
    return center, width


def _windowed(center: float, width: float, function: str) -> Callable[[Values], Values]:
    """Return the window function of PS3.3 C.11.2.1.2 and C.11.2.1.3, onto 0..255."""
    if function == "SIGMOID":
        return lambda x: 255.0 / (1.0 + np.exp(np.clip(-4.0 * (x - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return lambda x: ((x - center) / width + 0.5) * 255.0
    if width <= 1:  # a threshold
        return lambda x: np.where(x <= center - 0.5, 0.0, 255.0)
    return lambda x: ((x - (center - 0.5)) / (width - 1.0) + 0.5) * 255.0


def _voi_table(dataset: Dataset) -> Callable[[Values], Values] | None:
    sequence = dataset.get("VOILUTSequence")
    if sequence is None or not len(sequence):
        return None
    look, highest = _lookup(sequence[0])
    return lambda x: look(x) * (255.0 / highest)


def _lookup(item: Dataset) -> tuple[Callable[[Values], Values], float]:
    """Return a LUT (PS3.3 C.11.1.1) as a function, and its highest possible output."""
    descriptor = item.get("LUTDescriptor")
    data = item.get("LUTData")
    if descriptor is None or len(descriptor) != 3 or data is None:
        raise DecodeError("a look-up table of the object is incomplete")
    entries, first, bits = (int(v) for v in descriptor)
    entries = entries & 0xFFFF or _MAX_TABLE
    if not 8 <= bits <= 16:
        raise DecodeError(f"a look-up table of {bits} bits per entry is not defined")
    if isinstance(data, bytes):
        little = item.original_encoding[1] is not False
        if len(data) >= 2 * entries:
            table: Values = np.frombuffer(data[: 2 * entries], "<u2" if little else ">u2")
        else:
            table = np.frombuffer(data, np.uint8)
    else:
        table = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
    if len(table) < entries:
        raise DecodeError(f"truncated: {len(table)} of {entries} entries of a look-up table")
    table = table[:entries].astype(np.float64)

    def look(values: Values) -> Values:
        index = np.clip(np.rint(np.asarray(values, np.float64)) - first, 0, entries - 1)
        return np.asarray(table[index.astype(np.int64)])

    return look, float((1 << bits) - 1)


def _stretch(lowest: float, highest: float) -> Callable[[Values], Values]:
    span = max(highest - lowest, 1e-30)
    return lambda x: (x - lowest) * (255.0 / span)


def _float(value: Any) -> float | None:
    """Return the first of one or more numbers, None if it is absent or no finite number."""
    if value is None or isinstance(value, str | bytes):
        return None
    try:
        first = value[0] if hasattr(value, "__len__") else value
        number = float(first)
    except (TypeError, ValueError, IndexError):
        return None
    return number if math.isfinite(number) else None
