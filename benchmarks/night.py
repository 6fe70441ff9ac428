"""A generated night of many beds: how many alarms are false, per condition and bed-day, and what becomes of true ones.

    python benchmarks/night.py [--beds 60] [--minutes 20] [--seed 1] [--leads 1] [--true] [--noise MV] [--json FILE]

Signals come from ``nights`` and go the way of a real bed's: packets of one second (version 2) and SenML through
`Intake`, the alarm engine and its cross-check, in simulated time. Two of three beds have a pleth. 0.05 % of the packets
are lost, devices reconnect and electrodes come off now and then. Whoever is called acknowledges at once, so that a
latched alarm does not hide the next.

With --true arrests, fibrillations and tachycardias happen about once a minute; each must be told while it lasts or within 3 s,
as itself or as another lethal alarm. The delay counts from its first sample. Nothing here is a patient's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from edgeward.clinic.monitor import nights
from edgeward.clinic.monitor.beds import Beds
from edgeward.clinic.monitor.engine import AlarmEngine, BedChange
from edgeward.clinic.monitor.floods import FloodWatch
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits, Profiles
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.clinic.monitor.witnesses import Witnesses
from edgeward.config import Settings
from edgeward.waveform import STATE_OFF, Block, Channel, Kind, encode_channels

S = 1_000_000_000
START = 1_800_000_000 * S
LEADS = ("II", "V5", "I")
PLETH = Channel(name="Pleth", kind=Kind.PLETH, rate_hz=float(nights.PLETH_HZ), gain=0.001)
LETHAL = (
    "asystole",
    "ventricular_fibrillation",
    "ventricular_tachycardia",
    "extreme_bradycardia",
    "extreme_tachycardia",
)
GAIN_UV = 2.5
LOSS = 0.0005
IN_TIME_S = 3.0


class Hands:
    """A clock that is set by hand."""

    now = START


class Ward:
    """The monitor of one generated ward, and what it raised."""

    def __init__(self) -> None:
        self.hands = Hands()
        clock = SiteClock(lambda: self.hands.now, lambda: self.hands.now)
        settings = Settings()
        self.beds = Beds(Profiles(settings.monitor, settings.profile), settings.ward)
        self.intake = Intake(clock, Limits(), self._known)
        self.witnesses = Witnesses(self.intake)
        self.engine = AlarmEngine(
            self.beds, clock, FloodWatch(8, 5.0), check=self.witnesses.check, lag=self.intake.lag_ms
        )
        self.raised: list[tuple[str, str, float]] = []  # bed, code, s
        self._open: set[tuple[str, int]] = set()

    def _known(self, source_id: str, label: str) -> None:  # noqa: ARG002 - the intake tells both
        if source_id not in self.beds:
            self.beds.add_source(source_id)

    def tell(self, changes: list[BedChange]) -> None:
        """Note what was raised; acknowledge it."""
        for one in changes:
            alarm = one.change.alarm
            key = one.bed_id, alarm.number
            if one.change.state == "raised" and key not in self._open:
                code = alarm.code + (f":{alarm.scope}" if alarm.rule.scope == "parameter" else "")
                self.raised.append((one.bed_id, code, (self.hands.now - START) / S))
                self._open.add(key)
            if not alarm.present and key in self._open:
                if alarm.rule.latching and one.change.state != "ended":
                    self.tell(self.engine.acknowledge(f"{one.bed_id}-{alarm.number}", by="nobody"))
                self._open.discard(key)

    def quarter(self) -> None:
        """Let a quarter of a second pass."""
        self.tell(self.engine.take(self.intake.process()))
        self.tell(self.engine.take(self.intake.tick()) + self.engine.tick())


class Bedside:
    """One bed: its sleeper, and the packets that its devices send."""

    def __init__(
        self, number: int, seed: int, seconds: int, leads: int, *, true: bool, noise_mv: float, still: bool
    ) -> None:
        self.bed_id = f"p{number}"
        self.rng = np.random.default_rng([seed, number, 79])
        self.person = nights.Sleeper(seed * 100_003 + number, leads=leads, restless=0.0 if still else 1.0)
        self.events = nights.events_of(seed * 100_003 + number, seconds) if true else ()
        night = self.person.stretch(float(seconds), self.events, noise_mv=noise_mv)
        self.ecg = np.clip(np.rint(night.ecg / GAIN_UV * 1e3), -32_000, 32_000).astype(np.int16)
        self.pleth = np.clip(np.rint(night.pleth * 1e3), -32_000, 32_000).astype(np.int16)
        self.moving = night.moving
        self.off = np.zeros(seconds, dtype=bool)
        self.gone = np.zeros(seconds, dtype=bool)
        if not true:
            for mask, per_hour, longest in ((self.off, 0.3, 30), (self.gone, 0.2, 25)):
                for _ in range(self.rng.poisson(per_hour * seconds / 3600.0)):
                    at = int(self.rng.integers(20, max(21, seconds - 60)))
                    mask[at : at + int(self.rng.integers(4, longest))] = True
        self.channels = [
            Channel(name=name, kind=Kind.ECG, rate_hz=float(nights.ECG_HZ), gain=GAIN_UV) for name in LEADS[:leads]
        ]
        self.with_pleth = number % 3 > 0
        self.saturation = float(self.rng.uniform(95.0, 98.5))
        self.sequence = 0

    def second(self, number: int) -> tuple[bytes, bytes] | None:
        """Return the packet and the pack of one second, None if they do not arrive."""
        self.sequence += 1
        if self.gone[number] or self.rng.random() < LOSS:
            return None
        ecg, finger = nights.ECG_HZ, nights.PLETH_HZ
        blocks = []
        for channel, row in zip(self.channels, self.ecg, strict=True):
            part = row[number * ecg : (number + 1) * ecg]
            if self.off[number]:
                part = self.rng.normal(0.0, 120.0, ecg).astype(np.int16)
            blocks.append(Block(channel, number * ecg, part, STATE_OFF if self.off[number] else 0))
        if self.with_pleth:
            blocks.append(Block(PLETH, number * finger, self.pleth[number * finger : (number + 1) * finger]))
        packet = encode_channels(tuple(blocks), sequence=self.sequence - 1, start_ns=START + number * S)
        moving = float(self.moving[number * ecg : (number + 1) * ecg].max())
        shown = min(100, round(self.saturation - (self.rng.uniform(0, 12) if moving > 0.6 else 0)))
        numbers: list[dict[str, Any]] = [{"n": "spo2", "u": "%", "v": shown}]
        if self.with_pleth:
            numbers.append({"n": "pulse_rate", "u": "/min", "v": round(self.person.rate + self.rng.normal(0, 1))})
        return packet, json.dumps(numbers).encode()


def play(arguments: argparse.Namespace) -> dict[str, Any]:
    """Play one night; return what was counted."""
    seconds = arguments.minutes * 60
    beds = [
        Bedside(
            i,
            arguments.seed,
            seconds,
            arguments.leads,
            true=arguments.true,
            noise_mv=arguments.noise,
            still=arguments.still,
        )
        for i in range(arguments.beds)
    ]
    ward = Ward()
    for number in range(seconds):
        due = [bed.second(number) for bed in beds]
        for quarter in range(4):
            ward.hands.now += S // 4
            for i, sent in enumerate(due):
                if i % 4 == quarter and sent is not None:
                    ward.intake.wave(beds[i].bed_id, sent[0], ward.hands.now)
                    ward.intake.pack(beds[i].bed_id, sent[1], ward.hands.now)
            ward.quarter()
    return summary(ward, beds, seconds)


def summary(ward: Ward, beds: list[Bedside], seconds: int) -> dict[str, Any]:
    """Return alarms that were false per bed-day, and how true events were told."""
    days = len(beds) * seconds / 86_400.0
    by_bed: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for bed_id, code, at in ward.raised:
        by_bed[bed_id].append((code, at))
    false: Counter[str] = Counter()
    delays: dict[str, list[float]] = defaultdict(list)
    missed: Counter[str] = Counter()
    for bed in beds:
        for code, at in by_bed[bed.bed_id]:
            if not any(e.onset_s - 1.0 <= at <= e.end_s + 20.0 for e in bed.events):
                false[code] += 1
        for event in bed.events:
            told = [at for code, at in by_bed[bed.bed_id]
                    if code in LETHAL and event.onset_s <= at <= event.end_s + IN_TIME_S]  # fmt: skip
            if told:
                delays[event.kind].append(min(told) - event.onset_s)
            else:
                missed[event.kind] += 1
    kinds = sorted(set(delays) | set(missed))
    return {
        "bed_days": round(days, 2),
        "false": {code: {"count": n, "per_bed_day": round(n / days, 2)} for code, n in false.most_common()},
        "true": {
            kind: {
                "events": len(delays[kind]) + missed[kind],
                "told": len(delays[kind]),
                "median_s": round(float(np.median(delays[kind])), 2) if delays[kind] else None,
                "p95_s": round(float(np.percentile(delays[kind], 95)), 2) if delays[kind] else None,
                "max_s": round(max(delays[kind]), 2) if delays[kind] else None,
            }
            for kind in kinds
        },
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beds", type=int, default=60)
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--leads", type=int, default=1, choices=(1, 2, 3))
    parser.add_argument("--true", action="store_true", help="let true arrhythmias happen")
    parser.add_argument("--noise", type=float, default=0.0, help="steady disturbance, mV rms")
    parser.add_argument("--still", action="store_true", help="nobody moves")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = play(arguments)
    text = json.dumps(result, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
