"""From messages to what a page shows: pure functions, no I/O, no prose.

Responsible for choosing, ordering and hiding: who is not a clinician gets no identity of a patient and no picture.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from edgeward.console.watch import RoleView
from edgeward.messages import ItemSummary, Lesion, Quarantined, StageStats, Verdict

_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff\u00b7^ ]+")
LABELS = ("benign", "malignant", "normal")
FILTERS = ("all", "open", "suspicious", "not_analysed", "failed")


def person_name(dicom_name: str) -> str:
    """Return a DICOM person name (PS3.5, 6.2.1.1) for reading: ``Family, Given`` of the first group that is filled."""
    groups = [group for group in dicom_name.split("=") if group.strip("^ ")]
    if not groups:
        return ""
    if _HAN.fullmatch(groups[0]):  # written as it is spoken: family and given name without anything between them
        return re.sub(r"[\^ ]", "", groups[0])
    # The ideographic group, if there is one, is how the patient writes the name; the first is its transliteration.
    parts = [part.strip() for part in groups[0].split("^")]
    family, given = parts[0], " ".join(part for part in parts[1:3] if part)
    name = ", ".join(part for part in (family, given) if part)
    if len(groups) == 1:
        return name
    written = groups[1].replace("^", "" if _HAN.fullmatch(groups[1]) else " ").strip()
    return f"{name} ({written})"


def examined_at(item: ItemSummary) -> str:
    """Return when a study was made as ``YYYYMMDD`` or ``YYYYMMDDHHMM``, the modality's local time; empty if unknown."""
    day = re.sub(r"[.-]", "", item.study_date.strip())  # ACR-NEMA wrote 1994.10.26
    try:
        dt.datetime.strptime(day, "%Y%m%d")  # noqa: DTZ007 - a date
    except ValueError:
        return ""
    time = re.match(r"([01]\d|2[0-3]):?([0-5]\d)", item.study_time.strip())
    return f"{day}{time[1]}{time[2]}" if time else day


@dataclass(frozen=True, slots=True)
class ItemView:
    """One row of the worklist as a particular reader may see it."""

    item: ItemSummary
    patient: str
    patient_id: str
    picture: bool  # whether there is one and this reader may see it
    status: str  # received | analysing | analysed | delivered | failed | not_analysed
    label: str
    suspicious: bool
    malignancy: float | None
    size: str
    unit: str
    verdict: Verdict | None
    why: str  # why it failed or was not analysed
    open: bool  # waits for a clinician's verdict
    total_ms: float | None
    images: int = 1  # how many images of a series the row stands for
    examined: str = ""  # when the study was made, see `examined_at`

    @property
    def id(self) -> str:
        """The item's id."""
        return self.item.item_id


def largest(lesions: Iterable[Lesion]) -> Lesion | None:
    """Return the lesion with the longest axis."""
    return max(lesions, key=lambda lesion: lesion.long_axis, default=None)


def size_text(lesion: Lesion | None) -> str:
    """Return ``long × short``, millimetres with one decimal, pixels without."""
    if lesion is None:
        return ""
    digits = 1 if lesion.unit == "mm" else 0
    return f"{lesion.long_axis:.{digits}f} × {lesion.short_axis:.{digits}f}"


def item_view(item: ItemSummary, *, identity: bool, images: int = 1) -> ItemView:
    """Return the view of `item` for a reader who may (not) see identity."""
    finding = item.finding
    analysed = finding is not None and finding.status == "analysed"
    lesion = largest(finding.lesions) if finding else None
    status = {"admitted": "received", "dispatched": "analysing", "closed": "delivered"}.get(item.state, item.state)
    if finding is not None and finding.status == "not_analysed":
        status = "not_analysed"
    verdict = max(item.verdicts, key=lambda v: v.at_ns, default=None)
    end_ns = item.delivered_ns or item.analysed_ns
    return ItemView(
        item=item,
        patient=person_name(item.patient_name) if identity else "",
        patient_id=item.patient_id if identity else "",
        picture=identity and finding is not None,
        status=status,
        label=finding.label if analysed and finding else "",
        suspicious=bool(analysed and finding and finding.suspicious),
        malignancy=finding.malignancy if analysed and finding else None,
        size=size_text(lesion),
        unit=lesion.unit if lesion else "",
        verdict=verdict,
        why=item.reason or (finding.reason if finding else ""),
        open=analysed and verdict is None,
        total_ms=(end_ns - item.received_ns) / 1e6 if end_ns else None,
        images=images,
        examined=examined_at(item) if identity else "",
    )


def chosen(view: ItemView, which: str) -> bool:
    """Whether a row belongs to a filter of the worklist."""
    return {
        "open": view.open,
        "suspicious": view.suspicious,
        "not_analysed": view.status == "not_analysed",
        "failed": view.status == "failed",
    }.get(which, True)


ATTEMPT = "attempt"  # deliver's name for the sum of a delivery's other stages


@dataclass(frozen=True, slots=True)
class ItemStage:
    """One stage that an item passed; `where` is the destination for the stages of a delivery."""

    name: str
    ms: float
    where: str = ""


def stages_of(item: ItemSummary) -> list[ItemStage]:
    """Return every stage of an item in the order in which it passed them, deliveries last."""
    stages = [ItemStage(stage.name, stage.ms) for stage in (item.finding.stages if item.finding else [])]
    for report in item.deliveries:
        stages += [ItemStage(s.name, s.ms, report.destination) for s in report.stages if s.name != ATTEMPT]
    return stages


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of one class of service, as measured by one role."""

    service_class: str
    stage: str
    role: str
    stats: StageStats
    explained: int  # misses that this stage explains


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One class of service."""

    service_class: str
    budget_ms: float
    count: int | None
    p50_ms: float | None
    p99_ms: float | None
    misses: int
    culprit: str  # the stage that explains most misses
    stages: tuple[StageRow, ...]


WHOLE = (
    "total",
    "received to stored",
    "decisive sample received to published",
)  # names under which roles publish the time of a whole item


def budgets(roles: Iterable[RoleView], limits: dict[str, float]) -> list[BudgetRow]:
    """Return one row per class of service that has a budget or was measured, with its stages."""
    stages: dict[str, list[StageRow]] = {}
    misses: dict[str, int] = {}
    culprits: dict[str, dict[str, int]] = {}
    for view in roles:
        if view.state is None:
            continue
        for name, count in view.state.budgets.items():
            misses[name] = misses.get(name, 0) + count
        for key, count in view.state.missed_by.items():
            service_class, _, stage = key.partition("/")
            per_stage = culprits.setdefault(service_class, {})
            per_stage[stage] = per_stage.get(stage, 0) + count
        for key, stats in view.state.stages.items():
            service_class, _, stage = key.partition("/")
            explained = view.state.missed_by.get(key, 0)
            stages.setdefault(service_class, []).append(StageRow(service_class, stage, view.name, stats, explained))
    order = {"gateway": 0, "engine": 1, "deliver": 2}
    for measured in stages.values():
        measured.sort(key=lambda row: order.get(row.role, 3))
    rows = []
    for name in dict.fromkeys([*limits, *stages]):
        mine = stages.get(name, [])
        whole = next((row for row in mine if row.stage in WHOLE), None)
        blame = culprits.get(name, {})
        if name in limits or mine:
            rows.append(
                BudgetRow(
                    service_class=name,
                    budget_ms=limits.get(name, 0.0),
                    count=whole.stats.count if whole else None,
                    p50_ms=whole.stats.p50_ms if whole else None,
                    p99_ms=whole.stats.p99_ms if whole else None,
                    misses=misses.get(name, 0),
                    culprit=max(blame, key=lambda stage: blame[stage]) if blame else "",
                    stages=tuple(row for row in mine if row is not whole),
                )
            )
    return rows


@dataclass(frozen=True, slots=True)
class Notice:
    """Something on the overview that wants a person's attention."""

    kind: str  # key of the catalogue: notice.<kind>
    level: Literal["fault", "warning", "info"]
    args: dict[str, Any]
    link: str


def notices(
    *,
    connected: bool,
    monitor_live: bool,
    monitor_known: bool,
    roles: list[RoleView],
    warnings: list[str],
    counts: dict[str, int],
    quarantine: list[Quarantined],
    unavailable: list[str],
) -> list[Notice]:
    """Return what is wrong with the site itself, the worst first. Patients' alarms are shown beside it, not here."""
    found: list[Notice] = []
    if not connected:
        found.append(Notice("bus_lost", "fault", {}, "/system"))
    elif not monitor_live:
        found.append(Notice("monitor_silent" if monitor_known else "monitor_unheard", "fault", {}, "/system"))
    for view in roles:
        if view.status in ("degraded", "silent", "stopped", "restarting"):
            level: Literal["fault", "warning", "info"] = "warning" if view.status == "restarting" else "fault"
            found.append(Notice(f"role_{view.status}", level, {"role": view.name, "reason": view.reason}, "/system"))
    found += [Notice("unavailable", "fault", {"role": role}, "/system") for role in unavailable]
    if failed := counts.get("failed", 0):
        found.append(Notice("items_failed", "warning", {"n": failed}, "/images?show=failed"))
    if quarantine:
        found.append(Notice("quarantine", "warning", {"n": sum(e.count for e in quarantine)}, "/system/quarantine"))
    told = {view.reason for view in roles}
    found += [Notice("warning", "warning", {"text": text}, "/system#warnings") for text in warnings if text not in told]
    return found
