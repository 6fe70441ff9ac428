"""Puts packets of a source that overtook one another back into their order.

Responsible for holding a packet that came before its predecessor: for a short time, and few of them. If the missing one
comes meanwhile, nothing is lost; if not, the gap is told when the time is over. While nothing is missing nothing is
held, so that no alarm waits. Pure apart from its memory. Not responsible for what a gap means (``bank``, ``signals``).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeward.clinic.monitor.numbering import RESTART_BEHIND, steps_ahead
from edgeward.waveform import SignalPacket

#: So many missing packets are waited for: more are a gap, not another order.
MISSING_MOST = 4
#: So many packets of one source are held at once.
HELD_MOST = 8
#: When its time is over, what may lie unread is read first: the missing one may be among it, where this process itself
#: stood still or had no turn.
READ_NS = 25_000_000


@dataclass(frozen=True, slots=True)
class Held:
    """One packet that waits for its predecessor."""

    packet: SignalPacket
    received_ns: int


class Reorder:
    """The packets held, of all sources.

    Parameters
    ----------
    patience_ns : int
        How long a packet waits for one that is missing; 0: not at all.
    """

    def __init__(self, patience_ns: int) -> None:
        self.patience_ns = patience_ns
        self.saved = 0  # packets that came late and were waited for
        self._held: dict[str, list[Held]] = {}
        self._over: dict[str, int] = {}  # sources whose time was seen to be over, and when

    def __contains__(self, source_id: object) -> bool:
        """Whether packets of a source are held."""
        return source_id in self._held

    @property
    def due_ns(self) -> int | None:
        """When the first packet has waited for long enough; None if none is held."""
        if not self._held:
            return None
        return min(
            self._over[source] + READ_NS if source in self._over else held[0].received_ns + self.patience_ns
            for source, held in self._held.items()
        )

    def take(self, source_id: str, packet: SignalPacket, received_ns: int, before: int) -> tuple[list[Held], bool]:
        """Take a packet; return what is to be used now, in order, and whether this one is a copy of one that is held.

        Parameters
        ----------
        before : int
            Sequence number of the source's newest packet that was used; -1 if there was none.
        """
        one = Held(packet, received_ns)
        held = self._held.get(source_id)
        ahead = steps_ahead(packet.sequence, before) if before >= 0 else 1
        waits = self.patience_ns > 0 and 1 < ahead <= 1 + MISSING_MOST
        if held is None:
            if waits:
                self._held[source_id] = [one]
                return [], False
            return [one], False
        if any(other.packet.sequence == packet.sequence for other in held):
            return [], True
        if ahead == 1:
            self.saved += 1
            return [one, *self._followers(source_id, packet.sequence)], False
        if waits and len(held) < HELD_MOST:
            held.append(one)
            return [], False
        if -RESTART_BEHIND < ahead <= 0:
            return [one], False  # a copy of one that was used, or too late: whoever uses it will say so
        if ahead <= 0:  # the device has begun anew
            return [*self.release(source_id, before), one], False
        return self._give_up(source_id, one, before), False

    def _give_up(self, source_id: str, one: Held, before: int) -> list[Held]:
        """Return what is used once the first gap is waited for no longer; what later gaps hold back waits on.

        Where much is read at once (after a restart, or when this process stood still) no time passes in which a gap
        could be given up: it is when a packet comes that is too far ahead. That one may have overtaken another.
        """
        waiting = sorted([*self._held.pop(source_id), one], key=lambda held: steps_ahead(held.packet.sequence, before))
        self._over.pop(source_id, None)
        found: list[Held] = []
        while waiting:
            ahead = steps_ahead(waiting[0].packet.sequence, before)
            farthest = steps_ahead(waiting[-1].packet.sequence, before)
            if found and ahead > 1 and farthest <= 1 + MISSING_MOST and len(waiting) <= HELD_MOST:
                self._held[source_id] = waiting
                break
            found.append(waiting.pop(0))
            before = found[-1].packet.sequence
        return found

    def _followers(self, source_id: str, sequence: int) -> list[Held]:
        """Return, and hold no more, the packets that follow each other from `sequence` on."""
        held, found = self._held[source_id], []
        while (follower := next((o for o in held if steps_ahead(o.packet.sequence, sequence) == 1), None)) is not None:
            held.remove(follower)
            found.append(follower)
            sequence = follower.packet.sequence
        self._over.pop(source_id, None)  # what is missing now is another one
        if not held:
            del self._held[source_id]
        return found

    def overdue(self, now_ns: int) -> list[str]:
        """Return the sources of which a packet has waited for long enough; it takes two looks to be among them."""
        latest = now_ns - self.patience_ns
        over = [source for source, held in self._held.items() if held[0].received_ns <= latest]
        return [source for source in over if now_ns - self._over.setdefault(source, now_ns) >= READ_NS]

    def release(self, source_id: str, before: int) -> list[Held]:
        """Return all held packets of a source, in order, and hold them no more."""
        held = self._held.pop(source_id, [])
        self._over.pop(source_id, None)
        return sorted(held, key=lambda one: steps_ahead(one.packet.sequence, before))

    def forget(self, source_id: str) -> None:
        """Forget what is held of a source."""
        self._held.pop(source_id, None)
        self._over.pop(source_id, None)
