"""What every verb needs: exit codes, errors, the site it speaks of, and how it answers."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from edgeward.config import Settings, default_home, load
from edgeward.home import Home

T = TypeVar("T")

DONE, FAILED, WRONG, AWAY, ATTENTION = 0, 1, 2, 3, 4


class CommandError(Exception):
    """A command ends with this message and exit code."""

    def __init__(self, message: str, code: int = WRONG) -> None:
        super().__init__(message)
        self.code = code


def say(arguments: argparse.Namespace, value: Any, text: str) -> None:
    """Print `value` as JSON if the caller asked for it, else `text`."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str) if arguments.json else text)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run what asks a running site, and return what it returns.

    asyncio warns whenever a TLS connection of nats-py ends ("returning true from eof_received()"): nothing is wrong,
    and whoever typed the command could do nothing about it.
    """
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    return asyncio.run(work)


def home_of(arguments: argparse.Namespace) -> Home:
    """Return the state directory that the caller names, or the default one."""
    return Home(Path(arguments.home).expanduser() if arguments.home else default_home())


def site_of(arguments: argparse.Namespace) -> tuple[Home, Settings]:
    """Return the site that the caller names, and its settings.

    Raises
    ------
    CommandError
        If there is none.
    """
    from edgeward.privacy.setup import initialised

    home = home_of(arguments)
    if not initialised(home):
        raise CommandError(f"there is no site in {home.root}: run `edgeward init --home {home.root}` first")
    return home, load(home.root)
