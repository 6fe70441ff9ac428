"""ECG test signals of known content, after the shapes of ANSI/AAMI EC13 and IEC 60601-2-27. In mV, any rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeward.clinic.monitor.alarms import AlarmChange, AlarmRecord, BedAlarms
from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.generated import (
    add,
    beats_at,
    fibrillation,
    noise,
    overshoot,
    pacing,
    qrs,
    regular,
    t_wave,
    wide_beats_at,
)

__all__ = [
    "add",
    "beats_at",
    "fibrillation",
    "noise",
    "overshoot",
    "pacing",
    "qrs",
    "regular",
    "run",
    "t_wave",
    "wide_beats_at",
]

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
