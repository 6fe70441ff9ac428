"""A running site that is done harm, patients whose every arrhythmia is known, and the account of what was told.

Responsible for the faults, for what a receiver of alarms hears, and for holding one against the other. Which faults come
when is the campaign's (``tests/faults/test_never_silent``); what is sent is ``tests.support.arrhythmias``'.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from edgeward.bus import permissions, subjects
from edgeward.bus.client import Bus, BusError
from edgeward.bus.role import open_bus
from edgeward.home import Home
from edgeward.messages import Alarm, AlarmAck, Alarms, Ask, MessageError, Ok, Refused
from edgeward.privacy import identity
from edgeward.privacy.registry import Device, Registry
from edgeward.supervisor import Supervisor
from tests.support import arrhythmias
from tests.support.hospital import until
from tests.support.site import new_home

HOUR_NS = 3600 * 10**9
BUDGET_MS = 500.0
#: Which alarm an event may be told as. A lethal rhythm told as another lethal one is told.
LETHAL = {"asystole", "ventricular_fibrillation", "ventricular_tachycardia"}
ACCEPTED = {
    "asystole": LETHAL,
    "ventricular_fibrillation": LETHAL,
    "ventricular_tachycardia": LETHAL | {"extreme_tachycardia"},
    "extreme_tachycardia": {"extreme_tachycardia", "ventricular_tachycardia", "ventricular_fibrillation"},
    "extreme_bradycardia": {"extreme_bradycardia", "asystole"},
    "all_leads_off": {"all_leads_off"},
    "signal_lost": {"signal_lost"},
}
#: So many seconds of it without a gap show the event: what its alarm needs (docs/physiology.md), and two seconds in
#: which the detector settles after a gap. Of events that losses cut into shorter pieces no alarm is due.
SHOWN_S = {
    "asystole": 7,
    "ventricular_fibrillation": 7,
    "ventricular_tachycardia": 6,
    "extreme_tachycardia": 8,
    "extreme_bradycardia": 12,
    "all_leads_off": 3,
}
CAUGHT_UP_NS = 8 * 10**9  # after a fault the monitor works off what waited; then silence shows again
SILENCE_NS = 6_500_000_000  # so long a silence is due, with the time that it takes to be seen
#: The recorder has 45 s at hand (docs/recording.md), of which a detector needs some to settle. Where a monitor takes
#: longer to be back, what was over before is not told.
REACH_NS = 35 * 10**9


def down(what: str) -> bool:
    """Whether nobody can notice a silence while it lasts. A clock that is set or a dead recorder excuses nothing."""
    return any(one in what for one in ("monitor", "bus", "machine"))


@dataclass(frozen=True)
class Heard:
    """An alarm, when and how a receiver came to know of it."""

    alarm: Alarm
    seen_ns: int  # real time, as the generator's
    how: str  # told | listed


@dataclass
class Receiver:
    """A console: hears alarms, acknowledges them, and asks for the list, as after a lost connection."""

    bus: Bus
    heard: list[Heard] = field(default_factory=list)
    _known: set[tuple[str, int]] = field(default_factory=set)

    async def listen(self) -> None:
        await self.bus.subscribe(subjects.ALARM_ALL, Alarm, self._told)
        await self.bus.flush()

    async def _told(self, _: str, alarm: Alarm) -> None:
        if alarm.members:  # a flood: each change of its list tells of other beds
            self.heard.append(Heard(alarm, time.time_ns(), "told"))
        elif alarm.state == "raised":
            self._note(alarm, "told")

    def _note(self, alarm: Alarm, how: str) -> None:
        # An alarm that is latched and comes up again keeps its identity: tell its occurrences apart.
        key = (alarm.alarm_id, alarm.decisive_sample if alarm.decisive_sample >= 0 else alarm.raised_ns)
        if key not in self._known:
            self._known.add(key)
            self.heard.append(Heard(alarm, time.time_ns(), how))

    async def look(self) -> None:
        """Every other second: what is there that nobody told me of, and what is to be acknowledged."""
        while True:
            with contextlib.suppress(BusError, MessageError):
                listed = await self.bus.request(subjects.MONITOR_ALARMS, Ask(), Alarms | Refused, 2.0)
                if isinstance(listed, Alarms):
                    await self._take(listed.active)
            await asyncio.sleep(2.0)

    async def _take(self, active: list[Alarm]) -> None:
        for alarm in active:
            self._note(alarm, "listed")
        due = [alarm for alarm in active if alarm.latching and not alarm.acknowledged]
        for start in range(0, len(due), 50):
            acks = (
                self.bus.request(
                    subjects.MONITOR_ACK, AlarmAck(alarm_id=a.alarm_id, by="nurse", at_ns=1), Ok | Refused, 2.0
                )
                for a in due[start : start + 50]
            )
            await asyncio.gather(*acks, return_exceptions=True)


class Clock:
    """The roles' wall clock, which can be set (``tests/support/stepped``)."""

    def __init__(self, path: Path) -> None:
        self._path, self.offset_ns = path, 0
        self.set(0)

    def set(self, offset_ns: int) -> None:
        self.offset_ns = offset_ns
        with self._path.open("r+b" if self._path.exists() else "wb") as file:
            file.write(struct.pack("<q", offset_ns))


@dataclass
class Scene:
    """A running site, its patients, and what is done to it."""

    home: Home
    supervisor: Supervisor
    receiver: Receiver
    clock: Clock
    faults: list[tuple[str, int, int]] = field(default_factory=list)  # what, from, until it was over (real ns)

    def pid(self, role: str) -> int:
        process = self.supervisor.children[role].process
        assert process is not None
        return process.pid

    async def kill(self, *roles: str, step_ns: int = 0) -> None:
        """Kill roles at once; set the clock while they are away."""
        before = {role: self.supervisor.children[role].restarts for role in roles}
        began = time.time_ns()
        for role in roles:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid(role), signal.SIGKILL)
        if step_ns:
            self.step(step_ns)
        for role in roles:
            await self._back(role, before[role])
        self.faults.append((f"{' and '.join(roles)} killed", began, time.time_ns()))

    async def kill_twice(self, role: str) -> None:
        """Kill a role, and the process that takes over as soon as it has begun to."""
        child = self.supervisor.children[role]
        began, before, first = time.time_ns(), child.restarts, self.pid(role)
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.restarts > before and self.pid(role) != first, 60, f"{role} to start", 0.005)
        await asyncio.sleep(0.3)  # it takes up what was before
        second = self.pid(role)
        with contextlib.suppress(ProcessLookupError):
            os.kill(second, signal.SIGKILL)
        await self._back(role, before + 1)
        self.faults.append((f"{role} killed twice", began, time.time_ns()))

    async def _back(self, role: str, restarts: int) -> None:
        child = self.supervisor.children[role]
        await until(lambda: child.restarts > restarts and child.ready.is_set(), 120, f"{role} to be back", 0.02)

    async def no_room(self, role: str, seconds: float) -> None:
        """Let no file of a role grow, as if the disk were full."""
        pid, began = self.pid(role), time.time_ns()
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        await asyncio.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        self.faults.append((f"{role} without room", began, time.time_ns()))

    async def pause(self, seconds: float, *more: int) -> None:
        """Stop everything, the generator too, as a machine that stands still."""
        pids = [self.pid(role) for role in self.supervisor.children] + list(more)
        began = time.time_ns()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.faults.append(("machine paused", began, time.time_ns()))

    async def watch(self) -> None:
        """Note when the machine itself stands still: then nobody can notice a silence either."""
        while True:
            began, before = time.time_ns(), time.monotonic()
            await asyncio.sleep(0.25)
            if time.monotonic() - before > 1.25:
                self.faults.append(("machine stood still", began, time.time_ns()))

    async def freeze(self, role: str, seconds: float) -> None:
        """Stop one role. The supervisor takes one that is silent for too long for hung, and starts another."""
        child = self.supervisor.children[role]
        pid, began, restarts = self.pid(role), time.time_ns(), child.restarts
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if child.restarts > restarts:
            await until(child.ready.is_set, 120, f"{role} to be back", 0.02)
        self.faults.append((f"{role} frozen", began, time.time_ns()))

    async def lose_store(self, *others: str) -> None:
        """Kill the broker, and take its store away: what MQTT sessions and streams there were is gone."""
        before = {role: self.supervisor.children[role].restarts for role in ("bus", *others)}
        began = time.time_ns()
        for role in before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid(role), signal.SIGKILL)
        shutil.rmtree(self.home.nats / "store", ignore_errors=True)
        for role, restarts in before.items():
            await self._back(role, restarts)
        also = "".join(f", {role} killed" for role in others)
        self.faults.append((f"bus without its store{also}", began, time.time_ns()))

    def step(self, by_ns: int) -> None:
        self.clock.set(self.clock.offset_ns + by_ns)
        self.faults.append(("clock set", time.time_ns(), time.time_ns()))


@contextlib.asynccontextmanager
async def scene(root: Path, patients: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    open_door = permissions.ROLES[arrhythmias.USER]
    wider = permissions.Permissions(publish=(*open_door.publish, subjects.WAVE_ALL), subscribe=open_door.subscribe)
    monkeypatch.setitem(permissions.ROLES, arrhythmias.USER, wider)
    stepped = str(Path(__file__).parent / "stepped")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [stepped, os.environ.get("PYTHONPATH", "")])))
    clock = Clock(root / "clock")
    monkeypatch.setenv("EDGEWARD_TEST_CLOCK", str(root / "clock"))
    home, settings = new_home(root / "home")
    settings.monitor.standby = True
    now = time.time_ns()
    Registry(home).add(
        [
            Device(device_id=arrhythmias.name(n), kind="wearable", label=f"bed {n}", ae_title="", fingerprint=f"{n:064x}", enrolled_ns=now)
            for n in range(patients)
        ]
    )  # fmt: skip
    supervisor = Supervisor(home, settings, ("monitor", "recorder"))
    await supervisor.start()
    tasks: list[asyncio.Task[None]] = []
    bus: Bus | None = None
    try:
        assert await supervisor.wait_ready(timeout_s=120) == []
        bus = await open_bus("console", home, supervisor.settings, identity.client_context(home, "console"))
        receiver = Receiver(bus)
        await receiver.listen()
        site = Scene(home, supervisor, receiver, clock)
        tasks = [asyncio.create_task(receiver.look()), asyncio.create_task(site.watch())]
        yield site
    finally:
        for task in tasks:
            task.cancel()
        if bus is not None:
            await bus.close()
        await supervisor.stop()


async def generator(scene: Scene, truth: Path, **options: object) -> asyncio.subprocess.Process:
    arguments = [str(x) for key, value in options.items() for x in (f"--{key}", value)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.arrhythmias", "--home", str(scene.home.root), "--truth", str(truth), *arguments,
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        env={**os.environ, "EDGEWARD_BUS__PORT": str(scene.supervisor.settings.bus.port), "EDGEWARD_TEST_CLOCK": ""},
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"sending\n"
    return process


@dataclass
class Account:
    """What was due and what came of it."""

    due: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    lost: list[dict[str, object]] = field(default_factory=list)
    torn: int = 0  # events of which losses left too little for an alarm to be due
    unseen: int = 0  # silences while the site itself was down
    beyond: int = 0  # events that were over before what the recorder has at hand, when the monitor was back at last
    late_said: int = 0
    held: int = 0  # raised in time, and told late, because the bus or the monitor died in between
    late_unsaid: list[dict[str, object]] = field(default_factory=list)
    by: Counter[str] = field(default_factory=Counter)  # how the receiver came to know
    delays_ms: list[float] = field(default_factory=list)  # from sending the decisive sample until it was seen

    def summary(self) -> dict[str, object]:
        delays = np.array(self.delays_ms or [0.0])
        names = ("p50", "p90", "p99", "max")
        return {
            "due": sum(self.due.values()),
            "told": sum(self.told.values()),
            "lost": len(self.lost),
            "not due": {
                "torn by losses": self.torn,
                "silence while the site was down": self.unseen,
                "monitor away too long": self.beyond,
            },
            "by": dict(self.by),
            "said late": self.late_said,
            "held on the way": self.held,
            "late without saying so": len(self.late_unsaid),
            "sent to seen, ms": dict(
                zip(names, np.percentile(delays, [50, 90, 99, 100]).round().tolist(), strict=True)
            ),
            "due of each kind": dict(self.due),
        }


def account(truth: Path, heard: list[Heard], faults: list[tuple[str, int, int]], speed: float) -> Account:
    """Hold what was heard against what was sent."""
    data = np.load(truth)
    at_ns, fate, events = data["at_ns"], data["fate"], data["events"]
    rate = arrhythmias.RATE
    per_source: dict[str, list[Heard]] = {}
    floods: list[Heard] = []
    for one in heard:
        if one.alarm.members:
            floods.append(one)
        per_source.setdefault(one.alarm.device_id, []).append(one)
    found = Account()
    for patient, code, start, end in events.tolist():
        kind, source = arrhythmias.KINDS[code], arrhythmias.name(patient)
        first_packet, last_packet = start // rate, (end - 1) // rate
        begin_ns, end_ns = int(at_ns[first_packet, patient]), int(at_ns[last_packet, patient])
        candidates = per_source.get(source, [])
        if kind == "signal_lost":
            if _undisturbed(begin_ns, end_ns, faults) < SILENCE_NS:
                found.unseen += 1
                continue
            mine = [
                h for h in candidates
                if h.alarm.code == "signal_lost" and begin_ns <= h.seen_ns <= end_ns + 4 * 10**9
            ] + [h for h in floods if source in h.alarm.members and begin_ns <= h.seen_ns <= end_ns + 4 * 10**9]  # fmt: skip
        else:
            mine = [
                h for h in candidates
                if h.alarm.code in ACCEPTED[kind]
                and start - 2 * rate <= max(h.alarm.onset_sample, h.alarm.decisive_sample) <= end + 3 * rate
            ]  # fmt: skip
        shown = _longest(fate[first_packet : last_packet + 1, patient])
        if not mine and kind != "signal_lost" and shown < SHOWN_S[kind]:
            found.torn += 1
            continue
        if not mine and any(
            "monitor" in what and b - REACH_NS > begin_ns and end_ns > a - 6 * 10**9 for what, a, b in faults
        ):
            found.beyond += 1
            continue
        found.due[kind] += 1
        if not mine:
            near = [f for f, a, b in faults if a <= end_ns + 3 * 10**9 and b >= begin_ns - 3 * 10**9]
            others = sorted({h.alarm.code for h in candidates if abs(h.alarm.decisive_sample - start) < 30 * rate})
            found.lost.append(
                {
                    "kind": kind,
                    "source": source,
                    "start": start,
                    "near": near,
                    "others": others,
                    "fate": fate[first_packet - 1 : last_packet + 2, patient].tolist(),
                    "told": _told(candidates, begin_ns, end_ns),
                }
            )
            continue
        first = min(mine, key=lambda h: h.seen_ns)
        found.told[kind] += 1
        found.by[first.how] += 1
        decisive = first.alarm.decisive_sample
        if kind == "signal_lost" or decisive < 0:
            continue
        sent_ns = int(at_ns[min(decisive // rate, len(at_ns) - 1), patient])
        delay_ms = (first.seen_ns - sent_ns) / 1e6
        found.delays_ms.append(delay_ms)
        said = first.alarm.late or first.alarm.late_ms > 0
        found.late_said += said
        # Raised in time, and the bus died under it, or this receiver had no turn: it sees by the alarm's own time how
        # long it was held.
        held_ms = (first.seen_ns - first.alarm.raised_ns) % HOUR_NS / 1e6  # the clock is only set by whole hours
        most_ms = 2 * BUDGET_MS + 1000.0
        if not said and delay_ms > most_ms and delay_ms - held_ms < most_ms:
            found.held += 1
            continue
        # Publishing and seeing take their time too; what is clearly beyond the budget must have been said.
        if delay_ms > most_ms and not said and first.how == "told":
            found.late_unsaid.append(
                {"kind": kind, "source": source, "ms": round(delay_ms), "start": start,
                 "near": [f for f, a, b in faults if a <= first.seen_ns and b >= sent_ns - 3 * 10**9],
                 "raised": round(held_ms), "told": _told(candidates, begin_ns, end_ns)}
            )  # fmt: skip
    return found


def _told(heard: list[Heard], begin_ns: int, end_ns: int) -> list[tuple[float, str, float]]:
    """Return what was told of a patient around an event: when, in seconds from its beginning, what, and how late."""
    around = (one for one in heard if begin_ns - 30 * 10**9 < one.seen_ns < end_ns + 60 * 10**9)
    return [(round((one.seen_ns - begin_ns) / 1e9, 2), one.alarm.code, one.alarm.late_ms) for one in around]


def _undisturbed(begin_ns: int, end_ns: int, faults: list[tuple[str, int, int]]) -> int:
    """Return the longest part of a silence in which the site was there to notice it, ns."""
    longest, at = 0, begin_ns
    for a, b in sorted((a, b + CAUGHT_UP_NS) for what, a, b in faults if down(what)):
        if b > begin_ns and a < end_ns:
            longest = max(longest, a - 2 * 10**9 - at)
            at = max(at, b)
    return max(longest, end_ns - at)


def _longest(fate: np.ndarray) -> int:
    """Return the longest run of packets that arrived, one after the other, in seconds of signal.

    One that was overtaken has arrived: a second late, behind the next.
    """
    longest = run = 0
    for one in fate.tolist():
        run = run + 1 if one in (arrhythmias.DELIVERED, arrhythmias.OVERTAKEN) else 0
        longest = max(longest, run)
    return longest


def report(found: Account, faults: list[tuple[str, int, int]], out: Path) -> None:
    """Print the account, and keep it with every loss."""
    text = json.dumps(found.summary(), indent=1)
    print(text)
    lasted: dict[str, list[float]] = {}
    for what, began, ended in faults:
        lasted.setdefault(what, []).append(round((ended - began) / 1e9, 1))
    print("faults, and how long each lasted, s:", lasted)
    for one in (*found.lost[:15], *found.late_unsaid[:15]):
        print({name: value for name, value in one.items() if name != "told"})
    out.write_text(json.dumps({**found.summary(), "all lost": found.lost, "all unsaid": found.late_unsaid}, indent=1))
