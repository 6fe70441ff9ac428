"""What the console knows of the site at this moment, from one subscription of each kind.

Responsible for keeping the latest beds, heartbeats and site state with the time of their arrival, so that old never
passes for new. Not responsible for browsers (``live``); it keeps nothing that it could not lose.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from edgeward.messages import Alarm, AlarmPriority, Bed, Beds, RoleState, SiteState

BEDS_STALE_S = 2.0  # `Beds` comes twice a second: four missed in a row are a fault, not jitter
BUS = "bus"  # the supervisor runs it; the server knows nothing of our heartbeats
HEARTBEAT_STALE_S = 3.5  # a role's heartbeat comes once a second

_RANK = {AlarmPriority.HIGH: 0, AlarmPriority.MEDIUM: 1, AlarmPriority.LOW: 2}


def alarm_order(alarm: Alarm) -> tuple[bool, int, int]:
    """Sort key of alarms as IEC 60601-1-8 wants them shown: unacknowledged first, then by priority, newest first."""
    return alarm.acknowledged, _RANK[alarm.priority], -alarm.raised_ns


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key by which ``Bed 2`` comes before ``Bed 10``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]{1,15})", text.casefold())]


def bed_order(bed: Bed) -> tuple[bool, int, list[tuple[int, str]]]:
    """Sort key of beds for 'alarms first': the most urgent unacknowledged alarm, then the label."""
    if not bed.alarms:
        return True, 9, _natural(bed.label)
    first = min(bed.alarms, key=alarm_order)
    return first.acknowledged, _RANK[first.priority], _natural(bed.label)


@dataclass(frozen=True, slots=True)
class RoleView:
    """One role as the system page shows it: its heartbeat joined with what the supervisor says."""

    name: str
    node: str
    status: str  # ready | starting | running (has no heartbeat: the bus) | degraded | silent | restarting | stopped
    reason: str
    state: RoleState | None
    age_s: float | None
    restarts: int
    memory_mb: float | None = None


@dataclass(slots=True)
class Watch:
    """The latest of everything. `clock` is a monotonic clock in seconds."""

    clock: Callable[[], float]
    connected: Callable[[], bool]
    beds: Beds | None = None
    beds_at: float = 0.0
    site: SiteState | None = None
    site_at: float = 0.0
    roles: dict[tuple[str, str], tuple[RoleState, float]] = field(default_factory=dict)

    def take_beds(self, beds: Beds) -> None:
        """Keep the latest numerics."""
        self.beds, self.beds_at = beds, self.clock()

    def take_role(self, state: RoleState) -> None:
        """Keep the latest heartbeat of a role."""
        self.roles[(state.role, state.node)] = (state, self.clock())

    def take_site(self, state: SiteState) -> None:
        """Keep what the supervisor says."""
        self.site, self.site_at = state, self.clock()

    def beds_age_s(self) -> float | None:
        """Return the age of the numerics; None if there never were any."""
        return None if self.beds is None else self.clock() - self.beds_at

    def beds_live(self) -> bool:
        """Whether the numerics may be shown as live."""
        age = self.beds_age_s()
        return self.connected() and age is not None and age <= BEDS_STALE_S

    def bed(self, device_id: str) -> Bed | None:
        """Return the latest numerics of one bed."""
        return next((bed for bed in (self.beds.beds if self.beds else []) if bed.device_id == device_id), None)

    def alarms(self) -> list[tuple[Bed, Alarm]]:
        """Return all active alarms, the most urgent first."""
        pairs = [(bed, alarm) for bed in (self.beds.beds if self.beds else []) for alarm in bed.alarms]
        return sorted(pairs, key=lambda pair: alarm_order(pair[1]))

    def role_views(self) -> list[RoleView]:
        """Return every role that was ever heard of or that the supervisor runs."""
        now = self.clock()
        site = self.site
        views: list[RoleView] = []
        heard: set[str] = set()
        for (name, node), (state, at) in sorted(self.roles.items()):
            heard.add(name)
            age = now - at
            word = site.roles.get(name, "") if site and site.node == node else ""
            status: str = state.status
            reason = state.reason
            if word in ("restarting", "degraded", "stopped"):
                status, reason = word, (site.reasons.get(name, "") if site else "") or reason
            elif age > HEARTBEAT_STALE_S:
                status = "silent"
            restarts = site.restarts.get(name, 0) if site else 0
            views.append(RoleView(name, node, status, reason, state, age, restarts, state.memory_mb))
        if site:
            for name in sorted(set(site.roles) - heard):
                word = site.roles[name]
                status = "starting" if word == "running" and name != BUS else word
                memory = site.memory_mb.get(name)
                reason = site.reasons.get(name, "")
                views.append(RoleView(name, site.node, status, reason, None, None, site.restarts.get(name, 0), memory))
        return views

    def warnings(self) -> list[str]:
        """Return all warnings, without repetition, in the order of their roles."""
        found: dict[str, None] = dict.fromkeys(self.site.warnings if self.site else [])
        for state, _ in self.roles.values():
            found.update(dict.fromkeys(state.warnings))
        return list(found)
