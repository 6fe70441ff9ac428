"""What is owed to whom: notices of alarms, kept through crashes until each receiver has them.

Responsible for one row per notice and receiver (waiting, delivered or failed with a reason), for the order in which a
receiver gets them, and for what `monitor` has not been told yet. Not responsible for sending (``receivers``).

A notice names a bed and values: it lies here sealed under the site key, and is overwritten when it is settled.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeward.bedside import Notice, NoticeReport
from edgeward.messages import decode, encode
from edgeward.privacy.database import Database
from edgeward.privacy.keys import SiteKey

_APPLICATION = 0x45574E4F  # "EWNO"
_MIGRATIONS = (
    """
    CREATE TABLE notice (
        seq INTEGER PRIMARY KEY,
        notice_id TEXT NOT NULL,
        receiver TEXT NOT NULL,
        contact TEXT NOT NULL,     -- whose channel it is; empty for a system
        alarm_id TEXT NOT NULL,
        accepted_ns INTEGER NOT NULL,
        body BLOB,                 -- sealed; NULL once it is settled
        state TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed')),
        attempts INTEGER NOT NULL DEFAULT 0,
        reason TEXT NOT NULL DEFAULT '',
        settled_ns INTEGER NOT NULL DEFAULT 0,
        told INTEGER NOT NULL DEFAULT 0,   -- monitor knows; 1 from the start for a system
        UNIQUE (notice_id, receiver)
    );
    CREATE INDEX owed ON notice (receiver, seq) WHERE state = 'waiting';
    CREATE INDEX untold ON notice (seq) WHERE told = 0 AND state <> 'waiting';
    CREATE INDEX settled ON notice (settled_ns) WHERE state <> 'waiting';
    """,
)


@dataclass(frozen=True, slots=True)
class Owed:
    """A notice that one receiver does not have yet."""

    seq: int
    receiver: str
    contact: str
    accepted_ns: int
    attempts: int
    notice: Notice


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one receiver."""

    waiting: int = 0
    delivered: int = 0
    failed: int = 0
    oldest_ns: int = 0
    delivered_ns: int = 0


class NoticeStore:
    """The file. Every write is durable on return; every method blocks for the disk.

    Raises
    ------
    DatabaseError
        If the file is not ours, is damaged, was written by a newer version, or the disk fails.
    """

    def __init__(self, path: Path, key: SiteKey) -> None:
        self._key = key
        self._db = Database(path, name="notice store", application_id=_APPLICATION, migrations=_MIGRATIONS)
        self._db.write(lambda db: db.execute("PRAGMA secure_delete = ON"))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def accept(self, notice: Notice, receivers: Sequence[tuple[str, str]], now_ns: int) -> bool:
        """Take over a notice for its receivers, (name, contact or empty) each. Return whether any of it is new."""
        sealed = self._key.seal(encode(notice), _context(notice.notice_id))
        rows = [
            (notice.notice_id, name, contact, notice.alarm.alarm_id, now_ns, sealed, 0 if contact else 1)
            for name, contact in receivers
        ]

        def work(db: sqlite3.Connection) -> int:
            before = db.total_changes
            db.executemany(
                "INSERT OR IGNORE INTO notice (notice_id, receiver, contact, alarm_id, accepted_ns, body, state, told)"
                " VALUES (?, ?, ?, ?, ?, ?, 'waiting', ?)",
                rows,
            )
            return db.total_changes - before

        return self._db.write(work) > 0

    def next(self, receiver: str) -> Owed | None:
        """Return the oldest notice that a receiver is owed."""
        row = self._db.one(
            "SELECT seq, contact, accepted_ns, attempts, notice_id, body FROM notice"
            " WHERE receiver = ? AND state = 'waiting' ORDER BY seq LIMIT 1",
            (receiver,),
        )
        if row is None:
            return None
        seq, contact, accepted_ns, attempts, notice_id, body = row
        notice = decode(Notice, self._key.open(body, _context(notice_id)))
        return Owed(seq, receiver, contact, accepted_ns, attempts, notice)

    def tried(self, owed: Owed, reason: str) -> None:
        """Count an attempt that did not succeed."""
        self._db.write(
            lambda db: db.execute(
                "UPDATE notice SET attempts = attempts + 1, reason = ? WHERE seq = ?", (reason, owed.seq)
            )
        )

    def settle(self, owed: Owed, state: str, reason: str, now_ns: int) -> None:
        """Settle a notice (``delivered`` or ``failed``); its text is overwritten."""
        self._db.write(
            lambda db: db.execute(
                "UPDATE notice SET state = ?, reason = ?, settled_ns = ?, attempts = attempts + 1, body = NULL"
                " WHERE seq = ?",
                (state, reason, now_ns, owed.seq),
            )
        )

    def bury_unknown(self, known: Sequence[str], now_ns: int) -> int:
        """Give up what is owed to receivers that are no longer in the settings; return how many."""
        marks = ",".join("?" * len(known))

        def work(db: sqlite3.Connection) -> int:
            query = f"""UPDATE notice
                SET state = 'failed', reason = 'no longer in the settings', settled_ns = ?, body = NULL
                WHERE state = 'waiting' AND receiver NOT IN ({marks})"""  # noqa: S608 - question marks only
            return db.execute(query, (now_ns, *known)).rowcount

        return self._db.write(work)

    def untold(self) -> list[NoticeReport]:
        """Return what `monitor` is to hear, oldest first: one report per contact and notice.

        A contact with several channels was reached if one of them was, and was not if none of them was.
        """
        rows = self._db.all(
            "SELECT notice_id, alarm_id, contact, MAX(state = 'delivered'), SUM(state = 'waiting'), MAX(settled_ns),"
            " GROUP_CONCAT(CASE WHEN state = 'failed' THEN reason END, '; ')"
            " FROM notice AS n WHERE contact <> '' AND told = 0"
            " AND notice_id IN (SELECT notice_id FROM notice WHERE told = 0 AND state <> 'waiting')"
            " GROUP BY notice_id, contact ORDER BY MIN(seq) LIMIT 200"
        )
        return [
            NoticeReport(
                notice_id=notice_id,
                alarm_id=alarm_id,
                receiver=contact,
                state="delivered" if reached else "failed",
                reason="" if reached else reason or "",
                at_ns=at_ns,
            )
            for notice_id, alarm_id, contact, reached, waiting, at_ns, reason in rows
            if reached or not waiting
        ]

    def told(self, report: NoticeReport) -> None:
        """`monitor` has heard this. Of who was reached nothing more is told: what fails later would take it back."""
        reached = report.state == "delivered"
        self._db.write(
            lambda db: db.execute(
                "UPDATE notice SET told = 1 WHERE notice_id = ? AND contact = ? AND (state <> 'waiting' OR ?)",
                (report.notice_id, report.receiver, reached),
            )
        )

    def tally(self) -> dict[str, Tally]:
        """Count per receiver."""
        rows = self._db.view(
            "SELECT receiver, SUM(state = 'waiting'), SUM(state = 'delivered'), SUM(state = 'failed'),"
            " MIN(CASE WHEN state = 'waiting' THEN accepted_ns END),"
            " MAX(CASE WHEN state = 'delivered' THEN settled_ns END) FROM notice GROUP BY receiver"
        )
        return {row[0]: Tally(row[1], row[2], row[3], row[4] or 0, row[5] or 0) for row in rows}

    def prune(self, before_ns: int) -> None:
        """Forget what was settled before then and is told."""
        self._db.write(
            lambda db: db.execute(
                "DELETE FROM notice WHERE state <> 'waiting' AND told = 1 AND settled_ns < ?", (before_ns,)
            )
        )


def _context(notice_id: str) -> bytes:
    return b"notice " + notice_id.encode()
