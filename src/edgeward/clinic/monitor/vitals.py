"""The numerics of all sources: which value is the present one, and since when.

Responsible for order by corrected time and sequence number, plausibility, staleness and gaps, for up to thousands of
sources. Not responsible for protocols (``senml``, ``gateway.pcd01``, ``gateway.fhir_vitals``), limits or alarms: a
change is returned, and the role hands it on (``conditions.ValueSink``). What is held, and kept over a restart, is
``held_values``.

Rules:

- A value that was measured before the one we have never replaces it, whenever it arrives. The same time and value is a
  repetition; the same time with another value is a correction, and the later word counts.
- What is measured continually goes stale after the parameter's time (``Parameter.stale_s``), or, where a system sends
  more rarely than that, after a little more than two of its own intervals, at most three minutes. What is measured once
  in a while (a cuff, a thermometer) stays until its own time is over: "no value" between two measurements does not
  erase the last one, only its withdrawal does.
- Another patient at the same place starts with nothing, and people are told: the limits and the latched alarms are the
  former one's until somebody discharges the bed. An identifier that is put right ends it too.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from edgeward.bedside import Numerics, Observation, Vital
from edgeward.clinic.monitor import held_values
from edgeward.clinic.monitor.clocks import Clocks
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.held_values import EPISODIC_S, Change, Held, Source
from edgeward.parameters import PARAMETERS, Parameter

__all__ = ["Change", "Vitals"]

ANOTHER_PATIENT = "another_patient"

_S = 1_000_000_000
_MOVED_NS = 30 * _S  # by so much at most a better estimate of a device's clock moves what came before
_OLDEST_NS = 24 * 3600 * _S
_GAP_INTERVALS = 2.5
_STEADY_NS = 60 * _S
_SEQUENCE_S = 60 * _S  # a number that is lower later than this is a device that started anew
_SEQUENCES = 1 << 32
WITHDRAWN = ("deleted", "wrong", "entered_in_error")


class Vitals:
    """The values of all sources. Pure: time is passed in.

    Parameters
    ----------
    clocks
        Learns from each message that says when it was sent, and corrects the times in it.
    """

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._sources: dict[str, Source] = {}
        self._queue: list[tuple[int, str]] = []  # when a source's next value goes stale
        self._renamed: set[str] = set()  # sources that name somebody else since `conditions` was asked
        self._told: set[str] = set()  # of which people were told
        self.counts: Counter[str] = Counter()

    def __contains__(self, source_id: str) -> bool:
        return source_id in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def source(self, source_id: str) -> Source | None:
        """Return what is known of a source, its present values included."""
        return self._sources.get(source_id)

    def of_round(self, sources: Iterable[str], parameter: str, now_ns: int) -> Held | None:
        """Return the newest value of these sources that was measured once, and still counts in a score."""
        found = [source.values[parameter] for source in map(self._sources.get, sources)
                 if source is not None and parameter in source.values]  # fmt: skip
        return max((held for held in found if held.stands(now_ns)), key=lambda held: held.at_ns, default=None)

    def take(self, numerics: Numerics, now_ns: int) -> list[Change]:
        """Take measurements; return what changed by them, in the order of their times.

        Parameters
        ----------
        numerics
            As decoded. Times by the device's clock are corrected here.
        now_ns
            Site time.

        Raises
        ------
        ValueError
            If another device speaks for this source already: one of the two is named wrongly, and their patients must
            not be mixed.
        """
        source = self._sources.get(numerics.source_id)
        by_hand = numerics.protocol == "manual"
        if source is not None and not by_hand and source.device_id != numerics.device_id:
            if source.protocol != "manual":
                self.counts["numerics_of_another_device"] += 1
                raise ValueError(f"device {source.device_id} speaks for this place already")
            source.device_id, source.protocol = numerics.device_id, numerics.protocol
        if source is None:
            source = self._sources[numerics.source_id] = Source(
                numerics.source_id, numerics.device_id, numerics.protocol, numerics.label
            )
        source.label = numerics.label or source.label
        source.received_ns = max(source.received_ns, numerics.received_ns)
        changes: list[Change] = []
        if numerics.patient:
            if source.patient and source.patient != numerics.patient:
                changes += self._cleared(source, now_ns)
                self.counts["numerics_patients"] += 1
                former = source.former or source.patient
                source.former = "" if former == numerics.patient else former
                self._renamed.add(source.source_id)
            source.patient = numerics.patient
        if not self._in_sequence(source, numerics):
            self.counts["numerics_late"] += len(numerics.vitals)
            return changes
        self._learn(numerics)
        timed = [(self._site_time(numerics, vital), vital) for vital in numerics.vitals]
        if len(timed) > 1:
            timed.sort(key=lambda pair: pair[0])
        for at_ns, vital in timed:
            change = self._one(source, vital, at_ns, numerics.received_ns, now_ns)
            if change is not None:
                changes.append(change)
        self._schedule(source)
        return changes

    def expire(self, now_ns: int) -> list[Change]:
        """Return the values that went stale since the last call."""
        changes: list[Change] = []
        while self._queue and self._queue[0][0] <= now_ns:
            due_ns, source_id = heapq.heappop(self._queue)
            source = self._sources.get(source_id)
            if source is None or source.due_ns != due_ns:
                continue
            source.due_ns = 0
            for held in source.values.values():
                if held.live and held.stale_ns <= now_ns:
                    held.expired = True
                    changes.append(Change(source_id, held.parameter.name, None, "stale", now_ns, now_ns))
                    self.counts["numerics_stale"] += 1
            self._schedule(source)
        return changes

    def conditions(self, now_ns: int) -> Iterator[ConditionEvent]:
        """Yield what began or ended since the last call: a place whose device names another patient than before."""
        renamed, self._renamed = self._renamed, set()
        for source_id in renamed:
            source = self._sources.get(source_id)
            stands = source is not None and bool(source.former)
            if stands != (source_id in self._told):
                (self._told.add if stands else self._told.discard)(source_id)
                yield ConditionEvent(source_id, ANOTHER_PATIENT, stands, now_ns, now_ns)

    def forget(self, source_id: str) -> list[Change]:
        """Forget a source; return the values that are gone by it."""
        source = self._sources.pop(source_id, None)
        self._told.discard(source_id)
        return [] if source is None else self._cleared(source, source.received_ns)

    def clear(self, source_id: str, now_ns: int) -> list[Change]:
        """Forget the values of a source, because its patient left; return what is gone by it.

        What was measured before and comes later counts no more, unless the source says that it is somebody else's.
        """
        source = self._sources.get(source_id)
        if source is None:
            return []
        source.since_ns = max(source.since_ns, now_ns)
        source.left = source.former or source.patient
        source.patient = source.former = ""
        self._renamed.add(source_id)
        return self._cleared(source, now_ns)

    def leave_behind(self, source_id: str, since_ns: int, now_ns: int) -> list[Change]:
        """Forget what a source measured before `since_ns`: it was another patient's. Return what is gone by it.

        What was measured earlier and comes later counts no more: a monitor sends its last cuff pressure again and
        again. Whom the source names stays as it is.
        """
        source = self._sources.get(source_id)
        if source is None:
            return []
        source.since_ns = max(source.since_ns, since_ns)
        source.left = source.patient
        earlier = {name: held for name, held in source.values.items() if held.at_ns < since_ns}
        for name in earlier:
            del source.values[name]
        return [Change(source_id, name, None, "patient", now_ns, now_ns) for name, held in earlier.items() if held.live]

    def others_of(self, source_id: str, bed: Iterable[str]) -> list[str]:
        """Return which other sources of a bed hold values of the patient before, now that this one names another.

        None, if another source of the bed was the first to name this patient: what was measured since then is this
        patient's. Nor do those that name this patient themselves.
        """
        source = self._sources.get(source_id)
        others = [one for one in map(self._sources.get, bed) if one is not None and one is not source]
        if source is None or any(one.former and one.patient == source.patient for one in others):
            return []
        return [one.source_id for one in others if one.patient != source.patient]

    # ---------------------------------------- one measurement

    def _one(self, source: Source, vital: Vital, at_ns: int, received_ns: int, now_ns: int) -> Change | None:
        parameter = PARAMETERS.get(vital.parameter)
        if parameter is None:
            self.counts["numerics_unknown"] += 1
            return None
        value, why = _checked(parameter, vital)
        if now_ns - at_ns > _OLDEST_NS:
            self.counts["numerics_too_old"] += 1
            return None
        if at_ns < source.since_ns and (not source.left or source.patient in ("", source.left)):
            self.counts["numerics_of_before"] += 1
            return None
        held = source.values.get(parameter.name)
        if held is not None:
            if vital.at_ns and vital.at_ns == held.device_ns:
                at_ns = held.at_ns  # the same measurement, however the estimate of the clock has moved since
            elif held.device_ns and vital.at_ns > held.device_ns and at_ns > held.at_ns - _MOVED_NS:
                at_ns = max(at_ns, held.at_ns)  # a later one, for the same reason
            if at_ns < held.at_ns:
                self.counts["numerics_late"] += 1
                return None
            if at_ns == held.at_ns and (value, why, vital.bound) == (held.value, held.why, held.bound):
                self.counts["numerics_repeated"] += 1
                return None
        episodic = parameter.stale_s >= EPISODIC_S
        if value is None:
            self.counts["numerics_no_value"] += 1
            if episodic and why not in WITHDRAWN:
                return None
            if why in WITHDRAWN and (held is None or at_ns > held.at_ns):
                return None  # what is withdrawn is not what is shown
            if held is None:
                return None  # there never was one: nothing changes
        stale_before = held is None or not held.live
        interval_ns = 0 if held is None else self._interval(source, held, at_ns)
        new = Held(
            parameter,
            value,
            at_ns,
            received_ns,
            why,
            vital.quality,
            vital.code,
            vital.validity,
            vital.at_ns,
            interval_ns,
            0 if held is None or at_ns - held.at_ns > _STEADY_NS else held.steps + (at_ns > held.at_ns),
            bound=vital.bound,
        )
        source.values[parameter.name] = new
        if value is not None and new.stale_ns <= now_ns:
            # It was measured so long ago that it never is live: kept for what it is, told to nobody as a value.
            new.expired = True
            self.counts["numerics_stale_on_arrival"] += 1
            return None if stale_before else Change(source.source_id, parameter.name, None, "stale", now_ns, now_ns)
        if value is None and stale_before:
            return None  # it had none before
        return Change(source.source_id, parameter.name, value, why, at_ns, received_ns, vital.quality, vital.bound)

    def _interval(self, source: Source, held: Held, at_ns: int) -> int:
        """Return how often a source measures, by the time to its measurement before; notices a gap on the way."""
        between, usual = at_ns - held.at_ns, held.interval_ns
        if between <= 0 or held.parameter.stale_s >= EPISODIC_S:
            return usual
        if not usual:
            return between
        if between > _GAP_INTERVALS * usual and at_ns > held.stale_ns:
            source.gaps += 1
            source.last_gap = (held.at_ns, at_ns)
            self.counts["numerics_gaps"] += 1
            # A gap is not a habit, but a system may well send more rarely from now on: a second one is believed.
            return usual * 2
        return (3 * usual + between) // 4

    def _site_time(self, numerics: Numerics, vital: Vital) -> int:
        if not vital.at_ns:
            return numerics.received_ns
        if numerics.clock == "site":
            return min(vital.at_ns, numerics.received_ns)
        return self._clocks.to_site(numerics.source_id, vital.at_ns, numerics.received_ns)

    def _learn(self, numerics: Numerics) -> None:
        if numerics.clock == "site":
            return
        sent_ns = numerics.sent_ns or max((vital.at_ns for vital in numerics.vitals), default=0)
        if sent_ns:
            self._clocks.observe(numerics.source_id, sent_ns, numerics.received_ns)

    def _in_sequence(self, source: Source, numerics: Numerics) -> bool:
        """Whether a message without times is not older than the last one, by its number (which may wrap)."""
        if numerics.sequence < 0:
            return True
        ahead = (numerics.sequence - source.sequence) % _SEQUENCES
        recent = numerics.received_ns - source.sequence_ns < _SEQUENCE_S
        if source.sequence >= 0 and recent and (ahead == 0 or ahead > _SEQUENCES // 2):
            return any(vital.at_ns for vital in numerics.vitals)  # with times of their own these decide
        source.sequence, source.sequence_ns = numerics.sequence, numerics.received_ns
        return True

    def _cleared(self, source: Source, now_ns: int) -> list[Change]:
        gone = [
            Change(source.source_id, name, None, "patient", now_ns, now_ns)
            for name, held in source.values.items()
            if held.live
        ]
        source.values.clear()
        source.due_ns = 0
        return gone

    def _schedule(self, source: Source) -> None:
        due = min((held.stale_ns for held in source.values.values() if held.live), default=0)
        # One entry per source is enough: if values came since, it is entered anew when it is due.
        if due and (not source.due_ns or due < source.due_ns):
            source.due_ns = due
            heapq.heappush(self._queue, (due, source.source_id))

    # ---------------------------------------- what is kept

    def observations(self, numerics: Numerics, bed_id: str, wall: Callable[[int], int]) -> list[Observation]:
        """Return the values of a message that was taken, for the record: also those that came late.

        Parameters
        ----------
        wall
            Turns site time into the wall clock's.
        """
        found = []
        for vital in numerics.vitals:
            parameter = PARAMETERS.get(vital.parameter)
            value = _checked(parameter, vital)[0] if parameter is not None else None
            if value is not None:
                found.append(
                    Observation(
                        bed_id=bed_id,
                        source_id=numerics.source_id,
                        parameter=vital.parameter,
                        value=value,
                        at_ns=wall(self._site_time(numerics, vital)),
                        device_ns=vital.at_ns,
                        bound=vital.bound,
                    )
                )
        return found

    # ---------------------------------------- over a restart

    def dump(self, wall: Callable[[int], int] = lambda at_ns: at_ns) -> bytes:
        """Return what outlasts a restart: the values that are live, whose they are, and how often they come."""
        return held_values.dump(self._sources.values(), wall)

    def restore(self, data: bytes, now_ns: int, steady: Callable[[int], int] = lambda at_ns: at_ns) -> list[Change]:
        """Take up what ``dump`` returned; return the values that are still valid. Others are known to be expired.

        Raises
        ------
        ValueError
            If it is something else.
        """
        sources, changes = held_values.read(data, now_ns, steady)
        for source in sources:
            self._sources[source.source_id] = source
            self._schedule(source)
            if source.former:
                self._renamed.add(source.source_id)
        return changes


def _checked(parameter: Parameter, vital: Vital) -> tuple[float | None, str]:
    """Return value and reason; what a device marks as demonstration or test is no value of a patient."""
    if vital.value is None:
        return None, vital.why or "no_value"
    if vital.validity in ("invalid", "demo", "test"):
        return None, vital.validity
    low, high = parameter.plausible
    if not math.isfinite(vital.value) or not low <= vital.value <= high:
        return None, "implausible"
    return vital.value, ""
