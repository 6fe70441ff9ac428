"""Thousands of wearables whose broker dies: how long until all are back, and what was lost.

    python benchmarks/reconnect.py [--devices 2000] [--seconds 60] [--json FILE]

Each device is an MQTT client with its own certificate, TLS 1.3 connection and place in the second, and keeps the rules
of docs/protocols/waveform.md: exponential backoff with full jitter, the last five packets from before the break again,
then what it kept, in order. After a third of the time the broker is killed with SIGKILL; the supervisor starts another.
What was lost is counted twice: by the monitor (numbers that never came), and as beds that fell silent for it. All
devices are one process on the site's own cores, so that times are longer than with real ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import ssl
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent))
import monitor as bench
import wearables
from edgeward.config import load

AGAIN = 5
KEPT = 60
BACKOFF_S = (0.5, 15.0)
CONNECT_S = 20.0


class Device:
    """One wearable: what it sends, what it keeps, and how it comes back."""

    def __init__(self, folder: Path, port: int, number: int, fleet: wearables.Fleet) -> None:
        self.folder, self.port, self.number, self.fleet = folder, port, number, fleet
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(folder / "device.pem", folder / "device.key")
        context.load_verify_locations(folder / "ca.pem")
        self.context = context
        self.link: asyncio.StreamWriter | None = None
        self.last: deque[bytes] = deque(maxlen=AGAIN)
        self.kept: deque[bytes] = deque()
        self.dropped = self.refused = 0
        self.back: list[float] = []  # when it was let in

    async def live(self) -> None:
        """Be connected, always."""
        backoff = BACKOFF_S[0]
        while True:
            try:
                async with asyncio.timeout(CONNECT_S):
                    reader, writer = await asyncio.open_connection(
                        "127.0.0.1", self.port, ssl=self.context, server_hostname="localhost"
                    )
                    writer.write(wearables.connect_packet(self.folder.name))
                    answer = await reader.readexactly(4)
                if answer[:1] != b"\x20" or answer[3] != 0:
                    raise ConnectionError("not admitted")
            except (OSError, ssl.SSLError, TimeoutError, asyncio.IncompleteReadError):
                self.refused += 1
                await asyncio.sleep(random.uniform(0.0, backoff))
                backoff = min(BACKOFF_S[1], 2.0 * backoff)
                continue
            backoff = BACKOFF_S[0]
            self.back.append(time.monotonic())
            for data in (*(self.last if len(self.back) > 1 else ()), *self.kept):
                writer.write(data)
            self.last.extend(self.kept)
            self.kept.clear()
            self.link = writer
            try:
                while await reader.read(1024):
                    pass
            except (OSError, ssl.SSLError):
                pass
            self.link = None
            writer.close()

    async def measure(self, began: float, began_ns: int) -> None:
        """Make a packet a second."""
        count = len(self.fleet.names)
        for second in range(self.fleet.seconds):
            await asyncio.sleep(max(0.0, began + second + 1 + self.number / count - time.monotonic()))
            at_ns = began_ns + int((second + self.number / count) * 1e9)
            data = self.fleet.packet(self.number, second, at_ns)
            if self.link is not None and not self.link.is_closing():
                self.link.write(data)
                self.last.append(data)
            else:
                self.dropped += len(self.kept) >= KEPT
                self.kept.append(data)
                while len(self.kept) > KEPT:
                    self.kept.popleft()


async def fleet(arguments: argparse.Namespace) -> None:
    """Be all devices; told to begin by a line, tells what happened by another."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    folders = sorted(path for path in arguments.folder.iterdir() if path.is_dir())[: arguments.devices]
    made = wearables.Fleet([path.name for path in folders], arguments.seconds, 0.0, {}, "raw/wave/{}")
    devices = [Device(path, arguments.port, number, made) for number, path in enumerate(folders)]
    began = time.monotonic()
    lives = [asyncio.ensure_future(device.live()) for device in devices]
    while any(device.link is None for device in devices):
        await asyncio.sleep(0.1)
    print(json.dumps({"connected_s": round(time.monotonic() - began, 1)}), flush=True)
    line = await asyncio.to_thread(sys.stdin.readline)
    assert line
    first = time.monotonic()
    await asyncio.gather(*(device.measure(first, time.time_ns()) for device in devices))
    print(json.dumps({"sent": True}), flush=True)
    killed = float(await asyncio.to_thread(sys.stdin.readline))
    back = np.array([min((at for at in device.back if at > killed), default=np.inf) - killed for device in devices])
    told = {
        "back_s": {f"p{p}": round(float(np.percentile(back, p)), 1) for p in (1, 50, 90, 99, 100)},
        "not_back": int(np.isinf(back).sum()),
        "connections_after": sum(sum(at > killed for at in device.back) for device in devices),
        "refused": sum(device.refused for device in devices),
        "dropped_by_devices": sum(device.dropped for device in devices),
    }
    print(json.dumps(told), flush=True)
    for life in lives:
        life.cancel()


async def site(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start a site and its devices, kill the broker, and count."""
    home = bench.new_site(folder, arguments.devices)
    up = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgeward.cli", "up", env={**os.environ, "EDGEWARD_HOME": str(home.path)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    devices: asyncio.subprocess.Process | None = None
    try:
        assert up.stdout is not None
        async with asyncio.timeout(180):
            if not (await up.stdout.readline()).startswith(b"console"):
                raise SystemExit("the site did not start")
        watch = bench.Watch()
        await watch.start(home)
        async with asyncio.timeout(120):
            while not {"monitor", "gateway", "recorder"} <= {r for r, s in watch.roles.items() if s.status == "ready"}:
                await asyncio.sleep(0.1)
        devices = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--fleet", "--folder", str(folder / "devices"),
            "--port", str(load(home.path).bus.mqtt_port), "--devices", str(arguments.devices),
            "--seconds", str(arguments.seconds),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert devices.stdin is not None
        assert devices.stdout is not None
        async with asyncio.timeout(60 + arguments.devices / 20):
            first = json.loads(await devices.stdout.readline())
        devices.stdin.write(b"go\n")
        await asyncio.sleep(arguments.seconds / 3)
        broker = next(p for p in psutil.Process(up.pid).children(recursive=True) if "nats-server" in p.name())
        killed = time.monotonic()
        broker.send_signal(signal.SIGKILL)
        async with asyncio.timeout(arguments.seconds + 120):
            await devices.stdout.readline()
        await asyncio.sleep(5.0)
        devices.stdin.write(f"{killed}\n".encode())
        result = {**first, **json.loads(await devices.stdout.readline())}
        await devices.wait()
        counters = watch.roles["monitor"].counters
        alarms: dict[str, int] = {}
        for _, alarm in watch.alarms:
            if alarm.state == "raised":
                alarms[alarm.code] = alarms.get(alarm.code, 0) + 1
        result |= {name: counters.get(f"bank_{name}", 0) for name in ("packets", "missing", "refused", "left_out")}
        return result | {"devices": arguments.devices, "due": arguments.devices * arguments.seconds, "alarms": alarms}
    finally:
        if devices is not None and devices.returncode is None:
            devices.kill()
        if up.returncode is None:
            up.send_signal(signal.SIGINT)
            try:
                async with asyncio.timeout(40):
                    await up.wait()
            except TimeoutError:
                up.kill()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--fleet", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fleet:
        asyncio.run(fleet(arguments))
        return 0
    with tempfile.TemporaryDirectory(prefix="edgeward-reconnect-") as folder:
        result = asyncio.run(site(arguments, Path(folder)))
    text = json.dumps(result, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
