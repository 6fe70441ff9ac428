"""The journal's list of what was refused or set aside.

Responsible for keeping it durably and bounded. Not responsible for gathering entries (``gateway.quarantine``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from edgeward.messages import Quarantined
from edgeward.privacy.database import Database
from edgeward.privacy.items import CONFLICT

QUARANTINE_ROWS = 1000
_COLUMNS = "at_place, peer, reason, item_id, what_to_do, count, at_ns"
# Looked up when it is shown: so entries of older versions have it too.
_CAME_FIRST = (
    "(SELECT first.item_id FROM items AS conflict JOIN items AS first "
    "ON first.sop_instance_uid = conflict.sop_instance_uid AND first.item_id != conflict.item_id "
    "WHERE conflict.item_id = quarantine.item_id AND conflict.reason = ? ORDER BY first.seq LIMIT 1)"
)


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
        """Return entries, newest first; one about a conflict with the item that came first under its UID."""
        rows = self._db.all(
            f"SELECT {_COLUMNS}, coalesce({_CAME_FIRST}, '') FROM quarantine ORDER BY at_ns DESC LIMIT ?",  # noqa: S608
            (CONFLICT, limit),
        )
        names = ("where", "peer", "reason", "item_id", "what_to_do", "count", "at_ns", "other_item_id")
        return [Quarantined(**dict(zip(names, row, strict=True))) for row in rows]
