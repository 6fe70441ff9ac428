"""The alarm system tries itself, and tells whether it works, and who hears it (IEC 60601-1-8:2020, 6.11.2.2).

Responsible for a synthetic patient whose heart stops, through the same compiled kernel and the same state machine as a
real one, and for the list of what is wrong; also for knowing who hears alarms. Pure: measurements of the surroundings
are passed in. Not responsible for publishing the answer (``role``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeward.bedside import AlarmSystemState, Hearing
from edgeward.clinic.monitor.alarms import BedAlarms
from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.messages import AlarmPriority

EVERY_S = 2.0  # the contract says at least every five seconds; whoever misses it is to say so within ten
UNHEARD_S = 10.0
#: A site that starts has no console yet.
START_S = 30.0
#: Beyond this a loop that should run several times a second stands.
STUCK_S = 3.0
#: `deliver`, which says once a second that it lives, has been silent for so long: with one check, less than ten s.
NOT_DELIVERED_S = 7.0
_RATE = 250
_BEATS_S = 10
_SILENT_S = 8


def _signal() -> NDArray[np.int16]:
    """Ten seconds of narrow complexes at 75/min, then nothing. Microvolts, 250 Hz."""
    seconds = np.arange((_BEATS_S + _SILENT_S) * _RATE) / _RATE
    phase = np.mod(seconds - 0.4, 0.8) - 0.02
    beat = 1000.0 * np.clip(1.0 - np.abs(phase) / 0.04, 0.0, None)
    tail = 200.0 * np.clip(1.0 - np.abs(phase - 0.28) / 0.1, 0.0, None)
    found = np.where(seconds < _BEATS_S, beat + tail, 0.0)
    # A line that is not quite flat: an electrode that is on.
    noise = np.random.default_rng(7).normal(0.0, 3.0, seconds.size)
    return np.asarray(np.rint(found + noise), dtype=np.int16)[np.newaxis, :]


class SyntheticPatient:
    """A patient who dies, every time."""

    def __init__(self) -> None:
        self._signal = _signal()

    def problem(self) -> str:
        """Return what is wrong with the way from signal to alarm; empty if an asystole was raised as it must be."""
        bank, alarms = MonitorBank(), BedAlarms()
        bank.enrol("check", rate_hz=float(_RATE), leads=("II",), gain_uv=1.0)
        for number in range(_BEATS_S + _SILENT_S):
            part = np.ascontiguousarray(self._signal[:, number * _RATE : (number + 1) * _RATE])
            at_ns = (number + 1) * 1_000_000_000
            bank.push("check", part, first_sample=number * _RATE, sequence=number, received_ns=at_ns)
            for event in bank.process(at_ns):
                for change in alarms.take(event):
                    record = change.alarm
                    if change.new and record.code == "asystole":
                        in_time = 0 < record.decisive_sample - _BEATS_S * _RATE <= 6 * _RATE
                        right = record.priority is AlarmPriority.HIGH and record.rule.latching
                        return "" if in_time and right else "the synthetic asystole was raised wrongly"
        return "the synthetic asystole was not raised"


@dataclass(slots=True)
class Surroundings:
    """What is measured around the alarm path. Ages in seconds."""

    bus: bool = True
    log_problem: str = ""
    free_mb: float = 1e9
    tick_age_s: float = 0.0
    beds_age_s: float = 0.0
    packets_waiting_s: float = 0.0  # how long the oldest packet waits to be processed
    behind_s: float = 0.0  # by so much monitoring is behind what is sent
    notices_problem: str = ""
    unknown_codes: int = 0


@dataclass(slots=True)
class AlarmSystem:
    """Whether the alarm path works, and who hears."""

    started_s: float
    least_mb: float = 64.0
    number: int = 0
    problems: list[str] = field(default_factory=list)
    _heard: dict[str, tuple[int, float]] = field(default_factory=dict)  # receiver -> (wall ns, monotonic s)
    _patient: SyntheticPatient = field(default_factory=SyntheticPatient)

    def check(self, around: Surroundings) -> list[str]:
        """Try the alarm path; return what is wrong, as short sentences."""
        found = []
        if reason := self._patient.problem():
            found.append(reason)
        if not around.bus:
            found.append("the bus is away: alarms are not published")
        if around.log_problem:
            found.append(f"the alarm log cannot be written: {around.log_problem}")
        if around.free_mb < self.least_mb:
            found.append(f"only {around.free_mb:.0f} MB of disk are free")
        if around.tick_age_s > STUCK_S:
            found.append(f"time was last looked at {around.tick_age_s:.0f} s ago")
        if around.beds_age_s > STUCK_S:
            found.append(f"numbers were last published {around.beds_age_s:.0f} s ago")
        if around.packets_waiting_s > STUCK_S:
            found.append(f"packets wait for {around.packets_waiting_s:.0f} s")
        if around.behind_s > 0:
            found.append(f"monitoring is {around.behind_s:.1f} s behind: alarms are late")
        if around.notices_problem:
            found.append(f"people are not told: {around.notices_problem}")
        if around.unknown_codes:
            found.append(f"{around.unknown_codes} kinds of conditions have no alarm")
        self.problems = found
        return found

    def hear(self, hearing: Hearing, now_s: float) -> None:
        """Take a receiver's word that it hears."""
        self._heard[hearing.receiver[:64]] = (hearing.at_ns, now_s)
        if len(self._heard) > 256:  # a receiver that renames itself must not fill the memory
            del self._heard[min(self._heard, key=lambda one: self._heard[one][1])]

    def heard(self, now_s: float) -> dict[str, int]:
        """Return who has heard lately, and when (wall clock, ns)."""
        return {name: at for name, (at, seen) in self._heard.items() if now_s - seen <= UNHEARD_S}

    def unheard(self, now_s: float) -> bool:
        """Return whether nobody hears alarms."""
        if any(now_s - seen <= UNHEARD_S for _, seen in self._heard.values()):
            return False
        return now_s - self.started_s > START_S

    def state(self, at_ns: int, now_s: float, *, beds: int, flood: bool) -> AlarmSystemState:
        """Return the next word of the alarm system."""
        self.number += 1
        return AlarmSystemState(
            at_ns=at_ns,
            number=self.number,
            ok=not self.problems,
            problems=list(self.problems),
            beds=beds,
            flood=flood,
            heard=self.heard(now_s),
        )
