"""From the last byte of an image to its SR in the PACS: the whole path, timed by the PACS itself.

Runs a site (`edgeward up`), Orthanc as the PACS, and a simulated ultrasound machine at a steady rate, all on this machine. Orthanc
tells of each object the moment it has stored it (a Lua call-back); the site says when it received the image's last byte. One clock.
Of a loop several frames are analysed; single frames and loops are told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
from pydicom import dcmread
from pydicom.data import get_testdata_file

from edgeward.bus import subjects
from edgeward.bus.ports import free_port
from edgeward.bus.role import open_bus
from edgeward.config import load
from edgeward.device.exposures import built_in
from edgeward.device.ultrasound_image import Session, identify
from edgeward.home import Home
from edgeward.messages import ItemSummary
from edgeward.privacy.identity import client_context
from edgeward.status import live_ports, with_live_ports

LOOP = "examples_ybr_color.dcm"  # 30 frames; the machine itself sends it as every twentieth image
PORTS = ("BUS__PORT", "BUS__MQTT_PORT", "DICOM__PORT", "MLLP__PORT", "WEB__PORT", "CONSOLE__PORT")
LUA = """
function OnStoredInstance(instanceId, tags, metadata)
  if tags['SOPInstanceUID'] ~= nil then
    HttpPost('http://127.0.0.1:%d/', tags['SOPInstanceUID'])
  end
end
"""


class Bell:
    """An HTTP server that notes when each UID was called out."""

    def __init__(self) -> None:
        heard: dict[str, int] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                uid = self.rfile.read(int(self.headers["Content-Length"])).decode().strip()
                heard.setdefault(uid, time.time_ns())
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.heard = heard
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@contextlib.contextmanager
def orthanc(folder: Path, bell: Bell) -> Any:
    """Run Orthanc; yield its DICOM port."""
    binary = shutil.which("Orthanc") or sys.exit("Orthanc is not installed: make peers")
    port = free_port()
    (folder / "bell.lua").write_text(LUA % bell.port)
    (folder / "orthanc.json").write_text(
        json.dumps({"StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpPort": free_port(),
                    "DicomPort": port, "DicomAet": "ORTHANC", "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True,
                    "LuaScripts": [str(folder / "bell.lua")]})
    )  # fmt: skip
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([binary, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while b"Orthanc has started" not in (folder / "orthanc.log").read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"Orthanc did not start:\n{(folder / 'orthanc.log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def mixed(folder: Path, count: int, share: float) -> Path:
    """Write images to send, of which `share` are loops, evenly spread; return the folder."""
    folder.mkdir()
    session = Session(1, "us-1", dt.datetime.now().astimezone(), 1.0)
    frames = (one for exposure in built_in(session) if (one := exposure.build()).get("NumberOfFrames", 1) in (1, None))
    for number in range(count):
        if int((number + 1) * share) > int(number * share):
            dataset = dcmread(str(get_testdata_file(LOOP, download=False)))
            identify(dataset, session.exam(1_000_000 + number))
        else:
            dataset = next(frames)
        dataset.save_as(folder / f"{number:06}.dcm", enforce_file_format=True)
    return folder


async def listen(home: Home, items: dict[str, ItemSummary], stop: asyncio.Event) -> None:
    settings = with_live_ports(load(home.root), live_ports(home))
    bus = await open_bus("operator", home, settings, client_context(home, "operator"))

    async def heard(_: str, item: ItemSummary) -> None:
        items[item.item_id] = item

    await bus.subscribe(subjects.ITEM_STATE_ALL, ItemSummary, heard)
    await bus.flush()
    await stop.wait()
    await bus.close()


async def site(arguments: argparse.Namespace, folder: Path, pacs_port: int) -> tuple[dict[str, ItemSummary], float]:
    """Run the site and the machine; return the items and the CPU seconds of the site per image."""
    home = Home(folder / "home")
    environment = {**os.environ, "EDGEWARD_HOME": str(home.root), **{f"EDGEWARD_{name}": "0" for name in PORTS}}
    edgeward = [sys.executable, "-m", "edgeward.cli"]
    subprocess.run([*edgeward, "init"], env=environment, check=True, capture_output=True)
    with home.settings_file.open("a") as file:
        file.write(f'\n[[pacs]]\nname = "orthanc"\nhost = "127.0.0.1"\nport = {pacs_port}\nae_title = "ORTHANC"\n')
    up = subprocess.Popen([*edgeward, "up"], env=environment, stdout=subprocess.PIPE, text=True)
    items: dict[str, ItemSummary] = {}
    stop = asyncio.Event()
    try:
        assert up.stdout is not None
        first = await asyncio.to_thread(up.stdout.readline)
        if not first.startswith("console"):
            sys.exit(f"the site did not start: {first}")
        subprocess.run(
            [*edgeward, "device", "enroll", "us-1", "--kind", "ultrasound", "--ae-title", "US1", "--out", str(folder)],
            env=environment, check=True, capture_output=True,
        )  # fmt: skip
        listening = asyncio.create_task(listen(home, items, stop))
        await asyncio.sleep(3)
        count = round(arguments.rate * arguments.seconds)
        command = [sys.executable, "-m", "edgeward.device.ultrasound", "--enrolment", str(folder / "us-1"),
                   "--rate", str(arguments.rate), "--count", str(count)]  # fmt: skip
        if arguments.loops is not None:
            arguments.images = await asyncio.to_thread(mixed, folder / "images", count, arguments.loops)
        if arguments.images:
            command += ["--images", str(arguments.images)]
        before = _cpu(up.pid)
        machine = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        try:
            await asyncio.wait_for(machine.wait(), arguments.seconds * 2 + 30)
        except TimeoutError:
            machine.terminate()
            print("the machine did not get rid of all its images", file=sys.stderr)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (
            len(items) >= count and all(item.state in ("closed", "failed") for item in items.values())
        ):
            await asyncio.sleep(0.2)
        cpu = (_cpu(up.pid) - before) / max(1, len(items))
        stop.set()
        await listening
    finally:
        up.send_signal(signal.SIGINT)
        await asyncio.to_thread(up.wait, 30)
    return items, cpu


def _cpu(pid: int) -> float:
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def spread(values: list[float]) -> str:
    if not values:
        return "none"
    ordered = sorted(values)
    at = lambda share: ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]  # noqa: E731
    return f"{at(0.5):.0f} / {at(0.99):.0f} / {ordered[-1]:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=5.0, help="images a second (default 5)")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--images", type=Path, help="folder of pictures or DICOM files to send instead of phantoms")
    parser.add_argument("--loops", type=float, help="share of loops, 0 to 1 (default: what the machine sends, 0.05)")
    parser.add_argument("--out", type=Path, help="write the raw figures to this JSON file")
    arguments = parser.parse_args()
    raw: list[dict[str, Any]] = []
    for number in range(arguments.runs):
        print(f"run {number + 1} of {arguments.runs} ...", file=sys.stderr, flush=True)
        bell, folder = Bell(), Path(tempfile.mkdtemp(prefix="edgeward-latency-"))
        try:
            with orthanc(folder, bell) as port:
                items, cpu = asyncio.run(site(arguments, folder, port))
            sr: dict[str, list[float]] = {"frames": [], "loops": []}
            last: dict[str, list[float]] = {"frames": [], "loops": []}
            stages: dict[str, dict[str, list[float]]] = {"frames": {}, "loops": {}}
            for item in items.values():
                kind = "loops" if item.finding and item.finding.frames > 1 else "frames"
                stored = [bell.heard[uid] for d in item.deliveries for uid in d.sop_instance_uids if uid in bell.heard]
                if stored:
                    sr[kind].append((min(stored) - item.received_ns) / 1e6)  # the SR is sent first
                    last[kind].append((max(stored) - item.received_ns) / 1e6)
                for stage in item.finding.stages if item.finding else []:
                    stages[kind].setdefault(stage.name, []).append(stage.ms)
                for delivery in item.deliveries:
                    for stage in delivery.stages:
                        stages[kind].setdefault(f"deliver: {stage.name}", []).append(stage.ms)
            raw.append({
                "sr_ms": sr, "last_ms": last, "cpu_s": cpu, "items": len(items),
                "open": sum(item.state not in ("closed", "failed") for item in items.values()),
                "failed": sum(item.state == "failed" for item in items.values()),
                "late": sum(item.late for item in items.values()),
                "stages": {kind: {name: statistics.median(ms) for name, ms in of.items()} for kind, of in stages.items()},
            })  # fmt: skip
        finally:
            bell.server.shutdown()
            shutil.rmtree(folder, ignore_errors=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(raw, indent=1))
    print(f"\n{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {arguments.rate:g} images/s for {arguments.seconds:g} s, "
          f"{arguments.runs} runs, Orthanc and the sender on the same cores\n")  # fmt: skip
    print("| run | images | what | SR in Orthanc, p50 / p99 / max ms | last object, p50 / p99 / max ms | CPU s per image "
          "| late | open | failed |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for number, one in enumerate(raw, 1):
        both = {"all": one["sr_ms"]["frames"] + one["sr_ms"]["loops"]} | one["sr_ms"]
        ends = {"all": one["last_ms"]["frames"] + one["last_ms"]["loops"]} | one["last_ms"]
        for what, values in both.items():
            of_all = (
                f"{one['cpu_s']:.3f} | {one['late']} | {one['open']} | {one['failed']}" if what == "all" else " | | | "
            )
            count = one["items"] if what == "all" else len(values)
            print(f"| {number} | {count} | {what} | {spread(values)} | {spread(ends[what])} | {of_all} |")
    for what, of in raw[0]["stages"].items():
        print(f"\nmedian ms per stage, run 1, {what}: " + ", ".join(f"{name} {ms:.1f}" for name, ms in of.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
