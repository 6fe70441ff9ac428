"""The HTTPS door lets in enrolled devices, each for what its kind may do, and nobody else."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.gateway.door import tls_of
from tests.gateway.webdoor import BOUNDARY, CONTENT, Web, body, open_web
from tests.support.imaging import breast_image
from tests.support.site import new_home

from edgeward.gateway import doorstep
from edgeward.gateway import web as web_module
from edgeward.gateway.web import IDLE_S, WebError
from edgeward.privacy import identity


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_web(tmp_path / "home") as web:
        yield web


async def raw(web: Web, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", web.door.port, ssl=context, server_hostname="127.0.0.1")


async def cut(reader: asyncio.StreamReader) -> None:
    """Wait until the other side has closed."""
    async with asyncio.timeout(10):
        try:
            while await reader.read(65536):
                pass
        except (ConnectionError, ssl.SSLError):
            return


async def test_without_a_certificate_nobody_comes_in(web: Web) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(f"https://127.0.0.1:{web.door.port}/dicomweb/studies")


async def test_a_certificate_of_another_authority_does_not_come_in(web: Web, tmp_path: Path) -> None:
    home, settings = new_home(tmp_path / "other")
    identity.enrol(home, settings.site.name, ["spy"], kind="viewer", out=tmp_path / "out", addresses={})
    context = tls_of(tmp_path / "out" / "spy")
    context.verify_mode = ssl.CERT_NONE
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(f"https://127.0.0.1:{web.door.port}/dicomweb/studies")


async def test_tls_1_2_is_refused(web: Web) -> None:
    context = tls_of(web.site.enrol("view2", "viewer"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await raw(web, context)


async def test_the_certificate_of_a_role_is_not_a_device(web: Web) -> None:
    context = identity.client_context(web.site.home, "console")
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        answer = await client.get(f"https://127.0.0.1:{web.door.port}/dicomweb/studies")

    assert answer.status_code == 403
    assert "names no device" in answer.text
    assert any("names no device" in reason for reason in web.reasons())


@pytest.mark.parametrize(
    ("kind", "store", "search"),
    [("ultrasound", 200, 403), ("viewer", 403, 204), ("emr", 403, 204), ("wearable", 403, 403)],
)
async def test_each_kind_may_do_its_own_and_no_more(web: Web, kind: str, store: int, search: int) -> None:
    client = web.client("one", kind)

    stored = await client.post("/studies", content=body(breast_image()), headers={"Content-Type": CONTENT})
    found = await client.get("/studies", params={"PatientID": "nobody"})

    assert (stored.status_code, found.status_code) == (store, search)
    assert len(web.admitted) == (store == 200)


async def test_a_revoked_device_is_refused_and_its_open_connection_cut(web: Web) -> None:
    client = web.viewer()
    assert (await client.get("/studies")).status_code == 204
    reader, writer = await raw(web, tls_of(web.folders["view1"]))
    writer.write(b"GET /dicomweb/studies HTTP/1.1\r\n")  # and no more: it waits in the middle of a request
    await writer.drain()
    async with asyncio.timeout(10):
        while len(web.door._connections) < 2:
            await asyncio.sleep(0.01)

    web.registry.revoke("view1")
    web.door.enforce(time.monotonic())

    await cut(reader)
    writer.close()
    again = web.client("view1")
    assert (await again.get("/studies")).status_code == 403
    assert any("revoked" in reason for reason in web.reasons())


async def test_a_device_that_was_enrolled_anew_needs_its_new_certificate(web: Web) -> None:
    old = web.viewer()
    assert (await old.get("/studies")).status_code == 204
    context = tls_of(web.folders["view1"])
    web.registry.revoke("view1")
    web.site.enrol("view1", "viewer")

    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        answer = await client.get(f"https://127.0.0.1:{web.door.port}/dicomweb/studies")

    assert answer.status_code == 403
    assert (await web.client("view1").get("/studies")).status_code == 204


async def test_silence_is_cut_and_slow_work_is_not(web: Web) -> None:
    reader, writer = await raw(web, tls_of(web.site.enrol("view1", "viewer")))
    async with asyncio.timeout(10):
        while not web.door._connections:
            await asyncio.sleep(0.01)

    web.door.enforce(time.monotonic() + IDLE_S - 5)
    assert len(web.door._connections) == 1
    web.door.enforce(time.monotonic() + IDLE_S + 5)

    await cut(reader)
    writer.close()


async def test_a_stranger_has_little_time_for_the_handshake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_web(tmp_path / "home") as web:
        with monkeypatch.context() as patch:  # no longer: it is too short for the handshake that is to succeed
            patch.setattr(doorstep, "HANDSHAKE_S", 0.3)
            silent = [await asyncio.open_connection("127.0.0.1", web.door.port) for _ in range(20)]

            for reader, writer in silent:
                await cut(reader)
                writer.close()

        assert (await web.viewer().get("/studies")).status_code == 204


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff\x16\x03garbage\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"POST /dicomweb/studies HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /dicomweb/studies HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_the_door_goes_on(web: Web, sent: bytes) -> None:
    client = web.viewer()
    reader, writer = await raw(web, tls_of(web.folders["view1"]))
    writer.write(sent)
    await writer.drain()

    async with asyncio.timeout(10):
        try:
            first = await reader.readline()
        except (ConnectionError, ssl.SSLError):
            first = b""
    writer.close()

    assert first == b"" or int(first.split()[1]) in range(400, 500)
    assert (await client.get("/studies")).status_code == 204


async def test_a_body_beyond_the_limit_is_refused_declared_or_not(tmp_path: Path) -> None:
    async with open_web(tmp_path / "home", web={"max_body_mb": 1}) as web:
        client = web.client()

        async def endless() -> AsyncIterator[bytes]:
            yield f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + bytes(128) + b"DICM"
            for _ in range(40):
                yield bytes(65536)

        for content in (bytes(2 << 20), endless()):
            try:
                status = (await client.post("/studies", content=content, headers={"Content-Type": CONTENT})).status_code
            except httpx.TransportError:  # it was refused, and the connection cut, while we were still sending
                status = 413
            assert status == 413

        assert web.vault_files() == 0


async def test_one_device_cannot_take_all_places(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "PER_DEVICE", 1)
    client, other = web.client(), web.viewer()
    more = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        content = body(breast_image(rows=16, columns=16))
        yield content[:200]
        await more.wait()
        yield content[200:]

    first = asyncio.create_task(client.post("/studies", content=slow(), headers={"Content-Type": CONTENT}))
    async with asyncio.timeout(10):
        while not web.door._in_work:
            await asyncio.sleep(0.01)

    refused = await web.client().post("/studies", content=body(breast_image()), headers={"Content-Type": CONTENT})
    reading = await other.get("/studies")
    more.set()

    assert (refused.status_code, refused.headers["retry-after"], reading.status_code) == (503, "1", 204)
    assert (await first).status_code == 200


async def test_every_access_is_logged_and_no_identity_is(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    image = breast_image(rows=16, columns=16)
    await web.store(image)
    viewer = web.viewer()
    await viewer.get("/studies", params={"PatientName": "Muster*", "PatientID": "P-4711", "nonsense": "P-4711"})
    await viewer.get(f"/studies/{image.StudyInstanceUID}")

    ours = [record for record in caplog.records if record.name.startswith("edgeward")]
    said = "\n".join(f"{record.getMessage()} {getattr(record, 'fields', '')}" for record in ours)

    assert {"store objects: 200", "search studies: 400", "retrieve a study: 200"} <= {r.getMessage() for r in ours}
    for secret in ("Muster", "4711", str(image.StudyInstanceUID), str(image.SOPInstanceUID)):
        assert secret not in said


async def test_a_taken_port_is_told(web: Web, tmp_path: Path) -> None:
    with pytest.raises(WebError, match="cannot listen"):
        async with open_web(tmp_path / "second", web={"port": web.door.port}):
            pass
