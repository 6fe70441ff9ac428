"""A synthetic hospital behind the console: what gateway, monitor, deliver and supervisor would say, on a real bus.

Used by the console's tests, and by hand to look at the pages::

    python -m tests.support.synthetic --beds 8 --port 8050 --home /tmp/console
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import math
import os
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from edgeward.bedside import ParameterLimit
from edgeward.bus import subjects
from edgeward.bus.client import Bus, BusError
from edgeward.bus.role import RoleContext
from edgeward.console import role as console_role
from edgeward.device.phantom import Phantom, phantom
from edgeward.messages import (
    Alarm,
    AlarmAck,
    AlarmPriority,
    Alarms,
    Ask,
    Bed,
    Beds,
    DeliveryReport,
    Destinations,
    DestinationState,
    DeviceInfo,
    Devices,
    Finding,
    FrameFinding,
    FrameQuery,
    Items,
    ItemsQuery,
    ItemSummary,
    Lesion,
    Message,
    Ok,
    Order,
    Orders,
    OrdersQuery,
    Preview,
    Quarantined,
    QuarantineList,
    Refused,
    RegionScale,
    Rendered,
    ReportText,
    Resend,
    Resent,
    RoleState,
    SiteState,
    StageStats,
    StageTime,
    Trace,
    Verdict,
    Viewing,
    VitalState,
    Wave,
    wanted,
)
from tests.support.bedside import DEFAULTS, Bedside, news2_of, vitals_of
from tests.support.site import TestSite, running_bus

RATE = 125.0
SCENES = (
    "normal",
    "normal",
    "asystole",
    "normal",
    "vt",
    "normal",
    "lead_off",
    "silent",
    "tachy",
    "normal",
    "noisy",
    "brady",
)


def beat_shape(t: np.ndarray, wide: bool = False) -> np.ndarray:
    """One beat, millivolts, over t seconds from its R: a sum of Gaussians for P, Q, R, S and T."""
    waves = (
        ((-0.17, 0.022, 0.13), (-0.028, 0.010, -0.12), (0.0, 0.011, 1.15), (0.03, 0.011, -0.28), (0.26, 0.045, 0.30))
        if not wide
        else ((0.0, 0.045, 1.3), (0.11, 0.05, -0.7))
    )
    return sum(a * np.exp(-((t - m) ** 2) / (2 * s * s)) for m, s, a in waves)


@dataclass
class Patient:
    """One synthetic patient."""

    device_id: str
    label: str
    scene: str
    rate: float
    phase: float
    alarms: list[Alarm] = field(default_factory=list)
    sent: int = 0
    ward: str = ""
    standby: bool = False
    paused_until_ns: int = 0
    entered: dict[str, VitalState] = field(default_factory=dict)
    leads: tuple[str, ...] = ("II",)
    sensors: tuple[tuple[str, str, str], ...] = ()  # name, kind, unit
    states: dict[str, str] = field(default_factory=dict)  # of traces: why they show nothing
    mute: bool = False  # sends no traces

    def waves(self, start: int, count: int, wishes: list[str]) -> list[Wave]:
        """Other traces at the same moments: each follows the same beats."""
        t = (start + np.arange(count)) / RATE
        found = []
        for name, kind, unit in [(lead, "ecg", "uV") for lead in self.leads[1:]] + list(self.sensors):
            if not wanted(name, kind, wishes):
                continue
            if kind == "ecg":
                values, gain = self.samples(start, count) * 700, 1.0
            else:
                gain = {"abp": 0.1, "cvp": 0.05}.get(kind, 0.01)
                period = 4.0 if kind in ("respiration", "co2") else 60.0 / self.rate
                swing = 0.5 - 0.5 * np.cos(2 * np.pi * (t + self.phase) / period)
                values = (80 + 40 * swing if kind == "abp" else 6 + 4 * swing if kind == "cvp" else swing) / gain
            state = self.states.get(name, "")
            found.append(
                Wave(
                    name=name, kind=kind, unit=unit, rate_hz=RATE, at_s=start / RATE, gain=gain, state=state, quality=0.9,
                    samples=b"" if state == "off" else values.astype("<i2").tobytes(),
                )
            )  # fmt: skip
        return found

    def samples(self, start: int, count: int) -> np.ndarray:
        t = (start + np.arange(count)) / RATE
        rng = np.random.default_rng(start)
        flat = 0.012 * rng.standard_normal(count) + 0.04 * np.sin(2 * np.pi * 0.23 * t + self.phase)
        if self.scene in ("asystole", "lead_off"):
            return flat if self.scene == "asystole" else 0.35 * rng.standard_normal(count)
        period = 60.0 / self.rate
        offset = (t + self.phase + period / 2) % period - period / 2
        signal = beat_shape(offset, wide=self.scene == "vt") + flat
        return signal + (0.22 * rng.standard_normal(count) if self.scene == "noisy" else 0)

    def beats(self, start: int, count: int) -> list[int]:
        if self.scene in ("asystole", "lead_off"):
            return []
        period = 60.0 / self.rate
        first = math.ceil((start / RATE + self.phase) / period)
        found = []
        while True:
            index = round((first * period - self.phase) * RATE)
            if index >= start + count:
                return found
            if index >= start:
                found.append(index)
            first += 1

    def bed(self, now_s: float, limits: dict[str, ParameterLimit] | None = None) -> Bed:
        silent = self.scene == "silent"
        none = self.scene in ("asystole", "lead_off", "silent")
        return Bed(
            device_id=self.device_id,
            label=self.label,
            heart_rate=None if none else self.rate,
            quality=None if silent else {"noisy": 0.31, "lead_off": 0.05}.get(self.scene, 0.94),
            beat_width_ms=None if none else 148.0 if self.scene == "vt" else 88.0,
            ventricular_per_min=None if none else self.rate if self.scene == "vt" else 0.0,
            rhythm={"asystole": "asystole", "vt": "ventricular_tachycardia"}.get(self.scene, ""),
            age_ms=(now_s * 1000) if silent else 420.0,
            stale=silent,
            lead_off=self.scene == "lead_off",
            packets=4210,
            missing=3 if self.scene == "noisy" else 0,
            alarms=[
                msgspec.structs.replace(a, bed_id=self.device_id, ward=self.ward, label=self.label) for a in self.alarms
            ],
            bed_id=self.device_id,
            ward=self.ward,
            sources=[self.device_id],
            vitals=vitals_of(self, DEFAULTS if limits is None else limits),
            news2=news2_of(self),
            clock_offset_ms=38.0,
            clock_drift_ppm=4.1,
            audio_paused_until_ns=self.paused_until_ns,
            standby=self.standby,
            lead="" if silent else "II",
        )


SCENE_ALARMS: dict[str, list[tuple[str, AlarmPriority, bool, bool, dict[str, float | str]]]] = {
    "asystole": [("asystole", AlarmPriority.HIGH, False, True, {"seconds": 4.0})],
    "vt": [("ventricular_tachycardia", AlarmPriority.HIGH, False, True, {"rate": 168.0})],
    "tachy": [("extreme_tachycardia", AlarmPriority.HIGH, False, False, {"rate": 171.0})],
    "lead_off": [("lead_off", AlarmPriority.LOW, True, False, {"leads": "II"})],
    "silent": [("signal_lost", AlarmPriority.MEDIUM, True, False, {"seconds": 4.2})],
    "noisy": [
        ("noisy", AlarmPriority.LOW, True, False, {"quality": 0.21}),
        ("packets_missing", AlarmPriority.LOW, True, False, {"count": 3.0}),
    ],
}
RATES = {"vt": 168.0, "tachy": 171.0, "brady": 41.0}


def make_patients(count: int) -> list[Patient]:
    patients = []
    for i in range(count):
        scene = SCENES[i % len(SCENES)]
        patient = Patient(
            f"bed-{i + 1:02d}", f"Bed {i + 1}", scene, RATES.get(scene, 62.0 + (i * 7) % 31), phase=0.37 * i
        )
        for code, priority, technical, latching, args in SCENE_ALARMS.get(scene, []):
            patient.alarms.append(
                make_alarm(patient.device_id, code, priority, technical=technical, latching=latching, args=args)
            )
        patients.append(patient)
    return patients


def make_alarm(
    device_id: str,
    code: str,
    priority: AlarmPriority,
    *,
    technical: bool = False,
    latching: bool = False,
    args: dict[str, float | str] | None = None,
) -> Alarm:
    now = time.time_ns()
    return Alarm(
        alarm_id=f"{device_id}-{uuid.uuid4().int % 10000}", device_id=device_id, code=code, priority=priority,
        technical=technical, latching=latching, state="raised", present=True, args=args or {}, raised_ns=now, at_ns=now,
    )  # fmt: skip


# ---------------------------------------- images

NAMES = (
    "Lindqvist^Maja",
    "Wang^XiaoDong=王^小东",
    "O'Connor^Siobhán",
    "Haddad^Leïla^Noor",
    "Bartholomew-Featherstonehaugh^Alexandrina Wilhelmina",
    "Ito^Yuki=伊藤^由紀",
    "",
    "Novák^Jana",
)


@cache
def _frame(seed: int, kind: str) -> tuple[Phantom, bytes]:
    frame = phantom(seed=seed, kind=kind)  # type: ignore[arg-type]
    out = io.BytesIO()
    Image.fromarray(frame.image).save(out, "JPEG", quality=88)
    return frame, out.getvalue()


def make_item(i: int, kind: str = "", *, name: str | None = None) -> tuple[ItemSummary, bytes]:
    """One item and its preview. `kind` is benign, malignant, normal, outside, failed or waiting."""
    kind = (
        kind
        or ("malignant", "benign", "normal", "benign", "outside", "malignant", "benign", "failed", "waiting")[i % 9]
    )
    item_id = uuid.uuid5(uuid.NAMESPACE_OID, f"item {i}").hex
    received = time.time_ns() - i * 97_000_000_000 - 3_000_000_000
    frame, jpeg = _frame(100 + i, kind if kind in ("benign", "malignant") else "normal")
    rows, columns = frame.image.shape[:2]
    lesions = []
    mm = i % 3 != 1
    if frame.mask.any() and kind in ("benign", "malignant"):
        ys, xs = np.nonzero(frame.mask)
        cy, cx = ys.mean(), xs.mean()
        angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        contour = []
        for a in angles:
            r = 0.0
            while (
                0 <= cy + r * np.sin(a) < rows
                and 0 <= cx + r * np.cos(a) < columns
                and frame.mask[int(cy + r * np.sin(a)), int(cx + r * np.cos(a))]
            ):
                r += 0.5
            contour.append((float(cx + r * np.cos(a)), float(cy + r * np.sin(a))))
        s = frame.spacing_mm[0] if mm else 1.0
        w, h = float(np.ptp(xs)) * s, float(np.ptp(ys)) * s
        lesions = [
            Lesion(
                contour=contour,
                box=(float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())),
                long_axis=max(w, h),
                short_axis=min(w, h),
                area=float(frame.mask.sum()) * s * s,
                unit="mm" if mm else "px",
                probability=0.97,
            )
        ]
    finding: Finding | None = None
    stages = [
        StageTime(name=n, ms=v)
        for n, v in (("store", 6.2), ("dispatch", 1.4), ("decode", 8.9), ("infer", 31.0), ("outline", 4.4))
    ]
    if kind in ("benign", "malignant", "normal", "outside"):
        p = {
            "malignant": {"benign": 0.12, "malignant": 0.86, "normal": 0.02},
            "benign": {"benign": 0.91, "malignant": 0.07, "normal": 0.02},
        }.get(kind, {"benign": 0.05, "malignant": 0.004, "normal": 0.946})
        finding = Finding(
            finding_id=f"f-{item_id}", item_id=item_id, sop_instance_uid="1.2.826.0.1." + str(i),
            status="not_analysed" if kind == "outside" else "analysed",
            reason="outside the model's domain: the frame does not look like breast ultrasound" if kind == "outside" else "",
            model="breast-ultrasound", model_version="1.0.0", frame=3 if i % 4 == 2 else 0, frames=24 if i % 4 == 2 else 1,
            rows=rows, columns=columns, spacing_mm=frame.spacing_mm if mm else None, spacing_source="SequenceOfUltrasoundRegions" if mm else "",
            lesions=lesions, label="" if kind == "outside" else kind, probabilities={} if kind == "outside" else p,
            malignancy=None if kind == "outside" else p["malignant"], suspicious=kind == "malignant", stages=stages, created_ns=received + 60_000_000,
        )  # fmt: skip
    if finding is not None and finding.frames > 1 and finding.status == "analysed":
        looked = [
            FrameFinding(
                frame=n,
                status="analysed",
                lesions=lesions if n == 3 else [],
                label=kind if n == 3 else "normal",
                malignancy=p["malignant"] if n == 3 else 0.03,
                suspicious=kind == "malignant" and n == 3,
            )
            for n in (0, 3, 9, 15)
        ]
        looked.append(
            FrameFinding(
                frame=21,
                status="not_analysed",
                reason="outside the model's domain: the frame does not look like breast ultrasound",
            )
        )
        finding = msgspec.structs.replace(finding, frame_findings=looked)  # fmt: skip
    late = i == 3
    done = received + (1_340_000_000 if late else 231_000_000)
    delivered = finding is not None and i % 5 != 4
    item = ItemSummary(
        item_id=item_id,
        state="failed" if kind == "failed" else "admitted" if kind == "waiting" else "closed" if delivered else "analysed",
        reason="the object cannot be decoded: truncated pixel data" if kind == "failed" else "",
        received_ns=received, analysed_ns=received + 60_000_000 if finding else 0, delivered_ns=done if delivered else 0, late=late,
        device="us-room-2", patient_name=NAMES[i % len(NAMES)] if name is None else name, patient_id=f"MRN-{40213 + i % 8 * 17}",
        study_description="Breast ultrasound, left, with axilla" if i % 2 else "US breast", modality="US", sop_instance_uid="1.2.826.0.1." + str(i), study_instance_uid=f"1.2.826.0.2.{i // 2}", accession_number=f"A{7000 + i}", patient_birth_date="19640229", patient_sex="F", size=900_000, finding=finding,
        verdicts=[Verdict(verdict_id=uuid.uuid4().hex, item_id=item_id, finding_id=f"f-{item_id}", action="confirm", by="dr.okafor", at_ns=done + 40_000_000_000, comment="Agrees with palpation.")] if i == 1 else [],
        deliveries=[DeliveryReport(item_id=item_id, destination="pacs", state="delivered", stored_ns=done, attempts=2 if late else 1, stages=[StageTime(name="write", ms=38.0), StageTime(name="send", ms=74.0)])] if delivered else [],
    )  # fmt: skip
    return item, jpeg


def urgency(item: ItemSummary) -> tuple[int, float]:
    """Sort key of the order by priority, as `ItemsQuery` describes it."""
    finding = item.finding
    if finding is None or finding.status != "analysed" or item.verdicts:
        return 2, -item.received_ns
    if finding.suspicious:
        return 0, -(finding.malignancy or 0)
    return 1, -item.received_ns


# ---------------------------------------- the hospital


@dataclass
class SyntheticHospital:
    """Stands in for all roles but the console. Tests reach into it."""

    site: TestSite
    patients: list[Patient]
    items: list[ItemSummary] = field(default_factory=list)
    previews: dict[str, bytes] = field(default_factory=dict)
    devices: list[DeviceInfo] = field(default_factory=list)
    quarantine: list[Quarantined] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    queries: list[ItemsQuery] = field(default_factory=list)
    frame_queries: list[FrameQuery] = field(default_factory=list)
    resends: list[Resend] = field(default_factory=list)
    deep: set[str] = field(default_factory=set)  # items whose pixels have twelve bits
    depths: dict[str, tuple[float, str]] = field(default_factory=dict)  # mm along the body, and the frame of reference
    inverse: set[str] = field(default_factory=set)  # items whose higher values are darker
    scales: dict[str, tuple[RegionScale, ...]] = field(default_factory=dict)  # of regions of one picture
    missing: dict[str, set[int]] = field(default_factory=dict)  # frames that cannot be decoded
    unrendered: dict[str, str] = field(default_factory=dict)  # items that are not rendered, and why
    dead: list[DeliveryReport] = field(default_factory=list)
    acknowledged: list[AlarmAck] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    viewing: set[str] = field(default_factory=set)
    wishes: dict[str, list[str]] = field(default_factory=dict)
    beds_running: bool = True
    buses: dict[str, Bus] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    bedside: Bedside = field(init=False)

    def __post_init__(self) -> None:
        self.bedside = Bedside(self)

    async def start(self) -> None:
        for role in ("gateway", "monitor", "deliver", "engine", "supervisor"):
            self.buses[role] = await self.site.bus(role)
        gateway, monitor, deliver = (self.buses[r] for r in ("gateway", "monitor", "deliver"))
        await gateway.serve(subjects.GATEWAY_ITEMS, ItemsQuery, self._items, subjects.GATEWAYS)
        await gateway.serve(subjects.GATEWAY_PREVIEW, Ask, self._preview, subjects.GATEWAYS)
        await gateway.serve(subjects.GATEWAY_VERDICT, Verdict, self._verdict, subjects.GATEWAYS)
        await gateway.serve(subjects.GATEWAY_QUARANTINE, Ask, self._quarantine, subjects.GATEWAYS)
        await gateway.serve(subjects.GATEWAY_DEVICES, Ask, self._devices, subjects.GATEWAYS)
        await gateway.serve(subjects.GATEWAY_FRAME, FrameQuery, self._frame, subjects.GATEWAYS)
        await gateway.serve(subjects.GATEWAY_ORDERS, OrdersQuery, self._orders, subjects.GATEWAYS)
        await deliver.serve(subjects.DELIVER_RESEND, Resend, self._resend, subjects.DELIVERS)
        await monitor.serve(subjects.MONITOR_ACK, AlarmAck, self._acknowledge, subjects.MONITORS)
        await monitor.serve(subjects.MONITOR_ALARMS, Ask, self._alarms, subjects.MONITORS)
        await monitor.subscribe(subjects.STATE_VIEWING, Viewing, self._viewing)
        await deliver.serve(subjects.DELIVER_REPORT, Ask, self._report, subjects.DELIVERS)
        await deliver.serve(subjects.DELIVER_STATUS, Ask, self._status, subjects.DELIVERS)
        await self.bedside.start()
        jobs = (self._beds, self._traces, self._heartbeats, self.bedside.tell)
        self.tasks = [asyncio.create_task(work()) for work in jobs]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def add(self, item: ItemSummary, preview: bytes = b"") -> None:
        """An item arrives or changes."""
        self.items = [item, *(i for i in self.items if i.item_id != item.item_id)]
        if preview:
            self.previews[item.item_id] = preview
        await self.buses["gateway"].publish(subjects.item_state(item.item_id), item)
        if item.finding:
            await self.buses["gateway"].publish(subjects.finding(item.item_id), item)

    async def raise_alarm(self, device_id: str, alarm: Alarm) -> None:
        patient = next(p for p in self.patients if p.device_id == device_id)
        patient.alarms.append(alarm)
        await self.buses["monitor"].publish(subjects.alarm(device_id), alarm)

    # -- gateway
    async def _items(self, query: ItemsQuery) -> Message:
        self.queries.append(query)
        rows = [row for row in sorted(self.items, key=lambda i: -i.received_ns) if self._matches(row, query)]
        if query.order == "priority":
            rows.sort(key=urgency)
        counts: dict[str, int] = {}
        for item in self.items:
            counts[item.state] = counts.get(item.state, 0) + 1
        return Items(
            items=rows[query.offset : query.offset + query.limit],
            counts=counts,
            total=len(rows),
            modalities=sorted({i.modality for i in self.items}),
            devices=sorted({i.device for i in self.items}),
        )

    def _matches(self, row: ItemSummary, query: ItemsQuery) -> bool:
        patient = next((i.patient_id for i in self.items if i.item_id == query.same_patient_as), None)
        words = f"{row.patient_name} {row.patient_id} {row.accession_number} {row.study_description}".lower()
        suspicious = bool(row.finding and row.finding.status == "analysed" and row.finding.suspicious)
        return (
            (not query.item_id or row.item_id == query.item_id)
            and (not query.before_ns or row.received_ns < query.before_ns)
            and row.received_ns >= query.since_ns
            and (not query.state or row.state == query.state)
            and (not query.study_instance_uid or row.study_instance_uid == query.study_instance_uid)
            and (not query.series_instance_uid or row.series_instance_uid == query.series_instance_uid)
            and (not query.same_patient_as or (bool(patient) and row.patient_id == patient))
            and (not query.device or row.device == query.device)
            and (not query.modality or row.modality == query.modality)
            and (query.suspicious is None or suspicious == query.suspicious)
            and (query.decided is None or bool(row.verdicts) == query.decided)
            and (query.late is None or row.late == query.late)
            and query.text.lower() in words
        )

    async def _frame(self, query: FrameQuery) -> Message:
        self.frame_queries.append(query)
        item = next((i for i in self.items if i.item_id == query.item_id), None)
        if item is None or query.item_id in self.unrendered:
            return Refused(reason=self.unrendered.get(query.item_id, "there is no such item"))
        finding = item.finding
        pixels = np.asarray(Image.open(io.BytesIO(self.previews[query.item_id])).convert("L")).astype(np.float64)
        frames = finding.frames if finding else 1
        if not 0 <= query.frame < frames:
            return Refused(reason="there is no such frame")
        if query.frame in self.missing.get(query.item_id, ()):
            return Refused(reason="the frame is truncated")
        pixels = np.roll(pixels, 4 * query.frame, axis=1)
        deep = query.item_id in self.deep
        if deep:
            pixels *= 16
        center, width = (
            (query.window_center, query.window_width)
            if query.window_center is not None
            else (2048.0, 4096.0)
            if deep
            else (None, None)
        )
        if center is not None and width is not None:
            pixels = 255 * ((pixels - (center - 0.5)) / (width - 1) + 0.5)
        inverse = query.item_id in self.inverse
        grey = np.clip(pixels, 0, 255).astype(np.uint8)
        picture = Image.fromarray(255 - grey if inverse else grey)
        rows, columns = picture.height, picture.width
        if query.max_width and query.max_width < columns:
            picture = picture.resize((query.max_width, max(1, rows * query.max_width // columns)))
        out = io.BytesIO()
        picture.save(out, "PNG" if query.media_type == "image/png" else "JPEG")
        return Rendered(
            data=out.getvalue(), media_type=query.media_type, width=picture.width, height=picture.height, scale=picture.width / columns, rows=rows, columns=columns,
            frame=query.frame, frames=frames, frame_time_ms=40.0 if frames > 1 else 0.0, window_center=center, window_width=width, lowest=0.0, highest=4095.0 if deep else 255.0, inverted=inverse,
            spacing_mm=finding.spacing_mm if finding else None, spacing_source=finding.spacing_source if finding else "",
            plane=(0.0, 0.0, 1.0, self.depths[query.item_id][0]) if query.item_id in self.depths else None,
            frame_of_reference=self.depths[query.item_id][1] if query.item_id in self.depths else "",
            scales=self.scales.get(query.item_id, ()),
        )  # fmt: skip

    async def _orders(self, query: OrdersQuery) -> Message:
        return Orders(
            orders=[
                o
                for o in self.orders
                if (not query.status or o.status == query.status)
                and query.text.lower() in f"{o.patient_name} {o.patient_id} {o.accession_number}".lower()
            ]
        )

    async def _resend(self, wish: Resend) -> Message:
        self.resends.append(wish)
        again = [d for d in self.dead if wish.item_id in ("", d.item_id) and wish.destination in ("", d.destination)]
        self.dead = [d for d in self.dead if d not in again]
        return Resent(count=len(again))

    async def _preview(self, ask: Ask) -> Message:
        return Preview(jpeg=self.previews.get(ask.argument, b""), scale=1.0)

    async def _verdict(self, verdict: Verdict) -> Message:
        self.verdicts.append(verdict)
        item = next(i for i in self.items if i.item_id == verdict.item_id)
        await self.add(msgspec.structs.replace(item, verdicts=[*item.verdicts, verdict]))
        return Ok()

    async def _quarantine(self, _: Ask) -> Message:
        return QuarantineList(entries=self.quarantine)

    async def _devices(self, _: Ask) -> Message:
        return Devices(devices=self.devices)

    # -- deliver
    async def _report(self, ask: Ask) -> Message:
        item = next((i for i in self.items if i.item_id == ask.argument), None)
        if item is None or not item.deliveries:
            return ReportText(text="")
        return ReportText(
            text="Imaging Measurement Report\n  Procedure reported: US breast\n  Finding: lesion, left breast\n    Long axis: 18.4 mm\n    Short axis: 11.2 mm\n    Probability of malignancy: 86 %\n  Observer: breast-ultrasound 1.0.0 (device)\n  Verification: UNVERIFIED"
        )

    async def _status(self, _: Ask) -> Message:
        return Destinations(
            destinations=[
                DestinationState(name="pacs", takes=["capture", "sr"], status="idle", confirmed=412, stored_ns=time.time_ns() - 4_000_000_000),
                DestinationState(name="archive", takes=["sr"], status="down", reason="no association: connection refused", waiting=7, confirmed=405, dead=len(self.dead), oldest_ns=time.time_ns() - 600_000_000_000),
            ],
            dead=self.dead,
        )  # fmt: skip

    # -- monitor
    async def _acknowledge(self, ack: AlarmAck) -> Message:
        for patient in self.patients:
            for i, alarm in enumerate(patient.alarms):
                if alarm.alarm_id == ack.alarm_id and not alarm.acknowledged:
                    changed = msgspec.structs.replace(
                        alarm, acknowledged=True, state="acknowledged", by=ack.by, at_ns=ack.at_ns
                    )
                    patient.alarms[i] = changed
                    self.acknowledged.append(ack)
                    await self.buses["monitor"].publish(subjects.alarm(patient.device_id), changed)
                    return Ok()
        return Refused(reason="there is no such alarm")

    async def _alarms(self, ask: Ask) -> Message:
        active = [a for p in self.patients for a in p.alarms if not ask.argument or p.device_id == ask.argument]
        past = [
            msgspec.structs.replace(
                a,
                alarm_id=a.alarm_id + "x",
                state="ended",
                present=False,
                acknowledged=True,
                by="nurse.lee",
                raised_ns=a.raised_ns - 3_600_000_000_000,
                ended_ns=a.raised_ns - 3_500_000_000_000,
            )
            for a in active
        ]
        return Alarms(active=active, recent=past)

    async def _viewing(self, _: str, viewing: Viewing) -> None:
        self.viewing = set(viewing.device_ids)
        self.wishes = viewing.waves

    async def _beds(self) -> None:
        while True:
            if self.beds_running:
                with contextlib.suppress(BusError):
                    now = time.monotonic() - self.started
                    await self.buses["monitor"].publish(
                        subjects.STATE_BEDS,
                        Beds(
                            at_ns=time.time_ns(),
                            beds=[p.bed(now + 9, self.bedside.limits(p.device_id)) for p in self.patients],
                        ),
                    )
            await asyncio.sleep(0.5)

    async def _traces(self) -> None:
        for i, patient in enumerate(self.patients):
            patient.sent = i * 1000
        begun, base = time.monotonic(), [p.sent for p in self.patients]
        while True:
            await asyncio.sleep(0.1)
            for i, patient in enumerate(self.patients):
                # Packets of about a second, each device at its own moment.
                due = base[i] + int((math.floor(time.monotonic() - begun + patient.phase) - patient.phase) * RATE)
                count = due - patient.sent
                if count < RATE / 2 or (patient.scene == "silent" and patient.sent - base[i] > 6 * RATE):
                    continue
                start, patient.sent = patient.sent, due
                if patient.device_id not in self.viewing or not self.beds_running or patient.mute:
                    continue
                data = (patient.samples(start, count) * 1000).astype("<i2").tobytes()
                with contextlib.suppress(BusError):
                    await self.buses["monitor"].publish(
                        subjects.trace(patient.device_id),
                        Trace(
                            device_id=patient.device_id,
                            rate_hz=RATE,
                            start=start,
                            lead="II",
                            samples=data,
                            beats=patient.beats(start, count),
                            at_s=start / RATE,
                            quality=0.9,
                            waves=patient.waves(start, count, self.wishes.get(patient.device_id, [])),
                            offers=[(lead, "ecg") for lead in patient.leads] + [one[:2] for one in patient.sensors],
                        ),
                    )

    async def _heartbeats(self) -> None:
        begun = time.time_ns()
        while True:
            now = time.time_ns()
            for i, role in enumerate(("gateway", "engine", "monitor", "deliver")):
                state = RoleState(
                    role=role, node="node1", pid=2100 + i, at_ns=now, started_ns=begun, status="degraded" if role == "deliver" else "ready",
                    reason="archive does not take results: connection refused" if role == "deliver" else "", memory_mb=88.0 + 61 * i, peak_memory_mb=97.0 + 80 * i, cpu_percent=1.4 + 2.2 * i,
                    counters={"delivered": 412} if role == "deliver" else {},
                    budgets={"interactive": 1} if role == "gateway" else {},
                    missed_by={"interactive/deliver": 1} if role == "gateway" else {},
                    stages={
                        "gateway": {"interactive/total": StageStats(count=412, p50_ms=228, p99_ms=391, max_ms=1340), "interactive/store": StageStats(count=413, p50_ms=6, p99_ms=14, max_ms=22)},
                        "engine": {"interactive/infer": StageStats(count=412, p50_ms=31, p99_ms=55, max_ms=81), "interactive/decode": StageStats(count=412, p50_ms=8.4, p99_ms=19, max_ms=40)},
                        "monitor": {"alarm/decisive sample received to published": StageStats(count=38, p50_ms=6.1, p99_ms=18.4, max_ms=19.9), "alarm/analyse": StageStats(count=91400, p50_ms=0.9, p99_ms=2.2, max_ms=9)},
                        "deliver": {"interactive/deliver": StageStats(count=812, p50_ms=121, p99_ms=260, max_ms=1180)},
                    }[role],
                    warnings=["archive does not take results: connection refused"] if role == "deliver" else [],
                )  # fmt: skip
                with contextlib.suppress(BusError):
                    await self.buses[role].publish(subjects.role_state(role), state)
            site = SiteState(
                at_ns=now,
                site="hospital",
                node="node1",
                started_ns=begun,
                roles=dict.fromkeys(("gateway", "engine", "monitor", "recorder", "deliver", "console"), "running"),
                restarts={"engine": 1},
            )
            with contextlib.suppress(BusError):
                await self.buses["supervisor"].publish(subjects.SITE_STATE, site)
            await asyncio.sleep(1)


def some_devices() -> list[DeviceInfo]:
    now = time.time_ns()
    day = 86_400_000_000_000
    return [
        DeviceInfo(device_id="us-room-2", kind="ultrasound", label="Ultrasound, room 2", ae_title="USROOM2", enrolled_ns=now - 40 * day, fingerprint="9f2c41aa07b3" + "0" * 52, last_seen_ns=now - 3_000_000_000),
        DeviceInfo(device_id="old-scanner", kind="ultrasound", label="old-scanner", ae_title="OLDSCAN", enrolled_ns=now - 39 * day, legacy="plain", last_seen_ns=now - 8 * 3600_000_000_000),
        DeviceInfo(device_id="bed-01", kind="wearable", label="Bed 1", enrolled_ns=now - 12 * day, fingerprint="1b77c0e4d2aa" + "0" * 52, last_seen_ns=now - 400_000_000),
        DeviceInfo(device_id="bed-99", kind="wearable", label="bed-99", enrolled_ns=now - 12 * day, revoked_ns=now - 2 * day, fingerprint="77aa90e4d2c1" + "0" * 52),
    ]  # fmt: skip


def some_quarantine() -> list[Quarantined]:
    now = time.time_ns()
    return [
        Quarantined(at_ns=now - 60_000_000_000, where="dicom", peer="192.0.2.44", reason="unknown AE title 'CT9'", what_to_do="enrol the device, or correct the AE title it calls itself", count=14),
        Quarantined(at_ns=now - 4_000_000_000_000, where="dicom", peer="192.0.2.45", reason="unknown AE title 'CT9'", what_to_do="enrol the device, or correct the AE title it calls itself", count=3),
        Quarantined(at_ns=now - 500_000_000_000, where="dicom", peer="us-room-2", reason="the same SOP instance UID with other content", what_to_do="both are kept; compare them, and ask the device's maker why it uses a UID twice", item_id=uuid.uuid5(uuid.NAMESPACE_OID, "item 1").hex),
        Quarantined(at_ns=now - 900_000_000_000, where="mqtt", peer="bed-07", reason="the checksum does not match: the packet was damaged on its way", what_to_do="correct the device's packets: docs/protocols/waveform.md", count=2),
    ]  # fmt: skip


def some_orders() -> list[Order]:
    now = time.time_ns()
    return [
        Order(order_id="P-1", accession_number="A9001", status="scheduled", patient_id="MRN-51001", patient_name="Lindqvist^Maja", birth_date="19640229", sex="F", modality="US", station_ae_title="USROOM2", procedure="Breast ultrasound, both sides", scheduled="202611231015", priority="stat", source="ris", received_ns=now - 600_000_000_000),
        Order(order_id="P-2", accession_number="A9002", status="started", patient_id="MRN-51002", patient_name="Wang^XiaoDong=王^小东", birth_date="19710812", sex="M", modality="US", station_ae_title="USROOM2", procedure="Thyroid ultrasound", scheduled="20261123", source="ris", received_ns=now - 700_000_000_000, changed_ns=now - 60_000_000_000),
        Order(order_id="P-3", accession_number="A9003", status="completed", patient_id="MRN-51003", patient_name="Novák^Jana", modality="US", procedure_code="US.BREAST", scheduled="202611230800", source="emr", received_ns=now - 9_700_000_000_000),
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def synthetic_console(
    home: Path, *, beds: int = 8, items: int = 0, port: int = 0, furnished: bool = False
) -> AsyncIterator[tuple[SyntheticHospital, str]]:
    """Run a bus, a synthetic hospital and the real console role; yield the hospital and the console's address."""
    async with running_bus(home, console={"port": port}) as site:
        hospital = SyntheticHospital(site, make_patients(beds))
        for i in range(items):
            item, preview = make_item(i)
            hospital.items.append(item)
            if item.finding:
                hospital.previews[item.item_id] = preview
        if furnished:
            hospital.devices, hospital.quarantine, hospital.orders = some_devices(), some_quarantine(), some_orders()
            hospital.dead = [
                DeliveryReport(item_id=item.item_id, destination="archive", state="failed", reason=reason, attempts=3, at_ns=time.time_ns() - 90_000_000_000)
                for item, reason in zip(hospital.items, ("SOP class not supported (0x0122)", "out of resources (0xA700)"), strict=False)
            ]  # fmt: skip
        await hospital.start()
        context: RoleContext = await site.context("console")
        heartbeat = asyncio.create_task(context.beat())
        running = asyncio.create_task(console_role.run(context))
        address = site.home.run / console_role.ADDRESS_FILE
        try:
            async with asyncio.timeout(20):
                while not address.exists():
                    if running.done():
                        running.result()
                    await asyncio.sleep(0.02)
            yield hospital, json.loads(address.read_text())["url"].rstrip("/")
        finally:
            context.stopping.set()
            await running
            heartbeat.cancel()
            await hospital.stop()


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--beds", type=int, default=8)
    parser.add_argument("--wards", type=int, default=0)
    parser.add_argument("--items", type=int, default=14)
    parser.add_argument("--port", type=int, default=8050)
    given = parser.parse_args()
    async with synthetic_console(given.home, beds=given.beds, items=given.items, port=given.port, furnished=True) as (
        hospital,
        url,
    ):
        for i, patient in enumerate(hospital.patients):
            patient.ward = f"Ward {i * given.wards // given.beds + 1}" if given.wards else ""
        print(url, (hospital.site.home.run / "first-login.json").read_text(), os.getpid(), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main())
