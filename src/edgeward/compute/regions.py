"""The ultrasound region calibration of a DICOM object (PS3.3 C.8.5.5).

Responsible for reading which parts of the frame show what, and at which scale. Not responsible for pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgeward.messages import RegionScale

_CENTIMETRES = 3  # PhysicalUnitsXDirection (0018,6024)
_TWO_DIMENSIONAL = 1  # RegionSpatialFormat (0018,6012)
_TISSUE, _COLOUR_FLOW = 1, 2  # RegionDataType (0018,6014)
_SMALLEST, _LARGEST = 0.001, 10.0  # millimetres per pixel that any scanner could mean
_ROUNDING = 0.002  # by which two calibrations may differ that mean the same
_MOST_SCALES = 16


@dataclass(frozen=True)
class Region:
    """One calibrated region.

    `box` is x0, y0, x1, y1 (exclusive) in pixels; `spacing_mm` is (row, column) or None. `other_units` says that the
    scanner calibrated it in something else than centimetres, so that no other attribute gives it millimetres either.
    """

    box: tuple[int, int, int, int]
    spatial_format: int
    data_type: int
    spacing_mm: tuple[float, float] | None
    other_units: bool = False

    @property
    def area(self) -> int:
        """Pixels covered."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])

    @property
    def is_tissue(self) -> bool:
        """A two-dimensional grey-scale image, not a trace or a spectrum."""
        return self.spatial_format == _TWO_DIMENSIONAL and self.data_type == _TISSUE

    @property
    def is_colour_flow(self) -> bool:
        """Two-dimensional colour Doppler."""
        return self.spatial_format == _TWO_DIMENSIONAL and self.data_type == _COLOUR_FLOW


def read_regions(dataset: Any, rows: int, columns: int) -> tuple[Region, ...]:
    """Read the usable entries of SequenceOfUltrasoundRegions.

    One that reaches beyond the frame is left out: the frame was scaled or cropped after calibration, so that neither
    its place nor its scale holds any more.
    """
    found = []
    sequence = dataset.get("SequenceOfUltrasoundRegions")
    for item in sequence if sequence is not None else ():
        try:
            x0, y0 = int(item.RegionLocationMinX0), int(item.RegionLocationMinY0)
            x1, y1 = int(item.RegionLocationMaxX1) + 1, int(item.RegionLocationMaxY1) + 1
            kind = int(item.get("RegionSpatialFormat", 0)), int(item.get("RegionDataType", 0))
        except (AttributeError, TypeError, ValueError):
            continue
        # The maximum is the last pixel inside; some scanners write the first one outside.
        if x0 < 0 or y0 < 0 or x1 > columns + 1 or y1 > rows + 1 or x1 - x0 < 16 or y1 - y0 < 16:
            continue
        box = x0, y0, min(x1, columns), min(y1, rows)
        found.append(Region(box, kind[0], kind[1], _spacing(item), _other_units(item)))
    return tuple(found)


def scales(regions: tuple[Region, ...], spacing_mm: tuple[float, float] | None) -> tuple[RegionScale, ...]:
    """Return the scale of each region if the frame's own does not hold for all of them, else nothing.

    A region that states no calibration at all is taken to have the frame's. At most `_MOST_SCALES` are returned.
    """
    found = tuple(
        RegionScale(box=r.box, spacing_mm=r.spacing_mm if r.spacing_mm or r.other_units else spacing_mm)
        for r in regions[:_MOST_SCALES]
    )
    return found if any(not _alike(one.spacing_mm, spacing_mm) for one in found) else ()


def _alike(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(math.isclose(a, b, rel_tol=_ROUNDING) for a, b in zip(one, other, strict=True))


def _other_units(item: Any) -> bool:
    """Whether an axis is in units other than centimetres; 0 means that nothing is said."""
    units = (item.get("PhysicalUnitsXDirection"), item.get("PhysicalUnitsYDirection"))
    return any(unit is not None and unit not in (0, _CENTIMETRES) for unit in units)


def _spacing(item: Any) -> tuple[float, float] | None:
    try:
        if int(item.PhysicalUnitsXDirection) != _CENTIMETRES or int(item.PhysicalUnitsYDirection) != _CENTIMETRES:
            return None
        row, column = abs(float(item.PhysicalDeltaY)) * 10.0, abs(float(item.PhysicalDeltaX)) * 10.0
    except (AttributeError, TypeError, ValueError):
        return None
    if not (math.isfinite(row) and math.isfinite(column)):
        return None
    if not (_SMALLEST <= row <= _LARGEST and _SMALLEST <= column <= _LARGEST):
        return None
    return row, column
