"""Lesions as the result objects need them: numbered over frames, outlined, and as masks.

Responsible for the geometry that report, segmentation and presentation state share, so that all three mean the same
lesion by the same number. Not responsible for measuring (``compute.geometry``) or for any DICOM object.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID

from edgeward.clinic.imaging.source import derived_uid
from edgeward.compute.geometry import polygon_mask
from edgeward.messages import Finding, FrameFinding, Lesion

# FL of explicit VR has a 16-bit length: 8,191 points at most (PS3.5 7.1.2). A thousand are finer than any pixel needs.
MAX_POINTS = 1000
# Two outlines in neighbouring sampled frames are taken for the same lesion if their boxes share this much of their
# union. Lower, and neighbours merge; higher, and a lesion that breathes is a new one in every frame.
SAME_LESION_OVERLAP = 0.3
# A lesion may be missed in a frame or two and be found again; after that it is not the same one by its place alone.
MAX_MISSED_FRAMES = 2


@dataclass(frozen=True, slots=True)
class Sighting:
    """One lesion in one frame. Sightings with the same `number` (from 1) are the same lesion."""

    number: int
    frame: int  # 0-based
    lesion: Lesion


def sightings(finding: Finding) -> list[Sighting]:
    """Return every outlined lesion of every analysed frame, ordered by number, then frame.

    The best frame's lesions come first and keep their order: lesion 1 of the finding is number 1 everywhere. From the
    best frame outwards, a lesion keeps its number where its box overlaps the one it had last.
    """
    if finding.status != "analysed":
        return []
    first = [Sighting(number, finding.frame, lesion) for number, lesion in enumerate(finding.lesions, start=1)]
    others = sorted((f for f in finding.frame_findings if f.frame != finding.frame), key=lambda f: f.frame)
    found = list(first)
    later = [f for f in others if f.frame > finding.frame]
    earlier = [f for f in reversed(others) if f.frame < finding.frame]
    for frames in (later, earlier):
        found += _followed(first, frames, following=1 + max((s.number for s in found), default=0))
    return sorted(found, key=lambda s: (s.number, s.frame))


def _followed(start: list[Sighting], frames: Iterable[FrameFinding], following: int) -> list[Sighting]:
    found: list[Sighting] = []
    last = {s.number: (s, 0) for s in start}  # each lesion's last sighting, and in which frame from the start
    for step, frame in enumerate((f for f in frames if f.status == "analysed"), start=1):
        near = [s for s, seen in last.values() if step - seen <= 1 + MAX_MISSED_FRAMES]
        pairs = sorted(
            ((_overlap(s.lesion, lesion), s.number, k) for k, lesion in enumerate(frame.lesions) for s in near),
            key=lambda pair: (-pair[0], pair[1], pair[2]),
        )
        numbers: dict[int, int] = {}
        for overlap, number, k in pairs:
            if overlap >= SAME_LESION_OVERLAP and k not in numbers and number not in numbers.values():
                numbers[k] = number
        for k, lesion in enumerate(frame.lesions):
            if k not in numbers:
                numbers[k], following = following, following + 1
            sighting = Sighting(numbers[k], frame.frame, lesion)
            found.append(sighting)
            last[sighting.number] = sighting, step
    return found


def _overlap(one: Lesion, other: Lesion) -> float:
    """Intersection over union of two boxes; 0 where either is no box."""
    a, b = one.box, other.box
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if not (width > 0 and height > 0):  # also where a number is not finite
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return float(width * height / union) if union > 0 and np.isfinite(union) else 0.0


def tracking_uid(finding: Finding, part: str) -> UID:
    """Return the Tracking UID of ``frame-N`` or ``lesion-N``: one and the same in every object and every revision."""
    return derived_uid(finding.item_id, finding.model, finding.model_version, "tracking", part)


def outline_points(lesion: Lesion, columns: int, rows: int) -> NDArray[np.float64] | None:
    """Return a closed outline, shape (n, 2), or None if there is nothing to draw.

    Coordinates count from the corner of the first pixel, as those of SR and presentation states do (PS3.3 C.18.6.1.2,
    C.10.5.1.2): half a pixel more than a finding's. Points outside the image are moved to its edge. A lesion without
    contour is outlined by its box.
    """
    points = _polygon(lesion)
    if points is None:
        return None
    if len(points) > MAX_POINTS:
        points = points[np.linspace(0, len(points) - 1, MAX_POINTS).astype(int)]
    points = points + 0.5
    if columns > 0 and rows > 0:
        points = np.clip(points, 0.0, (columns, rows))
    if not np.array_equal(points[0], points[-1]):
        points = np.concatenate([points, points[:1]])
    return points


def mask(lesion: Lesion, rows: int, columns: int) -> NDArray[np.bool_]:
    """Return the pixels whose centre lies within the outline, shape (rows, columns); a speck gets the nearest pixel."""
    result = np.zeros((rows, columns), dtype=bool)
    points = _polygon(lesion)
    if points is None:
        return result
    points = np.clip(points, (-1.0, -1.0), (columns, rows))
    # Only the lesion's neighbourhood is rasterised: a lesion is a small part of a frame.
    x0, y0 = np.maximum(np.floor(points.min(axis=0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 1, (columns, rows))
    if x1 > x0 and y1 > y0:
        result[y0:y1, x0:x1] = polygon_mask(points - (x0, y0), int(y1 - y0), int(x1 - x0))
    if not result.any():
        x, y = np.rint(points.mean(axis=0)).astype(int)
        if 0 <= x < columns and 0 <= y < rows:
            result[y, x] = True
    return result


def _polygon(lesion: Lesion) -> NDArray[np.float64] | None:
    points = np.asarray(lesion.contour, dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 3:
        x0, y0, x1, y1 = lesion.box
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)
        if not np.isfinite(points).all() or x1 <= x0 or y1 <= y0:
            return None
    return points
