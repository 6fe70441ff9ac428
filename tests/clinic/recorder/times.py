"""A machine whose clocks a test sets."""

from __future__ import annotations

from edgeward.clinic.recorder.clock import SECOND, SystemTime

BEGIN_NS = 1_800_000_000 * SECOND


class Machine(SystemTime):
    """Boot clock and wall clock, both by hand."""

    def __init__(self, boot_id: str = "boot-1", *, uptime_s: float = 5000.0, wall_ns: int = BEGIN_NS) -> None:
        self.boot_id = boot_id
        self._boot, self._wall = round(uptime_s * SECOND), wall_ns

    def wall_ns(self) -> int:
        return self._wall

    def boot_ns(self) -> int:
        return self._boot

    def pass_s(self, seconds: float) -> None:
        self._boot += round(seconds * SECOND)
        self._wall += round(seconds * SECOND)

    def set_wall(self, by_s: float) -> None:
        self._wall += round(by_s * SECOND)

    def reboot(self, off_s: float, *, wall_error_s: float = 0.0) -> None:
        """Be off for `off_s`; come back with a wall clock that is wrong by `wall_error_s`."""
        self.boot_id += "'"
        self._wall += round((off_s + wall_error_s) * SECOND)
        self._boot = 20 * SECOND
