"""The bedside half of the synthetic hospital: vital signs, limits, alarm log, recorder, the alarm system's own sign of life.

Kept in memory and as plain as possible; what it answers has the form of the contracts, not their depth.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeward.bedside import (
    DISCHARGED,
    AlarmPause,
    AlarmQuery,
    AlarmSystemState,
    BedInfo,
    BedSettings,
    Hearing,
    LimitChange,
    Numerics,
    ParameterLimit,
    SetBed,
    Strip,
    StripChannel,
    StripQuery,
    Trend,
    TrendQuery,
    TrendSeries,
)
from edgeward.bus import subjects
from edgeward.bus.client import BusError
from edgeward.messages import Alarm, Alarms, Ask, Message, News2, Ok, Refused, VitalState
from edgeward.parameters import PARAMETERS

if TYPE_CHECKING:
    from tests.support.synthetic import Patient, SyntheticHospital

SECOND = 1_000_000_000
DEFAULTS = {
    "heart_rate": ParameterLimit(low=50, high=120, extreme_low=35, extreme_high=160),
    "spo2": ParameterLimit(low=90, extreme_low=85, delay_s=10),
    "respiratory_rate": ParameterLimit(low=8, high=30, extreme_low=5),
    "nibp_systolic": ParameterLimit(low=90, high=160),
    "nibp_diastolic": ParameterLimit(low=50, high=100),
    "temperature": ParameterLimit(low=35.5, high=38.5, priority="low"),
}
RHYTHM = {"asystole_s": 4.0, "ventricular_tachycardia_rate": 100.0}


def vitals_of(patient: Patient, limits: dict[str, ParameterLimit]) -> list[VitalState]:
    """Values that fit the patient's scene."""
    silent = patient.scene in ("silent", "standby")
    ecg = None if patient.scene in ("asystole", "lead_off", "silent", "standby") else patient.rate
    seed = sum(map(ord, patient.device_id))
    sick = patient.scene in ("vt", "asystole", "tachy")
    rows: dict[str, tuple[float | None, float]] = {
        "heart_rate": (ecg, 0.5),
        "spo2": (88.0 if sick else 94.0 + seed % 6, 1),
        "respiratory_rate": (27.0 if sick else 12.0 + seed % 8, 2),
        "nibp_systolic": (84.0 if sick else 110.0 + seed % 35, 900),
        "nibp_diastolic": (52.0 if sick else 62.0 + seed % 18, 900),
        "nibp_mean": (63.0 if sick else 80.0 + seed % 18, 900),
        "temperature": (36.2 + (seed % 17) / 10, 3600),
    }
    now = time.time_ns()
    found = []
    for name, (value, age_s) in rows.items():
        limit = limits.get(name, ParameterLimit())
        stale = silent and age_s < 60
        beyond = value is not None and not stale and (value < (limit.low or -1e9) or value > (limit.high or 1e9))
        found.append(
            VitalState(
                parameter=name,
                value=value,
                unit=PARAMETERS[name].unit,
                at_ns=now - int(age_s * SECOND),
                age_ms=age_s * 1000,
                stale=stale,
                source_id=patient.device_id,
                low=limit.low,
                high=limit.high,
                priority=limit.priority if beyond else "",
            )
        )
    found += patient.entered.values()
    return found


def news2_of(patient: Patient) -> News2:
    seed = sum(map(ord, patient.device_id))
    if patient.scene in ("silent", "standby"):
        return News2(total=None, missing=["consciousness"], stale=["respiratory_rate", "spo2"])
    if seed % 5 == 0 and "consciousness" not in patient.entered:
        return News2(total=None, scores={"spo2": 1, "respiratory_rate": 0}, missing=["consciousness"], at_least=1)
    total = 9 if patient.scene in ("vt", "asystole") else seed % 4
    return News2(
        total=total,
        scores={"respiratory_rate": total, "spo2": 0, "systolic": 0, "pulse": 0, "temperature": 0, "consciousness": 0},
        response="emergency" if total >= 7 else "ward" if total else "routine",
    )


@dataclass
class Bedside:
    """Answers for `monitor` and `recorder`; tests reach into it."""

    hospital: SyntheticHospital
    settings: dict[str, BedSettings] = field(default_factory=dict)
    changes: list[LimitChange] = field(default_factory=list)
    log: list[Alarm] = field(default_factory=list)
    wishes: list[SetBed] = field(default_factory=list)
    pauses: list[AlarmPause] = field(default_factory=list)
    entered: list[Numerics] = field(default_factory=list)
    queries: list[AlarmQuery] = field(default_factory=list)
    hearings: list[Hearing] = field(default_factory=list)
    well: bool = True  # the alarm system tells that it works
    problems: list[str] = field(default_factory=list)
    refuses: str = ""  # why every change is refused

    async def start(self) -> None:
        monitor = self.hospital.buses["monitor"]
        recorder = self.hospital.buses["recorder"] = await self.hospital.site.bus("recorder")
        await monitor.serve(subjects.MONITOR_BED, Ask, self._info, subjects.MONITORS)
        await monitor.serve(subjects.MONITOR_SET_BED, SetBed, self._set, subjects.MONITORS)
        await monitor.serve(subjects.MONITOR_PAUSE, AlarmPause, self._pause, subjects.MONITORS)
        await monitor.serve(subjects.MONITOR_EVENTS, AlarmQuery, self._events, subjects.MONITORS)
        await monitor.serve(subjects.MONITOR_NUMERICS, Numerics, self._enter, subjects.MONITORS)
        await monitor.subscribe(subjects.MONITOR_HEARING, Hearing, self._hear)
        await recorder.serve(subjects.RECORDER_STRIP, StripQuery, self._strip, subjects.RECORDERS)
        await recorder.serve(subjects.RECORDER_TREND, TrendQuery, self._trend, subjects.RECORDERS)

    async def tell(self) -> None:
        number = 0
        while True:
            number += 1
            if self.well:
                state = AlarmSystemState(
                    at_ns=time.time_ns(), number=number, ok=not self.problems, problems=self.problems
                )
                with contextlib.suppress(BusError):
                    await self.hospital.buses["monitor"].publish(subjects.ALARM_SYSTEM, state)
            await asyncio.sleep(1)

    def limits(self, bed_id: str) -> dict[str, ParameterLimit]:
        return self.settings[bed_id].limits if bed_id in self.settings else DEFAULTS

    def setting(self, patient: Patient) -> BedSettings:
        if patient.device_id not in self.settings:
            self.settings[patient.device_id] = BedSettings(
                bed_id=patient.device_id,
                label=patient.label,
                ward=patient.ward,
                sources=[patient.device_id],
                profile="adult",
                limits=dict(DEFAULTS),
                rhythm=dict(RHYTHM),
            )
        return self.settings[patient.device_id]

    def patient(self, bed_id: str) -> Patient | None:
        return next((p for p in self.hospital.patients if p.device_id == bed_id), None)

    async def _hear(self, _: str, hearing: Hearing) -> None:
        self.hearings.append(hearing)

    async def _info(self, ask: Ask) -> Message:
        patient = self.patient(ask.argument)
        if patient is None:
            return Refused(reason="there is no such bed")
        changes = [c for c in reversed(self.changes) if c.bed_id == ask.argument]
        return BedInfo(
            settings=self.setting(patient),
            defaults=dict(DEFAULTS),
            profiles=["adult", "child", "neonate"],
            wards=["ICU", "Ward 3"],
            free_sources=["mon-7", "hl7gw-3B02"],
            changes=changes,
            discharged_ns=[c.at_ns for c in changes if c.what == DISCHARGED],
        )

    async def _set(self, wish: SetBed) -> Message:
        self.wishes.append(wish)
        patient = self.patient(wish.bed_id)
        if self.refuses or patient is None:
            return Refused(reason=self.refuses or "there is no such bed")
        before = self.setting(patient)
        limits, own = dict(before.limits), set(before.own)
        for name, limit in (wish.limits or {}).items():
            limits[name] = limit or DEFAULTS[name]
            own = own | {name} if limit else own - {name}
            self.changes.append(
                LimitChange(
                    at_ns=wish.at_ns,
                    by=wish.by,
                    bed_id=wish.bed_id,
                    what=f"limits.{name}",
                    before=str(before.limits[name].low),
                    after=str(limits[name].low),
                )
            )
        if wish.discharged:
            self.changes.append(
                LimitChange(at_ns=wish.at_ns, by=wish.by, bed_id=wish.bed_id, what=DISCHARGED, before="", after="yes")
            )
        rhythm = before.rhythm | {k: v if v is not None else RHYTHM[k] for k, v in (wish.rhythm or {}).items()}
        plain = {
            key: getattr(wish, key)
            for key in ("label", "ward", "sources", "profile", "spo2_scale2", "standby", "disabled")
            if getattr(wish, key) is not None
        }
        self.settings[wish.bed_id] = msgspec.structs.replace(
            before, limits=limits, own=sorted(own), rhythm=rhythm, **plain
        )
        patient.label, patient.ward = self.settings[wish.bed_id].label, self.settings[wish.bed_id].ward
        patient.standby = self.settings[wish.bed_id].standby
        return Ok()

    async def _pause(self, wish: AlarmPause) -> Message:
        self.pauses.append(wish)
        patient = self.patient(wish.bed_id)
        if self.refuses or patient is None:
            return Refused(reason=self.refuses or "there is no such bed")
        until = wish.at_ns + int(wish.seconds * SECOND) if wish.seconds else 0
        patient.alarms[:] = [
            msgspec.structs.replace(a, audio_paused_until_ns=until) if wish.alarm_id in ("", a.alarm_id) else a
            for a in patient.alarms
        ]
        patient.paused_until_ns = until
        return Ok()

    async def _enter(self, numerics: Numerics) -> Message:
        self.entered.append(numerics)
        patient = self.patient(numerics.source_id)
        if self.refuses or patient is None:
            return Refused(reason=self.refuses or "there is no such source")
        for vital in numerics.vitals:
            patient.entered[vital.parameter] = VitalState(
                parameter=vital.parameter,
                value=vital.value,
                unit=PARAMETERS[vital.parameter].unit,
                at_ns=numerics.received_ns,
                source_id=numerics.source_id,
            )
        return Ok()

    async def _events(self, query: AlarmQuery) -> Message:
        self.queries.append(query)
        until = query.until_ns or time.time_ns()
        rows = [
            a
            for a in [*self.log, *(a for p in self.hospital.patients for a in p.alarms)]
            if query.bed_id in ("", a.bed_id or a.device_id)
            and query.ward in ("", a.ward)
            and query.priority in ("", a.priority.value)
            and query.since_ns <= a.at_ns <= until
        ]
        if query.raised_only:
            rows = [a for a in rows if a.state in ("raised", "ended")]
        return Alarms(active=[], recent=sorted(rows, key=lambda a: -a.at_ns)[: query.limit])

    async def _strip(self, query: StripQuery) -> Message:
        patient = self.patient(query.source_id)
        if patient is None:
            return Refused(reason="nothing is recorded of this source")
        rate = 125.0
        count = int((query.end_ns - query.start_ns) / SECOND * rate)
        start = int(query.start_ns / SECOND * rate)
        ecg = (patient.samples(start, count) * 1000).astype("<i2")
        if count > 1000:
            ecg[count - 400 : count - 300] = -32768
        t = np.arange(count) / rate
        pleth = (1000 * (0.5 + 0.5 * np.sin(2 * math.pi * patient.rate / 60 * t))).astype("<i2")
        channels = [
            StripChannel(
                name="II", unit="uV", rate_hz=rate, start_ns=query.start_ns, gain=1.0, offset=0.0, samples=ecg.tobytes()
            ),
            StripChannel(
                name="V1",
                unit="uV",
                rate_hz=rate,
                start_ns=query.start_ns,
                gain=0.6,
                offset=0.0,
                samples=ecg.tobytes(),
            ),
            StripChannel(
                name="pleth",
                unit="1",
                rate_hz=rate,
                start_ns=query.start_ns,
                gain=0.001,
                offset=0.0,
                samples=pleth.tobytes(),
            ),
        ]
        return Strip(source_id=query.source_id, channels=channels, kept_since_ns=time.time_ns() - 86_400 * SECOND)

    async def _trend(self, query: TrendQuery) -> Message:
        patient = self.patient(query.bed_id)
        if patient is None:
            return Refused(reason="there is no such bed")
        until = query.until_ns or time.time_ns()
        points = query.points
        step = (until - query.since_ns) // points
        at = [query.since_ns + i * step for i in range(points) if not points * 0.6 < i < points * 0.64]
        series = []
        for name, base in (("heart_rate", 78.0), ("spo2", 96.0), ("respiratory_rate", 16.0), ("temperature", 36.9)):
            rng = np.random.default_rng(len(name))
            mean = base + np.cumsum(rng.standard_normal(len(at))) * base * 0.004
            series.append(
                TrendSeries(
                    parameter=name,
                    unit=PARAMETERS[name].unit,
                    at_ns=at,
                    low=(mean - base * 0.03).tolist(),
                    mean=mean.tolist(),
                    high=(mean + base * 0.03).tolist(),
                )
            )
        nibp = at[:: max(1, len(at) // 48)]
        series.append(
            TrendSeries(
                parameter="nibp_systolic",
                unit="mm[Hg]",
                at_ns=nibp,
                low=[120.0] * len(nibp),
                mean=[121.0] * len(nibp),
                high=[122.0] * len(nibp),
            )
        )
        return Trend(bed_id=query.bed_id, interval_ms=step / 1e6, series=series)
