"""``edgeward demo``: the course of a run, from an empty directory to the account at its end."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from edgeward import __version__, log
from edgeward.bus.ports import free_port
from edgeward.bus.role import open_bus
from edgeward.demo import hospital
from edgeward.demo.account import Account
from edgeward.home import Home
from edgeward.privacy.identity import client_context
from edgeward.site_ports import announce_site
from edgeward.supervisor import Supervisor, only_one

EXAMINATION = 4  # images of one patient, so an order for every so many
READY_S = 90.0
DRAIN_S = 20.0
NUMERICS = 8  # wearables, at most, that send numerics beside their ECG
MONITOR_BEDS = 2  # beds without a wearable, of a system of monitors


def main(arguments: argparse.Namespace) -> int:
    """Run the demonstration; return 0, or 4 if anything was lost or failed or never came."""
    import uvloop

    if arguments.beds < 0 or arguments.beds > 2000:
        print("edgeward: --beds takes 0 to 2000", file=sys.stderr)
        return 2
    if not 0 <= arguments.images_per_s <= 100:
        print("edgeward: --images-per-s takes 0 to 100", file=sys.stderr)
        return 2
    for folder in (arguments.images, arguments.wfdb):
        if folder and not Path(folder).is_dir():
            print(f"edgeward: {folder} is not a directory", file=sys.stderr)
            return 2
    began = psutil.Process().create_time()  # what a person waits for includes the interpreter's start
    keep = bool(arguments.home)
    root = Path(arguments.home).expanduser() if keep else Path(tempfile.mkdtemp(prefix="edgeward-demo-"))
    try:
        return uvloop.run(_show(arguments, Home(root), began))
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


async def _show(arguments: argparse.Namespace, home: Home, began: float) -> int:
    loop = asyncio.get_running_loop()
    out = sys.stderr if arguments.json else sys.stdout
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    def tell(text: str) -> None:
        print(f"{time.time() - began:7.1f} s  {text}", file=out, flush=True)

    print(f"Edgeward {__version__}: a hospital with simulated devices. Not a medical device.", file=out, flush=True)
    settings = hospital.prepare(home, arguments.beds, emr=True)
    settings.console.port = free_port(preferred=arguments.port)
    log.configure("supervisor", "ERROR")
    tell(f"site in {home.root}, {arguments.beds} wearables and an ultrasound machine enrolled")
    with only_one(home):
        supervisor = Supervisor(home, settings)
        simulated = hospital.Hospital(home, settings)
        account = Account(began, tell=None if arguments.quiet else tell)
        try:
            await simulated.pacs()
            await supervisor.start()
            tell("bus up, roles starting")
            hospital.tell_ports(home, supervisor.ports())
            if arguments.images_per_s and settings.fhir and settings.hl7:
                await simulated.emr(EXAMINATION / arguments.images_per_s)
            bus = await open_bus("operator", home, supervisor.settings, client_context(home, "operator"))
            await account.listen(bus)
            # Both wait for the gateway, which admits them; what comes before an engine is ready waits in the journal.
            ward, machine = await asyncio.gather(
                _when(supervisor, stop, ("gateway", "monitor"), lambda: _ward(simulated, arguments)),
                _when(supervisor, stop, ("gateway", "engine", "deliver"), lambda: _ultrasound(simulated, arguments)),
            )
            missing = await supervisor.wait_ready(timeout_s=0.0 if stop.is_set() else READY_S)
            reasons = {name: supervisor.children[name].reason for name in missing}
            announce_site(home, supervisor.settings, reasons, out)
            if arguments.seconds is None:
                print("         Ctrl-C stops everything", file=out, flush=True)
            left = None if arguments.seconds is None else max(0.0, began + arguments.seconds - time.time())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), left)
            print("\nstopping ...", file=out, flush=True)
            if machine is not None:
                await simulated.end(machine)
            result: dict[str, Any] = {}
            if arguments.seconds is not None and not stop.is_set():
                await _drain(account, bus)
                told = hospital.acknowledged(simulated.folder / "ultrasound.jsonl")
                result = await account.summary(bus, len(told))
                result["seconds"] = round(time.time() - began, 1)
                result["simulators"] = {"failed": sorted(s.name for s in simulated.dead())}
            if ward is not None:
                await simulated.end(ward)
            await bus.close()
        finally:
            await simulated.end_all()
            await supervisor.stop()
    if not result:
        print("stopped", file=out, flush=True)
        return 0
    print(json.dumps(result, indent=2) if arguments.json else _as_text(result), flush=True)
    return 0 if _well(result, arguments) else 4


async def _when(supervisor: Supervisor, stop: asyncio.Event, roles: tuple[str, ...], start: Any) -> Any:
    waiting = asyncio.ensure_future(supervisor.wait_ready(*roles, timeout_s=READY_S))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    waiting.cancel()
    return None if stop.is_set() else await start()


async def _ward(simulated: hospital.Hospital, arguments: argparse.Namespace) -> hospital.Simulator | None:
    if not arguments.beds:
        return None
    await simulated.bedside(min(NUMERICS, (arguments.beds + 1) // 2), arguments.beds, MONITOR_BEDS)
    return await simulated.ward(arguments.beds, arguments.wfdb)


async def _ultrasound(simulated: hospital.Hospital, arguments: argparse.Namespace) -> hospital.Simulator | None:
    if not arguments.images_per_s:
        return None
    return await simulated.ultrasound(arguments.images_per_s, arguments.images)


async def _drain(account: Account, bus: Any) -> None:
    deadline = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline:
        if await account.open_images(bus) == 0:
            return
        await asyncio.sleep(0.1)


def _well(result: dict[str, Any], arguments: argparse.Namespace) -> bool:
    images, alarms = result["images"], result["alarms"]
    came = (not arguments.images_per_s or images["delivered"]) and (not arguments.beds or alarms["delivered"])
    bad = images["lost"] + images["failed"] + images["open"] + alarms["lost"] + alarms["failed"]
    return bool(came) and not bad and not result["simulators"]["failed"] and all(result["answered"].values())


def _as_text(result: dict[str, Any]) -> str:
    lines = [f"first finding {result['first_finding_s']} s, first alarm {result['first_alarm_s']} s"]
    lines += [
        f"{what:7} " + "  ".join(f"{key} {value}" for key, value in result[what].items())
        for what in ("images", "alarms")
    ]
    lines.append("peak MB " + "  ".join(f"{name} {value:.0f}" for name, value in result["memory_mb"].items()))
    return "\n".join(lines)
