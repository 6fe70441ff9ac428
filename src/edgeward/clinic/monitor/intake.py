"""Takes what sources send, whatever it came by, and gives it to those who look at it.

Responsible for decoding, for knowing how each source's signal is sampled, for whose word a planned stop is, for how far
behind its own pace a stream is. Not responsible for the signals (``bank``,
``signals``), the numerics (``vitals``), the limits (``values``), alarms (``engine``) or the bus (``role``).

All times are the site's steady clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from edgeward import waveform
from edgeward.bedside import Numerics
from edgeward.clinic.monitor import crosscheck, senml
from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.bank import Numerics as HeartNumbers
from edgeward.clinic.monitor.clocks import Clocks
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.engine import Verdict
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.signals import SignalBank
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.clinic.monitor.values import LimitWatch
from edgeward.clinic.monitor.vitals import Change, Vitals
from edgeward.waveform import FLAG_CLOCK_UNSYNCHRONISED, FLAG_LAST, SignalPacket

#: The pace of a stream is the best it was within this time and the same time before.
PACE_NS = 30_000_000_000
#: A stream that is so much behind what was there began anew: a device keeps at most so much of what it could not send.
ANEW_S = 30.0
BURST_NS = 2_000_000_000
CLOCKS_NS = 1_000_000_000  # devices' clocks drift slowly: a look a second is plenty


@dataclass(slots=True)
class Pace:
    """When packets of a stream arrive, against the index of their samples: a stream that waited is behind it.

    What is faster than ever before counts only after a while: a burst must not make its own beginning late.
    """

    rate_hz: float
    packet_ns: int = 0  # how much of the signal one packet carries
    next_sample: int = 0
    best: int = 0  # arrival less stream time, ns
    before: int | None = None  # the best of the span before
    span: int = 0  # when this span began
    faster: int = 0  # the best of the last moments
    faster_since: int = 0

    def take(self, first_sample: int, samples: int, received_ns: int) -> None:
        """Take the arrival of a packet."""
        seen = received_ns - round((first_sample + samples) / self.rate_hz * 1e9)
        # A copy, or one that was overtaken, is no new stream: it must not hide that the stream is behind.
        anew = first_sample == 0 or first_sample < self.next_sample - ANEW_S * self.rate_hz
        self.packet_ns = round(samples / self.rate_hz * 1e9)
        if not self.span or anew:
            self.best, self.before, self.span = seen, None, received_ns
            self.faster, self.faster_since = seen, received_ns
        elif received_ns - self.span > PACE_NS:
            self.before, self.best, self.span = self.best, seen, received_ns
        if received_ns - self.faster_since > BURST_NS:
            self.best = min(self.best, self.faster)
            self.faster, self.faster_since = seen, received_ns
        elif seen < self.faster:
            self.faster = seen
        self.next_sample = first_sample + samples if anew else max(self.next_sample, first_sample + samples)

    def behind_ns(self, sample: int, now_ns: int) -> int:
        """Return how long ago `sample` should have been here, its packet's own length allowed for."""
        best = self.best if self.before is None else min(self.best, self.before)
        return now_ns - best - round(sample / self.rate_hz * 1e9) - self.packet_ns


class Intake:
    """Everything that looks at sources.

    Parameters
    ----------
    clock : SiteClock
    limits : Limits
        Rhythm limits of sources without their own.
    known : callable
        Called with a source before anything else is done with it, and the label that came with it.
    """

    def __init__(self, clock: SiteClock, limits: Limits, known: Callable[[str, str], None]) -> None:
        self._clock = clock
        self._known = known
        self.bank = MonitorBank(limits)
        self.signals = SignalBank()
        self.clocks = Clocks()
        self.vitals = Vitals(self.clocks)
        self.watch = LimitWatch(clock.now_ns, self.has_signal)
        self.descriptions: dict[str, dict[str, Any]] = {}  # of the ECG of a source
        self.changed: set[str] = set()  # sources whose description differs from what was written down last
        self.resting: set[str] = set()  # said that they stop
        self.fresh: set[str] = set()  # sources whose numbers are not yet looked at
        self.shown: set[str] = set()  # sources with something new to show
        self._pace: dict[str, Pace] = {}
        self._numbers: dict[str, tuple[HeartNumbers, int]] = {}  # of the last look, and when that was
        self._clocks_looked = 0
        self.counts: dict[str, int] = {}
        self.keep: Callable[[Numerics], None] = lambda _: None  # called with numerics that were taken

    def has_signal(self, source_id: str) -> bool:
        """Return whether a source sends waveforms."""
        return source_id in self.bank or source_id in self.signals

    # ------------------------------------------------------------------ waveforms

    def wave(self, source_id: str, data: bytes, received_ns: int) -> None:
        """Take one packet.

        Raises
        ------
        ValueError
            If it is malformed, or does not fit what can be monitored.
        """
        packet = waveform.read(data)
        self._known(source_id, "")
        if packet.ecg is not None:
            self._ecg(source_id, packet, received_ns)
        if packet.others or source_id in self.signals:
            self.signals.push(source_id, packet, received_ns=received_ns)
        self.fresh.add(source_id)
        if packet.start_ns > 0:
            self._observe(source_id, packet, received_ns)
        if packet.flags & FLAG_LAST:
            self.rest(source_id)
        elif source_id in self.resting:
            self.resting.discard(source_id)

    def _ecg(self, source_id: str, packet: SignalPacket, received_ns: int) -> None:
        ecg = packet.ecg
        assert ecg is not None
        known = self.descriptions.get(source_id)
        if (
            known is None
            or known["rate_hz"] != ecg.rate_hz
            or known["gain_uv"] != ecg.gain_uv
            or known["leads"] != ecg.leads
        ):
            self.enrol(source_id, {"rate_hz": ecg.rate_hz, "gain_uv": ecg.gain_uv, "leads": ecg.leads})
            self.changed.add(source_id)
        self.bank.push(
            source_id,
            ecg.samples,
            first_sample=ecg.first_sample,
            sequence=packet.sequence,
            received_ns=received_ns,
            lead_off=ecg.lead_off,
        )
        self._pace[source_id].take(ecg.first_sample, ecg.samples.shape[1], received_ns)

    def enrol(self, source_id: str, description: dict[str, Any]) -> None:
        """Make room for an ECG.

        Raises
        ------
        ValueError
            If it cannot be monitored.
        """
        self.bank.enrol(source_id, **description, now_ns=self._clock.now_ns())
        self.descriptions[source_id] = description
        self._pace[source_id] = Pace(description["rate_hz"])

    def _observe(self, source_id: str, packet: SignalPacket, received_ns: int) -> None:
        """Learn of the device's clock: its packet is sent when the last sample is taken."""
        ecg = packet.ecg
        if ecg is not None:
            length_s = ecg.samples.shape[1] / ecg.rate_hz
        else:
            length_s = max((b.samples.size / b.channel.rate_hz for b in packet.others), default=0.0)
        self.clocks.observe(
            source_id,
            packet.start_ns + round(length_s * 1e9),
            received_ns,
            synchronised=not packet.flags & FLAG_CLOCK_UNSYNCHRONISED,
        )

    def lag_ms(self, event: ConditionEvent) -> float:
        """Return how long ago what decided an event should have been here."""
        pace = self._pace.get(event.source_id)
        if pace is None or event.decisive_sample < 0:
            return 0.0
        return max(0.0, pace.behind_ns(event.decisive_sample, self._clock.now_ns()) / 1e6)

    # ------------------------------------------------------------------ numerics

    def pack(self, source_id: str, data: bytes, received_ns: int) -> None:
        """Take a SenML pack.

        Raises
        ------
        ValueError
            If it is malformed.
        """
        found = senml.decode(data, source_id, received_ns)
        if found.unknown:
            self.count("numerics_unknown", found.unknown)
        if found.numerics is not None:
            self.numerics(found.numerics, received_ns)

    def numerics(self, numerics: Numerics, received_ns: int) -> None:
        """Take numerics of any protocol."""
        self._known(numerics.source_id, numerics.label)
        if numerics.received_ns != received_ns:
            numerics = msgspec.structs.replace(numerics, received_ns=received_ns)
        if numerics.protocol != "manual":
            self.resting.discard(numerics.source_id)
        self._values(self.vitals.take(numerics, received_ns))
        self.shown.add(numerics.source_id)
        self.keep(numerics)

    def take_up(self, dump: bytes | None, messages: Iterable[Numerics]) -> int:
        """Take up the values that were kept over a restart, and the messages that came after; return how many of these.

        What came steadily and has gone stale meanwhile is awaited: its silence counts from now.

        Raises
        ------
        ValueError
            If the dump holds no values. The messages were taken all the same.
        """
        now = self._clock.now_ns()
        problem: ValueError | None = None
        if dump is not None:
            try:
                self._values(self.vitals.restore(dump, now, self._clock.steady_ns), now)
            except ValueError as error:
                problem = error
        count = 0
        for message in messages:
            try:
                self._values(self.vitals.take(self._by_steady_clock(message, now), now), now)
                count += 1
            except ValueError:
                self.count("numerics_not_taken_up")
        for source_id in self.vitals:
            source = self.vitals.source(source_id)
            for name, held in source.values.items() if source else ():
                if held.expired and held.missed:
                    self.watch.expect(source_id, name)
        if problem is not None:
            raise problem
        return count

    def _by_steady_clock(self, numerics: Numerics, now: int) -> Numerics:
        steady = self._clock.steady_ns
        vitals = numerics.vitals
        if numerics.clock == "site":
            vitals = [msgspec.structs.replace(one, at_ns=steady(one.at_ns) if one.at_ns else 0) for one in vitals]
        return msgspec.structs.replace(numerics, received_ns=min(steady(numerics.received_ns), now), vitals=vitals)

    def by_wall_clock(self, numerics: Numerics) -> Numerics:
        """Return a message that was taken as another process can take it up: `take_up` is the reverse."""
        wall = self._clock.wall_ns
        vitals = numerics.vitals
        if numerics.clock == "site":
            vitals = [msgspec.structs.replace(one, at_ns=wall(one.at_ns) if one.at_ns else 0) for one in vitals]
        return msgspec.structs.replace(numerics, received_ns=wall(numerics.received_ns), vitals=vitals)

    def _values(self, changes: list[Change], taken_up_ns: int = 0) -> None:
        for change in changes:
            if change.why == "patient":
                self.watch.withdraw(change.source_id, change.parameter)
                continue
            source = self.vitals.source(change.source_id)
            held = source.values.get(change.parameter) if source else None
            self.watch.update(
                change.source_id,
                change.parameter,
                change.value,
                at_ns=change.at_ns,
                received_ns=taken_up_ns or change.received_ns,  # its age grew over the restart
                quality=change.quality,
                stale_s=(held.stale_ns - held.at_ns) / 1e9 if held and change.value is not None else None,
                missed=held is None or held.missed,
            )

    # ------------------------------------------------------------------ time

    def process(self) -> list[ConditionEvent]:
        """Take everything queued through the kernels; return what began or ended."""
        now = self._clock.now_ns()
        return [*self.bank.process(now), *self.signals.process(now), *self.watch.take_events()]

    def tick(self) -> list[ConditionEvent]:
        """Take the passing of time, and compare new numbers with the limits; return what began or ended."""
        now = self._clock.now_ns()
        fresh, self.fresh = self.fresh, set()
        of_heart = [one for one in fresh if one in self.bank]
        update = self.watch.update
        for source_id, numbers in zip(of_heart, self.bank.numerics_of(of_heart, now), strict=True):
            self._numbers[source_id] = numbers, now
            if source_id not in self.resting:
                at = now - round(numbers.age_ms * 1e6)
                update(source_id, "heart_rate", numbers.heart_rate, at_ns=at, received_ns=now, quality=numbers.quality)
        self.shown |= fresh
        self.signals.give_values(self.watch)
        self._values(self.vitals.expire(now))
        self.watch.tick()
        found = [*self.bank.tick(now), *self.signals.tick(now), *self.watch.take_events()]
        if now - self._clocks_looked >= CLOCKS_NS:
            self._clocks_looked = now
            found += self.clocks.conditions(now)
        return found

    # ------------------------------------------------------------------ sources

    def numbers(self, source_id: str, now_ns: int) -> tuple[HeartNumbers, float]:
        """Return the numbers of an ECG, as they were when they were looked at last, and how old they are now, in ms.

        Raises
        ------
        KeyError
            If the source sends no ECG.
        """
        known = self._numbers.get(source_id)
        if known is None:
            known = self._numbers[source_id] = self.bank.numerics(source_id, now_ns), now_ns
        numbers, at = known
        return numbers, numbers.age_ms + (now_ns - at) / 1e6

    def rest(self, source_id: str) -> None:
        """Take it that a source stops on purpose: its silence is no alarm until it sends again."""
        self.resting.add(source_id)
        self.quiet(source_id)

    def quiet(self, source_id: str) -> None:
        """Do not miss a source until it sends again."""
        if source_id in self.bank:
            self.bank.rest(source_id)
        self.signals.rest(source_id)
        self.watch.rest(source_id)

    def clear(self, source_id: str) -> None:
        """Forget what belongs to the patient who left. The events of it are for nobody."""
        self.quiet(source_id)
        self.vitals.clear(source_id, self._clock.now_ns())
        self.watch.forget(source_id)
        self.watch.take_events()

    def remove(self, source_id: str) -> None:
        """Forget a source altogether."""
        if source_id in self.bank:
            self.bank.remove(source_id)
        self.signals.remove(source_id, self._clock.now_ns())
        self.vitals.forget(source_id)
        self.clocks.forget(source_id)
        self.watch.drop(source_id)
        self.descriptions.pop(source_id, None)
        self._pace.pop(source_id, None)
        self._numbers.pop(source_id, None)
        for kept in (self.resting, self.fresh, self.shown, self.changed):
            kept.discard(source_id)

    # ------------------------------------------------------------------ lethal rhythms and the pulse

    def check(self, event: ConditionEvent, sources: list[str], now_ns: int) -> Verdict:  # noqa: ARG002 - `engine.Check`
        """Hold a lethal rhythm against the pulse of the same device (`engine.Check`): one clock for both."""
        source_id = event.source_id
        pulses = self.signals.pulses(source_id)
        description = self.descriptions.get(source_id)
        if not pulses or description is None or source_id not in self.bank or event.onset_sample < 0:
            return Verdict("undecided")
        rate_hz = description["rate_hz"]
        pace = self._pace[source_id]
        numbers = self.bank.numerics(source_id, now_ns)
        heart = crosscheck.Beats(
            times_s=self.bank.recent_beats(source_id) / rate_hz,
            now_s=pace.next_sample / rate_hz,
            quality=numbers.quality or 0.0,
        )
        rate = event.args.get("rate")
        found = crosscheck.judge(
            event.code,
            event.onset_sample / rate_hz,
            heart,
            pulses,
            rate=float(rate) if isinstance(rate, float | int) else None,
        )
        if found.doubt:
            return Verdict("suppress", f"pulse_{found.pulse}")
        return Verdict("confirm" if found.pulse == "absent" else "undecided", found.weakest)

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a counter."""
        self.counts[name] = self.counts.get(name, 0) + n
