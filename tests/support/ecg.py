"""ECG test signals of known content, after the shapes of ANSI/AAMI EC13 and IEC 60601-2-27. In mV, any rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeward.clinic.monitor.alarms import AlarmChange, AlarmRecord, BedAlarms
from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.conditions import ConditionEvent

GAIN_UV = 1.0


@dataclass(frozen=True)
class DeviceChange:
    """An alarm change and whose it is."""

    device_id: str
    change: AlarmChange


class AlarmingBank(MonitorBank):
    """A bank with an alarm engine per patient behind it: tells changes of alarms instead of conditions."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.engines: dict[str, BedAlarms] = {}
        self._inside = False

    def _alarms(self, device_id: str) -> BedAlarms:
        return self.engines.setdefault(device_id, BedAlarms())

    def _changes(self, events: Iterable[ConditionEvent]) -> list[DeviceChange]:
        return [
            DeviceChange(event.source_id, change)
            for event in events
            for change in self._alarms(event.source_id).take(event)
        ]

    def push(self, *args: Any, **kwargs: Any) -> None:
        self._inside = True  # what the bank processes by itself stays conditions
        try:
            super().push(*args, **kwargs)
        finally:
            self._inside = False

    def process(self, now_ns: int) -> Any:
        events = super().process(now_ns)
        return events if self._inside else self._changes(events)

    def tick(self, now_ns: int) -> Any:
        return self._changes(super().tick(now_ns))

    def alarms(self, device_id: str) -> list[AlarmRecord]:
        return self._alarms(device_id).active

    def acknowledge(self, device_id: str, number: int, *, by: str, at_ns: int) -> list[DeviceChange]:
        return [
            DeviceChange(device_id, change)
            for change in self._alarms(device_id).acknowledge(number, by=by, at_ns=at_ns)
        ]

    def restore_alarms(self, device_id: str, state: dict[str, Any]) -> None:
        self.engines[device_id] = BedAlarms.from_dict(state)
        self.assume(device_id, self.engines[device_id].present_codes())


def qrs(t, at, height, width, shape="natural"):
    """One QRS: a triangle, half a sine wave, or a small Q, an R and an S within `width` seconds."""
    u = (t - at) / width
    if shape == "triangle":
        return height * np.clip(1 - np.abs(2 * u), 0, None)
    if shape == "sine":
        return height * np.where(np.abs(u) < 0.5, np.cos(np.pi * u), 0)
    r = np.clip(1 - np.abs(u / 0.25), 0, None)
    s = np.clip(1 - np.abs((u - 0.35) / 0.15), 0, None)
    q = np.clip(1 - np.abs((u + 0.35) / 0.15), 0, None)
    return height * (r - 0.25 * s - 0.1 * q)


def t_wave(t, at, height, width=0.18, shape="sine"):
    u = (t - at) / width
    inside = np.abs(u) < 0.5
    return height * np.where(inside, np.cos(np.pi * u) if shape == "sine" else 0.5 + 0.5 * np.cos(2 * np.pi * u), 0)


def add(x, rate, at, half_s, make):
    """Add ``make(t)`` to `x` within `half_s` around `at`."""
    a, b = max(0, int((at - half_s) * rate)), min(len(x), int((at + half_s) * rate) + 1)
    if a < b:
        x[a:b] += make(np.arange(a, b) / rate)


def beats_at(times, rate, seconds, *, height=1.0, width=0.1, shape="natural", t=0.25, qt=0.35, t_shape="sine"):
    """An ECG with a beat at each of `times`."""
    x = np.zeros(int(seconds * rate))
    for at in times:
        add(x, rate, at, 0.3, lambda s, at=at: qrs(s, at, height, width, shape))
        if t:
            centre = at - width / 2 + qt - 0.09
            add(x, rate, centre, 0.2, lambda s, c=centre: t_wave(s, c, t, shape=t_shape))
    return x


def regular(bpm, rate, seconds, start=0.6, **kwargs):
    """A regular rhythm; the T wave shrinks and comes earlier as the rate rises."""
    interval = 60.0 / bpm
    if bpm > 150:
        kwargs.setdefault("t", 0.0)
    kwargs.setdefault("qt", min(0.35, 0.45 * interval**0.5))
    return beats_at(np.arange(start, seconds - 0.4, interval), rate, seconds, **kwargs)


def wide_beats_at(times, rate, seconds, height=1.6, width=0.17):
    """Ventricular beats: wide, tall, with a discordant T wave."""
    x = np.zeros(int(seconds * rate))
    for at in times:
        add(x, rate, at, 0.3, lambda s, at=at: qrs(s, at, height, width, "sine"))
        add(x, rate, at + 0.2, 0.3, lambda s, at=at: t_wave(s, at + 0.2, -0.35 * height, 0.2, "cosine"))
    return x


def fibrillation(rate, seconds, frequency=4.5, spread=0.6, height=0.5, seed=1):
    """Narrow-band noise around `frequency` Hz, about `height` mV peak to peak."""
    count = int(seconds * rate)
    f = np.fft.rfftfreq(count, 1 / rate)
    rng = np.random.default_rng(seed)
    spectrum = np.exp(-0.5 * ((f - frequency) / spread) ** 2) * np.exp(2j * np.pi * rng.random(f.size))
    x = np.fft.irfft(spectrum, count)
    return x / x.std() * height / 4.0


def noise(rate, seconds, rms, low=0.5, high=40.0, seed=2):
    """Noise of equal power from `low` to `high` Hz."""
    count = int(seconds * rate)
    f = np.fft.rfftfreq(count, 1 / rate)
    rng = np.random.default_rng(seed)
    spectrum = ((f >= low) & (f <= min(high, 0.45 * rate))) * np.exp(2j * np.pi * rng.random(f.size))
    x = np.fft.irfft(spectrum, count)
    return x / x.std() * rms


def pacing(x, rate, times, height, width_s=0.002):
    """Return `x` with pacing pulses."""
    x = x.copy()
    for at in times:
        a = int(at * rate)
        x[a : a + max(1, int(width_s * rate))] += height
    return x


class Run:
    """What a bank said of a signal."""

    def __init__(self, bank: AlarmingBank, changes: list[DeviceChange], rate: float) -> None:
        self.bank, self.changes, self.rate = bank, changes, rate
        beats = bank.take_beats()
        beats = beats[beats["counted"] == 1]
        self.records = beats[np.argsort(beats["sample"], kind="stable")]
        self.beats = self.records["sample"] / rate

    def raised(self, code: str) -> list[tuple[float, float]]:
        """(onset, decisive) in seconds of each onset of an alarm."""
        return [
            (c.change.alarm.onset_sample / self.rate, c.change.alarm.decisive_sample / self.rate)
            for c in self.changes
            if c.change.state == "raised" and c.change.alarm.present and c.change.alarm.code == code
        ]

    def codes(self) -> set[str]:
        return {c.change.alarm.code for c in self.changes if c.change.state == "raised"}

    @property
    def heart_rate(self) -> float | None:
        return self.bank.numerics("d", 0).heart_rate


def run(x, rate, *, gain_uv=GAIN_UV, packet=None, off=None, **kwargs: Any) -> Run:
    """Send a signal in mV, shape (n,) or (leads, n), through a bank."""
    x = np.atleast_2d(np.asarray(x, dtype=float))
    codes = np.clip(np.rint(x * 1e3 / gain_uv), -32768, 32767).astype(np.int16)
    bank = AlarmingBank(collect_beats=True, **kwargs)
    bank.enrol("d", rate_hz=float(rate), leads=tuple(f"L{i}" for i in range(len(codes))), gain_uv=gain_uv)
    size = packet or int(rate)
    changes: list[DeviceChange] = []
    for number, first in enumerate(range(0, codes.shape[1], size)):
        flags = tuple(f(first / rate) for f in off) if off else ()
        now = int((first + size) / rate * 1e9)
        bank.push(
            "d",
            np.ascontiguousarray(codes[:, first : first + size]),
            first_sample=first,
            sequence=number,
            received_ns=now,
            lead_off=flags,
        )
        changes += bank.process(now)
    return Run(bank, changes, float(rate))
