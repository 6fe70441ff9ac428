"""The last seconds of all sources in memory, for a monitor that starts again.

Responsible for what is kept, for how long, and for its limits: a device that floods the site is cut off here, before it
can fill memory or disk. Not responsible for the disk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

from edgeward.clinic.recorder.clock import SECOND

RING_S = 45.0  # what a detector needs to settle, and the time that a monitor on a busy machine needs to be back
MOST_BYTES = 8 << 20  # of one source within RING_S: 24 channels at 2000 Hz have 4.4 MB
PAGE_BYTES = 900_000  # of packets in one answer
SET_NS = 5 * SECOND  # a clock that differs from a steady one by more was set; packets are kept a second after they came


@dataclass(slots=True)
class _Source:
    packets: deque[tuple[int, int, bytes]] = field(default_factory=deque)  # boot clock, arrival, packet
    size: int = 0


class Ring:
    """Packets of the last `seconds`, per source. For one thread."""

    def __init__(self, seconds: float = RING_S) -> None:
        self._keep_ns = round(seconds * SECOND)
        self._sources: dict[str, _Source] = {}
        self._names: list[str] | None = []

    def add(self, source_id: str, received_ns: int, packet: bytes, boot_ns: int) -> bool:
        """Keep a packet; False, and nothing is kept, if its source sends more than any device does."""
        source = self._sources.get(source_id)
        if source is None:
            source = self._sources[source_id] = _Source()
            self._names = None
        if source.size + len(packet) > MOST_BYTES:
            return False
        source.packets.append((boot_ns, received_ns, packet))
        source.size += len(packet)
        return True

    def trim(self, boot_ns: int) -> None:
        """Forget what is too old. Ages are the boot clock's: setting the wall clock changes nothing."""
        before = boot_ns - self._keep_ns
        empty: list[str] = []
        for source_id, source in self._sources.items():
            packets = source.packets
            while packets and packets[0][0] < before:
                source.size -= len(packets.popleft()[2])
            if not packets:
                empty.append(source_id)
        for source_id in empty:
            del self._sources[source_id]
            self._names = None

    @property
    def sources(self) -> int:
        """How many sources there are."""
        return len(self._sources)

    def page(
        self, seconds: float, after: str, boot_ns: int, wall_ns: int = 0
    ) -> tuple[list[tuple[str, int, bytes]], str]:
        """Return packets of the sources after `after`, oldest first per source, and where to go on (empty: all told).

        A source is never split over two pages.

        Parameters
        ----------
        wall_ns : int
            Now, by the wall clock: where that was set since a packet arrived, its arrival is told as it would read now.
            0: as it was read.
        """
        if self._names is None:
            self._names = sorted(self._sources)
        since = boot_ns - round(seconds * SECOND)
        found: list[tuple[str, int, bytes]] = []
        size = 0
        last = ""
        for source_id in self._names[bisect_right(self._names, after) if after else 0 :]:
            packets = [
                (source_id, _by_the_clock_of_now(received_ns, boot_ns - kept_ns, wall_ns), packet)
                for kept_ns, received_ns, packet in self._sources[source_id].packets
                if kept_ns >= since
            ]
            more = sum(len(packet) + 64 for _, _, packet in packets)
            if size and size + more > PAGE_BYTES:
                return found, last
            found += packets
            size += more
            last = source_id
        return found, ""


def _by_the_clock_of_now(received_ns: int, age_ns: int, wall_ns: int) -> int:
    seen = wall_ns - age_ns  # as much too late as it waited to be kept
    return seen if wall_ns and abs(seen - received_ns) > SET_NS else received_ns
