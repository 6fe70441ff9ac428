"""Recognises when many beds lose their signal together: one event, of a switch or an access point, not of patients.

Responsible for counting only. Pure. What a flood alarm looks like, and that it never hides what a patient has, is
``engine``'s.
"""

from __future__ import annotations

from collections import OrderedDict


class FloodWatch:
    """Losses of signal within a window.

    Parameters
    ----------
    beds : int
        So many make a flood.
    within_s : float
        If they come within this time.
    """

    def __init__(self, beds: int, within_s: float) -> None:
        self._beds, self._within_ns = beds, int(within_s * 1e9)
        self._losses: OrderedDict[str, int] = OrderedDict()  # source -> when, oldest first
        self._alone: dict[str, None] = {}  # those of them that belong to no flood so far

    def lost(self, source_id: str, now_ns: int) -> list[str]:
        """Take the loss of one source; return the sources that are part of a flood by it, none if it is alone."""
        self.found(source_id)
        self._losses[source_id] = now_ns
        self._alone[source_id] = None
        self._forget(now_ns)
        if len(self._losses) < self._beds:
            return []
        joined, self._alone = list(self._alone), {}
        return joined

    def found(self, source_id: str) -> None:
        """Take it that a source is back."""
        self._losses.pop(source_id, None)
        self._alone.pop(source_id, None)

    def _forget(self, now_ns: int) -> None:
        while self._losses:
            source_id, at = next(iter(self._losses.items()))
            if now_ns - at <= self._within_ns:
                break
            del self._losses[source_id]
            self._alone.pop(source_id, None)
