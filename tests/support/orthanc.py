"""A real PACS for tests: Orthanc in a folder of its own, on free loopback ports, read back over its REST interface.

Use the fixture ``orthanc`` (tests/peers/conftest.py), or ``with running_orthanc(folder) as pacs``.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pydicom
from pydicom.dataset import Dataset

from edgeward.config import Pacs
from tests.support.peers import require
from tests.support.site import free_port


@dataclass
class Orthanc:
    """One Orthanc. It keeps its folder and ports over ``stop`` and ``start``, like a PACS that was down."""

    folder: Path
    dicom_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    ae_title: str = "ORTHANC"
    options: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = require("Orthanc")
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "Name": "tests",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": self.ae_title,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "HttpServerEnabled": True,
            "Plugins": [],
            **self.options,
        }
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(settings))
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen([program, str(file)], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/system", timeout=1).status_code == 200:
                    return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"Orthanc did not start: {(self.folder / 'orthanc.log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Stop it, as an administrator would."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        """Stop it, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def pacs(self, name: str = "pacs", **changes: Any) -> Pacs:
        """Return the settings of a destination that is this PACS."""
        values = {"name": name, "host": "127.0.0.1", "port": self.dicom_port, "ae_title": self.ae_title, **changes}
        return Pacs(**values)

    def identifiers(self) -> list[str]:
        """Return Orthanc's own identifiers of all instances."""
        answer: list[str] = httpx.get(f"{self.url}/instances", timeout=10).json()
        return answer

    def objects(self) -> list[Dataset]:
        """Return all instances, as the PACS serves them."""
        return [self.read(identifier) for identifier in self.identifiers()]

    def by_uid(self) -> dict[str, Dataset]:
        """Return all instances by SOP Instance UID."""
        return {str(item.SOPInstanceUID): item for item in self.objects()}

    def read(self, identifier: str) -> Dataset:
        answer = httpx.get(f"{self.url}/instances/{identifier}/file", timeout=30)
        answer.raise_for_status()
        return pydicom.dcmread(io.BytesIO(answer.content))

    def store(self, data: bytes) -> None:
        """Put a DICOM file into it, past DICOM."""
        httpx.post(f"{self.url}/instances", content=data, timeout=30).raise_for_status()

    def changes(self) -> int:
        """Return how many instances were ever new to it."""
        answer = httpx.get(f"{self.url}/changes?limit=10000", timeout=10).json()
        return sum(change["ChangeType"] == "NewInstance" for change in answer["Changes"])


@contextlib.contextmanager
def running_orthanc(folder: Path, **options: Any) -> Iterator[Orthanc]:
    """Run an Orthanc while the block runs; `options` go into its configuration."""
    pacs = Orthanc(folder, options=options)
    pacs.start()
    try:
        yield pacs
    finally:
        pacs.stop()
