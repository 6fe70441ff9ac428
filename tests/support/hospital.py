"""A whole site under test: supervisor, roles as real processes, a PACS that files, a machine that remembers what it was told.

Everything a fault test counts comes from outside the site: what the device was told is stored, and what lies in the PACS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.uid import SecondaryCaptureImageStorage

from edgeward.config import Settings, load
from edgeward.demo.hospital import ULTRASOUND, Hospital, Simulator, prepare, tell_ports
from edgeward.home import Home
from edgeward.messages import Finding, decode
from edgeward.supervisor import Supervisor

SR_CLASSES = ("1.2.840.10008.5.1.4.1.1.88.",)


@dataclass
class Site:
    """A running site and what is around it."""

    home: Home
    settings: Settings
    supervisor: Supervisor
    outside: Hospital
    pacs: Simulator | None = None
    machines: list[Simulator] = field(default_factory=list)

    def pid(self, role: str) -> int:
        process = self.supervisor.children[role].process
        assert process is not None
        return process.pid

    def kill(self, role: str, how: signal.Signals = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid(role), how)

    async def ready(self, *roles: str, seconds: float = 60.0) -> None:
        missing = await self.supervisor.wait_ready(*roles, timeout_s=seconds)
        assert not missing, f"{missing} not ready: {[self.supervisor.children[m].reason for m in missing]}"

    async def start_pacs(self) -> None:
        self.pacs = await self.outside.pacs()
        await until(lambda: listens(self.settings.pacs[0].port), 20.0, "the PACS to listen")

    async def send(self, count: int, rate: float, *more: str) -> Simulator:
        """Start the ultrasound machine; it repeats until it was told that everything is stored."""
        machine = await self.outside.start(
            "ultrasound", "edgeward.device.ultrasound",
            "--enrolment", str(self.home.root / "modalities" / ULTRASOUND), "--rate", f"{rate:g}",
            "--count", str(count), "--state", str(self.outside.folder / "ultrasound.jsonl"), "--json", *more,
        )  # fmt: skip
        self.machines.append(machine)
        return machine

    async def sent(self, machine: Simulator, seconds: float = 90.0) -> set[str]:
        """Wait until the machine has everything acknowledged; return the UIDs."""
        await asyncio.wait_for(machine.process.wait(), seconds)
        assert machine.process.returncode == 0
        return self.acknowledged()

    def acknowledged(self) -> set[str]:
        rows = (self.outside.folder / "ultrasound.jsonl").read_text().splitlines()
        return {json.loads(row)["uid"] for row in rows}

    def in_pacs(self) -> tuple[Counter[str], Counter[str]]:
        """Return, per source instance, how many reports and how many captures the PACS holds."""
        reports: Counter[str] = Counter()
        captures: Counter[str] = Counter()
        for path in (self.outside.folder / "pacs").rglob("*.dcm"):
            data = pydicom.dcmread(path, stop_before_pixels=True)
            if str(data.SOPClassUID).startswith(SR_CLASSES):
                for study in data.CurrentRequestedProcedureEvidenceSequence:
                    for series in study.ReferencedSeriesSequence:
                        for one in series.ReferencedSOPSequence:
                            reports[str(one.ReferencedSOPInstanceUID)] += 1
            elif data.SOPClassUID == SecondaryCaptureImageStorage:
                for one in data.SourceImageSequence:
                    captures[str(one.ReferencedSOPInstanceUID)] += 1
        return reports, captures

    def journal(self) -> dict[str, int]:
        """Return the number of items per state, read from the file while nobody is asked."""
        with contextlib.closing(sqlite3.connect(f"file:{self.home.db('journal')}?mode=ro", uri=True, timeout=10)) as db:
            return dict(db.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall())

    def analysed(self) -> set[str]:
        """Return the instances whose finding is more than a refusal: only these have something to draw."""
        with contextlib.closing(sqlite3.connect(f"file:{self.home.db('journal')}?mode=ro", uri=True, timeout=10)) as db:
            blobs = [row[0] for row in db.execute("SELECT finding FROM items WHERE finding IS NOT NULL")]
        findings = [decode(Finding, blob) for blob in blobs]
        return {finding.sop_instance_uid for finding in findings if finding.status == "analysed"}

    async def all_delivered(self, uids: set[str], seconds: float = 90.0) -> None:
        """Wait until the PACS holds exactly one report (and capture) of each instance, and the journal is closed."""

        def complete() -> bool:
            reports, captures = self.in_pacs()
            return set(reports) >= uids and set(captures) >= self.analysed() & uids

        try:
            await until(complete, seconds, "everything to be in the PACS")
        finally:
            reports, captures = self.in_pacs()
            print(
                "journal", self.journal(), "acknowledged", len(uids), "reports", len(reports), "captures", len(captures)
            )
        assert set(reports.values()) == {1}, "a report is there twice"
        assert set(captures.values()) == {1}, "a capture is there twice"
        await until(lambda: not set(self.journal()) - {"closed"}, 30.0, "the journal to be closed")

    async def healthy(self, seconds: float = 60.0) -> None:
        await self.ready(seconds=seconds)


def listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def until(check: Callable[[], object], seconds: float, what: str, step: float = 0.1) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not check():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        await asyncio.sleep(step)


@contextlib.asynccontextmanager
async def running_site(root: Path, *, beds: int = 0, pacs: bool = True) -> AsyncIterator[Site]:
    """Run a whole site in `root`."""
    home = Home(root)
    prepare(home, beds)
    settings = load(home.root)
    supervisor = Supervisor(home, settings)
    site = Site(home, settings, supervisor, Hospital(home, settings))
    try:
        if pacs:
            await site.start_pacs()
        await supervisor.start()
        tell_ports(home, supervisor.ports())
        await site.ready()
        yield site
    except BaseException:
        log = home.logs / "edgeward.log"
        if log.exists():
            sys.stderr.write("\n".join(log.read_text().splitlines()[-60:]) + "\n")
        raise
    finally:
        await site.outside.end_all()
        await supervisor.stop()
