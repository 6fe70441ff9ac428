"""The delivery ledger: what is owed to which destination, kept through crashes.

Responsible for one row per item and destination (pending, sent, confirmed or dead with a reason), for the request
itself until nobody needs it any more, and for what the gateway has not acknowledged yet. Not responsible for sending.

The request names an object's data key. It lies here sealed under the site key, and is overwritten as soon as every
destination is settled and the gateway knows: a key that the vault forgets must not live on elsewhere. That is why
`deliver` holds the site key; it uses it for this only.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgeward.messages import DeliverRequest, DeliveryReport, MessageError, StageTime, decode, encode
from edgeward.privacy.keys import SiteKey, WrongKey

_log = logging.getLogger("edgeward.deliver.ledger")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS item (
    seq INTEGER PRIMARY KEY,
    item_id TEXT NOT NULL UNIQUE,
    accepted_ns INTEGER NOT NULL,
    request BLOB,            -- sealed; NULL once settled
    report BLOB              -- sealed text of the SR
);
CREATE TABLE IF NOT EXISTS delivery (
    seq INTEGER NOT NULL REFERENCES item(seq),
    destination TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sent', 'confirmed', 'dead')),
    reason TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    faults INTEGER NOT NULL DEFAULT 0,
    next_try_ns INTEGER NOT NULL DEFAULT 0,
    stored_ns INTEGER NOT NULL DEFAULT 0,
    uids BLOB NOT NULL DEFAULT x'90',
    stages BLOB NOT NULL DEFAULT x'90',
    reported INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (seq, destination)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS owed ON delivery (destination, seq) WHERE state IN ('pending', 'sent');
CREATE INDEX IF NOT EXISTS untold ON delivery (seq) WHERE state IN ('confirmed', 'dead') AND reported = 0;
"""
_OWED = "state IN ('pending', 'sent')"
_SETTLED = "state IN ('confirmed', 'dead')"
NOWHERE = "none"
"""Destination of an item when none is configured: the item still comes to a visible end."""

_uids = msgspec.msgpack.Decoder(list[str])
_stages = msgspec.msgpack.Decoder(list[StageTime])


class LedgerError(RuntimeError):
    """The ledger cannot be read or written (a full disk, a damaged file). Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Owed:
    """One item that one destination does not have yet.

    `attempts` counts tries; `faults` those for which this item itself was to blame.
    """

    item_id: str
    destination: str
    accepted_ns: int
    attempts: int
    faults: int


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one destination's rows."""

    waiting: int = 0
    confirmed: int = 0
    dead: int = 0
    oldest_ns: int = 0
    stored_ns: int = 0


class Ledger:
    """The ledger in a SQLite file (WAL, synchronous=FULL: a commit that returned survives a power cut).

    Thread-safe; every method blocks for the disk. Methods raise `LedgerError` if the disk fails.
    """

    def __init__(self, path: Path, key: SiteKey) -> None:
        self._key = key
        self._lock = threading.Lock()
        with _explained():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA secure_delete=ON")  # a settled request is overwritten, not only unlinked
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # ------------------------------------ what is owed

    def accept(self, request: DeliverRequest, destinations: Sequence[str], now_ns: int) -> bool:
        """Take over an item durably. Return whether it is new.

        An item known already is not owed twice. What of it is settled is told to the gateway again: it asks because it
        did not hear.
        """
        sealed = self._key.seal(encode(request), _context(request.item_id))
        with self._write() as db:
            known = db.execute("SELECT seq FROM item WHERE item_id = ?", (request.item_id,)).fetchone()
            if known is not None:
                db.execute(f"UPDATE delivery SET reported = 0 WHERE seq = ? AND {_SETTLED}", known)  # noqa: S608
                return False
            seq = db.execute(
                "INSERT INTO item (item_id, accepted_ns, request) VALUES (?, ?, ?)", (request.item_id, now_ns, sealed)
            ).lastrowid
            for name in destinations:
                db.execute("INSERT INTO delivery (seq, destination, state) VALUES (?, ?, 'pending')", (seq, name))
            if not destinations:
                reason = "no destination is configured; add [[pacs]] to the settings"
                db.execute(
                    "INSERT INTO delivery (seq, destination, state, reason) VALUES (?, ?, 'dead', ?)",
                    (seq, NOWHERE, reason),
                )
        return True

    def due(self, destination: str, now_ns: int) -> Owed | None:
        """Return the oldest item that may be tried now."""
        row = self._one(
            f"""SELECT item_id, destination, accepted_ns, attempts, faults FROM delivery JOIN item USING (seq)
                WHERE destination = ? AND {_OWED} AND next_try_ns <= ? ORDER BY delivery.seq LIMIT 1""",  # noqa: S608
            destination,
            now_ns,
        )
        return Owed(*row) if row else None

    def next_due_ns(self, destination: str) -> int | None:
        """Return when the next item may be tried, or None if nothing is owed."""
        row = self._one(
            f"SELECT MIN(next_try_ns) FROM delivery WHERE destination = ? AND {_OWED}",  # noqa: S608
            destination,
        )
        return None if row is None or row[0] is None else int(row[0])

    def request(self, item_id: str) -> DeliverRequest | None:
        """Return the request, or None if it is unknown, settled, or damaged beyond reading."""
        row = self._one("SELECT request FROM item WHERE item_id = ?", item_id)
        if row is None or row[0] is None:
            return None
        try:
            return decode(DeliverRequest, self._key.open(row[0], _context(item_id)))
        except (WrongKey, MessageError) as error:
            _log.error("a request in the ledger cannot be read: %s", error)
            return None

    # ------------------------------------ what happened

    def begun(self, owed: Owed) -> None:
        """Note that an attempt starts: from here on the destination may have the objects."""
        self._update(owed, "state = 'sent', attempts = attempts + 1")

    def postponed(self, owed: Owed, reason: str, next_try_ns: int, faults: int) -> None:
        """Note a failed attempt that will be repeated."""
        self._update(owed, "state = 'pending', reason = ?, next_try_ns = ?, faults = ?", reason, next_try_ns, faults)

    def confirmed(
        self, owed: Owed, uids: Sequence[str], stored_ns: int, stages: Sequence[StageTime], note: str = ""
    ) -> None:
        """Note that the destination has everything; the gateway is to be told."""
        pack = msgspec.msgpack.encode
        self._update(
            owed,
            "state = 'confirmed', reason = ?, uids = ?, stored_ns = ?, stages = ?",
            note,
            pack(list(uids)),
            stored_ns,
            pack(list(stages)),
        )

    def dead(self, owed: Owed, reason: str, faults: int) -> None:
        """Note that it was given up; the gateway is to be told."""
        self._update(owed, "state = 'dead', reason = ?, faults = ?", reason, faults)

    def hurry(self, destination: str) -> None:
        """Make everything that waits for a destination due: it is back."""
        with self._write() as db:
            db.execute(
                f"UPDATE delivery SET next_try_ns = 0 WHERE destination = ? AND {_OWED} AND faults = 0",  # noqa: S608
                (destination,),
            )

    def bury_unknown(self, destinations: Sequence[str]) -> int:
        """Give up what is owed to destinations that are no longer in the settings. Return how many rows."""
        marks = ", ".join("?" * len(destinations))
        with self._write() as db:
            return db.execute(
                f"""UPDATE delivery SET state = 'dead', reason = 'the destination is no longer in the settings'
                    WHERE {_OWED} AND destination NOT IN ({marks})""",  # noqa: S608
                tuple(destinations),
            ).rowcount

    # ------------------------------------ what the gateway must hear

    def untold(self, limit: int = 1000) -> list[DeliveryReport]:
        """Return settled rows that the gateway has not acknowledged, oldest first."""
        return self._reports(f"{_SETTLED} AND reported = 0 ORDER BY delivery.seq LIMIT ?", limit)

    def told(self, item_id: str, destination: str) -> None:
        """Note the gateway's acknowledgement; forget the request with its data key once nothing is open."""
        with self._write() as db:
            row = db.execute("SELECT seq FROM item WHERE item_id = ?", (item_id,)).fetchone()
            if row is None:
                return
            db.execute("UPDATE delivery SET reported = 1 WHERE seq = ? AND destination = ?", (row[0], destination))
            db.execute(
                """UPDATE item SET request = NULL WHERE seq = ? AND NOT EXISTS
                   (SELECT 1 FROM delivery WHERE seq = item.seq AND reported = 0)""",
                row,
            )

    def prune(self, before_ns: int) -> int:
        """Forget items accepted before `before_ns` of which nothing is open. Return how many."""
        query = """SELECT seq FROM item WHERE accepted_ns < ? AND NOT EXISTS
            (SELECT 1 FROM delivery WHERE seq = item.seq AND (state IN ('pending', 'sent') OR reported = 0))"""
        with self._write() as db:
            old = db.execute(query, (before_ns,)).fetchall()
            db.executemany("DELETE FROM delivery WHERE seq = ?", old)
            db.executemany("DELETE FROM item WHERE seq = ?", old)
        return len(old)

    # ------------------------------------ reports

    def keep_report(self, item_id: str, text: str) -> None:
        """Keep the SR as text, sealed."""
        sealed = self._key.seal(text.encode(), _context(item_id))
        with self._write() as db:
            db.execute("UPDATE item SET report = ? WHERE item_id = ?", (sealed, item_id))

    def report(self, item_id: str) -> str | None:
        """Return the SR as text, if it was written already."""
        row = self._one("SELECT report FROM item WHERE item_id = ?", item_id)
        if row is None or row[0] is None:
            return None
        return self._key.open(row[0], _context(item_id)).decode()

    def tally(self) -> dict[str, Tally]:
        """Return counts per destination."""
        rows = self._all(
            f"""SELECT destination, SUM({_OWED}), SUM(state = 'confirmed'), SUM(state = 'dead'),
                       COALESCE(MIN(CASE WHEN {_OWED} THEN accepted_ns END), 0), MAX(stored_ns)
                FROM delivery JOIN item USING (seq) GROUP BY destination"""  # noqa: S608
        )
        return {name: Tally(*counts) for name, *counts in rows}

    def dead_letters(self, limit: int = 50) -> list[DeliveryReport]:
        """Return what was given up, newest first."""
        return self._reports("state = 'dead' ORDER BY delivery.seq DESC LIMIT ?", limit)

    # ------------------------------------ within

    def _reports(self, condition: str, limit: int) -> list[DeliveryReport]:
        rows = self._all(
            f"""SELECT item_id, destination, state, reason, uids, stored_ns, attempts, stages
                FROM delivery JOIN item USING (seq) WHERE {condition}""",  # noqa: S608
            limit,
        )
        return [
            DeliveryReport(
                item_id=item_id,
                destination=destination,
                state="delivered" if state == "confirmed" else "failed",
                reason=reason,
                sop_instance_uids=_uids.decode(uids),
                stored_ns=stored_ns,
                attempts=attempts,
                stages=_stages.decode(stages),
            )
            for item_id, destination, state, reason, uids, stored_ns, attempts, stages in rows
        ]

    def _update(self, owed: Owed, assignment: str, *values: object) -> None:
        with self._write() as db:
            db.execute(
                f"""UPDATE delivery SET {assignment} WHERE destination = ?
                    AND seq = (SELECT seq FROM item WHERE item_id = ?)""",  # noqa: S608 - our own text
                (*values, owed.destination, owed.item_id),
            )

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        rows = self._all(query, *values)
        return rows[0] if rows else None

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, _explained():
            return self._db.execute(query, values).fetchall()


def _context(item_id: str) -> bytes:
    return b"deliver:" + item_id.encode()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise LedgerError(f"the delivery ledger cannot be used: {error}") from error
