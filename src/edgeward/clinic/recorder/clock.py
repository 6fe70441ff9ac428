"""How old a recording is, whatever somebody does to the wall clock.

Responsible for one question: how much time has passed since a stamp. Within one boot of the machine the answer comes
from the clock that counts since the boot (suspension included) and is exact: a wall clock that is set an hour back or
forward changes nothing. Across a reboot only the wall clock can tell how long the machine was off, so it is believed
once it has run undisturbed for a while; until then nothing recorded before the reboot counts as old.

Not responsible for what is done with an age, nor for the time that is shown to people: that is the wall clock's.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeward.home import write_private
from edgeward.messages import json_decoder

SECOND = 1_000_000_000
SETTLE_S = 600.0  # after a reboot time synchronisation gets so long to correct the wall clock
STEP_S = 1.0  # the wall clock was set, if it moved this much against the boot clock
REMEMBER_S = 60.0  # how often the state is written down
_KEPT_BOOTS = 64


@dataclass(frozen=True, slots=True)
class Stamp:
    """A moment: which boot, nanoseconds since that boot, and what the wall clock said (nanoseconds since the epoch)."""

    boot_id: str
    boot_ns: int
    wall_ns: int


class SystemTime:
    """The machine's clocks."""

    def __init__(self) -> None:
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def wall_ns(self) -> int:
        """Return the wall clock."""
        return time.time_ns()

    def boot_ns(self) -> int:
        """Return the time since the boot, suspension included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class _Boot(msgspec.Struct):
    """What is known of one boot: where its zero lies on the axis of all boots, and when it was last seen."""

    boot_id: str
    zero_ns: int  # on the axis; provisional until settled
    settled: bool
    last_boot_ns: int
    last_wall_ns: int


class RetentionClock:
    """Ages across restarts and reboots.

    All boots lie on one axis of elapsed time. Each boot's zero is the one before it plus the time that the machine was
    off, which is never negative.

    Parameters
    ----------
    path
        Where the boots are remembered. A file that cannot be read counts as none: what was recorded before is then
        dated by the wall clock.
    system
        Source of the clocks.
    settle_s
        How long after a reboot the wall clock must run before it is believed.
    """

    def __init__(self, path: Path, system: SystemTime, *, settle_s: float = SETTLE_S) -> None:
        self._path, self._system = path, system
        self._settle_ns = round(settle_s * SECOND)
        self._boots: dict[str, _Boot] = {}
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            self._boots = {boot.boot_id: boot for boot in json_decoder(list[_Boot]).decode(path.read_bytes())}
        now = self.now()
        earlier = [boot for boot in self._boots.values() if boot.boot_id != now.boot_id]
        self._before = earlier[-1] if earlier else None
        own = self._boots.pop(now.boot_id, None)
        if own is None:
            own = _Boot(now.boot_id, 0, self._before is None, now.boot_ns, now.wall_ns)
            own.zero_ns = self._zero(now) if self._before else now.wall_ns - now.boot_ns
        self._own = self._boots[now.boot_id] = own  # the newest is the last
        self._first_ns = now.boot_ns
        self._remembered_ns = -1 << 62
        self.steps = 0  # of the wall clock, seen by this process

    def now(self) -> Stamp:
        """Return this moment."""
        return Stamp(self._system.boot_id, self._system.boot_ns(), self._system.wall_ns())

    def age_s(self, stamp: Stamp) -> float | None:
        """Return the seconds since `stamp`, or None while that cannot be said (soon after a reboot)."""
        now = self.now()
        if stamp.boot_id == now.boot_id:
            return (now.boot_ns - stamp.boot_ns) / SECOND
        if not self._own.settled:
            return None
        boot = self._boots.get(stamp.boot_id)
        # A boot that nobody remembers: its axis is lost, and the wall clock is all there is.
        then = stamp.wall_ns if boot is None else boot.zero_ns + stamp.boot_ns
        return ((now.wall_ns if boot is None else self._own.zero_ns + now.boot_ns) - then) / SECOND

    def tick(self) -> None:
        """Notice that the wall clock was set, believe it when its time has come, and write the state down.

        Raises
        ------
        OSError
            If the state cannot be written; ages stay right as long as the machine is not rebooted.
        """
        now, own = self.now(), self._own
        moved = (now.wall_ns - own.last_wall_ns) - (now.boot_ns - own.last_boot_ns)
        stepped = abs(moved) > STEP_S * SECOND
        self.steps += stepped
        if not own.settled:
            if stepped:
                self._first_ns = now.boot_ns  # somebody is still setting it: wait anew
            own.zero_ns = self._zero(now)
            own.settled = now.boot_ns - self._first_ns >= self._settle_ns
        own.last_boot_ns, own.last_wall_ns = now.boot_ns, now.wall_ns
        if stepped or now.boot_ns - self._remembered_ns >= REMEMBER_S * SECOND:
            for boot_id in list(self._boots)[:-_KEPT_BOOTS]:
                del self._boots[boot_id]
            write_private(self._path, msgspec.json.encode(list(self._boots.values())))
            self._remembered_ns = now.boot_ns

    @property
    def settled(self) -> bool:
        """Whether ages of recordings from before the last reboot are known."""
        return self._own.settled

    def _zero(self, now: Stamp) -> int:
        """Return where this boot's zero lies, if the wall clock is right now."""
        before = self._before
        assert before is not None
        end = before.zero_ns + before.last_boot_ns  # of the boot before, on the axis
        passed = max(0, now.wall_ns - before.last_wall_ns)  # since then, by the wall clock
        return max(end, end + passed - now.boot_ns)
