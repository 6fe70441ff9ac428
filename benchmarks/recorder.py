"""What recording costs: thousands of waveform packets a second over the bus, to the disk, and back as strips.

    python benchmarks/recorder.py --devices 5000 --seconds 30

A bus, the recorder role and a generator, each its own process; packets of one second, one lead, 250 Hz, as a wearable sends them, by the bus itself
(MQTT's share is in benchmarks/monitor.py). CPU is the recorder's own, user and system, by the system's account: it does not change with what else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from edgeward.bedside import Recent, RecentQuery, Strip, StripQuery
from edgeward.bus import permissions, subjects
from edgeward.bus.client import connect
from edgeward.bus.role import bus_url
from edgeward.bus.server import seed_path
from edgeward.config import load
from edgeward.home import Home
from edgeward.messages import Refused, RoleState
from edgeward.privacy import identity

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.arrhythmias import USER, block
from tests.support.site import running_bus

from edgeward.waveform import WaveformPacket, encode


async def generate(home: Home, devices: int, seconds: float) -> None:
    """Send from a process of its own."""
    settings = load(home.root)
    tls = identity.client_context(home, USER)
    bus = await connect(
        bus_url(settings),
        name="devices",
        seed=seed_path(home.keys / "bus", USER).read_text().strip(),
        tls=tls,
        inbox=f"_INBOX_{USER}",
    )
    signals = [block("asystole", variant)[0][:2500] for variant in range(8)]
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 6, 5_000_000).astype(np.int16)  # of each packet its own: nothing in common to compress
    began, sent = time.monotonic(), 0
    for number in range(int(seconds)):
        for device in range(devices):
            if device % 50 == 0:
                await asyncio.sleep(max(0.0, began + number + device / devices - time.monotonic()))
            at = (number * 250 + 17 * device) % 2000
            samples = (
                signals[device % 8][at : at + 250] + noise[(fresh := int(rng.integers(0, 4_999_000))) : fresh + 250]
            ).reshape(1, -1)
            packet = WaveformPacket(
                samples=samples,
                sequence=number,
                first_sample=number * 250,
                start_ns=time.time_ns(),
                rate_hz=250.0,
                gain_uv=1.0,
                leads=("II",),
                lead_off=(False,),
            )
            await bus._client.publish(subjects.wave(f"w{device:05d}"), encode(packet))
            sent += 1
    await bus.flush(30)
    print(json.dumps({"sent": sent, "s": time.monotonic() - began}))
    await bus.close()


async def measure(devices: int, seconds: float, folder: Path) -> dict[str, object]:
    door = permissions.ROLES[USER]
    permissions.ROLES[USER] = permissions.Permissions(
        publish=(*door.publish, subjects.WAVE_ALL), subscribe=door.subscribe
    )
    states: list[RoleState] = []
    async with running_bus(folder / "home") as site:
        environment = {**os.environ, "EDGEWARD_BUS__PORT": str(site.settings.bus.port)}
        operator, monitor = await site.bus("operator"), await site.bus("monitor")

        async def heard(_: str, state: RoleState) -> None:
            states.append(state)

        await operator.subscribe(subjects.role_state("recorder"), RoleState, heard)
        role = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edgeward.cli",
            "_role",
            "recorder",
            "--home",
            str(site.home.root),
            env=environment,
            stderr=asyncio.subprocess.DEVNULL,
        )
        while not (states and states[-1].status == "ready"):
            await asyncio.sleep(0.1)
        process = psutil.Process(role.pid)
        before = process.cpu_times()
        sender = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            "--generate",
            str(site.home.root),
            "--devices",
            str(devices),
            "--seconds",
            str(seconds),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
        )
        told = json.loads((await sender.communicate())[0])
        while states[-1].counters.get("packets", 0) < told["sent"] and time.time_ns() - states[-1].at_ns < 10e9:
            await asyncio.sleep(0.2)
            if len(states) > 4 and len({s.counters.get("packets", 0) for s in states[-4:]}) == 1:
                break
        after = process.cpu_times()
        cpu = after.user + after.system - before.user - before.system
        strips, recent = [], []
        now = time.time_ns()
        for device in range(0, devices, max(1, devices // 20)):
            began = time.perf_counter()
            query = StripQuery(source_id=f"w{device:05d}", start_ns=now - 300 * 10**9, end_ns=now)
            strip = await operator.request(subjects.RECORDER_STRIP, query, Strip | Refused, 30.0)
            assert isinstance(strip, Strip)
            assert strip.channels
            strips.append((time.perf_counter() - began) * 1e3)
        began, after_source = time.perf_counter(), ""
        while True:
            page = await monitor.request(
                subjects.RECORDER_RECENT, RecentQuery(seconds=20, after=after_source), Recent | Refused, 30.0
            )
            recent.append(len(page.packets))
            after_source = page.after
            if not after_source:
                break
        whole = (time.perf_counter() - began) * 1e3
        state = states[-1]
        role.terminate()
        await role.wait()
        size = sum(path.stat().st_size for path in (site.home.data / "recorder").glob("*.rec"))
    received = state.counters.get("packets", 0)
    raw = received * (40 + 8 + 500 + 4)
    return {
        "devices": devices, "sent": told["sent"], "in s": round(told["s"], 1), "recorded": received, "not recorded": state.counters.get("packets_not_recorded", 0),
        "CPU us per packet": round(cpu / max(1, received) * 1e6, 1), "cores at 5000/s": round(cpu / max(1, received) * 5000, 3),
        "bytes per packet": round(size / max(1, received)), "ratio": round(raw / max(1, size), 2), "GB a day at 5000": round(size / max(1, received) * 5000 * 86400 / 1e9),
        "peak memory MB": round(state.peak_memory_mb), "write p50/p99 ms": [round(state.stages["batch/write"].p50_ms), round(state.stages["batch/write"].p99_ms)],
        "strip ms (median)": round(float(np.median(strips)), 1), "all recent packets ms": round(whole), "recent packets": sum(recent), "pages": len(recent),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--generate", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import uvloop

    if arguments.generate:
        uvloop.run(generate(Home(Path(arguments.generate)), arguments.devices, arguments.seconds))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(uvloop.run(measure(arguments.devices, arguments.seconds, Path(folder))), indent=1))


if __name__ == "__main__":
    main()
