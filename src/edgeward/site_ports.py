"""Where a site listens: which ports, how its processes and its people are told.

Responsible for choosing free ports where the settings leave them open, and for saying why one cannot be used. Not
responsible for listening (the roles do) or for processes (``supervisor``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO

from edgeward.bus.ports import can_listen, free_port
from edgeward.config import Section, Settings
from edgeward.home import Home, read_json


class PortError(RuntimeError):
    """A port cannot be used; the text says why and what to do."""


def choose_ports(settings: Settings) -> Settings:
    """Return the settings with every port 0 replaced by a free one.

    Raises
    ------
    PortError
        If a port given explicitly is taken.
    """
    chosen = settings.model_copy(deep=True)
    places: list[tuple[Section, str, str]] = [
        (chosen.dicom, "port", "dicom.port"),
        (chosen.mllp, "port", "mllp.port"),
        (chosen.web, "port", "web.port"),
        (chosen.console, "port", "console.port"),
    ]
    if not chosen.bus.url:
        places += [(chosen.bus, "port", "bus.port"), (chosen.bus, "mqtt_port", "bus.mqtt_port")]
    if chosen.dicom.legacy:
        places.append((chosen.dicom, "legacy_port", "dicom.legacy_port"))
    if chosen.mllp.legacy:
        places.append((chosen.mllp, "legacy_port", "mllp.legacy_port"))
    taken: set[int] = set()
    for section, key, name in places:
        host = str(getattr(section, "mqtt_host" if key == "mqtt_port" else "host"))
        port = int(getattr(section, key)) or free_port(host, avoid=taken)
        # TLS 1.2 for legacy devices is one above their plain port (``gateway.dicom``).
        needed = (port, port + 1) if name == "dicom.legacy_port" else (port,)
        for number in needed:
            if error := can_listen(host, number):
                raise PortError(
                    f"{name} = {port}: port {number} on {host} cannot be used ({error.strerror}); stop what uses it, "
                    f"or set another port in edgeward.toml or EDGEWARD_{name.upper().replace('.', '__')}"
                )
        taken.update(needed)
        setattr(section, key, port)
    return chosen


def ports_environment(settings: Settings) -> dict[str, str]:
    """Return the environment that tells children the chosen ports."""
    return {
        "EDGEWARD_BUS__PORT": str(settings.bus.port),
        "EDGEWARD_BUS__MQTT_PORT": str(settings.bus.mqtt_port),
        "EDGEWARD_DICOM__PORT": str(settings.dicom.port),
        "EDGEWARD_DICOM__LEGACY_PORT": str(settings.dicom.legacy_port),
        "EDGEWARD_MLLP__PORT": str(settings.mllp.port),
        "EDGEWARD_MLLP__LEGACY_PORT": str(settings.mllp.legacy_port),
        "EDGEWARD_WEB__PORT": str(settings.web.port),
        "EDGEWARD_CONSOLE__PORT": str(settings.console.port),
    }


def ports_in_use(settings: Settings) -> dict[str, int]:
    """Return the ports of a site with chosen settings, by what is spoken there."""
    ports = {
        "dicom": settings.dicom.port,
        "mllp": settings.mllp.port,
        "web": settings.web.port,
        "console": settings.console.port,
    }
    if not settings.bus.url:
        ports |= {"bus": settings.bus.port, "mqtt": settings.bus.mqtt_port}
    if settings.dicom.legacy:
        ports["dicom_legacy"] = settings.dicom.legacy_port
        if any(legacy.transport == "tls1.2" for legacy in settings.dicom.legacy):
            ports["dicom_legacy_tls1.2"] = settings.dicom.legacy_port + 1
    if settings.mllp.legacy:
        ports["mllp_legacy"] = settings.mllp.legacy_port
    return ports


def announce_site(
    home: Home, settings: Settings, missing: Mapping[str, str], out: IO[str], *, as_json: bool = False
) -> None:
    """Tell a person, or a program, where the site is.

    Parameters
    ----------
    missing : mapping
        Roles that do not serve yet, and why.
    as_json : bool
        One line of JSON: ``console`` (address), ``ports``, ``first_login`` (null after the first one) and ``missing``.
    """
    local = settings.console.host in ("127.0.0.1", "localhost", "::1")
    console = f"{'http' if local else 'https'}://{settings.console.host}:{settings.console.port}"
    first = read_json(home.run / "first-login.json")
    if as_json:
        told = {"console": console, "ports": ports_in_use(settings), "first_login": first, "missing": dict(missing)}
        print(json.dumps(told), file=out, flush=True)
        return
    print(f"console  {console}", file=out)
    if first:
        print(f"         sign in as {first['user']} with the one-time password {first['password']}", file=out)
    print(f"DICOM    {settings.dicom.host}:{settings.dicom.port} (TLS), AE title {settings.dicom.ae_title}", file=out)
    print(f"HTTPS    {settings.web.host}:{settings.web.port} (DICOMweb and FHIR, client certificates)", file=out)
    print(f"HL7 v2   {settings.mllp.host}:{settings.mllp.port} (MLLP over TLS)", file=out)
    if not settings.bus.url:
        print(f"MQTT     {settings.bus.mqtt_host}:{settings.bus.mqtt_port} (TLS)", file=out)
    for name, reason in missing.items():
        print(f"! {name} does not serve yet: {reason or 'still starting'}", file=out)
    out.flush()
