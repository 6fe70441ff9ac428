"""The journal's list of what was refused or set aside.

Responsible for keeping it durably and bounded. Not responsible for gathering entries (``gateway.quarantine``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from edgeward.messages import Quarantined
from edgeward.privacy.database import Database

QUARANTINE_ROWS = 1000
_COLUMNS = "at_place, peer, reason, item_id, what_to_do, count, at_ns"


class QuarantineLog:
    """Quarantine entries in the journal's file."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def keep(self, entries: Iterable[Quarantined]) -> None:
        """Keep entries: a row per place, peer, reason and item, counted up.

        Beyond `QUARANTINE_ROWS` the oldest give way.
        """

        def work(db: sqlite3.Connection) -> None:
            db.executemany(
                f"INSERT INTO quarantine ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) "  # noqa: S608 - our own constant
                "ON CONFLICT (at_place, peer, reason, item_id) DO UPDATE SET count = count + excluded.count, "
                "at_ns = max(at_ns, excluded.at_ns), what_to_do = excluded.what_to_do",
                [(e.where, e.peer, e.reason, e.item_id, e.what_to_do, e.count, e.at_ns) for e in entries],
            )
            db.execute(
                "DELETE FROM quarantine WHERE rowid NOT IN (SELECT rowid FROM quarantine ORDER BY at_ns DESC LIMIT ?)",
                (QUARANTINE_ROWS,),
            )

        self._db.write(work)

    def entries(self, limit: int) -> list[Quarantined]:
        """Return entries, newest first."""
        rows = self._db.all(f"SELECT {_COLUMNS} FROM quarantine ORDER BY at_ns DESC LIMIT ?", (limit,))  # noqa: S608
        names = ("where", "peer", "reason", "item_id", "what_to_do", "count", "at_ns")
        return [Quarantined(**dict(zip(names, row, strict=True))) for row in rows]
