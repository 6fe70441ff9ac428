"""A monitor that is killed, and the one that stood by and takes over, in simulated time.

Responsible for driving the real intake, alarm engine and taking up (``restart``) with clocks that are turned by hand,
many patients at once. No bus, no files, no processes: ``tests/faults/test_never_silent`` has those.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor import restart
from edgeward.clinic.monitor.beds import Beds
from edgeward.clinic.monitor.engine import AlarmEngine, BedChange
from edgeward.clinic.monitor.floods import FloodWatch
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits, Profiles
from edgeward.clinic.monitor.standby import Heard, Memory
from edgeward.config import Settings
from edgeward.messages import Alarm, AlarmPriority
from edgeward.waveform import WaveformPacket, encode
from tests.support.arrhythmias import RATE
from tests.support.monitoring import Hands
from tests.support.torn import Case

if TYPE_CHECKING:
    from edgeward.clinic.monitor.role import MonitorRole

Packets = list[tuple[str, bytes]]


class Monitor:
    """What `restart` knows of the running role."""

    def __init__(self, hands: Hands) -> None:
        settings = Settings()
        self.clock = hands.clock()
        self.beds = Beds(Profiles(settings.monitor, settings.profile), settings.ward)
        self.intake = Intake(self.clock, Limits(), self._know)
        self.engine = AlarmEngine(self.beds, self.clock, FloodWatch(10**6, 5.0), lag=self.intake.lag_ms)
        self.devices: dict[str, str] = {}
        self.waiting: list[tuple[str, bytes, int]] | None = []
        self.told: list[Alarm] = []

    def _know(self, source_id: str, _: str) -> None:
        if source_id not in self.devices:
            self.devices[source_id] = source_id
            self.beds.add_source(source_id)

    def tell(self, changes: list[BedChange]) -> None:
        for bed_id, one in ((change.bed_id, change.change) for change in changes):
            record = one.alarm
            if one.state == "raised":
                self.told.append(
                    Alarm(
                        alarm_id=f"{bed_id}-{record.number}", bed_id=bed_id, code=record.code, state="raised",
                        priority=AlarmPriority.HIGH, technical=False, latching=record.rule.latching, present=True,
                        at_ns=one.at_ns, raised_ns=record.raised_ns, args=dict(record.args),
                        received_ns=record.received_ns, onset_ns=record.onset_ns, onset_sample=record.onset_sample,
                        decisive_sample=record.decisive_sample, device_id=record.source_id,
                    )
                )  # fmt: skip
            if record.rule.latching and not record.acknowledged:
                self.tell(self.engine.acknowledge(f"{bed_id}-{record.number}", by="nurse"))

    def take_waves(self, packets: Packets, received_ns: int) -> None:
        self.intake.waves(packets, received_ns, lambda one, data: self.take_wave(one, data, received_ns))

    def take_wave(self, source_id: str, data: bytes, received_ns: int) -> None:
        self.intake.wave(source_id, data, received_ns)

    def receive(self, batch: Iterable[tuple[str, bytes]]) -> None:
        now = self.clock.now_ns()
        packets = [(subject.rsplit(".", 1)[-1], data) for subject, data in batch]
        if self.waiting is not None:
            self.waiting += [(source_id, data, now) for source_id, data in packets]
        else:
            self.take_waves(packets, now)
            self.process()

    def process(self) -> None:
        self.tell(self.engine.take(self.intake.process()))

    def tick(self) -> None:
        self.tell(self.engine.take(self.intake.tick()) + self.engine.tick())

    async def take_over(self, before: Monitor, memory: Memory, away_s: float) -> None:
        """Take up what was before, as `restart` does with what the alarm log and the own memory hold."""
        role = cast("MonitorRole", self)
        for source_id, description in before.intake.descriptions.items():
            self.intake.enrol(source_id, description)
            self._know(source_id, "")
        for source_id in before.devices:
            restart._restore_alarms(role, source_id, before.engine.alarms(source_id).to_dict())
        past = restart.Past(role, list(before.told))
        self.told = list(before.told)
        packets = memory.give(self.receive)
        heard = Heard(packets, now_ns=self.clock.now_ns(), seconds=restart.SECONDS + away_s)
        await restart._from_memory(role, past, heard)
        restart._release(role, past)
        self.waiting = None


@dataclass
class Fall:
    """When the monitor is killed, how long nobody is there, and how packets overtake one another."""

    at_s: float
    away_s: float = 2.0
    overtaken: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.bool_))  # case, packet


def _packet(case: Case, number: int) -> bytes:
    first = number * RATE
    samples = case.episode.line[first : first + RATE].reshape(1, -1)
    return encode(
        WaveformPacket(
            samples=samples, sequence=number, first_sample=first, start_ns=0, rate_hz=float(RATE), gain_uv=1.0,
            leads=("II",), lead_off=(False,),
        )
    )  # fmt: skip


async def play(cases: list[Case], fall: Fall) -> Monitor:
    """Send every case's packets, one a second, to a monitor that falls; note in the cases what was told.

    Returns
    -------
    Monitor
        The one that took over.
    """
    hands = Hands()
    monitor, memory = Monitor(hands), Memory(clock=lambda: hands.steady)
    monitor.waiting = None
    other: Monitor | None = None
    groups = 16
    held: dict[int, bytes] = {}
    seconds = max(case.episode.line.size // RATE for case in cases)
    for number in range(seconds):
        for group in range(groups):
            hands.pass_s(1.0 / groups)
            batch: Packets = []
            for index in range(group, len(cases), groups):
                case = cases[index]
                waited = held.pop(index, None)
                if number not in case.lost and (number + 1) * RATE <= case.episode.line.size:
                    if waited is None and number and fall.overtaken.size and fall.overtaken[index, number]:
                        held[index] = _packet(case, number)
                    else:
                        batch.append((f"raw.wave.p{index}", _packet(case, number)))
                if waited is not None:
                    batch.append((f"raw.wave.p{index}", waited))
            now_s = number + (group + 1) / groups
            if other is None:
                memory.take(cast("Any", batch))
                if now_s < fall.at_s:
                    monitor.receive(batch)
                    monitor.tick()
                elif now_s >= fall.at_s + fall.away_s:
                    other = Monitor(hands)
                    await other.take_over(monitor, memory, fall.away_s)
            else:
                other.receive(batch)
                other.tick()
    assert other is not None
    for _ in range(8):
        hands.pass_s(0.25)
        other.process()
        other.tick()
    for alarm in other.told:
        case = cases[int(alarm.device_id[1:])]
        case.events.append((alarm.code, True, max(alarm.onset_sample, alarm.decisive_sample) / RATE))
    return other
