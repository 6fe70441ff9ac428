"""Verbs of devices: enrol, list, revoke, simulate."""

from __future__ import annotations

import argparse
import time
from importlib import import_module
from pathlib import Path

from edgeward.cli.common import DONE, WRONG, CommandError, say, site_of

DEVICE_KINDS = ("ultrasound", "ct", "mr", "xray", "wearable", "monitor", "emr", "viewer", "other")  # registry.KINDS

SIMULATORS = {
    "ultrasound": "edgeward.device.ultrasound",
    "ward": "edgeward.device.ward",
    "bedside": "edgeward.device.bedside_monitor",
    "pacs": "edgeward.device.pacs",
    "emr": "edgeward.device.emr",
}


def device_enroll(arguments: argparse.Namespace) -> int:
    """Give a device its identity."""
    from edgeward.privacy import identity
    from edgeward.privacy.registry import IMAGING, RegistryError
    from edgeward.status import live_ports

    home, settings = site_of(arguments)
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

    home, settings = site_of(arguments)
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

    home, _ = site_of(arguments)
    try:
        device = Registry(home).revoke(arguments.name)
    except RegistryError as error:
        raise CommandError(str(error)) from error
    say(arguments, {"device_id": device.device_id, "revoked_ns": device.revoked_ns}, f"{device.device_id} is revoked")
    return DONE


def simulate(arguments: argparse.Namespace) -> int:
    """Run a simulator: a separate process that uses only the public protocols and its own enrolment."""
    if arguments.which is None:
        print("usage: edgeward device simulate {" + ",".join(SIMULATORS) + "} ...")
        print("`edgeward device simulate NAME --help` tells what a simulator takes.")
        return DONE if arguments.wants_help else WRONG
    return int(import_module(SIMULATORS[arguments.which]).main(arguments.rest))
