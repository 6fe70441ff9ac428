"""A loop as a few of its frames: which ones are looked at, and which one the result rests on.

Responsible for sampling and for the rule of the best frame. Pure functions; not responsible for decoding, inference, or
time (the caller says how many frames it can afford).

The rule of the best frame, in this order:

1. an analysed frame comes before a refused one, and one with an outline before one without;
2. then the higher score: the probability of the frame's surest lesion, times how far the neighbouring samples show a
   lesion at the same place (1 if all do, `LONE` if none does), times ``(1 + malignancy) / 2``, so that of two equally
   sure outlines the more suspicious frame is the one that is shown;
3. then the frame nearest to the middle of the loop.

A lesion that is outlined in one lone frame is kept; it only counts for less.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
from pydicom.dataset import Dataset

LONE = 0.5  # weight of an outline that no neighbouring sample confirms
_SAME_PLACE = 0.1  # overlap of boxes, intersection over union: the probe moves between samples


class HasBox(Protocol):
    """A lesion, as far as the rule looks at it."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1."""
        ...

    @property
    def probability(self) -> float:
        """That it is there, 0..1."""
        ...


class HasLesions(Protocol):
    """What is known of one sampled frame."""

    @property
    def reason(self) -> str:
        """Why it was refused; empty if it was analysed."""
        ...

    @property
    def lesions(self) -> Sequence[HasBox]:
        """Outlined lesions."""
        ...

    @property
    def malignancy(self) -> float | None:
        """Probability, 0..1."""
        ...


def frame_time_ms(dataset: Dataset, index: int = 1) -> float:
    """Milliseconds from one frame to the next (PS3.3 C.7.6.5), 0 if the object does not say.

    Parameters
    ----------
    index : the frame whose time from its predecessor is asked, where they differ
    """
    vector = _numbers(dataset.get("FrameTimeVector"))
    if len(vector) > 1 and vector[min(max(index, 1), len(vector) - 1)] > 0:
        return vector[min(max(index, 1), len(vector) - 1)]
    for keyword, rate in (("FrameTime", False), ("CineRate", True), ("RecommendedDisplayFrameRate", True)):
        value = _numbers(dataset.get(keyword))
        if value and value[0] > 0:
            return 1000.0 / value[0] if rate else value[0]
    return 0.0


def frame_times(dataset: Dataset, frames: int) -> list[float]:
    """Return when each frame was taken, in milliseconds from the first; evenly spaced if nothing better is known."""
    vector = _numbers(dataset.get("FrameTimeVector"))
    if len(vector) == frames and all(step >= 0 for step in vector) and sum(vector[1:]) > 0:
        return list(accumulate([0.0, *vector[1:]]))
    step = frame_time_ms(dataset) or 1.0
    return [step * number for number in range(frames)]


def sample(times: Sequence[float], wanted: int) -> list[int]:
    """Return `wanted` frames spread evenly in time, in order; the middle frame is always among them.

    Parameters
    ----------
    times : when each frame was taken, ascending
    wanted : how many, at least one; all if the loop has no more
    """
    frames = len(times)
    middle = frames // 2
    if wanted >= frames:
        return list(range(frames))
    if wanted <= 1:
        return [middle]
    span = times[-1] - times[0]
    targets = times[0] + span * (np.arange(wanted) + 0.5) / wanted
    # All move by less than half a step, so that one of them is the middle frame's time.
    off = times[middle] - targets
    targets = np.sort(targets + off[np.argmin(np.abs(off))])
    grid = np.asarray(times)
    after = np.searchsorted(grid, targets).clip(0, frames - 1)
    before = (after - 1).clip(0)
    nearest = np.where(targets - grid[before] < grid[after] - targets, before, after)
    chosen = {int(n) for n in nearest}
    if middle not in chosen:  # another frame was taken at the same moment
        chosen.discard(min(chosen, key=lambda n: (abs(n - middle), n)))
        chosen.add(middle)
    while len(chosen) < wanted:  # frames taken at the same moment: fill the widest gaps
        edges = sorted({-1, *chosen, frames})
        low, high = max(pairwise(edges), key=lambda e: (e[1] - e[0], -e[0]))
        chosen.add((low + high) // 2)
    return sorted(chosen)


def spread(chosen: Sequence[int], middle: int) -> list[int]:
    """Order samples so that whatever is left out at the end, those before it cover the loop: the middle one first."""
    left = sorted(chosen)
    first = min(left, key=lambda n: (abs(n - middle), n))
    ordered = [first]
    left.remove(first)
    while left:
        farthest = max(left, key=lambda n: (min(abs(n - o) for o in ordered), -n))
        ordered.append(farthest)
        left.remove(farthest)
    return ordered


def best(results: Sequence[HasLesions], frames: Sequence[int], middle: int) -> int:
    """Return the position in `results` of the best frame; the rule is in the module's description.

    Parameters
    ----------
    results, frames : what was found, and in which frame, both in the loop's order
    middle : the loop's middle frame
    """

    def rank(position: int) -> tuple[bool, bool, float, int]:
        result = results[position]
        score = max((lesion.probability * _support(results, position, lesion) for lesion in result.lesions), default=0)
        score *= (1.0 + (result.malignancy or 0.0)) / 2.0
        return not result.reason, bool(result.lesions), score, -abs(frames[position] - middle)

    return max(range(len(results)), key=rank)


def _support(results: Sequence[HasLesions], position: int, lesion: HasBox) -> float:
    """How far the neighbouring samples show a lesion at the same place, `LONE` to 1."""
    neighbours = [results[n] for n in (position - 1, position + 1) if 0 <= n < len(results)]
    if not neighbours:
        return 1.0
    seen = sum(any(_overlap(lesion.box, other.box) >= _SAME_PLACE for other in n.lesions) for n in neighbours)
    return LONE + (1.0 - LONE) * seen / len(neighbours)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _numbers(value: Any) -> list[float]:
    """One or several numbers as a list, empty if they are absent or no numbers."""
    if value is None or value == "" or isinstance(value, str | bytes):
        return []
    try:
        numbers = [float(v) for v in value] if hasattr(value, "__len__") else [float(value)]
    except (TypeError, ValueError):
        return []
    return numbers if np.isfinite(numbers).all() else []
