"""A gateway under attack: its own process, a well-behaved device beside the attackers, and what must be true afterwards.

Responsible for starting all of them, for the vital signs of the gateway, for comparing what was acknowledged with what is
kept, and for finding the smallest attack that did harm. Not responsible for the attacks (`attack`, `attack_dicom`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeward.bus import subjects
from edgeward.bus.process import die_with_parent
from edgeward.messages import DeliverRequest, Message, Ok, WorkRequest
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault, read
from tests.gateway.test_dispatch import EngineDouble, done
from tests.support import attack_pdu
from tests.support.attack import Attacker, Case, Target
from tests.support.site import TestSite, new_home, running_bus

LEGACY = 24  # addresses that plain connections may come from
EVIL = 4  # enrolled devices whose certificates are abused
QUIET_S = 40.0  # the door's longest time limit, and some


@dataclass(frozen=True)
class Vitals:
    """What a process holds: open files, threads, resident memory (MB)."""

    files: int
    threads: int
    memory_mb: float

    @classmethod
    def of(cls, pid: int) -> Vitals:
        process = Path(f"/proc/{pid}")
        pages = int((process / "statm").read_text().split()[1])
        threads = next(line for line in (process / "status").read_text().splitlines() if line.startswith("Threads:"))
        return cls(len(list((process / "fd").iterdir())), int(threads.split()[1]), pages * 4096 / 1e6)


@dataclass
class Siege:
    """A gateway process and everything around it.

    Attributes
    ----------
    stored
        UIDs the attackers were told are stored.
    told
        What the well-behaved device was told, per UID.
    unsure
        Numbers of cases that ended before the door had its say.
    kept
        How many things that had to be acknowledged were.
    """

    site: TestSite
    target: Target
    folder: Path
    gateway: asyncio.subprocess.Process | None = None
    workers: list[asyncio.subprocess.Process] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    unsure: set[int] = field(default_factory=set)
    met: Counter[str] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    vitals: list[Vitals] = field(default_factory=list)
    saved: list[Path] = field(default_factory=list)
    associations: int = 0
    kept: int = 0
    _devices: int = 0

    # ------------------------------------------------------------ processes

    @property
    def log(self) -> Path:
        return self.folder / "gateway.log"

    @property
    def pid(self) -> int:
        assert self.gateway is not None
        return self.gateway.pid

    @property
    def alive(self) -> bool:
        return self.gateway is not None and self.gateway.returncode is None

    async def start_gateway(self) -> None:
        settings = self.site.settings
        sections = ("bus", "dicom", "mllp", "web", "vault", "console")
        environment = {f"EDGEWARD_{name.upper()}": getattr(settings, name).model_dump_json() for name in sections}
        # glibc keeps what was freed, the more the more threads there were: told to give it back, it shows what is held.
        environment |= {"MALLOC_ARENA_MAX": "1"} | dict.fromkeys(
            ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "131072"
        )
        with self.log.open("ab") as log:
            self.gateway = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edgeward.cli", "_role", "gateway", "--home", str(self.site.home.root),
                env={**os.environ, **environment}, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while b'"message": "ready"' not in self.log.read_bytes():
            assert self.alive, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, "the gateway is not ready"
            await asyncio.sleep(0.1)

    async def end_gateway(self) -> None:
        if self.alive and self.gateway is not None:
            self.gateway.terminate()
            await self.gateway.wait()

    async def _worker(self, cases: str, threads: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.attack", str(self.folder / "target.json"), "--cases", cases, "--threads", str(threads),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, preexec_fn=die_with_parent, limit=1 << 28,
        )  # fmt: skip

    # ------------------------------------------------------------ a batch

    async def batch(
        self, seed: int, first: int, count: int, *, cases: str = "tests.support.attack_dicom", processes: int = 1, threads: int = 32,
        pause_s: float = 0.2, settle: bool = True,
    ) -> list[str]:  # fmt: skip
        """Attack with cases `first` to `first + count`, a device beside; return what is wrong afterwards."""
        self._devices += 1
        device = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.attack_device", str(self.folder / "target.json"), str(9_000_000_000 + self._devices), str(pause_s),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, preexec_fn=die_with_parent, limit=1 << 28,
        )  # fmt: skip
        assert device.stdin is not None
        listening = asyncio.create_task(_lines(device))
        workers = [await self._worker(cases, threads) for _ in range(processes)]
        orders = [
            {"seed": seed, "first": first + one, "count": count - one, "step": processes} for one in range(processes)
        ]
        results = await asyncio.gather(*(_ask(worker, order) for worker, order in zip(workers, orders, strict=True)))
        device.stdin.close()
        wrong: list[str] = []
        for row in await listening:
            if "trouble" in row:
                wrong.append(f"the well-behaved device was disturbed: {row['trouble']}")
            elif row["stored"]:
                self.told[row["uid"]] = row
        for result in results:
            self.associations += result["cases"]
            self.kinds.update(result["kinds"])
            self.met.update(result["facts"])
            self.met.update({f"connection {how}": count for how, count in result["how"].items()})
            self.examples.update(result["examples"])
            self.stored.update(result["stored"])
            self.unsure.update(result["unsure"])
            self.kept += result["kept"]
            for fault, case in result["faults"]:
                wrong.append(f"case {case['number']} ({case['kind']}): {fault}; saved as {self.save([case], fault)}")
        if not self.alive:
            wrong.append(
                f"the gateway died of cases {first} to {first + count} of seed {seed}, code {self.gateway.returncode}"
            )  # type: ignore[union-attr]
        elif settle:
            wrong += await self.settled()
        return wrong + self.log_faults()

    def save(self, cases: list[dict[str, Any]], fault: str) -> Path:
        path = self.folder / f"case-{cases[0]['number']}.json"
        path.write_text(json.dumps({"fault": fault, "cases": cases}, indent=1))
        self.saved.append(path)
        return path

    # ------------------------------------------------------------ what must be true

    async def settled(self) -> list[str]:
        """Wait until the gateway holds what it held before anybody came."""
        deadline = time.monotonic() + QUIET_S
        while True:
            now = Vitals.of(self.pid)
            before = self.vitals[0] if self.vitals else now
            if now.files <= before.files + 2 and now.threads <= before.threads + SPARE_THREADS:
                self.vitals.append(now)
                return []
            if time.monotonic() > deadline:
                self.vitals.append(now)
                return [f"after {QUIET_S:g} s of quiet the gateway holds {now}, at the start {before}"]
            await asyncio.sleep(0.2)

    def log_faults(self) -> list[str]:
        """No trace of a program error, and nothing of a patient, may be in the log."""
        log = self.log.read_bytes()
        words = {b"Traceback": "a traceback", b"ZZCANARY": "a patient's name", b"was never awaited": "a program error"}
        wrong = [f"the log holds {what}" for word, what in words.items() if word in log]
        if wrong:
            kept = self.log.with_suffix(f".{self.associations}.log")
            kept.write_bytes(log)
            wrong[0] += f" (see {kept})"
        return wrong

    def _journal(self) -> contextlib.closing[sqlite3.Connection]:
        path = self.site.home.db("journal")
        return contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30))

    async def drained(self, seconds: float = 120.0) -> list[str]:
        """Wait until every admitted item has reached its end; as long as there is progress, patience is renewed."""
        before, deadline = -1, time.monotonic() + seconds
        while True:
            with self._journal() as db:
                (left,) = db.execute("SELECT count(*) FROM items WHERE state NOT IN ('closed', 'failed')").fetchone()
            if not left:
                return []
            if left != before:
                before, deadline = left, time.monotonic() + seconds
            elif time.monotonic() > deadline:
                return [f"{left} items do not reach an end"]
            await asyncio.sleep(0.3)

    def ledger(self) -> list[str]:
        """Compare what was acknowledged with journal and vault, once nothing is at work (`drained`)."""
        home, wrong = self.site.home, []
        with self._journal() as db:
            rows = db.execute("SELECT sop_instance_uid, object_id, wrapped_key, size FROM items").fetchall()
            previews = {row[0] for row in db.execute("SELECT preview_id FROM items WHERE preview_id IS NOT NULL")}
        kept = {row[0] for row in rows}
        lost = sorted((self.stored | set(self.told)) - kept)
        if lost:
            wrong.append(f"{len(lost)} acknowledged objects are not in the journal, such as {lost[:3]}")
        extra = [uid for uid in kept - self.stored - set(self.told) if _case_of(uid) not in self.unsure]
        if len(extra) > len(self.unsure) // 50:
            wrong.append(f"{len(extra)} objects are in the journal that nobody was told of, such as {extra[:3]}")
        vault = FileVault(home.vault, SiteKey.load(home))
        by_uid = {row[0]: row for row in rows if row[0] in self.told}
        for uid, told in self.told.items():
            if uid in by_uid:
                reference = vault.reference(*by_uid[uid][1:])
                data = read(reference.path, reference.data_key)[-told["size"] :]
                if hashlib.sha256(data).hexdigest() != told["sha256"]:
                    wrong.append(f"the object {uid} of the well-behaved device is not what it sent")
        files = [path for path in home.vault.rglob("*") if path.is_file()]
        stray = [path.name for path in files if path.suffix not in (".ew", ".ews") and path.parent.name != "live"]
        wrong += [f"left in the vault: {name}" for name in stray[:3]]
        unknown = {path.stem for path in files if path.suffix == ".ew"} - {row[1] for row in rows} - previews
        if unknown:
            wrong.append(f"{len(unknown)} objects in the vault have no row in the journal")
        clear = [path.name for path in home.data.iterdir() if b"ZZCANARY" in path.read_bytes()]
        wrong += [f"a patient's name is in clear in {name}" for name in clear]
        return wrong

    def orders(self) -> int:
        """How many procedure steps the order book holds."""
        with contextlib.closing(sqlite3.connect(f"file:{self.site.home.db('orders')}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM steps").fetchone()[0])

    # ------------------------------------------------------------ the smallest attack

    async def harms(self, cases: list[Case], source: str = "tests.support.attack_dicom") -> bool:
        """Whether these cases kill a fresh gateway process or leave a traceback."""
        await self.end_gateway()
        self.log.write_bytes(b"")
        await self.start_gateway()
        worker = await self._worker(source, 4)
        await _ask(worker, {"cases": [case.to_json() for case in cases]})
        await asyncio.sleep(0.3)
        return not self.alive or b"Traceback" in self.log.read_bytes()

    async def smallest(self, cases: list[Case], source: str = "tests.support.attack_dicom") -> list[Case]:
        """Halve `cases` as long as one half alone does the harm, then cut the bytes of what is left."""
        while len(cases) > 1:
            half = len(cases) // 2
            for part in (cases[:half], cases[half:]):
                if await self.harms(part, source):
                    cases = part
                    break
            else:
                return cases
        case, step = cases[0], 1 << 16
        while step:
            for index, one in enumerate(case.steps):
                if one[0] == "send" and len(one[1]) > step:
                    steps = (*case.steps[:index], ("send", one[1][:-step]), *case.steps[index + 1 :])
                    shorter = Case.from_json(
                        {**case.to_json(), "steps": Case(**{**_fields(case), "steps": steps}).to_json()["steps"]}
                    )
                    if await self.harms([shorter], source):
                        case = shorter
                        break
            else:
                step //= 4
        return [case]


SPARE_THREADS = 20  # a pool that grew to its size


def _fields(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in Case.__dataclass_fields__}


def _case_of(uid: str) -> int:
    digits = uid.removeprefix("2.25.1")
    return int(digits[10:22]) if len(digits) == 30 and digits.isdigit() else -1


async def _lines(process: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    assert process.stdout is not None
    rows = [json.loads(line) async for line in process.stdout]
    await process.wait()
    return rows


async def _ask(worker: asyncio.subprocess.Process, order: dict[str, Any]) -> dict[str, Any]:
    out, _ = await worker.communicate(json.dumps(order).encode() + b"\n")
    assert worker.returncode == 0, "an attacker failed"
    result: dict[str, Any] = json.loads(out)
    return result


@contextlib.asynccontextmanager
async def besieged(path: Path, **dicom: object) -> AsyncIterator[Siege]:
    """A site with a gateway of its own, attackers' identities, and an engine that answers at once."""
    legacy = [{"name": "good-old", "ae_title": "GOODOLD", "address": "127.0.0.1", "transport": "plain"}]
    legacy += [
        {"name": f"old-{n}", "ae_title": f"OLD{n}", "address": f"127.0.1.{n}", "transport": "plain"}
        for n in range(1, LEGACY + 1)
    ]
    limits = {"max_associations": 400, "max_object_mb": 4, "idle_timeout_s": 4.0, "pdu_timeout_s": 3.0}
    hl7 = {"legacy": [{"name": one["name"], "address": one["address"]} for one in legacy[1:]], "max_connections": 400}
    sections: dict[str, dict[str, object]] = {
        "dicom": {"legacy": legacy, **limits, **dicom},
        "vault": {"min_free_mb": 0},
        "mllp": hl7,
        "web": {"max_body_mb": 4},
    }
    async with running_bus(path / "home", **sections) as site:
        folders = {"good": site.enrol("good", "ultrasound", "GOOD")}
        folders |= {f"evil{n}": site.enrol(f"evil{n}", "ultrasound", f"EVIL{n}") for n in range(1, EVIL + 1)}
        folders |= {f"emr{n}": site.enrol(f"emr{n}", "emr") for n in range(1, EVIL + 1)}
        elsewhere = TestSite(*new_home(path / "elsewhere"))
        folders["stranger"] = elsewhere.enrol("evil1", "ultrasound", "EVIL1")
        settings = site.settings
        target = Target(
            {
                "tls": settings.dicom.port,
                "plain": settings.dicom.legacy_port,
                "mllp": settings.mllp.port,
                "mllp-plain": settings.mllp.legacy_port,
                "web": settings.web.port,
            },
            {name: str(folder) for name, folder in folders.items()},
            settings={
                "certificates": [f"evil{n}" for n in range(1, EVIL + 1)],
                "emr": [f"emr{n}" for n in range(1, EVIL + 1)],
                "titles": {f"evil{n}": f"EVIL{n}" for n in range(1, EVIL + 1)},
                "legacy": [[one["ae_title"], one["address"]] for one in legacy[1:]],
                "good_title": "GOOD",
                "good_legacy": "GOODOLD",
            },
        )
        target.write(path / "target.json")
        siege = Siege(site, target, path)

        async def answer(request: WorkRequest) -> Message:
            siege.met["engine asked"] += 1
            return done(request)

        async def accept(_: DeliverRequest) -> Message:
            return Ok()

        deliver = await site.bus("deliver")
        await deliver.serve(subjects.DELIVER_ACCEPT, DeliverRequest, accept)
        await deliver.flush()
        await EngineDouble(await site.bus("engine"), answer).start(settings.site.node)
        await siege.start_gateway()
        siege.vitals.append(Vitals.of(siege.pid))
        try:
            yield siege
        finally:
            await siege.end_gateway()


def attacker(siege: Siege) -> Attacker:
    """An attacker in this process."""
    return Attacker(siege.target, attack_pdu.Answers)
