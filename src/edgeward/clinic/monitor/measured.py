"""What was measured and came as numbers: kept in order, and held against the limits.

Responsible for bringing numerics of any protocol to those who hold them (``vitals``) and compare them (``values``), and
for taking them up again after a restart, when another process's steady clock counted differently. Not responsible for
protocols (``senml``, ``gateway``), for which value is the present one, for limits, or for the disk (``keeper``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from edgeward.bedside import Numerics
from edgeward.clinic.monitor.clocks import Clocks
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.clinic.monitor.values import LimitWatch
from edgeward.clinic.monitor.vitals import Change, Vitals


class Measured:
    """The numerics of all sources.

    Parameters
    ----------
    clock : SiteClock
    clocks : Clocks
        Of the devices; they learn from each message that says when it was sent.
    watch : LimitWatch
        Is told every change.
    """

    def __init__(self, clock: SiteClock, clocks: Clocks, watch: LimitWatch) -> None:
        self.vitals = Vitals(clocks)
        self.watch = watch
        self._clock = clock
        self.bed_of: Callable[[str], Iterable[str]] = lambda _: ()  # all sources of the bed of a source

    def take(self, numerics: Numerics, now_ns: int) -> None:
        """Take measurements. If they are of another patient, the whole bed begins without values.

        Raises
        ------
        ValueError
            If another device speaks for this source already.
        """
        known = self.vitals.source(numerics.source_id)
        patient = known.patient if known else ""
        changes = self.vitals.take(numerics, now_ns)
        if patient and numerics.patient and patient != numerics.patient:
            # By the time of the message, not now: it may have waited, and be taken up again after a restart.
            since_ns = min(numerics.received_ns, now_ns)
            for other in self.vitals.others_of(numerics.source_id, self.bed_of(numerics.source_id)):
                self._forget(self.vitals.leave_behind(other, since_ns, now_ns))
        self._values(changes, now_ns)

    def leave_behind(self, source_id: str, now_ns: int) -> None:
        """Forget all values of a source, and whom it names: it is at another patient's bed from now on."""
        self.vitals.clear(source_id, now_ns)
        for parameter in list(self.watch.values(source_id)):  # those of its signals among them
            self._forget_one(source_id, parameter)

    def expire(self, now_ns: int) -> None:
        """Take the passing of time: values go stale."""
        self._values(self.vitals.expire(now_ns), now_ns)

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
                self.take(self._by_steady_clock(message, now), now)
                count += 1
            except ValueError:
                self.vitals.counts["numerics_not_taken_up"] += 1
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

    def _forget(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._forget_one(change.source_id, change.parameter)

    def _forget_one(self, source_id: str, parameter: str) -> None:
        """Withdraw a value of the patient before. A source that came steadily is missed if it falls silent now."""
        known = self.watch.values(source_id).get(parameter)
        missed = known is not None and known.live and known.continuous
        self.watch.withdraw(source_id, parameter)
        if missed:
            self.watch.expect(source_id, parameter)

    def _values(self, changes: list[Change], now_ns: int) -> None:
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
                received_ns=now_ns,  # whatever it waited for, its age counts from its measurement
                quality=change.quality,
                stale_s=(held.stale_ns - held.at_ns) / 1e9 if held and change.value is not None else None,
                missed=held is None or held.missed,
                bound=change.bound,
                heard=change.why != "stale",
            )
