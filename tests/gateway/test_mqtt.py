"""The MQTT door opens once somebody takes what devices send."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

import pytest
from tests.support.site import TestSite

from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.gateway import mqtt


def publisher(site: TestSite, folder: Path, text: str) -> list[str]:
    """Return the command of a device that connects, and sends once it is let in."""
    return [
        "mosquitto_pub", "-h", "localhost", "-p", str(site.settings.bus.mqtt_port),
        "--cafile", str(folder / "ca.pem"), "--cert", str(folder / "device.pem"), "--key", str(folder / "device.key"),
        "--tls-version", "tlsv1.3", "-t", f"raw/wave/{folder.name}", "-i", folder.name, "-m", text,
    ]  # fmt: skip


async def send(site: TestSite, folder: Path, text: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *publisher(site, folder, text), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


async def listen(site: TestSite, role: str) -> tuple[Bus, list[bytes]]:
    bus, heard = await site.bus(role), []
    await bus.subscribe_raw(subjects.WAVE_ALL, lambda _, data: heard.append(data))
    await bus.flush()
    return bus, heard


async def until(check, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.01)


@pytest.fixture
def patient(bus_site: TestSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """A door that waits for both for as long as this test takes."""
    monkeypatch.setattr(mqtt, "NOBODY_S", 4.5)
    monkeypatch.setattr(mqtt, "ONE_S", 4.5)


@pytest.mark.peer
@pytest.mark.usefixtures("patient")
async def test_what_a_device_sends_first_after_a_restart_of_the_server_reaches_both_who_take_it(
    bus_site: TestSite,
) -> None:
    # Prepare: the server is killed; the gateway and a device are back before monitor and recorder.
    folder = bus_site.enrol("wearable-1")
    context = await bus_site.context("gateway")
    door = await mqtt.start(context)
    await bus_site.kill_bus()
    await bus_site.start_bus()
    await until(lambda: context.bus.reconnects)

    device = await send(bus_site, folder, "first")
    await asyncio.sleep(0.3)
    assert not context.stats.counters.get("mqtt_admitted"), "nobody would have heard it"
    _, recorded = await listen(bus_site, "recorder")
    _, monitored = await listen(bus_site, "monitor")

    assert await device.wait() == 0
    await until(lambda: recorded and monitored)
    assert recorded == monitored == [b"first"]
    assert "mqtt_admitted_unheard" not in context.stats.counters
    await door.close()


@pytest.mark.peer
@pytest.mark.usefixtures("patient")
async def test_who_stands_by_is_not_taken_for_the_monitor(bus_site: TestSite) -> None:
    folder = bus_site.enrol("wearable-1")
    context = await bus_site.context("gateway")
    context.settings.monitor.standby = True
    door = await mqtt.start(context)
    await listen(bus_site, "recorder")
    await listen(bus_site, "monitor")  # it stands by

    device = await send(bus_site, folder, "first")
    await asyncio.sleep(0.3)
    assert not context.stats.counters.get("mqtt_admitted")
    _, monitored = await listen(bus_site, "monitor")

    assert await device.wait() == 0
    await until(lambda: monitored)
    await door.close()


@pytest.mark.peer
async def test_a_device_is_let_in_though_nobody_listens_but_not_at_once_and_it_is_counted(
    bus_site: TestSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "NOBODY_S", 0.5)
    folder = bus_site.enrol("wearable-1")
    context = await bus_site.context("gateway")
    door = await mqtt.start(context)
    began = time.monotonic()

    device = await send(bus_site, folder, "x")

    assert await device.wait() == 0
    assert time.monotonic() - began >= 0.5
    assert context.stats.counters["mqtt_admitted_unheard"] == 1
    await door.close()


@pytest.mark.peer
async def test_one_of_the_two_is_enough_after_a_while(bus_site: TestSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "NOBODY_S", 4.5)
    folder = bus_site.enrol("wearable-1")
    context = await bus_site.context("gateway")
    door = await mqtt.start(context)
    _, recorded = await listen(bus_site, "recorder")

    assert await (await send(bus_site, folder, "x")).wait() == 0

    await until(lambda: recorded)
    assert "mqtt_admitted_unheard" not in context.stats.counters
    await door.close()
