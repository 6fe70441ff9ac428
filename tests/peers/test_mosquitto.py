"""Mosquitto as a device of the site, as a broker for our wearables, and the published example as a device."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from tests.support.peers import require
from tests.support.site import TestSite, free_port, new_home

from edgeward.bus import subjects
from edgeward.device.wearable import SENT_AGAIN
from edgeward.gateway import mqtt as door
from edgeward.waveform import FLAG_LAST, WaveformPacket, decode, encode

pytestmark = pytest.mark.peer
PAGE = Path(__file__).parents[2] / "docs" / "protocols" / "waveform.md"


def block(language: str) -> str:
    """The one code block of that language on the protocol page."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 1
    return found[0]


# ---------------------------------------- devices that are not ours, at the site's own listener


@pytest.fixture
async def heard(bus_site):
    """The packets that reach the monitor's subject, as (subject, bytes)."""
    packets: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    context = await bus_site.context("gateway")
    mqtt_door = await door.start(context)
    bus = await bus_site.bus("monitor")
    await bus.subscribe_raw(subjects.WAVE_ALL, lambda subject, data: packets.put_nowait((subject, data)))
    await bus.flush()
    yield packets
    await mqtt_door.close()


async def run(*command: object, timeout: float = 30.0) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), timeout)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode, out.decode()


async def publish(folder: Path, file: Path, *, topic: str | None = None, qos: int = 0) -> tuple[int, str]:
    card = json.loads((folder / "device.json").read_text())
    return await run(
        require("mosquitto_pub"), "-h", card["mqtt"]["host"], "-p", card["mqtt"]["port"], "-i", card["device_id"],
        "--cafile", folder / "ca.pem", "--cert", folder / "device.pem", "--key", folder / "device.key",
        "--tls-version", "tlsv1.3", "-V", "mqttv311", "-t", topic or card["mqtt"]["topic"], "-q", qos, "-f", file,
    )  # fmt: skip


@pytest.mark.parametrize("qos", [0, 1])
async def test_mosquitto_pub_is_heard_as_an_enrolled_device(bus_site, heard, tmp_path, qos):
    samples = np.arange(720, dtype=np.int16).reshape(2, 360)
    packet = WaveformPacket(samples, 3, 1080, 10**18, 360.0, 5.0, ("MLII", "V1"), (False, True))
    (tmp_path / "packet").write_bytes(encode(packet))

    code, text = await publish(bus_site.enrol("bed-1"), tmp_path / "packet", qos=qos)

    assert code == 0, text
    subject, data = await asyncio.wait_for(heard.get(), 10)
    assert subject == "raw.wave.bed-1"
    assert np.array_equal(decode(data).samples, samples)
    assert decode(data).lead_off == (False, True)


async def test_a_device_cannot_speak_for_another(bus_site, heard, tmp_path):
    own, other = bus_site.enrol("bed-1"), bus_site.enrol("bed-2")
    (tmp_path / "packet").write_bytes(b"forged")
    (tmp_path / "own").write_bytes(b"own")

    await publish(own, tmp_path / "packet", topic="raw/wave/bed-2")
    await publish(own, tmp_path / "packet", topic="alarm/bed-1")
    await publish(other, tmp_path / "own")

    assert await asyncio.wait_for(heard.get(), 10) == ("raw.wave.bed-2", b"own")
    assert heard.empty()


async def test_a_device_of_another_site_is_not_let_in(bus_site, heard, tmp_path):
    stranger = TestSite(*new_home(tmp_path / "elsewhere"))
    stranger.settings.bus.mqtt_port = bus_site.settings.bus.mqtt_port
    folder = stranger.enrol("bed-1")
    (folder / "ca.pem").write_bytes((bus_site.home.identity / "ca.pem").read_bytes())
    (tmp_path / "packet").write_bytes(b"forged")

    code, _ = await publish(folder, tmp_path / "packet")

    assert code != 0
    assert heard.empty()


async def test_the_published_example_is_a_device_that_works(bus_site, heard, tmp_path):
    (tmp_path / "publish.py").write_text(block("python"))

    code, text = await run(sys.executable, tmp_path / "publish.py", bus_site.enrol("bed-1"))

    assert code == 0, text
    packets = [decode((await asyncio.wait_for(heard.get(), 10))[1]) for _ in range(3)]
    assert [p.sequence for p in packets] == [0, 1, 2]
    assert [p.first_sample for p in packets] == [0, 250, 500]
    assert [p.flags for p in packets] == [0, 0, FLAG_LAST]
    assert packets[2].start_ns - packets[0].start_ns == 2_000_000_000
    assert (packets[0].leads, packets[0].rate_hz) == (("II",), 250.0)


async def test_our_own_ward_is_heard_through_the_site_s_listener(bus_site, heard, tmp_path):
    for number in range(3):
        folder = bus_site.enrol(f"bed-{number}")

    code, text = await run(
        sys.executable, "-m", "edgeward.device.ward", "--devices", folder.parent, "--quiet", "--packet-ms", 500,
        "--for", 4, "--json",
    )  # fmt: skip

    assert code == 0, text
    sent = json.loads(text.splitlines()[-1])
    assert (sent["connections"], sent["failures"]) == (3, 0)
    streams: dict[str, list[WaveformPacket]] = {}
    for _ in range(sent["sent"]):
        subject, data = await asyncio.wait_for(heard.get(), 10)
        streams.setdefault(subject, []).append(decode(data))
    assert sorted(streams) == ["raw.wave.bed-0", "raw.wave.bed-1", "raw.wave.bed-2"]
    assert all(continuous(packets) and packets[-1].flags == FLAG_LAST for packets in streams.values())


def test_the_worked_example_of_the_page_is_what_it_says():
    data = bytes.fromhex(block("hex"))

    packet = decode(data)

    assert encode(packet) == data
    assert (packet.sequence, packet.first_sample, packet.rate_hz, packet.gain_uv) == (7, 2520, 360.0, 5.0)
    assert packet.leads == ("MLII",)
    assert (packet.samples * packet.gain_uv).tolist() == [[0, -200, 1000, -300]]
    assert packet.start_ns == 1_760_000_007 * 10**9


# ---------------------------------------- our ward, at a broker that is not ours


class Broker:
    """A mosquitto with TLS 1.3 and client certificates, and what it hears."""

    def __init__(self, site: TestSite, folder: Path) -> None:
        self.port = site.settings.bus.mqtt_port
        self.roles = site.home.identity / "roles"
        self.authority = site.home.identity / "ca.pem"
        self.heard: dict[str, list[WaveformPacket]] = {}
        self.changed = threading.Condition()
        self.configuration = folder / "mosquitto.conf"
        self.configuration.write_text(
            f"user root\nlistener {self.port} 127.0.0.1\ncafile {self.authority}\n"
            f"certfile {self.roles}/bus.pem\nkeyfile {self.roles}/bus.key\n"
            "require_certificate true\nuse_identity_as_username true\ntls_version tlsv1.3\n"
        )

    @contextmanager
    def open(self) -> Iterator[Broker]:
        process = subprocess.Popen(
            [require("mosquitto"), "-c", self.configuration], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self.roles / "monitor.pem", self.roles / "monitor.key")
        subscribed = threading.Event()
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="monitor")
        client.tls_set_context(context)
        client.on_connect = lambda c, *_: c.subscribe("raw/wave/#")
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = self._message
        client.reconnect_delay_set(1, 1)
        client.connect_async("127.0.0.1", self.port)
        client.loop_start()
        try:
            assert subscribed.wait(20), "mosquitto did not start"
            yield self
        finally:
            client.disconnect()
            client.loop_stop()
            process.kill()
            process.wait()

    def _message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        with self.changed:
            self.heard.setdefault(message.topic.rsplit("/", 1)[-1], []).append(decode(message.payload))
            self.changed.notify_all()

    def wait(self, check, seconds: float = 60.0) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: check(self.heard), seconds), {k: len(v) for k, v in self.heard.items()}


@contextmanager
def ward(site: TestSite, tmp_path: Path, events: list[dict], *more: str) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "events.json").write_text(json.dumps(events))
    process = subprocess.Popen(
        [
            sys.executable, "-m", "edgeward.device.ward", "--devices", str(site.home.root / "devices"),
            "--events", str(tmp_path / "events.json"), "--truth", str(tmp_path / "truth.jsonl"), "--json", *more,
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def site(tmp_path: Path) -> TestSite:
    made = TestSite(*new_home(tmp_path / "home"))
    made.settings.bus.mqtt_port = free_port()
    for number in range(3):
        made.enrol(f"bed-{number}")
    return made


def truth(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]


def continuous(packets: list[WaveformPacket]) -> bool:
    return all(
        b.sequence == a.sequence + 1 and b.first_sample == a.first_sample + a.samples.shape[1]
        for a, b in pairwise(packets)
    )


def test_a_ward_sends_unbroken_streams_and_says_goodbye(site, tmp_path):
    broker = Broker(site, tmp_path)
    with broker.open(), ward(site, tmp_path, [], "--packet-ms", "250") as process:
        broker.wait(lambda heard: len(heard) == 3 and all(len(p) >= 8 for p in heard.values()))
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        broker.wait(lambda heard: all(p[-1].flags == FLAG_LAST for p in heard.values()))

    assert process.returncode == 0
    assert json.loads(out)["sent"] == sum(len(p) for p in broker.heard.values())
    for packets in broker.heard.values():
        assert packets[0].sequence == packets[0].first_sample == 0
        assert continuous(packets)
        assert all(p.samples.shape == (1, 90) and p.rate_hz == 360.0 and p.leads == ("MLII",) for p in packets[:-1])
    firsts = [p[0].samples for p in broker.heard.values()]
    assert not np.array_equal(firsts[0], firsts[1]), "each patient is at another place of the recording"


@contextmanager
def relay(port: int, target: int) -> Iterator[None]:
    """The radio between devices and broker: while this is open there is one."""
    listener = socket.create_server(("127.0.0.1", port))
    open_sockets: list[socket.socket] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", target))
                open_sockets.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        for one in (listener, *open_sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_what_was_sampled_out_of_reach_comes_afterwards_in_order(site, tmp_path):
    broker = Broker(site, tmp_path)
    radio = free_port()
    for path in (site.home.root / "devices").glob("*/device.json"):
        card = json.loads(path.read_text())
        card["mqtt"]["port"] = radio
        path.write_text(json.dumps(card))
    with broker.open(), ward(site, tmp_path, [], "--packet-ms", "250"):
        with relay(radio, broker.port):
            broker.wait(lambda heard: len(heard) == 3)
        time.sleep(2.0)  # the outage
        with relay(radio, broker.port):
            broker.wait(lambda heard: all(p[-1].sequence >= 24 for p in heard.values()))

    for packets in broker.heard.values():
        # The last ones before the outage come again: at QoS 0 nobody says whether they arrived.
        numbers = list(dict.fromkeys(p.sequence for p in packets))
        assert len(packets) - len(numbers) <= SENT_AGAIN
        assert numbers == sorted(numbers), "the buffer before what is new"
        # What was on its way when the link broke may be lost; 2 s were not.
        assert max(b - a for a, b in pairwise(numbers)) <= 4
        assert all(p.start_ns == packets[0].start_ns + round(p.first_sample * 1e9 / 360) for p in packets)


def test_each_connection_event_looks_to_the_site_as_it_should(site, tmp_path):
    events = [
        {"device": "bed-0", "kind": "stop", "at_s": 2, "for_s": 2},
        {"device": "bed-1", "kind": "abort", "at_s": 2, "for_s": 2},
        {"device": "bed-2", "kind": "loss", "at_s": 2, "for_s": 1},
        {"device": "bed-2", "kind": "freeze", "at_s": 5, "for_s": 1},
    ]
    broker = Broker(site, tmp_path)
    with broker.open(), ward(site, tmp_path, events, "--packet-ms", "250"):
        broker.wait(
            lambda heard: (
                len(heard) == 3
                and sum(p.sequence == 0 for p in heard["bed-0"]) == 2
                and heard["bed-1"][-1].sequence >= 20
                and heard["bed-2"][-1].sequence >= 24
            )
        )

    stopped, aborted, lossy = (broker.heard[f"bed-{n}"] for n in range(3))
    restart = next(n for n, p in enumerate(stopped) if n and p.sequence == 0)
    assert stopped[restart].first_sample == 0, "a device switched on again starts a new stream"
    assert stopped[restart - 1].flags == 0, "it did not say goodbye"
    assert stopped[restart].start_ns - stopped[restart - 1].start_ns > 1.9e9
    assert continuous(stopped[:restart])
    assert continuous(aborted) or len(aborted) >= aborted[-1].sequence, "at most what was on its way is missing"
    gaps = [
        (b.sequence - a.sequence - 1, b.first_sample - a.first_sample - 90)
        for a, b in pairwise(lossy)
        if not continuous([a, b])
    ]
    assert [(numbers > 0, samples > 0) for numbers, samples in gaps] == [(True, True), (False, True)]
    rows = truth(tmp_path)
    assert {(r["event"], r["phase"]) for r in rows} >= {
        ("stop", "onset"), ("stop", "end"), ("abort", "onset"), ("abort", "end"), ("loss", "onset"), ("loss", "decisive"),
    }  # fmt: skip
    back = next(r for r in rows if r["event"] == "loss" and r["phase"] == "decisive")
    assert back["sample"] in {p.first_sample for p in lossy}


def test_the_truth_log_names_the_packet_that_carried_the_event(site, tmp_path):
    broker = Broker(site, tmp_path)
    events = [{"device": 1, "kind": "lead_off", "at_s": 1.1, "for_s": 2}]
    with broker.open(), ward(site, tmp_path, events):
        broker.wait(lambda heard: len(heard.get("bed-1", ())) >= 5)

    onset = next(r for r in truth(tmp_path) if r["phase"] == "onset")
    flagged = next(p for p in broker.heard["bed-1"] if p.lead_off[0])
    assert onset["device"] == "bed-1"
    assert flagged.first_sample <= onset["sample"] < flagged.first_sample + 360
    assert onset["sent_ns"] >= flagged.start_ns + 10**9, "a packet is sent once its last sample is taken"
