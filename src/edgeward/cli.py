"""The command line: ``edgeward <verb>``. Thin: it reads arguments and calls the floors.

Exit codes: 0 done; 1 it was tried and failed; 2 the call, the settings or the input is wrong; 3 the site is not running
or cannot be reached; 4 done, but something needs attention (``doctor``, ``status``, ``demo``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from edgeward import __version__
from edgeward.config import ConfigError, Settings, default_home, load
from edgeward.home import Home

DONE, FAILED, WRONG, AWAY, ATTENTION = 0, 1, 2, 3, 4

DEVICE_KINDS = ("ultrasound", "ct", "mr", "xray", "wearable", "monitor", "emr", "viewer", "other")  # registry.KINDS

ROLE_MODULES = {
    "gateway": "edgeward.gateway.role",
    "engine": "edgeward.compute.engine",
    "monitor": "edgeward.clinic.monitor.role",
    "recorder": "edgeward.clinic.recorder.role",
    "deliver": "edgeward.clinic.imaging.role",
    "console": "edgeward.console.role",
}

SIMULATORS = {
    "ultrasound": "edgeward.device.ultrasound",
    "ward": "edgeward.device.ward",
    "bedside": "edgeward.device.bedside_monitor",
    "pacs": "edgeward.device.pacs",
    "emr": "edgeward.device.emr",
}


class CommandError(Exception):
    """A command ends with this message and exit code."""

    def __init__(self, message: str, code: int = WRONG) -> None:
        super().__init__(message)
        self.code = code


def say(arguments: argparse.Namespace, value: Any, text: str) -> None:
    """Print `value` as JSON if the caller asked for it, else `text`."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str) if arguments.json else text)


def _home(arguments: argparse.Namespace) -> Home:
    return Home(Path(arguments.home).expanduser() if arguments.home else default_home())


def _site(arguments: argparse.Namespace) -> tuple[Home, Settings]:
    from edgeward.privacy.setup import initialised

    home = _home(arguments)
    if not initialised(home):
        raise CommandError(f"there is no site in {home.root}: run `edgeward init --home {home.root}` first")
    return home, load(home.root)


# ---------------------------------------- verbs


def init(arguments: argparse.Namespace) -> int:
    """Make a new site: keys, certificate authority, settings file."""
    from edgeward.config import Site
    from edgeward.privacy.setup import AlreadyInitialised, initialise

    home = _home(arguments)
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

    home, settings = _site(arguments)
    log.configure("supervisor", settings.log.level)
    return uvloop.run(supervisor.run(home, settings, announce=sys.stdout))


def status(arguments: argparse.Namespace) -> int:
    """Show what runs, and how well."""
    from edgeward import status as module

    home, settings = _site(arguments)
    found = asyncio.run(module.collect(home, settings))
    say(arguments, found, module.as_text(found))
    if not found["running"]:
        return AWAY
    return DONE if found["healthy"] else ATTENTION


def doctor(arguments: argparse.Namespace) -> int:
    """Check this machine and this site, and say what to do."""
    from edgeward import doctor as module

    checks = module.examine(_home(arguments))
    say(arguments, [check.as_dict() for check in checks], module.as_text(checks))
    return DONE if all(check.ok for check in checks) else ATTENTION


def device_enroll(arguments: argparse.Namespace) -> int:
    """Give a device its identity."""
    from edgeward.privacy import identity
    from edgeward.privacy.registry import IMAGING, RegistryError
    from edgeward.status import live_ports

    home, settings = _site(arguments)
    names = list(arguments.name)
    if arguments.count > 1:
        if len(names) != 1:
            raise CommandError("--count goes with one name, which becomes the prefix")
        names = [f"{names[0]}-{number:03d}" for number in range(1, arguments.count + 1)]
    if arguments.ae_title and len(names) > 1:
        raise CommandError("an AE title belongs to one device")
    if arguments.kind in IMAGING and not arguments.ae_title:
        raise CommandError(f"a device of kind {arguments.kind} speaks DICOM and needs --ae-title (1 to 16 characters)")
    if len(arguments.ae_title) > 16:
        raise CommandError(f"AE title {arguments.ae_title!r} has more than 16 characters (DICOM PS3.5, VR AE)")
    out = Path(arguments.out).expanduser() if arguments.out else home.root / "devices"
    ports = live_ports(home)
    addresses = {
        "mqtt": {
            "host": arguments.host or settings.bus.mqtt_host,
            "port": ports.get("mqtt", settings.bus.mqtt_port),
        },
        "dicom": {
            "host": arguments.host or settings.dicom.host,
            "port": ports.get("dicom", settings.dicom.port),
            "ae_title": settings.dicom.ae_title,
        },
        "mllp": {"host": arguments.host or settings.mllp.host, "port": ports.get("mllp", settings.mllp.port)},
        "web": {"host": arguments.host or settings.web.host, "port": ports.get("web", settings.web.port)},
    }
    try:
        devices = identity.enrol(
            home,
            settings.site.name,
            names,
            kind=arguments.kind,
            out=out,
            addresses=addresses,
            label=arguments.label,
            ae_title=arguments.ae_title,
            days=arguments.days,
        )
    except RegistryError as error:
        raise CommandError(str(error)) from error
    except identity.IdentityError as error:
        raise CommandError(str(error)) from error
    say(
        arguments,
        [{"device_id": d.device_id, "kind": d.kind, "folder": str(out / d.device_id)} for d in devices],
        "\n".join(f"{d.device_id}: bring {out / d.device_id} to the device, then delete it here" for d in devices),
    )
    return DONE


def device_list(arguments: argparse.Namespace) -> int:
    """List enrolled devices."""
    from dataclasses import asdict

    from edgeward.privacy.registry import Registry

    home, settings = _site(arguments)
    devices = Registry(home).devices()
    rows = [asdict(device) for device in devices]
    rows += [{"device_id": x.name, "ae_title": x.ae_title, "legacy": x.transport} for x in settings.dicom.legacy]
    lines = [
        f"{d.device_id:24} {d.kind:11} {d.ae_title:16} "
        f"{time.strftime('%Y-%m-%d', time.gmtime(d.enrolled_ns / 1e9))}  {'REVOKED' if d.revoked else 'in force'}"
        for d in devices
    ]
    lines += [f"{x.name:24} legacy      {x.ae_title:16} {x.address}  {x.transport}" for x in settings.dicom.legacy]
    say(arguments, rows, "\n".join(lines) or "no device is enrolled; `edgeward device enroll --help` tells how")
    return DONE


def device_revoke(arguments: argparse.Namespace) -> int:
    """Revoke a device: its live connections are cut within a second."""
    from edgeward.privacy.registry import Registry, RegistryError

    home, _ = _site(arguments)
    try:
        device = Registry(home).revoke(arguments.name)
    except RegistryError as error:
        raise CommandError(str(error)) from error
    say(arguments, {"device_id": device.device_id, "revoked_ns": device.revoked_ns}, f"{device.device_id} is revoked")
    return DONE


def _ask(arguments: argparse.Namespace, question: Callable[..., Any], *more: Any) -> Any:
    from edgeward import operate

    home, settings = _site(arguments)
    try:
        return asyncio.run(question(home, settings, *more))
    except operate.Away as error:
        raise CommandError(str(error), AWAY) from error
    except operate.Declined as error:
        raise CommandError(str(error), FAILED) from error


def results_list(arguments: argparse.Namespace) -> int:
    """Show where results go, how they get there, and what was given up."""
    from edgeward import operate

    found = _ask(arguments, operate.destinations)
    say(arguments, operate.plain(found), operate.destinations_text(found))
    troubled = any(one.dead or one.status == "down" for one in found.destinations)
    return ATTENTION if troubled else DONE


def results_resend(arguments: argparse.Namespace) -> int:
    """Try dead letters again."""
    from edgeward import operate

    found = _ask(arguments, operate.resend, arguments.destination, arguments.item)
    say(arguments, operate.plain(found), f"{found.count} results are in their queues again")
    return DONE


def orders(arguments: argparse.Namespace) -> int:
    """List the orders on the modality worklist."""
    from edgeward import operate

    found = _ask(arguments, operate.orders, arguments.status, arguments.text, arguments.limit)
    say(arguments, operate.plain(found), operate.orders_text(found))
    return DONE


def quarantine(arguments: argparse.Namespace) -> int:
    """List what was refused or set aside."""
    from edgeward import operate

    found = _ask(arguments, operate.quarantine)
    say(arguments, operate.plain(found), operate.quarantine_text(found))
    return DONE


def demo(arguments: argparse.Namespace) -> int:
    """Run a hospital with simulated devices."""
    from edgeward.demo import show

    return show.main(arguments)


def evaluate_ultrasound(arguments: argparse.Namespace) -> int:
    """Measure the breast ultrasound model on labelled images."""
    module = import_module("edgeward.compute.evaluate")
    try:
        result = module.evaluate_ultrasound(Path(arguments.directory))
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    say(arguments, result, "\n".join(f"{key:16} {_number(value)}" for key, value in result.items()))
    return DONE


def evaluate_ecg(arguments: argparse.Namespace) -> int:
    """Measure beat detection and classification on annotated WFDB records."""
    module = import_module("edgeward.clinic.monitor.evaluate")
    try:
        result = module.evaluate_ecg(Path(arguments.directory))
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    text = [f"{key:18} {json.dumps(value)}" for key, value in result.items() if key != "records"]
    text += [f"  {name:8} {json.dumps(value)}" for name, value in result.get("records", {}).items()]
    say(arguments, result, "\n".join(text))
    return DONE if not result.get("errors") else ATTENTION


def replay(arguments: argparse.Namespace) -> int:
    """Print the alarms that a WFDB record raises."""
    module = import_module("edgeward.clinic.monitor.replay")
    try:
        result = module.replay(Path(arguments.record))
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    result = list(result) if not isinstance(result, dict | list) else result
    rows = result if isinstance(result, list) else result.get("alarms", [])
    say(arguments, result, "\n".join(json.dumps(row, default=str) for row in rows) or "no alarm")
    return DONE


def role(arguments: argparse.Namespace) -> int:
    """Run one role in this process (the supervisor's and Kubernetes' entry)."""
    from edgeward.bus.role import run_role
    from edgeward.privacy.identity import client_context

    home, settings = _site(arguments)
    module = import_module(ROLE_MODULES[arguments.role])
    return run_role(arguments.role, module.run, home, settings, client_context(home, arguments.role))


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


# ---------------------------------------- arguments


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    main_parser = argparse.ArgumentParser(
        prog="edgeward",
        description="Edge platform for medical AI. Not a medical device.",
        epilog="`edgeward demo` shows a whole hospital on this machine; `edgeward VERB --help` tells more.",
    )
    main_parser.add_argument("--version", action="version", version=f"edgeward {__version__}")
    verbs = main_parser.add_subparsers(metavar="VERB", required=True)

    def verb(
        name: str,
        action: Callable[[argparse.Namespace], int],
        text: str,
        more: str = "",
        *,
        home: bool = True,
        into: Any = None,
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = (into or verbs).add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. {more}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(action=action)
        if home:
            added.add_argument(
                "--home", help="state directory (default: $EDGEWARD_HOME, else $XDG_STATE_HOME/edgeward)", metavar="DIR"
            )
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    added = verb("init", init, "make a new site: keys, certificate authority, settings")
    added.add_argument("--name", default="", help="the site's name (default: hospital)")
    added.add_argument("--node", default="", help="this machine's name within the site (default: node1)")
    added.add_argument("--show", action="store_true", help="show all settings with their values, and change nothing")

    verb("up", up, "run the site on this machine until Ctrl-C")
    verb("status", status, "show what runs and how well; exit code 3 if nothing runs, 4 if something needs attention")
    verb("doctor", doctor, "check this machine and this site, and say what to do")

    results = verbs.add_parser("results", help="where results go: list, and try dead letters again").add_subparsers(
        metavar="VERB", required=True
    )
    verb(
        "list",
        results_list,
        "show destinations and dead letters; exit code 4 if one is down or something was given up",
        into=results,
    )
    added = verb("resend", results_resend, "try dead letters again: all, or of one destination or item", into=results)
    added.add_argument("--destination", default="", help="only those of this destination")
    added.add_argument("--item", default="", help="only those of this item")

    added = verb("orders", orders, "list the orders on the modality worklist (JSON has the patients, text has not)")
    added.add_argument(
        "--status", default="", choices=("", "scheduled", "started", "completed", "discontinued", "cancelled")
    )
    added.add_argument("--text", default="", help="part of accession number, procedure or patient")
    added.add_argument("--limit", type=int, default=100, help="at most so many (default: 100)")

    verb("quarantine", quarantine, "list what was refused or set aside, with the reason and what to do")

    devices = verbs.add_parser("device", help="enrol, list, revoke and simulate devices").add_subparsers(
        metavar="VERB", required=True
    )
    added = verb(
        "enroll",
        device_enroll,
        "give a device its identity: a certificate and an entry in the registry",
        "\n\nexamples:\n  edgeward device enroll ward3-bed1 --kind wearable"
        "\n  edgeward device enroll us1 --kind ultrasound --ae-title US1",
        into=devices,
    )
    added.add_argument("name", nargs="+", help="1 to 64 of A-Z a-z 0-9 _ -")
    added.add_argument("--kind", required=True, choices=DEVICE_KINDS)
    added.add_argument("--ae-title", default="", help="DICOM AE title, for devices that speak DICOM")
    added.add_argument("--label", default="", help="what people call it, for example a bed")
    added.add_argument("--out", default="", metavar="DIR", help="where the device's folder is written")
    added.add_argument("--host", default="", help="address under which the device reaches this site")
    added.add_argument("--count", type=int, default=1, help="enrol NAME-001 ... NAME-<count>")
    added.add_argument("--days", type=int, default=825, help="validity of the certificate")
    verb("list", device_list, "list devices", into=devices)
    added = verb("revoke", device_revoke, "revoke a device; its connections are cut within a second", into=devices)
    added.add_argument("name")
    added = devices.add_parser(
        "simulate", help="run a simulated device: ultrasound, ward, bedside, pacs or emr", add_help=False
    )
    added.add_argument("which", choices=tuple(SIMULATORS), nargs="?")
    added.add_argument("rest", nargs=argparse.REMAINDER)
    added.set_defaults(action=simulate)

    added = verb(
        "demo",
        demo,
        "run a whole hospital with simulated devices",
        "\n\nWithout --for it runs until Ctrl-C and prints the console's address and a one-time password. With --for it"
        "\nruns for so many seconds, waits for what is on its way, and prints a summary. A new site is made in"
        "\na temporary directory and removed afterwards, unless --home names one to keep.",
    )
    added.add_argument(
        "--for", dest="seconds", type=float, metavar="SECONDS", help="run this long, then print a summary"
    )
    added.add_argument("--beds", type=int, default=12, help="number of wearables (default 12)")
    added.add_argument("--images-per-s", type=float, default=0.5, help="frames per second (default 0.5)")
    added.add_argument(
        "--images", default="", metavar="DIR", help="send these images (png, jpg, dcm) instead of our own"
    )
    added.add_argument(
        "--wfdb", default="", metavar="DIR", help="replay these WFDB records instead of the built-in one"
    )
    added.add_argument("--port", type=int, default=8042, help="console port; another is taken if it is in use")
    added.add_argument("--quiet", action="store_true", help="no events on the terminal")

    evaluations = verbs.add_parser("evaluate", help="measure the AI on your own labelled data").add_subparsers(
        metavar="WHAT", required=True
    )
    added = verb(
        "ultrasound",
        evaluate_ultrasound,
        "measure the breast ultrasound model",
        "\n\nDIR holds {benign,malignant,normal}/{images,mask}; a mask is named like its image, with _mask, _mask_1 ..."
        "\nPrints dice_lesion, auc_malignant, sensitivity, specificity, ece (all 0..1), refused, n.",
        home=False,
        into=evaluations,
    )
    added.add_argument("directory", metavar="DIR")
    added = verb(
        "ecg",
        evaluate_ecg,
        "measure beat detection and classification on WFDB records with .atr annotations",
        "\n\nPrints qrs{se,ppv,f1} and ventricular{se,ppv} in percent, report_latency_ms{p50,p99}, records{}."
        "\nWindow 150 ms; segments of ventricular flutter or fibrillation are excluded (ANSI/AAMI EC57).",
        home=False,
        into=evaluations,
    )
    added.add_argument("directory", metavar="DIR")

    added = verb("replay", replay, "print the alarms that a WFDB record raises, with sample times", home=False)
    added.add_argument("record", metavar="RECORD", help="path of the record, with or without .hea")

    hidden = verbs.add_parser("_role")
    hidden.add_argument("role", choices=tuple(ROLE_MODULES))
    hidden.add_argument("--home", default="")
    hidden.set_defaults(action=role, json=False)
    return main_parser


def simulate(arguments: argparse.Namespace) -> int:
    """Run a simulator: a separate process that uses only the public protocols and its own enrolment."""
    if arguments.which is None:
        print("usage: edgeward device simulate {" + ",".join(SIMULATORS) + "} [--help]")
        return WRONG
    return int(import_module(SIMULATORS[arguments.which]).main(arguments.rest))


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        code = arguments.action(arguments)
    except (CommandError, ConfigError) as error:
        print(f"edgeward: {error}", file=sys.stderr)
        return getattr(error, "code", WRONG)
    except BrokenPipeError:  # the reader of our output has gone, for example `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        expected = {"WrongKey", "SupervisorError", "IdentityError", "ServerError", "BusError", "RegistryError"}
        if type(error).__name__ in expected:
            print(f"edgeward: {error}", file=sys.stderr)
            return FAILED
        raise
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
