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
from pathlib import Path
from typing import Any

from edgeward.bedside import ObservationQuery, Observed, RecentQuery, StripQuery, TrendQuery
from edgeward.bus import subjects
from edgeward.bus.role import RoleContext
from edgeward.bus.tasks import end
from edgeward.clinic.recorder import observed, packing, trends
from edgeward.clinic.recorder.answers import Answers
from edgeward.clinic.recorder.archive import Archive
from edgeward.clinic.recorder.clock import SECOND, RetentionClock, SystemTime
from edgeward.clinic.recorder.observed import ObservedError, fresh
from edgeward.clinic.recorder.ring import RING_S, Ring
from edgeward.clinic.recorder.segment import OBSERVED, WAVEFORMS, Segment
from edgeward.clinic.recorder.writing import Batch, DiskQueue
from edgeward.home import Home
from edgeward.messages import Message, Ok, Refused, ServiceClass
from edgeward.privacy.keys import SiteKey

_log = logging.getLogger("edgeward.recorder")

GATHER_S = 1.0
SLOW_S = 5.0  # a disk that takes so long for a second's frame is told


def folder(home: Home) -> Path:
    """Return where the recording lies."""
    return home.data / "recorder"


class Recorder:
    """State of the running role."""

    def __init__(self, context: RoleContext, archive: Archive, system: SystemTime) -> None:
        self.context, self.archive, self.system = context, archive, system
        self.ring = Ring()
        self.gatherer = trends.Gatherer()
        self.queue = DiskQueue(archive, self.gatherer.units, context.stats)
        self.answers = Answers(
            archive, self.queue, ring=self.ring, gatherer=self.gatherer, system=system, gather=self.gather
        )
        self._incoming: list[tuple[str, int, bytes]] = []
        self._trouble = ""
        self._gathered = asyncio.Event()
        self._stopping = False
        self._writer = ThreadPoolExecutor(1, "writer")
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
            self.queue.add(batch)
        self.queue.bound()

    async def observed(self, observed: Observed) -> Message:
        """Take over numerics; `Ok` is said when they are on the disk."""
        if self._stopping:  # nobody writes any more
            return Refused(reason="the recorder is stopping; offer it again")
        log, upto = self.queue.handed
        known = upto if observed.log == log else 0
        numbers = [number for number, _ in observed.batches]
        found = fresh(observed, known)
        if not found:
            return Ok()
        self.gatherer.observe(found, self.system.wall_ns())
        done: asyncio.Future[None] = self._loop.create_future()
        batch = Batch(observed=found, log=observed.log, upto=max(numbers), done=[done])
        if any(one.observed for one in self.queue.pending()):  # offered again before it was written
            return Refused(reason="the disk has not taken what came before")
        self.queue.add(batch)
        try:
            await done
        except OSError as error:
            return Refused(reason=f"the disk does not take it: {error.strerror or error}")
        return Ok()

    # ---------------------------------------- to the disk

    async def write_waiting(self) -> None:
        """Write everything that waits; what the disk does not take waits on."""
        began = time.perf_counter()
        try:
            written = await self.queue.write(self._writer)
        except OSError as error:
            self._say(f"nothing is recorded: {error.strerror or error}")
        else:
            if written:
                self.context.stats.count("bytes_written", written)
                self.context.stats.stage(ServiceClass.BATCH, "write", (time.perf_counter() - began) * 1e3)
            self._say("")
        await self._keep_house()

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
            self._gathered.set()
            if self.queue.slow_s() > SLOW_S:
                self._say("the disk is slow: the recording lags")

    async def write(self) -> None:
        """Write until cancelled, whenever something was gathered.

        By a clock of its own it would come just before the gathering as often as just after: what a kill costs, two
        seconds at most, would be a second of gathering and a second of waiting, with nothing left for the disk.
        """
        while True:
            await self._gathered.wait()
            self._gathered.clear()
            if self.queue:
                await self.write_waiting()
            else:
                await self._keep_house()

    async def finish(self) -> None:
        """Write what is left."""
        self._stopping = True
        self.gather()
        rows = self.gatherer.ended(self.system.wall_ns(), everything=True)
        self.queue.add(Batch(rows=rows))
        await self.write_waiting()
        await self._loop.run_in_executor(self._writer, self.archive.close)

    def close(self) -> None:
        """End the threads."""
        self._writer.shutdown(wait=False, cancel_futures=True)
        self.answers.close()

    def find_handed(self) -> None:
        """Find out up to where the monitor's numerics are recorded."""
        now_ns, ever = self.system.wall_ns(), 1 << 62
        for since_ns in (now_ns - 600 * SECOND, 0):  # it is in what was written last, nearly always
            for _, _, block in self.archive.blocks((OBSERVED,), None, since_ns, ever):
                with contextlib.suppress(ObservedError):  # said by whoever reads it for an answer
                    log, upto = observed.upto(block)
                    handed = self.queue.handed
                    self.queue.handed = log, max(upto, handed[1]) if log == handed[0] else upto
            if self.queue.handed[0]:
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
        (subjects.RECORDER_STRIP, StripQuery, recorder.answers.strip),
        (subjects.RECORDER_TREND, TrendQuery, recorder.answers.trend),
        (subjects.RECORDER_RECENT, RecentQuery, recorder.answers.recent),
        (subjects.RECORDER_OBSERVED, Observed, recorder.observed),
        (subjects.RECORDER_OBSERVATIONS, ObservationQuery, recorder.answers.observations),
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
        await end((*tasks, stop))
        await recorder.finish()
        recorder.close()
