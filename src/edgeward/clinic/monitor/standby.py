"""A monitor that stands by: it has loaded everything, and hears every packet, until it is needed.

Responsible for the last seconds of all packets in the memory of a process that does nothing else with them. When it
takes over it knows what came while nobody monitored, whatever has happened to the recorder meanwhile. Not responsible
for when it is needed (``supervisor``) or for taking the packets up (``restart``).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from operator import itemgetter
from weakref import WeakKeyDictionary

from edgeward.bus import subjects
from edgeward.bus.bulk import Batch
from edgeward.bus.process import GO, say_loaded
from edgeward.bus.role import RoleContext

#: Whoever only keeps what comes need not wake for each packet.
GATHER_S = 0.1
#: As much as a restart takes up at most when the monitor was not away for long, and the time until one that hangs is
#: ended.
KEPT_S = 35.0


class Memory:
    """The packets that came lately, as they came together.

    Parameters
    ----------
    breaks : callable
        How often the connection has been lost and found again, as far as that is known.
    """

    def __init__(
        self,
        kept_s: float = KEPT_S,
        clock: Callable[[], int] = time.monotonic_ns,
        breaks: Callable[[], int] = lambda: 0,
    ) -> None:
        self._kept_ns = round(kept_s * 1e9)
        self._clock = clock
        self._breaks = breaks
        self._broken = breaks()
        self._batches: deque[tuple[int, Batch]] = deque()
        self._to: Callable[[Batch], None] | None = None
        self._began = clock()

    def take(self, batch: Batch) -> None:
        """Take packets that came together."""
        if self._to is not None:
            self._to(batch)
            return
        now = self._clock()
        self._look()
        batches = self._batches
        batches.append((now, batch))
        while batches[0][0] < now - self._kept_ns:
            batches.popleft()

    def _look(self) -> None:
        if (broken := self._breaks()) != self._broken:  # what came meanwhile, others may have heard
            self._broken, self._began = broken, self._clock()

    @property
    def reach_s(self) -> float:
        """For how long every packet was heard, s: no longer than the connection was there."""
        self._look()
        return min(self._clock() - self._began, self._kept_ns) / 1e9

    def give(self, to: Callable[[Batch], None]) -> list[tuple[str, int, bytes]]:
        """Give what comes from now on to somebody else; return what is kept, and keep it no longer.

        Returns
        -------
        list of tuple
            Source, age in ns, and packet; by source, and in the order of their arrival.
        """
        self._to = to
        now = self._clock()
        found: dict[str, list[tuple[str, int, bytes]]] = {}
        for at, batch in self._batches:
            for subject, data in batch:
                source_id = subject.rsplit(".", 1)[-1]
                found.setdefault(source_id, []).append((source_id, now - at, data))
        self._batches.clear()
        return [one for source_id in sorted(found) for one in found[source_id]]


class Heard:
    """What was heard while standing by, and is not taken yet, by source.

    Parameters
    ----------
    packets
        As `Memory.give` returns them.
    """

    def __init__(self, packets: list[tuple[str, int, bytes]], *, now_ns: int, seconds: float) -> None:
        self._packets: dict[str, list[tuple[int, bytes]]] = {}
        for source_id, age_ns, packet in packets:
            if age_ns <= seconds * 1e9:
                self._packets.setdefault(source_id, []).append((now_ns - age_ns, packet))

    @property
    def sources(self) -> list[str]:
        """Sources of which something is left, in order."""
        return sorted(self._packets)

    def join(self, source_id: str, others: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Return what was heard of a source and what somebody else has heard, each packet once, by arrival.

        Whoever lost the connection for a moment does not know what came meanwhile; the other may.
        """
        own = self._packets.pop(source_id, [])
        known = {packet for _, packet in others}
        more = [one for one in own if one[1] not in known]
        return sorted([*others, *more], key=itemgetter(0)) if more else others


#: What was heard, until the role takes it.
memories: WeakKeyDictionary[RoleContext, Memory] = WeakKeyDictionary()


async def stand_by(context: RoleContext) -> bool:
    """Listen, load what the role needs, and wait; return whether this process is needed."""
    # Lost and not yet found again counts too: then nobody knows what this process misses.
    memory = Memory(breaks=lambda: 2 * context.bus.reconnects + (not context.bus.connected))
    await context.bus.subscribe_bulk(subjects.WAVE_ALL, memory.take)
    await context.bus.flush()
    context.bus.gather(GATHER_S)
    await asyncio.to_thread(_load)
    say_loaded()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    word = asyncio.ensure_future(reader.readline())
    stopping = asyncio.ensure_future(context.stopping.wait())
    await asyncio.wait({word, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    word.cancel()
    if not word.done() or word.cancelled() or word.result() != GO:
        return False
    context.bus.gather()
    memories[context] = memory
    return True


def _load() -> None:
    # Not at the top: libraries and kernels take seconds, and until they are here packets are heard already.
    from edgeward.clinic.monitor.role import prepare

    prepare()
