"""What screens get: the beds twice a second, and the traces of those that somebody looks at.

Responsible for which beds and traces are sent, and when: on a large site not all of them each time. Not responsible for
what stands in a bed (``shown``), nor for alarms, which go their own way (``publisher``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from edgeward.bus import subjects
from edgeward.bus.client import Bus, BusError
from edgeward.clinic.monitor.beds import Beds as BedBook
from edgeward.clinic.monitor.engine import SITE, AlarmEngine, BedChange
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.shown import Shown
from edgeward.clinic.monitor.site_clock import SiteClock
from edgeward.clinic.monitor.traces import Traces
from edgeward.messages import Bed, Beds, Viewing

_log = logging.getLogger("edgeward.monitor.screens")

VIEW_S = 6.0  # a view not renewed for this long is over
MOST_AT_ONCE = 256  # sources that one console names
MOST_WISHES = 32
ALWAYS_ALL = 256  # up to so many beds all of them are published each time
ROUNDS = 6  # on a larger site, beds that nobody looks at and whose alarms stand are published every so many times
SLICE = 250  # beds built, and published, at once


class Screens:
    """What is sent to whoever looks.

    Parameters
    ----------
    tell : callable
        Takes transitions of alarms that come of building a bed (its score).
    """

    def __init__(
        self,
        bus: Bus,
        *,
        beds: BedBook,
        engine: AlarmEngine,
        intake: Intake,
        shown: Shown,
        clock: SiteClock,
        tell: Callable[[list[BedChange]], None],
    ) -> None:
        self._bus, self._beds, self._engine, self._intake = bus, beds, engine, intake
        self._shown, self._clock, self._tell = shown, clock, tell
        self.gone: set[str] = set()  # beds that are no more, and nobody was told yet
        self._traces = Traces(intake.bank, intake.signals)
        self._viewed: dict[str, float] = {}
        self._wishes: dict[str, dict[str, float]] = {}  # source -> what of it somebody wants to see -> until when
        self._fresh: set[str] = set()
        self._round = 0
        self._site_shown = False
        self._loop = asyncio.get_running_loop()

    # ---------------------------------------- traces

    async def view(self, _: str, viewing: Viewing) -> None:
        """Somebody looks at these traces."""
        self._expire()
        until = self._loop.time() + VIEW_S
        for source_id in viewing.device_ids[:MOST_AT_ONCE]:
            self._viewed[source_id] = until
            for wish in viewing.waves.get(source_id, ())[:MOST_WISHES]:
                self._wishes.setdefault(source_id, {})[wish] = until
        self._intake.signals.look(self._wishes)

    def _expire(self) -> None:
        """Forget views that are over."""
        now = self._loop.time()
        over = [one for one, until in self._viewed.items() if until <= now]
        for source_id in over:
            del self._viewed[source_id]
        for source_id in list(self._wishes):
            kept = {wish: until for wish, until in self._wishes[source_id].items() if until > now}
            if kept:
                self._wishes[source_id] = kept
            else:
                del self._wishes[source_id]
                over.append(source_id)
        if over:
            self._traces.forget([one for one in over if one not in self._viewed])
            self._intake.signals.look(self._wishes)

    def came(self, source_ids: Iterable[str]) -> None:
        """Take it that these sources have sent more."""
        if self._viewed:
            self._fresh.update(source_id for source_id in source_ids if source_id in self._viewed)

    def watched(self) -> list[str]:
        """Return the sources that have sent more and that somebody looks at, once."""
        fresh, self._fresh = self._fresh, set()
        now = self._loop.time()
        return [one for one in fresh if self._viewed.get(one, 0.0) > now]

    async def publish_traces(self, source_ids: list[str]) -> None:
        """Send what has come since the last time."""
        for source_id in source_ids:
            trace = self._traces.read(source_id, self._wishes.get(source_id, ()))
            if trace is None:
                continue
            try:
                await self._bus.publish(subjects.trace(source_id), trace)
            except BusError as error:
                _log.debug("trace not published: %s", error)

    # ---------------------------------------- beds

    async def publish_beds(self, changed: set[str]) -> None:
        """Send the beds; of a large site those that changed, those that somebody looks at, and a part of the rest."""
        self._expire()
        everything = len(self._beds) <= ALWAYS_ALL
        wanted: dict[str, None]
        shown, self._intake.shown = self._intake.shown, set()
        gone, self.gone = self.gone, set()
        if everything:
            wanted = dict.fromkeys(bed.bed_id for bed in self._beds)
        else:
            now = self._loop.time()
            looked_at = (source_id for source_id in shown if self._viewed.get(source_id, 0.0) > now)
            wanted = dict.fromkeys(self._beds.bed_of(source_id) for source_id in looked_at)
            wanted |= dict.fromkeys(changed)
            self._round = (self._round + 1) % ROUNDS
            for number, bed in enumerate(self._beds):
                if number % ROUNDS == self._round:
                    wanted[bed.bed_id] = None
        wanted.pop(SITE, None)
        if self._engine.active(SITE):
            wanted[SITE] = None
        elif self._site_shown:
            gone.add(SITE)
        self._site_shown = SITE in wanted
        gone |= {bed_id for bed_id in wanted if bed_id != SITE and bed_id not in self._beds}
        built: list[Bed] = []
        sent = False
        for number, bed_id in enumerate(wanted):
            if bed_id != SITE and bed_id not in self._beds:
                continue
            shown_bed, changes = self._shown.bed(bed_id)
            self._tell(changes)
            built.append(shown_bed)
            if number % SLICE == SLICE - 1 and not everything:
                await self._send(built, full=False, gone=[])
                built, sent = [], True
                await asyncio.sleep(0)  # packets come first
        gone -= {bed.bed_id for bed in self._beds}
        if built or gone or not sent:
            await self._send(built, full=everything, gone=sorted(gone - {""}))

    async def _send(self, beds: list[Bed], *, full: bool, gone: list[str]) -> None:
        try:
            await self._bus.publish(
                subjects.STATE_BEDS, Beds(at_ns=self._clock.wall_ns(), beds=beds, full=full, gone=gone)
            )
        except BusError as error:
            _log.debug("beds not published: %s", error)
