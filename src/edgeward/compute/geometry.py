"""Outlines of a probability map and what is measured on them.

Responsible for iso-contours at sub-pixel precision, long and short axis, area, and rasterising a polygon. Not
responsible for the network or for deciding what is a lesion. Pure functions over arrays; points are ``(x, y)`` with the
centre of the first pixel at (0, 0).
"""

from __future__ import annotations

from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (n, 2), x then y, not repeated at the end


def outlines(values: NDArray[np.float32], level: float) -> list[Points]:
    """Outer boundaries of the regions of `values` (rows, columns) at or above `level`, holes ignored.

    Points are interpolated linearly between grid points; a region that touches the edge is closed outside it by less
    than one grid step.
    """
    padded = np.zeros((values.shape[0] + 2, values.shape[1] + 2), dtype=np.float64)
    padded[1:-1, 1:-1] = values
    generator: Any = contourpy.contour_generator(z=padded, name="serial", fill_type=contourpy.FillType.OuterOffset)
    points, offsets = generator.filled(level, np.inf)
    found = []
    for polygon, offset in zip(points, offsets, strict=True):
        outer = np.asarray(polygon[offset[0] : offset[1]], dtype=np.float64) - 1.0
        if len(outer) > 3:
            found.append(outer[:-1])
    return found


def area(points: Points) -> float:
    """Area of a simple polygon (shoelace formula), in the square of the points' unit."""
    x, y = points[:, 0], points[:, 1]
    # Not with dot products: for so few points, waking the linear-algebra library's threads costs most.
    inner = (x[:-1] * y[1:]).sum() - (y[:-1] * x[1:]).sum()
    return float(abs(inner + x[-1] * y[0] - y[-1] * x[0]) / 2.0)


def hull(points: Points) -> Points:
    """Convex hull, counter-clockwise in a y-up frame (Andrew's monotone chain)."""
    ordered = np.unique(points, axis=0)
    if len(ordered) < 3:
        return ordered

    def chain(sequence: Points) -> list[Points]:
        kept: list[Points] = []
        for p in sequence:
            while len(kept) > 1:
                a, b = kept[-1] - kept[-2], p - kept[-2]
                if a[0] * b[1] - a[1] * b[0] > 0:
                    break
                kept.pop()
            kept.append(p)
        return kept[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def axes(points: Points) -> tuple[float, float]:
    """Longest diameter and the largest extent perpendicular to it, as a lesion is measured (ACR BI-RADS, 5th ed.)."""
    rim = hull(points)
    if len(rim) < 2:
        return 0.0, 0.0
    difference = rim[:, None, :] - rim[None, :, :]
    squared = np.einsum("ijk,ijk->ij", difference, difference)
    i, j = np.unravel_index(int(np.argmax(squared)), squared.shape)
    longest = float(np.sqrt(squared[i, j]))
    if longest == 0.0:
        return 0.0, 0.0
    direction = (rim[j] - rim[i]) / longest
    across = rim @ np.array([-direction[1], direction[0]])
    return longest, float(across.max() - across.min())


def polygon_mask(points: Points, rows: int, columns: int) -> NDArray[np.bool_]:
    """Pixels of a (rows, columns) grid whose centre lies inside the polygon (even-odd rule)."""
    toggle = np.zeros((rows, columns + 1), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        low, high = min(y0, y1), max(y0, y1)
        ys = np.arange(max(0, int(np.ceil(low))), min(rows, int(np.ceil(high))))
        if len(ys) == 0:
            continue
        xs = x0 + (ys - y0) * (x1 - x0) / (y1 - y0)
        toggle[ys, np.clip(np.ceil(xs), 0, columns).astype(np.int64)] ^= True
    return np.asarray(np.logical_xor.accumulate(toggle, axis=1)[:, :columns])


def thin(points: Points, tolerance: float) -> Points:
    """Drop points that lie within `tolerance` of the line between their kept neighbours (Douglas & Peucker 1973)."""
    if len(points) < 5 or tolerance <= 0:
        return points
    far = int(np.argmax(np.hypot(*(points - points[0]).T)))
    keep = np.zeros(len(points) + 1, dtype=bool)
    closed = np.vstack([points, points[:1]])
    keep[[0, far, len(points)]] = True
    stack = [(0, far), (far, len(points))]
    while stack:
        a, b = stack.pop()
        if b - a < 2:
            continue
        chord = closed[b] - closed[a]
        length = float(np.hypot(*chord))
        offset = closed[a + 1 : b] - closed[a]
        distance = np.abs(offset[:, 0] * chord[1] - offset[:, 1] * chord[0]) / length if length else np.hypot(*offset.T)
        worst = int(np.argmax(distance))
        if distance[worst] > tolerance:
            middle = a + 1 + worst
            keep[middle] = True
            stack += [(a, middle), (middle, b)]
    return np.asarray(closed[:-1][keep[:-1]])
