"""The enrolment folder: all that a device knows about its site.

Responsible for reading and checking ``device.json``, ``device.pem``, ``device.key`` and ``ca.pem``, and for the TLS
context made from them. Not responsible for issuing them (``edgeward device enroll`` does). A device that finds its
folder wrong must say so in words that a biomedical engineer can act on: it is the first thing that goes wrong at an
installation.
"""

from __future__ import annotations

import datetime as dt
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from edgeward.bus.subjects import token

CERTIFICATE = "device.pem"
KEY = "device.key"
AUTHORITY = "ca.pem"
DESCRIPTION = "device.json"
_AGAIN = "enrol the device again: edgeward device enroll NAME --kind KIND --out DIR"


class EnrolmentError(RuntimeError):
    """The folder cannot be used; the text says which file, why, and what to do."""


@dataclass(frozen=True, slots=True)
class MqttAddress:
    """Where waveforms go."""

    host: str
    port: int
    topic: str


@dataclass(frozen=True, slots=True)
class DicomAddress:
    """Where images go."""

    host: str
    port: int
    ae_title: str


@dataclass(frozen=True, slots=True)
class Address:
    """Where something else is: HL7 v2 (MLLP), or DICOMweb and FHIR (HTTPS)."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a device may know.

    Attributes
    ----------
    folder
        Where it was read from.
    device_id, kind, site
        Who the device is.
    ae_title
        Its own application entity title; empty for a device without DICOM.
    mqtt, dicom, mllp, web
        Addresses of the site; ``None`` when the folder gives none.
    """

    folder: Path
    device_id: str
    kind: str
    site: str
    ae_title: str
    mqtt: MqttAddress | None
    dicom: DicomAddress | None
    mllp: Address | None = None
    web: Address | None = None

    def context(self) -> ssl.SSLContext:
        """Return a TLS 1.3 client context with the device's certificate, trusting the site's authority alone.

        Raises
        ------
        EnrolmentError
            If the files cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(self.folder / CERTIFICATE, self.folder / KEY)
        except (OSError, ssl.SSLError) as error:
            raise EnrolmentError(
                f"{self.folder / KEY} is not the private key of {CERTIFICATE}, or one of them is damaged ({error}); "
                f"{_AGAIN}"
            ) from error
        try:
            context.load_verify_locations(self.folder / AUTHORITY)
        except (OSError, ssl.SSLError) as error:
            raise EnrolmentError(f"{self.folder / AUTHORITY} is not a certificate ({error}); {_AGAIN}") from error
        return context

    def require_mqtt(self) -> MqttAddress:
        """Return the MQTT address.

        Raises
        ------
        EnrolmentError
            If the folder gives none.
        """
        if self.mqtt is None:
            raise EnrolmentError(f"{self.folder / DESCRIPTION} has no address under 'mqtt'; {_AGAIN}")
        return self.mqtt

    def require_mllp(self) -> Address:
        """Return the address for HL7 v2.

        Raises
        ------
        EnrolmentError
            If the folder gives none.
        """
        if self.mllp is None:
            raise EnrolmentError(f"{self.folder / DESCRIPTION} has no address under 'mllp'; {_AGAIN}")
        return self.mllp

    def require_dicom(self) -> DicomAddress:
        """Return the DICOM address.

        Raises
        ------
        EnrolmentError
            If the folder gives none, or the device has no AE title.
        """
        if self.dicom is None:
            raise EnrolmentError(f"{self.folder / DESCRIPTION} has no address under 'dicom'; {_AGAIN}")
        if not self.ae_title:
            raise EnrolmentError(
                f"{self.device_id} was enrolled without an AE title, which DICOM needs; enrol it with --ae-title"
            )
        return self.dicom


def load(folder: Path, now: dt.datetime | None = None) -> Enrolment:
    """Read and check one enrolment folder.

    Parameters
    ----------
    folder
        Holds ``device.json``, ``device.pem``, ``device.key`` and ``ca.pem``.
    now
        The time at which the certificate must be valid; default: now.

    Raises
    ------
    EnrolmentError
        If a file is missing, unreadable, expired, or does not belong to the others.
    """
    if not folder.is_dir():
        raise EnrolmentError(f"there is no enrolment folder {folder}; {_AGAIN}")
    for name in (DESCRIPTION, CERTIFICATE, KEY, AUTHORITY):
        if not (folder / name).is_file():
            raise EnrolmentError(f"{folder / name} is missing; {_AGAIN}")
    enrolment = _describe(folder)
    _check_certificate(enrolment, now or dt.datetime.now(dt.UTC))
    enrolment.context()
    return enrolment


def load_all(folder: Path, kinds: tuple[str, ...], now: dt.datetime | None = None) -> list[Enrolment]:
    """Read `folder` itself if it is an enrolment folder, else each enrolment folder in it, in order of name.

    Folders of other kinds are passed over, so one directory may hold all devices of a site.

    Raises
    ------
    EnrolmentError
        If one of them is wrong or there is none of these kinds.
    """
    if (folder / DESCRIPTION).exists():
        candidates = [folder]
    elif folder.is_dir():
        candidates = sorted(path for path in folder.iterdir() if (path / DESCRIPTION).exists())
    else:
        raise EnrolmentError(f"there is no folder {folder}")
    found = [enrolment for enrolment in (load(path, now) for path in candidates) if enrolment.kind in kinds]
    if not found:
        raise EnrolmentError(f"{folder} holds no enrolled device of kind {' or '.join(kinds)}")
    return found


def _describe(folder: Path) -> Enrolment:
    path = folder / DESCRIPTION
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise TypeError("not a table")
        return Enrolment(
            folder=folder,
            device_id=token(data["device_id"]),
            kind=str(data["kind"]),
            site=str(data.get("site", "")),
            ae_title=str(data.get("ae_title", "")),
            mqtt=_mqtt(data.get("mqtt")),
            dicom=_dicom(data.get("dicom")),
            mllp=_address(data.get("mllp")),
            web=_address(data.get("web")),
        )
    except KeyError as error:
        raise EnrolmentError(f"{path} lacks {error}; {_AGAIN}") from error
    except (OSError, ValueError, TypeError) as error:
        raise EnrolmentError(f"{path} is damaged ({error}); {_AGAIN}") from error


def _port(value: Any) -> int:
    port = int(value)
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not between 1 and 65535")
    return port


def _mqtt(data: Any) -> MqttAddress | None:
    if not isinstance(data, dict) or not data.get("host"):
        return None
    return MqttAddress(host=str(data["host"]), port=_port(data["port"]), topic=str(data["topic"]))


def _dicom(data: Any) -> DicomAddress | None:
    if not isinstance(data, dict) or not data.get("host"):
        return None
    return DicomAddress(host=str(data["host"]), port=_port(data["port"]), ae_title=str(data["ae_title"]))


def _address(data: Any) -> Address | None:
    if not isinstance(data, dict) or not data.get("host"):
        return None
    return Address(host=str(data["host"]), port=_port(data["port"]))


def _check_certificate(enrolment: Enrolment, now: dt.datetime) -> None:
    path = enrolment.folder / CERTIFICATE
    certificate = _read_certificate(path)
    authority = _read_certificate(enrolment.folder / AUTHORITY)
    if now > certificate.not_valid_after_utc:
        raise EnrolmentError(f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; {_AGAIN}")
    if now < certificate.not_valid_before_utc:
        raise EnrolmentError(
            f"{path} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d}: is this device's clock right?"
        )
    if now > authority.not_valid_after_utc:
        raise EnrolmentError(f"{enrolment.folder / AUTHORITY} expired on {authority.not_valid_after_utc:%Y-%m-%d}")
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise EnrolmentError(f"{path} was not issued by the authority in {AUTHORITY}; {_AGAIN}") from error
    names = _uris(certificate)
    if not any(name.endswith(f"/device/{enrolment.device_id}") for name in names):
        raise EnrolmentError(
            f"{path} belongs to {', '.join(names) or 'nobody'}, but {DESCRIPTION} says {enrolment.device_id}; {_AGAIN}"
        )


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EnrolmentError(f"{path} is not a certificate ({error}); {_AGAIN}") from error


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name) for name in names.get_values_for_type(x509.UniformResourceIdentifier)]
