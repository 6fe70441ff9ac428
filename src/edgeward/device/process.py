"""How a simulator lives as a process: it stops on a signal, and never outlives whoever started it.

Responsible for signals, the tie to the parent process and the arguments that every simulator shares. Not responsible
for what the simulators do.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from edgeward import log

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PARENT_AT_START = os.getppid()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every simulator has."""
    parser.add_argument(
        "--die-with-parent",
        action="store_true",
        help="stop when the process that started this one is gone (Linux only), so that no orphan remains",
    )
    parser.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))


def begin(arguments: argparse.Namespace, name: str) -> None:
    """Do what `add_arguments` offers: log as `name`, and die with the parent if asked to."""
    log.configure(f"device.{name}", arguments.log_level)
    if arguments.die_with_parent:
        die_with_parent()


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Return a context that serves TLS 1.3 to clients whose certificate the authority issued; all are PEM files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    return context


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies.

    Raises
    ------
    OSError
        If the kernel refuses.
    RuntimeError
        On a system without ``prctl``.
    """
    if not sys.platform.startswith("linux"):
        raise RuntimeError("--die-with-parent needs Linux (prctl); start the simulator without it")
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # The parent may have died before the request: then the signal would never come.
    if os.getppid() != _PARENT_AT_START:
        os.kill(os.getpid(), signal.SIGTERM)


def stop_on_signal(then: Callable[[], None] | None = None) -> threading.Event:
    """Return an event that SIGTERM and SIGINT set; `then` is called as well, in the main thread.

    For simulators with threads; the ward uses its event loop's own signal handling.
    """
    stopping = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()
        if then is not None:
            then()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stopping
