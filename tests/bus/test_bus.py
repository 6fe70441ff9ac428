"""The bus: who may do what, what survives, what is refused."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
from tests.support.site import TestSite, running_bus

from edgeward.bus import server, subjects
from edgeward.bus.client import NoAnswer
from edgeward.bus.role import open_bus
from edgeward.gateway import mqtt
from edgeward.messages import Ask, Ok, Refused, Viewing
from edgeward.privacy.identity import client_context
from edgeward.privacy.keys import SiteKey, WrongKey
from edgeward.privacy.registry import Registry


async def test_a_request_is_answered_by_the_role_that_serves_it(bus_site: TestSite) -> None:
    gateway, console = await bus_site.bus("gateway"), await bus_site.bus("console")

    async def handler(ask: Ask) -> Ok | Refused:
        return Refused(reason="no") if ask.argument == "bad" else Ok()

    await gateway.serve(subjects.GATEWAY_DEVICES, Ask, handler, subjects.GATEWAYS)
    await gateway.flush()

    assert await console.request(subjects.GATEWAY_DEVICES, Ask(), Ok | Refused, 2.0) == Ok()
    assert await console.request(subjects.GATEWAY_DEVICES, Ask(argument="bad"), Ok | Refused, 2.0) == Refused(
        reason="no"
    )


async def test_a_malformed_request_is_refused_with_a_reason(bus_site: TestSite) -> None:
    gateway, console = await bus_site.bus("gateway"), await bus_site.bus("console")

    async def handler(_: Ask) -> Ok:
        return Ok()

    await gateway.serve(subjects.GATEWAY_DEVICES, Ask, handler)
    await gateway.flush()

    answer = await console.request(subjects.GATEWAY_DEVICES, Viewing(device_ids=[]), Ok | Refused, 2.0)

    assert isinstance(answer, Refused)
    assert "Ask" in answer.reason


async def test_nobody_there_is_told_at_once(bus_site: TestSite) -> None:
    console = await bus_site.bus("console")
    with pytest.raises(NoAnswer):
        await console.request(subjects.GATEWAY_ITEMS, Ask(), Ok, 5.0)


async def test_a_role_cannot_hear_or_say_what_is_not_its_business(bus_site: TestSite) -> None:
    engine, gateway = await bus_site.bus("engine"), await bus_site.bus("gateway")
    heard: list[str] = []
    await engine.subscribe_raw("finding.*", lambda subject, _: heard.append(subject))
    await engine.subscribe_raw("raw.wave.*", lambda subject, _: heard.append(subject))
    await engine.flush()

    await gateway.publish(subjects.finding("item"), Ok())
    await gateway.flush()
    await engine.flush()
    await asyncio.sleep(0.1)
    assert heard == []

    asked: list[str] = []

    async def accept(_: Ask) -> Ok:
        asked.append("accept")
        return Ok()

    deliver = await bus_site.bus("deliver")
    await deliver.serve(subjects.DELIVER_ACCEPT, Ask, accept)
    await deliver.flush()
    with pytest.raises(NoAnswer):
        await engine.request(subjects.DELIVER_ACCEPT, Ask(), Ok, 0.5)
    assert asked == []


async def test_a_wrong_site_key_is_refused_before_anything_starts(tmp_path: Path) -> None:
    async with running_bus(tmp_path / "home") as site:
        home = site.home
    (home.keys / "site.key").write_text("00" * 32)

    with pytest.raises(WrongKey, match="Nothing was started and nothing was changed"):
        SiteKey.load(home)


async def test_the_bus_is_found_again_after_the_server_was_killed(bus_site: TestSite) -> None:
    gateway, console = await bus_site.bus("gateway"), await bus_site.bus("console")

    async def handler(_: Ask) -> Ok:
        return Ok()

    await gateway.serve(subjects.GATEWAY_DEVICES, Ask, handler)
    await gateway.flush()

    await bus_site.kill_bus()
    await bus_site.start_bus()

    async with asyncio.timeout(10):
        while True:
            try:
                assert await console.request(subjects.GATEWAY_DEVICES, Ask(), Ok, 1.0) == Ok()
                break
            except NoAnswer:
                await asyncio.sleep(0.05)


async def test_a_stranger_without_certificate_gets_no_connection(bus_site: TestSite) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(bus_site.home.identity / "ca.pem")
    reader, writer = await asyncio.open_connection("127.0.0.1", bus_site.settings.bus.mqtt_port)

    async def connect() -> None:
        await writer.start_tls(context, server_hostname="localhost")
        await reader.readexactly(1)

    with pytest.raises((ssl.SSLError, ConnectionError, EOFError, asyncio.IncompleteReadError)):
        await connect()


def test_a_missing_binary_is_said_clearly(tmp_path: Path) -> None:
    from edgeward.config import Bus

    with pytest.raises(server.ServerError, match="not an executable"):
        server.find_binary(Bus(server=str(tmp_path / "nothing")))


# ---------------------------------------- devices by MQTT


def mosquitto(site: TestSite, folder: Path, topic: str, *extra: str) -> list[str]:
    return [
        "mosquitto_pub", "-h", "localhost", "-p", str(site.settings.bus.mqtt_port),
        "--cafile", str(folder / "ca.pem"), "--cert", str(folder / "device.pem"), "--key", str(folder / "device.key"),
        "--tls-version", "tlsv1.3", "-t", topic, "-i", folder.name, *extra,
    ]  # fmt: skip


async def run(command: list[str]) -> int:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return await asyncio.wait_for(process.wait(), 20)


@pytest.mark.peer
async def test_an_enrolled_device_publishes_its_own_subject_only(bus_site: TestSite) -> None:
    folder, other = bus_site.enrol("wearable-1"), bus_site.enrol("wearable-2")
    context = await bus_site.context("gateway")
    door = await mqtt.start(context)
    monitor = await bus_site.bus("monitor")
    heard: list[tuple[str, bytes]] = []
    await monitor.subscribe_raw(subjects.WAVE_ALL, lambda subject, data: heard.append((subject, data)))
    await monitor.flush()

    assert await run(mosquitto(bus_site, folder, "raw/wave/wearable-1", "-q", "1", "-m", "own")) == 0
    await run(mosquitto(bus_site, other, "raw/wave/wearable-1", "-m", "forged"))
    assert await run(mosquitto(bus_site, other, "raw/wave/wearable-2", "-q", "1", "-m", "second")) == 0
    await monitor.flush()
    await door.close()

    assert heard == [("raw.wave.wearable-1", b"own"), ("raw.wave.wearable-2", b"second")]


@pytest.mark.peer
async def test_revoking_a_device_cuts_its_live_connection_and_keeps_it_out(bus_site: TestSite) -> None:
    folder = bus_site.enrol("wearable-1")
    context = await bus_site.context("gateway")
    door = await mqtt.start(context)
    process = await asyncio.create_subprocess_exec(
        *mosquitto(bus_site, folder, "raw/wave/wearable-1", "-l"),
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(10):
        while context.stats.counters.get("mqtt_admitted", 0) < 1:
            await asyncio.sleep(0.02)

    Registry(bus_site.home).revoke("wearable-1")

    async with asyncio.timeout(10):
        while context.stats.counters.get("mqtt_refused", 0) < 1:  # cut off, it tries again and is refused
            await asyncio.sleep(0.02)
    process.kill()
    await process.wait()
    assert await run(mosquitto(bus_site, folder, "raw/wave/wearable-1", "-m", "x")) != 0
    await door.close()


async def test_a_device_certificate_does_not_open_the_roles_port(bus_site: TestSite) -> None:
    import nats
    import nats.errors

    folder = bus_site.enrol("wearable-1")
    context = await bus_site.context("gateway")
    door = await mqtt.start(context)
    tls = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    tls.load_cert_chain(folder / "device.pem", folder / "device.key")
    with pytest.raises((nats.errors.Error, OSError)):
        await nats.connect(
            f"tls://127.0.0.1:{bus_site.settings.bus.port}", tls=tls, tls_hostname="localhost", allow_reconnect=False
        )
    await door.close()


async def test_the_store_is_encrypted_and_the_configuration_holds_no_secret(bus_site: TestSite) -> None:
    text = (bus_site.home.nats / "nats.conf").read_text()
    key = SiteKey.load(bus_site.home)
    assert key.jetstream_key() not in text
    assert "cipher: aes" in text
    assert "SU" not in [word[:2] for word in text.split() if len(word) == 58]


async def test_a_missing_seed_is_said_clearly(bus_site: TestSite) -> None:
    from edgeward.bus.client import BusError

    (bus_site.home.keys / "bus" / "engine.nk").unlink()
    with pytest.raises(BusError, match=r"engine\.nk is missing"):
        await open_bus("engine", bus_site.home, bus_site.settings, client_context(bus_site.home, "engine"))
