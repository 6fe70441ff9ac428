"""What processes of several floors need: memory, open files, a sign of life, and dying with the parent."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
_FILES = 65_536
PULSE = "EDGEWARD_PULSE"  # names the end of a pipe to whoever started us (``edgeward.children``)
PULSE_S = 1.0
LOADED = b"!"  # within the pulse: a process that stands by has everything that it needs
GO = b"go\n"  # on its standard input: a process that stands by is needed


def resident_mb(pid: int) -> float:
    """Return the resident set of a process in MB, 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * resource.getpagesize() / 1e6


def raise_file_limit() -> None:
    """Allow this process as many open files as the system lets it have.

    The usual soft limit of 1,024 is a limit for programs that use select(2); connections of strangers would reach it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies, so that a killed supervisor leaves nobody behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


_pipe = -1  # to whoever started us, once its end is taken


def say_loaded() -> None:
    """Say to whoever started us, if it wants that, that this process has everything that it needs."""
    if _pipe >= 0:
        with contextlib.suppress(OSError):  # it is gone, or does not read: then we are given more time than we need
            os.write(_pipe, LOADED)


async def pulse() -> None:
    """Write a byte a second to whoever started us, if it wants that: the event loop turns. Needs no bus."""
    global _pipe
    given = os.environ.pop(PULSE, "")
    if not given.isdigit():
        return
    pipe = _pipe = int(given)
    os.set_inheritable(pipe, False)
    os.set_blocking(pipe, False)
    while True:
        try:
            with contextlib.suppress(BlockingIOError):  # nobody reads just now, and there is plenty to read
                os.write(pipe, b".")
        except OSError:  # whoever started us is gone
            return
        await asyncio.sleep(PULSE_S)
