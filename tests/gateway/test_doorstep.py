"""Whoever holds many connections keeps nobody else out of the doors that live in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import shutil
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from tests.gateway.door import ask, tls_of, until
from tests.gateway.door import open_door as open_dicom
from tests.gateway.hl7_door import open_door, orm
from tests.gateway.webdoor import open_web

from edgeward.gateway import doorstep
from edgeward.gateway import web as web_module
from edgeward.home import Home


def in_uvloop(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run a test in the loop that the gateway runs in: it reads earlier than asyncio's own."""

    @functools.wraps(test)
    def run(*arguments: object, **named: object) -> None:
        uvloop.run(test(*arguments, **named))

    return run


def strangers(port: int, count: int, address: str = "127.0.0.1") -> list[socket.socket]:
    """Connections that say nothing."""
    return [socket.create_connection(("127.0.0.1", port), source_address=(address, 0)) for _ in range(count)]


@in_uvloop
async def test_a_client_that_speaks_at_once_is_heard(tmp_path: Path) -> None:
    """Its first bytes may be there before anything of ours has run."""
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")

        for number in range(20):
            answer = await door.ask(folder, orm(number=f"P{number}", accession=f"A{number}"))
            assert answer.code == "AA"


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1",), ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6")]
)
@in_uvloop
async def test_silent_strangers_keep_no_system_out(tmp_path: Path, addresses: tuple[str, ...]) -> None:
    async with open_door(tmp_path / "hl7") as door, open_web(tmp_path / "web") as web:
        folder, viewer = door.site.enrol("his", "emr"), web.viewer()
        ports = (door.mllp.ports["tls"], web.door.port)
        many = [await asyncio.to_thread(strangers, port, 80, address) for port in ports for address in addresses]
        silent = [one for some in many for one in some]
        await asyncio.sleep(0.1)

        assert (await door.ask(folder, orm())).code == "AA"
        assert (await viewer.get("/studies")).status_code == 204

        for one in silent:
            one.close()


@in_uvloop
async def test_the_oldest_stranger_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorstep, "PER_ADDRESS", 3)
    async with open_web(tmp_path / "home") as web:
        silent = await asyncio.to_thread(strangers, web.door.port, 5)

        for one in silent[:2]:
            one.settimeout(20)
            assert await asyncio.to_thread(one.recv, 1) == b""
        silent[2].settimeout(0.2)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(silent[2].recv, 1)
        assert any("too many connections" in reason for reason in web.reasons())

        for one in silent:
            one.close()


@in_uvloop
async def test_one_device_with_many_connections_keeps_no_other_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_module, "PER_PEER", 4)
    async with open_web(tmp_path / "home") as web:
        greedy = tls_of(web.site.enrol("us9", "ultrasound", "US9"))
        held = [await asyncio.open_connection("127.0.0.1", web.door.port, ssl=greedy) for _ in range(8)]
        async with asyncio.timeout(10):
            while len(web.door._connections) != 4:
                await asyncio.sleep(0.01)

        assert (await web.viewer().get("/studies")).status_code == 204
        assert "too many connections at once" in web.reasons()

        for _, writer in held:
            writer.close()


DAY = dt.timedelta(days=1)


def lasting(home: Home, folder: Path, begin: dt.timedelta, end: dt.timedelta) -> Path:
    """A copy of a device's folder with a certificate of the same authority, valid from `begin` to `end` from now."""
    authority = serialization.load_pem_private_key((home.keys / "ca.key").read_bytes(), None)
    was, now = x509.load_pem_x509_certificate((folder / "device.pem").read_bytes()), dt.datetime.now(dt.UTC)
    made = x509.CertificateBuilder(
        was.issuer, was.subject, was.public_key(), x509.random_serial_number(), now + begin, now + end,
        list(was.extensions),
    ).sign(authority, hashes.SHA256())  # type: ignore[arg-type]  # fmt: skip
    copy = folder.with_name(f"{folder.name}-{begin.days}")
    shutil.copytree(folder, copy)
    (copy / "device.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return copy


VALID = [(-2 * DAY, -DAY, "its certificate has expired"), (DAY, 2 * DAY, "its certificate is not valid yet")]


@in_uvloop
async def test_what_is_wrong_with_a_certificate_is_told_and_nobody_else_is_cut(tmp_path: Path) -> None:
    async with open_door(tmp_path / "hl7") as door, open_web(tmp_path / "web") as web:
        his, viewer = door.site.enrol("his", "emr"), web.viewer()
        async with door.connect(his) as staying:
            for begin, end, told in VALID:
                for site, folder, port, reasons in (
                    (door.site, his, door.mllp.ports["tls"], door.reasons),
                    (web.site, web.folders["view1"], web.door.port, web.reasons),
                ):
                    wrong = tls_of(lasting(site.home, folder, begin, end))
                    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=wrong)
                    async with asyncio.timeout(20):
                        with contextlib.suppress(OSError):
                            assert await reader.read() == b""
                    writer.close()
                    assert f"no TLS 1.3 connection: {told}" in reasons()

            assert (await staying.ask(orm())).code == "AA"
            assert (await viewer.get("/studies")).status_code == 204


def test_the_dicom_door_tells_it_too(tmp_path: Path) -> None:
    with open_dicom(tmp_path / "home") as door:
        folder = door.site.enrol("us1", "ultrasound", "US1")
        staying = ask(door, folder)
        for begin, end, told in VALID:
            assert not ask(door, lasting(door.site.home, folder, begin, end)).is_established
            until(lambda told=told: told in door.reasons())  # type: ignore[misc]

        assert staying.send_c_echo().Status == 0
        staying.release()
