"""Takes what sources send, whatever it came by, and gives it to those who look at it.

Responsible for decoding, for the order of packets, for knowing how each source's signal is sampled, for whose word a
planned stop is. Not responsible for the signals (``bank``, ``signals``), for what becomes of a measured value
(``measured``), for devices' clocks (``clocks``, ``clock_frames``), alarms (``engine``) or the bus (``role``).

All times are the site's steady clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from edgeward import waveform
from edgeward.bedside import Numerics
from edgeward.clinic.monitor import senml, streams
from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.bank import Numerics as HeartNumbers
from edgeward.clinic.monitor.clock_frames import ClockFrames
from edgeward.clinic.monitor.clocks import Clocks
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.keepup import KeepUp
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.measured import Measured
from edgeward.clinic.monitor.numbering import steps_ahead
from edgeward.clinic.monitor.readings import Board
from edgeward.clinic.monitor.reorder import Held, Reorder
from edgeward.clinic.monitor.signals import SignalBank
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.clinic.monitor.values import LimitWatch
from edgeward.waveform import FLAG_LAST, SignalPacket, WaveformPacket

SILENT_NS = 60_000_000_000  # who has sent nothing for so long may be forgotten
CLOCKS_NS = 1_000_000_000  # devices' clocks drift slowly: a look a second is plenty
#: When one of these ends, the signal settles: values are not missed at once.
_AWAY = frozenset({"signal_lost", "all_leads_off", "sensor_off"})
#: When one of these ends, the heart rate before it says nothing of the rate now.
_OTHER_RATE = frozenset({
    "asystole", "ventricular_fibrillation", "ventricular_tachycardia", "extreme_bradycardia", "extreme_tachycardia"
})  # fmt: skip


class Intake:
    """Everything that looks at sources.

    Parameters
    ----------
    clock : SiteClock
    limits : Limits
        Rhythm limits of sources without their own.
    known : callable
        Called with a source before anything else is done with it, and the label that came with it.
    reorder_ms : float
        How long a packet waits for its predecessor.
    """

    def __init__(
        self, clock: SiteClock, limits: Limits, known: Callable[[str, str], None], *, reorder_ms: float = 150.0
    ) -> None:
        self._clock = clock
        self._known = known
        self.bank = MonitorBank(limits)
        self.signals = SignalBank()
        self.clocks = Clocks()
        self.watch = LimitWatch(clock.now_ns, self.has_signal)
        self.measured = Measured(clock, self.clocks, self.watch)
        self.vitals = self.measured.vitals
        self.descriptions: dict[str, dict[str, Any]] = {}  # of the ECG of a source
        self.changed: set[str] = set()  # sources whose description differs from what was written down last
        self.resting: set[str] = set()  # said that they stop
        self.unmissed: set[str] = set()  # that, or their patient left: not missed until they send
        self.fresh: set[str] = set()  # sources whose numbers are not yet looked at
        self.shown: set[str] = set()  # sources with something new to show
        self.keep_up = KeepUp()
        self.reorder = Reorder(round(reorder_ms * 1e6))
        self._rows: dict[str, int] = {}  # source -> row of its ECG in the book of streams
        self._seated = 0  # how often that has changed
        self._frames = ClockFrames(self.clocks, self.bank.seats, self._rows)
        self._board = Board(self.bank.seats)
        self._clocks_looked = 0
        self.counts: dict[str, int] = {}
        self.keep: Callable[[Numerics], None] = lambda _: None  # called with numerics that were taken

    def has_signal(self, source_id: str) -> bool:
        """Return whether a source sends waveforms."""
        return source_id in self.bank or source_id in self.signals

    # ------------------------------------------------------------------ waveforms

    def waves(self, packets: Sequence[tuple[str, bytes]], received_ns: int, other: Callable[[str, bytes], None]) -> int:
        """Take packets that came together, each with its source; return how many were as usual.

        What is not usual is given to `other`, in its place among the rest: that does what is to be done with a packet
        which `wave` may refuse.
        """
        count = len(packets)
        data = np.frombuffer(b"".join([packet for _, packet in packets]), dtype=np.uint8)
        starts = np.zeros(count + 1, dtype=np.int64)
        np.cumsum([len(packet) for _, packet in packets], out=starts[1:])
        looks = np.zeros(count, dtype=np.int64)
        usual = at = 0
        row_of = self._rows.get
        rows = np.array([row_of(source_id, -1) for source_id, _ in packets], dtype=np.int64)
        while True:
            begun = at
            at = self.bank.take_usual(
                data, starts, rows, begin=begun, received_ns=received_ns, looks=looks, leave_ns=self.keep_up.leave_ns
            )
            usual += at - begun
            for place in np.flatnonzero(looks[begun:at]).tolist():
                source_id, row = packets[begun + place][0], int(rows[begun + place])
                unsynchronised = bool(self.bank.seats.book[row]["unsynchronised"])
                self._frames.look(source_id, int(looks[begun + place]), received_ns, synchronised=not unsynchronised)
            if at >= count:
                return usual
            seated = self._seated
            other(*packets[at])
            at += 1
            if seated != self._seated:
                rows[at:] = [row_of(one, -1) for one, _ in packets[at:]]

    def wave(self, source_id: str, data: bytes, received_ns: int) -> None:
        """Take one packet.

        Raises
        ------
        ValueError
            If it is malformed, or does not fit what can be monitored.
        """
        packet = waveform.read(data)
        self._known(source_id, "")
        if self.keep_up.leaving:
            if not self._leave_out(source_id, packet, received_ns):
                self._use(
                    source_id, [*self.reorder.release(source_id, self._sequence(source_id)), Held(packet, received_ns)]
                )
            return
        found, copy = self.reorder.take(source_id, packet, received_ns, self._sequence(source_id))
        if copy:
            self.count("packets_repeated")
        self._use(source_id, found)

    def _leave_out(self, source_id: str, packet: SignalPacket, received_ns: int) -> bool:
        """Leave a packet out if it waited; see `streams.take_usual`. Return whether it was."""
        row, ecg = self._rows.get(source_id), packet.ecg
        if row is None or ecg is None or steps_ahead(packet.sequence, self._sequence(source_id)) != 1:
            return False
        end = ecg.first_sample + ecg.samples.shape[1]
        stream = self.bank.seats.book[row]
        late = streams.behind_ns(self.bank.seats.book, row, end, received_ns) + int(stream["packet_ns"])
        if not stream["span"] or late <= self.keep_up.leave_ns or packet.flags & FLAG_LAST:
            return False
        stream["left_out"] += 1
        stream["missing"] += 1
        stream["packets"] += 1
        stream["received_ns"] = max(int(stream["received_ns"]), received_ns)
        stream["sequence"], stream["next_sample"] = packet.sequence, end
        self.signals.leave_out(source_id, packet, received_ns)
        return True

    def _sequence(self, source_id: str) -> int:
        """Return the sequence number of a source's newest packet, -1 if there was none."""
        if source_id in self.signals:
            return self.signals.sequence(source_id)
        row = self._rows.get(source_id)
        return -1 if row is None else int(self.bank.seats.book[row]["sequence"])

    def _use(self, source_id: str, packets: list[Held]) -> None:
        """Use packets, in their order; tell afterwards what is the matter with the first that cannot be used."""
        problem: ValueError | None = None
        for one in packets:
            try:
                self._use_one(source_id, one.packet, one.received_ns)
            except ValueError as error:
                problem = problem or error
        row = self._rows.get(source_id)
        if row is not None:
            self.bank.seats.book[row]["held"] = source_id in self.reorder
        if problem is not None:
            raise problem

    def _use_one(self, source_id: str, packet: SignalPacket, received_ns: int) -> None:
        if packet.ecg is not None:
            self._ecg(source_id, packet, packet.ecg, received_ns)
        if packet.others or source_id in self.signals:
            if source_id not in self.signals:
                self.changed.add(source_id)
            self.signals.push(source_id, packet, received_ns=received_ns)
        row = self._rows.get(source_id)
        if row is None:
            self.fresh.add(source_id)
        else:
            book = self.bank.seats.book
            book[row]["fresh"], book[row]["plain"] = 1, 0
            if packet.ecg is not None and not packet.others and source_id not in self.signals:
                streams.describe(book, row, packet.ecg)
        if packet.start_ns > 0:
            self._frames.observe(source_id, packet, received_ns)
        if packet.flags & FLAG_LAST:
            self.rest(source_id)
        elif source_id in self.unmissed:
            self.resting.discard(source_id)
            self.unmissed.discard(source_id)
            self.changed.add(source_id)

    def _ecg(self, source_id: str, packet: SignalPacket, ecg: WaveformPacket, received_ns: int) -> None:
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
        book = self.bank.seats.book
        streams.take_pace(book, self._rows[source_id], ecg.first_sample, ecg.samples.shape[1], received_ns)

    def enrol(self, source_id: str, description: dict[str, Any]) -> None:
        """Make room for an ECG.

        Raises
        ------
        ValueError
            If it cannot be monitored.
        """
        self.bank.enrol(source_id, **description, now_ns=self._clock.now_ns())
        self.descriptions[source_id] = description
        row = self._rows[source_id] = self.bank.row(source_id)
        self._seated += 1
        streams.new_pace(self.bank.seats.book, row)

    def lag_ms(self, event: ConditionEvent) -> float:
        """Return how long ago what decided an event should have been here."""
        row = self._rows.get(event.source_id)
        if row is None or event.decisive_sample < 0:
            return 0.0
        now = self._clock.now_ns()
        return max(0.0, streams.behind_ns(self.bank.seats.book, row, event.decisive_sample, now) / 1e6)

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
        elif found.unknown and source_id not in self.vitals:
            raise ValueError("none of its records is named as anything that is monitored")

    def numerics(self, numerics: Numerics, received_ns: int) -> None:
        """Take numerics of any protocol."""
        self._known(numerics.source_id, numerics.label)
        if numerics.received_ns != received_ns:
            numerics = msgspec.structs.replace(numerics, received_ns=received_ns)
        if numerics.protocol != "manual":
            self.resting.discard(numerics.source_id)
        now = max(received_ns, self._clock.now_ns())  # it may have waited in the server's store
        self.measured.take(numerics, now)
        self.shown.add(numerics.source_id)
        self.keep(numerics)

    # ------------------------------------------------------------------ time

    def process(self, *, of_before: bool = False) -> list[ConditionEvent]:
        """Take everything queued through the kernels; return what began or ended.

        Parameters
        ----------
        of_before : bool
            What is queued arrived long ago, and more of it follows at once: packets that wait for their predecessor
            wait on, or each pair that was overtaken at such a moment would be a gap.
        """
        now = self._clock.now_ns()
        for source_id in () if of_before else self.reorder.overdue(now):
            self._use(source_id, self.reorder.release(source_id, self._sequence(source_id)))
        return self._follow([*self.bank.process(now), *self.signals.process(now)])

    def _follow(self, found: list[ConditionEvent]) -> list[ConditionEvent]:
        """Let the values take note of what the signals tell; return the events of both, an end beside what it ends."""
        told: list[ConditionEvent] = []
        for event in found:
            told.append(event)
            if event.present:
                continue
            if event.code in _AWAY:
                self.watch.settle(event.source_id)
                told += self.watch.take_events()
            elif event.code in _OTHER_RATE:
                self.watch.begin_anew(event.source_id, "heart_rate")
                told += self.watch.take_events()
        return told + self.watch.take_events()

    def tick(self) -> list[ConditionEvent]:
        """Take the passing of time, and compare new numbers with the limits; return what began or ended."""
        now = self._clock.now_ns()
        rows = self.bank.fresh()
        self._board.look(rows, now)
        by_row = self.bank.seats.by_row
        names = [by_row[row].device_id for row in rows.tolist()]
        resting, rows_of = self.resting, self._rows
        self.watch.update_all(
            "heart_rate",
            (
                (name, None if rate != rate else rate, at, quality)  # noqa: PLR0124 - not a number
                for name, rate, quality, at in zip(names, *self._board.heart_rates(rows), strict=True)
                if name not in resting and name in rows_of
            ),
            received_ns=now,
        )
        fresh, self.fresh = self.fresh, set()
        self.shown |= fresh
        self.shown.update(names)
        self.signals.give_values(self.watch, but=resting)  # a value of the last packet would be missed soon
        self.measured.expire(now)
        self.watch.tick()
        found = self._follow([*self.bank.tick(now), *self.signals.tick(now)])
        if now - self._clocks_looked >= CLOCKS_NS:
            self._clocks_looked = now
            found += [*self.clocks.conditions(now), *self.vitals.conditions(now)]
        return found

    def look_behind(self, *, full: bool) -> None:
        """Look whether monitoring keeps up; `full`: the connection brings more than is read."""
        seats = self.bank.seats
        self.keep_up.look(seats.book[: len(seats.by_row)], self._clock.now_ns(), full=full)

    # ------------------------------------------------------------------ sources

    def numbers(self, source_id: str, now_ns: int) -> tuple[HeartNumbers, float]:
        """Return the numbers of an ECG, as they were when they were looked at last, and how old they are now, in ms.

        Raises
        ------
        KeyError
            If the source sends no ECG.
        """
        row = self._rows[source_id]
        if not self._board.at_ns(row):
            self._board.look([row], now_ns)
        numbers = self._board.numerics(row)
        return numbers, numbers.age_ms + (now_ns - self._board.at_ns(row)) / 1e6

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
        if self.has_signal(source_id) and source_id not in self.unmissed:
            self.unmissed.add(source_id)
            self.changed.add(source_id)

    def clear(self, source_id: str) -> None:
        """Forget what belongs to the patient who left. The events of it are for nobody.

        A source that goes on sending is somebody's: what is lethal and still holds is told anew.
        """
        self.quiet(source_id)
        if source_id in self.bank:
            self.bank.tell_again(source_id)
        self.signals.tell_again(source_id)
        self.vitals.clear(source_id, self._clock.now_ns())
        self.watch.forget(source_id)
        self.watch.take_events()

    def leave_behind(self, source_id: str) -> list[ConditionEvent]:
        """Forget the values of a source that is at another bed now; return what ended by it.

        What it measured is of the patient of the bed before. What its signals tell at this moment stays: it is judged
        from what it sends.
        """
        now = self._clock.now_ns()
        self.measured.leave_behind(source_id, now)
        return [*self.vitals.conditions(now), *self.watch.take_events()]

    def remove(self, source_id: str) -> None:
        """Forget a source altogether."""
        if source_id in self.bank:
            self.bank.remove(source_id)
        self.signals.remove(source_id, self._clock.now_ns())
        self.vitals.forget(source_id)
        self.clocks.forget(source_id)
        self.watch.drop(source_id)
        self.descriptions.pop(source_id, None)
        self._rows.pop(source_id, None)
        self._seated += 1
        self.reorder.forget(source_id)
        for kept in (self.resting, self.unmissed, self.fresh, self.shown, self.changed):
            kept.discard(source_id)

    def speaks(self, source_id: str) -> bool:
        """Return whether a source has a value that is valid still, or has sent anything within the last minute."""
        now = self._clock.now_ns()
        if any(value.value is not None and not value.stale(now) for value in self.watch.values(source_id).values()):
            return True
        heard = []
        if (row := self._rows.get(source_id)) is not None:
            heard.append(int(self.bank.seats.book[row]["received_ns"]))
        if source_id in self.signals:
            heard.append(self.signals.newest(source_id)[0])
        if (known := self.vitals.source(source_id)) is not None:
            heard.append(known.received_ns)
        return any(at_ns and now - at_ns < SILENT_NS for at_ns in heard)

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a counter."""
        self.counts[name] = self.counts.get(name, 0) + n


def warm_up() -> None:
    """Load what packets of the usual kind need, as they come: a compilation at the first would stop everything."""
    found = Intake(SiteClock(), Limits(), lambda *_: None)
    for number in range(2):
        packet = WaveformPacket(
            samples=np.zeros((1, 250), dtype=np.int16), sequence=number, first_sample=250 * number, start_ns=1,
            rate_hz=250.0, gain_uv=1.0, leads=("I",), lead_off=(False,),
        )  # fmt: skip
        found.waves([("warm-up", waveform.encode(packet))], 1, lambda one, data: found.wave(one, data, 1))
    found.process()
    found.tick()
