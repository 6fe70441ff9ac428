"""The site's certificate authority, certificates of roles and devices, and the TLS contexts made from them.

A certificate names its holder by a SAN URI, ``spiffe://<site>.edgeward/<role|device>/<name>``. Keys are EC P-256.
TLS 1.3 with a client certificate everywhere; TLS 1.2 exists only for a legacy device listed in the settings.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgeward.home import Home, write_json, write_private
from edgeward.privacy.registry import Device, Registry, check_name

ROLES = ("bus", "gateway", "engine", "monitor", "recorder", "deliver", "console", "supervisor", "operator")
_DAY = dt.timedelta(days=1)


class IdentityError(RuntimeError):
    """A certificate or key is missing or unusable; the text says which and what to do."""


def uri(site: str, kind: str, name: str) -> str:
    """Return the SAN URI of a role or device."""
    return f"spiffe://{site.lower()}.edgeward/{kind}/{name}"


def uri_of(peer_certificate: dict[str, Any] | None) -> str:
    """Return the SAN URI of a peer's certificate as given by ``SSLSocket.getpeercert()``, or an empty string."""
    for kind, value in (peer_certificate or {}).get("subjectAltName", ()):
        if kind == "URI":
            return str(value)
    return ""


def device_of(site: str, san_uri: str) -> str:
    """Return the device's id if `san_uri` names a device of this site, else an empty string."""
    prefix = uri(site, "device", "")
    return san_uri.removeprefix(prefix) if san_uri.startswith(prefix) else ""


def create_authority(home: Home, site: str) -> None:
    """Make the site's certificate authority (10 years)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Edgeward site authority {site}")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 3650 * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(home.keys / "ca.key", _pem(key))
    write_private(home.identity / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def issue(
    home: Home, site: str, kind: str, name: str, *, hosts: tuple[str, ...] = (), days: int = 825
) -> tuple[bytes, bytes, x509.Certificate]:
    """Issue a certificate for a role or device.

    Parameters
    ----------
    kind
        ``role`` or ``device``.
    hosts
        Addresses and names it may serve on (roles only).
    days
        Validity.

    Returns
    -------
    tuple
        Certificate (PEM), private key (PEM), certificate.

    Raises
    ------
    IdentityError
        If the site has no authority.
    """
    try:
        authority = x509.load_pem_x509_certificate((home.identity / "ca.pem").read_bytes())
        authority_key = serialization.load_pem_private_key((home.keys / "ca.key").read_bytes(), password=None)
    except FileNotFoundError as error:
        raise IdentityError(f"{error.filename} is missing: run `edgeward init` first") from error
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"{home.keys / 'ca.key'} is not the authority's EC key")
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri(site, kind, name))]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{kind} {name}")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(min(now + days * _DAY, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem(key), certificate


def create_roles(home: Home, site: str, hosts: tuple[str, ...]) -> None:
    """Issue every role's certificate into ``identity/roles``."""
    for role in ROLES:
        create_role(home, site, role, hosts)


def create_role(home: Home, site: str, role: str, hosts: tuple[str, ...]) -> None:
    """Issue one role's certificate into ``identity/roles``; its file is written last.

    Raises
    ------
    IdentityError
        If the site has no authority.
    """
    own = {"localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts} - {"", "0.0.0.0", "::"}  # noqa: S104
    certificate, key, _ = issue(home, site, "role", role, hosts=tuple(sorted(own)))
    folder = home.identity / "roles"
    write_private(folder / f"{role}.key", key)
    write_private(folder / f"{role}.pem", certificate, mode=0o644)


def enrol(
    home: Home,
    site: str,
    names: list[str],
    *,
    kind: str,
    out: Path,
    addresses: dict[str, Any],
    label: str = "",
    labels: Mapping[str, str] | None = None,
    ae_title: str = "",
    days: int = 825,
) -> list[Device]:
    """Enrol devices: issue a certificate each, register it, and write the folder that goes to the device.

    Parameters
    ----------
    out
        Each device gets the folder ``out/<name>`` with ``device.pem``, ``device.key``, ``ca.pem`` and ``device.json``.
    label, labels
        What people call them: one label for all, or one per name. Default: the name.
    addresses
        The ``mqtt``, ``dicom``, ``mllp`` and ``web`` tables of ``device.json``.

    Raises
    ------
    RegistryError
        If a name or AE title is taken or not allowed; then nothing is registered.
    IdentityError
        If the site has no authority.
    """
    devices: list[Device] = []
    files: list[tuple[Path, bytes, bytes, Device]] = []
    for name in names:
        check_name(name)  # before anything is made
        certificate, key, parsed = issue(home, site, "device", name, days=days)
        device = Device(
            device_id=name,
            kind=kind,
            label=(labels or {}).get(name) or label or name,
            ae_title=ae_title,
            fingerprint=parsed.fingerprint(hashes.SHA256()).hex(),
            enrolled_ns=time.time_ns(),
        )
        devices.append(device)
        files.append((out / name, certificate, key, device))
    Registry(home).add(devices)
    authority = (home.identity / "ca.pem").read_bytes()
    for folder, certificate, key, device in files:
        write_private(folder / "device.pem", certificate, mode=0o644, durable=False)
        write_private(folder / "device.key", key, durable=False)
        write_private(folder / "ca.pem", authority, mode=0o644, durable=False)
        mqtt = {**addresses.get("mqtt", {}), "topic": f"raw/wave/{device.device_id}"}
        write_json(
            folder / "device.json",
            {
                "device_id": device.device_id,
                "kind": device.kind,
                "site": site,
                "ae_title": device.ae_title,
                "mqtt": mqtt,
                **{name: addresses.get(name, {}) for name in ("dicom", "mllp", "web")},
            },
            durable=False,
        )
    return devices


def server_context(home: Home, role: str) -> ssl.SSLContext:
    """Return a TLS 1.3 context that serves as `role` and requires a client certificate of this site.

    Raises
    ------
    IdentityError
        If the role's certificate is missing or unusable.
    """
    context = _context(home, role, ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def legacy_server_context(home: Home, role: str) -> ssl.SSLContext:
    """Return a TLS 1.2 context for legacy devices listed in the settings; a client certificate is asked for."""
    context = _context(home, role, ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def web_context(home: Home, role: str) -> ssl.SSLContext:
    """Return a TLS 1.3 context that serves people, who have no certificate."""
    context = _context(home, role, ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def client_context(home: Home, role: str) -> ssl.SSLContext:
    """Return a TLS 1.3 context that connects as `role` and verifies the server against the site's authority.

    Raises
    ------
    IdentityError
        If the role's certificate is missing or unusable.
    """
    context = _context(home, role, ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _context(home: Home, role: str, protocol: int) -> ssl.SSLContext:
    folder = home.identity / "roles"
    context = ssl.SSLContext(protocol)
    for path in (folder / f"{role}.pem", folder / f"{role}.key", home.identity / "ca.pem"):
        if not path.is_file():  # OpenSSL does not say which
            raise IdentityError(f"{path} is missing: restore it from a backup; `edgeward doctor` tells more")
    try:
        context.load_cert_chain(folder / f"{role}.pem", folder / f"{role}.key")
        context.load_verify_locations(home.identity / "ca.pem")
    except (OSError, ssl.SSLError) as error:
        raise IdentityError(
            f"the certificate of {role} in {folder} cannot be used ({error}); `edgeward doctor` tells more"
        ) from error
    return context


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
