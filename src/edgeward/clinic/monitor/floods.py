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

    def lost(self, source_id: str, now_ns: int) -> list[str]:
        """Take the loss of one source; return all sources of the flood that it belongs to, none if it is alone."""
        self._losses.pop(source_id, None)
        self._losses[source_id] = now_ns
        self._forget(now_ns)
        return list(self._losses) if len(self._losses) >= self._beds else []

    def found(self, source_id: str) -> None:
        """Take it that a source is back."""
        self._losses.pop(source_id, None)

    def _forget(self, now_ns: int) -> None:
        while self._losses:
            source_id, at = next(iter(self._losses.items()))
            if now_ns - at <= self._within_ns:
                break
            del self._losses[source_id]
