"""Verbs that ask a running site about its work: results, orders, quarantine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from edgeward.cli.common import ATTENTION, AWAY, DONE, FAILED, CommandError, run, say, site_of


def ask(arguments: argparse.Namespace, question: Callable[..., Any], *more: Any) -> Any:
    """Return what a running site answers to `question`.

    Raises
    ------
    CommandError
        If the site is not running or declines.
    """
    from edgeward import operate

    home, settings = site_of(arguments)
    try:
        return run(question(home, settings, *more))
    except operate.Away as error:
        raise CommandError(str(error), AWAY) from error
    except operate.Declined as error:
        raise CommandError(str(error), FAILED) from error


def results_list(arguments: argparse.Namespace) -> int:
    """Show where results go, how they get there, and what was given up."""
    from edgeward import operate

    found = ask(arguments, operate.destinations)
    say(arguments, operate.plain(found), operate.destinations_text(found))
    troubled = any(one.dead or one.status == "down" for one in found.destinations)
    return ATTENTION if troubled else DONE


def results_resend(arguments: argparse.Namespace) -> int:
    """Try dead letters again."""
    from edgeward import operate

    found = ask(arguments, operate.resend, arguments.destination, arguments.item)
    say(
        arguments,
        operate.plain(found),
        "1 result is in its queue again" if found.count == 1 else f"{found.count} results are in their queues again",
    )
    return DONE


def orders(arguments: argparse.Namespace) -> int:
    """List the orders on the modality worklist."""
    from edgeward import operate

    found = ask(arguments, operate.orders, arguments.status, arguments.text, arguments.limit)
    chosen = bool(arguments.status or arguments.text or arguments.limit < 1)
    say(arguments, operate.plain(found), operate.orders_text(found, chosen=chosen))
    return DONE


def quarantine(arguments: argparse.Namespace) -> int:
    """List what was refused or set aside."""
    from edgeward import operate

    found = ask(arguments, operate.quarantine)
    say(arguments, operate.plain(found), operate.quarantine_text(found))
    return DONE
