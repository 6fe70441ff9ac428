"""The `recorder` role: waveforms and trends from the bus to the disk, and back to whoever asks.

Responsible for transport, timing and for saying when something was not recorded. What arrives is gathered for a
second and written by one thread, so that a slow or full disk holds up nothing but itself; the monitor never waits for
this role.

Waveforms are not acknowledged to a device. What a crash can lose of them is what has arrived since the last frame:
about a second, and as much again as the disk takes for writing it. Numerics are the monitor's duty until this role has
them on the disk, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeward.bedside import (
    Observation,
    ObservationQuery,
    Observations,
    Observed,
    Recent,
    RecentQuery,
    Strip,
    StripQuery,
    Trend,
    TrendQuery,
)
from edgeward.bus import subjects
from edgeward.bus.role import RoleContext
from edgeward.clinic.recorder import observed, packing, strips, trends
from edgeward.clinic.recorder.archive import Archive
from edgeward.clinic.recorder.clock import SECOND, RetentionClock, SystemTime
from edgeward.clinic.recorder.observed import ObservedError, fresh
from edgeward.clinic.recorder.packing import Arrival
from edgeward.clinic.recorder.ring import RING_S, Ring
from edgeward.clinic.recorder.segment import NEWEST, OBSERVED, TRENDS, WAVEFORMS, Frame, Segment
from edgeward.home import Home
from edgeward.messages import Message, Ok, Refused, ServiceClass
from edgeward.privacy.keys import SiteKey

_log = logging.getLogger("edgeward.recorder")

GATHER_S = 1.0
MOST_WAITING = 128 << 20  # bytes that wait for the disk; then the oldest go, and are counted
SLOW_S = 5.0  # a disk that takes so long for a second's frame is told
ORDER_S = 300.0  # how often trends are put in order
ARRIVE_NS = round((trends.LATE_S + 2 * trends.INTERVAL_S) * SECOND)  # values are written so much later than measured


def folder(home: Home) -> Path:
    """Return where the recording lies."""
    return home.data / "recorder"


@dataclass
class Batch:
    """What goes to the disk together."""

    arrivals: list[Arrival] = field(default_factory=list)
    rows: trends.Rows = field(default_factory=dict)
    size: int = 0
    observed: list[Observation] = field(default_factory=list)
    log: str = ""  # of the monitor, and how far `observed` goes in it
    upto: int = 0
    done: list[asyncio.Future[None]] = field(default_factory=list)  # who waits for `observed`

    def refuse(self, error: OSError) -> None:
        """Give back the numerics: the monitor keeps the duty, and offers them again."""
        for done in self.done:
            if not done.done():
                done.set_exception(error)
        self.done, self.observed = [], []


class Recorder:
    """State of the running role."""

    def __init__(self, context: RoleContext, archive: Archive, system: SystemTime) -> None:
        self.context, self.archive, self.system = context, archive, system
        self.ring = Ring()
        self.gatherer = trends.Gatherer()
        self._incoming: list[tuple[str, int, bytes]] = []
        self._waiting: list[Batch] = []
        self._writing: list[Batch] = []
        self._writing_since = 0.0
        self._trouble = ""
        self._handed: tuple[str, int] = ("", 0)  # the monitor's log, and the last batch of it that is on the disk
        self._period: trends.Rows = {}  # what was written since trends were put in order
        self._period_in: tuple[int, int] | None = None  # segment and frame where that began
        self._ordered = time.monotonic()
        self._writer = ThreadPoolExecutor(1, "writer")
        self._readers = ThreadPoolExecutor(2, "reader")
        self._loop = asyncio.get_running_loop()

    # ---------------------------------------- in

    def receive(self, subject: str, data: bytes) -> None:
        """Take one packet from the bus: called thousands of times a second, so it only puts it aside."""
        self._incoming.append((subject, time.time_ns(), data))

    async def beds(self, _: str, beds: trends.ShownBeds) -> None:
        """Take the numbers of all beds."""
        self.gatherer.take(beds)

    def gather(self) -> None:
        """Put what has come into the ring and in the queue to the disk."""
        incoming, self._incoming = self._incoming, []
        stats, boot_ns = self.context.stats, self.system.boot_ns()
        batch = Batch(rows=self.gatherer.ended(self.system.wall_ns()))
        add, intact, cut = self.ring.add, packing.samples_offset, len(subjects.WAVE_ALL) - 1
        refused = 0
        for subject, received_ns, data in incoming:
            source_id = subject[cut:]
            if intact(data) and add(source_id, received_ns, data, boot_ns):
                batch.arrivals.append((source_id, received_ns, data))
                batch.size += len(data)
            else:
                refused += 1
        self.ring.trim(boot_ns)
        stats.count("packets", len(batch.arrivals))
        if refused:
            stats.count("packets_refused", refused)
        if batch.arrivals or batch.rows:
            self._waiting.append(batch)
        self._bound()

    async def observed(self, observed: Observed) -> Message:
        """Take over numerics; `Ok` is said when they are on the disk."""
        log, upto = self._handed
        known = upto if observed.log == log else 0
        numbers = [number for number, _ in observed.batches]
        found = fresh(observed, known)
        if not found:
            return Ok()
        self.gatherer.observe(found, self.system.wall_ns())
        done: asyncio.Future[None] = self._loop.create_future()
        batch = Batch(observed=found, log=observed.log, upto=max(numbers), done=[done])
        if any(one.observed for one in (*self._writing, *self._waiting)):  # offered again before it was written
            return Refused(reason="the disk has not taken what came before")
        self._waiting.append(batch)
        try:
            await done
        except OSError as error:
            return Refused(reason=f"the disk does not take it: {error.strerror or error}")
        return Ok()

    def _bound(self) -> None:
        """Let the oldest go when too much waits for the disk."""
        size = sum(batch.size for batch in self._waiting)
        while size > MOST_WAITING:
            lost = self._waiting.pop(0)
            size -= lost.size
            self.context.stats.count("packets_not_recorded", len(lost.arrivals))
            lost.refuse(OSError("too much waits for the disk"))

    # ---------------------------------------- to the disk

    async def write_waiting(self) -> None:
        """Write everything that waits; what the disk does not take waits on."""
        self._writing, self._waiting = self._waiting, []
        self._writing_since = self._loop.time()
        began = time.perf_counter()
        try:
            written = await self._loop.run_in_executor(self._writer, self._write, self._writing)
        except OSError as error:
            for batch in self._writing:
                batch.refuse(error)
            self._waiting = self._writing + self._waiting
            self._bound()
            self._say(f"nothing is recorded: {error.strerror or error}")
        else:
            if written:
                self.context.stats.count("bytes_written", written)
                self.context.stats.stage(ServiceClass.BATCH, "write", (time.perf_counter() - began) * 1e3)
            for batch in self._writing:
                for done in batch.done:
                    if not done.done():
                        done.set_result(None)
            self._say("")
        finally:
            self._writing = []
        await self._keep_house()

    def _write(self, batches: list[Batch]) -> int:
        """Write in the writer's thread; return the bytes."""
        written = 0
        arrivals = [arrival for batch in batches for arrival in batch.arrivals]
        if arrivals:
            earliest = min(arrival[1] for arrival in arrivals)
            _, frame = self.archive.append(WAVEFORMS, packing.blocks(arrivals), earliest)
            written += frame.end - frame.offset
            for batch in batches:  # written: not once more if the trends fail
                batch.arrivals, batch.size = [], 0
        for batch in batches:
            if batch.observed:
                earliest = min(one.at_ns for one in batch.observed)
                number, frame = self.archive.append(
                    OBSERVED, observed.blocks(batch.log, batch.upto, batch.observed), earliest
                )
                written += frame.end - frame.offset
                self._handed = batch.log, batch.upto
                self.context.stats.count("numerics", len(batch.observed))
                self._add_to_period(number, frame, observed.rows(batch.observed))
                batch.observed = []
        rows: trends.Rows = {}
        for batch in batches:
            trends.merge(rows, batch.rows)
        if rows:
            number, frame = self.archive.append(NEWEST, trends.blocks(rows, self.gatherer.units), _earliest(rows))
            written += frame.end - frame.offset
            for batch in batches:
                batch.rows = {}
            self._add_to_period(number, frame, rows)
        if self._period and (time.monotonic() - self._ordered > ORDER_S or self.archive.nearly_full(3 * GATHER_S)):
            written += self._put_in_order()
        return written

    def _add_to_period(self, segment: int, frame: Frame, rows: trends.Rows) -> None:
        if self._period_in is None or self._period_in[0] != segment:
            self._period, self._period_in = {}, (segment, frame.number)
        trends.merge(self._period, rows)

    def _put_in_order(self) -> int:
        """Write each bed's trends of the last minutes together, if that is still in the same segment."""
        assert self._period_in is not None
        number, since = self._period_in
        rows, self._period, self._period_in = self._period, {}, None
        self._ordered = time.monotonic()
        if self.archive.current().number != number:
            return 0
        _, frame = self.archive.append(TRENDS, trends.blocks(rows, self.gatherer.units, since), _earliest(rows))
        return frame.end - frame.offset

    async def _keep_house(self) -> None:
        stats = self.context.stats
        try:
            gone = await self._loop.run_in_executor(self._writer, self._expire)
        except OSError as error:
            stats.warnings.add("retention: the disk does not take changes; what is old enough waits for its erasure")
            _log.error("the recording could not be erased or dated: %s", error)
            return
        stats.warnings.discard("retention: the disk does not take changes; what is old enough waits for its erasure")
        if gone:
            _log.info("erased %d half hours of the recording", len(gone))
        stats.counters["segments"] = self.archive.segments
        stats.counters["megabytes"] = self.archive.size() // 1_000_000
        stats.counters["clock_steps"] = self.archive.clock.steps
        stats.counters["segments_given_up"] = self.archive.given_up
        _warn(
            stats.warnings, "recorder.max_gb is reached: less is kept than the settings ask for", self.archive.given_up
        )
        _warn(stats.warnings, "a part of the recording does not open with this site's key", self.archive.unreadable)

    def _expire(self) -> list[int]:
        self.archive.clock.tick()
        return self.archive.expire()

    def _say(self, trouble: str) -> None:
        if trouble:
            self.context.degraded(trouble)
        elif self._trouble:
            self.context.recovered()
        self._trouble = trouble

    # ---------------------------------------- life

    async def keep(self) -> None:
        """Gather once a second, also while the disk is slow."""
        while True:
            await asyncio.sleep(GATHER_S)
            self.gather()
            if self._writing and self._loop.time() - self._writing_since > SLOW_S:
                self._say("the disk is slow: the recording lags")

    async def write(self) -> None:
        """Write until cancelled."""
        while True:
            began = self._loop.time()
            if self._waiting:
                await self.write_waiting()
            else:
                await self._keep_house()
            await asyncio.sleep(max(0.05, GATHER_S - (self._loop.time() - began)))

    async def finish(self) -> None:
        """Write what is left."""
        self.gather()
        rows = self.gatherer.ended(self.system.wall_ns(), everything=True)
        self._waiting.append(Batch(rows=rows))
        await self.write_waiting()
        await self._loop.run_in_executor(self._writer, self.archive.close)

    def close(self) -> None:
        """End the threads."""
        self._writer.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def find_handed(self) -> None:
        """Find out up to where the monitor's numerics are recorded."""
        now_ns, ever = self.system.wall_ns(), 1 << 62
        for since_ns in (now_ns - 600 * SECOND, 0):  # it is in what was written last, nearly always
            for _, _, block in self.archive.blocks((OBSERVED,), None, since_ns, ever):
                with contextlib.suppress(ObservedError):  # said by whoever reads it for an answer
                    log, upto = observed.upto(block)
                    self._handed = log, max(upto, self._handed[1]) if log == self._handed[0] else upto
            if self._handed[0]:
                return

    def fill_ring(self) -> None:
        """Take the last seconds of before the restart into the ring."""
        now = self.archive.clock.now()
        for segment, frame, block in self.archive.blocks(
            (WAVEFORMS,), None, now.wall_ns - round(RING_S * SECOND), now.wall_ns
        ):
            age_ns = now.boot_ns - frame.boot_ns
            if segment.opened.boot_id != now.boot_id or age_ns > RING_S * SECOND:
                continue
            with contextlib.suppress(packing.PackingError):  # said by whoever reads it for a strip
                for source_id, received_ns, packet in packing.unpack(block):
                    self.ring.add(source_id, received_ns, packet, frame.boot_ns)

    # ---------------------------------------- answers

    async def strip(self, query: StripQuery) -> Message:
        """Answer with waveforms of one source."""
        if query.end_ns <= query.start_ns:
            return Refused(reason="a strip ends after it starts")
        self.gather()
        fresh = [a for batch in (*self._writing, *self._waiting) for a in batch.arrivals if a[0] == query.source_id]
        return await self._loop.run_in_executor(self._readers, self._strip, query, fresh)

    def _strip(self, query: StripQuery, fresh: list[Arrival]) -> Strip:
        end_ns = min(query.end_ns, query.start_ns + round(strips.LONGEST_S * SECOND))
        until_ns = end_ns + round(strips.LATE_S * SECOND)
        arrivals: list[Arrival] = []
        for _, _, block in self.archive.blocks((WAVEFORMS,), query.source_id, query.start_ns, until_ns):
            try:
                arrivals += packing.unpack(block, query.source_id)
            except packing.PackingError as error:
                _log.error("%s", error)
        arrivals += fresh
        arrivals = [a for a in arrivals if query.start_ns <= a[1] <= until_ns]
        channels, unreadable = strips.strip(arrivals, query.start_ns, end_ns, query.channels)
        if unreadable:
            _log.warning("%d recorded packets of one source are malformed", unreadable)
        return Strip(source_id=query.source_id, channels=channels, kept_since_ns=self.archive.kept_since_ns())

    async def trend(self, query: TrendQuery) -> Message:
        """Answer with trends of one bed."""
        until_ns = query.until_ns or self.system.wall_ns()
        if until_ns <= query.since_ns:
            return Refused(reason="a trend ends after it starts")
        fresh: trends.Rows = {query.bed_id: self.gatherer.rows(query.bed_id)}
        for batch in (*self._writing, *self._waiting):
            trends.merge(fresh, {query.bed_id: batch.rows.get(query.bed_id, {})})
        return await self._loop.run_in_executor(self._readers, self._trend, query, until_ns, fresh[query.bed_id])

    def _trend(self, query: TrendQuery, until_ns: int, fresh: dict[str, list[trends.Row]]) -> Trend:
        newest: list[tuple[tuple[int, int], dict[str, list[trends.Row]]]] = []
        standing: list[tuple[int, int, int]] = []  # segment, and the frames from .. to that a later one stands for
        rows: trends.Rows = {query.bed_id: {}}
        units = dict(self.gatherer.units)
        found = self.archive.blocks((NEWEST, TRENDS, OBSERVED), query.bed_id, query.since_ns, until_ns + ARRIVE_NS)
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
        own = rows[query.bed_id]
        wanted = {name: own[name] for name in own if not query.parameters or name in query.parameters}
        interval_ms, series = trends.series(wanted, units, query.since_ns, until_ns, query.points)
        return Trend(bed_id=query.bed_id, interval_ms=interval_ms, series=series)

    async def observations(self, query: ObservationQuery) -> Message:
        """Answer with the numerics of one bed as they were measured."""
        until_ns = query.until_ns or self.system.wall_ns()
        if until_ns <= query.since_ns:
            return Refused(reason="numerics are asked for up to a time after the first")
        return await self._loop.run_in_executor(self._readers, self._observations, query, until_ns)

    def _observations(self, query: ObservationQuery, until_ns: int) -> Observations:
        found: list[Observation] = []
        for _, _, block in self.archive.blocks((OBSERVED,), query.bed_id, query.since_ns, until_ns):
            try:
                found += observed.unpack(block, query.bed_id)
            except ObservedError as error:
                _log.error("%s", error)
        return observed.answer(query, until_ns, found)

    async def recent(self, query: RecentQuery) -> Message:
        """Answer with the last packets of all sources, a page at a time."""
        if not query.seconds > 0.0:  # not a number either
            return Refused(reason=f"the last {query.seconds:g} seconds are none; at most {RING_S:g} are kept")
        self.gather()
        packets, after = self.ring.page(min(query.seconds, RING_S), query.after, self.system.boot_ns())
        return Recent(packets=packets, after=after)


def _earliest(rows: trends.Rows) -> int:
    number = min(row[0] for parameters in rows.values() for column in parameters.values() for row in column)
    return number * trends.INTERVAL_S * SECOND


def _warn(warnings: set[str], text: str, on: object) -> None:
    if on:
        warnings.add(text)
    else:
        warnings.discard(text)


def kept(home: Home) -> tuple[int, int, int]:
    """Return how many segments there are, how many of them do not open, and the bytes of all. Changes nothing.

    Raises
    ------
    WrongKey
        If the site key is not this site's.
    """
    site_key, place = SiteKey.load(home), folder(home)
    found: list[Segment] = []
    for path in sorted(place.glob("[0-9]*.key")):
        with contextlib.suppress(FileNotFoundError):  # erased meanwhile
            if segment := Segment.load(place, int(path.stem), site_key):
                found.append(segment)
    return len(found), sum(not segment.readable for segment in found), sum(segment.size for segment in found)


def open_archive(context: RoleContext, system: SystemTime) -> Archive:
    """Open the recording of this site.

    Raises
    ------
    WrongKey
        If the site key is not this site's; nothing has been touched then.
    OSError
        If the folder cannot be used.
    """
    site_key = SiteKey.load(context.home)
    section = context.settings.recorder
    place = folder(context.home)
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Archive(
        place,
        site_key,
        RetentionClock(place / "clock.json", system),
        hours=section.hours,
        max_bytes=section.max_gb * 1e9,
        min_free_bytes=context.settings.vault.min_free_mb * 1_000_000,
    )


async def run(context: RoleContext, system: SystemTime | None = None) -> None:
    """Run the role until it is told to stop."""
    system = system or SystemTime()
    archive = await asyncio.to_thread(open_archive, context, system)
    if archive.cut:
        _log.warning("%d bytes of an unfinished frame were cut off", archive.cut)
    recorder = Recorder(context, archive, system)
    await asyncio.to_thread(recorder.fill_ring)
    await asyncio.to_thread(recorder.find_handed)
    bus = context.bus
    await bus.subscribe_raw(subjects.WAVE_ALL, recorder.receive)
    await bus.subscribe(subjects.STATE_BEDS, trends.ShownBeds, recorder.beds)
    served: tuple[tuple[str, Any, Any], ...] = (
        (subjects.RECORDER_STRIP, StripQuery, recorder.strip),
        (subjects.RECORDER_TREND, TrendQuery, recorder.trend),
        (subjects.RECORDER_RECENT, RecentQuery, recorder.recent),
        (subjects.RECORDER_OBSERVED, Observed, recorder.observed),
        (subjects.RECORDER_OBSERVATIONS, ObservationQuery, recorder.observations),
    )
    for subject, kind, handler in served:
        await bus.serve(subject, kind, handler, queue=subjects.RECORDERS)
    await bus.flush()
    context.ready()
    tasks = [asyncio.create_task(recorder.keep()), asyncio.create_task(recorder.write())]
    stop = asyncio.create_task(context.stopping.wait())
    try:
        done, _ = await asyncio.wait({*tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stop}:
            task.result()  # it never ends by itself: tell why
    finally:
        for task in (*tasks, stop):
            task.cancel()
        await asyncio.gather(*tasks, stop, return_exceptions=True)
        await recorder.finish()
        recorder.close()
