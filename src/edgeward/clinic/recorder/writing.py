"""What waits for the recorder's disk, and the thread that writes it.

Responsible for writing in order, for keeping what the disk does not take until it does, and for letting the oldest go
when too much waits. When to write, and whom to tell, is the role's.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from edgeward.bedside import Observation
from edgeward.bus.role import Stats
from edgeward.clinic.recorder import observed, packing, trends
from edgeward.clinic.recorder.archive import Archive
from edgeward.clinic.recorder.clock import SECOND
from edgeward.clinic.recorder.packing import Arrival
from edgeward.clinic.recorder.segment import NEWEST, OBSERVED, TRENDS, WAVEFORMS, Frame

MOST_WAITING = 128 << 20  # bytes that wait for the disk; then the oldest go, and are counted
ORDER_S = 300.0  # how often trends are put in order
NEARLY_S = 3.0  # so long before a segment ends, its trends are put in order


@dataclass
class Batch:
    """What goes to the disk together."""

    arrivals: list[Arrival] = field(default_factory=list)
    rows: trends.Rows = field(default_factory=dict)
    rows_in: tuple[int, int] | None = None  # segment and frame where they are written: said before they leave `rows`
    size: int = 0
    observed: list[Observation] = field(default_factory=list)
    log: str = ""  # of the monitor, and how far `observed` goes in it
    upto: int = 0
    done: list[asyncio.Future[None]] = field(default_factory=list)  # who waits for `observed`

    def taken(self) -> None:
        """Tell who waits that the numerics are on the disk."""
        for done in self.done:
            if not done.done():
                done.set_result(None)

    def refuse(self, error: OSError) -> None:
        """Give back the numerics: the monitor keeps the duty, and offers them again."""
        for done in self.done:
            if not done.done():
                done.set_exception(error)
        self.done, self.observed = [], []


class DiskQueue:
    """Batches on their way to the disk.

    Parameters
    ----------
    archive
        Where they go.
    units
        Unit of each parameter in the trends; read when they are written.
    stats
        Where what was written, and what was not, is counted.
    """

    def __init__(self, archive: Archive, units: dict[str, str], stats: Stats) -> None:
        self._archive, self._units, self._stats = archive, units, stats
        self._waiting: list[Batch] = []
        self._writing: list[Batch] = []
        self._since = 0.0
        self._period: trends.Rows = {}  # what was written since trends were put in order
        self._period_in: tuple[int, int] | None = None  # segment and frame where that began
        self._ordered = time.monotonic()
        self.handed: tuple[str, int] = ("", 0)  # the monitor's log, and the last batch of it that is on the disk

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def pending(self) -> tuple[Batch, ...]:
        """Return what is not surely on the disk yet, in its order."""
        return (*self._writing, *self._waiting)

    def slow_s(self) -> float:
        """Return how long the disk has been at the batches it is writing, in s; 0 when it is not writing."""
        return time.monotonic() - self._since if self._writing else 0.0

    def add(self, batch: Batch) -> None:
        """Put a batch at the end."""
        self._waiting.append(batch)

    def bound(self) -> None:
        """Let the oldest go when too much waits for the disk."""
        size = sum(batch.size for batch in self._waiting)
        while size > MOST_WAITING:
            lost = self._waiting.pop(0)
            size -= lost.size
            self._stats.count("packets_not_recorded", len(lost.arrivals))
            lost.refuse(OSError("too much waits for the disk"))

    async def write(self, writer: ThreadPoolExecutor) -> int:
        """Write everything that waits; return the bytes.

        Raises
        ------
        OSError
            If the disk does not take it. It waits on; numerics have been given back.
        """
        self._writing, self._waiting = self._waiting, []
        self._since = time.monotonic()
        try:
            written = await asyncio.get_running_loop().run_in_executor(writer, self._write, self._writing)
        except OSError as error:
            for batch in self._writing:
                batch.refuse(error)
            self._waiting = self._writing + self._waiting
            self.bound()
            raise
        except asyncio.CancelledError:
            # The role stops. The thread may have begun or not: what it does not take is written with the rest.
            self._waiting = self._writing + self._waiting
            raise
        else:
            for batch in self._writing:
                batch.taken()
            return written
        finally:
            self._writing = []

    def _write(self, batches: list[Batch]) -> int:
        """Write in the writer's thread; return the bytes. What is written leaves its batch: never written twice."""
        written = 0
        arrivals = [arrival for batch in batches for arrival in batch.arrivals]
        if arrivals:
            earliest = min(arrival[1] for arrival in arrivals)
            _, frame = self._archive.append(WAVEFORMS, packing.blocks(arrivals), earliest)
            written += frame.end - frame.offset
            for batch in batches:
                batch.arrivals, batch.size = [], 0
        for batch in batches:
            if batch.observed:
                written += self._write_observed(batch)
        rows: trends.Rows = {}
        for batch in batches:
            trends.merge(rows, batch.rows)
        if rows:
            number, frame = self._archive.append(NEWEST, trends.blocks(rows, self._units), _earliest(rows))
            written += frame.end - frame.offset
            for batch in batches:
                batch.rows_in = number, frame.number
                batch.rows = {}
            self._add_to_period(number, frame, rows)
        if self._period and (time.monotonic() - self._ordered > ORDER_S or self._archive.nearly_full(NEARLY_S)):
            written += self._put_in_order()
        return written

    def _write_observed(self, batch: Batch) -> int:
        earliest = min(one.at_ns for one in batch.observed)
        number, frame = self._archive.append(OBSERVED, observed.blocks(batch.log, batch.upto, batch.observed), earliest)
        self.handed = batch.log, batch.upto
        self._stats.count("numerics", len(batch.observed))
        self._add_to_period(number, frame, observed.rows(batch.observed))
        batch.observed = []
        return frame.end - frame.offset

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
        if self._archive.current().number != number:
            return 0
        _, frame = self._archive.append(TRENDS, trends.blocks(rows, self._units, since), _earliest(rows))
        return frame.end - frame.offset


def _earliest(rows: trends.Rows) -> int:
    number = min(row[0] for parameters in rows.values() for column in parameters.values() for row in column)
    return number * trends.INTERVAL_S * SECOND
