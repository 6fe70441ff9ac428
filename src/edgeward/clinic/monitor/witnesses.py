"""Who can speak for or against a lethal rhythm: the pulses of the same device, and of the other devices of its bed.

Responsible for finding the pulses that belong to an ECG and for bringing them into the time of its stream. What they
say is decided in ``crosscheck``, how two devices' streams lie to each other in ``pairing``. Not responsible for alarms
(``engine``).

Another device is heard only while all of this holds: the lag between the two streams was found from the heart's own
irregularity, and borne out until shortly before the event; both streams come at their pace; and then everything that
is asked of a device's own pulse. A number (a pulse rate by SenML or HL7) is never a witness: it is a mean of the past.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeward.clinic.monitor import crosscheck
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.crosscheck import Pulses
from edgeward.clinic.monitor.engine import Verdict
from edgeward.clinic.monitor.pairing import Pair, Times

if TYPE_CHECKING:
    from edgeward.clinic.monitor.intake import Intake

_S = 1_000_000_000
LOOK_NS = 2 * _S  # beats and pulses are collected this often: the ECG keeps its last sixteen, 4 s at 240/min
LEARN_NS = 10 * _S
FINDS = 3  # lags that are looked for in one look; each takes some milliseconds
#: The pulses of another device are laid this far after their QRS: where a finger's would be.
USUAL_DELAY_S = 0.25
#: The lag must have been borne out so shortly before the event.
FRESH_S = 30.0
#: A stream whose newest packet came later than this after its pace is no witness, nor is anyone heard against it.
LATE_S = 1.0
#: Nor one that has sent nothing for so long.
SILENT_NS = 2_500_000_000
#: A stream's pace is the best of this time and the same time before.
_PACE_NS = 30 * _S
_ANEW_S = 600.0
_GOOD = 0.3  # of a pulse, to be paired; as in ``crosscheck``


@dataclass(slots=True)
class _Pace:
    """When the packets of a stream arrive, against the time of the stream: the earliest seen lately, in seconds."""

    best: float
    before: float
    since_ns: int
    last: float

    @property
    def earliest(self) -> float:
        """Arrival less stream time, with the least delay."""
        return min(self.best, self.before)


@dataclass(slots=True)
class _Known:
    """What is known of an ECG and a channel of another device."""

    pair: Pair
    expected_s: float = 0.0
    due_ns: int = 0


class Witnesses:
    """The pulses that can be held against the alarms of each bed.

    Parameters
    ----------
    intake : Intake
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._known: dict[tuple[str, str, str], _Known] = {}  # ECG's source, other source, its channel
        self._paces: dict[tuple[str, bool], _Pace] = {}  # source, and whether of its ECG
        self._looked = 0

    # ------------------------------------------------------------------ what is learned while nothing is the matter

    def look(self, beds: Iterable[list[str]], now_ns: int) -> None:
        """Learn how the devices of each bed lie to each other; to be called at least once a second.

        Parameters
        ----------
        beds : iterable of list of str
            The sources of each bed.
        """
        if now_ns - self._looked < LOOK_NS:
            return
        self._looked = now_ns
        bank, signals = self._intake.bank, self._intake.signals
        wanted: set[tuple[str, str, str]] = set()
        watched: set[tuple[str, bool]] = set()
        for sources in beds:
            if len(sources) < 2:
                continue
            pulsatile = {one: signals.pulses(one) for one in sources if one in signals}
            for source_id in sources:
                if source_id not in bank or not (pulsatile.keys() - {source_id}):
                    continue
                mine = self._follow((source_id, True), self._newest(source_id), now_ns)
                watched.add((source_id, True))
                qrs = self._qrs(source_id)
                for other, channels in pulsatile.items():
                    if other == source_id or not channels:
                        continue
                    theirs = self._follow((other, False), signals.newest(other), now_ns)
                    watched.add((other, False))
                    for channel in channels:
                        key = (source_id, other, channel.name)
                        wanted.add(key)
                        known = self._known.get(key)
                        if known is None:
                            known = self._known[key] = _Known(Pair())
                        known.pair.take(qrs, channel.times_s[channel.qualities >= _GOOD])
                        known.expected_s = mine.earliest - theirs.earliest
        for gone in self._known.keys() - wanted:
            del self._known[gone]
        for other_gone in self._paces.keys() - watched:
            del self._paces[other_gone]
        due = sorted((one for one in self._known.values() if one.due_ns <= now_ns), key=lambda one: one.due_ns)
        finds = 0
        for one in due:
            finds += one.pair.lag is None
            if finds > FINDS:
                break
            one.pair.learn(one.expected_s)
            one.due_ns = now_ns + LEARN_NS

    def _qrs(self, source_id: str) -> Times:
        rate_hz = float(self._intake.descriptions[source_id]["rate_hz"])
        return np.asarray(self._intake.bank.recent_beats(source_id) / rate_hz)

    def _newest(self, source_id: str) -> tuple[int, float]:
        """Return when the newest packet of an ECG came, and the end of it in the time of the stream."""
        stream = self._intake.bank.seats.book[self._intake.bank.row(source_id)]
        rate_hz = float(self._intake.descriptions[source_id]["rate_hz"])
        return int(stream["received_ns"]), int(stream["next_sample"]) / rate_hz

    def _follow(self, name: tuple[str, bool], newest: tuple[int, float], now_ns: int) -> _Pace:
        seen = newest[0] / _S - newest[1]
        pace = self._paces.get(name)
        if pace is None or abs(seen - pace.last) > _ANEW_S:
            pace = self._paces[name] = _Pace(seen, seen, now_ns, seen)
        elif now_ns - pace.since_ns > _PACE_NS:
            pace.before, pace.best, pace.since_ns = pace.best, seen, now_ns
        pace.best, pace.last = min(pace.best, seen), seen
        return pace

    def pair(self, source_id: str, other: str, channel: str) -> Pair | None:
        """Return what is known of how an ECG and a channel of another device lie to each other."""
        known = self._known.get((source_id, other, channel))
        return known.pair if known else None

    # ------------------------------------------------------------------ when a lethal rhythm is told

    def check(self, event: ConditionEvent, sources: list[str], now_ns: int) -> Verdict:
        """Hold a lethal rhythm against the pulses of its bed (`engine.Check`)."""
        source_id, intake = event.source_id, self._intake
        if source_id not in intake.bank or source_id not in intake.descriptions or event.onset_sample < 0:
            return Verdict("undecided")
        newest = self._newest(source_id)
        onset_s = event.onset_sample / float(intake.descriptions[source_id]["rate_hz"])
        pulses = intake.signals.pulses(source_id)
        if self._punctual((source_id, True), newest, now_ns):
            for other in sources:
                if other != source_id and other in intake.signals:
                    pulses += self._aligned(source_id, other, onset_s, now_ns)
        if not pulses:
            return Verdict("undecided")
        heart = crosscheck.Beats(
            times_s=self._qrs(source_id),
            now_s=newest[1],
            quality=intake.bank.numerics(source_id, now_ns).quality or 0.0,
        )
        rate = event.args.get("rate")
        found = crosscheck.judge(
            event.code, onset_s, heart, pulses, rate=float(rate) if isinstance(rate, float | int) else None
        )
        if found.doubt:
            return Verdict("suppress", f"pulse_{found.pulse}")
        return Verdict("confirm" if found.pulse == "absent" else "undecided", found.weakest)

    def _punctual(self, name: tuple[str, bool], newest: tuple[int, float], now_ns: int) -> bool:
        """Return whether a stream is at its pace: what it says now is of now."""
        pace = self._paces.get(name)
        if pace is None or now_ns - newest[0] > SILENT_NS:
            return False
        return newest[0] / _S - newest[1] - pace.earliest <= LATE_S

    def _aligned(self, source_id: str, other: str, onset_s: float, now_ns: int) -> list[Pulses]:
        """Return the pulses of another device in the time of the ECG's stream."""
        if not self._punctual((other, False), self._intake.signals.newest(other), now_ns):
            return []
        found = []
        for channel in self._intake.signals.pulses(other):
            pair = self.pair(source_id, other, channel.name)
            if pair is None or pair.lag is None or pair.confirmed_s < onset_s - FRESH_S:
                continue
            shift = USUAL_DELAY_S - pair.lag.lag_s
            found.append(
                replace(
                    channel,
                    name=f"{other} {channel.name}",
                    times_s=np.asarray(channel.times_s + shift),
                    seen_from_s=channel.seen_from_s + shift,
                    now_s=channel.now_s + shift,
                )
            )
        return found
