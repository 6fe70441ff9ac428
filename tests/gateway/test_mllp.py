"""Every HL7 message is answered, only by whom we know, and nothing that arrives disturbs anybody else."""

from __future__ import annotations

import asyncio
import random
import ssl
from pathlib import Path

import pytest
from tests.gateway.door import tls_of
from tests.gateway.hl7_door import open_door, orm

from edgeward.gateway import doorstep, mllp
from edgeward.privacy.registry import Registry

DATA = Path(__file__).parents[3] / "shared" / "data" / "hl7"


async def test_an_order_is_accepted_and_kept(tmp_path):
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")

        ack = await door.ask(folder, orm(message_id="MSG-1"))

        assert (ack.code, ack.control_id) == ("AA", "MSG-1")
        assert ack.parsed.msh.msh_3.value == "EDGEWARD"
        assert ack.parsed.msh.msh_5.value == "HIS"
        assert ack.parsed.msh.msh_9.value == "ACK^O01^ACK"
        [entry] = door.book.steps()
        assert entry.order.patient_name == "Muster^Erika"
        assert entry.order.source == "his"


async def test_many_messages_on_one_connection_are_answered_in_order(tmp_path):
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")
        async with door.connect(folder) as client:
            for number in range(30):
                client.send(orm(number=f"P{number}", accession=f"A{number}", message_id=f"M{number}"))

            answers = [await client.answer() for _ in range(30)]

        assert [ack.control_id for ack in answers] == [f"M{number}" for number in range(30)]
        assert {ack.code for ack in answers} == {"AA"}
        assert len(door.book.steps()) == 30


async def test_many_connections_at_once(tmp_path):
    async with open_door(tmp_path) as door:
        folders = [door.site.enrol(f"his-{n}", "emr") for n in range(3)]

        answers = await asyncio.gather(
            *(door.ask(folders[n % 3], orm(number=f"P{n}", accession=f"A{n}")) for n in range(24))
        )

        assert {ack.code for ack in answers} == {"AA"}
        assert len(door.book.steps()) == 24


async def test_noise_line_feeds_and_missing_carriage_returns_are_tolerated(tmp_path):
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")
        async with door.connect(folder) as client:
            text = orm(message_id="M1").replace("\r", "\r\n").encode()
            client.writer.write(b"\r\n\0" + b"\x0b" + text + b"\x1c")  # no CR

            assert (await client.answer()).code == "AA"
            assert (await client.ask(orm(message_id="M2"))).control_id == "M2"


@pytest.mark.parametrize(
    ("declared", "codec", "name"),
    [("UNICODE UTF-8", "utf-8", "Müller^Zoë"), ("8859/1", "latin-1", "Müller^Zoë"), ("", "latin-1", "Müller^Zoë"),
     ("GB 18030-2000", "gb18030", "王^小明")],
)  # fmt: skip
async def test_names_arrive_in_the_character_set_that_is_declared(tmp_path, declared, codec, name):
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")
        text = orm(name=name, msh=f"|P|2.5.1||||||{declared}")

        assert (await door.ask(folder, text.encode(codec))).code == "AA"

        assert door.book.steps()[0].order.patient_name == name


# ---------------------------------------- what is refused, and how it is told


@pytest.mark.parametrize(
    ("text", "code", "error", "where"),
    [
        (orm().replace("ORM^O01^ORM_O01", "QRY^A19"), "AR", "200", "MSH-9"),
        (orm().replace("ORM^O01^ORM_O01", "ORM^O99"), "AR", "201", "MSH-9"),
        (orm().replace("ORM^O01^ORM_O01", "ADT^A60"), "AR", "201", "MSH-9"),
        (orm(msh="|P|3.0"), "AR", "203", "MSH-12"),
        (orm(pid=""), "AE", "101", "PID-3"),
        (orm(name=""), "AE", "101", "PID-5"),
        (orm(control=""), "AE", "101", "ORC-1"),
        (orm(control="QQ"), "AE", "103", "ORC-1"),
        (orm(number="", accession=""), "AE", "101", "ORC-2"),
        (orm(accession="A" * 17), "AE", "102", "OBR-18"),
        (orm(more=("ZDS|1.2.x^HIS^Application^DICOM",)), "AE", "102", "ZDS-1"),
        (orm().split("ORC|")[0], "AE", "100", "ORC-None"),
        (orm().split("OBR|")[0], "AE", "100", "OBR-None"),
        (orm(control="SC", status="??"), "AE", "103", "ORC-5"),
    ],
)  # fmt: skip
async def test_a_message_that_cannot_be_used_is_answered_with_the_place_and_set_aside(
    tmp_path, text, code, error, where
):
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")

        ack = await door.ask(folder, text)

        assert (ack.code, ack.error) == (code, error)
        assert ack.where.replace("-", "-None") == where if where.endswith("None") else ack.where == where
        for secret in ("Muster", "Erika", "4711", "19640812"):
            assert secret not in ack.text
            assert secret not in " ".join(door.reasons())
        assert door.reasons()
        assert not door.book.steps()


async def test_an_older_sender_gets_its_error_in_the_older_form(tmp_path):
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")

        ack = await door.ask(folder, orm(name="", msh="|P|2.3.1"))

        assert "\rERR|PID^1^5^101&Required field missing&HL70357\r" in ack.text
        assert "MSA|AE|" in ack.text
        assert ack.parsed.msh.msh_12.value == "2.3.1"


@pytest.mark.parametrize("version", ["2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.8.2", "2.9", "2", "", "2.5^DEU"])
async def test_versions_that_can_be_read_are_taken(tmp_path, version):
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")
        async with door.connect(folder) as client:
            client.send(orm(msh=f"|P|{version}"))
            async with asyncio.timeout(10):
                assert b"MSA|AA|" in await client.reader.readuntil(b"\x1c\r")


@pytest.mark.parametrize(
    ("accept", "application", "good", "bad"),
    [("", "", "AA", "AE"), ("AL", "NE", "CA", "CE"), ("NE", "AL", "AA", "AE"), ("AL", "AL", "AA", "AE"),
     ("ER", "NE", None, "CE"), ("NE", "NE", None, None), ("SU", "NE", "CA", None)],
)  # fmt: skip
async def test_the_acknowledgement_is_the_one_that_is_asked_for(tmp_path, accept, application, good, bad):
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")
        msh = f"|P|2.5.1|||{accept}|{application}"
        async with door.connect(folder) as client:
            client.send(orm(msh=msh))
            client.send(orm(name="", msh=msh))
            client.send(orm(message_id="LAST"))

            expected = [code for code in (good, bad) if code]
            answers = [await client.answer() for _ in range(len(expected) + 1)]

        assert [ack.code for ack in answers] == [*expected, "AA"]
        assert answers[-1].control_id == "LAST"


@pytest.mark.parametrize(
    "data",
    [b"", b"\r", b"MSH", b"hello", b"MSH|^~\\&|HIS|H|||2026||ORM^O01|MSG-7|P|2.5\rErika Muster\r", b"\xff\xfe\x00",
     b"PID|1||4711||Erika"],
)  # fmt: skip
async def test_what_is_not_hl7_is_rejected_and_the_connection_goes_on(tmp_path, data):
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")
        async with door.connect(folder) as client:
            ack = await client.ask(data)

            assert ack.code == "AR"
            assert ack.error == "100"
            if b"MSG-7" in data:
                assert ack.control_id == "MSG-7"
            assert "Erika" not in ack.text + " ".join(door.reasons())
            assert (await client.ask(orm())).code == "AA"


async def test_batches_and_bundled_messages_are_rejected(tmp_path):
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")

        batch = await door.ask(folder, "FHS|^~\\&|HIS\rBHS|^~\\&|HIS\r" + orm() + "BTS|1\rFTS|1\r")
        two = await door.ask(folder, orm() + orm(number="P2"))

        assert batch.code == two.code == "AR"
        assert not door.book.steps()


async def test_device_messages_are_told_that_their_type_is_not_taken(tmp_path):
    if not DATA.is_dir():
        return  # real examples are read where they are present
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("gate", "monitor")
        for path in sorted(DATA.glob("pcd0*.hl7")):
            async with door.connect(folder) as client:
                client.send(path.read_bytes())
                async with asyncio.timeout(10):
                    answer = await client.reader.readuntil(b"\x1c\r")
            assert b"MSA|CR|" in answer, path.name
            assert b"Robert" not in answer


# ---------------------------------------- who may come in


async def test_only_systems_that_speak_hl7_come_in(tmp_path):
    async with open_door(tmp_path) as door:
        for name, kind in (("watch", "wearable"), ("us1", "ultrasound")):
            folder = door.site.enrol(name, kind, ae_title="US1" if kind == "ultrasound" else "")
            async with door.connect(folder) as client:
                assert await client.closed()
        async with door.connect(door.site.enrol("gate", "other")) as client:
            assert (await client.ask(orm())).code == "AA"

        assert sum("does not speak HL7" in reason for reason in door.reasons()) == 2


async def test_without_a_certificate_of_this_site_nobody_comes_in(tmp_path):
    from tests.support.site import TestSite, new_home

    async with open_door(tmp_path / "a") as door:
        stranger = TestSite(*new_home(tmp_path / "b")).enrol("his", "emr")
        bare = ssl.create_default_context()
        bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
        foreign = tls_of(stranger)
        foreign.verify_mode = ssl.CERT_NONE
        old = tls_of(door.site.enrol("his", "emr"))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        for context in (bare, foreign, old, None):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", door.mllp.ports["tls"], ssl=context)
                writer.write(b"\x0b" + orm().encode() + b"\x1c\r")
                async with asyncio.timeout(20):
                    assert not await reader.read()
                writer.close()
            except (OSError, ssl.SSLError):
                pass

        assert not door.book.steps()
        assert door.reasons()


async def test_a_revoked_system_is_cut_off_while_connected(tmp_path):
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")
        async with door.connect(folder) as client:
            assert (await client.ask(orm())).code == "AA"

            Registry(door.site.home).revoke("his")

            assert await client.closed()
        async with door.connect(folder) as client:
            assert await client.closed()
        assert any("revoked" in reason for reason in door.reasons())


async def test_the_plain_door_opens_for_listed_addresses_only(tmp_path):
    async with open_door(tmp_path / "a", legacy=[{"name": "old-his", "address": "127.0.0.1"}]) as door:
        ack = await door.ask(None, orm())

        assert ack.code == "AA"
        assert door.book.steps()[0].order.source == "old-his"
        assert "old-his" in door.mllp.warnings()[0]
    async with open_door(tmp_path / "b", legacy=[{"name": "old-his", "address": "192.0.2.1"}]) as door:
        async with door.connect(None) as client:
            client.send(orm())
            assert await client.closed()
        assert not door.book.steps()
    async with open_door(tmp_path / "c") as door:
        assert "plain" not in door.mllp.ports


# ---------------------------------------- bounds


async def test_a_message_that_is_too_large_is_rejected_and_ends_the_connection(tmp_path):
    async with open_door(tmp_path, max_message_kb=8) as door:
        folder = door.site.enrol("his", "emr")
        async with door.connect(folder) as client:
            client.writer.write(b"\x0b" + b"x" * 20_000)
            assert (await client.answer()).code == "AR"
            assert await client.closed()
        assert (await door.ask(folder, orm())).code == "AA"


async def test_idle_and_trickling_connections_end(tmp_path, monkeypatch):
    monkeypatch.setattr(mllp, "_MESSAGE_S", 0.3)
    async with open_door(tmp_path, idle_timeout_s=2) as door:
        folder = door.site.enrol("his", "emr")
        async with door.connect(folder) as trickling, door.connect(folder) as idle:
            trickling.writer.write(b"\x0bMSH|")  # at once: a message that was not begun in time is another reason

            async def trickle() -> None:
                while not trickling.reader.at_eof():
                    trickling.writer.write(b"x")
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(trickle())
            assert await idle.closed()
            assert await trickling.closed()
            dripping.cancel()
        monkeypatch.setattr(doorstep, "HANDSHAKE_S", 0.3)  # too short for the handshakes that are to succeed
        mute_reader, mute = await asyncio.open_connection("127.0.0.1", door.mllp.ports["tls"])
        async with asyncio.timeout(20):
            assert not await mute_reader.read()
        mute.close()
        assert any("not finished" in reason for reason in door.reasons())
        assert door.mllp.connections == 0


async def test_connections_are_limited_per_system(tmp_path):
    async with open_door(tmp_path, max_connections=6) as door:
        greedy, other = door.site.enrol("greedy", "emr"), door.site.enrol("his", "emr")
        held = []
        for _ in range(5):
            manager = door.connect(greedy)
            held.append((manager, await manager.__aenter__()))
        served = []
        for _, client in held:
            client.send(orm())
            async with asyncio.timeout(20):
                try:
                    served.append(bool(await client.reader.readuntil(b"\x1c\r")))
                except (asyncio.IncompleteReadError, OSError):
                    served.append(False)

        assert sum(served) == 3
        assert (await door.ask(other, orm())).code == "AA"
        for manager, _ in held:
            await manager.__aexit__(None, None, None)


async def test_mutated_messages_are_answered_one_by_one(tmp_path, campaign):
    rng = random.Random(1)
    base = orm(more=("ZDS|1.2.3^HIS^Application^DICOM", "NTE|1||note", "IPC|A1|R1|1.2.3|S1|US")).encode()
    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")
        async with door.connect(folder) as client:
            for _ in range(20_000 if campaign else 300):
                data = bytearray(base)
                for _ in range(rng.randint(1, 20)):
                    at = rng.randrange(len(data))
                    match rng.randrange(3):
                        case 0:
                            data[at] = rng.randrange(256)
                        case 1:
                            del data[at : at + rng.randrange(30)]
                        case _:
                            data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(30)]
                client.send(bytes(data).translate(None, b"\x0b\x1c").replace(b"|NE", b"|AL"))
                async with asyncio.timeout(20):
                    assert b"MSA|" in await client.reader.readuntil(b"\x1c\r")
        assert (await door.ask(folder, orm(number="P-last", accession="LAST", pid="1"))).code == "AA"
        text = " ".join(door.reasons())
        assert "Muster" not in text


async def test_a_disk_that_fails_is_a_reason_to_send_again(tmp_path, monkeypatch):
    from edgeward.privacy.database import DatabaseFull

    async with open_door(tmp_path) as door:
        folder = door.site.enrol("his", "emr")

        def full(*_):
            raise DatabaseFull("full")

        with monkeypatch.context() as patched:
            patched.setattr(door.book, "apply", full)
            ack = await door.ask(folder, orm())
        assert (ack.code, ack.error) == ("AE", "207")
        assert "send it again" in ack.text
        assert (await door.ask(folder, orm())).code == "AA"


def test_a_control_id_is_seen_even_in_what_cannot_be_parsed():
    assert mllp._control_id(b"MSH|^~\\&|a|b|c|d|e||ORM^O01|X-1|P|2.5\rbad") == "X-1"
    assert mllp._control_id(b"MSH|^~\\&|a|b|c|d|e||ORM^O01|Erika Muster|P|2.5\rbad") == ""
    assert mllp._control_id(b"nothing") == ""
