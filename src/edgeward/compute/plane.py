"""Where the plane of a frame lies in the room, so that two series can be gone through together.

Pure. Responsible for Image Position and Orientation (PS3.3, C.7.6.2.1.1), also in the functional groups of an enhanced
object. Not responsible for spacing within the plane (``decode``).
"""

from __future__ import annotations

import math

import numpy as np
from pydicom.dataset import Dataset

from edgeward.compute.greyscale import attribute

_UPRIGHT = 1e-3  # two directions of length 1 whose product is larger are not perpendicular
Plane = tuple[float, float, float, float]


def plane_of(dataset: Dataset, index: int) -> Plane | None:
    """Return the normal of a frame's plane and its distance from the origin along it in mm; None if it is not told.

    Positions in the same Frame of Reference can be compared; in two of them, only steps can.
    """
    try:
        told = attribute(dataset, "ImageOrientationPatient", index, "PlaneOrientationSequence")
        place = attribute(dataset, "ImagePositionPatient", index, "PlanePositionSequence")
        directions = np.array([float(value) for value in told]).reshape(2, 3)
        position = np.array([float(value) for value in place]).reshape(3)
    except (TypeError, ValueError):
        return None
    lengths = np.linalg.norm(directions, axis=1)
    if not np.isfinite(position).all() or not np.isfinite(lengths).all() or lengths.min() < _UPRIGHT:
        return None
    along, down = directions / lengths[:, None]
    if abs(float(along @ down)) > 100 * _UPRIGHT:
        return None
    normal = np.cross(along, down)
    normal /= np.linalg.norm(normal)
    depth = float(normal @ position)
    if not math.isfinite(depth):
        return None
    return float(normal[0]), float(normal[1]), float(normal[2]), depth
