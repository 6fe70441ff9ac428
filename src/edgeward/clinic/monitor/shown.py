"""What is shown of each bed: its numbers, its score, its alarms, as one message.

Responsible for choosing, where several sources of a bed measure the same, for NEWS2 from what is there, and for
building only the beds that have something new. Not responsible for sending (``role``) or for alarms (``engine``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from edgeward.clinic.monitor.alarms import AlarmRecord
from edgeward.clinic.monitor.beds import BedRecord, Beds
from edgeward.clinic.monitor.engine import SITE, AlarmEngine, BedChange
from edgeward.clinic.monitor.held_values import Held
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.news2 import SOURCES, calls_still, due, news2
from edgeward.clinic.monitor.rules import RULES
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.clinic.monitor.values import Value
from edgeward.messages import Alarm, AlarmPriority, Bed, News2, VitalState

RHYTHMS = (
    "ventricular_fibrillation",
    "asystole",
    "ventricular_tachycardia",
    "extreme_tachycardia",
    "extreme_bradycardia",
    "atrial_fibrillation",
    "ventricular_run",
    "pause",
    "bigeminy",
    "trigeminy",
)
#: NEWS2 is shown as soon as one of these is there: a wearable's heart rate alone asks for no score.
_ASKS_FOR_SCORE = frozenset({"supplemental_oxygen", "consciousness", "temperature", "respiratory_rate", "spo2"})
_SAME_NS = 1_000_000_000  # two notes of one measurement differ by less
_URGENCY = {AlarmPriority.HIGH: 3, AlarmPriority.MEDIUM: 2, AlarmPriority.LOW: 1}


def to_message(bed_id: str, record: AlarmRecord, state: str, at_ns: int, *, label: str = "", ward: str = "") -> Alarm:
    """Return the alarm as it crosses the bus. A time-driven alarm has no decisive sample and so no arrival."""
    own = record.source_id.startswith("@") or not record.source_id
    site = bed_id == SITE
    return Alarm(
        alarm_id=f"{bed_id}-{record.number}",
        device_id="site" if site else bed_id if own else record.source_id,
        code=record.code,
        priority=record.priority,
        technical=record.rule.technical,
        latching=record.latching,
        state=state,  # type: ignore[arg-type]
        present=record.present,
        acknowledged=record.acknowledged,
        args=record.args,
        raised_ns=record.raised_ns,
        ended_ns=record.ended_ns,
        by=record.by,
        at_ns=at_ns,
        onset_sample=record.onset_sample,
        decisive_sample=record.decisive_sample,
        received_ns=record.received_ns if record.decisive_sample >= 0 else 0,
        late=record.late_ms > 0,
        bed_id=bed_id,
        ward=ward,
        label=label,
        late_ms=record.late_ms,
        level=record.level,
        told=list(record.told),
        members=list(record.members),
        audio_paused_until_ns=record.paused_until_ns,
        onset_ns=record.onset_ns,
    )


def _rank(value: Value, raised: int, now: int) -> tuple[int, ...]:
    """Return what a value comes before others of its parameter by: the number shown is the one that alarms.

    Parameters
    ----------
    raised : int
        How urgent the alarm is that stands of it, 0 for none: near its limit a value is within it now and then.
    """
    if value.value is None or value.stale(now):
        return 0, value.at
    beyond = max((_URGENCY[_priority(side, value)] for side in value.on), default=0)
    urgency = max(beyond, raised)
    # Of two that alarm alike the newer one is not better: the number would go to and fro with every message.
    return 1, urgency, beyond, raised, 0 if urgency else value.at


def _priority(side: str, value: Value) -> AlarmPriority:
    return AlarmPriority.HIGH if side.startswith("extreme") else AlarmPriority(value.limit.priority)


class Shown:
    """Builds `Bed` messages.

    Parameters
    ----------
    source_label : callable
        What a source is called, for beds without a name of their own.
    site_label : str
        What the site is called: its alarms are shown as those of a bed, while there are any.
    silence_s : float
        An ECG that has not come for this long is not shown as live.
    """

    def __init__(
        self,
        beds: Beds,
        engine: AlarmEngine,
        intake: Intake,
        clock: SiteClock,
        *,
        source_label: Callable[[str], str],
        site_label: str,
        silence_s: float = 4.0,
    ) -> None:
        self._beds = beds
        self._engine = engine
        self._intake = intake
        self._clock = clock
        self._source_label = source_label
        self._site_label = site_label
        self._silence_ms = silence_s * 1e3
        self._scores: dict[str, str] = {}  # bed -> code that its score calls for
        self._inputs: dict[str, dict[str, int]] = {}  # bed -> the scores of its inputs when it called for that

    def label(self, bed_id: str) -> str:
        """Return what a bed is called."""
        if bed_id == SITE:
            return self._site_label
        bed = self._beds.get(bed_id)
        if bed is None:
            return bed_id
        return bed.label or (self._source_label(bed.sources[0]) if bed.sources else "") or bed_id

    def alarm(self, bed_id: str, record: AlarmRecord, state: str, at_ns: int) -> Alarm:
        """Return a transition of an alarm as a message."""
        ward = self._beds[bed_id].ward if bed_id in self._beds else ""
        return to_message(bed_id, record, state, at_ns, label=self.label(bed_id), ward=ward)

    def active(self, bed_id: str) -> list[Alarm]:
        """Return the alarms of a bed as they stand."""
        found: list[Alarm] = []
        for record in self._engine.active(bed_id):
            state = "acknowledged" if record.acknowledged else "escalated" if record.level else "raised"
            found.append(self.alarm(bed_id, record, state, record.acknowledged_ns or record.raised_ns))
        return found

    # ------------------------------------------------------------------ values

    def _chosen(self, bed: BedRecord, now: int) -> dict[str, tuple[str, Value]]:
        """Return per parameter the value that speaks for the bed: live before old, who alarms, then the newest."""
        watch = self._intake.watch
        if len(bed.sources) == 1:
            source_id = bed.sources[0]
            return {name: (source_id, value) for name, value in watch.values(source_id).items()}
        raised: dict[tuple[str, str], int] = {}  # source, parameter -> how urgent the alarm is that stands of it
        for record in self._engine.active(bed.bed_id):
            if record.present and RULES[record.code].scope == "parameter":
                whose = record.source_id, record.scope
                raised[whose] = max(raised.get(whose, 0), _URGENCY[record.priority])
        chosen: dict[str, tuple[str, Value]] = {}
        best: dict[str, tuple[int, ...]] = {}
        for source_id in bed.sources:
            for name, value in watch.values(source_id).items():
                rank = _rank(value, raised.get((source_id, name), 0), now)
                if name not in chosen or rank > best[name]:
                    chosen[name], best[name] = (source_id, value), rank
        return chosen

    def vitals(self, bed_id: str) -> list[VitalState]:
        """Return the values of a bed as they are shown."""
        if bed_id not in self._beds:
            return []
        now = self._clock.now_ns()
        return self._vitals(bed_id, self._chosen(self._beds[bed_id], now), now)

    def _vitals(self, bed_id: str, chosen: dict[str, tuple[str, Value]], now: int) -> list[VitalState]:
        urgent: dict[str, AlarmPriority] = {}
        for record in self._engine.active(bed_id):
            if record.present and RULES[record.code].scope == "parameter":
                known = urgent.get(record.scope)
                if known is None or _URGENCY[record.priority] > _URGENCY[known]:
                    urgent[record.scope] = record.priority
        found = []
        for name, (source_id, value) in chosen.items():
            stale = value.stale(now)
            found.append(
                VitalState(
                    parameter=name,
                    value=value.value,
                    unit=value.parameter.unit,
                    at_ns=self._clock.wall_ns(value.at),
                    age_ms=round(max(0, now - value.at) / 1e6, 1),
                    stale=stale,
                    quality=value.quality,
                    source_id=source_id,
                    low=value.limit.low,
                    high=value.limit.high,
                    priority=urgent[name].value if name in urgent else "",
                    bound=value.bound,
                )
            )
        return found

    def _score(self, bed: BedRecord, chosen: dict[str, tuple[str, Value]], now: int) -> News2 | None:
        if not self._beds.profiles.adult(self._beds.profile(bed.bed_id)):
            return None
        inputs: dict[str, float] = {}
        stale: list[str] = []
        since = now  # of the oldest one that is of a round
        asked = not _ASKS_FOR_SCORE.isdisjoint(chosen)
        measured = any(one in self._intake.vitals for one in bed.sources)  # else it has nothing but waveforms
        if not asked and not measured:
            return None
        for name, choices in SOURCES.items():
            given = [chosen[choice][1] for choice in choices if choice in chosen]
            live = next((value.value for value in given if value.value is not None and not value.stale(now)), None)
            if live is not None:
                inputs[name] = live
            elif measured and (held := self._of_round(bed, choices, given, now)) is not None and held.value is not None:
                inputs[name] = held.value
                since = min(since, held.at_ns)
                asked = asked or name in _ASKS_FOR_SCORE
            elif given:
                stale.append(name)
        if not asked:
            return None
        return news2(inputs, stale=stale, scale2=bed.spo2_scale2, age_ms=round((now - since) / 1e6, 1))

    def _of_round(self, bed: BedRecord, choices: Iterable[str], given: list[Value], now: int) -> Held | None:
        """Return what was measured once and still counts: unless a monitor has said something later."""
        found = (self._intake.vitals.of_round(bed.sources, choice, now) for choice in choices)
        newest = max((held for held in found if held is not None), key=lambda held: held.at_ns, default=None)
        if newest is None or any(value.at > newest.at_ns + _SAME_NS for value in given):
            return None
        return newest

    # ------------------------------------------------------------------ beds

    def bed(self, bed_id: str) -> tuple[Bed, list[BedChange]]:
        """Return a bed as it is now, and what its score has begun or ended."""
        if bed_id == SITE:
            return Bed(device_id="", label=self._site_label, bed_id=SITE, alarms=self.active(SITE)), []
        bed = self._beds[bed_id]
        now = self._clock.now_ns()
        intake = self._intake
        chosen = self._chosen(bed, now)
        score = self._score(bed, chosen, now)
        changes = self._called(bed_id, due(score) if score else "", score)
        alarms = self.active(bed_id)
        vitals = self._vitals(bed_id, chosen, now)
        source = self._ecg_of(bed, now)
        quiet = bed.standby
        if intake.resting and not quiet:
            quiet = bool(bed.sources) and all(one in intake.resting for one in bed.sources)
        rhythm = "standby" if quiet else ""
        if alarms and not quiet:
            present = {alarm.code for alarm in alarms if alarm.present}
            rhythm = next((code for code in RHYTHMS if code in present), "")
        of_clock = source or (bed.sources[0] if bed.sources else "")
        offset_ms, drift_ppm = intake.clocks.shown(of_clock, now) if of_clock else (None, None)
        if offset_ms is not None:  # against the clock on the wall, which people compare it with
            offset_ms -= (self._clock.wall_ns(now) - now) / 1e6
        common: dict[str, Any] = {
            "label": self.label(bed_id),
            "rhythm": rhythm,
            "alarms": alarms,
            "bed_id": bed_id,
            "ward": bed.ward,
            "sources": bed.sources,
            "vitals": vitals,
            "news2": score,
            "audio_paused_until_ns": self._engine.alarms(bed_id).paused_until_ns if alarms else 0,
            "standby": quiet,
            "alarms_off": self._beds.switched_off(bed_id),
            "clock_offset_ms": offset_ms,
            "clock_drift_ppm": drift_ppm,
        }
        if not source:
            rate = chosen.get("heart_rate") or chosen.get("pulse_rate")
            live = [value for value in vitals if not value.stale]
            youngest = min((value.age_ms for value in vitals), default=0.0)
            shown = rate[1].value if rate and not rate[1].stale(now) else None
            return (
                Bed(device_id="", heart_rate=shown, age_ms=youngest, stale=not live, **common),
                changes,
            )
        numbers, age_ms = intake.numbers(source, now)
        stale = age_ms >= self._silence_ms or source in intake.resting
        return (
            Bed(
                device_id=source,
                heart_rate=None if stale else numbers.heart_rate,
                quality=None if stale else numbers.quality,
                beat_width_ms=None if stale else numbers.beat_width_ms,
                ventricular_per_min=None if stale else numbers.ventricular_per_min,
                age_ms=round(age_ms, 1),
                stale=stale,
                lead_off=bool(numbers.lead_off),
                packets=numbers.packets,
                missing=numbers.missing,
                lead=numbers.primary,
                **common,
            ),
            changes,
        )

    def _ecg_of(self, bed: BedRecord, now: int) -> str:
        """Return the source whose ECG is shown: the first that is alive, else the first; empty if there is none.

        Of two devices at one bed, one may die: the bed goes on showing the other's.
        """
        found = [one for one in bed.sources if one in self._intake.bank]
        for one in found if len(found) > 1 else ():
            if one not in self._intake.resting and self._intake.numbers(one, now)[1] < self._silence_ms:
                return one
        return found[0] if found else ""

    def _called(self, bed_id: str, code: str, score: News2 | None) -> list[BedChange]:
        before = self._scores.get(bed_id, "")
        inputs = self._inputs.pop(bed_id, {})
        if code and score is not None:
            self._inputs[bed_id] = score.scores
        if code == before:
            return []
        changes: list[BedChange] = []
        if code and score is not None:
            self._scores[bed_id] = code
            changes += self._engine.condition(bed_id, code, True, {"score": float(score.at_least)})
        else:
            self._scores.pop(bed_id, None)
        if before:
            # A score that is lower only because an input went out of date is not a patient who is better.
            unseen = score is not None and bool(inputs) and calls_still(before, inputs, score)
            changes += self._engine.condition(bed_id, before, False, unseen=unseen)
        return changes

    def assume(self, bed_id: str, code: str) -> None:
        """Take it that a bed's score called for this before a restart."""
        self._scores[bed_id] = code

    def forget(self, bed_id: str) -> None:
        """Forget the score of a bed whose patient left."""
        self._inputs.pop(bed_id, None)
        self._scores.pop(bed_id, None)
