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
from edgeward.privacy.registry import Registry


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
    """A door that waits for both, however long that takes."""
    monkeypatch.setattr(mqtt, "NOBODY_S", 600.0)
    monkeypatch.setattr(mqtt, "ONE_S", 600.0)


async def let_in(site: TestSite, folder: Path, device: asyncio.subprocess.Process, text: str) -> None:
    """Wait until a device could send; it tries again if the server lost patience, after 5 s."""
    async with asyncio.timeout(60):
        while await device.wait():
            device = await send(site, folder, text)


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

    await let_in(bus_site, folder, device, "first")
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

    await let_in(bus_site, folder, device, "first")
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


async def connected(site: TestSite, folder: Path) -> asyncio.subprocess.Process:
    """A device that stays."""
    command = [*publisher(site, folder, ""), "-l"]
    del command[command.index("-m") : command.index("-m") + 2]
    return await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.mark.peer
@pytest.mark.parametrize("anew", [False, True])
async def test_a_revoked_device_is_cut_off_also_when_others_come_at_that_moment(bus_site: TestSite, anew: bool) -> None:
    """Each of them has the registry read again, and then its change is no news; nor if its name is given anew."""
    folder = bus_site.enrol("wearable-1")
    context = await bus_site.context("gateway")
    door = await mqtt.start(context)
    device = await connected(bus_site, folder)
    await until(lambda: context.stats.counters.get("mqtt_admitted"))

    Registry(bus_site.home).revoke("wearable-1")
    if anew:
        folder.rename(folder.with_name("wearable-0"))
        bus_site.enrol("wearable-1")
    assert door._registry.refresh()

    await until(lambda: not door._live["wearable-1"])
    await until(lambda: anew or context.stats.counters.get("mqtt_refused"))  # it tries again
    device.kill()
    await device.wait()
    await door.close()


@pytest.mark.peer
@pytest.mark.usefixtures("patient")
async def test_a_device_that_is_revoked_while_it_waits_is_not_let_in(bus_site: TestSite) -> None:
    folder = bus_site.enrol("wearable-1")
    context = await bus_site.context("gateway")
    door = await mqtt.start(context)
    device = await connected(bus_site, folder)
    await until(lambda: door._listeners._waiting)

    Registry(bus_site.home).revoke("wearable-1")
    await listen(bus_site, "recorder")
    await listen(bus_site, "monitor")

    await until(lambda: context.stats.counters.get("mqtt_refused"))
    assert "mqtt_admitted" not in context.stats.counters
    device.kill()
    await device.wait()
    await door.close()
