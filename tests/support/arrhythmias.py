"""Hundreds of patients at once, whose every arrhythmia is known: what the campaign of ``test_never_silent`` sends.

Each patient's ECG is a chain of half minutes: sinus rhythm, one event, sinus rhythm again. Packets of one second go over
the bus at a steady pace; when this process was stopped, or the bus was away, it makes up for it, as a device does by
docs/protocols/waveform.md: it is let in once somebody listens, sends the last five packets from before the break again,
and then what it kept. It ends by itself, or at SIGTERM; then it writes the truth: every event, when every packet was
sent, and what became of it.

    python -m tests.support.arrhythmias --home H --patients 200 --seconds 60 --speed 1 --truth truth.npz
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeward.bus import subjects
from edgeward.bus.client import Bus, connect
from edgeward.bus.role import bus_url
from edgeward.bus.server import SYSTEM, seed_path
from edgeward.config import load
from edgeward.gateway.mqtt import LISTENERS, Listeners
from edgeward.home import Home
from edgeward.privacy import identity
from edgeward.waveform import WaveformPacket, encode

RATE = 250
BLOCK_S = 30
BEFORE_S = 10
USER = "operator"  # its permissions are widened by the test: in a site devices come by MQTT

#: How long each event lasts, in seconds of signal: twice and more what its alarm needs (docs/physiology.md).
LASTS_S = {
    "asystole": 10,
    "ventricular_fibrillation": 10,
    "ventricular_tachycardia": 10,
    "extreme_tachycardia": 12,
    "extreme_bradycardia": 14,
    "all_leads_off": 6,
    "signal_lost": 8,
}
KINDS = tuple(LASTS_S)
VARIANTS = 8


def add(x: NDArray[np.float64], at: float, parts: tuple[tuple[float, float, float], ...]) -> None:
    for offset, width, height in parts:
        a, b = int((at + offset - 4 * width) * RATE), int((at + offset + 4 * width) * RATE) + 1
        a, b = max(0, a), min(x.size, b)
        if a < b:
            t = np.arange(a, b) / RATE - at - offset
            x[a:b] += height * np.exp(-0.5 * (t / width) ** 2)


NARROW = ((-0.17, 0.022, 110), (-0.025, 0.009, -120), (0, 0.011, 1150), (0.026, 0.010, -220), (0.24, 0.045, 240))
FAST = ((-0.025, 0.009, -120), (0, 0.011, 1150), (0.026, 0.010, -220), (0.16, 0.03, 150))
WIDE = ((0, 0.042, 1500), (0.075, 0.03, -500), (0.17, 0.04, -400))


def lay_beats(
    x: NDArray[np.float64], start: float, end: float, per_minute: float, parts: tuple, rng: np.random.Generator
) -> None:  # type: ignore[type-arg]
    at, step = start, 60.0 / per_minute
    while at < end:
        add(x, at, parts)
        at += step * (1 + 0.015 * rng.standard_normal())


def block(kind: str, variant: int) -> tuple[NDArray[np.int16], int, int]:
    """Return half a minute in microvolts, and the first and last sample (exclusive) of its event."""
    rng = np.random.default_rng([KINDS.index(kind), variant])
    x = np.zeros(BLOCK_S * RATE)
    start, lasts = BEFORE_S, LASTS_S[kind]
    end = start + lasts
    sinus = 66 + 3 * variant
    lay_beats(x, 0.3, start - 0.25, sinus, NARROW, rng)
    lay_beats(x, end + 0.4, BLOCK_S - 0.3, sinus, NARROW, rng)
    if kind == "ventricular_fibrillation":
        n = lasts * RATE
        f = np.fft.rfftfreq(n, 1 / RATE)
        centre = rng.uniform(4.0, 6.0)
        spectrum = np.exp(-0.5 * ((f - centre) / 0.6) ** 2) * np.exp(2j * np.pi * rng.random(f.size))
        wave = np.fft.irfft(spectrum, n)
        x[start * RATE : end * RATE] += wave / wave.std() * rng.uniform(130, 250)
    elif kind == "ventricular_tachycardia":
        lay_beats(x, start + 0.3, end - 0.2, 165 + 4 * variant, WIDE, rng)
    elif kind == "extreme_tachycardia":
        lay_beats(x, start + 0.3, end - 0.1, 176 + 3 * variant, FAST, rng)
    elif kind == "extreme_bradycardia":
        lay_beats(x, start + 1.0, end - 0.5, 25 + 0.5 * variant, NARROW, rng)
    elif kind in ("all_leads_off", "signal_lost"):
        lay_beats(x, start + 0.3, end - 0.2, sinus, NARROW, rng)
    x += rng.normal(0, 6, x.size) + 40 * np.sin(2 * np.pi * 0.25 * np.arange(x.size) / RATE)
    if kind == "all_leads_off":
        x[start * RATE : end * RATE] = rng.normal(0, 2, lasts * RATE)
    return np.rint(x).astype(np.int16), start * RATE, end * RATE


def library() -> dict[tuple[str, int], tuple[NDArray[np.int16], int, int]]:
    """Return all half minutes."""
    return {(kind, variant): block(kind, variant) for kind in KINDS for variant in range(VARIANTS)}


def name(patient: int) -> str:
    """Return the id of a patient's device."""
    return f"never-{patient:04d}"


@dataclass
class Script:
    """What one patient's blocks are."""

    kinds: list[tuple[str, int]]
    lead_in: int  # samples of the first block that are left out

    @classmethod
    def draw(cls, patient: int, blocks: int, seed: int) -> Script:
        rng = np.random.default_rng([seed, patient])
        kinds = [(KINDS[int(rng.integers(len(KINDS)))], int(rng.integers(VARIANTS))) for _ in range(blocks)]
        return cls(kinds, int(rng.integers(0, 4)) * RATE)

    def events(self, sent_samples: int) -> list[tuple[str, int, int]]:
        """Return kind, first and last sample (exclusive) of the events that were sent whole, and 4 s after them."""
        found = []
        for number, (kind, _) in enumerate(self.kinds):
            base = number * BLOCK_S * RATE - self.lead_in
            start, end = base + BEFORE_S * RATE, base + (BEFORE_S + LASTS_S[kind]) * RATE
            if end + 4 * RATE <= sent_samples:
                found.append((kind, start, end))
        return found


class Ward:
    """Makes the packets."""

    def __init__(self, patients: int, seconds: float, speed: float, seed: int) -> None:
        self.patients, self.speed = patients, speed
        self.packets = int(seconds * speed)
        blocks = self.packets // BLOCK_S + 2
        self.scripts = [Script.draw(patient, blocks, seed) for patient in range(patients)]
        self.library = library()
        self.clocks_ns = np.zeros(patients, dtype=np.int64)  # how far each device's clock is off

    def set_clocks(self, chances: NDArray[np.float64], chance: float) -> None:
        """Set the clocks of some devices by an hour, forward or back, or right again."""
        for patient in np.flatnonzero(chances < chance).tolist():
            self.clocks_ns[patient] = (-1, 0, 1)[int(chances[patient] / chance * 3)] * 3600 * 10**9

    def packet(self, patient: int, number: int) -> bytes | None:
        """Return a packet, or None where the device is silent."""
        script = self.scripts[patient]
        at = number * RATE + script.lead_in
        which, within = divmod(at, BLOCK_S * RATE)
        kind, variant = script.kinds[which]
        samples, start, end = self.library[kind, variant]
        inside = start <= within < end
        if inside and kind == "signal_lost":
            return None
        return encode(
            WaveformPacket(
                samples=samples[within : within + RATE].reshape(1, -1), sequence=number, first_sample=number * RATE,
                start_ns=time.time_ns() + int(self.clocks_ns[patient]), rate_hz=float(RATE), gain_uv=1.0, leads=("II",),
                lead_off=(inside and kind == "all_leads_off",),
            )
        )  # fmt: skip


class Line:
    """The devices' connection: what is sent while it is away is kept, and goes first, in order, once it is back."""

    AGAIN = 5  # packets of each patient that are sent once more: they may have been on their way when it broke

    def __init__(self, home: Home) -> None:
        self._home, self._settings = home, load(home.root)
        self._open = False
        self._kept: list[tuple[str, bytes]] = []
        self._last: dict[str, deque[bytes]] = {}
        self._back: asyncio.Task[None] | None = None
        self._lost = 0

    async def connect(self) -> None:
        self._system = await self._as(SYSTEM)
        self._bus = await self._as(USER, self._changed)
        await self._open_again()

    async def _as(self, user: str, on_change: Callable[[bool], None] | None = None) -> Bus:
        seed = seed_path(self._home.keys / "bus", user).read_text().strip()
        tls = identity.client_context(self._home, USER)
        return await connect(
            bus_url(self._settings), name="devices", seed=seed, tls=tls, inbox=f"_INBOX_{USER}", on_change=on_change
        )

    def _changed(self, is_connected: bool) -> None:
        if not is_connected:
            if self._open:  # or it broke before what was kept was sent: then that is still to be sent
                self._kept = [(subject, data) for subject, last in self._last.items() for data in last]
            self._open = False
            self._lost += 1
        else:
            self._back = asyncio.get_running_loop().create_task(self._open_again())

    async def _open_again(self) -> None:
        lost = self._lost
        while lost == self._lost and not await Listeners(self._system, LISTENERS + 1).wait("PING"):
            pass
        at = 0
        while lost == self._lost and at < len(self._kept):
            await self._bus.client.publish(*self._kept[at])
            at += 1
            if at % 64 == 0:
                await asyncio.sleep(0)
        if lost == self._lost:
            self._kept, self._open = [], True

    async def send(self, subject: str, data: bytes) -> None:
        last = self._last.setdefault(subject, deque(maxlen=self.AGAIN))
        if data not in last:
            last.append(data)
        if self._open:
            await self._bus.client.publish(subject, data)
        else:
            self._kept.append((subject, data))

    async def close(self) -> None:
        async with asyncio.timeout(60):
            while not self._open:
                await asyncio.sleep(0.05)
        await self._bus.flush(10)
        await self._bus.close()
        await self._system.close()


@dataclass
class Truth:
    """When each packet was to be sent (ns), and what became of it; shape (packets, patients)."""

    at_ns: NDArray[np.int64]
    fate: NDArray[np.uint8]
    packets: int = 0  # that were really sent


DELIVERED, LOST, OVERTAKEN, SILENT = range(4)


async def send(
    ward: Ward,
    line: Line,
    stop: asyncio.Event,
    *,
    loss: float,
    duplicate: float,
    swap: float,
    clocks: float,
    seed: int,
) -> Truth:
    """Send until told to stop, or for as long as was asked."""
    rng = np.random.default_rng(seed)
    others = np.random.default_rng([seed, 1])
    shape = (ward.packets, ward.patients)
    truth = Truth(np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.uint8))
    began = time.monotonic()
    held: dict[int, bytes] = {}
    print("sending", flush=True)
    for number in range(ward.packets):
        if stop.is_set():
            break
        chance = rng.random((3, ward.patients))
        ward.set_clocks(others.random(ward.patients), clocks)
        for patient in range(ward.patients):
            due = began + (number + patient / ward.patients) / ward.speed
            while (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)
            if patient % 64 == 0:
                await asyncio.sleep(0)
            truth.at_ns[number, patient] = time.time_ns()
            data = ward.packet(patient, number)
            if data is None:
                truth.fate[number, patient] = SILENT
                continue
            subject = subjects.wave(name(patient))
            waited = held.pop(patient, None)
            if chance[0, patient] < loss:
                truth.fate[number, patient] = LOST
            elif waited is None and chance[2, patient] < swap:
                held[patient] = data  # overtaken by the next one
                truth.fate[number, patient] = OVERTAKEN
            else:
                await line.send(subject, data)
                if chance[1, patient] < duplicate:
                    await line.send(subject, data)
            if waited is not None:
                await line.send(subject, waited)
        truth.packets = number + 1
    return truth


async def run(arguments: argparse.Namespace) -> None:
    """Send, then write the truth."""
    ward = Ward(arguments.patients, arguments.seconds, arguments.speed, arguments.seed)
    line = Line(Home(Path(arguments.home)))
    await line.connect()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    truth = await send(
        ward, line, stop, loss=arguments.loss, duplicate=arguments.duplicate, swap=arguments.swap,
        clocks=arguments.clocks, seed=arguments.seed,
    )  # fmt: skip
    await line.close()
    events = [
        (patient, KINDS.index(kind), start, end)
        for patient, script in enumerate(ward.scripts)
        for kind, start, end in script.events(truth.packets * RATE)
    ]
    sent = {"at_ns": truth.at_ns[: truth.packets], "fate": truth.fate[: truth.packets]}
    np.savez(arguments.truth, **sent, events=np.array(events, dtype=np.int64).reshape(-1, 4))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--speed", type=float, default=1.0, help="seconds of signal per second")
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--duplicate", type=float, default=0.0)
    parser.add_argument("--swap", type=float, default=0.0)
    parser.add_argument("--clocks", type=float, default=0.0, help="chance, each second, that a device's clock is set")
    parser.add_argument("--seed", type=int, default=0)
    import uvloop

    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
