"""Who may send us images: one decision per association, from certificate, AE titles and address.

Responsible for the decision and for saying why not and what to do. Not responsible for sockets or for carrying it out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from edgeward.config import Dicom, LegacyDevice
from edgeward.gateway.addresses import same_address
from edgeward.privacy.identity import device_of, uri_of
from edgeward.privacy.registry import Device, Registry

Door = Literal["tls", "tls1.2", "plain"]

# PS3.8, Table 9-21: result, source, reason of an A-ASSOCIATE-RJ.
Rejection = tuple[int, int, int]
CALLING_NOT_RECOGNISED: Rejection = (1, 1, 3)
CALLED_NOT_RECOGNISED: Rejection = (1, 1, 7)
LOCAL_LIMIT: Rejection = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of a connection before it says anything: the door it came through, address, certificate."""

    door: Door
    address: str
    certificate: dict[str, Any] | None = None  # as given by ``SSLSocket.getpeercert()``
    certificate_der: bytes = b""


class Refusal(Exception):
    """An association is rejected; the text says why."""

    def __init__(self, rejection: Rejection, who: str, reason: str, what_to_do: str) -> None:
        super().__init__(reason)
        self.rejection = rejection
        self.who = who
        self.what_to_do = what_to_do


class Admission:
    """Decides who may associate, by the registry as it is now.

    Parameters
    ----------
    settings
        Our AE title, the limits, and the explicit exceptions for legacy devices.
    site
        Name of the site, part of every certificate's identity.
    registry
        The enrolled devices; read again when they change.
    """

    def __init__(self, settings: Dicom, site: str, registry: Registry) -> None:
        self._settings, self._site, self._registry = settings, site, registry

    def admit(self, peer: Peer, calling: str, called: str) -> str:
        """Return the id of the device that asks for an association.

        Raises
        ------
        Refusal
            If it is unknown, revoked, not who it says it is, or asks for somebody else.
        """
        device_id = self._by_certificate(peer, calling) if peer.door == "tls" else self._by_exception(peer, calling)
        if called.strip() != self._settings.ae_title:
            raise Refusal(
                CALLED_NOT_RECOGNISED,
                device_id,
                f"it called {_shown(called)}, our AE title is {self._settings.ae_title}",
                f"set the destination AE title on the device to {self._settings.ae_title}",
            )
        return device_id

    def in_force(self, device_id: str, peer: Peer) -> bool:
        """Return whether a device that was admitted still may send."""
        if peer.door == "tls" or peer.certificate_der:
            self._registry.refresh()
            device = self._registry.by_id(device_id)
            return device is not None and not device.revoked and device.fingerprint == _fingerprint(peer)
        return any(exception.name == device_id for exception in self._settings.legacy)

    def may_knock(self, door: Door, address: str) -> bool:
        """Return whether an address may connect to a door at all: legacy doors open for listed addresses only."""
        return door == "tls" or any(
            entry.transport == door and same_address(entry.address, address) for entry in self._settings.legacy
        )

    def _by_certificate(self, peer: Peer, calling: str) -> str:
        device = self._certified(peer, calling)
        if not device.ae_title:
            raise Refusal(
                CALLING_NOT_RECOGNISED,
                device.device_id,
                "the device was enrolled without an AE title",
                f"revoke it and enrol it again with --ae-title {_shown(calling)}",
            )
        if calling.strip() != device.ae_title:
            raise Refusal(
                CALLING_NOT_RECOGNISED,
                device.device_id,
                f"it calls itself {_shown(calling)} but its certificate belongs to {device.ae_title}",
                f"set the AE title of the device to {device.ae_title}",
            )
        return device.device_id

    def _certified(self, peer: Peer, calling: str) -> Device:
        device_id = device_of(self._site, uri_of(peer.certificate))
        self._registry.refresh()
        device = self._registry.by_id(device_id) if device_id else None
        who = device_id or peer.address
        if device is None:
            raise Refusal(
                CALLING_NOT_RECOGNISED,
                who,
                f"AE title {_shown(calling)}: its certificate names no device that is enrolled here",
                "enrol it: edgeward device enroll NAME --kind ultrasound --ae-title AETITLE",
            )
        if device.revoked:
            raise Refusal(
                CALLING_NOT_RECOGNISED,
                who,
                "the device is revoked",
                "find out why it still sends; to let it in again, enrol it anew",
            )
        if device.fingerprint != _fingerprint(peer):
            raise Refusal(
                CALLING_NOT_RECOGNISED,
                who,
                "it presents another certificate than the one it was enrolled with",
                "install the newest enrolment on the device, and find out where the other one is used",
            )
        return device

    def _by_exception(self, peer: Peer, calling: str) -> str:
        for entry in self._settings.legacy:
            if _matches(entry, peer, calling):
                if peer.certificate_der:  # asked for, not required: but one that is shown must be good
                    return self._certified(peer, calling).device_id
                return entry.name
        raise Refusal(
            CALLING_NOT_RECOGNISED,
            peer.address,
            f"AE title {_shown(calling)} over {peer.door} is not an exception listed in the settings",
            "let the device use TLS 1.3 with its certificate, or list it under [[dicom.legacy]]",
        )


def _matches(entry: LegacyDevice, peer: Peer, calling: str) -> bool:
    return (
        entry.transport == peer.door
        and entry.ae_title.strip() == calling.strip()
        and same_address(entry.address, peer.address)
    )


def _fingerprint(peer: Peer) -> str:
    return hashlib.sha256(peer.certificate_der).hexdigest()


def _shown(ae_title: str) -> str:
    """Return a stranger's AE title as text that may be shown: short, printable, quoted."""
    text = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in ae_title.strip()[:16])
    return f"“{text}”"
