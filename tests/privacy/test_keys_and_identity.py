"""The site key, certificates and the registry of devices."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.site import new_home

from edgeward.home import Home, write_private
from edgeward.privacy import identity
from edgeward.privacy.keys import SiteKey, WrongKey
from edgeward.privacy.registry import Device, Registry, RegistryError
from edgeward.privacy.setup import AlreadyInitialised, initialise, initialised


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return new_home(tmp_path / "home")[0]


def test_secrets_are_readable_by_the_owner_only(home: Home) -> None:
    secrets = [*home.keys.rglob("*"), *home.identity.rglob("*.key")]
    assert secrets
    assert all(not path.stat().st_mode & 0o077 for path in secrets)


def test_a_site_is_made_once(home: Home) -> None:
    before = (home.keys / "site.key").read_bytes()
    with pytest.raises(AlreadyInitialised):
        initialise(home, new_home(home.root.parent / "other")[1])
    assert (home.keys / "site.key").read_bytes() == before


def test_an_interrupted_initialisation_is_completed(home: Home) -> None:
    (home.identity / "complete").unlink()
    key = (home.keys / "site.key").read_bytes()
    assert not initialised(home)

    initialise(home, new_home(home.root.parent / "other")[1])

    assert initialised(home)
    assert (home.keys / "site.key").read_bytes() == key


def test_what_is_sealed_opens_only_in_its_context(home: Home) -> None:
    key = SiteKey.load(home)
    sealed = key.seal(b"secret", b"row 1")
    assert key.open(sealed, b"row 1") == b"secret"
    assert b"secret" not in sealed
    with pytest.raises(WrongKey):
        key.open(sealed, b"row 2")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_never_opens(home: Home, place: int, change: int) -> None:
    key = SiteKey.load(home)
    sealed = bytearray(key.seal(b"secret", b"x"))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(WrongKey):
        key.open(bytes(sealed), b"x")


@pytest.mark.parametrize(
    ("content", "why"),
    [("", "not a site key"), ("xyz", "not a site key"), ("00" * 31, "not a site key"), ("00" * 32, "is not the key")],
)
def test_a_wrong_key_is_refused_with_a_reason(home: Home, content: str, why: str) -> None:
    write_private(home.keys / "site.key", content.encode())
    with pytest.raises(WrongKey, match=why):
        SiteKey.load(home)


def test_a_key_that_others_can_read_is_refused(home: Home) -> None:
    (home.keys / "site.key").chmod(0o644)
    with pytest.raises(WrongKey, match="chmod 600"):
        SiteKey.load(home)


def test_a_missing_check_value_starts_nothing(home: Home) -> None:
    (home.keys / "site.check").unlink()
    with pytest.raises(WrongKey, match="nothing is started"):
        SiteKey.load(home)


def test_the_key_is_not_in_its_representation(home: Home) -> None:
    key = SiteKey.load(home)
    assert (home.keys / "site.key").read_text().strip()[:8] not in repr(key)


# ---------------------------------------- TLS


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Return the SAN URI the server saw; raise what either side raised."""
    a, b = socket.socketpair()
    a.settimeout(10)
    b.settimeout(10)
    seen: list[str] = []
    problems: list[Exception] = []

    def serve() -> None:
        try:
            with server.wrap_socket(a, server_side=True) as tls:
                seen.append(identity.uri_of(tls.getpeercert()))
                tls.sendall(b"x")
        except (ssl.SSLError, OSError) as error:
            problems.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(b, server_hostname="localhost") as tls:
            if not tls.recv(1):
                raise ConnectionError("refused")
    finally:
        b.close()
        thread.join()
        a.close()
    if problems:
        raise problems[0]
    return seen[0]


def device_context(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "device.pem", folder / "device.key")
    return context


def enrol(home: Home, name: str, **more: str) -> Path:
    identity.enrol(
        home,
        "hospital",
        [name],
        kind="ultrasound",
        out=home.root / "d",
        addresses={},
        ae_title=more.get("ae", name.upper()),
    )
    return home.root / "d" / name


def test_a_device_is_known_by_its_certificate(home: Home) -> None:
    folder = enrol(home, "us1")
    seen = handshake(identity.server_context(home, "gateway"), device_context(folder))
    assert identity.device_of("hospital", seen) == "us1"


def test_a_role_is_not_a_device(home: Home) -> None:
    seen = handshake(identity.server_context(home, "gateway"), identity.client_context(home, "console"))
    assert seen == "spiffe://hospital.edgeward/role/console"
    assert identity.device_of("hospital", seen) == ""


def test_another_sites_certificate_is_refused(home: Home, tmp_path: Path) -> None:
    other, _ = new_home(tmp_path / "other")
    folder = enrol(other, "us1")
    context = device_context(folder)
    context.load_verify_locations(home.identity / "ca.pem")
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(identity.server_context(home, "gateway"), context)


def test_no_certificate_is_refused(home: Home) -> None:
    context = ssl.create_default_context(cafile=str(home.identity / "ca.pem"))
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(identity.server_context(home, "gateway"), context)


def test_tls_1_2_is_refused_unless_it_is_the_legacy_context(home: Home) -> None:
    context = device_context(enrol(home, "us1"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(identity.server_context(home, "gateway"), context)
    assert handshake(identity.legacy_server_context(home, "gateway"), context)


def test_a_missing_certificate_is_said(home: Home) -> None:
    (home.identity / "roles" / "gateway.pem").unlink()
    with pytest.raises(identity.IdentityError, match="gateway"):
        identity.server_context(home, "gateway")


# ---------------------------------------- registry


def test_enrolment_writes_all_a_device_needs(home: Home) -> None:
    folder = enrol(home, "us1", ae="US1")
    card = json.loads((folder / "device.json").read_text())
    certificate = x509.load_pem_x509_certificate((folder / "device.pem").read_bytes())
    device = Registry(home).by_ae_title("US1 ")
    assert device is not None
    assert card["device_id"] == device.device_id == "us1"
    assert certificate.fingerprint(certificate.signature_hash_algorithm).hex() == device.fingerprint  # type: ignore[arg-type]
    assert (folder / "device.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../x", "a*", "x" * 65, "a.b", "ä", "a\n"])
def test_a_name_that_cannot_be_a_subject_is_refused(home: Home, name: str) -> None:
    with pytest.raises(RegistryError):
        identity.enrol(home, "hospital", [name], kind="wearable", out=home.root / "d", addresses={})
    assert Registry(home).devices() == []
    assert not (home.root / "d").exists()


def test_names_and_ae_titles_are_unique_among_devices_in_force(home: Home) -> None:
    enrol(home, "us1", ae="US1")
    with pytest.raises(RegistryError, match="enrolled already"):
        enrol(home, "us1", ae="US2")
    with pytest.raises(RegistryError, match="belongs to another"):
        enrol(home, "us2", ae="US1")
    Registry(home).revoke("us1")
    enrol(home, "us1", ae="US1")
    assert Registry(home).by_ae_title("US1") is not None


def test_a_revocation_is_seen_by_whoever_looks(home: Home) -> None:
    enrol(home, "us1")
    reader = Registry(home)
    assert not reader.refresh()

    Registry(home).revoke("us1")

    assert reader.refresh()
    device = reader.by_id("us1")
    assert device is not None
    assert device.revoked
    assert reader.by_ae_title("US1") is None


def test_revoking_a_stranger_is_an_error(home: Home) -> None:
    with pytest.raises(RegistryError, match="no enrolled device"):
        Registry(home).revoke("nobody")


def test_a_file_is_replaced_whole_or_not_at_all(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home.data / "x"
    write_private(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["x"]


def test_a_device_of_unknown_kind_is_refused(home: Home) -> None:
    with pytest.raises(RegistryError, match="kind"):
        Registry(home).add([Device("a", "toaster", "", "", "", 1)])
