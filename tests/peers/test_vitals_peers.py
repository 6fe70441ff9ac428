"""Numerics from programs that are not ours, through the running gateway and monitor: mosquitto_pub, a plain socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import cbor2
import httpx
import pytest
from tests.gateway.door import tls_of
from tests.gateway.pcd01 import obr, obx, oru, pid, pv1
from tests.gateway.test_fhir_vitals import observation
from tests.gateway.test_role import gateway
from tests.support.peers import require
from tests.support.site import TestSite, running_bus

from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.clinic.monitor import role as monitor
from edgeward.messages import Bed, Beds, VitalState

pytestmark = pytest.mark.peer


class Site:
    """The two roles, and somebody who looks at the beds."""

    def __init__(self, site: TestSite, operator: Bus) -> None:
        self.site, self.operator = site, operator
        self.beds: dict[str, Bed] = {}
        self.published: list[list[str]] = []

    async def hear(self, _: str, beds: Beds) -> None:
        self.published.append([bed.bed_id for bed in beds.beds])
        self.beds |= {bed.bed_id or bed.device_id: bed for bed in beds.beds}

    def vital(self, bed_id: str, parameter: str) -> VitalState | None:
        bed = self.beds.get(bed_id)
        return next((one for one in bed.vitals if one.parameter == parameter), None) if bed else None

    def value(self, bed_id: str, parameter: str) -> float | None:
        found = self.vital(bed_id, parameter)
        return None if found is None or found.stale else found.value

    async def until(self, check: Callable[[], object], seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not check():
                await asyncio.sleep(0.02)

    async def publish(self, folder: Path, payload: bytes, *, topic: str = "") -> tuple[int, str]:
        card = json.loads((folder / "device.json").read_text())
        file = folder / "payload"
        file.write_bytes(payload)
        process = await asyncio.create_subprocess_exec(
            str(require("mosquitto_pub")), "-h", "localhost", "-p", str(card["mqtt"]["port"]), "-i", f"{folder.name}-v",
            "--cafile", str(folder / "ca.pem"), "--cert", str(folder / "device.pem"), "--key", str(folder / "device.key"),
            "--tls-version", "tlsv1.3", "-V", "mqttv311", "-q", "1", "-f", str(file),
            "-t", topic or f"raw/vital/{folder.name}",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
        return process.returncode or 0, out.decode()


@pytest.fixture
async def site(bus_site: TestSite) -> AsyncIterator[Site]:
    async with running(bus_site) as found:
        yield found


@contextlib.asynccontextmanager
async def running(bus_site: TestSite) -> AsyncIterator[Site]:
    async with gateway(bus_site) as console:
        context = await bus_site.context("monitor")
        task = asyncio.create_task(monitor.run(context))
        found = Site(bus_site, console)
        await console.subscribe(subjects.STATE_BEDS, Beds, found.hear)
        await console.flush()
        async with asyncio.timeout(90):
            while context._status != "ready":
                if task.done():
                    task.result()
                await asyncio.sleep(0.02)
        try:
            yield found
        finally:
            context.stopping.set()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def send_hl7(folder: Path | None, port: int, text: str) -> str:
    """A plain MLLP client: a socket, TLS where it has a certificate, and the four bytes."""
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(socket.create_connection(("localhost", port), 20))
        if folder is not None:
            context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
            context.load_cert_chain(folder / "device.pem", folder / "device.key")
            link = stack.enter_context(context.wrap_socket(link, server_hostname="localhost"))
        link.sendall(b"\x0b" + text.encode() + b"\x1c\x0d")
        answer = b""
        while not answer.endswith(b"\x1c\x0d"):
            answer += link.recv(4096)
    return answer[1:-2].decode().split("\rMSA|")[1].split("|")[0]


async def test_each_way_in_ends_at_a_bed(site):
    sensor, hl7, emr = (site.site.enrol(*one) for one in (("bed-1", "monitor"), ("gw", "monitor"), ("emr1", "emr")))
    pack = [{"bn": "x/", "n": "spo2", "u": "%", "v": 97}, {"n": "MDC_TEMP_CORE", "u": "K", "v": 310.15}]
    labels = {"bn": -2, "n": 0, "u": 1, "v": 2}
    more = [
        {labels[name]: value for name, value in record.items()}
        for record in [{"bn": "y:", "n": "9279-1", "u": "1/min", "v": 14}]
    ]
    for payload in (json.dumps(pack).encode(), cbor2.dumps(more)):
        code, text = await site.publish(sensor, payload)
        assert code == 0, text
    stamp = time.strftime("%Y%m%d%H%M%S+0000", time.gmtime())
    text = oru(
        pid("1"), pv1("ICU^1^1"), obr(stamp), obx("spo2", 93), obx("hr", -999), obx("sys", 16, unit="265987^MDC_DIM_KILO_PASCAL^MDC"),
        pid("2"), pv1("ICU^1^2"), obr(stamp), obx("spo2", 95), at=stamp,
    )  # fmt: skip
    assert await asyncio.to_thread(send_hl7, hl7, site.site.settings.mllp.port, text) == "CA"
    base = f"https://127.0.0.1:{site.site.settings.web.port}/fhir"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    async with httpx.AsyncClient(base_url=base, verify=tls_of(emr), trust_env=False, timeout=20) as web:
        answer = await web.post("/Observation", json=observation("8310-5", 98.6, "[degF]", effectiveDateTime=now))
        assert answer.status_code == 201

    await site.until(lambda: site.value("bed-1", "respiratory_rate") == 14)
    await site.until(lambda: (site.value("bed-1", "spo2"), site.value("bed-1", "temperature")) == (97, 37.0))
    await site.until(lambda: (site.value("gw-ICU-1-1", "spo2"), site.value("gw-ICU-1-2", "spo2")) == (93, 95))
    await site.until(lambda: site.value("emr1-MON7", "temperature") is not None)

    assert site.value("gw-ICU-1-1", "nibp_systolic") == pytest.approx(120.01, abs=0.01)
    assert site.value("gw-ICU-1-1", "heart_rate") is None, "-999 is no heart rate"
    assert site.value("emr1-MON7", "temperature") == pytest.approx(37.0)
    assert site.beds["gw-ICU-1-1"].label == "ICU 1 1"
    assert "4711" not in repr(site.beds)


async def test_a_listed_system_without_tls_is_heard_and_stays(tmp_path):
    exception = {"name": "old-monitors", "address": "127.0.0.1"}
    async with running_bus(tmp_path / "home", mllp={"legacy": [exception]}) as bus_site, running(bus_site) as site:
        text = oru(pid("1"), pv1("ICU^1^1"), obr(""), obx("temp", 36.6), at="")
        port = site.site.settings.mllp.legacy_port
        assert await asyncio.to_thread(send_hl7, None, port, text) == "CA"
        await site.until(lambda: site.value("old-monitors-ICU-1-1", "temperature") == 36.6)
        site.site.enrol("another", "monitor")  # the registry changes: who is heard is looked at anew
        seen = len(site.published)
        await site.until(lambda: len(site.published) > seen + 3)
        assert "old-monitors-ICU-1-1" in site.published[-1]


async def test_a_device_publishes_for_itself_alone_and_a_wrong_pack_is_told(site):
    one, two = site.site.enrol("bed-1", "monitor"), site.site.enrol("bed-2", "monitor")
    good = json.dumps([{"n": "spo2", "u": "%", "v": 91}]).encode()
    await site.publish(one, good, topic="raw/vital/bed-2")  # MQTT 3.1.1 gives no reason, it is dropped
    assert (await site.publish(two, b'[{"n": "spo2", "v": 97'))[0] == 0
    assert (await site.publish(two, good.replace(b"91", b"96")))[0] == 0
    await site.until(lambda: site.value("bed-2", "spo2") == 96)
    assert "bed-1" not in site.beds
