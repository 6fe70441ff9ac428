"""A FHIR server as a destination: servers that behave, refuse, hang, redirect, and say too much."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time

import pytest
from tests.clinic.imaging.test_fhir_bundle import request
from tests.support.fhir import fhir_server, server_tls
from tests.support.imaging import breast_image, finding_for
from tests.support.pacs import mute_listener
from tests.support.site import free_port, new_home

from edgeward.clinic.imaging.fhir import FhirSink, tls_context
from edgeward.clinic.imaging.sink import Interrupted, Rejected, Result, Unreachable, Unsendable
from edgeward.clinic.imaging.source import read_source
from edgeward.config import Fhir
from edgeward.privacy.identity import client_context

IMAGE = breast_image()


async def composed(sink: FhirSink, *actions: str, image=IMAGE) -> Result:
    finding = finding_for(image)
    await sink.open()
    return await sink.compose(request(finding, *actions), read_source(image, finding))


async def test_a_result_is_written_once_however_often_it_is_sent():
    with fhir_server() as server:
        sink = FhirSink(server.settings())
        before = time.time_ns()

        for actions in ((), (), ("confirm",)):
            receipt = await sink.send(await composed(sink, *actions))
            assert before <= receipt.stored_ns <= time.time_ns()

        await sink.close()
    assert server.problems == []
    assert [r["status"] for r in server.of("DiagnosticReport")] == ["final"]
    assert len(server.of("Observation")) == 3


async def test_an_image_without_a_patient_id_makes_no_transaction():
    with fhir_server() as server:
        sink = FhirSink(server.settings())

        with pytest.raises(Unsendable, match="names no patient"):
            await composed(sink, image=breast_image(PatientID=""))

        await sink.close()
    assert server.of("DiagnosticReport") == []


async def test_a_server_that_chooses_ids_itself_is_written_to_by_identifier():
    with fhir_server(update_create=False) as server:
        ours = FhirSink(server.settings())
        with pytest.raises(Rejected, match="405"):
            await ours.send(await composed(ours))
        await ours.close()

        theirs = FhirSink(server.settings(ids="server"))
        for _ in range(2):
            await theirs.send(await composed(theirs))
        await theirs.close()

    assert len(server.of("DiagnosticReport")) == 1
    assert len(server.of("Provenance")) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Rejected),
        (404, Interrupted),
        (410, Interrupted),
        (302, Interrupted),
        (405, Rejected),
        (409, Interrupted),
        (412, Rejected),
        (413, Rejected),
        (422, Rejected),
        (308, Interrupted),
        (408, Interrupted),
        (425, Interrupted),
        (500, Interrupted),
        (501, Rejected),
        (507, Interrupted),
        (401, Unreachable),
        (403, Unreachable),
        (429, Unreachable),
        (502, Unreachable),
        (503, Unreachable),
        (504, Unreachable),
    ],
)
async def test_what_a_status_says_of_the_result_or_of_the_server(status, error):
    secret = b'{"resourceType": "OperationOutcome", "issue": [{"diagnostics": "Muster^Erika P-4711"}]}'
    with fhir_server(script=lambda n, method, path: (status, {"location": "/x"}, secret)) as server:
        sink = FhirSink(server.settings())

        with pytest.raises(error) as failure:
            await sink.send(await composed(sink))

        await sink.close()
    assert type(failure.value) is error
    assert str(status) in str(failure.value)
    assert "Muster" not in str(failure.value)


@pytest.mark.parametrize(
    ("value", "seconds"), [("120", 120), ("0", 0), ("soon", 0), ("Fri, 31 Dec 1999 23:59:59 GMT", 0)]
)
async def test_a_server_may_say_when_to_come_back(value, seconds):
    with fhir_server(script=lambda n, method, path: (429, {"retry-after": value}, b"")) as server:
        sink = FhirSink(server.settings())

        with pytest.raises(Unreachable) as failure:
            await sink.send(await composed(sink))

        await sink.close()
    assert failure.value.after_s == seconds


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Please log in</html>",
        b"[]",
        b"null",
        b'{"resourceType": "OperationOutcome"}',
        b'{"resourceType": "Bundle", "type": "searchset", "entry": []}',
        b'{"resourceType": "Bundle", "type": "transaction-response"}',
        b'{"resourceType": "Bundle", "type": "transaction-response", "entry": []}',
        b'{"resourceType": "Bundle", "type": "transaction-response", "entry": [{}]}',
        b'{"resourceType": "Bundle", "type": "transaction-response", "entry": [5]}',
        b'{"resourceType": "Bundle", "type": "transaction-response", "entry": [{"response": {"status": "201"}}]}',
        b"\xff\xfe",
    ],
)
async def test_an_answer_that_is_not_the_result_of_a_transaction_is_no_success(body):
    with fhir_server(script=lambda n, method, path: (200, {}, body)) as server:
        sink = FhirSink(server.settings())

        with pytest.raises(Interrupted):
            await sink.send(await composed(sink))

        await sink.close()


async def test_a_transaction_of_which_a_part_failed_is_refused():
    answer = {
        "resourceType": "Bundle",
        "type": "transaction-response",
        "entry": [{"response": {"status": "201 Created"}}, {"response": {"status": "422 Muster^Erika"}}],
    }
    with fhir_server(script=lambda n, method, path: (200, {}, json.dumps(answer).encode())) as server:
        sink = FhirSink(server.settings())

        with pytest.raises(Rejected, match=r"1 of 2 resources \(status 422\)") as failure:
            await sink.send(await composed(sink))

        await sink.close()
    assert "Muster" not in str(failure.value)


async def test_nobody_there():
    sink = FhirSink(Fhir(name="f", url=f"http://127.0.0.1:{free_port()}/fhir"))

    with pytest.raises(Unreachable, match="cannot connect") as failure:
        await sink.send(await composed(sink))
    assert not failure.value.connected
    assert not await sink.answers()
    await sink.close()


async def test_a_name_that_does_not_resolve():
    sink = FhirSink(Fhir(name="f", url="http://no-such-host.invalid/fhir"))

    with pytest.raises(Unreachable):
        await sink.send(await composed(sink))
    await sink.close()


async def test_one_that_takes_the_connection_and_says_nothing_is_left_within_the_limit():
    with mute_listener() as port:
        sink = FhirSink(Fhir(name="f", url=f"http://127.0.0.1:{port}/fhir", timeout_s=1.0))
        result = await composed(sink)

        with pytest.raises(Interrupted, match=r"did not answer within 1 s"):
            async with asyncio.timeout(20):
                await sink.send(result)

        assert await sink.answers()
        await sink.close()


def serve_raw(answer):
    """A TCP server whose every connection is handled by `answer(socket)` in a thread. Return port and a way to stop."""
    server = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=work, daemon=True).start()
    return server.getsockname()[1], server.close


@pytest.mark.parametrize("kind", ["a byte at a time", "reset", "no end", "nonsense"])
async def test_a_server_that_misbehaves_below_http_costs_no_more_than_the_limit(kind):
    stop = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        if kind == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.close()
            return
        try:
            if kind == "nonsense":
                connection.sendall(b"\0\xffMSH|^~\\&\r\n\r\n")
            elif kind == "no end":
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\n\r\n")
                while not stop.is_set():
                    connection.sendall(b" " * 65536)
            else:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not stop.wait(0.05):
                    connection.sendall(b" ")
        except OSError:
            pass
        finally:
            connection.close()

    port, close = serve_raw(answer)
    sink = FhirSink(Fhir(name="f", url=f"http://127.0.0.1:{port}/fhir", timeout_s=1.0))
    try:
        with pytest.raises(Interrupted):
            async with asyncio.timeout(10):
                await sink.send(await composed(sink))
    finally:
        stop.set()
        close()
        await sink.close()


async def test_a_token_is_read_again_when_it_is_refused(tmp_path):
    file = tmp_path / "token"
    file.write_text("old\n")
    with fhir_server(token="old") as server:
        sink = FhirSink(server.settings(token_file=str(file)))
        await sink.send(await composed(sink))
        server.token = "new"
        file.write_text("new\n")

        await sink.send(await composed(sink, "confirm"))

        server.token = "newer"
        with pytest.raises(Unreachable, match="let us in"):
            await sink.send(await composed(sink))
        await sink.close()
    assert server.of("DiagnosticReport")[0]["status"] == "final"


async def test_a_missing_token_file_is_told_by_its_path(tmp_path):
    with fhir_server(token="x") as server:
        sink = FhirSink(server.settings(token_file=str(tmp_path / "none")))

        with pytest.raises(Unreachable, match="token file"):
            await sink.open()

        await sink.close()


@pytest.mark.parametrize("known", [0, 1, 2])
async def test_a_patient_is_referred_to_by_id_only_if_the_server_knows_exactly_one(known):
    with fhir_server() as server:
        for n in range(known):
            identifier = {"system": "urn:oid:1.2.3", "value": "P-4711"}
            server.put({"resourceType": "Patient", "id": f"p{n}", "identifier": [identifier]})
        sink = FhirSink(server.settings(patient_system="urn:oid:1.2.3"))

        await sink.send(await composed(sink))

        await sink.close()
        subject = server.of("DiagnosticReport")[0]["subject"]
        assert subject["identifier"]["value"] == "P-4711"
        assert subject.get("reference") == ("Patient/p0" if known == 1 else None)
        assert len(server.of("Patient")) == known, "none is made"


async def test_without_a_system_nobody_is_searched_for():
    with fhir_server() as server:
        server.put({"resourceType": "Patient", "id": "other", "identifier": [{"value": "P-4711"}]})
        sink = FhirSink(server.settings())

        await sink.send(await composed(sink))

        await sink.close()
        assert ("GET", "/fhir/Patient") not in server.asked
        assert "reference" not in server.of("DiagnosticReport")[0]["subject"]


async def test_a_server_that_cannot_be_searched_gets_the_result_all_the_same():
    with fhir_server(script=lambda n, method, path: (403, {}, b"") if method == "GET" else None) as server:
        sink = FhirSink(server.settings(patient_system="urn:oid:1.2.3"))

        await sink.send(await composed(sink))

        await sink.close()
        assert len(server.of("DiagnosticReport")) == 1


async def test_over_tls_with_the_sites_certificates(tmp_path):
    home, _ = new_home(tmp_path / "home")
    with fhir_server(tls=server_tls(home, client=True)) as server:
        settings = server.settings(client_certificate=True)
        sink = FhirSink(settings, tls_context(settings, client_context(home, "deliver")))

        await sink.send(await composed(sink))

        await sink.close()
        assert len(server.of("DiagnosticReport")) == 1


async def test_a_server_whose_certificate_is_not_trusted_gets_nothing(tmp_path):
    home, _ = new_home(tmp_path / "home")
    with fhir_server(tls=server_tls(home, client=False)) as server:
        plain = server.settings()
        sink = FhirSink(plain, tls_context(plain, None))
        with pytest.raises(Unreachable, match="not trusted") as failure:
            await sink.send(await composed(sink))
        assert failure.value.connected
        await sink.close()

        named = server.settings(ca=str(home.identity / "ca.pem"))
        sink = FhirSink(named, tls_context(named, None))
        await sink.send(await composed(sink))
        await sink.close()
    assert len(server.transactions) == 1


def test_an_authority_that_cannot_be_read_is_an_error_at_the_start(tmp_path):
    with pytest.raises(OSError):
        tls_context(Fhir(name="f", url="https://x", ca=str(tmp_path / "none")), None)
    (tmp_path / "empty").write_text("nothing")
    with pytest.raises(ssl.SSLError):
        tls_context(Fhir(name="f", url="https://x", ca=str(tmp_path / "empty")), None)


async def test_a_connection_is_kept_between_results():
    with fhir_server() as server:
        sink = FhirSink(server.settings())

        assert await sink.open()
        await sink.send(await composed(sink))
        assert not await sink.open()
        await sink.rest()
        assert await sink.open()

        await sink.close()
