"""What the recorder answers: strips, trends, numerics as measured, and the last packets of all sources.

Responsible for joining what lies on the disk with what is still on its way there. Reading happens in two threads, so
that a long trend holds up neither the recording nor a strip.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edgeward.bedside import (
    Observation,
    ObservationQuery,
    Observations,
    Recent,
    RecentQuery,
    Strip,
    StripQuery,
    Trend,
    TrendQuery,
)
from edgeward.clinic.recorder import observed, packing, strips, trends
from edgeward.clinic.recorder.archive import Archive
from edgeward.clinic.recorder.clock import SECOND, SystemTime
from edgeward.clinic.recorder.observed import ObservedError
from edgeward.clinic.recorder.packing import Arrival
from edgeward.clinic.recorder.ring import RING_S, Ring
from edgeward.clinic.recorder.segment import NEWEST, OBSERVED, TRENDS, WAVEFORMS
from edgeward.clinic.recorder.writing import Batch, DiskQueue
from edgeward.messages import Message, Refused

_log = logging.getLogger("edgeward.recorder")

_R = TypeVar("_R")

ARRIVE_NS = round((trends.LATE_S + 2 * trends.INTERVAL_S) * SECOND)  # values are written so much later than measured


class Answers:
    """Answers of the recorder, from disk and memory.

    Parameters
    ----------
    archive
        What is on the disk.
    queue
        What is on its way there.
    ring
        The last packets of all sources.
    gatherer
        Trends of the minute that has not ended.
    system
        The clocks of this machine.
    gather
        Puts what has come in since into `ring` and `queue`.
    """

    def __init__(
        self,
        archive: Archive,
        queue: DiskQueue,
        *,
        ring: Ring,
        gatherer: trends.Gatherer,
        system: SystemTime,
        gather: Callable[[], None],
    ) -> None:
        self._archive, self._queue, self._ring, self._gatherer = archive, queue, ring, gatherer
        self._system, self._gather = system, gather
        self._readers = ThreadPoolExecutor(2, "reader")

    def close(self) -> None:
        """End the threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def _read(self, work: Callable[..., _R], *args: object) -> _R:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work, *args)

    async def strip(self, query: StripQuery) -> Message:
        """Answer with waveforms of one source."""
        if query.end_ns <= query.start_ns:
            return Refused(reason="a strip ends after it starts")
        self._gather()
        fresh = [a for batch in self._queue.pending() for a in batch.arrivals if a[0] == query.source_id]
        return await self._read(self._strip, query, fresh)

    def _strip(self, query: StripQuery, fresh: list[Arrival]) -> Strip:
        end_ns = min(query.end_ns, query.start_ns + round(strips.LONGEST_S * SECOND))
        until_ns = end_ns + round(strips.LATE_S * SECOND)
        arrivals: list[Arrival] = []
        for _, _, block in self._archive.blocks((WAVEFORMS,), query.source_id, query.start_ns, until_ns):
            try:
                arrivals += packing.unpack(block, query.source_id)
            except packing.PackingError as error:
                _log.error("%s", error)
        # What was being written when we were asked may be on the disk by now.
        waited = {data for _, _, data in fresh}
        written = {data for _, _, data in arrivals if data in waited}
        arrivals += [arrival for arrival in fresh if arrival[2] not in written]
        arrivals = [a for a in arrivals if query.start_ns <= a[1] <= until_ns]
        channels, unreadable = strips.strip(arrivals, query.start_ns, end_ns, query.channels)
        if unreadable:
            _log.warning("%d recorded packets of one source are malformed", unreadable)
        return Strip(source_id=query.source_id, channels=channels, kept_since_ns=self._archive.kept_since_ns())

    async def trend(self, query: TrendQuery) -> Message:
        """Answer with trends of one bed."""
        until_ns = query.until_ns or self._system.wall_ns()
        if until_ns <= query.since_ns:
            return Refused(reason="a trend ends after it starts")
        waiting = [(batch, batch.rows.get(query.bed_id, {})) for batch in self._queue.pending()]
        return await self._read(self._trend, query, until_ns, self._gatherer.rows(query.bed_id), waiting)

    def _trend(
        self,
        query: TrendQuery,
        until_ns: int,
        fresh: dict[str, list[trends.Row]],
        waiting: list[tuple[Batch, dict[str, list[trends.Row]]]],
    ) -> Trend:
        newest: list[tuple[tuple[int, int], dict[str, list[trends.Row]]]] = []
        standing: list[tuple[int, int, int]] = []  # segment, and the frames from .. to that a later one stands for
        rows: trends.Rows = {query.bed_id: {}}
        units = dict(self._gatherer.units)
        found = self._archive.blocks((NEWEST, TRENDS, OBSERVED), query.bed_id, query.since_ns, until_ns + ARRIVE_NS)
        for segment, frame, block in found:
            try:
                if frame.kind == OBSERVED:
                    own = observed.rows(observed.unpack(block, query.bed_id)).get(query.bed_id, {})
                    newest.append(((segment.number, frame.number), own))
                    continue
                since, named, own = trends.unpack(block, query.bed_id)
            except (trends.TrendError, ObservedError) as error:
                _log.error("%s", error)
                continue
            units |= named
            if frame.kind == TRENDS:
                standing.append((segment.number, since, frame.number))
                trends.merge(rows, {query.bed_id: own})
            else:
                newest.append(((segment.number, frame.number), own))
        for (number, frame_number), own in newest:
            if not any(s == number and since <= frame_number < upto for s, since, upto in standing):
                trends.merge(rows, {query.bed_id: own})
        trends.merge(rows, {query.bed_id: fresh})
        # What was being written when we were asked may be on the disk by now.
        read = {place for place, _ in newest}
        for batch, own in waiting:
            if batch.rows_in not in read:
                trends.merge(rows, {query.bed_id: own})
        own = rows[query.bed_id]
        wanted = {name: own[name] for name in own if not query.parameters or name in query.parameters}
        interval_ms, series = trends.series(wanted, units, query.since_ns, until_ns, query.points)
        return Trend(bed_id=query.bed_id, interval_ms=interval_ms, series=series)

    async def observations(self, query: ObservationQuery) -> Message:
        """Answer with the numerics of one bed as they were measured."""
        until_ns = query.until_ns or self._system.wall_ns()
        if until_ns <= query.since_ns:
            return Refused(reason="numerics are asked for up to a time after the first")
        return await self._read(self._observations, query, until_ns)

    def _observations(self, query: ObservationQuery, until_ns: int) -> Observations:
        found: list[Observation] = []
        for _, _, block in self._archive.blocks((OBSERVED,), query.bed_id, query.since_ns, until_ns):
            try:
                found += observed.unpack(block, query.bed_id)
            except ObservedError as error:
                _log.error("%s", error)
        return observed.answer(query, until_ns, found)

    async def recent(self, query: RecentQuery) -> Message:
        """Answer with the last packets of all sources, a page at a time."""
        if not query.seconds > 0.0:  # not a number either
            return Refused(reason=f"the last {query.seconds:g} seconds are none; at most {RING_S:g} are kept")
        self._gather()
        boot_ns, wall_ns = self._system.boot_ns(), self._system.wall_ns()
        packets, after = self._ring.page(min(query.seconds, RING_S), query.after, boot_ns, wall_ns)
        return Recent(packets=packets, after=after)
