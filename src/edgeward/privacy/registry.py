"""The registry of enrolled devices: which certificate and AE title belongs to which device.

One file, written only by the command line (enrol, revoke), read by the gateway. It is read again when it changes, so a
revocation takes effect within a second.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeward.bus.subjects import token
from edgeward.home import Home, read_json, write_json

IMAGING = ("ultrasound", "ct", "mr", "xray")  # send DICOM: need an AE title
READERS = ("emr", "viewer")  # systems that may read what the site holds, by DICOMweb
KINDS = (*IMAGING, "wearable", "monitor", *READERS, "other")


class RegistryError(ValueError):
    """A device cannot be enrolled or revoked; the text says why."""


def check_name(name: str) -> None:
    """Accept `name` as a device's id.

    Raises
    ------
    RegistryError
        If it cannot stand in a subject.
    """
    try:
        token(name)
    except ValueError as error:
        raise RegistryError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled device. `fingerprint` is the SHA-256 of its certificate (DER), lower-case hexadecimal."""

    device_id: str
    kind: str
    label: str
    ae_title: str
    fingerprint: str
    enrolled_ns: int
    revoked_ns: int = 0

    @property
    def revoked(self) -> bool:
        """Whether the device has been revoked."""
        return self.revoked_ns != 0


class Registry:
    """The devices of a site, as of the last ``refresh``."""

    def __init__(self, home: Home) -> None:
        self._path = home.identity / "devices.json"
        self._stamp: tuple[int, int, int] | None = None
        self._devices: dict[str, Device] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Read the file again if it changed; return whether it did. Cheap: one ``stat``."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            changed = bool(self._devices)
            self._devices, self._stamp = {}, None
            return changed
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return False
        rows: list[dict[str, Any]] = (read_json(self._path) or {}).get("devices", [])
        self._devices = {row["device_id"]: Device(**row) for row in rows}
        self._stamp = stamp
        return True

    def devices(self) -> list[Device]:
        """Return all devices, revoked ones too, in the order of enrolment."""
        return sorted(self._devices.values(), key=lambda device: device.enrolled_ns)

    def by_id(self, device_id: str) -> Device | None:
        """Return the device with this id, revoked or not."""
        return self._devices.get(device_id)

    def by_ae_title(self, ae_title: str) -> Device | None:
        """Return the device in force with this AE title."""
        wanted = ae_title.strip()
        return next((d for d in self._devices.values() if d.ae_title == wanted and wanted and not d.revoked), None)

    def add(self, devices: list[Device]) -> None:
        """Enrol devices (durable on return). A revoked device's name may be used again.

        Raises
        ------
        RegistryError
            If a name or AE title is taken or not allowed.
        """
        self.refresh()
        merged = dict(self._devices)
        for device in devices:
            check_name(device.device_id)
            if device.kind not in KINDS:
                raise RegistryError(f"kind {device.kind!r} is not one of {', '.join(KINDS)}")
            old = merged.get(device.device_id)
            if old is not None and not old.revoked:
                raise RegistryError(f"{device.device_id} is enrolled already; revoke it first")
            if device.ae_title and any(d.ae_title == device.ae_title and not d.revoked for d in merged.values()):
                raise RegistryError(f"AE title {device.ae_title} belongs to another device")
            merged[device.device_id] = device
        self._write(merged)

    def revoke(self, device_id: str) -> Device:
        """Revoke a device (durable on return).

        Raises
        ------
        RegistryError
            If there is no such device in force.
        """
        self.refresh()
        device = self._devices.get(device_id)
        if device is None or device.revoked:
            raise RegistryError(f"there is no enrolled device {device_id}; see `edgeward device list`")
        revoked = replace(device, revoked_ns=time.time_ns())
        self._write({**self._devices, device_id: revoked})
        return revoked

    def _write(self, devices: dict[str, Device]) -> None:
        write_json(self._path, {"version": 1, "devices": [asdict(device) for device in devices.values()]})
        self._stamp = None
        self.refresh()
