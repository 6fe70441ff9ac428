"""Verbs of a whole site: make it, run it, look at it, show a hospital; and a role of it as a process."""

from __future__ import annotations

import argparse
import atexit
import json
import logging
import os
import sys
from importlib import import_module

from edgeward.cli.common import ATTENTION, AWAY, DONE, CommandError, home_of, run, say, site_of
from edgeward.config import Settings, load

ROLE_MODULES = {
    "gateway": "edgeward.gateway.role",
    "engine": "edgeward.compute.engine",
    "monitor": "edgeward.clinic.monitor.role",
    "recorder": "edgeward.clinic.recorder.role",
    "deliver": "edgeward.clinic.imaging.role",
    "console": "edgeward.console.role",
}
#: Roles of which a process may stand by, and what it begins with.
STANDBY_MODULES = {"monitor": "edgeward.clinic.monitor.standby"}


def init(arguments: argparse.Namespace) -> int:
    """Make a new site: keys, certificate authority, settings file."""
    from edgeward.config import Site
    from edgeward.privacy.setup import AlreadyInitialised, initialise

    home = home_of(arguments)
    if arguments.show:
        say(arguments, Settings.model_json_schema(), json.dumps(load(home.root).model_dump(), indent=2, default=str))
        return DONE
    settings = load(home.root)
    try:
        settings.site = Site(name=arguments.name or settings.site.name, node=arguments.node or settings.site.node)
    except ValueError as error:
        raise CommandError(f"a site's or node's name has 1 to 64 of A-Z a-z 0-9 _ -: {error}") from error
    try:
        initialise(home, settings)
    except AlreadyInitialised as error:
        raise CommandError(str(error)) from error
    say(
        arguments,
        {"home": str(home.root), "site": settings.site.name, "node": settings.site.node},
        f"a new site is in {home.root}\n"
        f"  keep {home.keys / 'site.key'} in a safe as well: without it the data cannot be read\n"
        f"  settings: {home.settings_file}\n"
        f"  next: edgeward up --home {home.root}",
    )
    return DONE


def up(arguments: argparse.Namespace) -> int:
    """Run the whole site on this machine until Ctrl-C."""
    import uvloop

    from edgeward import log, supervisor

    home, settings = site_of(arguments)
    log.configure("supervisor", settings.log.level)
    return uvloop.run(supervisor.run(home, settings, announce=sys.stdout, as_json=arguments.json))


def status(arguments: argparse.Namespace) -> int:
    """Show what runs, and how well."""
    from edgeward import status as module

    home, settings = site_of(arguments)
    found = run(module.collect(home, settings))
    say(arguments, found, module.as_text(found))
    if not found["running"]:
        return AWAY
    return DONE if found["healthy"] else ATTENTION


def doctor(arguments: argparse.Namespace) -> int:
    """Check this machine and this site, and say what to do."""
    from edgeward import doctor as module

    checks = module.examine(home_of(arguments))
    say(arguments, [check.as_dict() for check in checks], module.as_text(checks))
    return DONE if all(check.ok for check in checks) else ATTENTION


def demo(arguments: argparse.Namespace) -> int:
    """Run a hospital with simulated devices."""
    from edgeward.demo import show

    return show.main(arguments)


def role(arguments: argparse.Namespace) -> int:
    """Run one role in this process (the supervisor's and Kubernetes' entry)."""
    from edgeward.bus.role import RoleContext, run_role
    from edgeward.privacy.identity import client_context

    home, settings = site_of(arguments)
    tls = client_context(home, arguments.role)
    if arguments.standby:
        stand_by = import_module(STANDBY_MODULES[arguments.role]).stand_by
    else:
        stand_by = None
        import_module(ROLE_MODULES[arguments.role])

    async def run(context: RoleContext) -> None:
        await import_module(ROLE_MODULES[arguments.role]).run(context)

    code = run_role(arguments.role, run, home, settings, tls, stand_by=stand_by)
    atexit.register(_leave, code)
    return code


def _leave(code: int) -> None:
    """End the process, once Python has waited for its threads.

    A daemon thread within a library would wake up in an interpreter that is gone, which aborts the process (SIGABRT):
    a role that was told to end in the middle of an inference looked as if it had crashed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
