"""One supervised process: how it is started, whether it lives, and the one that stands by for it.

Responsible for telling a process that hangs from one that is merely slow, and for a process that has loaded everything
and waits to be needed. Not responsible for when any of them is started or ended (``supervisor``), nor for what it does.

A role's life is seen by its *pulse*: its event loop writes a byte a second into a pipe that it was given. That needs no
bus, so a broker that starts again, with thousands of devices at its door, makes nobody look dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgeward.bus.process import GO, LOADED, PULSE, die_with_parent
from edgeward.messages import RoleState

#: A ready role whose event loop has not turned for so long hangs: with the time until the next look, less than the ten
#: seconds within which a failure of the alarm system is to be told (IEC 60601-1-8:2020, 6.11.2.2).
HANGS_S = 7.0
#: Alarms, their notices, their pictures and their past depend on these; others load models and big files.
ALARM_PATH = frozenset({"monitor", "deliver", "recorder", "console"})
#: One that waits for its turn on a busy machine, or for its disk, is slow, and is given longer.
SLOW_S = 15.0
#: So much computing without a turn of the event loop is no waiting for a turn.
BUSY_S = 4.0
#: A role that lives but was not heard on the bus for so long, while others are, does not come back by itself.
UNHEARD_S = 30.0
FIRST_WORD_S = 90.0  # before its first heartbeat a role loads its libraries, which takes long on a busy machine
# glibc gives each thread an arena and keeps what was freed in it: two are enough for threads that mostly wait.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
#: One that stands by and has not moved for so long is of no use. What it loads holds the interpreter's lock.
STANDBY_HANGS_S = 60.0

Log = Callable[[str, str], None]


@dataclass
class Living:
    """A process and its pulse."""

    process: asyncio.subprocess.Process
    pulse: int  # the reading end
    pulsed: float  # when it was felt last
    used_s: float = 0.0  # the computing time it had had then
    loaded: bool = False  # it stood by, and has everything that it needs

    def feel(self, now: float) -> None:
        """Take what came of the pulse."""
        with contextlib.suppress(BlockingIOError):
            if came := os.read(self.pulse, 4096):
                self.pulsed, self.used_s = now, computing(self.process.pid)[1]
                self.loaded |= LOADED in came

    def let_go(self) -> None:
        """Close our end."""
        if self.pulse >= 0:
            os.close(self.pulse)
            self.pulse = -1


@dataclass
class Child:
    """One supervised role, or the bus."""

    name: str
    process: asyncio.subprocess.Process | None = None
    living: Living | None = None
    standby: Living | None = None
    state: str = "stopped"
    reason: str = ""
    restarts: int = 0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    heard: float = 0.0  # on the bus
    spoke: bool = False  # since it was started
    was_ready: float = 0.0  # since when it serves; 0: it does not yet
    standby_from: float = 0.0  # not before then another process stands by
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    role_state: RoleState | None = None

    def begin(self, living: Living, now: float) -> None:
        """Take a process that was started."""
        self.ready.clear()
        self.role_state = None
        self.process, self.living = living.process, living
        living.pulsed, living.used_s = now, computing(living.process.pid)[1]
        self.heard, self.spoke, self.was_ready = now, False, 0.0

    def excuse(self, now: float) -> None:
        """Take it that we ourselves could not hear."""
        self.heard = now
        if self.living is not None:
            self.living.pulsed = now

    def hangs(self, now: float) -> str:
        """Return what is wrong with the process; empty if it lives."""
        living = self.living
        if living is None:
            return ""
        living.feel(now)
        still = now - living.pulsed
        if not self.was_ready:  # what it loads holds the interpreter's lock for long
            most = SLOW_S if living.loaded else UNHEARD_S if self.spoke else FIRST_WORD_S
            return f"has not moved for {still:.0f} s" if still > most else ""
        quick = self.name in ALARM_PATH and still > HANGS_S
        if still > SLOW_S or (quick and not _merely_slow(living)):
            return f"has not moved for {still:.0f} s"
        if now - self.heard > UNHEARD_S:
            return f"has not been heard for {now - self.heard:.0f} s"
        return ""


def _merely_slow(living: Living) -> bool:
    """Return whether a process waits for its turn, or for the disk, rather than for nothing."""
    state, used_s = computing(living.process.pid)
    return state in "RD" and used_s - living.used_s < BUSY_S


def computing(pid: int) -> tuple[str, float]:
    """Return the state of a process (R: wants to compute, D: waits for the disk) and the computing time it has had, s.

    Reference: proc(5), ``/proc/pid/stat``.
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return words[0], (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):  # it is gone, or there is no /proc: then silence alone counts
        return "S", 0.0


async def start(
    name: str, home: Path, environment: dict[str, str], now: float, *, standby: bool = False
) -> tuple[Living, asyncio.StreamReader]:
    """Start a role's process; return it and its log.

    Parameters
    ----------
    standby : bool
        It loads everything, then waits until it is told to go (`go`).

    Raises
    ------
    OSError
        If no process can be made.
    """
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edgeward.cli",
            "_role",
            name,
            "--home",
            str(home),
            *(("--standby",) if standby else ()),
            env={**os.environ, **environment, **ENVIRONMENT, PULSE: str(theirs)},
            stdin=asyncio.subprocess.PIPE if standby else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,  # from its first moment on, before it can do so itself
            pass_fds=(theirs,),
            limit=1 << 20,
        )
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    assert process.stderr is not None
    return Living(process, ours, now), process.stderr


async def go(living: Living) -> None:
    """Tell a process that stands by to take over.

    Raises
    ------
    OSError
        If it is gone.
    """
    stdin = living.process.stdin
    assert stdin is not None
    stdin.write(GO)
    await stdin.drain()
    stdin.close()
