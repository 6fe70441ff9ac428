"""Monitoring at scale: thousands of wearables on one machine with the broker and their generator.

    python benchmarks/monitor.py --devices 5000 --seconds 60            one size
    python benchmarks/monitor.py --knee 4000 500                        step up until it does not hold, from 4,000 on by 500
    python benchmarks/monitor.py --peers                                what the same work costs with NeuroKit2, sleepecg and paho

A whole site runs (all roles); `benchmarks/wearables.py` is the load: 250 Hz, one lead, one packet a second each, MQTT over TLS 1.3 with a certificate each.
Latency is taken outside: from the moment the generator handed the packet with the decisive sample to its socket until an operator on the bus has the alarm.
Lost packets: sent by the generator and not counted by the monitor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edgeward.bus import subjects
from edgeward.bus.ports import free_port
from edgeward.bus.role import open_bus
from edgeward.config import load
from edgeward.home import Home
from edgeward.messages import Alarm, RoleState, SiteState
from edgeward.privacy import identity
from edgeward.status import live_ports, with_live_ports

HERE = Path(__file__).parent


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def new_site(folder: Path, devices: int) -> Home:
    home = Home(folder / "home")
    environment = {**os.environ, "EDGEWARD_HOME": str(home.path)}
    subprocess.run([sys.executable, "-m", "edgeward.cli", "init"], env=environment, check=True, capture_output=True)
    ports = set()
    while len(ports) < 7:
        ports.add(free_port(avoid=ports))
    bus, mqtt, dicom, mllp, web, console, _ = ports
    home.settings_file.write_text(
        f"[bus]\nport = {bus}\nmqtt_port = {mqtt}\nmax_connections = 19000\n[dicom]\nport = {dicom}\n[mllp]\nport = {mllp}\n"
        f"[web]\nport = {web}\n[console]\nport = {console}\n"
    )
    names = [f"w{number:05d}" for number in range(devices)]
    began = time.monotonic()
    identity.enrol(
        home, load(home.path).site.name, names, kind="wearable", out=folder / "devices",
        addresses={"mqtt": {"host": "localhost", "port": mqtt}},
    )  # fmt: skip
    say(f"{devices} devices enrolled in {time.monotonic() - began:.0f} s")
    return home


class Watch:
    """Listens as an operator does: alarms, heartbeats."""

    def __init__(self) -> None:
        self.alarms: list[tuple[int, Alarm]] = []
        self.roles: dict[str, RoleState] = {}
        self.site: SiteState | None = None

    async def start(self, home: Home) -> None:
        settings = with_live_ports(load(home.path), live_ports(home))
        self.bus = await open_bus("operator", home, settings, identity.client_context(home, "operator"))
        await self.bus.subscribe(subjects.ALARM_ALL, Alarm, self._alarm)
        await self.bus.subscribe(subjects.ROLE_STATE_ALL, RoleState, self._role)
        await self.bus.flush()

    async def _alarm(self, _: str, alarm: Alarm) -> None:
        self.alarms.append((time.time_ns(), alarm))

    async def _role(self, _: str, state: RoleState) -> None:
        self.roles[state.role] = state


def cpu_of(pids: dict[str, int]) -> dict[str, float]:
    used = {}
    for name, pid in pids.items():
        try:
            times = psutil.Process(pid).cpu_times()
            used[name] = times.user + times.system
        except psutil.Error:
            used[name] = float("nan")
    return used


async def one(home: Home, devices: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run one size on a fresh start of the site."""
    seconds, events = arguments.seconds, arguments.events
    environment = {**os.environ, "EDGEWARD_HOME": str(home.path)}
    site = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgeward.cli", "up", env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    load_process = None
    try:
        assert site.stdout is not None
        async with asyncio.timeout(120):
            line = await site.stdout.readline()
            if not line.startswith(b"console"):
                raise SystemExit(f"the site did not start: {line!r}")
        watch = Watch()
        await watch.start(home)
        async with asyncio.timeout(60):
            while not {"monitor", "gateway"} <= {r for r, s in watch.roles.items() if s.status == "ready"}:
                await asyncio.sleep(0.1)
        out = folder / f"load-{devices}.npz"
        load_process = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "wearables.py"), "--folder", str(folder / "devices"),
            "--port", str(load(home.path).bus.mqtt_port), "--count", str(devices), "--seconds", str(seconds),
            "--events", str(events), "--ectopic", str(arguments.ectopic), "--out", str(out),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert load_process.stdin is not None
        assert load_process.stdout is not None
        async with asyncio.timeout(60 + devices / 20):
            connected = json.loads(await load_process.stdout.readline() or b"{}")
        say(f"{connected} connected")
        await asyncio.sleep(3.0)
        pids = {role: state.pid for role, state in watch.roles.items()}
        for child in psutil.Process(site.pid).children(recursive=True):
            if "nats-server" in child.name():
                pids["broker"] = child.pid
        pids["supervisor"], pids["load"] = site.pid, load_process.pid
        load_process.stdin.write(b"go\n")
        settle = 6
        await asyncio.sleep(settle)
        before, began = cpu_of(pids), time.monotonic()
        await asyncio.sleep(max(1, seconds - settle - 1))
        after, took = cpu_of(pids), time.monotonic() - began
        async with asyncio.timeout(120):  # the load ends by itself, also where it cannot be sent in time
            done = json.loads(await load_process.stdout.readline())
        await asyncio.sleep(4.0)
        monitor = watch.roles["monitor"]
        load_process.stdin.write(b"end\n")
        await load_process.wait()
        truth = np.load(out)
        usage = {name: 100 * (after[name] - before[name]) / took for name in pids}
        return account(watch, monitor, truth, done, usage)
    finally:
        if load_process is not None and load_process.returncode is None:
            load_process.kill()
        if site.returncode is None:
            site.send_signal(signal.SIGINT)
            try:
                async with asyncio.timeout(40):
                    await site.wait()
            except TimeoutError:
                site.kill()


def account(
    watch: Watch, monitor: RoleState, truth: Any, done: dict[str, int], cpu: dict[str, float]
) -> dict[str, Any]:
    names = {str(name): row for row, name in enumerate(truth["names"])}
    sent_ns = truth["sent_ns"]
    rate = 250
    latencies, seen = [], set()
    by_code: dict[str, list[float]] = {}
    for heard_ns, alarm in watch.alarms:
        row = names.get(alarm.device_id)
        if row is None or alarm.state != "raised" or not alarm.present or alarm.technical or alarm.decisive_sample < 0:
            continue
        second = max(0, alarm.decisive_sample - 1) // rate  # it is the end of what was needed
        if second < sent_ns.shape[1] and sent_ns[row, second]:
            latencies.append((heard_ns - sent_ns[row, second]) / 1e6)
            by_code.setdefault(alarm.code, []).append(latencies[-1])
        if alarm.code == "asystole":
            seen.add(row)
    due = {int(row) for row in truth["event_devices"]}
    counters = monitor.counters
    at = sorted(latencies) or [float("nan")]
    return {
        "devices": sent_ns.shape[0],
        "seconds": sent_ns.shape[1],
        "due": int(sent_ns.size),
        "sent": done["sent"],
        "received": counters.get("packets", 0),
        "lost": done["sent"] - counters.get("packets", 0),
        "refused": counters.get("packets_refused", 0),
        "left_out": counters.get("bank_left_out", 0),
        "overloads": counters.get("overloads", 0),
        "behind_ms_at_end": counters.get("behind_ms", 0),
        "hung_up": int(truth["hung"]),
        "connect_s": round(float(truth["connect_s"]), 1),
        "asystoles_due": len(due),
        "asystoles_raised": len(due & seen),
        "alarms_timed": len(latencies),
        "p50_ms": round(at[len(at) // 2], 1),
        "p99_ms": round(at[min(len(at) - 1, int(len(at) * 0.99))], 1),
        "max_ms": round(at[-1], 1),
        "by_code_count_p50_max_ms": {
            code: (len(ms), round(sorted(ms)[len(ms) // 2], 1), round(max(ms), 1))
            for code, ms in sorted(by_code.items())
        },
        "late_alarms": monitor.budgets.get("alarm", 0),
        "load_late_p99_ms": round(float(np.percentile(truth["late_ms"], 99)), 1),
        "cpu_percent": {name: round(value, 1) for name, value in sorted(cpu.items())},
        "memory_mb": {role: round(state.memory_mb) for role, state in sorted(watch.roles.items())},
        "warnings": {role: state.warnings for role, state in watch.roles.items() if state.warnings},
    }


def holds(result: dict[str, Any]) -> bool:
    """Return whether a size meets what is asked: all sent, none lost, every asystole raised, 99 of 100 alarms within 250 ms."""
    sent = result["sent"] == result["due"] and not result["hung_up"]
    kept = result["lost"] == 0 and result["left_out"] == 0
    told = result["asystoles_raised"] == result["asystoles_due"]
    return bool(sent and kept and told and result["p99_ms"] <= 250.0)


# ---------------------------------------- peers


def peers(seconds: float) -> dict[str, Any]:
    """CPU time per patient and second of a window loop: each second the last 10 s of one patient through a detector."""
    import warnings

    import neurokit2 as nk
    import sleepecg

    from edgeward.clinic.monitor.bank import MonitorBank, warm_up
    from wearables import loop_of_ecg

    warnings.simplefilter("ignore")
    ecg = loop_of_ecg()
    millivolts = ecg.astype(np.float64) * 5e-3
    found: dict[str, Any] = {}

    def timed(work: Any) -> float:
        work(0)
        began, count = time.process_time(), 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            work(count)
            count += 1
        return (time.process_time() - began) / count

    def window(number: int) -> np.ndarray:
        first = number * 250 % (millivolts.size - 2500)
        return millivolts[first : first + 2500]

    found["neurokit2, window of 10 s each second"] = timed(lambda n: nk.ecg_peaks(nk.ecg_clean(window(n), 250), 250))
    found["sleepecg, window of 10 s each second"] = timed(lambda n: sleepecg.detect_heartbeats(window(n), 250))

    warm_up()
    bank, patients = MonitorBank(), 500
    for number in range(patients):
        bank.enrol(f"p{number}", rate_hz=250.0, leads=("II",), gain_uv=5.0)

    def ours(second: int) -> None:
        for number in range(patients):
            first = (number * 7919 + second * 250) % (ecg.size - 250)
            bank.push(
                f"p{number}",
                ecg[None, first : first + 250],
                first_sample=second * 250,
                sequence=second,
                received_ns=second * 10**9,
            )
            if number % 20 == 19:  # packets of 4 ms are taken together, as the role does
                bank.process(second * 10**9)

    clock = iter(range(10**9))
    found["Edgeward: beats, classes, rhythm, alarm conditions; streaming"] = (
        timed(lambda _: ours(next(clock))) / patients
    )
    return {name: round(value * 1e6, 1) for name, value in found.items()}


async def paho_pipeline(folder: Path, devices: int, seconds: int) -> dict[str, Any]:
    """Plain Python: one paho subscriber that keeps 10 s per patient and runs sleepecg each second; mosquitto without TLS."""
    port = free_port()
    configuration = folder / "mosquitto.conf"
    configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\n")
    broker = await asyncio.create_subprocess_exec(
        "mosquitto", "-c", str(configuration), stderr=asyncio.subprocess.DEVNULL
    )
    worker = load_process = None
    try:
        await asyncio.sleep(1.0)
        worker = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "monitor.py"), "--paho-worker", str(port), stdout=asyncio.subprocess.PIPE
        )
        assert worker.stdout is not None
        await worker.stdout.readline()
        out = folder / "paho.npz"
        load_process = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "wearables.py"), "--folder", str(folder / "devices"), "--port", str(port), "--plain",
            "--count", str(devices), "--seconds", str(seconds), "--events", "0", "--out", str(out),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert load_process.stdin is not None
        assert load_process.stdout is not None
        await load_process.stdout.readline()
        load_process.stdin.write(b"go\n")
        before, began = cpu_of({"w": worker.pid})["w"], time.monotonic()
        done = json.loads(await load_process.stdout.readline())
        used, took = cpu_of({"w": worker.pid})["w"] - before, time.monotonic() - began
        worker.send_signal(signal.SIGTERM)
        told = json.loads((await worker.stdout.read()).splitlines()[-1])
        load_process.stdin.write(b"end\n")
        await load_process.wait()
        return {"devices": devices, "sent": done["sent"], **told, "cpu_percent": round(100 * used / took, 1)}
    finally:
        for process in (load_process, worker, broker):
            if process is not None and process.returncode is None:
                process.kill()


def paho_worker(port: int) -> int:
    import struct
    from collections import defaultdict

    import paho.mqtt.client as mqtt
    import sleepecg

    buffers: dict[str, list[np.ndarray]] = defaultdict(list)
    lags: list[float] = []
    sleepecg.detect_heartbeats(np.random.default_rng(0).normal(size=2500), 250)

    def on_message(_client: Any, _data: Any, message: Any) -> None:
        (start_ns,) = struct.unpack_from("<q", message.payload, 24)
        kept = buffers[message.topic]
        kept.append(np.frombuffer(message.payload, "<i2", 250, 48) * 5e-3)
        del kept[:-10]
        if len(kept) == 10:
            sleepecg.detect_heartbeats(np.concatenate(kept), 250)
        lags.append((time.time_ns() - start_ns) / 1e6 - 1000.0)

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.subscribe("raw/wave/#")

    def stop(*_: Any) -> None:
        at = sorted(lags) or [0.0]
        told = {
            "processed": len(lags),
            "lag_p50_ms": round(at[len(at) // 2]),
            "lag_p99_ms": round(at[int(len(at) * 0.99)]),
        }
        print(json.dumps(told), flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    client.loop_forever()
    return 0


# ---------------------------------------- together


def table(results: list[dict[str, Any]]) -> None:
    print(
        "| devices | packets sent / lost | alarm p50 / p99 / max ms | asystoles due / raised | CPU % of a core: monitor / broker / recorder / gateway / load | monitor MB |"
    )
    print("|---|---|---|---|---|---|")
    for r in results:
        cpu = r["cpu_percent"]
        print(
            f"| {r['devices']} | {r['sent']} / {r['lost']} | {r['p50_ms']} / {r['p99_ms']} / {r['max_ms']} | {r['asystoles_due']} / {r['asystoles_raised']} | "
            + " / ".join(str(cpu.get(name, "-")) for name in ("monitor", "broker", "recorder", "gateway", "load"))
            + f" | {r['memory_mb'].get('monitor', '-')} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=5000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--events", type=int, default=100, help="asystoles")
    parser.add_argument(
        "--ectopic", type=float, default=0.1, help="share of patients with many ventricular beats (default 0.1)"
    )
    parser.add_argument(
        "--knee",
        type=int,
        nargs=2,
        metavar=("FROM", "STEP"),
        help="step up until a size does not hold, and tell the last that did",
    )
    parser.add_argument("--most", type=int, default=15_000, help="where --knee ends in any case (default 15000)")
    parser.add_argument("--peers", action="store_true", help="only the comparison with peers")
    parser.add_argument("--paho", type=int, default=500, metavar="N", help="devices of the paho pipeline (default 500)")
    parser.add_argument("--paho-worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="write the raw figures to this JSON file")
    arguments = parser.parse_args()
    if arguments.paho_worker:
        return paho_worker(arguments.paho_worker)

    folder = Path(tempfile.mkdtemp(prefix="edgeward-monitor-"))
    raw: dict[str, Any] = {"sizes": []}
    try:
        if arguments.peers:
            raw["cpu_us_per_patient_second"] = peers(5.0)
            new_site(folder, arguments.paho)
            raw["paho"] = asyncio.run(paho_pipeline(folder, arguments.paho, 30))
            print(json.dumps(raw, indent=1))
        else:
            sizes = (
                range(arguments.knee[0], arguments.most + 1, arguments.knee[1])
                if arguments.knee
                else [arguments.devices]
            )
            home = new_site(folder, max(sizes))
            for size in sizes:
                try:
                    result = asyncio.run(one(home, size, arguments, folder))
                except TimeoutError:
                    say(f"{size} devices: the load could not be started or ended in time on this machine")
                    break
                result["holds"] = holds(result)
                say(json.dumps(result))
                raw["sizes"].append(result)
                if arguments.knee and not result["holds"]:
                    break
                for name in ("alarms", "journal"):  # the next size starts without patients
                    for path in home.data.glob(f"{name}.db*"):
                        if name == "alarms":
                            path.unlink()
            table(raw["sizes"])
            if arguments.knee:
                raw["knee"] = max((r["devices"] for r in raw["sizes"] if r["holds"]), default=0)
                print(f"the most that held: {raw['knee']} devices")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(raw, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
