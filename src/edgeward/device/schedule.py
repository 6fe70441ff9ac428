"""When something happens to which simulated patient.

Responsible for the list of events, built in or from a file, the same for the same seed. Not responsible for carrying
them out (`wearable`).
"""

from __future__ import annotations

import heapq
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal[
    "asystole",
    "ventricular_tachycardia",
    "ventricular_fibrillation",
    "lead_off",
    "stop",
    "abort",
    "freeze",
    "loss",
    "electrode_motion",
    "sensor_off",
    "apnea",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
SENSOR_KINDS: frozenset[Kind] = frozenset({"electrode_motion", "sensor_off", "apnea"})
"""Told by, or held against, the sensors beside the ECG: they happen to devices that have some."""
KINDS_HELP = """\
asystole, ventricular_tachycardia, ventricular_fibrillation: the rhythm changes
lead_off: the electrode comes off: flag set, mains hum instead of ECG
stop: the device is switched off without saying so, and later starts a new stream
abort: the connection is cut; the device goes on sampling and sends up to 30 s of it when it is back
freeze: the device stays connected but sends nothing
loss: the packets of this time are lost on their way
electrode_motion: the ECG is drowned by a movement while the pulse goes on
sensor_off, apnea: the finger sensor comes off; breathing stops (of devices with sensors)"""

LONGEST_S = 600.0
_RECOVERY_S = 15.0  # between two events of one device, so that each is told apart


class ScheduleError(ValueError):
    """A file of events is wrong; the text says which event and why."""


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """Something that happens to one device.

    Attributes
    ----------
    at_s
        Seconds after the ward's start.
    device
        Position of the device in the ward, from 0.
    kind
        What happens.
    for_s
        How long it lasts, seconds.
    """

    at_s: float
    device: int
    kind: Kind
    for_s: float


# Within the first minute each alarm is seen once; the first ones at once, because somebody is watching.
_OPENING: tuple[tuple[float, Kind, float], ...] = (
    (1.0, "lead_off", 25.0),
    (3.0, "asystole", 14.0),
    (9.0, "stop", 20.0),
    (14.0, "ventricular_tachycardia", 10.0),
    (22.0, "abort", 12.0),
    (30.0, "ventricular_fibrillation", 12.0),
    (38.0, "loss", 3.0),
    (45.0, "freeze", 10.0),
)
_ONGOING: tuple[tuple[Kind, float, tuple[float, float]], ...] = (  # kind, weight, duration
    ("lead_off", 4.0, (8.0, 40.0)),
    ("asystole", 2.0, (7.0, 15.0)),
    ("ventricular_tachycardia", 2.0, (5.0, 12.0)),
    ("ventricular_fibrillation", 1.0, (8.0, 15.0)),
    ("stop", 1.0, (10.0, 40.0)),
    ("abort", 1.0, (8.0, 25.0)),
    ("loss", 1.0, (2.0, 3.0)),
)


# The same for devices with sensors beside the ECG, spread over these.
_OPENING_SENSORS: tuple[tuple[float, Kind, float], ...] = (
    (16.0, "apnea", 35.0),
    (26.0, "electrode_motion", 12.0),
    (40.0, "sensor_off", 12.0),
)
_ONGOING_SENSORS: tuple[tuple[Kind, float, tuple[float, float]], ...] = (
    ("electrode_motion", 3.0, (8.0, 15.0)),
    ("apnea", 1.0, (30.0, 40.0)),
    ("sensor_off", 2.0, (8.0, 30.0)),
)


def built_in(count: int, seed: int, every_s: float, sensors: int = 0) -> Iterator[Event]:
    """Yield events in order of time, without end: an opening of one of each kind, then one about every `every_s`.

    Parameters
    ----------
    count
        Devices in the ward.
    seed
        The same seed gives the same events.
    every_s
        Mean time between events after the opening; 0: the opening only.
    sensors
        The last so many devices of the ward have sensors beside the ECG.
    """
    busy: dict[int, float] = {}
    with_sensors = max(0, min(sensors, count))
    opening = [(at_s, position % count, kind, for_s) for position, (at_s, kind, for_s) in enumerate(_OPENING)]
    if with_sensors:
        opening += [
            (at_s, count - 1 - place % with_sensors, kind, for_s)
            for place, (at_s, kind, for_s) in enumerate(_OPENING_SENSORS)
        ]
        opening.sort()
    for at_s, device, kind, for_s in opening:
        if at_s >= busy.get(device, 0.0):
            busy[device] = at_s + for_s + _RECOVERY_S
            yield Event(at_s, device, kind, for_s)
    if every_s <= 0:
        return
    rng = random.Random(seed)
    at_s = 60.0
    ongoing = _ONGOING + (_ONGOING_SENSORS if with_sensors else ())
    while True:
        at_s += rng.expovariate(1.0 / every_s)
        kind, _, (least, most) = rng.choices(ongoing, [weight for _, weight, _ in ongoing])[0]
        for_s = rng.uniform(least, most)
        device = rng.randrange(count)
        if kind in SENSOR_KINDS:
            device = count - 1 - device % with_sensors
        if at_s >= busy.get(device, 0.0):
            busy[device] = at_s + for_s + _RECOVERY_S
            yield Event(round(at_s, 3), device, kind, round(for_s, 3))


def read(path: Path, devices: Mapping[str, int]) -> list[Event]:
    """Read events from a JSON file: a list of ``{"device", "kind", "at_s", "for_s"}``.

    Parameters
    ----------
    devices
        Position in the ward of each device id; the file may name a device by either.

    Raises
    ------
    ScheduleError
        If the file is not such a list; names the entry.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScheduleError(f"{path} cannot be read: {error}") from error
    if not isinstance(entries, list):
        raise ScheduleError(f"{path} must hold a list of events")
    events = []
    for number, entry in enumerate(entries, 1):
        try:
            events.append(_event(entry, devices))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ScheduleError(f"{path}, event {number}: {reason}") from error
    return sorted(events)


def _event(entry: Any, devices: Mapping[str, int]) -> Event:
    if not isinstance(entry, dict):
        raise TypeError("is not a table")
    if unknown := set(entry) - {"device", "kind", "at_s", "for_s"}:
        raise ValueError(f"has the unknown key {min(unknown)!r}")
    device = entry["device"]
    by_position = isinstance(device, int) and not isinstance(device, bool)
    position = device if by_position else devices.get(str(device), -1)
    if not 0 <= position < len(devices):
        raise ValueError(f"there is no device {device!r} in this ward of {len(devices)}")
    if entry["kind"] not in KINDS:
        raise ValueError(f"kind {entry['kind']!r} is not one of {', '.join(KINDS)}")
    at_s, for_s = float(entry["at_s"]), float(entry.get("for_s", 10.0))
    if not (math.isfinite(at_s) and at_s >= 0):
        raise ValueError(f"at_s = {at_s} is not a time after the start")
    if not 0 < for_s <= LONGEST_S:
        raise ValueError(f"for_s = {for_s}; allowed are more than 0 up to {LONGEST_S:.0f} s")
    return Event(at_s, position, entry["kind"], for_s)


class Schedule:
    """Hands each device its events, from one stream of events for the whole ward."""

    def __init__(self, events: Iterator[Event], count: int) -> None:
        self._events = events
        self._queues: list[list[Event]] = [[] for _ in range(count)]
        self._read_s = -1.0

    def take(self, device: int, until_s: float) -> list[Event]:
        """Return, once, the events of `device` that begin before `until_s`, in order of time."""
        while self._read_s < until_s:
            event = next(self._events, None)
            if event is None:
                self._read_s = math.inf
                break
            heapq.heappush(self._queues[event.device], event)
            self._read_s = event.at_s
        queue = self._queues[device]
        due = []
        while queue and queue[0].at_s < until_s:
            due.append(heapq.heappop(queue))
        return due
