"""What the console knows of the site at this moment, from one subscription of each kind.

Responsible for keeping the latest beds, heartbeats and site state with the time of their arrival, so that old never
passes for new. Not responsible for browsers (``live``); it keeps nothing that it could not lose.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from edgeward.bedside import AlarmSystemState
from edgeward.messages import Alarm, AlarmPriority, Bed, Beds, RoleState, SiteState

BEDS_STALE_S = 2.0  # `Beds` comes twice a second: four missed in a row are a fault, not jitter
BUS = "bus"  # the supervisor runs it; the server knows nothing of our heartbeats
HEARTBEAT_STALE_S = 3.5  # a role's heartbeat comes once a second
# The monitor tells every five seconds that the alarm path works. "Within ten seconds" is kept with a second to spare
# for the way to the browser (IEC 60601-1-8:2020, 6.11.2.2).
ALARM_SYSTEM_STALE_S = 9.0

_RANK = {AlarmPriority.HIGH: 0, AlarmPriority.MEDIUM: 1, AlarmPriority.LOW: 2}


def bed_id_of(bed: Bed) -> str:
    """Return the name of the bed; a monitor that knows no beds names the source."""
    return bed.bed_id or bed.device_id


def alarm_bed(alarm: Alarm) -> str:
    """Return the bed that an alarm belongs to."""
    return alarm.bed_id or alarm.device_id


def alarm_order(alarm: Alarm) -> tuple[bool, int, bool, int]:
    """Sort key of alarms as they are shown: unacknowledged first, by priority, what holds now, newest first.

    One that only waits to be seen must not stand before one of its priority that goes on.
    """
    return alarm.acknowledged, _RANK[alarm.priority], not alarm.present, -alarm.raised_ns


@lru_cache(maxsize=20_000)
def natural(text: str) -> list[tuple[int, str]]:
    """Sort key by which ``Bed 2`` comes before ``Bed 10``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]{1,15})", text.casefold())]


def bed_order(bed: Bed) -> tuple[bool, int, list[tuple[int, str]]]:
    """Sort key of beds for 'alarms first': the most urgent unacknowledged alarm, then the label."""
    if not bed.alarms:
        return True, 9, natural(bed.label)
    first = min(bed.alarms, key=alarm_order)
    return first.acknowledged, _RANK[first.priority], natural(bed.label)


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
    roles: dict[tuple[str, str], tuple[RoleState, float]] = field(default_factory=dict)
    by_id: dict[str, Bed] = field(default_factory=dict)
    alarm_system: AlarmSystemState | None = None
    alarm_system_at: float | None = None  # None: not yet heard; counted from the first question

    def take_beds(self, beds: Beds) -> set[str]:
        """Keep the latest numerics, of all beds or of those that changed; return the ids of what is new or gone."""
        fresh = {bed_id_of(bed): bed for bed in beds.beds}
        changed = set(fresh)
        if beds.full:
            changed |= self.by_id.keys() - fresh.keys()
            self.by_id = fresh
        else:
            changed |= set(beds.gone)
            self.by_id = {key: bed for key, bed in (self.by_id | fresh).items() if key not in beds.gone}
        self.beds = msgspec.structs.replace(beds, beds=list(self.by_id.values()), full=True, gone=[])
        self.beds_at = self.clock()
        return changed

    def take_alarm(self, alarm: Alarm) -> str:
        """Put a transition into its bed before the next numerics come; return the bed's id, empty if unknown."""
        bed_id = alarm_bed(alarm)
        bed = self.by_id.get(bed_id)
        if bed is None or self.beds is None:
            return ""
        alarms = [one for one in bed.alarms if one.alarm_id != alarm.alarm_id]
        if alarm.state != "ended":
            alarms.append(alarm)
        self.by_id[bed_id] = msgspec.structs.replace(bed, alarms=alarms)
        self.beds = msgspec.structs.replace(self.beds, beds=list(self.by_id.values()))
        return bed_id

    def take_alarm_system(self, state: AlarmSystemState) -> None:
        """Keep the monitor's word that the alarm path works."""
        self.alarm_system, self.alarm_system_at = state, self.clock()

    def alarm_system_age_s(self) -> float:
        """Return for how long the monitor has not said that the alarm path works."""
        if self.alarm_system_at is None:
            self.alarm_system_at = self.clock()
        return self.clock() - self.alarm_system_at

    def alarms_may_fail(self) -> bool:
        """Whether alarms may not come: the monitor is silent about them, or says so itself."""
        broken = self.alarm_system is not None and not self.alarm_system.ok
        return broken or self.alarm_system_age_s() > ALARM_SYSTEM_STALE_S

    def take_role(self, state: RoleState) -> None:
        """Keep the latest heartbeat of a role."""
        self.roles[(state.role, state.node)] = (state, self.clock())

    def take_site(self, state: SiteState) -> None:
        """Keep what the supervisor says."""
        self.site = state

    def beds_age_s(self) -> float | None:
        """Return the age of the numerics; None if there never were any."""
        return None if self.beds is None else self.clock() - self.beds_at

    def beds_live(self) -> bool:
        """Whether the numerics may be shown as live."""
        age = self.beds_age_s()
        return self.connected() and age is not None and age <= BEDS_STALE_S

    def source(self, source_id: str) -> Bed | None:
        """Return the latest numerics of the bed that a source feeds."""
        if source_id in self.by_id:
            return self.by_id[source_id]
        return next((bed for bed in self.by_id.values() if source_id in (bed.device_id, *bed.sources)), None)

    def bed(self, bed_id: str) -> Bed | None:
        """Return the latest numerics of one bed."""
        return self.by_id.get(bed_id)

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
