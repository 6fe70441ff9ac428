"""Pulses, pressures and breaths of known content, and a bank that listens to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.signals import ChannelNumerics, SignalBank
from edgeward.device import circulation
from edgeward.device.circulation import Pulse
from edgeward.waveform import Block, Channel, Kind, SignalPacket

RATE = 125.0
SECOND = 1_000_000_000


class Line:
    """One channel with its signal in its own unit."""

    def __init__(
        self, name: str, kind: Kind, x: NDArray[Any], rate: float = RATE, gain: float = 0.05,
        state: Callable[[float], int] = lambda _: 0,
    ) -> None:  # fmt: skip
        self.channel = Channel(name=name, kind=kind, rate_hz=rate, gain=gain)
        self.codes = np.clip(np.rint(np.nan_to_num(x, nan=0.0) / gain), -32767, 32767).astype(np.int16)
        self.codes[np.isnan(x)] = -32768
        self.state = state

    @property
    def seconds(self) -> float:
        return len(self.codes) / self.channel.rate_hz

    def block(self, start_s: float, stop_s: float) -> Block:
        a, b = round(start_s * self.channel.rate_hz), round(stop_s * self.channel.rate_hz)
        return Block(self.channel, a, self.codes[a:b], self.state(start_s))


class Listened:
    """What a bank said of some lines."""

    def __init__(self, bank: SignalBank, events: list[ConditionEvent]) -> None:
        self.bank, self.events = bank, events

    def codes(self) -> set[str]:
        return {event.code for event in self.events if event.present}

    def began(self, code: str) -> list[float]:
        """When, in seconds of arrival, a condition began."""
        return [event.received_ns / SECOND for event in self.events if event.present and event.code == code]

    def ended(self, code: str) -> list[float]:
        return [event.received_ns / SECOND for event in self.events if not event.present and event.code == code]

    def __getitem__(self, name: str) -> ChannelNumerics:
        return next(found for found in self.bank.numerics("s") if found.channel.name == name)


def listen(*lines: Line, packet_s: float = 1.0, until: float | None = None, bank: SignalBank | None = None) -> Listened:
    """Send lines through a bank."""
    bank = bank or SignalBank()
    events: list[ConditionEvent] = []
    total = min(line.seconds for line in lines) if until is None else until
    for number in range(int(total / packet_s)):
        blocks = [line.block(number * packet_s, (number + 1) * packet_s) for line in lines]
        packet = SignalPacket(number, 0, 0, None, tuple(b for b in blocks if b.samples.size))
        now = round((number + 1) * packet_s * SECOND)
        bank.push("s", packet, received_ns=now)
        events += bank.process(now)
        events += bank.tick(now)
    return Listened(bank, events)


def times(bpm: float, seconds: float, start: float = 0.5) -> list[float]:
    return [float(t) for t in np.arange(start, seconds, 60.0 / bpm)]


def steady(bpm: float, seconds: float) -> list[Pulse]:
    return [Pulse(t) for t in times(bpm, seconds)]


def pleth(pulses: list[Pulse], seconds: float, *, rate: float = RATE, noise: float = 0.01, seed: int = 1):
    """A photoplethysmogram 1000 high, with the breath in it, on a large constant."""
    count = round(seconds * rate)
    t = np.arange(count) / rate
    wander = 0.15 * np.sin(2 * np.pi * 0.25 * t)
    x = circulation.pleth(pulses, 0, count, rate) + wander + np.random.default_rng(seed).normal(0, noise, count)
    return 1000.0 * x


def arterial(pulses: list[Pulse], seconds: float, *, rate: float = RATE, noise: float = 0.4, seed: int = 1, **kwargs):
    count = round(seconds * rate)
    return circulation.pressure(pulses, 0, count, rate, **kwargs) + np.random.default_rng(seed).normal(0, noise, count)


def breath(seconds: float, per_minute: float = 15.0, *, rate: float = 25.0, pulses: list[Pulse] | None = None,
           stop: tuple[float, float] | None = None, noise: float = 0.01):  # fmt: skip
    """An impedance pneumogram of 1 ohm; breathing stops within `stop`, the heart's artefact does not."""
    count = round(seconds * rate)
    x = circulation.breathing(0, count, rate, per_minute=per_minute)
    if stop is not None:
        a, b = (round(s * rate) for s in stop)
        x[a:b] = 0.0
    if pulses is not None:
        x = x + circulation.cardiac_artefact(pulses, 0, count, rate, depth=0.12)
    return x + np.random.default_rng(3).normal(0, noise, count)
