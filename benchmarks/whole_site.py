"""The whole site under load on one machine: `make bench`.

Runs `edgeward demo` with 200 wearables and 2 images a second, and measures from outside:
image path (last byte received -> confirmed by every destination), alarm path (decisive sample received -> heard by an operator on the bus), misses and losses, start-up cold and warm, memory per role, idle CPU.
Beside it, in the same run: Orthanc's start-up, memory and idle CPU, as the nearest single-purpose server that a hospital would run.

Alarms that are "late" are those of simulated devices that were out of reach (`abort` in ``edgeward.device.schedule``): they send up to
30 s of signal when they are back, and an alarm in it says by how much it is late. The monitor raises it within milliseconds.

Prints a table for docs/benchmarks.md and writes the raw figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil


def demo(seconds: float, beds: int, rate: float, home: Path | None = None) -> dict[str, Any]:
    """Run the demonstration and return its account."""
    command = [
        sys.executable, "-m", "edgeward.cli", "demo", "--for", f"{seconds:g}", "--beds", str(beds),
        "--images-per-s", f"{rate:g}", "--json", "--quiet",
    ]  # fmt: skip
    if home is not None:
        command += ["--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 180)
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise SystemExit(f"the demonstration failed ({done.returncode}):\n{done.stderr[-3000:]}") from None
    result["exit"] = done.returncode
    return result


def tree_cpu(pid: int, seconds: float) -> tuple[float, float]:
    """Return CPU (percent of one core) and resident memory (MB) of a process and its children over a while."""

    def used() -> tuple[float, float]:
        total = memory = 0.0
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            try:
                times = process.cpu_times()
                total += times.user + times.system
                memory += process.memory_info().rss / 1e6
            except psutil.Error:
                continue
        return total, memory

    before, _ = used()
    time.sleep(seconds)
    after, memory = used()
    return 100.0 * (after - before) / seconds, memory


def idle(seconds: float) -> dict[str, float]:
    """Start a site without devices (no simulators) and return start-up, CPU and memory while nothing happens."""
    folder = Path(tempfile.mkdtemp(prefix="edgeward-bench-"))
    environment = {**os.environ, "EDGEWARD_HOME": str(folder / "home")}
    for name in ("BUS__PORT", "BUS__MQTT_PORT", "DICOM__PORT", "MLLP__PORT", "WEB__PORT", "CONSOLE__PORT"):
        environment[f"EDGEWARD_{name}"] = "0"
    subprocess.run([sys.executable, "-m", "edgeward.cli", "init"], env=environment, check=True, capture_output=True)
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeward.cli", "up"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        started = time.monotonic() - began
        if not line.startswith("console"):
            raise SystemExit(f"the site did not start: {line}")
        time.sleep(5)
        cpu, memory = tree_cpu(process.pid, seconds)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
    return {"start_s": started, "cpu_percent": cpu, "memory_mb": memory}


def orthanc(seconds: float) -> dict[str, float]:
    """The same for Orthanc."""
    binary = shutil.which("Orthanc")
    if binary is None:
        raise SystemExit("Orthanc is not installed: tools/peers.sh orthanc")
    folder = Path(tempfile.mkdtemp(prefix="orthanc-bench-"))
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        http, dicom = a.getsockname()[1], b.getsockname()[1]
    (folder / "orthanc.json").write_text(
        json.dumps({"StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpPort": http,
                    "DicomPort": dicom, "RemoteAccessAllowed": False, "AuthenticationEnabled": False})
    )  # fmt: skip
    began = time.monotonic()
    process = subprocess.Popen(
        [binary, str(folder / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", dicom)) == 0:
                    break
            if time.monotonic() - began > 30:
                raise SystemExit("Orthanc did not start")
            time.sleep(0.01)
        started = time.monotonic() - began
        time.sleep(2)
        cpu, memory = tree_cpu(process.pid, seconds)
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)
    return {"start_s": started, "cpu_percent": cpu, "memory_mb": memory}


def median(values: list[float | None]) -> float:
    found = [value for value in values if value is not None]
    return round(statistics.median(found), 1) if found else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs under load; medians are printed (default 3)")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a run (default 60)")
    parser.add_argument("--beds", type=int, default=200)
    parser.add_argument("--images-per-s", type=float, default=2.0)
    parser.add_argument("--out", type=Path, help="write the raw figures to this JSON file")
    arguments = parser.parse_args()

    runs = []
    for number in range(arguments.runs):
        print(f"run {number + 1} of {arguments.runs}: {arguments.seconds:.0f} s ...", file=sys.stderr, flush=True)
        runs.append(demo(arguments.seconds, arguments.beds, arguments.images_per_s))
    print("start-up, warm: 3 runs ...", file=sys.stderr, flush=True)
    starts = [demo(12, 12, 0.5) for _ in range(3)]
    print("idle ...", file=sys.stderr, flush=True)
    quiet, peer = idle(30.0), orthanc(30.0)

    raw = {"runs": runs, "starts": starts, "idle": quiet, "orthanc": peer}
    if arguments.out:
        arguments.out.write_text(json.dumps(raw, indent=1))
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "?",
    )
    images, alarms = [run["images"] for run in runs], [run["alarms"] for run in runs]
    total = [sum(run["memory_mb"].values()) for run in runs]
    print(f"\n{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {cpu}, {psutil.virtual_memory().total / 1e9:.0f} GB, "
          f"Python {platform.python_version()}; {arguments.runs} runs of {arguments.seconds:.0f} s, "
          f"{arguments.beds} wearables, {arguments.images_per_s:g} images/s, simulators on the same cores\n")  # fmt: skip
    rows = [
        ("image: last byte received to confirmed by every destination, p50 / p99 / max ms",
         " / ".join(str(median([i[k] for i in images])) for k in ("p50_ms", "p99_ms", "max_ms")), "p99 <= 500"),
        ("alarm: decisive sample received to heard on the bus, p50 / p99 / max ms",
         " / ".join(str(median([a[k] for a in alarms])) for k in ("p50_ms", "p99_ms", "max_ms")), "p99 <= 100"),
        ("images admitted / delivered / failed / lost / late, all runs",
         " / ".join(str(sum(i[k] for i in images)) for k in ("admitted", "delivered", "failed", "lost", "late")), "0 lost"),
        ("alarms raised / delivered / failed / lost / late, all runs",
         " / ".join(str(sum(a[k] for a in alarms)) for k in ("raised", "delivered", "failed", "lost", "late")), "0 lost"),
        ("peak memory of all roles together, MB", str(round(statistics.median(total))), "< 1500"),
        ("first finding / first alarm after a warm start, s",
         f"{median([s['first_finding_s'] for s in starts])} / {median([s['first_alarm_s'] for s in starts])}", "< 15"),
        ("site idle: CPU % of one core / memory MB / start s",
         f"{quiet['cpu_percent']:.1f} / {quiet['memory_mb']:.0f} / {quiet['start_s']:.1f}", "CPU < 10"),
        ("Orthanc idle: CPU % / memory MB / start s",
         f"{peer['cpu_percent']:.1f} / {peer['memory_mb']:.0f} / {peer['start_s']:.1f}", ""),
        ("ratio site / Orthanc: memory, start",
         f"{quiet['memory_mb'] / peer['memory_mb']:.1f}, {quiet['start_s'] / peer['start_s']:.1f}", ""),
    ]  # fmt: skip
    print("| what | measured (median of runs) | target |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    memory = {
        name: round(statistics.median([run["memory_mb"].get(name, 0) for run in runs])) for name in runs[0]["memory_mb"]
    }
    print("\npeak MB per role: " + ", ".join(f"{name} {value}" for name, value in memory.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
