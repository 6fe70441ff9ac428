"""The monitor's time: a steady clock for durations, and the wall clock for stamps.

Responsible for keeping the two apart. A wall clock that is set forward by an hour must not make every bed silent, and
one that is set back must not stop an alarm's delay. Not responsible for the clocks of devices (``clocks``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: The two are kept together by slewing up to this far apart; what is more is a step.
STEP_NS = 200_000_000
#: At most 500 ppm of the time that passed (the rate at which NTP slews).
SLEW = 2000


class SiteClock:
    """Steady nanoseconds that read like the wall clock as long as nobody sets that.

    Parameters
    ----------
    steady, wall : callable
        Clocks in ns; for tests.
    """

    def __init__(self, steady: Callable[[], int] = time.monotonic_ns, wall: Callable[[], int] = time.time_ns) -> None:
        self._steady, self._wall = steady, wall
        self._offset = wall() - steady()
        self._step = 0
        self._followed = steady()

    def now_ns(self) -> int:
        """Return the steady time: it never jumps and never goes back."""
        return self._steady() + self._offset

    def wall_ns(self, steady_ns: int | None = None) -> int:
        """Return the wall time of a steady time, or of now."""
        return (self.now_ns() if steady_ns is None else steady_ns) + self._step

    def steady_ns(self, wall_ns: int) -> int:
        """Return the steady time of a wall time."""
        return wall_ns - self._step

    def follow(self) -> int:
        """Follow the wall clock; return by how many ns it was set since the last call, 0 if it was not.

        Call it a few times a second.
        """
        now = self._steady()
        apart = self._wall() - (now + self._offset) - self._step
        passed, self._followed = now - self._followed, now
        if abs(apart) >= STEP_NS:
            self._step += apart
            return apart
        most = passed // SLEW
        self._offset += max(-most, min(most, apart))
        return 0
