"""What was refused or set aside, for the system page: collected from all roles, counted, bounded, never identity.

Responsible for gathering entries from any thread and writing them to the journal a few at a time, so that a flood of
refusals costs one commit a second and not one each. Not responsible for refusing anything.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from edgeward.messages import Quarantined
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.journal import Journal

_log = logging.getLogger("edgeward.gateway.quarantine")
_FLUSH_S = 1.0
_WAITING = 500  # different entries between two flushes; a flood of more is told as one
_TEXT = 300  # characters of any field
FLOOD = "more refusals than can be listed one by one"


class Quarantine:
    """Entries waiting to be written, counted by place, peer, reason and item. Thread-safe."""

    def __init__(self, journal: Journal, clock: Callable[[], int] = time.time_ns) -> None:
        self._journal, self._clock = journal, clock
        self._waiting: dict[tuple[str, str, str, str], Quarantined] = {}
        self._lock = threading.Lock()
        self._flushing = threading.Lock()  # whoever looks waits for what another one is just writing

    def note(self, where: str, peer: str, reason: str, what_to_do: str = "", item_id: str = "") -> None:
        """Note an entry from this process; `item_id` is the item it is about, if that was kept."""
        self.add(
            Quarantined(
                at_ns=self._clock(),
                where=where,
                peer=peer or "unknown",
                reason=reason,
                what_to_do=what_to_do,
                item_id=item_id,
            )
        )

    def add(self, entry: Quarantined) -> None:
        """Note an entry, also another role's."""
        if self._count_up(entry):
            _log.warning("set aside: %s", _short(entry.reason), extra={"fields": {"where": _short(entry.where)}})

    def _count_up(self, entry: Quarantined) -> bool:
        """Add an entry to what is waiting; return whether nothing like it was."""
        where, peer, reason, item_id = map(_short, (entry.where, entry.peer, entry.reason, entry.item_id))
        with self._lock:
            if (where, peer, reason, item_id) not in self._waiting and len(self._waiting) >= _WAITING:
                peer, reason, item_id = "many", FLOOD, ""
            known = self._waiting.get((where, peer, reason, item_id))
            self._waiting[where, peer, reason, item_id] = Quarantined(
                at_ns=max(entry.at_ns, known.at_ns if known else 0),
                where=where,
                peer=peer,
                reason=reason,
                what_to_do=_short(entry.what_to_do),
                count=max(1, entry.count) + (known.count if known else 0),
                item_id=item_id,
            )
        return known is None

    def flush(self) -> None:
        """Write what is waiting. What cannot be written now waits on."""
        with self._flushing:
            with self._lock:
                entries, self._waiting = list(self._waiting.values()), {}
            if not entries:
                return
            try:
                self._journal.quarantine(entries)
            except DatabaseError as error:
                _log.warning("quarantine entries could not be written yet: %s", error)
                for entry in entries:
                    self._count_up(entry)

    def entries(self, limit: int = 200) -> list[Quarantined]:
        """Return what is kept, newest first."""
        self.flush()
        return self._journal.quarantined(limit)

    async def keep_flushing(self) -> None:
        """Flush once a second until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            await asyncio.to_thread(self.flush)


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
