"""Recognises when many beds lose their signal together: one event, of a switch or an access point, not of patients.

Responsible for counting, and for who is part of the flood that is on. Pure. What a flood alarm looks like, and that it
never hides what a patient has, is ``engine``'s.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable


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


class Flood:
    """The flood that is on, if one is: the sources that are part of it, and their beds.

    Parameters
    ----------
    watch : FloodWatch

    Attributes
    ----------
    changed
        Whether it is another one than was told last.
    """

    def __init__(self, watch: FloodWatch) -> None:
        self._watch = watch
        self._bed_of: dict[str, str] = {}  # source -> bed
        self.changed = False

    def __bool__(self) -> bool:
        """Whether a flood is on."""
        return bool(self._bed_of)

    def __contains__(self, source_id: object) -> bool:
        """Whether a source is part of it."""
        return source_id in self._bed_of

    @property
    def beds(self) -> tuple[str, ...]:
        """Beds of the sources that are part of it, in the order in which they joined."""
        return tuple(dict.fromkeys(self._bed_of.values()))

    def lost(self, source_id: str, now_ns: int, bed_of: Callable[[str], str]) -> list[tuple[str, str]]:
        """Take the loss of one source; return the sources, and their beds, that join the flood by it.

        Parameters
        ----------
        bed_of : callable
            The bed of a source that is silent now; empty if it has none, or is not silent.
        """
        joined = [(one, bed) for one in self._watch.lost(source_id, now_ns) if (bed := bed_of(one))]
        self._bed_of |= dict(joined)
        self.changed |= bool(joined)
        return joined

    def found(self, source_id: str) -> None:
        """Take it that a source is back, or no more."""
        self._watch.found(source_id)
        self.leave(source_id)

    def leave(self, source_id: str) -> None:
        """Take a source out of the flood, whether or not it is silent."""
        if self._bed_of.pop(source_id, None) is not None:
            self.changed = True

    def put_back(self, source_id: str, bed_id: str) -> None:
        """Take it that a source was part of the flood before a restart."""
        self._bed_of[source_id] = bed_id

    def take_changed(self) -> bool:
        """Return, and forget, whether the flood has changed."""
        changed, self.changed = self.changed, False
        return changed
