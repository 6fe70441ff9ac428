"""The simulated hospital around a site: its state directory, its enrolled devices, their processes.

Responsible for making and ending them. Not responsible for what they do (``device``) or for counting (``account``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from edgeward.bus.ports import free_port
from edgeward.bus.process import die_with_parent
from edgeward.config import Settings, load
from edgeward.home import Home, read_json, write_private
from edgeward.privacy import identity
from edgeward.privacy.registry import Registry
from edgeward.privacy.setup import initialise, initialised

ULTRASOUND = "ultrasound-1"
ULTRASOUND_AE = "US1"
PACS_AE = "SIMPACS"
EMR = "emr-1"
MONITORS = "icu-monitors"
SENSORS = 3  # wearables with pleth, respiration and arterial pressure beside the ECG
STOP_S = 5.0
FOLDERS = ("ward", "modalities", "systems")  # of enrolments

_SETTINGS = """\
# A site made by `edgeward demo`. All ports are chosen free at every start.

[site]
name = "demo"

[bus]
port = 0
mqtt_port = 0

[dicom]
port = 0

[mllp]
port = 0

[web]
port = 0

[console]
port = 0

[[pacs]]
name = "pacs"
host = "127.0.0.1"
port = {pacs_port}
ae_title = "{pacs_ae}"
"""

_EMR_SETTINGS = """\

[[fhir]]
name = "emr-fhir"
url = "http://127.0.0.1:{fhir_port}/fhir"
alarms = true

[[hl7]]
name = "emr-hl7"
host = "127.0.0.1"
port = {hl7_port}

[[pcd04]]
name = "alarm-manager"
host = "127.0.0.1"
port = {hl7_port}

[[contact]]
name = "on-call"
webhook = "http://127.0.0.1:{fhir_port}/pager"
identity = true

[[ward]]
name = "ward-1"
label = "Ward 1"
escalation = [{{ after_s = 30, contacts = ["on-call"] }}]

[monitor]
ward = "ward-1"
"""


def prepare(home: Home, beds: int, *, emr: bool = False) -> Settings:
    """Make the site if `home` holds none, enrol what is missing, and return its settings.

    With `emr`, a new site sends its results to the simulated EMR as well as to the PACS.
    """
    if not initialised(home):
        home.create()
        pacs = free_port()
        text = _SETTINGS.format(pacs_port=pacs, pacs_ae=PACS_AE)
        if emr:
            fhir = free_port(avoid={pacs})
            text += _EMR_SETTINGS.format(fhir_port=fhir, hl7_port=free_port(avoid={pacs, fhir}))
        write_private(home.settings_file, text.encode())
        initialise(home, load(home.root))
    settings = load(home.root)
    known = {device.device_id for device in Registry(home).devices()}
    wards = [f"bed-{number:02d}" for number in range(1, beds + 1)]
    addresses = {
        "mqtt": {"host": "localhost", "port": 0},
        "dicom": {"host": "localhost", "port": 0, "ae_title": settings.dicom.ae_title},
        "mllp": {"host": "localhost", "port": 0},
        "web": {"host": "localhost", "port": 0},
    }
    missing = [name for name in wards if name not in known]
    if missing:
        identity.enrol(
            home,
            settings.site.name,
            missing,
            kind="wearable",
            out=home.root / "ward",
            addresses=addresses,
            labels={name: f"Bed {int(name.removeprefix('bed-'))}" for name in missing},
        )
    if ULTRASOUND not in known:
        identity.enrol(
            home,
            settings.site.name,
            [ULTRASOUND],
            kind="ultrasound",
            out=home.root / "modalities",
            addresses=addresses,
            ae_title=ULTRASOUND_AE,
        )
    if settings.fhir and EMR not in known:
        identity.enrol(
            home, settings.site.name, [EMR], kind="emr", out=home.root / "systems", addresses=addresses, label="EMR"
        )
    if beds and MONITORS not in known:
        identity.enrol(
            home,
            settings.site.name,
            [MONITORS],
            kind="monitor",
            out=home.root / "systems",
            addresses=addresses,
            label="Bedside monitors",
        )
    return settings


def tell_ports(home: Home, ports: dict[str, int]) -> None:
    """Write the ports of this start into the devices' enrolment, as an engineer would set them on each device."""
    for path in (path for folder in FOLDERS for path in (home.root / folder).glob("*/device.json")):
        card = read_json(path)
        card["mqtt"]["port"] = ports["mqtt"]
        for door in ("dicom", "mllp", "web"):
            if card.get(door):
                card[door]["port"] = ports[door]
        path.write_text(json.dumps(card, indent=1), encoding="utf-8")


@dataclass
class Simulator:
    """One simulated device as a process."""

    name: str
    process: asyncio.subprocess.Process
    output: list[str] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None

    def summary(self) -> dict[str, Any]:
        """Return the JSON object it printed at its end, or an empty one."""
        with contextlib.suppress(json.JSONDecodeError):
            found = json.loads("\n".join(self.output))
            if isinstance(found, dict):
                return found
        return {}


class Hospital:
    """The simulated devices of one site."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home = home
        self.settings = settings
        self.folder = home.root / "simulated"
        self.folder.mkdir(exist_ok=True, mode=0o700)
        self._all: list[Simulator] = []

    async def start(self, name: str, module: str, *arguments: str) -> Simulator:
        """Start a simulator; its log goes to ``logs/<name>.log``."""
        log: IO[bytes]
        with (self.home.logs / f"simulated-{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                "--die-with-parent",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # from its first moment on, before it can do so itself
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        simulator = Simulator(name, process)
        assert process.stdout is not None
        simulator.reader = asyncio.get_running_loop().create_task(self._read(simulator, process.stdout))
        self._all.append(simulator)
        return simulator

    async def pacs(self) -> Simulator:
        """Start the small PACS that the settings name."""
        port = self.settings.pacs[0].port
        return await self.start(
            "pacs",
            "edgeward.device.pacs",
            "--port",
            str(port),
            "--ae-title",
            PACS_AE,
            "--dir",
            str(self.folder / "pacs"),
            "--json",
            str(self.folder / "pacs.json"),
        )

    async def emr(self, every_s: float) -> Simulator:
        """Start the EMR: it orders an examination every so often, and takes results by HL7 and FHIR."""
        return await self.start(
            "emr",
            "edgeward.device.emr",
            "--enrolment",
            str(self.home.root / "systems" / EMR),
            "--every",
            f"{every_s:g}",
            "--mllp-port",
            str(self.settings.hl7[0].port),
            "--http-port",
            str(urlsplit(self.settings.fhir[0].url).port),
            "--json",
            str(self.folder / "emr.json"),
        )

    async def ultrasound(self, rate: float, images: str) -> Simulator:
        """Start the ultrasound machine, which works from the worklist."""
        more = ["--images", images] if images else []
        return await self.start(
            "ultrasound",
            "edgeward.device.ultrasound",
            "--enrolment",
            str(self.home.root / "modalities" / ULTRASOUND),
            "--rate",
            f"{rate:g}",
            "--state",
            str(self.folder / "ultrasound.jsonl"),
            "--workflow",
            "--json",
            *more,
        )

    async def ward(self, beds: int, wfdb: str, *more: str) -> Simulator:
        """Start the ward of wearables."""
        extra = ["--wfdb", wfdb] if wfdb else []
        return await self.start(
            "ward",
            "edgeward.device.ward",
            "--devices",
            str(self.home.root / "ward"),
            "--count",
            str(beds),
            "--sensors",
            str(min(SENSORS, beds // 4)),
            "--truth",
            str(self.folder / "truth.jsonl"),
            "--json",
            *extra,
            *more,
        )

    async def bedside(self, wearables: int, every: int, beds: int) -> Simulator:
        """Start numerics: some of the devices publish SenML beside their ECG, a system of monitors sends PCD-01."""
        return await self.start(
            "bedside",
            "edgeward.device.bedside_monitor",
            "--devices",
            str(self.home.root / "ward"),
            "--count",
            str(wearables),
            "--last",
            str(min(SENSORS, every // 4)),
            "--enrolment",
            str(self.home.root / "systems" / MONITORS),
            "--beds",
            str(beds),
            "--hl7-waves",
            "1",
        )

    async def end(self, simulator: Simulator) -> dict[str, Any]:
        """Stop one simulator and return its summary."""
        process = simulator.process
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if simulator.reader is not None:
            await simulator.reader
        return simulator.summary()

    async def end_all(self) -> None:
        """Stop every simulator."""
        await asyncio.gather(*(self.end(simulator) for simulator in self._all))

    def dead(self) -> Iterator[Simulator]:
        """Yield the simulators that ended by themselves with an error."""
        return (s for s in self._all if s.process.returncode not in (None, 0))

    @staticmethod
    async def _read(simulator: Simulator, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            simulator.output.append(line.decode(errors="replace").rstrip())


def acknowledged(path: Path) -> set[str]:
    """Return the SOP Instance UIDs that the ultrasound machine was told are stored."""
    found: set[str] = set()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return found
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError, KeyError):
            row = json.loads(line)
            found.add(str(row["uid"]))
    return found
