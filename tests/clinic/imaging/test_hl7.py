"""ORU over MLLP to receivers that take it, refuse it, hang, hang up and answer nonsense."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from tests.clinic.imaging.test_fhir_bundle import request
from tests.support.hl7 import END, START, acknowledge, receiver
from tests.support.imaging import breast_image, finding_for
from tests.support.pacs import mute_listener
from tests.support.site import free_port, new_home

from edgeward.clinic.imaging.hl7 import Hl7Sink
from edgeward.clinic.imaging.sink import Interrupted, Rejected, Result, Unreachable, Unsendable
from edgeward.clinic.imaging.source import read_source
from edgeward.config import Hl7
from edgeward.privacy.identity import client_context, server_context

IMAGE = breast_image()


def sink(settings: Hl7, tls=None) -> Hl7Sink:
    return Hl7Sink(settings, "hospital", tls)


async def composed(destination: Hl7Sink, *actions: str, item: str = "item-1") -> Result:
    finding = finding_for(IMAGE, item)
    return await destination.compose(request(finding, *actions), read_source(IMAGE, finding))


async def test_messages_are_taken_and_the_connection_is_kept():
    with receiver() as his:
        destination = sink(his.settings())
        before = time.time_ns()

        for actions in ((), ("confirm",)):
            result = await composed(destination, *actions)
            receipt = await destination.send(result)
            assert before <= receipt.stored_ns <= time.time_ns()
            assert his.received[-1] == result.data

        await destination.close()
    assert his.problems == []
    assert his.connections == 1


async def test_an_image_without_a_patient_id_makes_no_message():
    image = breast_image(PatientID="")
    finding = finding_for(image, "item-1")
    with receiver() as his:
        destination = sink(his.settings())

        with pytest.raises(Unsendable, match="names no patient"):
            await destination.compose(request(finding), read_source(image, finding))

        await destination.close()


@pytest.mark.parametrize("code", ["AA", "CA"])
async def test_both_modes_of_acknowledgement_are_understood(code):
    with receiver(reply=lambda data, n: acknowledge(data, code)) as his:
        destination = sink(his.settings())

        await destination.send(await composed(destination))

        await destination.close()


async def test_a_second_acknowledgement_of_the_same_message_is_passed_over():
    with receiver(reply=lambda data, n: acknowledge(data, "CA") + acknowledge(data, "AA")) as his:
        destination = sink(his.settings())

        for item in ("item-1", "item-2", "item-3"):
            await destination.send(await composed(destination, item=item))

        await destination.close()
        assert his.connections == 1


@pytest.mark.parametrize("code", ["AE", "CE", "AR", "CR"])
async def test_a_refusal_is_told_with_its_codes_and_nothing_else(code):
    def reply(data: bytes, n: int) -> bytes:
        return acknowledge(data, code, error="101^Required field missing^HL70357", text="Muster^Erika")

    with receiver(reply=reply) as his:
        destination = sink(his.settings())

        with pytest.raises(Rejected, match=f"{code}, error 101") as failure:
            await destination.send(await composed(destination))

        await destination.close()
    assert "Muster" not in str(failure.value)


@pytest.mark.parametrize("condition", ["206", "207"])
async def test_trouble_of_the_receivers_own_is_not_a_refusal(condition):
    with receiver(reply=lambda data, n: acknowledge(data, "AE", error=condition)) as his:
        destination = sink(his.settings())

        with pytest.raises(Interrupted, match=condition):
            await destination.send(await composed(destination))

        await destination.close()


@pytest.mark.parametrize(
    "answer",
    [
        START + b"hello" + END,
        START + END,
        START + b"MSH|^~\\&|A|B|C|D|1||ACK|1|P|2.5.1\r" + END,
        START + b"MSH|^~\\&|A|B|C|D|1||ACK|1|P|2.5.1\rMSA|AA\r" + END,
        START + b"MSH\rMSA|AA|x\r" + END,
        b"HTTP/1.1 400 Bad Request\r\n" + b"x" * 200_000,
        START + b"y" * 200_000,
    ],
    ids=["no header", "empty", "no MSA", "no control id", "short header", "another protocol", "no end"],
)
async def test_an_answer_that_is_no_acknowledgement_is_no_success(answer):
    with receiver(reply=lambda data, n: answer) as his:
        destination = sink(his.settings(timeout_s=1.0))

        with pytest.raises(Interrupted):
            await destination.send(await composed(destination))

        await destination.close()


@pytest.mark.parametrize("code", ["", "XX", "aa;"])
async def test_a_code_that_does_not_exist_is_no_success(code):
    with receiver(reply=lambda data, n: acknowledge(data, code)) as his:
        destination = sink(his.settings())

        with pytest.raises(Interrupted):
            await destination.send(await composed(destination))

        await destination.close()


async def test_an_acknowledgement_of_another_message_is_no_success_and_the_connection_is_made_anew():
    with receiver(reply=lambda data, n: acknowledge(data, control="SOMETHING") if n == 0 else acknowledge(data)) as his:
        destination = sink(his.settings())
        result = await composed(destination)

        with pytest.raises(Interrupted, match="another message"):
            await destination.send(result)
        await destination.send(result)

        await destination.close()
        assert his.connections == 2
        assert len(his.latest()) == 1, "the repeat has the same control id"


async def test_one_that_never_acknowledges_is_left_within_the_limit():
    hanging = threading.Event()

    def reply(data: bytes, n: int) -> bytes:
        hanging.wait(20)
        return acknowledge(data)

    with receiver(reply=reply) as his:
        destination = sink(his.settings(timeout_s=0.3))
        try:
            with pytest.raises(Interrupted, match="did not acknowledge"):
                async with asyncio.timeout(10):
                    await destination.send(await composed(destination))
        finally:
            hanging.set()
        await destination.close()


async def test_an_acknowledgement_that_comes_late_is_not_taken_for_the_next_messages():
    free = threading.Event()

    def reply(data: bytes, n: int) -> bytes:
        if n == 0:
            free.wait(20)
        return acknowledge(data)

    with receiver(reply=reply) as his:
        destination = sink(his.settings(timeout_s=0.3))
        with pytest.raises(Interrupted):
            await destination.send(await composed(destination))
        free.set()
        destination._hl7 = his.settings()  # a busy machine may need longer than the time limit above

        await destination.send(await composed(destination, "confirm"))

        await destination.close()


async def test_an_acknowledgement_in_small_pieces_is_put_together():
    async def pieces(reader, writer):
        data = await reader.readuntil(END)
        for byte in acknowledge(data[1:-2]):
            writer.write(bytes([byte]))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(pieces, "127.0.0.1", 0)
    destination = sink(Hl7(name="h", host="127.0.0.1", port=server.sockets[0].getsockname()[1]))

    await destination.send(await composed(destination))

    await destination.close()
    server.close()


async def test_one_that_hangs_up_instead_of_answering():
    with receiver(reply=lambda data, n: None) as his:
        destination = sink(his.settings())

        with pytest.raises(Interrupted, match=r"hung up|broke"):
            await destination.send(await composed(destination))

        await destination.close()
        assert len(his.received) == 1, "a fresh connection that breaks is not tried twice"


async def test_one_that_hangs_up_in_the_middle_of_its_answer():
    async def half(reader, writer):
        data = await reader.readuntil(END)
        writer.write(acknowledge(data[1:-2])[:30])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(half, "127.0.0.1", 0)
    destination = sink(Hl7(name="h", host="127.0.0.1", port=server.sockets[0].getsockname()[1]))

    with pytest.raises(Interrupted, match="middle"):
        await destination.send(await composed(destination))

    await destination.close()
    server.close()


async def test_a_connection_lost_while_idle_costs_no_result():
    with receiver() as his:
        destination = sink(his.settings())
        await destination.send(await composed(destination))
        his.hang_up()

        await destination.send(await composed(destination, "confirm"))

        await destination.close()
        assert his.connections == 2
        assert len(his.latest()) == 2


async def test_one_that_stops_reading_is_left_within_the_limit():
    with mute_listener() as port:
        destination = sink(Hl7(name="h", host="127.0.0.1", port=port, timeout_s=0.5))
        result = await composed(destination)
        big = Result("oru", data=result.data * 5000, identifier=result.identifier)

        with pytest.raises(Interrupted, match="did not acknowledge"):
            async with asyncio.timeout(10):
                await destination.send(big)

        await destination.close()


async def test_nobody_there():
    destination = sink(Hl7(name="h", host="127.0.0.1", port=free_port()))

    with pytest.raises(Unreachable, match="cannot connect") as failure:
        await destination.open()
    assert not failure.value.connected
    assert not await destination.answers()
    await destination.close()


async def test_a_name_that_does_not_resolve():
    destination = sink(Hl7(name="h", host="no-such-host.invalid", port=2575))

    with pytest.raises(Unreachable):
        await destination.open()
    await destination.close()


async def test_over_tls_with_the_sites_certificates(tmp_path):
    home, _ = new_home(tmp_path / "home")
    with receiver(tls=server_context(home, "gateway")) as his:
        destination = sink(his.settings(tls=True), client_context(home, "deliver"))

        await destination.send(await composed(destination))

        await destination.close()
        assert len(his.received) == 1


async def test_a_plain_receiver_where_tls_is_wanted_gets_nothing(tmp_path):
    home, _ = new_home(tmp_path / "home")
    with receiver() as his:
        destination = sink(his.settings(tls=True), client_context(home, "deliver"))

        with pytest.raises(Unreachable):
            async with asyncio.timeout(20):
                await destination.send(await composed(destination))

        await destination.close()
        assert his.received == []
