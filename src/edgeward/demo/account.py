"""The account of a run: what was admitted, delivered, late, failed, lost, and how long it took.

Responsible for listening to the site as an operator does and for the arithmetic. Every figure comes from the site's own
bus or from what the devices themselves wrote down.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from edgeward.bus import subjects
from edgeward.bus.client import Bus
from edgeward.messages import Alarm, Alarms, Ask, Items, ItemsQuery, ItemSummary, RoleState, SiteState
from edgeward.status import ask

OPEN_STATES = ("admitted", "dispatched", "analysed")


def percentile(values: list[float], share: float) -> float | None:
    """Return the value below which `share` (0..1) of `values` lies (nearest rank), or None if there is none."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))], 2)


@dataclass
class Account:
    """What an operator hears on the bus during a run."""

    began: float
    first_finding_s: float | None = None
    first_alarm_s: float | None = None
    raised: set[str] = field(default_factory=set)
    alarm_ms: list[float] = field(default_factory=list)
    image_ms: dict[str, float] = field(default_factory=dict)
    late_images: set[str] = field(default_factory=set)
    late_alarms: set[str] = field(default_factory=set)
    peak_mb: dict[str, float] = field(default_factory=dict)
    roles: dict[str, RoleState] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    tell: Any = None

    async def listen(self, bus: Bus) -> None:
        """Subscribe."""
        await bus.subscribe(subjects.FINDING_ALL, ItemSummary, self._finding)
        await bus.subscribe(subjects.ITEM_STATE_ALL, ItemSummary, self._item)
        await bus.subscribe(subjects.ALARM_ALL, Alarm, self._alarm)
        await bus.subscribe(subjects.ROLE_STATE_ALL, RoleState, self._role)
        await bus.subscribe(subjects.SITE_STATE, SiteState, self._site)

    async def _finding(self, _: str, item: ItemSummary) -> None:
        if self.first_finding_s is None:
            self.first_finding_s = round(time.time() - self.began, 2)
        if self.tell:
            self.tell(_say_finding(item))

    async def _item(self, _: str, item: ItemSummary) -> None:
        if item.state == "closed" and item.delivered_ns and item.item_id not in self.image_ms:
            self.image_ms[item.item_id] = (item.delivered_ns - item.received_ns) / 1e6
            if item.late:
                self.late_images.add(item.item_id)
        if item.state == "failed" and self.tell:
            self.tell(f"image failed: {item.reason}")

    async def _alarm(self, _: str, alarm: Alarm) -> None:
        if alarm.state != "raised" or alarm.alarm_id in self.raised:
            return
        if self.first_alarm_s is None:
            self.first_alarm_s = round(time.time() - self.began, 2)
        self.raised.add(alarm.alarm_id)
        if alarm.received_ns:
            # Until we heard it: publishing and the bus are part of what a clinician waits for.
            self.alarm_ms.append((time.time_ns() - alarm.received_ns) / 1e6)
        if alarm.late:
            self.late_alarms.add(alarm.alarm_id)
        if self.tell:
            self.tell(f"alarm  {alarm.device_id:10} {alarm.priority.upper():6} {alarm.code.replace('_', ' ')}")

    async def _role(self, _: str, state: RoleState) -> None:
        self.roles[state.role] = state
        self.peak_mb[state.role] = max(self.peak_mb.get(state.role, 0.0), state.peak_memory_mb)

    async def _site(self, _: str, state: SiteState) -> None:
        self.restarts = dict(state.restarts)
        for name, megabytes in state.memory_mb.items():
            self.peak_mb[name] = max(self.peak_mb.get(name, 0.0), megabytes)

    async def open_images(self, bus: Bus) -> int | None:
        """Return how many images have not reached an end yet, or None if the gateway does not answer."""
        items: Items | None = await ask(bus, subjects.GATEWAY_ITEMS, ItemsQuery(limit=0), Items)
        return None if items is None else sum(items.counts.get(state, 0) for state in OPEN_STATES)

    async def summary(self, bus: Bus, acknowledged: int) -> dict[str, Any]:
        """Return the account as one JSON object.

        Parameters
        ----------
        acknowledged
            Number of distinct instances that devices were told are stored.
        """
        items: Items | None = await ask(bus, subjects.GATEWAY_ITEMS, ItemsQuery(limit=0), Items, 5.0)
        alarms: Alarms | None = await ask(bus, subjects.MONITOR_ALARMS, Ask(), Alarms, 5.0)
        counts = items.counts if items else {}
        admitted = sum(counts.get(state, 0) for state in (*OPEN_STATES, "closed", "failed"))
        image_ms = list(self.image_ms.values())
        raised = max(alarms.raised if alarms else 0, len(self.raised))
        failed = self.roles["monitor"].counters.get("alarms_unpublished", 0) if "monitor" in self.roles else 0
        return {
            "first_finding_s": self.first_finding_s,
            "first_alarm_s": self.first_alarm_s,
            "images": {
                "acknowledged": acknowledged,
                "admitted": admitted,
                "delivered": counts.get("closed", 0),
                "failed": counts.get("failed", 0),
                "open": sum(counts.get(state, 0) for state in OPEN_STATES),
                "lost": max(0, acknowledged - admitted),
                "late": len(self.late_images),
                "p50_ms": percentile(image_ms, 0.50),
                "p99_ms": percentile(image_ms, 0.99),
                "max_ms": percentile(image_ms, 1.0),
            },
            "alarms": {
                "raised": raised,
                "delivered": len(self.raised),
                "failed": failed,
                "lost": max(0, raised - len(self.raised) - failed),
                "late": len(self.late_alarms),
                "p50_ms": percentile(self.alarm_ms, 0.50),
                "p99_ms": percentile(self.alarm_ms, 0.99),
                "max_ms": percentile(self.alarm_ms, 1.0),
            },
            "budget_misses": {
                name: dict(state.missed_by) for name, state in sorted(self.roles.items()) if state.missed_by
            },
            "memory_mb": {name: round(value, 1) for name, value in sorted(self.peak_mb.items())},
            "restarts": sum(self.restarts.values()),
            "answered": {"gateway": items is not None, "monitor": alarms is not None},
        }


def _say_finding(item: ItemSummary) -> str:
    finding = item.finding
    if finding is None:
        return "finding"
    if finding.status == "not_analysed":
        return f"image  not analysed: {finding.reason}"
    text = f"image  {finding.label}"
    if finding.malignancy is not None:
        text += f", malignancy {finding.malignancy:.2f}"
    if finding.lesions:
        lesion = max(finding.lesions, key=lambda one: one.area)
        text += f", {lesion.long_axis:.1f} x {lesion.short_axis:.1f} {lesion.unit}"
    return text
