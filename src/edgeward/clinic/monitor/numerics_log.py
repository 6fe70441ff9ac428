"""The numerics that were acknowledged, on the disk: for a restart, and until the recorder has them.

Responsible for durability only. Everything in the file is sealed with the site key. A *batch* is what one write to the
disk took; its number grows without end. Batches go when the values of a later dump include them and the recorder has
them, or after a day. Owned by the `monitor` role. Not responsible for grouping or handing over (``keeper``).
"""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

import msgspec

from edgeward.bedside import Numerics, Observation
from edgeward.messages import decoder
from edgeward.privacy.database import Database
from edgeward.privacy.keys import SiteKey, WrongKey

_APPLICATION = 0x45574E4C  # "EWNL"
_MIGRATIONS = (
    """
    CREATE TABLE batches (number INTEGER PRIMARY KEY AUTOINCREMENT, at_ns INTEGER NOT NULL, sealed BLOB NOT NULL);
    CREATE TABLE marks (
        one INTEGER PRIMARY KEY CHECK (one = 1), log TEXT NOT NULL, dumped INTEGER NOT NULL, handed INTEGER NOT NULL,
        dump BLOB);
    """,
)
OLDEST_NS = 24 * 3600 * 1_000_000_000


class Batch(msgspec.Struct, array_like=True):
    """What one write takes: messages, to take them once more after a restart, and what they measured."""

    numerics: list[Numerics]
    observations: list[Observation]


_batch = decoder(Batch)


class NumericsLog:
    """The file. Every write is durable on return.

    Raises
    ------
    DatabaseError
        If the file is not such a log, is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path, site_key: SiteKey) -> None:
        self._site_key = site_key
        self._db = Database(path, name="log of numerics", application_id=_APPLICATION, migrations=_MIGRATIONS)
        self._db.write(lambda db: db.execute("PRAGMA secure_delete = ON"))  # what goes is gone: the key stays
        row = self._db.one("SELECT log, dumped, handed FROM marks")
        if row is None:
            row = secrets.token_hex(8), 0, 0
            first = row
            self._db.write(lambda db: db.execute("INSERT INTO marks VALUES (1, ?, ?, ?, NULL)", first))
        self.identity: str = row[0]
        self._dumped: int = row[1]
        self.handed: int = row[2]  # the last batch that the recorder has
        (last,) = self._db.one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'batches'") or (0,)
        self.last: int = last  # the number of the last batch
        self.unreadable = 0

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def append(self, batch: Batch, at_ns: int) -> int:
        """Write a batch; return its number.

        Raises
        ------
        DatabaseError
            If the disk is full or the file cannot be written; nothing of it was kept then.
        """
        sealed = self._seal(msgspec.msgpack.encode(batch))
        handed = self.handed

        def work(db: sqlite3.Connection) -> int:
            number = db.execute("INSERT INTO batches (at_ns, sealed) VALUES (?, ?)", (at_ns, sealed)).lastrowid or 0
            db.execute("UPDATE marks SET handed = ? WHERE handed < ?", (handed, handed))
            return number

        self.last = self._db.write(work)
        return self.last

    def after(self, number: int, most: int) -> list[tuple[int, Batch]]:
        """Return at most `most` batches after this number, oldest first. What does not open is counted and left out."""
        found = []
        rows = self._db.all(
            "SELECT number, sealed FROM batches WHERE number > ? ORDER BY number LIMIT ?", (number, most)
        )
        for one, sealed in rows:
            try:
                found.append((one, _batch.decode(self._open(sealed))))
            except (WrongKey, msgspec.MsgspecError):
                self.unreadable += 1
                found.append((one, Batch([], [])))
        return found

    def since_dump(self) -> list[Numerics]:
        """Return the messages that the last dump does not include, oldest first."""
        found: list[Numerics] = []
        number = self._dumped
        while rows := self.after(number, 200):
            for number, batch in rows:  # noqa: B007 - the last one is where the next page begins
                found += batch.numerics
        return found

    def dump(self) -> bytes | None:
        """Return the values that were kept last; None if there are none, or they do not open with this site's key."""
        row = self._db.one("SELECT dump FROM marks")
        if row is None or row[0] is None:
            return None
        try:
            return self._open(row[0])
        except WrongKey:
            self.unreadable += 1
            return None

    def keep(self, dump: bytes, upto: int, at_ns: int) -> None:
        """Keep the values that include all batches up to a number, and let go of what nobody needs any more.

        Raises
        ------
        DatabaseError
            As `append`.
        """
        sealed = self._seal(dump)
        done, old = min(upto, self.handed), at_ns - OLDEST_NS
        handed = self.handed

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE marks SET dump = ?, dumped = ?, handed = max(handed, ?)", (sealed, upto, handed))
            # Nothing is given up because a clock was set forward but what a later dump includes anyway.
            db.execute("DELETE FROM batches WHERE number <= ? OR (at_ns < ? AND number <= ?)", (done, old, upto))

        self._db.write(work)
        self._dumped = upto

    def _seal(self, data: bytes) -> bytes:
        return self._site_key.seal(data, b"monitor numerics")

    def _open(self, sealed: bytes) -> bytes:
        return self._site_key.open(sealed, b"monitor numerics")
